//! Finds the daemon.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use orchestrator_proto::client::{Client, ClientError};
use orchestrator_proto::paths::default_control_socket;

use crate::failure::Failure;

/// Connects to the socket that was given, else to the default one.
pub(crate) async fn connect(socket: Option<OsString>) -> Result<Client, Failure> {
    let path = path(socket)?;
    open(&path).await.map_err(|error| Failure::connect(&path, error))
}

/// Connects to this socket.
pub(crate) async fn open(path: &Path) -> Result<Client, ClientError> {
    Client::connect(path).await
}

/// The socket that was given, else the default one.
pub(crate) fn path(socket: Option<OsString>) -> Result<PathBuf, Failure> {
    match socket {
        // As with other variables, an empty ORCHESTRATOR_SOCKET is the same as none.
        Some(path) if !path.is_empty() => Ok(path.into()),
        _ => default_socket(),
    }
}

fn default_socket() -> Result<PathBuf, Failure> {
    let temp_dir = std::env::temp_dir();
    let uid = nix::unistd::geteuid().as_raw();
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR");
    let path = default_control_socket(runtime_dir.as_deref(), &temp_dir, uid);
    if uid == 0 {
        return Ok(of_root(path, default_control_socket(None, &temp_dir, uid)));
    }
    match path.parent() {
        // Everybody can make directories beside it.
        Some(directory) if directory.parent() == Some(&temp_dir) && is_foreign(directory, uid) => {
            Err(Failure::foreign_directory(directory))
        }
        _ => Ok(path),
    }
}

/// A session of root's own has a directory for sockets too, and the service is not in it.
fn of_root(own: PathBuf, service: PathBuf) -> PathBuf {
    if !own.exists() && service.exists() { service } else { own }
}

/// Whether it is there, and is not a directory of this user.
fn is_foreign(directory: &Path, uid: u32) -> bool {
    // Not followed: a symbolic link there is foreign too, wherever it leads.
    let metadata = directory.symlink_metadata();
    metadata.is_ok_and(|it| !it.is_dir() || it.uid() != uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_finds_the_service_if_it_has_none_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let (own, service) = (dir.path().join("own"), dir.path().join("service"));
        let found = || of_root(own.clone(), service.clone());
        assert_eq!(found(), own);
        std::fs::write(&service, "").unwrap();
        assert_eq!(found(), service);
        std::fs::write(&own, "").unwrap();
        assert_eq!(found(), own);
    }

    #[test]
    fn a_directory_of_another_user_is_foreign() {
        let dir = tempfile::tempdir().unwrap();
        let uid = nix::unistd::geteuid().as_raw();
        assert!(!is_foreign(dir.path(), uid));
        assert!(is_foreign(dir.path(), uid + 1));
        assert!(!is_foreign(&dir.path().join("none"), uid));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(is_foreign(&link, uid));
    }
}
