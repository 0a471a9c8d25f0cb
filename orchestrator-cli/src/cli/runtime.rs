//! `runtime …`

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Subcommand};
use orchestrator_proto::control::{Listen, LogStream, Priority, Replicas};
use orchestrator_proto::{InstanceId, Millis, signal};

use super::execution::ExecutionArgs;
use super::limits::LimitsArgs;
use super::log::LogRulesArgs;
use super::supervision::SupervisionArgs;
use super::value::{self, Since};
use crate::complete;

#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one, read once")]
pub(crate) enum RuntimeCommand {
    /// Add an instance of a program. It is not started yet.
    ///
    /// Prints `added instance ID`. What will be in the way later, such as a program that does
    /// not exist yet, is printed as a warning.
    #[command(after_help = "Examples:
  orchestrator-cli runtime add ./ping
  orchestrator-cli runtime add /usr/bin/sleep --name nap -- 60
  orchestrator-cli runtime add ./camera --cwd /var/lib/camera --env LOG=debug --stop-timeout 2s
  orchestrator-cli runtime add ./target/release/ping --copy
  orchestrator-cli runtime add ./web --user www-data --ambient-caps CAP_NET_BIND_SERVICE
  orchestrator-cli runtime add ./server --restart on-failure --ready-tcp 127.0.0.1:8080
  orchestrator-cli runtime add ./planner --memory-max 512M --cpu 150% --pids-max 64
  orchestrator-cli runtime add ./server --listen http=tcp:0.0.0.0:80 --listen unix:/run/s,mode=0660
  orchestrator-cli runtime add ./worker --name worker --replicas 3
  orchestrator-cli runtime add ./backup --schedule '30 3 * * *' --time-zone Europe/Berlin")]
    Add(RuntimeAdd),

    /// Give a set of replicas another number of them.
    ///
    /// New ones are added and, if the set is to run, started; those with the highest numbers are
    /// stopped as each is to be stopped, and removed with their links and their logs. All others
    /// are left alone. The set stays with 0 too. Either all of it is done, or nothing.
    #[command(after_help = "Examples:
  orchestrator-cli runtime scale worker 5
  orchestrator-cli runtime scale worker 0 --wait")]
    Scale(ScaleArgs),

    /// Start instances and wait until their programs are executed. Schedules are run when it is
    /// time, from now on.
    #[command(after_help = "Examples:
  orchestrator-cli runtime start ping
  orchestrator-cli runtime start ping pong --priority high")]
    Start {
        /// Ids, unique prefixes of ids, or names, also of sets. Example: runtime start ping pong
        #[arg(required = true, value_name = "INSTANCE", add = complete::instances())]
        instances: Vec<String>,
        /// How favourably they are scheduled: high, normal or low. Without it as the last
        /// time. Example: --priority low
        #[arg(long)]
        priority: Option<Priority>,
    },

    /// Have schedules run now, whatever the time, and wait until their programs are executed.
    ///
    /// If a run is under way, what --overlap says follows. A schedule that is stopped is not run.
    #[command(after_help = "Example:\n  orchestrator-cli runtime run backup")]
    Run {
        /// Ids, unique prefixes of ids, or names, also of sets. Example: runtime run backup
        #[arg(required = true, value_name = "INSTANCE", add = complete::schedules())]
        instances: Vec<String>,
    },

    /// Stop instances and wait until nothing of them is left.
    #[command(after_help = "Example:\n  orchestrator-cli runtime stop ping pong")]
    Stop {
        /// Ids, unique prefixes of ids, or names, also of sets. Example: runtime stop ping
        #[arg(required = true, value_name = "INSTANCE", add = complete::instances())]
        instances: Vec<String>,
    },

    /// Stop instances and start them again.
    #[command(after_help = "Example:\n  orchestrator-cli runtime restart ping")]
    Restart {
        /// Ids, unique prefixes of ids, or names, also of sets. Example: runtime restart ping
        #[arg(required = true, value_name = "INSTANCE", add = complete::instances())]
        instances: Vec<String>,
    },

    /// Remove instances with their links and their logs.
    #[command(after_help = "Example:\n  orchestrator-cli runtime remove ping --force")]
    Remove {
        /// Ids, unique prefixes of ids, or names, also of sets. Example: runtime remove ping
        #[arg(required = true, value_name = "INSTANCE", add = complete::instances())]
        instances: Vec<String>,
        /// Stop them first if they run. Without it that is an error. Example: --force
        #[arg(long)]
        force: bool,
    },

    /// List instances, the oldest first: their states, and what they use.
    ///
    /// CPU% is of one CPU, so 200 are two, on average since somebody last asked; for the first who
    /// asks, since the instance was started. MEMORY is resident. Both are of the main process and
    /// of all that it has started. Where a terminal is too narrow, columns are left out: PROGRAM,
    /// EXIT, HEALTH, PID, RESTARTS.
    #[command(after_help = "Examples:
  orchestrator-cli runtime list
  orchestrator-cli runtime list 'camera-*' --state failed --state back-off
  orchestrator-cli runtime list --wide --watch=5s")]
    List(ListArgs),

    /// Show one instance, or one set of replicas, in full.
    #[command(after_help = "Example:\n  orchestrator-cli runtime show ping")]
    Show {
        /// Its id, a unique prefix of it, or its name. Example: runtime show ping
        #[arg(add = complete::instances())]
        instance: String,
    },

    /// Wait until instances are in a state.
    ///
    /// Ends with exit code 1 when that can't come any more, or not in time, and says why.
    #[command(after_help = "Examples:
  orchestrator-cli runtime wait server --for ready --timeout 30s
  orchestrator-cli runtime wait setup migrate --for completed")]
    Wait {
        /// Ids, unique prefixes of ids, or names, also of sets. Example: runtime wait server
        #[arg(required = true, value_name = "INSTANCE", add = complete::instances())]
        instances: Vec<String>,
        /// Which state: ready, stopped (nothing of it runs, whatever the reason) or completed (of
        /// a schedule, its last run).
        /// Example: --for completed
        #[arg(long = "for", value_name = "STATE", default_value = "ready")]
        state: WaitState,
        /// How long to wait, for ever without it. Example: --timeout 30s
        #[arg(long, value_name = "TIME")]
        timeout: Option<Millis>,
    },

    /// Print what an instance writes to its standard output, byte for byte.
    #[command(after_help = "Examples:
  orchestrator-cli runtime stdout ping
  orchestrator-cli runtime stdout ping --no-follow --tail 100 > ping.log")]
    Stdout(LogArgs),

    /// Print what an instance writes to its standard error, byte for byte.
    #[command(after_help = "Example:\n  orchestrator-cli runtime stderr ping --since 10m")]
    Stderr(LogArgs),

    /// Print what instances write, to all streams; of several, in the order of time and with
    /// the name before each line.
    #[command(after_help = "Examples:
  orchestrator-cli runtime logs ping --tail 20
  orchestrator-cli runtime logs ping pong -f --timestamps
  orchestrator-cli runtime logs --all --since 1h --grep 'error|panic'")]
    Logs(LogsArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Only those whose name or id, or whose set's name, is like one of these: `*` is any text, `?`
    /// one character.
    /// Example: runtime list 'camera-*'
    #[arg(value_name = "PATTERN", add = complete::instances())]
    pub(crate) patterns: Vec<String>,

    /// Only those in this state; may be repeated. Example: --state failed --state back-off
    #[arg(long = "state", value_name = "STATE")]
    pub(crate) states: Vec<StateWord>,

    /// All columns with full ids, however wide the terminal is. Example: runtime list --wide
    #[arg(long)]
    pub(crate) wide: bool,

    /// Show it again whenever something happens, and in any case after this time (2s without
    /// one, at least 100ms), until Ctrl-C. On a terminal in its place, elsewhere one after the
    /// other with an empty line between them; with --json one line each.
    /// Example: --watch, --watch=500ms
    #[arg(long, value_name = "INTERVAL", num_args = 0..=1, require_equals = true,
          default_missing_value = "2s", value_parser = value::interval)]
    pub(crate) watch: Option<Duration>,
}

/// A state of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum StateWord {
    Stopped,
    Scheduled,
    Waiting,
    Starting,
    Ready,
    Unhealthy,
    Stopping,
    BackOff,
    Completed,
    Failed,
}

impl StateWord {
    /// As the daemon says it.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Scheduled => "scheduled",
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Unhealthy => "unhealthy",
            Self::Stopping => "stopping",
            Self::BackOff => "back-off",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }
}

/// What `runtime wait` waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum WaitState {
    Ready,
    Stopped,
    Completed,
}

#[derive(Args, Debug)]
pub(crate) struct RuntimeAdd {
    /// The program.
    ///
    /// Made absolute against the current directory; symbolic links stay as they are. A bare
    /// name such as `sleep` is a file in the current directory too: $PATH is not searched.
    /// Example: runtime add ./ping
    #[arg(value_name = "PATH")]
    pub(crate) program: PathBuf,

    /// A unique name: 1 to 64 letters of A-Z and a-z, digits, `.`, `_` or `-`. Example: --name ping
    #[arg(long)]
    pub(crate) name: Option<String>,

    /// So many of it: a set of replicas, 0 to 256.
    ///
    /// Each is an instance of its own, with the name of the set and its index, as worker.1, and
    /// finds that index in ORCHESTRATOR_REPLICA. The name of the set means all of them in other
    /// commands, requirements and links; `runtime scale` changes their number. Not with --id,
    /// --copy and --listen, which are for one instance. Example: --name worker --replicas 3
    #[arg(long, value_name = "N", requires = "name", conflicts_with_all = ["id", "copy", "listen"])]
    pub(crate) replicas: Option<Replicas>,

    /// The id to use, else the daemon chooses one.
    /// Example: --id 0195fc7b-33e6-70e3-bee1-ac515185fac7
    #[arg(long, value_name = "UUID")]
    pub(crate) id: Option<InstanceId>,

    /// Send the program to the daemon, which keeps its own copy. Example: --copy
    #[arg(long)]
    pub(crate) copy: bool,

    /// Let the instance start and stop instances itself. Example: --privileged
    #[arg(long)]
    pub(crate) privileged: bool,

    /// Set a variable on top of those that it inherits and those from files; may be repeated.
    /// Example: --env LOG=debug --env EMPTY=
    #[arg(long, value_name = "NAME=VALUE",
          value_parser = OsStringValueParser::new().try_map(value::env_pair))]
    pub(crate) env: Vec<(OsString, OsString)>,

    /// Its working directory, made absolute like PATH; / without it. Example: --cwd /var/lib/ping
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<PathBuf>,

    /// The signal that asks it to stop, SIGTERM without it. Example: --stop-signal INT
    #[arg(long, value_name = "SIGNAL", value_parser = signal::parse)]
    pub(crate) stop_signal: Option<i32>,

    /// How long it may take to stop before it is killed, 10s without it; at most 1d.
    /// Example: --stop-timeout 500ms
    #[arg(long, value_name = "TIME", value_parser = value::stop_timeout)]
    pub(crate) stop_timeout: Option<Duration>,

    /// A socket that listens for it whether it runs or not; may be repeated, up to 16 times.
    ///
    /// tcp:IP:PORT, udp:IP:PORT, unix:PATH or unix-datagram:PATH, each with NAME= before it if the
    /// program tells them apart by names. It is open from now until the instance is removed, and
    /// the program is given it as systemd does, see sd_listen_fds(3): LISTEN_FDS, LISTEN_PID,
    /// LISTEN_FDNAMES, files from 3 on. Who connects while it does not run waits. A path is made
    /// absolute like PATH, and its permissions are 0600 without `,mode=`.
    /// Example: --listen http=tcp:127.0.0.1:8080 --listen unix:/run/ping.socket,mode=0660
    #[arg(long, value_name = "[NAME=]SOCKET")]
    pub(crate) listen: Vec<Listen>,

    #[command(flatten)]
    pub(crate) supervision: SupervisionArgs,

    #[command(flatten)]
    pub(crate) execution: ExecutionArgs,

    #[command(flatten)]
    pub(crate) log: LogRulesArgs,

    #[command(flatten)]
    pub(crate) limits: LimitsArgs,

    /// Its arguments, after `--`. Example: runtime add /usr/bin/sleep -- 60
    #[arg(last = true, value_name = "ARGS")]
    pub(crate) args: Vec<OsString>,
}

#[derive(Args, Debug)]
pub(crate) struct ScaleArgs {
    /// The set, by its name. Example: runtime scale worker 5
    #[arg(add = complete::sets())]
    pub(crate) set: String,

    /// How many replicas, 0 to 256. Example: runtime scale worker 5
    #[arg(value_name = "N")]
    pub(crate) replicas: Replicas,

    /// Wait until new replicas are ready, as far as the set is to run, and those that are removed
    /// are gone; or say what is not, and why. Example: runtime scale worker 5 --wait
    #[arg(long)]
    pub(crate) wait: bool,

    /// How long to wait; 0 is for ever. Example: --wait --timeout 30s
    #[arg(long, value_name = "TIME", default_value = "1m", requires = "wait")]
    pub(crate) timeout: Millis,
}

#[derive(Args, Debug)]
pub(crate) struct LogArgs {
    /// Its id, a unique prefix of it, or its name. Example: runtime stdout ping
    #[arg(add = complete::instances())]
    pub(crate) instance: String,

    #[command(flatten)]
    pub(crate) range: LogRange,
}

#[derive(Args, Debug)]
pub(crate) struct LogsArgs {
    /// Ids, unique prefixes of ids, or names, also of sets. Example: runtime logs ping pong
    #[arg(value_name = "INSTANCE", required_unless_present = "all", add = complete::instances())]
    pub(crate) instances: Vec<String>,

    /// All instances that there are now. Example: runtime logs --all -f
    #[arg(long, conflicts_with = "instances")]
    pub(crate) all: bool,

    /// Only this stream: stdout, stderr, telemetry, or orchestrator for its own remarks.
    /// Example: runtime logs ping --stream stderr
    #[arg(long)]
    pub(crate) stream: Option<LogStream>,

    #[command(flatten)]
    pub(crate) range: LogRange,
}

#[derive(Args, Debug)]
pub(crate) struct LogRange {
    /// Go on with new lines until the instance is removed. This is the default for an instance
    /// that runs. Example: runtime logs ping -f
    #[arg(short, long, overrides_with = "no_follow")]
    follow: bool,

    /// End after the lines that are kept. This is the default for an instance that does not
    /// run. Example: runtime logs ping --no-follow
    #[arg(long, overrides_with = "follow")]
    no_follow: bool,

    /// Begin with this many of the last lines of each instance, at most 1000000, of those that
    /// are asked for. Example: --tail 100
    #[arg(long, value_name = "LINES", value_parser = clap::value_parser!(u64).range(..=1_000_000))]
    pub(crate) tail: Option<u64>,

    /// Only lines from this time on: a time ago, or a time as in RFC 3339.
    /// Example: --since 10m, --since 2026-11-20T08:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Since>,

    /// Only lines up to this time, also when following: a time ago, or a time as in RFC 3339.
    /// Example: --until 5m, --until 2026-11-20T09:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<Since>,

    /// Only lines in which this regular expression matches something. The daemon searches.
    /// Example: --grep 'error|warn'
    #[arg(long, value_name = "REGEX")]
    pub(crate) grep: Option<String>,

    /// The time before each line, UTC; of all streams, the stream as well.
    /// Example: runtime logs ping --timestamps
    #[arg(long)]
    pub(crate) timestamps: bool,
}

impl LogRange {
    /// Whether to go on with new lines; none leaves it to the state of the instances.
    pub(crate) const fn follow(&self) -> Option<bool> {
        match (self.follow, self.no_follow) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        }
    }
}
