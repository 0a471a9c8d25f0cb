//! `doctor`

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;
use tests::{Daemon, Said};

fn levels(said: &Said) -> Vec<(String, String)> {
    let report: Value = serde_json::from_str(&said.stdout).unwrap_or_else(|_| panic!("{said:?}"));
    let findings = report["findings"].as_array().unwrap();
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    findings.iter().map(|it| (word(&it["check"]), word(&it["level"]))).collect()
}

fn level(said: &Said, check: &str) -> String {
    let all = levels(said);
    let found = all.iter().find(|(name, _)| name == check);
    found.unwrap_or_else(|| panic!("{check} in {all:?}")).1.clone()
}

#[test]
fn a_good_installation_has_no_problem() {
    let daemon = Daemon::start();
    let said = daemon.cli(["--json", "doctor"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    for check in [
        "socket-path",
        "daemon",
        "client",
        "versions",
        "state-directory",
        "log-directory",
        "socket-directory",
        "disk",
        "open-files",
        "processes",
        "core-dumps",
        "priority",
        "cgroup",
        "process-groups",
        "exits",
        "clock",
        "kernel",
        "process-numbers",
        "overcommit",
        "core-pattern",
    ] {
        assert_ne!(level(&said, check), "problem", "{check}");
    }
    let text = daemon.ok(["doctor"]);
    assert!(text.lines().last().unwrap().contains("no problem") || text.contains("all is well"));
    assert!(text.lines().any(|line| line.starts_with("ok       daemon")), "{text}");
}

#[test]
fn without_a_daemon_it_says_how_to_start_one() {
    let mut daemon = Daemon::start();
    daemon.terminate();
    let said = daemon.cli(["doctor"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stdout.contains("problem  daemon"), "{said:?}");
    let command = format!("`orchestrator --socket {}`", daemon.socket().display());
    assert!(said.stdout.contains(&command), "{said:?}");
    let said = daemon.cli(["--json", "doctor"]);
    assert_eq!((level(&said, "daemon").as_str(), said.code), ("problem", Some(1)));
    assert_eq!(level(&said, "program"), "ok", "it is beside the command line");
    assert_eq!(level(&said, "kernel"), "ok");
}

#[test]
fn a_directory_that_others_can_write_to_is_a_problem() {
    let daemon = Daemon::start();
    let state = daemon.state_dir();
    fs::set_permissions(state, Permissions::from_mode(0o777)).unwrap();
    let said = daemon.cli(["--json", "doctor"]);
    assert_eq!((level(&said, "state-directory").as_str(), said.code), ("problem", Some(1)));
    fs::set_permissions(state, Permissions::from_mode(0o755)).unwrap();
    let said = daemon.cli(["--json", "doctor"]);
    assert_eq!((level(&said, "state-directory").as_str(), said.code), ("warning", Some(0)));
    fs::set_permissions(state, Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn who_is_no_daemon_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let daemon = Daemon::start();
    let path = socket.to_str().unwrap();
    let said = daemon.cli(["--socket", path, "doctor"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stdout.contains("nobody listens on the socket"), "{said:?}");
}
