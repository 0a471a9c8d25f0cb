//! When an instance is started again: the delays, and the limit to them.

use std::collections::VecDeque;
use std::time::Duration;

use orchestrator_proto::control::Restart;

/// Counts new starts. Its memory is bounded by [`Restart::MAX_BURST`].
#[derive(Clone, Debug)]
pub(super) struct BackOff {
    /// New starts on end.
    attempts: u32,
    /// When those of the last while were.
    recent: VecDeque<Duration>,
    /// For jitter; not for secrets.
    random: u64,
}

impl BackOff {
    pub(super) const fn new(seed: u64) -> Self {
        Self { attempts: 0, recent: VecDeque::new(), random: seed | 1 }
    }

    /// Forgets all new starts so far.
    pub(super) fn reset(&mut self) {
        self.attempts = 0;
        self.recent.clear();
    }

    /// It has been ready for long enough, so the next delay is the first one.
    pub(super) const fn was_well(&mut self) {
        self.attempts = 0;
    }

    /// New starts on end.
    pub(super) const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// When to start again; none if that has been tried too often.
    pub(super) fn next(&mut self, rules: &Restart, now: Duration) -> Option<Duration> {
        if rules.burst > 0 {
            let within = rules.burst_within.duration();
            self.recent.retain(|at| now.saturating_sub(*at) < within);
            if self.recent.len() >= rules.burst.min(Restart::MAX_BURST) as usize {
                return None;
            }
            self.recent.push_back(now);
        }
        let delay = self.delay(rules);
        self.attempts = self.attempts.saturating_add(1);
        Some(delay)
    }

    fn delay(&mut self, rules: &Restart) -> Duration {
        let factor = u64::from(rules.factor.max(1));
        let grown = factor.checked_pow(self.attempts).unwrap_or(u64::MAX);
        let ms = rules.delay.0.saturating_mul(grown).min(rules.max_delay.0);
        // Up or down by so many parts of 10,000.
        let span = u64::from(rules.jitter.min(100)) * 100;
        let part = self.random() % (2 * span + 1);
        let changed = u128::from(ms) * u128::from(10_000 + part - span) / 10_000;
        Duration::from_millis(u64::try_from(changed).unwrap_or(u64::MAX))
    }

    /// Marsaglia, "Xorshift RNGs" (2003), with the triple 13, 7, 17.
    const fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrator_proto::Millis;
    use proptest::prelude::*;

    #[test]
    fn delays_grow_up_to_the_longest() {
        let rules = Restart { jitter: 0, max_delay: Millis(1000), ..Restart::default() };
        let mut backoff = BackOff::new(7);
        let mut next = || backoff.next(&rules, Duration::ZERO).map(|it| it.as_millis());
        let delays: Vec<_> = std::iter::from_fn(|| Some(next())).take(6).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1000, 1000].map(Some));
        backoff.was_well();
        assert_eq!(backoff.next(&rules, Duration::ZERO), Some(Duration::from_millis(100)));
    }

    #[test]
    fn a_burst_ends() {
        let rules = Restart { burst: 2, burst_within: Millis(1000), ..Restart::default() };
        let mut backoff = BackOff::new(7);
        let at = Duration::from_millis;
        assert!(backoff.next(&rules, at(0)).is_some());
        assert!(backoff.next(&rules, at(900)).is_some());
        assert!(backoff.next(&rules, at(999)).is_none());
        backoff.was_well();
        assert!(backoff.next(&rules, at(999)).is_none(), "well for a while is not for good");
        assert!(backoff.next(&rules, at(1000)).is_some());
        backoff.reset();
        assert!(backoff.next(&rules, at(1000)).is_some());
    }

    proptest! {
        #[test]
        fn no_delay_is_out_of_bounds(
            seed in any::<u64>(), attempts in 0_u32..200, delay in any::<u64>(),
            factor in any::<u32>(), max in any::<u64>(), jitter in any::<u32>(),
        ) {
            let (delay, max_delay) = (Millis(delay), Millis(max));
            let rules = Restart { delay, factor, max_delay, jitter, ..Restart::default() };
            let mut backoff = BackOff { attempts, ..BackOff::new(seed) };
            let delay = backoff.next(&rules, Duration::ZERO).unwrap();
            prop_assert!(delay.as_millis() <= u128::from(max) * 2);
        }
    }
}
