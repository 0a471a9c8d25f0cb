//! What the task of a keeper waits for, and what it asks of the kernel without waiting in its own
//! loop.

use std::future::pending;
use std::sync::Arc;

use tokio::time::{Instant, sleep_until};

use super::super::{Ended, Exited, Pending, Process, SpawnError, Spawned};

/// What the task waits for besides requests. At most one of these at a time is not `Nothing`:
/// a spawn, then the exit, then the rest of the group.
pub(super) enum Awaited {
    Nothing,
    Spawn(Pending<Result<Spawned, SpawnError>>),
    Exit(Exited),
    TreeGone(Pending<()>),
}

/// What came of it.
pub(super) enum Outcome {
    Spawn(Result<Spawned, SpawnError>),
    Exit(Ended),
    TreeGone,
}

impl Awaited {
    /// Waits without giving up its place: it can be called again if it was dropped.
    pub(super) async fn wait(&mut self) -> Outcome {
        match self {
            Self::Nothing => pending().await,
            Self::Spawn(spawn) => Outcome::Spawn(spawn.await),
            Self::Exit(exited) => match exited.await {
                Some(ended) => Outcome::Exit(ended),
                // The holder has gone, and the daemon is about to; nothing true can be said.
                None => pending().await,
            },
            Self::TreeGone(gone) => {
                gone.await;
                Outcome::TreeGone
            }
        }
    }
}

/// The end of a command, if there is one.
pub(super) async fn command(
    command: &mut Option<Pending<Result<(), String>>>,
) -> Result<(), String> {
    match command {
        Some(command) => command.await,
        None => pending().await,
    }
}

/// Whether nothing is left of a process and what it started; false if that can't be seen.
pub(super) async fn tree_empty(process: Option<Arc<dyn Process>>) -> bool {
    let Some(process) = process else {
        return true;
    };
    process.tree_empty().await.unwrap_or_else(|error| {
        let pid = process.pid();
        tracing::warn!(pid, %error, "cannot see what is left of a process group");
        false
    })
}

/// Signals what is left of a process and what it started.
pub(super) async fn signal_tree(process: Option<Arc<dyn Process>>, signal: i32) {
    if let Some(process) = process
        && let Err(error) = process.signal_tree(signal).await
    {
        let pid = process.pid();
        tracing::warn!(pid, signal, %error, "a process group can't be signalled");
    }
}

/// A timer has its room only while it runs.
pub(super) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => Box::pin(sleep_until(deadline)).await,
        None => pending().await,
    }
}
