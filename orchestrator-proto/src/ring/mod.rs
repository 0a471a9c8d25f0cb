//! Messages through memory that two programs of one machine and one user share.
//!
//! A ring has one producer and one consumer. It carries records of bytes with a number each, from 0
//! bytes to 64 MiB, in order, each once; or, as [`LatestProducer`] and [`LatestConsumer`], the
//! newest value alone. Sending and receiving take no system call unless the other end sleeps.
//!
//! ```
//! use orchestrator_proto::ring::{Consumer, Files, Producer};
//!
//! let files = Files::ring(64 << 10)?;
//! let mut producer = Producer::open(files.try_clone()?)?;
//! let mut consumer = Consumer::open(files)?;
//! assert!(producer.try_push(7, b"ahead")?);
//! let mut bytes = Vec::new();
//! assert_eq!(consumer.try_pop(&mut bytes)?, Some(7));
//! assert_eq!(bytes, b"ahead");
//! # Ok::<(), orchestrator_proto::ring::RingError>(())
//! ```
//!
//! `RING.md` beside this crate describes the memory byte by byte.
//!
//! # Who does what
//!
//! One program makes the [`Files`] of a ring (a sealed memfd and two eventfds), and hands the same
//! three to both ends with `SCM_RIGHTS`; between instances, that is the daemon, and a link is one
//! ring. Each end is opened once, from its files, by [`Producer::open`] and [`Consumer::open`].
//! Opening checks everything: seals, size, magic and version, capacity. Who made it needs the files
//! no longer; kept, they let it [close the ring](Files::revoke) when the link is removed or one
//! of the programs has died, and let [another program](Files::vacate) take the place of a dead one.
//!
//! # When an end dies
//!
//! At any moment, `SIGKILL` included, the ring stays as it was last published:
//!
//! - A message is there when its producer has published it, with one store of an index after all
//!   its bytes were written. What was not published is not seen.
//! - A message that is longer than a record (16 KiB, less in a ring below 64 KiB) is published
//!   part by part, and received when its last part is there. If that never comes, it is
//!   forgotten and [counted](Consumer::cut_short).
//! - A message is gone when its consumer has given its room back, which is right after its bytes
//!   were copied. A consumer that dies between the two leaves it to its successor; one that
//!   dies after it loses what it had taken. Acknowledgements are the caller's: that is what the
//!   number is for.
//! - The other end of a dead program is not told by the ring. Whoever knows of the death calls
//!   [`Files::revoke`], which wakes it; without that, it waits until its deadline.
//!
//! An end that is dropped closes the ring, and the other end is woken and told.
//!
//! # What the other end can do
//!
//! It can change any byte at any time. So indices are read once and checked against what is known
//! here, bytes are copied out before anybody looks at them, no reference into the memory exists,
//! and the file can't become shorter. A peer that lies gets its own messages wrong, or
//! [`RingError::Broken`]; it causes no panic, no access elsewhere and no loop without an end. How
//! long a message may claim to be is bounded by [`MAX_PAYLOAD`]; that much address space is
//! reserved for it, and only what comes is touched. What it can do is to wake this end for nothing,
//! and to hold its eventfd full and without `O_NONBLOCK`, so that waking it would wait: programs
//! of one user can stop each other by simpler means.
//!
//! # How fast
//!
//! Indices that different ends write are on cache lines of their own, and each end looks at the
//! other's only when what it knows is used up. [`Producer::stage`] and [`Consumer::pop_many`] share
//! one store between many messages. A long message is copied in and out at the same time, part
//! after part, through memory that stays in the cache; so it needs no ring of its length.
//! [`Producer::push_with`] writes a message where it is sent from, without a buffer of the caller's.
//! [`Producer::set_spin`] trades processor time for the time that waking takes.

#[cfg(feature = "sdk")]
mod awaiting;
mod bell;
mod ends;
mod error;
mod files;
mod latest;
mod layout;
mod memory;
mod newest;
mod place;
mod pop;
mod push;
mod record;
#[cfg(feature = "sdk")]
mod stream;
#[cfg(test)]
mod tests;

pub use ends::{Consumer, Producer};
pub use error::RingError;
pub use files::{Files, Side};
pub use layout::{MAX_CAPACITY, MAX_PAYLOAD, MIN_CAPACITY};
pub use newest::{LatestConsumer, LatestProducer};
pub use place::InPlace;
#[cfg(feature = "sdk")]
pub use stream::{ByteConsumer, ByteProducer, Told};
