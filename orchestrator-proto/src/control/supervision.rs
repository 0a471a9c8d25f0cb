//! How an instance is supervised: when it is started again, when it counts as ready and as
//! healthy, what it needs, and how it is stopped.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::info::Exit;
use super::schedule::Schedule;
use crate::millis::Millis;

/// All of it. Every part has a default: a service that is never started again, counts as ready
/// as soon as it runs, needs nobody, and is stopped by SIGTERM, then SIGKILL ten seconds later.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Supervision {
    /// What it is for.
    pub kind: Kind,
    /// Whether and when it is started again after its end.
    pub restart: Restart,
    /// When it counts as ready.
    pub readiness: Readiness,
    /// Until when it has to be ready after its program was executed; 0 is for ever.
    pub start_timeout: Millis,
    /// How it is asked whether it is well, while it is ready; none if it is not.
    pub liveness: Option<Probe>,
    /// It has to say that it is well this often, by `WATCHDOG=1`, see sd_notify(3); 0 is never.
    pub watchdog: Millis,
    /// Instances that it needs. To start it starts them.
    pub requires: Vec<Requirement>,
    /// Instances that it waits for if they are to run. To start it does not start them.
    pub after: Vec<After>,
    /// How it is stopped.
    pub stop: Stop,
    /// Until when each execution has to end, of what runs to its end; 0 is for ever. One that does
    /// not is stopped, and has failed.
    pub run_timeout: Millis,
}

/// What an instance is for.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// To run for ever.
    #[default]
    Service,
    /// To run once, to its end.
    Task,
    /// To run again and again, each time to its end.
    Schedule(Schedule),
}

impl Kind {
    /// What it is in one word.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Task => "task",
            Self::Schedule(_) => "schedule",
        }
    }

    /// Its schedule, if it has one.
    #[must_use]
    pub const fn schedule(&self) -> Option<&Schedule> {
        match self {
            Self::Schedule(schedule) => Some(schedule),
            Self::Service | Self::Task => None,
        }
    }
}

/// When an instance is started again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Never by itself.
    #[default]
    Never,
    /// When it has failed: by its end, or by not being ready or healthy.
    OnFailure,
    /// After each end that nobody asked for.
    Always,
}

/// Whether and when an instance is started again after its end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Restart {
    /// When.
    pub policy: RestartPolicy,
    /// From the end to the first new start.
    pub delay: Millis,
    /// By how much each delay is longer than the one before; 1 to 100.
    pub factor: u32,
    /// The longest delay.
    pub max_delay: Millis,
    /// Each delay is changed by chance by up to so many percent up or down, so that what failed
    /// together does not come back together; 0 to 100.
    pub jitter: u32,
    /// After it has been ready for so long, the next delay is the first one again.
    pub reset_after: Millis,
    /// This many new starts within `burst_within` are tried, then it has failed for good; 0 is
    /// without a limit. At most [`Restart::MAX_BURST`].
    pub burst: u32,
    /// See `burst`.
    pub burst_within: Millis,
    /// Exit codes that are no failure.
    pub success_exit_codes: Vec<u8>,
}

impl Restart {
    /// The most that `burst` can be.
    pub const MAX_BURST: u32 = 1000;

    /// Whether this end is no failure.
    #[must_use]
    pub fn is_success(&self, exit: Exit) -> bool {
        match exit {
            Exit::Code(code) => {
                u8::try_from(code).is_ok_and(|code| self.success_exit_codes.contains(&code))
            }
            Exit::Signal { .. } | Exit::Unknown | Exit::OutOfMemory { .. } => false,
        }
    }

    /// Whether a new start follows an end that nobody asked for, if it was not tried too often.
    #[must_use]
    pub const fn is_after(&self, is_success: bool) -> bool {
        match self.policy {
            RestartPolicy::Never => false,
            RestartPolicy::OnFailure => !is_success,
            RestartPolicy::Always => true,
        }
    }
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            policy: RestartPolicy::Never,
            delay: Millis(100),
            factor: 2,
            max_delay: Millis::secs(60),
            jitter: 10,
            reset_after: Millis::secs(10),
            burst: 0,
            burst_within: Millis::secs(60),
            success_exit_codes: vec![0],
        }
    }
}

/// When an instance counts as ready.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Readiness {
    /// As soon as its program was executed.
    #[default]
    Running,
    /// When it says `READY=1` on `NOTIFY_SOCKET`, see sd_notify(3).
    Notify,
    /// When it says so through its runtime socket.
    Runtime,
    /// When it answers.
    Probe(Probe),
}

/// A question that is asked again and again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Probe {
    /// The question.
    pub check: Check,
    /// From one question to the next.
    #[serde(default = "Probe::interval")]
    pub interval: Millis,
    /// How long an answer may take.
    #[serde(default = "Probe::timeout")]
    pub timeout: Millis,
    /// So many bad answers on end mean that it is not well; at least 1.
    #[serde(default = "Probe::failures")]
    pub failures: u32,
    /// So many good answers on end mean that it is ready, or well again; at least 1.
    #[serde(default = "Probe::successes")]
    pub successes: u32,
}

impl Probe {
    /// The question, with the defaults for the rest.
    #[must_use]
    pub const fn new(check: Check) -> Self {
        Self {
            check,
            interval: Self::interval(),
            timeout: Self::timeout(),
            failures: Self::failures(),
            successes: Self::successes(),
        }
    }

    const fn interval() -> Millis {
        Millis::secs(1)
    }

    const fn timeout() -> Millis {
        Millis::secs(1)
    }

    const fn failures() -> u32 {
        3
    }

    const fn successes() -> u32 {
        1
    }
}

/// What a probe asks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// Whether this program ends with exit code 0: its absolute path and its arguments. It runs
    /// with the environment and in the working directory of the instance.
    Exec(Vec<String>),
    /// Whether this URL (`http://HOST:PORT/PATH`) is answered with a status from 200 to 399.
    Http(String),
    /// Whether somebody listens at this address, `HOST:PORT`.
    Tcp(String),
    /// Whether it has printed a line that matches this regular expression. For readiness only.
    Output(String),
}

/// How far another instance has to be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// Its program was executed.
    Started,
    /// It is ready.
    #[default]
    Ready,
    /// It has run to its end without a failure.
    Completed,
}

/// What becomes of an instance when one that it needs fails or is stopped.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// It is stopped, and has failed.
    Stop,
    /// It is stopped, and started again when that one is back.
    #[default]
    Restart,
    /// Nothing.
    Ignore,
}

/// An instance that is needed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Requirement {
    /// Its name, or its id.
    pub instance: String,
    /// How far it has to be.
    #[serde(default)]
    pub condition: Condition,
    /// What if it fails or is stopped later.
    #[serde(default)]
    pub on_failure: OnFailure,
}

/// An instance that is waited for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct After {
    /// Its name, or its id.
    pub instance: String,
    /// How far it has to be.
    #[serde(default)]
    pub condition: Condition,
}

/// How an instance is stopped: the command, then the signals, then SIGKILL.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Stop {
    /// A program that asks it to stop, its absolute path and its arguments; empty is none. The
    /// instance has as long to go as after the first signal, which is sent after that time, or at
    /// once if the program fails.
    pub command: Vec<String>,
    /// Signals for all that came of the instance, each with the time until the next one. After the
    /// last one comes SIGKILL. 1 to [`Stop::MAX_STEPS`].
    pub steps: Vec<StopStep>,
}

impl Stop {
    /// The most signals.
    pub const MAX_STEPS: usize = 8;
    /// The longest time from the first signal to SIGKILL: a day.
    pub const MAX_TIME: Millis = Millis(86_400_000);

    /// From the request to SIGKILL, if nothing listens.
    #[must_use]
    pub fn longest(&self) -> Millis {
        let steps = self.steps.iter().fold(0_u64, |sum, step| sum.saturating_add(step.wait.0));
        let command = match (self.command.is_empty(), self.steps.first()) {
            (false, Some(first)) => first.wait.0,
            _ => 0,
        };
        Millis(steps.saturating_add(command))
    }
}

impl Default for Stop {
    /// SIGTERM, then SIGKILL after ten seconds.
    fn default() -> Self {
        Self {
            command: Vec::new(),
            steps: vec![StopStep { signal: Signal(15), wait: Millis::secs(10) }],
        }
    }
}

/// A signal that asks an instance to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StopStep {
    /// Which.
    pub signal: Signal,
    /// How long until the next one, or SIGKILL.
    pub wait: Millis,
}

impl fmt::Display for StopStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.signal, self.wait)
    }
}

impl FromStr for StopStep {
    type Err = String;

    /// `SIGINT 1s`, or only the signal, which then gets ten seconds.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_ascii_whitespace();
        let signal = words.next().unwrap_or_default().parse()?;
        let wait = match words.next() {
            Some(wait) => wait.parse().map_err(|error| format!("{error}"))?,
            None => Millis::secs(10),
        };
        match words.next() {
            None => Ok(Self { signal, wait }),
            Some(more) => Err(format!("{more:?} is too much; write SIGNAL TIME")),
        }
    }
}

/// A signal, 1 to 64. On the wire its number, else its name, such as `SIGTERM`; see signal(7).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Signal(pub i32);

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match crate::signal::name(self.0) {
            Some(name) => f.pad(name),
            None => self.0.fmt(f),
        }
    }
}

impl FromStr for Signal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        crate::signal::parse(text).map(Self)
    }
}

impl Serialize for Signal {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Signal {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Readable;
        impl serde::de::Visitor<'_> for Readable {
            type Value = Signal;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a signal such as \"SIGTERM\"")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Signal, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Signal, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Signal, E> {
                self.visit_str(&number.to_string())
            }
        }
        if deserializer.is_human_readable() {
            deserializer.deserialize_any(Readable)
        } else {
            i32::deserialize(deserializer).map(Self)
        }
    }
}
