//! Restart policies, dependencies and stop sequences, as an operator meets them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::fs;

use nix::sys::signal::Signal;
use orchestrator_proto::control::{EventKind, Exit, Item, Observed};
use tests::{Daemon, eventually, processes};

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

#[track_caller]
fn becomes(daemon: &Daemon, name: &str, word: &str) -> Observed {
    eventually(&format!("{name} is {word}"), || {
        let observed = daemon.info(name).observed;
        (observed.word() == word).then_some(observed)
    })
}

/// What a command says that fails.
#[track_caller]
fn fails<const N: usize>(daemon: &Daemon, args: [&str; N]) -> String {
    let said = daemon.cli(args);
    assert_eq!(said.code, Some(1), "{said:?}");
    said.stderr
}

fn pid(daemon: &Daemon, name: &str) -> u32 {
    daemon.info(name).observed.pid().unwrap()
}

/// A shell script that counts its runs in a file, then goes on with `then`.
fn counting(daemon: &Daemon, then: &str) -> (String, std::path::PathBuf) {
    let file = daemon.dir().join("runs");
    (format!("echo run >> {}; {then}", file.display()), file)
}

fn runs(file: &std::path::Path) -> usize {
    fs::read_to_string(file).unwrap_or_default().lines().count()
}

#[test]
fn what_fails_is_started_again_with_delays_and_what_succeeds_is_completed() {
    let daemon = Daemon::start();
    let (script, file) = counting(&daemon, "[ $(wc -l < \"$0\") -ge 3 ]");
    let path = file.to_str().unwrap();
    daemon.ok([
        "runtime",
        "add",
        "/bin/sh",
        "--name",
        "third",
        "--restart",
        "on-failure",
        "--restart-delay",
        "20ms",
        "--restart-jitter",
        "0",
        "--",
        "-c",
        &script,
        path,
    ]);
    daemon.ok(["runtime", "start", "third"]);
    assert_eq!(becomes(&daemon, "third", "completed").ended(), Some(Exit::Code(0)));
    assert_eq!(runs(&file), 3);
    assert_eq!(daemon.info("third").starts, 3);
    let delays: Vec<_> = kinds(&daemon, "third")
        .into_iter()
        .filter_map(|kind| match kind {
            EventKind::BackOff { reason, delay_ms, attempt } => {
                assert_eq!(reason, "exit code 1");
                Some((attempt, delay_ms))
            }
            _ => None,
        })
        .collect();
    assert_eq!(delays, [(1, 20), (2, 40)]);
}

#[test]
fn always_is_after_a_success_too_and_a_stop_ends_it() {
    let daemon = Daemon::start();
    let (script, file) = counting(&daemon, "exit 0");
    daemon.ok([
        "runtime",
        "add",
        "/bin/sh",
        "--name",
        "again",
        "--restart",
        "always",
        "--restart-delay",
        "1ms",
        "--restart-max-delay",
        "5ms",
        "--",
        "-c",
        &script,
    ]);
    daemon.ok(["runtime", "start", "again"]);
    eventually("it has run several times", || (runs(&file) >= 5).then_some(()));
    daemon.ok(["runtime", "stop", "again"]);
    assert_eq!(daemon.info("again").observed.word(), "stopped");
    let count = runs(&file);
    daemon.ok(["runtime", "list"]);
    assert_eq!((runs(&file), daemon.info("again").observed.word()), (count, "stopped"));
}

#[test]
fn a_burst_ends_in_failed_with_the_reason_and_a_start_begins_anew() {
    let daemon = Daemon::start();
    let (script, file) = counting(&daemon, "exit 7");
    daemon.ok([
        "runtime",
        "add",
        "/bin/sh",
        "--name",
        "burst",
        "--restart",
        "always",
        "--restart-delay",
        "1ms",
        "--restart-burst",
        "2",
        "--restart-burst-within",
        "1h",
        "--",
        "-c",
        &script,
    ]);
    daemon.ok(["runtime", "start", "burst"]);
    let Observed::Failed { reason, exit, .. } = becomes(&daemon, "burst", "failed") else {
        panic!();
    };
    assert_eq!(exit, Some(Exit::Code(7)));
    assert_eq!(reason, "exit code 7; it was started again 2 times within 1h already");
    assert!(daemon.ok(["runtime", "list"]).contains(&reason));
    assert_eq!(runs(&file), 3);
    daemon.ok(["runtime", "start", "burst"]);
    eventually("it has used up its new starts", || (runs(&file) == 6).then_some(()));
    becomes(&daemon, "burst", "failed");
}

#[test]
fn exit_codes_that_are_no_failure() {
    let daemon = Daemon::start();
    daemon.ok([
        "runtime",
        "add",
        "/bin/sh",
        "--name",
        "three",
        "--restart",
        "on-failure",
        "--success-exit-codes",
        "0,3",
        "--",
        "-c",
        "exit 3",
    ]);
    daemon.ok(["runtime", "start", "three"]);
    assert_eq!(becomes(&daemon, "three", "completed").ended(), Some(Exit::Code(3)));
    assert_eq!(daemon.info("three").starts, 1);
}

#[test]
fn a_program_that_is_killed_is_started_again_at_once_and_is_a_new_process() {
    let daemon = Daemon::start();
    daemon.ok([
        "runtime",
        "add",
        "/bin/sleep",
        "--name",
        "nap",
        "--restart",
        "always",
        "--",
        "1000",
    ]);
    daemon.ok(["runtime", "start", "nap"]);
    let before = pid(&daemon, "nap");
    processes::signal(before, Signal::SIGKILL);
    eventually("there is another process", || {
        daemon.info("nap").observed.pid().filter(|pid| *pid != before)
    });
    assert!(!processes::is_alive(before));
}

#[test]
fn what_waits_to_be_started_again_is_started_by_the_next_daemon() {
    let daemon = Daemon::start();
    let (script, file) = counting(&daemon, "exit 1");
    daemon.ok([
        "runtime",
        "add",
        "/bin/sh",
        "--name",
        "slow",
        "--restart",
        "on-failure",
        "--restart-delay",
        "1h",
        "--restart-max-delay",
        "1h",
        "--",
        "-c",
        &script,
    ]);
    daemon.ok(["runtime", "start", "slow"]);
    let Observed::BackOff { reason, attempt, last_exit, .. } = becomes(&daemon, "slow", "back-off")
    else {
        panic!();
    };
    assert_eq!((reason.as_str(), attempt, last_exit), ("exit code 1", 1, Some(Exit::Code(1))));
    assert!(daemon.ok(["runtime", "show", "slow"]).contains("will be started again in"));
    daemon.replace_killed();
    eventually("it has run again", || (runs(&file) == 2).then_some(()));
    // And somebody who does not want to wait starts it.
    becomes(&daemon, "slow", "back-off");
    daemon.ok(["runtime", "start", "slow"]);
    eventually("it has run at once", || (runs(&file) == 3).then_some(()));
    becomes(&daemon, "slow", "back-off");
    daemon.ok(["runtime", "stop", "slow"]);
    assert_eq!(daemon.info("slow").observed.word(), "stopped");
}

/// db ← web ← last.
fn chain(daemon: &Daemon, effect: &str) {
    let db = ["runtime", "add", "/bin/sleep", "--name", "db", "--", "1000"];
    let web = ["runtime", "add", "/bin/sleep", "--name", "web", "--requires", "db", "--", "1000"];
    let effect = format!("web:ready:{effect}");
    let last = ["runtime", "add", "/bin/sleep", "--name", "last", "--requires", &effect, "--"];
    daemon.ok(last.into_iter().chain(["1000"]));
    daemon.ok(web);
    daemon.ok(db);
}

/// In which order these happened.
fn order(daemon: &Daemon, wanted: impl Fn(&EventKind) -> bool) -> Vec<String> {
    let said = daemon.ok(["--json", "events"]);
    let items = said.lines().map(|line| serde_json::from_str(line).unwrap());
    items
        .filter_map(|item| match item {
            Item::Event(event) if wanted(&event.kind) => event.name,
            _ => None,
        })
        .collect()
}

#[test]
fn what_is_needed_is_started_first_and_stopped_last() {
    let daemon = Daemon::start();
    chain(&daemon, "restart");
    daemon.ok(["runtime", "start", "last"]);
    let started = order(&daemon, |kind| matches!(kind, EventKind::Started { .. }));
    assert_eq!(started, ["db", "web", "last"]);
    daemon.ok(["runtime", "stop", "db"]);
    let stopped = order(&daemon, |kind| *kind == EventKind::Stopped);
    assert_eq!(stopped, ["last", "web", "db"]);
    for name in ["web", "last"] {
        assert_eq!(daemon.info(name).observed.word(), "waiting");
    }
    let list = daemon.ok(["runtime", "list"]);
    assert!(list.contains("web waits for db to be ready"), "{list}");
    daemon.ok(["runtime", "start", "db"]);
    becomes(&daemon, "last", "ready");
    let started = order(&daemon, |kind| matches!(kind, EventKind::Started { .. }));
    assert_eq!(started[3..], ["db", "web", "last"]);
}

#[test]
fn what_needs_a_program_that_fails_follows_it_as_it_is_told_to() {
    let daemon = Daemon::start();
    chain(&daemon, "stop");
    daemon.ok([
        "runtime",
        "add",
        "/bin/sleep",
        "--name",
        "careless",
        "--requires",
        "db:started:ignore",
        "--",
        "1000",
    ]);
    daemon.ok(["runtime", "start", "last", "careless"]);
    let careless = pid(&daemon, "careless");
    processes::signal(pid(&daemon, "db"), Signal::SIGKILL);
    becomes(&daemon, "db", "failed");
    becomes(&daemon, "web", "waiting");
    let Observed::Failed { reason, exit: None, .. } = becomes(&daemon, "last", "failed") else {
        panic!();
    };
    assert_eq!(reason, "web was stopped");
    assert_eq!(pid(&daemon, "careless"), careless);
    // To start it starts what it needs.
    daemon.ok(["runtime", "start", "web"]);
    assert_eq!(daemon.info("db").observed.word(), "ready");
}

#[test]
fn who_asks_for_what_can_t_be_is_told_and_does_not_wait() {
    let daemon = Daemon::start();
    daemon.ok(["runtime", "add", "/nonexistent/db", "--name", "db"]);
    daemon.ok(["runtime", "add", "/bin/sleep", "--name", "web", "--requires", "db", "--", "9"]);
    let said = fails(&daemon, ["runtime", "start", "web"]);
    assert!(said.contains("db has failed"), "{said}");
    assert_eq!(daemon.info("web").observed.word(), "waiting");
    daemon.ok(["runtime", "stop", "web"]);
    assert_eq!(daemon.info("web").observed.word(), "stopped");
}

#[test]
fn a_task_is_waited_for_until_it_has_completed() {
    let daemon = Daemon::start();
    let gate = daemon.dir().join("gate");
    let script = format!("while [ ! -e {} ]; do sleep 0.01; done", gate.display());
    daemon.ok([
        "runtime", "add", "/bin/sh", "--name", "setup", "--kind", "task", "--", "-c", &script,
    ]);
    daemon.ok([
        "runtime",
        "add",
        "/bin/sleep",
        "--name",
        "app",
        "--requires",
        "setup:completed",
        "--",
        "1000",
    ]);
    let app = daemon.cli_command(["runtime", "start", "app"]).spawn().unwrap();
    becomes(&daemon, "setup", "ready");
    becomes(&daemon, "app", "waiting");
    fs::write(&gate, "").unwrap();
    becomes(&daemon, "app", "ready");
    assert!(app.wait_with_output().unwrap().status.success());
    // What it has waited for is not lost by having ended.
    assert_eq!(daemon.info("setup").observed.word(), "completed");
}

#[test]
fn who_comes_after_another_waits_only_if_that_is_to_run() {
    let daemon = Daemon::start();
    daemon.ok(["runtime", "add", "/bin/sleep", "--name", "net", "--", "1000"]);
    daemon.ok(["runtime", "add", "/bin/sleep", "--name", "app", "--after", "net", "--", "1000"]);
    daemon.ok(["runtime", "start", "app"]);
    assert_eq!(daemon.info("net").observed.word(), "stopped");
    daemon.ok(["runtime", "start", "net"]);
    let before = pid(&daemon, "app");
    daemon.ok(["runtime", "stop", "net"]);
    assert_eq!(pid(&daemon, "app"), before, "it does not need it");
}

#[test]
fn a_cycle_is_refused_and_shown() {
    let daemon = Daemon::start();
    daemon.ok(["runtime", "add", "/bin/true", "--name", "a", "--requires", "b"]);
    daemon.ok(["runtime", "add", "/bin/true", "--name", "b", "--after", "c"]);
    let said = fails(&daemon, ["runtime", "add", "/bin/true", "--name", "c", "--requires", "a"]);
    assert!(said.contains("c → a → b → c"), "{said}");
    let said = fails(&daemon, ["runtime", "add", "/bin/true", "--name", "d", "--after", "d"]);
    assert!(said.contains("d → d"), "{said}");
    assert_eq!(daemon.status().runtimes, 2);
}

#[test]
fn the_end_of_the_daemon_stops_those_first_who_need_others() {
    let mut daemon = Daemon::start();
    let log = daemon.dir().join("ends");
    // db goes at once, if it is asked too early; web takes its time.
    let script = |name: &str, sleep: &str| {
        format!(
            "trap '{sleep} echo {name} >> {}; exit 0' TERM; echo listens; \
             while :; do sleep 0.01; done",
            log.display()
        )
    };
    daemon.ok(["runtime", "add", "/bin/sh", "--name", "db", "--", "-c", &script("db", "")]);
    daemon.ok([
        "runtime",
        "add",
        "/bin/sh",
        "--name",
        "web",
        "--requires",
        "db",
        "--",
        "-c",
        &script("web", "sleep 0.3;"),
    ]);
    daemon.ok(["runtime", "start", "web"]);
    daemon.prints("db", "listens");
    daemon.prints("web", "listens");
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait().success());
    assert_eq!(fs::read_to_string(&log).unwrap(), "web\ndb\n");
    // They should run, so they do again.
    daemon.launch();
    becomes(&daemon, "web", "ready");
    becomes(&daemon, "db", "ready");
}

#[test]
fn a_stop_sends_one_signal_after_the_other() {
    let daemon = Daemon::start();
    let log = daemon.dir().join("signals");
    let script = format!(
        "trap 'echo int >> {0}' INT; trap 'echo term >> {0}' TERM; echo on >> {0}; \
         while :; do sleep 0.01; done",
        log.display()
    );
    daemon.ok([
        "runtime",
        "add",
        "/bin/sh",
        "--name",
        "deaf",
        "--stop",
        "SIGINT 150ms, SIGTERM 150ms",
        "--",
        "-c",
        &script,
    ]);
    daemon.ok(["runtime", "start", "deaf"]);
    eventually("it listens", || fs::read_to_string(&log).ok().filter(|text| !text.is_empty()));
    daemon.ok(["runtime", "stop", "deaf"]);
    assert_eq!(fs::read_to_string(&log).unwrap(), "on\nint\nterm\n");
    let asked: Vec<_> = kinds(&daemon, "deaf")
        .into_iter()
        .filter(|kind| matches!(kind, EventKind::Stopping { .. } | EventKind::Killed))
        .collect();
    let stopping = |signal| EventKind::Stopping { signal };
    assert_eq!(asked, [stopping(2), stopping(15), EventKind::Killed]);
}

#[test]
fn rules_that_make_no_sense_are_refused() {
    let daemon = Daemon::start();
    for (args, hint) in [
        (&["--kind", "task", "--restart", "always"][..], "not always"),
        (&["--restart", "sometimes"], "on-failure"),
        (&["--restart-delay", "soon"], "500ms"),
        (&["--restart-factor", "0"], "1..=100"),
        (&["--requires", "db:soon"], "completed"),
        (&["--requires", "db:ready:explode"], "ignore"),
        (&["--stop", "SIGNOPE 1s"], "SIGNOPE"),
        (&["--stop", "SIGTERM 2d"], "more than a day"),
        (&["--success-exit-codes", "0,x"], "invalid digit"),
        (&["--success-exit-codes", "256"], "256"),
        (&["--start-timeout", "9999d"], "more than a year"),
        (&["--stop-command", "relative stop"], "not absolute"),
    ] {
        let mut add = vec!["runtime", "add", "/bin/true"];
        add.extend(args);
        let said = daemon.cli(add);
        assert!(matches!(said.code, Some(1 | 2)), "{args:?}: {said:?}");
        assert!(said.stderr.contains(hint), "{args:?}: {said:?}");
    }
    assert_eq!(daemon.status().runtimes, 0);
}

#[test]
fn how_it_is_supervised_is_shown_and_kept() {
    let daemon = Daemon::start();
    daemon.ok([
        "runtime",
        "add",
        "/bin/true",
        "--name",
        "all",
        "--restart",
        "on-failure",
        "--restart-burst",
        "5",
        "--requires",
        "db:started",
        "--after",
        "net",
        "--stop",
        "SIGINT 1s, SIGTERM 5s",
    ]);
    let before = daemon.ok(["--json", "runtime", "show", "all"]);
    let shown = daemon.ok(["runtime", "show", "all"]);
    for line in [
        "restart: on failure, after 100ms times 2 up to 1m, at most 5 times within 1m",
        "requires: db started (else restart)",
        "after: net ready",
        "stop: SIGINT for 1s, SIGTERM for 5s, SIGKILL",
    ] {
        // As wide as the longest key is.
        let (key, value) = line.split_once(": ").unwrap();
        let is_it = |line: &str| {
            line.split_once(": ").is_some_and(|(k, v)| k == key && v.trim() == value.trim())
        };
        assert!(shown.lines().any(is_it), "{line}\n{shown}");
    }
    daemon.replace_killed();
    assert_eq!(daemon.ok(["--json", "runtime", "show", "all"]), before);
}

#[test]
fn waiting_for_a_state_ends_with_it_or_with_the_reason() {
    let daemon = Daemon::start();
    let gate = daemon.dir().join("gate");
    let script = format!("while [ ! -e {} ]; do sleep 0.01; done; exit 0", gate.display());
    daemon.ok(["runtime", "add", "/bin/sh", "--name", "job", "--", "-c", &script]);
    daemon.ok(["runtime", "add", "/bin/sh", "--name", "bad", "--", "-c", "exit 3"]);
    let wait = |state: &'static str| {
        let args = ["runtime", "wait", "job", "--for", state];
        let mut command = daemon.cli_command(args);
        command.stdout(std::process::Stdio::piped()).spawn().unwrap()
    };
    let (ready, completed) = (wait("ready"), wait("completed"));
    daemon.ok(["runtime", "start", "job", "bad"]);
    let said = ready.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "instance job is ready\n");
    let said = fails(&daemon, ["runtime", "wait", "job", "--for", "stopped", "--timeout", "20ms"]);
    assert!(said.contains("not stopped in time"), "{said}");
    fs::write(&gate, "").unwrap();
    let said = completed.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "instance job is completed\n");
    daemon.ok(["runtime", "wait", "job", "bad", "--for", "stopped"]);
    let said = fails(&daemon, ["runtime", "wait", "bad", "--for", "ready"]);
    assert!(said.contains("exit code 3"), "{said}");
    assert_eq!(daemon.cli(["runtime", "wait", "none"]).code, Some(3));
}

#[test]
fn a_stop_of_what_waits_is_told() {
    let daemon = Daemon::start();
    daemon.ok(["runtime", "add", "/bin/true", "--name", "w", "--requires", "nobody"]);
    let start = daemon.cli_command(["runtime", "start", "w"]).spawn().unwrap();
    becomes(&daemon, "w", "waiting");
    daemon.ok(["runtime", "stop", "w"]);
    assert_eq!(start.wait_with_output().unwrap().status.code(), Some(1));
    assert_eq!(kinds(&daemon, "w").last(), Some(&EventKind::Stopped));
}
