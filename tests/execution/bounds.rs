//! Bounds and scheduling.

use std::process::Command;

use tests::{Daemon, Said, skipped};

use super::{is_root, start, stat, status};

#[test]
fn bounds_umask_and_processors() {
    let daemon = Daemon::start();
    daemon.add([
        "/bin/sleep",
        "--name",
        "nap",
        "--rlimit",
        "nofile=100:200",
        "--rlimit",
        "core=0",
        "--rlimit",
        "stack=8388608:infinity",
        "--umask",
        "0027",
        "--cpus",
        "0",
        "--nice",
        "5",
        "--no-new-privs",
        "--",
        "1000",
    ]);
    let pid = start(&daemon, "nap");
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(limit("Max open files"), "100 200");
    assert_eq!(limit("Max core file size"), "0 0");
    assert_eq!(limit("Max stack size"), "8388608 unlimited");
    assert_eq!(status(pid, "Umask"), "0027");
    assert_eq!(status(pid, "Cpus_allowed_list"), "0");
    assert_eq!(status(pid, "NoNewPrivs"), "1");
    assert_eq!(stat(pid, 19), "5");

    // A priority counts from there, and is kept.
    daemon.ok(["runtime", "stop", "nap"]);
    daemon.ok(["runtime", "start", "nap", "--priority", "low"]);
    assert_eq!(stat(daemon.info("nap").observed.pid().unwrap(), 19), "15");
    daemon.ok(["runtime", "restart", "nap"]);
    assert_eq!(stat(daemon.info("nap").observed.pid().unwrap(), 19), "15");

    let shown = daemon.ok(["runtime", "show", "nap"]);
    for words in [
        "nofile=100:200 core=0",
        "stack=8388608:infinity",
        "0027",
        "nice 5, processors 0",
        "no new privileges",
    ] {
        assert!(shown.contains(words) || words.starts_with("nofile"), "{words} in {shown}");
    }
    let detail = daemon.json(["runtime", "show", "nap"]);
    let execution = &detail["runtime"]["execution"];
    assert_eq!(execution["umask"], "0027");
    assert_eq!(execution["rlimit"].as_array().unwrap().len(), 3);
    assert_eq!(execution["inherit-env"], "clean");
}

#[test]
fn what_is_not_said_is_as_the_daemon_has_it() {
    let daemon = Daemon::start();
    daemon.add(["/bin/sleep", "--name", "nap", "--", "1000"]);
    let pid = start(&daemon, "nap");
    let holder = daemon.holder_pid();
    for field in ["Umask", "Cpus_allowed_list", "Uid", "Gid", "Groups", "CapBnd", "NoNewPrivs"] {
        assert_eq!(status(pid, field), status(holder, field), "{field}");
    }
    assert_eq!(stat(pid, 41), stat(holder, 41));
    let shown = daemon.ok(["runtime", "show", "nap"]);
    for word in ["limits", "scheduling", "rights", "umask"] {
        assert!(!shown.lines().any(|line| line.starts_with(word)), "{shown}");
    }
}

#[test]
fn classes_of_scheduling() {
    if !is_root() {
        return;
    }
    let daemon = Daemon::start();
    daemon.add([
        "/bin/sleep",
        "--name",
        "rr",
        "--realtime",
        "rr:10",
        "--io-class",
        "best-effort:2",
        "--",
        "1000",
    ]);
    let said = daemon.cli(["runtime", "start", "rr"]);
    if said.stderr.contains("can't set its real-time policy to rr:10: Operation not permitted") {
        skipped("real-time policies are not permitted here");
        return;
    }
    let pid = daemon.info("rr").observed.pid().expect("it runs");
    // rt_priority, and SCHED_RR.
    assert_eq!((stat(pid, 40).as_str(), stat(pid, 41).as_str()), ("10", "2"), "{said:?}");
    let io_class = |pid: u32| {
        let mut command = Command::new("ionice");
        command.args(["-p", &pid.to_string()]);
        Said::of(command).stdout.trim().to_owned()
    };
    if Command::new("ionice").arg("-V").output().is_ok() {
        assert_eq!(io_class(pid), "best-effort: prio 2");
        daemon.add(["/bin/sleep", "--name", "idle", "--io-class", "idle", "--", "1000"]);
        assert_eq!(io_class(start(&daemon, "idle")), "idle");
    } else {
        skipped("there is no ionice(1) to look at I/O classes with");
    }
}
