//! Builds the rooms, connects them, and shuts them down in order.

mod place;

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use orchestrator_proto::control::EventKind;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::control::{self, Daemon};
use crate::events::EventLog;
use crate::logs::{Capture, CaptureConfig, prune};
use crate::options::Options;
use crate::process::{Linux, raise_file_limit};
use crate::registry::{Directories, Registry};
use crate::runtime::{IpcConfig, IpcSocket, Telemetry, now_ns};
use place::Place;

/// How long the last output of instances may take to be written at the end.
const FLUSH: Duration = Duration::from_millis(250);

/// Bytes of logs of earlier daemons that are kept: 256 MiB.
const OLD_LOG_BYTES: u64 = 256 << 20;

/// How long clients may take to read what they are told last.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// How long beyond its stop timeout, after SIGKILL, an instance may take to be gone. What is
/// left then is left to the holder, so that the daemon ends within a second of the longest
/// stop timeout whatever the instances do.
const GRACE: Duration = Duration::from_millis(250);

/// Runs the daemon until it is told to end.
///
/// # Errors
///
/// When it can't begin: the socket or the state directory can't be had.
pub async fn run(options: Options) -> anyhow::Result<ExitCode> {
    // First, so that no signal is missed from now on.
    let mut ends = Ends::new().context("cannot receive signals")?;
    let (place, listener) = Place::take(&options)?;

    clear_leftovers(&place);
    raise_file_limit().context("cannot raise the bound on open files")?;
    let kernel = Linux::start().context("cannot start the thread that starts programs")?;
    let bounds = CaptureConfig {
        max_file_bytes: options.instance_log_bytes,
        max_files: options.instance_log_files,
    };
    let capture = Capture::start(bounds, place.sockets.join(place::CAPTURE));
    let events = Arc::new(EventLog::default());
    let registry = Registry::new(
        Arc::new(kernel),
        capture,
        events.clone(),
        options.telemetry.clone().map(Telemetry::start),
        Directories {
            sockets: place.sockets.clone(),
            logs: place.state.join("logs"),
            programs: place.state.join("programs"),
        },
    );
    let ipc = match options.ipc_socket {
        None => None,
        Some(address) => Some(listen_for_datagrams(address, &options, &registry).await?),
    };
    let daemon = Arc::new(Daemon {
        registry: registry.clone(),
        ipc,
        socket: place.socket.as_os_str().into(),
        state_dir: place.state.as_os_str().into(),
        started_ms: now_ns() / 1_000_000,
        client_timeout: Duration::from_secs(options.client_timeout),
        max_upload: u64::from(options.max_upload_mib) << 20,
        ending: watch::Sender::new(false),
    });
    tracing::info!(
        socket = ?place.socket,
        state_dir = ?place.state,
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        "listening"
    );
    events.record(None, None, EventKind::DaemonStarted);
    let serving = tokio::spawn(control::serve(listener, daemon.clone()));

    let name = ends.next().await;
    Ok(shut_down(name, ends, &daemon, place, serving).await)
}

/// Instances are not remembered from one daemon to the next as yet, so what is here belongs to
/// nobody: programs that clients sent are deleted, logs are kept as far as there is room.
fn clear_leftovers(place: &Place) {
    match fs::remove_dir_all(place.state.join("programs")) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::warn!(%error, "programs of an earlier daemon could not be deleted");
        }
        _ => {}
    }
    match prune(&place.state.join("logs"), OLD_LOG_BYTES) {
        Ok(0) => {}
        Ok(deleted) => tracing::info!(deleted, "deleted logs of earlier daemons"),
        Err(error) => tracing::warn!(%error, "logs of earlier daemons could not be looked at"),
    }
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
    registry.flush_logs(FLUSH).await;
    // Clients that follow anything are told how it ended.
    daemon.ending.send_replace(true);
    if tokio::time::timeout(LAST_WORDS, &mut serving).await.is_err() {
        serving.abort();
        let _ = serving.await;
    }
    drop(place);
    tracing::info!("ended");
    ExitCode::SUCCESS
}

/// The signals that end the daemon.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Ends {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.hang_up.recv() => "SIGHUP",
        }
    }
}
