//! Outputs that a link with a timeout holds back: when to look at them, and what they are told of
//! what was dropped.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The outputs of one connection, by channel.
#[derive(Default)]
pub(super) struct Held {
    /// When somebody looks at it.
    looks: Mutex<HashMap<u16, Instant>>,
    /// What was dropped, of those that want to be told.
    dropped: Mutex<HashMap<u16, u64>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Held {
    /// Somebody has to look at this output at that time. False if somebody does already, then or
    /// before.
    pub(super) fn is_new(&self, channel: u16, until: Instant) -> bool {
        let mut looks = lock(&self.looks);
        let is_new = looks.get(&channel).is_none_or(|other| until < *other);
        if is_new {
            looks.insert(channel, until);
        }
        is_new
    }

    /// Whoever was to look at that time does. The answer is when to look again. None also if
    /// somebody else was to look earlier, and has taken over.
    ///
    /// Who is held back meanwhile is seen by this look, or starts another one after it.
    pub(super) fn look(
        &self,
        channel: u16,
        until: Instant,
        look: impl FnOnce() -> Option<Instant>,
    ) -> Option<Instant> {
        let mut looks = lock(&self.looks);
        if looks.get(&channel) != Some(&until) {
            return None;
        }
        let next = look();
        match next {
            Some(next) => looks.insert(channel, next),
            None => looks.remove(&channel),
        };
        next
    }

    /// This output wants to be told.
    pub(super) fn report(&self, channel: u16) {
        lock(&self.dropped).entry(channel).or_default();
    }

    /// So many more were dropped; the answer is how many that is, if it wants to be told.
    pub(super) fn timed_out(&self, channel: u16, count: u64) -> Option<u64> {
        let mut dropped = lock(&self.dropped);
        let total = dropped.get_mut(&channel)?;
        *total += count;
        Some(*total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_earliest_looks() {
        let held = Held::default();
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        assert!(held.is_new(1, at(10)));
        assert!(!held.is_new(1, at(11)));
        assert!(held.is_new(2, at(11)));
        assert!(held.is_new(1, at(5)));
        assert_eq!(held.look(1, at(10), || unreachable!()), None);
        assert_eq!(held.look(1, at(5), || Some(at(12))), Some(at(12)));
        assert_eq!(held.look(1, at(12), || None), None);
        assert!(held.is_new(1, at(20)));
    }

    #[test]
    fn only_who_wants_to_is_told() {
        let held = Held::default();
        assert_eq!(held.timed_out(3, 5), None);
        held.report(3);
        assert_eq!(held.timed_out(3, 5), Some(5));
        held.report(3);
        assert_eq!(held.timed_out(3, 1), Some(6));
    }
}
