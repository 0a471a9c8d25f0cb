//! A ring as a stream of bytes, for whoever has frames of its own in them: what is written is cut
//! into records wherever that suits the ring.

use super::RingError;
use super::bell::{Doorbell, Ear, Spin};
use super::ends;
use super::files::{Files, Side};
use super::memory::Mapping;
use super::pop::Popper;
use super::push::Pusher;

use std::time::Duration;

/// The end that is written to. Dropped, it closes the ring: the other end reads what was written,
/// and then [`RingError::Closed`].
#[derive(Debug)]
pub struct ByteProducer {
    half: Pusher<Mapping, Doorbell>,
    room: Ear,
}

impl ByteProducer {
    /// Opens this end of a ring, which nobody may use as a ring of messages.
    ///
    /// # Errors
    ///
    /// When the files are not those of a ring, or the end is [taken](RingError::Taken).
    pub fn open(files: Files) -> Result<Self, RingError> {
        let ring = ends::around(&files, Side::Producer)?;
        let half = Pusher::new(ring, Doorbell::new(files.data)?)?;
        Ok(Self { half, room: Ear::new(files.room)? })
    }

    /// Writes as many of these bytes as there is room for, and answers with how many that are; 0 if
    /// there is too little room to be worth it; [`ask`](Self::ask) then, which also says if the
    /// ring is closed. Never waits.
    ///
    /// # Errors
    ///
    /// [`RingError::Closed`]; [`RingError::Broken`].
    pub fn try_write(&mut self, bytes: &[u8]) -> Result<usize, RingError> {
        self.half.write(bytes)
    }

    /// Asks to be [told](Self::told) when there is room for so many bytes, or for a good deal of
    /// them. False if there is already.
    ///
    /// # Errors
    ///
    /// As for [`try_write`](Self::try_write).
    pub fn ask(&mut self, bytes: usize) -> Result<bool, RingError> {
        let wanted = self.half.wanted(bytes);
        self.half.sleep(wanted)
    }

    /// What is heard when there is room; for a task that does not have this end itself.
    #[must_use]
    pub fn told(&self) -> Told {
        Told::new(self.room.clone())
    }
}

impl Drop for ByteProducer {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = self.half.close();
    }
}

/// The end that is read from. Dropped, it closes the ring: the other end gets
/// [`RingError::Closed`].
#[derive(Debug)]
pub struct ByteConsumer {
    half: Popper<Mapping, Doorbell>,
    spin: Spin,
    told: Told,
}

impl ByteConsumer {
    /// Opens this end of a ring.
    ///
    /// # Errors
    ///
    /// When the files are not those of a ring, or the end is [taken](RingError::Taken).
    pub fn open(files: Files) -> Result<Self, RingError> {
        let ring = ends::around(&files, Side::Consumer)?;
        let half = Popper::new(ring, Doorbell::new(files.room)?)?;
        Ok(Self { half, spin: Spin::default(), told: Told::new(Ear::new(files.data)?) })
    }

    /// For how long [`readable`](Self::readable) may keep a processor busy before it sleeps. Other tasks
    /// of its thread have their turns meanwhile. Zero, as it is at first: not at all, which it also
    /// is where there is one processor only.
    pub fn set_spin(&mut self, budget: Duration) {
        self.spin = Spin::new(budget);
    }

    /// Appends what there is, until the vector has so many bytes or a few more: those of one record.
    /// Answers with how many came; 0 if there is nothing for now. Never waits.
    ///
    /// # Errors
    ///
    /// [`RingError::Closed`] when all was read; [`RingError::Broken`]; [`RingError::NoMemory`],
    /// after which nothing is lost.
    pub fn try_read(&mut self, most: usize, into: &mut Vec<u8>) -> Result<usize, RingError> {
        self.half.read(most, into)
    }

    /// Whether there is something to read, or to be told.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.half.has_something()
    }

    /// Waits until it is worth to read. May come back early. Dropped before that, nothing is lost.
    ///
    /// # Errors
    ///
    /// [`RingError::NoRuntime`] outside of a tokio runtime, or what the kernel says about waiting.
    pub async fn readable(&mut self) -> Result<(), RingError> {
        let half = &self.half;
        let mut began = None;
        let has_something = loop {
            match self.spin.turn(&mut began, || Ok::<_, RingError>(half.has_something()))? {
                Some(answer) => break answer,
                None => tokio::task::yield_now().await,
            }
        };
        if !has_something && half.sleep() {
            self.told.hear().await?;
            half.awake();
        }
        Ok(())
    }
}

impl Drop for ByteConsumer {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = self.half.close();
    }
}

/// What one end hears of the other.
#[derive(Debug)]
pub struct Told {
    ear: Ear,
    watched: Option<tokio::io::unix::AsyncFd<Ear>>,
}

impl Told {
    fn new(ear: Ear) -> Self {
        Self { ear, watched: None }
    }

    /// Waits until the other end says something. May come back early. Dropped before that, nothing
    /// is lost.
    ///
    /// # Errors
    ///
    /// [`RingError::NoRuntime`] outside of a tokio runtime, or what the kernel says about waiting.
    pub async fn hear(&mut self) -> Result<(), RingError> {
        super::awaiting::hear(&mut self.watched, &self.ear).await
    }
}
