//! The one definition of the command line: help, manual pages and completions come from it.

mod daemon;
mod execution;
mod limits;
mod link;
mod log;
mod manifest;
mod runtime;
mod schedule;
mod supervision;
mod types;
pub(crate) mod value;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use orchestrator_proto::paths::ENV_CONTROL_SOCKET;

use value::Begin;

pub(crate) use daemon::{DaemonCommand, Patience};
pub(crate) use link::{
    LinkCall, LinkCommand, LinkRecord, LinkReplay, LinkSend, LinkSet, LinkTap, RecordEncoding,
};
pub(crate) use manifest::{ApplyArgs, DiffArgs, ValidateArgs};
pub(crate) use runtime::{
    ListArgs, LogArgs, LogRange, LogsArgs, RuntimeAdd, RuntimeCommand, ScaleArgs, WaitState,
};
pub(crate) use types::{TypeCommand, TypeListArgs, TypeShowArgs};

const AFTER: &str = "\
Exit codes:
  0    done
  1    failed
  2    the command line is wrong
  3    no such instance or link
  4    the daemon can't be reached, or does not accept this client
  5    what is there differs from the manifest (diff)
  6    not done in the time that was given (link send, link call)
  7    the service that was called failed (link call)
  130  ended by Ctrl-C

Examples:
  orchestrator-cli runtime add ./ping --name ping
  orchestrator-cli runtime start ping
  orchestrator-cli runtime stdout ping
  orchestrator-cli link add --from ping --type Ping --to pong
  orchestrator-cli --json runtime list";

/// Flags that every command takes, below its own.
const GLOBAL: &str = "Global options";

/// Drives an orchestrator: adds programs, starts and stops them, shows what they print, and
/// links their messages.
#[derive(Debug, Parser)]
#[command(name = "orchestrator-cli", version, after_help = AFTER)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Args, Debug)]
pub(crate) struct Global {
    /// The daemon's control socket.
    ///
    /// Without it, the first of these that applies: $XDG_RUNTIME_DIR/orchestrator.socket; for
    /// root /run/orchestrator/orchestrator.socket, also if the first one is not there; $TMPDIR/orchestrator-UID/orchestrator.socket,
    /// with /tmp when TMPDIR is not set. Example: --socket /run/user/1000/orchestrator.socket
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "PATH", env = ENV_CONTROL_SOCKET, hide_env_values = true)]
    pub(crate) socket: Option<OsString>,

    /// Print JSON: the daemon's reply, or one object per line for a stream.
    ///
    /// A failure goes to standard error as {"error":{"code":...,"message":...,"causes":[...]}}.
    /// Example: orchestrator-cli --json runtime list
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub(crate) json: bool,

    /// When to use colours. On a terminal, unless NO_COLOR is set, if it is `auto`.
    ///
    /// Example: orchestrator-cli --color always runtime list | less -R
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: ColorWhen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorWhen {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one, read once")]
pub(crate) enum Command {
    /// Print the daemon's version, as `server version: X.Y.Z`.
    #[command(after_help = "Example:\n  orchestrator-cli version")]
    Version,

    /// Show the daemon: its version, process, directories and counts.
    #[command(after_help = "Example:\n  orchestrator-cli status")]
    Status,

    /// Add instances, start and stop them, show what they print.
    #[command(subcommand)]
    #[command(after_help = "Example:\n  orchestrator-cli runtime list")]
    Runtime(RuntimeCommand),

    /// Decide which messages go where, and watch them.
    #[command(subcommand)]
    #[command(after_help = "Example:\n  orchestrator-cli link list")]
    Link(LinkCommand),

    /// Show the types of messages: what they are made of, and who declares them.
    #[command(subcommand)]
    #[command(after_help = "Example:\n  orchestrator-cli type list")]
    Type(TypeCommand),

    /// Make everything as a manifest says: all of it, or nothing.
    ///
    /// Shows what differs, and touches nothing that does not. An instance that differs is changed
    /// in place, with its id, its log and its links; it is restarted only if something differs
    /// that a program is told when it is executed: program, args, env, cwd, priority, watchdog,
    /// and whether it is to say that it is ready.
    #[command(after_help = "Examples:
  orchestrator-cli apply
  orchestrator-cli apply robot.toml --dry-run
  orchestrator-cli apply robot.toml --prune --wait --timeout 30s")]
    Apply(ApplyArgs),

    /// Show what `apply` would do. Ends with exit code 5 if anything differs.
    #[command(after_help = "Example:\n  orchestrator-cli diff robot.toml --prune")]
    Diff(DiffArgs),

    /// Print everything as it is defined now, as a manifest. To apply it changes nothing.
    #[command(after_help = "Example:\n  orchestrator-cli export > orchestrator.toml")]
    Export,

    /// Check manifests, without a daemon: each error with its file, line and column.
    #[command(after_help = "Example:\n  orchestrator-cli validate robot.toml")]
    Validate(ValidateArgs),

    /// Print the JSON Schema of manifests, with which an editor completes and checks them.
    #[command(after_help = "Example:\n  orchestrator-cli schema > orchestrator.schema.json")]
    Schema,

    /// Show the processes of the orchestrator, and replace the daemon while instances go on.
    #[command(subcommand)]
    #[command(after_help = "Example:\n  orchestrator-cli daemon status")]
    Daemon(DaemonCommand),

    /// Show instances, links and logs on the whole terminal, and start, stop and restart
    /// instances by a key.
    #[command(after_help = "Keys:
  up, down, j, k   choose an instance            s   start it
  page up, down    read what it has printed      x   stop it, after a question
  /                show only some                r   restart it, after a question
  ?                help                          q   quit

Example:
  orchestrator-cli top")]
    Top,

    /// Check what this machine and this installation allow, and say what to do about each gap.
    ///
    /// Ends with exit code 1 when something does not work; warnings are of things that some need
    /// and others don't. Without a daemon it checks what it can, and says how to start one.
    #[command(after_help = "Examples:
  orchestrator-cli doctor
  orchestrator-cli --json doctor")]
    Doctor,

    /// Remove all instances and links.
    #[command(after_help = "Example:\n  orchestrator-cli clear --force")]
    Clear {
        /// Stop instances that run. Without it they are an error. Example: clear --force
        #[arg(long)]
        force: bool,
    },

    /// Show what happened: starts, exits, links, connections.
    ///
    /// Each event has a number. The last 100,000 are kept, also when the daemon is started anew.
    #[command(after_help = "Examples:
  orchestrator-cli events
  orchestrator-cli events --since 10m
  orchestrator-cli events --follow --instance ping
  orchestrator-cli --json events --follow --after 4711")]
    Events(EventsArgs),

    /// Print a script that completes this program's command line in a shell: commands, flags, and
    /// names of instances and links, for which it asks the daemon.
    ///
    /// Print it anew after an upgrade of this program.
    #[command(after_help = "Examples:
  orchestrator-cli completions bash > ~/.local/share/bash-completion/completions/orchestrator-cli
  orchestrator-cli completions zsh > ~/.zfunc/_orchestrator-cli
  orchestrator-cli completions fish > ~/.config/fish/completions/orchestrator-cli.fish")]
    Completions {
        /// For this shell. Example: completions zsh
        shell: CompletedShell,
    },

    /// Print the manual page, or write one page per command.
    #[command(after_help = "Examples:
  orchestrator-cli man | man -l -
  orchestrator-cli man ~/.local/share/man/man1")]
    Man {
        /// Write a page for each command into this directory. Example: man ./man1
        directory: Option<PathBuf>,
    },
}

/// A shell that can be had completions for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CompletedShell {
    Bash,
    Elvish,
    Fish,
    Powershell,
    Zsh,
}

#[derive(Args, Debug)]
pub(crate) struct EventsArgs {
    /// Go on with new events. Example: events -f
    #[arg(short, long)]
    pub(crate) follow: bool,

    /// Only events with a higher number: to go on where another call ended. Example:
    /// events --after 120
    #[arg(long, value_name = "SEQ", conflicts_with = "since")]
    pub(crate) after: Option<u64>,

    /// Only events from this number or this time on: a number, a time ago with its unit, or a
    /// time as in RFC 3339. Example: --since 121, --since 10m, --since 2026-11-20T08:00:00Z
    #[arg(long, value_name = "SEQ|TIME")]
    pub(crate) since: Option<Begin>,

    /// Only events of this instance. Example: events --instance ping
    #[arg(long, value_name = "INSTANCE", add = crate::complete::instances())]
    pub(crate) instance: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_flag_has_help_with_an_example() {
        fn check(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            let after = command.get_after_help().map(ToString::to_string);
            assert!(after.is_some_and(|text| text.contains("Example")), "{path}");
            assert!(command.get_about().is_some(), "{path}");
            for arg in command.get_arguments() {
                let id = arg.get_id();
                let help = arg.get_long_help().or(arg.get_help());
                let help = help.map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("Example"), "{path} {id}: {help}");
            }
            for sub in command.get_subcommands() {
                check(sub, &path);
            }
        }
        // Not built, so that the arguments that clap adds itself are not among them.
        check(&Cli::command(), "");
    }
}
