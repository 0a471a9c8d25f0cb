//! What an instance says of itself on `NOTIFY_SOCKET`, see sd_notify(3).
//!
//! An instance has that socket if it was added with the readiness `notify` or with a watchdog.
//! What it can say, and what that does:
//!
//! | message | effect |
//! | --- | --- |
//! | `READY=1` | it is ready, if that is its readiness |
//! | `STATUS=…`, `ERRNO=…` | shown as its status |
//! | `WATCHDOG=1` | it is well |
//! | `WATCHDOG=trigger` | it is stopped, as if it had missed its watchdog's time; its restart policy says what follows |
//! | `EXTEND_TIMEOUT_USEC=…` | it has so much time more to become ready, or to stop |
//! | `RELOADING=1`, `STOPPING=1` | shown as its status until it says otherwise, and logged. Neither changes what is expected of it: a reload is its own business, and one that stops by itself ends |
//! | `BARRIER=1` | the file that comes with it is closed when all before it was passed on |
//! | `MAINPID=…` and others | logged, and passed over: the main process is the one that was executed, and no file is kept |
//!
//! Only the instance's own processes are heard, see [`kin`]; others are passed over, and logged.
//! A process that has ended, and was collected, before its message was read can't be told from a
//! stranger. Whoever sends and ends at once should wait until it was heard, as systemd-notify(1)
//! does, by sd_notify_barrier(3).
//!
//! The socket belongs to the user of the instance, and nobody else can write to it. It outlives the daemon: what is said while there is none waits in it, and whoever finds it
//! full waits too.

mod message;

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram as StdDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use orchestrator_proto::control::{LogStream, Readiness, Supervision};
use rustix::net::SocketType;
use thiserror::Error;
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::message::{Message, Words};
use super::Health;
use super::subject::{Main, Subject};
use crate::logs::InstanceLog;
use crate::private_socket;
use crate::process::{Keeper, Kin, Said, kin, receive};
use crate::runtime::{Endpoint, NOTIFY_PLACE};

/// Where a program finds its socket.
pub const ENV_NOTIFY: &str = "NOTIFY_SOCKET";

/// How often it has to say that it is well, microseconds, see sd_watchdog_enabled(3). There is no
/// `WATCHDOG_PID` with it, so that it holds for what the main process starts, too.
pub const ENV_WATCHDOG: &str = "WATCHDOG_USEC";

/// The most bytes of a message.
const MAX_MESSAGE: usize = 4096;

/// How often something of one kind is logged of one instance, at most.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Why a socket can't be had.
#[derive(Debug, Error)]
#[error("cannot receive on {path:?}: {source}")]
pub struct NotifyError {
    path: PathBuf,
    source: io::Error,
}

/// The socket of an instance that says how it is, before anybody listens. What is said waits.
pub struct NotifySocket {
    socket: UnixDatagram,
    file: SocketFile,
}

/// Passes on what an instance says, for as long as this value lives; so long there is the socket.
pub struct Notify {
    task: JoinHandle<()>,
    _file: SocketFile,
}

impl NotifySocket {
    /// The socket below `dir`, if an instance that is supervised like this needs one. It is the one of an
    /// earlier daemon, if there is that, with what was said meanwhile.
    ///
    /// # Errors
    ///
    /// When a socket can't be made there.
    pub fn open(
        dir: &Path,
        endpoint: &Arc<Endpoint>,
        rules: &Supervision,
    ) -> Result<Option<Self>, NotifyError> {
        if rules.readiness != Readiness::Notify && rules.watchdog.0 == 0 {
            return Ok(None);
        }
        let path = dir.join(format!("{}.notify", endpoint.instance.simple()));
        let socket = match endpoint.shelf.take(NOTIFY_PLACE) {
            Some(kept) if path.exists() => Ok(StdDatagram::from(kept)),
            _ => bind(&path).inspect(|new| endpoint.shelf.put(NOTIFY_PLACE, new.as_fd())),
        };
        let socket = socket.and_then(|socket| {
            socket.set_nonblocking(true)?;
            UnixDatagram::from_std(socket)
        });
        let socket = socket.map_err(|source| NotifyError { path: path.clone(), source })?;
        Ok(Some(Self { socket, file: SocketFile { path, endpoint: endpoint.clone() } }))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// What the program finds in its environment.
    #[must_use]
    pub fn variables(&self, rules: &Supervision) -> Vec<(&'static str, std::ffi::OsString)> {
        let mut variables = vec![(ENV_NOTIFY, self.file.path.as_os_str().to_owned())];
        if rules.watchdog.0 > 0 {
            let us = u128::from(rules.watchdog.0) * 1000;
            variables.push((ENV_WATCHDOG, us.to_string().into()));
        }
        variables
    }

    /// Passes on to the keeper what the instance says, from now on. `health` is that of the same
    /// instance.
    #[must_use]
    pub fn listen(
        self,
        health: &Health,
        keeper: Keeper,
        log: InstanceLog,
        rules: &Supervision,
    ) -> Notify {
        let listener = Listener {
            socket: self.socket,
            subject: health.subject(),
            keeper,
            log,
            ready_counts: rules.readiness == Readiness::Notify,
            ours: false,
            strangers: Remark::default(),
            unheeded: Remark::default(),
        };
        Notify { task: tokio::spawn(listener.run()), _file: self.file }
    }
}

impl Drop for Notify {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where a socket is. Nowhere any more when this is dropped.
struct SocketFile {
    path: PathBuf,
    endpoint: Arc<Endpoint>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.endpoint.shelf.clear(NOTIFY_PLACE);
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = ?self.path, %error, "a socket could not be removed");
        }
    }
}

fn bind(path: &Path) -> io::Result<StdDatagram> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = StdDatagram::from(private_socket::bound(path, SocketType::DGRAM)?);
    rustix::net::sockopt::set_socket_passcred(&socket, true)?;
    Ok(socket)
}

struct Listener {
    socket: UnixDatagram,
    subject: Arc<Subject>,
    keeper: Keeper,
    log: InstanceLog,
    /// Whether the instance is ready when it says so here.
    ready_counts: bool,
    /// Whether the status that is shown is not in its own words.
    ours: bool,
    strangers: Remark,
    unheeded: Remark,
}

impl Listener {
    async fn run(mut self) {
        let mut bytes = vec![0; MAX_MESSAGE];
        loop {
            let receive = || receive(self.socket.as_fd(), &mut bytes);
            let received = match self.socket.async_io(Interest::READABLE, receive).await {
                Ok(received) => received,
                Err(error) => {
                    // Out of memory, most likely.
                    tracing::warn!(instance = %self.subject.id, %error, "a message is lost");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            if received.cut {
                let what = format!("a message of more than {MAX_MESSAGE} bytes was passed over");
                self.unheeded.make(&self.log, &what);
            } else if self.is_own(received.sender).await {
                let text = bytes.get(..received.len).unwrap_or_default();
                self.heed(&Message::parse(text)).await;
            }
            // Closed now, which is what a barrier waits for.
            drop(received.files);
        }
    }

    /// Whether the sender is a process of the instance.
    async fn is_own(&mut self, sender: Option<u32>) -> bool {
        // A process can speak before we are told that it was executed.
        let run = self.subject.settled().await;
        let who = match (sender, run.main) {
            (Some(sender), Main::Is(main)) => {
                (sender, kin(sender, main, self.subject.id, run.number))
            }
            (sender, _) => (sender.unwrap_or(0), Kin::Stranger),
        };
        let what = match who {
            (_, Kin::Own) => return true,
            (pid, Kin::Gone) => format!(
                "a message of process {pid} was passed over: it had ended before it could be seen \
                 whose it was; let it wait for sd_notify_barrier(3), as systemd-notify does"
            ),
            (pid, Kin::Stranger) => {
                format!("a message of process {pid} was passed over: it is none of this instance's")
            }
        };
        self.strangers.make(&self.log, &what);
        false
    }

    async fn heed(&mut self, message: &Message) {
        let id = self.subject.id;
        if !message.unheeded.is_empty() {
            let what = format!("{} in its messages has no effect", message.unheeded.join(", "));
            self.unheeded.make(&self.log, &what);
        }
        if message.stopping {
            tracing::info!(instance = %id, "it stops by itself");
        }
        if message.reloading {
            tracing::info!(instance = %id, "it reloads its configuration");
        }
        let words = match message.words() {
            Words::Own(words) => Some((words, false)),
            // It is ready: words of its own stay.
            Words::Ours("") if !self.ours => None,
            Words::Ours(words) => Some((words.to_owned(), !words.is_empty())),
            Words::None => None,
        };
        if let Some((words, ours)) = words {
            self.ours = ours;
            self.keeper.said(Said::Status(words)).await;
        }
        if let Some(time) = message.more_time {
            self.keeper.said(Said::MoreTime(time)).await;
        }
        if message.ready && self.ready_counts {
            self.keeper.said(Said::Ready).await;
        }
        if message.unwell {
            self.keeper.said(Said::Unwell).await;
        } else if message.alive {
            self.keeper.said(Said::Alive).await;
        }
    }
}

/// Something that may happen often and is worth being read now and then.
#[derive(Default)]
struct Remark {
    last: Option<Instant>,
    left_out: u64,
}

impl Remark {
    /// Makes it in the instance's log and the daemon's, or only counts it.
    fn make(&mut self, log: &InstanceLog, what: &str) {
        if self.last.is_some_and(|last| last.elapsed() < LOG_INTERVAL) {
            self.left_out += 1;
            return;
        }
        let more = match std::mem::take(&mut self.left_out) {
            0 => String::new(),
            more => format!(" ({more} more like this since the last remark)"),
        };
        self.last = Some(Instant::now());
        tracing::warn!(instance = %log.instance(), "NOTIFY_SOCKET: {what}{more}");
        log.append(LogStream::Orchestrator, format!("NOTIFY_SOCKET: {what}{more}").as_bytes());
    }
}
