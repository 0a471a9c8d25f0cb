//! The file of a Unix socket: made, recognised, and removed if it is still the one that was made.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, fstat, openat};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// The file of a socket of ours. It is removed when this is dropped, unless another one is in its
/// place by then.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// The file itself (`O_PATH`, open(2)): as long as it is open, no other file has its number.
    itself: OwnedFd,
}

impl SocketFile {
    /// The one that was just made here.
    pub(super) fn made(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let itself = openat(CWD, path, flags, Mode::empty())?;
        Ok(Self { path: path.to_owned(), itself })
    }

    /// The one that an earlier daemon has made here, if it is still there.
    pub(super) fn kept(path: &Path, itself: OwnedFd) -> Option<Self> {
        let is_there = is_at(path, &itself);
        is_there.then(|| Self { path: path.to_owned(), itself })
    }

    /// What the next daemon needs to recognise it.
    pub(super) fn itself(&self) -> BorrowedFd<'_> {
        self.itself.as_fd()
    }

    /// Who may connect, from now on.
    pub(super) fn set_mode(&self, mode: u32) -> io::Result<()> {
        // By its number, whatever is at the path by now.
        let itself = format!("/proc/self/fd/{}", self.itself.as_raw_fd());
        fs::set_permissions(itself, Permissions::from_mode(mode))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if is_at(&self.path, &self.itself)
            && let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = ?self.path, %error, "a socket could not be removed");
        }
    }
}

/// Whether the file at this path is this one.
fn is_at(path: &Path, file: &OwnedFd) -> bool {
    let (Ok(there), Ok(itself)) = (fs::symlink_metadata(path), fstat(file)) else {
        return false;
    };
    (there.dev(), there.ino()) == (itself.st_dev, itself.st_ino)
}

/// Why nothing can be made at a path.
#[derive(Debug, thiserror::Error)]
pub(super) enum Taken {
    /// By something that is no socket.
    #[error("there is a file that is no socket; remove it, or choose another path")]
    NoSocket,
    /// Somebody listens there.
    #[error("somebody listens there already; `ss -xlp` shows who")]
    Alive,
    /// Nobody listens there.
    #[error(
        "there is a socket on which nobody listens, but it belongs to the user {0}; remove it if \
         it is of no use any more"
    )]
    Foreign(u32),
    /// It can't be looked at, or not be removed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Makes room for a socket at a path: makes the directories that are missing, for all to enter,
/// and removes a socket of this user's on which nobody listens any more.
pub(super) fn make_room(path: &Path) -> Result<(), Taken> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(parent) = path.parent() {
                DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
            }
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    if !metadata.file_type().is_socket() {
        return Err(Taken::NoSocket);
    }
    if is_alive(path)? {
        return Err(Taken::Alive);
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(Taken::Foreign(metadata.uid()));
    }
    tracing::info!(?path, "replacing a socket on which nobody listens any more");
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Whether anybody has this socket open. A datagram socket is refused at once by one of another
/// type, and so tells of it without sending anything.
fn is_alive(path: &Path) -> io::Result<bool> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    match connect(&socket, &SocketAddrUnix::new(path)?) {
        Err(rustix::io::Errno::CONNREFUSED | rustix::io::Errno::NOENT) => Ok(false),
        // Of another type, or we may not connect to it: whoever has it is there.
        Ok(()) | Err(_) => Ok(true),
    }
}
