//! Everything at once, by a manifest.

use std::path::PathBuf;

use clap::Args;
use orchestrator_proto::Millis;

#[derive(Args, Debug)]
pub(crate) struct ApplyArgs {
    /// The manifest. Example: apply robot/orchestrator.toml
    #[arg(value_name = "FILE", default_value = "orchestrator.toml")]
    pub(crate) file: PathBuf,

    /// Change nothing, and show what would be done. Example: apply --dry-run
    #[arg(long, conflicts_with = "wait")]
    pub(crate) dry_run: bool,

    /// Remove all instances and links that the manifest does not name. Example: apply --prune
    #[arg(long)]
    pub(crate) prune: bool,

    /// Wait until every service that should run is ready (or has completed) and every task has
    /// completed, what should not run is stopped, and what was removed is gone; or say what is not, and why. Example: apply --wait
    #[arg(long)]
    pub(crate) wait: bool,

    /// How long to wait; 0 is for ever. Example: apply --wait --timeout 30s
    #[arg(long, value_name = "TIME", default_value = "1m", requires = "wait")]
    pub(crate) timeout: Millis,
}

#[derive(Args, Debug)]
pub(crate) struct DiffArgs {
    /// The manifest. Example: diff robot/orchestrator.toml
    #[arg(value_name = "FILE", default_value = "orchestrator.toml")]
    pub(crate) file: PathBuf,

    /// What the manifest does not name differs too. Example: diff --prune
    #[arg(long)]
    pub(crate) prune: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ValidateArgs {
    /// Manifests, each by itself. Example: validate robot.toml bench.toml
    #[arg(value_name = "FILE", default_value = "orchestrator.toml")]
    pub(crate) files: Vec<PathBuf>,
}
