//! What a daemon answers.

use serde::{Deserialize, Serialize};

#[cfg(doc)]
use super::Request;
use super::{
    Called, DaemonStatus, Event, Exported, Fed, Finding, LinkInfo, LogLine, Named, Plan,
    RecordSource, RecordedMessage, ReplayRoute, ReplicaOutcome, ReplicaSetDetail, ReplicaSetInfo,
    RuntimeDetail, RuntimeInfo, RuntimeVitals, Scaled, Sent, Status, TypeForms, TypeList,
};
use crate::id::{InstanceId, LinkId};

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
    /// To [`Request::LinkSend`].
    LinkSent(Sent),
    /// To [`Request::LinkCall`].
    LinkCalled(Called),
    /// To [`Request::TypeList`].
    Types(TypeList),
    /// To [`Request::TypeShow`]. There is one form at least.
    Type(TypeForms),
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
    /// Whose messages of which type come next.
    Source(RecordSource),
    /// A message, whole.
    Recorded(RecordedMessage),
    /// Where the messages of each source of a [`ReplaySpec`](super::ReplaySpec) go, in their order:
    /// they can be fed now.
    Replaying(Vec<ReplayRoute>),
    /// What was fed so far.
    Fed(Fed),
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
