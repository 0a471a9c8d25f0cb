//! `orchestrator --manifest`

use std::fs;

use nix::sys::signal::Signal;
use orchestrator_proto::control::{Desired, Observed};
use tests::{Daemon, Said, eventually};

use super::{becomes, desired, names, pid, sleeper, write};

/// A daemon with a manifest, not launched.
fn prepared(text: &str) -> Daemon {
    let daemon = Daemon::prepare(&["--manifest", "orchestrator.toml"]);
    write(&daemon, text);
    daemon.in_its_directory()
}

#[test]
fn what_it_says_is_there_from_the_start() {
    let mut daemon = prepared(&sleeper("a", ""));
    daemon.launch();
    assert_eq!(names(&daemon), ["a"]);
    let first = becomes(&daemon, "a", "ready");
    // Another daemon of the same orchestrator leaves alone what was done since.
    daemon.ok(["runtime", "stop", "a"]);
    daemon.replace_killed();
    assert_eq!(desired(&daemon, "a"), Desired::Stopped);
    // Another orchestrator does not.
    daemon.terminate();
    daemon.launch();
    let second = becomes(&daemon, "a", "ready");
    assert_ne!(first.pid(), second.pid());
}

#[test]
fn what_has_changed_meanwhile_is_started_as_it_is_now() {
    let mut daemon = prepared(&sleeper("a", ""));
    daemon.launch();
    becomes(&daemon, "a", "ready");
    daemon.terminate();
    write(&daemon, &sleeper("a", "env = { A = \"2\" }"));
    daemon.launch();
    let Observed::Ready { pid, .. } = becomes(&daemon, "a", "ready") else { panic!() };
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert!(environment.split(|byte| *byte == 0).any(|variable| variable == b"A=2"));
    assert_eq!(daemon.info("a").starts, 2);
}

#[test]
fn sighup_applies_it_again_and_removes_nothing() {
    let mut daemon = prepared(&sleeper("a", ""));
    daemon.launch();
    becomes(&daemon, "a", "ready");
    let (a, daemon_pid) = (pid(&daemon, "a"), daemon.pid());
    write(&daemon, &sleeper("b", ""));
    daemon.signal(Signal::SIGHUP);
    eventually("b is there", || (names(&daemon).len() == 2).then_some(()));
    becomes(&daemon, "b", "ready");
    assert_eq!((pid(&daemon, "a"), daemon.pid()), (a, daemon_pid));
    // What is wrong changes nothing, and is said until it is mended.
    write(&daemon, &(sleeper("b", "state = \"stopped\"") + "[instance.c]\n"));
    daemon.signal(Signal::SIGHUP);
    let warning = eventually("it is said", || daemon.status().warnings.first().cloned());
    let missing = ":5:11: `program` is missing: what it executes";
    assert!(warning.contains(missing), "{warning}");
    eventually("the log says so", || daemon.log().contains(missing).then_some(()));
    becomes(&daemon, "b", "ready");
    write(&daemon, &sleeper("b", "state = \"stopped\""));
    daemon.signal(Signal::SIGHUP);
    eventually("it is mended", || daemon.status().warnings.is_empty().then_some(()));
    becomes(&daemon, "b", "stopped");
}

#[test]
fn one_that_is_wrong_ends_an_orchestrator_that_has_nothing_else() {
    let mut daemon = prepared("[instance.a]\nprogran = \"/bin/sleep\"\n");
    let said = Said::of(daemon.command());
    assert_eq!(said.code, Some(1), "{said:?}");
    let expected =
        "orchestrator.toml:2:1: there is no key \"progran\" here; did you mean `program`?";
    assert!(said.stderr.contains(expected), "{said:?}");
    // With something to run it goes on with that.
    write(&daemon, &sleeper("a", ""));
    daemon.launch();
    becomes(&daemon, "a", "ready");
    daemon.terminate();
    write(&daemon, "nonsense");
    daemon.launch();
    becomes(&daemon, "a", "ready");
    let warnings = daemon.status().warnings;
    assert!(warnings[0].contains("the manifest is wrong"), "{warnings:?}");
}
