//! Where a daemon and its clients meet when nobody says otherwise.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// The variable that holds the path of the control socket, for the daemon and its clients.
pub const ENV_CONTROL_SOCKET: &str = "ORCHESTRATOR_SOCKET";

/// The file name of the control socket.
pub const CONTROL_SOCKET: &str = "orchestrator.socket";

/// The path of the control socket when none is given: the first of these that applies.
///
/// 1. `$XDG_RUNTIME_DIR/orchestrator.socket`. As the XDG Base Directory Specification asks, a
///    value that is empty or not absolute counts as not set.
/// 2. For root: `/run/orchestrator/orchestrator.socket`.
/// 3. `TEMP/orchestrator-UID/orchestrator.socket`. Others may write to a directory for
///    temporary files, so a daemon must make sure that `orchestrator-UID` is its own user's.
///
/// `xdg_runtime_dir` is the value of that variable, `temp_dir` is what
/// [`std::env::temp_dir`] says, `uid` is the effective user id.
#[must_use]
pub fn default_control_socket(
    xdg_runtime_dir: Option<&OsStr>,
    temp_dir: &Path,
    uid: u32,
) -> PathBuf {
    let runtime_dir = xdg_runtime_dir.map(Path::new).filter(|dir| dir.is_absolute());
    match runtime_dir {
        Some(dir) => dir.join(CONTROL_SOCKET),
        None if uid == 0 => Path::new("/run/orchestrator").join(CONTROL_SOCKET),
        None => temp_dir.join(format!("orchestrator-{uid}")).join(CONTROL_SOCKET),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(xdg: Option<&str>, uid: u32) -> String {
        default_control_socket(xdg.map(OsStr::new), Path::new("/tmp"), uid).display().to_string()
    }

    #[test]
    fn the_first_that_applies() {
        let cases = [
            (Some("/run/user/7"), 7, "/run/user/7/orchestrator.socket"),
            (Some("/run/user/0"), 0, "/run/user/0/orchestrator.socket"),
            (Some(""), 0, "/run/orchestrator/orchestrator.socket"),
            (Some("relative"), 7, "/tmp/orchestrator-7/orchestrator.socket"),
            (None, 0, "/run/orchestrator/orchestrator.socket"),
            (None, 7, "/tmp/orchestrator-7/orchestrator.socket"),
        ];
        for (xdg, uid, expected) in cases {
            assert_eq!(path(xdg, uid), expected);
        }
    }
}
