//! A message on its way, and what is known of its type.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
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
    /// Set under `block`, when the sender can be made to wait.
    pub credit: Option<Credit>,
}

/// How far the receiving side of a `block` route has come.
pub struct Credit {
    /// Messages of the output that need no place any more, counted from the beginning of the
    /// sender's connection.
    consumed: AtomicU64,
    /// Messages that came to the link, counted likewise.
    pushed: AtomicU64,
    /// Messages that may be under way, as far as they are small.
    window: u64,
    /// The largest message that came, bytes. Where messages are large, fewer may be under way.
    largest: AtomicU64,
    /// Who is told.
    upstream: Weak<dyn Upstream>,
    /// Which of its outputs.
    channel: u16,
}

impl Credit {
    pub(super) fn new(
        already: u64,
        window: u64,
        upstream: Weak<dyn Upstream>,
        channel: u16,
    ) -> Self {
        Self {
            consumed: AtomicU64::new(already),
            pushed: AtomicU64::new(already),
            window,
            largest: AtomicU64::new(0),
            upstream,
            channel,
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
        self.window.min((Limits::BYTES as u64 / largest).max(1))
    }

    /// The total that this route allows.
    pub(super) fn total(&self) -> u64 {
        self.consumed.load(Ordering::Acquire).saturating_add(self.window())
    }

    /// `count` messages found their way or were given up. May tell the sender, so that no lock
    /// of its source must be held.
    pub(super) fn consume(&self, count: u64) {
        if count == 0 {
            return;
        }
        let before = self.consumed.fetch_add(count, Ordering::AcqRel);
        // Tell the sender each time another half of the window is free, not for each message.
        let half = (self.window() / 2).max(1);
        if before / half != (before + count) / half {
            self.announce();
        }
    }

    /// Tells the sender what it may send. Not to be called with a lock of its source held.
    pub(super) fn announce(&self) {
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
    /// Where it comes from.
    pub origin: Arc<Origin>,
}
