//! Fetching an end of a lane from the daemon.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;

use crate::frame::{self, MAX_RUNTIME};
use crate::ring;
use crate::runtime::{Frame, MAGIC, PROTOCOL};

/// How long that may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// The answer is shorter, unless it is a refusal, whose reason is of no use here.
const MAX_ANSWER: usize = 4096;
/// A socket, and the three files of a ring.
const MAX_FILES: usize = 4;

/// What the daemon has handed over.
pub(super) struct Claimed {
    pub(super) stream: UnixStream,
    /// Where the messages go through memory.
    pub(super) ring: Option<ring::Files>,
}

/// This end of the lane. Fails when the daemon knows no such lane (any more) or is gone.
pub(super) async fn claim(path: &Path, lane: u64) -> io::Result<Claimed> {
    let claiming = async {
        let mut stream = UnixStream::connect(path).await?;
        let claim = Frame::Claim { magic: MAGIC, protocol: PROTOCOL, lane };
        let claim = frame::encode(&claim, MAX_RUNTIME).map_err(io::Error::other)?;
        stream.write_all(&claim).await?;
        let files = stream.async_io(Interest::READABLE, || receive(&stream)).await?;
        let mut files = files.into_iter();
        let (socket, ring) = match (files.next(), [files.next(), files.next(), files.next()]) {
            (Some(socket), [None, ..]) => (socket, None),
            (Some(socket), [Some(memory), Some(data), Some(room)]) => {
                (socket, Some(ring::Files::from_fds([memory, data, room])))
            }
            _ => return Err(not_handed_over()),
        };
        let socket = StdStream::from(socket);
        socket.set_nonblocking(true)?;
        Ok(Claimed { stream: UnixStream::from_std(socket)?, ring })
    };
    let timed_out = |_| io::Error::from(io::ErrorKind::TimedOut);
    tokio::time::timeout(DEADLINE, claiming).await.map_err(timed_out)?
}

/// The files that come with the answer, which is sent in one piece.
fn receive(stream: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut answer = [0; MAX_ANSWER];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(stream, &mut [IoSliceMut::new(&mut answer)], &mut ancillary, flags)?;
    let files = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    let files: Vec<OwnedFd> = files.flatten().collect();
    let body = frame::first_body(&answer[..received.bytes], MAX_RUNTIME);
    let frame = body.ok().flatten().and_then(|body| postcard::from_bytes(body).ok());
    match frame {
        Some(Frame::Claimed) => Ok(files),
        _ => Err(not_handed_over()),
    }
}

fn not_handed_over() -> io::Error {
    io::Error::other("the daemon did not hand over an end of the lane")
}
