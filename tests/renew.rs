//! Another program takes the place of the holder's, in the same process, and nobody notices; or it
//! can't, and the one that runs goes on.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;
use orchestrator_proto::ErrorCode;
use orchestrator_proto::client::Client;
use orchestrator_proto::control::{Exit, Policy, Reply, Request, ServerBody, Way};
use tests::control::Control;
use tests::load::{Asker, CALM, CHATTY, Follower, Messages, complete, numbers, printed, running};
use tests::{Daemon, Said, binary, block_on, eventually, processes};

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn restart(daemon: &Daemon) {
    let said = daemon.ok(["daemon", "restart", "--all"]);
    let holder = daemon.holder_pid();
    let expected =
        format!("\nholder restarted: still process {holder}, version {VERSION} -> {VERSION}\n");
    assert!(said.contains(&expected), "{said}");
    assert!(said.contains("\ncapture restarted: process "), "{said}");
}

/// The program's file, by number: it may have no name any more.
fn program(pid: u32) -> u64 {
    fs::metadata(format!("/proc/{pid}/exe")).unwrap().ino()
}

/// What stays of a process when it executes another program.
fn traits(pid: u32) -> Vec<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let wanted = ["Name:", "PPid:", "Threads:", "SigBlk:", "SigIgn:", "SigCgt:"];
    let lines = status.lines().filter(|line| wanted.iter().any(|it| line.starts_with(it)));
    let mut traits: Vec<String> = lines.map(str::to_owned).collect();
    traits.push(fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap());
    traits.push(fs::read_to_string(format!("/proc/{pid}/limits")).unwrap());
    traits
}

#[test]
fn nobody_notices_under_load() {
    let daemon = Daemon::start_with(&["--instance-log-files", "1000"]);
    for (name, script) in [("chatty", CHATTY), ("one", CALM), ("two", CALM)] {
        daemon.add_script(name, script);
        daemon.ok(["runtime", "start", name]);
    }
    let ids = ["from", "to"].map(|name| daemon.put(name));
    let link = daemon.link_with("from", "n", "to", Policy::Block, 32);
    let names = ["chatty", "one", "two"];
    let pids = names.map(|name| running(&daemon, name));
    let messages = Messages::start(daemon.native_socket(&ids[0]), daemon.native_socket(&ids[1]));
    let following = Follower::start(&daemon, &["runtime", "stdout", "one", "--follow"]);
    let asker = Asker::start(daemon.socket());
    let (holder, pid) = (daemon.holder_pid(), daemon.pid());
    let before = traits(holder);
    // The first time, what it had as its standard input, and what it had inherited, is left out.
    daemon.request(Request::HolderRenew { timeout_ms: 20_000 }).unwrap();
    // The holder has an end of the lane that messages go over, from when its receiver has one.
    eventually("messages go directly", || {
        (daemon.link_info(link).way == Way::Direct).then_some(())
    });
    let passed = messages.count();
    eventually("messages pass", || (messages.count() > passed + 1000).then_some(()));
    let files = processes::open_files(holder);

    for round in 0..6 {
        asker.goes_on(50);
        let (passed, printed) = (messages.count(), following.count());
        if round % 3 == 2 {
            restart(&daemon);
        } else {
            // Only the holder: the daemon is the same all the time.
            let now = daemon.pid();
            let Reply::HolderRenewed { pid, from, to } =
                daemon.request(Request::HolderRenew { timeout_ms: 20_000 }).unwrap()
            else {
                panic!("it is replaced")
            };
            assert_eq!(
                (pid, from.as_deref(), to.as_deref()),
                (holder, Some(VERSION), Some(VERSION))
            );
            assert_eq!(daemon.pid(), now);
            let capture = processes::capture(holder);
            let renewed = daemon.request(Request::CaptureRenew { timeout_ms: 20_000 }).unwrap();
            let Reply::CaptureRenewed { before, pid, .. } = renewed else { panic!("{renewed:?}") };
            assert_eq!((before, pid), (capture, processes::capture(holder)));
            assert_ne!(before, pid);
        }
        assert_eq!(traits(holder), before);
        assert_eq!(daemon.status().holder_pid, holder);
        assert_eq!(names.map(|name| running(&daemon, name)), pids);
        eventually("messages pass", || (messages.count() > passed + 100).then_some(()));
        eventually("lines are printed", || (following.count() > printed + 10).then_some(()));
        // From the first replacement of the daemon on it has that one's program. What is left of a
        // capture process that has ended is soon forgotten.
        let expected = files + usize::from(round >= 2);
        eventually("no file is left", || (processes::open_files(holder) == expected).then_some(()));
    }
    assert_ne!(daemon.pid(), pid);

    asker.goes_on(50);
    asker.end();
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
}

#[test]
fn ends_are_told_stops_work_and_the_daemon_may_be_killed_afterwards() {
    let mut daemon = Daemon::start();
    let go = daemon.dir().join("go");
    let script = format!("while ! [ -e {} ]; do sleep 0.01; done; exit 7", go.display());
    daemon.add_script("ends", &script);
    daemon.add(["/bin/sleep", "--name", "stays", "--", "1000"]);
    for name in ["ends", "stays"] {
        daemon.ok(["runtime", "start", name]);
    }
    let (ends, stays) = (running(&daemon, "ends"), running(&daemon, "stays"));
    for _ in 0..3 {
        restart(&daemon);
    }
    fs::write(go, "").unwrap();
    assert_eq!(daemon.exited("ends"), Exit::Code(7));
    processes::gone(ends);
    let (holder, pid) = (daemon.holder_pid(), daemon.pid());
    processes::signal(pid, Signal::SIGKILL);
    processes::gone(pid);
    let next = daemon.pid();
    assert_eq!((daemon.holder_pid(), running(&daemon, "stays")), (holder, stays));
    assert_ne!(next, pid);
    // The next one can be replaced too, and so can the holder.
    restart(&daemon);
    daemon.ok(["runtime", "stop", "stays"]);
    processes::gone(stays);
    daemon.ok(["runtime", "start", "stays"]);
    let again = running(&daemon, "stays");
    assert!(processes::children(holder).contains(&again));
    assert_eq!(daemon.terminate().code(), Some(0), "{}", daemon.log());
    [holder, again].into_iter().for_each(processes::gone);
}

fn copy(daemon: &Daemon, name: &str) -> PathBuf {
    let path = daemon.dir().join(name);
    fs::copy(binary("orchestrator"), &path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn an_upgrade_is_one_of_all_processes_and_status_says_so() {
    let daemon = Daemon::start();
    let holder = daemon.holder_pid();
    let (first, second) = (copy(&daemon, "first"), copy(&daemon, "second"));
    let before = traits(holder);
    let upgrade = |args: &[&str]| daemon.ok([&["daemon", "upgrade", "--binary"], args].concat());

    let said = upgrade(&[first.to_str().unwrap(), "--keep-holder"]);
    assert!(!said.contains("holder"), "{said}");
    let inode = fs::metadata(&first).unwrap().ino();
    assert_eq!(program(daemon.pid()), inode);
    assert_ne!(program(holder), inode);

    let said = upgrade(&[second.to_str().unwrap()]);
    let line =
        format!("\nholder upgraded: still process {holder}, version {VERSION} -> {VERSION}\n");
    assert!(said.contains(&line), "{said}");
    let inode = fs::metadata(&second).unwrap().ino();
    assert_eq!((program(holder), program(daemon.pid())), (inode, inode));
    assert_eq!(traits(holder), before);
    let status = daemon.json(["daemon", "status"]);
    let capture = processes::capture(holder).unwrap();
    assert_eq!(program(capture), inode);
    for (process, pid) in [("holder", holder), ("daemon", daemon.pid()), ("capture", capture)] {
        assert_eq!(status[process]["pid"], pid);
        assert_eq!(status[process]["version"], VERSION);
    }
    // Whatever becomes of its file.
    fs::remove_file(&second).unwrap();
    restart(&daemon);
    assert_eq!((program(holder), program(daemon.pid())), (inode, inode));
    let capture = processes::capture(holder).unwrap();
    let said = daemon.json(["daemon", "restart", "--all"]);
    assert_eq!(said["replaced"]["holder"]["pid"], holder);
    assert_eq!(said["replaced"]["holder"]["to"], VERSION);
    assert_eq!(said["replaced"]["capture"]["from"]["pid"], capture);
    assert_eq!(said["replaced"]["capture"]["to"]["version"], VERSION);
    processes::gone(capture);
    assert_eq!(daemon.json(["daemon", "restart"])["replaced"]["holder"], serde_json::Value::Null);
}

#[test]
fn signals_arrive_at_any_moment_of_a_replacement() {
    let mut daemon = Daemon::start();
    daemon.add(["/bin/sleep", "--name", "a", "--", "1000"]);
    daemon.ok(["runtime", "start", "a"]);
    for round in 0..12 {
        let instance = running(&daemon, "a");
        let mut control = Control::connect(daemon.socket());
        control.request(1, Request::HolderRenew { timeout_ms: 20_000 });
        for _ in 0..round * round * 3_000 {
            std::hint::spin_loop();
        }
        assert_eq!(daemon.terminate().code(), Some(0), "round {round}: {}", daemon.log());
        processes::gone(instance);
        daemon.launch();
    }
}

#[test]
fn programs_that_come_and_go_all_the_time_do_not_prevent_it() {
    let daemon = Daemon::start();
    daemon.add(["/bin/true", "--name", "busy"]);
    let (stop, socket) = (Arc::new(AtomicBool::new(false)), daemon.socket().to_owned());
    let stopped = stop.clone();
    let starting = std::thread::spawn(move || {
        block_on(async {
            let client = Client::connect(&socket).await.unwrap();
            while !stopped.load(Ordering::Relaxed) {
                let start = Request::RuntimeStart { instance: "busy".into(), priority: None };
                // It may have ended already.
                client.request(start).await.unwrap();
            }
        });
    });
    let holder = daemon.holder_pid();
    for _ in 0..20 {
        let starts = daemon.info("busy").starts;
        let renewed = daemon.request(Request::HolderRenew { timeout_ms: 20_000 }).unwrap();
        assert!(matches!(renewed, Reply::HolderRenewed { pid, .. } if pid == holder));
        eventually("it is started on", || (daemon.info("busy").starts > starts + 3).then_some(()));
    }
    stop.store(true, Ordering::Relaxed);
    starting.join().unwrap();
    assert_eq!(daemon.exited("busy"), Exit::Code(0));
}

#[test]
fn a_holder_is_not_replaced_when_it_can_not_be() {
    let daemon = Daemon::start();
    let mut control = Control::connect(daemon.socket());
    let ServerBody::Error(error) = control.ask(1, Request::HolderRenew { timeout_ms: 0 }) else {
        panic!("it needs some time")
    };
    assert_eq!(error.code, ErrorCode::InvalidArgument);
    // Somebody who sets the variable is told so.
    for role in ["holder", "holder again"] {
        let mut command = Command::new(binary("orchestrator"));
        command.env("ORCHESTRATOR_ROLE", role).stdin(Stdio::null());
        let said = Said::of(command);
        assert_eq!(said.code, Some(1));
        assert!(said.stderr.contains("somebody else has set ORCHESTRATOR_ROLE"), "{said:?}");
    }
}
