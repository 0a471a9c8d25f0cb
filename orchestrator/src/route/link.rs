//! One link: its queue behind a lock, and the way to its mailbox.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use orchestrator_proto::control::{CallCounters, Counters, LinkRules, Transport, Way};
use orchestrator_proto::{InstanceId, LinkId, WireError};

use super::beside::Beside;
use super::calls::CallCounts;
use super::history::Item;
use super::mailbox::Mailbox;
use super::message::{Credit, Entry, Origin};
use super::queue::{DropReason, Queue, Standing};
use super::router::LinkRequest;

impl Item for Entry {
    fn size(&self) -> usize {
        self.body.len()
    }

    fn place(&self) -> u64 {
        self.place
    }

    fn set_place(&mut self, place: u64) {
        self.place = place;
    }
}

/// Who gets a link's messages.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum LinkTarget {
    /// An instance.
    Instance(InstanceId),
    /// Another orchestrator's datagram socket, `HOST:PORT`.
    Udp(Arc<str>),
}

/// What a sender's credit is still to be told of; see [`Link::push_run`].
#[derive(Default)]
pub(super) struct Unsettled {
    pub(super) given_up: u64,
    /// Among those, messages for which there was no room for too long.
    pub(super) timed_out: u64,
    pub(super) window_shrank: bool,
    /// The sender may send no more as far as it knows: when to look at it.
    pub(super) held_until: Option<Instant>,
}

impl Unsettled {
    pub(super) fn is_nothing(&self) -> bool {
        self.given_up == 0 && !self.window_shrank && self.held_until.is_none()
    }
}

/// One link.
pub struct Link {
    /// Its id.
    pub id: LinkId,
    /// Whose messages; none means anybody's.
    pub from: Option<InstanceId>,
    /// Messages of this type.
    pub type_name: Arc<str>,
    /// Who gets them.
    pub to: LinkTarget,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) mismatch: Mutex<Option<WireError>>,
    queue: Mutex<Queue<Entry>>,
    /// Calls over it.
    pub(super) calls: Arc<CallCounts>,
    removed: AtomicBool,
    /// What goes over it without passing here.
    pub lanes: Beside,
}

impl Link {
    pub(super) fn new(id: LinkId, request: &LinkRequest, mailbox: Arc<Mailbox>) -> Self {
        let LinkRequest { from, type_name, to, rules } = request.clone();
        Self {
            id,
            from,
            type_name,
            to,
            mailbox,
            mismatch: Mutex::new(None),
            queue: Mutex::new(Queue::new(rules)),
            calls: Arc::default(),
            removed: AtomicBool::new(false),
            lanes: Beside::default(),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue<Entry>> {
        // No code that holds this lock can panic half way through a change.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its rules.
    #[must_use]
    pub fn rules(&self) -> LinkRules {
        self.queue().rules()
    }

    /// Which way its messages go now; and why they don't go directly, a sentence, where somebody
    /// asks for that.
    #[must_use]
    pub fn way(&self) -> (Way, Option<String>) {
        let way = self.lanes.way();
        let why = match (self.rules().transport, &self.to) {
            (Transport::Routed, _) => None,
            (_, LinkTarget::Udp(_)) => Some("its target is a datagram socket".to_owned()),
            (_, LinkTarget::Instance(_)) => self.lanes.why(),
        };
        (way, why)
    }

    /// Other rules, for what waits as well. The answer is how many messages gave way. Whoever
    /// feeds it has to be told, see [`Source::refresh`](super::Source::refresh).
    pub(super) fn change(&self, rules: LinkRules) -> u64 {
        let mut dropped = Vec::new();
        self.queue().change(rules, |entry| dropped.push(entry));
        for entry in &dropped {
            if let Some(credit) = &entry.origin.credit {
                credit.discarded(1);
            }
        }
        dropped.len() as u64
    }

    /// What passed, by whichever way.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut counters = self.queue().counters();
        self.lanes.add_to(&mut counters);
        counters
    }

    /// This lane begins for the receiver, which is told so by this frame in the sink with that
    /// number, behind what it is still to get from here.
    pub fn hand_over(self: &Arc<Self>, lane: u64, sink: u64, frame: Vec<u8>) {
        self.lanes.hand_over(lane, sink, frame);
        let mut queue = self.queue();
        let schedule = !std::mem::replace(&mut queue.scheduled, true);
        drop(queue);
        if schedule {
            self.mailbox.schedule(self.clone());
        }
        self.mailbox.unpark();
        self.mailbox.kick();
    }

    /// For the sink with this number, after [`Link::take`]: what it tells its peer now that nothing
    /// waits.
    #[must_use]
    pub fn handed_over(&self, sink: u64) -> Option<Vec<u8>> {
        if !self.lanes.is_handing_over() || !self.queue().is_empty() {
            return None;
        }
        self.lanes.handed_over(sink)
    }

    /// What became of the calls over it.
    #[must_use]
    pub fn call_counters(&self) -> CallCounters {
        self.calls.counters()
    }

    /// Why the link carries nothing, if its two ends don't agree.
    #[must_use]
    pub fn mismatch(&self) -> Option<WireError> {
        self.mismatch.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes in a run of messages of one origin, numbered from `first` on. The caller wakes the mailbox afterwards, and
    /// settles what is answered when it holds no lock of the source.
    pub(super) fn push_run(
        self: &Arc<Self>,
        bodies: impl Iterator<Item = Bytes>,
        first: u64,
        origin: &Arc<Origin>,
        now_ms: u64,
    ) -> Unsettled {
        let mut unsettled = Unsettled::default();
        let mut queue = self.queue();
        for (number, body) in (first..).zip(bodies) {
            let standing = match origin.credit.as_ref().map(|credit| credit.push(body.len())) {
                None => Standing::Ungranted,
                Some(pushed) => {
                    unsettled.window_shrank |= pushed.window_shrank;
                    pushed.standing
                }
            };
            let entry = Entry { body, number, place: 0, origin: origin.clone() };
            // Only messages of this origin are given up where there is credit: those refused.
            queue.push(entry, now_ms, standing, |entry| {
                unsettled.given_up += 1;
                unsettled.timed_out += u64::from(standing == Standing::TimedOut);
                if let Some(credit) = &entry.origin.credit {
                    credit.refuse();
                }
            });
        }
        let schedule = !queue.scheduled && !queue.is_empty();
        queue.scheduled |= schedule;
        drop(queue);
        unsettled.held_until = origin.credit.as_ref().and_then(Credit::is_held);
        if schedule {
            self.mailbox.schedule(self.clone());
        }
        unsettled
    }

    /// For the sink: appends up to `max` messages to `out`, and no further one once they have
    /// `max_bytes`. They stay counted as queued until each of them is settled. Call
    /// [`Link::settled_for_now`] afterwards.
    pub fn take(&self, max: usize, max_bytes: usize, out: &mut Vec<Entry>) {
        let mut queue = self.queue();
        let mut bytes = 0;
        for _ in 0..max {
            let fits =
                queue.next_size().is_some_and(|size| bytes == 0 || bytes + size <= max_bytes);
            let Some(entry) = fits.then(|| queue.take()).flatten() else { break };
            bytes += entry.body.len();
            out.push(entry);
        }
    }

    /// For the sink, after [`Link::take`]: whether more is waiting. If so the link is still in
    /// the sink's hands; else the next message schedules it anew.
    #[must_use]
    pub fn settled_for_now(&self) -> bool {
        let mut queue = self.queue();
        queue.scheduled = !queue.is_empty();
        queue.scheduled
    }

    /// `count` messages of one origin arrived, in whole; this is the last of them.
    pub fn delivered(&self, last: &Entry, count: u64) {
        if last.origin.is_replay {
            return self.queue().replayed(count);
        }
        self.queue().delivered(count);
        if let Some(credit) = &last.origin.credit {
            credit.delivered(last.index() + 1, count);
        }
    }

    /// As [`Link::delivered`], for a receiver that acknowledges: each of these messages is
    /// reported by [`Origin::acknowledged`] or comes back by [`Link::take_back`].
    pub fn delivered_unacknowledged(&self, origin: &Origin, count: u64) {
        self.queue().delivered(count);
        if let Some(credit) = &origin.credit {
            credit.delivered_unacknowledged(count);
        }
    }

    /// The receiver went away before it acknowledged these, which were delivered: they go back
    /// to the front, in their order.
    pub fn take_back(self: &Arc<Self>, entries: impl Iterator<Item = Entry>) {
        let entries: Vec<_> = entries.collect();
        for entry in &entries {
            self.queue().undelivered();
            if let Some(credit) = &entry.origin.credit {
                credit.take_back(1);
            }
        }
        self.put_back(entries.into_iter());
    }

    /// A message that was taken can't be delivered.
    pub fn give_up(&self, entry: &Entry, reason: DropReason) {
        if entry.origin.is_replay {
            // It was delivered already, to who could take it.
            return;
        }
        self.queue().give_up(entry, reason);
        if let Some(credit) = &entry.origin.credit {
            credit.gave_up();
        }
    }

    /// The receiver went away: what was taken goes back to the front, in its order.
    pub fn put_back(self: &Arc<Self>, entries: impl DoubleEndedIterator<Item = Entry>) {
        let mut lost = Vec::new();
        let mut queue = self.queue();
        let removed = self.removed.load(Ordering::Acquire);
        // Whoever comes next gets what is for him.
        for entry in entries.rev().filter(|entry| !entry.origin.is_replay) {
            if removed {
                queue.give_up(&entry, DropReason::Failed);
                lost.push(entry);
            } else {
                queue.put_back(entry, |entry| lost.push(entry));
            }
        }
        let schedule = !queue.scheduled && !queue.is_empty();
        queue.scheduled |= schedule;
        drop(queue);
        for entry in lost {
            if let Some(credit) = &entry.origin.credit {
                credit.discarded(1);
            }
        }
        if schedule {
            self.mailbox.schedule(self.clone());
        }
    }

    /// A receiver comes, and what was taken for the one before has come back: it gets the last
    /// messages again, as its history says.
    pub(super) fn rewind(self: &Arc<Self>) {
        let mut before: Option<(Arc<Origin>, Arc<Origin>)> = None;
        let mut queue = self.queue();
        queue.rewind(|entry| {
            let origin = match &before {
                Some((of, replay)) if Arc::ptr_eq(of, &entry.origin) => replay.clone(),
                _ => entry.origin.replay(),
            };
            before = Some((entry.origin.clone(), origin.clone()));
            Entry { origin, ..entry.clone() }
        });
        let schedule = !queue.scheduled && !queue.is_empty();
        queue.scheduled |= schedule;
        drop(queue);
        if schedule {
            self.mailbox.schedule(self.clone());
        }
    }

    /// The receiver went away: what it was to get again is for nobody else.
    pub(super) fn forget_replay(&self) {
        self.queue().forget_replay();
    }

    /// Ends the link: what waits is discarded, and how much that was is the answer.
    pub(super) fn remove(&self) -> u64 {
        self.removed.store(true, Ordering::Release);
        self.mailbox.forget(self);
        let discarded = self.queue().clear();
        for entry in &discarded {
            if let Some(credit) = &entry.origin.credit {
                credit.discarded(1);
            }
        }
        discarded.len() as u64 + self.lanes.queued()
    }
}
