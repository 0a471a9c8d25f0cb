//! Manifests: applied, shown, exported, checked.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

mod applied;
mod bad;
mod daemon;
mod documents;
mod logs;
mod wait;

use std::fs;
use std::path::PathBuf;

use orchestrator_proto::control::{Desired, Observed};
use tests::{Daemon, Said, eventually};

/// Writes a manifest into the daemon's directory; the answer is its path.
fn write(daemon: &Daemon, text: &str) -> PathBuf {
    let path = daemon.dir().join("orchestrator.toml");
    fs::write(&path, text).unwrap();
    path
}

/// Runs `apply` or `diff` with this manifest.
fn run(daemon: &Daemon, command: &str, text: &str, flags: &[&str]) -> Said {
    let path = write(daemon, text);
    let args = [&[command, path.to_str().unwrap()], flags].concat();
    daemon.cli(args)
}

/// Applies it and waits until it is so; the answer is what is printed.
#[track_caller]
fn apply(daemon: &Daemon, text: &str, flags: &[&str]) -> String {
    let said = run(daemon, "apply", text, &[&["--wait", "--timeout", "20s"], flags].concat());
    assert_eq!(said.code, Some(0), "{said:?}\n{}", daemon.log());
    said.stdout
}

/// An instance that sleeps, with these further keys.
fn sleeper(name: &str, keys: &str) -> String {
    format!("[instance.{name}]\nprogram = \"/bin/sleep\"\nargs = [\"1000\"]\n{keys}\n")
}

#[track_caller]
fn pid(daemon: &Daemon, name: &str) -> u32 {
    daemon.info(name).observed.pid().unwrap_or_else(|| panic!("{name} runs: {}", daemon.log()))
}

#[track_caller]
fn becomes(daemon: &Daemon, name: &str, word: &str) -> Observed {
    eventually(&format!("{name} is {word}"), || {
        let observed = daemon.info(name).observed;
        (observed.word() == word).then_some(observed)
    })
}

fn names(daemon: &Daemon) -> Vec<String> {
    let said = daemon.json(["runtime", "list"]);
    let all = said["runtimes"].as_array().unwrap();
    all.iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect()
}

fn desired(daemon: &Daemon, name: &str) -> Desired {
    daemon.info(name).desired
}
