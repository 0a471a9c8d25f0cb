//! An instance that is defined anew: in its place, with its id, its log and its links.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use orchestrator_proto::control::{Observed, RuntimeSpec};
use orchestrator_proto::{ErrorCode, InstanceId, WireError};

use super::add::Plan;
use super::{Instance, Registry, being_removed};
use crate::plan::needs_restart;
use crate::process::RetireError;
use crate::store::InstanceRecord;
use crate::supervise::Rules;

impl Instance {
    /// As it is kept.
    pub(super) fn record(&self) -> InstanceRecord {
        let copy = self.copy.as_ref().and_then(|directory| {
            // Two components: its own directory, and the file.
            let directory = directory.file_name()?;
            Some(std::path::Path::new(directory).join(self.program.file_name()?))
        });
        InstanceRecord {
            order: self.order,
            id: self.id,
            spec: RuntimeSpec::clone(&self.spec),
            copy,
            added_ms: self.added_ms,
            from_start: self.from_start,
        }
    }

    /// As it is to be kept with this definition.
    pub(super) fn record_with(&self, spec: RuntimeSpec) -> InstanceRecord {
        let mut record = self.record();
        if spec.program != self.spec.program {
            record.copy = None;
        }
        if needs_restart(&self.spec, &spec) {
            record.from_start = self.execution() + 1;
        }
        InstanceRecord { spec, ..record }
    }

    /// The number of its last execution, or of the one that is under way.
    fn execution(&self) -> u64 {
        let view = self.keeper.view();
        let is_under_way = matches!(view.observed, Observed::Starting { pid: None, .. });
        view.starts + u64::from(is_under_way)
    }

    /// Whether it would have to be executed anew to be as it is defined.
    pub(super) fn is_outdated(&self) -> bool {
        needs_restart(&self.launches, &self.spec) || self.execution() < self.from_start
    }

    /// Whether it runs as an earlier definition says, and nothing is being done about that.
    pub(super) fn is_stale(&self) -> bool {
        self.is_active()
            && self.execution() < self.from_start
            && self.turns.restarting.load(Ordering::Acquire) == 0
    }

    /// The same instance under another definition; its keeper stays as it is.
    fn redefined(&self, record: InstanceRecord) -> Self {
        let InstanceRecord { spec, copy, from_start, .. } = record;
        let is_copy = copy.is_some();
        let program = match &spec.program {
            orchestrator_proto::control::Program::Path(path) => path.as_path().to_owned(),
            orchestrator_proto::control::Program::Upload { .. } => self.program.clone(),
        };
        Self {
            id: self.id,
            name: self.name.clone(),
            replica: self.replica.clone(),
            program,
            copy: self.copy.clone().filter(|_| is_copy),
            order: self.order,
            added_ms: self.added_ms,
            keeper: self.keeper.clone(),
            log: self.log.clone(),
            endpoint: self.endpoint.clone(),
            listeners: self.listeners.clone(),
            sockets: self.sockets.clone(),
            launches: self.launches.clone(),
            from_start,
            run: self.run.clone(),
            turns: self.turns.clone(),
            store: self.store.clone(),
            durability: self.durability,
            spec: Arc::new(spec),
        }
    }
}

impl Registry {
    /// The newest definition of an instance.
    pub(super) fn newest(&self, id: InstanceId) -> Result<Arc<Instance>, WireError> {
        let found = self.read().by_id.get(&id).cloned();
        found.ok_or_else(|| {
            WireError::new(ErrorCode::NotFound, format!("instance {id} has been removed"))
        })
    }

    /// Does something with an instance through the keeper that it has. If that is replaced
    /// meanwhile, it is done with the next one.
    ///
    /// # Errors
    ///
    /// Those of `act`; when the instance has been removed.
    pub(super) async fn with_newest<T, F>(
        &self,
        id: InstanceId,
        act: impl Fn(Arc<Instance>) -> F,
    ) -> Result<T, WireError>
    where
        F: Future<Output = Result<T, WireError>>,
    {
        loop {
            let instance = self.newest(id)?;
            {
                let _until_then = instance.turns.acting.lock().await;
            }
            let instance = self.newest(id)?;
            match act(instance.clone()).await {
                Err(error) => match self.newest(id) {
                    // Each keeper has its own.
                    Ok(newest) if !Arc::ptr_eq(&newest.launches, &instance.launches) => {
                        tracing::debug!(%error, "trying again with the next keeper");
                    }
                    _ => return Err(error),
                },
                done => return done,
            }
        }
    }

    /// Defines an instance anew, as is stored already. What needs no new execution counts at
    /// once; for the rest see [`renew`](Self::renew).
    pub(super) async fn redefine(&self, record: InstanceRecord) -> Result<(), WireError> {
        let after = {
            // In one step: its keeper may be being replaced.
            let mut instances = self.write();
            let Some(before) = instances.by_id.get(&record.id) else {
                drop(instances);
                return self.newest(record.id).map(drop);
            };
            let after = Arc::new(before.redefined(record));
            instances.by_id.insert(after.id, after.clone());
            after
        };
        self.kernel.limit(after.id, &after.spec.limits);
        after.log.set_rules(&after.spec.log);
        let rules = Rules::from(after.spec.clone());
        after.run.set_rules(rules.clone());
        self.dependencies.renew(&after);
        after.keeper.set_rules(rules).await;
        Ok(())
    }

    /// Gives an instance a keeper that executes it as it is defined now, and answers it. Nothing
    /// runs of it then, if it needed one; whether it should run stays as it is.
    pub(super) async fn renew(
        self: &Arc<Self>,
        id: InstanceId,
    ) -> Result<Arc<Instance>, WireError> {
        let turns = self.newest(id)?.turns.clone();
        let _one = turns.renewing.lock().await;
        let before = self.newest(id)?;
        if before.turns.leaving.load(Ordering::Acquire) {
            return Err(being_removed(&before));
        }
        if !needs_restart(&before.launches, &before.spec) {
            return Ok(before);
        }
        loop {
            // Fails if it is retired already: another attempt has come so far.
            let _ = before.suspend().await;
            match before.keeper.retire().await {
                Ok(()) => break,
                // A start came in between.
                Err(RetireError::Running) => self.check_open()?,
            }
        }
        // Who is still connected sees the end.
        before.sockets.lock().unwrap_or_else(PoisonError::into_inner).take();
        let plan = Plan {
            run: before.run.record(),
            before: Some(before.clone()),
            ..Plan::new(before.record())
        };
        let registry = self.clone();
        let building = tokio::task::spawn_blocking(move || registry.build(plan));
        let after = building.await.unwrap_or_else(|panic| {
            let message = format!("changing the instance failed: {panic}");
            Err(WireError::new(ErrorCode::Internal, message))
        })?;
        after.keeper.block_now(self.dependencies.blocked(id));
        let entered = {
            let mut instances = self.write();
            let after = match instances.by_id.get(&id) {
                None => Err(after),
                // It was defined anew meanwhile, and that is what it is to be.
                Some(newest) if !Arc::ptr_eq(newest, &before) => {
                    Ok(Arc::new(after.redefined(newest.record())))
                }
                Some(_) => Ok(Arc::new(after)),
            };
            if let Ok(after) = &after {
                instances.by_id.insert(id, after.clone());
            }
            after
        };
        let after = match entered {
            Ok(after) => after,
            Err(after) => {
                let _ = after.keeper.retire().await;
                return Err(being_removed(&before));
            }
        };
        // Whoever has defined it anew meanwhile may have told another keeper, or may be doing so:
        // what is told last has to be the newest.
        let mut told = Rules::from(after.launches.clone());
        loop {
            let newest = self.newest(id)?;
            let rules = Rules::from(newest.spec.clone());
            if rules == told {
                return Ok(newest);
            }
            newest.run.set_rules(rules.clone());
            newest.keeper.set_rules(rules.clone()).await;
            told = rules;
        }
    }
}
