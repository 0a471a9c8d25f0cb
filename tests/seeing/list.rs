//! `runtime list` and `runtime show`

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::{Daemon, eventually, skipped};

fn of<'a>(list: &'a Value, name: &str) -> &'a Value {
    let all = list["runtimes"].as_array().unwrap();
    all.iter().find(|it| it["name"] == name).unwrap()
}

#[test]
fn a_list_says_what_the_whole_tree_uses() {
    let daemon = Daemon::start();
    // A child, and one that has left the group and the family.
    daemon.add_script("tree", "sleep 1000 & setsid sh -c 'sleep 1000 & exec sleep 1000' & wait");
    daemon.add(["/bin/sleep", "--name", "idle", "--", "1000"]);
    daemon.add(["/bin/sleep", "--name", "never", "--", "1000"]);
    daemon.ok(["runtime", "start", "tree", "idle"]);
    let list = eventually("all of it has begun", || {
        let list = daemon.json(["runtime", "list"]);
        (of(&list, "tree")["vitals"]["usage"]["processes"] == 4).then_some(list)
    });
    let usage = |name: &str| of(&list, name)["vitals"]["usage"].clone();
    assert_eq!(usage("idle")["processes"], 1);
    assert!(usage("idle")["memory_bytes"].as_u64().unwrap() > 100_000);
    assert!(usage("idle")["cpu_over_ms"].as_u64().is_some());
    assert_eq!(usage("never"), Value::Null);
    assert_eq!(of(&list, "idle")["vitals"]["restarts"], 0);
    let shown = daemon.json(["runtime", "show", "tree"]);
    assert_eq!(shown["runtime"]["vitals"]["usage"]["processes"], 4);
    let text = daemon.ok(["runtime", "show", "tree"]);
    assert!(text.contains("uses:") && text.contains("4 processes"), "{text}");
}

#[test]
fn what_has_no_parent_no_group_and_no_environment_of_its_instance_is_counted_by_its_cgroup() {
    let daemon = Daemon::start();
    daemon.add_script("leaves", "(setsid env -i /bin/sleep 1000 &); exec sleep 1000");
    daemon.ok(["runtime", "start", "leaves"]);
    let pid = daemon.info("leaves").observed.pid().unwrap();
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    if !own.contains("/instances/") {
        return skipped("no cgroup can be made here");
    }
    eventually("both are counted", || {
        let list = daemon.json(["runtime", "list"]);
        (of(&list, "leaves")["vitals"]["usage"]["processes"] == 2).then_some(())
    });
}

#[test]
fn cpu_time_is_counted() {
    let daemon = Daemon::start();
    daemon.add_script("busy", "while :; do :; done");
    daemon.ok(["runtime", "start", "busy"]);
    eventually("it has used some", || {
        let list = daemon.json(["runtime", "list"]);
        let usage = &of(&list, "busy")["vitals"]["usage"];
        let percent = usage["cpu_percent_100"].as_u64()?;
        let ms = usage["cpu_ms"].as_u64()?;
        (percent > 500 && percent <= 10_500 && ms > 50).then_some(())
    });
    daemon.ok(["runtime", "stop", "busy"]);
    let list = daemon.json(["runtime", "list"]);
    assert_eq!(of(&list, "busy")["vitals"]["usage"], Value::Null);
}

#[test]
fn restarts_and_the_last_exits_outlive_the_daemon() {
    let mut daemon = Daemon::start();
    let script = "exit 7";
    daemon.add([
        "/bin/sh",
        "--name",
        "crash",
        "--restart",
        "on-failure",
        "--restart-delay",
        "1ms",
        "--restart-burst",
        "6",
        "--restart-burst-within",
        "1h",
        "--",
        "-c",
        script,
    ]);
    let _ = daemon.cli(["runtime", "start", "crash"]);
    let detail = |daemon: &Daemon| daemon.json(["runtime", "show", "crash"])["runtime"].clone();
    eventually("it has failed", || {
        (detail(&daemon)["info"]["observed"]["failed"].is_object()).then_some(())
    });
    let before = detail(&daemon);
    assert_eq!((&before["vitals"]["restarts"], &before["info"]["starts"]), (&6.into(), &7.into()));
    let exits = before["exits"].as_array().unwrap();
    assert_eq!(exits.len(), 5);
    for exit in exits {
        assert_eq!((&exit["exit"]["code"], &exit["requested"]), (&7.into(), &false.into()));
        assert!(exit["ran_ms"].as_u64().unwrap() < 60_000);
    }
    let times: Vec<_> = exits.iter().map(|exit| exit["at_ms"].as_u64().unwrap()).collect();
    assert!(times.is_sorted_by(|a, b| a >= b), "the newest first: {times:?}");
    let text = daemon.ok(["runtime", "show", "crash"]);
    assert!(text.contains("last exits:") && text.contains("restarts:"), "{text}");

    daemon.kill();
    daemon.launch();
    let after = detail(&daemon);
    assert_eq!(after["exits"], before["exits"]);
    assert_eq!(after["vitals"]["restarts"], 6);
}

#[test]
fn the_answer_to_a_probe_is_shown() {
    let daemon = Daemon::start();
    daemon.add([
        "/bin/sleep",
        "--name",
        "well",
        "--live-exec",
        "/bin/true",
        "--live-interval",
        "20ms",
        "--",
        "1000",
    ]);
    daemon.ok(["runtime", "start", "well"]);
    eventually("it was asked", || {
        let list = daemon.json(["runtime", "list"]);
        let health = &of(&list, "well")["vitals"]["health"];
        health["at_ms"].as_u64().filter(|_| health["problem"].is_null())
    });
    let list = daemon.ok(["runtime", "list"]);
    assert!(list.lines().next().unwrap().contains("HEALTH"), "{list}");
    assert!(list.contains("well"), "{list}");
    assert!(daemon.ok(["runtime", "show", "well"]).contains("health:"));
}

#[test]
fn a_list_is_of_those_that_are_asked_for() {
    let daemon = Daemon::start();
    for name in ["camera-1", "camera-2", "motor"] {
        daemon.add(["/bin/sleep", "--name", name, "--", "1000"]);
    }
    daemon.ok(["runtime", "start", "camera-2"]);
    let names = |args: &[&str]| {
        let list = daemon.json([&["runtime", "list"], args].concat());
        let all = list["runtimes"].as_array().unwrap().clone();
        all.iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&[]), ["camera-1", "camera-2", "motor"]);
    assert_eq!(names(&["camera-*"]), ["camera-1", "camera-2"]);
    assert_eq!(names(&["camera-?", "--state", "ready"]), ["camera-2"]);
    assert_eq!(names(&["--state", "ready", "--state", "stopped"]).len(), 3);
    assert_eq!(names(&["nobody"]), [""; 0]);
    for bad in [&["--state", "happy"][..], &["--watch=1ms"], &["--watch=soon"], &["--watch=2d"]] {
        assert_eq!(daemon.cli([&["runtime", "list"], bad].concat()).code, Some(2), "{bad:?}");
    }
}

#[test]
fn a_watch_into_a_pipe_repeats_and_ends_on_a_signal() {
    let daemon = Daemon::start();
    daemon.add(["/bin/sleep", "--name", "nap", "--", "1000"]);
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let mut command = daemon.cli_command(["--json", "runtime", "list", "--watch=1h"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut state = || {
            let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
            of(&line, "nap")["observed"].clone()
        };
        assert!(state()["stopped"].is_object());
        // What happens is seen long before the interval is over.
        daemon.ok(["runtime", "start", "nap"]);
        while state()["ready"].is_null() {}
        daemon.ok(["runtime", "stop", "nap"]);
        while state()["stopped"].is_null() {}
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code));
    }
}
