//! What the messages of a lane go through: the socket pair itself, or memory beside it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::net::UnixStream;

use super::super::connection::make_room;
use super::claim::Claimed;
use crate::frame::{self, MAX_RUNTIME, PREFIX};
use crate::ring::{ByteConsumer, ByteProducer, RingError, Told};
use crate::runtime::Medium;

/// Bytes for whose room a sender waits: as much as a ring can be waited for.
const WANTED: usize = 1 << 20;
/// Bytes that are taken from a ring before they are looked at.
const TAKEN: usize = 64 << 10;

/// Where a sender writes.
pub(super) struct Outlet {
    pub(super) stream: Arc<UnixStream>,
    ring: Option<ByteProducer>,
}

/// What a sender waits for that has something to write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Obstacle {
    /// The kernel's buffer is full.
    Kernel,
    /// So is the ring; its other end will say when it is not any more.
    Ring,
    /// There is room by now.
    None,
}

impl Outlet {
    /// And what tells when there is room in the ring, if there is one.
    pub(super) fn open(claimed: Claimed) -> io::Result<(Self, Option<Told>)> {
        let ring = claimed.ring.map(ByteProducer::open).transpose().map_err(io::Error::other)?;
        let told = ring.as_ref().map(ByteProducer::told);
        Ok((Self { stream: Arc::new(claimed.stream), ring }, told))
    }

    /// What it is made of.
    pub(super) const fn is_memory(&self) -> bool {
        self.ring.is_some()
    }

    /// Writes as much as there is room for; fails with `WouldBlock` if there is none.
    pub(super) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(ring) = &mut self.ring else { return self.stream.try_write(bytes) };
        match ring.try_write(bytes).map_err(io::Error::other)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            written => Ok(written),
        }
    }

    /// To be asked when something could not be written.
    pub(super) fn obstacle(&mut self) -> Result<Obstacle, RingError> {
        match &mut self.ring {
            None => Ok(Obstacle::Kernel),
            Some(ring) => Ok(if ring.ask(WANTED)? { Obstacle::Ring } else { Obstacle::None }),
        }
    }

    /// Nothing more is written. The receiver gets what was, and then the end.
    pub(super) fn close(&mut self) {
        let _ = rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Write);
    }
}

/// Where a receiver reads.
pub(in super::super) enum Inlet {
    /// The socket, and what was read.
    Socket(BytesMut),
    /// The memory likewise.
    Ring(Box<ByteConsumer>, Vec<u8>),
}

/// What came.
pub(super) enum Came {
    /// Something.
    Some,
    /// Nothing for now.
    Nothing,
    /// And never will.
    End,
}

impl Inlet {
    /// What is said to the sender goes over the socket, whatever this is.
    pub(super) fn open(claimed: Claimed, medium: Medium) -> io::Result<(Self, Arc<UnixStream>)> {
        let stream = Arc::new(claimed.stream);
        let Some(files) = claimed.ring else {
            return Ok((Self::Socket(BytesMut::new()), stream));
        };
        let mut ring = ByteConsumer::open(files).map_err(io::Error::other)?;
        if let Medium::Memory { spin_us } = medium {
            ring.set_spin(Duration::from_micros(spin_us.into()));
        }
        Ok((Self::Ring(Box::new(ring), Vec::new()), stream))
    }

    /// What it is made of.
    pub(super) const fn is_memory(&self) -> bool {
        matches!(self, Self::Ring(..))
    }

    /// Waits until it is worth to read.
    pub(super) async fn readable(&mut self, stream: &UnixStream) -> io::Result<()> {
        match self {
            Self::Socket(_) => stream.readable().await,
            Self::Ring(ring, _) => ring.readable().await.map_err(io::Error::other),
        }
    }

    /// Whether there is more to read already; of memory.
    pub(super) fn has_more(&self) -> bool {
        match self {
            Self::Socket(_) => false,
            Self::Ring(ring, _) => ring.has_more(),
        }
    }

    /// Reads some of what there is.
    pub(super) fn read(&mut self, stream: &UnixStream) -> Came {
        match self {
            Self::Socket(read) => {
                make_room(read);
                match stream.try_read_buf(read) {
                    Ok(0) => Came::End,
                    Ok(_) => Came::Some,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => Came::Nothing,
                    Err(_) => Came::End,
                }
            }
            Self::Ring(ring, read) => {
                if let Ok(Some(length)) = frame::body_length(read, MAX_RUNTIME) {
                    read.reserve((PREFIX + length).saturating_sub(read.len()));
                }
                match ring.try_read(read.len() + TAKEN, read) {
                    Ok(0) => Came::Nothing,
                    Ok(_) => Came::Some,
                    Err(_) => Came::End,
                }
            }
        }
    }

    /// All whole frames of what was read; and whether what follows them can be one.
    pub(super) fn whole_frames(&mut self) -> (Bytes, bool) {
        match self {
            Self::Socket(read) => {
                let (end, is_sound) = whole(read);
                // The payloads in it share this memory; nothing is copied.
                (read.split_to(end).freeze(), is_sound)
            }
            Self::Ring(_, read) => {
                let (end, is_sound) = whole(read);
                if end == 0 {
                    // `split_off` would copy what there is of a long one, each time.
                    return (Bytes::new(), is_sound);
                }
                let rest = read.split_off(end);
                (Bytes::from(std::mem::replace(read, rest)), is_sound)
            }
        }
    }
}

/// Where the last whole frame ends, and whether what follows can be one.
fn whole(read: &[u8]) -> (usize, bool) {
    let mut end = 0;
    loop {
        match frame::first_body(&read[end..], MAX_RUNTIME) {
            Ok(Some(body)) => end += PREFIX + body.len(),
            Ok(None) => return (end, true),
            Err(_) => return (end, false),
        }
    }
}
