//! Writing frames to the daemon, without waiting.

use std::io;
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use tokio::net::unix::OwnedWriteHalf;

use crate::frame;
use crate::runtime::Frame;

/// Bytes that wait for the kernel before senders wait: 1 MiB. One more message or batch may
/// come on top.
pub(super) const MAX_PENDING: usize = 1 << 20;

/// The writing half of the present connection, if there is one.
#[derive(Default)]
pub(super) struct Writing {
    /// None while disconnected.
    half: Option<Arc<OwnedWriteHalf>>,
    /// Whole frames that the kernel has not taken yet, the first one maybe in part.
    pending: BytesMut,
    /// Why the connection was lost last.
    pub(super) last_error: Option<String>,
}

impl Writing {
    /// A connection begins.
    pub(super) fn begin(&mut self, half: Arc<OwnedWriteHalf>) {
        self.half = Some(half);
        self.pending.clear();
    }

    /// It is over.
    pub(super) fn end(&mut self, reason: String) {
        self.half = None;
        self.pending.clear();
        self.last_error = Some(reason);
    }

    /// Whether there is a connection.
    pub(super) const fn is_open(&self) -> bool {
        self.half.is_some()
    }

    /// Whether nothing waits for the kernel.
    pub(super) fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether senders have to wait.
    pub(super) fn is_full(&self) -> bool {
        self.pending.len() >= MAX_PENDING
    }

    /// Queues a frame. False if it would be too long.
    pub(super) fn push(&mut self, frame: &Frame<'_>) -> bool {
        match frame::encode(frame, frame::MAX_RUNTIME) {
            Ok(bytes) => {
                self.pending.extend_from_slice(&bytes);
                true
            }
            Err(_) => false,
        }
    }

    /// Writes frames behind what is pending; what the kernel does not take becomes pending.
    pub(super) fn write(&mut self, frames: &[u8]) {
        let mut frames = frames;
        if self.pending.is_empty() {
            while !frames.is_empty() {
                match self.try_write(frames) {
                    Some(written) => frames = &frames[written..],
                    None => break,
                }
            }
        }
        self.pending.extend_from_slice(frames);
    }

    /// Writes what is pending, as far as the kernel takes it.
    pub(super) fn flush(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        let mut rest = &pending[..];
        while !rest.is_empty() {
            match self.try_write(rest) {
                Some(written) => rest = &rest[written..],
                None => break,
            }
        }
        let done = pending.len() - rest.len();
        self.pending = pending;
        self.pending.advance(done);
        // Does not keep the memory of one huge message for ever.
        if self.pending.is_empty() && self.pending.capacity() > 2 * MAX_PENDING {
            self.pending = BytesMut::new();
        }
    }

    /// How many bytes the kernel took; none if it takes no more now, or never again.
    fn try_write(&mut self, bytes: &[u8]) -> Option<usize> {
        let error = match self.half.as_ref()?.try_write(bytes) {
            Ok(0) => io::Error::from(io::ErrorKind::WriteZero),
            Ok(written) => return Some(written),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(error) => error,
        };
        self.last_error = Some(format!("writing failed: {error}"));
        self.half = None;
        None
    }
}
