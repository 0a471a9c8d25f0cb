//! Receiving messages.

use std::collections::VecDeque;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::form::Decode;
use super::seen::Seen;
use super::{Handle, Message, RecvError};
use crate::runtime::Sender;

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
    batch: VecDeque<Arrived>,
    /// Returned since the queue was told.
    consumed: u32,
    /// How a message is read, by the number of its form.
    decode: Vec<Decode<T>>,
}

impl<T: Message> Input<T> {
    /// There is a way to read the form of the type itself, and one for each that it reads as well.
    pub(super) fn new(
        handle: Arc<Handle>,
        channel: u16,
        queue: Arc<Queue>,
        decode: Vec<Decode<T>>,
    ) -> Self {
        Self { handle, channel, queue, batch: VecDeque::new(), consumed: 0, decode }
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
        let Some(Arrived { payload, form }) = self.batch.pop_front() else {
            return Ok(None);
        };
        self.consumed += 1;
        let Some(decode) = self.decode.get(usize::from(form)) else {
            // A form that was never declared: the daemon broke the protocol.
            return Err(self.bad(postcard::Error::DeserializeBadEncoding));
        };
        decode(&payload).map(Some).map_err(|source| self.bad(source))
    }

    fn bad(&self, source: postcard::Error) -> RecvError {
        RecvError::BadPayload { name: T::NAME, source }
    }

    /// Tells the queue what was consumed, takes what has arrived, and has the daemon send more.
    fn refill(&mut self) {
        let consumed = std::mem::take(&mut self.consumed);
        let due = self.queue.take(consumed, &mut self.batch);
        self.handle.shared.tell(self.channel, due);
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

/// Messages that arrived and were not received yet, the account of the window, and what the
/// daemon is told.
pub(super) struct Queue {
    window: u32,
    state: Mutex<State>,
    arrived: Notify,
}

/// A message as it came.
struct Arrived {
    payload: Bytes,
    /// See [`Frame::Form`](crate::runtime::Frame).
    form: u8,
}

#[derive(Default)]
struct State {
    /// The connection that the counts belong to.
    connection: u64,
    /// The form of what comes next on it.
    form: u8,
    messages: VecDeque<Arrived>,
    /// In `messages`, or taken and not reported as consumed.
    waiting: u32,
    /// The first so many of those came over earlier connections.
    carried: u32,
    /// Arrived on this connection, also those that were there before.
    received: u64,
    /// Allowed on this connection.
    granted: u64,
    /// Acknowledged on this connection.
    acknowledged: u64,
    /// Came again while others waited: they are acknowledged when none waits any more, because
    /// acknowledgements count from the beginning.
    late: u64,
    /// Whether the daemon keeps any on this connection: else nobody wants acknowledgements.
    kept: bool,
    seen: Seen,
    closed: bool,
}

/// What the daemon is to be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Due {
    /// On this connection only.
    pub(super) connection: u64,
    pub(super) grant: u64,
    pub(super) acknowledge: Option<u64>,
}

/// When it is to be told.
pub(super) enum When {
    Never,
    /// There is something to acknowledge, for which it is not worth writing at once.
    Soon,
    Now(Due),
}

/// More messages came than were allowed.
#[derive(Debug)]
pub(super) struct TooMany;

impl State {
    /// Messages of this connection, counted from its beginning, that are never needed again: the
    /// program has come back for more after it had them, or they were there before.
    fn done(&self) -> u64 {
        self.received - u64::from(self.waiting - self.carried) - self.late
    }

    fn consume(&mut self, consumed: u32) {
        self.waiting = self.waiting.saturating_sub(consumed);
        self.carried = self.carried.saturating_sub(consumed);
        if self.waiting == 0 {
            self.late = 0;
        }
    }

    fn acknowledge(&mut self) -> Option<u64> {
        let done = self.done();
        let news = self.kept && done > self.acknowledged;
        news.then(|| {
            self.acknowledged = done;
            done
        })
    }

    /// What to tell the daemon, if it is time for that: when so many more may come than it
    /// knows.
    fn due(&mut self, window: u32, step: u32) -> When {
        let grant = self.received + u64::from(window.saturating_sub(self.waiting));
        if grant >= self.granted + u64::from(step) {
            self.granted = grant;
            let acknowledge = self.acknowledge();
            When::Now(Due { connection: self.connection, grant, acknowledge })
        } else if self.kept && self.done() > self.acknowledged {
            When::Soon
        } else {
            When::Never
        }
    }
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
    pub(super) fn begin(&self, connection: u64) -> Option<u32> {
        let mut state = self.state();
        // Zero would mean no limit.
        let window = self.window.saturating_sub(state.waiting).max(1);
        state.connection = connection;
        state.granted = window.into();
        state.carried = state.waiting;
        (state.received, state.acknowledged, state.late) = (0, 0, 0);
        state.kept = false;
        state.form = 0;
        state.seen.turn_to(None, 0);
        (!state.closed).then_some(window)
    }

    /// Each sender of whom something arrived, and the number that comes next.
    pub(super) fn places(&self) -> Vec<(Sender, u64)> {
        self.state().seen.places()
    }

    /// The messages that follow are from this sender, numbered from `next` on, and the daemon may
    /// keep them until they are acknowledged.
    pub(super) fn run(&self, sender: Option<Sender>, next: u64, kept: bool) {
        let mut state = self.state();
        state.seen.turn_to(sender, next);
        state.kept |= kept;
    }

    /// The messages that follow are in this form.
    pub(super) fn form(&self, form: u8) {
        self.state().form = form;
    }

    /// So many numbers are left out. False if there are no numbers.
    pub(super) fn skip(&self, count: u64) -> bool {
        self.state().seen.skip(count)
    }

    /// Messages have arrived; empties `batch`. The daemon may have to be told that they were
    /// nothing new.
    ///
    /// # Errors
    ///
    /// When they are more than was allowed.
    pub(super) fn push(&self, batch: &mut Vec<Bytes>) -> Result<When, TooMany> {
        let mut state = self.state();
        let count = batch.len() as u64;
        if count > state.granted - state.received.min(state.granted) {
            return Err(TooMany);
        }
        state.received += count;
        let new = count - state.seen.arrived(count);
        if new < count {
            batch.drain(..(count - new) as usize);
            if state.waiting > 0 {
                state.late += count - new;
            }
        }
        // At most the window, plus one after a reconnection.
        state.waiting += new as u32;
        if state.closed {
            // Never consumed, so never acknowledged.
            batch.clear();
            return Ok(When::Never);
        }
        let form = state.form;
        state.messages.extend(batch.drain(..).map(|payload| Arrived { payload, form }));
        if new > 0 {
            drop(state);
            // Who takes them tells the daemon.
            self.arrived.notify_one();
            return Ok(When::Never);
        }
        Ok(state.due(self.window, self.step()))
    }

    /// Moves messages to the receiver, if it has none left, and says what to tell the daemon.
    fn take(&self, consumed: u32, batch: &mut VecDeque<Arrived>) -> When {
        let mut state = self.state();
        if batch.is_empty() {
            std::mem::swap(&mut state.messages, batch);
        }
        state.consume(consumed);
        state.due(self.window, self.step())
    }

    /// What to acknowledge on this connection, if there is anything new.
    pub(super) fn acknowledge(&self) -> Option<u64> {
        self.state().acknowledge()
    }

    fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.messages.clear();
    }
}
