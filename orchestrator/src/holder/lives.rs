//! When a daemon that has ended is started again. Pure: the time comes in, decisions come out.

use std::time::Duration;

/// How long a daemon has to be at work so that its end is not counted with those before.
const HEALTHY: Duration = Duration::from_secs(10);

/// How often in a row a daemon that was at work is replaced at once: whatever it died of need not
/// happen again, and everybody waits for the next.
const AT_ONCE: u32 = 5;

/// From then on; doubles from there.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// The longest time without a daemon, if the one before was at work.
const LAST_PAUSE: Duration = Duration::from_millis(500);

/// After a daemon that did not come to work; doubles from there.
const FIRST_DELAY: Duration = Duration::from_millis(100);

/// The longest time between two attempts.
const LAST_DELAY: Duration = Duration::from_secs(30);

/// After so many in a row that did not come to work, people are told how to help.
const HOPELESS: u32 = 5;

/// The daemons so far. All times are since the holder's start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Lives {
    /// When the daemon that lives was at work; none if it is not.
    pub(super) ready: Option<Duration>,
    /// Whether any daemon ever was.
    pub(super) ever_ready: bool,
    /// The end of this daemon is to be the end of everything.
    pub(super) meant: bool,
    /// Daemons in a row that were at work, but not for long.
    pub(super) short: u32,
    /// Daemons in a row that did not come to work.
    pub(super) failures: u32,
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

    /// Whether the daemon that lives is at work.
    pub(super) const fn is_ready(&self) -> bool {
        self.ready.is_some()
    }

    /// Another daemon has taken the place of the one that was at work.
    pub(super) fn replaced(&mut self) {
        *self = Self { ever_ready: self.ever_ready, ..Self::default() };
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
        let delay = match self.ready.take() {
            Some(ready) => {
                let healthy = now.saturating_sub(ready) >= HEALTHY;
                self.short = if healthy { 0 } else { self.short.saturating_add(1) };
                self.failures = 0;
                doubled(FIRST_PAUSE, self.short.checked_sub(AT_ONCE + 1), LAST_PAUSE)
            }
            None => {
                self.failures = self.failures.saturating_add(1);
                doubled(FIRST_DELAY, self.failures.checked_sub(1), LAST_DELAY)
            }
        };
        Next::Start { at: now.saturating_add(delay), hopeless: self.failures >= HOPELESS }
    }
}

/// `first`, doubled so many times, but not more than `last`; nothing if there is no number.
fn doubled(first: Duration, times: Option<u32>, last: Duration) -> Duration {
    times.map_or(Duration::ZERO, |times| first.saturating_mul(1 << times.min(16)).min(last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AT: Duration = Duration::from_secs(1000);

    fn delay(next: Next) -> Duration {
        match next {
            Next::Start { at, .. } => at.saturating_sub(AT),
            Next::End => panic!("the end"),
        }
    }

    #[test]
    fn a_first_daemon_that_fails_and_an_end_that_is_meant_are_the_end() {
        assert_eq!(Lives::default().ended(AT), Next::End);
        let mut lives = Lives::default();
        lives.ready(AT);
        lives.end_is_meant();
        assert_eq!(lives.ended(AT), Next::End);
    }

    #[test]
    fn who_was_at_work_is_replaced_at_once_and_who_never_is_later_and_later() {
        let mut lives = Lives::default();
        for _ in 0..AT_ONCE {
            lives.ready(AT);
            assert_eq!(delay(lives.ended(AT)), Duration::ZERO);
        }
        let mut pauses = Vec::new();
        for _ in 0..8 {
            lives.ready(AT);
            pauses.push(delay(lives.ended(AT)));
        }
        assert_eq!((pauses[0], pauses[1], pauses[7]), (FIRST_PAUSE, 2 * FIRST_PAUSE, LAST_PAUSE));
        // One that lives long enough makes good for those before.
        lives.ready(AT - HEALTHY);
        assert_eq!(delay(lives.ended(AT)), Duration::ZERO);

        let mut failed = |_| match lives.ended(AT) {
            Next::Start { at, hopeless } => (at - AT, hopeless),
            Next::End => panic!("the end"),
        };
        let failures: Vec<_> = (0..12).map(&mut failed).collect();
        assert_eq!(failures[0], (FIRST_DELAY, false));
        assert_eq!(failures[4], (16 * FIRST_DELAY, true));
        assert_eq!(failures[11], (LAST_DELAY, true));
    }

    proptest! {
        /// Once a daemon was at work there is always a next one, and soon, unless an end is meant.
        #[test]
        fn there_is_always_a_next(steps in prop::collection::vec((any::<bool>(), 0..20_000_u64), 1..60)) {
            let mut lives = Lives::default();
            let mut now = Duration::ZERO;
            lives.ready(now);
            for (ready, pause) in steps {
                if ready {
                    lives.ready(now);
                }
                now += Duration::from_millis(pause);
                match lives.ended(now) {
                    Next::Start { at, .. } => prop_assert!(at >= now && at <= now + LAST_DELAY),
                    Next::End => prop_assert!(false),
                }
            }
        }
    }
}
