//! Bringing a daemon to what somebody wants, in one request; and what differs.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::spec::{Desired, LinkSpec, Priority, RuntimeSpec};
use crate::id::{InstanceId, LinkId};

/// An instance as it should be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Wanted {
    /// The program and how it is to be run. It has a name, or an id, or both; the program is a
    /// path.
    pub spec: RuntimeSpec,
    /// Whether it should run.
    pub desired: Desired,
    /// How favourably it is scheduled; none leaves that as it was at its last start.
    pub priority: Option<Priority>,
}

impl Wanted {
    /// This runtime, running.
    #[must_use]
    pub const fn running(spec: RuntimeSpec) -> Self {
        Self { spec, desired: Desired::Running, priority: None }
    }

    /// Its name, or its id if it has none.
    #[must_use]
    pub fn label(&self) -> String {
        let id = || self.spec.id.map_or_else(|| "?".to_owned(), |id| id.to_string());
        self.spec.name.clone().unwrap_or_else(id)
    }
}

/// All that should be there.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct WantedSet {
    /// Instances and sets of replicas, each once.
    pub instances: Vec<Wanted>,
    /// Links, each once. Their ends are among `instances`, or replicas of these, or there already.
    pub links: Vec<LinkSpec>,
}

/// What differs between what is wanted and what is there.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Plan {
    /// Whether it was carried out: every definition is as wanted, and every start and stop is
    /// asked for. Else nothing was changed.
    pub applied: bool,
    /// Instances that differ: those to be removed first, then in the order of the request.
    pub instances: Vec<InstanceChange>,
    /// Links that differ, likewise.
    pub links: Vec<LinkChange>,
    /// Instances that were named and do not differ.
    pub unchanged_instances: u64,
    /// Links that were named and do not differ.
    pub unchanged_links: u64,
    /// What will be in the way later, as sentences: for example a path that does not exist yet.
    pub warnings: Vec<String>,
    /// Sets of replicas that differ. What that means for their replicas is in `instances`.
    pub sets: Vec<SetChange>,
}

impl Plan {
    /// Whether there is no difference.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.instances.is_empty() && self.links.is_empty() && self.sets.is_empty()
    }
}

/// What becomes of an instance or a link.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// It is not there, and is added.
    Add,
    /// It is there, and is changed. An instance keeps its id, its log and its links.
    Change,
    /// It is there, and is removed.
    Remove,
}

/// What a change means for the process of an instance.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// It goes on as it is, or is not there.
    Nothing,
    /// It is started.
    Start,
    /// It is stopped.
    Stop,
    /// It is stopped, and started as it is defined now.
    Restart,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nothing => "nothing",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
        })
    }
}

/// An instance that differs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InstanceChange {
    /// What becomes of it.
    pub kind: ChangeKind,
    /// Its id; none before it is added.
    pub id: Option<InstanceId>,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// What that means for its process.
    pub effect: Effect,
    /// What differs, of one that is changed.
    pub keys: Vec<KeyChange>,
}

/// A set of replicas that differs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SetChange {
    /// What becomes of it.
    pub kind: ChangeKind,
    /// Its name.
    pub name: String,
    /// What differs, of one that is changed.
    pub keys: Vec<KeyChange>,
}

/// A link that differs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LinkChange {
    /// What becomes of it.
    pub kind: ChangeKind,
    /// Its id, as it is before; none before it is added.
    pub id: Option<LinkId>,
    /// Whose messages, by name or id; none means anybody's.
    pub from: Option<String>,
    /// The type of its messages.
    pub type_name: String,
    /// Who gets them: a name, an id, or `udp:HOST:PORT`.
    pub to: String,
    /// What differs, of one that is changed.
    pub keys: Vec<KeyChange>,
}

/// A key of the manifest that differs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeyChange {
    /// Which, as in `restart.delay` or `env.LEVEL`.
    pub key: String,
    /// What is there, as a manifest has it, cut where it is long; none is the default.
    pub from: Option<String>,
    /// What is wanted, likewise.
    pub to: Option<String>,
}

/// All instances and links as they are, so that applying it changes nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Exported {
    /// What is there: the oldest instance first, links in the order of their ids.
    pub set: WantedSet,
    /// What holds only where it was exported, as sentences: for example a program that is the
    /// orchestrator's own copy.
    pub warnings: Vec<String>,
}
