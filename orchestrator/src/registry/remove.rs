//! Removing instances, one or all, with what belongs to them.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use orchestrator_proto::control::EventKind;
use orchestrator_proto::{ErrorCode, LinkId, WireError};

use super::{Instance, Registry, being_removed, not_stored};
use crate::store::Change;

impl Registry {
    /// Removes an instance with its links, its sockets and its log. Once begun it is carried to
    /// its end, also when nobody waits for the answer any more.
    ///
    /// # Errors
    ///
    /// When it runs and `force` is not set.
    pub async fn remove(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        force: bool,
    ) -> Result<Vec<LinkId>, WireError> {
        if !force && instance.is_active() {
            return Err(WireError::new(
                ErrorCode::WrongState,
                format!(
                    "instance {} is {}; stop it first, or remove it with --force",
                    instance.label(),
                    instance.info().observed.word()
                ),
            ));
        }
        let (registry, instance) = (self.clone(), instance.clone());
        let removed = tokio::spawn(async move { registry.remove_now(&instance).await });
        removed.await.unwrap_or_else(|panic| {
            let message = format!("removing an instance failed: {panic}");
            Err(WireError::new(ErrorCode::Internal, message))
        })
    }

    async fn remove_now(self: &Arc<Self>, instance: &Instance) -> Result<Vec<LinkId>, WireError> {
        self.begin_leaving(instance)?;
        // Its keeper may be about to be replaced. After that it is not any more.
        drop(instance.turns.acting.lock().await);
        drop(instance.turns.renewing.lock().await);
        let newest = self.read().by_id.get(&instance.id).cloned();
        let instance = newest.as_deref().unwrap_or(instance);
        // While it stops it is still listed, as stopping.
        if let Err(error) = self.forget(instance).await {
            instance.turns.leaving.store(false, Ordering::Release);
            self.removals.send_modify(|count| *count += 1);
            return Err(error);
        }
        while let Err(error) = instance.leave().await {
            // Too many requests wait for its end, which will come.
            tracing::debug!(instance = instance.label(), %error, "its removal waits");
            tokio::task::yield_now().await;
        }
        let mut links = self.router.remove_instance(instance.id);
        links.extend(self.forget_links_between(instance.id));
        links.sort_unstable();
        instance.discard().await;
        // Last, so that whoever gets the id or the name next finds nothing of it.
        {
            let mut instances = self.write();
            instances.by_id.remove(&instance.id);
            if let Some(name) = &instance.name {
                instances.by_name.remove(name);
            }
        }
        self.dependencies.remove(instance.id);
        self.kernel.unlimit(instance.id);
        let kind = EventKind::Removed { links: links.len() as u64 };
        self.events.record(Some(instance.id), instance.name.as_deref(), kind);
        self.removals.send_modify(|count| *count += 1);
        if let Some(replica) = &instance.replica {
            self.settle_set(&replica.set).await;
        }
        Ok(links)
    }

    /// From now on it gets no new links.
    fn begin_leaving(&self, instance: &Instance) -> Result<(), WireError> {
        let _in_order = self.link_changes.lock().unwrap_or_else(PoisonError::into_inner);
        if instance.turns.leaving.swap(true, Ordering::AcqRel) {
            return Err(being_removed(instance));
        }
        Ok(())
    }

    /// Stops an instance, and removes it and its links from the disk. From then on it is gone,
    /// whatever happens.
    async fn forget(self: &Arc<Self>, instance: &Instance) -> Result<(), WireError> {
        self.stop(instance).await?;
        let change = Change::RemoveInstance { order: instance.order, id: instance.id };
        self.store.change(change).await.map_err(|error| {
            not_stored(format!("instance {} was not removed", instance.label()), &error)
        })
    }

    /// Removes all instances and links. The answer is how many of each.
    ///
    /// # Errors
    ///
    /// When an instance runs and `force` is not set; then nothing is removed.
    pub async fn clear(self: &Arc<Self>, force: bool) -> Result<(u64, u64), WireError> {
        let all = self.all();
        let running = all.iter().filter(|instance| instance.is_active()).count();
        if running > 0 && !force {
            return Err(WireError::new(
                ErrorCode::WrongState,
                format!("{running} instances run; stop them first, or clear with --force"),
            ));
        }
        let of_sets = {
            let _one_at_a_time = self.applying.lock().await;
            let of_sets = self.forget_all_set_links();
            for set in self.sets().iter().filter_map(|set| set.spec.name.as_deref()) {
                self.begin_leaving_set(set).await?;
                // It may have no replicas.
                self.settle_set(set).await;
            }
            of_sets
        };
        let mut tasks = tokio::task::JoinSet::new();
        for instance in all {
            let registry = self.clone();
            tasks.spawn(async move { registry.remove(&instance, force).await });
        }
        let (mut runtimes, mut links, mut failure) = (0, of_sets, None);
        while let Some(result) = tasks.join_next().await {
            match result {
                Ok(Ok(gone)) => {
                    runtimes += 1;
                    links += gone.len() as u64;
                }
                // Somebody else removed it meanwhile: it is gone, as wanted.
                Ok(Err(error)) if error.code == ErrorCode::NotFound => {}
                Ok(Err(error)) => failure = Some(error),
                Err(panic) => {
                    let message = format!("removing an instance failed: {panic}");
                    failure = Some(WireError::new(ErrorCode::Internal, message));
                }
            }
        }
        // Links from anybody to a datagram address belong to no instance.
        let mut tasks = tokio::task::JoinSet::new();
        for link in self.router.links() {
            let registry = self.clone();
            tasks.spawn(async move { registry.remove_link(link.id).await });
        }
        while let Some(result) = tasks.join_next().await {
            match result {
                Ok(Ok(_)) => links += 1,
                Ok(Err(error)) if error.code == ErrorCode::NotFound => {}
                Ok(Err(error)) => failure = Some(error),
                Err(panic) => {
                    let message = format!("removing a link failed: {panic}");
                    failure = Some(WireError::new(ErrorCode::Internal, message));
                }
            }
        }
        if let Err(error) = self.store.change(Change::RemoveUnreadable).await {
            failure = Some(not_stored("what can't be read was not removed".to_owned(), &error));
        }
        failure.map_or(Ok((runtimes, links)), Err)
    }
}
