//! Unix sockets that only their owner can connect to, from the first moment on.
//!
//! The directory that they are in may be open to others, so that processes of other users find
//! those that are theirs.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, fchmod};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};

/// Connections that wait until they are accepted.
const BACKLOG: i32 = 1024;

/// A socket at a path where nothing is, with the mode 0600. It does not wait.
///
/// # Errors
///
/// When it can't be made.
pub(crate) fn bound(path: &Path, kind: SocketType) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, kind, flags, None)?;
    // Before it has a name: Linux gives that the mode of the socket, less the umask. What is made
    // first and closed then is open in between.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// The same, for connections of a stream.
///
/// # Errors
///
/// When it can't be made.
pub(crate) fn listener(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    let socket = bound(path, SocketType::STREAM)?;
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    #[test]
    fn nobody_else_can_connect() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        let (stream, datagram) = (dir.path().join("s"), dir.path().join("d"));
        let _listener = listener(&stream).unwrap();
        let _socket = bound(&datagram, SocketType::DGRAM).unwrap();
        assert_eq!((mode(&stream), mode(&datagram)), (0o600, 0o600));
        UnixStream::connect(&stream).unwrap();
        UnixDatagram::unbound().unwrap().connect(&datagram).unwrap();
        assert_eq!(listener(&stream).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
