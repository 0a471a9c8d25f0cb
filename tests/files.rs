//! How many files are open for an instance in which nothing happens, and that they are closed again.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use orchestrator_proto::control::{Reply, Request};
use orchestrator_proto::runtime::Frame;
use tests::native::Native;
use tests::{Daemon, SOON, eventually, processes};

const COUNT: usize = 20;

/// Of one instance: what it prints into, and the two sockets that it can connect to.
const HOLDER: usize = 4;
/// Of one instance: what it prints into.
const CAPTURE: usize = 2;

/// How many files each process has open.
#[derive(Clone, Copy, Debug)]
struct Open {
    daemon: usize,
    holder: usize,
    capture: usize,
}

fn open(daemon: &Daemon) -> Open {
    let holder = daemon.holder_pid();
    let capture = eventually("there is a capture process", || processes::capture(holder));
    Open {
        daemon: processes::open_files(daemon.pid()),
        holder: processes::open_files(holder),
        capture: processes::open_files(capture),
    }
}

/// Waits until so many instances cost no more than they have to.
#[track_caller]
fn costs(daemon: &Daemon, empty: Open, running: usize, added: usize) {
    let sockets = 2 * (added - running);
    let (holder, capture) =
        (empty.holder + HOLDER * running + sockets, empty.capture + CAPTURE * running);
    let deadline = Instant::now() + SOON;
    loop {
        let now = open(daemon);
        // A connection of before may have been open when nothing else was, or be now.
        let is_least =
            now.daemon < empty.daemon + COUNT / 2 && now.holder <= holder && now.capture <= capture;
        if is_least {
            return;
        }
        assert!(Instant::now() < deadline, "{added} instances cost {now:?} with {empty:?}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn names() -> impl Iterator<Item = String> {
    (0..COUNT).map(|at| format!("s{at}"))
}

fn native(daemon: &Daemon, id: &str) -> Native {
    let mut dir = daemon.socket().as_os_str().to_owned();
    dir.push(".d");
    Native::connect(&PathBuf::from(dir).join(format!("{}.native", id.replace('-', ""))))
}

#[track_caller]
fn is_served(mut connection: Native) {
    let welcome = connection.next(|frame| matches!(frame, Frame::Welcome { .. }));
    assert_eq!(welcome, Some(true));
}

#[test]
fn an_idle_instance_has_six_files_open_in_all_and_none_in_the_daemon() {
    let daemon = Daemon::start();
    eventually("the capture process is at work", || match daemon.request(Request::DaemonStatus) {
        Ok(Reply::Daemon(status)) => status.capture,
        other => panic!("{other:?}"),
    });
    let empty = open(&daemon);
    let ids: Vec<String> =
        names().map(|name| daemon.add(["/bin/sleep", "--name", &name, "--", "1000"])).collect();
    costs(&daemon, empty, 0, COUNT);
    names().for_each(|name| drop(daemon.ok(["runtime", "start", &name])));
    costs(&daemon, empty, COUNT, COUNT);

    // Whoever comes is heard, and costs nothing any more when he has gone.
    for id in &ids {
        is_served(native(&daemon, id));
    }
    costs(&daemon, empty, COUNT, COUNT);
    let all: Vec<_> = ids.iter().map(|id| native(&daemon, id)).collect();
    all.into_iter().for_each(is_served);
    costs(&daemon, empty, COUNT, COUNT);

    // The same with the next of each of them.
    daemon.replace_killed();
    costs(&daemon, empty, COUNT, COUNT);
    ids.iter().for_each(|id| is_served(native(&daemon, id)));
    daemon.ok(["daemon", "restart", "--all"]);
    costs(&daemon, empty, COUNT, COUNT);
    ids.iter().for_each(|id| is_served(native(&daemon, id)));
    // The next capture process has the pipes of all of them from the holder. It says so in their
    // logs, which are open since then.
    let capture = processes::capture(daemon.holder_pid()).unwrap();
    processes::signal(capture, Signal::SIGKILL);
    processes::gone(capture);
    costs(&daemon, Open { capture: empty.capture + COUNT, ..empty }, COUNT, COUNT);

    names().for_each(|name| drop(daemon.ok(["runtime", "stop", &name])));
    costs(&daemon, Open { capture: empty.capture + COUNT, ..empty }, 0, COUNT);
    names().for_each(|name| drop(daemon.ok(["runtime", "remove", &name])));
    costs(&daemon, empty, 0, 0);
}
