//! What is kept, as plain values.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use orchestrator_proto::control::{
    Desired, EventKind, Exit, LastRun, LinkRules, PastExit, Priority, RuntimeSpec, Wanted,
};
use orchestrator_proto::rare::{Rare, Usual};
use orchestrator_proto::runtime::Direction;
use orchestrator_proto::{InstanceId, LinkId, SchemaHash, TypeSchema};
use serde::{Deserialize, Serialize};

/// An instance as it was added.
#[derive(Clone, PartialEq, Debug)]
pub struct InstanceRecord {
    /// How many instances were added before, at least: the order in which they are listed, and
    /// the key of what else is kept of this one.
    pub order: u64,
    /// Its id.
    pub id: InstanceId,
    /// How it is to be run. Its `id` is not kept here but above.
    pub spec: RuntimeSpec,
    /// What it executes, relative to the directory of programs that clients sent; none if it is
    /// executed where it is.
    pub copy: Option<PathBuf>,
    /// When it was added, milliseconds since 1970 (UTC).
    pub added_ms: u64,
    /// The first execution that is as `spec` says; the first of all is 1. One that runs and came
    /// before was of an earlier definition.
    pub from_start: u64,
}

/// A link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkRecord {
    /// Its id.
    pub id: LinkId,
    /// Whose messages; none means anybody's.
    pub from: Option<InstanceId>,
    /// Messages of this type.
    pub type_name: Arc<str>,
    /// Who gets them.
    pub to: LinkEnd,
    /// Its rules.
    pub rules: LinkRules,
}

/// A set of replicas.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetRecord {
    /// How each replica is to be run, under the name of the set, and how many there are; whether
    /// new ones run.
    pub set: Wanted,
    /// It is being removed.
    pub leaving: bool,
}

/// A link from or to a set of replicas: there is a [`LinkRecord`] for each pair of its ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetLinkRecord {
    /// Its id.
    pub id: LinkId,
    /// Whose messages; none means anybody's.
    pub from: Option<SetLinkEnd>,
    /// Messages of this type.
    pub type_name: Arc<str>,
    /// Who gets them.
    pub to: SetLinkEnd,
    /// Its rules.
    pub rules: LinkRules,
}

/// An end of a link from or to a set.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum SetLinkEnd {
    /// Each replica of the set of this name.
    Set(String),
    /// An instance, or, as a target, a datagram socket.
    Single(LinkEnd),
}

/// Who gets a link's messages.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum LinkEnd {
    /// An instance.
    Instance(InstanceId),
    /// Another orchestrator's datagram socket, `HOST:PORT`.
    Udp(Arc<str>),
}

/// Whether an instance should run, whether it does, and what became of it before.
#[derive(Clone, PartialEq, Debug)]
pub struct RunRecord {
    /// Whether it should run.
    pub desired: Desired,
    /// The priority of its last start.
    pub priority: Priority,
    /// How many times its program was executed.
    pub starts: u64,
    /// Its program is being executed, or its main process runs, or it is being stopped, or it will
    /// be started by itself.
    pub active: bool,
    /// How it was last at rest, or, if it is, is.
    pub rest: Rest,
    /// What runs of it, if anything does and could be identified.
    pub process: Option<ProcessRecord>,
    /// The number that the holder has for the last process whose start is noted in here. Those with
    /// higher ones were executed later. None if there was none, or it was noted by a daemon that
    /// did not note numbers.
    pub start_noted: Option<u64>,
    /// The same of its end.
    pub end_noted: Option<u64>,
    /// How many times it was started again by itself.
    pub restarts: u64,
    /// How its main process ended the last times, the newest last: [`PastExit::KEPT`] at most.
    pub exits: Vec<PastExit>,
    /// What it has done as a schedule.
    pub schedule: Rare<ScheduleRecord>,
}

/// What a schedule has done. Times are milliseconds since 1970 (UTC).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ScheduleRecord {
    /// All times up to this one have been dealt with; none if it is stopped.
    pub seen_ms: Option<u64>,
    /// When the run began that is under way.
    pub began_ms: Option<u64>,
    /// The last run that is over.
    pub last: Option<LastRun>,
    /// How many were left out because the one before was not over.
    pub skipped: u64,
}

impl Usual for ScheduleRecord {
    const USUAL: &'static Self = &Self { seen_ms: None, began_ms: None, last: None, skipped: 0 };
}

/// An instance of which nothing runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Rest {
    /// It was never started, or it was stopped, or the daemon ended and with it the instance.
    Stopped {
        /// How its main process last ended; none if none ever did.
        last_exit: Option<Exit>,
        /// When, milliseconds since 1970 (UTC).
        at_ms: Option<u64>,
    },
    /// Its main process ended by itself, and that is no failure.
    Completed {
        /// How.
        exit: Exit,
        /// When, milliseconds since 1970 (UTC).
        at_ms: u64,
    },
    /// It has failed, and was not to be started again by itself.
    Failed {
        /// Why, with the errno in words if there is one.
        reason: String,
        /// How its main process ended, if that was it.
        exit: Option<Exit>,
        /// When, milliseconds since 1970 (UTC).
        at_ms: u64,
    },
}

impl Default for Rest {
    fn default() -> Self {
        Self::Stopped { last_exit: None, at_ms: None }
    }
}

impl Default for RunRecord {
    /// Added and never started.
    fn default() -> Self {
        Self {
            desired: Desired::Stopped,
            priority: Priority::default(),
            starts: 0,
            active: false,
            rest: Rest::default(),
            process: None,
            start_noted: None,
            end_noted: None,
            restarts: 0,
            exits: Vec::new(),
            schedule: Rare::default(),
        }
    }
}

impl RunRecord {
    /// Notes an end of its main process, which was started at `started_ms` if that is known. Both
    /// times are milliseconds since 1970 (UTC). The same end is noted once.
    pub fn note_exit(&mut self, exit: Exit, at_ms: u64, started_ms: Option<u64>, requested: bool) {
        if self.exits.last().is_some_and(|last| (last.exit, last.at_ms) == (exit, at_ms)) {
            return;
        }
        let ran_ms = started_ms.map(|started| at_ms.saturating_sub(started));
        let too_many = (self.exits.len() + 1).saturating_sub(PastExit::KEPT);
        self.exits.drain(..too_many);
        self.exits.push(PastExit { exit, at_ms, ran_ms, requested });
    }

    /// Whether a daemon that finds nothing running is to start it: it should run, and its main
    /// process has not ended by itself for the last time.
    #[must_use]
    pub const fn is_to_be_started(&self) -> bool {
        matches!(self.desired, Desired::Running)
            && (self.active
                || matches!(self.rest, Rest::Stopped { .. } | Rest::Failed { exit: None, .. }))
    }
}

/// A main process, named for ever: its number is given to others after its end, but never with
/// the same start in the same boot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProcessRecord {
    /// Its number, which is also that of its process group.
    pub pid: u32,
    /// When it started, clock ticks since boot: field 22 of `/proc/PID/stat`, see proc(5).
    pub start_ticks: u64,
    /// Which boot: `/proc/sys/kernel/random/boot_id`.
    pub boot_id: Arc<str>,
    /// When it started, milliseconds since 1970 (UTC).
    pub started_ms: u64,
    /// Which execution of the instance's program it is: the first is 1.
    pub run: u64,
    /// Whether it has been ready.
    pub ready: bool,
}

/// A message type as an instance last declared it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TypeRecord {
    /// Whether the instance sends or takes it.
    pub direction: Direction,
    /// Its name.
    pub name: Arc<str>,
    /// The hash of its schema.
    pub hash: SchemaHash,
    /// Its schema.
    pub schema: Arc<TypeSchema>,
    /// Other forms that it is taken in as well, the best one first.
    pub also: Vec<(SchemaHash, Arc<TypeSchema>)>,
}

/// Something that happened and has no number yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewEvent {
    /// When, milliseconds since 1970 (UTC).
    pub time_ms: u64,
    /// The instance that it is about, if any.
    pub instance: Option<InstanceId>,
    /// That instance's name, if it has one.
    pub name: Option<String>,
    /// What.
    pub kind: EventKind,
}

/// Something that clients are told is done only once it is on the disk.
#[derive(Clone, PartialEq, Debug)]
pub enum Change {
    /// An instance was added; it was never started.
    AddInstance(Box<InstanceRecord>),
    /// The definition of an instance was changed: its `spec`, `copy` and `from_start`.
    ChangeInstance(Box<InstanceRecord>),
    /// An instance is removed, with its links and its types.
    RemoveInstance {
        /// Its order.
        order: u64,
        /// Its id.
        id: InstanceId,
    },
    /// A link was made.
    AddLink(LinkRecord),
    /// A link has other rules.
    ChangeLink(LinkRecord),
    /// A link is removed.
    RemoveLink(LinkId),
    /// A set of replicas was added or changed.
    PutSet(Box<SetRecord>),
    /// A set of replicas is removed, with the links from and to it as a whole.
    RemoveSet(String),
    /// A link from or to a set was made; it is removed like any other.
    AddSetLink(SetLinkRecord),
    /// The rules of a link from or to a set were changed.
    ChangeSetLink(SetLinkRecord),
    /// What could not be read when the database was opened is removed, but for events.
    RemoveUnreadable,
    /// All of these, or none.
    All(Vec<Self>),
    /// From now on the database may have this many pages: a disk that is full.
    #[cfg(test)]
    LimitPages(u32),
}

/// What is there when the database is opened.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// All instances that can be read, in their order.
    pub instances: Vec<(InstanceRecord, RunRecord)>,
    /// The types of each of them that can be read, by its order, in the order in which they were
    /// declared.
    pub types: HashMap<u64, Vec<TypeRecord>>,
    /// All links that can be read, by id.
    pub links: Vec<LinkRecord>,
    /// All sets of replicas that can be read, by name.
    pub sets: Vec<SetRecord>,
    /// All links from and to sets that can be read, by id.
    pub set_links: Vec<SetLinkRecord>,
    /// The highest order that an instance ever had; 0 if there was none.
    pub last_order: u64,
    /// The highest id that a link ever had; 0 if there was none.
    pub last_link: u64,
    /// What can't be read, a sentence each. It is kept as it is.
    pub unreadable: Vec<String>,
    /// Ids of all instances, those that can't be read too, as they are in the database.
    pub ids: HashSet<String>,
    /// What [`InstanceRecord::copy`] says for all instances, those that can't be read too.
    pub copies: HashSet<PathBuf>,
    /// The database of before, if it was corrupt.
    pub set_aside: Option<SetAside>,
}

/// A database that was corrupt and was moved out of the way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetAside {
    /// Where it is now.
    pub path: PathBuf,
    /// What was added to its name, such as `.corrupt-20261120T213217.120Z`.
    pub suffix: String,
    /// What is wrong with it.
    pub reason: String,
}
