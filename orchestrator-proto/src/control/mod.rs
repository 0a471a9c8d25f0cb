//! The control protocol: a client drives a daemon over its Unix socket.
//!
//! A connection begins with a [`ClientHello`] and is answered by a [`ServerHello`]. After that
//! the client sends [`ClientFrame`]s and the daemon [`ServerFrame`]s. Many requests can be
//! under way at once; each has an id that the client chose, and whatever belongs to it
//! carries that id. Replies come in any order.
//!
//! Enums grow at their end only, and never change what is there: the position of a variant
//! is its number on the wire.

mod apply;
mod capability;
mod daemon;
mod doctor;
mod event;
mod execution;
mod info;
mod limits;
mod listen;
mod log;
mod replicas;
mod rlimit;
mod schedule;
mod scheduling;
mod spec;
mod supervision;
mod vitals;

pub use apply::{
    ChangeKind, Effect, Exported, InstanceChange, KeyChange, LinkChange, Plan, SetChange, Wanted,
    WantedSet,
};
pub use capability::Capability;
pub use daemon::{DaemonStatus, ProcessStatus, Queues, SuccessorSpec};
pub use doctor::{Finding, Level};
pub use event::{Event, EventKind};
pub use execution::{EnvFile, Execution, InheritEnv, Stdin, Umask};
pub use info::{
    Counters, Drops, Exit, IpcStatus, LinkInfo, LinkState, Observed, RuntimeDetail, RuntimeInfo,
    Status, TargetInfo, TelemetryStatus,
};
pub use limits::{CpuQuota, Limits, NotCpuQuota};
pub use listen::{Listen, ListenAddress, ListenInfo, ListenMode, ListenSocket};
pub use log::{Compression, LogLine, LogQuery, LogRules, LogStream, WhenFull};
pub use replicas::{
    Named, Outcome, Replica, ReplicaOutcome, ReplicaSetDetail, ReplicaSetInfo, Replicas, Scaled,
};
pub use rlimit::{Resource, Rlimit};
pub use schedule::{LastRun, Overlap, RunResult, Schedule, ScheduleInfo};
pub use scheduling::{Cpus, IoClass, Realtime};
pub use spec::{
    Desired, LinkSpec, Policy, Priority, Program, RuntimeSpec, Selector, TapFilter, TargetSpec,
};
pub use supervision::{
    After, Check, Condition, Kind, OnFailure, Probe, Readiness, Requirement, Restart,
    RestartPolicy, Signal, Stop, StopStep, Supervision,
};
pub use vitals::{Health, PastExit, RuntimeVitals, Usage, Vitals};

use serde::{Deserialize, Serialize};

use crate::error::{ErrorCode, WireError};
use crate::id::{InstanceId, LinkId};

/// The version of this protocol. Both sides must have the same.
pub const PROTOCOL: u32 = 2;

/// Begins every hello, so that a stranger is recognised at once.
pub const MAGIC: [u8; 4] = *b"ORCC";

/// The most bytes of one [`ClientBody::Chunk`]: 256 KiB.
pub const MAX_CHUNK: usize = 256 << 10;

/// The first frame of a client. Its layout is the same in all versions of the protocol.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClientHello {
    /// [`MAGIC`].
    pub magic: [u8; 4],
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The client's name and version, for the daemon's log.
    pub client: String,
}

/// The first frame of a daemon. Its layout is the same in all versions of the protocol.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServerHello {
    /// [`MAGIC`].
    pub magic: [u8; 4],
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The daemon's version.
    pub server: String,
    /// Why the daemon will close this connection now, as a sentence; none when it is open.
    pub refused: Option<String>,
}

/// Client to daemon.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ClientFrame {
    /// Chosen by the client; unique among its requests under way.
    pub id: u64,
    /// What it says.
    pub body: ClientBody,
}

/// See [`ClientFrame`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant, reason = "one is read at a time, and moved once")]
pub enum ClientBody {
    /// Begins a request. `id` must not be under way.
    Request(Request),
    /// Ends the request: a stream ends with [`ServerBody::End`], another request with an
    /// [`ErrorCode::Cancelled`] unless it was already done. Unknown ids are ignored.
    Cancel,
    /// The next bytes of an upload, at most [`MAX_CHUNK`].
    Chunk(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The upload is complete.
    ChunksEnd {
        /// SHA-256 of all of it.
        sha256: [u8; 32],
    },
}

/// Daemon to client.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ServerFrame {
    /// The request that this belongs to.
    pub id: u64,
    /// What it says.
    pub body: ServerBody,
}

/// See [`ServerFrame`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum ServerBody {
    /// The request is done.
    Reply(Reply),
    /// The request failed and is done.
    Error(WireError),
    /// The next item of a stream.
    Item(Item),
    /// The stream is done.
    End,
}

/// What a client can ask for.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant, reason = "one is read at a time, and moved once")]
pub enum Request {
    /// The daemon's version, process and sockets. Answered by [`Reply::Status`].
    Status,
    /// Adds an instance. Answered by [`Reply::Added`].
    ///
    /// With [`Program::Upload`] the client goes on with [`ClientBody::Chunk`]s and a
    /// [`ClientBody::ChunksEnd`] under the same id, and is answered after that, or earlier
    /// with an error.
    RuntimeAdd(RuntimeSpec),
    /// Starts a program. Answered by [`Reply::Started`] when it has been executed.
    RuntimeStart {
        /// Which instance.
        instance: Selector,
        /// How favourably it is scheduled; `None` leaves the priority as it was last time,
        /// at first [`Priority::Normal`].
        priority: Option<Priority>,
    },
    /// Stops a program. Answered by [`Reply::Stopped`] when nothing of it is left.
    RuntimeStop {
        /// Which instance.
        instance: Selector,
    },
    /// Stops, then starts. Answered by [`Reply::Started`].
    RuntimeRestart {
        /// Which instance.
        instance: Selector,
    },
    /// Removes an instance with its links and its logs. Answered by [`Reply::Removed`].
    RuntimeRemove {
        /// Which instance.
        instance: Selector,
        /// Stop it first if it runs.
        force: bool,
    },
    /// All instances. Answered by [`Reply::Runtimes`].
    RuntimeList,
    /// One instance in full. Answered by [`Reply::Runtime`].
    RuntimeShow {
        /// Which instance.
        instance: Selector,
    },
    /// What instances printed. A stream of [`Item::Log`] and [`Item::Missed`].
    Logs(LogQuery),
    /// Adds a link. Answered by [`Reply::LinkAdded`].
    LinkAdd(LinkSpec),
    /// Removes a link. Answered by [`Reply::LinkRemoved`].
    LinkRemove {
        /// Which link.
        link: LinkId,
    },
    /// All links. Answered by [`Reply::Links`].
    LinkList,
    /// Messages as they pass. A stream of [`Item::Message`] and [`Item::Missed`], without end.
    LinkTap(TapFilter),
    /// Removes all instances and links. Answered by [`Reply::Cleared`].
    Clear {
        /// Stop those that run first. Without it, running instances are an error.
        force: bool,
    },
    /// What happened. A stream of [`Item::Event`] and [`Item::Missed`].
    Events {
        /// Go on with new ones; else end after those that are known.
        follow: bool,
        /// Only events with a higher number.
        after: Option<u64>,
        /// Only events of this time or later, milliseconds since 1970 (UTC).
        since_ms: Option<u64>,
        /// Only events of this instance.
        instance: Option<Selector>,
    },
    /// The processes that the daemon consists of, and what waits in its queues. Answered by
    /// [`Reply::Daemon`].
    DaemonStatus,
    /// Starts another daemon, which takes the place of this one when it can. Answered by
    /// [`Reply::Replacing`] when it can, or with an error: then this one stays. What was not
    /// answered by then is answered with [`ErrorCode::Replaced`].
    DaemonReplace {
        /// What is executed.
        successor: SuccessorSpec,
        /// How long it may take until it can, milliseconds; at least 1.
        timeout_ms: u64,
    },
    /// Has the holder execute the program of this daemon: in its own process, with all that it
    /// has. Answered by [`Reply::HolderRenewed`], or with an error: then the holder stays as it is.
    HolderRenew {
        /// How long it may take, while something is under way in it, until it begins,
        /// milliseconds; at least 1.
        timeout_ms: u64,
    },
    /// Has the process that captures what instances print end after what it has read, and another
    /// one, of the holder's program, go on. Answered by [`Reply::CaptureRenewed`].
    CaptureRenew {
        /// How long that may take, milliseconds; at least 1.
        timeout_ms: u64,
    },
    /// Makes what is there what is wanted, and touches nothing that is so already. Answered by
    /// [`Reply::Plan`], or with an error: then nothing was changed. The answer comes when all
    /// definitions are changed and stored, and the starts and stops that follow are asked for;
    /// it does not wait for processes.
    Apply {
        /// What is wanted.
        set: WantedSet,
        /// Remove all instances and links that are not among those.
        prune: bool,
        /// Change nothing, and answer what would be done.
        dry_run: bool,
    },
    /// All instances and links as they are defined now. Answered by [`Reply::Exported`].
    Export,
    /// Instances, and how they fare. Answered by [`Reply::Vitals`].
    RuntimeVitals {
        /// Which, in this order; all, the oldest first, if none is named.
        instances: Vec<Selector>,
    },
    /// What the machine and the installation allow, as the daemon sees it. Answered by
    /// [`Reply::Findings`].
    Doctor,
    /// Begins a run of a schedule now. Answered by [`Reply::Started`] when its program has been
    /// executed, or if one is under way that goes on; by [`Reply::Queued`] if the run begins when
    /// that one is over.
    RuntimeRun {
        /// Which instance.
        instance: Selector,
    },
    /// Gives a link another policy or capacity, for what waits in it as well. Answered by
    /// [`Reply::LinkSet`].
    LinkSet {
        /// Which link.
        link: LinkId,
        /// What happens when there is no room; none leaves it as it is.
        policy: Option<Policy>,
        /// Messages that may wait, 1 to [`LinkSpec::MAX_CAPACITY`]; none leaves it as it is.
        capacity: Option<u32>,
    },
    /// Gives a set so many replicas. Answered by [`Reply::Scaled`], or with an error: then nothing
    /// was changed. The answer comes when that is stored, and the starts and stops that follow are
    /// asked for; it does not wait for processes.
    RuntimeScale {
        /// Which set, by its name.
        set: Selector,
        /// How many.
        replicas: Replicas,
    },
    /// All sets of replicas. Answered by [`Reply::ReplicaSets`].
    ReplicaSets,
}

impl Request {
    /// How many requests this version knows: their numbers are `0..COUNT`.
    pub const COUNT: u32 = 27;

    /// Whether it is answered by items and an end, not by a reply.
    #[must_use]
    pub const fn is_stream(&self) -> bool {
        matches!(self, Self::Logs(_) | Self::LinkTap(_) | Self::Events { .. })
    }

    /// Whether it only looks, and is what a client asks again and again that goes on showing how
    /// everything is.
    #[must_use]
    pub const fn is_glance(&self) -> bool {
        matches!(self, Self::RuntimeVitals { .. } | Self::LinkList | Self::ReplicaSets)
    }

    /// The name in the daemon's log.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::RuntimeAdd(_) => "runtime add",
            Self::RuntimeStart { .. } => "runtime start",
            Self::RuntimeStop { .. } => "runtime stop",
            Self::RuntimeRestart { .. } => "runtime restart",
            Self::RuntimeRemove { .. } => "runtime remove",
            Self::RuntimeList => "runtime list",
            Self::RuntimeShow { .. } => "runtime show",
            Self::Logs(_) => "runtime logs",
            Self::LinkAdd(_) => "link add",
            Self::LinkRemove { .. } => "link remove",
            Self::LinkSet { .. } => "link set",
            Self::LinkList => "link list",
            Self::LinkTap(_) => "link tap",
            Self::Clear { .. } => "clear",
            Self::Events { .. } => "events",
            Self::DaemonStatus => "daemon status",
            Self::DaemonReplace { .. } => "daemon replace",
            Self::HolderRenew { .. } => "holder renew",
            Self::CaptureRenew { .. } => "capture renew",
            Self::Apply { dry_run: false, .. } => "apply",
            Self::Apply { dry_run: true, .. } => "diff",
            Self::Export => "export",
            Self::RuntimeVitals { .. } => "runtime vitals",
            Self::Doctor => "doctor",
            Self::RuntimeRun { .. } => "runtime run",
            Self::RuntimeScale { .. } => "runtime scale",
            Self::ReplicaSets => "replica sets",
        }
    }
}

/// How a request that is not a stream ends well.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::RuntimeAdd`].
    Added {
        /// The instance's id.
        id: InstanceId,
        /// What will be in the way later, as sentences: for example a path that does not
        /// exist yet.
        warnings: Vec<String>,
    },
    /// To [`Request::RuntimeStart`] and [`Request::RuntimeRestart`].
    Started {
        /// The instance's id.
        id: InstanceId,
        /// Its process.
        pid: u32,
        /// Whether this request started it; else it ran already.
        changed: bool,
        /// What could not be had, as sentences: for example a priority.
        warnings: Vec<String>,
    },
    /// To [`Request::RuntimeStop`].
    Stopped {
        /// The instance's id.
        id: InstanceId,
        /// Whether this request stopped it; else it did not run.
        changed: bool,
    },
    /// To [`Request::RuntimeRemove`].
    Removed {
        /// The instance's id.
        id: InstanceId,
        /// The links that went with it.
        links: Vec<LinkId>,
    },
    /// To [`Request::RuntimeList`], the oldest instance first.
    Runtimes(Vec<RuntimeInfo>),
    /// To [`Request::RuntimeShow`].
    Runtime(Box<RuntimeDetail>),
    /// To [`Request::LinkAdd`].
    LinkAdded {
        /// The link's id.
        id: LinkId,
        /// Whether it is new; else the same link was there already.
        created: bool,
    },
    /// To [`Request::LinkRemove`].
    LinkRemoved {
        /// The link's id.
        id: LinkId,
        /// Messages that were waiting in it and are gone now.
        discarded: u64,
    },
    /// To [`Request::LinkList`], in the order of their ids.
    Links(Vec<LinkInfo>),
    /// To [`Request::Clear`].
    Cleared {
        /// How many instances were removed.
        runtimes: u64,
        /// How many links were removed.
        links: u64,
    },
    /// To [`Request::DaemonStatus`].
    Daemon(Box<DaemonStatus>),
    /// To [`Request::DaemonReplace`]: this daemon lets go now.
    Replacing {
        /// Its own process.
        pid: u32,
        /// The process of the daemon that takes its place.
        successor: u32,
    },
    /// To [`Request::HolderRenew`]: it was done.
    HolderRenewed {
        /// The holder's process, as before.
        pid: u32,
        /// The version of its program before; none if that was not known.
        from: Option<String>,
        /// The version of its program now.
        to: Option<String>,
    },
    /// To [`Request::CaptureRenew`]: it was done.
    CaptureRenewed {
        /// The process before; none if there was none.
        before: Option<u32>,
        /// The process now; none if it has ended since.
        pid: Option<u32>,
        /// The version of its program before; none if that was not known.
        from: Option<String>,
        /// The version of its program now.
        to: Option<String>,
    },
    /// To [`Request::Apply`].
    Plan(Box<Plan>),
    /// To [`Request::Export`].
    Exported(Box<Exported>),
    /// To [`Request::RuntimeVitals`].
    Vitals(Vec<RuntimeVitals>),
    /// To [`Request::Doctor`], in the order in which they are to be read.
    Findings(Vec<Finding>),
    /// To [`Request::RuntimeStart`] and [`Request::RuntimeRestart`] of a schedule: it runs when it
    /// is time.
    Scheduled {
        /// The instance's id.
        id: InstanceId,
        /// When, milliseconds since 1970 (UTC); none if there is no such time.
        next_ms: Option<u64>,
        /// Whether this request started it; else it was started already.
        changed: bool,
    },
    /// To [`Request::RuntimeRun`]: a run is under way, and another one follows it.
    Queued {
        /// The instance's id.
        id: InstanceId,
    },
    /// To [`Request::LinkSet`].
    LinkSet {
        /// The link's id.
        id: LinkId,
        /// Whether anything is different now.
        changed: bool,
        /// Messages that were waiting in it and had to give way.
        dropped: u64,
    },
    /// To [`Request::RuntimeAdd`] of a set, and to [`Request::RuntimeScale`].
    Scaled(Box<Scaled>),
    /// To [`Request::ReplicaSets`], by their names.
    ReplicaSets(Vec<ReplicaSetInfo>),
    /// To [`Request::RuntimeShow`] of a set.
    ReplicaSet(Box<ReplicaSetDetail>),
    /// To a request to start, stop, restart or run a set: what came of it for each replica.
    Each {
        /// The name of the set.
        set: String,
        /// The first replica first.
        outcomes: Vec<ReplicaOutcome>,
    },
    /// To [`Request::RuntimeRemove`] of a set: nothing of it is left.
    SetRemoved {
        /// The name of the set.
        set: String,
        /// Its replicas, the first one first.
        instances: Vec<Named>,
        /// The links that went with them.
        links: Vec<LinkId>,
    },
}

/// One item of a stream.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Item {
    /// A line, or a part of one, that an instance printed.
    Log(LogLine),
    /// A message that passed.
    Message(TapMessage),
    /// Something that happened.
    Event(Event),
    /// This many items could not be delivered: the client was too slow, or they are no
    /// longer kept.
    Missed {
        /// How many; 0 when that is unknown.
        count: u64,
        /// What they were and why they are missing, as a sentence.
        reason: String,
    },
}

/// A message that passed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TapMessage {
    /// When it passed, nanoseconds since 1970 (UTC).
    pub time_ns: u64,
    /// Who sent it; none when it came from another daemon.
    pub from: Option<InstanceId>,
    /// The sender's name, if it has one.
    pub from_name: Option<String>,
    /// Its type.
    pub type_name: String,
    /// To how many links it went. 0: nobody wanted it.
    pub links: u32,
    /// Bytes of the payload.
    pub size: u64,
    /// The payload as JSON text, or why it can't be shown as such.
    pub payload: Result<String, String>,
}

/// Reads a client's frame in two steps, so that the sender of a request that this version
/// does not know gets an answer under its own id.
///
/// # Errors
///
/// The id if it could be read, and what is wrong: [`ErrorCode::UnknownRequest`] or
/// [`ErrorCode::Malformed`].
pub fn decode_client_frame(body: &[u8]) -> Result<ClientFrame, (Option<u64>, WireError)> {
    let malformed = |message: String| WireError::new(ErrorCode::Malformed, message);
    let (id, rest) = postcard::take_from_bytes::<u64>(body)
        .map_err(|error| (None, malformed(format!("the frame has no request id: {error}"))))?;
    match postcard::take_from_bytes::<ClientBody>(rest) {
        Ok((body, [])) => Ok(ClientFrame { id, body }),
        Ok((_, extra)) => {
            let message = format!("{} bytes too many at the end of the frame", extra.len());
            Err((Some(id), malformed(message)))
        }
        Err(error) => Err((Some(id), unknown_or_malformed(rest, error))),
    }
}

fn unknown_or_malformed(body: &[u8], error: postcard::Error) -> WireError {
    let unknown = |what: &str, number: u32| {
        WireError::new(
            ErrorCode::UnknownRequest,
            format!("this daemon does not know {what} {number}; upgrade it to use this client"),
        )
    };
    match postcard::take_from_bytes::<u32>(body) {
        Ok((0, request)) => match postcard::take_from_bytes::<u32>(request) {
            Ok((number, _)) if number >= Request::COUNT => unknown("request", number),
            _ => WireError::new(
                ErrorCode::Malformed,
                format!("the request is cut or wrong: {error}"),
            ),
        },
        Ok((number, _)) if number > 3 => unknown("the kind of frame", number),
        _ => WireError::new(ErrorCode::Malformed, format!("the frame is cut or wrong: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_count_of_requests_is_right() {
        let last = Request::ReplicaSets;
        let number = u32::from(postcard::to_stdvec(&last).unwrap()[0]);
        assert_eq!(number + 1, Request::COUNT);
    }

    #[test]
    fn an_unknown_request_is_answered_under_its_id() {
        let mut body = postcard::to_stdvec(&7_u64).unwrap();
        body.extend([0, 99]);
        let (id, error) = decode_client_frame(&body).unwrap_err();
        assert_eq!((id, error.code), (Some(7), ErrorCode::UnknownRequest));
    }

    #[test]
    fn a_cut_request_is_malformed_not_unknown() {
        let (id, error) = decode_client_frame(&[7, 0, 4, 200]).unwrap_err();
        assert_eq!((id, error.code), (Some(7), ErrorCode::Malformed));
    }

    proptest! {
        #[test]
        fn arbitrary_bodies_never_panic(body in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = decode_client_frame(&body);
        }
    }
}
