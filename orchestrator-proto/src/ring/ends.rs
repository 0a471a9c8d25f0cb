//! Both ends of a ring of messages: the pure halves on real memory and real bells.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::RingError;
use super::bell::{Doorbell, Ear, Spin};
use super::files::{self, Files, Side};
use super::layout::Kind;
use super::memory::Mapping;
use super::pop::{Popped, Popper};
use super::push::Pusher;
use super::record::Around;

/// The mapping as a ring of the size that its header says.
pub(super) fn around(files: &Files, side: Side) -> Result<Around<Mapping>, RingError> {
    let (mapping, size) = files::enter(files.memory.as_fd(), Kind::Ring, side)?;
    let ring = Around::new(mapping).filter(|ring| ring.capacity() == size as u64);
    ring.ok_or(RingError::NotARing("its header says another size than its file has"))
}

/// The sending end. Dropped, it closes the ring: the consumer gets what was published, and then
/// [`RingError::Closed`].
#[derive(Debug)]
pub struct Producer {
    pub(super) half: Pusher<Mapping, Doorbell>,
    pub(super) room: Ear,
    pub(super) spin: Spin,
    #[cfg(feature = "sdk")]
    pub(super) watched: Option<tokio::io::unix::AsyncFd<Ear>>,
}

impl Producer {
    /// Opens this end of a ring.
    ///
    /// # Errors
    ///
    /// When the files are not those of a ring, or the end is [taken](RingError::Taken).
    pub fn open(files: Files) -> Result<Self, RingError> {
        let ring = around(&files, Side::Producer)?;
        Ok(Self {
            half: Pusher::new(ring, Doorbell::new(files.data)?)?,
            room: Ear::new(files.room)?,
            spin: Spin::default(),
            #[cfg(feature = "sdk")]
            watched: None,
        })
    }

    /// For how long waiting may keep a processor busy, and with `await` other tasks of its thread
    /// waiting, before it sleeps. Zero, as it is at first: not at all, which it also is where there
    /// is one processor only.
    pub fn set_spin(&mut self, budget: Duration) {
        self.spin = Spin::new(budget);
    }

    /// Makes all memory of the ring present in this program now, so that no first use of a page
    /// delays a message by some microseconds later. It takes the ring's capacity of memory then, once
    /// for both ends.
    ///
    /// # Errors
    ///
    /// When the kernel is older than Linux 5.14, or has no memory. The ring works without.
    pub fn populate(&self) -> Result<(), RingError> {
        self.half.memory().populate()
    }

    /// The longest message that [`try_push`](Self::try_push) takes, bytes.
    #[must_use]
    pub fn most_at_once(&self) -> usize {
        self.half.most_at_once()
    }

    /// Sends a message if there is room for all of it. Never waits.
    ///
    /// # Errors
    ///
    /// [`RingError::TooLong`] if it has more than [`most_at_once`](Self::most_at_once);
    /// [`RingError::Closed`]; [`RingError::Broken`].
    pub fn try_push(&mut self, number: u64, bytes: &[u8]) -> Result<bool, RingError> {
        let staged = self.half.stage(number, bytes)?;
        if staged {
            self.half.publish()?;
        }
        Ok(staged)
    }

    /// Writes a message if there is room for all of it, to be published together with others by
    /// [`publish`](Self::publish), or by whatever sends or waits after it. What is never published is
    /// never seen.
    ///
    /// # Errors
    ///
    /// As for [`try_push`](Self::try_push).
    pub fn stage(&mut self, number: u64, bytes: &[u8]) -> Result<bool, RingError> {
        self.half.stage(number, bytes)
    }

    /// Publishes all that is staged.
    ///
    /// # Errors
    ///
    /// [`RingError::Closed`].
    pub fn publish(&mut self) -> Result<(), RingError> {
        self.half.publish()
    }

    /// Sends a message of any length up to [`MAX_PAYLOAD`](super::MAX_PAYLOAD), and waits for room
    /// until then. False if there was none in time; of a message that is longer than half the ring
    /// a part may have been sent by then, which the consumer forgets.
    ///
    /// # Errors
    ///
    /// [`RingError::TooLong`], [`RingError::Closed`], [`RingError::Broken`], or what the kernel
    /// says about waiting.
    pub fn push(
        &mut self,
        number: u64,
        bytes: &[u8],
        until: Option<Instant>,
    ) -> Result<bool, RingError> {
        let mut sending = Sending::begin(&mut self.half, number, bytes)?;
        loop {
            match sending.go_on(&mut self.half)? {
                None => return Ok(true),
                Some(wanted) if !self.wait(wanted, until)? => return Ok(false),
                Some(_) => {}
            }
        }
    }

    /// False if there is not so much room in time.
    pub(super) fn wait(&mut self, wanted: u64, until: Option<Instant>) -> Result<bool, RingError> {
        let half = &mut self.half;
        if self.spin.until(|| half.has_room(wanted))? {
            return Ok(true);
        }
        while self.half.sleep(wanted)? {
            let heard = self.room.wait(until);
            self.half.awake();
            heard?;
            if until.is_some_and(|until| until <= Instant::now()) {
                return self.half.has_room(wanted);
            }
        }
        Ok(true)
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = self.half.close();
    }
}

/// A message that is sent with waiting: at once if it is short, in parts if it is long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sending<'a> {
    number: u64,
    rest: &'a [u8],
    parts: bool,
}

impl<'a> Sending<'a> {
    pub(super) fn begin(
        half: &mut Pusher<Mapping, Doorbell>,
        number: u64,
        bytes: &'a [u8],
    ) -> Result<Self, RingError> {
        let parts = !half.fits_half(bytes.len());
        if parts {
            half.begin(number, bytes.len())?;
        }
        Ok(Self { number, rest: bytes, parts })
    }

    /// Sends as much as there is room for. Answers with the room that it needs to go on, if it is
    /// not done.
    pub(super) fn go_on(
        &mut self,
        half: &mut Pusher<Mapping, Doorbell>,
    ) -> Result<Option<u64>, RingError> {
        if self.parts {
            let taken = half.feed(self.rest)?;
            self.rest = &self.rest[taken..];
            return Ok((!self.rest.is_empty()).then(|| half.wanted(self.rest.len())));
        }
        if half.stage(self.number, self.rest)? {
            half.publish()?;
            return Ok(None);
        }
        // What is staged takes the room that is waited for.
        half.publish()?;
        Ok(Some(half.wanted(self.rest.len())))
    }
}

/// The receiving end. Dropped, it closes the ring: the producer gets [`RingError::Closed`].
#[derive(Debug)]
pub struct Consumer {
    pub(super) half: Popper<Mapping, Doorbell>,
    pub(super) data: Ear,
    pub(super) spin: Spin,
    #[cfg(feature = "sdk")]
    pub(super) watched: Option<tokio::io::unix::AsyncFd<Ear>>,
}

impl Consumer {
    /// Opens this end of a ring.
    ///
    /// # Errors
    ///
    /// When the files are not those of a ring, or the end is [taken](RingError::Taken).
    pub fn open(files: Files) -> Result<Self, RingError> {
        let ring = around(&files, Side::Consumer)?;
        Ok(Self {
            half: Popper::new(ring, Doorbell::new(files.room)?)?,
            data: Ear::new(files.data)?,
            spin: Spin::default(),
            #[cfg(feature = "sdk")]
            watched: None,
        })
    }

    /// As [`Producer::set_spin`].
    pub fn set_spin(&mut self, budget: Duration) {
        self.spin = Spin::new(budget);
    }

    /// Makes all memory of the ring present in this program now, so that no first use of a page
    /// delays a message by some microseconds later. It takes the ring's capacity of memory then, once
    /// for both ends.
    ///
    /// # Errors
    ///
    /// As for [`Producer::populate`].
    pub fn populate(&self) -> Result<(), RingError> {
        self.half.memory().populate()
    }

    /// Messages of which a part came, and never the rest: their producer died, or gave them up.
    #[must_use]
    pub fn cut_short(&self) -> u64 {
        self.half.cut_short()
    }

    /// Takes a message if there is one: its bytes are all that is in the vector then, and its
    /// number is the answer. Never waits. Of a long message, takes what there is so far.
    ///
    /// Keep the vector: its memory is used again.
    ///
    /// # Errors
    ///
    /// [`RingError::Closed`] when all was taken; [`RingError::Broken`]; [`RingError::NoMemory`],
    /// after which the message is still there.
    pub fn try_pop(&mut self, into: &mut Vec<u8>) -> Result<Option<u64>, RingError> {
        match self.half.pop(into)? {
            Popped::Message(number) => Ok(Some(number)),
            Popped::Empty | Popped::Remains => Ok(None),
        }
    }

    /// Takes what there is, up to so many messages, and gives the room of all of them back at once.
    /// Answers with how many there were. `into` is used for the bytes of each.
    ///
    /// # Errors
    ///
    /// As for [`try_pop`](Self::try_pop), when there was no message before.
    pub fn pop_many(
        &mut self,
        most: usize,
        into: &mut Vec<u8>,
        mut each: impl FnMut(u64, &[u8]),
    ) -> Result<usize, RingError> {
        let mut count = 0;
        let mut failed = None;
        while count < most {
            match self.half.take(into) {
                Ok(Popped::Message(number)) => {
                    count += 1;
                    each(number, into);
                }
                Ok(Popped::Empty | Popped::Remains) => break,
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        self.half.give_back()?;
        match failed {
            Some(error) if count == 0 => Err(error),
            _ => Ok(count),
        }
    }

    /// Takes the next message, and waits for it until then. None if there was none in time.
    ///
    /// # Errors
    ///
    /// As for [`try_pop`](Self::try_pop), or what the kernel says about waiting.
    pub fn pop(
        &mut self,
        into: &mut Vec<u8>,
        until: Option<Instant>,
    ) -> Result<Option<u64>, RingError> {
        loop {
            if let Popped::Message(number) = self.half.pop(into)? {
                return Ok(Some(number));
            }
            if until.is_some_and(|until| until <= Instant::now()) {
                return Ok(None);
            }
            self.wait(until)?;
        }
    }

    /// Waits until it is worth to look again. May come back early.
    fn wait(&mut self, until: Option<Instant>) -> Result<(), RingError> {
        let half = &self.half;
        if !self.spin.until(|| Ok::<_, RingError>(half.has_something()))? && half.sleep() {
            let heard = self.data.wait(until);
            half.awake();
            heard?;
        }
        Ok(())
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = self.half.close();
    }
}
