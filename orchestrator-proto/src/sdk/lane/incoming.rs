//! The receiver's end of a lane.

use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::net::UnixStream;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use super::super::connection::parse;
use super::super::input::{Due, Queue, Span, Way, When, span};
use super::super::link::Shared;
use super::conduit::{Came, Inlet};
use crate::frame::{self, MAX_RUNTIME, PREFIX};
use crate::id::LinkId;
use crate::runtime::Frame;

/// How late an acknowledgement may be.
const ACKNOWLEDGE: Duration = Duration::from_millis(10);
/// Chunks that are read before others have their turn.
const CHUNKS: usize = 16;

/// One input's end of one lane.
pub(in super::super) struct Incoming {
    pub(in super::super) lane: u64,
    pub(in super::super) link: LinkId,
    is_memory: bool,
    said: Arc<Said>,
    /// True once the lane was read to its end.
    over: watch::Receiver<bool>,
    task: AbortHandle,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the sender is told.
struct Said {
    stream: Arc<UnixStream>,
    pending: Mutex<BytesMut>,
    /// Something is pending, or is to be acknowledged in a moment.
    kick: Notify,
}

impl Said {
    fn pending(&self) -> MutexGuard<'_, BytesMut> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes these, as far as the sender takes it. What it does not take waits.
    fn say(&self, frames: &[Frame<'_>]) {
        let mut pending = self.pending();
        for frame in frames {
            // A channel and a number: it fits.
            if let Ok(frame) = frame::encode(frame, MAX_RUNTIME) {
                pending.extend_from_slice(&frame);
            }
        }
        while !pending.is_empty() {
            match self.stream.try_write(&pending) {
                Ok(written) => pending.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return self.kick.notify_one();
                }
                // The sender is gone. What it wrote is still there to be read.
                Err(_) => pending.clear(),
            }
        }
    }
}

impl Incoming {
    /// Begins to read.
    pub(in super::super) fn open(
        shared: Weak<Shared>,
        channel: u16,
        (lane, link): (u64, LinkId),
        (inlet, stream): (Inlet, Arc<UnixStream>),
        queue: Arc<Queue>,
    ) -> Self {
        let is_memory = inlet.is_memory();
        let granted = queue.begin_lane(lane);
        let said = Arc::new(Said { stream, pending: Mutex::default(), kick: Notify::new() });
        said.say(&[Frame::Grant { channel: 0, total: granted }]);
        let (is_over, over) = watch::channel(false);
        let reader = Reader { lane, said: said.clone(), queue };
        let task = tokio::spawn(async move {
            reader.run(inlet).await;
            if let Some(shared) = shared.upgrade() {
                shared.lane_ended(channel, lane);
            }
            is_over.send_replace(true);
        });
        Self { lane, link, is_memory, said, over, task: task.abort_handle() }
    }

    /// What a daemon is told that does not know of it.
    /// So many messages have come over it.
    pub(in super::super) const fn uses(&self, channel: u16, count: u64) -> [Frame<'static>; 2] {
        let (lane, link, memory) = (self.lane, self.link, self.is_memory);
        [Frame::Uses { channel, lane, link, memory }, Frame::Counted { channel, lane, count }]
    }

    /// Tells the sender, now or in a moment.
    pub(in super::super) fn tell(&self, when: When) {
        self.said.tell(when);
    }

    /// To wait until it was read to its end.
    pub(in super::super) fn over(&self) -> watch::Receiver<bool> {
        self.over.clone()
    }
}

impl Said {
    fn tell(&self, when: When) {
        let channel = 0;
        match when {
            When::Never => {}
            When::Soon => self.kick.notify_one(),
            When::Now(Due { grant, acknowledge: None, .. }) => {
                self.say(&[Frame::Grant { channel, total: grant }]);
            }
            When::Now(Due { grant, acknowledge: Some(total), .. }) => {
                self.say(&[
                    Frame::Acknowledge { channel, total },
                    Frame::Grant { channel, total: grant },
                ]);
            }
        }
    }
}

struct Reader {
    lane: u64,
    said: Arc<Said>,
    queue: Arc<Queue>,
}

impl Reader {
    /// Until the lane ends, or breaks a rule.
    async fn run(self, mut inlet: Inlet) {
        let Self { said, .. } = &self;
        let is_memory = inlet.is_memory();
        let mut acknowledging = pin!(tokio::time::sleep(ACKNOWLEDGE));
        let mut later = false;
        let mut payloads = Vec::new();
        loop {
            let wants_write = !said.pending().is_empty();
            tokio::select! {
                ready = inlet.readable(&said.stream) => {
                    if ready.is_err() || !self.read(&mut inlet, &mut payloads) {
                        return;
                    }
                    match is_memory {
                        // Whoever got something has its turn before this thread may wait with its
                        // processor busy.
                        true => tokio::task::yield_now().await,
                        false => tokio::task::coop::consume_budget().await,
                    }
                }
                // With memory beside it, only its end comes over the socket.
                _ = said.stream.readable(), if is_memory => {
                    while self.read(&mut inlet, &mut payloads) && inlet.has_more() {
                        tokio::task::yield_now().await;
                    }
                    return;
                }
                ready = said.stream.writable(), if wants_write => {
                    if ready.is_ok() {
                        said.say(&[]);
                    }
                }
                () = said.kick.notified() => {
                    if !later {
                        later = true;
                        acknowledging.as_mut().reset(tokio::time::Instant::now() + ACKNOWLEDGE);
                    }
                }
                () = &mut acknowledging, if later => {
                    later = false;
                    if let Some(total) = self.queue.acknowledge(Way::Lane(self.lane)) {
                        said.say(&[Frame::Acknowledge { channel: 0, total }]);
                    }
                }
            }
        }
    }

    /// Takes what is there. False at the end. `payloads` is empty, before and after.
    fn read(&self, inlet: &mut Inlet, payloads: &mut Vec<Span>) -> bool {
        for _ in 0..CHUNKS {
            match inlet.read(&self.said.stream) {
                Came::Some => {}
                Came::Nothing => return true,
                Came::End => return false,
            }
            if !self.take(inlet, payloads) {
                return false;
            }
        }
        true
    }

    /// Takes all whole frames from what was read. False if the sender broke a rule.
    fn take(&self, inlet: &mut Inlet, payloads: &mut Vec<Span>) -> bool {
        let (chunk, is_sound) = inlet.whole_frames();
        let mut at = 0;
        while let Ok(Some(body)) = frame::first_body(&chunk[at..], MAX_RUNTIME) {
            at += PREFIX + body.len();
            let Ok(frame) = parse(body) else { return false };
            if !self.handle(&chunk, frame, payloads) {
                return false;
            }
        }
        self.deliver(&chunk, payloads) && is_sound
    }

    fn handle(&self, chunk: &Bytes, frame: Frame<'_>, payloads: &mut Vec<Span>) -> bool {
        let way = Way::Lane(self.lane);
        match frame {
            Frame::Message { payload, .. } => {
                payloads.push(span(chunk, payload));
                true
            }
            Frame::From { sender, next, kept, .. } => {
                let delivered = self.deliver(chunk, payloads);
                self.queue.run(way, sender, next, kept);
                delivered
            }
            Frame::Skip { count, .. } => {
                self.deliver(chunk, payloads) && self.queue.skip(way, count)
            }
            Frame::Stamps { stamped, .. } => {
                let delivered = self.deliver(chunk, payloads);
                self.queue.stamps(way, stamped);
                delivered
            }
            _ => false,
        }
    }

    /// False if they are more than were granted.
    fn deliver(&self, chunk: &Bytes, payloads: &mut Vec<Span>) -> bool {
        if payloads.is_empty() {
            return true;
        }
        match self.queue.push(Way::Lane(self.lane), (chunk, payloads)) {
            Ok(due) => self.said.tell(due),
            Err(_) => return false,
        }
        true
    }
}
