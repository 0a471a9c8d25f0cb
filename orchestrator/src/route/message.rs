//! A message on its way, and what is known of its type.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use orchestrator_proto::runtime::Sender;
use orchestrator_proto::{SchemaHash, TypeSchema};

use super::queue::Limits;
use super::source::Upstream;

/// How a payload is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encoding {
    /// As native runtimes do; its schema is known.
    Postcard,
    /// A JSON string literal, quotes included, whose content is JSON: the `value` of an
    /// existing Veecle OS storable.
    JsonLiteral,
}

/// A type as one side declared it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TypeDecl {
    /// The name that links refer to.
    pub name: Arc<str>,
    /// Its schema with the hash, if the side has one: Veecle OS runtimes have none.
    pub schema: Option<(SchemaHash, Arc<TypeSchema>)>,
}

impl TypeDecl {
    /// How this side writes payloads.
    #[must_use]
    pub fn encoding(&self) -> Encoding {
        if self.schema.is_some() { Encoding::Postcard } else { Encoding::JsonLiteral }
    }
}

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
}

impl Origin {
    /// Whether a message of this origin is kept until its receiver has acknowledged it, if the
    /// receiver does so: its sender keeps it as well, and the receiver will know it again.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.sender.is_some() && self.credit.is_some()
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
        Pushed { within_grant: pushed < self.total(), window_shrank: self.window() < before }
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
    }

    /// The total that this route allows.
    pub(super) fn total(&self) -> u64 {
        let gone = self.consumed.load(Ordering::Acquire) + self.refused.load(Ordering::Acquire);
        gone.saturating_add(self.window())
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
        self.announce_each_half(before, count);
        self.announce_soon(settled);
    }

    /// `count` messages found their way, and will be acknowledged. As [`Credit::delivered`].
    pub(super) fn delivered_unacknowledged(&self, count: u64) {
        // In this order: whoever sees the messages as consumed sees them as unacknowledged too.
        self.unacknowledged.fetch_add(count, Ordering::AcqRel);
        let before = self.consumed.fetch_add(count, Ordering::AcqRel);
        self.announce_each_half(before, count);
    }

    /// A message was given up; some before it may still be under way. As [`Credit::delivered`].
    pub(super) fn gave_up(&self) {
        let before = self.consumed.fetch_add(1, Ordering::AcqRel);
        let settled = self.settle(0);
        self.announce_each_half(before, 1);
        self.announce_soon(settled);
    }

    /// `count` messages of a link that is removed need no place any more.
    pub(super) fn discarded(&self, count: u64) {
        let before = self.consumed.fetch_add(count, Ordering::AcqRel);
        self.announce_each_half(before, count);
    }

    /// `count` messages were refused. As [`Credit::delivered`].
    pub(super) fn refused(&self, count: u64) {
        if count > 0 {
            let before = self.refused.fetch_add(count, Ordering::AcqRel);
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
        if let Some(upstream) = self.upstream.upgrade() {
            upstream.window_moved(self.channel);
        }
    }
}

/// See [`Credit::push`].
pub(super) struct Pushed {
    pub(super) within_grant: bool,
    /// The sender does not know yet that it may have fewer under way.
    pub(super) window_shrank: bool,
}

/// A message in a queue.
#[derive(Clone)]
pub struct Entry {
    /// The payload, in the origin's encoding. Shared, never copied per target.
    pub body: Bytes,
    /// Counts up from the origin's first.
    pub number: u64,
    /// Where it comes from.
    pub origin: Arc<Origin>,
}

impl Entry {
    /// Counted from the beginning of the sender's connection.
    pub(super) fn index(&self) -> u64 {
        self.number - self.origin.first
    }
}
