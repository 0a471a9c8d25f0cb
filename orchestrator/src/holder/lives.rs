//! When a daemon that has ended is started again. Pure: the time comes in, decisions come out.

use std::time::Duration;

/// How long a daemon has to be at work so that its end is not counted with those before.
const HEALTHY: Duration = Duration::from_secs(10);

/// From the second failure in a row on; doubles from there.
const FIRST_DELAY: Duration = Duration::from_millis(100);

/// The longest time between two attempts.
const LAST_DELAY: Duration = Duration::from_secs(30);

/// After so many failures in a row, people are told how to help.
const HOPELESS: u32 = 5;

/// The daemons so far. All times are since the holder's start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lives {
    /// When the daemon that lives was at work; none if it is not.
    ready: Option<Duration>,
    /// Whether any daemon ever was.
    ever_ready: bool,
    /// The end of this daemon is to be the end of everything.
    meant: bool,
    /// Daemons in a row that were not at work for long.
    failures: u32,
}

/// What follows the end of a daemon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// The end of everything.
    End,
    /// Another daemon.
    Start {
        /// When.
        at: Duration,
        /// Whether it will probably not help, so that somebody has to.
        hopeless: bool,
    },
}

impl Lives {
    /// The daemon is at work.
    pub(super) fn ready(&mut self, now: Duration) {
        self.ready = Some(now);
        self.ever_ready = true;
    }

    /// Another daemon has taken the place of the one that was at work.
    pub(super) fn replaced(&mut self) {
        self.ready = None;
        self.failures = 0;
    }

    /// The daemon wants its end to be the end of everything.
    pub(super) fn end_is_meant(&mut self) {
        self.meant = true;
    }

    /// Whether the end of this daemon will be the end of everything.
    pub(super) const fn is_end_meant(&self) -> bool {
        self.meant
    }

    /// The daemon has ended, or another one could not be started. A first daemon that never was
    /// at work has told somebody why, and is not tried again: it will be the command line.
    pub(super) fn ended(&mut self, now: Duration) -> Next {
        if self.meant || !self.ever_ready {
            return Next::End;
        }
        let healthy = self.ready.is_some_and(|ready| now.saturating_sub(ready) >= HEALTHY);
        self.ready = None;
        self.failures = if healthy { 1 } else { self.failures.saturating_add(1) };
        let delay = match self.failures {
            0 | 1 => Duration::ZERO,
            n => FIRST_DELAY.saturating_mul(1 << (n - 2).min(16)).min(LAST_DELAY),
        };
        Next::Start { at: now.saturating_add(delay), hopeless: self.failures >= HOPELESS }
    }
}
