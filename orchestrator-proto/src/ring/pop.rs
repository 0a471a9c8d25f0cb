//! The consumer's half: pure, over any [`Memory`] and [`Bell`].

use super::RingError;
use super::layout::{Bell, CLOSED, Cell, Memory, SLEEPS};
use super::record::{Around, HEADER, Record};

/// What was read is known here; what was published is what the producer says, within bounds.
#[derive(Debug)]
pub(super) struct Popper<M, B> {
    ring: Around<M>,
    bell: B,
    /// Where the next record begins.
    tail: u64,
    /// Up to where the producer may write again.
    given_back: u64,
    /// Up to where there were records when that was looked at last.
    head: u64,
    /// A message of which more is to come, and what there is of it.
    partial: Option<Partial>,
    bytes: Vec<u8>,
    /// Messages of which a part came, and never the rest.
    cut_short: u64,
    broken: Option<&'static str>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Partial {
    number: u64,
    /// Bytes that are still to come.
    left: u64,
    /// Whether its beginning is there.
    wanted: bool,
}

/// What was found in the ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Popped {
    /// A message, by its number.
    Message(u64),
    /// Nothing for now.
    Empty,
    /// The remains of a message that was cut short. There may be more behind them.
    Remains,
}

impl<M: Memory, B: Bell> Popper<M, B> {
    /// Goes on where the consumer before stopped.
    pub(super) fn new(ring: Around<M>, bell: B) -> Result<Self, RingError> {
        let tail = ring.memory.load(Cell::Tail);
        let head = ring.memory.load(Cell::Head);
        if !ring.holds(tail, head) {
            return Err(RingError::Broken("it begins with more than it can have"));
        }
        Ok(Self {
            ring,
            bell,
            tail,
            given_back: tail,
            head: tail,
            partial: None,
            bytes: Vec::new(),
            cut_short: 0,
            broken: None,
        })
    }

    pub(super) const fn memory(&self) -> &M {
        &self.ring.memory
    }

    /// Messages of which a part came, and never the rest.
    pub(super) const fn cut_short(&self) -> u64 {
        self.cut_short
    }

    /// Takes one message, and gives its room back. The vector then has its bytes and no others.
    pub(super) fn pop(&mut self, into: &mut Vec<u8>) -> Result<Popped, RingError> {
        let popped = self.take(into);
        self.give_back()?;
        popped
    }

    /// As [`pop`](Self::pop), but gives the room back only when the next message is not there yet
    /// or comes in parts, or with [`give_back`](Self::give_back).
    pub(super) fn take(&mut self, into: &mut Vec<u8>) -> Result<Popped, RingError> {
        if let Some(what) = self.broken {
            return Err(RingError::Broken(what));
        }
        let taken = self.take_records(into);
        if let Err(RingError::Broken(what)) = taken {
            self.broken = Some(what);
            self.partial = None;
        }
        taken
    }

    fn take_records(&mut self, into: &mut Vec<u8>) -> Result<Popped, RingError> {
        loop {
            let there = self.there()?;
            if there == 0 {
                return self.nothing();
            }
            let record = self.ring.record(self.tail)?;
            if record.footprint() > there {
                return Err(RingError::Broken("a part of a message is longer than what is there"));
            }
            if record.first && self.partial.take().is_some() {
                self.cut_short += 1;
                return Ok(Popped::Remains);
            }
            let popped = self.take_record(record, into)?;
            self.tail = self.tail.wrapping_add(record.footprint());
            match popped {
                None => self.give_back()?,
                Some(popped) => return Ok(popped),
            }
        }
    }

    /// Bytes of records that can be read; asks the producer if there seem to be none.
    fn there(&mut self) -> Result<u64, RingError> {
        let there = self.head.wrapping_sub(self.tail);
        if there > 0 {
            return Ok(there);
        }
        let head = self.ring.memory.load(Cell::Head);
        if !self.ring.holds(self.tail, head) {
            return Err(RingError::Broken("it published what it can't have"));
        }
        self.head = head;
        Ok(head.wrapping_sub(self.tail))
    }

    /// Why there is nothing.
    fn nothing(&mut self) -> Result<Popped, RingError> {
        if !self.is_closed() {
            return Ok(Popped::Empty);
        }
        // What was published before it was closed is still taken.
        if self.there()? > 0 {
            return Ok(Popped::Remains);
        }
        if self.partial.take().is_some() {
            self.cut_short += 1;
        }
        Err(RingError::Closed)
    }

    /// Takes what a record has; none if its message goes on.
    fn take_record(
        &mut self,
        record: Record,
        into: &mut Vec<u8>,
    ) -> Result<Option<Popped>, RingError> {
        let Record { first, len, left, number } = record;
        let from = self.tail.wrapping_add(HEADER);
        let partial = match self.partial {
            None if first && left == 0 => {
                into.clear();
                self.ring.copy_out(from, len, into)?;
                return Ok(Some(Popped::Message(number)));
            }
            None if first => {
                let all = (len + left) as usize;
                self.bytes.clear();
                self.bytes.try_reserve(all).map_err(|_| RingError::NoMemory(all))?;
                Partial { number, left, wanted: true }
            }
            // Another consumer had taken its beginning, and died.
            None => {
                self.cut_short += 1;
                Partial { number, left, wanted: false }
            }
            Some(Partial { number: of, left: due, .. }) if (of, due) != (number, len + left) => {
                return Err(RingError::Broken("a part of a message belongs to another one"));
            }
            Some(partial) => Partial { left, ..partial },
        };
        if partial.wanted {
            self.ring.copy_out(from, len, &mut self.bytes)?;
        }
        self.partial = (left > 0).then_some(partial);
        match partial {
            Partial { left: 1.., .. } => Ok(None),
            Partial { wanted: false, .. } => Ok(Some(Popped::Remains)),
            Partial { wanted: true, .. } => {
                std::mem::swap(&mut self.bytes, into);
                Ok(Some(Popped::Message(number)))
            }
        }
    }

    /// Appends what messages of one record have, until there are so many bytes in the vector, and
    /// gives their room back. Answers with how many came.
    #[cfg(any(test, feature = "sdk"))]
    pub(super) fn read(&mut self, most: usize, into: &mut Vec<u8>) -> Result<usize, RingError> {
        if let Some(what) = self.broken {
            return Err(RingError::Broken(what));
        }
        let before = into.len();
        let read = self.read_records(most, into);
        if let Err(RingError::Broken(what)) = read {
            self.broken = Some(what);
        }
        self.give_back()?;
        match (read, into.len() - before) {
            (Err(error), 0) => Err(error),
            // What came first is told first.
            (_, count) => Ok(count),
        }
    }

    #[cfg(any(test, feature = "sdk"))]
    fn read_records(&mut self, most: usize, into: &mut Vec<u8>) -> Result<(), RingError> {
        while into.len() < most {
            let there = self.there()?;
            if there == 0 {
                return match self.nothing()? {
                    Popped::Remains => continue,
                    _ => Ok(()),
                };
            }
            let record = self.ring.record(self.tail)?;
            // Nor is an empty one part of any: there could be so many of them as to never end.
            let is_part = record.first && record.left == 0 && record.len > 0;
            if record.footprint() > there || !is_part {
                return Err(RingError::Broken("it is no stream of bytes"));
            }
            self.ring.copy_out(self.tail.wrapping_add(HEADER), record.len, into)?;
            self.tail = self.tail.wrapping_add(record.footprint());
            // So that it can be written again while the rest is read.
            if self.tail.wrapping_sub(self.given_back) >= self.ring.capacity() / 8 {
                self.give_back()?;
            }
        }
        Ok(())
    }

    /// Lets the producer write again over all that was read, and wakes it if it waits for that.
    pub(super) fn give_back(&mut self) -> Result<(), RingError> {
        if self.given_back == self.tail {
            return Ok(());
        }
        let memory = &self.ring.memory;
        memory.store(Cell::Tail, self.tail);
        self.given_back = self.tail;
        memory.fence();
        if memory.load(Cell::Producer) & SLEEPS == 0 {
            return Ok(());
        }
        // Not for each record if it waits for more; but whatever it waits for, when all is read.
        let missing = memory.load(Cell::Wanted).wrapping_sub(self.tail);
        let enough = missing == 0 || missing > self.ring.capacity();
        if (enough || self.tail == self.head) && memory.clear(Cell::Producer, SLEEPS) & SLEEPS != 0
        {
            self.bell.ring()?;
        }
        Ok(())
    }

    fn is_closed(&self) -> bool {
        let memory = &self.ring.memory;
        (memory.load(Cell::Producer) | memory.load(Cell::Consumer)) & CLOSED != 0
    }

    /// Whether there is something to take; or to be told, such as that the ring is closed.
    pub(super) fn has_something(&self) -> bool {
        self.head != self.tail
            || self.ring.memory.load(Cell::Head) != self.tail
            || self.broken.is_some()
    }

    /// Asks to be woken when there is something. False if there is already; otherwise the bell
    /// will ring, until [`awake`](Self::awake).
    pub(super) fn sleep(&self) -> bool {
        self.ring.memory.set(Cell::Consumer, SLEEPS);
        self.ring.memory.fence();
        if self.has_something() || self.is_closed() {
            self.awake();
            return false;
        }
        true
    }

    /// Needs no bell any more.
    pub(super) fn awake(&self) {
        self.ring.memory.clear(Cell::Consumer, SLEEPS);
    }

    /// The producer learns that nobody takes anything any more.
    pub(super) fn close(&mut self) -> Result<(), RingError> {
        self.ring.memory.set(Cell::Consumer, CLOSED);
        self.ring.memory.fence();
        self.bell.ring()
    }
}
