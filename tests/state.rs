//! What outlives the daemon, however it ends.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use orchestrator_proto::client::ClientError;
use orchestrator_proto::control::{
    Desired, EventKind, Exit, LinkSpec, Observed, Priority, Reply, Request, RuntimeSpec, TargetSpec,
};
use tests::disk::SmallDisk;
use tests::{Daemon, Said, block_on, eventually, processes, skipped};

/// What is to be the same before and after, of all instances.
fn instances(daemon: &Daemon) -> Vec<serde_json::Value> {
    let list = daemon.json(["runtime", "list"]);
    let all = list["runtimes"].as_array().unwrap().iter();
    let fields = ["id", "name", "program", "desired", "priority", "privileged"];
    all.map(|info| fields.iter().map(|field| (*field, info[*field].clone())).collect()).collect()
}

fn links(daemon: &Daemon) -> Vec<serde_json::Value> {
    let list = daemon.json(["link", "list"]);
    let all = list["links"].as_array().unwrap().iter();
    let fields = ["id", "from", "type_name", "to", "policy", "capacity"];
    all.map(|info| fields.iter().map(|field| (*field, info[*field].clone())).collect()).collect()
}

#[track_caller]
fn runs(daemon: &Daemon, name: &str) -> u32 {
    eventually(&format!("{name} runs"), || match daemon.info(name).observed {
        Observed::Ready { pid, .. } => Some(pid),
        _ => None,
    })
}

#[track_caller]
fn is_exited(daemon: &Daemon, name: &str, code: i32) {
    eventually(&format!("{name} has exited"), || match daemon.info(name).observed.ended() {
        Some(exit) => {
            assert_eq!(exit, Exit::Code(code));
            Some(())
        }
        None => None,
    });
}

/// A daemon with one of each.
fn furnish(daemon: &Daemon) {
    daemon.add(["/bin/sleep", "--name", "first", "--env", "A=ü b", "--", "1000"]);
    daemon.add(["/bin/sleep", "--", "1001"]);
    daemon.add(["/bin/sleep", "--copy", "--name", "copied", "--stop-signal", "KILL", "--", "1002"]);
    daemon.add_script("brief", "exit 7");
    daemon.add(["/bin/sleep", "--name", "stopped", "--privileged", "--", "1003"]);
    daemon.ok(["link", "add", "--from", "first", "--type", "a", "--to", "copied"]);
    daemon.ok(["link", "add", "--type", "b", "--to", "udp:127.0.0.1:9", "--policy", "latest"]);
    daemon.ok([
        "link",
        "add",
        "--type",
        "c",
        "--to",
        "brief",
        "--policy",
        "block",
        "--capacity",
        "3",
    ]);
    daemon.ok(["link", "remove", "2"]);
    daemon.ok(["link", "add", "--type", "d", "--to", "copied"]);
    daemon.ok(["link", "remove", "4"]);
    daemon.ok(["runtime", "start", "first", "--priority", "low"]);
    daemon.ok(["runtime", "start", "copied", "brief", "stopped"]);
    daemon.ok(["runtime", "stop", "stopped"]);
    // What is told as an event is stored.
    assert_eq!(daemon.exited("brief"), Exit::Code(7));
}

#[test]
fn everything_is_there_and_runs_after_any_end() {
    for kill in [true, false] {
        let mut daemon = Daemon::start();
        furnish(&daemon);
        let before = (instances(&daemon), links(&daemon));
        let show = daemon.json(["runtime", "show", "first"]);
        let mut pids = vec![runs(&daemon, "first"), runs(&daemon, "copied")];
        for round in 2..4 {
            if kill {
                daemon.kill();
            } else {
                assert_eq!(daemon.terminate().code(), Some(0), "{}", daemon.log());
            }
            daemon.launch();
            assert_eq!((instances(&daemon), links(&daemon)), before, "{}", daemon.log());
            let now = ["first", "copied"].map(|name| runs(&daemon, name));
            if kill {
                // It goes on.
                assert_eq!(pids, now);
            } else {
                // There are never two processes of one instance.
                pids.drain(..).for_each(processes::gone);
                pids = now.to_vec();
            }
            for name in ["first", "copied"] {
                assert_eq!(daemon.info(name).starts, if kill { 1 } else { round });
            }
            assert_eq!(daemon.info("first").priority, Priority::Low);
            let again = daemon.json(["runtime", "show", "first"]);
            for field in ["args", "env", "added_ms", "links", "cwd", "log_dir"] {
                assert_eq!(again["runtime"][field], show["runtime"][field], "{field}");
            }
            // What ended by itself has ended, and what was stopped is stopped.
            is_exited(&daemon, "brief", 7);
            let stopped = daemon.info("stopped");
            assert_eq!((stopped.desired, stopped.starts), (Desired::Stopped, 1));
            let killed = Exit::Signal { signal: 15, core_dumped: false };
            assert!(
                matches!(stopped.observed, Observed::Stopped { last_exit: Some(exit), .. } if exit == killed),
                "{stopped:?}"
            );
        }
        // No id is used twice.
        assert_eq!(daemon.ok(["link", "add", "--type", "e", "--to", "first"]), "added link 5\n");
        assert!(daemon.status().warnings.is_empty());
    }
}

#[test]
fn what_is_removed_and_cleared_is_gone_for_good() {
    let mut daemon = Daemon::start();
    furnish(&daemon);
    daemon.ok(["runtime", "remove", "--force", "first"]);
    daemon.kill();
    daemon.launch();
    assert_eq!((instances(&daemon).len(), links(&daemon).len()), (4, 1));
    daemon.ok(["clear", "--force"]);
    daemon.kill();
    daemon.launch();
    assert_eq!((instances(&daemon).len(), links(&daemon).len()), (0, 0));
    assert_eq!(fs::read_dir(daemon.state_dir().join("programs")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(daemon.state_dir().join("logs")).unwrap().count(), 0);
    // Their names are free, and what comes now is like the first.
    furnish_again(&daemon);
}

fn furnish_again(daemon: &Daemon) {
    daemon.add(["/bin/sleep", "--name", "first", "--", "1000"]);
    daemon.ok(["runtime", "start", "first"]);
    assert_eq!(daemon.info("first").starts, 1);
}

/// Adds and links as fast as it can; the answer is how much of each was answered.
fn until_killed(daemon: &mut Daemon, answers: usize) -> (Vec<String>, u64) {
    let (pid, holder) = (daemon.pid(), daemon.holder_pid());
    let (mut added, mut linked) = (Vec::new(), 0);
    block_on(async {
        let client = daemon.client().await;
        loop {
            let reply = client.request(Request::RuntimeAdd(RuntimeSpec::new("/bin/true"))).await;
            match reply {
                Ok(Reply::Added { id, .. }) => added.push(id.to_string()),
                Ok(other) => panic!("{other:?}"),
                Err(_) => break,
            }
            let to = TargetSpec::Instance(added.last().unwrap().as_str().into());
            let (from, policy, capacity) = (None, None, None);
            let spec = LinkSpec {
                from,
                type_name: "a".into(),
                to,
                policy,
                capacity,
                block_timeout: None,
                history: None,
                transport: None,
                spin_us: None,
            };
            match client.request(Request::LinkAdd(spec)).await {
                Ok(Reply::LinkAdded { .. }) => linked += 1,
                Ok(other) => panic!("{other:?}"),
                Err(_) => break,
            }
            if added.len() == answers {
                // The next request is under way when it dies.
                let dying = client.request(Request::RuntimeAdd(RuntimeSpec::new("/bin/true")));
                // The holder first: it would start another daemon.
                let killing = async {
                    processes::signal(holder, Signal::SIGKILL);
                    processes::signal(pid, Signal::SIGKILL);
                };
                if let (Ok(Reply::Added { id, .. }), ()) = tokio::join!(dying, killing) {
                    added.push(id.to_string());
                }
                break;
            }
        }
    });
    daemon.wait();
    processes::gone(pid);
    (added, linked)
}

#[test]
fn what_was_answered_is_there_when_the_daemon_is_killed_at_that_moment() {
    let mut daemon = Daemon::start();
    let (mut added, mut linked) = (Vec::new(), 0);
    for answers in [1, 2, 3, 5, 8, 13] {
        let (more, links) = until_killed(&mut daemon, answers);
        added.extend(more);
        linked += links;
        daemon.launch();
        let ids: Vec<_> =
            instances(&daemon).iter().map(|info| info["id"].as_str().unwrap().to_owned()).collect();
        for id in &added {
            assert!(ids.contains(id), "{id} of {added:?} is lost: {ids:?}");
        }
        assert!(daemon.status().links >= linked);
    }
}

#[test]
fn a_start_and_a_stop_that_were_answered_count_when_the_daemon_is_killed_at_that_moment() {
    for args in [&[][..], &["--sync", "full"]] {
        let mut daemon = Daemon::start_with(args);
        daemon.add(["/bin/sleep", "--name", "nap", "--", "1000"]);
        for round in 1..=3 {
            daemon.ok(["runtime", "start", "nap"]);
            daemon.kill();
            daemon.launch();
            runs(&daemon, "nap");
            assert_eq!(daemon.info("nap").starts, round);
            daemon.ok(["runtime", "stop", "nap"]);
            daemon.kill();
            daemon.launch();
            let info = daemon.info("nap");
            assert_eq!((info.desired, info.observed.word()), (Desired::Stopped, "stopped"));
        }
    }
}

#[test]
fn a_program_that_cannot_be_executed_is_tried_again() {
    let mut daemon = Daemon::start();
    let program = daemon.dir().join("later");
    daemon.add([program.as_os_str(), "--name".as_ref(), "later".as_ref()]);
    assert_eq!(daemon.cli(["runtime", "start", "later"]).code, Some(1));
    daemon.terminate();
    std::os::unix::fs::symlink("/bin/true", &program).unwrap();
    daemon.launch();
    is_exited(&daemon, "later", 0);
}

#[test]
fn a_corrupt_database_is_set_aside_with_its_programs_and_everybody_is_told() {
    let mut daemon = Daemon::start();
    furnish(&daemon);
    daemon.terminate();
    let database = daemon.state_dir().join("state.db");
    let junk = vec![0xa5; 100_000];
    fs::write(&database, &junk).unwrap();
    daemon.launch();
    assert!(instances(&daemon).is_empty());
    let aside: Vec<PathBuf> = fs::read_dir(daemon.state_dir())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().unwrap().contains(".corrupt-"))
        .collect();
    assert_eq!(aside.len(), 2, "{aside:?}");
    let (programs, file): (Vec<_>, Vec<_>) = aside.into_iter().partition(|path| path.is_dir());
    assert_eq!(fs::read(&file[0]).unwrap(), junk);
    assert_eq!(fs::read_dir(&programs[0]).unwrap().count(), 1);
    let path = file[0].to_str().unwrap();
    for args in [&["status"][..], &["runtime", "list"]] {
        let said = daemon.cli(args);
        assert!(said.stderr.contains("corrupt") && said.stderr.contains(path), "{said:?}");
    }
    assert!(daemon.log().contains("the database was corrupt"), "{}", daemon.log());
    daemon.event("it is told", |event| match &event.kind {
        EventKind::StateSetAside { path: told, .. } => {
            assert_eq!(told, path);
            Some(())
        }
        _ => None,
    });
    // It is a good daemon all the same, and so is the next, which has nothing to warn of.
    furnish_again(&daemon);
    daemon.terminate();
    daemon.launch();
    runs(&daemon, "first");
    assert!(daemon.status().warnings.is_empty());
    assert_eq!(fs::read(&file[0]).unwrap(), junk);
}

#[test]
fn a_database_of_a_newer_daemon_is_refused() {
    let mut daemon = Daemon::start();
    daemon.add(["/bin/true", "--name", "true"]);
    daemon.terminate();
    let database = daemon.state_dir().join("state.db");
    let mut bytes = fs::read(&database).unwrap();
    // The user version, see the database header in SQLite's file format.
    let version = bytes[60..64].to_vec();
    bytes[60..64].copy_from_slice(&77_u32.to_be_bytes());
    fs::write(&database, &bytes).unwrap();
    let said = Said::of(daemon.command());
    assert_eq!(said.code, Some(1), "{said:?}");
    for text in ["77", "--state-dir", database.to_str().unwrap()] {
        assert!(said.stderr.contains(text), "{said:?}");
    }
    assert_eq!(fs::read(&database).unwrap(), bytes);
    assert!(!daemon.socket().exists());
    bytes[60..64].copy_from_slice(&version);
    fs::write(&database, &bytes).unwrap();
    daemon.launch();
    assert_eq!(instances(&daemon).len(), 1);
}

/// Adds until there is no room for more.
#[track_caller]
fn until_refused(daemon: &Daemon) -> ClientError {
    for _ in 0..2000 {
        let mut spec = RuntimeSpec::new("/bin/true");
        spec.args = vec!["x".repeat(2000).into()];
        if let Err(error) = daemon.request(Request::RuntimeAdd(spec)) {
            return error;
        }
    }
    panic!("the disk is not full");
}

#[test]
fn a_full_disk_refuses_changes_keeps_supervising_and_is_recovered_from() {
    let mut daemon = Daemon::prepare(&[]);
    let Some(disk) = SmallDisk::mount(daemon.state_dir(), 4096) else {
        skipped("this user can't mount a file system of 4 MB");
        return;
    };
    daemon.launch();
    daemon.add(["/bin/sleep", "--name", "nap", "--", "1000"]);
    daemon.add(["/bin/sleep", "--name", "other", "--", "1000"]);
    daemon.ok(["runtime", "start", "nap"]);
    let ballast = disk.fill();
    let error = until_refused(&daemon);
    let ClientError::Failed(error) = error else { panic!("{error:?}") };
    let text = error.to_string();
    assert!(text.contains("full") || text.contains("No space left"), "{text}");
    let known = instances(&daemon).len();
    let refusals: [&[&str]; 3] = [
        &["link", "add", "--type", &"t".repeat(200), "--to", "nap"],
        &["runtime", "start", "other"],
        &["runtime", "remove", "other"],
    ];
    let all_refused = || {
        refusals.iter().all(|args| {
            let said = daemon.cli(*args);
            said.code == Some(1) && said.stderr.contains("full")
        })
    };
    eventually("changes are refused", || {
        // As long as there is room in the database's own files, some are taken.
        let _ = daemon.cli(["link", "remove", "1"]);
        all_refused().then_some(())
    });
    let warnings = daemon.status().warnings;
    assert!(warnings.iter().any(|warning| warning.contains("full")), "{warnings:?}");
    // What runs is watched, and can be stopped.
    let pid = runs(&daemon, "nap");
    let said = daemon.cli(["runtime", "stop", "nap"]);
    assert!(said.code == Some(1) && said.stderr.contains("is stopped, but"), "{said:?}");
    processes::gone(pid);
    assert_eq!(daemon.info("nap").observed.word(), "stopped");
    assert_eq!(daemon.info("other").observed.word(), "stopped");

    // A daemon begins on a full disk too, with what is on it.
    daemon.kill();
    daemon.launch();
    assert_eq!(instances(&daemon).len(), known);
    runs(&daemon, "nap");

    fs::remove_file(ballast).unwrap();
    eventually("it recovers by itself", || {
        (daemon.ok(["events"]).contains("nap started")).then_some(())
    });
    daemon.ok(["runtime", "stop", "nap"]);
    daemon.ok(["runtime", "start", "other"]);
    assert!(daemon.status().warnings.is_empty(), "{:?}", daemon.status().warnings);
    daemon.kill();
    daemon.launch();
    runs(&daemon, "other");
    assert_eq!(daemon.info("nap").desired, Desired::Stopped);
    daemon.terminate();
    drop(disk);
}

#[test]
fn a_daemon_that_does_nothing_writes_nothing() {
    let daemon = Daemon::start();
    daemon.add(["/bin/sleep", "--name", "nap", "--", "1000"]);
    daemon.ok(["runtime", "start", "nap"]);
    let log = daemon.state_dir().join("state.db-wal");
    let state = || (fs::read(&log).unwrap(), switches(daemon.pid()));
    // Once it has synced what was last, nothing wakes it.
    eventually("the thread that writes waits", || {
        let before = state();
        std::thread::park_timeout(Duration::from_millis(200));
        (state() == before).then_some(())
    });
}

/// How often the thread that writes the database was woken.
fn switches(daemon: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{daemon}/task")).unwrap();
    tasks
        .flatten()
        .filter(|task| {
            fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == "store")
        })
        .filter_map(|task| fs::read_to_string(task.path().join("status")).ok())
        .flat_map(|status| status.lines().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|line| {
            line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse::<u64>().ok()
        })
        .sum()
}
