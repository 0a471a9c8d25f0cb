//! The writing half of a connection, as a sink of its instance's mailbox.
//!
//! Whoever has something for the peer writes it here and now, without a task in between. Only
//! when the socket is full a task of the connection takes over.

use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use nix::sys::socket::{Shutdown, shutdown};
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::Notify;

use crate::route::{DropReason, Entry, Link, Mailbox, Sink};

/// Messages in one system call at most.
const BATCH_MESSAGES: usize = 512;
/// Bytes of payload in one system call at most, unless one message has more.
const BATCH_BYTES: usize = 256 << 10;
/// Slices in one system call: below the kernel's IOV_MAX of 1,024, see writev(2).
const MAX_SLICES: usize = 1020;
/// Batches that one caller writes before a task takes over, so that a fast sender does not
/// keep its own reader waiting.
const BATCHES_PER_FLUSH: usize = 4;
/// Frames that are not messages (welcomes, grants, replies) that may wait, in bytes: 1 MiB. A
/// peer that lets more pile up has stopped reading.
const MAX_CONTROL_BYTES: usize = 1 << 20;

/// How messages are written in one dialect.
pub(super) trait Dialect: Send + Sync {
    /// What is looked up once for all messages of a link that are written together.
    type Way;

    /// How messages of this link are written, and how many of them the peer takes now; none if
    /// it takes none.
    fn way(&self, link: &Link) -> Option<(Self::Way, usize)>;

    /// Writes what comes before the payload to `head` and says what follows.
    fn encode(
        &self,
        link: &Link,
        way: &Self::Way,
        entry: &Entry,
        head: &mut Vec<u8>,
    ) -> Result<Body, DropReason>;

    /// `count` messages were put into a batch.
    fn taken(&self, way: &Self::Way, count: usize);
}

/// The payload of a message as the peer will see it.
pub(super) struct Body {
    /// Set when it had to be translated; else it is the entry's own.
    pub translated: Option<Bytes>,
    /// What comes after it.
    pub tail: &'static [u8],
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
}

/// What is being written.
#[derive(Default)]
struct Batch {
    /// Control frames and the heads of the pieces, one after the other.
    heads: Vec<u8>,
    /// Control frames at the beginning of `heads`, in bytes.
    control: usize,
    pieces: VecDeque<Piece>,
    /// Bytes of what is first (the control frames, else the first piece) that are written.
    written: usize,
    /// Spare place for what is taken from a link.
    taken: Vec<Entry>,
}

struct Piece {
    link: Arc<Link>,
    entry: Entry,
    head: std::ops::Range<usize>,
    body: Body,
}

impl Piece {
    fn payload(&self) -> &Bytes {
        self.body.translated.as_ref().unwrap_or(&self.entry.body)
    }

    fn len(&self) -> usize {
        self.head.len() + self.payload().len() + self.body.tail.len()
    }
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
        if control.bytes + frame.len() > MAX_CONTROL_BYTES {
            drop(control);
            tracing::warn!("a peer does not read what it is told; its connection is closed");
            return self.shut();
        }
        control.bytes += frame.len();
        control.frames.push_back(frame);
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

    /// The connection is over: takes no message any more, and gives back what is not written.
    fn close(self: &Arc<Self>) {
        self.shut();
        let sink: Arc<dyn Sink> = self.clone();
        self.mailbox.detach(&sink);
        let mut batch = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
        batch.give_back();
        drop(batch);
        self.mailbox.kick();
    }

    /// Makes the connection's reader, wherever it waits, see the end.
    fn shut(&self) {
        self.closed.store(true, Ordering::Release);
        let _ = shutdown(self.writer.as_ref().as_raw_fd(), Shutdown::Both);
        self.wake.notify_one();
    }

    fn flush(&self) {
        while !self.blocked.load(Ordering::Acquire) && !self.closed.load(Ordering::Acquire) {
            // Whoever holds the lock looks again after letting go, below.
            let Ok(mut batch) = self.batch.try_lock() else {
                return;
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
    }

    fn has_more(&self) -> bool {
        let control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        !control.frames.is_empty() || (self.mailbox.serves(self) && self.mailbox.has_ready())
    }

    fn drain(&self, batch: &mut MutexGuard<'_, Batch>) -> Drained {
        for _ in 0..BATCHES_PER_FLUSH {
            if batch.is_done() {
                self.fill(batch);
                if batch.is_done() {
                    return Drained::Everything;
                }
            }
            match self.writer.try_write_vectored(&batch.slices()) {
                Ok(0) => return Drained::Broken,
                Ok(count) => batch.advance(count),
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
        {
            let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
            control.bytes = 0;
            for frame in control.frames.drain(..) {
                batch.heads.extend_from_slice(&frame);
            }
            batch.control = batch.heads.len();
        }
        if self.closed.load(Ordering::Acquire) || !self.mailbox.serves(self) {
            return;
        }
        let mut bytes = 0;
        while batch.pieces.len() < BATCH_MESSAGES && bytes < BATCH_BYTES {
            let Some(link) = self.mailbox.next_link() else {
                break;
            };
            let Some((way, quota)) = self.dialect.way(&link) else {
                self.park(link);
                continue;
            };
            link.take(
                quota.min(BATCH_MESSAGES - batch.pieces.len()),
                &mut batch.taken,
            );
            bytes += self.encode(&link, &way, batch);
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

    /// Turns what was taken from `link` into pieces; the answer is their bytes.
    fn encode(&self, link: &Arc<Link>, way: &D::Way, batch: &mut Batch) -> usize {
        let mut bytes = 0;
        let mut taken = std::mem::take(&mut batch.taken);
        let before = batch.pieces.len();
        for entry in taken.drain(..) {
            let start = batch.heads.len();
            match self.dialect.encode(link, way, &entry, &mut batch.heads) {
                Ok(body) => {
                    let head = start..batch.heads.len();
                    let piece = Piece {
                        link: link.clone(),
                        entry,
                        head,
                        body,
                    };
                    bytes += piece.len();
                    batch.pieces.push_back(piece);
                }
                Err(reason) => {
                    batch.heads.truncate(start);
                    link.give_up(&entry.origin, 1, reason);
                }
            }
        }
        self.dialect.taken(way, batch.pieces.len() - before);
        batch.taken = taken;
        bytes
    }
}

impl<D: Dialect + 'static> Sink for Outlet<D> {
    fn kick(&self) {
        self.flush();
    }
}

impl Batch {
    fn is_done(&self) -> bool {
        self.control == 0 && self.pieces.is_empty()
    }

    fn slices(&self) -> Vec<IoSlice<'_>> {
        let mut slices = Vec::with_capacity((1 + 3 * self.pieces.len()).min(MAX_SLICES));
        let mut skip = self.written;
        let control: &[u8] = &self.heads[..self.control];
        let parts = std::iter::once(control).chain(self.pieces.iter().flat_map(|piece| {
            [
                &self.heads[piece.head.clone()],
                &piece.payload()[..],
                piece.body.tail,
            ]
        }));
        for part in parts.filter(|part| !part.is_empty()) {
            if slices.len() == MAX_SLICES {
                break;
            }
            let skipped = skip.min(part.len());
            skip -= skipped;
            if skipped < part.len() {
                slices.push(IoSlice::new(&part[skipped..]));
            }
        }
        slices
    }

    /// `count` more bytes are with the kernel: settles the messages that are complete.
    fn advance(&mut self, count: usize) {
        self.written += count;
        if self.control > 0 {
            if self.written < self.control {
                return;
            }
            self.written -= self.control;
            self.control = 0;
        }
        let mut complete = 0;
        for piece in &self.pieces {
            if self.written < piece.len() {
                break;
            }
            self.written -= piece.len();
            complete += 1;
        }
        let same = |a: &Piece, b: &Piece| {
            Arc::ptr_eq(&a.link, &b.link) && Arc::ptr_eq(&a.entry.origin, &b.entry.origin)
        };
        for run in self.pieces.make_contiguous()[..complete].chunk_by(same) {
            run[0]
                .link
                .delivered(&run[0].entry.origin, run.len() as u64);
        }
        self.pieces.drain(..complete);
    }

    /// Gives the messages that are not written back to their links.
    fn give_back(&mut self) {
        self.control = 0;
        self.written = 0;
        let mut pieces = std::mem::take(&mut self.pieces);
        // From the back, so that each link gets its messages back newest first.
        while let Some(piece) = pieces.pop_back() {
            piece.link.put_back(std::iter::once(piece.entry));
        }
    }
}
