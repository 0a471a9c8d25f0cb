//! A message on its way, and what is known of its type.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use orchestrator_proto::{SchemaHash, TypeSchema};

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
    /// Messages that may be under way.
    window: u64,
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
            upstream,
            channel,
        }
    }

    /// One more message came to the link. Whether it is within what the sender was granted.
    pub(super) fn push(&self) -> bool {
        let pushed = self.pushed.fetch_add(1, Ordering::AcqRel);
        pushed < self.total()
    }

    /// The total that this route allows.
    pub(super) fn total(&self) -> u64 {
        self.consumed.load(Ordering::Acquire).saturating_add(self.window)
    }

    /// `count` messages found their way or were given up.
    pub(super) fn consume(&self, count: u64) {
        if count == 0 {
            return;
        }
        let before = self.consumed.fetch_add(count, Ordering::AcqRel);
        // Tell the sender each time another half of the window is free, not for each message.
        let half = (self.window / 2).max(1);
        if before / half != (before + count) / half
            && let Some(upstream) = self.upstream.upgrade()
        {
            upstream.window_moved(self.channel);
        }
    }
}

/// A message in a queue.
#[derive(Clone)]
pub struct Entry {
    /// The payload, in the origin's encoding. Shared, never copied per target.
    pub body: Bytes,
    /// Where it comes from.
    pub origin: Arc<Origin>,
}
