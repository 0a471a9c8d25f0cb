//! Receiving messages.

use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::{Handle, Message, RecvError};

/// Where messages of one type arrive.
///
/// The daemon sends no more than the window ahead of what was received here; what happens to
/// the rest is up to the link's policy. Messages are counted, not bytes: with a window of
/// 1,024 as many of 16 MiB may wait, so choose a smaller one for large messages.
///
/// When it is dropped, no more is taken from the daemon.
pub struct Input<T> {
    handle: Arc<Handle>,
    channel: u16,
    queue: Arc<Queue>,
    /// Taken from the queue, to be returned next.
    batch: VecDeque<Bytes>,
    /// Returned since the queue was told.
    consumed: u32,
    message: PhantomData<fn() -> T>,
}

impl<T: Message> Input<T> {
    pub(super) fn new(handle: Arc<Handle>, channel: u16, queue: Arc<Queue>) -> Self {
        Self { handle, channel, queue, batch: VecDeque::new(), consumed: 0, message: PhantomData }
    }

    /// Waits for the next message. While the connection is broken this just waits; it goes on
    /// after the reconnection. May be used in `select!`: a future that is dropped has taken
    /// nothing.
    ///
    /// # Errors
    ///
    /// [`RecvError::BadPayload`] for a message that is not a `T`. The next one is not affected.
    pub async fn recv(&mut self) -> Result<T, RecvError> {
        tokio::task::coop::consume_budget().await;
        loop {
            if let Some(message) = self.try_recv()? {
                return Ok(message);
            }
            self.queue.arrived.notified().await;
        }
    }

    /// The next message, if one has arrived.
    ///
    /// # Errors
    ///
    /// As for [`recv`](Self::recv).
    pub fn try_recv(&mut self) -> Result<Option<T>, RecvError> {
        if self.batch.is_empty() || self.consumed >= self.queue.step() {
            self.refill();
        }
        let Some(payload) = self.batch.pop_front() else {
            return Ok(None);
        };
        self.consumed += 1;
        match postcard::take_from_bytes(&payload) {
            Ok((message, [])) => Ok(Some(message)),
            Ok(_) => Err(self.bad(postcard::Error::DeserializeBadEncoding)),
            Err(source) => Err(self.bad(source)),
        }
    }

    fn bad(&self, source: postcard::Error) -> RecvError {
        RecvError::BadPayload { name: T::NAME, source }
    }

    /// Tells the queue what was consumed, takes what has arrived, and has the daemon send more.
    fn refill(&mut self) {
        let consumed = std::mem::take(&mut self.consumed);
        if let Some((epoch, total)) = self.queue.take(consumed, &mut self.batch) {
            self.handle.shared.grant(epoch, self.channel, total);
        }
    }
}

impl<T> Drop for Input<T> {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl<T: Message> fmt::Debug for Input<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Input({:?})", T::NAME)
    }
}

/// Messages that arrived and were not received yet, and the account of the window.
pub(super) struct Queue {
    window: u32,
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Default)]
struct State {
    /// The connection that the counts belong to.
    epoch: u64,
    messages: VecDeque<Bytes>,
    /// In `messages`, or taken and not reported as consumed.
    waiting: u32,
    /// Arrived on this connection.
    received: u64,
    /// Allowed on this connection.
    granted: u64,
    closed: bool,
}

impl Queue {
    pub(super) fn new(window: NonZeroU32) -> Self {
        Self { window: window.get(), state: Mutex::default(), arrived: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After how many consumed messages it is worth a grant.
    fn step(&self) -> u32 {
        (self.window / 2).max(1)
    }

    /// A connection begins: how many messages may come before the first grant. None if
    /// nobody receives any more.
    pub(super) fn begin(&self, epoch: u64) -> Option<u32> {
        let mut state = self.state();
        // Zero would mean no limit.
        let window = self.window.saturating_sub(state.waiting).max(1);
        state.epoch = epoch;
        state.received = 0;
        state.granted = window.into();
        (!state.closed).then_some(window)
    }

    /// Messages have arrived; empties `batch`. False if they are more than was allowed.
    pub(super) fn push(&self, batch: &mut Vec<Bytes>) -> bool {
        let mut state = self.state();
        let allowed = state.granted - state.received.min(state.granted);
        if batch.len() as u64 > allowed {
            return false;
        }
        state.received += batch.len() as u64;
        if state.closed {
            batch.clear();
            return true;
        }
        // At most the window, plus one after a reconnection.
        state.waiting += batch.len() as u32;
        state.messages.extend(batch.drain(..));
        drop(state);
        self.arrived.notify_one();
        true
    }

    /// Moves messages to the receiver, if it has none left, and says what to grant if it is
    /// time for that.
    fn take(&self, consumed: u32, batch: &mut VecDeque<Bytes>) -> Option<(u64, u64)> {
        let mut state = self.state();
        if batch.is_empty() {
            std::mem::swap(&mut state.messages, batch);
        }
        state.waiting = state.waiting.saturating_sub(consumed);
        let total = state.received + u64::from(self.window.saturating_sub(state.waiting));
        if total < state.granted + u64::from(self.step()) {
            return None;
        }
        state.granted = total;
        Some((state.epoch, total))
    }

    fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.messages.clear();
    }
}
