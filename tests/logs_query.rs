//! Logs that answer questions: several at once, searched, between two times; and what a start
//! that failed says of them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::fs;

use orchestrator_proto::control::{Exit, LogQuery, LogRules, LogStream, WhenFull};
use tests::logs::{Follower, Gate, lines, query, read};
use tests::{Daemon, eventually, processes};

/// Starts it, and waits until it has ended.
#[track_caller]
fn run(daemon: &Daemon, name: &str) {
    daemon.ok(["runtime", "start", name]);
    assert_eq!(daemon.exited(name), Exit::Code(0), "{}", daemon.log());
}

#[test]
fn what_an_instance_that_has_ended_printed_is_complete() {
    let daemon = Daemon::start();
    // Much at once, its end without a newline.
    daemon.add_script("wordy", "seq 1 30000; seq 1 30000 >&2; printf 'the end'");
    for round in 1..=5 {
        daemon.ok(["runtime", "start", "wordy"]);
        eventually("it has ended", || {
            let info = daemon.info("wordy");
            (info.starts == round as u64).then_some(())?;
            info.observed.ended()
        });
        let text = daemon.ok(["runtime", "stdout", "--no-follow", "wordy"]);
        assert_eq!(text.lines().count(), round * 30_001, "{round}");
        assert!(text.ends_with("30000\nthe end\n") || text.ends_with("30000\nthe end"));
        assert_eq!(
            daemon.ok(["runtime", "stderr", "--no-follow", "wordy"]).lines().count(),
            round * 30_000
        );
    }
}

#[test]
fn several_logs_are_read_at_once_in_the_order_of_time() {
    let daemon = Daemon::start();
    // Each says a number when it is its turn.
    for (name, script) in [("a", "echo 1; echo 3 >&2"), ("long-name", "echo 2; echo 4")] {
        let gate = daemon.dir().join(name);
        nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let (first, second) = script.split_once("; ").unwrap();
        let gate = gate.display();
        let script = format!("{first}; read line < {gate}; {second}; read line < {gate}");
        daemon.add_script(name, &script);
    }
    let printed = |name: &str, text: &str| {
        eventually("it is printed", || {
            let items = read(&daemon, query(name, false));
            lines(&items).iter().any(|line| line.text.0 == text.as_bytes()).then_some(())
        });
    };
    let go_on = |name: &str| fs::write(daemon.dir().join(name), "\n").unwrap();
    daemon.ok(["runtime", "start", "a"]);
    printed("a", "1");
    daemon.ok(["runtime", "start", "long-name"]);
    printed("long-name", "2");
    go_on("a");
    printed("a", "3");
    go_on("long-name");
    printed("long-name", "4");
    let logs = |args: &[&str]| {
        let mut all = vec!["runtime", "logs", "--no-follow"];
        all.extend(args);
        daemon.ok(all)
    };
    let expected = "a         | 1\nlong-name | 2\na         | 3\nlong-name | 4\n";
    assert_eq!(logs(&["a", "long-name"]), expected);
    assert_eq!(logs(&["--all"]), expected);
    // One that is named twice is read once.
    assert_eq!(logs(&["a", "a"]), "1\n3\n");
    assert_eq!(logs(&["a", "long-name", "--tail", "1"]), "a         | 3\nlong-name | 4\n");
    assert_eq!(logs(&["--all", "--stream", "stderr"]), "a         | 3\n");
    assert_eq!(
        logs(&["--all", "--grep", "[23]"]),
        "a         | 2\n".replace("a         | 2", "long-name | 2") + "a         | 3\n"
    );
    let stamped = logs(&["--all", "--timestamps"]);
    let third: Vec<_> = stamped.lines().nth(2).unwrap().split_whitespace().collect();
    assert_eq!((third[0], third[1], third[3], third[4]), ("a", "|", "stderr", "3"), "{stamped}");
    let coloured = daemon.ok(["--color", "always", "runtime", "logs", "--no-follow", "--all"]);
    assert!(coloured.contains("\u{1b}[") && coloured.contains("long-name |"), "{coloured}");
    let json = daemon.ok(["--json", "runtime", "logs", "--no-follow", "--all"]);
    let names: Vec<serde_json::Value> = json
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["log"]["name"].clone())
        .collect();
    assert_eq!(names, ["a", "long-name", "a", "long-name"]);
    // What is asked for in vain, or is no question.
    for (args, code) in [
        (&["a", "nobody"][..], 3),
        (&["a", "--grep", "("], 1),
        (&["a", "--stream", "stdin"], 2),
        (&["a", "--all"], 2),
        (&[], 2),
    ] {
        let mut all = vec!["runtime", "logs", "--no-follow"];
        all.extend(args);
        let said = daemon.cli(all);
        assert_eq!(said.code, Some(code), "{said:?}");
    }
}

#[test]
fn several_logs_are_followed_over_restarts_and_rotation() {
    let daemon =
        Daemon::start_with(&["--instance-log-bytes", "65536", "--instance-log-files", "100"]);
    let gate = Gate::new(&daemon);
    let script =
        format!("exec 3<>{gate}; read line <&3; seq 1 20000 >&2; echo $line; exec sleep 1000");
    daemon.add_script("a", &script);
    daemon.add_script("b", "echo begin; exec sleep 1000");
    let mut follower =
        Follower::new(&daemon, &["runtime", "logs", "-f", "--all", "--stream", "stdout"]);
    // Then it follows.
    daemon.ok(["runtime", "start", "b"]);
    assert_eq!(follower.line(), "b | begin\n");
    for round in 0..3 {
        daemon.ok(["runtime", "restart", "a"]);
        gate.say(&format!("round {round}\n"));
        assert_eq!(follower.line(), format!("a | round {round}\n"));
        daemon.ok(["runtime", "restart", "b"]);
        assert_eq!(follower.line(), "b | begin\n");
    }
}

#[test]
fn the_last_matches_are_found_and_times_end_what_is_read() {
    let daemon = Daemon::start();
    daemon.add_script("count", "seq 1 50000");
    run(&daemon, "count");
    let tail = ["runtime", "logs", "count", "--no-follow", "--tail", "3", "--grep", "00$"];
    assert_eq!(daemon.ok(tail), "49800\n49900\n50000\n");
    let items = read(&daemon, query("count", false));
    let all = lines(&items);
    let until = all[20_000].time_ns;
    let asked = LogQuery { until_ns: Some(until), ..query("count", false) };
    let wanted = all.iter().filter(|line| line.time_ns <= until).count();
    assert_eq!(lines(&read(&daemon, asked)).len(), wanted);
    // A time that is over ends it, also if it follows; a time to come is waited for.
    let begun = std::time::Instant::now();
    let until = |time: &str| {
        daemon.ok(["runtime", "stdout", "count", "-f", "--tail", "1", "--until", time])
    };
    assert_eq!(until("2020-01-01T00:00:00Z"), "");
    assert_eq!(until("0s"), "50000\n");
    assert!(begun.elapsed() < tests::SOON);
}

#[test]
fn a_start_that_fails_shows_the_last_of_its_output() {
    let daemon = Daemon::start();
    let add = |name: &str, more: &[&str], script: &str| {
        let mut args = vec!["/bin/sh", "--name", name, "--ready-notify"];
        args.extend(more);
        args.extend(["--", "-c", script]);
        daemon.add(args);
    };
    add("bad", &[], "seq 1 20; echo 'no camera' >&2; printf 'giving up'; exit 3");
    for _ in 0..2 {
        let said = daemon.cli(["runtime", "start", "bad"]);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.stderr.contains("exit code 3"), "{}", said.stderr);
        let (_, ended) = said.stderr.split_once("its output ended with:\n").unwrap();
        let shown: Vec<_> = ended.lines().map(str::trim).collect();
        assert!(shown.contains(&"no camera") && shown.contains(&"giving up"), "{shown:?}");
        assert!(shown.contains(&"20") && !shown.contains(&"9"), "{shown:?}");
        assert!(shown.len() <= 11, "{shown:?}");
    }
    // Not that of an earlier run.
    add(
        "slow",
        &["--start-timeout", "200ms"],
        "test -e $ORCHESTRATOR_SLOW && exit; exec sleep 1000",
    );
    let said = daemon.cli(["runtime", "start", "slow"]);
    assert!(said.code == Some(1) && !said.stderr.contains("its output"), "{said:?}");
    // It is not executed at all, and started again by itself.
    daemon.add(["/nonexistent", "--name", "none"]);
    let said = daemon.cli(["runtime", "start", "none"]);
    assert!(said.code == Some(1) && !said.stderr.contains("its output"), "{said:?}");
    add("again", &["--restart", "always", "--restart-delay", "1ms"], "echo why; exit 1");
    let said = daemon.cli(["runtime", "start", "again"]);
    assert!(said.stderr.contains("its output ended with:\n    why"), "{said:?}");
}

#[test]
fn rules_of_logs_are_kept_and_shown_and_those_that_make_no_sense_refused() {
    let mut daemon = Daemon::start();
    let flags = ["--log-max-size", "1MiB", "--log-max-age", "1d", "--log-keep", "7"];
    let more = ["--log-compress", "zstd", "--log-when-full", "drop"];
    let mut args = vec!["/bin/true", "--name", "ruled"];
    args.extend(flags.iter().chain(&more));
    daemon.add(args);
    let pid = daemon.holder_pid();
    assert_eq!(daemon.terminate().code(), Some(0));
    processes::gone(pid);
    daemon.launch();
    let rules = tests::logs::detail(&daemon, "ruled").log;
    assert_eq!((rules.keep, rules.when_full), (Some(7), WhenFull::Drop));
    let shown = daemon.ok(["runtime", "show", "ruled"]);
    let expected = "files of 1MiB, files of 1d, 7 kept, zstd compressed, drop when full";
    assert!(shown.contains(expected), "{shown}");
    for (flag, value, code) in [
        ("--log-max-size", "1KiB", 1),
        ("--log-max-size", "huge", 2),
        ("--log-keep", "0", 1),
        ("--log-max-age", "800d", 1),
        ("--log-compress", "gzip", 2),
        ("--log-when-full", "panic", 2),
    ] {
        let said = daemon.cli(["runtime", "add", "/bin/true", flag, value]);
        assert_eq!(said.code, Some(code), "{said:?}");
    }
    assert_eq!(LogRules::default().when_full, WhenFull::Block);
    let remarks = LogQuery { stream: Some(LogStream::Orchestrator), ..query("ruled", false) };
    assert_eq!(read(&daemon, remarks), []);
}
