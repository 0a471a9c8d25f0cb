//! The control socket of a service manager, which has opened it before there was a daemon, see
//! sd_listen_fds(3). The holder keeps it for all daemons.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::bail;
use rustix::net::{SocketAddrUnix, SocketType, getsockname, sockopt};

use crate::process::{FIRST_INHERITED, MAX_LISTENERS, Name};

/// A control socket that is not ours to remove.
#[derive(Debug)]
pub(super) struct Activated {
    socket: OwnedFd,
    /// Where clients find it.
    pub(super) path: PathBuf,
}

impl Activated {
    /// The one among the files of an earlier daemon, or those that the holder was started with.
    pub(super) fn take(left: &mut HashMap<Name, OwnedFd>) -> Option<Self> {
        let mut found = None;
        for place in 0..MAX_LISTENERS as u64 {
            let name = Name { tag: FIRST_INHERITED.tag + place, ..FIRST_INHERITED };
            let Some(socket) = left.remove(&name) else { continue };
            match control_socket(&socket) {
                Some(path) if found.is_none() => found = Some(Self { socket, path }),
                _ => tracing::warn!(
                    number = 3 + place,
                    "a socket of the service manager is of no use here: it has to be the one \
                     control socket, a Unix stream socket that listens, with a path"
                ),
            }
        }
        found
    }

    /// Whether this is what was asked for, if anything was.
    ///
    /// # Errors
    ///
    /// A sentence, if it is another one.
    pub(super) fn check(&self, wanted: Option<&Path>) -> anyhow::Result<()> {
        let same = |path: &Path| {
            let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
            path == self.path || real(path) == real(&self.path)
        };
        match wanted {
            Some(wanted) if !same(wanted) => bail!(
                "the service manager has opened {:?}, and --socket or ORCHESTRATOR_SOCKET says \
                 {wanted:?}; leave one out, or make them the same",
                self.path
            ),
            _ => Ok(()),
        }
    }

    /// To accept clients on. Must be called within a tokio runtime.
    pub(super) fn listener(self) -> io::Result<tokio::net::UnixListener> {
        let listener = std::os::unix::net::UnixListener::from(self.socket);
        listener.set_nonblocking(true)?;
        tokio::net::UnixListener::from_std(listener)
    }
}

/// The path of a socket that can be the control socket.
fn control_socket(socket: &OwnedFd) -> Option<PathBuf> {
    let is_stream = sockopt::socket_type(socket).ok()? == SocketType::STREAM;
    let listens = sockopt::socket_acceptconn(socket).ok()?;
    let address = SocketAddrUnix::try_from(getsockname(socket).ok()?).ok()?;
    let path = Path::new(OsStr::from_bytes(address.path()?.to_bytes())).to_owned();
    (is_stream && listens && path.is_absolute()).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    #[test]
    fn the_first_that_can_be_one_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let name = |place| Name { tag: FIRST_INHERITED.tag + place, ..FIRST_INHERITED };
        let other = Name { key: [9; 16], tag: 1 };
        let unnamed = UnixDatagram::unbound().unwrap();
        let mut left: HashMap<Name, OwnedFd> = HashMap::from([
            (name(0), std::net::TcpListener::bind("127.0.0.1:0").unwrap().into()),
            (name(1), UnixDatagram::bind(path("d")).unwrap().into()),
            (name(2), unnamed.into()),
            (name(3), UnixListener::bind(path("s")).unwrap().into()),
            (name(4), UnixListener::bind(path("t")).unwrap().into()),
            (other, UnixListener::bind(path("o")).unwrap().into()),
        ]);
        let taken = Activated::take(&mut left).unwrap();
        assert_eq!(taken.path, path("s"));
        assert_eq!(left.keys().collect::<Vec<_>>(), [&other]);
        assert!(Activated::take(&mut left).is_none());
        taken.check(None).unwrap();
        taken.check(Some(&path("s"))).unwrap();
        std::os::unix::fs::symlink(dir.path(), path("link")).unwrap();
        taken.check(Some(&path("link/s"))).unwrap();
        let error = taken.check(Some(&path("t"))).unwrap_err().to_string();
        assert!(error.contains("leave one out"), "{error}");
    }
}
