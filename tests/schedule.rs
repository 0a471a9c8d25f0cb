//! Schedules, as an operator meets them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use orchestrator_proto::control::{
    Desired, Event, EventKind, Exit, LastRun, Observed, RunResult, ScheduleInfo,
};
use tests::{Daemon, Said, eventually, processes};

fn schedule(daemon: &Daemon, name: &str) -> ScheduleInfo {
    daemon.info(name).schedule.unwrap()
}

fn last(daemon: &Daemon, name: &str) -> Option<LastRun> {
    schedule(daemon, name).last
}

/// Adds `sh -c SCRIPT` with this schedule.
#[track_caller]
fn add(daemon: &Daemon, name: &str, when: &str, options: &[&str], script: &str) -> String {
    let all = [&["/bin/sh", "--name", name, "--schedule", when], options, &["--", "-c", script]];
    daemon.add(all.concat())
}

/// A file with a line for each run, and the words of a script that write it.
fn counted(daemon: &Daemon) -> (PathBuf, String) {
    let file = daemon.dir().join("runs");
    let script = format!("echo run >> {}", file.display());
    (file, script)
}

fn runs(file: &Path) -> usize {
    fs::read_to_string(file).unwrap_or_default().lines().count()
}

fn skipped(event: &Event) -> Option<String> {
    match &event.kind {
        EventKind::RunSkipped { reason, .. } => Some(reason.clone()),
        _ => None,
    }
}

const DONE: RunResult = RunResult::Completed { exit: Exit::Code(0) };

/// A time that does not come while a test runs.
const LATER: &str = "0 0 29 2 *";

#[test]
fn it_runs_again_and_again_until_it_is_stopped() {
    let daemon = Daemon::start();
    let (file, script) = counted(&daemon);
    add(&daemon, "tick", "every 1s", &[], &script);
    assert_eq!(daemon.info("tick").observed.word(), "stopped");
    assert_eq!(schedule(&daemon, "tick").next_ms, None);
    let said = daemon.ok(["runtime", "start", "tick"]);
    assert!(said.starts_with("started the schedule of instance "), "{said}");
    let said = daemon.ok(["runtime", "start", "tick"]);
    assert!(said.ends_with(" was already started\n"), "{said}");
    eventually("it has run twice", || (runs(&file) >= 2).then_some(()));
    let run = eventually("its last run is known", || last(&daemon, "tick"));
    assert_eq!(run.result, DONE);
    assert!(run.ended_ms >= run.began_ms);
    let next = schedule(&daemon, "tick").next_ms.unwrap();
    assert_eq!(next % 1000, 0);
    daemon.ok(["runtime", "stop", "tick"]);
    let info = daemon.info("tick");
    assert_eq!((info.observed.word(), info.desired), ("stopped", Desired::Stopped));
    let stopped = info.schedule.unwrap();
    assert_eq!(stopped.next_ms, None);
    assert!(stopped.last.is_some(), "what it has done is still known");
}

#[test]
fn its_next_time_and_its_last_run_are_shown_in_its_time_zone() {
    let daemon = Daemon::start();
    add(&daemon, "leap", LATER, &["--time-zone", "Asia/Kolkata", "--overlap", "queue"], "exit 0");
    daemon.ok(["runtime", "start", "leap"]);
    let info = daemon.info("leap");
    assert!(matches!(info.observed, Observed::Scheduled { next_ms: Some(_) }), "{info:?}");
    let shown = daemon.ok(["runtime", "show", "leap"]);
    for expected in ["0 0 29 2 *, Asia/Kolkata, queue if", "-02-29 00:00:00 +05:30 (in "] {
        assert!(shown.contains(expected), "{shown}");
    }
    let listed = daemon.ok(["runtime", "list"]);
    assert!(listed.contains("scheduled"), "{listed}");
    assert!(listed.contains("leap runs next at 2"), "{listed}");
    let waiting = daemon.ok(["runtime", "list", "--state", "scheduled"]);
    assert!(waiting.contains("leap"), "{waiting}");
    let ready = daemon.ok(["runtime", "list", "--state", "ready"]);
    assert!(!ready.contains("leap"), "{ready}");
    daemon.ok(["runtime", "run", "leap"]);
    eventually("its run is over", || last(&daemon, "leap"));
    let shown = daemon.ok(["runtime", "show", "leap"]);
    assert!(shown.contains("completed with exit code 0 ("), "{shown}");
    let json = daemon.json(["runtime", "show", "leap"]);
    let schedule = &json["runtime"]["info"]["schedule"];
    assert_eq!(schedule["last"]["result"]["completed"]["exit"]["code"], 0, "{json}");
    assert_eq!(schedule["schedule"]["time-zone"], "Asia/Kolkata");
}

#[test]
fn a_run_now_and_what_it_comes_to() {
    let daemon = Daemon::start();
    let (file, script) = counted(&daemon);
    let options = ["--restart", "on-failure", "--restart-delay", "10ms", "--restart-burst", "2"];
    add(&daemon, "job", LATER, &options, &format!("{script}; exit 3"));
    let said = daemon.cli(["runtime", "run", "job"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("it is stopped, so it can't be run; start it first"), "{said:?}");
    daemon.ok(["runtime", "start", "job"]);
    daemon.ok(["runtime", "run", "job"]);
    let run = eventually("its run is over", || last(&daemon, "job"));
    assert!(matches!(&run.result, RunResult::Failed { exit: Some(Exit::Code(3)), .. }), "{run:?}");
    assert_eq!(runs(&file), 3, "it was tried again twice");
    let vitals = |name: &str| daemon.json(["runtime", "show", name])["runtime"]["vitals"].clone();
    assert_eq!(vitals("job")["restarts"], 2, "the first attempt of a run is no restart");
    assert_eq!(vitals("job")["restarts_on_end"], 0, "the next run is not the third one on end");
    daemon.ok(["runtime", "run", "job"]);
    eventually("all attempts of another run", || (runs(&file) == 6).then_some(()));
    eventually("its restarts are counted", || (vitals("job")["restarts"] == 4).then_some(()));
    assert_eq!(daemon.info("job").observed.word(), "scheduled", "the schedule goes on");
    let said = daemon.cli(["runtime", "wait", "job", "--for", "completed"]);
    assert_eq!(said.code, Some(1));
    daemon.add_script("plain", "exit 0");
    let said = daemon.cli(["runtime", "run", "plain"]);
    assert!(said.stderr.contains("is a service, which has no schedule"), "{said:?}");
}

#[test]
fn skip_leaves_out_and_says_so() {
    let daemon = Daemon::start();
    add(&daemon, "slow", "every 1s", &[], "exec sleep 1000");
    daemon.ok(["runtime", "start", "slow"]);
    let reason = daemon.event("a run is left out", skipped);
    assert_eq!(reason, "the run before it is not over");
    let count = eventually("another one", || {
        Some(schedule(&daemon, "slow").skipped).filter(|count| *count >= 2)
    });
    assert_eq!(daemon.info("slow").starts, 1);
    let shown = daemon.ok(["runtime", "show", "slow"]);
    assert!(shown.contains("runs left out"), "{count}: {shown}");
    let shown = daemon.ok(["events"]);
    assert_eq!(shown.matches("left out the run of").count(), 1, "all of them are one event");
    let shown = daemon.ok(["events"]);
    assert!(shown.contains(": the run before it is not over"), "{shown}");
}

#[test]
fn queue_comes_after_the_run_before() {
    let daemon = Daemon::start();
    let go = daemon.dir().join("go");
    let (file, script) = counted(&daemon);
    let script = format!("{script}; while ! [ -e {} ]; do sleep 0.01; done", go.display());
    add(&daemon, "one", LATER, &["--overlap", "queue"], &script);
    daemon.ok(["runtime", "start", "one"]);
    daemon.ok(["runtime", "run", "one"]);
    let said = daemon.ok(["runtime", "run", "one"]);
    assert!(said.contains(" is run when the run before it is over"), "{said}");
    assert_eq!(daemon.info("one").starts, 1);
    fs::write(&go, "").unwrap();
    eventually("both are over", || {
        (runs(&file) == 2 && daemon.info("one").observed.word() == "scheduled").then_some(())
    });
    assert_eq!(last(&daemon, "one").unwrap().result, DONE);
}

#[test]
fn replace_stops_the_run_before() {
    let daemon = Daemon::start();
    add(&daemon, "newest", LATER, &["--overlap", "replace"], "exec sleep 1000");
    daemon.ok(["runtime", "start", "newest"]);
    daemon.ok(["runtime", "run", "newest"]);
    let first = daemon.info("newest").observed.pid().unwrap();
    daemon.ok(["runtime", "run", "newest"]);
    let second = daemon.info("newest").observed.pid().unwrap();
    assert_ne!(first, second);
    assert!(!processes::is_alive(first), "never two at once");
    assert_eq!(last(&daemon, "newest").unwrap().result, RunResult::Stopped);
}

#[test]
fn a_run_that_takes_too_long_has_failed() {
    let daemon = Daemon::start();
    add(&daemon, "stuck", LATER, &["--run-timeout", "100ms"], "exec sleep 1000");
    daemon.ok(["runtime", "start", "stuck"]);
    daemon.ok(["runtime", "run", "stuck"]);
    let run = eventually("its run is over", || last(&daemon, "stuck"));
    let reason = "it did not end within 100ms".to_owned();
    assert_eq!(run.result, RunResult::Failed { reason, exit: None });
    // A task too.
    daemon.add([
        "/bin/sleep",
        "--name",
        "task",
        "--kind",
        "task",
        "--run-timeout",
        "100ms",
        "--",
        "1000",
    ]);
    daemon.ok(["runtime", "start", "task"]);
    let reason = eventually("it has failed", || match daemon.info("task").observed {
        Observed::Failed { reason, .. } => Some(reason),
        _ => None,
    });
    assert_eq!(reason, "it did not end within 100ms");
}

#[test]
fn schedules_outlive_the_daemon() {
    let mut daemon = Daemon::start();
    add(&daemon, "idle", LATER, &[], "exit 4");
    add(&daemon, "off", LATER, &[], "exit 0");
    add(&daemon, "long", LATER, &[], "exec sleep 1000");
    for name in ["idle", "off", "long"] {
        daemon.ok(["runtime", "start", name]);
        daemon.ok(["runtime", "run", name]);
    }
    eventually("two runs are over", || last(&daemon, "idle").and(last(&daemon, "off")));
    daemon.ok(["runtime", "stop", "off"]);
    let before = ["idle", "off"].map(|name| schedule(&daemon, name));
    let pid = daemon.info("long").observed.pid();

    // Killed: the run goes on, and ends under the next daemon.
    let old = daemon.pid();
    daemon.replace_killed();
    assert_ne!(daemon.pid(), old);
    eventually("it is scheduled again", || {
        (daemon.info("idle").observed.word() == "scheduled").then_some(())
    });
    assert_eq!(["idle", "off"].map(|name| schedule(&daemon, name)), before);
    assert_eq!(daemon.info("off").observed.word(), "stopped");
    assert_eq!(daemon.info("long").observed.pid(), pid);
    processes::signal(pid.unwrap(), nix::sys::signal::Signal::SIGKILL);
    let run = eventually("the run that went on is over", || last(&daemon, "long"));
    assert!(matches!(run.result, RunResult::Failed { exit: Some(Exit::Signal { .. }), .. }));

    // Ended and started anew: a run that is under way is stopped.
    daemon.ok(["runtime", "run", "long"]);
    assert!(daemon.terminate().success());
    daemon.launch();
    eventually("it is scheduled again", || {
        (daemon.info("long").observed.word() == "scheduled").then_some(())
    });
    assert_eq!(last(&daemon, "long").unwrap().result, RunResult::Stopped);
    assert_eq!(["idle", "off"].map(|name| schedule(&daemon, name)), before);
    assert_eq!(daemon.info("off").observed.word(), "stopped");
}

/// As if the daemon had not run for days: what it has dealt with is set back in its database.
#[test]
fn what_was_missed_is_left_out_or_made_up_for() {
    let mut daemon = Daemon::start();
    let (file, script) = counted(&daemon);
    add(&daemon, "left", "@hourly", &[], "exit 0");
    add(&daemon, "made-up", "@hourly", &["--catch-up"], &script);
    daemon.ok(["runtime", "start", "left", "made-up"]);
    assert!(daemon.terminate().success());
    let database = rusqlite::Connection::open(daemon.state_dir().join("state.db")).unwrap();
    let days_ago = "UPDATE runs SET schedule =
         json_set(schedule, '$.seen_ms', json_extract(schedule, '$.seen_ms') - 172800000)";
    assert_eq!(database.execute(days_ago, []).unwrap(), 2);
    drop(database);
    daemon.launch();
    let reason = daemon.event("a run was missed", skipped);
    assert!(reason.starts_with("it was missed: the daemon did not run"), "{reason}");
    let run = eventually("it has caught up", || last(&daemon, "made-up"));
    assert_eq!((run.result, runs(&file)), (DONE, 1), "one for all that were missed");
    assert_eq!(daemon.info("left").starts, 0);
    for name in ["left", "made-up"] {
        eventually("it waits for the next hour", || {
            let next = schedule(&daemon, name).next_ms?;
            (daemon.info(name).observed.word() == "scheduled" && next % 3_600_000 == 0)
                .then_some(())
        });
    }
}

#[test]
fn what_can_not_be_had_is_refused() {
    let daemon = Daemon::start();
    let refused = |options: &[&str]| {
        let said = daemon.cli([&["runtime", "add", "/bin/true"], options].concat());
        assert!(matches!(said.code, Some(1 | 2)), "{said:?}");
        said.stderr
    };
    let said = refused(&["--schedule", "61 * * * *"]);
    assert!(said.contains("minute \"61\": value must be in range 0..=59; found 61"), "{said}");
    let said = refused(&["--schedule", "0 0 30 2 *"]);
    assert!(said.contains("never comes: there is no such day in any year"), "{said}");
    let said = refused(&["--schedule", "@daily", "--time-zone", "Mars/Olympus"]);
    assert!(said.contains("is not a time zone that this machine knows"), "{said}");
    let said = refused(&["--kind", "schedule"]);
    assert!(said.contains("--schedule"), "{said}");
    let said = refused(&["--kind", "task", "--schedule", "@daily"]);
    assert!(said.contains("what has a --schedule is of the --kind schedule"), "{said}");
    let said = refused(&["--time-zone", "UTC"]);
    assert!(said.contains("--schedule"), "{said}");
    let said = refused(&["--schedule", "@daily", "--overlap", "kill"]);
    assert!(said.contains("use skip, queue or replace"), "{said}");
    let said = refused(&["--schedule", "@daily", "--restart", "always"]);
    assert!(said.contains("a schedule runs to its end each time"), "{said}");
    let said = refused(&["--run-timeout", "5s"]);
    assert!(said.contains("a service runs for ever"), "{said}");
    assert_eq!(daemon.ok(["--json", "runtime", "list"]).trim(), r#"{"runtimes":[]}"#);
}

#[test]
fn a_manifest_with_schedules() {
    let daemon = Daemon::start();
    let path = daemon.dir().join("orchestrator.toml");
    let path = path.to_str().unwrap();
    let text = |when: &str| {
        format!(
            "version = 1\n\n[instance.job]\nprogram = \"/bin/true\"\nkind = \"schedule\"\n\
             schedule = \"{when}\"\ntime-zone = \"Europe/Berlin\"\noverlap = \"replace\"\n\
             catch-up = true\nrun-timeout = \"1m\"\n"
        )
    };
    fs::write(path, text("30 3 * * *")).unwrap();
    daemon.ok(["apply", path, "--wait", "--timeout", "30s"]);
    assert_eq!(daemon.info("job").observed.word(), "scheduled");
    assert_eq!(daemon.ok(["export"]), text("30 3 * * *"));
    assert_eq!(daemon.cli(["diff", path]).code, Some(0));
    let before = schedule(&daemon, "job");
    fs::write(path, text("31 3 * * *")).unwrap();
    let said = daemon.cli(["diff", path]);
    assert_eq!(said.code, Some(5));
    assert!(said.stdout.contains("schedule"), "{said:?}");
    daemon.ok(["apply", path]);
    let minute_later = eventually("its next time is another one", || {
        let next = schedule(&daemon, "job").next_ms?;
        (Some(next) != before.next_ms).then_some(next)
    });
    assert_eq!(minute_later % 86_400_000 / 60_000 % 60, 31);
    assert_eq!(daemon.info("job").starts, 0, "nothing was run for that");
    fs::write(path, "version = 1\n[instance.job]\nprogram = \"/bin/true\"\noverlap = \"skip\"\n")
        .unwrap();
    let said = daemon.cli(["validate", path]);
    assert!(said.stderr.contains("4:1: `overlap` is for what has a `schedule`"), "{said:?}");
}

#[test]
fn a_changed_program_counts_from_the_next_run_on() {
    let daemon = Daemon::start();
    let path = daemon.dir().join("orchestrator.toml");
    let path = path.to_str().unwrap();
    let write = |script: &str| {
        let text = format!(
            "version = 1\n[instance.job]\nprogram = \"/bin/sh\"\nschedule = \"{LATER}\"\n\
             args = [\"-c\", \"{script}\"]\n"
        );
        fs::write(path, text).unwrap();
        daemon.ok(["apply", path, "--wait", "--timeout", "30s"]);
    };
    let is_scheduled = || (daemon.info("job").observed.word() == "scheduled").then_some(());
    let next = || schedule(&daemon, "job").next_ms;
    let exit = |code| RunResult::Failed {
        reason: format!("exit code {code}"),
        exit: Some(Exit::Code(code)),
    };
    write("exit 3");
    let before = next();
    daemon.ok(["runtime", "run", "job"]);
    eventually("the first run is over", || {
        last(&daemon, "job").filter(|run| run.result == exit(3))
    });
    write("exit 4");
    eventually("it goes on", is_scheduled);
    assert_eq!((daemon.info("job").starts, next()), (1, before));
    daemon.ok(["runtime", "run", "job"]);
    eventually("the second run is over", || {
        last(&daemon, "job").filter(|run| run.result == exit(4))
    });
    // A run that is under way is stopped, and not begun again.
    write("exec sleep 1000");
    daemon.ok(["runtime", "run", "job"]);
    let pid = daemon.info("job").observed.pid().unwrap();
    write("exit 5");
    eventually("it goes on", is_scheduled);
    assert!(!processes::is_alive(pid));
    assert_eq!(last(&daemon, "job").unwrap().result, RunResult::Stopped);
    assert_eq!(daemon.info("job").starts, 3);
}

#[test]
fn who_stands_behind_a_schedule_does_not_wait_for_its_next_time() {
    let daemon = Daemon::start();
    add(&daemon, "nightly", LATER, &[], "exit 0");
    daemon.ok(["runtime", "start", "nightly"]);
    let sleep = |name: &str, option: &str, other: &str| {
        daemon.add(["/bin/sleep", "--name", name, option, other, "--", "1000"]);
    };
    sleep("behind", "--after", "nightly");
    daemon.ok(["runtime", "start", "behind"]);
    assert_eq!(daemon.info("behind").observed.word(), "ready");
    // Who needs a run of it waits for one, and then has it.
    sleep("needs", "--requires", "nightly:completed");
    let mut start = daemon.cli_command(["runtime", "start", "needs"]);
    let start = start.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("it waits", || (daemon.info("needs").observed.word() == "waiting").then_some(()));
    daemon.ok(["runtime", "run", "nightly"]);
    assert_eq!(Said::when_ended(start).code, Some(0));
    daemon.ok(["runtime", "run", "nightly"]);
    eventually("it has run twice", || {
        let info = daemon.info("nightly");
        (info.starts == 2 && info.observed.word() == "scheduled").then_some(())
    });
    assert_eq!((daemon.info("needs").observed.word(), daemon.info("needs").starts), ("ready", 1));
}
