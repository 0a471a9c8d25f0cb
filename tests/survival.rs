//! What was started goes on when the daemon is killed, or its holder, and belongs to the next.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::fs;
use std::os::unix::net::UnixStream;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use orchestrator_proto::control::{Event, EventKind, Exit, Item, Request};
use tests::{Daemon, block_on, eventually, processes};

/// Prints numbered lines, the number of the last one into the file `$FILE` too.
const COUNT: &str = "i=0; while :; do i=$((i+1)); echo line $i; echo $i > $FILE; sleep 0.002; done";

const KILLED: Exit = Exit::Signal { signal: 9, core_dumped: false };

/// Adds and starts a script that finds the path of a file of its own in `$FILE`.
#[track_caller]
fn start(daemon: &Daemon, name: &str, script: &str) -> u32 {
    let file = format!("FILE={}", daemon.dir().join(format!("{name}.file")).display());
    let stop = "200ms";
    let args = ["/bin/sh", "--name", name, "--env", &file, "--stop-timeout", stop, "--", "-c"];
    daemon.add(args.into_iter().chain([script]));
    daemon.ok(["runtime", "start", name]);
    daemon.info(name).observed.pid().unwrap()
}

/// The number in the file of [`start`].
fn number(daemon: &Daemon, name: &str) -> u32 {
    let file = daemon.dir().join(format!("{name}.file"));
    fs::read_to_string(file).unwrap_or_default().trim().parse().unwrap_or(0)
}

/// Waits until the counting script has come this much further.
#[track_caller]
fn goes_on(daemon: &Daemon, name: &str) {
    let before = number(daemon, name);
    eventually("it goes on", || (number(daemon, name) > before + 5).then_some(()));
}

/// Everything that happened so far.
fn events(daemon: &Daemon) -> Vec<Event> {
    let all = Request::Events { follow: false, after: Some(0), since_ms: None, instance: None };
    block_on(async {
        let client = daemon.client().await;
        let mut events = client.stream(all).await.unwrap();
        let mut found = Vec::new();
        while let Some(item) = events.next().await {
            if let Item::Event(event) = item.unwrap() {
                found.push(event);
            }
        }
        found
    })
}

/// The ends of an instance that were reported.
fn exits(daemon: &Daemon, name: &str) -> Vec<(Exit, u64)> {
    let of = |event: &Event| event.name.as_deref() == Some(name);
    let exit = |event: Event| match event.kind {
        EventKind::Exited { exit, .. } => Some((exit, event.time_ms)),
        _ => None,
    };
    events(daemon).into_iter().filter(of).filter_map(exit).collect()
}

/// Stops a counting script; each line that it printed is in its log, once.
#[track_caller]
fn nothing_is_missing(daemon: &Daemon, name: &str) {
    daemon.ok(["runtime", "stop", name]);
    let printed = daemon.ok(["runtime", "stdout", name, "--no-follow"]);
    let lines: Vec<&str> =
        printed.lines().filter_map(|line| line.split_once("line ")).map(|(_, n)| n).collect();
    let expected: Vec<String> = (1..=lines.len()).map(|n| n.to_string()).collect();
    assert_eq!(lines, expected);
    assert!(lines.len() >= number(daemon, name) as usize, "the last lines are missing");
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

#[test]
fn what_a_killed_daemon_had_started_goes_on_under_the_next() {
    let mut daemon = Daemon::start();
    let count = start(&daemon, "count", COUNT);
    let nap = start(&daemon, "nap", "exec sleep 1000");
    let at_rest = daemon.add_script("rest", "exit 3");
    for _ in 0..4 {
        goes_on(&daemon, "count");
        daemon.replace_killed();
        for (name, pid) in [("count", count), ("nap", nap)] {
            let info = daemon.info(name);
            assert_eq!((info.observed.pid(), info.starts), (Some(pid), 1));
        }
        assert_eq!(daemon.info(&at_rest).observed.word(), "stopped");
    }
    // It obeys the new one as it did the one before.
    daemon.ok(["runtime", "restart", "nap"]);
    assert!(!processes::is_alive(nap));
    assert_eq!(daemon.info("nap").starts, 2);
    nothing_is_missing(&daemon, "count");
    assert_eq!(exits(&daemon, "count").len(), 1);
    assert_eq!(daemon.terminate().code(), Some(0));
}

#[test]
fn an_end_that_no_daemon_saw_is_reported_once_with_its_code_and_its_time() {
    let daemon = Daemon::start();
    let killed = start(&daemon, "killed", "exec sleep 1000");
    let coded = start(&daemon, "coded", "while [ ! -e $FILE ]; do sleep 0.01; done; exit 9");
    // From the second death on there is no daemon for a tenth of a second.
    daemon.replace_killed();
    let pid = daemon.pid();
    let before = now_ms();
    processes::signal(pid, Signal::SIGKILL);
    processes::signal(killed, Signal::SIGKILL);
    fs::write(daemon.dir().join("coded.file"), "").unwrap();
    for pid in [killed, coded] {
        processes::gone(pid);
    }
    let after = now_ms();
    eventually("there is another daemon", || daemon.cli(["version"]).code.filter(|c| *c == 0));
    for (name, exit) in [("killed", KILLED), ("coded", Exit::Code(9))] {
        assert_eq!(daemon.exited(name), exit);
    }
    // Nor by the one after that.
    daemon.replace_killed();
    for (name, exit) in [("killed", KILLED), ("coded", Exit::Code(9))] {
        let exits = exits(&daemon, name);
        assert_eq!(exits.len(), 1, "{exits:?}");
        assert_eq!(exits[0].0, exit);
        assert!((before..=after).contains(&exits[0].1), "{exits:?}, {before} to {after}");
        assert_eq!(daemon.info(name).observed.word(), "exited");
    }
}

#[test]
fn clients_of_a_killed_daemon_wait_for_the_next() {
    let daemon = Daemon::start();
    let pid = daemon.pid();
    // So that the next one comes a little later.
    daemon.replace_killed();
    processes::signal(daemon.pid(), Signal::SIGKILL);
    for _ in 0..20 {
        UnixStream::connect(daemon.socket()).expect("nobody is refused");
    }
    assert_eq!(daemon.ok(["version"]), "server version: 0.1.0\n");
    assert_ne!(daemon.pid(), pid);
}

#[test]
fn an_end_after_all_that_leaves_nothing_behind_not_even_in_a_session_of_its_own() {
    let mut daemon = Daemon::start();
    let session = "setsid sh -c 'echo $$ > $FILE; exec sleep 1000' & wait";
    let main = start(&daemon, "session", session);
    let deaf = start(&daemon, "deaf", "trap '' TERM; while :; do sleep 1000; done");
    let below = eventually("it runs", || Some(number(&daemon, "session")).filter(|n| *n > 0));
    daemon.replace_killed();
    let pids = [main, deaf, below];
    assert!(pids.iter().all(|pid| processes::is_alive(*pid)));
    assert_eq!(daemon.terminate().code(), Some(0));
    assert!(pids.iter().all(|pid| !processes::is_alive(*pid)));
    assert!(!daemon.socket().exists());
}

#[test]
fn what_a_killed_holder_had_started_goes_on_under_the_next() {
    let mut daemon = Daemon::start();
    let count = start(&daemon, "count", COUNT);
    let nap = start(&daemon, "nap", "exec sleep 1000");
    let coded = start(&daemon, "coded", "while [ ! -e $FILE ]; do sleep 0.01; done; exit 9");
    let ends = start(&daemon, "ends", "exec sleep 1000");
    for _ in 0..2 {
        goes_on(&daemon, "count");
        daemon.kill();
        assert!([count, nap, coded].iter().all(|pid| processes::is_alive(*pid)));
        goes_on(&daemon, "count");
        processes::signal(ends, Signal::SIGKILL);
        daemon.launch();
        for (name, pid) in [("count", count), ("nap", nap), ("coded", coded)] {
            let info = daemon.info(name);
            assert_eq!((info.observed.pid(), info.starts), (Some(pid), 1), "{name}");
        }
    }
    // The kernel knows how it ended, since Linux 6.15.
    fs::write(daemon.dir().join("coded.file"), "").unwrap();
    let exit = daemon.exited("coded");
    assert!(matches!(exit, Exit::Code(9) | Exit::Unknown), "{exit}");
    // If its end can't be known any more, it is started, because it should run.
    let known = exits(&daemon, "ends").iter().any(|(exit, _)| *exit == KILLED);
    assert!(known || daemon.info("ends").starts >= 2);
    daemon.ok(["runtime", "stop", "nap"]);
    assert!(!processes::is_alive(nap));
    nothing_is_missing(&daemon, "count");
    assert_eq!(daemon.terminate().code(), Some(0));
}

#[test]
fn a_daemon_that_does_not_come_to_work_is_tried_again_and_what_runs_goes_on() {
    let mut daemon = Daemon::start();
    let count = start(&daemon, "count", COUNT);
    let (state, aside) = (daemon.state_dir().to_owned(), daemon.dir().join("aside"));
    eventually("its log is open", || {
        (!daemon.ok(["runtime", "stdout", "count", "--no-follow"]).is_empty()).then_some(())
    });
    // Nothing can be opened there.
    fs::rename(&state, &aside).unwrap();
    fs::write(&state, "in the way").unwrap();
    processes::signal(daemon.pid(), Signal::SIGKILL);
    let hint = eventually("it is said what can be done", || {
        let log = daemon.log();
        log.lines().find(|line| line.contains("kill -HUP")).map(str::to_owned)
    });
    assert!(hint.contains(&format!("kill -HUP {}", daemon.holder_pid())), "{hint}");
    assert!(processes::is_alive(count));
    let before = number(&daemon, "count");
    fs::remove_file(&state).unwrap();
    fs::rename(&aside, &state).unwrap();
    daemon.signal(Signal::SIGHUP);
    eventually("it is at work", || daemon.cli(["version"]).code.filter(|code| *code == 0));
    assert_eq!(daemon.info("count").observed.pid(), Some(count));
    // Again and again: the file is empty for a moment whenever it is written.
    eventually("it has gone on", || (number(&daemon, "count") > before).then_some(()));
    nothing_is_missing(&daemon, "count");
    assert_eq!(daemon.terminate().code(), Some(0));
}

#[test]
fn a_holder_without_a_daemon_that_is_told_to_end_ends_everything() {
    let mut daemon = Daemon::start();
    let nap = start(&daemon, "nap", "exec sleep 1000");
    let state = daemon.state_dir().to_owned();
    fs::rename(&state, daemon.dir().join("aside")).unwrap();
    fs::write(&state, "in the way").unwrap();
    processes::signal(daemon.pid(), Signal::SIGKILL);
    eventually("it is hopeless", || daemon.log().contains("kill -TERM").then_some(()));
    daemon.signal(Signal::SIGTERM);
    daemon.wait();
    assert!(!processes::is_alive(nap));
}

#[test]
fn the_holder_has_no_more_files_open_after_many_daemons_than_after_one() {
    let daemon = Daemon::start();
    start(&daemon, "nap", "exec sleep 1000");
    let files = || fs::read_dir(format!("/proc/{}/fd", daemon.holder_pid())).unwrap().count();
    daemon.replace_killed();
    let before = eventually("it has settled", || {
        let first = files();
        daemon.ok(["version"]);
        (files() == first).then_some(first)
    });
    for _ in 0..3 {
        daemon.replace_killed();
    }
    eventually("there are as many as before", || (files() <= before).then_some(()));
}
