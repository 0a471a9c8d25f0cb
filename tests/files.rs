//! How many files are open for an instance in which nothing happens, and that they are closed again.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::collections::BTreeMap;
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

/// What each process has open, by number.
#[derive(Clone)]
struct Open {
    daemon: Files,
    holder: Files,
    capture: Files,
}

type Files = BTreeMap<String, String>;

fn open(daemon: &Daemon) -> Open {
    let holder = daemon.holder_pid();
    let capture = capture(daemon);
    Open {
        daemon: processes::files(daemon.pid()),
        holder: processes::files(holder),
        capture: processes::files(capture),
    }
}

fn capture(daemon: &Daemon) -> u32 {
    eventually("there is a capture process", || processes::capture(daemon.holder_pid()))
}

/// Files for which no instance need be the reason: a connection that is just being closed, or that
/// had not been opened yet when nothing else was.
const PASSING: usize = COUNT / 2;

/// Waits until so many instances cost no more than they have to.
#[track_caller]
fn costs(daemon: &Daemon, empty: &Open, (running, added): (usize, usize), logs: usize) {
    let holder = HOLDER * running + 2 * (added - running);
    let capture = CAPTURE * running + logs;
    let deadline = Instant::now() + SOON;
    loop {
        let now = open(daemon);
        let over = [
            ("daemon", &now.daemon, &empty.daemon, 0),
            ("holder", &now.holder, &empty.holder, holder),
            ("capture", &now.capture, &empty.capture, capture),
        ]
        .into_iter()
        .find(|(_, now, empty, more)| now.len() >= empty.len() + more + PASSING);
        let Some((who, now, empty, more)) = over else { return };
        assert!(
            Instant::now() < deadline,
            "{added} instances, of which {running} run, cost more than {more} files in the {who}: \
             {now:#?} and without any {empty:#?}"
        );
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
    costs(&daemon, &empty, (0, COUNT), 0);
    names().for_each(|name| drop(daemon.ok(["runtime", "start", &name])));
    costs(&daemon, &empty, (COUNT, COUNT), 0);

    // Whoever comes is heard, and costs nothing any more when he has gone.
    for id in &ids {
        is_served(native(&daemon, id));
    }
    costs(&daemon, &empty, (COUNT, COUNT), 0);
    let all: Vec<_> = ids.iter().map(|id| native(&daemon, id)).collect();
    all.into_iter().for_each(is_served);
    costs(&daemon, &empty, (COUNT, COUNT), 0);

    // The same with the next of each of them.
    daemon.replace_killed();
    costs(&daemon, &empty, (COUNT, COUNT), 0);
    ids.iter().for_each(|id| is_served(native(&daemon, id)));
    daemon.ok(["daemon", "restart", "--all"]);
    costs(&daemon, &empty, (COUNT, COUNT), 0);
    ids.iter().for_each(|id| is_served(native(&daemon, id)));
    // The next capture process has the pipes of all of them from the holder. It says so in their
    // logs, which are open since then.
    let capture = capture(&daemon);
    processes::signal(capture, Signal::SIGKILL);
    processes::gone(capture);
    costs(&daemon, &empty, (COUNT, COUNT), COUNT);

    names().for_each(|name| drop(daemon.ok(["runtime", "stop", &name])));
    costs(&daemon, &empty, (0, COUNT), COUNT);
    names().for_each(|name| drop(daemon.ok(["runtime", "remove", &name])));
    costs(&daemon, &empty, (0, 0), 0);
}
