//! What follows for processes: each instance by itself, so that none waits for another one that
//! it does not need.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use orchestrator_proto::control::{Desired, Effect, Observed};
use orchestrator_proto::{InstanceId, WireError};
use tokio::sync::oneshot;

use super::super::instance::Turns;
use super::super::{Instance, Registry, check_staying};
use super::Wish;

/// What is to be done, instance by instance.
#[derive(Default)]
pub(super) struct Work {
    all: BTreeMap<InstanceId, Task>,
}

#[derive(Default)]
struct Task {
    effect: Act,
    priority: Wish,
    /// Its keeper executes something else than is defined.
    renew: bool,
    /// A copy of its program that is of no use any more.
    dropped: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Act {
    #[default]
    Nothing,
    Start,
    Stop,
    Restart,
    Remove,
}

impl Work {
    fn task(&mut self, id: InstanceId) -> &mut Task {
        self.all.entry(id).or_default()
    }

    pub(super) fn remove(&mut self, id: InstanceId) {
        self.task(id).effect = Act::Remove;
    }

    pub(super) fn start(&mut self, id: InstanceId, priority: Wish) {
        self.change(id, Effect::Start, priority);
    }

    pub(super) fn change(&mut self, id: InstanceId, effect: Effect, priority: Wish) {
        let task = self.task(id);
        task.priority = priority;
        task.effect = match effect {
            Effect::Nothing => Act::Nothing,
            Effect::Start => Act::Start,
            Effect::Stop => Act::Stop,
            Effect::Restart => Act::Restart,
        };
    }

    pub(super) fn renew(&mut self, id: InstanceId, dropped: Option<PathBuf>) {
        let task = self.task(id);
        task.renew = true;
        task.dropped = dropped;
    }
}

/// An instance is about to be restarted for as long as this is there.
struct Restarting(Arc<Turns>);

impl Drop for Restarting {
    fn drop(&mut self) {
        self.0.restarting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Told when all is asked for. If it is dropped, so it is too.
type Asked = oneshot::Sender<()>;

impl Registry {
    /// Begins all of it, and answers when it is asked for.
    pub(super) async fn carry_out(self: &Arc<Self>, work: Work) {
        let is_any = |task: &Task| task.effect != Act::Nothing || task.renew;
        let tasks: Vec<_> = work
            .all
            .into_iter()
            .filter(|(_, task)| is_any(task))
            .map(|(id, task)| (id, self.restarting(id, &task), task))
            .collect();
        let mut asked = Vec::new();
        for (id, restarting, task) in tasks {
            let (tell, told) = oneshot::channel();
            asked.push(told);
            let registry = self.clone();
            tokio::spawn(async move {
                if let Err(error) = registry.act(id, task, tell).await {
                    // Or something else is wanted by now.
                    let error = error.to_string();
                    tracing::info!(instance = %id, error, "not carried out as it was applied");
                }
                drop(restarting);
            });
        }
        for told in asked {
            let _ = told.await;
        }
    }

    /// That an instance is about to be restarted, if that is so. Known of all before any of it
    /// begins: who needs it does not start it then.
    fn restarting(&self, id: InstanceId, task: &Task) -> Option<Restarting> {
        let instance = (task.effect == Act::Restart).then(|| self.newest(id))?.ok()?;
        instance.turns.restarting.fetch_add(1, Ordering::AcqRel);
        Some(Restarting(instance.turns.clone()))
    }

    async fn act(
        self: &Arc<Self>,
        id: InstanceId,
        task: Task,
        asked: Asked,
    ) -> Result<(), WireError> {
        let Task { effect, priority, renew, dropped } = task;
        let instance = self.newest(id)?;
        // Each with the room that it needs, not with that of the largest: there may be one for each
        // instance at once.
        match effect {
            Act::Remove => return Box::pin(self.act_remove(&instance, asked)).await,
            Act::Stop => {
                Box::pin(self.act_stop(&instance, asked)).await?;
                self.renew_if(id, renew).await?;
            }
            Act::Restart => {
                // It should run all the time, whatever comes in between.
                drop(asked);
                Box::pin(self.restart_as_defined(id, priority)).await?;
            }
            Act::Start => {
                let instance = self.renew_if(id, renew).await?;
                Box::pin(self.act_start(&instance, priority, asked)).await?;
            }
            Act::Nothing => {
                self.renew_if(id, renew).await?;
            }
        }
        if let Some(dropped) = dropped {
            let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(dropped));
            if let Ok(Err(error)) = removed.await {
                tracing::warn!(instance = %id, %error, "the copy could not be removed");
            }
        }
        Ok(())
    }

    /// An instance with a keeper for its newest definition, unless that has to wait for a restart:
    /// nothing is done to what runs.
    async fn renew_if(
        self: &Arc<Self>,
        id: InstanceId,
        renew: bool,
    ) -> Result<Arc<Instance>, WireError> {
        if renew { Box::pin(self.renew(id)).await } else { self.newest(id) }
    }

    async fn act_stop(
        self: &Arc<Self>,
        instance: &Instance,
        asked: Asked,
    ) -> Result<(), WireError> {
        let mut view = instance.keeper.watch();
        let stop = self.stop(instance);
        tokio::pin!(stop);
        let stopped = tokio::select! {
            stopped = &mut stop => Some(stopped),
            _ = view.wait_for(|view| view.desired == Desired::Stopped) => None,
        };
        drop(asked);
        match stopped {
            Some(stopped) => stopped.map(drop),
            None => stop.await.map(drop),
        }
    }

    async fn act_start(
        self: &Arc<Self>,
        instance: &Instance,
        priority: Wish,
        asked: Asked,
    ) -> Result<(), WireError> {
        let mut view = instance.keeper.watch();
        let start = self.start(instance, priority);
        tokio::pin!(start);
        let started = tokio::select! {
            started = &mut start => Some(started),
            _ = view.wait_for(|view| view.desired == Desired::Running) => None,
        };
        drop(asked);
        match started {
            Some(started) => started.map(drop),
            None => start.await.map(drop),
        }
    }

    /// Stops it, and starts it as it is defined by then. Not if that was done already, by who
    /// changed it before.
    async fn restart_as_defined(
        self: &Arc<Self>,
        id: InstanceId,
        priority: Wish,
    ) -> Result<(), WireError> {
        let turns = self.newest(id)?.turns.clone();
        let one = turns.acting.lock().await;
        let instance = self.newest(id)?;
        self.check_open()?;
        check_staying(&instance)?;
        let view = instance.keeper.view();
        let is_done =
            !instance.is_outdated() && priority.is_none_or(|priority| priority == view.priority);
        if is_done {
            return Ok(());
        }
        self.stop_requirers(id, instance.short()).await;
        instance.suspend().await?;
        let newest = self.renew(id).await?;
        let mut view = newest.keeper.watch();
        if view.borrow_and_update().desired == Desired::Stopped {
            // Somebody has stopped it meanwhile.
            return Ok(());
        }
        self.start_required(&newest);
        let start = newest.start(priority);
        tokio::pin!(start);
        let begun = view.wait_for(|view| !matches!(view.observed, Observed::Stopped { .. }));
        let started = tokio::select! {
            started = &mut start => Some(started),
            _ = begun => None,
        };
        // Whoever comes next finds it started.
        drop(one);
        let started = match started {
            Some(started) => started,
            None => start.await,
        };
        if started.is_err() {
            self.dependencies.stay(id);
        }
        self.undo_if_closing(&newest).await?;
        started.map(drop)
    }

    async fn act_remove(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        asked: Asked,
    ) -> Result<(), WireError> {
        let (registry, instance) = (self.clone(), instance.clone());
        let turns = instance.turns.clone();
        let removing = tokio::spawn(async move { registry.remove(&instance, true).await });
        while !(turns.leaving.load(Ordering::Acquire) || removing.is_finished()) {
            tokio::task::yield_now().await;
        }
        drop(asked);
        match removing.await {
            Ok(removed) => removed.map(drop),
            Err(_) => Ok(()),
        }
    }
}
