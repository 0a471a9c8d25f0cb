//! What was written to one input and is not acknowledged, in its order.
//!
//! The input acknowledges by a total over all its messages on this connection, so those that
//! nobody keeps are counted here too.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::route::{Entry, Link};

/// Bytes of payload that may be with an input and not acknowledged: 64 MiB.
const MAX_BYTES: usize = 64 << 20;
/// Messages likewise.
const MAX_MESSAGES: usize = 65_536;

/// The account of one input on one connection.
#[derive(Default)]
pub(super) struct Ledger {
    slots: VecDeque<Slot>,
    /// Messages that left the ledger: acknowledged ones.
    settled: u64,
    /// What the input has acknowledged. More than was written here, if it was faster with that
    /// than we with writing it down.
    acknowledged: u64,
    /// Messages that are kept.
    kept: usize,
    /// Bytes of payload in them.
    bytes: usize,
}

enum Slot {
    /// Messages of one link.
    Kept(Arc<Link>, VecDeque<Entry>),
    /// So many that nobody keeps.
    Others(u64),
}

/// Messages of one origin that were acknowledged: the last of them, and how many.
pub(super) type Acknowledged = (Entry, u64);

impl Ledger {
    /// Whether so much is kept that nothing may come on top. Never more than a batch does.
    pub(super) fn is_full(&self) -> bool {
        self.kept >= MAX_MESSAGES || self.bytes >= MAX_BYTES
    }

    /// These were written; the answer is which of them were acknowledged before that.
    pub(super) fn keep(
        &mut self,
        link: &Arc<Link>,
        entries: impl Iterator<Item = Entry>,
    ) -> Vec<Acknowledged> {
        let (kept, bytes) = (&mut self.kept, &mut self.bytes);
        let entries = entries.inspect(|entry| {
            *kept += 1;
            *bytes += entry.body.len();
        });
        match self.slots.back_mut() {
            Some(Slot::Kept(last, kept)) if Arc::ptr_eq(last, link) => kept.extend(entries),
            _ => self.slots.push_back(Slot::Kept(link.clone(), entries.collect())),
        }
        self.settle()
    }

    /// So many others were written.
    pub(super) fn pass(&mut self, count: u64) -> Vec<Acknowledged> {
        match self.slots.back_mut() {
            Some(Slot::Others(others)) => *others += count,
            _ => self.slots.push_back(Slot::Others(count)),
        }
        self.settle()
    }

    /// The input acknowledges so many messages in total. A lower total than before changes
    /// nothing.
    pub(super) fn acknowledge(&mut self, total: u64) -> Vec<Acknowledged> {
        self.acknowledged = self.acknowledged.max(total);
        self.settle()
    }

    fn settle(&mut self) -> Vec<Acknowledged> {
        let mut runs: Vec<Acknowledged> = Vec::new();
        while self.settled < self.acknowledged
            && let Some(slot) = self.slots.front_mut()
        {
            let due = self.acknowledged - self.settled;
            let is_done = match slot {
                Slot::Others(count) => {
                    let now = due.min(*count);
                    *count -= now;
                    self.settled += now;
                    *count == 0
                }
                Slot::Kept(_, entries) => {
                    let now = entries.len().min(usize::try_from(due).unwrap_or(usize::MAX));
                    self.settled += now as u64;
                    for entry in entries.drain(..now) {
                        self.kept -= 1;
                        self.bytes -= entry.body.len();
                        match runs.last_mut() {
                            Some((last, count)) if Arc::ptr_eq(&last.origin, &entry.origin) => {
                                (*last, *count) = (entry, *count + 1);
                            }
                            _ => runs.push((entry, 1)),
                        }
                    }
                    entries.is_empty()
                }
            };
            if !is_done {
                break;
            }
            self.slots.pop_front();
        }
        runs
    }

    /// Gives everything back to where it came from. It is still counted here.
    pub(super) fn take_back(&mut self) {
        let mut others = 0;
        for slot in std::mem::take(&mut self.slots).into_iter().rev() {
            match slot {
                Slot::Others(count) => others += count,
                Slot::Kept(link, entries) => {
                    others += entries.len() as u64;
                    link.take_back(entries.into_iter());
                }
            }
        }
        (self.kept, self.bytes) = (0, 0);
        if others > 0 {
            self.slots.push_back(Slot::Others(others));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{
        DropReason, LinkRequest, LinkTarget, Mailbox, Numbering, Router, Source, Surroundings,
        TypeDecl, Upstream, Woken,
    };
    use bytes::Bytes;
    use orchestrator_proto::control::{LinkRules, Policy};
    use orchestrator_proto::{InstanceId, LinkId, WireError};
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::sync::Weak;

    struct Quiet;

    impl Surroundings for Quiet {
        fn link_mismatched(&self, _: LinkId, _: Option<InstanceId>, _: &WireError) {}
        fn messages_lost(&self, _: LinkId, _: InstanceId, _: u64) {}
        fn open_peer(&self, _: &str, _: &Arc<Mailbox>) {}
        fn close_peer(&self, _: &str) {}
    }

    impl Upstream for Quiet {
        fn window_moved(&self, _: u16) {}
    }

    const FIRST: u64 = 100;

    /// A sender that keeps what it sends, a `block` link, and a receiver that acknowledges, as
    /// an outlet serves it.
    struct World {
        _upstream: Arc<Quiet>,
        source: Arc<Source>,
        output: crate::route::OutputIndex,
        link: Arc<Link>,
        ledger: Ledger,
        sent: u64,
        /// Taken from the link, not written.
        batch: VecDeque<Entry>,
        /// Written on this connection: the index of each message, and whether it is kept.
        written: Vec<(u64, bool)>,
        acknowledged: usize,
        /// Indices that nobody needs any more.
        done: BTreeSet<u64>,
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Send(usize),
        Take(usize),
        GiveUp,
        Write(usize),
        /// A message of another origin is written.
        Other,
        Acknowledge(usize),
        /// The connection ends, or another one takes over.
        HandOver,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (1..5_usize).prop_map(Step::Send),
            3 => (1..5_usize).prop_map(Step::Take),
            1 => Just(Step::GiveUp),
            3 => (1..5_usize).prop_map(Step::Write),
            1 => Just(Step::Other),
            3 => (1..5_usize).prop_map(Step::Acknowledge),
            1 => Just(Step::HandOver),
        ];
        prop::collection::vec(step, 0..200)
    }

    impl World {
        fn new() -> Self {
            let router = Router::new(Box::new(Quiet));
            let (from, to) = (InstanceId::generate(), InstanceId::generate());
            let _mailboxes = [from, to].map(|id| router.add_instance(id));
            let request = LinkRequest {
                from: None,
                type_name: "t".into(),
                to: LinkTarget::Instance(to),
                rules: LinkRules { policy: Policy::Block, capacity: 10, ..LinkRules::default() },
            };
            router.add_link(&request).unwrap();
            let upstream = Arc::new(Quiet);
            let concrete: Weak<Quiet> = Arc::downgrade(&upstream);
            let source = router.open_source(Some(from), Some(concrete), Arc::default());
            let decl = Arc::new(TypeDecl::new("t".into(), None));
            let numbering = Some(Numbering { epoch: 1, first: FIRST, again: 5 });
            let output = router.declare_output(&source, decl, 0, numbering).unwrap();
            Self {
                _upstream: upstream,
                source,
                output,
                link: router.links().remove(0),
                ledger: Ledger::default(),
                sent: 0,
                batch: VecDeque::new(),
                written: Vec::new(),
                acknowledged: 0,
                done: BTreeSet::new(),
            }
        }

        fn settle(&mut self, acknowledged: Vec<Acknowledged>) {
            for (last, count) in acknowledged {
                last.origin.acknowledged(&last, count);
            }
        }

        fn step(&mut self, step: Step) {
            match step {
                Step::Send(count) => {
                    let mut bodies = vec![Bytes::from_static(b"body"); count];
                    self.source.send_run(self.output, &mut bodies, 1, &mut Woken::default());
                    self.sent += count as u64;
                }
                Step::Take(count) => {
                    let mut taken = Vec::new();
                    self.link.take(count, usize::MAX, &mut taken);
                    self.batch.extend(taken);
                }
                // As when a message turns out not to be translatable: those before it in the
                // batch are not written yet.
                Step::GiveUp => {
                    let mut taken = Vec::new();
                    self.link.take(1, usize::MAX, &mut taken);
                    for entry in taken {
                        self.done.insert(entry.number - FIRST);
                        self.link.give_up(&entry, DropReason::Untranslatable);
                    }
                }
                Step::Write(count) => {
                    let count = count.min(self.batch.len());
                    let written: Vec<_> = self.batch.drain(..count).collect();
                    if let Some(first) = written.first() {
                        self.link.delivered_unacknowledged(&first.origin, count as u64);
                    }
                    self.written.extend(written.iter().map(|entry| (entry.number - FIRST, true)));
                    let link = self.link.clone();
                    let acknowledged = self.ledger.keep(&link, written.into_iter());
                    self.settle(acknowledged);
                }
                Step::Other => {
                    self.written.push((0, false));
                    let acknowledged = self.ledger.pass(1);
                    self.settle(acknowledged);
                }
                Step::Acknowledge(count) => {
                    let total = (self.acknowledged + count).min(self.written.len());
                    let now = &self.written[self.acknowledged..total];
                    self.done.extend(now.iter().filter(|(_, kept)| *kept).map(|(at, _)| *at));
                    self.acknowledged = total;
                    let acknowledged = self.ledger.acknowledge(total as u64);
                    self.settle(acknowledged);
                }
                Step::HandOver => {
                    self.link.put_back(std::mem::take(&mut self.batch).into_iter());
                    self.ledger.take_back();
                    self.ledger = Ledger::default();
                    self.written.clear();
                    self.acknowledged = 0;
                }
            }
        }

        fn check(&self) -> Result<(), TestCaseError> {
            let settled = self.source.settled(0).unwrap();
            let missing = (0..settled).find(|index| !self.done.contains(index));
            prop_assert_eq!(missing, None, "{} are said to be settled", settled);
            let counters = self.link.counters();
            prop_assert_eq!(counters.sent, self.sent);
            prop_assert_eq!(counters.sent, counters.delivered + counters.dropped + counters.queued);
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn a_sender_is_never_told_to_forget_what_may_be_needed(steps in steps()) {
            let mut world = World::new();
            for step in steps {
                world.step(step);
                world.check()?;
            }
            // In the end all is delivered and acknowledged, and the sender keeps nothing.
            world.step(Step::Take(usize::MAX));
            world.step(Step::Write(usize::MAX));
            world.step(Step::Acknowledge(1_000_000));
            world.check()?;
            prop_assert_eq!(world.source.settled(0), Some(world.sent));
        }
    }

    #[test]
    fn an_acknowledgement_may_be_faster_than_the_account() {
        let mut world = World::new();
        world.step(Step::Send(3));
        world.step(Step::Take(3));
        assert!(world.ledger.acknowledge(2).is_empty());
        world.step(Step::Write(3));
        assert_eq!(world.source.settled(0), Some(2));
    }
}
