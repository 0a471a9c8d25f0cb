//! How it happens, on Linux: execute a program, signal everything it started, learn how it
//! ended.
//!
//! For `registry/`, which holds one [`Keeper`] per instance. Nobody else starts
//! a process in this program, but `logs/` its own, which it never waits for: the thread behind [`Linux`] collects the exit of every child,
//! whoever started it, and of every orphan below the daemon.
//!
//! It promises that
//!
//! - a signal reaches only processes known to be ours, by pidfd or while their number can't
//!   have been given to anybody else;
//! - the exit of a process is reported as the kernel reported it, and leaves no zombie;
//! - what an instance starts inherits no file but its three streams, no blocked and no
//!   ignored signal;
//! - it does not wake up unless something happened.
//!
//! A program that calls setsid(2) or setpgid(2) leaves its instance's process group and is
//! out of reach until the daemon ends, when the holder ends it.

mod error;
mod files;
mod group;
mod keeper;
mod procfs;
mod spawner;
mod sys;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use orchestrator_proto::control::{Exit, Priority};
use tokio::sync::oneshot;

pub use error::SpawnError;
pub use files::raise_file_limit;
pub use keeper::{
    Hooks, Keeper, QUEUE, RetireError, StartError, Started, StopError, View, WAITING,
};
pub use spawner::Linux;

/// Variables of the daemon's own environment that no instance inherits: they speak to the
/// daemon alone. [`Launch::env`] can set any of them.
pub const NOT_INHERITED: [&str; 12] = [
    "ORCHESTRATOR_HOLDER_PID",
    "ORCHESTRATOR_LOG",
    "ORCHESTRATOR_ROLE",
    "ORCHESTRATOR_SOCKET",
    "ORCHESTRATOR_STATE_DIR",
    // sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3)
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// What the answer of a [`Kernel`] is waited for with. It does not borrow.
pub type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Where processes come from. [`Linux`] is the real one.
pub trait Kernel: Send + Sync + 'static {
    /// Executes a program, as the leader of a process group of its own.
    ///
    /// If the answer is dropped before it came, nothing is left of the process either.
    ///
    /// # Errors
    ///
    /// See [`SpawnError`]; then no process is left.
    fn spawn(&self, launch: Launch) -> Pending<Result<Spawned, SpawnError>>;
}

/// A process that was spawned, and everything else in its process group.
pub trait Process: std::fmt::Debug + Send + Sync + 'static {
    /// The leader's number. For people: by the time they read it, it may be another's.
    fn pid(&self) -> u32;

    /// Sends a signal to every process of the group. Answers whether there was any.
    ///
    /// # Errors
    ///
    /// `EPERM` if none of them may be signalled by us, `EINVAL` if there is no such signal.
    fn signal_tree(&self, signal: i32) -> Pending<io::Result<bool>>;

    /// Whether nothing of the group is left but zombies. To be asked after the leader's exit.
    ///
    /// # Errors
    ///
    /// When `/proc` can't be read, or there is no file descriptor left.
    fn tree_empty(&self) -> Pending<io::Result<bool>>;

    /// Waits until [`tree_empty`](Self::tree_empty) holds. To be asked after the leader's exit.
    fn tree_gone(&self) -> Pending<()>;
}

/// A program to be executed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Launch {
    /// An absolute path.
    pub program: PathBuf,
    /// Its arguments, without the program itself.
    pub args: Vec<OsString>,
    /// Variables set on top of the daemon's environment, which is inherited without
    /// [`NOT_INHERITED`].
    pub env: Vec<(OsString, OsString)>,
    /// Its working directory; none is `/`.
    pub cwd: Option<PathBuf>,
    /// Its nice value.
    pub priority: Priority,
}

impl Launch {
    /// This program, everything else as it is by default.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            cwd: None,
            priority: Priority::default(),
        }
    }
}

/// A program that was executed.
#[derive(Debug)]
pub struct Spawned {
    /// The process.
    pub process: Arc<dyn Process>,
    /// The reading end of its standard output. Blocking.
    pub stdout: OwnedFd,
    /// The reading end of its standard error. Blocking.
    pub stderr: OwnedFd,
    /// How it ended, once it has.
    pub exited: oneshot::Receiver<Exit>,
    /// What was asked for and could not be had, a sentence each.
    pub warnings: Vec<String>,
}
