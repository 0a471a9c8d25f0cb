//! Runtimes in Python: its own unit tests, and real programs with the real daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

mod privileged;
mod traffic;
mod twins;
mod unit;

use std::path::PathBuf;
use std::process::Command;

use tests::{Daemon, Said, skipped};

/// The directory with the package.
fn package() -> PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/python").into()
}

/// A program of this test's.
fn script(name: &str) -> String {
    format!("{}/python/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Python with the package; none, and it is said, if there is no Python that is new enough.
fn python() -> Option<Command> {
    let mut check = Command::new("python3");
    check.args(["-c", "import sys; sys.exit(sys.version_info < (3, 9))"]);
    match check.status() {
        Ok(status) if status.success() => {}
        other => {
            skipped(&format!("there is no python3 of version 3.9 or later: {other:?}"));
            return None;
        }
    }
    let mut python = Command::new("python3");
    // Without files of compiled code beside the sources.
    python.arg("-B").env("PYTHONPATH", package());
    Some(python)
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
