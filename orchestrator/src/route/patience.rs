//! PURE: how long a sender under `block` is held back for want of room.
//!
//! Its patience begins when it has used up what it was told that it may send, and begins anew
//! whenever there is room. When it is over the sender is let go: what it sends then and finds no
//! place is given up, until there is room again. So a receiver that hangs costs its senders their
//! patience once, and not once for each message.

use std::time::{Duration, Instant};

/// Of one sender, over one link.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// None is without end.
    limit: Option<Duration>,
    /// Since when the sender is held back.
    since: Option<Instant>,
    is_over: bool,
}

/// What becomes of a sender that is held back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It is not held back, or without end.
    Rest,
    /// It is to be looked at again at this time.
    Wait(Instant),
    /// It is let go.
    LetGo,
}

impl Patience {
    pub(super) fn new(limit: Option<Duration>) -> Self {
        Self { limit, ..Self::default() }
    }

    /// Another limit. Who is held back begins anew.
    pub(super) fn set_limit(&mut self, limit: Option<Duration>) {
        if limit != self.limit {
            *self = Self::new(limit);
        }
    }

    /// The sender may send no more as far as it knows. The answer is when to look at it, if nobody
    /// was told before.
    pub(super) fn is_held(&mut self, now: Instant) -> Option<Instant> {
        let limit = self.limit?;
        if self.is_over || self.since.is_some() {
            return None;
        }
        self.since = Some(now);
        now.checked_add(limit)
    }

    /// There is room.
    pub(super) fn has_room(&mut self) {
        (self.since, self.is_over) = (None, false);
    }

    /// There is no room.
    pub(super) fn look(&mut self, now: Instant) -> Verdict {
        let until = |since: Instant| since.checked_add(self.limit?);
        match self.since.and_then(until) {
            Some(until) if !self.is_over && now >= until => {
                self.is_over = true;
                Verdict::LetGo
            }
            Some(until) if !self.is_over => Verdict::Wait(until),
            _ => Verdict::Rest,
        }
    }

    /// Whether the sender is let go.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Held,
        Room,
        Look,
        Limit(Option<u64>),
    }

    fn limits() -> impl Strategy<Value = Option<u64>> {
        prop::option::of(1..50_u64)
    }

    fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
        let step = prop_oneof![
            3 => Just(Step::Held),
            2 => Just(Step::Room),
            3 => Just(Step::Look),
            1 => limits().prop_map(Step::Limit),
        ];
        prop::collection::vec((0..30_u64, step), 0..100)
    }

    proptest! {
        #[test]
        fn whoever_had_no_room_for_so_long_is_let_go_and_nobody_else(
            limit in limits(), steps in steps(),
        ) {
            let ms = Duration::from_millis;
            let mut now = Instant::now();
            let mut limit = limit;
            let mut patience = Patience::new(limit.map(ms));
            let mut since = None;
            for (wait, step) in steps {
                now += ms(wait);
                match step {
                    Step::Held => {
                        let until = patience.is_held(now);
                        if let (None, Some(limit)) = (since, limit) {
                            prop_assert_eq!(until, Some(now + ms(limit)));
                            since = Some(now);
                        } else {
                            prop_assert_eq!(until, None);
                        }
                    }
                    Step::Room => {
                        patience.has_room();
                        since = None;
                    }
                    Step::Limit(other) => {
                        if other != limit {
                            (limit, since) = (other, None);
                        }
                        patience.set_limit(limit.map(ms));
                    }
                    Step::Look => {
                        let was_over = patience.is_over();
                        let due = since.zip(limit).map(|(since, limit)| since + ms(limit));
                        let expected = match due {
                            Some(due) if was_over => { prop_assert!(now >= due); Verdict::Rest }
                            Some(due) if now >= due => Verdict::LetGo,
                            Some(due) => Verdict::Wait(due),
                            None => Verdict::Rest,
                        };
                        prop_assert_eq!(patience.look(now), expected);
                    }
                }
                if since.is_none() || limit.is_none() {
                    prop_assert!(!patience.is_over());
                }
            }
        }
    }
}
