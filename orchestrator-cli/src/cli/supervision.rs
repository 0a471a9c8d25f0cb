//! How an instance is supervised, as options of `runtime add`.

use clap::{ArgGroup, Args};
use orchestrator_proto::Millis;
use orchestrator_proto::control::{
    After, Check, Condition, OnFailure, Probe, Readiness, Requirement, RestartPolicy, Stop,
    StopStep, Supervision,
};

use super::schedule::KindArgs;

#[derive(Args, Debug)]
#[command(next_help_heading = "Supervision")]
#[command(group(ArgGroup::new("readiness").args([
    "ready_notify", "ready_runtime", "ready_exec", "ready_http", "ready_tcp", "ready_output",
])))]
#[command(group(ArgGroup::new("liveness").args(["live_exec", "live_http", "live_tcp"])))]
pub(crate) struct SupervisionArgs {
    #[command(flatten)]
    kind: KindArgs,

    /// When it is started again by itself: never, on-failure, or always. Example: --restart always
    #[arg(long, value_name = "WHEN", value_parser = restart_policy, default_value = "never")]
    restart: RestartPolicy,

    /// From its end to the first new start; each delay after that is --restart-factor times the
    /// one before. Example: --restart-delay 1s
    #[arg(long, value_name = "TIME", default_value = "100ms")]
    restart_delay: Millis,

    /// By how much each delay is longer than the one before. Example: --restart-factor 1
    #[arg(long, value_name = "N", default_value_t = 2,
          value_parser = clap::value_parser!(u32).range(1..=100))]
    restart_factor: u32,

    /// The longest delay. Example: --restart-max-delay 5m
    #[arg(long, value_name = "TIME", default_value = "1m")]
    restart_max_delay: Millis,

    /// Change each delay by chance by up to so many percent. Example: --restart-jitter 0
    #[arg(long, value_name = "PERCENT", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(..=100))]
    restart_jitter: u32,

    /// After it has been ready for so long, delays begin anew. Example: --restart-reset-after 1m
    #[arg(long, value_name = "TIME", default_value = "10s")]
    restart_reset_after: Millis,

    /// Give up after so many new starts within --restart-burst-within; 0 is never.
    /// Example: --restart-burst 5
    #[arg(long, value_name = "N", default_value_t = 0,
          value_parser = clap::value_parser!(u32).range(..=1000))]
    restart_burst: u32,

    /// See --restart-burst. Example: --restart-burst-within 10s
    #[arg(long, value_name = "TIME", default_value = "1m")]
    restart_burst_within: Millis,

    /// Exit codes that are no failure. Example: --success-exit-codes 0,3
    #[arg(long, value_name = "CODES", value_delimiter = ',', default_value = "0")]
    success_exit_codes: Vec<u8>,

    /// It is ready when it says READY=1, see sd_notify(3). Example: --ready-notify
    #[arg(long)]
    ready_notify: bool,

    /// It is ready when it says so through its runtime socket. Example: --ready-runtime
    #[arg(long)]
    ready_runtime: bool,

    /// It is ready when this command ends with exit code 0; words are split at spaces.
    /// Example: --ready-exec "/usr/bin/test -e /run/ping.ready"
    #[arg(long, value_name = "COMMAND")]
    ready_exec: Option<String>,

    /// It is ready when this URL is answered with a status from 200 to 399.
    /// Example: --ready-http http://127.0.0.1:8080/health
    #[arg(long, value_name = "URL")]
    ready_http: Option<String>,

    /// It is ready when somebody listens there. Example: --ready-tcp 127.0.0.1:8080
    #[arg(long, value_name = "HOST:PORT")]
    ready_tcp: Option<String>,

    /// It is ready when it prints a line that matches. Example: --ready-output "listening on .*"
    #[arg(long, value_name = "REGEX")]
    ready_output: Option<String>,

    /// From one readiness check to the next. Example: --ready-interval 100ms
    #[arg(long, value_name = "TIME", default_value = "1s")]
    ready_interval: Millis,

    /// How long the answer to a readiness check may take. Example: --ready-timeout 5s
    #[arg(long, value_name = "TIME", default_value = "1s")]
    ready_timeout: Millis,

    /// It has failed when it is not ready within this time; 0 is without a limit.
    /// Example: --start-timeout 30s
    #[arg(long, value_name = "TIME", default_value = "0")]
    start_timeout: Millis,

    /// It is well as long as this command ends with exit code 0; words are split at spaces.
    /// Example: --live-exec "/usr/bin/pgrep -x ping"
    #[arg(long, value_name = "COMMAND")]
    live_exec: Option<String>,

    /// It is well as long as this URL is answered with a status from 200 to 399.
    /// Example: --live-http http://127.0.0.1:8080/health
    #[arg(long, value_name = "URL")]
    live_http: Option<String>,

    /// It is well as long as somebody listens there. Example: --live-tcp 127.0.0.1:8080
    #[arg(long, value_name = "HOST:PORT")]
    live_tcp: Option<String>,

    /// From one liveness check to the next. Example: --live-interval 10s
    #[arg(long, value_name = "TIME", default_value = "1s")]
    live_interval: Millis,

    /// How long the answer to a liveness check may take. Example: --live-timeout 5s
    #[arg(long, value_name = "TIME", default_value = "1s")]
    live_timeout: Millis,

    /// It is unhealthy after so many bad answers on end. Example: --live-failures 1
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..))]
    live_failures: u32,

    /// It is well again after so many good answers on end. Example: --live-successes 2
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..))]
    live_successes: u32,

    /// It has to say WATCHDOG=1 this often, see sd_notify(3); 0 is never. Example: --watchdog 5s
    #[arg(long, value_name = "TIME", default_value = "0")]
    watchdog: Millis,

    /// It needs another instance to be started, ready (without a condition) or completed; to
    /// start it starts that one. If that one fails or is stopped later: stop, restart (without
    /// it), or ignore. May be repeated. Example: --requires db, --requires db:started:ignore
    #[arg(long, value_name = "INSTANCE[:CONDITION[:ON-FAILURE]]", value_parser = requirement)]
    requires: Vec<Requirement>,

    /// It waits for another instance to be started, ready (without a condition) or completed, if
    /// that one is to run. May be repeated. Example: --after net, --after setup:completed
    #[arg(long, value_name = "INSTANCE[:CONDITION]", value_parser = after)]
    after: Vec<After>,

    /// The command that asks it to stop, before any signal, which is sent at once if the command
    /// fails; words are split at spaces.
    /// Example: --stop-command "/usr/bin/nginx -s quit"
    #[arg(long, value_name = "COMMAND")]
    stop_command: Option<String>,

    /// Signals that ask it to stop, each with the time until the next one; SIGKILL is the last.
    /// Example: --stop "SIGINT 1s, SIGTERM 5s"
    #[arg(long, value_name = "SIGNAL TIME, …", value_delimiter = ',',
          conflicts_with_all = ["stop_signal", "stop_timeout"])]
    stop: Vec<StopStep>,
}

impl SupervisionArgs {
    /// # Errors
    ///
    /// A sentence, if options do not go together.
    pub(crate) fn into_supervision(
        self,
        stop_signal: Option<i32>,
        stop_timeout: Option<std::time::Duration>,
    ) -> Result<Supervision, String> {
        let (kind, run_timeout) = self.kind.into_kind()?;
        let mut rules = Supervision { kind, run_timeout, ..Supervision::default() };
        let restart = &mut rules.restart;
        restart.policy = self.restart;
        restart.delay = self.restart_delay;
        restart.factor = self.restart_factor;
        restart.max_delay = self.restart_max_delay;
        restart.jitter = self.restart_jitter;
        restart.reset_after = self.restart_reset_after;
        restart.burst = self.restart_burst;
        restart.burst_within = self.restart_burst_within;
        restart.success_exit_codes = self.success_exit_codes;
        let ready = self.ready_exec.as_deref().map(|text| Check::Exec(words(text)));
        let ready = ready.or(self.ready_http.map(Check::Http));
        let ready = ready.or(self.ready_tcp.map(Check::Tcp));
        let ready = ready.or(self.ready_output.map(Check::Output));
        rules.readiness = match ready {
            Some(check) => Readiness::Probe(Probe {
                interval: self.ready_interval,
                timeout: self.ready_timeout,
                ..Probe::new(check)
            }),
            None if self.ready_notify => Readiness::Notify,
            None if self.ready_runtime => Readiness::Runtime,
            None => Readiness::Running,
        };
        rules.start_timeout = self.start_timeout;
        let live = self.live_exec.as_deref().map(|text| Check::Exec(words(text)));
        let live = live.or(self.live_http.map(Check::Http)).or(self.live_tcp.map(Check::Tcp));
        rules.liveness = live.map(|check| Probe {
            check,
            interval: self.live_interval,
            timeout: self.live_timeout,
            failures: self.live_failures,
            successes: self.live_successes,
        });
        rules.watchdog = self.watchdog;
        rules.requires = self.requires;
        rules.after = self.after;
        rules.stop = Stop {
            command: self.stop_command.as_deref().map(words).unwrap_or_default(),
            steps: if self.stop.is_empty() { Stop::default().steps } else { self.stop },
        };
        if let Some(first) = rules.stop.steps.first_mut() {
            if let Some(signal) = stop_signal {
                first.signal.0 = signal;
            }
            if let Some(timeout) = stop_timeout {
                first.wait = timeout.into();
            }
        }
        Ok(rules)
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_ascii_whitespace().map(Into::into).collect()
}

fn restart_policy(text: &str) -> Result<RestartPolicy, String> {
    match text {
        "never" => Ok(RestartPolicy::Never),
        "on-failure" => Ok(RestartPolicy::OnFailure),
        "always" => Ok(RestartPolicy::Always),
        other => {
            Err(format!("{other:?} is not a time to restart; use never, on-failure or always"))
        }
    }
}

fn condition(text: Option<&str>) -> Result<Condition, String> {
    match text {
        None => Ok(Condition::default()),
        Some("started") => Ok(Condition::Started),
        Some("ready") => Ok(Condition::Ready),
        Some("completed") => Ok(Condition::Completed),
        Some(other) => {
            Err(format!("{other:?} is not a condition; use started, ready or completed"))
        }
    }
}

fn requirement(text: &str) -> Result<Requirement, String> {
    let mut parts = text.splitn(3, ':');
    let instance = parts.next().unwrap_or_default().to_owned();
    let condition = condition(parts.next())?;
    let on_failure = match parts.next() {
        None => OnFailure::default(),
        Some("stop") => OnFailure::Stop,
        Some("restart") => OnFailure::Restart,
        Some("ignore") => OnFailure::Ignore,
        Some(other) => return Err(format!("{other:?} is no effect; use stop, restart or ignore")),
    };
    Ok(Requirement { instance, condition, on_failure })
}

fn after(text: &str) -> Result<After, String> {
    let mut parts = text.splitn(2, ':');
    let instance = parts.next().unwrap_or_default().to_owned();
    Ok(After { instance, condition: condition(parts.next())? })
}
