//! The capture process: reads the pipes of all instances and writes what comes out of them.
//!
//! It is this program in another role, with a listener as its standard input and nothing else
//! open. It serves whoever connects: the daemon, and for a moment also the daemon's
//! replacement. Which logs are open, and what is read for them, is not a connection's but the
//! process's own, so that a daemon may die and another go on. It ends when it is told to, or
//! when it has had neither a client nor an open pipe for [`IDLE`].
//!
//! All of it runs on one thread, but for the compression of files that are complete.

mod client;
mod compressing;
mod log;
mod looks;
mod packing;
mod pipe;
mod pipes;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use orchestrator_proto::InstanceId;
use tokio::io::Interest;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use self::client::Outgoing;
use self::log::Log;
use self::packing::Packer;
use self::pipe::Buffers;
use self::pipes::Pipes;
use super::file::{Disk, Kernel};
use super::record::now_ns;
use super::socket::{self, Socket, Watched};
use super::wire::{ProcessId, Report};

/// The variable that tells this program what it is to be, and what it is then.
pub const CAPTURE_ROLE: (&str, &str) = (ENV_ROLE, ROLE);
const ENV_ROLE: &str = "ORCHESTRATOR_ROLE";
const ROLE: &str = "capture";

/// How long it waits for a client while it has nothing to do: 10 s.
pub(super) const IDLE: Duration = Duration::from_secs(10);
/// The most connections at once: 16.
const MAX_CLIENTS: usize = 16;
/// How often it is tried whether writing works again.
const RETRY: Duration = Duration::from_millis(500);
/// How long clients may take to receive what they are told last.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long a failure to accept a connection is not tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// Becomes the capture process, if the environment says so; returns its exit code when it has
/// ended. To be asked first of all, before this process has a second thread or a file of its
/// own.
#[must_use]
pub fn capture_role() -> Option<ExitCode> {
    if std::env::var_os(ENV_ROLE)? != ROLE {
        return None;
    }
    Some(match become_capture() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: cannot capture output: {error}");
            ExitCode::FAILURE
        }
    })
}

fn become_capture() -> io::Result<()> {
    if !socket::is_listener(io::stdin()) {
        let message = format!("standard input is no listener; {ENV_ROLE} is for the daemon alone");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let _ = prctl::set_name(c"orch-capture");
    // It has to be there longer than whoever started it; what is blocked is as good as ignored.
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
        .into_iter()
        .collect::<SigSet>()
        .thread_block()?;
    close_strays()?;
    more_files()?;
    let listener = io::stdin().as_fd().try_clone_to_owned()?;
    run(listener, Settings::default())
}

/// Two pipes of each instance are open here: what a shell or a service manager has meant for
/// programs, often 1024 files, would not do for many.
fn more_files() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// Closes everything but the three standard streams.
fn close_strays() -> io::Result<()> {
    let mut open = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        open.extend(entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    for fd in open {
        if fd > 2 {
            // It fails for the descriptor that listed the directory, closed by now.
            let _ = nix::unistd::close(fd);
        }
    }
    Ok(())
}

/// What tests have otherwise.
pub(super) struct Settings {
    /// How long it waits for a client while it has nothing to do.
    pub(super) idle: Duration,
    /// What each log is written to.
    pub(super) disk: Box<dyn Fn() -> Box<dyn Disk>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { idle: IDLE, disk: Box::new(|| Box::new(Kernel)) }
    }
}

/// Captures until it is told to end, or has nothing to do.
pub(super) fn run(listener: OwnedFd, settings: Settings) -> io::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    LocalSet::new().block_on(&runtime, serve(listener, settings))
}

/// What all connections and all logs have in common.
struct Hub {
    process: ProcessId,
    settings: Settings,
    logs: RefCell<BTreeMap<InstanceId, Rc<Log>>>,
    clients: RefCell<Vec<Rc<Outgoing>>>,
    buffers: RefCell<Buffers>,
    packer: Packer,
    /// Who waits for them all.
    watched: Rc<Pipes>,
    /// How many are being read.
    pipes: Cell<usize>,
    /// Logs in which output is missing of which they do not tell yet.
    owing: Cell<usize>,
    /// One of these has changed, or the list of logs.
    changed: Notify,
    ending: Cell<bool>,
    /// Connections are to end, after what waits to be sent.
    ended: watch::Sender<bool>,
}

impl Hub {
    fn new(settings: Settings) -> io::Result<Rc<Self>> {
        Ok(Rc::new(Self {
            process: ProcessId { pid: std::process::id(), began_ns: now_ns() },
            settings,
            logs: RefCell::default(),
            clients: RefCell::default(),
            buffers: RefCell::new(Buffers::new()),
            packer: Packer::default(),
            watched: Pipes::new()?,
            pipes: Cell::new(0),
            owing: Cell::new(0),
            changed: Notify::new(),
            ending: Cell::new(false),
            ended: watch::Sender::new(false),
        }))
    }

    fn all_logs(&self) -> Vec<Rc<Log>> {
        self.logs.borrow().values().cloned().collect()
    }

    fn is_idle(&self) -> bool {
        self.clients.borrow().is_empty() && self.pipes.get() == 0
    }

    /// Tells all clients something that the daemon's log should say.
    fn notice(&self, text: &str) {
        for client in &*self.clients.borrow() {
            client.answer(Report::Notice { text: text.to_owned() });
        }
    }
}

async fn serve(listener: OwnedFd, settings: Settings) -> io::Result<()> {
    let listener = Watched::new(Socket::listener(listener))?;
    let hub = Hub::new(settings)?;
    tokio::task::spawn_local(hub.watched.clone().wake_all());
    let mut clients = JoinSet::new();
    let mut idle_since = None;
    let mut retry_at = Instant::now();
    while !hub.ending.get() {
        let idle = hub.is_idle();
        let since = *idle_since.get_or_insert_with(Instant::now);
        if !idle {
            idle_since = None;
        }
        if hub.owing.get() == 0 {
            retry_at = Instant::now() + RETRY;
        }
        tokio::select! {
            accepted = accept(&listener) => match accepted {
                Ok(socket) => {
                    take(&hub, &mut clients, socket);
                }
                Err(_) => sleep(PAUSE).await,
            },
            () = hub.changed.notified() => {}
            Some(ended) = clients.join_next() => {
                if ended.is_err() {
                    hub.notice("serving a connection to the capture process has panicked");
                }
            }
            () = sleep_until(retry_at), if hub.owing.get() > 0 => {
                retry_at = Instant::now() + RETRY;
                for log in hub.all_logs() {
                    log.retry();
                }
            }
            () = sleep_until(since + hub.settings.idle), if idle => {
                match Socket::accept(listener.get()) {
                    Ok(socket) => take(&hub, &mut clients, socket),
                    Err(_) => hub.ending.set(true),
                }
            }
        }
    }
    drop(listener);
    for log in hub.all_logs() {
        log.close();
    }
    while !hub.logs.borrow().is_empty() {
        hub.changed.notified().await;
    }
    hub.ended.send_replace(true);
    let gone = async { while clients.join_next().await.is_some() {} };
    // Who does not listen misses it.
    let _ = timeout(LAST_WORDS, gone).await;
    Ok(())
}

async fn accept(listener: &Watched) -> io::Result<Socket> {
    loop {
        listener.ready(Interest::READABLE).await?;
        match listener.attempt(Interest::READABLE, |listener| Socket::accept(listener)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // It has gone already.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            result => return result,
        }
    }
}

/// Serves a connection, if it comes from this user or from root.
fn take(hub: &Rc<Hub>, clients: &mut JoinSet<()>, socket: Socket) {
    let ours = nix::unistd::geteuid().as_raw();
    let allowed = socket.peer_uid().is_ok_and(|uid| uid == ours || uid == 0);
    if allowed && hub.clients.borrow().len() < MAX_CLIENTS {
        clients.spawn_local(client::serve(hub.clone(), socket));
    }
}
