//! PURE: the bounded queue of one link, its policy, its counters.

use std::collections::VecDeque;

use orchestrator_proto::control::{Counters, Drops, LinkRules, Policy};

use super::history::{History, Item};

/// The bounds of every queue.
pub(super) struct Limits;

impl Limits {
    /// The bytes of payload that a link may hold, whatever its capacity: 64 MiB. A single message may
    /// exceed it when it is alone.
    pub(super) const BYTES: usize = 64 << 20;

    /// Messages beyond its grant that a sender may have on a `block` link: more than what can be
    /// on its way when the link is made.
    const BEYOND_GRANT: usize = 262_144;
}

/// What a sender knows of the room under `block`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// It was granted the place of this message: the sum of the grants bounds the queue.
    Granted,
    /// It was not. It may not have known yet that the link is there, so that its messages find
    /// a place all the same, up to [`Limits::BEYOND_GRANT`].
    BeyondGrant,
    /// It was not, and was held back for as long as it is at most.
    TimedOut,
    /// It can't be made to wait.
    Ungranted,
}

/// Why a message was given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DropReason {
    /// No room.
    Full,
    /// Too long for the receiver.
    TooLong,
    /// It can't be put into the receiver's encoding.
    Untranslatable,
    /// The network refused it.
    Failed,
}

/// What waits on a link. `sent = delivered + dropped + queued` holds after every call, where
/// queued counts those in the receiver's hands ([`Queue::take`]) too.
pub(super) struct Queue<T> {
    waiting: VecDeque<T>,
    bytes: usize,
    in_hand: u64,
    rules: LinkRules,
    sent: u64,
    delivered: u64,
    drops: Drops,
    last_ms: Option<u64>,
    /// What was handed out.
    history: History<T>,
    /// What the present receiver gets of that, before anything else. It is in no other counter.
    replay: VecDeque<T>,
    replayed: u64,
    /// Whether the link is on its mailbox's list, or in the hands of the sink.
    pub(super) scheduled: bool,
}

impl<T: Item> Queue<T> {
    pub(super) fn new(rules: LinkRules) -> Self {
        Self {
            waiting: VecDeque::new(),
            bytes: 0,
            in_hand: 0,
            rules,
            sent: 0,
            delivered: 0,
            drops: Drops::default(),
            last_ms: None,
            history: History::new(rules.history),
            replay: VecDeque::new(),
            replayed: 0,
            scheduled: false,
        }
    }

    /// Its rules.
    pub(super) const fn rules(&self) -> LinkRules {
        self.rules
    }

    /// Messages that may wait.
    fn messages(&self) -> usize {
        self.rules.capacity.max(1) as usize
    }

    /// Other rules for what waits and what comes. What is now too much gives way
    /// where the new policy gives up the oldest; where it keeps these, it has its place, and
    /// nothing new has one until there is room.
    pub(super) fn change(&mut self, rules: LinkRules, mut dropped: impl FnMut(T)) {
        self.rules = rules;
        self.history.set_most(rules.history);
        if matches!(rules.policy, Policy::DropOldest | Policy::Latest) {
            while self.waiting.len() > self.messages() {
                let Some(oldest) = self.pop() else { break };
                self.drops.full += 1;
                dropped(oldest);
            }
        }
    }

    /// Takes a message in. Those that have to give way for it, or itself, go to `dropped`.
    pub(super) fn push(
        &mut self,
        mut item: T,
        now_ms: u64,
        standing: Standing,
        mut dropped: impl FnMut(T),
    ) {
        item.set_place(self.sent);
        self.sent += 1;
        self.last_ms = Some(now_ms);
        let size = item.size();
        match (self.rules.policy, standing) {
            (Policy::Block, Standing::Granted | Standing::BeyondGrant) => {
                if !self.has_emergency_room(size, standing) {
                    self.drops.full += 1;
                    return dropped(item);
                }
            }
            (Policy::Block, Standing::TimedOut) => {
                self.drops.timed_out += 1;
                return dropped(item);
            }
            (Policy::Block, Standing::Ungranted) | (Policy::DropNewest, _) => {
                if !self.has_room(size) {
                    self.drops.full += 1;
                    return dropped(item);
                }
            }
            (Policy::DropOldest | Policy::Latest, _) => {
                while !self.has_room(size) {
                    let Some(oldest) = self.pop() else { break };
                    self.drops.full += 1;
                    dropped(oldest);
                }
            }
        }
        self.bytes += size;
        self.waiting.push_back(item);
    }

    /// Under `block` the grants bound the queue. These bounds are for senders that go beyond
    /// them, and for senders that come and go while nobody takes their messages.
    fn has_emergency_room(&self, size: usize, standing: Standing) -> bool {
        let bytes = match standing {
            Standing::Granted => 8 * Limits::BYTES,
            _ => 2 * Limits::BYTES,
        };
        self.waiting.len() < self.messages() + Limits::BEYOND_GRANT && self.bytes + size <= bytes
    }

    fn has_room(&self, size: usize) -> bool {
        self.waiting.is_empty()
            || (self.waiting.len() < self.messages() && self.bytes + size <= Limits::BYTES)
    }

    fn pop(&mut self) -> Option<T> {
        let item = self.waiting.pop_front()?;
        self.bytes -= item.size();
        Some(item)
    }

    /// Bytes of the message that is next.
    pub(super) fn next_size(&self) -> Option<usize> {
        self.replay.front().or(self.waiting.front()).map(Item::size)
    }

    /// Hands out what is to be replayed, then the message that waited longest. That one still
    /// counts as queued until it is settled by [`Queue::delivered`], [`Queue::give_up`] or
    /// [`Queue::put_back`].
    pub(super) fn take(&mut self) -> Option<T> {
        if let Some(item) = self.replay.pop_front() {
            return Some(item);
        }
        let item = self.pop()?;
        self.in_hand += 1;
        self.history.remember(&item, self.in_hand);
        Some(item)
    }

    /// A receiver comes: it gets the last messages that were handed out, as many as its history
    /// has more than what waits. `replay` makes of each what is to be handed out again.
    pub(super) fn rewind(&mut self, replay: impl FnMut(&T) -> T) {
        let missing = (self.rules.history as usize).saturating_sub(self.waiting.len());
        self.replay = self.history.last(missing).map(replay).collect();
    }

    /// The receiver went away: what it was to get again is for nobody else.
    pub(super) fn forget_replay(&mut self) {
        self.replay = VecDeque::new();
    }

    /// `count` of those that were replayed arrived.
    pub(super) fn replayed(&mut self, count: u64) {
        self.replayed += count;
    }

    /// `count` of those taken arrived.
    pub(super) fn delivered(&mut self, count: u64) {
        self.in_hand -= count;
        self.delivered += count;
        self.history.trim(self.in_hand);
    }

    /// One of those that arrived is in hand again: its receiver went away without having taken
    /// it in.
    pub(super) fn undelivered(&mut self) {
        self.delivered -= 1;
        self.in_hand += 1;
    }

    /// One of those taken can't be delivered.
    pub(super) fn give_up(&mut self, item: &T, reason: DropReason) {
        self.in_hand -= 1;
        self.history.forget(item);
        self.count_drops(1, reason);
    }

    /// One of those taken goes back to the front, because the receiver went away. What is now
    /// too much gives way as the policy says.
    pub(super) fn put_back(&mut self, item: T, mut dropped: impl FnMut(T)) {
        self.in_hand -= 1;
        self.history.forget(&item);
        let full = !self.has_room(item.size());
        match self.rules.policy {
            Policy::DropOldest | Policy::Latest if full => {
                self.drops.full += 1;
                dropped(item);
            }
            _ => {
                // `drop-newest` and `block` owe this message its place: it had one.
                self.bytes += item.size();
                self.waiting.push_front(item);
            }
        }
    }

    fn count_drops(&mut self, count: u64, reason: DropReason) {
        match reason {
            DropReason::Full => self.drops.full += count,
            DropReason::TooLong => self.drops.too_long += count,
            DropReason::Untranslatable => self.drops.untranslatable += count,
            DropReason::Failed => self.drops.failed += count,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.replay.is_empty()
    }

    pub(super) fn counters(&self) -> Counters {
        let drops = self.drops.clone();
        Counters {
            sent: self.sent,
            delivered: self.delivered,
            dropped: drops.total(),
            queued: self.waiting.len() as u64 + self.in_hand,
            drops,
            last_ms: self.last_ms,
            replayed: self.replayed,
        }
    }

    /// Empties the queue, for a link that is removed.
    pub(super) fn clear(&mut self) -> Vec<T> {
        self.bytes = 0;
        self.history.clear();
        self.forget_replay();
        std::mem::take(&mut self.waiting).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrator_proto::control::RulesSpec;
    use proptest::prelude::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Item(u32, usize);

    impl super::Item for Item {
        fn size(&self) -> usize {
            self.1
        }

        fn place(&self) -> u64 {
            self.0.into()
        }

        fn set_place(&mut self, place: u64) {
            assert_eq!(place, u64::from(self.0), "they are numbered as they are sent");
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(usize),
        Take,
        Deliver,
        GiveUp,
        PutBack,
        TakeBack,
        Change(LinkRules),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (0..100_usize).prop_map(Step::Push),
            2 => Just(Step::Take),
            1 => Just(Step::Deliver),
            1 => Just(Step::GiveUp),
            1 => Just(Step::PutBack),
            1 => Just(Step::TakeBack),
            1 => rules().prop_map(Step::Change),
        ];
        prop::collection::vec(step, 0..400)
    }

    fn rules() -> impl Strategy<Value = LinkRules> {
        let policies = [Policy::Block, Policy::DropNewest, Policy::DropOldest, Policy::Latest];
        (prop::sample::select(policies.to_vec()), 1..8_u32).prop_map(|(policy, capacity)| {
            let said = RulesSpec {
                policy: Some(policy),
                capacity: Some(capacity),
                ..RulesSpec::default()
            };
            said.new_rules().unwrap()
        })
    }

    proptest! {
        #[test]
        fn nothing_is_lost_uncounted_and_the_order_holds(
            rules in rules(), steps in steps(), granted in any::<bool>(),
        ) {
            let standing = if granted { Standing::Granted } else { Standing::Ungranted };
            let mut queue = Queue::new(rules);
            let (mut next, mut in_hand, mut dropped) = (0, VecDeque::new(), 0);
            let mut delivered = Vec::new();
            let mut last_taken = None;
            let (mut rules, mut always_block) = (rules, true);
            for step in steps {
                match step {
                    Step::Push(size) => {
                        queue.push(Item(next, size), 1, standing, |_| dropped += 1);
                        next += 1;
                    }
                    Step::Take => if let Some(item) = queue.take() {
                        if let Some(last) = last_taken { prop_assert!(item.0 > last); }
                        last_taken = Some(item.0);
                        in_hand.push_back(item);
                    },
                    Step::Deliver => if let Some(item) = in_hand.pop_front() {
                        queue.delivered(1);
                        delivered.push(item);
                    },
                    Step::TakeBack => {
                        // First what is not delivered, then what is, the newest first.
                        while let Some(item) = in_hand.pop_back() {
                            queue.put_back(item, |_| dropped += 1);
                        }
                        if let Some(item) = delivered.pop() {
                            queue.undelivered();
                            queue.put_back(item, |_| dropped += 1);
                        }
                        last_taken = None;
                    }
                    Step::Change(other) => {
                        rules = other;
                        let before = dropped;
                        queue.change(rules, |_| dropped += 1);
                        if matches!(rules.policy, Policy::Block | Policy::DropNewest) {
                            prop_assert_eq!(before, dropped);
                        }
                    }
                    Step::GiveUp => if let Some(item) = in_hand.pop_front() {
                        queue.give_up(&item, DropReason::TooLong);
                        dropped += 1;
                    },
                    Step::PutBack => {
                        // A connection that breaks puts back everything, the newest first.
                        while let Some(item) = in_hand.pop_back() {
                            queue.put_back(item, |_| dropped += 1);
                        }
                        last_taken = None;
                    }
                }
                let counters = queue.counters();
                prop_assert_eq!(counters.sent, u64::from(next));
                prop_assert_eq!(counters.dropped, dropped);
                prop_assert_eq!(counters.sent, counters.delivered + counters.dropped + counters.queued);
                always_block &= rules.policy == Policy::Block;
                if always_block && granted {
                    prop_assert_eq!(counters.drops.full, 0);
                } else if matches!(rules.policy, Policy::DropOldest | Policy::Latest) {
                    let waiting = counters.queued - in_hand.len() as u64;
                    prop_assert!(waiting <= u64::from(rules.capacity));
                }
            }
        }

        #[test]
        fn who_comes_late_gets_the_last_ones_once_and_in_their_order(
            history in 0..8_u32,
            sent in 0..20_u32,
            taken in 0..20_usize,
            put_back in 0..5_usize,
            given_up in any::<bool>(),
        ) {
            let rules = LinkRules { history, ..LinkRules::default() };
            let mut queue = Queue::new(rules);
            for n in 0..sent {
                queue.push(Item(n, 1), 1, Standing::Ungranted, drop);
            }
            let mut in_hand: Vec<_> = std::iter::from_fn(|| queue.take()).take(taken).collect();
            for item in in_hand.split_off(in_hand.len().saturating_sub(put_back)).into_iter().rev() {
                queue.put_back(item, drop);
            }
            if given_up && let Some(item) = in_hand.pop() {
                queue.give_up(&item, DropReason::TooLong);
            }
            queue.delivered(in_hand.len() as u64);
            let before = queue.counters();
            queue.rewind(Clone::clone);
            prop_assert_eq!(&queue.counters(), &before, "they count nowhere");
            let waiting = before.queued as usize;
            let again = (history as usize).saturating_sub(waiting).min(in_hand.len());
            let replay = in_hand.split_off(in_hand.len() - again);
            let got: Vec<_> = std::iter::from_fn(|| queue.take()).collect();
            prop_assert_eq!(&got[..again], &replay[..]);
            prop_assert_eq!(got.len(), again + waiting);
            prop_assert!(got.is_sorted_by_key(|item| item.0));
            // Nobody else gets what this one was to get.
            queue.rewind(Clone::clone);
            queue.forget_replay();
            prop_assert!(queue.is_empty());
        }

        #[test]
        fn drop_oldest_keeps_the_newest(capacity in 1..20_u32, count in 0..60_u32) {
            let mut queue = Queue::new(LinkRules { policy: Policy::DropOldest, capacity, ..LinkRules::default() });
            for n in 0..count {
                queue.push(Item(n, 1), 1, Standing::Ungranted, drop);
            }
            let kept: Vec<u32> = std::iter::from_fn(|| queue.take()).map(|item| item.0).collect();
            let expected: Vec<u32> = (count.saturating_sub(capacity)..count).collect();
            prop_assert_eq!(kept, expected);
        }
    }

    #[test]
    fn bytes_are_bounded_too() {
        let mut queue = Queue::new(LinkRules::default());
        for n in 0..10 {
            queue.push(Item(n, Limits::BYTES / 3), 1, Standing::Ungranted, drop);
        }
        assert_eq!(queue.counters().queued, 3);
        queue.push(Item(10, Limits::BYTES * 2), 1, Standing::Ungranted, drop);
        assert_eq!(
            queue.counters().queued,
            1,
            "a message that is too large for the bound passes alone"
        );
    }
}
