//! How messages lie in the area: as records, one after the other, around its end.
//!
//! A record is two words and the bytes, with up to 15 more so that the next one is aligned. The
//! first word has the number of bytes in its lowest 31 bits, then [`FIRST`], and in its upper half
//! how many bytes of the message are left for later records. The second word is the message's
//! number. Since all lengths and the area's are multiples of [`ALIGN`], no header lies across the
//! end; bytes may.

use super::RingError;
use super::layout::{MAX_PAYLOAD, Memory};

/// Of every record, bytes.
pub(super) const ALIGN: u64 = 16;
/// The two words.
pub(super) const HEADER: u64 = 16;

/// A message begins here. One that had begun before and is not complete never will be.
const FIRST: u64 = 1 << 31;
const LEN: u64 = FIRST - 1;

/// What the first word says. With [`number`](Self::number), the second one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Record {
    pub(super) first: bool,
    /// Bytes in it.
    pub(super) len: u64,
    /// Bytes of its message after them.
    pub(super) left: u64,
    /// Its message's number.
    pub(super) number: u64,
}

impl Record {
    pub(super) const fn words(self) -> [u64; 2] {
        let first = if self.first { FIRST } else { 0 };
        [self.len & LEN | first | self.left << 32, self.number]
    }

    /// A message of more than [`MAX_PAYLOAD`] bytes is none, nor is a record that brings its
    /// message no further; parts but the last are aligned.
    pub(super) const fn from_words([word, number]: [u64; 2]) -> Result<Self, RingError> {
        let record = Self { first: word & FIRST != 0, len: word & LEN, left: word >> 32, number };
        if record.len + record.left > MAX_PAYLOAD as u64 {
            return Err(RingError::Broken("a message is longer than any can be"));
        }
        if record.len == 0 && (record.left > 0 || !record.first) {
            return Err(RingError::Broken("a part of a message is empty"));
        }
        if record.left > 0 && !record.len.is_multiple_of(ALIGN) {
            return Err(RingError::Broken("a part of a message ends where none does"));
        }
        Ok(record)
    }

    pub(super) const fn footprint(self) -> u64 {
        footprint(self.len)
    }
}

/// What a record of so many bytes takes of the area, bytes.
pub(super) const fn footprint(len: u64) -> u64 {
    HEADER + len.next_multiple_of(ALIGN)
}

/// The area as a ring: a power of two of bytes, and positions that only grow, around it.
#[derive(Debug)]
pub(super) struct Around<M> {
    pub(super) memory: M,
    capacity: u64,
}

impl<M: Memory> Around<M> {
    /// None if the area is no power of two, or has no room for two records.
    pub(super) fn new(memory: M) -> Option<Self> {
        let capacity = memory.area() as u64;
        let fits = capacity.is_power_of_two() && capacity >= 2 * (HEADER + ALIGN);
        fits.then_some(Self { memory, capacity })
    }

    /// Bytes.
    pub(super) const fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Whether there can be whole records, or none, between these positions.
    pub(super) const fn holds(&self, tail: u64, head: u64) -> bool {
        head.wrapping_sub(tail) <= self.capacity
            && tail.is_multiple_of(ALIGN)
            && head.is_multiple_of(ALIGN)
    }

    /// Below the capacity, which is an area's length.
    const fn at(&self, position: u64) -> usize {
        (position & (self.capacity - 1)) as usize
    }

    pub(super) fn record(&self, position: u64) -> Result<Record, RingError> {
        let at = self.at(position);
        Record::from_words([self.memory.word(at)?, self.memory.word(at + 8)?])
    }

    pub(super) fn set_record(&self, position: u64, record: Record) -> Result<(), RingError> {
        let (at, [first, second]) = (self.at(position), record.words());
        self.memory.set_word(at, first)?;
        self.memory.set_word(at + 8, second)
    }

    pub(super) fn copy_in(&self, position: u64, bytes: &[u8]) -> Result<(), RingError> {
        let at = self.at(position);
        let (here, around) = bytes.split_at(bytes.len().min(self.capacity as usize - at));
        self.memory.copy_in(at, here)?;
        if around.is_empty() { Ok(()) } else { self.memory.copy_in(0, around) }
    }

    pub(super) fn copy_out(
        &self,
        position: u64,
        len: u64,
        into: &mut Vec<u8>,
    ) -> Result<(), RingError> {
        let at = self.at(position);
        let here = (len as usize).min(self.capacity as usize - at);
        self.memory.copy_out(at, here, into)?;
        match len as usize - here {
            0 => Ok(()),
            around => self.memory.copy_out(0, around, into),
        }
    }
}
