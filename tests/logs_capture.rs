//! The process that captures what instances print: killed, hanging, looked at.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::fs;
use std::path::Path;

use orchestrator_proto::control::{Exit, Item, LogQuery, LogStream};
use tests::logs::{bytes, query, read};
use tests::{Daemon, eventually, processes};

/// The capture process of a daemon.
fn capture_process(daemon: &Daemon) -> u32 {
    eventually("there is a capture process", || processes::capture(daemon.holder_pid()))
}

#[test]
fn a_killed_capture_process_is_replaced_and_costs_at_most_what_it_held() {
    let mut daemon = Daemon::start_with(&["--instance-log-files", "1000"]);
    let stop = daemon.dir().join("stop");
    let script = format!(
        "i=0; while [ ! -e {} ]; do echo \"line $i\"; i=$((i+1)); done; echo the end",
        stop.display()
    );
    daemon.add(["/bin/sh", "--name", "counting", "--", "-c", &script]);
    daemon.ok(["runtime", "start", "counting"]);
    let last = || LogQuery { tail: Some(1), ..query("counting", false) };
    let number = |line: &str| line.strip_prefix("line ")?.parse::<u64>().ok();
    let mut kills = 0;
    for wanted in [2000, 20_000] {
        eventually("it prints", || {
            let text = bytes(&read(&daemon, last()), LogStream::Stdout);
            let printed = number(String::from_utf8(text).unwrap().trim_end())?;
            (printed > wanted).then_some(())
        });
        let capture = capture_process(&daemon);
        processes::signal(capture, nix::sys::signal::Signal::SIGKILL);
        processes::gone(capture);
        kills += 1;
    }
    // Its pipes are read on before it comes to its end.
    capture_process(&daemon);
    eventually("that is told", || {
        let items = read(&daemon, query("counting", false));
        let remarks = bytes(&items, LogStream::Orchestrator);
        let remarks = String::from_utf8(remarks).unwrap();
        (remarks.matches("capture was restarted").count() == kills).then_some(())
    });
    fs::write(&stop, "").unwrap();
    assert_eq!(daemon.exited("counting"), Exit::Code(0), "{}", daemon.log());
    let items = eventually("its last line is in the log", || {
        let there = bytes(&read(&daemon, last()), LogStream::Stdout) == b"the end\n";
        there.then(|| read(&daemon, query("counting", false)))
    });
    let text = bytes(&items, LogStream::Stdout);
    let seen: Vec<u64> = String::from_utf8_lossy(&text).lines().filter_map(number).collect();
    assert!(seen.windows(2).all(|two| two[0] < two[1]), "no line is doubled");
    let all: usize = (0..=*seen.last().unwrap()).map(|n| format!("line {n}\n").len()).sum();
    let missing = all + "the end\n".len() - text.len();
    assert!(missing <= kills * (64 << 10), "{missing} bytes");
    let remarks = String::from_utf8(bytes(&items, LogStream::Orchestrator)).unwrap();
    assert_eq!(remarks.matches("capture was restarted").count(), kills, "{remarks}");
    assert!(daemon.log().contains("capture is started again"), "{}", daemon.log());
    // In its new place it ends with the daemon.
    let capture = capture_process(&daemon);
    assert_eq!(daemon.terminate().code(), Some(0));
    processes::gone(capture);
}

#[test]
fn the_capture_process_is_small_and_holds_nothing_that_is_not_its_own() {
    let daemon = Daemon::start();
    let capture = capture_process(&daemon);
    daemon.add(["/bin/true", "--name", "x"]);
    // Signals of a terminal or of an operator are the daemon's.
    for signal in [
        nix::sys::signal::Signal::SIGTERM,
        nix::sys::signal::Signal::SIGINT,
        nix::sys::signal::Signal::SIGHUP,
    ] {
        processes::signal(capture, signal);
    }
    daemon.ok(["runtime", "start", "x"]);
    assert_eq!(daemon.exited("x"), Exit::Code(0));
    assert_eq!(capture_process(&daemon), capture);
    let environment = fs::read(format!("/proc/{capture}/environ")).unwrap();
    assert_eq!(environment, b"ORCHESTRATOR_ROLE=capture\0");
    assert_eq!(fs::read_link(format!("/proc/{capture}/cwd")).unwrap(), Path::new("/"));
    for fd in fs::read_dir(format!("/proc/{capture}/fd")).unwrap().flatten() {
        let Ok(target) = fs::read_link(fd.path()) else { continue };
        let target = target.to_string_lossy().into_owned();
        let own = ["socket:", "pipe:", "anon_inode:", "/dev/null"];
        let log = daemon.state_dir().join("logs");
        assert!(
            own.iter().any(|own| target.starts_with(own))
                || target.starts_with(log.to_str().unwrap()),
            "{target}"
        );
    }
    let kib = processes::resident_kib(capture);
    assert!(kib < 40 << 10, "{kib} KiB even without optimization");
}

#[test]
fn a_capture_process_that_hangs_holds_up_neither_the_daemon_nor_a_start() {
    let daemon = Daemon::start();
    let capture = capture_process(&daemon);
    daemon.add(["/bin/sh", "--name", "early", "--", "-c", "echo early"]);
    daemon.ok(["runtime", "start", "early"]);
    eventually("its line is in the log", || {
        let items = read(&daemon, query("early", false));
        (bytes(&items, LogStream::Stdout) == b"early\n").then_some(())
    });
    processes::suspend(capture);
    for n in 0..100 {
        let name = format!("late-{n}");
        daemon.add(["/bin/sh", "--name", &name, "--", "-c", "echo late"]);
        daemon.ok(["runtime", "start", &name]);
        assert_eq!(daemon.exited(&name), Exit::Code(0));
    }
    // What there is can be read, and why there may be more is told.
    let items = read(&daemon, query("early", false));
    assert_eq!(bytes(&items, LogStream::Stdout), b"early\n");
    let told = |item: &Item| matches!(item, Item::Missed { count: 0, reason } if reason.contains("does not answer"));
    assert!(items.iter().any(told), "{items:?}");
    processes::signal(capture, nix::sys::signal::Signal::SIGCONT);
    for n in 0..100 {
        eventually("its line is in the log", || {
            let items = read(&daemon, query(&format!("late-{n}"), false));
            (bytes(&items, LogStream::Stdout) == b"late\n").then_some(())
        });
    }
    assert_eq!(capture_process(&daemon), capture);
}
