//! Instances that need others: what the pure rules say is brought to the keepers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use orchestrator_proto::control::{Desired, Observed, RunResult, RuntimeSpec};
use orchestrator_proto::{InstanceId, WireError};
use tokio::sync::Notify;

use super::add::invalid;
use super::{Instance, Registry};
use crate::process::View;
use crate::supervise::{Consequence, Effect, Needs, Standing};

/// Who needs whom, and what has not been told of it. At most one consequence for each instance.
#[derive(Debug, Default)]
pub(super) struct Dependencies {
    inner: Mutex<Inner>,
    untold: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    needs: Needs,
    untold: BTreeMap<InstanceId, Consequence>,
}

impl Dependencies {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this instance may be added.
    ///
    /// # Errors
    ///
    /// When it would need itself: by which way.
    pub(super) fn check(&self, spec: &RuntimeSpec) -> Result<(), WireError> {
        self.lock()
            .needs
            .check(spec.id, spec.name.as_deref(), &spec.supervision)
            .map_err(|path| invalid(format!("it would have to wait for itself: {path}")))
    }

    /// There is this instance.
    pub(super) fn insert(&self, instance: &Instance) {
        let mut inner = self.lock();
        let (blocked, told) =
            inner.needs.insert(instance.id, instance.name.as_deref(), &instance.spec.supervision);
        // Nobody else has the keeper yet, so there is room, and nothing comes before it.
        instance.keeper.block_now(blocked);
        self.tell(&mut inner, told);
        let (standing, wanted) = standing(&instance.keeper.view());
        let told = inner.needs.set(instance.id, standing, wanted);
        self.tell(&mut inner, told);
    }

    /// An instance is defined anew.
    pub(super) fn renew(&self, instance: &Instance) {
        let mut inner = self.lock();
        let told = inner.needs.set_rules(instance.id, &instance.spec.supervision);
        let told = told.map(|told| (instance.id, told)).into_iter().collect();
        self.tell(&mut inner, told);
    }

    /// What an instance has to wait for before it can be started; none is nothing.
    pub(super) fn blocked(&self, id: InstanceId) -> Option<String> {
        self.lock().needs.blocked(id)
    }

    /// There is a set of replicas of this name.
    pub(super) fn add_set(&self, name: &str) {
        let mut inner = self.lock();
        let told = inner.needs.add_set(name);
        self.tell(&mut inner, told);
    }

    /// There is no such set any more.
    pub(super) fn remove_set(&self, name: &str) {
        let mut inner = self.lock();
        let told = inner.needs.remove_set(name);
        self.tell(&mut inner, told);
    }

    /// A replica is to go, and its set stays.
    pub(super) fn part(&self, id: InstanceId) {
        let mut inner = self.lock();
        let told = inner.needs.part(id);
        self.tell(&mut inner, told);
    }

    /// There is no such instance any more.
    pub(super) fn remove(&self, id: InstanceId) {
        let mut inner = self.lock();
        let told = inner.needs.remove(id);
        inner.untold.remove(&id);
        self.tell(&mut inner, told);
    }

    /// An instance is shown like this.
    pub(super) fn changed(&self, id: InstanceId, view: &View) {
        let mut inner = self.lock();
        let (standing, wanted) = standing(view);
        let told = inner.needs.set(id, standing, wanted);
        self.tell(&mut inner, told);
    }

    /// An instance is about to be stopped. The answer is who needs it, and what follows for them.
    fn leave(&self, id: InstanceId) -> Vec<(InstanceId, Effect)> {
        let mut inner = self.lock();
        let told = inner.needs.hold(id, true);
        self.tell(&mut inner, told);
        inner.needs.requirers(id)
    }

    /// It was not stopped after all.
    pub(super) fn stay(&self, id: InstanceId) {
        let mut inner = self.lock();
        let told = inner.needs.hold(id, false);
        self.tell(&mut inner, told);
    }

    fn tell(&self, inner: &mut Inner, told: Vec<(InstanceId, Consequence)>) {
        if told.is_empty() {
            return;
        }
        for (id, next) in told {
            let before = inner.untold.remove(&id).unwrap_or_default();
            inner.untold.insert(id, before.then(next));
        }
        self.untold.notify_one();
    }

    /// Brings everything to those whom it concerns, as long as there is a registry.
    pub(super) async fn bring(self: Arc<Self>, registry: Weak<Registry>) {
        loop {
            self.untold.notified().await;
            let untold = std::mem::take(&mut self.lock().untold);
            let Some(registry) = registry.upgrade() else {
                return;
            };
            for (id, Consequence { block, lost }) in untold {
                let Some(instance) = registry.read().by_id.get(&id).cloned() else {
                    continue;
                };
                if let Some(by) = block {
                    instance.keeper.block(by).await;
                }
                if let Some((reason, effect)) = lost {
                    instance.keeper.requirement_lost(reason, effect).await;
                }
            }
        }
    }

    /// All that an instance needs, and what those need, and so on.
    fn all_required(&self, id: InstanceId) -> BTreeSet<InstanceId> {
        let inner = self.lock();
        let mut all = BTreeSet::new();
        let mut todo = vec![id];
        while let Some(id) = todo.pop() {
            todo.extend(inner.needs.required(id).into_iter().filter(|id| all.insert(*id)));
        }
        all
    }
}

/// How far an instance is, and whether it should run.
fn standing(view: &View) -> (Standing, bool) {
    let last = view.runs.last.as_ref();
    let last_run_is_good = view.runs.seen_ms.is_some()
        && last.is_some_and(|run| matches!(run.result, RunResult::Completed { .. }));
    let standing = match view.observed {
        Observed::Starting { pid: Some(_), .. } | Observed::Unhealthy { .. } => Standing::Started,
        Observed::Ready { .. } => Standing::Ready,
        Observed::Completed { .. } => Standing::Completed,
        Observed::Failed { .. } => Standing::Failed,
        // Not lost when the next run of a schedule begins.
        _ if last_run_is_good => Standing::Completed,
        _ => Standing::Off,
    };
    // A schedule between two runs is not about to run: nobody has to wait for its next time.
    let is_to_run = !matches!(view.observed, Observed::Scheduled { .. });
    (standing, is_to_run && matches!(view.desired, Desired::Running))
}

impl Registry {
    /// Has everything started that an instance needs. That one waits for it by itself.
    pub(super) fn start_required(&self, instance: &Instance) {
        for id in self.dependencies.all_required(instance.id) {
            let Some(needed) = self.read().by_id.get(&id).cloned() else {
                continue;
            };
            // A task that has done its work has not to do it again.
            let is_done = matches!(needed.keeper.view().observed, Observed::Completed { .. });
            // Started in the middle of that, it would run as it was defined before.
            let is_coming = needed.turns.restarting.load(Ordering::Acquire) > 0;
            if !needed.is_active() && !is_done && !is_coming {
                tokio::spawn(async move {
                    // Who needs it is told if it fails.
                    let _ = needed.start(None).await;
                });
            }
        }
    }

    /// Stops everything that needs an instance, the last first, because that is about to stop.
    pub(super) fn stop_requirers(
        self: &Arc<Self>,
        id: InstanceId,
        label: String,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let registry = self.clone();
        Box::pin(async move {
            let requirers = registry.dependencies.leave(id);
            let mut tasks = tokio::task::JoinSet::new();
            for (id, effect) in requirers {
                let Some(instance) = registry.read().by_id.get(&id).cloned() else {
                    continue;
                };
                if instance.is_active() {
                    let registry = registry.clone();
                    let reason = format!("{label} was stopped");
                    tasks.spawn(async move { registry.lose(&instance, reason, effect).await });
                }
            }
            while tasks.join_next().await.is_some() {}
        })
    }

    async fn lose(self: Arc<Self>, instance: &Instance, reason: String, effect: Effect) {
        let mut view = instance.keeper.watch();
        self.stop_requirers(instance.id, instance.short()).await;
        let run = instance.keeper.view().starts;
        // It is blocked before it is told, so that it does not start again at once.
        let blocked = self.dependencies.lock().needs.blocked(instance.id);
        instance.keeper.block(blocked).await;
        instance.keeper.requirement_lost(reason, effect).await;
        // Or it was started again by somebody.
        let _ = view.wait_for(|view| !view.observed.is_active() || view.starts != run).await;
    }

    /// Waits until nothing of those is left that need an instance or come after it.
    pub(super) async fn dependents_gone(&self, id: InstanceId) {
        let dependents = self.dependencies.lock().needs.dependents_of(id);
        for id in dependents {
            let Some(instance) = self.read().by_id.get(&id).cloned() else {
                continue;
            };
            let _ = instance.keeper.watch().wait_for(|view| !view.observed.is_active()).await;
        }
    }

    /// The longest time that it takes to stop everything, each after those that need it.
    #[must_use]
    pub fn longest_stop(&self) -> Duration {
        let all = self.all();
        let dependencies = self.dependencies.lock();
        let mut known: HashMap<InstanceId, Duration> = HashMap::new();
        let stop: HashMap<InstanceId, Duration> =
            all.iter().map(|it| (it.id, it.spec.supervision.stop.longest().duration())).collect();
        // There are no cycles, so each pass settles at least one more layer.
        loop {
            let mut is_settled = true;
            for (&id, &own) in &stop {
                let dependents = dependencies.needs.dependents_of(id).into_iter();
                let before = dependents.filter_map(|it| known.get(&it).copied()).max();
                let longest = own.saturating_add(before.unwrap_or_default());
                is_settled &= known.insert(id, longest) == Some(longest);
            }
            if is_settled {
                return known.into_values().max().unwrap_or_default();
            }
        }
    }
}
