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
