//! What a client can ask for.

use serde::{Deserialize, Serialize};

#[cfg(doc)]
use super::{ClientBody, Item, Program, Reply};
use super::{
    LinkSpec, LogQuery, Priority, RecordFilter, ReplaySpec, Replicas, RulesSpec, RuntimeSpec,
    Selector, SendSpec, SuccessorSpec, TapFilter, WantedSet,
};
#[cfg(doc)]
use crate::error::ErrorCode;
use crate::id::LinkId;

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
        /// What is to be different; what is not said stays as it is.
        rules: RulesSpec,
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
    /// Messages as they pass, whole. A stream of [`Item::Source`], [`Item::Recorded`] and
    /// [`Item::Missed`] that ends when it is cancelled.
    LinkRecord(RecordFilter),
    /// Sends one message to an instance, besides what its links bring. Answered by
    /// [`Reply::LinkSent`] when the kernel has taken it for the instance, or with an error: then it
    /// does not arrive, unless the error says that it may.
    LinkSend(SendSpec),
    /// Calls a service, over no link. Answered by [`Reply::LinkCalled`] with its reply, or with an
    /// error.
    LinkCall(SendSpec),
    /// All message types, each form of them that was ever declared and is kept. Answered by
    /// [`Reply::Types`].
    TypeList,
    /// Forms of one message type with their schemas. Answered by [`Reply::Type`].
    TypeShow {
        /// The declared name.
        name: String,
        /// Only those whose hash begins with these hexadecimal digits.
        hash: Option<String>,
    },
    /// Feeds messages of a recording into links, in the place of those who sent them. A stream of
    /// one [`Item::Replaying`] and then [`Item::Fed`]; the client goes on with
    /// [`ClientBody::Feed`]s and a [`ClientBody::FeedEnd`] under the same id, after which it ends.
    LinkReplay(ReplaySpec),
}

impl Request {
    /// How many requests this version knows: their numbers are `0..COUNT`.
    pub const COUNT: u32 = 33;

    /// Whether it is answered by items and an end, not by a reply.
    #[must_use]
    pub const fn is_stream(&self) -> bool {
        matches!(
            self,
            Self::Logs(_)
                | Self::LinkTap(_)
                | Self::LinkRecord(_)
                | Self::LinkReplay(_)
                | Self::Events { .. }
        )
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
            Self::LinkRecord(_) => "link record",
            Self::LinkSend(_) => "link send",
            Self::LinkCall(_) => "link call",
            Self::LinkReplay(_) => "link replay",
            Self::TypeList => "type list",
            Self::TypeShow { .. } => "type show",
        }
    }
}
