//! Sets in manifests.

use std::fs;

use tests::{Daemon, Said};

use super::{SLEEP, add, detail, names, refused, seen};

fn run(daemon: &Daemon, command: &str, text: &str, flags: &[&str]) -> Said {
    let path = daemon.dir().join("orchestrator.toml");
    fs::write(&path, text).unwrap();
    daemon.cli([&[command, path.to_str().unwrap()], flags].concat())
}

#[track_caller]
fn apply(daemon: &Daemon, text: &str, flags: &[&str]) -> String {
    let said = run(daemon, "apply", text, &[&["--wait", "--timeout", "20s"], flags].concat());
    assert_eq!(said.code, Some(0), "{said:?}\n{}", daemon.log());
    said.stdout
}

fn set(count: u32, keys: &str) -> String {
    format!(
        "[instance.worker]\nprogram = \"/bin/sleep\"\nargs = [\"1000\"]\nreplicas = {count}\n{keys}\n"
    )
}

#[test]
fn a_changed_number_touches_what_is_added_or_removed_alone() {
    let daemon = Daemon::start();
    let said = apply(&daemon, &set(2, ""), &[]);
    let expected = "+ set worker\n+     program = \"/bin/sleep\"\n+     replicas = 2\n\
                    +     args = [\"1000\"]\n+ instance worker.1 (start)\n\
                    + instance worker.2 (start)\n\
                    3 added, 0 changed, 0 removed; 0 instances and 0 links as wanted\n";
    assert_eq!(said, expected);
    let two = seen(&daemon, "worker");
    let nothing = "nothing differs: 2 instances and 0 links as wanted\n";
    assert_eq!(apply(&daemon, &set(2, ""), &["--prune"]), nothing);
    let said = apply(&daemon, &set(3, ""), &[]);
    let expected = "~ set worker\n-     replicas = 2\n+     replicas = 3\n\
                    + instance worker.3 (start)\n\
                    1 added, 1 changed, 0 removed; 2 instances and 0 links as wanted\n";
    assert_eq!(said, expected);
    assert_eq!(seen(&daemon, "worker")[..2], two);
    let said = apply(&daemon, &set(1, ""), &[]);
    assert!(said.contains("- instance worker.2 (stop)\n- instance worker.3 (stop)\n"), "{said}");
    assert_eq!(seen(&daemon, "worker"), two[..1]);
    apply(&daemon, &set(0, ""), &[]);
    assert_eq!(names(&daemon), [""; 0]);
    apply(&daemon, &set(2, ""), &[]);
    let said = apply(&daemon, "version = 1", &["--prune"]);
    assert!(said.starts_with("- set worker\n- instance worker.1 (stop)\n"), "{said}");
    assert_eq!(daemon.cli(["runtime", "show", "worker"]).code, Some(3));
}

#[test]
fn a_changed_program_is_a_change_of_each_replica() {
    let daemon = Daemon::start();
    apply(&daemon, &set(2, ""), &[]);
    let before = seen(&daemon, "worker");
    let said = apply(&daemon, &set(3, "env = { LEVEL = \"debug\" }"), &[]);
    assert!(said.contains("~ instance worker.1 (restart)\n+     env.LEVEL"), "{said}");
    assert!(said.contains("~ instance worker.2 (restart)\n+     env.LEVEL"), "{said}");
    let after = seen(&daemon, "worker");
    assert_eq!(after.len(), 3);
    for (before, after) in before.iter().zip(&after) {
        assert!(before.1 == after.1 && before.2 != after.2, "{before:?} {after:?}");
    }
    assert_eq!(detail(&daemon, "worker").set.spec.env.len(), 1);
    // What needs no restart causes none.
    let said = apply(&daemon, &set(3, "env = { LEVEL = \"debug\" }\nrestart = \"always\""), &[]);
    assert!(said.contains("~ instance worker.3\n"), "{said}");
    assert_eq!(seen(&daemon, "worker"), after);
    let said = apply(&daemon, &set(3, "state = \"stopped\""), &[]);
    assert!(said.contains("~ instance worker.3 (stop)"), "{said}");
    assert!(seen(&daemon, "worker").iter().all(|it| it.2.is_none()));
}

#[test]
fn what_is_exported_is_one_entry_and_applies_to_no_change() {
    let daemon = Daemon::start();
    let text = set(2, "restart = \"always\"\nrequires = [\"db\"]")
        + "[instance.db]\nprogram = \"/bin/sleep\"\nargs = [\"1000\"]\n\
           [instance.idle]\nprogram = \"/bin/true\"\nreplicas = 0\nstate = \"stopped\"\n\
           [[link]]\nfrom = \"worker\"\ntype = \"T\"\nto = \"db\"\npolicy = \"latest\"\n\
           [[link]]\nfrom = \"db\"\ntype = \"T\"\nto = \"worker\"\ncapacity = 7\n\
           [[link]]\nfrom = \"worker.1\"\ntype = \"U\"\nto = \"idle\"\n";
    let said = apply(&daemon, &text, &[]);
    assert!(said.contains("+ link T from worker to db\n+ link T from db to worker\n"), "{said}");
    let before = (seen(&daemon, "worker"), daemon.links(), daemon.ok(["events"]));
    assert_eq!(before.1.len(), 7);
    let exported = daemon.ok(["export"]);
    assert_eq!(exported.matches("[instance.").count(), 3, "{exported}");
    assert_eq!(exported.matches("[[link]]").count(), 3, "{exported}");
    assert!(
        exported.contains("replicas = 2\n") && exported.contains("replicas = 0\n"),
        "{exported}"
    );
    for flags in [&[][..], &["--prune"]] {
        let said = run(&daemon, "diff", &exported, flags);
        assert_eq!(said.code, Some(0), "{said:?}\n{exported}");
        apply(&daemon, &exported, flags);
    }
    let after = (seen(&daemon, "worker"), daemon.links(), daemon.ok(["events"]));
    assert_eq!(after, before);
    // On another daemon it makes the same.
    let other = Daemon::start();
    apply(&other, &exported, &[]);
    assert_eq!(other.ok(["export"]), exported);
    assert_eq!(other.links().len(), 7);
    // Where a replica is not as the set is, that is said.
    daemon.ok(["runtime", "stop", "worker.2"]);
    let said = daemon.cli(["export"]);
    assert!(said.stdout == exported && said.stderr.contains("worker.2"), "{said:?}");
}

#[test]
fn links_follow_a_number_that_is_applied_although_nobody_speaks_of_them() {
    let daemon = Daemon::start();
    apply(&daemon, &set(1, ""), &[]);
    daemon.ok(["link", "add", "--from", "worker", "--type", "T", "--to", "worker"]);
    let said = apply(&daemon, &set(2, ""), &[]);
    assert!(said.contains("+ link T from worker.2 to worker.1\n"), "{said}");
    assert_eq!(daemon.links().len(), 5);
    let said = apply(&daemon, &set(2, ""), &["--prune"]);
    assert!(said.contains("- link T from worker to worker\n"), "{said}");
    assert_eq!(daemon.links().len(), 0);
}

#[test]
fn names_that_collide_with_what_is_there_are_refused() {
    let daemon = Daemon::start();
    add(&daemon, "worker", "1", SLEEP, &[]);
    daemon.add_script("single", SLEEP);
    let before = (names(&daemon), daemon.ok(["export"]));
    let path = daemon.dir().join("orchestrator.toml");
    let cases = [
        ("single", "replicas = 2", "single: there is an instance of that name"),
        ("worker", "", "worker: it is a set of replicas; say how many"),
        ("\"worker.1\"", "", "worker.1: that is the name of a replica of worker"),
    ];
    for (name, keys, expected) in cases {
        let text = format!("[instance.{name}]\nprogram = \"/bin/true\"\n{keys}\n");
        fs::write(&path, text).unwrap();
        let error = refused(&daemon, &["apply", path.to_str().unwrap()]);
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!((names(&daemon), daemon.ok(["export"])), before);
}
