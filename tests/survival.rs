//! What was started goes on when the daemon is killed, or its holder, and belongs to the next.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::fs;
use std::net::UdpSocket;
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
    // A moment between two numbers has none.
    let before = eventually("it counts", || Some(number(daemon, name)).filter(|n| *n > 0));
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
    daemon.replace_killed();
    let pid = daemon.pid();
    let before = now_ms();
    processes::signal(pid, Signal::SIGKILL);
    processes::signal(killed, Signal::SIGKILL);
    fs::write(daemon.dir().join("coded.file"), "").unwrap();
    for pid in [killed, coded] {
        eventually("it is collected", || processes::state(pid).is_none().then_some(()));
    }
    let collected = now_ms();
    eventually("there is another daemon", || daemon.cli(["version"]).code.filter(|c| *c == 0));
    for (name, exit) in [("killed", KILLED), ("coded", Exit::Code(9))] {
        assert_eq!(daemon.exited(name), exit);
    }
    // The holder notes the time before it starts a daemon, unless it was faster than this test.
    let started = daemon.event("the start of the next daemon", |event| {
        let is_its = event.kind == EventKind::DaemonStarted && event.time_ms >= before;
        is_its.then_some(event.time_ms)
    });
    let after = if collected < started { started } else { now_ms() };
    // Nor by the one after that.
    daemon.replace_killed();
    for (name, exit) in [("killed", KILLED), ("coded", Exit::Code(9))] {
        let exits = exits(&daemon, name);
        assert_eq!(exits.len(), 1, "{exits:?}");
        assert_eq!(exits[0].0, exit);
        assert!((before..=after).contains(&exits[0].1), "{exits:?}, {before} to {after}");
        assert_eq!(daemon.info(name).observed.word(), "failed");
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
    for round in 0..2 {
        goes_on(&daemon, "count");
        daemon.kill();
        assert!([count, nap, coded].iter().all(|pid| processes::is_alive(*pid)));
        goes_on(&daemon, "count");
        if round == 0 {
            processes::signal(ends, Signal::SIGKILL);
        }
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
fn what_has_been_quiet_can_print_when_its_holder_was_killed() {
    let mut daemon = Daemon::start();
    let quiet = "while [ ! -e $FILE.go ]; do sleep 0.01; done; echo out; echo err >&2
        echo 1 > $FILE; exec sleep 1000";
    let pid = start(&daemon, "quiet", quiet);
    // Both have been idle for as long as it takes until nobody does anything for them.
    daemon.replace_killed();
    daemon.kill();
    fs::write(daemon.dir().join("quiet.file.go"), "").unwrap();
    eventually("it has printed and lives", || (number(&daemon, "quiet") == 1).then_some(()));
    assert!(processes::is_alive(pid));
    daemon.launch();
    assert_eq!(daemon.info("quiet").observed.pid(), Some(pid));
    let printed = daemon.ok(["runtime", "stdout", "quiet", "--no-follow"]);
    assert!(printed.contains("out"), "{printed}");
    let printed = daemon.ok(["runtime", "stderr", "quiet", "--no-follow"]);
    assert!(printed.contains("err"), "{printed}");
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
    let before = eventually("it counts", || Some(number(&daemon, "count")).filter(|n| *n > 0));
    fs::remove_file(&state).unwrap();
    fs::rename(&aside, &state).unwrap();
    daemon.signal(Signal::SIGHUP);
    eventually("it is at work", || daemon.cli(["version"]).code.filter(|code| *code == 0));
    assert_eq!(daemon.info("count").observed.pid(), Some(count));
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

#[test]
fn a_daemon_that_fails_after_it_has_taken_over_leaves_all_of_it_to_the_next() {
    // A port that is free now, and that a daemon can be kept from.
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let daemon = Daemon::start_with(&["--ipc-socket", &port.to_string()]);
    let count = start(&daemon, "count", COUNT);
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    daemon.link("a", "n", "b");
    let (mut from, mut to) = (daemon.veecle(&a), daemon.veecle(&b));
    daemon.connections("a", 1);
    daemon.connections("b", 1);
    let ours = loop {
        let listening = || daemon.log().matches("listening for datagrams").count();
        let (pid, before) = (daemon.pid(), listening());
        processes::signal(pid, Signal::SIGKILL);
        let taken = eventually("the port is ours or the next daemon's", || {
            let ours = UdpSocket::bind(port).ok();
            (ours.is_some() || listening() > before).then_some(ours)
        });
        if let Some(ours) = taken {
            break ours;
        }
    };
    eventually("several daemons have failed", || {
        (daemon.log().matches("cannot listen for datagrams").count() > 2).then_some(())
    });
    // Nobody has been stopped, no socket is gone, no connection closed.
    goes_on(&daemon, "count");
    for path in [daemon.socket(), &daemon.native_socket(&a), &daemon.veecle_socket(&b)] {
        UnixStream::connect(path).expect("who connects waits for the next");
    }
    drop(ours);
    daemon.signal(Signal::SIGHUP);
    eventually("it is at work", || daemon.cli(["version"]).code.filter(|code| *code == 0));
    assert_eq!(daemon.info("count").observed.pid(), Some(count));
    from.storable("n", &serde_json::json!(7));
    assert_eq!(to.next_storable().unwrap().1, serde_json::json!(7));
    nothing_is_missing(&daemon, "count");
}

/// A script that leaves a process behind, with its number in `$FILE.left`, which ends only when
/// `$FILE.end` is there and it is asked to; each time that it is asked adds a line to `$FILE.asked`.
const LEAVES: &str = "ended() { echo >> $FILE.asked; [ -e $FILE.end ] && exit 0; }
    (trap ended TERM; sh -c 'echo $PPID' > $FILE.new; mv $FILE.new $FILE.left
    while :; do sleep 0.01; done) &
    trap '' TERM; while [ ! -e $FILE.left ]; do sleep 0.01; done";

/// Adds and starts a script that finds the path of a file of its own in `$FILE`, and has a minute
/// to stop. The answer is that path.
#[track_caller]
fn start_slow(daemon: &Daemon, name: &str, script: &str) -> String {
    let file = daemon.dir().join(format!("{name}.file")).display().to_string();
    let env = format!("FILE={file}");
    daemon.add([
        "/bin/sh",
        "--name",
        name,
        "--env",
        &env,
        "--stop-timeout",
        "60s",
        "--",
        "-c",
        script,
    ]);
    daemon.ok(["runtime", "start", name]);
    file
}

/// How often it was asked to end.
fn asked(file: &str) -> usize {
    fs::read_to_string(format!("{file}.asked")).unwrap_or_default().lines().count()
}

#[test]
fn what_a_main_process_has_left_is_ended_although_the_holder_is_killed_meanwhile() {
    let mut daemon = Daemon::start();
    let file = start_slow(&daemon, "leaves", &format!("{LEAVES}; exit 3"));
    let left = processes::pid_in(file_path(&file, "left").as_ref());
    assert_eq!(daemon.exited("leaves"), Exit::Code(3));
    // Two daemons in a row with their holders, and one alone, are killed before it ends.
    for round in 1..=3 {
        eventually("it is asked to end", || (asked(&file) == round).then_some(()));
        assert_eq!(daemon.info("leaves").observed.word(), "stopping");
        assert!(processes::is_alive(left));
        if round == 3 {
            fs::write(file_path(&file, "end"), "").unwrap();
            daemon.replace_killed();
        } else {
            daemon.kill();
            daemon.launch();
        }
    }
    processes::gone(left);
    assert_eq!(asked(&file), 4);
    eventually("it is at rest", || {
        (daemon.info("leaves").observed.word() == "failed").then_some(())
    });
    assert_eq!(exits(&daemon, "leaves").len(), 1, "its end is told once");
    assert_eq!(daemon.info("leaves").starts, 1);
}

fn file_path(file: &str, end: &str) -> String {
    format!("{file}.{end}")
}

#[test]
fn what_is_started_again_comes_after_the_end_of_all_that_the_one_before_has_left() {
    let mut daemon = Daemon::start();
    // Says so if what the one before has left is still there, and not only waits to be collected.
    let script = format!(
        "[ -e $FILE.left ] && grep -qs '^State:.[^ZX]' /proc/$(cat $FILE.left)/status && touch $FILE.both
        rm -f $FILE.left; {LEAVES}; echo $$ > $FILE.new; mv $FILE.new $FILE.main
        while :; do sleep 0.01; done"
    );
    let file = start_slow(&daemon, "two", &script);
    let main = processes::pid_in(file_path(&file, "main").as_ref());
    let left = processes::pid_in(file_path(&file, "left").as_ref());
    assert_eq!(daemon.info("two").observed.pid(), Some(main));
    daemon.kill();
    processes::signal(main, Signal::SIGKILL);
    // How it ended can't be known once it is collected, so it counts as interrupted.
    eventually("it is collected", || processes::state(main).is_none().then_some(()));
    assert!(processes::is_alive(left));
    daemon.launch();
    eventually("it is asked to end", || (asked(&file) == 1).then_some(()));
    assert_eq!(daemon.info("two").observed.word(), "stopping");
    fs::write(file_path(&file, "end"), "").unwrap();
    // It is asked again by the next daemon, which is to start the other one too.
    daemon.kill();
    daemon.launch();
    processes::gone(left);
    eventually("it runs again", || {
        let info = daemon.info("two");
        (info.starts == 2 && info.observed.word() == "ready").then_some(())
    });
    assert!(!fs::exists(file_path(&file, "both")).unwrap());
    assert_eq!(exits(&daemon, "two").len(), 1, "its end is told once");
}
