//! How it happens, on Linux: execute a program, signal everything it started, learn how it
//! ended.
//!
//! For `registry/`, which holds one [`Keeper`] per instance. The work itself is done by the
//! holder, which is the parent of all instances and adopts the orphans below them; [`Linux`]
//! gives the orders and hears what comes of them.
//!
//! It promises that
//!
//! - a signal reaches only processes known to be ours, by pidfd or while their number can't
//!   have been given to anybody else;
//! - the exit of a process is reported as the kernel reported it, and leaves no zombie;
//! - what an instance starts inherits no file but its three streams and the sockets that listen
//!   for it, no blocked and no ignored signal;
//! - what an instance is to have, such as a user, bounds, or variables from a file, it has, or it is
//!   not executed and why is told;
//! - it does not wake up unless something happened.
//!
//! What calls setsid(2) or setpgid(2) leaves its instance's process group, and is signalled and
//! waited for all the same: it is in the instance's `cgroup`; or, where there is none, it is
//! known by its `lineage`.

pub mod abilities;
mod account;
mod alarm;
mod asked;
mod attribute;
mod cgroup;
mod deposit;
mod env_file;
mod environment;
mod error;
mod group;
mod hearing;
mod keeper;
mod keeping;
mod kin;
mod leader;
mod lineage;
mod link;
mod linux;
mod listen;
mod orphan;
mod output;
mod prepare;
mod procfs;
mod program;
mod renewal;
mod rest;
mod successor;
mod sys;
mod usage;

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
use std::task::{Context, Poll};

use orchestrator_proto::control::{Execution, Exit, Limits, Priority};
use orchestrator_proto::{InstanceId, LinkId};
use tokio::sync::oneshot;

pub use account::{AccountError, obstacle};
pub use env_file::EnvFileError;

pub use cgroup::{CgroupChoice, Standing};
pub use error::SpawnError;
pub use keeper::{
    Begun, Hooks, Keeper, QUEUE, RetireError, Runs, Said, StartError, Started, StopError, View,
    WAITING,
};
pub use kin::{Kin, began_ns, kin};
pub use linux::{Greeting, Left, Linux, Survivor};
pub use output::Output;
pub use prepare::{PrepareError, give_sockets_again};
pub use procfs::Facts;
pub use renewal::RenewalError;
pub use successor::{Successor, SuccessorError};
pub use usage::{Main, Meter, Usages};

pub use crate::holder::frame::{FIRST_INHERITED, FIRST_LISTENER, MAX_LISTENERS, Name};
pub(crate) use sys::{readable, receive};

/// The number of the execution of its instance's program that a process is part of: the first is
/// 1. By that a daemon finds what an earlier one executed and had no time to take note of.
pub const ENV_RUN: &str = "ORCHESTRATOR_RUN";

/// Numbers of executions from this one on are those of commands that belong to an instance, such as
/// a probe, and not of its program: none of them is its main process. In [`Spawned::run`] as in
/// [`ENV_RUN`].
pub const FIRST_COMMAND: u64 = 1 << 63;

/// Variables of the daemon's own environment that no instance inherits: they speak to the
/// daemon alone. [`Launch::env`] can set any of them.
pub const NOT_INHERITED: [&str; 13] = [
    ENV_RUN,
    "ORCHESTRATOR_CGROUP",
    "ORCHESTRATOR_LOG",
    crate::holder::ENV_ROLE,
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

    /// Takes over a process of an instance that was executed under an earlier holder: see
    /// [`Linux::adopt`].
    ///
    /// # Errors
    ///
    /// When it is there but can't be had.
    fn adopt(
        &self,
        _: InstanceId,
        _: Part,
        _pid: u32,
        _start_ticks: u64,
    ) -> io::Result<Option<Spawned>> {
        Ok(None)
    }

    /// What is left of the process group of a main process of this instance that was executed under
    /// an earlier holder and has ended: it had this number, and started at `start_ticks`. None if
    /// nothing is. Reads all of `/proc`.
    ///
    /// # Errors
    ///
    /// When it can't be looked for.
    fn rest(
        &self,
        _: InstanceId,
        _pid: u32,
        _start_ticks: u64,
    ) -> io::Result<Option<Arc<dyn Process>>> {
        Ok(None)
    }

    /// From now on an instance has these limits: at once, if it runs.
    fn limit(&self, _: InstanceId, _: &Limits) {}

    /// There is no such instance any more.
    fn unlimit(&self, _: InstanceId) {}

    /// Which of its limits are not in force, or would not be if it were started now, and why: a
    /// sentence each.
    fn unmet(&self, _: InstanceId, _runs: bool) -> Vec<String> {
        Vec::new()
    }

    /// Ends what is left of earlier executions and nobody has to do with: of instances that there
    /// are no more, and of commands. To be called once all that is to be kept is.
    fn tidy(&self) {}

    /// Main processes that were executed under an earlier holder and may be unknown. Reads all of
    /// `/proc`.
    fn strays(&self) -> Vec<Stray> {
        Vec::new()
    }

    /// From now on, each [`Spawned::run`] is higher than this, whatever the clock says.
    fn number_beyond(&self, _run: u64) {}

    /// Keeps a file for the next daemon, instead of another one of that name.
    fn keep(&self, _name: Name, _file: OwnedFd) {}

    /// Closes a file that is kept.
    fn forget(&self, _name: Name) {}

    /// Keeps a file, as [`keep`](Self::keep), which this daemon need not have open itself either: it
    /// can be [fetched](Self::fetch) until it is [forgotten](Self::forget).
    fn deposit(&self, _name: Name, _file: OwnedFd) {}

    /// A file that an earlier daemon has had kept is to be that of a
    /// [`deposit`](Self::deposit).
    fn is_deposited(&self, _name: Name, _file: OwnedFd) {}

    /// A file that was deposited; none if there is none of that name.
    ///
    /// # Errors
    ///
    /// When it may go well another time.
    fn fetch(&self, _name: Name) -> Pending<io::Result<Option<OwnedFd>>> {
        Box::pin(std::future::ready(Ok(None)))
    }
}

/// A main process that an earlier holder has left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stray {
    /// Whose.
    pub instance: InstanceId,
    /// See [`ENV_RUN`].
    pub run: u64,
    /// Its number.
    pub pid: u32,
    /// When it started, clock ticks since this boot.
    pub start_ticks: u64,
}

/// A process that was spawned, and everything else in its process group.
pub trait Process: std::fmt::Debug + Send + Sync + 'static {
    /// The leader's number. For people: by the time they read it, it may be another's.
    fn pid(&self) -> u32;

    /// Its end was noted where it will be kept, so that it need not be remembered.
    fn end_is_noted(&self) {}

    /// What the end of the main process was, as far as one can know: the kernel may have killed it
    /// for want of memory.
    fn explain(&self, exit: Exit) -> Exit {
        exit
    }

    /// Sends a signal to every process that came of this one, in its process group or not. Answers
    /// whether there was any.
    ///
    /// # Errors
    ///
    /// `EPERM` if none of them may be signalled by us, `EINVAL` if there is no such signal.
    fn signal_tree(&self, signal: i32) -> Pending<io::Result<bool>>;

    /// Whether nothing of them is left but zombies. To be asked after the leader's exit.
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
    /// Whose program.
    pub instance: InstanceId,
    /// An absolute path.
    pub program: PathBuf,
    /// Its arguments, without the program itself.
    pub args: Vec<OsString>,
    /// Variables set on top of those that it inherits and those from files, see [`Execution`].
    /// [`NOT_INHERITED`] are never inherited.
    pub env: Vec<(OsString, OsString)>,
    /// Its working directory; none is `/`.
    pub cwd: Option<PathBuf>,
    /// Its nice value.
    pub priority: Priority,
    /// What it is to the instance.
    pub part: Part,
    /// As whom, with which rights and bounds, and in which surroundings.
    pub execution: Arc<Execution>,
    /// Sockets that belong to its user, if that is another one than the daemon's.
    pub sockets: Vec<PathBuf>,
    /// Listening sockets that it is given, if it is the instance itself, see sd_listen_fds(3): the
    /// names that it finds them under, in order. They are [kept](Kernel::keep) under
    /// [`listener`]. Or why there is one that can't be had.
    pub listeners: Result<Vec<String>, String>,
}

/// What the holder calls the listening socket of an instance that comes at this place, counted
/// from 0.
#[must_use]
pub const fn listener(instance: InstanceId, place: u64) -> Name {
    Name { key: *instance.as_bytes(), tag: FIRST_LISTENER + place }
}

/// The first half of the key of an end of a lane; the other half is the link's number. No instance
/// has such an id: one has the version of a UUID in that half.
const LANE: u64 = 1;

/// What the holder calls the daemon's end of a lane of this link.
#[must_use]
pub const fn lane_end(link: LinkId, lane: u64) -> Name {
    let key = ((LANE as u128) << 64) | link.0 as u128;
    Name { key: key.to_be_bytes(), tag: lane }
}

/// The link and the lane whose end has this name; none if it names something else.
#[must_use]
pub const fn lane_of(name: Name) -> Option<(LinkId, u64)> {
    let key = u128::from_be_bytes(name.key);
    if key >> 64 == LANE as u128 { Some((LinkId(key as u64), name.tag)) } else { None }
}

/// What a program is to its instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Part {
    /// The instance itself. There is one at a time.
    #[default]
    Main,
    /// A command that belongs to it. A daemon that finds one that an earlier daemon has executed
    /// kills it: nobody waits for its end any more.
    Command,
}

impl Launch {
    /// This program of this instance, everything else as it is by default.
    pub fn new(instance: InstanceId, program: impl Into<PathBuf>) -> Self {
        Self {
            instance,
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            cwd: None,
            priority: Priority::default(),
            part: Part::Main,
            execution: Arc::default(),
            sockets: Vec::new(),
            listeners: Ok(Vec::new()),
        }
    }
}

/// The end of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ended {
    /// How it ended.
    pub exit: Exit,
    /// When, milliseconds since 1970 (UTC).
    pub time_ms: u64,
}

/// The end of a process, waited for.
#[derive(Debug)]
pub struct Exited {
    end: oneshot::Receiver<Ended>,
    /// Whether it had ended when it was found.
    before: bool,
}

impl Exited {
    pub(crate) const fn new(end: oneshot::Receiver<Ended>) -> Self {
        Self { end, before: false }
    }

    /// Of one that had ended when it was found.
    #[cfg(test)]
    pub(crate) fn of_before(ended: Ended) -> Self {
        let (tell, end) = oneshot::channel();
        let _ = tell.send(ended);
        Self { end, before: true }
    }

    /// Whether it had ended already when it was found.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.before
    }
}

impl Future for Exited {
    type Output = Option<Ended>;

    /// None if nobody will ever know.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.end).poll(context).map(Result::ok)
    }
}

/// A program that was executed.
#[derive(Debug)]
pub struct Spawned {
    /// Its number: no other program of its instance ever has the same. From [`FIRST_COMMAND`] on it
    /// is a command.
    pub run: u64,
    /// The process.
    pub process: Arc<dyn Process>,
    /// The reading ends of its standard output and its standard error. Reading does not wait.
    /// None if it was executed under an earlier holder and they are not to be had.
    pub output: Option<(OwnedFd, OwnedFd)>,
    /// How it ended, once it has.
    pub exited: Exited,
    /// What was asked for and could not be had, a sentence each.
    pub warnings: Vec<String>,
}
