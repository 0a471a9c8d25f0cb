//! What is wanted is brought about: all of it, or nothing.
//!
//! First everything is checked and built, then it is stored in one transaction, and then nothing
//! can fail any more but what happens to processes, which is told as events.

mod carry_out;
mod link;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use orchestrator_proto::control::{
    Desired, EventKind, Execution, KeyChange, Named, Plan as Shown, Priority, Program, Replica,
    Replicas, RuntimeSpec, WantedSet,
};
use orchestrator_proto::{ErrorCode, InstanceId, LinkId, WireError};

use self::link::{Linked, SetLinked};
use super::add::{self, Plan, Reserved};
use super::listen::AllComing;
use super::{Instance, Registry, not_stored, replicas};
use crate::plan::{
    self, Differences, InstanceStep, Present, PresentLink, Route, SetStep, Target, There, Whole,
};
use crate::route::LinkTarget;
use crate::runtime::now_ns;
use crate::store::{Change, InstanceRecord, SetRecord};
use crate::supervise::Needs;

/// Programs that are looked at for what is in the way of a start; a disk may be slow.
const MAX_LOOKED_AT: usize = 256;

/// An instance that is built, and can be found by nobody yet.
struct Built {
    /// Its place in the set.
    place: usize,
    instance: Instance,
    record: InstanceRecord,
    _reserved: Reserved,
}

/// What was done.
pub(super) struct Done {
    /// Instances that were added, in the order in which they were wanted.
    pub(super) added: Vec<Named>,
    /// Links from and to sets of replicas that were made.
    pub(super) set_links: Vec<LinkId>,
    /// Messages that waited in links that were changed, and had to give way.
    pub(super) dropped: u64,
}

impl Registry {
    /// Makes everything as it is wanted; `prune` removes what is not. With `dry_run` nothing is
    /// changed. When this is answered all is stored, and what follows for processes is asked for.
    /// One after the other; to be carried to its end once it is begun.
    ///
    /// # Errors
    ///
    /// When anything is not allowed, or can't be built or stored. Then nothing was changed. The
    /// causes are all that is wrong.
    pub async fn apply(
        self: &Arc<Self>,
        set: WantedSet,
        prune: bool,
        dry_run: bool,
    ) -> Result<Shown, WireError> {
        let _one_at_a_time = self.applying.lock().await;
        self.check_open()?;
        let whole = self.differences(&set, prune)?;
        let looking = self.look(&whole);
        if !dry_run {
            self.bring_about(&whole).await?;
        }
        let Whole { all, shown_sets, mut shown_links, .. } = whole;
        shown_links.extend(all.shown_links);
        Ok(Shown {
            applied: !dry_run,
            instances: all.shown_instances,
            links: shown_links,
            unchanged_instances: all.unchanged_instances,
            unchanged_links: all.unchanged_links,
            warnings: looking.await.unwrap_or_default(),
            sets: shown_sets,
        })
    }

    /// Looks for what will be in the way of starts, a sentence each.
    pub(super) fn look(&self, whole: &Whole) -> tokio::task::JoinHandle<Vec<String>> {
        let Whole { singly, all, .. } = whole;
        let (programs, executions) = (new_programs(singly, all), new_executions(singly, all));
        tokio::task::spawn_blocking(move || {
            let users = executions.iter().filter_map(crate::process::obstacle);
            let programs = programs.iter().flat_map(|program| add::obstacles(program));
            programs.chain(users).collect()
        })
    }

    /// What differs, if all of it is allowed.
    pub(super) fn differences(&self, set: &WantedSet, prune: bool) -> Result<Whole, WireError> {
        let mut problems: Vec<String> = Vec::new();
        for wanted in &set.instances {
            if matches!(wanted.spec.program, Program::Upload { .. }) {
                problems.push(format!("{}: its program is no path", wanted.label()));
            }
            if let Err(error) = add::check(&wanted.spec) {
                problems.push(format!("{}: {}", wanted.label(), error.message));
            }
        }
        let (instances, links) = self.present();
        let (sets, set_links) = (self.sets(), self.present_set_links());
        let there = There { instances, links, sets, set_links };
        let all = plan::diff_all(set, &there, prune);
        match all {
            Ok(whole) if problems.is_empty() => {
                problems = circles(&whole, &there);
                if problems.is_empty() {
                    return Ok(whole);
                }
            }
            Ok(_) => {}
            Err(more) => problems.extend(more),
        }
        let mut error = WireError::new(
            ErrorCode::InvalidArgument,
            "what is wanted can't be had; nothing was changed",
        );
        error.causes = problems;
        Err(error)
    }

    /// What is there. What is being removed is not.
    fn present(&self) -> (Vec<Present>, Vec<PresentLink>) {
        let all = self.all();
        let staying = all.iter().filter(|it| !it.turns.leaving.load(Ordering::Acquire));
        let present = staying.map(|instance| {
            let view = instance.keeper.view();
            Present {
                id: instance.id,
                spec: RuntimeSpec::clone(&instance.spec),
                program: instance.program.as_os_str().into(),
                desired: view.desired,
                priority: view.priority,
                is_stale: instance.is_stale(),
            }
        });
        let links = self.router.links().into_iter().map(|link| PresentLink {
            id: link.id,
            route: Route {
                from: link.from,
                type_name: link.type_name.to_string(),
                to: match &link.to {
                    LinkTarget::Instance(id) => Target::Instance(*id),
                    LinkTarget::Udp(address) => Target::Udp(address.to_string()),
                },
            },
            rules: link.rules(),
        });
        (present.collect(), links.collect())
    }

    /// Carries it out: all of it, or nothing. To be called while nobody else applies anything.
    ///
    /// # Errors
    ///
    /// When anything can't be built or stored. Then nothing was changed.
    pub(super) async fn bring_about(self: &Arc<Self>, whole: &Whole) -> Result<Done, WireError> {
        let Whole { singly: set, all, .. } = whole;
        let _names = self.reserve_sets(&whole.sets)?;
        let sets = self.set_records(&whole.sets);
        let built = self.build_new(whole).await?;
        let coming = match self.prepare_sockets(set, all).await {
            Ok(coming) => coming,
            Err(error) => return Err(self.undo(Linked::default(), built, error).await),
        };
        let mut changes: Vec<_> =
            built.iter().map(|it| Change::AddInstance(Box::new(it.record.clone()))).collect();
        changes.extend(sets.iter().map(|it| Change::PutSet(Box::new(it.clone()))));
        let mut records = Vec::new();
        for step in &all.instances {
            if let InstanceStep::Change { id, spec: Some(spec), .. } = step {
                let record = match self.newest(*id) {
                    Ok(instance) => instance.record_with(RuntimeSpec::clone(spec)),
                    Err(error) => return Err(self.undo(Linked::default(), built, error).await),
                };
                changes.push(Change::ChangeInstance(Box::new(record.clone())));
                records.push(record);
            }
        }
        let mut linked = Linked::default();
        let begun = {
            // The database sees links and removed instances in the order in which the router does.
            let _in_order = self.link_changes.lock().unwrap_or_else(PoisonError::into_inner);
            self.link_sets(&whole.set_links, &built, &mut changes).and_then(|of_sets| {
                self.link_all(&all.links, &built, &mut changes, &mut linked)?;
                Ok((of_sets, self.store.change(Change::All(changes))))
            })
        };
        let (of_sets, stored) = match begun {
            Ok(begun) => begun,
            Err(error) => return Err(self.undo(linked, built, error).await),
        };
        if let Err(error) = stored.await {
            let error = not_stored("nothing was changed".to_owned(), &error);
            return Err(self.undo(linked, built, error).await);
        }
        let named = |it: &Built| Named { id: it.instance.id, name: it.instance.short() };
        let added = built.iter().map(named).collect();
        let set_links = of_sets.made.iter().map(|link| link.id).collect();
        let dropped = linked.dropped;
        self.enter_sets(sets, &whole.sets);
        self.take_effect(set, all, built, (records, coming), (linked, of_sets)).await;
        for step in &whole.sets {
            if let SetStep::Remove(name) = step {
                // It may have had no replicas.
                self.settle_set(name).await;
            }
        }
        Ok(Done { added, set_links, dropped })
    }

    /// Sets as they are to be kept.
    fn set_records(&self, steps: &[SetStep]) -> Vec<SetRecord> {
        let record = |step: &SetStep| match step {
            SetStep::Put { set, .. } => {
                Some(SetRecord { set: set.as_ref().clone(), leaving: false })
            }
            SetStep::Remove(name) => self.set(name).ok().map(replicas::leaving),
        };
        steps.iter().filter_map(record).collect()
    }

    /// From now on sets are so.
    fn enter_sets(&self, records: Vec<SetRecord>, steps: &[SetStep]) {
        for record in records {
            self.enter_set(record);
        }
        for step in steps {
            if let SetStep::Put { set, before } = step {
                let to = replicas::count(set);
                let from = before.unwrap_or(Replicas(0));
                if before.is_none() || from != to {
                    let kind = EventKind::Scaled { from: from.0, to: to.0 };
                    self.events.record(None, set.spec.name.as_deref(), kind);
                }
            }
        }
    }

    /// Builds what is to be added.
    async fn build_new(self: &Arc<Self>, whole: &Whole) -> Result<Vec<Built>, WireError> {
        let Whole { singly: set, all, .. } = whole;
        let staying = self.sets();
        let put = whole.sets.iter().filter_map(|step| match step {
            SetStep::Put { set, .. } => Some(&**set),
            SetStep::Remove(_) => None,
        });
        let sets = staying.iter().chain(put).filter_map(|it| it.spec.name.as_deref());
        let sets: HashSet<_> = sets.collect();
        let mut reserved = Vec::new();
        for step in &all.instances {
            if let InstanceStep::Add(place) = step
                && let Some(wanted) = set.instances.get(*place)
            {
                let replica = wanted.spec.name.as_deref().and_then(Replica::of_name);
                let is_planned = replica.is_some_and(|it| sets.contains(it.set.as_str()));
                let mine = self.reserve(&wanted.spec, is_planned)?;
                let record = InstanceRecord {
                    order: self.last_order.fetch_add(1, Ordering::Relaxed) + 1,
                    id: mine.id(),
                    spec: wanted.spec.clone(),
                    copy: None,
                    added_ms: now_ns() / 1_000_000,
                    from_start: 1,
                };
                reserved.push((*place, mine, record));
            }
        }
        if reserved.is_empty() {
            return Ok(Vec::new());
        }
        // Makes sockets and logs, on a disk that may not answer.
        let registry = self.clone();
        let building = tokio::task::spawn_blocking(move || {
            let mut built = Vec::with_capacity(reserved.len());
            for (place, reserved, record) in reserved {
                match registry.build_listening(Plan::new(record.clone())) {
                    Ok(instance) => {
                        built.push(Built { place, instance, record, _reserved: reserved });
                    }
                    Err(error) => return Err((built, error)),
                }
            }
            Ok(built)
        });
        match building.await {
            Ok(Ok(built)) => Ok(built),
            Ok(Err((built, error))) => Err(self.undo(Linked::default(), built, error).await),
            Err(panic) => {
                let message = format!("adding the instances failed: {panic}");
                Err(WireError::new(ErrorCode::Internal, message))
            }
        }
    }

    /// Nothing of it has happened. The answer is why.
    async fn undo(&self, linked: Linked, built: Vec<Built>, error: WireError) -> WireError {
        self.unlink_all(linked);
        for Built { instance, .. } in built {
            self.router.remove_instance(instance.id);
            instance.abandon().await;
        }
        error
    }

    /// It is stored: from now on it is so.
    async fn take_effect(
        self: &Arc<Self>,
        set: &WantedSet,
        all: &Differences,
        built: Vec<Built>,
        (records, mut coming): (Vec<InstanceRecord>, AllComing),
        (linked, of_sets): (Linked, SetLinked),
    ) {
        let mut work = carry_out::Work::default();
        for Built { place, instance, .. } in built {
            let (id, name) = (instance.id, instance.name.clone());
            self.enter(instance);
            self.events.record(Some(id), name.as_deref(), EventKind::Added);
            if let Some(wanted) = set.instances.get(place)
                && wanted.desired == Desired::Running
            {
                work.start(id, wanted.priority);
            }
        }
        for (step, shown) in all.instances.iter().zip(&all.shown_instances) {
            match step {
                InstanceStep::Remove(id) => {
                    // Who needs its set, which stays, does not need it any more.
                    if let Ok(instance) = self.newest(*id)
                        && instance.replica.as_ref().is_some_and(|it| self.set(&it.set).is_ok())
                    {
                        self.dependencies.part(*id);
                    }
                    work.remove(*id);
                }
                InstanceStep::Add(_) => {}
                InstanceStep::Change { id, priority, effect, .. } => {
                    let kind = EventKind::Changed { keys: names(&shown.keys) };
                    self.events.record(Some(*id), shown.name.as_deref(), kind);
                    work.change(*id, *effect, *priority);
                }
            }
        }
        for record in records {
            let id = record.id;
            if let Ok(instance) = self.newest(id) {
                let coming = coming.remove(&id).unwrap_or_default();
                instance.listeners.expect(coming, &record.spec.listen);
            }
            let copy = self.newest(id).ok().and_then(|it| it.copy.clone());
            let dropped = copy.filter(|_| record.copy.is_none());
            if let Err(error) = self.redefine(record).await {
                // It was removed meanwhile.
                tracing::info!(instance = %id, %error, "not changed");
            }
            work.renew(id, dropped);
        }
        self.tell_links(&linked);
        self.enter_set_links(of_sets);
        self.carry_out(work).await;
        if let Err(error) = self.store.commit(self.durability).await {
            tracing::warn!(%error, "what is to run could not be stored as yet");
        }
    }
}

fn names(keys: &[KeyChange]) -> String {
    let names: Vec<_> = keys.iter().map(|key| key.key.as_str()).collect();
    names.join(", ")
}

/// How instances are to be executed that were not before, or not so.
fn new_specs<'a>(
    set: &'a WantedSet,
    all: &'a Differences,
) -> impl Iterator<Item = &'a RuntimeSpec> {
    all.instances.iter().filter_map(|step| match step {
        InstanceStep::Add(place) => Some(&set.instances.get(*place)?.spec),
        InstanceStep::Change { spec, .. } => spec.as_deref(),
        InstanceStep::Remove(_) => None,
    })
}

/// Of these, those with another user than the daemon's.
fn new_executions(set: &WantedSet, all: &Differences) -> Vec<Execution> {
    let new = new_specs(set, all).map(|spec| &*spec.execution);
    new.filter(|it| it.user.is_some()).take(MAX_LOOKED_AT).cloned().collect()
}

/// What is to be executed that was not before.
fn new_programs(set: &WantedSet, all: &Differences) -> Vec<PathBuf> {
    let new = new_specs(set, all).filter_map(|spec| match &spec.program {
        Program::Path(path) => Some(path.as_path().to_owned()),
        Program::Upload { .. } => None,
    });
    let mut new: Vec<_> = new.collect();
    new.sort();
    new.dedup();
    new.truncate(MAX_LOOKED_AT);
    new
}

/// Those that would have to wait for themselves, a sentence each, if all differences are carried
/// out.
fn circles(whole: &Whole, there: &There) -> Vec<String> {
    let Whole { singly: set, all, .. } = whole;
    let present = &there.instances;
    let needs_any = |spec: &RuntimeSpec| {
        !(spec.supervision.requires.is_empty() && spec.supervision.after.is_empty())
    };
    let new = all.instances.iter().filter_map(|step| match step {
        InstanceStep::Add(place) => {
            let spec = &set.instances.get(*place)?.spec;
            Some((spec.id.unwrap_or_else(InstanceId::generate), spec))
        }
        InstanceStep::Change { id, spec, .. } => Some((*id, spec.as_deref()?)),
        InstanceStep::Remove(_) => None,
    });
    let new: Vec<_> = new.collect();
    if !new.iter().any(|(_, spec)| needs_any(spec)) {
        return Vec::new();
    }
    let gone = all.instances.iter().filter_map(|step| match step {
        InstanceStep::Remove(id) => Some(*id),
        _ => None,
    });
    let other: HashSet<_> = gone.chain(new.iter().map(|(id, _)| *id)).collect();
    let mut needs = Needs::default();
    let kept = there.sets.iter().filter_map(|it| it.spec.name.as_deref());
    let put = whole.sets.iter().filter_map(|step| match step {
        SetStep::Put { set, .. } => set.spec.name.as_deref(),
        SetStep::Remove(_) => None,
    });
    for name in kept.chain(put) {
        needs.add_set(name);
    }
    for it in present.iter().filter(|it| !other.contains(&it.id)) {
        needs.insert(it.id, it.spec.name.as_deref(), &it.spec.supervision);
    }
    let mut problems = Vec::new();
    for (id, spec) in new {
        let name = spec.name.as_deref();
        match needs.check(Some(id), name, &spec.supervision) {
            Ok(()) => {
                needs.insert(id, name, &spec.supervision);
            }
            Err(path) => {
                let label = spec.name.clone().unwrap_or_else(|| id.to_string());
                problems.push(format!("{label}: it would have to wait for itself: {path}"));
            }
        }
    }
    problems
}

/// If one thing is wrong, that.
pub(super) fn one_cause(mut error: WireError) -> WireError {
    match (error.code, error.causes.len()) {
        (ErrorCode::InvalidArgument, 1) => {
            error.message = error.causes.remove(0);
            error
        }
        _ => error,
    }
}

/// How one that is to be started is started.
type Wish = Option<Priority>;
