//! Sending messages.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::background::{Background, after};
use super::error::{Error, flatten};
use crate::sdk::{self, Message, SendError};

/// Where messages of one type leave this runtime: [`sdk::Output`], for threads that wait. Any number
/// of threads may send over one, or over its clones. What a thread sends, it writes to the kernel
/// itself.
pub struct Output<T> {
    inner: sdk::Output<T>,
    // Behind what runs on it.
    background: Arc<Background>,
}

impl<T: Message> Output<T> {
    pub(super) fn new(inner: sdk::Output<T>, background: Arc<Background>) -> Self {
        Self { inner, background }
    }

    /// Sends one message, and waits where [`sdk::Output::send`] would: as a rule it does not.
    ///
    /// # Errors
    ///
    /// As for [`sdk::Output::send`]. [`Error::Closed`] if it would have to wait and the runtime is closed;
    /// it is not sent then.
    pub fn send(&self, message: &T) -> Result<(), Error<SendError>> {
        flatten(self.background.block_on(None, self.inner.send(message)))
    }

    /// The same, but waits no longer than so.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send); [`Error::TimedOut`] if there was no room in time. It is not sent then.
    pub fn send_timeout(&self, message: &T, timeout: Duration) -> Result<(), Error<SendError>> {
        flatten(self.background.block_on(after(timeout), self.inner.send(message)))
    }

    /// Sends one message if that is possible without waiting.
    ///
    /// # Errors
    ///
    /// As for [`sdk::Output::try_send`].
    pub fn try_send(&self, message: &T) -> Result<(), SendError> {
        self.inner.try_send(message)
    }

    /// Sends many messages, with few system calls. Returns how many.
    ///
    /// # Errors
    ///
    /// As for [`sdk::Output::send_many`]. [`Error::Closed`] if it would have to wait and the runtime is
    /// closed; some of them are sent then.
    pub fn send_many<'m, I>(&self, messages: I) -> Result<u64, Error<SendError>>
    where
        I: IntoIterator<Item = &'m T>,
    {
        flatten(self.background.block_on(None, self.inner.send_many(messages)))
    }

    /// How many messages were dropped because of a block timeout, see [`sdk::Output::dropped`].
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.inner.dropped()
    }
}

impl<T> Clone for Output<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), background: Arc::clone(&self.background) }
    }
}

impl<T: Message> fmt::Debug for Output<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}
