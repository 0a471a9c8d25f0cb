//! How instances fare: what changes while nothing happens to them.

use serde::{Deserialize, Serialize};

use super::info::{Exit, RuntimeInfo};

/// One instance in brief, and how it fares.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RuntimeVitals {
    /// In brief.
    pub info: RuntimeInfo,
    /// How it fares.
    pub vitals: Vitals,
}

/// How an instance fares.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Vitals {
    /// How many times it was started again by itself, since it was added.
    pub restarts: u64,
    /// How many times on end that was, without it having been well for long enough in between;
    /// see [`Restart::reset_after`](super::Restart::reset_after). Counted from 0 when the daemon is
    /// replaced, as are the delays.
    pub restarts_on_end: u32,
    /// The last answer to a probe of what runs now, if there was one.
    pub health: Option<Health>,
    /// What it uses; none if nothing of it runs, or `/proc` does not say.
    pub usage: Option<Usage>,
}

/// The last answer to a probe.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Health {
    /// When it came, milliseconds since 1970 (UTC).
    pub at_ms: u64,
    /// What is wrong; none if nothing is.
    pub problem: Option<String>,
}

/// What an instance uses: its main process, all of its process group, and all that these have
/// started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Hundredths of a percent of one CPU, on average over `cpu_over_ms`: 10,000 is one CPU all
    /// the time, 20,000 are two.
    pub cpu_percent_100: u32,
    /// Over how long, milliseconds: since somebody last asked, or, for the first who asks, since
    /// the main process was started.
    pub cpu_over_ms: u64,
    /// CPU time of what runs now and of its children that have ended, milliseconds, in steps of
    /// 10.
    pub cpu_ms: u64,
    /// Memory that is resident, bytes. What several of its processes share is counted for each
    /// of them.
    pub memory_bytes: u64,
    /// How many processes.
    pub processes: u32,
}

/// An end of an instance's main process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PastExit {
    /// How.
    pub exit: Exit,
    /// When, milliseconds since 1970 (UTC).
    pub at_ms: u64,
    /// How long it had run, milliseconds; none if that is not known.
    pub ran_ms: Option<u64>,
    /// Whether somebody had asked it to stop.
    pub requested: bool,
}

impl PastExit {
    /// So many of the last ones are kept of each instance.
    pub const KEPT: usize = 5;
}
