//! Waiting with `await`, on tokio. Each future can be dropped at any time: nothing is lost that was
//! not taken yet, but of a long message that is being sent.

use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;

use super::RingError;
use super::bell::Ear;
use super::ends::{Consumer, Producer, Sending};
use super::memory;
use super::newest::LatestConsumer;
use super::pop::Popped;

/// An eventfd that tokio watches; it is given to it when it is waited for the first time.
pub(super) async fn hear(watched: &mut Option<AsyncFd<Ear>>, ear: &Ear) -> Result<(), RingError> {
    let watched = match watched {
        Some(watched) => watched,
        None => {
            Handle::try_current().map_err(|_| RingError::NoRuntime)?;
            let watch = memory::watch(ear.clone()).map_err(RingError::io("watch an eventfd"))?;
            watched.insert(watch)
        }
    };
    let failed = RingError::io("wait for the other end of a ring");
    let mut guard = watched.readable().await.map_err(failed)?;
    // In this order: what rings after it was forgotten is heard the next time.
    guard.clear_ready();
    ear.forget()
}

impl Producer {
    /// As [`push`](Self::push), with `await` and without an end of the waiting.
    ///
    /// Dropped before it is done, it may have sent a part of a message that is longer than half
    /// the ring, which the consumer forgets when the next one comes.
    ///
    /// # Errors
    ///
    /// As for [`push`](Self::push), and [`RingError::NoRuntime`].
    pub async fn send(&mut self, number: u64, bytes: &[u8]) -> Result<(), RingError> {
        let mut sending = Sending::begin(&mut self.half, number, bytes)?;
        while let Some(wanted) = sending.go_on(&mut self.half)? {
            let half = &mut self.half;
            if self.spin.until(|| half.has_room(wanted))? {
                // A peer that is as fast does not keep other tasks from running.
                tokio::task::consume_budget().await;
                continue;
            }
            while self.half.sleep(wanted)? {
                hear(&mut self.watched, &self.room).await?;
                self.half.awake();
            }
        }
        Ok(())
    }
}

impl Consumer {
    /// As [`pop`](Self::pop), with `await` and without an end of the waiting.
    ///
    /// # Errors
    ///
    /// As for [`pop`](Self::pop), and [`RingError::NoRuntime`].
    pub async fn recv(&mut self, into: &mut Vec<u8>) -> Result<u64, RingError> {
        loop {
            if let Popped::Message(number) = self.half.pop(into)? {
                return Ok(number);
            }
            let half = &self.half;
            if self.spin.until(|| Ok::<_, RingError>(half.has_something()))? {
                tokio::task::consume_budget().await;
            } else if half.sleep() {
                hear(&mut self.watched, &self.data).await?;
                half.awake();
            }
        }
    }
}

impl LatestConsumer {
    /// As [`take`](Self::take), with `await` and without an end of the waiting.
    ///
    /// # Errors
    ///
    /// As for [`take`](Self::take), and [`RingError::NoRuntime`].
    pub async fn recv(&mut self, into: &mut Vec<u8>) -> Result<u64, RingError> {
        loop {
            if let Some(number) = self.half.take(into)? {
                return Ok(number);
            }
            let half = &self.half;
            if self.spin.until(|| Ok::<_, RingError>(half.has_value()))? {
                tokio::task::consume_budget().await;
            } else if half.sleep() {
                hear(&mut self.watched, &self.data).await?;
                half.awake();
            }
        }
    }
}
