//! The manifest of `--manifest`: applied when the orchestrator starts, and again at each SIGHUP.
//!
//! Not when a daemon follows another one under the same holder: what an operator did since the
//! start stays as it is. Nothing is removed that the manifest does not name. One that is wrong
//! changes nothing; `status` warns of it until one is applied. Only an orchestrator that has
//! nothing else to run does not start then: there is nothing that would be lost, and somebody who
//! sets it up is to see it at once.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow};
use orchestrator_proto::control::{Effect, Plan, WantedSet};
use orchestrator_proto::manifest::Manifest;

use crate::control::Daemon;
use crate::registry::{Instance, Registry};

/// A manifest that was read and can be applied.
pub(super) struct Ready {
    path: PathBuf,
    set: WantedSet,
}

/// Reads the manifest, and checks it against what is there.
///
/// # Errors
///
/// All that is wrong with it.
pub(super) async fn check(path: &Path, registry: &Arc<Registry>) -> anyhow::Result<Ready> {
    let path = std::path::absolute(path).context("cannot find the manifest")?;
    let reading = tokio::task::spawn_blocking({
        let path = path.clone();
        move || Manifest::read(&path)
    });
    let manifest = reading.await.context("cannot read the manifest")?;
    let manifest = manifest.map_err(|problems| anyhow!("the manifest is wrong:\n{problems}"))?;
    for warning in &manifest.warnings {
        tracing::warn!(%warning, "in the manifest");
    }
    let set = manifest.set;
    let checked = registry.apply(set.clone(), false, true).await;
    checked.with_context(|| format!("the manifest {} can't be applied", path.display()))?;
    Ok(Ready { path, set })
}

impl Ready {
    /// Applies it.
    ///
    /// # Errors
    ///
    /// When it can't be; then nothing was changed.
    pub(super) async fn apply(self, registry: &Arc<Registry>) -> anyhow::Result<Plan> {
        let Self { path, set } = self;
        let plan = registry.apply(set, false, false).await;
        let plan =
            plan.with_context(|| format!("the manifest {} was not applied", path.display()))?;
        for warning in &plan.warnings {
            tracing::warn!(warning, "in the manifest");
        }
        tracing::info!(
            ?path,
            instances = plan.instances.len(),
            links = plan.links.len(),
            "the manifest is applied; these differed"
        );
        Ok(plan)
    }
}

/// Those of `instances` that the plan does nothing with: they are started as they were.
pub(super) fn untouched(plan: &Plan, instances: Vec<Arc<Instance>>) -> Vec<Arc<Instance>> {
    let touched = plan.instances.iter().filter(|it| it.effect != Effect::Nothing);
    let touched: HashSet<_> = touched.filter_map(|it| it.id).collect();
    instances.into_iter().filter(|it| !touched.contains(&it.id)).collect()
}

/// Applies the manifest again, as it is now. What is wrong with it is said, and changes nothing.
pub(super) async fn again(path: &Path, daemon: &Daemon) {
    let registry = &daemon.registry;
    let applied = async { check(path, registry).await?.apply(registry).await };
    let failure = applied.await.err().map(|error| format!("{error:#}"));
    if let Some(error) = &failure {
        tracing::error!(error, "nothing was changed");
    }
    daemon.set_manifest_failure(failure);
}
