//! PURE: which messages an input has had already.
//!
//! Messages of one [`Sender`] come in the order of their numbers. Some come again, after a
//! connection was lost, and never later than what follows them: so it is enough to know, of each
//! sender, the number that comes next.

use std::collections::HashMap;

use crate::runtime::Sender;

/// Senders that one input remembers. Each process of an instance is another one, so the one that
/// was silent for longest makes room: should it speak again after all, its messages are taken
/// as new.
const MAX_SENDERS: usize = 4096;

/// What one input has had, over all connections.
#[derive(Default)]
pub(super) struct Seen {
    senders: HashMap<Sender, Place>,
    /// Counts runs, to know who was silent for longest.
    clock: u64,
}

struct Place {
    next: u64,
    used: u64,
}

impl Seen {
    /// `count` messages arrived, numbered from `first` on. The answer is how many of them, the
    /// first ones, were there before.
    pub(super) fn arrived(&mut self, sender: &Sender, first: u64, count: u64) -> u64 {
        self.clock += 1;
        if self.senders.len() >= MAX_SENDERS && !self.senders.contains_key(sender) {
            let silent = self.senders.iter().min_by_key(|(_, place)| place.used);
            if let Some(silent) = silent.map(|(sender, _)| *sender) {
                self.senders.remove(&silent);
            }
        }
        let place = self.senders.entry(*sender).or_insert(Place { next: first, used: 0 });
        place.used = self.clock;
        let had = place.next.saturating_sub(first).min(count);
        place.next = place.next.max(first.saturating_add(count));
        had
    }

    /// Each sender, and the number that comes next.
    pub(super) fn places(&self) -> impl Iterator<Item = (Sender, u64)> {
        self.senders.iter().map(|(sender, place)| (*sender, place.next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::InstanceId;

    fn sender(epoch: u64) -> Sender {
        Sender { instance: InstanceId::from_bytes([1; 16]), epoch, anybody: false }
    }

    #[test]
    fn what_comes_again_is_recognised_and_gaps_are_passed_over() {
        let mut seen = Seen::default();
        assert_eq!(seen.arrived(&sender(1), 5, 3), 0, "the first that is seen is new");
        assert_eq!(seen.arrived(&sender(1), 6, 4), 2, "6 and 7 came again");
        assert_eq!(seen.arrived(&sender(1), 2, 3), 3);
        assert_eq!(seen.arrived(&sender(1), 20, 1), 0);
        assert_eq!(seen.arrived(&sender(1), 10, 5), 5, "what was left out does not come later");
        assert_eq!(seen.arrived(&sender(2), 0, 5), 0, "another process begins anew");
        let anybody = Sender { anybody: true, ..sender(1) };
        assert_eq!(seen.arrived(&anybody, 0, 5), 0, "another link");
        assert_eq!(seen.arrived(&sender(1), 21, 1), 0);
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut seen = Seen::default();
        for epoch in 0..3 * MAX_SENDERS as u64 {
            seen.arrived(&sender(0), epoch, 1);
            seen.arrived(&sender(epoch + 1), 0, 1);
        }
        assert_eq!(seen.places().count(), MAX_SENDERS);
        assert_eq!(seen.arrived(&sender(0), 0, 1), 1, "who speaks is not forgotten");
    }
}
