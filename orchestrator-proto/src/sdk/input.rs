//! Receiving messages.

mod arrivals;
mod envelope;
mod queue;
mod raw;
mod stream;

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::task::coop;

use super::form::{self, Read};
use super::{Handle, Message, RecvError};
use arrivals::{Arrivals, Known};

pub(super) use arrivals::{Arrived, Span, span};
pub use envelope::Envelope;
pub(super) use queue::{Due, Queue, TooMany, Way, When};
pub use raw::Raw;

/// Where messages of one type arrive.
///
/// It is a [`Stream`](futures_core::Stream) as well, which never ends.
///
/// The daemon sends no more than the window ahead of what was received here; what happens to
/// the rest is up to the link's policy. Messages are counted, not bytes: with a window of
/// 1,024 as many of 64 MiB may wait, so choose a smaller one for large messages.
///
/// When it is dropped, no more is taken from the daemon.
pub struct Input<T> {
    handle: Arc<Handle>,
    channel: u16,
    queue: Arc<Queue>,
    /// Taken from the queue, to be returned next.
    batch: Arrivals,
    /// Returned since the queue was told.
    consumed: u32,
    missed: u64,
    /// How a message is read, by the number of its form.
    reads: Vec<Read<T>>,
}

impl<T: Message> Input<T> {
    /// There is a way to read the form of the type itself, and one for each that it reads as well.
    pub(super) fn new(
        handle: Arc<Handle>,
        channel: u16,
        queue: Arc<Queue>,
        reads: Vec<Read<T>>,
    ) -> Self {
        let batch = Arrivals::default();
        Self { handle, channel, queue, batch, consumed: 0, missed: 0, reads }
    }

    /// Waits for the next message. While the connection is broken this just waits; it goes on
    /// after the reconnection. May be used in `select!`: a future that is dropped has taken
    /// nothing.
    ///
    /// # Errors
    ///
    /// [`RecvError::BadPayload`] for a message that is not a `T`. The next one is not affected.
    pub async fn recv(&mut self) -> Result<T, RecvError> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// As [`recv`](Self::recv), with what is known about the message: who sent it, how many before it
    /// were missed, when it arrived, and when it was sent, if its sender says so.
    ///
    /// ```no_run
    /// # use orchestrator_proto::sdk::{Input, Message, RecvError};
    /// # async fn example<Imu: Message>(imus: &mut Input<Imu>) -> Result<(), RecvError> {
    /// let imu = imus.recv_envelope().await?;
    /// if let Some(1..) = imu.missed {
    ///     eprintln!("{} readings were dropped before this one", imu.missed.unwrap_or_default());
    /// }
    /// let age = imu.arrived.elapsed();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`recv`](Self::recv).
    pub async fn recv_envelope(&mut self) -> Result<Envelope<T>, RecvError> {
        poll_fn(|cx| self.poll_recv_envelope(cx)).await
    }

    /// As [`recv_envelope`](Self::recv_envelope), without decoding the message: to pass it on as it is, to
    /// write it to a file, or to decode it elsewhere. Nothing is copied.
    ///
    /// A payload that is not a `T` is found out by [`Raw::decode`], and not here.
    pub async fn recv_raw(&mut self) -> Envelope<Raw<T>> {
        poll_fn(|cx| self.poll_recv_raw(cx)).await
    }

    /// The next message, if one has arrived.
    ///
    /// # Errors
    ///
    /// As for [`recv`](Self::recv).
    pub fn try_recv(&mut self) -> Result<Option<T>, RecvError> {
        self.pop(|reads, arrived, _| decode(reads, arrived)).transpose()
    }

    /// The same, with what is known about it; see [`recv_envelope`](Self::recv_envelope).
    ///
    /// # Errors
    ///
    /// As for [`recv`](Self::recv).
    pub fn try_recv_envelope(&mut self) -> Result<Option<Envelope<T>>, RecvError> {
        self.pop(enclose).transpose()
    }

    /// The same, without decoding it; see [`recv_raw`](Self::recv_raw).
    pub fn try_recv_raw(&mut self) -> Option<Envelope<Raw<T>>> {
        self.pop(|reads, arrived, known| Envelope::new(Raw::new(arrived, reads), known))
    }

    /// As [`recv`](Self::recv), for a future that is written by hand: if there is no message, the task of
    /// `cx` is woken when one arrives, and no other that was to be woken before.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, RecvError>> {
        self.poll_pop(cx, |reads, arrived, _| decode(reads, arrived))
    }

    /// As [`recv_envelope`](Self::recv_envelope), for a future that is written by hand; see
    /// [`poll_recv`](Self::poll_recv).
    pub fn poll_recv_envelope(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Envelope<T>, RecvError>> {
        self.poll_pop(cx, enclose)
    }

    /// As [`recv_raw`](Self::recv_raw), for a future that is written by hand; see
    /// [`poll_recv`](Self::poll_recv).
    pub fn poll_recv_raw(&mut self, cx: &mut Context<'_>) -> Poll<Envelope<Raw<T>>> {
        self.poll_pop(cx, |reads, arrived, known| Envelope::new(Raw::new(arrived, reads), known))
    }

    /// How many messages never came, in all, among those that were to come before what was received
    /// here: the sum of [`Envelope::missed`], also for messages that were received without their
    /// envelope or could not be decoded.
    #[must_use]
    pub const fn missed(&self) -> u64 {
        self.missed
    }

    fn poll_pop<R>(
        &mut self,
        cx: &mut Context<'_>,
        then: impl FnOnce(&[Read<T>], Arrived<'_>, Known) -> R,
    ) -> Poll<R> {
        let turn = ready!(coop::poll_proceed(cx));
        while !self.has_next() {
            if self.queue.wake_later(cx.waker()) {
                return Poll::Pending;
            }
        }
        turn.made_progress();
        self.take(then).map_or(Poll::Pending, Poll::Ready)
    }

    fn has_next(&mut self) -> bool {
        if self.batch.is_empty() || self.consumed >= self.queue.step() {
            self.refill();
        }
        !self.batch.is_empty()
    }

    /// Makes something of the next message, if there is one.
    fn pop<R>(&mut self, then: impl FnOnce(&[Read<T>], Arrived<'_>, Known) -> R) -> Option<R> {
        self.has_next().then(|| self.take(then)).flatten()
    }

    /// The same, if it was taken from the queue.
    fn take<R>(&mut self, then: impl FnOnce(&[Read<T>], Arrived<'_>, Known) -> R) -> Option<R> {
        let Self { batch, consumed, missed, reads, .. } = self;
        batch.pop(|arrived, known| {
            *consumed += 1;
            *missed += known.from.and_then(|from| from.missed).unwrap_or_default();
            then(reads, arrived, known)
        })
    }

    /// Tells the queue what was consumed, takes what has arrived, and has the daemon send more.
    fn refill(&mut self) {
        let consumed = std::mem::take(&mut self.consumed);
        for (way, when) in self.queue.take(consumed, &mut self.batch) {
            self.handle.shared.tell(self.channel, way, when);
        }
    }
}

fn enclose<T: Message>(
    reads: &[Read<T>],
    arrived: Arrived<'_>,
    known: Known,
) -> Result<Envelope<T>, RecvError> {
    decode(reads, arrived).map(|message| Envelope::new(message, known))
}

fn decode<T: Message>(reads: &[Read<T>], arrived: Arrived<'_>) -> Result<T, RecvError> {
    let form = arrived.form;
    let message = match reads.get(usize::from(form)) {
        // Its own form, as a rule: without a call through a pointer.
        Some(read) if form == 0 && read.is_plain() => form::decode(arrived.payload),
        Some(read) => read.message(arrived),
        // A form that was never declared: the daemon broke the protocol.
        None => Err(postcard::Error::DeserializeBadEncoding),
    };
    message.map_err(|source| RecvError::BadPayload { name: T::NAME, source })
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
