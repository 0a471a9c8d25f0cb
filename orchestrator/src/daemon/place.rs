//! The daemon's place in the file system: one daemon for each socket and each state directory.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use orchestrator_proto::paths;
use tokio::net::UnixListener;

use super::activation::Activated;
use crate::options::Options;
use crate::private_socket;
use crate::process::{Kernel, Name};
use crate::runtime::InstanceSockets;

/// What the holder calls the files of the daemon itself.
const LISTENER: Name = own(1);
const STATE_LOCK: Name = own(2);
const SOCKET_LOCK: Name = own(3);

const fn own(tag: u64) -> Name {
    // No instance has this id.
    Name { key: [0; 16], tag }
}

/// The name of the capture process's socket, in the directory for the sockets of instances.
pub(super) const CAPTURE: &str = "capture";

/// What belongs to this daemon alone. Dropping it removes what is as short-lived as the daemon.
pub(super) struct Place {
    /// The control socket.
    pub(super) socket: PathBuf,
    /// The directory for the sockets of instances.
    pub(super) sockets: PathBuf,
    /// The state directory.
    pub(super) state: PathBuf,
    /// The control socket is a service manager's, and stays.
    is_activated: bool,
    /// Held for as long as the daemon lives; the kernel lets go of them whatever happens.
    _locks: [Flock<File>; 2],
}

impl Place {
    /// Takes the socket and the state directory, and listens; goes on listening where an earlier
    /// daemon did, if it has left that with the holder, which keeps it for the next; or where a
    /// service manager does.
    pub(super) fn take(
        options: &Options,
        kernel: &dyn Kernel,
        left: &mut HashMap<Name, OwnedFd>,
        activated: Option<Activated>,
    ) -> anyhow::Result<(Self, UnixListener)> {
        let uid = nix::unistd::geteuid().as_raw();
        let state = state_dir(options)?;
        let is_activated = activated.is_some();
        let socket = match &activated {
            Some(activated) => {
                let wanted = options.socket.as_deref().map(absolute).transpose()?;
                activated.check(wanted.as_deref())?;
                activated.path.clone()
            }
            None => absolute(&options.socket.clone().unwrap_or_else(|| {
                let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR");
                paths::default_control_socket(runtime_dir.as_deref(), &std::env::temp_dir(), uid)
            }))?,
        };
        let sockets = with_suffix(&socket, ".d");
        let excess = InstanceSockets::excess(&sockets);
        if excess > 0 {
            bail!(
                "the path of the control socket is {excess} bytes too long for the sockets of \
                 instances beside it; give a shorter one with --socket: {socket:?}"
            );
        }

        private_dir(&state, Permissions::from_mode(0o700))
            .with_context(|| format!("cannot use the state directory {state:?}"))?;
        let is_first = !left.contains_key(&STATE_LOCK);
        let state_lock =
            lock(&state.join("lock"), ("the state directory", &state), left.remove(&STATE_LOCK))?;
        keep(kernel, STATE_LOCK, &*state_lock)?;
        if let Some(parent) = socket.parent() {
            private_dir(parent, way_through())
                .with_context(|| format!("cannot use the directory of the socket {socket:?}"))?;
        }
        // Before the directory of instance sockets is touched: it may be a living daemon's.
        let socket_lock = lock(
            &with_suffix(&socket, ".lock"),
            ("the socket", &socket),
            left.remove(&SOCKET_LOCK),
        )?;
        keep(kernel, SOCKET_LOCK, &*socket_lock)?;
        let listener = match (activated, left.remove(&LISTENER)) {
            (Some(activated), _) => {
                // What an orchestrator that was killed has left.
                if is_first {
                    clear(&sockets)?;
                }
                activated.listener().context("cannot listen on the service manager's socket")?
            }
            (None, Some(kept)) if socket.exists() => UnixListener::from_std(kept.into())?,
            _ => {
                refuse_living(&socket)?;
                clear(&sockets)?;
                let cannot = || format!("cannot listen on the control socket {socket:?}");
                let listener = private_socket::listener(&socket).with_context(cannot)?;
                let listener = UnixListener::from_std(listener)?;
                keep(kernel, LISTENER, &listener)?;
                listener
            }
        };
        private_dir(&sockets, way_through())
            .and_then(|()| Ok(fs::set_permissions(&sockets, way_through())?))
            .with_context(|| format!("cannot make the directory {sockets:?}"))?;
        Ok((
            Self { socket, sockets, state, is_activated, _locks: [state_lock, socket_lock] },
            listener,
        ))
    }

    /// No new client finds the daemon from now on.
    pub(super) fn remove_socket(&self) {
        if !self.is_activated {
            remove(&self.socket);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.remove_socket();
        let _ = fs::remove_dir_all(&self.sockets);
        // The lock is still held, so this is not another daemon's file.
        remove(&with_suffix(&self.socket, ".lock"));
    }
}

/// Has the holder keep a file of the daemon's own for the next one.
fn keep(kernel: &dyn Kernel, name: Name, file: impl AsFd) -> anyhow::Result<()> {
    kernel.keep(name, file.as_fd().try_clone_to_owned()?);
    Ok(())
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(?path, %error, "a file could not be removed");
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot make {path:?} absolute"))
}

/// Where state is kept, as the options and the environment say.
pub(super) fn state_dir(options: &Options) -> anyhow::Result<PathBuf> {
    absolute(&options.state_dir.clone().map_or_else(default_state_dir, Ok)?)
}

fn default_state_dir() -> anyhow::Result<PathBuf> {
    let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if nix::unistd::geteuid().is_root() {
        Ok("/var/lib/orchestrator".into())
    } else if let Some(dir) = set("XDG_STATE_HOME") {
        Ok(dir.join("orchestrator"))
    } else if let Some(home) = set("HOME") {
        Ok(home.join(".local/state/orchestrator"))
    } else {
        bail!("neither XDG_STATE_HOME nor HOME is set; give a directory with --state-dir")
    }
}

/// The permissions of a directory in which others can get at what is theirs, and see nothing: if
/// this is root, its instances may be other users', and each has its sockets, closed to all others.
fn way_through() -> Permissions {
    let is_root = nix::unistd::geteuid().is_root();
    Permissions::from_mode(if is_root { 0o711 } else { 0o700 })
}

/// Makes a directory with these permissions. Only this user can write to it. One that is there already is left as it is, with a
/// warning if others can get into it, and refused if it belongs to somebody else who could
/// replace what is in it.
fn private_dir(path: &Path, permissions: Permissions) -> anyhow::Result<()> {
    DirBuilder::new().recursive(true).mode(permissions.mode()).create(path)?;
    let metadata = fs::metadata(path)?;
    let sticky = metadata.mode() & 0o1000 != 0;
    let uid = nix::unistd::geteuid().as_raw();
    if metadata.uid() != uid && metadata.uid() != 0 {
        bail!("it belongs to the user {}, not to this one ({uid})", metadata.uid());
    }
    if metadata.mode() & 0o022 != 0 && !sticky {
        bail!("others can write to it; try chmod 700 {path:?}");
    }
    if metadata.mode() & 0o066 != 0 {
        tracing::debug!(?path, "others can look into this directory; 0700 is safer");
    }
    Ok(())
}

/// One daemon at a time, and its successors: the kernel lets go of the lock when all of them have
/// ended, and the process that holds them, however they end. `kept` is an earlier daemon's.
fn lock(
    path: &Path,
    (what, used): (&str, &Path),
    mut kept: Option<OwnedFd>,
) -> anyhow::Result<Flock<File>> {
    loop {
        let file = match kept.take() {
            // The same lock, which is not refused to who has it.
            Some(kept) => kept.into(),
            None => OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)
                .with_context(|| format!("cannot write to {path:?}"))?,
        };
        let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                let pid = pid.trim();
                let holder = if pid.is_empty() { "another daemon" } else { "the daemon with pid" };
                bail!(
                    "{what} {used:?} is in use by {holder} {pid}; stop that one, or choose \
                     another with --socket and --state-dir"
                );
            }
            Err((_, errno)) => {
                return Err(io::Error::from(errno))
                    .with_context(|| format!("cannot lock {path:?}"));
            }
        };
        // The daemon before may have removed the file after it was opened here.
        let current = fs::metadata(path).map(|metadata| metadata.ino()).ok();
        if current == Some(lock.metadata()?.ino()) {
            lock.set_len(0)?;
            lock.rewind()?;
            write!(lock, "{}", std::process::id())
                .with_context(|| format!("cannot write to {path:?}"))?;
            return Ok(lock);
        }
    }
}

/// Removes what is left of a daemon that did not end well; refuses what is alive, or no socket.
fn refuse_living(socket: &Path) -> anyhow::Result<()> {
    let metadata = match fs::symlink_metadata(socket) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot look at {socket:?}")),
    };
    if !metadata.file_type().is_socket() {
        bail!("{socket:?} is there and is no socket; remove it, or choose another with --socket");
    }
    // The lock is ours, so whoever answers is no daemon of this kind.
    if let Ok(stream) = UnixStream::connect(socket) {
        let pid = getsockopt(&stream, PeerCredentials).map_or(0, |peer| peer.pid());
        bail!(
            "{socket:?} is in use by the process with pid {pid}; stop that one, or choose another \
             with --socket"
        );
    }
    tracing::info!(?socket, "replacing the socket of a daemon that did not end well");
    fs::remove_file(socket).with_context(|| format!("cannot remove the stale socket {socket:?}"))
}

/// Removes the sockets that a daemon that did not end well left behind, but not the one at
/// which its capture process, which goes on, can be found.
fn clear(sockets: &Path) -> anyhow::Result<()> {
    let clear = || -> io::Result<()> {
        for entry in fs::read_dir(sockets)? {
            let path = entry?.path();
            let kept = path.file_stem().is_some_and(|name| name == CAPTURE);
            if !kept && fs::symlink_metadata(&path)?.is_dir() {
                fs::remove_dir_all(&path)?;
            } else if !kept {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    };
    match clear() {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot clear the directory {sockets:?}"))
        }
        _ => Ok(()),
    }
}
