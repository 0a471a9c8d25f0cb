//! Whether instances are ready and well, as an operator meets it: probes, what an instance says of
//! itself, the command that asks it to stop.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

mod commands;
mod probes;
mod saying;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use orchestrator_proto::control::{EventKind, Item, Observed};
use tests::{Daemon, Said, binary, eventually, processes};

fn kinds(daemon: &Daemon, name: &str) -> Vec<EventKind> {
    let said = daemon.ok(["--json", "events", "--instance", name]);
    let items = said.lines().map(|line| serde_json::from_str(line).unwrap());
    items
        .filter_map(|item| match item {
            Item::Event(event) => Some(event.kind),
            _ => None,
        })
        .collect()
}

fn count(daemon: &Daemon, name: &str, wanted: impl Fn(&EventKind) -> bool) -> usize {
    kinds(daemon, name).iter().filter(|kind| wanted(kind)).count()
}

#[track_caller]
fn becomes(daemon: &Daemon, name: &str, word: &str) -> Observed {
    eventually(&format!("{name} is {word}"), || {
        let observed = daemon.info(name).observed;
        (observed.word() == word).then_some(observed)
    })
}

/// Waits until it says this of itself.
#[track_caller]
fn says(daemon: &Daemon, name: &str, status: &str) {
    eventually(&format!("{name} says {status}"), || {
        (daemon.info(name).status == status).then_some(())
    });
}

#[track_caller]
fn pid(daemon: &Daemon, name: &str) -> u32 {
    eventually(&format!("{name} runs"), || daemon.info(name).observed.pid())
}

/// Adds a program: its options, then its arguments.
#[track_caller]
fn add(daemon: &Daemon, program: &Path, name: &str, options: &[&str], args: &[&str]) {
    let mut all = vec![program.to_str().unwrap(), "--name", name, "--restart-delay", "10ms"];
    all.extend(options);
    all.push("--");
    all.extend(args);
    daemon.add(all);
}

/// Adds a program that carries out its arguments, see `says.rs`.
#[track_caller]
fn add_speaker(daemon: &Daemon, name: &str, options: &[&str], args: &[&str]) {
    add(daemon, &binary("says"), name, options, args);
}

/// A start that goes on while the test does.
fn start(daemon: &Daemon, name: &str) -> Child {
    let mut command = daemon.cli_command(["runtime", "start", name]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Waits until a command has ended well.
#[track_caller]
fn done(mut command: Child) {
    let ended = eventually("a command has ended", || command.try_wait().unwrap());
    assert!(ended.success(), "{ended}");
}

/// Waits until a command has ended, one way or the other.
#[track_caller]
fn over(mut command: Child) {
    eventually("a command has ended", || command.try_wait().unwrap());
}

#[track_caller]
fn start_fails(daemon: &Daemon, name: &str) -> String {
    let said = daemon.cli(["runtime", "start", name]);
    assert_eq!(said.code, Some(1), "{said:?}");
    said.stderr
}

#[track_caller]
fn refused(daemon: &Daemon, options: &[&str]) -> String {
    let said: Said = daemon.cli([&["runtime", "add", "/bin/true"], options].concat());
    assert_ne!(said.code, Some(0), "{said:?}");
    said.stderr
}

/// Waits until what should run is stored, also if nobody was answered yet: what is stored later than
/// it, is.
fn stored(daemon: &Daemon) {
    daemon.add(["/bin/true"]);
}

/// A program of this text, in the daemon's directory.
fn script(daemon: &Daemon, name: &str, text: &str) -> PathBuf {
    let path = daemon.dir().join(name);
    let new = daemon.dir().join(format!("{name}.new"));
    fs::write(&new, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(new, &path).unwrap();
    path
}

/// An address where nobody listens, and nobody else will: it is this process's.
fn address() -> SocketAddr {
    let id = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, id[1] | 64, id[2], id[3]);
    TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap()
}

/// A server that answers every request with this status.
fn serve(address: SocketAddr, status: Arc<AtomicU16>) {
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            for line in lines {
                if !line.is_ok_and(|line| !line.is_empty()) {
                    break;
                }
            }
            let status = status.load(Ordering::Acquire);
            let _ = write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
        }
    });
}

/// Nothing runs below the daemon's holder but these.
#[track_caller]
fn only(daemon: &Daemon, pids: &[u32]) {
    eventually("nothing else is left", || {
        let mut left = daemon.processes();
        left.retain(|pid| !pids.contains(pid));
        left.is_empty().then_some(())
    });
    assert!(processes::zombies(daemon.holder_pid()).is_empty());
}
