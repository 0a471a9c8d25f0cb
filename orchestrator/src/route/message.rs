//! A message on its way, and where it comes from.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use orchestrator_proto::runtime::Sender;

use super::decl::TypeDecl;
use super::patience::{Patience, Verdict};
use super::queue::{Limits, Standing};
use super::source::Upstream;

/// Where the messages of one route come from: one output of one source, over one link.
pub struct Origin {
    /// The type as the sender declared it.
    pub decl: Arc<TypeDecl>,
    /// Whose messages, if the sender numbers them.
    pub sender: Option<Sender>,
    /// The number of the first message of the sender's connection.
    pub(super) first: u64,
    /// Set under `block`, when the sender can be made to wait.
    pub credit: Option<Credit>,
    /// Whether its messages are delivered again, to a receiver that came later.
    pub(super) is_replay: bool,
}

impl Origin {
    /// Whether a message of this origin is kept until its receiver has acknowledged it, if the
    /// receiver does so: its sender keeps it as well, and the receiver will know it again.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.sender.is_some() && self.credit.is_some()
    }

    /// The same for messages that are delivered again. Their sender has nothing to do with it.
    pub(super) fn replay(&self) -> Arc<Self> {
        let Self { decl, sender, first, .. } = self;
        let (decl, sender, first) = (decl.clone(), *sender, *first);
        Arc::new(Self { decl, sender, first, credit: None, is_replay: true })
    }

    /// For the sink: this message and those before it were acknowledged, `count` of them that
    /// were not before. Not at the same time as [`Link::take_back`](super::Link::take_back).
    pub fn acknowledged(&self, last: &Entry, count: u64) {
        if let Some(credit) = &self.credit {
            credit.acknowledged(last.index() + 1, count);
        }
    }
}

/// How an output's messages are numbered; see [`Frame::Keep`](orchestrator_proto::runtime::Frame).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Numbering {
    /// The sender's choice, together with its instance.
    pub epoch: u64,
    /// The number of the first message.
    pub first: u64,
    /// So many of the first messages come again: they are for `block` links only.
    pub again: u64,
}

/// How far the receiving side of a `block` route has come. Messages are counted from the
/// beginning of the sender's connection.
pub struct Credit {
    /// Messages that found no place in the link, because the sender went far beyond its grant.
    refused: AtomicU64,
    /// Messages that need no place in the link any more: they were taken or given up.
    consumed: AtomicU64,
    /// Among those, messages whose receiver has not acknowledged them yet but will.
    unacknowledged: AtomicU64,
    /// Messages, the first ones, that nobody will need again. Never decreases.
    settled: AtomicU64,
    /// As many of these the sender was told of.
    told: AtomicU64,
    /// Messages that came to the link, counted likewise.
    pushed: AtomicU64,
    /// Messages that may be under way, as far as they are small.
    window: AtomicU64,
    /// The total that was told last.
    told_total: AtomicU64,
    /// How long the sender is held back. Looked at only where that has an end.
    patience: Mutex<Patience>,
    has_limit: AtomicBool,
    /// It is over: the sender may send more than there is room for.
    is_over: AtomicBool,
    /// The largest message that came, bytes. Where messages are large, fewer may be under way.
    largest: AtomicU64,
    /// Who is told.
    upstream: Weak<dyn Upstream>,
    /// Which of its outputs.
    channel: u16,
    /// Whether the sender keeps its messages until it is told that they are settled.
    is_kept: bool,
}

impl Credit {
    pub(super) fn new(
        already: u64,
        window: u64,
        limit: Option<Duration>,
        upstream: Weak<dyn Upstream>,
        channel: u16,
        is_kept: bool,
    ) -> Self {
        Self {
            refused: AtomicU64::new(0),
            consumed: AtomicU64::new(already),
            unacknowledged: AtomicU64::new(0),
            settled: AtomicU64::new(already),
            told: AtomicU64::new(already),
            pushed: AtomicU64::new(already),
            window: AtomicU64::new(window),
            told_total: AtomicU64::new(already + window),
            patience: Mutex::new(Patience::new(limit)),
            has_limit: AtomicBool::new(limit.is_some()),
            is_over: AtomicBool::new(false),
            largest: AtomicU64::new(0),
            upstream,
            channel,
            is_kept,
        }
    }

    /// One more message came to the link, of this many bytes.
    pub(super) fn push(&self, size: usize) -> Pushed {
        let before = self.window();
        self.largest.fetch_max(size as u64, Ordering::AcqRel);
        let pushed = self.pushed.fetch_add(1, Ordering::AcqRel);
        let standing = if pushed < self.places() {
            Standing::Granted
        } else if self.is_over.load(Ordering::Acquire) {
            Standing::TimedOut
        } else {
            Standing::BeyondGrant
        };
        Pushed { standing, window_shrank: self.window() < before }
    }

    /// Messages that may be under way: about [`Limits::BYTES`] of payload, at least one.
    fn window(&self) -> u64 {
        let largest = self.largest.load(Ordering::Acquire).max(1);
        let window = self.window.load(Ordering::Acquire);
        window.min((Limits::BYTES as u64 / largest).max(1))
    }

    /// From now on so many messages may be under way. Has to be told: [`Credit::announce`].
    pub(super) fn set_window(&self, messages: u64) {
        self.window.store(messages, Ordering::Release);
        self.told_total.store(self.total(), Ordering::Release);
    }

    /// The total that there is room for.
    fn places(&self) -> u64 {
        let gone = self.consumed.load(Ordering::Acquire) + self.refused.load(Ordering::Acquire);
        gone.saturating_add(self.window())
    }

    /// The total that this route allows.
    pub(super) fn total(&self) -> u64 {
        match self.is_over.load(Ordering::Acquire) {
            false => self.places(),
            // It may have gone far beyond its grant before it knew of that.
            true => {
                let pushed = self.pushed.load(Ordering::Acquire);
                self.places().max(pushed).saturating_add(self.window())
            }
        }
    }

    /// The total that this route will not need again.
    pub(super) fn settled(&self) -> u64 {
        self.settled.load(Ordering::Acquire)
    }

    /// `count` messages found their way, the first `total` have by now, and nobody will
    /// acknowledge them. May tell the sender, so that no lock of its source must be held.
    pub(super) fn delivered(&self, total: u64, count: u64) {
        let before = self.consumed.fetch_add(count, Ordering::AcqRel);
        let settled = self.settle(total);
        self.has_consumed(before, count);
        self.announce_soon(settled);
    }

    /// `count` messages found their way, and will be acknowledged. As [`Credit::delivered`].
    pub(super) fn delivered_unacknowledged(&self, count: u64) {
        // In this order: whoever sees the messages as consumed sees them as unacknowledged too.
        self.unacknowledged.fetch_add(count, Ordering::AcqRel);
        let before = self.consumed.fetch_add(count, Ordering::AcqRel);
        self.has_consumed(before, count);
    }

    /// A message was given up; some before it may still be under way. As [`Credit::delivered`].
    pub(super) fn gave_up(&self) {
        let before = self.consumed.fetch_add(1, Ordering::AcqRel);
        let settled = self.settle(0);
        self.has_consumed(before, 1);
        self.announce_soon(settled);
    }

    /// `count` messages of a link that is removed need no place any more.
    pub(super) fn discarded(&self, count: u64) {
        let before = self.consumed.fetch_add(count, Ordering::AcqRel);
        self.has_consumed(before, count);
    }

    /// `count` messages of the sender went elsewhere: they need no place here, and never will. To be
    /// [told](Credit::announce).
    pub(super) fn passed_by(&self, count: u64) {
        self.pushed.fetch_add(count, Ordering::AcqRel);
        self.consumed.fetch_add(count, Ordering::AcqRel);
        self.settle(0);
    }

    /// A message was refused. To be [told](Credit::tell_refused).
    pub(super) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::AcqRel);
    }

    /// The last `count` messages that were refused. As [`Credit::delivered`].
    pub(super) fn tell_refused(&self, count: u64) {
        if count > 0 {
            let now = self.refused.load(Ordering::Acquire);
            self.announce_each_half(now.saturating_sub(count), count);
        }
    }

    /// So many messages were dropped because there was no room for too long; when to look at the
    /// sender. As [`Credit::delivered`].
    pub(super) fn tell_held(&self, timed_out: u64, until: Option<Instant>) {
        if timed_out == 0 && until.is_none() {
            return;
        }
        let Some(upstream) = self.upstream.upgrade() else { return };
        if timed_out > 0 {
            upstream.timed_out(self.channel, timed_out);
        }
        if let Some(until) = until {
            upstream.held_back(self.channel, until);
        }
    }

    /// Whether the sender is held back now, as far as it knows: then the answer is when to
    /// [look](Credit::look) at it, if nobody was told that before.
    pub(super) fn is_held(&self) -> Option<Instant> {
        let has_limit = self.has_limit.load(Ordering::Acquire);
        let pushed = self.pushed.load(Ordering::Acquire);
        if !has_limit || pushed < self.told_total.load(Ordering::Acquire) {
            return None;
        }
        self.patience().is_held(Instant::now())
    }

    /// From now on the sender is held back so long at most; none is without end. Has to be told:
    /// [`Credit::announce`].
    pub(super) fn set_limit(&self, limit: Option<Duration>) {
        let mut patience = self.patience();
        patience.set_limit(limit);
        self.has_limit.store(limit.is_some(), Ordering::Release);
        self.is_over.store(patience.is_over(), Ordering::Release);
    }

    /// Lets the sender go if it was held back for too long. The answer is when to look again. As
    /// [`Credit::delivered`].
    pub(super) fn look(&self, now: Instant) -> Option<Instant> {
        let verdict = {
            let mut patience = self.patience();
            if self.has_room() {
                patience.has_room();
            }
            let verdict = patience.look(now);
            self.is_over.store(patience.is_over(), Ordering::Release);
            verdict
        };
        match verdict {
            Verdict::Wait(until) => Some(until),
            // It may not know yet that there is room.
            Verdict::Rest | Verdict::LetGo => {
                self.announce();
                None
            }
        }
    }

    fn patience(&self) -> MutexGuard<'_, Patience> {
        self.patience.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_room(&self) -> bool {
        self.pushed.load(Ordering::Acquire) < self.places()
    }

    /// `count` messages need no place any more, `before` did before.
    fn has_consumed(&self, before: u64, count: u64) {
        if self.is_over.load(Ordering::Acquire) && self.has_room() {
            // It is held back again.
            self.announce();
        } else {
            self.announce_each_half(before, count);
        }
    }

    /// Nobody will need the first `total` messages again, and if nothing is under way, none at
    /// all. The answer is how many that is.
    fn settle(&self, total: u64) -> u64 {
        // In this order: what comes or leaves meanwhile makes the sum too small.
        let consumed = self.consumed.load(Ordering::Acquire);
        let left = consumed + self.refused.load(Ordering::Acquire);
        let is_idle = left == self.pushed.load(Ordering::Acquire)
            && self.unacknowledged.load(Ordering::Acquire) == 0;
        let total = if is_idle { left } else { total };
        self.settled.fetch_max(total, Ordering::AcqRel).max(total)
    }

    /// Tells the sender each time another half of the window is free, not for each message.
    fn announce_each_half(&self, before: u64, count: u64) {
        let half = (self.window() / 2).max(1);
        if before / half != (before + count) / half {
            self.announce();
        }
    }

    /// The first `total` messages were acknowledged, `count` of them that were not before. As
    /// [`Credit::delivered`]. Not at the same time as [`Credit::take_back`].
    fn acknowledged(&self, total: u64, count: u64) {
        self.unacknowledged.fetch_sub(count, Ordering::AcqRel);
        let settled = self.settle(total);
        // As a rule the next grant takes it along. When nothing is under way there may be none for
        // a long time.
        let is_idle = settled == self.pushed.load(Ordering::Acquire);
        if is_idle && settled > self.told.load(Ordering::Acquire) {
            self.announce();
        }
    }

    /// `count` messages that were consumed and unacknowledged go back to the link's front.
    pub(super) fn take_back(&self, count: u64) {
        self.consumed.fetch_sub(count, Ordering::AcqRel);
        self.unacknowledged.fetch_sub(count, Ordering::AcqRel);
    }

    /// Has the sender told in a moment of what nobody will acknowledge: the less it sends again
    /// after a daemon's death, the fewer messages such a receiver gets twice.
    fn announce_soon(&self, settled: u64) {
        if self.is_kept
            && settled > self.told.load(Ordering::Acquire)
            && let Some(upstream) = self.upstream.upgrade()
        {
            upstream.settled(self.channel);
        }
    }

    /// Tells the sender what it may send. Not to be called with a lock of its source held.
    pub(super) fn announce(&self) {
        self.told.store(self.settled(), Ordering::Release);
        if self.has_limit.load(Ordering::Acquire) && self.has_room() {
            let mut patience = self.patience();
            patience.has_room();
            self.is_over.store(false, Ordering::Release);
        }
        self.told_total.store(self.total(), Ordering::Release);
        if let Some(upstream) = self.upstream.upgrade() {
            upstream.window_moved(self.channel);
        }
    }
}

/// See [`Credit::push`].
pub(super) struct Pushed {
    pub(super) standing: Standing,
    /// The sender does not know yet that it may have fewer under way.
    pub(super) window_shrank: bool,
}

/// A message in a queue.
#[derive(Clone)]
pub struct Entry {
    /// The payload, in the origin's encoding, with its stamp if it has one. Shared, never copied per
    /// target.
    pub body: Bytes,
    /// Counts up from the origin's first.
    pub number: u64,
    /// How many were sent over the link before.
    pub(super) place: u64,
    /// Where it comes from.
    pub origin: Arc<Origin>,
}

impl Entry {
    /// The payload alone, in the form of the origin's declaration.
    #[must_use]
    pub fn value(&self) -> Bytes {
        self.origin.decl.value(&self.body).0
    }

    /// Counted from the beginning of the sender's connection.
    pub(super) fn index(&self) -> u64 {
        self.number - self.origin.first
    }
}
