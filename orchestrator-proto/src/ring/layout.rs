//! Where everything is in the memory that both ends share, and what both may do with it.
//!
//! All numbers are in the machine's byte order: the memory never leaves it.
//!
//! | at | what | written by |
//! | --- | --- | --- |
//! | 0 | magic, `u64` | who made it |
//! | 8 | version in the lower, kind in the upper half, `u64` | who made it |
//! | 16 | bytes of the area, or of a slot of it, `u64` | who made it |
//! | 128 | [`Cell::Head`]: bytes published since the beginning | producer |
//! | 256 | [`Cell::Tail`]: bytes given back since the beginning | consumer |
//! | 384 | [`Cell::Producer`]: [`OPEN`], [`SLEEPS`], [`CLOSED`] | both |
//! | 392 | [`Cell::Wanted`]: the tail for which a sleeping producer waits | producer |
//! | 512 | [`Cell::Consumer`]: as the producer's | both |
//! | 640 | [`Cell::Newest`]: the slot between both ends, of `latest` | both |
//! | 4096 | the area | producer |
//!
//! Cells that different ends write are 128 bytes apart: processors fetch cache lines in pairs.

use super::RingError;

/// The largest payload of a message, bytes.
pub const MAX_PAYLOAD: usize = 64 << 20;
/// The smallest ring, bytes.
pub const MIN_CAPACITY: usize = 4 << 10;
/// The largest ring, bytes.
pub const MAX_CAPACITY: usize = 1 << 30;

/// Bytes before the area.
pub(super) const CONTROL: usize = 4096;
/// "orchring"
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"orchring");
/// Of this layout and of what the bytes of the area mean.
pub(super) const VERSION: u32 = 1;

/// A program has opened this end.
pub(super) const OPEN: u64 = 1;
/// This end waits, or is about to: the other one has to wake it.
pub(super) const SLEEPS: u64 = 2;
/// This end has been closed.
pub(super) const CLOSED: u64 = 4;

/// A word that both ends look at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(super) enum Cell {
    Magic = 0,
    Kind = 8,
    Size = 16,
    Head = 128,
    Tail = 256,
    Producer = 384,
    Wanted = 392,
    Consumer = 512,
    Newest = 640,
}

/// What the area is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(super) enum Kind {
    /// A ring of records.
    Ring = 1,
    /// Three slots, for the newest value.
    Latest = 2,
}

impl Kind {
    pub(super) const fn word(self) -> u64 {
        VERSION as u64 | (self as u64) << 32
    }
}

/// Memory that another end changes at the same time. Nothing that is read from it stays true,
/// so each word is read once, into a variable, and checked there.
pub(super) trait Memory {
    /// Reads a cell, and with it all that was written before its value was (acquire).
    fn load(&self, cell: Cell) -> u64;
    /// Writes a cell, and publishes all that was written before (release).
    fn store(&self, cell: Cell, value: u64);
    /// Exchanges a cell's value; acquires and releases.
    fn swap(&self, cell: Cell, value: u64) -> u64;
    /// Sets bits of a cell, and answers with its value before; acquires and releases.
    fn set(&self, cell: Cell, bits: u64) -> u64;
    /// Clears bits of a cell, and answers with its value before; acquires and releases.
    fn clear(&self, cell: Cell, bits: u64) -> u64;
    /// What this end has written is visible before what it reads next is read.
    fn fence(&self);
    /// Bytes of the area.
    fn area(&self) -> usize;
    /// Reads an aligned word of the area.
    fn word(&self, at: usize) -> Result<u64, RingError>;
    /// Writes an aligned word of the area.
    fn set_word(&self, at: usize, value: u64) -> Result<(), RingError>;
    /// Copies into the area.
    fn copy_in(&self, at: usize, bytes: &[u8]) -> Result<(), RingError>;
    /// Appends a copy of a part of the area.
    fn copy_out(&self, at: usize, len: usize, into: &mut Vec<u8>) -> Result<(), RingError>;
}

/// Wakes the other end.
pub(super) trait Bell {
    fn ring(&self) -> Result<(), RingError>;
}

/// Beyond the area: only where this room has miscounted.
pub(super) const OUTSIDE: RingError = RingError::Broken("a position is outside its memory");
