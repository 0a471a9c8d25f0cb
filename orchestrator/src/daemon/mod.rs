//! Builds the rooms, connects them, and shuts them down in order.

mod activation;
mod handover;
mod leftovers;
mod manifest;
mod pipes;
mod place;
mod service;
mod settle;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::Context;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use orchestrator_proto::control::EventKind;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::control::{self, Daemon};
use crate::events::EventLog;
use crate::logs::{CAPTURE_ROLE, Capture, CaptureConfig};
use crate::options::{Options, Sync};
use crate::process::{CgroupChoice, Left, Linux, Meter, Standing};
use crate::registry::{Directories, Instance, Registry};
use crate::runtime::{IpcConfig, IpcSocket, Porter, Telemetry, now_ns};
use crate::store::{Durability, SetAside, Store};
use activation::Activated;
use pipes::HeldPipes;
use place::Place;
use service::Service;

/// How long the last output of instances may take to be written at the end.
const FLUSH: Duration = Duration::from_millis(250);

/// How long the database may take at the end to be brought to the disk. It is whole if it takes
/// longer too: that is then done at the next start.
const CLOSE: Duration = Duration::from_secs(1);

/// How long clients may take to read what they are told last.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// How long beyond its stop timeout, after SIGKILL, an instance may take to be gone. What is
/// left then is left to the holder, so that the daemon ends within a second of the longest
/// stop timeout whatever the instances do.
const GRACE: Duration = Duration::from_millis(250);

/// How a daemon's time is over.
#[derive(Clone, Copy, Debug)]
pub enum Ended {
    /// Everything has ended.
    Over(ExitCode),
    /// Another daemon takes over as soon as this process has ended, which it has to do at once and
    /// without undoing anything: what it started goes on.
    Replaced,
}

/// Runs the daemon until it is told to end, or another one takes over. `holder` is the connection to its holder.
///
/// # Errors
///
/// When it can't begin: the socket or the state directory can't be had. If there was a daemon
/// before, this process has to end at once then, without undoing anything: the next one tries
/// again.
pub async fn run(options: Options, holder: OwnedFd) -> anyhow::Result<Ended> {
    // First, so that no signal is missed from now on.
    let mut ends = Ends::new(options.manifest.is_some()).context("cannot receive signals")?;
    let mut reload = reloads(&options).context("cannot receive signals")?;
    let kernel = Linux::attach(holder).context("cannot speak with the holder")?;
    let mut left = handover::arrive(&options, &kernel).await?;
    let activated = Activated::take(&mut left.files);
    // A daemon before this one has had files kept.
    let is_first = left.survivors.is_empty() && left.files.is_empty();
    let (place, listener) = Place::take(&options, &kernel, &mut left.files, activated)?;
    kernel.settle(&options.cgroup, &place.state);
    let (daemon, to_be_started) = match begin(&options, &kernel, &place, left).await {
        Ok(begun) => begun,
        Err(error) => {
            if !is_first {
                std::mem::forget(place);
            }
            return Err(error);
        }
    };
    let registry = daemon.registry.clone();
    let mut serving = tokio::spawn(control::serve(listener, daemon.clone()));
    tokio::spawn(registry.clone().start_again(to_be_started));
    let mut service = Service::from_environment(&kernel);
    service.ready(registry.all().len()).await;
    // Nor is what it took from there to its first quiet moment.
    tokio::spawn(settle::settle(registry.events().watch()));

    let mut letting_go = daemon.letting_go.subscribe();
    let name = loop {
        tokio::select! {
            name = ends.next() => break name,
            () = hung_up(&mut reload) => {
                if let Some(path) = options.manifest.clone() {
                    tracing::info!(?path, "SIGHUP: applying the manifest again");
                    let daemon = daemon.clone();
                    tokio::spawn(async move { manifest::again(&path, &daemon).await });
                }
            }
            () = service.due() => {
                // A daemon whose instances can't be looked at is not alive.
                let _ = registry.list();
                service.alive().await;
            }
            Ok(successor) = async { letting_go.wait_for(Option::is_some).await.map(|it| *it) } => {
                let successor = successor.unwrap_or_default();
                let letting_go = handover::let_go(successor, &daemon, &service, serving);
                tokio::select! {
                    () = letting_go => return Ok(handover::leave(daemon, place).await),
                    // The end of everything, and of who was to take over.
                    name = ends.next() => {
                        serving = tokio::spawn(std::future::ready(()));
                        break name;
                    }
                }
            }
        }
    };
    service.stopping().await;
    let code = shut_down(name, ends, &daemon, place, serving).await;
    kernel.end().await.context("cannot speak with the holder")?;
    Ok(Ended::Over(code))
}

/// Builds the rooms. The answer is also what is to be started.
async fn begin(
    options: &Options,
    kernel: &Linux,
    place: &Place,
    left: Left,
) -> anyhow::Result<(Arc<Daemon>, Vec<Arc<Instance>>)> {
    let is_first = left.survivors.is_empty() && left.files.is_empty();
    let (store, mut snapshot) = Store::open(&place.state)?;
    leftovers::clear(&place.state, &snapshot);
    let set_aside = snapshot.set_aside.take();
    let bounds = CaptureConfig {
        max_file_bytes: options.instance_log_bytes,
        max_files: options.instance_log_files,
    };
    let starter = {
        let kernel = kernel.clone();
        Arc::new(move |listener| kernel.serve(CAPTURE_ROLE, &listener))
    };
    let socket = place.sockets.join(place::CAPTURE);
    let pipes = Arc::new(HeldPipes(kernel.clone()));
    let capture = Capture::start(bounds, socket, starter, pipes);
    let events = Arc::new(EventLog::new(store.clone()));
    kernel.forget_when({
        let store = store.clone();
        move || {
            let store = store.clone();
            Box::pin(async move { store.commit(Durability::Logged).await.is_ok() })
        }
    });
    let durability = match options.sync {
        Sync::Soon => Durability::Logged,
        Sync::Full => Durability::Synced,
    };
    let porter = Porter::start().context("cannot wait for what instances connect to")?;
    let registry = Registry::new(
        Arc::new(kernel.clone()),
        capture,
        events.clone(),
        (options.telemetry.clone().map(Telemetry::start), porter),
        Directories {
            sockets: place.sockets.as_path().into(),
            logs: place.state.join("logs"),
            programs: place.state.join("programs"),
        },
        (store.clone(), durability),
    );
    let trial = Trial(Some(registry.clone()).filter(|_| !is_first));
    let restored = registry.restore(snapshot, left).await;
    let ipc = match options.ipc_socket {
        None => None,
        Some(address) => Some(listen_for_datagrams(address, options, &registry).await?),
    };
    let mut failure = None;
    let manifest = match options.manifest.as_deref().filter(|_| is_first) {
        None => None,
        Some(path) => match manifest::check(path, &registry).await {
            Ok(manifest) => Some(manifest),
            Err(error) if registry.all().is_empty() => return Err(error),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(error, "going on with what was there before");
                failure = Some(error);
                None
            }
        },
    };
    let daemon = Arc::new(Daemon {
        registry: registry.clone(),
        ipc,
        socket: place.socket.as_os_str().into(),
        state_dir: place.state.as_os_str().into(),
        started_ms: now_ns() / 1_000_000,
        client_timeout: Duration::from_secs(options.client_timeout),
        warnings: warnings(set_aside.as_ref(), restored.failures)
            .into_iter()
            .chain(cgroups_warning(&options.cgroup, kernel))
            .collect(),
        max_upload: u64::from(options.max_upload_mib) << 20,
        ending: watch::Sender::new(false),
        kernel: kernel.clone(),
        meter: Meter::new(kernel.holder()),
        replacing: tokio::sync::Mutex::default(),
        letting_go: watch::Sender::new(None),
        clients: AtomicU64::new(0),
        requests: AtomicU64::new(0),
        manifest_failure: std::sync::Mutex::new(failure),
    });
    tracing::info!(
        socket = ?place.socket,
        state_dir = ?place.state,
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        "listening"
    );
    events.record(None, None, EventKind::DaemonStarted);
    if let Some(SetAside { path, reason, .. }) = set_aside {
        let path = path.display().to_string();
        events.record(None, None, EventKind::StateSetAside { path, reason });
    }
    // What it took to begin is not needed again.
    crate::holder::give_back();
    kernel.ready().await.context("cannot speak with the holder")?;
    let mut to_be_started = restored.to_be_started;
    if let Some(manifest) = manifest {
        match manifest.apply(&registry).await {
            Ok(plan) => to_be_started = manifest::untouched(&plan, to_be_started),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(error, "going on with what was there before");
                daemon.set_manifest_failure(Some(error));
            }
        }
    }
    trial.passed();
    Ok((daemon, to_be_started))
}

/// What an earlier daemon has left, taken over by one that is not at work yet. If it fails to come
/// to work, that is not dropped: instances would be stopped and connections closed, which the next
/// daemon is to find as they are. None if there was no earlier daemon.
struct Trial(Option<Arc<Registry>>);

impl Trial {
    /// The daemon is at work: from now on what becomes of all this is meant.
    fn passed(mut self) {
        self.0 = None;
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        std::mem::forget(self.0.take());
    }
}

/// What `status` warns of for as long as this daemon runs; said in its log too.
fn warnings(set_aside: Option<&SetAside>, failures: Vec<String>) -> Vec<String> {
    let set_aside = set_aside.map(|SetAside { path, reason, .. }| {
        format!(
            "the database was corrupt ({reason}): it is now {}, and this daemon began without \
             instances and links",
            path.display()
        )
    });
    for failure in &failures {
        tracing::error!(failure, "something of an earlier daemon is left out, and kept");
    }
    set_aside.into_iter().chain(failures).collect()
}

/// What was asked for by name, and can't be had.
fn cgroups_warning(choice: &CgroupChoice, kernel: &Linux) -> Option<String> {
    let CgroupChoice::Below(_) = choice else { return None };
    let Standing::Nowhere { why } = kernel.cgroups() else { return None };
    Some(format!("instances have no cgroups of their own, though --cgroup names a place: {why}"))
}

async fn listen_for_datagrams(
    address: std::net::SocketAddr,
    options: &Options,
    registry: &Registry,
) -> anyhow::Result<IpcSocket> {
    let allow = if options.ipc_allow.is_empty() {
        let loopback: [IpNet; 2] = [
            Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8).into(),
            Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128).into(),
        ];
        loopback.to_vec()
    } else {
        options.ipc_allow.clone()
    };
    let config = IpcConfig { address, allow };
    let socket = IpcSocket::bind(config, registry.router().clone())
        .await
        .with_context(|| format!("cannot listen for datagrams on {address}"))?;
    tracing::info!(address = socket.status().address, "listening for datagrams");
    Ok(socket)
}

/// Everything ends in order: no new requests, then the instances, then their logs.
async fn shut_down(
    signal: &'static str,
    mut ends: Ends,
    daemon: &Daemon,
    place: Place,
    mut serving: JoinHandle<()>,
) -> ExitCode {
    let registry = &daemon.registry;
    let limit = registry.longest_stop() + GRACE;
    tracing::info!(signal, ?limit, "stopping all instances; a second signal kills them");
    // First, so that whoever sees the event finds it to be true.
    registry.close();
    registry.events().record(None, None, EventKind::DaemonStopping);
    place.remove_socket();

    tokio::select! {
        () = registry.stop_all() => {}
        signal = ends.next() => {
            tracing::warn!(signal, "killing all instances");
            let _ = tokio::time::timeout(GRACE, registry.kill_all()).await;
        }
        () = tokio::time::sleep(limit) => {
            tracing::error!("instances are left after their time; killing them");
            let _ = tokio::time::timeout(GRACE, registry.kill_all()).await;
        }
    }
    registry.close_sockets();
    registry.flush_logs(FLUSH).await;
    // What happened last is there to be read when they are told that nothing more will.
    let _ = tokio::time::timeout(CLOSE, registry.events().settle()).await;
    // Clients that follow anything are told how it ended.
    daemon.ending.send_replace(true);
    if tokio::time::timeout(LAST_WORDS, &mut serving).await.is_err() {
        serving.abort();
        let _ = serving.await;
    }
    if tokio::time::timeout(CLOSE, registry.store().close()).await.is_err() {
        tracing::warn!("the disk is slow: the database is put in order at the next start");
    }
    daemon.kernel.leave_cgroups();
    drop(place);
    tracing::info!("ended");
    ExitCode::SUCCESS
}

/// SIGHUP, if it has the manifest applied again.
fn reloads(options: &Options) -> std::io::Result<Option<Signal>> {
    options.manifest.as_ref().map(|_| signal(SignalKind::hangup())).transpose()
}

async fn hung_up(reload: &mut Option<Signal>) {
    match reload {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// The signals that end the daemon.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
    /// Unless it has the manifest applied again.
    hang_up: Option<Signal>,
}

impl Ends {
    fn new(reloads: bool) -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: (!reloads).then(|| signal(SignalKind::hangup())).transpose()?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            () = hung_up(&mut self.hang_up) => "SIGHUP",
        }
    }
}
