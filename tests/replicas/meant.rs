//! The name of a set means all of its replicas.

use orchestrator_proto::control::EventKind;
use tests::{Daemon, eventually};

use super::{SLEEP, add, detail, names, refused, replicas, seen};

#[test]
fn each_replica_is_an_instance_with_its_index() {
    let daemon = Daemon::start();
    let script = "echo I am $ORCHESTRATOR_REPLICA as $ORCHESTRATOR_INSTANCE_ID; exec sleep 1000";
    let said = add(&daemon, "worker", "3", script, &[]);
    let all = seen(&daemon, "worker");
    let ids: Vec<_> = all.iter().map(|(name, id, _)| format!("added {name} ({id})")).collect();
    assert_eq!(said, format!("set worker has 3 replicas\n{}\n", ids.join("\n")));
    assert_eq!(names(&daemon), ["worker.1", "worker.2", "worker.3"]);
    assert!(all.iter().all(|(_, _, pid)| pid.is_none()), "they are not started by that");
    daemon.ok(["runtime", "start", "worker"]);
    for (place, (name, id, _)) in all.iter().enumerate() {
        daemon.prints(name, &format!("I am {} as {id}", place + 1));
    }
    // One that is none has no such variable.
    daemon.add_script("single", "echo ${ORCHESTRATOR_REPLICA-none}");
    daemon.ok(["runtime", "start", "single"]);
    daemon.prints("single", "none");

    let listed = daemon.json(["runtime", "list", "worker"]);
    let listed = listed["runtimes"].as_array().unwrap();
    for (place, it) in listed.iter().enumerate() {
        assert_eq!(it["replica"]["set"], "worker");
        assert_eq!(it["replica"]["index"], place + 1);
    }
    assert_eq!(listed.len(), 3);
    let shown = daemon.ok(["runtime", "show", "worker.2"]);
    assert!(shown.contains("2 of set worker"), "{shown}");
    assert_eq!(
        daemon.json(["runtime", "show", "single"])["runtime"]["info"]["replica"],
        serde_json::Value::Null
    );
}

#[test]
fn commands_for_several_instances_take_the_name_of_a_set() {
    let daemon = Daemon::start();
    add(&daemon, "worker", "2", "echo here; exec sleep 1000", &[]);
    daemon.add_script("other", SLEEP);
    let lines = |what: &str| {
        let all = seen(&daemon, "worker");
        all.iter().map(|(name, id, _)| format!("{what} {name} ({id})\n")).collect::<String>()
    };
    assert_eq!(daemon.ok(["runtime", "start", "worker"]), lines("started instance"));
    let waited = "instance worker.1 is ready\ninstance worker.2 is ready\n";
    assert_eq!(daemon.ok(["runtime", "wait", "worker"]), waited);
    daemon.prints("worker.1", "here");
    daemon.prints("worker.2", "here");
    let mut logs: Vec<_> = daemon
        .ok(["runtime", "logs", "worker", "--no-follow", "--stream", "stdout"])
        .lines()
        .map(str::to_owned)
        .collect();
    logs.sort();
    assert_eq!(logs, ["worker.1 | here", "worker.2 | here"]);
    let before = seen(&daemon, "worker");
    assert_eq!(daemon.ok(["runtime", "restart", "worker"]), lines("restarted instance"));
    let after = seen(&daemon, "worker");
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before.1, after.1);
        assert_ne!(before.2, after.2);
    }
    let shown = daemon.ok(["runtime", "show", "worker"]);
    assert!(shown.contains("replicas: 2") && shown.contains("worker.2: ready"), "{shown}");
    let json = daemon.json(["runtime", "show", "worker"]);
    assert_eq!(json["replica-set"]["set"]["spec"]["replicas"], 2);
    let events = daemon.ok(["events", "--instance", "worker"]);
    assert!(events.contains(" worker scaled from 0 to 2\n"), "{events}");
    assert!(events.contains(" worker.2 started as") && !events.contains(" other "), "{events}");
    assert_eq!(daemon.ok(["runtime", "stop", "worker"]), lines("stopped instance"));
    let idle: String =
        lines("instance").lines().map(|it| format!("{it} was not running\n")).collect();
    assert_eq!(daemon.ok(["runtime", "stop", "worker", "other"]).lines().count(), 3);
    assert_eq!(daemon.ok(["runtime", "stop", "worker"]), idle);
    // Streams of bytes are of one instance.
    let error = refused(&daemon, &["runtime", "stdout", "worker"]);
    assert!(error.contains("`runtime logs worker --stream stdout`"), "{error}");
    let error = refused(&daemon, &["link", "tap", "--from", "worker"]);
    assert!(error.contains("worker is a set of replicas"), "{error}");
    let error = refused(&daemon, &["runtime", "run", "worker"]);
    assert_eq!(error.matches("has no schedule").count(), 2, "{error}");
}

#[test]
fn what_fails_for_one_replica_is_told_and_done_for_the_others() {
    let daemon = Daemon::start();
    let script = "test $ORCHESTRATOR_REPLICA != 2 && exec sleep 1000; echo no luck >&2; exit 3";
    add(&daemon, "worker", "3", script, &["--ready-exec", "/bin/sleep 0.2"]);
    let said = daemon.cli(["runtime", "start", "worker"]);
    let running =
        || replicas(&daemon, "worker").iter().filter(|it| it.observed.has_process()).count();
    eventually("two of them run", || (running() == 2).then_some(()));
    daemon.exited("worker.2");
    // Whether the second one had ended by then is for chance to say.
    if said.code == Some(1) {
        assert!(said.stderr.contains("worker.2") && said.stdout.contains("worker.3"), "{said:?}");
    }
    let json = daemon.cli(["--json", "runtime", "restart", "worker"]);
    assert!(json.stdout.contains("\"each\""), "{json:?}");
}

#[test]
fn a_schedule_with_replicas_is_run_by_each() {
    let daemon = Daemon::start();
    let flags = ["--schedule", "@yearly"];
    add(&daemon, "job", "2", "echo done", &flags);
    daemon.ok(["runtime", "start", "job"]);
    daemon.ok(["runtime", "run", "job"]);
    daemon.prints("job.1", "done");
    daemon.prints("job.2", "done");
    daemon.ok(["runtime", "wait", "job", "--for", "completed"]);
}

#[test]
fn a_set_without_replicas_stays_and_is_shown() {
    let daemon = Daemon::start();
    add(&daemon, "worker", "0", SLEEP, &[]);
    assert_eq!(names(&daemon), [""; 0]);
    let listed = daemon.ok(["runtime", "list"]);
    assert!(
        listed.contains("worker is a set without replicas; `runtime scale worker 1`"),
        "{listed}"
    );
    assert!(daemon.ok(["runtime", "list", "work*"]).contains("worker is a set"));
    assert!(!daemon.ok(["runtime", "list", "x*"]).contains("worker is a set"));
    for verb in ["start", "restart", "run", "stop", "wait"] {
        assert_eq!(daemon.ok(["runtime", verb, "worker"]), "set worker has no replicas\n");
    }
    assert_eq!(daemon.ok(["runtime", "logs", "worker", "--no-follow"]), "");
    assert!(detail(&daemon, "worker").instances.is_empty());
    daemon.ok(["runtime", "start", "worker"]);
    daemon.ok(["runtime", "scale", "worker", "1", "--wait"]);
    assert!(seen(&daemon, "worker")[0].2.is_some(), "it is to run");
    daemon.ok(["runtime", "remove", "worker", "--force"]);
    daemon.event("it is told", |event| {
        let is_it = event.name.as_deref() == Some("worker");
        (is_it && event.kind == EventKind::SetRemoved).then_some(())
    });
}

#[test]
fn who_requires_a_set_requires_each_replica_and_is_left_alone_when_it_is_scaled() {
    let daemon = Daemon::start();
    add(&daemon, "worker", "2", SLEEP, &[]);
    let args = ["/bin/sleep", "--name", "web", "--requires", "worker", "--", "1000"];
    daemon.add(args);
    daemon.ok(["runtime", "start", "worker.1"]);
    // It starts what it requires, which is all of them.
    daemon.ok(["runtime", "start", "web"]);
    daemon.ok(["runtime", "wait", "worker", "web"]);
    let web = || daemon.info("web").observed.pid();
    let before = web();
    daemon.ok(["runtime", "scale", "worker", "4", "--wait"]);
    daemon.ok(["runtime", "scale", "worker", "1", "--wait"]);
    assert_eq!((web(), daemon.info("web").starts), (before, 1));
    // To stop one that it requires stops it too.
    daemon.ok(["runtime", "stop", "worker.1"]);
    eventually("it waits", || (daemon.info("web").observed.word() == "waiting").then_some(()));
    daemon.ok(["runtime", "start", "worker"]);
    daemon.ok(["runtime", "wait", "web"]);
    // Of a set without replicas nothing is required.
    daemon.ok(["runtime", "stop", "web"]);
    daemon.ok(["runtime", "scale", "worker", "0", "--wait"]);
    daemon.ok(["runtime", "start", "web"]);
    daemon.ok(["runtime", "wait", "web"]);
    daemon.ok(["runtime", "stop", "web"]);
    daemon.ok(["runtime", "remove", "worker"]);
    daemon.ok(["runtime", "remove", "web"]);
    daemon.add(args);
    let web = std::thread::scope(|scope| {
        let starting = scope.spawn(|| daemon.cli(["runtime", "start", "web"]));
        eventually("it waits", || (daemon.info("web").observed.word() == "waiting").then_some(()));
        let super_set = add(&daemon, "worker", "1", SLEEP, &[]);
        assert!(super_set.starts_with("set worker"));
        daemon.ok(["runtime", "start", "worker"]);
        starting.join().unwrap()
    });
    assert_eq!(web.code, Some(0), "{web:?}");
}
