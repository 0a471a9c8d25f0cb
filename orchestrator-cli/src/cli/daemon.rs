//! `daemon …`

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::value;

/// What all that replace a daemon promise.
const HOW: &str = "\
The new daemon is started beside the old one, and takes its place once it has shown that it can read
the state. If it can't, the old one stays. Instances go on, nothing that they print is lost, and
clients that connect meanwhile wait for a moment.";

/// What is promised of the other processes.
const OTHERS: &str = "\
The holder, the parent of all processes, then executes the same program in its own process: its
number stays, and so does all that it has. Last, the process that captures what instances print ends
after what it has read, and another one reads on. What can't be replaced goes on as it is, and this
command says why.";

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
    #[command(after_help = format!("{HOW}\n\nWith --all: {OTHERS}\n\nExamples:
  orchestrator-cli daemon restart
  orchestrator-cli daemon restart --all"))]
    Restart {
        /// Then replace the holder's program and the capture process too. Example: daemon restart
        /// --all
        #[arg(long)]
        all: bool,

        #[command(flatten)]
        patience: Patience,
    },

    /// Replace the daemon, then the holder's program and the capture process, by those of another
    /// version.
    ///
    /// Without --binary by what is now in the file that the daemon was started from, such as
    /// after the upgrade of a package.
    #[command(after_help = format!("{HOW}\n\n{OTHERS}\n\nExamples:
  orchestrator-cli daemon upgrade
  orchestrator-cli daemon upgrade --binary ./target/release/orchestrator"))]
    Upgrade {
        /// The new program. Example: --binary /opt/orchestrator-2/bin/orchestrator
        #[arg(long, value_name = "PATH")]
        binary: Option<PathBuf>,

        /// Leave the holder, and with it the capture process, as they are. Example: daemon upgrade
        /// --keep-holder
        #[arg(long)]
        keep_holder: bool,

        #[command(flatten)]
        patience: Patience,
    },
}

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// How long each may take: the new daemon to be able to take over, the holder to have nothing
    /// under way, the capture process to end; 30s without it. Example: --timeout 5s
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = value::duration,
          hide_default_value = true)]
    pub(crate) timeout: Duration,
}
