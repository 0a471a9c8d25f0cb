//! The newest value: three slots, one of the producer, one of the consumer and one between them.
//!
//! The producer writes its slot and exchanges it with the one between, the consumer exchanges its
//! own with that when something new is there. Neither ever waits for the other, and a value is
//! whole however both are interrupted: who dies while it writes has not exchanged yet.
//!
//! A slot is a word for the length, one for the number, and the bytes.

use super::RingError;
use super::layout::{Bell, CLOSED, Cell, Memory, SLEEPS};

/// Of a slot, before the bytes.
pub(super) const HEADER: usize = 16;
/// Slots.
pub(super) const SLOTS: usize = 3;

/// The slot between both has a value that the consumer has not taken.
const FRESH: u64 = 4;
const SLOT: u64 = FRESH - 1;

/// Which slot is whose at first. The one between is 0, as all memory is at first.
const OF_PRODUCER: u64 = 1;
const OF_CONSUMER: u64 = 2;

/// Bytes of a slot for values of so many bytes: whole pages, so that each has its own.
pub(super) const fn stride(longest: usize) -> usize {
    (HEADER + longest).next_multiple_of(4096)
}

/// One end's slot.
#[derive(Debug)]
struct Own<M> {
    memory: M,
    /// Bytes of a value.
    longest: usize,
    slot: u64,
    broken: bool,
}

const BROKEN: RingError = RingError::Broken("it took a slot that is not its own");

impl<M: Memory> Own<M> {
    /// None if the memory is not that of three such slots.
    fn new(memory: M, longest: usize, slot: u64) -> Option<Self> {
        let area = stride(longest).checked_mul(SLOTS)?;
        (memory.area() == area).then_some(Self { memory, longest, slot, broken: false })
    }

    /// Below the area's length, because `slot` is below [`SLOTS`].
    const fn at(&self) -> usize {
        self.slot as usize * stride(self.longest)
    }

    /// Exchanges the own slot with the one between, and answers whether that had a value that
    /// was not taken.
    fn exchange(&mut self, fresh: u64) -> Result<bool, RingError> {
        let between = self.memory.swap(Cell::Newest, self.slot | fresh);
        let slot = between & SLOT;
        if between > FRESH | SLOT || slot as usize >= SLOTS || slot == self.slot {
            self.broken = true;
            return Err(BROKEN);
        }
        self.slot = slot;
        Ok(between & FRESH != 0)
    }

    fn check(&self) -> Result<(), RingError> {
        if self.broken { Err(BROKEN) } else { Ok(()) }
    }
}

/// The producer's half.
#[derive(Debug)]
pub(super) struct Writer<M, B> {
    own: Own<M>,
    bell: B,
}

impl<M: Memory, B: Bell> Writer<M, B> {
    /// None if the memory is not that of three such slots.
    pub(super) fn new(memory: M, longest: usize, bell: B) -> Option<Self> {
        Some(Self { own: Own::new(memory, longest, OF_PRODUCER)?, bell })
    }

    /// Bytes of a value.
    pub(super) const fn longest(&self) -> usize {
        self.own.longest
    }

    /// Whether the value before was taken by nobody.
    pub(super) fn put(&mut self, number: u64, bytes: &[u8]) -> Result<bool, RingError> {
        let own = &mut self.own;
        own.check()?;
        if bytes.len() > own.longest {
            return Err(RingError::TooLong { len: bytes.len(), most: own.longest });
        }
        let at = own.at();
        own.memory.set_word(at, bytes.len() as u64)?;
        own.memory.set_word(at + 8, number)?;
        own.memory.copy_in(at + HEADER, bytes)?;
        let missed = own.exchange(FRESH)?;
        own.memory.fence();
        let consumer = own.memory.load(Cell::Consumer);
        if consumer & SLEEPS != 0 && own.memory.clear(Cell::Consumer, SLEEPS) & SLEEPS != 0 {
            self.bell.ring()?;
        }
        if consumer & CLOSED != 0 { Err(RingError::Closed) } else { Ok(missed) }
    }

    pub(super) fn close(&self) -> Result<(), RingError> {
        self.own.memory.set(Cell::Producer, CLOSED);
        self.own.memory.fence();
        self.bell.ring()
    }
}

/// The consumer's half.
#[derive(Debug)]
pub(super) struct Reader<M> {
    own: Own<M>,
}

impl<M: Memory> Reader<M> {
    /// None if the memory is not that of three such slots.
    pub(super) fn new(memory: M, longest: usize) -> Option<Self> {
        Some(Self { own: Own::new(memory, longest, OF_CONSUMER)? })
    }

    /// The newest value, if it was not taken yet.
    pub(super) fn take(&mut self, into: &mut Vec<u8>) -> Result<Option<u64>, RingError> {
        self.own.check()?;
        if !self.has_value() {
            let closed = self.is_closed();
            // What was put before it was closed is still taken.
            return match self.has_value() {
                false if closed => Err(RingError::Closed),
                _ => Ok(None),
            };
        }
        // What is between is fresh, until it is taken here.
        if !self.own.exchange(0)? {
            self.own.broken = true;
            return Err(BROKEN);
        }
        let (at, memory) = (self.own.at(), &self.own.memory);
        let len = usize::try_from(memory.word(at)?).unwrap_or(usize::MAX);
        if len > self.own.longest {
            self.own.broken = true;
            return Err(RingError::Broken("a value is longer than its slot"));
        }
        let number = memory.word(at + 8)?;
        into.clear();
        memory.copy_out(at + HEADER, len, into)?;
        Ok(Some(number))
    }

    /// Whether there is something to take, or to be told.
    pub(super) fn has_value(&self) -> bool {
        self.own.broken || self.own.memory.load(Cell::Newest) & FRESH != 0
    }

    fn is_closed(&self) -> bool {
        let memory = &self.own.memory;
        (memory.load(Cell::Producer) | memory.load(Cell::Consumer)) & CLOSED != 0
    }

    /// Asks to be woken when there is a value. False if there is already.
    pub(super) fn sleep(&self) -> bool {
        self.own.memory.set(Cell::Consumer, SLEEPS);
        self.own.memory.fence();
        if self.has_value() || self.is_closed() {
            self.awake();
            return false;
        }
        true
    }

    /// Needs no bell any more.
    pub(super) fn awake(&self) {
        self.own.memory.clear(Cell::Consumer, SLEEPS);
    }

    /// The producer learns that nobody takes anything any more.
    pub(super) fn close(&self) {
        self.own.memory.set(Cell::Consumer, CLOSED);
    }
}
