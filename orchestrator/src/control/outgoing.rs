//! What waits for one client: frames, bounded by their number and by their bytes.

use orchestrator_proto::control::{Item, ServerBody, ServerFrame};
use orchestrator_proto::frame::{self, MAX_CONTROL};
use orchestrator_proto::{ErrorCode, WireError};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::client_gone;

/// Frames that may wait for one client. What produces more waits.
const MAX_FRAMES: usize = 32;

/// Bytes of these, or of one that has more: 64 MiB.
const MAX_BYTES: usize = 64 << 20;

/// A frame, and the room that it takes.
type Queued = (Vec<u8>, OwnedSemaphorePermit);

/// Where the frames for a client go. Waits while there is no room.
#[derive(Clone)]
pub(super) struct Outgoing {
    frames: mpsc::Sender<Queued>,
    room: Arc<Semaphore>,
}

/// Where they are taken to be written.
pub(super) struct Frames {
    frames: mpsc::Receiver<Queued>,
    /// Taken out and not written.
    taken: Vec<Queued>,
}

pub(super) fn channel() -> (Outgoing, Frames) {
    let (sender, frames) = mpsc::channel(MAX_FRAMES);
    let outgoing = Outgoing { frames: sender, room: Arc::new(Semaphore::new(MAX_BYTES)) };
    (outgoing, Frames { frames, taken: Vec::new() })
}

/// The client is gone.
pub(super) struct Gone;

impl Outgoing {
    pub(super) async fn send(&self, id: u64, body: ServerBody) -> Result<(), Gone> {
        let frame = encode(id, body);
        let room = self.room(&frame).await?;
        self.frames.send((frame, room)).await.map_err(|_| Gone)
    }

    /// Sends the last frame of a request; `done` is told when there is room for it, before it can be
    /// seen, or when there will be none.
    pub(super) async fn last(&self, id: u64, body: ServerBody, done: impl FnOnce()) {
        let frame = encode(id, body);
        let room = self.room(&frame).await;
        let place = self.frames.reserve().await;
        done();
        if let (Ok(room), Ok(place)) = (room, place) {
            place.send((frame, room));
        }
    }

    async fn room(&self, frame: &[u8]) -> Result<OwnedSemaphorePermit, Gone> {
        let size = u32::try_from(frame.len().min(MAX_BYTES)).unwrap_or(u32::MAX);
        tokio::select! {
            room = self.room.clone().acquire_many_owned(size) => room.map_err(|_| Gone),
            () = self.frames.closed() => Err(Gone),
        }
    }
}

impl Frames {
    /// The bytes of all that waits, behind those that are there; waits for the first. Their room is
    /// taken as long as the answer is kept. None when no more will come.
    pub(super) async fn next(&mut self, bytes: &mut Vec<u8>) -> Option<Vec<OwnedSemaphorePermit>> {
        if self.frames.recv_many(&mut self.taken, MAX_FRAMES).await == 0 {
            return None;
        }
        let taken = self.taken.drain(..).map(|(frame, room)| {
            match bytes.is_empty() {
                // A long one comes alone, mostly.
                true => *bytes = frame,
                false => bytes.extend_from_slice(&frame),
            }
            room
        });
        Some(taken.collect())
    }
}

/// Where the items of a stream go.
pub(super) struct Items {
    id: u64,
    outgoing: Outgoing,
}

impl Items {
    pub(super) const fn new(id: u64, outgoing: Outgoing) -> Self {
        Self { id, outgoing }
    }

    /// Sends an item; waits while the client is slow.
    ///
    /// # Errors
    ///
    /// When the client is gone.
    pub(super) async fn send(&self, item: Item) -> Result<(), WireError> {
        self.outgoing.send(self.id, ServerBody::Item(item)).await.map_err(|Gone| client_gone())
    }
}

fn encode(id: u64, body: ServerBody) -> Vec<u8> {
    let frame = frame::encode(&ServerFrame { id, body }, MAX_CONTROL).or_else(|error| {
        tracing::error!(%error, "a reply could not be encoded");
        let message = format!("the reply can't be sent: {error}");
        let body = ServerBody::Error(WireError::new(ErrorCode::Internal, message));
        frame::encode(&ServerFrame { id, body }, MAX_CONTROL)
    });
    frame.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::polled::waits;

    #[tokio::test]
    async fn who_does_not_read_is_not_owed_more_than_its_bound() {
        let (outgoing, mut frames) = channel();
        let long = || ServerBody::Error(WireError::new(ErrorCode::Internal, "x".repeat(40 << 20)));
        assert!(outgoing.send(1, long()).await.is_ok());
        let second = async { assert!(outgoing.send(2, long()).await.is_ok()) };
        tokio::pin!(second);
        assert!(waits(second.as_mut()).await, "80 MiB");
        let mut bytes = Vec::new();
        let room = frames.next(&mut bytes).await.unwrap();
        assert!(bytes.len() > 40 << 20);
        assert!(waits(second.as_mut()).await, "it is not written yet");
        drop(room);
        second.await;
        // One alone may have all of it, and who waits for room sees that nobody is there any more.
        let third = async { assert!(outgoing.send(3, long()).await.is_err()) };
        tokio::pin!(third);
        assert!(waits(third.as_mut()).await);
        drop(frames);
        third.await;
    }
}
