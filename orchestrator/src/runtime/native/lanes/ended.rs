//! What passed over a lane that is over. Its sender says how much it has delivered, its receiver how
//! much it has read; the two come over different connections, in any order.
//!
//! If what they say can't both be true, one of them is wrong. What the receiver read counts then, and
//! somebody is told. Of a lane that an earlier daemon made, each counts from when it came to this one;
//! so both say then what they had counted before.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use orchestrator_proto::control::Policy;
use orchestrator_proto::runtime::Passed;
use orchestrator_proto::{InstanceId, LinkId};

use super::super::super::now_ns;
use super::table::{End, Lane, Table};
use crate::route::{Divergence, Link};

/// Lanes of one receiver that it has not read to their ends yet: as many as there can be at once.
/// Of what is older than that nobody compares anything.
const MAX_ENDED: usize = 1024;

/// How many messages the ends of a lane had counted when they came to this daemon: that were delivered,
/// and that were read. None of an end that has not come, or does not say it.
#[derive(Clone, Copy, Default)]
pub(super) struct Before {
    pub(super) sender: Option<u64>,
    pub(super) receiver: Option<u64>,
}

impl Before {
    /// Of a lane that this daemon made.
    pub(super) const BEGINNING: Self = Self { sender: Some(0), receiver: Some(0) };

    /// How many messages the receiver had still to read, of those that the sender had delivered. Below
    /// 0 if it came later than the sender.
    fn ahead(self) -> Option<i64> {
        Some(self.sender?.cast_signed() - self.receiver?.cast_signed())
    }
}

/// Lanes that their senders have left, by the connection of the receiver, the oldest first.
#[derive(Default)]
pub(super) struct EndedLanes(HashMap<u64, VecDeque<Ended>>);

/// One of them.
struct Ended {
    lane: u64,
    /// The receiver's.
    channel: u16,
    link: Arc<Link>,
    policy: Policy,
    from: Option<InstanceId>,
    /// The sender's last word.
    said: Passed,
    before: Before,
    /// Whether it may have written what nobody could read.
    may_lose: bool,
}

impl EndedLanes {
    fn add(&mut self, receiver: u64, ended: Ended) {
        let of_it = self.0.entry(receiver).or_default();
        if of_it.len() >= MAX_ENDED {
            of_it.pop_front();
        }
        of_it.push_back(ended);
    }

    fn take(&mut self, receiver: End, lane: u64) -> Option<Ended> {
        let of_it = self.0.get_mut(&receiver.connection)?;
        let is_it = |it: &Ended| it.lane == lane && it.channel == receiver.channel;
        let at = of_it.iter().position(is_it)?;
        let ended = of_it.remove(at);
        if of_it.is_empty() {
            self.0.remove(&receiver.connection);
        }
        ended
    }

    /// Nobody is there any more to say it.
    pub(super) fn gone(&mut self, receiver: u64) {
        self.0.remove(&receiver);
    }
}

/// How many messages the receiver has read for what the sender says of them to be true, at least and
/// at most; `ahead` of that were delivered before the sender began to count. Under `block` a sender
/// takes back what was not acknowledged, and some of that may have been read all the same, also of what
/// it delivered before.
fn can_be_read(policy: Policy, said: Passed, ahead: i64) -> (i64, i64) {
    let Passed { sent, delivered, dropped, returned, .. } = said;
    let [sent, delivered, dropped, returned] =
        [sent, delivered, dropped, returned].map(u64::cast_signed);
    match policy {
        Policy::Block => {
            let most = ahead + (sent - dropped).min(delivered + returned);
            (most - returned, most)
        }
        _ => (ahead + delivered, ahead + delivered),
    }
}

/// What counts if so many were delivered, whatever the sender says: no message of which it knows
/// is left out, and none counts twice.
fn with_delivered(said: Passed, delivered: u64) -> Passed {
    let sent = said.sent.max(delivered + said.dropped + said.returned);
    Passed { sent, delivered, ..said }
}

/// What counts if the receiver read so many and that can't be.
fn corrected(policy: Policy, said: Passed, ahead: i64, read: u64) -> Option<Passed> {
    let (least, most) = can_be_read(policy, said, ahead);
    let read = read.cast_signed();
    let wrong = if read < least { read - least } else { (read - most).max(0) };
    let delivered = said.delivered.cast_signed() + wrong;
    (wrong != 0).then(|| with_delivered(said, delivered.max(0).cast_unsigned()))
}

/// How many were delivered of those that the sender counts here, if so many were read.
fn delivered(ahead: i64, read: u64) -> u64 {
    (read.cast_signed() - ahead).max(0).cast_unsigned()
}

impl Table {
    /// The sender has said its last word on a lane that is in the table no longer.
    pub(super) fn sender_left(
        &mut self,
        id: u64,
        lane: &Lane,
        from: Option<InstanceId>,
        said: Passed,
    ) -> Option<Divergence> {
        lane.before.ahead()?;
        let receiver = lane.receiver?;
        let (link, policy) = (lane.link.clone(), lane.rules.policy);
        let (channel, may_lose) = (receiver.channel, lane.may_lose());
        let before = lane.before;
        let ended = Ended { lane: id, channel, link, policy, from, said, before, may_lose };
        match lane.read {
            Some(read) => compare(&ended, read),
            None if self.connection(receiver.connection).is_some() => {
                self.ended.add(receiver.connection, ended);
                None
            }
            None => None,
        }
    }

    /// The receiver has read to the end of a lane that its sender has left.
    pub(super) fn receiver_left(
        &mut self,
        receiver: End,
        id: u64,
        read: u64,
    ) -> Option<Divergence> {
        let ended = self.ended.take(receiver, id)?;
        compare(&ended, read)
    }
}

fn compare(ended: &Ended, read: u64) -> Option<Divergence> {
    let Ended { link, policy, from, said, before, may_lose, .. } = ended;
    let ahead = before.ahead()?;
    let corrected = corrected(*policy, *said, ahead, read)?;
    link.lanes.correct(*said, corrected);
    let is_lost = *may_lose && corrected.delivered < said.delivered;
    (!is_lost).then(|| divergence((link.id, *from), *before, said.delivered, read))
}

/// Both counted from the beginning of the lane.
fn divergence(
    (link, from): (LinkId, Option<InstanceId>),
    before: Before,
    delivered: u64,
    read: u64,
) -> Divergence {
    let delivered = before.sender.unwrap_or_default() + delivered;
    Divergence { link, from, delivered, read: before.receiver.unwrap_or_default() + read }
}

/// What is known of a lane without its sender's last word: that its receiver has read so many.
fn by_receiver(id: u64, lane: &Lane, read: u64) -> Passed {
    let known = lane.link.lanes.known(id);
    let delivered = match lane.before.ahead() {
        Some(ahead) => delivered(ahead, read),
        None => read.max(known.delivered),
    };
    with_delivered(known, delivered)
}

/// The receiver has read a lane to its end that the daemon has ended, and the sender does not say as
/// yet what passed.
pub(super) fn before_sender(id: u64, lane: &Lane, read: u64) {
    lane.link.lanes.passed(id, by_receiver(id, lane, read), now_ns() / 1_000_000);
}

/// The sender of a lane is gone without a last word, and its receiver has read it to its end: that
/// is what was delivered. The lane is in the table no longer.
pub(super) fn without_sender(id: u64, lane: &Lane, read: u64) -> Option<Divergence> {
    let link = &lane.link;
    let known = link.lanes.known(id);
    let all = by_receiver(id, lane, read);
    // What it said before that it had delivered was there to be read.
    let is_wrong = all.delivered < known.delivered && !lane.may_lose();
    let mut from = None;
    if let Some((source, channel)) = &lane.source {
        source.has_sent(*channel, known.output + (all.sent - known.sent));
        from = source.instance;
    }
    link.lanes.passed(id, all, now_ns() / 1_000_000);
    link.lanes.end(id);
    is_wrong.then(|| divergence((link.id, from), lane.before, known.delivered, read))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policies() -> impl Strategy<Value = Policy> {
        prop::sample::select(vec![
            Policy::Block,
            Policy::DropNewest,
            Policy::DropOldest,
            Policy::Latest,
        ])
    }

    proptest! {
        /// An honest sender: of what it sent, the kernel took some, which are read, some gave way
        /// and the rest went back; under `block` what was read and not acknowledged as well.
        #[test]
        fn what_is_true_is_never_corrected(
            policy in policies(),
            acknowledged in 0..1000_u64,
            read_only in 0..1000_u64,
            waiting in 0..1000_u64,
            dropped in 0..1000_u64,
            // What the sender had delivered, and the receiver read, when they came to this daemon; and what
            // was not acknowledged of that, which goes back as well.
            ahead in -1000..1000_i64,
            unacknowledged in 0..1000_u64,
        ) {
            let read = acknowledged + read_only;
            let said = match policy {
                Policy::Block => Passed {
                    sent: read + waiting,
                    delivered: acknowledged,
                    returned: read_only + waiting,
                    ..Passed::default()
                },
                _ => Passed {
                    sent: read + waiting + dropped,
                    delivered: read,
                    returned: waiting,
                    dropped,
                    ..Passed::default()
                },
            };
            prop_assert_eq!(corrected(policy, said, 0, read), None);
            let said = match policy {
                Policy::Block => {
                    let returned = said.returned + unacknowledged;
                    // It can't say of what it has counted here that less than none was delivered.
                    let delivered = (said.sent - said.dropped).saturating_sub(returned);
                    Passed { delivered, returned, ..said }
                }
                _ => said,
            };
            let total = read.cast_signed() + ahead;
            if total >= 0 {
                let total = total.cast_unsigned();
                prop_assert_eq!(corrected(policy, said, ahead, total), None);
                prop_assert_eq!(delivered(ahead, total), read);
            }
        }

        #[test]
        fn what_is_corrected_adds_up_and_follows_the_receiver(
            policy in policies(),
            numbers: [u16; 5],
        ) {
            let [sent, delivered, dropped, returned, read] = numbers.map(u64::from);
            // No more than were sent.
            let sent = sent.max(delivered + dropped + returned);
            let said = Passed { sent, delivered, dropped, returned, output: 7 };
            let (least, most) = can_be_read(policy, said, 0);
            let as_read = read.cast_signed();
            match corrected(policy, said, 0, read) {
                None => prop_assert!((least..=most).contains(&as_read)),
                Some(after) => {
                    prop_assert!(!(least..=most).contains(&as_read));
                    prop_assert!(after.sent >= after.delivered + after.dropped + after.returned);
                    prop_assert!(after.sent >= said.sent);
                    // What it read counts as delivered, but for what comes again by the daemon.
                    let again = if policy == Policy::Block && as_read > most { returned } else { 0 };
                    prop_assert_eq!(after.delivered, read - again);
                    prop_assert_eq!((after.dropped, after.returned, after.output), (dropped, returned, 7));
                    prop_assert_eq!(corrected(policy, after, 0, read), None);
                }
            }
        }
    }
}
