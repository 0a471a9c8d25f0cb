//! Runs at times of the day, or again and again.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::info::Exit;

/// When an instance runs, each time as a task does: once, to its end.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Schedule {
    /// Five fields as in crontab(5), a word such as `@daily`, or `every 10s`; at most
    /// [`Schedule::MAX_EXPRESSION`] bytes. See `orchestrator_proto::timetable`.
    pub expression: String,
    /// The time zone of those fields, as in the IANA database: `Europe/Berlin`. None is that of
    /// the daemon's machine. `every` needs none.
    #[serde(default)]
    pub time_zone: Option<String>,
    /// What happens when it is time, and the run before is not over.
    #[serde(default)]
    pub overlap: Overlap,
    /// If runs were missed, because the daemon did not run or the machine was asleep, there is
    /// one as soon as that is over. Without it they are left out.
    #[serde(default)]
    pub catch_up: bool,
}

impl Schedule {
    /// The most bytes of an expression.
    pub const MAX_EXPRESSION: usize = 256;
    /// The most bytes of the name of a time zone.
    pub const MAX_TIME_ZONE: usize = 64;

    /// This expression, everything else as it is by default.
    pub fn new(expression: impl Into<String>) -> Self {
        Self {
            expression: expression.into(),
            time_zone: None,
            overlap: Overlap::default(),
            catch_up: false,
        }
    }
}

/// What happens when it is time, and the run before is not over. There are never two at once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overlap {
    /// The new run is left out, which is counted; the first of each run is told as an event.
    #[default]
    Skip,
    /// The new run begins when that one is over. One waits at most; more are left out.
    Queue,
    /// That one is stopped, and the new run begins.
    Replace,
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Skip => "skip",
            Self::Queue => "queue",
            Self::Replace => "replace",
        })
    }
}

impl FromStr for Overlap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "skip" => Ok(Self::Skip),
            "queue" => Ok(Self::Queue),
            "replace" => Ok(Self::Replace),
            other => Err(format!("{other:?} is no way to overlap; use skip, queue or replace")),
        }
    }
}

/// When a schedule ran last, and when it runs next. Times are milliseconds since 1970 (UTC).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ScheduleInfo {
    /// When.
    pub schedule: Schedule,
    /// The next time; none if it is stopped, or there is none.
    pub next_ms: Option<u64>,
    /// The last run that is over; none if none ever was.
    pub last: Option<LastRun>,
    /// How many times have come, since it was added, while the run before was not over, and were
    /// left out.
    pub skipped: u64,
}

/// A run that is over, from the first attempt to the last. Times are milliseconds since 1970 (UTC).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LastRun {
    /// When it began.
    pub began_ms: u64,
    /// When it was over.
    pub ended_ms: u64,
    /// How it ended.
    pub result: RunResult,
}

/// How a run ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunResult {
    /// Its process ended by itself, and that is no failure.
    Completed {
        /// How.
        exit: Exit,
    },
    /// It has failed.
    Failed {
        /// Why, with the errno in words if there is one.
        reason: String,
        /// How its process ended, if that was it.
        exit: Option<Exit>,
    },
    /// Somebody stopped it, or the next run took its place.
    Stopped,
}

impl fmt::Display for RunResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Completed { exit } => write!(f, "completed with {exit}"),
            Self::Failed { reason, .. } => write!(f, "failed: {reason}"),
            Self::Stopped => f.write_str("stopped"),
        }
    }
}
