//! What is done with a set is done with each of its replicas, and the set is to be like that.

use std::sync::Arc;

use orchestrator_proto::control::{Desired, Outcome, Priority, ReplicaOutcome, Reply, Wanted};
use orchestrator_proto::{ErrorCode, WireError};

use super::super::{Instance, Registry, not_stored};
use super::staying;
use crate::store::{Change, SetRecord};

impl Registry {
    /// Starts each replica of a set; new ones run from now on.
    ///
    /// # Errors
    ///
    /// When there is no such set, or that can't be stored. What fails for one is in the answer.
    pub async fn start_set(
        self: &Arc<Self>,
        name: &str,
        priority: Option<Priority>,
    ) -> Result<Reply, WireError> {
        self.check_open()?;
        self.set_desired(name, Desired::Running, priority).await?;
        let start = |registry: Arc<Self>, it: Arc<Instance>| async move {
            registry.start(&it, priority).await
        };
        Ok(self.each(name, staying(self.replicas(name)), start).await)
    }

    /// Stops each replica of a set; new ones do not run from now on.
    ///
    /// # Errors
    ///
    /// As [`Registry::start_set`].
    pub async fn stop_set(self: &Arc<Self>, name: &str) -> Result<Reply, WireError> {
        let stop = |registry: Arc<Self>, it: Arc<Instance>| async move {
            let changed = registry.stop(&it).await?;
            Ok(Reply::Stopped { id: it.id, changed })
        };
        let before = staying(self.replicas(name));
        // Nothing that is under way with other sets delays a stop.
        let (set, stopped) = tokio::join!(
            self.set_desired(name, Desired::Stopped, None),
            self.each(name, before.clone(), stop)
        );
        set.map_err(|error| {
            let message = format!(
                "the replicas of {name} are stopped, but it could not be stored that new ones are \
                 not to run"
            );
            WireError::caused_by(error.code, message, &error)
        })?;
        // Those that were added when the set was still to run.
        let mut new = staying(self.replicas(name));
        new.retain(|it| before.iter().all(|known| known.id != it.id));
        let added = self.each(name, new, stop).await;
        Ok(match (stopped, added) {
            (Reply::Each { set, mut outcomes }, Reply::Each { outcomes: more, .. }) => {
                outcomes.extend(more);
                Reply::Each { set, outcomes }
            }
            (stopped, _) => stopped,
        })
    }

    /// Stops each replica of a set and starts it again, all at once; new ones run from now on.
    ///
    /// # Errors
    ///
    /// As [`Registry::start_set`].
    pub async fn restart_set(self: &Arc<Self>, name: &str) -> Result<Reply, WireError> {
        self.check_open()?;
        self.set_desired(name, Desired::Running, None).await?;
        let restart =
            |registry: Arc<Self>, it: Arc<Instance>| async move { registry.restart(&it).await };
        Ok(self.each(name, staying(self.replicas(name)), restart).await)
    }

    /// Has each replica of a set run now, although its schedule says another time.
    ///
    /// # Errors
    ///
    /// When there is no such set. What fails for one is in the answer.
    pub async fn run_set(self: &Arc<Self>, name: &str) -> Result<Reply, WireError> {
        self.set(name)?;
        let run = |registry: Arc<Self>, it: Arc<Instance>| async move { registry.run(&it).await };
        Ok(self.each(name, staying(self.replicas(name)), run).await)
    }

    /// How replicas of a set are to be that are added from now on. Stored when this is answered.
    async fn set_desired(
        &self,
        name: &str,
        desired: Desired,
        priority: Option<Priority>,
    ) -> Result<(), WireError> {
        let is_so = |set: &Wanted| {
            set.desired == desired && (priority.is_none() || set.priority == priority)
        };
        if is_so(&self.set(name)?) {
            return Ok(());
        }
        // Whoever changes it otherwise has seen how it is.
        let _one_at_a_time = self.applying.lock().await;
        let before = self.set(name)?;
        let priority = priority.or(before.priority);
        let record = SetRecord { set: Wanted { desired, priority, ..before }, leaving: false };
        let stored = self.store.change(Change::PutSet(Box::new(record.clone()))).await;
        stored.map_err(|error| not_stored(format!("the set {name} was not changed"), &error))?;
        self.enter_set(record);
        Ok(())
    }

    /// Does something with each of these, all at once.
    async fn each<F>(
        self: &Arc<Self>,
        set: &str,
        instances: Vec<Arc<Instance>>,
        act: impl Fn(Arc<Self>, Arc<Instance>) -> F,
    ) -> Reply
    where
        F: Future<Output = Result<Reply, WireError>> + Send + 'static,
    {
        let mut tasks = tokio::task::JoinSet::new();
        for (place, instance) in instances.iter().cloned().enumerate() {
            let acting = act(self.clone(), instance);
            tasks.spawn(async move { (place, acting.await) });
        }
        let mut done = Vec::new();
        while let Some(one) = tasks.join_next().await {
            // One that panicked is missing, and told as failed below.
            done.extend(one.ok());
        }
        done.sort_by_key(|(place, _)| *place);
        let mut done = done.into_iter().peekable();
        let outcomes = instances.iter().enumerate().map(|(place, instance)| {
            let result = done.next_if(|(of, _)| *of == place).map(|(_, result)| result);
            let id = instance.id;
            ReplicaOutcome { id, name: instance.short(), outcome: outcome(result) }
        });
        Reply::Each { set: set.to_owned(), outcomes: outcomes.collect() }
    }
}

fn outcome(result: Option<Result<Reply, WireError>>) -> Outcome {
    match result {
        Some(Ok(Reply::Started { pid, changed, warnings, .. })) => {
            Outcome::Started { pid, changed, warnings }
        }
        Some(Ok(Reply::Scheduled { next_ms, changed, .. })) => {
            Outcome::Scheduled { next_ms, changed }
        }
        Some(Ok(Reply::Queued { .. })) => Outcome::Queued,
        Some(Ok(Reply::Stopped { changed, .. })) => Outcome::Stopped { changed },
        Some(Err(error)) => Outcome::Failed(error),
        Some(Ok(_)) | None => {
            let message = "the request failed for this replica, which should never happen";
            Outcome::Failed(WireError::new(ErrorCode::Internal, message))
        }
    }
}
