//! Runtimes in Python: its own unit tests, and real programs with the real daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

mod calls;
mod privileged;
mod traffic;
mod twins;
mod unit;

use tests::python::{package, python};
use tests::{Daemon, Said};

/// A program of this test's.
fn script(name: &str) -> String {
    format!("{}/python/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Adds a program of this test's to a daemon.
fn add(daemon: &Daemon, name: &str, options: &[&str], program: &str, args: &[&str]) -> String {
    let path = format!("PYTHONPATH={}", package().display());
    let program = script(program);
    let mut all = vec!["/usr/bin/env", "--name", name];
    all.extend(options);
    all.extend(["--", &path, "python3", "-B", &program]);
    all.extend(args);
    daemon.add(all)
}

/// Everything that an instance of a test said, for when it fails.
fn said(daemon: &Daemon, name: &str) -> String {
    let Said { stdout, .. } = daemon.cli(["runtime", "logs", name, "--no-follow"]);
    stdout
}
