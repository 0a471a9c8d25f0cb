//! As whom, with which rights and bounds, and in which surroundings instances are executed, as an
//! operator meets it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

mod applied;
mod bad;
mod bounds;
mod surroundings;
mod users;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tests::{Daemon, binary, skipped};

/// Starts an instance without a warning; the answer is its process.
#[track_caller]
fn start(daemon: &Daemon, name: &str) -> u32 {
    let said = daemon.cli(["runtime", "start", name]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""), "{}", daemon.log());
    daemon.info(name).observed.pid().unwrap()
}

/// Why an instance does not start.
#[track_caller]
fn refusal(daemon: &Daemon, name: &str) -> String {
    let said = daemon.cli(["runtime", "start", name]);
    assert_eq!(said.code, Some(1), "{said:?}");
    said.stderr
}

/// A line of `/proc/PID/status`, without its name.
#[track_caller]
fn status(pid: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
    line.unwrap_or_else(|| panic!("no {field} in {status}")).trim().to_owned()
}

/// A field of `/proc/PID/stat` by its number in proc(5).
#[track_caller]
fn stat(pid: u32, number: usize) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(')').next().unwrap().split_whitespace().nth(number - 3).unwrap().to_owned()
}

/// The variables that a process was executed with.
fn environment(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap();
    let all = bytes.split(|byte| *byte == 0).filter(|it| !it.is_empty());
    all.map(|it| String::from_utf8(it.to_vec()).unwrap()).collect()
}

/// Whether this test can have processes of other users; says so if not.
fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        skipped("only root can have processes of other users");
    }
    is_root
}

/// A daemon whose directory others can pass through.
fn open_daemon() -> Daemon {
    let daemon = Daemon::start();
    fs::set_permissions(daemon.dir(), fs::Permissions::from_mode(0o711)).unwrap();
    daemon
}

/// The program `says`, where others can execute it.
fn says(daemon: &Daemon) -> PathBuf {
    let path = daemon.dir().join("says");
    fs::copy(binary("says"), &path).unwrap();
    path
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
