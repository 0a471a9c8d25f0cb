//! Requests about everything at once.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use orchestrator_proto::WireError;
use orchestrator_proto::control::{Reply, WantedSet};

use super::{Daemon, to_its_end};

/// What a request with so many instances has used is given back: it is as much again as they need
/// for good, and the allocator would keep it for the next one.
const MANY: usize = 100;
/// How long after it; what it has begun is done by then, most likely.
const SETTLED: Duration = Duration::from_secs(1);

impl Daemon {
    pub(super) async fn apply(
        self: &Arc<Self>,
        set: WantedSet,
        prune: bool,
        dry_run: bool,
    ) -> Result<Reply, WireError> {
        let registry = self.registry.clone();
        let many = set.instances.len() >= MANY;
        let plan = to_its_end(async move { registry.apply(set, prune, dry_run).await }).await;
        if many {
            self.settle();
        }
        Ok(Reply::Plan(Box::new(plan?)))
    }

    pub(super) fn export(&self) -> Reply {
        Reply::Exported(Box::new(self.registry.export()))
    }

    /// Gives back what is free soon.
    fn settle(self: &Arc<Self>) {
        if self.settling.swap(true, Ordering::AcqRel) {
            return;
        }
        let daemon = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(SETTLED).await;
            daemon.settling.store(false, Ordering::Release);
            crate::holder::give_back();
        });
    }
}
