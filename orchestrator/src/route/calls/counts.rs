//! What became of the calls over one link.

use std::sync::atomic::{AtomicU64, Ordering};

use orchestrator_proto::control::CallCounters;

/// `calls = replies + failed + in flight`.
#[derive(Default, Debug)]
pub(crate) struct CallCounts {
    calls: AtomicU64,
    replies: AtomicU64,
    failed: AtomicU64,
}

impl CallCounts {
    /// A service was given a call over the link.
    pub(super) fn given(&self) {
        self.calls.fetch_add(1, Ordering::AcqRel);
    }

    /// Such a call was answered.
    pub(super) fn answered(&self, is_reply: bool) {
        let answered = if is_reply { &self.replies } else { &self.failed };
        answered.fetch_add(1, Ordering::AcqRel);
    }

    /// A call was given to nobody.
    pub(super) fn unserved(&self) {
        self.given();
        self.answered(false);
    }

    /// All of it.
    #[must_use]
    pub(crate) fn counters(&self) -> CallCounters {
        // In this order: what is answered was given.
        let replies = self.replies.load(Ordering::Acquire);
        let failed = self.failed.load(Ordering::Acquire);
        let calls = self.calls.load(Ordering::Acquire);
        let in_flight = calls.saturating_sub(replies + failed);
        CallCounters { calls, replies, failed, in_flight }
    }
}
