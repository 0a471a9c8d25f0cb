//! What can go wrong with a ring.

use std::io;

use thiserror::Error;

use super::Side;
use super::layout::{MAX_CAPACITY, MIN_CAPACITY};

/// Why a ring can't be made, opened or used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RingError {
    /// A system call failed.
    #[error("can't {what}: {source}")]
    Io {
        /// What was to be done.
        what: &'static str,
        /// Why it was not.
        source: io::Error,
    },
    /// A ring of that size is not made.
    #[error(
        "{0} bytes are no capacity of a ring; it has to be a power of two from {MIN_CAPACITY} to \
         {MAX_CAPACITY}"
    )]
    BadCapacity(usize),
    /// The file could be made smaller while it is mapped, so it is not used.
    #[error("the memory of the ring is not sealed against a change of its size; make it anew")]
    NotSealed,
    /// The file is no ring, one of another version or kind, or its size is not what it says.
    #[error("this is not the memory of such a ring: {0}")]
    NotARing(&'static str),
    /// That end was opened before and not let go since.
    #[error("the {0} of the ring has been opened already; each end belongs to one program")]
    Taken(Side),
    /// The other end, or who made the ring, has closed it. All that was there has been taken.
    #[error("the ring is closed")]
    Closed,
    /// A message that the ring can't take at once, or at all.
    #[error("the message has {len} bytes, and no more than {most} can be passed like this")]
    TooLong {
        /// Its length, bytes.
        len: usize,
        /// What may be passed, bytes; [`MAX_PAYLOAD`](super::MAX_PAYLOAD) at most.
        most: usize,
    },
    /// What writes a message in place has failed, or has written another number of bytes than it
    /// had announced. The message is not sent.
    #[error("the message was not written: {0}")]
    Write(io::Error),
    /// The other end did what no end does. The ring can't be used any more.
    #[error("the other end has broken the ring: {0}; close it and make another one")]
    Broken(&'static str),
    /// There is no memory for a message.
    #[error("no memory for a message of {0} bytes")]
    NoMemory(usize),
    /// Waiting with `await` outside a tokio runtime.
    #[error("a ring can be awaited in a tokio runtime only")]
    NoRuntime,
}

impl RingError {
    /// What a failed system call is turned into.
    pub(super) fn io<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { what, source: source.into() }
    }
}
