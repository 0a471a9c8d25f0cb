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
use crate::runtime::{Frame, MAGIC, PROTOCOL};

/// How long that may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// The answer is shorter, unless it is a refusal, whose reason is of no use here.
const MAX_ANSWER: usize = 4096;

/// This end of the lane. Fails when the daemon knows no such lane (any more) or is gone.
pub(super) async fn claim(path: &Path, lane: u64) -> io::Result<UnixStream> {
    let claiming = async {
        let mut stream = UnixStream::connect(path).await?;
        let claim = Frame::Claim { magic: MAGIC, protocol: PROTOCOL, lane };
        let claim = frame::encode(&claim, MAX_RUNTIME).map_err(io::Error::other)?;
        stream.write_all(&claim).await?;
        let file = stream.async_io(Interest::READABLE, || receive(&stream)).await?;
        let stream = StdStream::from(file);
        stream.set_nonblocking(true)?;
        UnixStream::from_std(stream)
    };
    let timed_out = |_| io::Error::from(io::ErrorKind::TimedOut);
    tokio::time::timeout(DEADLINE, claiming).await.map_err(timed_out)?
}

/// The file that comes with the answer, which is sent in one piece.
fn receive(stream: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut answer = [0; MAX_ANSWER];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(stream, &mut [IoSliceMut::new(&mut answer)], &mut ancillary, flags)?;
    let mut files = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    let file = files.next().and_then(|mut files| files.next());
    let body = frame::first_body(&answer[..received.bytes], MAX_RUNTIME);
    let frame = body.ok().flatten().and_then(|body| postcard::from_bytes(body).ok());
    match (frame, file) {
        (Some(Frame::Claimed), Some(file)) => Ok(file),
        _ => Err(io::Error::other("the daemon did not hand over an end of the lane")),
    }
}
