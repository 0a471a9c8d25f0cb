//! From one daemon to the next: what one has to show before it may take over, and how the other
//! lets go.

use std::time::Duration;

use anyhow::Context;
use orchestrator_proto::control::EventKind;
use tokio::task::JoinHandle;

use super::place::{self, Place};
use super::{CLOSE, Ended, Service};
use crate::control::Daemon;
use crate::options::Options;
use crate::process::{Greeting, Left, Linux};
use crate::store::Store;

/// How long clients may take to be told to connect again: longer than what they may finish until
/// then.
const CLIENTS: Duration = Duration::from_secs(2);

/// Takes over from an earlier daemon, if there is one. Of one that is still there, when it has
/// ended; before that, this one shows that it can.
pub(super) async fn arrive(options: &Options, kernel: &Linux) -> anyhow::Result<Left> {
    let holder = || "cannot speak with the holder";
    let greeting: Greeting = kernel.greet().await.with_context(holder)?;
    if greeting.successor {
        let state = place::state_dir(options)?;
        let checked = tokio::task::spawn_blocking(move || Store::check(&state));
        checked.await?.context("this daemon can't take over")?;
        kernel.able().await.with_context(holder)?;
        tracing::info!("able to take over");
    }
    greeting.left().await.with_context(holder)
}

/// Lets go of everything without ending any of it: clients are told to connect again, and the
/// state is on the disk. What follows is the end of this process, without further ado: a value
/// that is dropped would stop what it stands for.
pub(super) async fn let_go(
    successor: u32,
    daemon: &Daemon,
    service: &Service,
    mut serving: JoinHandle<()>,
) {
    service.replacing(successor).await;
    if tokio::time::timeout(CLIENTS, &mut serving).await.is_err() {
        tracing::warn!("clients are left that were not told to connect again");
        serving.abort();
    }
    // Not closed: what ends by itself from now on has done so, and is not to be started again.
    daemon.registry.events().record(None, None, EventKind::DaemonReplaced { successor });
}

/// The last step: from here on nothing that happens is taken note of by this daemon. The holder
/// tells it to the next.
pub(super) async fn leave(daemon: std::sync::Arc<Daemon>, place: Place) -> Ended {
    if tokio::time::timeout(CLOSE, daemon.registry.store().close()).await.is_err() {
        tracing::warn!("the disk is slow: the database is put in order by the next daemon");
    }
    tracing::info!("another daemon takes over");
    std::mem::forget((daemon, place));
    Ended::Replaced
}
