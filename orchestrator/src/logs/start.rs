//! Reaching the capture process, which is started if there is none.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use nix::fcntl::{Flock, FlockArg};

use super::socket::{self, Socket};

/// Starts a capture process with a listener as its standard input. Need not wait until the program
/// is executed: who connects until then waits in the listener's backlog.
pub type Starter = Arc<dyn Fn(OwnedFd) -> io::Result<()> + Send + Sync>;

/// Connects to the capture process that listens at `path`, or starts one that does. Of several
/// daemons that do this at once one starts it. Blocks as long as that takes.
pub(super) fn connect(path: &Path, starter: &Starter) -> io::Result<Socket> {
    let _lock = lock(path)?;
    match Socket::connect(path) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            return Err(io::Error::other("it is there and does not accept connections"));
        }
        connected => return connected,
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = socket::listen(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    starter(listener)?;
    Socket::connect(path)
}

/// Held for the moment in which it is seen whether anybody listens.
fn lock(path: &Path) -> io::Result<Flock<File>> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path.with_extension("lock"))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
}
