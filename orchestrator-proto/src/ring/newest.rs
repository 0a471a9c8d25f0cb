//! Both ends of the newest value: the pure halves on real memory and a real bell.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::RingError;
use super::bell::{Doorbell, Ear, Spin};
use super::files::{self, Files, Side};
use super::latest::{Reader, Writer};
use super::layout::{Kind, MAX_PAYLOAD};
use super::memory::Mapping;

/// The mapping, and how long a value may be.
fn enter(files: &Files, side: Side) -> Result<(Mapping, usize), RingError> {
    let (mapping, longest) = files::enter(files.memory.as_fd(), Kind::Latest, side)?;
    if longest > MAX_PAYLOAD { Err(MISMATCH) } else { Ok((mapping, longest)) }
}

const MISMATCH: RingError = RingError::NotARing("its header says another size than its file has");

/// The end that has values, of which the other one wants the newest only. Dropped, it closes: the
/// consumer gets the last value, and then [`RingError::Closed`].
#[derive(Debug)]
pub struct LatestProducer(Writer<Mapping, Doorbell>);

impl LatestProducer {
    /// Opens this end.
    ///
    /// # Errors
    ///
    /// When the files are not those of [`Files::latest`], or the end is [taken](RingError::Taken).
    pub fn open(files: Files) -> Result<Self, RingError> {
        let (mapping, longest) = enter(&files, Side::Producer)?;
        let bell = Doorbell::new(files.data)?;
        Writer::new(mapping, longest, bell).map(Self).ok_or(MISMATCH)
    }

    /// The longest value, bytes.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.0.longest()
    }

    /// Puts a value in the place of the one before, and answers whether nobody had taken that.
    /// Never waits.
    ///
    /// # Errors
    ///
    /// [`RingError::TooLong`], [`RingError::Closed`], [`RingError::Broken`].
    pub fn put(&mut self, number: u64, bytes: &[u8]) -> Result<bool, RingError> {
        self.0.put(number, bytes)
    }
}

impl Drop for LatestProducer {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = self.0.close();
    }
}

/// The end that takes the newest value. Dropped, it closes: the producer gets
/// [`RingError::Closed`].
#[derive(Debug)]
pub struct LatestConsumer {
    pub(super) half: Reader<Mapping>,
    pub(super) data: Ear,
    pub(super) spin: Spin,
    #[cfg(feature = "sdk")]
    pub(super) watched: Option<tokio::io::unix::AsyncFd<Ear>>,
}

impl LatestConsumer {
    /// Opens this end.
    ///
    /// # Errors
    ///
    /// When the files are not those of [`Files::latest`], or the end is [taken](RingError::Taken).
    pub fn open(files: Files) -> Result<Self, RingError> {
        let (mapping, longest) = enter(&files, Side::Consumer)?;
        Ok(Self {
            half: Reader::new(mapping, longest).ok_or(MISMATCH)?,
            data: Ear::new(files.data)?,
            spin: Spin::default(),
            #[cfg(feature = "sdk")]
            watched: None,
        })
    }

    /// As [`Producer::set_spin`](super::Producer::set_spin).
    pub fn set_spin(&mut self, budget: Duration) {
        self.spin = Spin::new(budget);
    }

    /// Takes the newest value, if there is one that was not taken: its bytes are all that is in
    /// the vector then, and its number is the answer. Never waits.
    ///
    /// # Errors
    ///
    /// [`RingError::Closed`] when the last value was taken; [`RingError::Broken`];
    /// [`RingError::NoMemory`].
    pub fn try_take(&mut self, into: &mut Vec<u8>) -> Result<Option<u64>, RingError> {
        self.half.take(into)
    }

    /// As [`try_take`](Self::try_take), but waits for a value until then. None if there was none
    /// in time.
    ///
    /// # Errors
    ///
    /// As for [`try_take`](Self::try_take), or what the kernel says about waiting.
    pub fn take(
        &mut self,
        into: &mut Vec<u8>,
        until: Option<Instant>,
    ) -> Result<Option<u64>, RingError> {
        loop {
            if let Some(number) = self.half.take(into)? {
                return Ok(Some(number));
            }
            if until.is_some_and(|until| until <= Instant::now()) {
                return Ok(None);
            }
            let half = &self.half;
            if !self.spin.until(|| Ok::<_, RingError>(half.has_value()))? && half.sleep() {
                let heard = self.data.wait(until);
                half.awake();
                heard?;
            }
        }
    }
}

impl Drop for LatestConsumer {
    fn drop(&mut self) {
        self.half.close();
    }
}
