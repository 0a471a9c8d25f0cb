//! Adding a set, scaling it, and removing it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use orchestrator_proto::control::{
    Desired, EventKind, Named, Replica, Replicas, RuntimeSpec, Scaled, Selector, Wanted, WantedSet,
};
use orchestrator_proto::{ErrorCode, LinkId, WireError};

use super::super::apply::one_cause;
use super::super::{Instance, Registry, add, not_stored};
use super::{Meant, check_set_free, count, named};
use crate::plan::{InstanceStep, Whole};
use crate::store::{Change, SetRecord};

impl Registry {
    /// Adds a set with its replicas, none of which is started. All of it is on the disk when this
    /// is answered. To be carried to its end once it is begun.
    ///
    /// # Errors
    ///
    /// When anything in `spec` is not allowed, a name is taken, or it can't be stored; then nothing
    /// of it is there.
    pub async fn add_set(self: &Arc<Self>, spec: RuntimeSpec) -> Result<Scaled, WireError> {
        self.check_open()?;
        add::check(&spec)?;
        self.dependencies.check(&spec)?;
        let _one_at_a_time = self.applying.lock().await;
        let name = spec.name.clone().unwrap_or_default();
        check_set_free(&self.read(), &name)?;
        let set = Wanted { spec, desired: Desired::Stopped, priority: None };
        let whole = self.differences(&WantedSet { instances: vec![set], links: Vec::new() }, false);
        self.scaled(&name, whole.map_err(one_cause)?).await
    }

    /// Gives a set so many replicas: new ones are added, and started if the set is to run; those
    /// with the highest indices are removed. All others are left alone. When this is answered it
    /// is stored, and what follows for processes is asked for. None if names of new replicas are
    /// still those of others that are being removed: see [`names_free`](Self::names_free). To be
    /// carried to its end once it is begun.
    ///
    /// # Errors
    ///
    /// When it is no set, or can't be done or stored; then nothing was changed.
    pub async fn scale(
        self: &Arc<Self>,
        name: &str,
        replicas: Replicas,
    ) -> Result<Option<Scaled>, WireError> {
        self.check_open()?;
        let _one_at_a_time = self.applying.lock().await;
        if self.is_name_left(name, replicas) {
            return Ok(None);
        }
        let mut set = self.set(name)?;
        set.spec.replicas = Some(replicas);
        let wanted = WantedSet { instances: vec![set], links: Vec::new() };
        let mut whole = self.differences(&wanted, false).map_err(one_cause)?;
        // Somebody may have stopped one of the others, for example.
        let all = &mut whole.all;
        let (steps, shown) = std::mem::take(&mut all.instances)
            .into_iter()
            .zip(std::mem::take(&mut all.shown_instances))
            .filter(|(step, _)| !matches!(step, InstanceStep::Change { .. }))
            .unzip();
        (all.instances, all.shown_instances) = (steps, shown);
        self.scaled(name, whole).await.map(Some)
    }

    /// The name of the set that is meant, if it can have so many replicas.
    ///
    /// # Errors
    ///
    /// When it is no set, or can't.
    pub fn scalable(&self, set: &Selector, replicas: Replicas) -> Result<String, WireError> {
        replicas.check().map_err(add::invalid)?;
        match self.meant(set)? {
            Meant::Set(name) => Ok(name),
            Meant::One(instance) => {
                let message = match &instance.replica {
                    Some(Replica { set, .. }) => {
                        format!("{} is one replica of {set}; scale {set}", instance.short())
                    }
                    // Its name would be another then, and with it its place in requirements,
                    // manifests and logs.
                    None => format!(
                        "instance {} is no set of replicas; remove it, and add it with --replicas",
                        instance.label()
                    ),
                };
                Err(WireError::new(ErrorCode::WrongState, message))
            }
        }
    }

    /// Whether one of so many replicas would have the name of one that is being removed.
    fn is_name_left(&self, set: &str, replicas: Replicas) -> bool {
        let all = self.replicas(set);
        let is_meant = |it: &Replica| it.index <= replicas.0;
        all.iter().any(|it| {
            it.turns.leaving.load(Ordering::Acquire) && it.replica.as_ref().is_some_and(is_meant)
        })
    }

    /// Waits until so many replicas of a set can be there, because those of before that have such
    /// names are gone.
    pub async fn names_free(&self, set: &str, replicas: Replicas) {
        let mut removed = self.removals.subscribe();
        while self.is_name_left(set, replicas) {
            // Fails only without a sender, and that is part of `self`.
            let _ = removed.changed().await;
        }
    }

    /// Carries it out, and tells what became of this set.
    async fn scaled(self: &Arc<Self>, name: &str, whole: Whole) -> Result<Scaled, WireError> {
        let removed = whole.all.instances.iter().filter_map(|step| match step {
            InstanceStep::Remove(id) => self.newest(*id).ok(),
            _ => None,
        });
        let mut removed: Vec<_> = removed.collect();
        removed.sort_by_key(|it| std::cmp::Reverse(it.replica.as_ref().map(|it| it.index)));
        let warnings = self.look(&whole);
        let done = self.bring_about(&whole).await.map_err(one_cause)?;
        let replicas = self.set(name).map_or(Replicas(0), |set| count(&set));
        Ok(Scaled {
            set: name.to_owned(),
            replicas,
            added: done.added,
            removed: removed.iter().map(|it| named(it)).collect(),
            warnings: warnings.await.unwrap_or_default(),
        })
    }

    /// Removes a set with all of its replicas, their links and their logs. To be carried to its end
    /// once it is begun.
    ///
    /// # Errors
    ///
    /// When replicas run and `force` is not set; then nothing was changed. When one can't be
    /// removed or that can't be stored.
    pub async fn remove_set(
        self: &Arc<Self>,
        name: &str,
        force: bool,
    ) -> Result<(Vec<Named>, Vec<LinkId>), WireError> {
        let instances = {
            let _one_at_a_time = self.applying.lock().await;
            let instances = self.replicas(name);
            let running = instances.iter().filter(|it| it.is_active()).count();
            if running > 0 && !force {
                let message = format!(
                    "{running} of the replicas of {name} run; stop them first, or remove the set \
                     with --force"
                );
                return Err(WireError::new(ErrorCode::WrongState, message));
            }
            // Another attempt may not have come to its end.
            if !self.is_leaving(name) {
                self.begin_leaving_set(name).await?;
            }
            instances
        };
        let mut links = self.links_of_set(name);
        let all = instances.iter().map(|it| named(it)).collect();
        let mut tasks = tokio::task::JoinSet::new();
        for instance in instances {
            let registry = self.clone();
            tasks.spawn(async move { registry.remove(&instance, true).await });
        }
        while let Some(removed) = tasks.join_next().await {
            match removed {
                Ok(Ok(gone)) => links.extend(gone),
                // Somebody else is removing it.
                Ok(Err(error)) if error.code == ErrorCode::NotFound => {}
                Ok(Err(error)) => return Err(error),
                Err(panic) => {
                    let message = format!("removing a replica failed: {panic}");
                    return Err(WireError::new(ErrorCode::Internal, message));
                }
            }
        }
        self.names_free(name, Replicas(Replicas::MAX)).await;
        self.settle_set(name).await;
        if self.is_leaving(name) {
            let message = format!("not all of {name} could be removed; try again");
            return Err(WireError::new(ErrorCode::WrongState, message));
        }
        links.sort_unstable();
        links.dedup();
        Ok((all, links))
    }

    /// Goes on with what an earlier daemon has begun and not finished: removes these replicas, and
    /// sets that are to go and have none.
    pub(in super::super) fn finish_scaling(self: &Arc<Self>, surplus: Vec<Arc<Instance>>) {
        for instance in surplus {
            if let Some(replica) = instance.replica.as_ref().filter(|it| self.set(&it.set).is_ok())
            {
                tracing::info!(%replica, "removed: its set has fewer replicas");
                self.dependencies.part(instance.id);
            }
            let registry = self.clone();
            tokio::spawn(async move {
                if let Err(error) = registry.remove(&instance, true).await {
                    let error = error.to_string();
                    tracing::error!(instance = instance.label(), error, "it was not removed");
                }
            });
        }
        for set in self.list_sets() {
            let registry = self.clone();
            if self.set(&set.name).is_err() {
                tokio::spawn(async move { registry.settle_set(&set.name).await });
            }
        }
    }

    /// From now on it is to have no replicas, and to go when the last of them is gone. Stored when
    /// this is answered.
    pub(in super::super) async fn begin_leaving_set(&self, name: &str) -> Result<(), WireError> {
        let record = leaving(self.set(name)?);
        let stored = self.store.change(Change::PutSet(Box::new(record.clone()))).await;
        stored.map_err(|error| not_stored(format!("the set {name} was not removed"), &error))?;
        self.enter_set(record);
        Ok(())
    }

    fn is_leaving(&self, name: &str) -> bool {
        self.read().sets.by_name.get(name).is_some_and(|record| record.leaving)
    }

    /// If a set is to go and has no replicas any more, it goes.
    pub(in super::super) async fn settle_set(&self, name: &str) {
        if !self.is_leaving(name) || !self.replicas(name).is_empty() {
            return;
        }
        if let Err(error) = self.store.change(Change::RemoveSet(name.to_owned())).await {
            // The next daemon tries again.
            tracing::error!(set = name, %error, "a set could not be removed");
            return;
        }
        if self.write().sets.by_name.remove(name).is_none() {
            return;
        }
        self.forget_set_links(name);
        self.dependencies.remove_set(name);
        self.events.record(None, Some(name), EventKind::SetRemoved);
        self.removals.send_modify(|count| *count += 1);
    }
}

/// The same, on its way out.
pub(in super::super) fn leaving(mut set: Wanted) -> SetRecord {
    set.spec.replicas = Some(Replicas(0));
    SetRecord { set, leaving: true }
}
