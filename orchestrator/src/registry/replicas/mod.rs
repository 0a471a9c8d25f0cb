//! Sets of replicas: which there are, whose replica an instance is, and who is meant by a name.
//!
//! A set is a definition and a number, stored by its name. Its replicas are the instances that
//! have its name and an index: while there is a set, nobody else can have such a name. What it is
//! to be is stored before anything is done about it, so a daemon that ends in between leaves
//! nothing half done: the next one removes the replicas beyond the number.
//!
//! Every change of a set is planned and carried out as what is applied (`apply/`): all of it, or
//! nothing.

mod change;
mod each;
mod links;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use orchestrator_proto::control::{
    Named, Replica, ReplicaSetDetail, ReplicaSetInfo, Replicas, RuntimeSpec, Selector, Wanted,
};
use orchestrator_proto::{ErrorCode, WireError};

use super::add::invalid;
use super::{Instance, Instances, Registry, shorten};
use crate::plan::SetStep;
use crate::store::SetRecord;

pub(super) use change::leaving;
pub(super) use links::Ends;

/// The most sets of a daemon, those without replicas too.
const MAX_SETS: usize = 1024;

/// Sets by name.
#[derive(Default)]
pub(super) struct Sets {
    by_name: BTreeMap<String, SetRecord>,
    /// Of sets that are being added: they are on their way to the disk.
    reserved: HashSet<String>,
}

impl Sets {
    /// The set whose replica has this name.
    pub(super) fn replica(&self, name: &str) -> Option<Replica> {
        let replica = Replica::of_name(name)?;
        let is_set =
            self.by_name.contains_key(&replica.set) || self.reserved.contains(&replica.set);
        is_set.then_some(replica)
    }

    /// Whether there is a set of this name.
    pub(super) fn is_there(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name) || self.reserved.contains(name)
    }

    /// Whether an instance that is no replica can have this name.
    pub(super) fn check_free(&self, name: &str) -> Result<(), WireError> {
        let taken = |message| Err(WireError::new(ErrorCode::AlreadyExists, message));
        if self.has(name) {
            let message = format!("the name {name:?} is taken by a set of replicas");
            return taken(message);
        }
        match self.replica(name) {
            None => Ok(()),
            Some(Replica { set, .. }) => taken(format!(
                "the name {name:?} is kept for a replica of {set}; choose another one, or use \
                 `runtime scale` to give {set} more of them"
            )),
        }
    }
}

/// Names of new sets that nobody else can take until this is dropped.
pub(super) struct ReservedSets {
    registry: Arc<Registry>,
    names: Vec<String>,
}

impl Drop for ReservedSets {
    fn drop(&mut self) {
        let mut instances = self.registry.write();
        for name in &self.names {
            instances.sets.reserved.remove(name);
        }
    }
}

/// Who is meant by a name or an id.
pub enum Meant {
    /// An instance.
    One(Arc<Instance>),
    /// A set of replicas.
    Set(String),
}

/// Whether everything in the spec of a set is allowed, but for what an instance can't have either.
pub(super) fn check(spec: &RuntimeSpec, replicas: Replicas) -> Result<(), WireError> {
    replicas.check().map_err(invalid)?;
    let Some(name) = &spec.name else {
        let message = "a set of replicas has a name, from which theirs are made; give --name";
        return Err(invalid(message.to_owned()));
    };
    if name.len() > Replicas::MAX_NAME {
        let most = Replicas::MAX_NAME;
        return Err(invalid(format!(
            "the name of a set of replicas has at most {most} characters; {} has more",
            shorten(name)
        )));
    }
    if spec.id.is_some() {
        let message = "each replica of a set has an id of its own, which the daemon chooses; \
                       leave --id out";
        return Err(invalid(message.to_owned()));
    }
    if !spec.listen.is_empty() {
        let message = "a socket can listen for one instance only, not for each replica of a set; \
                       leave --listen out";
        return Err(invalid(message.to_owned()));
    }
    Ok(())
}

impl Registry {
    /// The instance or the set that is meant.
    ///
    /// # Errors
    ///
    /// As [`Registry::find`].
    pub fn meant(&self, selector: &Selector) -> Result<Meant, WireError> {
        let name = &selector.0;
        if self.read().sets.by_name.contains_key(name) {
            return Ok(Meant::Set(name.clone()));
        }
        self.find(selector).map(Meant::One)
    }

    /// The instances that are meant: one, or all replicas of a set, the first one first.
    ///
    /// # Errors
    ///
    /// As [`Registry::find`].
    pub fn find_all(&self, selector: &Selector) -> Result<Vec<Arc<Instance>>, WireError> {
        match self.meant(selector)? {
            Meant::One(instance) => Ok(vec![instance]),
            Meant::Set(name) => Ok(self.replicas(&name)),
        }
    }

    /// The replicas of a set, the first one first, and those that are being removed.
    #[must_use]
    pub fn replicas(&self, set: &str) -> Vec<Arc<Instance>> {
        let instances = self.read();
        let replica = |index| {
            let name = Replica { set: set.to_owned(), index }.to_string();
            instances.by_id.get(instances.by_name.get(&name)?).cloned()
        };
        (1..=Replicas::MAX).filter_map(replica).filter(|it| it.replica.is_some()).collect()
    }

    /// The set of this name.
    ///
    /// # Errors
    ///
    /// When there is none, or it is being removed.
    pub(super) fn set(&self, name: &str) -> Result<Wanted, WireError> {
        match self.read().sets.by_name.get(name) {
            Some(SetRecord { set, leaving: false }) => Ok(set.clone()),
            Some(_) => Err(WireError::new(
                ErrorCode::NotFound,
                format!("the set {name} is being removed by somebody else"),
            )),
            None => Err(WireError::new(
                ErrorCode::NotFound,
                format!("there is no set of replicas {}", shorten(name)),
            )),
        }
    }

    /// All sets that stay.
    pub(super) fn sets(&self) -> Vec<Wanted> {
        let instances = self.read();
        let staying = instances.sets.by_name.values().filter(|it| !it.leaving);
        staying.map(|it| it.set.clone()).collect()
    }

    /// All sets in brief, by name.
    #[must_use]
    pub fn list_sets(&self) -> Vec<ReplicaSetInfo> {
        let instances = self.read();
        let info = |(name, record): (&String, &SetRecord)| ReplicaSetInfo {
            name: name.clone(),
            replicas: count(&record.set),
            desired: record.set.desired,
        };
        instances.sets.by_name.iter().map(info).collect()
    }

    /// A set in full.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn set_detail(&self, name: &str) -> Result<ReplicaSetDetail, WireError> {
        let set = self.set(name)?;
        Ok(ReplicaSetDetail {
            set,
            links: self.links_of_set(name),
            instances: self.replicas(name).iter().map(|it| it.info()).collect(),
        })
    }

    /// Which replica of which set has this name.
    pub(super) fn replica_of(&self, name: Option<&str>) -> Option<Replica> {
        self.read().sets.replica(name?)
    }

    /// Whether an instance is beyond the number of its set: it is to be removed.
    pub(super) fn is_surplus(&self, instance: &Instance) -> bool {
        let Some(replica) = &instance.replica else { return false };
        let instances = self.read();
        let set = instances.sets.by_name.get(&replica.set);
        set.is_some_and(|it| it.leaving || replica.index > count(&it.set).0)
    }

    /// Keeps the names of new sets for them, and those of their replicas.
    pub(super) fn reserve_sets(
        self: &Arc<Self>,
        steps: &[SetStep],
    ) -> Result<ReservedSets, WireError> {
        let mut reserved = ReservedSets { registry: self.clone(), names: Vec::new() };
        let new = steps.iter().filter_map(|step| match step {
            SetStep::Put { set, before: None } => set.spec.name.clone(),
            _ => None,
        });
        for name in new {
            let mut instances = self.write();
            let checked = check_set_free(&instances, &name);
            if checked.is_ok() {
                instances.sets.reserved.insert(name.clone());
                reserved.names.push(name);
            }
            // Before what was reserved is given back, which takes it too.
            drop(instances);
            checked?;
        }
        Ok(reserved)
    }

    /// From now on there are these sets, or they are so.
    pub(super) fn enter_set(&self, record: SetRecord) {
        let Some(name) = record.set.spec.name.clone() else { return };
        let is_new = self.write().sets.by_name.insert(name.clone(), record).is_none();
        if is_new {
            self.dependencies.add_set(&name);
        }
    }
}

/// How many replicas it is to have.
pub(super) fn count(set: &Wanted) -> Replicas {
    set.spec.replicas.unwrap_or(Replicas(0))
}

fn named(instance: &Instance) -> Named {
    Named { id: instance.id, name: instance.short() }
}

/// Whether a set can have this name.
fn check_set_free(instances: &Instances, name: &str) -> Result<(), WireError> {
    let taken = |message| Err(WireError::new(ErrorCode::AlreadyExists, message));
    if instances.sets.by_name.len() + instances.sets.reserved.len() >= MAX_SETS {
        let message = format!("there are {MAX_SETS} sets of replicas already");
        return Err(WireError::new(ErrorCode::LimitReached, message));
    }
    if let Some(SetRecord { leaving: true, .. }) = instances.sets.by_name.get(name) {
        return taken(format!("the set {name} is being removed; try again when it is gone"));
    }
    instances.sets.check_free(name)?;
    if instances.by_name.contains_key(name) || instances.reserved_names.contains(name) {
        return taken(format!(
            "the name {name:?} is taken by an instance; remove that, or choose another name for \
             the set"
        ));
    }
    let of_it = |other: &&String| Replica::of_name(other).is_some_and(|it| it.set == name);
    let mut known = instances.by_name.keys().chain(&instances.reserved_names);
    match known.find(of_it) {
        None => Ok(()),
        Some(other) => taken(format!(
            "the name {other:?} of one of its replicas is taken by an instance; remove that, or \
             choose another name for the set"
        )),
    }
}

/// Those that nobody is removing.
fn staying(all: Vec<Arc<Instance>>) -> Vec<Arc<Instance>> {
    all.into_iter().filter(|it| !it.turns.leaving.load(Ordering::Acquire)).collect()
}
