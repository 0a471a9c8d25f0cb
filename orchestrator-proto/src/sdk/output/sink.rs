//! An output as a sink, for the combinators of `futures`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_sink::Sink;
use tokio::sync::futures::OwnedNotified;
use tokio::task::coop;

use super::{BATCH, Buffers, Output};
use crate::sdk::link::{Offered, Shared};
use crate::sdk::{Message, SendError};

/// Messages that were fed to an output and not flushed: whole frames.
#[derive(Default)]
pub(super) struct Fed {
    buffers: Buffers,
    /// Where the first one begins that was not taken.
    at: usize,
    /// How many were not taken.
    count: u64,
    /// The connection to which the first ones of them were offered.
    connection: Option<u64>,
    /// Told when it is worth trying again.
    progress: Option<Pin<Box<OwnedNotified>>>,
}

impl Fed {
    fn clear(&mut self) {
        // Does not keep the memory of a huge message for ever.
        self.buffers.shrink();
        (self.at, self.count, self.connection, self.progress) = (0, 0, None, None);
    }

    /// Offers what was fed. True if nothing of it was taken. After an error nothing is left.
    fn offer(&mut self, shared: &Shared, channel: u16) -> Result<bool, SendError> {
        let frames = &self.buffers.frames[self.at..];
        let (connection, offered) = shared.offer(self.connection, channel, frames, self.count);
        self.connection = Some(self.connection.unwrap_or(connection));
        match offered {
            Offered::Taken { messages: 0, .. } | Offered::Waiting => Ok(true),
            Offered::Taken { bytes, messages } => {
                self.at += bytes;
                self.count -= messages;
                Ok(false)
            }
            Offered::Disconnected => {
                self.clear();
                Err(SendError::Disconnected)
            }
        }
    }

    /// Until all is taken.
    fn poll_flush(
        &mut self,
        shared: &Shared,
        channel: u16,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SendError>> {
        while self.count > 0 {
            if let Some(progress) = &mut self.progress {
                ready!(progress.as_mut().poll(cx));
                self.progress = None;
            }
            if !self.offer(shared, channel)? {
                continue;
            }
            // Looks again after it has begun to listen, so that no progress is missed.
            let mut progress = Box::pin(Arc::clone(&shared.progress).notified_owned());
            progress.as_mut().enable();
            if self.offer(shared, channel)? {
                self.progress = Some(progress);
            }
        }
        self.clear();
        Poll::Ready(Ok(()))
    }
}

/// What is fed is sent in batches: when it is flushed, or has 64 KiB. As many wait in this handle, and are
/// lost with it, and with an error: one that is flushed or closed is sent, as
/// [`send`](Output::send) says. What is sent by another way meanwhile, with another
/// clone or with `send`, goes before it. After an error the output can be used as before.
///
/// ```no_run
/// use futures_util::{SinkExt, StreamExt, stream};
/// # use orchestrator_proto::Message;
/// # use orchestrator_proto::sdk::{Runtime, Schema};
/// # use serde::{Deserialize, Serialize};
/// #[derive(Serialize, Deserialize, Schema, Message)]
/// # #[postcard(crate = orchestrator_proto::postcard_schema)]
/// #[message(name = "acme.tick.v1")]
/// struct Tick(u64);
///
/// # async fn example(runtime: Runtime) -> Result<(), Box<dyn std::error::Error>> {
/// let mut ticks = runtime.output::<Tick>()?;
/// ticks.feed(Tick(0)).await?;
/// ticks.feed(Tick(1)).await?;
/// SinkExt::flush(&mut ticks).await?;
/// stream::iter(2..1000).map(|n| Ok(Tick(n))).forward(ticks).await?;
/// # Ok(())
/// # }
/// ```
impl<T: Message> Sink<T> for Output<T> {
    type Error = SendError;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let turn = ready!(coop::poll_proceed(cx));
        let flushed = match self.fed.buffers.frames.len() < BATCH {
            true => Poll::Ready(Ok(())),
            false => self.as_mut().poll_flush(cx),
        };
        if flushed.is_ready() {
            turn.made_progress();
        }
        flushed
    }

    fn start_send(mut self: Pin<&mut Self>, message: T) -> Result<(), Self::Error> {
        let (channel, offers) = (self.channel, Arc::clone(&self.offers));
        self.fed.buffers.append(channel, &offers, &message)?;
        self.fed.count += 1;
        Ok(())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let Self { handle, channel, fed, .. } = &mut *self;
        fed.poll_flush(&handle.shared, channel.number, cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.poll_flush(cx)
    }
}
