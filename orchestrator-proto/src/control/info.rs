//! What a daemon reports about itself and its instances.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::execution::Execution;
use super::limits::Limits;
use super::listen::ListenInfo;
use super::log::LogRules;
use super::replicas::Replica;
use super::schedule::ScheduleInfo;
use super::spec::{Desired, Priority};
use super::supervision::Supervision;
use super::vitals::{PastExit, Vitals};
use crate::id::{InstanceId, LinkId};
use crate::os::OsBytes;
use crate::size::Size;

/// The daemon itself.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// [`PROTOCOL`](super::PROTOCOL).
    pub protocol: u32,
    /// The daemon's process.
    pub pid: u32,
    /// The holder's process, the daemon's parent.
    pub holder_pid: u32,
    /// When it started, milliseconds since 1970 (UTC).
    pub started_ms: u64,
    /// Its control socket.
    pub socket: OsBytes,
    /// Where it keeps its state.
    pub state_dir: OsBytes,
    /// How many instances it has.
    pub runtimes: u64,
    /// How many of them run.
    pub running: u64,
    /// How many links it has.
    pub links: u64,
    /// Datagrams of other orchestrators, when it listens for them.
    pub ipc: Option<IpcStatus>,
    /// The telemetry server, when one is set.
    pub telemetry: Option<TelemetryStatus>,
    /// What an operator should know, a sentence each: a database that was corrupt, a disk that
    /// is full.
    pub warnings: Vec<String>,
}

/// Counts of the datagram socket.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct IpcStatus {
    /// Where it listens.
    pub address: String,
    /// Good datagrams.
    pub received: u64,
    /// Good datagrams of a type that no link takes.
    pub unrouted: u64,
    /// Datagrams that are not a storable, or have more than 2,048 bytes.
    pub malformed: u64,
    /// Datagrams from an address that is not allowed.
    pub refused: u64,
}

/// Counts of the telemetry forwarder.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TelemetryStatus {
    /// The server.
    pub address: String,
    /// Whether it is connected now.
    pub connected: bool,
    /// Lines written to it.
    pub sent: u64,
    /// Lines dropped because the queue was full or the connection broke.
    pub dropped: u64,
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    /// It called `exit` with this code, 0 to 255.
    Code(i32),
    /// A signal ended it.
    Signal {
        /// The signal's number, see signal(7).
        signal: i32,
        /// Whether it left a core dump.
        core_dumped: bool,
    },
    /// It ended while nobody was there who could learn how.
    Unknown,
    /// The kernel killed it (SIGKILL) because there was no memory left for it.
    OutOfMemory {
        /// The limit that it has reached, see [`Limits::memory_max`]; none if the machine, or
        /// something else around the instance, had no memory left.
        limit: Option<Size>,
    },
}

impl Exit {
    /// Whether it is exit code 0.
    #[must_use]
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Code(0))
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal { signal, core_dumped } => {
                match crate::signal::name(signal) {
                    Some(name) => write!(f, "signal {signal} ({name})")?,
                    None => write!(f, "signal {signal}")?,
                }
                if core_dumped { f.write_str(", core dumped") } else { Ok(()) }
            }
            Self::Unknown => f.write_str("unknown exit"),
            Self::OutOfMemory { limit: Some(limit) } => {
                write!(f, "killed by the kernel: out of memory (limit {limit})")
            }
            Self::OutOfMemory { limit: None } => {
                f.write_str("killed by the kernel: the machine is out of memory")
            }
        }
    }
}

/// What an instance is seen to do. Times are milliseconds since 1970 (UTC).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Observed {
    /// It does not run, because nobody started it or somebody stopped it.
    Stopped {
        /// How its process ended; none if it was never started.
        last_exit: Option<Exit>,
        /// When that was.
        at_ms: Option<u64>,
    },
    /// It should run, but something that it needs is not there.
    Waiting {
        /// What, as in `db to be ready`.
        on: String,
        /// Since when.
        since_ms: u64,
    },
    /// Its program is being executed, or it runs and is not ready yet.
    Starting {
        /// The process, once there is one.
        pid: Option<u32>,
        /// Since when.
        since_ms: u64,
    },
    /// Its process runs and is ready.
    Ready {
        /// The process.
        pid: u32,
        /// Since when it runs.
        since_ms: u64,
    },
    /// Its process runs and is not well.
    Unhealthy {
        /// The process.
        pid: u32,
        /// Since when it runs.
        since_ms: u64,
        /// What is wrong.
        reason: String,
    },
    /// It was asked to stop, or its main process ended, and some of its processes are left.
    Stopping {
        /// The main process, if that still runs.
        pid: Option<u32>,
        /// Since when.
        since_ms: u64,
    },
    /// It has failed, or ended, and will be started again.
    BackOff {
        /// What happened.
        reason: String,
        /// How its process ended, if it was executed.
        last_exit: Option<Exit>,
        /// When it will be started.
        until_ms: u64,
        /// How many times on end it has been started again by then.
        attempt: u32,
    },
    /// Its process ended by itself, and that is no failure.
    Completed {
        /// How.
        exit: Exit,
        /// When.
        at_ms: u64,
    },
    /// It has failed, and is not started again by itself.
    Failed {
        /// Why, with the errno in words if there is one.
        reason: String,
        /// How its process ended, if that was it.
        exit: Option<Exit>,
        /// When.
        at_ms: u64,
    },
    /// It waits for its time: a schedule of which no run is under way.
    Scheduled {
        /// When it runs; none if there is no such time.
        next_ms: Option<u64>,
    },
}

impl Observed {
    /// The state in one word, as shown in tables.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Stopped { .. } => "stopped",
            Self::Waiting { .. } => "waiting",
            Self::Starting { .. } => "starting",
            Self::Ready { .. } => "ready",
            Self::Unhealthy { .. } => "unhealthy",
            Self::Stopping { .. } => "stopping",
            Self::BackOff { .. } => "back-off",
            Self::Completed { .. } => "completed",
            Self::Failed { .. } => "failed",
            Self::Scheduled { .. } => "scheduled",
        }
    }

    /// The main process, if it runs.
    #[must_use]
    pub const fn pid(&self) -> Option<u32> {
        match self {
            Self::Ready { pid, .. } | Self::Unhealthy { pid, .. } => Some(*pid),
            Self::Starting { pid, .. } | Self::Stopping { pid, .. } => *pid,
            _ => None,
        }
    }

    /// How its process ended by itself, if that is why it does not run.
    #[must_use]
    pub const fn ended(&self) -> Option<Exit> {
        match self {
            Self::Completed { exit, .. } => Some(*exit),
            Self::Failed { exit, .. } => *exit,
            _ => None,
        }
    }

    /// Whether its main process runs, and nobody has asked it to stop.
    #[must_use]
    pub const fn has_process(&self) -> bool {
        matches!(
            self,
            Self::Starting { pid: Some(_), .. } | Self::Ready { .. } | Self::Unhealthy { .. }
        )
    }

    /// Whether a process of it may be alive.
    #[must_use]
    pub const fn is_active(&self) -> bool {
        matches!(
            self,
            Self::Starting { .. }
                | Self::Ready { .. }
                | Self::Unhealthy { .. }
                | Self::Stopping { .. }
        )
    }
}

/// One instance, in brief.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RuntimeInfo {
    /// Its id.
    pub id: InstanceId,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// What it executes.
    pub program: OsBytes,
    /// Whether it should run.
    pub desired: Desired,
    /// Whether it does.
    pub observed: Observed,
    /// Its priority.
    pub priority: Priority,
    /// Whether it may start and stop instances itself.
    pub privileged: bool,
    /// How many times its program was executed.
    pub starts: u64,
    /// Connections to its sockets that are open.
    pub connections: u32,
    /// How it is, in its own words, see sd_notify(3): `STATUS=…`. One line of at most
    /// [`MAX_STATUS`](Self::MAX_STATUS) bytes. Empty if it has said nothing since it was executed.
    pub status: String,
    /// When it ran last and runs next, if it is a schedule.
    pub schedule: Option<ScheduleInfo>,
    /// Which replica of which set it is, if it is one.
    pub replica: Option<Replica>,
}

impl RuntimeInfo {
    /// The most bytes of a status.
    pub const MAX_STATUS: usize = 512;
}

/// One instance in full.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RuntimeDetail {
    /// In brief.
    pub info: RuntimeInfo,
    /// Its arguments.
    pub args: Vec<OsBytes>,
    /// Variables set for it.
    pub env: Vec<(OsBytes, OsBytes)>,
    /// Its working directory.
    pub cwd: OsBytes,
    /// Whether the program is a copy that a client sent.
    pub copied: bool,
    /// How it is supervised.
    pub supervision: Supervision,
    /// When it was added, milliseconds since 1970 (UTC).
    pub added_ms: u64,
    /// The type names that it declared as outputs and inputs, native runtimes only.
    pub outputs: Vec<String>,
    /// See `outputs`.
    pub inputs: Vec<String>,
    /// Messages it sent.
    pub sent: u64,
    /// Messages it sent that no link takes.
    pub unrouted: u64,
    /// Lines and frames of it that broke the protocol; each cost it its connection.
    pub protocol_errors: u64,
    /// What is kept of what it prints.
    pub log: LogRules,
    /// Bytes it printed that are not in its log: the disk was full or failed.
    pub log_bytes_lost: u64,
    /// Why what it prints can't be written at the moment, so that it waits as soon as its pipes
    /// are full; see [`WhenFull::Block`](super::WhenFull::Block).
    pub log_blocked: Option<String>,
    /// Where its log is.
    pub log_dir: OsBytes,
    /// Its links, by either end.
    pub links: Vec<LinkId>,
    /// As whom, with which rights and bounds, and in which surroundings it is executed.
    pub execution: Execution,
    /// How much of the machine it may use.
    pub limits: Limits,
    /// Which of these limits are not in force, or would not be if it were started now, and why: a
    /// sentence each.
    pub limits_unmet: Vec<String>,
    /// How it fares, but for what it uses; for that, ask for
    /// [`RuntimeVitals`](super::Request::RuntimeVitals).
    pub vitals: Vitals,
    /// How its main process ended the last times, the newest first: up to
    /// [`PastExit::KEPT`].
    pub exits: Vec<PastExit>,
    /// Sockets that listen for it.
    pub listen: Vec<ListenInfo>,
    /// Messages among those sent that went directly, so that the instance alone has counted them.
    pub reported: u64,
}
