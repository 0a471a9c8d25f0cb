//! What happened, as a numbered sequence.

use serde::{Deserialize, Serialize};

use super::Policy;
use super::info::Exit;
use super::transport::Transport;
use crate::Millis;
use crate::id::{InstanceId, LinkId};

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Its number: the first is 1, and no number is left out.
    pub seq: u64,
    /// When, milliseconds since 1970 (UTC).
    pub time_ms: u64,
    /// The instance that it is about, if any.
    pub instance: Option<InstanceId>,
    /// That instance's name, if it has one.
    pub name: Option<String>,
    /// What.
    pub kind: EventKind,
}

/// See [`Event`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// The daemon accepts requests.
    DaemonStarted,
    /// The daemon was told to end.
    DaemonStopping,
    /// The instance was added.
    Added,
    /// The instance was removed, with this many links.
    Removed {
        /// How many.
        links: u64,
    },
    /// Its program was executed.
    Started {
        /// The process.
        pid: u32,
    },
    /// Its program could not be executed.
    StartFailed {
        /// Why, with the errno in words.
        error: String,
    },
    /// It was asked to stop.
    Stopping {
        /// The signal that was sent.
        signal: i32,
    },
    /// It did not stop in time; what was left of it was sent SIGKILL.
    Killed,
    /// Its main process ended.
    Exited {
        /// How.
        exit: Exit,
        /// Whether somebody had asked it to stop.
        requested: bool,
    },
    /// Nothing of it is left.
    Stopped,
    /// A link was made.
    LinkAdded {
        /// Which.
        link: LinkId,
        /// In words: from, type, to.
        description: String,
    },
    /// A link was removed.
    LinkRemoved {
        /// Which.
        link: LinkId,
    },
    /// The two ends of a link don't agree on what a message is.
    LinkMismatched {
        /// Which.
        link: LinkId,
        /// How they differ.
        error: String,
    },
    /// The instance connected to its socket.
    Connected {
        /// `native` or `veecle`.
        dialect: String,
    },
    /// A connection of the instance ended.
    Disconnected {
        /// `native` or `veecle`.
        dialect: String,
        /// What it did wrong, if that was the reason.
        error: Option<String>,
    },
    /// The daemon's database was corrupt. It was moved to `path`, and the daemon began with an
    /// empty one.
    StateSetAside {
        /// Where it is now.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Events are missing before this one: they could not be written, and there were more than
    /// are kept in memory. They have no numbers.
    EventsLost {
        /// How many.
        count: u64,
    },
    /// Its program, which an earlier daemon had executed, was found running and is supervised
    /// again.
    Adopted {
        /// The process.
        pid: u32,
    },
    /// Messages of the instance were lost, because the daemon before this one ended.
    MessagesLost {
        /// The link that they were sent on.
        link: LinkId,
        /// How many.
        count: u64,
    },
    /// A connection of the instance, which could not be made anew, goes on although the daemon
    /// that had served it ended. What that one had read from it and not passed on is lost; how
    /// much that is can't be known.
    ConnectionKept {
        /// `veecle`.
        dialect: String,
    },
    /// A message of the instance, or something else that it sent, was lost, because the daemon
    /// before this one ended when it had read the first part of it.
    MessageCut {
        /// `veecle`.
        dialect: String,
    },
    /// The daemon lets go: another one takes its place, and what runs goes on.
    DaemonReplaced {
        /// The process of the other one.
        successor: u32,
    },
    /// The instance should run, but something that it needs is not there.
    Waiting {
        /// What, as in `db to be ready`.
        on: String,
    },
    /// The instance is ready, or well again. Not told of one that is ready as soon as it runs.
    Ready,
    /// The instance is not well any more.
    Unhealthy {
        /// What is wrong.
        reason: String,
    },
    /// The instance will be started again.
    BackOff {
        /// What happened.
        reason: String,
        /// When, milliseconds from now.
        delay_ms: u64,
        /// How many times on end it has been started again by then.
        attempt: u32,
    },
    /// The instance has failed, and will not be started again by itself; a schedule at its next
    /// time.
    Failed {
        /// Why.
        reason: String,
    },
    /// The definition of the instance was changed.
    Changed {
        /// The keys of the manifest that differ, as in `args, env.LEVEL`.
        keys: String,
    },
    /// A run of the schedule was left out. If there are several on end, this is the first.
    RunSkipped {
        /// When it was due, milliseconds since 1970 (UTC).
        due_ms: u64,
        /// Why.
        reason: String,
    },
    /// A link has other rules.
    LinkChanged {
        /// Which.
        link: LinkId,
        /// What happens now when there is no room.
        policy: Policy,
        /// Messages that may wait now.
        capacity: u32,
        /// How long senders are held back now under `block`; 0 is without end.
        #[serde(default)]
        block_timeout: Millis,
        /// How many of the last messages a receiver gets now that comes later.
        #[serde(default)]
        history: u32,
        /// Which way messages are to go now.
        #[serde(default)]
        transport: Transport,
        /// For how many microseconds an end that waits keeps a processor busy now.
        #[serde(default)]
        spin_us: u32,
    },
    /// A set of replicas is to have another number of them. It is about no instance, and its name is
    /// that of the set.
    Scaled {
        /// How many before; 0 if it is new.
        from: u32,
        /// How many now.
        to: u32,
    },
    /// A set of replicas has been removed, with all of them. Its name is that of the set.
    SetRemoved,
    /// More schemas of message types had been declared than are kept. Those that no instance
    /// declares any more, and that were declared the longest ago, are not known any more.
    SchemasForgotten {
        /// How many.
        count: u64,
    },
    /// Messages of the instance went directly, and what it and their receiver say of them can't both
    /// be true. The link counts what the receiver says.
    LinkDiverged {
        /// The link that they were sent on.
        link: LinkId,
        /// How many were delivered, as the sender says.
        delivered: u64,
        /// How many arrived, as the receiver says.
        read: u64,
    },
    /// Messages of the instance went directly, and were to go another way; it has not heeded that
    /// for a second. They go directly no longer.
    LaneCut {
        /// The link that they are sent on.
        link: LinkId,
        /// How many wait with it, as it said last.
        queued: u64,
    },
}
