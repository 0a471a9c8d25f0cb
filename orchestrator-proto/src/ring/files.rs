//! What a ring is made of: three files, which whoever makes it gives to both ends.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::RingError;
use super::bell::{self, Doorbell};
use super::latest;
use super::layout::{
    Bell, CLOSED, Cell, Kind, MAX_CAPACITY, MAX_PAYLOAD, MIN_CAPACITY, Memory, OPEN, SLEEPS,
};
use super::memory::{self, Mapping};

/// One of the two ends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Side {
    /// The one that sends.
    Producer,
    /// The one that receives.
    Consumer,
}

impl Side {
    pub(super) const fn cell(self) -> Cell {
        match self {
            Self::Producer => Cell::Producer,
            Self::Consumer => Cell::Consumer,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Producer => "producer's end",
            Self::Consumer => "consumer's end",
        })
    }
}

/// The files of a ring. They can be passed on with `SCM_RIGHTS` (unix(7)), in the order of
/// [`as_fds`](Self::as_fds). Who has them can open either end.
#[derive(Debug)]
pub struct Files {
    /// A sealed memfd.
    pub(super) memory: OwnedFd,
    /// An eventfd that wakes the consumer.
    pub(super) data: OwnedFd,
    /// An eventfd that wakes the producer.
    pub(super) room: OwnedFd,
}

impl Files {
    /// Makes a ring of so many bytes: what may be under way. Each message takes 16 bytes more than
    /// its payload has, and up to 15 for alignment; longer ones than the ring go through it in
    /// parts. Of the bytes, those take memory that were ever used.
    ///
    /// # Errors
    ///
    /// [`RingError::BadCapacity`], or what the kernel says.
    pub fn ring(capacity: usize) -> Result<Self, RingError> {
        if !capacity.is_power_of_two() || !(MIN_CAPACITY..=MAX_CAPACITY).contains(&capacity) {
            return Err(RingError::BadCapacity(capacity));
        }
        Self::make(Kind::Ring, capacity, capacity)
    }

    /// Makes room for the newest value of so many bytes at most, see
    /// [`LatestProducer`](super::LatestProducer). Of three times that, those bytes take memory that
    /// were ever used.
    ///
    /// # Errors
    ///
    /// [`RingError::TooLong`] beyond [`MAX_PAYLOAD`], or what the kernel says.
    pub fn latest(longest: usize) -> Result<Self, RingError> {
        if longest > MAX_PAYLOAD {
            return Err(RingError::TooLong { len: longest, most: MAX_PAYLOAD });
        }
        Self::make(Kind::Latest, latest::SLOTS * latest::stride(longest), longest)
    }

    fn make(kind: Kind, area: usize, size: usize) -> Result<Self, RingError> {
        let memory = memory::make(kind, area, size)?;
        Ok(Self { memory, data: bell::make()?, room: bell::make()? })
    }

    /// From what was passed on. Nothing is checked until an end is opened.
    #[must_use]
    pub fn from_fds([memory, data, room]: [OwnedFd; 3]) -> Self {
        Self { memory, data, room }
    }

    /// The memfd, what wakes the consumer, and what wakes the producer.
    #[must_use]
    pub fn as_fds(&self) -> [BorrowedFd<'_>; 3] {
        [self.memory.as_fd(), self.data.as_fd(), self.room.as_fd()]
    }

    /// The same files again, for the other end.
    ///
    /// # Errors
    ///
    /// When this process has too many files.
    pub fn try_clone(&self) -> Result<Self, RingError> {
        let again =
            |fd: &OwnedFd| fd.try_clone().map_err(RingError::io("duplicate a ring's files"));
        Ok(Self {
            memory: again(&self.memory)?,
            data: again(&self.data)?,
            room: again(&self.room)?,
        })
    }

    /// Closes both ends and wakes them: the producer can't send any more, the consumer gets what
    /// was published. For whoever made the ring. It is a message to programs that heed it: memory
    /// that a program has mapped can't be taken from it.
    ///
    /// # Errors
    ///
    /// When the file is no ring; both ends are woken then too.
    pub fn revoke(&self) -> Result<(), RingError> {
        let closed = Mapping::map(self.memory.as_fd()).map(|mapping| {
            mapping.set(Cell::Producer, CLOSED);
            mapping.set(Cell::Consumer, CLOSED);
            mapping.fence();
        });
        for fd in [&self.data, &self.room] {
            let fd = fd.try_clone().map_err(RingError::io("duplicate a ring's files"))?;
            Doorbell::new(fd)?.ring()?;
        }
        closed
    }

    /// Lets another program open an end whose program has died. It goes on where that one stopped:
    /// what was not published is not there, and a message that was sent in parts, not all of which
    /// were published, or of which some were taken, is skipped and counted.
    ///
    /// For whoever made the ring, and only when the program is known to be dead. Not for the newest
    /// value, of which no end can be taken over.
    ///
    /// # Errors
    ///
    /// When the file is no ring of messages.
    pub fn vacate(&self, side: Side) -> Result<(), RingError> {
        let (mapping, _) = Mapping::open(self.memory.as_fd(), Kind::Ring)?;
        mapping.clear(side.cell(), OPEN | SLEEPS);
        Ok(())
    }
}

/// Maps a ring of this kind and enters an end of it.
pub(super) fn enter(
    file: BorrowedFd<'_>,
    kind: Kind,
    side: Side,
) -> Result<(Mapping, usize), RingError> {
    let (mapping, size) = Mapping::open(file, kind)?;
    let before = mapping.set(side.cell(), OPEN);
    if before & OPEN != 0 {
        return Err(RingError::Taken(side));
    }
    if before & CLOSED != 0 {
        return Err(RingError::Closed);
    }
    Ok((mapping, size))
}
