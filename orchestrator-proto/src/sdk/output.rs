//! Sending messages.

mod sink;

use std::fmt;
use std::marker::PhantomData;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use postcard::ser_flavors::Flavor;

use super::form::{self, Offer};
use super::link::Offered;
use super::{Handle, Message, SendError};
use crate::runtime::MAX_PAYLOAD;
use crate::runtime::message::head;
use sink::Fed;

/// [`send_many`](Output::send_many) writes whenever it has encoded so many bytes.
const BATCH: usize = 64 << 10;

/// Where messages of one type leave this runtime. Clones share the output.
///
/// It is a [`Sink`](futures_sink::Sink) as well.
pub struct Output<T> {
    handle: Arc<Handle>,
    channel: Channel,
    /// Forms in which each message is written as well.
    offers: Arc<[Offer<T>]>,
    /// Kept from one message to the next, so that sending does not allocate.
    buffers: Mutex<Buffers>,
    fed: Fed,
    message: PhantomData<fn(&T)>,
}

/// Its number, and whether each message says when it was sent.
#[derive(Clone, Copy)]
struct Channel {
    number: u16,
    is_stamped: bool,
}

#[derive(Default)]
struct Buffers {
    /// Whole frames, back to back.
    frames: Vec<u8>,
    /// How long the head of the last one was.
    head: usize,
    /// One part of the last one, of those that have several.
    part: Vec<u8>,
}

impl<T: Message> Output<T> {
    pub(super) fn new(
        handle: Arc<Handle>,
        channel: u16,
        is_stamped: bool,
        offers: Vec<Offer<T>>,
    ) -> Self {
        let channel = Channel { number: channel, is_stamped };
        let (buffers, fed) = (Mutex::default(), Fed::default());
        Self { handle, channel, offers: offers.into(), buffers, fed, message: PhantomData }
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
        let sent = match buffers.append(self.channel, &self.offers, message) {
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
        buffers.append(self.channel, &self.offers, message)?;
        let (_, offered) = self.handle.shared.offer(None, self.channel.number, &buffers.frames, 1);
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
        self.handle.shared.dropped(self.channel.number)
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
            if let Err(error) = buffers.append(self.channel, &self.offers, message) {
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
        let (connection, mut offered) = shared.offer(None, self.channel.number, rest.0, rest.1);
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
            (_, offered) = shared.offer(Some(connection), self.channel.number, rest.0, rest.1);
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
        let offers = Arc::clone(&self.offers);
        Self { handle, channel: self.channel, offers, buffers, fed, message: PhantomData }
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
        match self.frames.capacity() <= 4 * BATCH {
            true => self.frames.clear(),
            false => self.frames = Vec::new(),
        }
    }

    /// Appends one message as a frame; leaves `frames` as it was on an error.
    fn append<T: Message>(
        &mut self,
        channel: Channel,
        offers: &[Offer<T>],
        message: &T,
    ) -> Result<(), SendError> {
        let Channel { number, is_stamped } = channel;
        let start = self.frames.len();
        // How long the head is depends on how long the payload is, which is written behind it. As a
        // rule that is as with the message before, and else the payload is moved.
        let payload = start + self.head;
        self.frames.resize(payload, 0);
        let written = match offers.is_empty() {
            true => {
                let appender = Appender { out: &mut self.frames, most: payload + MAX_PAYLOAD };
                postcard::serialize_with_flavor(message, appender)
            }
            false => self.append_parts(payload + MAX_PAYLOAD, offers, message),
        };
        if let Err(error) = written {
            self.frames.truncate(start);
            return Err(match error {
                postcard::Error::SerializeBufferFull => SendError::TooLong,
                other => SendError::Encode(other),
            });
        }
        if is_stamped {
            self.frames.extend_from_slice(&now_ns().to_le_bytes());
        }
        let (head, length) = head(number, self.frames.len() - payload);
        let head = &head[..length];
        if length == self.head {
            self.frames[start..payload].copy_from_slice(head);
        } else {
            self.frames.splice(start..payload, head.iter().copied());
            self.head = length;
        }
        Ok(())
    }
}

impl Buffers {
    /// A part for each form, up to so many bytes.
    fn append_parts<T: Message>(
        &mut self,
        most: usize,
        offers: &[Offer<T>],
        message: &T,
    ) -> postcard::Result<()> {
        let mut part = std::mem::take(&mut self.part);
        for form in std::iter::once(None).chain(offers.iter().map(Some)) {
            part.clear();
            match form {
                None => form::append(message, &mut part)?,
                Some(offer) => offer.encode(message, &mut part)?,
            }
            let appender = Appender { out: &mut self.frames, most };
            postcard::serialize_with_flavor(serde_bytes::Bytes::new(&part), appender)?;
        }
        part.shrink_to(BATCH);
        self.part = part;
        Ok(())
    }
}

/// Nanoseconds since 1970 (UTC).
fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Lets postcard append to a vector, until that has so many bytes.
struct Appender<'a> {
    out: &'a mut Vec<u8>,
    most: usize,
}

impl Flavor for Appender<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.try_extend(&[byte])
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        if self.out.len() + bytes.len() > self.most {
            return Err(postcard::Error::SerializeBufferFull);
        }
        self.out.extend_from_slice(bytes);
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
    use proptest::prelude::*;
    use serde::ser::SerializeTuple;

    #[derive(serde::Serialize, serde::Deserialize, postcard_schema::Schema, Message)]
    #[message(name = "test.bytes")]
    struct Bytes(#[serde(with = "serde_bytes")] Vec<u8>);

    #[derive(serde::Deserialize, postcard_schema::Schema, Message)]
    #[message(name = "test.never")]
    struct Never;

    impl serde::Serialize for Never {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut tuple = serializer.serialize_tuple(2)?;
            tuple.serialize_element(&7)?;
            Err(serde::ser::Error::custom("no"))
        }
    }

    fn plain(number: u16) -> Channel {
        Channel { number, is_stamped: false }
    }

    fn frame_of(channel: u16, Bytes(bytes): &Bytes) -> Vec<u8> {
        let payload = &postcard::to_stdvec(bytes).unwrap();
        frame::encode(&Frame::Message { channel, payload }, frame::MAX_RUNTIME).unwrap()
    }

    proptest! {
        #[test]
        fn messages_are_framed_as_everything_else(
            channel in prop_oneof![0..300_u16, Just(1023)],
            sizes in prop::collection::vec(prop_oneof![0..300_usize, 16_000..17_000_usize], 0..20),
        ) {
            let (mut buffers, mut expected) = (Buffers::default(), Vec::new());
            for (at, size) in sizes.into_iter().enumerate() {
                let message = Bytes(vec![at as u8; size]);
                buffers.append(plain(channel), &[], &message).unwrap();
                expected.extend(frame_of(channel, &message));
                // What fails leaves nothing behind.
                prop_assert!(matches!(buffers.append(plain(channel), &[], &Never), Err(SendError::Encode(_))));
            }
            prop_assert!(buffers.frames == expected);
        }
    }

    #[test]
    fn the_largest_message_fits_a_frame_and_a_larger_one_is_refused() {
        let mut buffers = Buffers::default();
        let largest = Bytes(vec![1; MAX_PAYLOAD - 4]);
        buffers.append(plain(1023), &[], &largest).unwrap();
        assert!(buffers.frames == frame_of(1023, &largest));
        assert!(frame::first_body(&buffers.frames, frame::MAX_RUNTIME).unwrap().is_some());
        let before = buffers.frames.len();
        let larger = Bytes(vec![1; MAX_PAYLOAD - 3]);
        assert!(matches!(buffers.append(plain(1023), &[], &larger), Err(SendError::TooLong)));
        assert_eq!(buffers.frames.len(), before);
        buffers.shrink();
        assert_eq!(buffers.frames.capacity(), 0, "a huge message's memory is not kept");
    }
}
