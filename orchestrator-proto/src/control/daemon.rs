//! The processes of a daemon, and its replacement.

use serde::{Deserialize, Serialize};

use crate::os::OsBytes;

/// What takes a daemon's place.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SuccessorSpec {
    /// The program that runs, also if its file was replaced in the meantime.
    Same,
    /// What is now in the file that the running program came from.
    Installed,
    /// The program at this absolute path.
    Binary(OsBytes),
}

/// The processes that a daemon consists of, and what waits in its queues.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// The parent of all others. Its process stays the same, also when its program is replaced.
    pub holder: ProcessStatus,
    /// The daemon proper.
    pub daemon: ProcessStatus,
    /// The process that captures what instances print; none while it is being started.
    pub capture: Option<ProcessStatus>,
    /// What waits, and for whom.
    pub queues: Queues,
}

/// A process of a daemon.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// Its number.
    pub pid: u32,
    /// The version of its program; none if that is not known.
    pub version: Option<String>,
    /// When it was started, milliseconds since 1970 (UTC), to about 10 ms.
    pub started_ms: u64,
    /// Memory that is resident (`VmRSS`, see proc(5)), bytes.
    pub resident_bytes: u64,
    /// Files that it has open.
    pub open_files: u64,
}

/// What waits in a daemon, and for whom.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Queues {
    /// Clients that are connected.
    pub clients: u64,
    /// Their requests that are under way, streams too.
    pub requests: u64,
    /// Connections of instances.
    pub connections: u64,
    /// Messages that wait in links.
    pub link_messages: u64,
    /// Changes, runs and requests to be told so that wait to be stored.
    pub store_changes: u64,
    /// Events that wait to be stored.
    pub store_events: u64,
    /// Logs with something for the capture process that found no room on the way to it.
    pub logs_waiting: u64,
}
