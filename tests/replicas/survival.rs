//! Sets outlive the daemon, and what was begun with one is finished by the next.

use orchestrator_proto::control::{Event, EventKind};
use tests::disk::SmallDisk;
use tests::{Daemon, eventually, processes, skipped};

use super::{SLEEP, add, detail, names, seen};

/// One that takes its time to stop.
const SLOW: &str = "trap '' TERM; echo up; while :; do sleep 0.05; done";
const SLOWLY: [&str; 4] = ["--stop-timeout", "2s", "--ready-output", "up"];

fn stopping(daemon: &Daemon, name: &str) {
    daemon.event("it is asked to stop", |event: &Event| {
        let is_it = event.name.as_deref() == Some(name);
        (is_it && matches!(event.kind, EventKind::Stopping { .. })).then_some(())
    });
}

#[test]
fn a_set_outlives_the_daemon_with_all_that_belongs_to_it() {
    let mut daemon = Daemon::start();
    let script = "echo I am $ORCHESTRATOR_REPLICA; exec sleep 1000";
    add(&daemon, "worker", "3", script, &[]);
    add(&daemon, "idle", "0", SLEEP, &[]);
    daemon.add(["/bin/sleep", "--name", "web", "--requires", "worker", "--", "1000"]);
    daemon.ok(["link", "add", "--from", "worker", "--type", "T", "--to", "idle"]);
    daemon.ok(["link", "add", "--from", "web", "--type", "T", "--to", "worker"]);
    daemon.ok(["runtime", "start", "web", "worker"]);
    daemon.ok(["runtime", "wait", "web"]);
    let look = |daemon: &Daemon| (seen(daemon, "worker"), daemon.links(), daemon.ok(["export"]));
    let before = look(&daemon);
    daemon.replace_killed();
    assert_eq!(look(&daemon), before, "the daemon alone");
    daemon.kill();
    daemon.launch();
    assert_eq!(look(&daemon), before, "the holder too");
    daemon.terminate();
    daemon.launch();
    daemon.ok(["runtime", "wait", "worker", "web"]);
    let after = look(&daemon);
    assert_eq!((after.1, after.2), (before.1, before.2), "all of it");
    let ids = |all: &[(String, orchestrator_proto::InstanceId, Option<u32>)]| {
        all.iter().map(|it| it.1).collect::<Vec<_>>()
    };
    assert_eq!(ids(&after.0), ids(&before.0));
    // It can be scaled on, and new links have new numbers.
    daemon.ok(["runtime", "scale", "worker", "4", "--wait"]);
    daemon.prints("worker.4", "I am 4");
    daemon.ok(["runtime", "restart", "worker.2"]);
    daemon.ok(["runtime", "scale", "worker", "2", "--wait"]);
    daemon.ok(["runtime", "scale", "idle", "2", "--wait"]);
    assert_eq!(daemon.links().len(), 2 + 2 * 2 + 2);
    let error = daemon.cli(["runtime", "add", "/bin/true", "--name", "worker.9"]);
    assert_eq!(error.code, Some(1), "{error:?}");
}

#[test]
fn replicas_that_were_being_removed_are_gone_after_all() {
    let mut daemon = Daemon::start();
    add(&daemon, "worker", "3", SLOW, &SLOWLY);
    daemon.ok(["runtime", "start", "worker"]);
    daemon.ok(["runtime", "wait", "worker"]);
    let before = seen(&daemon, "worker");
    daemon.ok(["runtime", "scale", "worker", "1"]);
    stopping(&daemon, "worker.3");
    daemon.replace_killed();
    eventually("those two are gone", || (names(&daemon) == ["worker.1"]).then_some(()));
    assert_eq!(seen(&daemon, "worker"), before[..1]);
    for (_, _, pid) in &before[1..] {
        processes::gone(pid.unwrap());
    }
    assert_eq!(detail(&daemon, "worker").set.spec.replicas.unwrap().0, 1);
    // The same with the holder, so that nobody knows of their ends.
    daemon.ok(["runtime", "scale", "worker", "3", "--wait"]);
    let before = seen(&daemon, "worker");
    daemon.ok(["runtime", "scale", "worker", "2"]);
    stopping(&daemon, "worker.3");
    daemon.kill();
    daemon.launch();
    eventually("that one is gone", || (names(&daemon).len() == 2).then_some(()));
    assert_eq!(seen(&daemon, "worker"), before[..2]);
    processes::gone(before[2].2.unwrap());
}

#[test]
fn a_set_that_was_being_removed_is_gone_after_all() {
    let daemon = Daemon::start();
    add(&daemon, "worker", "2", SLOW, &SLOWLY);
    add(&daemon, "other", "1", SLEEP, &[]);
    daemon.ok(["link", "add", "--from", "other", "--type", "T", "--to", "worker"]);
    daemon.ok(["runtime", "start", "worker"]);
    daemon.ok(["runtime", "wait", "worker"]);
    let path = daemon.dir().join("m.toml");
    let text = "[instance.other]\nprogram = \"/bin/sh\"\nreplicas = 1\nstate = \"stopped\"\n\
                args = [\"-c\", \"exec sleep 1000\"]\n";
    std::fs::write(&path, text).unwrap();
    daemon.ok(["apply", path.to_str().unwrap(), "--prune"]);
    // Nobody can have its name until it is gone.
    let said = daemon.cli(["runtime", "add", "/bin/true", "--name", "worker", "--replicas", "1"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    stopping(&daemon, "worker.2");
    daemon.replace_killed();
    daemon.event("it is removed", |event: &Event| {
        (event.kind == EventKind::SetRemoved).then_some(())
    });
    assert_eq!(names(&daemon), ["other.1"]);
    assert!(daemon.links().is_empty());
    add(&daemon, "worker", "1", SLEEP, &[]);
}

#[test]
fn what_can_not_be_stored_is_not_done() {
    let mut daemon = Daemon::prepare(&[]);
    let Some(disk) = SmallDisk::mount(daemon.state_dir(), 4096) else {
        skipped("this user can't mount a file system of 4 MB");
        return;
    };
    daemon.launch();
    add(&daemon, "worker", "2", SLEEP, &[]);
    daemon.ok(["runtime", "start", "worker"]);
    let before = (seen(&daemon, "worker"), daemon.ok(["export"]));
    let ballast = disk.fill();
    // As long as there is room in the database's own files, some changes are taken.
    eventually("changes are refused", || {
        let said = daemon.cli(["link", "add", "--type", &"t".repeat(200), "--to", "worker.1"]);
        let _ = daemon.cli(["link", "remove", "1"]);
        (said.code == Some(1)).then_some(())
    });
    let ids = before.0.clone();
    for number in ["5", "1", "0"] {
        let said = daemon.cli(["runtime", "scale", "worker", number]);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert_eq!(seen(&daemon, "worker"), ids);
    }
    let said = daemon.cli(["runtime", "remove", "worker", "--force"]);
    assert_eq!((said.code, seen(&daemon, "worker")), (Some(1), ids));
    std::fs::remove_file(ballast).unwrap();
    eventually("it recovers", || {
        (daemon.cli(["runtime", "scale", "worker", "3", "--wait"]).code == Some(0)).then_some(())
    });
    assert_eq!(names(&daemon).len(), 3);
}
