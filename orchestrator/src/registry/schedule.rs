//! Schedules: what is told of them, and running them now.

use orchestrator_proto::control::{Reply, ScheduleInfo};
use orchestrator_proto::{ErrorCode, WireError};

use super::{Instance, Registry, check_staying, not_stored};
use crate::process::Runs;

impl Registry {
    /// Has a schedule run now.
    ///
    /// # Errors
    ///
    /// When it is none, or is stopped; as [`Registry::start`].
    pub async fn run(&self, instance: &Instance) -> Result<Reply, WireError> {
        self.check_open()?;
        check_staying(instance)?;
        let kind = &instance.spec.supervision.kind;
        if kind.schedule().is_none() {
            let message = format!(
                "instance {} is a {}, which has no schedule; `runtime start` runs it",
                instance.label(),
                kind.word()
            );
            return Err(WireError::new(ErrorCode::WrongState, message));
        }
        self.start_required(instance);
        self.with_newest(instance.id, |instance| async move {
            let reply = instance.run_now().await?;
            self.undo_if_closing(&instance).await?;
            Ok(reply)
        })
        .await
    }
}

impl Instance {
    /// Has it run now, although its schedule says another time; see [`Registry::run`].
    async fn run_now(&self) -> Result<Reply, WireError> {
        let failed = || format!("instance {} was not run", self.label());
        self.check_store().await.map_err(|error| not_stored(failed(), &error))?;
        let before = self.keeper.view();
        match self.keeper.run().await {
            Ok(started) => Ok(self.started(started)),
            Err(error) => Err(self.start_failed(failed(), &error, &before).await),
        }
    }

    /// When it ran last and runs next, if it has a schedule.
    pub(super) fn schedule_info(&self, runs: &Runs) -> Option<ScheduleInfo> {
        let schedule = self.spec.supervision.kind.schedule()?.clone();
        let Runs { next_ms, last, skipped, .. } = runs.clone();
        Some(ScheduleInfo { schedule, next_ms, last, skipped })
    }
}
