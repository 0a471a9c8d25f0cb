//! The producer's half: pure, over any [`Memory`] and [`Bell`].

use std::io;

use super::RingError;
use super::layout::{Bell, CLOSED, Cell, MAX_PAYLOAD, Memory, SLEEPS};
use super::record::{ALIGN, Around, HEADER, Record, footprint};

/// The most bytes of one record: what a consumer can begin to copy while the rest is still being
/// written. Less in a small ring, so that one record is written while another is read.
const MOST_OF_RECORD: u64 = 16 << 10;

/// What is written and what is published is known here; what was given back is what the consumer
/// says, within bounds.
#[derive(Debug)]
pub(super) struct Pusher<M, B> {
    ring: Around<M>,
    bell: B,
    /// Where the next record begins.
    head: u64,
    /// Up to where the consumer may read.
    published: u64,
    /// Up to where the consumer had read when that was looked at last.
    tail: u64,
    /// The message of which parts are still to come.
    sending: Option<Sending>,
    /// Bytes of one record.
    most: u64,
    broken: Option<&'static str>,
}

/// A message that is on its way, part by part.
#[derive(Clone, Copy, Debug)]
struct Sending {
    number: u64,
    first: bool,
    /// Bytes that are not in a whole record yet.
    left: u64,
    /// Bytes of those that are in memory already, of the record that is being written.
    written: u64,
}

impl<M: Memory, B: Bell> Pusher<M, B> {
    /// Goes on where the producer before stopped.
    pub(super) fn new(ring: Around<M>, bell: B) -> Result<Self, RingError> {
        let head = ring.memory.load(Cell::Head);
        let tail = ring.memory.load(Cell::Tail);
        if !ring.holds(tail, head) {
            return Err(RingError::Broken("it begins with more than it can have"));
        }
        let most = (ring.capacity() / 4).min(MOST_OF_RECORD + HEADER) - HEADER;
        let most = most / ALIGN * ALIGN;
        // The smallest rings are those of tests.
        let most = most.max(ALIGN);
        Ok(Self { ring, bell, head, published: head, tail, sending: None, most, broken: None })
    }

    pub(super) const fn memory(&self) -> &M {
        &self.ring.memory
    }

    /// Bytes of a message that the empty ring takes at once.
    pub(super) fn most_at_once(&self) -> usize {
        let records = self.ring.capacity() / footprint(self.most);
        ((records * self.most) as usize).min(MAX_PAYLOAD)
    }

    /// The most bytes of one record.
    #[cfg(test)]
    pub(super) fn most_of_record(&self) -> usize {
        self.most as usize
    }

    /// What a message of so many bytes takes of the ring.
    fn takes(&self, len: u64) -> u64 {
        let whole = len / self.most;
        match len % self.most {
            0 if whole > 0 => whole * footprint(self.most),
            rest => whole * footprint(self.most) + footprint(rest),
        }
    }

    /// Bytes that are free; looks at what the consumer says if that seems to be less than wanted.
    fn room(&mut self, wanted: u64) -> Result<u64, RingError> {
        let free = self.ring.capacity() - self.head.wrapping_sub(self.tail);
        if free >= wanted {
            return Ok(free);
        }
        let tail = self.ring.memory.load(Cell::Tail);
        let given_back = tail.wrapping_sub(self.tail);
        if given_back > self.published.wrapping_sub(self.tail) || !given_back.is_multiple_of(ALIGN)
        {
            return Err(self.broken("it gave back what it did not have"));
        }
        self.tail = tail;
        Ok(free + given_back)
    }

    fn broken(&mut self, what: &'static str) -> RingError {
        RingError::Broken(self.broken.get_or_insert(what))
    }

    /// What was found to be broken stays that.
    fn check(&self, len: usize, most: usize) -> Result<(), RingError> {
        match self.broken {
            Some(what) => Err(RingError::Broken(what)),
            None if len > most => Err(RingError::TooLong { len, most }),
            None => Ok(()),
        }
    }

    /// Whether a message could be staged now.
    pub(super) fn has_room_at_once(&mut self, len: usize) -> Result<bool, RingError> {
        self.check(len, self.most_at_once())?;
        let takes = self.takes(len as u64);
        Ok(self.room(takes)? >= takes)
    }

    /// Writes a message if there is room for the whole, and does not publish it yet; of a long one
    /// it may publish parts, and with them all before.
    pub(super) fn stage(&mut self, number: u64, bytes: &[u8]) -> Result<bool, RingError> {
        if !self.has_room_at_once(bytes.len())? {
            return Ok(false);
        }
        let mut rest = bytes;
        let mut first = true;
        loop {
            let (part, later) = rest.split_at(rest.len().min(self.most as usize));
            self.part(number, first, part, later.len() as u64)?;
            (rest, first) = (later, false);
            if rest.is_empty() {
                return Ok(true);
            }
            self.publish()?;
        }
    }

    /// Announces a message of any length, which [`feed`](Self::feed) brings then. If another one
    /// was not brought to its end, the consumer forgets it.
    pub(super) fn begin(&mut self, number: u64, len: usize) -> Result<(), RingError> {
        self.check(len, MAX_PAYLOAD)?;
        self.sending = Some(Sending { number, first: true, left: len as u64, written: 0 });
        Ok(())
    }

    /// Writes as much of the announced message as there is room for, and publishes each part that
    /// is whole; `bytes` are those after the ones that were taken. Answers with how many were taken.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<usize, RingError> {
        self.check(0, 0)?;
        let mut rest = bytes;
        while !rest.is_empty() {
            let sending = self.sending.filter(|it| it.left - it.written >= rest.len() as u64);
            let Some(Sending { number, first, left, written }) = sending else {
                return Err(RingError::Write(io::Error::other("it is longer than announced")));
            };
            let len = left.min(self.most);
            // Of a record that was begun the room was there.
            if written == 0 && self.room(footprint(len))? < footprint(len) {
                break;
            }
            let (now, later) = rest.split_at(rest.len().min((len - written) as usize));
            self.ring.copy_in(self.head.wrapping_add(HEADER + written), now)?;
            rest = later;
            let written = written + now.len() as u64;
            self.sending = Some(Sending { number, first, left, written });
            if written == len {
                self.put(Record { first, len, left: left - len, number })?;
                self.publish()?;
            }
        }
        Ok(bytes.len() - rest.len())
    }

    /// Writes as many of these bytes as there is room for, as messages of one record each, and
    /// publishes them. Answers with how many that are. Little room is not used as long as more is
    /// to come: that would be many small records.
    #[cfg(any(test, feature = "sdk"))]
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<usize, RingError> {
        self.check(0, 0)?;
        let mut rest = bytes;
        while !rest.is_empty() {
            let len = (rest.len() as u64).min(self.most);
            if self.room(footprint(len))? < footprint(len) {
                break;
            }
            let (part, later) = rest.split_at(len as usize);
            self.part(0, true, part, 0)?;
            self.publish()?;
            rest = later;
        }
        Ok(bytes.len() - rest.len())
    }

    /// Bytes of the announced message that were not taken yet.
    pub(super) fn left(&self) -> usize {
        self.sending.map_or(0, |sending| (sending.left - sending.written) as usize)
    }

    /// Does not go on with the announced message. What was published of it, the consumer forgets
    /// when the next one comes.
    pub(super) fn give_up(&mut self) {
        self.sending = None;
    }

    /// Whether a message is sent as a whole when there is room; others go in parts.
    pub(super) fn fits_half(&self, len: usize) -> bool {
        self.takes(len as u64) <= self.ring.capacity() / 2
    }

    /// The room that a message needs before any of it is written: for all of it, or if that is
    /// much, for so much that the consumer does not have to wake us for each part.
    pub(super) fn wanted(&self, len: usize) -> u64 {
        self.takes(len as u64).min(self.ring.capacity() / 2)
    }

    /// One record of a message, for which there is room.
    fn part(&mut self, number: u64, first: bool, bytes: &[u8], left: u64) -> Result<(), RingError> {
        self.ring.copy_in(self.head.wrapping_add(HEADER), bytes)?;
        self.put(Record { first, len: bytes.len() as u64, left, number })
    }

    /// The record whose bytes are written.
    fn put(&mut self, record: Record) -> Result<(), RingError> {
        let Record { number, left, .. } = record;
        self.ring.set_record(self.head, record)?;
        self.head = self.head.wrapping_add(record.footprint());
        self.sending = (left > 0).then_some(Sending { number, first: false, left, written: 0 });
        Ok(())
    }

    /// Lets the consumer have all that was written, and wakes it if it sleeps.
    pub(super) fn publish(&mut self) -> Result<(), RingError> {
        if self.published != self.head {
            self.ring.memory.store(Cell::Head, self.head);
            self.published = self.head;
            self.ring.memory.fence();
        }
        let consumer = self.ring.memory.load(Cell::Consumer);
        if consumer & SLEEPS != 0 && self.ring.memory.clear(Cell::Consumer, SLEEPS) & SLEEPS != 0 {
            self.bell.ring()?;
        }
        if consumer & CLOSED != 0 { Err(RingError::Closed) } else { Ok(()) }
    }

    /// Whether there is as much room as that, or the ring is closed.
    pub(super) fn has_room(&mut self, wanted: u64) -> Result<bool, RingError> {
        self.check(0, 0)?;
        if self.room(wanted)? >= wanted {
            return Ok(true);
        }
        let memory = &self.ring.memory;
        let closed = (memory.load(Cell::Consumer) | memory.load(Cell::Producer)) & CLOSED != 0;
        if closed { Err(RingError::Closed) } else { Ok(false) }
    }

    /// Asks to be woken when there is so much room. False if there is already; otherwise the bell
    /// will ring, until [`awake`](Self::awake).
    pub(super) fn sleep(&mut self, wanted: u64) -> Result<bool, RingError> {
        // The tail at which that much is free.
        let tail = self.head.wrapping_add(wanted).wrapping_sub(self.ring.capacity());
        self.ring.memory.store(Cell::Wanted, tail);
        self.ring.memory.set(Cell::Producer, SLEEPS);
        self.ring.memory.fence();
        match self.has_room(wanted) {
            Ok(false) => Ok(true),
            answer => {
                self.awake();
                answer.map(|_| false)
            }
        }
    }

    /// Needs no bell any more.
    pub(super) fn awake(&self) {
        self.ring.memory.clear(Cell::Producer, SLEEPS);
    }

    /// The consumer gets what was published, and then learns that there is no more.
    pub(super) fn close(&mut self) -> Result<(), RingError> {
        self.ring.memory.set(Cell::Producer, CLOSED);
        self.ring.memory.fence();
        self.bell.ring()
    }
}
