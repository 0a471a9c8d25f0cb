//! The way to the daemon.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use orchestrator_proto::client::ClientError;
use orchestrator_proto::control::Finding;

use crate::format;

/// The name of the daemon's program.
const DAEMON: &str = "orchestrator";

/// The directory of the socket: who can put another socket there.
pub(super) fn directory(socket: &Path) -> Finding {
    let parent = socket.parent().unwrap_or(Path::new("/"));
    let shown = parent.display().to_string();
    match fs::metadata(parent) {
        Ok(metadata) => owned(&shown, metadata.uid(), metadata.mode()),
        Err(error) => Finding::problem(
            "socket-path",
            format!("the directory of the socket, {shown}, can't be looked at: {error}"),
            "the daemon makes it when it starts; if it runs elsewhere, say where with --socket or \
             ORCHESTRATOR_SOCKET",
        ),
    }
}

fn owned(path: &str, owner: u32, mode: u32) -> Finding {
    let uid = nix::unistd::geteuid().as_raw();
    let everybody = mode & 0o002 != 0 && mode & 0o1000 == 0;
    if everybody || (owner != uid && owner != 0 && uid != 0) {
        let message = format!("another user could put a socket of their own into {path}");
        let advice = format!("chmod 700 {path}, or use a directory of your own");
        return Finding::warning("socket-path", message, advice);
    }
    Finding::ok("socket-path", format!("the socket is in {path}, which no other user can change"))
}

/// Why there is no connection.
pub(super) fn unreachable(path: &Path, error: &ClientError) -> Finding {
    let shown = path.display();
    let (why, advice) = match error {
        ClientError::NotReachable { source, .. } => not_reachable(path, source),
        error => {
            let advice = "upgrade what is older, the daemon or this program";
            return Finding::problem("daemon", error.to_string(), advice);
        }
    };
    Finding::problem("daemon", format!("no daemon can be reached at {shown}: {why}"), advice)
}

fn not_reachable(path: &Path, error: &io::Error) -> (String, String) {
    let start = format!(
        "start it with `{DAEMON} --socket {}`, or say where it listens with --socket or \
         ORCHESTRATOR_SOCKET",
        format::shell_word(path.as_os_str())
    );
    match error.kind() {
        io::ErrorKind::PermissionDenied => (
            "this user may not".to_owned(),
            "run this as the user that runs the daemon, or as root".to_owned(),
        ),
        io::ErrorKind::NotFound => ("there is no socket".to_owned(), start),
        io::ErrorKind::ConnectionRefused => {
            let is_socket =
                fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
            let why = if is_socket {
                "nobody listens on the socket; the daemon was killed, or has ended"
            } else {
                "it is no socket"
            };
            (why.to_owned(), start)
        }
        _ => (error.to_string(), start),
    }
}

/// Where the daemon's program is: beside this one, or where the shell finds it.
pub(super) fn program() -> Option<Finding> {
    let beside = std::env::current_exe().ok();
    let beside = beside.as_deref().and_then(Path::parent).map(|directory| directory.join(DAEMON));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        find(beside.into_iter().chain(std::env::split_paths(&path).map(|it| it.join(DAEMON))));
    Some(match found {
        Some(program) => {
            Finding::ok("program", format!("the daemon's program is {}", program.display()))
        }
        None => Finding::problem(
            "program",
            format!("the daemon's program, {DAEMON}, is neither beside this one nor in PATH"),
            "install it beside this program",
        ),
    })
}

fn find(mut places: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    places.find(|place| {
        fs::metadata(place).is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o111 != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrator_proto::control::Level;

    #[test]
    fn who_could_put_a_socket_there() {
        let uid = nix::unistd::geteuid().as_raw();
        assert_eq!(owned("/x", uid, 0o700).level, Level::Ok);
        assert_eq!(owned("/x", uid, 0o777).level, Level::Warning);
        assert_eq!(owned("/x", 0, 0o1777).level, Level::Ok);
        assert_eq!(directory(Path::new("/nonexistent/socket")).level, Level::Problem);
    }

    #[test]
    fn why_there_is_no_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let why = |kind: io::ErrorKind| not_reachable(&socket, &kind.into()).0;
        assert_eq!(why(io::ErrorKind::NotFound), "there is no socket");
        assert_eq!(why(io::ErrorKind::ConnectionRefused), "it is no socket");
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        assert!(why(io::ErrorKind::ConnectionRefused).contains("killed"));
        assert_eq!(why(io::ErrorKind::PermissionDenied), "this user may not");
    }

    #[test]
    fn only_what_can_be_executed_is_a_program() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("o");
        fs::write(&file, "").unwrap();
        assert_eq!(find([file.clone()].into_iter()), None);
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&file, mode).unwrap();
        assert_eq!(find([dir.path().to_owned(), file.clone()].into_iter()), Some(file));
    }
}
