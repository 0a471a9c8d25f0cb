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
    /// Whose messages arrive now.
    run: Option<Run>,
}

struct Place {
    next: u64,
    used: u64,
}

/// Messages of one sender that follow each other. Its place is looked up once for all of them.
struct Run {
    sender: Sender,
    /// The number of the next one that arrives.
    arriving: u64,
    /// The number of the next one that is new.
    next: u64,
}

impl Seen {
    /// The messages that follow are from this sender, numbered from `first` on.
    pub(super) fn turn_to(&mut self, sender: Option<Sender>, first: u64) {
        self.note();
        self.run = sender.map(|sender| {
            let next = self.senders.get(&sender).map_or(first, |place| place.next);
            Run { sender, arriving: first, next }
        });
    }

    /// So many numbers are left out. False if there are no numbers.
    #[must_use]
    pub(super) fn skip(&mut self, count: u64) -> bool {
        if let Some(run) = &mut self.run {
            run.arriving = run.arriving.saturating_add(count);
        }
        self.run.is_some()
    }

    /// `count` messages arrived. The answer is how many of them, the first ones, were there
    /// before.
    pub(super) fn arrived(&mut self, count: u64) -> u64 {
        let Some(run) = &mut self.run else { return 0 };
        let had = run.next.saturating_sub(run.arriving).min(count);
        run.arriving = run.arriving.saturating_add(count);
        run.next = run.next.max(run.arriving);
        had
    }

    /// Writes down how far the present run has come.
    fn note(&mut self) {
        let Some(Run { sender, next, .. }) = self.run else { return };
        self.clock += 1;
        if self.senders.len() >= MAX_SENDERS && !self.senders.contains_key(&sender) {
            let silent = self.senders.iter().min_by_key(|(_, place)| place.used);
            if let Some(silent) = silent.map(|(sender, _)| *sender) {
                self.senders.remove(&silent);
            }
        }
        self.senders.insert(sender, Place { next, used: self.clock });
    }

    /// Each sender, and the number that comes next.
    pub(super) fn places(&mut self) -> Vec<(Sender, u64)> {
        self.note();
        self.senders.iter().map(|(sender, place)| (*sender, place.next)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::InstanceId;

    fn sender(epoch: u64) -> Sender {
        Sender { instance: InstanceId::from_bytes([1; 16]), epoch, anybody: false }
    }

    impl Seen {
        fn run(&mut self, sender: &Sender, first: u64, count: u64) -> u64 {
            self.turn_to(Some(*sender), first);
            self.arrived(count)
        }
    }

    #[test]
    fn what_comes_again_is_recognised_and_gaps_are_passed_over() {
        let mut seen = Seen::default();
        assert_eq!(seen.run(&sender(1), 5, 3), 0, "the first that is seen is new");
        assert_eq!(seen.run(&sender(1), 6, 4), 2, "6 and 7 came again");
        assert_eq!(seen.run(&sender(1), 2, 3), 3);
        assert_eq!(seen.run(&sender(1), 20, 1), 0);
        assert_eq!(seen.run(&sender(1), 10, 5), 5, "what was left out does not come later");
        assert_eq!(seen.run(&sender(2), 0, 5), 0, "another process begins anew");
        let anybody = Sender { anybody: true, ..sender(1) };
        assert_eq!(seen.run(&anybody, 0, 5), 0, "another link");
        assert_eq!(seen.run(&sender(1), 21, 1), 0);
        assert!(seen.skip(2));
        assert_eq!(seen.arrived(1), 0);
        assert_eq!(seen.run(&sender(1), 20, 10), 5, "all below 25");
        seen.turn_to(None, 0);
        assert!(!seen.skip(1));
        assert_eq!(seen.arrived(10), 0, "without a number all are new");
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut seen = Seen::default();
        for epoch in 0..3 * MAX_SENDERS as u64 {
            seen.run(&sender(0), epoch, 1);
            seen.run(&sender(epoch + 1), 0, 1);
        }
        assert_eq!(seen.places().len(), MAX_SENDERS);
        assert_eq!(seen.run(&sender(0), 0, 1), 1, "who speaks is not forgotten");
    }
}
