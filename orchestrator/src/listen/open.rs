//! One socket: opened, or taken over from an earlier daemon.

use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use orchestrator_proto::control::{Listen, ListenAddress, ListenMode, ListenSocket};
use rustix::fs::{Mode, fchmod};
use rustix::net::{
    AddressFamily, Shutdown, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType, bind,
    getsockname, listen, shutdown, socket_with, sockopt,
};
use thiserror::Error;

use super::file::{SocketFile, Taken, make_room};

/// Connections that may wait to be accepted: as many as the kernel has set as the most, if that is
/// less (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// Why a socket can't be opened.
#[derive(Debug, Error)]
#[error("cannot listen on {socket}: {reason}")]
pub struct ListenError {
    /// Which, without its name.
    socket: String,
    /// Why, and what to do.
    reason: String,
}

/// A socket that listens. When this is dropped, it listens no more, whoever else has it, and its file
/// is removed.
#[derive(Debug)]
pub(super) struct Open {
    socket: OwnedFd,
    /// Of a Unix socket.
    file: Option<SocketFile>,
}

impl Open {
    /// Opens one.
    pub(super) fn new(wanted: &Listen) -> Result<Self, ListenError> {
        let opened = match &wanted.socket {
            ListenSocket::Tcp(address) => tcp(*address).map_err(in_words),
            ListenSocket::Udp(address) => udp(*address).map_err(in_words),
            ListenSocket::Unix { path, mode } => unix(path, *mode, SocketType::STREAM),
            ListenSocket::UnixDatagram { path, mode } => unix(path, *mode, SocketType::DGRAM),
        };
        opened.map_err(|reason| ListenError { socket: wanted.place(), reason })
    }

    /// Takes one over that an earlier daemon has opened: with the file of its socket, if it has
    /// one. None if it is not the one that is wanted, or nobody would find it any more.
    pub(super) fn kept(wanted: &Listen, socket: &OwnedFd, file: Option<&OwnedFd>) -> Option<Self> {
        let (kind, address) = (sockopt::socket_type(socket).ok()?, getsockname(socket).ok()?);
        let is_at = |wanted: ListenAddress| {
            SocketAddr::try_from(address.clone()).is_ok_and(|it| it == wanted.get())
        };
        let own = |file: &OwnedFd| file.try_clone().ok();
        let file = match &wanted.socket {
            ListenSocket::Tcp(wanted) if kind == SocketType::STREAM && is_at(*wanted) => None,
            ListenSocket::Udp(wanted) if kind == SocketType::DGRAM && is_at(*wanted) => None,
            ListenSocket::Unix { path, .. } if kind == SocketType::STREAM => {
                Some(kept_file(path, &address, own(file?)?)?)
            }
            ListenSocket::UnixDatagram { path, .. } if kind == SocketType::DGRAM => {
                Some(kept_file(path, &address, own(file?)?)?)
            }
            _ => return None,
        };
        Some(Self { socket: own(socket)?, file })
    }

    /// The socket.
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// What the next daemon needs to recognise its file, if it has one.
    pub(super) fn file(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(SocketFile::itself)
    }

    /// Who may connect, from now on.
    pub(super) fn set_mode(&self, wanted: &Listen) -> io::Result<()> {
        match (&self.file, wanted.mode()) {
            (Some(file), Some(mode)) => file.set_mode(mode.bits()),
            _ => Ok(()),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        end(&self.socket);
    }
}

/// Refuses whoever connects from now on, although the holder may be about to hear that it need not
/// keep it any more.
pub(super) fn end(socket: &OwnedFd) {
    // One for datagrams is not connected, and says so.
    let _ = shutdown(socket, Shutdown::Both);
}

fn kept_file(path: &str, address: &SocketAddrAny, file: OwnedFd) -> Option<SocketFile> {
    let bound = SocketAddrUnix::try_from(address.clone()).ok()?;
    let is_here = bound.path().is_some_and(|bound| bound.to_bytes() == path.as_bytes());
    is_here.then(|| SocketFile::kept(Path::new(path), file)).flatten()
}

/// The file of a Unix socket that an earlier daemon has opened, if it is still there.
pub(super) fn file_of(socket: &OwnedFd, file: OwnedFd) -> Option<SocketFile> {
    let bound = SocketAddrUnix::try_from(getsockname(socket).ok()?).ok()?;
    let path = bound.path()?;
    SocketFile::kept(Path::new(OsStr::from_bytes(path.to_bytes())), file)
}

fn tcp(address: ListenAddress) -> io::Result<Open> {
    let socket = ip(address, SocketType::STREAM)?;
    // The port is free again as soon as nobody listens, see socket(7).
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address.get())?;
    listen(&socket, BACKLOG)?;
    Ok(Open { socket, file: None })
}

fn udp(address: ListenAddress) -> io::Result<Open> {
    let socket = ip(address, SocketType::DGRAM)?;
    bind(&socket, &address.get())?;
    Ok(Open { socket, file: None })
}

fn ip(address: ListenAddress, kind: SocketType) -> io::Result<OwnedFd> {
    let is_v6 = address.get().is_ipv6();
    let family = if is_v6 { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    if is_v6 {
        // Whatever net.ipv6.bindv6only says: [::] and 0.0.0.0 are two sockets.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    Ok(socket)
}

fn unix(path: &str, mode: ListenMode, kind: SocketType) -> Result<Open, String> {
    let path = Path::new(path);
    make_room(path).map_err(|taken| match taken {
        Taken::Io(error) => in_words(error),
        taken => taken.to_string(),
    })?;
    let make = || -> io::Result<Open> {
        let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
        // So that at no time more may connect: the file has no more rights than the socket had.
        fchmod(&socket, Mode::from_bits_truncate(mode.bits()))?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        let file = SocketFile::made(path)?;
        // And no fewer, whatever our umask is.
        file.set_mode(mode.bits())?;
        if kind == SocketType::STREAM {
            listen(&socket, BACKLOG)?;
        }
        Ok(Open { socket, file: Some(file) })
    };
    make().map_err(in_words)
}

/// What the kernel said, and what to do.
fn in_words(error: io::Error) -> String {
    let Some(errno) = error.raw_os_error().map(Errno::from_raw) else {
        return error.to_string();
    };
    let hint = match errno {
        Errno::EADDRINUSE => "; `ss -ltunp` and `ss -xlp` show who has it",
        Errno::EADDRNOTAVAIL => "; no network interface has this address, see `ip address`",
        Errno::EACCES => {
            "; a port below 1024 takes the capability CAP_NET_BIND_SERVICE, a path the permission \
             to write to its directory"
        }
        _ => "",
    };
    format!("{} ({errno:?}){hint}", errno.desc())
}
