//! Another daemon takes the place of the one that runs, and nobody notices; or it can't, and the
//! one that runs stays.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::Signal;
use orchestrator_proto::ErrorCode;
use orchestrator_proto::control::{
    EventKind, Item, LogQuery, Observed, Policy, Reply, Request, ServerBody, SuccessorSpec,
};
use tests::control::Control;
use tests::load::{Asker, CALM, CHATTY, Follower, Messages, complete, numbers, printed, running};
use tests::{Daemon, Said, binary, eventually, executable, processes};

#[test]
fn nobody_notices_under_load() {
    let daemon = Daemon::start_with(&["--instance-log-files", "1000"]);
    for (name, script) in [("chatty", CHATTY), ("one", CALM), ("two", CALM)] {
        daemon.add_script(name, script);
        daemon.ok(["runtime", "start", name]);
    }
    let ids = ["from", "to"].map(|name| daemon.put(name));
    daemon.link_with("from", "n", "to", Policy::Block, 32);
    let names = ["chatty", "one", "two"];
    let pids = names.map(|name| running(&daemon, name));
    let messages = Messages::start(daemon.native_socket(&ids[0]), daemon.native_socket(&ids[1]));
    let following = Follower::start(&daemon, &["runtime", "stdout", "one", "--follow"]);
    let logs = Follower::start(&daemon, &["runtime", "stdout", "chatty", "--follow"]);
    let events = Follower::start(&daemon, &["--json", "events", "--follow", "--after", "0"]);
    let asker = Asker::start(daemon.socket());
    let (holder, mut before) = (daemon.holder_pid(), daemon.pid());

    for round in 0..5 {
        asker.goes_on(50);
        let (passed, printed) = (messages.count(), following.count());
        let said = if round % 2 == 0 {
            daemon.ok(["daemon", "restart"])
        } else {
            let path = binary("orchestrator");
            daemon.ok(["daemon", "upgrade", "--keep-holder", "--binary", path.to_str().unwrap()])
        };
        let after = daemon.pid();
        let what = if round % 2 == 0 { "restarted" } else { "upgraded" };
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            said,
            format!(
                "daemon {what}: process {before} -> {after}, version {version} -> {version}, \
                 instances kept: 3\n"
            )
        );
        assert_ne!(before, after);
        processes::gone(before);
        before = after;
        assert_eq!(daemon.status().holder_pid, holder);
        assert_eq!(names.map(|name| running(&daemon, name)), pids);
        eventually("messages pass", || (messages.count() > passed + 100).then_some(()));
        eventually("lines are printed", || (following.count() > printed + 10).then_some(()));
    }

    asker.goes_on(50);
    let cut = asker.end();
    // A goodbye, and a connection to who was just about to let go.
    assert!(cut <= 10, "{cut} requests were cut by 5 replacements");
    messages.end();

    for name in names {
        assert_eq!(daemon.info(name).starts, 1, "{name}");
        daemon.ok(["runtime", "stop", name]);
        complete(name, &printed(&daemon, name, "stdout"));
        assert_eq!(daemon.detail(name).log_bytes_lost, 0);
    }
    complete("stderr", &printed(&daemon, "two", "stderr"));
    let all = printed(&daemon, "one", "stdout").len();
    eventually("all is followed", || (following.count() == all).then_some(()));
    complete("followed", &numbers(&following.end(false)));
    complete("followed", &numbers(&logs.end(false)));

    daemon.ok(["runtime", "remove", "two"]);
    eventually("the last event is followed", || {
        events.lines.lock().unwrap().last().filter(|line| line.contains("removed")).map(|_| ())
    });
    let events: Vec<serde_json::Value> =
        events.end(false).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seqs: Vec<_> = events.iter().map(|event| event["event"]["seq"].as_u64().unwrap()).collect();
    complete("events", &seqs);
    let replaced =
        |event: &&serde_json::Value| event["event"]["kind"].get("daemon-replaced").is_some();
    assert_eq!(events.iter().filter(replaced).count(), 5);
    let bad = ["exited", "started\":", "messages-lost", "events-lost"];
    let until_stop = events.iter().take_while(|event| !event.to_string().contains("stopping"));
    for event in until_stop.skip_while(|event| !event.to_string().contains("replaced")) {
        let text = event.to_string();
        assert!(!bad.iter().any(|bad| text.contains(&format!("\"{bad}"))), "{text}");
    }
}

#[track_caller]
fn refused(daemon: &Daemon, binary: &Path, why: &str) {
    let pid = daemon.pid();
    let said = daemon.cli(["daemon", "upgrade", "--binary", binary.to_str().unwrap()]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains(why), "{said:?}");
    assert_eq!(daemon.pid(), pid, "the daemon stays");
    assert!(running(daemon, "a") > 0);
}

fn file_of(path: PathBuf, content: &[u8]) -> PathBuf {
    executable(&path, content);
    path
}

/// Copies the daemon's program.
fn copy_to(path: &Path) {
    executable(path, &fs::read(binary("orchestrator")).unwrap());
}

#[test]
fn what_can_not_take_over_does_not() {
    let daemon = Daemon::start();
    daemon.add(["/bin/sleep", "--name", "a", "--", "1000"]);
    daemon.ok(["runtime", "start", "a"]);
    let pid = running(&daemon, "a");
    let file = |name: &str| daemon.dir().join(name);

    refused(&daemon, &file("none"), "No such file");
    refused(&daemon, daemon.dir(), "it is no file");
    fs::write(file("data"), "x").unwrap();
    refused(&daemon, &file("data"), "Permission denied");
    refused(&daemon, &file_of(file("text"), b"nothing\n"), "Exec format error");
    refused(&daemon, &file_of(file("script"), b"#!/bin/sh\nsleep 1000\n"), "script");
    let mut foreign = fs::read(binary("orchestrator")).unwrap();
    // The machine, in the header of an ELF file: none that there is.
    foreign[18..20].copy_from_slice(&[0xff, 0x7f]);
    refused(&daemon, &file_of(file("foreign"), &foreign), "Exec format error");
    refused(&daemon, Path::new("/bin/true"), "ended with exit code 0");
    refused(&daemon, Path::new("/bin/false"), "ended with exit code 1");

    // A state that it can't read: the daemon has its database open, under another name now.
    let database = ["state.db", "state.db-wal", "state.db-shm"];
    for name in database {
        fs::rename(daemon.state_dir().join(name), file(name)).unwrap();
    }
    fs::write(daemon.state_dir().join("state.db"), "no database".repeat(1000)).unwrap();
    refused(&daemon, &binary("orchestrator"), "ended with exit code 1");
    assert!(daemon.log().contains("file is not a database"), "{}", daemon.log());
    for name in database {
        fs::rename(file(name), daemon.state_dir().join(name)).unwrap();
    }

    assert_eq!(running(&daemon, "a"), pid);
    assert_eq!(daemon.info("a").starts, 1);
    daemon.ok(["daemon", "restart"]);
    assert_eq!(running(&daemon, "a"), pid);
}

/// A state whose reader waits for ever, for as long as this is there.
struct Hang {
    state: PathBuf,
    aside: PathBuf,
}

impl Hang {
    fn new(daemon: &Daemon) -> Self {
        let (state, aside) = (daemon.state_dir().join("state.db"), daemon.dir().join("state.db"));
        fs::rename(&state, &aside).unwrap();
        nix::unistd::mkfifo(&state, nix::sys::stat::Mode::S_IRWXU).unwrap();
        Self { state, aside }
    }
}

impl Drop for Hang {
    fn drop(&mut self) {
        fs::rename(&self.aside, &self.state).unwrap();
    }
}

/// Waits until the capture process is there, and says which it is.
fn capture(daemon: &Daemon) -> u32 {
    let pid = eventually("capture is there", || {
        daemon.json(["daemon", "status"])["capture"]["pid"].as_u64()
    });
    u32::try_from(pid).unwrap()
}

/// Waits until a daemon that hangs is there beside these, which are all that there are without it.
fn hanging(daemon: &Daemon, known: &[u32]) -> u32 {
    eventually("another daemon is there", || {
        let name = |pid: u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let others = processes::children(daemon.holder_pid()).into_iter();
        others
            .filter(|other| !known.contains(other))
            .find(|other| name(*other).trim() == "orchestrator")
    })
}

#[test]
fn one_that_hangs_is_given_up_and_meanwhile_nobody_else_is_tried() {
    let daemon = Daemon::start();
    let pid = daemon.pid();
    let known = [pid, capture(&daemon)];
    let hang = Hang::new(&daemon);
    let mut first = daemon.cli_command(["daemon", "restart", "--timeout", "1h"]);
    let first = first.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let other = hanging(&daemon, &known);
    let second = daemon.cli(["daemon", "restart"]);
    assert_eq!(second.code, Some(1));
    assert!(second.stderr.contains("another daemon is being started already"), "{second:?}");
    // The daemon is not held up.
    daemon.add(["/bin/sleep", "--name", "a", "--", "1000"]);
    processes::signal(other, Signal::SIGKILL);
    let first = Said::when_ended(first);
    assert_eq!(first.code, Some(1), "{first:?}");
    // Nobody ends this one.
    let third = daemon.cli(["daemon", "restart", "--timeout", "300ms"]);
    assert_eq!(third.code, Some(1), "{third:?}");
    let said = "was not able to take over within 300ms, and was killed";
    assert!(third.stderr.contains(said), "{third:?}");
    eventually("it is gone", || {
        let mut left = processes::children(daemon.holder_pid()).into_iter();
        left.all(|other| known.contains(&other)).then_some(())
    });
    drop(hang);
    assert_eq!(daemon.pid(), pid);
    daemon.ok(["daemon", "restart"]);
    assert_ne!(daemon.pid(), pid);
    assert_eq!(daemon.info("a").starts, 0);
}

#[test]
fn sigterm_ends_everything_at_any_moment_of_a_replacement() {
    let mut daemon = Daemon::start();
    daemon.add(["/bin/sleep", "--name", "a", "--", "1000"]);
    daemon.ok(["runtime", "start", "a"]);
    let instance = running(&daemon, "a");
    let pid = daemon.pid();
    let known = [pid, instance, capture(&daemon)];
    let hang = Hang::new(&daemon);
    let mut client =
        daemon.cli_command(["daemon", "restart"]).stderr(Stdio::null()).spawn().unwrap();
    let other = hanging(&daemon, &known);
    drop(hang);
    assert_eq!(daemon.terminate().code(), Some(0), "{}", daemon.log());
    [pid, other, instance].into_iter().for_each(processes::gone);
    client.wait().unwrap();

    for round in 0..8 {
        daemon.launch();
        let instance = running(&daemon, "a");
        let mut control = Control::connect(daemon.socket());
        control.request(
            1,
            Request::DaemonReplace { successor: SuccessorSpec::Same, timeout_ms: 60_000 },
        );
        if round % 2 == 0 {
            // In the middle of it, or just before; else while it lets go, or just after.
            let ServerBody::Reply(Reply::Replacing { .. }) = control.answer(1) else {
                panic!("it can be replaced")
            };
        }
        for _ in 0..round * 200 {
            std::hint::spin_loop();
        }
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| daemon.terminate()));
        let code = ended.ok().and_then(|ended| ended.code());
        assert_eq!(code, Some(0), "round {round}: {}", daemon.log());
        processes::gone(instance);
        assert!(UnixStream::connect(daemon.socket()).is_err());
    }
}

#[test]
fn a_daemon_that_dies_after_an_upgrade_is_the_new_one_again() {
    let daemon = Daemon::start();
    daemon.add(["/bin/sleep", "--name", "a", "--", "1000"]);
    daemon.ok(["runtime", "start", "a"]);
    let instance = running(&daemon, "a");
    let copy = daemon.dir().join("copy");
    copy_to(&copy);
    daemon.ok(["daemon", "upgrade", "--binary", copy.to_str().unwrap()]);
    let exe = |pid: u32| fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    let pid = daemon.pid();
    assert_eq!(exe(pid), copy);
    // It is executed from the file that it was, whatever becomes of that.
    fs::remove_file(&copy).unwrap();
    processes::signal(pid, Signal::SIGKILL);
    processes::gone(pid);
    let next = daemon.pid();
    assert_ne!(next, pid);
    assert!(exe(next).as_os_str().as_bytes().ends_with(b"copy (deleted)"));
    assert_eq!(running(&daemon, "a"), instance);
    // The same version, which has no file any more; then what is in the file of that name.
    daemon.ok(["daemon", "restart"]);
    assert!(exe(daemon.pid()).as_os_str().as_bytes().ends_with(b"copy (deleted)"));
    let said = daemon.cli(["daemon", "upgrade"]);
    assert!(said.stderr.contains("No such file"), "{said:?}");
    copy_to(&copy);
    daemon.ok(["daemon", "upgrade"]);
    assert_eq!(exe(daemon.pid()), copy);
    assert_eq!(running(&daemon, "a"), instance);
}

#[test]
fn what_takes_long_is_cut_and_what_it_began_goes_on() {
    let daemon = Daemon::start();
    // It takes its time to stop.
    let end = daemon.dir().join("end");
    let script = format!(
        "trap 'while [ ! -e {} ]; do sleep 0.01; done; exit 3' TERM; echo ready; \
         while :; do sleep 0.01; done",
        end.display()
    );
    daemon.add(["/bin/sh", "--name", "slow", "--stop-timeout", "1h", "--", "-c", &script]);
    daemon.ok(["runtime", "start", "slow"]);
    daemon.prints("slow", "ready");
    let mut control = Control::connect(daemon.socket());
    let follow = LogQuery { follow: true, ..LogQuery::of("slow") };
    control.request(1, Request::Logs(follow));
    assert!(matches!(control.answer(1), ServerBody::Item(Item::Log(_))));
    control.request(2, Request::RuntimeStop { instance: "slow".into() });
    daemon.event("slow is stopping", |event| {
        matches!(event.kind, EventKind::Stopping { .. }).then_some(())
    });
    daemon.ok(["daemon", "restart"]);
    // The stream at once, then the stop, then the goodbye.
    let mut cut = Vec::new();
    while let Some(frame) = control.frame() {
        if let ServerBody::Error(error) = frame.body {
            assert_eq!(error.code, ErrorCode::Replaced);
            cut.push(frame.id);
        }
    }
    assert_eq!(cut, [1, 2, 0]);
    // The next daemon goes on with the stop.
    fs::write(end, "").unwrap();
    eventually("it is stopped", || {
        matches!(daemon.info("slow").observed, Observed::Stopped { .. }).then_some(())
    });
    assert_eq!(daemon.info("slow").starts, 1);
}

fn now_ms() -> u64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

#[test]
fn status_shows_all_processes() {
    // The kernel counts in hundredths of a second.
    let began = now_ms() - 100;
    let daemon = Daemon::start();
    let capture = capture(&daemon);
    let json = daemon.json(["daemon", "status"]);
    let (holder, pid) = (daemon.holder_pid(), daemon.pid());
    assert_eq!(json["holder"]["pid"], holder);
    assert_eq!(json["daemon"]["pid"], pid);
    assert_eq!(json["capture"]["pid"], capture);
    assert!(processes::children(holder).contains(&capture));
    for process in ["holder", "daemon", "capture"] {
        let process = &json[process];
        assert_eq!(process["version"], env!("CARGO_PKG_VERSION"));
        let pid = u32::try_from(process["pid"].as_u64().unwrap()).unwrap();
        let resident = process["resident_bytes"].as_u64().unwrap();
        let now = processes::resident_kib(pid) * 1024;
        assert!(resident > now / 2 && resident < now * 2, "{process} {now}");
        let files = process["open_files"].as_u64().unwrap() as usize;
        assert!(files.abs_diff(processes::open_files(pid)) < 8, "{process}");
        let started = process["started_ms"].as_u64().unwrap();
        // None is older than this test.
        assert!((began..=now_ms() + 100).contains(&started), "{process}: {started} and {began}");
    }
    eventually("nobody but who asks is connected", || {
        let json = daemon.json(["daemon", "status"]);
        (json["queues"]["clients"] == 1 && json["queues"]["requests"] == 1).then_some(())
    });
    let text = Said::of(daemon.cli_command(["daemon", "status"])).stdout;
    assert!(text.contains(&format!("process {pid}, version")), "{text}");
}
