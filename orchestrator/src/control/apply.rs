//! Requests about everything at once.

use std::sync::Arc;

use orchestrator_proto::WireError;
use orchestrator_proto::control::{Reply, WantedSet};

use super::{Daemon, to_its_end};

impl Daemon {
    pub(super) async fn apply(
        self: &Arc<Self>,
        set: WantedSet,
        prune: bool,
        dry_run: bool,
    ) -> Result<Reply, WireError> {
        let registry = self.registry.clone();
        let plan = to_its_end(async move { registry.apply(set, prune, dry_run).await }).await?;
        Ok(Reply::Plan(Box::new(plan)))
    }

    pub(super) fn export(&self) -> Reply {
        Reply::Exported(Box::new(self.registry.export()))
    }
}
