//! Receiving messages.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::background::{Background, Unmet, after};
use super::error::{Error, flatten};
use crate::sdk::{self, Envelope, Message, Raw, RecvError};

/// Where messages of one type arrive: [`sdk::Input`], for threads that wait.
///
/// It is an iterator over all messages, which ends when the runtime is [closed](super::Runtime::close):
///
/// ```no_run
/// # use orchestrator_proto::sdk::{Message, RecvError, blocking::Input};
/// # fn example<Imu: Message>(imus: Input<Imu>) {
/// for imu in imus {
///     match imu {
///         Ok(imu) => { /* … */ }
///         // That one is lost, and no other.
///         Err(error) => eprintln!("{error}"),
///     }
/// }
/// # }
/// ```
///
/// Several threads may take turns at one behind a `Mutex`.
pub struct Input<T> {
    inner: sdk::Input<T>,
    // Behind what runs on it.
    background: Arc<Background>,
}

impl<T: Message> Input<T> {
    pub(super) fn new(inner: sdk::Input<T>, background: Arc<Background>) -> Self {
        Self { inner, background }
    }

    fn wait<R>(
        &mut self,
        until: Option<Instant>,
        poll: fn(&mut sdk::Input<T>, &mut Context<'_>) -> Poll<R>,
    ) -> Result<R, Unmet> {
        if self.background.is_closed() {
            return Err(Unmet::Closed);
        }
        self.background.wait(until, |cx| poll(&mut self.inner, cx))
    }

    /// Waits for the next message, also while there is no connection.
    ///
    /// # Errors
    ///
    /// [`RecvError::BadPayload`] for a message that is not a `T`; the next one is not affected.
    /// [`Error::Closed`] once the runtime is closed, also if there are messages.
    pub fn recv(&mut self) -> Result<T, Error<RecvError>> {
        flatten(self.wait(None, sdk::Input::poll_recv))
    }

    /// The same, no longer than so.
    ///
    /// # Errors
    ///
    /// As for [`recv`](Self::recv); [`Error::TimedOut`] if none came in time. Nothing is lost by that.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<T, Error<RecvError>> {
        flatten(self.wait(after(timeout), sdk::Input::poll_recv))
    }

    /// The next message, if one has arrived, also when the runtime is closed.
    ///
    /// # Errors
    ///
    /// [`RecvError::BadPayload`], as for [`recv`](Self::recv).
    pub fn try_recv(&mut self) -> Result<Option<T>, RecvError> {
        self.inner.try_recv()
    }

    /// As [`recv`](Self::recv), with [what is known](Envelope) about the message.
    ///
    /// # Errors
    ///
    /// As for [`recv`](Self::recv).
    pub fn recv_envelope(&mut self) -> Result<Envelope<T>, Error<RecvError>> {
        flatten(self.wait(None, sdk::Input::poll_recv_envelope))
    }

    /// The same, no longer than so.
    ///
    /// # Errors
    ///
    /// As for [`recv_timeout`](Self::recv_timeout).
    pub fn recv_envelope_timeout(
        &mut self,
        timeout: Duration,
    ) -> Result<Envelope<T>, Error<RecvError>> {
        flatten(self.wait(after(timeout), sdk::Input::poll_recv_envelope))
    }

    /// As [`try_recv`](Self::try_recv), with [what is known](Envelope) about the message.
    ///
    /// # Errors
    ///
    /// As for [`try_recv`](Self::try_recv).
    pub fn try_recv_envelope(&mut self) -> Result<Option<Envelope<T>>, RecvError> {
        self.inner.try_recv_envelope()
    }

    /// As [`recv_envelope`](Self::recv_envelope), without decoding the message.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`], as for [`recv`](Self::recv).
    pub fn recv_raw(&mut self) -> Result<Envelope<Raw<T>>, Error<Infallible>> {
        Ok(self.wait(None, sdk::Input::poll_recv_raw)?)
    }

    /// The same, no longer than so.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] and [`Error::TimedOut`], as for [`recv_timeout`](Self::recv_timeout).
    pub fn recv_raw_timeout(
        &mut self,
        timeout: Duration,
    ) -> Result<Envelope<Raw<T>>, Error<Infallible>> {
        Ok(self.wait(after(timeout), sdk::Input::poll_recv_raw)?)
    }

    /// As [`try_recv_envelope`](Self::try_recv_envelope), without decoding the message.
    pub fn try_recv_raw(&mut self) -> Option<Envelope<Raw<T>>> {
        self.inner.try_recv_raw()
    }

    /// How many messages never came, see [`sdk::Input::missed`].
    #[must_use]
    pub const fn missed(&self) -> u64 {
        self.inner.missed()
    }
}

/// Each message as [`recv`](Input::recv) gives it, until the runtime is closed.
impl<T: Message> Iterator for Input<T> {
    type Item = Result<T, RecvError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.recv() {
            Ok(message) => Some(Ok(message)),
            Err(Error::Failed(error)) => Some(Err(error)),
            Err(Error::Closed | Error::TimedOut) => None,
        }
    }
}

impl<T: Message> fmt::Debug for Input<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}
