//! Datagrams with open files, between the daemon and the capture process: a connected
//! `SOCK_SEQPACKET` socket, see unix(7). Nothing here ever waits.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketAddrUnix, SocketFlags,
    SocketType, sockopt,
};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

/// The most files that come with one datagram.
pub(super) const MAX_FILES: usize = 2;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 16;

/// One end of a connection. Each datagram is sent and received as a whole, by any thread.
#[derive(Debug)]
pub(super) struct Socket<F = OwnedFd>(F);

/// A datagram that was received.
#[derive(Debug)]
pub(super) struct Received {
    /// How many bytes of the buffer it fills.
    pub(super) len: usize,
    /// The files that came with it, close-on-exec.
    pub(super) files: Vec<OwnedFd>,
    /// Files came with it that found no place: in this process (`RLIMIT_NOFILE`), or because
    /// there were more than [`MAX_FILES`].
    pub(super) files_lost: bool,
}

impl Socket {
    /// Connects to whoever listens at a path.
    ///
    /// # Errors
    ///
    /// `ENOENT` or `ECONNREFUSED` when nobody listens there, `EAGAIN` when its backlog is full.
    pub(super) fn connect(path: &Path) -> io::Result<Self> {
        let socket = new()?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self(socket))
    }

    /// The next connection to a listener.
    ///
    /// # Errors
    ///
    /// `EAGAIN` when there is none.
    pub(super) fn accept(listener: impl AsFd) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Ok(Self(rustix::net::accept_with(listener, flags)?))
    }

    /// A listener, of which only the readiness is of interest.
    pub(super) fn listener(listener: OwnedFd) -> Self {
        Self(listener)
    }
}

impl<F: AsFd> Socket<F> {
    /// The user id that the peer had when it connected.
    pub(super) fn peer_uid(&self) -> io::Result<u32> {
        Ok(sockopt::socket_peercred(&self.0)?.uid.as_raw())
    }

    /// Ends the connection, whoever else holds this socket.
    pub(super) fn shut_down(&self) {
        // It fails only if the peer has gone.
        let _ = rustix::net::shutdown(&self.0, Shutdown::Both);
    }

    /// Sends a datagram, with at most [`MAX_FILES`] files.
    ///
    /// # Errors
    ///
    /// `EAGAIN` when there is no room for it now, also where that is about files that are on
    /// their way (`ETOOMANYREFS`); `EPIPE` or `ECONNRESET` when the peer has gone.
    pub(super) fn send(&self, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            return match rustix::net::sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, flags)
            {
                Ok(_) => Ok(()),
                Err(Errno::INTR) => continue,
                Err(Errno::TOOMANYREFS | Errno::NOBUFS) => Err(io::ErrorKind::WouldBlock.into()),
                Err(error) => Err(error.into()),
            };
        }
    }

    /// Receives the next datagram; one without bytes is the end.
    ///
    /// # Errors
    ///
    /// `EAGAIN` when there is none now; `InvalidData` when it is longer than the buffer.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let mut resets = 0;
        let message = loop {
            let mut parts = [IoSliceMut::new(buffer)];
            match rustix::net::recvmsg(&self.0, &mut parts, &mut control, flags) {
                Ok(message) => break message,
                Err(Errno::INTR) => {}
                // Told once, by a peer that left something unread; what it said itself before
                // that can still be received.
                Err(Errno::CONNRESET) if resets == 0 => resets += 1,
                Err(error) => return Err(error.into()),
            }
        };
        let mut files = Vec::new();
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = part {
                files.extend(rights);
            }
        }
        if message.flags.contains(ReturnFlags::TRUNC) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let files_lost = message.flags.contains(ReturnFlags::CTRUNC);
        Ok(Received { len: message.bytes, files, files_lost })
    }
}

/// A socket that a tokio runtime watches. Only its readiness is used: for that tokio, which has
/// no type for sockets of this kind, may take it for one that sends datagrams.
#[derive(Debug)]
pub(super) struct Watched(UnixDatagram);

impl Watched {
    /// Has the current runtime watch a socket, or a listener.
    pub(super) fn new(socket: Socket) -> io::Result<Self> {
        UnixDatagram::from_std(socket.0.into()).map(Self)
    }

    /// The socket. What is done with it directly changes no readiness.
    pub(super) fn get(&self) -> Socket<BorrowedFd<'_>> {
        Socket(self.0.as_fd())
    }

    /// Waits until [`attempt`](Self::attempt) may go well.
    pub(super) async fn ready(&self, interest: Interest) -> io::Result<()> {
        self.0.ready(interest).await.map(|_| ())
    }

    /// Does something that fails with `EAGAIN` when the socket is not ready for it; that it is
    /// not is known from then on.
    pub(super) fn attempt<T>(
        &self,
        interest: Interest,
        act: impl FnOnce(Socket<BorrowedFd<'_>>) -> io::Result<T>,
    ) -> io::Result<T> {
        self.0.try_io(interest, || act(self.get()))
    }
}

impl<F: AsFd> AsFd for Socket<F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Listens at a path where nothing is.
pub(super) fn listen(path: &Path) -> io::Result<OwnedFd> {
    let socket = crate::private_socket::bound(path, SocketType::SEQPACKET)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Whether this is a listener as [`listen`] makes it.
pub(super) fn is_listener(fd: impl AsFd) -> bool {
    sockopt::socket_acceptconn(&fd).unwrap_or(false)
        && sockopt::socket_type(&fd).is_ok_and(|kind| kind == SocketType::SEQPACKET)
}

fn new() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};

    fn pair() -> (Socket, Socket) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = listen(&path).unwrap();
        assert!(is_listener(&listener));
        let near = Socket::connect(&path).unwrap();
        assert!(!is_listener(near.0.as_fd()));
        let far = Socket::accept(&listener).unwrap();
        assert_eq!(Socket::accept(&listener).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(far.peer_uid().unwrap(), nix::unistd::geteuid().as_raw());
        (near, far)
    }

    #[test]
    fn files_come_with_their_datagram() {
        let (near, far) = pair();
        let (read, write) = nix::unistd::pipe().unwrap();
        near.send(b"first", &[]).unwrap();
        near.send(b"second", &[read.as_fd(), write.as_fd()]).unwrap();
        drop((read, write));
        let mut buffer = [0; 10];
        let first = far.receive(&mut buffer).unwrap();
        assert_eq!((&buffer[..first.len], first.files.len()), (&b"first"[..], 0));
        let mut second = far.receive(&mut buffer).unwrap();
        assert_eq!(&buffer[..second.len], b"second");
        let mut write = File::from(second.files.pop().unwrap());
        let mut read = File::from(second.files.pop().unwrap());
        write.write_all(b"text").unwrap();
        drop(write);
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, "text");
        assert!(!second.files_lost);
    }

    #[test]
    fn the_end_comes_after_everything_else() {
        let (near, far) = pair();
        let mut buffer = [0; 4];
        assert_eq!(far.receive(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        far.send(b"not read", &[]).unwrap();
        near.send(b"last", &[]).unwrap();
        drop(near);
        assert_eq!(far.receive(&mut buffer).unwrap().len, 4);
        assert_eq!(far.receive(&mut buffer).unwrap().len, 0);
        assert_eq!(far.send(b"x", &[]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn what_is_too_long_is_refused_and_a_full_socket_never_waits() {
        let (near, far) = pair();
        near.send(b"longer", &[]).unwrap();
        assert_eq!(far.receive(&mut [0; 4]).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let mut sent = 0;
        let error = loop {
            match near.send(&[0; 60_000], &[]) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!((1..100).contains(&sent), "{sent} datagrams");
    }
}
