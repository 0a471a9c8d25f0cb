//! The writing half of a connection, as a sink of its instance's mailbox.
//!
//! Whoever has something for the peer writes it here and now, without a task in between. Only
//! when the socket is full a task of the connection takes over.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use nix::sys::socket::{Shutdown, shutdown};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::Notify;

use super::batch::{Batch, Body, Written};
use crate::route::{DropReason, Encoding, Entry, Link, Mailbox, Sink};

/// Messages in one system call at most.
const BATCH_MESSAGES: usize = 512;
/// Bytes of payload in one system call at most, unless one message has more.
const BATCH_BYTES: usize = 256 << 10;
/// Batches that one caller writes before a task takes over, so that a fast sender does not
/// keep its own reader waiting.
const BATCHES_PER_FLUSH: usize = 4;
/// How often one caller looks for more after it wrote everything.
const ROUNDS_PER_FLUSH: usize = 4;
/// Frames that are not messages (welcomes, grants, replies) that may wait, in bytes: 1 MiB. A
/// peer that lets more pile up has stopped reading.
const MAX_CONTROL_BYTES: usize = 1 << 20;
/// Files that may go with a frame.
const MAX_FILES: usize = 4;

/// How messages are written in one dialect.
pub(super) trait Dialect: Send + Sync {
    /// What is looked up once for all messages of a link that are written together.
    type Way;

    /// How it writes payloads.
    const ENCODING: Encoding;

    /// How messages of this link are written, and how many of them the peer takes now; none if
    /// it takes none.
    fn way(&self, link: &Link) -> Option<(Self::Way, usize)>;

    /// Writes what comes before the payload to `head` and says what follows.
    fn encode(
        &self,
        link: &Link,
        way: &mut Self::Way,
        entry: &Entry,
        head: &mut Vec<u8>,
    ) -> Result<Body, DropReason>;

    /// `count` messages were put into a batch.
    fn taken(&self, way: Self::Way, count: usize);

    /// One of them was taken out again, unwritten.
    fn returned(&self, link: &Link);

    /// The most bytes that are given to the kernel at once, unless one message or control frame
    /// has more.
    fn at_once(&self) -> usize {
        usize::MAX
    }

    /// Which sink this is; see [`Link::hand_over`].
    fn sink(&self) -> u64 {
        0
    }

    /// Messages of a batch were written.
    fn written(&self, _written: Written<'_>) {}

    /// Another connection takes over: gives back what was written and not acknowledged. Called
    /// after what was not written has gone back, and before anything is written elsewhere.
    fn hand_over(&self) {}
}

pub(super) struct Outlet<D> {
    writer: OwnedWriteHalf,
    mailbox: Arc<Mailbox>,
    pub(super) dialect: D,
    batch: Mutex<Batch>,
    control: Mutex<ControlQueue>,
    /// The socket was full; the connection's task waits until it is not.
    blocked: AtomicBool,
    closed: AtomicBool,
    wake: Notify,
}

#[derive(Default)]
struct ControlQueue {
    frames: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Frames of calls, no more than `call_room`.
    calls: VecDeque<Vec<u8>>,
    call_bytes: usize,
    call_room: usize,
}

/// Closes an outlet when the connection is served no longer, also when its task is aborted
/// because the instance was removed.
pub(super) struct Served<D: Dialect + 'static>(pub(super) Arc<Outlet<D>>);

impl<D: Dialect + 'static> Drop for Served<D> {
    fn drop(&mut self) {
        self.0.close();
    }
}

enum Drained {
    Everything,
    SocketFull,
    EnoughForNow,
    Broken,
}

impl<D: Dialect + 'static> Outlet<D> {
    pub(super) fn new(writer: OwnedWriteHalf, mailbox: Arc<Mailbox>, dialect: D) -> Arc<Self> {
        Arc::new(Self {
            writer,
            mailbox,
            dialect,
            batch: Mutex::default(),
            control: Mutex::default(),
            blocked: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            wake: Notify::new(),
        })
    }

    /// Queues a frame that is not a message. It is written before messages that are not being
    /// written yet. Does not write: call [`Sink::kick`], or [`Outlet::wake`] to leave it to the
    /// connection's task.
    pub(super) fn push_control(&self, frame: Vec<u8>) {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        if control.bytes > 0 && control.bytes + frame.len() > MAX_CONTROL_BYTES {
            drop(control);
            tracing::warn!("a peer does not read what it is told; its connection is closed");
            return self.shut();
        }
        control.bytes += frame.len();
        control.frames.push_back(frame);
    }

    /// So many more frames of calls may wait.
    pub(super) fn make_room_for_calls(&self, frames: usize) {
        self.control.lock().unwrap_or_else(PoisonError::into_inner).call_room += frames;
    }

    /// Queues a frame of a call: in the order of these, after other frames that are not messages.
    /// Does not write either.
    pub(super) fn push_call(&self, frame: Vec<u8>) {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        if control.calls.len() >= control.call_room {
            drop(control);
            tracing::warn!("a peer does not read what becomes of its calls; it is disconnected");
            return self.shut();
        }
        control.call_bytes += frame.len();
        control.calls.push_back(frame);
    }

    /// Bytes of such frames that wait.
    pub(super) fn calls_waiting(&self) -> usize {
        self.control.lock().unwrap_or_else(PoisonError::into_inner).call_bytes
    }

    /// Sends this frame with up to [`MAX_FILES`] files, see `SCM_RIGHTS` in unix(7). Nothing else is written to this
    /// connection.
    pub(super) fn send_files(&self, frame: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(files));
        let slices = [IoSlice::new(frame)];
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::net::sendmsg(self.writer.as_ref(), &slices, &mut ancillary, flags)?;
        Ok(())
    }

    /// Lets the connection's task write.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Writes when whoever has something could not. Ends when the connection is closed.
    pub(super) async fn run(self: Arc<Self>) {
        while !self.closed.load(Ordering::Acquire) {
            self.wake.notified().await;
            while self.blocked.load(Ordering::Acquire) && !self.closed.load(Ordering::Acquire) {
                if self.writer.writable().await.is_err() {
                    return self.shut();
                }
                self.blocked.store(false, Ordering::Release);
                self.flush();
            }
            self.flush();
        }
    }

    /// Writes what the peer is told before its connection is closed, as far as the socket takes
    /// it.
    pub(super) fn last_words(&self) {
        let mut batch = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
        self.drain(&mut batch);
    }

    /// The connection is over: takes no message any more, and gives back what is not written.
    fn close(self: &Arc<Self>) {
        self.shut();
        let sink: Arc<dyn Sink> = self.clone();
        self.mailbox.detach(&sink);
    }

    /// Makes the connection's reader, wherever it waits, see the end.
    fn shut(&self) {
        self.closed.store(true, Ordering::Release);
        let _ = shutdown(self.writer.as_ref().as_raw_fd(), Shutdown::Both);
        self.wake.notify_one();
    }

    fn flush(&self) {
        for _ in 0..ROUNDS_PER_FLUSH {
            if self.blocked.load(Ordering::Acquire) || self.closed.load(Ordering::Acquire) {
                return;
            }
            let mut batch = match self.batch.try_lock() {
                Ok(batch) => batch,
                // Whoever holds the lock looks again after letting go, below.
                Err(TryLockError::WouldBlock) => return,
                // What was being written is lost with whoever panicked.
                Err(TryLockError::Poisoned(_)) => return self.shut(),
            };
            let drained = self.drain(&mut batch);
            drop(batch);
            match drained {
                Drained::Everything if self.has_more() => {}
                Drained::Everything => return,
                Drained::EnoughForNow => return self.wake.notify_one(),
                Drained::SocketFull => {
                    self.blocked.store(true, Ordering::Release);
                    return self.wake.notify_one();
                }
                Drained::Broken => return self.shut(),
            }
        }
        // Others keep refilling it: not at the cost of this caller.
        self.wake.notify_one();
    }

    fn has_more(&self) -> bool {
        let control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        !control.frames.is_empty()
            || !control.calls.is_empty()
            || (self.mailbox.serves(self) && self.mailbox.has_ready())
    }

    fn drain(&self, batch: &mut MutexGuard<'_, Batch>) -> Drained {
        for _ in 0..BATCHES_PER_FLUSH {
            if batch.is_done() {
                self.fill(batch);
                if batch.is_done() {
                    return Drained::Everything;
                }
            }
            match self.writer.try_write_vectored(&batch.slices(self.dialect.at_once())) {
                Ok(0) => return Drained::Broken,
                Ok(count) => batch.advance(count, |written| self.dialect.written(written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Drained::SocketFull,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Drained::Broken,
            }
        }
        Drained::EnoughForNow
    }

    /// Collects the next batch: control frames first, then messages, the links in turn.
    fn fill(&self, batch: &mut Batch) {
        batch.heads.clear();
        // Does not keep the memory of one huge call for ever.
        batch.heads.shrink_to(4 * BATCH_BYTES);
        {
            let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
            while let Some(frame) = control.frames.pop_front() {
                let length = batch.heads.len() + frame.len();
                if !batch.heads.is_empty() && length > self.dialect.at_once() {
                    control.frames.push_front(frame);
                    break;
                }
                control.bytes -= frame.len();
                batch.heads.extend_from_slice(&frame);
            }
            if !control.frames.is_empty() {
                batch.control = batch.heads.len();
                return;
            }
            // In turn with messages, which come after them.
            while batch.heads.len() < BATCH_BYTES
                && let Some(frame) = control.calls.pop_front()
            {
                control.call_bytes -= frame.len();
                batch.heads.extend_from_slice(&frame);
            }
            batch.control = batch.heads.len();
        }
        if self.closed.load(Ordering::Acquire) || !self.mailbox.serves(self) {
            return;
        }
        // Counted as taken, also those that turn out not to be translatable.
        let (mut messages, mut bytes) = (0, 0);
        while messages < BATCH_MESSAGES && bytes < BATCH_BYTES {
            let Some(link) = self.mailbox.next_link() else { break };
            let Some((mut way, quota)) = self.dialect.way(&link) else {
                self.park(link);
                continue;
            };
            let quota = quota.min(BATCH_MESSAGES - messages);
            link.take(quota, BATCH_BYTES - bytes, &mut batch.taken);
            messages += batch.taken.len();
            bytes += batch.taken.iter().map(|entry| entry.body.len()).sum::<usize>();
            let before = batch.len();
            self.encode(&link, &mut way, batch);
            self.dialect.taken(way, batch.len() - before);
            // Written before any message that is not in this batch.
            if let Some(frame) = link.handed_over(self.dialect.sink()) {
                self.push_control(frame);
            }
            self.mailbox.give_back(link);
        }
    }

    fn park(&self, link: Arc<Link>) {
        self.mailbox.park(link.clone());
        // A grant may have come between the look at the link and the parking.
        if self.dialect.way(&link).is_some() {
            self.mailbox.unpark();
        }
    }

    /// Turns what was taken from `link` into pieces.
    fn encode(&self, link: &Arc<Link>, way: &mut D::Way, batch: &mut Batch) {
        let mut taken = std::mem::take(&mut batch.taken);
        for entry in taken.drain(..) {
            let start = batch.heads.len();
            match self.dialect.encode(link, way, &entry, &mut batch.heads) {
                Ok(body) => batch.add(link, entry, start, body),
                Err(reason) => {
                    batch.heads.truncate(start);
                    link.give_up(&entry, reason);
                }
            }
        }
        batch.taken = taken;
    }
}

impl<D: Dialect + 'static> Sink for Outlet<D> {
    fn kick(&self) {
        self.flush();
    }

    fn encoding(&self) -> Encoding {
        D::ENCODING
    }

    fn hand_over(&self) {
        let mut batch = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
        let closed = self.closed.load(Ordering::Acquire);
        batch.give_back(closed, |link| self.dialect.returned(link));
        self.dialect.hand_over();
        drop(batch);
        // Whoever had a frame for this peer meanwhile could not write it.
        self.wake.notify_one();
    }
}
