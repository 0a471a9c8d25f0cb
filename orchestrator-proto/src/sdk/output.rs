//! Sending messages.

mod sink;

use std::fmt;
use std::marker::PhantomData;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use postcard::ser_flavors::Flavor;

use super::link::Offered;
use super::{Handle, Message, SendError};
use crate::frame::PREFIX;
use crate::runtime::MAX_PAYLOAD;
use sink::Fed;

/// [`send_many`](Output::send_many) writes whenever it has encoded so many bytes.
const BATCH: usize = 64 << 10;

/// The number of `Frame::Message` on the wire.
const MESSAGE_TAG: u8 = 4;

/// Where messages of one type leave this runtime. Clones share the output.
///
/// It is a [`Sink`](futures_sink::Sink) as well.
pub struct Output<T> {
    handle: Arc<Handle>,
    channel: u16,
    /// Kept from one message to the next, so that sending does not allocate.
    buffers: Mutex<Buffers>,
    fed: Fed,
    message: PhantomData<fn(&T)>,
}

#[derive(Default)]
struct Buffers {
    payload: Vec<u8>,
    frames: Vec<u8>,
}

impl<T: Message> Output<T> {
    pub(super) fn new(handle: Arc<Handle>, channel: u16) -> Self {
        let (buffers, fed) = (Mutex::default(), Fed::default());
        Self { handle, channel, buffers, fed, message: PhantomData }
    }

    /// Sends one message. When it returns, the message is with the kernel, unless the daemon
    /// is slower than this runtime; then up to 1 MiB of messages waits here.
    ///
    /// Waits while a link with the policy `block` has no room, but no longer than the link's block
    /// timeout, if it has one (then see [`dropped`](Self::dropped)), and while that 1 MiB is full.
    /// Where such a link takes the messages it also waits while there is no connection, and
    /// what was sent is sent again on the next one if it did not arrive: see
    /// [the module](super#when-the-daemon-goes-away). A future that is dropped while it waits has
    /// sent nothing.
    ///
    /// # Errors
    ///
    /// [`SendError::Disconnected`], where no such link takes the messages, at once while there is
    /// no connection, and when it breaks during the wait. A message that was taken before may be
    /// lost with its connection.
    /// [`SendError::TooLong`] or [`SendError::Encode`] for a value that can't be sent.
    pub async fn send(&self, message: &T) -> Result<(), SendError> {
        tokio::task::coop::consume_budget().await;
        let mut buffers = self.take_buffers();
        let sent = match buffers.append(self.channel, message) {
            Ok(()) => self.write(&buffers.frames, 1).await,
            Err(error) => Err(error),
        };
        self.keep_buffers(buffers);
        sent
    }

    /// Sends one message if that is possible without waiting.
    ///
    /// # Errors
    ///
    /// [`SendError::Disconnected`] while there is no connection, [`SendError::Full`] where
    /// [`send`](Self::send) would wait for something else; the rest as for that.
    pub fn try_send(&self, message: &T) -> Result<(), SendError> {
        let mut buffers = self.take_buffers();
        buffers.append(self.channel, message)?;
        let (_, offered) = self.handle.shared.offer(None, self.channel, &buffers.frames, 1);
        self.keep_buffers(buffers);
        match offered {
            Offered::Taken { messages: 1.., .. } => Ok(()),
            Offered::Taken { .. } => Err(SendError::Full),
            Offered::Waiting | Offered::Disconnected => Err(SendError::Disconnected),
        }
    }

    /// How many messages of this output were dropped because a link with a block timeout had no
    /// room for longer than that, as far as the daemon has told; one that several links dropped
    /// counts for each. What links drop under other policies is not told, see `link list`.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.handle.shared.dropped(self.channel)
    }

    /// Sends many messages, with few system calls: the way for bursts. Returns how many.
    ///
    /// A future that is dropped while it waits has sent some of them.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send), with the first message that fails; those before it are
    /// sent if the connection stands.
    pub async fn send_many<'m, I>(&self, messages: I) -> Result<u64, SendError>
    where
        I: IntoIterator<Item = &'m T>,
    {
        let mut buffers = self.take_buffers();
        let mut total = 0;
        let mut count = 0;
        let mut failed = None;
        for message in messages {
            if let Err(error) = buffers.append(self.channel, message) {
                failed = Some(error);
                break;
            }
            count += 1;
            if buffers.frames.len() >= BATCH {
                tokio::task::coop::consume_budget().await;
                self.write(&buffers.frames, count).await?;
                total += count;
                count = 0;
                buffers.frames.clear();
            }
        }
        if count > 0 {
            self.write(&buffers.frames, count).await?;
            total += count;
        }
        self.keep_buffers(buffers);
        failed.map_or(Ok(total), Err)
    }

    /// Hands so many whole frames to the connection.
    async fn write(&self, frames: &[u8], count: u64) -> Result<(), SendError> {
        let shared = &self.handle.shared;
        let mut rest = (frames, count);
        let (connection, mut offered) = shared.offer(None, self.channel, rest.0, rest.1);
        loop {
            match offered {
                Offered::Disconnected => return Err(SendError::Disconnected),
                Offered::Taken { bytes, messages } => {
                    rest = (&rest.0[bytes..], rest.1 - messages);
                }
                Offered::Waiting => {}
            }
            if rest.1 == 0 {
                return Ok(());
            }
            // Looks again after it has begun to listen, so that no progress is missed.
            let mut progress = pin!(shared.progress.notified());
            progress.as_mut().enable();
            (_, offered) = shared.offer(Some(connection), self.channel, rest.0, rest.1);
            if let Offered::Taken { messages: 0, .. } | Offered::Waiting = offered {
                progress.await;
            }
        }
    }

    /// Taken out rather than locked: encoding runs foreign code, and sending waits.
    fn take_buffers(&self) -> Buffers {
        let mut kept = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *kept)
    }

    fn keep_buffers(&self, mut buffers: Buffers) {
        buffers.shrink();
        *self.buffers.lock().unwrap_or_else(PoisonError::into_inner) = buffers;
    }
}

impl<T> Clone for Output<T> {
    fn clone(&self) -> Self {
        let (buffers, fed) = (Mutex::default(), Fed::default());
        let handle = Arc::clone(&self.handle);
        Self { handle, channel: self.channel, buffers, fed, message: PhantomData }
    }
}

impl<T: Message> fmt::Debug for Output<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Output({:?})", T::NAME)
    }
}

impl Buffers {
    /// Empties it, and does not keep the memory of a huge message for ever.
    fn shrink(&mut self) {
        for buffer in [&mut self.payload, &mut self.frames] {
            match buffer.capacity() <= 4 * BATCH {
                true => buffer.clear(),
                false => *buffer = Vec::new(),
            }
        }
    }

    /// Appends one message as a frame; leaves `frames` as it was on an error.
    fn append<T: Message>(&mut self, channel: u16, message: &T) -> Result<(), SendError> {
        self.payload.clear();
        postcard::serialize_with_flavor(message, Appender(&mut self.payload)).map_err(|error| {
            match error {
                postcard::Error::SerializeBufferFull => SendError::TooLong,
                other => SendError::Encode(other),
            }
        })?;
        append_message(&mut self.frames, channel, &self.payload);
        Ok(())
    }
}

/// Appends `Frame::Message` as a frame: what `frame::append` would write, in one go.
fn append_message(frames: &mut Vec<u8>, channel: u16, payload: &[u8]) {
    let mut head = [0; PREFIX + 9];
    let mut end = PREFIX;
    head[end] = MESSAGE_TAG;
    end += 1;
    for mut number in [u32::from(channel), payload.len() as u32] {
        while number > 0x7f {
            head[end] = number as u8 | 0x80;
            number >>= 7;
            end += 1;
        }
        head[end] = number as u8;
        end += 1;
    }
    let body = (end - PREFIX + payload.len()) as u32;
    head[..PREFIX].copy_from_slice(&body.to_le_bytes());
    frames.extend_from_slice(&head[..end]);
    frames.extend_from_slice(payload);
}

/// Lets postcard append to a vector, up to the largest payload.
struct Appender<'a>(&'a mut Vec<u8>);

impl Flavor for Appender<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.try_extend(&[byte])
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        if self.0.len() + bytes.len() > MAX_PAYLOAD {
            return Err(postcard::Error::SerializeBufferFull);
        }
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame;
    use crate::runtime::Frame;

    #[test]
    fn messages_are_framed_as_everything_else() {
        for channel in [0, 127, 128, 1023] {
            for length in [0, 1, 127, 128, 20_000, 300_000] {
                let payload = vec![7; length];
                let mut ours = vec![1];
                append_message(&mut ours, channel, &payload);
                let frame = Frame::Message { channel, payload: &payload };
                let theirs = frame::encode(&frame, frame::MAX_RUNTIME).unwrap();
                assert_eq!(ours[1..], theirs);
            }
        }
        let mut largest = Vec::new();
        append_message(&mut largest, 1023, &vec![0; MAX_PAYLOAD]);
        assert!(largest.len() - PREFIX <= frame::MAX_RUNTIME);
    }
}
