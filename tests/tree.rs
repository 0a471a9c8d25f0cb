//! All that came of an instance is ended with it, whatever it calls: with cgroups, and without.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use orchestrator_proto::control::{EventKind, Observed};
use tests::{Daemon, eventually, executable, processes, skipped};

/// Where the daemon makes cgroups by itself, and where it makes none.
const WAYS: [&[&str]; 2] = [&[], &["--cgroup", "none"]];

/// Processes that were executed with this word in their command line.
fn running(word: &Path) -> Vec<u32> {
    let word = word.as_os_str().as_encoded_bytes();
    let has = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.windows(word.len()).any(|part| part == word)
    };
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| has(pid) && processes::is_alive(*pid)).collect()
}

/// The cgroup of the daemon's own making, as its log has it.
fn cgroup(daemon: &Daemon) -> Option<PathBuf> {
    eventually("the daemon says where cgroups are", || {
        let log = daemon.log();
        if log.contains("instances have no cgroups of their own") {
            return Some(None);
        }
        let (_, rest) = log.rsplit_once("cgroups of instances directory=\"")?;
        let (directory, _) = rest.split_once('"')?;
        Some(Some(directory.into()))
    })
}

/// Each goes on in a session of its own, again and again, and listens to nobody.
const BOMB: &[u8] = b"#!/bin/sh\ntrap '' TERM INT HUP\nsetsid \"$0\" &\nexit 0\n";

#[test]
fn a_fork_bomb_with_setsid_has_no_survivors() {
    for way in WAYS {
        let daemon = Daemon::start_with(way);
        let bomb = daemon.dir().join("bomb");
        executable(&bomb, BOMB);
        let script = format!("for i in 1 2 3; do setsid {0} & done; sleep 1000", bomb.display());
        let arguments = ["/bin/sh", "--name", "bomb", "--stop-timeout", "200ms", "--", "-c"];
        daemon.add(arguments.into_iter().chain([script.as_str()]));
        daemon.ok(["runtime", "start", "bomb"]);
        eventually("it goes off", || (!running(&bomb).is_empty()).then_some(()));
        daemon.ok(["runtime", "stop", "bomb"]);
        assert_eq!(running(&bomb), [0; 0], "{way:?}");
    }
}

/// Each forks as fast as it can, in a session of its own, as long as its user may have more
/// processes; and then goes on trying.
const DOUBLING: &str = "import os, signal
for it in signal.SIGTERM, signal.SIGINT, signal.SIGHUP: signal.signal(it, signal.SIG_IGN)
while True:
    try:
        if os.fork() == 0: os.setsid()
    except OSError: pass
";

#[test]
fn a_bomb_that_doubles_stands_still_before_it_is_killed() {
    if !nix::unistd::geteuid().is_root() {
        return skipped("only root can bound the processes of a user who has no others");
    }
    // One processor is enough for it, so that the other tests get on.
    let ours = sched_getaffinity(Pid::this()).unwrap();
    let cpus = (0..CpuSet::count()).find(|cpu| ours.is_set(*cpu).unwrap()).unwrap().to_string();
    for way in WAYS {
        let daemon = Daemon::start_with(way);
        let bomb = daemon.dir().join("doubling");
        let script = format!("{DOUBLING}# {}", bomb.display());
        daemon.add([
            "/usr/bin/env",
            "--name",
            "bomb",
            "--stop-timeout",
            "200ms",
            "--user",
            "61236",
            "--group",
            "61236",
            "--rlimit",
            "nproc=30",
            "--cpus",
            &cpus,
            "--",
            "python3",
            "-c",
            &script,
        ]);
        daemon.ok(["runtime", "start", "bomb"]);
        eventually("it has gone off", || (running(&bomb).len() >= 30).then_some(()));
        daemon.ok(["runtime", "stop", "bomb"]);
        assert_eq!(running(&bomb), [0; 0], "{way:?}");
        let mut killed_ms = None;
        let took_ms = daemon.event("nothing of it is left", |event| {
            if matches!(event.kind, EventKind::Killed) {
                killed_ms = Some(event.time_ms);
            }
            let stopped = matches!(event.kind, EventKind::Stopped);
            stopped.then(|| event.time_ms - killed_ms.unwrap())
        });
        // It is far less where nothing else is under way, such as other tests.
        assert!(took_ms < 10_000, "{way:?}: {took_ms} ms");
        println!("{way:?}: {took_ms} ms from SIGKILL until nothing is left");
    }
}

#[test]
fn what_outlives_its_main_process_in_a_session_of_its_own_is_stopped() {
    for way in WAYS {
        let daemon = Daemon::start_with(way);
        let told = daemon.dir().join("told");
        // It listens, and says so.
        let left = format!(
            "trap 'echo term > {0}; exit' TERM; while :; do sleep 0.01; done",
            told.display()
        );
        let script = format!("setsid sh -c \"{left}\" & exit 3");
        daemon.add_script("leaves", &script);
        daemon.ok(["runtime", "start", "leaves"]);
        eventually("nothing of it is left", || {
            matches!(daemon.info("leaves").observed, Observed::Failed { .. }).then_some(())
        });
        assert_eq!(running(&told), [0; 0], "{way:?}");
    }
}

#[test]
fn stop_signals_reach_what_has_left_the_process_group_once() {
    for way in WAYS {
        let daemon = Daemon::start_with(way);
        let (ready, told) = (daemon.dir().join("ready"), daemon.dir().join("told"));
        let child = format!(
            "trap 'echo term >> {1}; exit' TERM; echo > {0}; while :; do sleep 0.01; done",
            ready.display(),
            told.display()
        );
        daemon.add_script("parent", &format!("setsid sh -c \"{child}\" & wait; sleep 1000"));
        daemon.ok(["runtime", "start", "parent"]);
        eventually("its child listens", || ready.exists().then_some(()));
        daemon.ok(["runtime", "stop", "parent"]);
        assert_eq!(fs::read_to_string(&told).unwrap(), "term\n", "{way:?}");
        let killed = |kind: &EventKind| matches!(kind, EventKind::Killed);
        assert!(!daemon.event("stopped", |event| match &event.kind {
            EventKind::Stopped => Some(false),
            kind => killed(kind).then_some(true),
        }));
    }
}

#[test]
fn cgroups_are_there_while_they_are_needed() {
    let mut daemon = Daemon::start();
    let Some(cgroup) = cgroup(&daemon) else {
        return skipped("no cgroup can be made here");
    };
    let count = || {
        fs::read_dir(cgroup.join("instances"))
            .unwrap()
            .flatten()
            .filter(|it| it.path().is_dir())
            .count()
    };
    assert_eq!(count(), 0);
    let id = daemon.add(["/bin/sleep", "--name", "nap", "--", "1000"]);
    assert_eq!(count(), 0, "nothing runs");
    daemon.ok(["runtime", "start", "nap"]);
    let pid = daemon.info("nap").observed.pid().unwrap();
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(own.contains(&format!("/instances/{id}/run-")), "{own}");
    for pid in [daemon.pid(), daemon.holder_pid()] {
        let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        assert!(
            own.lines().any(|line| line.starts_with("0::") && line.ends_with("/daemon")),
            "{own}"
        );
    }
    // The next daemon, which the holder starts where it is, finds the same.
    daemon.replace_killed();
    assert_eq!(daemon.info("nap").observed.pid(), Some(pid));
    assert_eq!(count(), 1);
    daemon.ok(["runtime", "restart", "nap"]);
    assert_eq!(count(), 1);
    daemon.ok(["runtime", "stop", "nap"]);
    eventually("its cgroup is removed", || (count() == 0).then_some(()));
    assert_eq!(daemon.terminate().code(), Some(0));
    assert!(!cgroup.exists());
}

#[test]
fn what_a_killed_holder_has_left_is_known_by_its_cgroup() {
    let mut daemon = Daemon::start();
    let Some(cgroup) = cgroup(&daemon) else {
        return skipped("no cgroup can be made here");
    };
    // They have left their groups and cleared their environments.
    let lost = |name: &str| daemon.dir().join(name);
    let (of_running, of_ended) = (lost("of-running"), lost("of-ended"));
    for path in [&of_running, &of_ended] {
        executable(path, b"#!/bin/sh\nwhile :; do sleep 0.1; done\n");
    }
    let told = daemon.dir().join("told");
    let leaves = |path: &Path, then: &str| format!("env -i setsid {} & {then}", path.display());
    daemon.add_script("runs", &leaves(&of_running, "sleep 1000"));
    let then = format!("while [ ! -e {} ]; do sleep 0.01; done", told.display());
    daemon.add_script("ends", &leaves(&of_ended, &then));
    daemon.ok(["runtime", "start", "runs", "ends"]);
    let alive = |path: &Path| !running(path).is_empty();
    eventually("both are there", || (alive(&of_running) && alive(&of_ended)).then_some(()));
    let (main, ended) = (daemon.info("runs").observed.pid(), daemon.info("ends").observed.pid());
    daemon.kill();
    fs::write(&told, "").unwrap();
    processes::gone(ended.unwrap());
    assert!(alive(&of_running) && alive(&of_ended));
    daemon.launch();
    assert_eq!(daemon.info("runs").observed.pid(), main);
    eventually("what was left behind is ended", || (!alive(&of_ended)).then_some(()));
    assert!(alive(&of_running));
    daemon.ok(["runtime", "stop", "runs"]);
    assert!(!alive(&of_running));
    assert_eq!(daemon.terminate().code(), Some(0));
    assert!(!cgroup.exists());
}

#[test]
fn an_instance_that_was_removed_leaves_nothing_for_the_next_daemon() {
    let mut daemon = Daemon::start();
    if cgroup(&daemon).is_none() {
        return skipped("no cgroup can be made here");
    }
    daemon.add(["/bin/sleep", "--name", "nap", "--", "1000"]);
    daemon.ok(["runtime", "start", "nap"]);
    let pid = daemon.info("nap").observed.pid().unwrap();
    daemon.kill();
    // As if it had never been added.
    fs::remove_dir_all(daemon.state_dir().join("logs")).unwrap();
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(daemon.state_dir().join(format!("state.db{suffix}")));
    }
    daemon.launch();
    processes::gone(pid);
    eventually("it says so", || {
        daemon.log().contains("killed what was left of an earlier execution").then_some(())
    });
}

#[test]
fn limits_that_are_not_in_force_are_told_and_refused_where_they_are_required() {
    let daemon = Daemon::start_with(&["--cgroup", "none"]);
    daemon.add(["/bin/sleep", "--name", "a", "--memory-max", "512M", "--cpu", "1.5", "--", "1000"]);
    let said = daemon.cli(["runtime", "start", "a"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let why = "memory-max and cpu are not in force: instances have no cgroups of their own: the \
               daemon was told to make none (--cgroup none)";
    assert!(said.stderr.contains(why), "{said:?}");
    let shown = daemon.ok(["runtime", "show", "a"]);
    assert!(shown.contains("memory-max 512MiB, cpu 150%"), "{shown}");
    assert!(shown.contains(why), "{shown}");
    let json = daemon.json(["runtime", "show", "a"]);
    assert_eq!(json["runtime"]["limits"]["memory-max"], "512MiB", "{json}");
    assert_eq!(json["runtime"]["limits_unmet"][0], why, "{json}");
    let warnings = daemon.status().warnings;
    assert!(warnings.iter().any(|it| it.contains("limits of 1 instance are")), "{warnings:?}");

    let required = ["/bin/sleep", "--name", "b", "--pids-max", "9", "--limits-required", "--", "1"];
    daemon.add(required);
    let said = daemon.cli(["runtime", "start", "b"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(
        said.stderr.contains("limits-required") && said.stderr.contains("pids-max is not in force"),
        "{said:?}"
    );
    assert!(matches!(daemon.info("b").observed, Observed::Failed { .. }));
}

#[test]
fn limits_that_make_no_sense_are_refused() {
    let daemon = Daemon::start();
    for (flag, value, why) in [
        ("--memory-max", "12X", "not a size"),
        ("--memory-max", "1000", "memory-max: 1000B is less than 1MiB"),
        ("--cpu", "0", "is not 1%"),
        ("--cpu", "fast", "not an amount of processor time"),
        ("--cpu-weight", "0", "1..=10000"),
        ("--pids-max", "0", "1..=4194304"),
        ("--io-weight", "10001", "1..=10000"),
    ] {
        let said = daemon.cli(["runtime", "add", "/bin/true", flag, value]);
        assert!(said.code.is_some_and(|code| code != 0) && said.stderr.contains(why), "{said:?}");
    }
    let said =
        daemon.cli(["runtime", "add", "/bin/true", "--memory-max", "2M", "--memory-high", "3M"]);
    assert!(said.stderr.contains("memory-high: 3MiB is more than memory-max, 2MiB"), "{said:?}");
}

#[test]
fn a_change_of_limits_needs_no_restart() {
    let daemon = Daemon::start();
    let manifest = |limits: &str| {
        let path = daemon.dir().join("m.toml");
        let text = format!(
            "version = 1\n[instance.a]\nprogram = \"/bin/sleep\"\nargs = [\"1000\"]\n{limits}"
        );
        fs::write(&path, text).unwrap();
        path
    };
    daemon.ok(["apply".as_ref(), manifest("memory-max = \"1GiB\"").as_os_str()]);
    let pid = Some(eventually("it runs", || daemon.info("a").observed.pid()));
    let limits = "memory-max = \"2GiB\"\ncpu = 1.5\npids-max = 50\nlimits-required = false\n";
    let said = daemon.ok(["apply".as_ref(), manifest(limits).as_os_str()]);
    let expected = "~ instance a\n-     memory-max = \"1GiB\"\n+     memory-max = \"2GiB\"\n\
                    +     cpu = \"150%\"\n+     pids-max = 50\n\
                    0 added, 1 changed, 0 removed; 0 instances and 0 links as wanted\n";
    assert_eq!(said, expected);
    assert_eq!(daemon.info("a").observed.pid(), pid);
    let shown = daemon.ok(["runtime", "show", "a"]);
    assert!(shown.contains("memory-max 2GiB, cpu 150%, pids-max 50"), "{shown}");
    let exported = daemon.ok(["export"]);
    for line in ["memory-max = \"2GiB\"", "cpu = \"150%\"", "pids-max = 50"] {
        assert!(exported.contains(line), "{exported}");
    }
    let again = daemon.ok(["apply".as_ref(), manifest(limits).as_os_str()]);
    assert_eq!(again, "nothing differs: 1 instance and 0 links as wanted\n");
}
