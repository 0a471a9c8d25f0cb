//! PURE: the last messages that a link has handed out, for receivers that come later.
//!
//! Each message has its place among all that were sent over the link. What goes back to the queue
//! is forgotten here: it will be handed out again. So what is remembered and what waits never
//! overlap.

use std::collections::VecDeque;

/// Something with a length in bytes and a place in its link.
pub(super) trait Item: Clone {
    /// Bytes that it occupies.
    fn size(&self) -> usize;

    /// How many were sent over the link before.
    fn place(&self) -> u64;

    /// It gets its place.
    fn set_place(&mut self, place: u64);
}

/// Bytes of payload that a link remembers, whatever its history: 16 MiB. The oldest make room. A
/// single message may exceed it.
pub(super) const BYTES: usize = 16 << 20;

/// See the module.
pub(super) struct History<T> {
    /// In the order of their places.
    items: VecDeque<T>,
    bytes: usize,
    most: usize,
}

impl<T: Item> History<T> {
    /// Remembers so many at most.
    pub(super) fn new(most: u32) -> Self {
        Self { items: VecDeque::new(), bytes: 0, most: most as usize }
    }

    /// From now on so many at most.
    pub(super) fn set_most(&mut self, most: u32) {
        self.most = most as usize;
        self.trim(0);
        self.items.shrink_to(self.most);
    }

    /// It was handed out, and is one of `in_hand` that may come back or not arrive: until that is
    /// known as many more are remembered.
    pub(super) fn remember(&mut self, item: &T, in_hand: u64) {
        if self.most == 0 {
            return;
        }
        let place = item.place();
        // As a rule it is the last one. One that came back may follow one that did not.
        let at = match self.items.back() {
            Some(last) if last.place() >= place => {
                self.items.partition_point(|other| other.place() < place)
            }
            _ => self.items.len(),
        };
        self.bytes += item.size();
        self.items.insert(at, item.clone());
        self.trim(in_hand);
    }

    /// It was not delivered after all.
    pub(super) fn forget(&mut self, item: &T) {
        let place = item.place();
        let at = self.items.partition_point(|other| other.place() < place);
        if self.items.get(at).is_some_and(|other| other.place() == place)
            && let Some(item) = self.items.remove(at)
        {
            self.bytes -= item.size();
        }
    }

    /// The last so many, or as many as there are, the oldest first.
    pub(super) fn last(&self, count: usize) -> impl Iterator<Item = &T> {
        self.items.iter().skip(self.items.len().saturating_sub(count))
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.items = VecDeque::new();
        self.bytes = 0;
    }

    /// So many are in hand now.
    pub(super) fn trim(&mut self, in_hand: u64) {
        let most = match self.most {
            0 => 0,
            most => most.saturating_add(usize::try_from(in_hand).unwrap_or(usize::MAX)),
        };
        while self.items.len() > most || (self.bytes > BYTES && self.items.len() > 1) {
            let Some(oldest) = self.items.pop_front() else { break };
            self.bytes -= oldest.size();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[derive(Clone, Copy, PartialEq, Debug)]
    struct Number(u64, usize);

    impl Item for Number {
        fn size(&self) -> usize {
            self.1
        }

        fn place(&self) -> u64 {
            self.0
        }

        fn set_place(&mut self, place: u64) {
            self.0 = place;
        }
    }

    proptest! {
        #[test]
        fn the_last_are_there_in_their_order(
            most in 0..9_u32, steps in prop::collection::vec((any::<bool>(), 0..12_u64), 0..60),
        ) {
            let mut history = History::new(most);
            let mut all = BTreeSet::new();
            for (is_forgotten, place) in steps {
                if is_forgotten {
                    history.forget(&Number(place, 1));
                    all.remove(&place);
                } else if all.insert(place) {
                    history.remember(&Number(place, 1), 0);
                    while all.len() > most as usize {
                        all.pop_first();
                    }
                }
                let there: Vec<_> = history.last(usize::MAX).map(|item| item.0).collect();
                prop_assert_eq!(&there, &Vec::from_iter(all.iter().copied()));
                prop_assert_eq!(history.last(2).count(), there.len().min(2));
                prop_assert_eq!(history.bytes, there.len());
            }
        }
    }

    #[test]
    fn bytes_are_bounded_too() {
        let mut history = History::new(100);
        for place in 0..10 {
            history.remember(&Number(place, BYTES / 4), 0);
        }
        assert_eq!(history.last(100).count(), 4);
        history.remember(&Number(10, 2 * BYTES), 0);
        assert_eq!(history.last(100).count(), 1, "one that is too large is remembered alone");
        history.set_most(0);
        assert_eq!((history.last(100).count(), history.bytes), (0, 0));
    }
}
