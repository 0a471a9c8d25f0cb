//! A message that was not decoded.

use std::fmt;

use bytes::Bytes;

use super::arrivals::Arrived;
use crate::sdk::form::Read;
use crate::sdk::{Message, RecvError};

/// A message of type `T` as it came: from [`Input::recv_raw`](super::Input::recv_raw).
pub struct Raw<T> {
    payload: Bytes,
    form: u8,
    read: Option<Read<T>>,
}

impl<T: Message> Raw<T> {
    pub(super) fn new(arrived: Arrived<'_>, reads: &[Read<T>]) -> Self {
        let form = arrived.form;
        Self { payload: arrived.to_bytes(), form, read: reads.get(usize::from(form)).copied() }
    }

    /// The value in postcard. It shares the memory that it was read into, with others that came
    /// together with it: 64 KiB as a rule, which are freed with the last of them.
    #[must_use]
    pub const fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// The same.
    #[must_use]
    pub fn into_payload(self) -> Bytes {
        self.payload
    }

    /// In which form it is written: 0 is that of the type itself, 1 the first of those that
    /// it [reads](Message::reads), and so on.
    #[must_use]
    pub const fn form(&self) -> usize {
        self.form as usize
    }

    /// The message. Where there are [`Blob`](crate::sdk::Blob)s in it, they share its memory.
    ///
    /// # Errors
    ///
    /// [`RecvError::BadPayload`] if it is not a `T`.
    pub fn decode(&self) -> Result<T, RecvError> {
        let message = match &self.read {
            Some(read) => read.message(Arrived::whole(&self.payload, self.form)),
            // A form that was never declared: the daemon broke the protocol.
            None => Err(postcard::Error::DeserializeBadEncoding),
        };
        message.map_err(|source| RecvError::BadPayload { name: T::NAME, source })
    }
}

impl<T> Clone for Raw<T> {
    fn clone(&self) -> Self {
        Self { payload: self.payload.clone(), form: self.form, read: self.read }
    }
}

impl<T: Message> fmt::Debug for Raw<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Raw({:?}, {} bytes)", T::NAME, self.payload.len())
    }
}
