//! Sets of replicas: added, meant by their names, scaled, linked, applied, and removed.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

mod applied;
mod bad;
mod links;
mod meant;
mod scaled;
mod survival;

use orchestrator_proto::InstanceId;
use orchestrator_proto::control::{ReplicaSetDetail, Reply, Request, RuntimeInfo};
use tests::Daemon;

/// Adds a set of so many shells that do this.
#[track_caller]
fn add(daemon: &Daemon, name: &str, count: &str, script: &str, flags: &[&str]) -> String {
    let args = ["runtime", "add", "/bin/sh", "--name", name, "--replicas", count];
    daemon.ok([&args[..], flags, &["--", "-c", script]].concat())
}

const SLEEP: &str = "exec sleep 1000";

#[track_caller]
fn detail(daemon: &Daemon, set: &str) -> ReplicaSetDetail {
    match daemon.request(Request::RuntimeShow { instance: set.into() }) {
        Ok(Reply::ReplicaSet(detail)) => *detail,
        other => panic!("{other:?}\n{}", daemon.log()),
    }
}

/// Its replicas that are there.
#[track_caller]
fn replicas(daemon: &Daemon, set: &str) -> Vec<RuntimeInfo> {
    detail(daemon, set).instances
}

/// Their names, ids and processes.
#[track_caller]
fn seen(daemon: &Daemon, set: &str) -> Vec<(String, InstanceId, Option<u32>)> {
    let each = replicas(daemon, set).into_iter();
    each.map(|it| (it.name.unwrap(), it.id, it.observed.pid())).collect()
}

/// The names of all instances, the oldest first.
fn names(daemon: &Daemon) -> Vec<String> {
    let said = daemon.json(["runtime", "list"]);
    let all = said["runtimes"].as_array().unwrap();
    all.iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect()
}

/// Runs a command that fails; the answer is what it says.
#[track_caller]
fn refused(daemon: &Daemon, args: &[&str]) -> String {
    let said = daemon.cli(args);
    assert!(said.code.is_some_and(|code| code != 0), "{said:?}\n{}", daemon.log());
    said.stderr
}
