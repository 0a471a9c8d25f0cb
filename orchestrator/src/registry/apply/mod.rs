//! What is wanted is brought about: all of it, or nothing.
//!
//! First everything is checked and built, then it is stored in one transaction, and then nothing
//! can fail any more but what happens to processes, which is told as events.

mod carry_out;
mod link;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use orchestrator_proto::control::{
    Desired, EventKind, Execution, KeyChange, Plan as Shown, Priority, Program, RuntimeSpec,
    WantedSet,
};
use orchestrator_proto::{ErrorCode, InstanceId, WireError};

use self::link::Linked;
use super::add::{self, Plan, Reserved};
use super::listen::AllComing;
use super::{Instance, Registry, not_stored};
use crate::plan::{self, Differences, InstanceStep, Present, PresentLink, Route, Target};
use crate::route::LinkTarget;
use crate::runtime::now_ns;
use crate::store::{Change, InstanceRecord};
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
        let all = self.differences(&set, prune)?;
        let (programs, executions) = (new_programs(&set, &all), new_executions(&set, &all));
        let looking = tokio::task::spawn_blocking(move || {
            let users = executions.iter().filter_map(crate::process::obstacle);
            let programs = programs.iter().flat_map(|program| add::obstacles(program));
            programs.chain(users).collect()
        });
        if !dry_run {
            self.bring_about(&set, &all).await?;
        }
        Ok(Shown {
            applied: !dry_run,
            instances: all.shown_instances,
            links: all.shown_links,
            unchanged_instances: all.unchanged_instances,
            unchanged_links: all.unchanged_links,
            warnings: looking.await.unwrap_or_default(),
        })
    }

    /// What differs, if all of it is allowed.
    fn differences(&self, set: &WantedSet, prune: bool) -> Result<Differences, WireError> {
        let mut problems: Vec<String> = Vec::new();
        for wanted in &set.instances {
            if matches!(wanted.spec.program, Program::Upload { .. }) {
                problems.push(format!("{}: its program is no path", wanted.label()));
            }
            if let Err(error) = add::check(&wanted.spec) {
                problems.push(format!("{}: {}", wanted.label(), error.message));
            }
        }
        let (present, links) = self.present();
        let all = plan::diff(set, &present, &links, prune);
        match all {
            Ok(all) if problems.is_empty() => {
                problems = circles(set, &present, &all);
                if problems.is_empty() {
                    return Ok(all);
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
        let staying = all.iter().filter(|it| !it.leaving.load(Ordering::Acquire));
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
        let links = self.router.links().into_iter().map(|link| {
            let (policy, capacity) = link.rules();
            PresentLink {
                id: link.id,
                route: Route {
                    from: link.from,
                    type_name: link.type_name.to_string(),
                    to: match &link.to {
                        LinkTarget::Instance(id) => Target::Instance(*id),
                        LinkTarget::Udp(address) => Target::Udp(address.to_string()),
                    },
                },
                policy,
                capacity,
            }
        });
        (present.collect(), links.collect())
    }

    async fn bring_about(
        self: &Arc<Self>,
        set: &WantedSet,
        all: &Differences,
    ) -> Result<(), WireError> {
        let built = self.build_new(set, all).await?;
        let coming = match self.prepare_sockets(set, all).await {
            Ok(coming) => coming,
            Err(error) => return Err(self.undo(Linked::default(), built, error).await),
        };
        let mut changes: Vec<_> =
            built.iter().map(|it| Change::AddInstance(Box::new(it.record.clone()))).collect();
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
            self.link_all(&all.links, &built, &mut changes, &mut linked)
                .map(|()| self.store.change(Change::All(changes)))
        };
        let stored = match begun {
            Ok(stored) => stored,
            Err(error) => return Err(self.undo(linked, built, error).await),
        };
        if let Err(error) = stored.await {
            let error = not_stored("nothing was changed".to_owned(), &error);
            return Err(self.undo(linked, built, error).await);
        }
        self.take_effect(set, all, built, (records, coming), linked).await;
        Ok(())
    }

    /// Builds what is to be added.
    async fn build_new(
        self: &Arc<Self>,
        set: &WantedSet,
        all: &Differences,
    ) -> Result<Vec<Built>, WireError> {
        let mut reserved = Vec::new();
        for step in &all.instances {
            if let InstanceStep::Add(place) = step
                && let Some(wanted) = set.instances.get(*place)
            {
                let mine = self.reserve(&wanted.spec)?;
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
        linked: Linked,
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
                InstanceStep::Remove(id) => work.remove(*id),
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
    let new = new_specs(set, all).map(|spec| &spec.execution);
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
fn circles(set: &WantedSet, present: &[Present], all: &Differences) -> Vec<String> {
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
    let other: std::collections::HashSet<_> = gone.chain(new.iter().map(|(id, _)| *id)).collect();
    let mut needs = Needs::default();
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

/// How one that is to be started is started.
type Wish = Option<Priority>;
