//! What is left in the cgroup of an execution whose main process has ended and whose holder was
//! killed: nobody else can end it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::super::{Pending, Process};
use super::Leaf;

/// When a cgroup could not be watched for a reason that may pass, such as `EMFILE`.
const RETRY: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(in super::super) struct Remnant {
    leaf: Arc<Leaf>,
    /// What the main process was.
    pid: u32,
}

impl Remnant {
    pub(in super::super) const fn new(leaf: Arc<Leaf>, pid: u32) -> Self {
        Self { leaf, pid }
    }
}

impl Process for Remnant {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn signal_tree(&self, signal: i32) -> Pending<io::Result<bool>> {
        let leaf = Arc::clone(&self.leaf);
        Box::pin(async move { leaf.signal(signal, None) })
    }

    fn tree_empty(&self) -> Pending<io::Result<bool>> {
        let empty = self.leaf.is_empty();
        Box::pin(async move { Ok(empty) })
    }

    fn tree_gone(&self) -> Pending<()> {
        let leaf = Arc::clone(&self.leaf);
        Box::pin(async move {
            while let Err(error) = leaf.emptied().await {
                tracing::warn!(%error, "cannot see what is left in a cgroup");
                tokio::time::sleep(RETRY).await;
            }
        })
    }
}
