//! What goes over a link without passing the daemon: its lanes, as their ends report them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use orchestrator_proto::control::{Counters, Way};
use orchestrator_proto::runtime::Passed;
use orchestrator_proto::{InstanceId, LinkId};

/// The two ends of a lane say what can't both be true.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Divergence {
    /// The link whose messages it carried.
    pub link: LinkId,
    /// The sender.
    pub from: Option<InstanceId>,
    /// How many messages the sender says it has delivered.
    pub delivered: u64,
    /// How many the receiver says it has read.
    pub read: u64,
}

/// The daemon has ended a lane that its sender did not leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut {
    /// The link whose messages it carried.
    pub link: LinkId,
    /// The sender.
    pub from: Option<InstanceId>,
    /// How many messages wait with it, as it said last.
    pub queued: u64,
}

/// The lanes of one link.
#[derive(Default)]
pub struct Beside {
    state: Mutex<State>,
    /// Whether some receiver is still to be told of a lane.
    handing_over: AtomicBool,
}

#[derive(Default)]
struct State {
    live: Vec<Live>,
    /// Of lanes that are gone.
    before: Passed,
    /// Messages of these that neither arrived nor gave way nor came back.
    lost: u64,
    last_ms: Option<u64>,
    handing_over: Vec<HandOver>,
    /// Why messages pass the daemon although they need not.
    why: Option<String>,
}

/// A lane that is used.
struct Live {
    lane: u64,
    way: Way,
    passed: Passed,
    /// Whether it carries nothing any more, and its sender has not left it.
    is_cut: bool,
}

/// What a receiver is to be told when nothing waits for it any more.
struct HandOver {
    lane: u64,
    sink: u64,
    frame: Vec<u8>,
}

impl Beside {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lane is used from now on; which way messages go over it.
    pub fn begin(&self, lane: u64, way: Way) {
        let mut state = self.state();
        if !state.live.iter().any(|live| live.lane == lane) {
            state.live.push(Live { lane, way, passed: Passed::default(), is_cut: false });
        }
    }

    /// It carries nothing any more; its sender has not left it.
    pub fn cut(&self, lane: u64) {
        if let Some(live) = self.state().live.iter_mut().find(|live| live.lane == lane) {
            live.is_cut = true;
        }
    }

    /// So much has passed over it by now.
    pub fn passed(&self, lane: u64, passed: Passed, now_ms: u64) {
        let mut state = self.state();
        let Some(live) = state.live.iter_mut().find(|live| live.lane == lane) else { return };
        let has_more = passed.sent > live.passed.sent;
        live.passed = passed;
        if has_more {
            state.last_ms = Some(now_ms);
        }
    }

    /// What is known to have passed over it.
    #[must_use]
    pub fn known(&self, lane: u64) -> Passed {
        let state = self.state();
        let known = state.live.iter().find(|live| live.lane == lane);
        known.map(|live| live.passed).unwrap_or_default()
    }

    /// It is used no longer.
    pub fn end(&self, lane: u64) {
        let mut state = self.state();
        let Some(at) = state.live.iter().position(|live| live.lane == lane) else { return };
        let last = state.live.swap_remove(at).passed;
        let before = &mut state.before;
        before.sent += last.sent;
        before.delivered += last.delivered;
        before.dropped += last.dropped;
        before.returned += last.returned;
        // What was still waiting and did not come back is lost with its sender.
        state.lost += last.queued();
    }

    /// Of a lane that is gone this had been counted, and it was that.
    pub fn correct(&self, said: Passed, corrected: Passed) {
        let mut state = self.state();
        let State { before, lost, .. } = &mut *state;
        for (count, said, corrected) in [
            (&mut before.sent, said.sent, corrected.sent),
            (&mut before.delivered, said.delivered, corrected.delivered),
            (lost, said.queued(), corrected.queued()),
        ] {
            *count = (*count + corrected).saturating_sub(said);
        }
    }

    /// How many lanes are used.
    #[must_use]
    pub fn count(&self) -> usize {
        self.state().live.len()
    }

    /// Which way messages go: the one that all lanes share, or over some of them directly; without
    /// any, through the daemon.
    #[must_use]
    pub fn way(&self) -> Way {
        let state = self.state();
        let mut ways = state.live.iter().filter(|live| !live.is_cut).map(|live| live.way);
        match ways.next() {
            None => Way::Routed,
            Some(first) if ways.all(|way| way == first) => first,
            Some(_) => Way::Direct,
        }
    }

    /// Messages that wait at their senders.
    #[must_use]
    pub fn queued(&self) -> u64 {
        self.state().live.iter().map(|live| live.passed.queued()).sum()
    }

    /// Why it has no lane; none if it has, or is not to have one.
    #[must_use]
    pub fn why(&self) -> Option<String> {
        self.state().why.clone()
    }

    /// Says why.
    pub fn set_why(&self, why: Option<String>) {
        self.state().why = why;
    }

    pub(super) fn add_to(&self, counters: &mut Counters) {
        let state = self.state();
        let passed = state.live.iter().map(|live| &live.passed).chain([&state.before]);
        for passed in passed {
            // What came back was sent anew.
            counters.sent += passed.sent.saturating_sub(passed.returned);
            counters.delivered += passed.delivered;
            counters.dropped += passed.dropped;
            counters.drops.full += passed.dropped;
        }
        counters.dropped += state.lost;
        counters.drops.lost += state.lost;
        counters.queued += state.live.iter().map(|live| live.passed.queued()).sum::<u64>();
        counters.last_ms = counters.last_ms.max(state.last_ms);
    }

    /// How many of the messages sent are as the ends of lanes say, and not counted here.
    #[must_use]
    pub fn reported(&self) -> u64 {
        let state = self.state();
        let passed = state.live.iter().map(|live| &live.passed).chain([&state.before]);
        passed.map(|passed| passed.sent.saturating_sub(passed.returned)).sum()
    }

    pub(super) fn hand_over(&self, lane: u64, sink: u64, frame: Vec<u8>) {
        self.state().handing_over.push(HandOver { lane, sink, frame });
        self.handing_over.store(true, Ordering::Release);
    }

    pub(super) fn is_handing_over(&self) -> bool {
        self.handing_over.load(Ordering::Acquire)
    }

    pub(super) fn handed_over(&self, sink: u64) -> Option<Vec<u8>> {
        let mut state = self.state();
        let at = state.handing_over.iter().position(|it| it.sink == sink)?;
        let it = state.handing_over.remove(at);
        self.handing_over.store(!state.handing_over.is_empty(), Ordering::Release);
        Some(it.frame)
    }

    /// The receiver is not to be told of this lane. False if it was already.
    pub fn cancel(&self, lane: u64) -> bool {
        let mut state = self.state();
        let before = state.handing_over.len();
        state.handing_over.retain(|it| it.lane != lane);
        self.handing_over.store(!state.handing_over.is_empty(), Ordering::Release);
        state.handing_over.len() < before
    }
}
