//! More replicas and fewer of them.

use orchestrator_proto::control::{EventKind, Exit};
use tests::{Daemon, eventually};

use super::{SLEEP, add, names, refused, replicas, seen};

#[test]
fn the_highest_go_gracefully_and_all_others_are_left_alone() {
    let daemon = Daemon::start();
    let script = "trap 'exit 7' TERM; echo up; while :; do sleep 1000 & wait; done";
    add(&daemon, "worker", "2", script, &["--ready-output", "up"]);
    daemon.ok(["runtime", "start", "worker"]);
    daemon.ok(["runtime", "wait", "worker"]);
    let two = seen(&daemon, "worker");
    let said = daemon.ok(["runtime", "scale", "worker", "4", "--wait"]);
    let four = seen(&daemon, "worker");
    assert_eq!(four[..2], two);
    let added: String = four[2..].iter().map(|it| format!("added {} ({})\n", it.0, it.1)).collect();
    assert_eq!(said, format!("set worker has 4 replicas\n{added}"));
    assert!(replicas(&daemon, "worker").iter().all(|it| it.observed.word() == "ready"));
    // Stopped by itself, one stays so: it is neither added nor removed.
    daemon.ok(["runtime", "stop", "worker.1"]);
    let json = daemon.json(["runtime", "scale", "worker", "2", "--wait"]);
    let removed = json["scaled"]["removed"].as_array().unwrap();
    let removed: Vec<_> = removed.iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(removed, ["worker.4", "worker.3"]);
    for name in removed {
        assert_eq!(daemon.exited(name), Exit::Code(7), "it was asked to stop");
    }
    let left = seen(&daemon, "worker");
    assert_eq!((left.len(), &left[1], left[0].2), (2, &two[1], None));
    assert_eq!(names(&daemon), ["worker.1", "worker.2"]);
    let same = daemon.ok(["runtime", "scale", "worker", "2"]);
    assert_eq!(same, "set worker has 2 replicas already\n");
    assert_eq!(seen(&daemon, "worker"), left);
}

#[test]
fn a_name_is_given_again_when_nothing_of_the_one_before_is_left() {
    let daemon = Daemon::start();
    // Slow to stop.
    let script = "trap '' TERM; echo up; while :; do sleep 0.05; done";
    let flags = ["--stop-timeout", "300ms", "--ready-output", "up"];
    add(&daemon, "worker", "2", script, &flags);
    daemon.ok(["runtime", "start", "worker"]);
    daemon.ok(["runtime", "wait", "worker"]);
    let before = seen(&daemon, "worker");
    daemon.ok(["runtime", "scale", "worker", "1"]);
    let stopping = replicas(&daemon, "worker");
    assert!(stopping.len() == 1 || stopping[1].observed.word() == "stopping", "{stopping:?}");
    daemon.ok(["runtime", "scale", "worker", "2", "--wait"]);
    let after = seen(&daemon, "worker");
    assert_eq!(after[0], before[0]);
    assert!(after[1].1 != before[1].1 && after[1].2.is_some());
    tests::processes::gone(before[1].2.unwrap());
}

#[test]
fn replicas_that_fail_again_and_again_can_be_scaled() {
    let daemon = Daemon::start();
    let flags = ["--restart", "always", "--restart-delay", "1h"];
    add(&daemon, "worker", "3", "exit 1", &flags);
    daemon.ok(["runtime", "start", "worker"]);
    let in_back_off = |count: usize| {
        eventually(&format!("{count} of them are in back-off"), || {
            let all = replicas(&daemon, "worker");
            let is_it = all.iter().all(|it| it.observed.word() == "back-off");
            (all.len() == count && is_it).then_some(())
        });
    };
    in_back_off(3);
    daemon.ok(["runtime", "scale", "worker", "1", "--wait"]);
    in_back_off(1);
    daemon.ok(["runtime", "scale", "worker", "5"]);
    in_back_off(5);
    daemon.ok(["runtime", "scale", "worker", "0", "--wait"]);
    assert_eq!(names(&daemon), [""; 0]);
    daemon.ok(["runtime", "scale", "worker", "2"]);
    in_back_off(2);
}

#[test]
fn a_set_that_was_stopped_gets_replicas_that_are_not_started() {
    let daemon = Daemon::start();
    add(&daemon, "worker", "1", SLEEP, &[]);
    daemon.ok(["runtime", "scale", "worker", "2", "--wait"]);
    daemon.ok(["runtime", "start", "worker", "--priority", "low"]);
    daemon.ok(["runtime", "scale", "worker", "3", "--wait"]);
    let all = daemon.json(["runtime", "list"]);
    assert_eq!(all["runtimes"][2]["priority"], "low");
    daemon.ok(["runtime", "stop", "worker"]);
    daemon.ok(["runtime", "scale", "worker", "4", "--wait"]);
    assert!(seen(&daemon, "worker").iter().all(|(_, _, pid)| pid.is_none()));
}

#[test]
fn many_who_scale_at_once_agree() {
    let daemon = Daemon::start();
    add(&daemon, "worker", "2", SLEEP, &[]);
    daemon.ok(["runtime", "start", "worker"]);
    let numbers = ["5", "0", "3", "1", "4", "2"];
    std::thread::scope(|scope| {
        for number in numbers {
            let daemon = &daemon;
            scope.spawn(move || daemon.ok(["runtime", "scale", "worker", number]));
        }
    });
    // Whoever came last.
    let wanted = super::detail(&daemon, "worker").set.spec.replicas.unwrap().0 as usize;
    eventually("there are as many as are wanted", || {
        let all = seen(&daemon, "worker");
        (all.len() == wanted && all.iter().all(|it| it.2.is_some())).then_some(())
    });
    daemon.ok(["runtime", "scale", "worker", "3", "--wait"]);
    assert_eq!(seen(&daemon, "worker").len(), 3);
}

#[test]
fn what_can_not_be_done_changes_nothing() {
    let daemon = Daemon::start();
    add(&daemon, "worker", "2", SLEEP, &[]);
    daemon.ok(["runtime", "start", "worker"]);
    let before = (seen(&daemon, "worker"), daemon.ok(["export"]));
    // The socket is somebody else's.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let text = format!(
        "[instance.worker]\nprogram = \"/bin/sh\"\nreplicas = 5\n[instance.x]\n\
         program = \"/bin/true\"\nlisten = [\"tcp:{}\"]\n",
        taken.local_addr().unwrap()
    );
    let path = daemon.dir().join("m.toml");
    std::fs::write(&path, text).unwrap();
    let error = refused(&daemon, &["apply", path.to_str().unwrap()]);
    assert!(error.contains("nothing was changed"), "{error}");
    assert_eq!((seen(&daemon, "worker"), daemon.ok(["export"])), before);
    assert_eq!(names(&daemon), ["worker.1", "worker.2"]);
    let counts = daemon.ok(["events"]);
    assert!(!counts.contains("worker.3"), "{counts}");
    daemon.ok(["runtime", "scale", "worker", "3", "--wait"]);
}

#[test]
fn a_set_is_removed_as_a_whole() {
    let daemon = Daemon::start();
    add(&daemon, "worker", "3", SLEEP, &[]);
    daemon.ok(["link", "add", "--from", "worker", "--type", "T", "--to", "worker.1"]);
    daemon.ok(["runtime", "start", "worker"]);
    let error = refused(&daemon, &["runtime", "remove", "worker"]);
    assert!(
        error.contains("3 of the replicas of worker run") && error.contains("--force"),
        "{error}"
    );
    assert_eq!(names(&daemon).len(), 3);
    let error = refused(&daemon, &["runtime", "remove", "worker.3", "--force"]);
    assert!(error.contains("worker.3 is a replica of worker; `runtime scale worker`"), "{error}");
    let pids: Vec<_> = seen(&daemon, "worker").iter().map(|it| it.2.unwrap()).collect();
    let said = daemon.ok(["runtime", "remove", "worker", "--force"]);
    assert_eq!(said, "removed set worker with 3 replicas and 4 links\n");
    pids.into_iter().for_each(tests::processes::gone);
    assert_eq!((names(&daemon), daemon.links().len()), (vec![], 0));
    assert_eq!(daemon.cli(["runtime", "show", "worker"]).code, Some(3));
    // Its names are free.
    daemon.add_script("worker.1", SLEEP);
    daemon.add_script("worker", SLEEP);
    daemon.ok(["runtime", "remove", "worker", "worker.1"]);
    add(&daemon, "worker", "1", SLEEP, &[]);
    daemon.ok(["clear"]);
    assert!(!daemon.ok(["runtime", "list"]).contains("worker"));
    let removed = |event: &orchestrator_proto::control::Event| {
        (event.kind == EventKind::SetRemoved).then_some(())
    };
    daemon.event("the set is removed", removed);
}
