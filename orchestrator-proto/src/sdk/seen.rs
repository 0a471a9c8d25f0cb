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

/// What one input has had, by whichever way.
#[derive(Default)]
pub(super) struct Seen {
    senders: HashMap<Sender, Place>,
    /// Counts arrivals, to know who was silent for longest.
    clock: u64,
}

struct Place {
    next: u64,
    used: u64,
    /// Whether any message of this sender has come: else it is not known which was to be the first.
    has_come: bool,
}

impl Place {
    const fn new(next: u64, used: u64) -> Self {
        Self { next, used, has_come: false }
    }
}

/// Messages of one sender that follow each other on one way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    sender: Sender,
    /// The number of the next one that arrives.
    arriving: u64,
}

/// What messages of a run that arrived together are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Came {
    pub(super) sender: Sender,
    /// So many, the first ones, were there before.
    pub(super) had: u64,
    /// The number of the first of the others.
    pub(super) first_new: u64,
    /// So many of the sender, right before that one, do not come any more. None if no message of this
    /// sender is remembered.
    pub(super) missed: Option<u64>,
}

impl Run {
    /// So many numbers are left out.
    pub(super) fn skip(&mut self, count: u64) {
        self.arriving = self.arriving.saturating_add(count);
    }
}

impl Seen {
    /// The messages that follow are from this sender, numbered from `first` on.
    pub(super) fn turn_to(&mut self, sender: Sender, first: u64) -> Run {
        self.clock += 1;
        if self.senders.len() >= MAX_SENDERS && !self.senders.contains_key(&sender) {
            let silent = self.senders.iter().min_by_key(|(_, place)| place.used);
            if let Some(silent) = silent.map(|(sender, _)| *sender) {
                self.senders.remove(&silent);
            }
        }
        let used = self.clock;
        self.senders.entry(sender).or_insert(Place::new(first, used)).used = used;
        Run { sender, arriving: first }
    }

    /// `count` messages of a run arrived.
    pub(super) fn arrived(&mut self, run: &mut Run, count: u64) -> Came {
        self.clock += 1;
        let (sender, first) = (run.sender, run.arriving);
        run.skip(count);
        let used = self.clock;
        let place = self.senders.entry(sender).or_insert(Place::new(first, used));
        place.used = used;
        let had = place.next.saturating_sub(first).min(count);
        let missed = place.has_come.then(|| first.saturating_sub(place.next));
        place.has_come = true;
        place.next = place.next.max(run.arriving);
        Came { sender, had, first_new: first.saturating_add(had), missed }
    }

    /// Each sender, and the number that comes next.
    pub(super) fn places(&self) -> Vec<(Sender, u64)> {
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
            let mut run = self.turn_to(*sender, first);
            self.arrived(&mut run, count).had
        }

        fn missed(&mut self, sender: &Sender, first: u64, count: u64) -> Option<u64> {
            let mut run = self.turn_to(*sender, first);
            self.arrived(&mut run, count).missed
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
        let mut run = seen.turn_to(sender(1), 21);
        assert_eq!(seen.arrived(&mut run, 1).had, 0);
        run.skip(2);
        assert_eq!(seen.arrived(&mut run, 1).had, 0);
        assert_eq!(seen.run(&sender(1), 20, 10), 5, "all below 25");
    }

    #[test]
    fn what_came_by_one_way_is_recognised_on_another() {
        let mut seen = Seen::default();
        let mut routed = seen.turn_to(sender(1), 0);
        assert_eq!(seen.arrived(&mut routed, 10).had, 0);
        let mut lane = seen.turn_to(sender(1), 10);
        assert_eq!(seen.arrived(&mut lane, 10).had, 0);
        routed.skip(5);
        assert_eq!(seen.arrived(&mut routed, 10).had, 5, "15 to 19 came by the lane");
        assert_eq!(seen.places(), [(sender(1), 25)]);
    }

    #[test]
    fn what_is_missed_is_counted_from_the_second_message_on() {
        let mut seen = Seen::default();
        assert_eq!(seen.missed(&sender(1), 5, 3), None, "who knows which was to be the first?");
        assert_eq!(seen.missed(&sender(1), 8, 1), Some(0));
        assert_eq!(seen.missed(&sender(1), 19, 2), Some(10), "9 to 18");
        assert_eq!(seen.missed(&sender(1), 20, 2), Some(0), "20 came again, and 21 after it");
        assert_eq!(seen.missed(&sender(2), 7, 1), None, "another process");
        let mut run = seen.turn_to(sender(1), 22);
        run.skip(3);
        let came = seen.arrived(&mut run, 2);
        assert_eq!((came.first_new, came.missed), (25, Some(3)));
        let mut run = seen.turn_to(sender(1), 20);
        let came = seen.arrived(&mut run, 9);
        assert_eq!((came.had, came.first_new, came.missed), (7, 27, Some(0)));
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
