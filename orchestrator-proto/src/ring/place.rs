//! Messages that are written where they are sent from.

use std::fmt;
use std::io;
use std::time::Instant;

use super::RingError;
use super::ends::Producer;

/// Where a message is written: in the ring itself, part by part. No part of it can be read back.
pub struct InPlace<'a> {
    producer: &'a mut Producer,
    until: Option<Instant>,
    /// Why it can't be written on. None without a reason: the time is over.
    failed: Option<Option<RingError>>,
}

impl fmt::Debug for InPlace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InPlace({} bytes left)", self.producer.half.left())
    }
}

impl InPlace<'_> {
    /// At least a byte; none if the time is over.
    fn put(&mut self, bytes: &[u8]) -> Result<Option<usize>, RingError> {
        loop {
            let taken = self.producer.half.feed(bytes)?;
            if taken > 0 || bytes.is_empty() {
                return Ok(Some(taken));
            }
            // What is staged takes the room that is waited for.
            self.producer.half.publish()?;
            let wanted = self.producer.half.wanted(self.producer.half.left());
            if !self.producer.wait(wanted, self.until)? {
                return Ok(None);
            }
        }
    }
}

impl io::Write for InPlace<'_> {
    /// Waits for room, as the one who gave it was asked to.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.failed.is_none() {
            match self.put(bytes) {
                Ok(Some(taken)) => return Ok(taken),
                Ok(None) => self.failed = Some(None),
                Err(error) => self.failed = Some(Some(error)),
            }
        }
        Err(io::Error::other("the message can't be sent"))
    }

    /// Does nothing: a part is published when it is whole.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Producer {
    /// As [`push`](Self::push), for a message of `len` bytes that `write` writes, all of them: into
    /// the ring, without another copy. It may be called with the ring full, and waits while it
    /// writes then.
    ///
    /// # Errors
    ///
    /// As for [`push`](Self::push); [`RingError::Write`] if `write` fails or writes another number of
    /// bytes: what was published of the message then, the consumer forgets.
    pub fn push_with(
        &mut self,
        number: u64,
        len: usize,
        until: Option<Instant>,
        write: impl FnOnce(&mut InPlace<'_>) -> io::Result<()>,
    ) -> Result<bool, RingError> {
        self.half.begin(number, len)?;
        let mut place = InPlace { producer: self, until, failed: None };
        let written = write(&mut place);
        let failed = place.failed.take();
        let left = self.half.left();
        self.half.give_up();
        match (failed, written) {
            (Some(Some(error)), _) => Err(error),
            (Some(None), _) => Ok(false),
            (None, Err(error)) => Err(RingError::Write(error)),
            (None, Ok(())) if left > 0 => {
                Err(RingError::Write(io::Error::other("it is shorter than announced")))
            }
            (None, Ok(())) if len == 0 => self.push(number, &[], until),
            (None, Ok(())) => Ok(true),
        }
    }

    /// As [`try_push`](Self::try_push), for a message of `len` bytes that `write` writes, all of
    /// them: into the ring, without another copy. `write` is called if there is room for all of it.
    ///
    /// # Errors
    ///
    /// As for [`try_push`](Self::try_push); [`RingError::Write`] as for
    /// [`push_with`](Self::push_with).
    pub fn try_push_with(
        &mut self,
        number: u64,
        len: usize,
        write: impl FnOnce(&mut InPlace<'_>) -> io::Result<()>,
    ) -> Result<bool, RingError> {
        if !self.half.has_room_at_once(len)? {
            return Ok(false);
        }
        // There is nothing to wait for.
        self.push_with(number, len, Some(Instant::now()), write)
    }
}
