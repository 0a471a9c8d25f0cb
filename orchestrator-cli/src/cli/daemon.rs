//! `daemon …`

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::value;

/// What all that replace a daemon promise.
const HOW: &str = "\
The new daemon is started beside the old one, and takes its place once it has shown that it can read
the state. If it can't, the old one stays. Instances go on, nothing that they print is lost, and
clients that connect meanwhile wait for a moment. The holder, the parent of all processes, stays as
it is until the service is restarted.";

#[derive(Debug, Subcommand)]
pub(crate) enum DaemonCommand {
    /// Show the processes of the orchestrator, and what waits in the daemon's queues.
    #[command(after_help = "Examples:
  orchestrator-cli daemon status
  orchestrator-cli --json daemon status")]
    Status,

    /// Replace the daemon by a new one of the same version.
    ///
    /// It is the same program even if its file was replaced in the meantime; for that one there is
    /// `daemon upgrade`.
    #[command(after_help = format!("{HOW}\n\nExample:\n  orchestrator-cli daemon restart"))]
    Restart(Patience),

    /// Replace the daemon by one of another version.
    ///
    /// Without --binary by what is now in the file that the daemon was started from, such as
    /// after the upgrade of a package.
    #[command(after_help = format!("{HOW}\n\nExamples:
  orchestrator-cli daemon upgrade
  orchestrator-cli daemon upgrade --binary ./target/release/orchestrator"))]
    Upgrade {
        /// The new program. Example: --binary /opt/orchestrator-2/bin/orchestrator
        #[arg(long, value_name = "PATH")]
        binary: Option<PathBuf>,

        #[command(flatten)]
        patience: Patience,
    },
}

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// How long the new daemon may take to be able to take over; 30s without it. Example:
    /// --timeout 5s
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = value::duration,
          hide_default_value = true)]
    pub(crate) timeout: Duration,
}
