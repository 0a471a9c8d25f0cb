//! Datagrams with files beside them, sent and received without waiting.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};

use super::frame::MAX_FILES;

/// Files that came with a datagram, in order.
pub type Files = [Option<OwnedFd>; MAX_FILES];

const SPACE: usize = rustix::cmsg_space!(ScmRights(MAX_FILES));

/// Two ends of a connection on which a datagram stays one. Not inherited, never waiting.
///
/// # Errors
///
/// See socketpair(2).
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Sends one datagram and up to [`MAX_FILES`] files.
///
/// # Errors
///
/// `EAGAIN` when the other end does not keep up, `EPIPE` when it has gone, `ETOOMANYREFS` when
/// too many files are on their way; see sendmsg(2).
pub fn send(socket: impl AsFd, parts: &[IoSlice<'_>], files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    loop {
        match sendmsg(&socket, parts, &mut beside, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Receives one datagram. The answer is its length, which is 0 at the end of the connection.
///
/// # Errors
///
/// `EAGAIN` when there is none; `EMSGSIZE` when it was longer than `bytes`, and then it is lost;
/// see recvmsg(2). A file for which this process had no number left is missing.
pub fn receive(socket: impl AsFd, bytes: &mut [u8]) -> io::Result<(usize, Files)> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let parts = &mut [IoSliceMut::new(bytes)];
        match recvmsg(&socket, parts, &mut beside, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => break received,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    };
    let mut files = Files::default();
    let mut free = files.iter_mut();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(several) = message {
            for file in several {
                // More than there should be are closed.
                if let Some(place) = free.next() {
                    *place = Some(file);
                }
            }
        }
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(rustix::io::Errno::MSGSIZE.into());
    }
    Ok((received.bytes, files))
}
