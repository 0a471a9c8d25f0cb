//! What `apply`, `diff` and `export` do.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use orchestrator_proto::control::{Desired, EventKind, Exit, Observed};
use tests::{Daemon, SOON, eventually};

use super::{apply, becomes, desired, names, pid, run, sleeper, write};

#[test]
fn instances_and_links_are_there_and_a_second_time_changes_nothing() {
    let daemon = Daemon::start();
    let text = format!(
        "{}{}{}",
        sleeper("a", "env = { LEVEL = \"debug\" }"),
        sleeper("b", "state = \"stopped\""),
        "[[link]]\nfrom = \"a\"\ntype = \"T\"\nto = \"b\"\npolicy = \"latest\"\n"
    );
    let said = apply(&daemon, &text, &[]);
    let expected = "+ instance a (start)\n+     program = \"/bin/sleep\"\n+     args = [\"1000\"]\n\
                    +     env.LEVEL = \"debug\"\n+ instance b\n+     program = \"/bin/sleep\"\n\
                    +     args = [\"1000\"]\n+     state = \"stopped\"\n+ link T from a to b\n\
                    3 added, 0 changed, 0 removed; 0 instances and 0 links as wanted\n";
    assert_eq!(said, expected);
    let (a, events) = (pid(&daemon, "a"), daemon.ok(["events"]));
    assert!(matches!(daemon.info("b").observed, Observed::Stopped { at_ms: None, .. }));
    let links = daemon.json(["link", "list"]);
    assert_eq!(links["links"][0]["policy"], "latest");

    let nothing = "nothing differs: 2 instances and 1 link as wanted\n";
    assert_eq!(apply(&daemon, &text, &["--prune"]), nothing);
    let diff = run(&daemon, "diff", &text, &["--prune"]);
    assert_eq!((diff.code, diff.stdout.as_str()), (Some(0), nothing));
    assert_eq!(pid(&daemon, "a"), a);
    assert_eq!(daemon.ok(["events"]), events);
}

#[test]
fn a_dry_run_changes_nothing() {
    let daemon = Daemon::start();
    let text = sleeper("a", "");
    for (command, flags, code) in [("apply", &["--dry-run"][..], 0), ("diff", &[], 5)] {
        let said = run(&daemon, command, &text, flags);
        assert_eq!(said.code, Some(code), "{said:?}");
        let last = "1 to add, 0 to change, 0 to remove; 0 instances and 0 links as wanted\n";
        assert!(said.stdout.ends_with(last), "{said:?}");
    }
    assert_eq!(names(&daemon), [""; 0]);
}

#[test]
fn a_change_that_needs_no_restart_causes_none() {
    let daemon = Daemon::start();
    apply(&daemon, &format!("{}{}", sleeper("db", ""), sleeper("a", "")), &[]);
    let (a, starts) = (pid(&daemon, "a"), daemon.info("a").starts);
    let keys = "restart = { policy = \"always\", delay = \"10ms\" }\nrequires = [\"db\"]\n\
                stop = [\"SIGINT 5s\"]\nprivileged = true\nstart-timeout = \"5s\"\n";
    let said = apply(&daemon, &format!("{}{}", sleeper("db", ""), sleeper("a", keys)), &[]);
    let expected = "~ instance a\n+     privileged = true\n+     restart.policy = \"always\"\n\
                    +     restart.delay = \"10ms\"\n+     start-timeout = \"5s\"\n\
                    +     requires = [\"db\"]\n+     stop = [\"SIGINT 5s\"]\n\
                    0 added, 1 changed, 0 removed; 1 instance and 0 links as wanted\n";
    assert_eq!(said, expected);
    assert_eq!((pid(&daemon, "a"), daemon.info("a").starts), (a, starts));
    // The new rules count: it is started again, and stopped by another signal.
    tests::processes::signal(a, nix::sys::signal::Signal::SIGKILL);
    eventually("it runs again", || (daemon.info("a").starts == starts + 1).then_some(()));
    becomes(&daemon, "a", "ready");
    daemon.ok(["runtime", "stop", "a"]);
    let Observed::Stopped { last_exit, .. } = daemon.info("a").observed else { panic!() };
    assert_eq!(last_exit, Some(Exit::Signal { signal: 2, core_dumped: false }));
    // What it needs is started with it.
    daemon.ok(["runtime", "stop", "db"]);
    daemon.ok(["runtime", "start", "a"]);
    becomes(&daemon, "db", "ready");
}

#[test]
fn a_change_of_what_is_executed_restarts_that_and_nothing_else() {
    let daemon = Daemon::start();
    let text = |args: &str| {
        format!(
            "{}[instance.a]\nprogram = \"/bin/sh\"\nargs = [\"-c\", \"echo {args}; exec sleep 1000\"]\n\
             [[link]]\nfrom = \"b\"\ntype = \"T\"\nto = \"a\"\n",
            sleeper("b", "")
        )
    };
    apply(&daemon, &text("one"), &[]);
    let before = (daemon.info("a"), pid(&daemon, "b"));
    let links = daemon.ok(["link", "list"]);
    let said = apply(&daemon, &text("two"), &[]);
    assert!(
        said.starts_with("~ instance a (restart)\n-     args = [\"-c\", \"echo one;"),
        "{said}"
    );
    let after = daemon.info("a");
    assert_eq!((after.id, after.starts), (before.0.id, before.0.starts + 1));
    assert_ne!(after.observed.pid(), before.0.observed.pid());
    assert_eq!(pid(&daemon, "b"), before.1);
    assert_eq!(daemon.ok(["link", "list"]), links);
    let log = daemon.ok(["runtime", "stdout", "a", "--no-follow"]);
    assert_eq!(log, "one\ntwo\n");
    assert_eq!(names(&daemon), ["b", "a"]);
    // All of it is there after the end of the daemon, and differs from nothing.
    daemon.replace_killed();
    assert_eq!(run(&daemon, "diff", &text("two"), &["--prune"]).code, Some(0));
    let keys = daemon.event("changed", |event| match &event.kind {
        EventKind::Changed { keys } => Some(keys.clone()),
        _ => None,
    });
    assert_eq!(keys, "args");
}

#[test]
fn what_needs_others_is_restarted_with_them_and_in_order() {
    let daemon = Daemon::start();
    let text = |level: &str| {
        format!(
            "{}{}{}",
            sleeper("db", &format!("env = {{ LEVEL = \"{level}\" }}")),
            sleeper("web", &format!("requires = [\"db\"]\nenv = {{ LEVEL = \"{level}\" }}")),
            sleeper("other", "")
        )
    };
    apply(&daemon, &text("0"), &[]);
    let other = pid(&daemon, "other");
    // Who is restarted may not be started by who needs it, in between.
    let levels = 1..=10;
    for level in levels.clone() {
        apply(&daemon, &text(&level.to_string()), &[]);
    }
    assert_eq!(pid(&daemon, "other"), other);
    let mut order = Vec::new();
    let count = 2 + 4 * levels.count();
    daemon.event("all of it", |event| {
        let name = event.name.clone().unwrap_or_default();
        match event.kind {
            EventKind::Started { .. } | EventKind::Exited { .. } if name != "other" => {
                order.push((name, matches!(event.kind, EventKind::Started { .. })));
            }
            _ => {}
        }
        (order.len() == count).then_some(())
    });
    let expected = [("web", false), ("db", false), ("db", true), ("web", true)];
    let expected: Vec<_> = [("db", true), ("web", true)]
        .into_iter()
        .chain(expected.into_iter().cycle())
        .map(|(name, started)| (name.to_owned(), started))
        .take(count)
        .collect();
    assert_eq!(order, expected);
}

#[test]
fn desired_states_and_priorities() {
    let daemon = Daemon::start();
    apply(&daemon, &sleeper("a", ""), &[]);
    apply(&daemon, &sleeper("a", "state = \"stopped\""), &[]);
    assert!(!daemon.info("a").observed.is_active());
    assert_eq!(desired(&daemon, "a"), Desired::Stopped);
    // A change of what is stopped starts nothing, and is there when it is started.
    let text = sleeper("a", "state = \"stopped\"\nenv = { A = \"1\" }");
    apply(&daemon, &text, &[]);
    assert!(!daemon.info("a").observed.is_active());
    let text = sleeper("a", "priority = \"low\"\nenv = { A = \"1\" }");
    apply(&daemon, &text, &[]);
    let pid = pid(&daemon, "a");
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert!(environment.split(|byte| *byte == 0).any(|variable| variable == b"A=1"));
    assert_eq!(daemon.info("a").priority.to_string(), "low");
    assert_eq!(run(&daemon, "diff", &text, &[]).code, Some(0));
    // Without a priority it is as it was.
    assert_eq!(run(&daemon, "diff", &sleeper("a", "env = { A = \"1\" }"), &[]).code, Some(0));
}

#[test]
fn prune_removes_what_is_not_named_and_nothing_is_removed_without_it() {
    let daemon = Daemon::start();
    let link = |to: &str| format!("[[link]]\ntype = \"T\"\nto = \"{to}\"\n");
    let both = format!("{}{}{}{}", sleeper("a", ""), sleeper("b", ""), link("a"), link("b"));
    apply(&daemon, &both, &[]);
    let a = pid(&daemon, "a");
    apply(&daemon, &sleeper("a", ""), &[]);
    assert_eq!(names(&daemon), ["a", "b"]);
    let said = apply(&daemon, &format!("{}{}", sleeper("a", ""), link("a")), &["--prune"]);
    let expected = "- instance b (stop)\n- link T from anybody to b\n\
                    0 added, 0 changed, 2 removed; 1 instance and 1 link as wanted\n";
    assert_eq!(said, expected);
    assert_eq!(names(&daemon), ["a"]);
    assert_eq!(pid(&daemon, "a"), a);
    assert_eq!(daemon.json(["link", "list"])["links"].as_array().unwrap().len(), 1);
    // Other rules are another link between the same ends.
    let other = link("a") + "policy = \"block\"\ncapacity = 3\n";
    let said = apply(&daemon, &format!("{}{other}", sleeper("a", "")), &[]);
    assert!(said.contains("~ link T from anybody to a\n+     policy = \"block\"\n"), "{said}");
    let links = daemon.json(["link", "list"]);
    assert_eq!(
        (&links["links"][0]["policy"], &links["links"][0]["capacity"]),
        (&"block".into(), &3.into())
    );
    apply(&daemon, "", &["--prune"]);
    assert_eq!(names(&daemon), [""; 0]);
}

#[test]
fn what_is_exported_differs_from_nothing() {
    let daemon = Daemon::start();
    daemon.add([
        "/bin/sh",
        "--name",
        "web",
        "--env",
        "A=x\"y $z",
        "--cwd",
        "/tmp",
        "--privileged",
        "--restart",
        "on-failure",
        "--restart-delay",
        "1s",
        "--requires",
        "db:started:ignore",
        "--stop",
        "SIGINT 1s, SIGTERM 2s",
        "--success-exit-codes",
        "0,3",
        "--watchdog",
        "0",
        "--",
        "-c",
        "sleep 1000\nexit ${1}",
    ]);
    daemon.add(["/bin/sleep", "--name", "db.1", "--", "1000"]);
    let id = daemon.add(["/bin/sleep", "--", "1000"]);
    daemon.add(["/bin/sleep", "--name", "copied", "--copy", "--", "1000"]);
    daemon.ok(["runtime", "start", "db.1", "copied", "--priority", "low"]);
    daemon.ok(["link", "add", "--from", "web", "--type", "T", "--to", &id]);
    daemon.ok(["link", "add", "--type", "U", "--to", "udp:127.0.0.1:9", "--policy", "latest"]);
    let said = daemon.cli(["export"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.stderr.contains("is the orchestrator's own copy"), "{said:?}");
    let events = daemon.ok(["events"]);
    let again = apply(&daemon, &said.stdout, &["--prune"]);
    assert_eq!(again, "nothing differs: 4 instances and 2 links as wanted\n");
    assert_eq!(daemon.ok(["events"]), events);
    // On another one it makes the same.
    let other = Daemon::start();
    apply(&other, &said.stdout.replace("db:started", "db.1:started"), &[]);
    let exported = other.ok(["export"]);
    assert_eq!(exported.replace("db.1:started", "db:started"), said.stdout);
}

#[test]
fn a_program_takes_the_place_of_a_copy() {
    let daemon = Daemon::start();
    daemon.add(["/bin/sleep", "--name", "a", "--copy", "--", "1000"]);
    daemon.ok(["runtime", "start", "a"]);
    let programs = daemon.state_dir().join("programs");
    assert_eq!(fs::read_dir(&programs).unwrap().count(), 1);
    apply(&daemon, &sleeper("a", ""), &[]);
    let show = daemon.json(["runtime", "show", "a"]);
    assert_eq!(show["runtime"]["copied"], false);
    assert_eq!(show["runtime"]["info"]["program"], "/bin/sleep");
    eventually("the copy is gone", || {
        (fs::read_dir(&programs).unwrap().count() == 0).then_some(())
    });
}

#[test]
fn includes_defaults_and_variables() {
    let daemon = Daemon::start();
    fs::create_dir(daemon.dir().join("more")).unwrap();
    let script = daemon.dir().join("more/run");
    fs::write(&script, "#!/bin/sh\necho \"$1 $LEVEL\"\nexec sleep 1000\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let included = "[instance.a]\nprogram = \"run\"\nargs = [\"${WHO:-nobody}\"]\n";
    fs::write(daemon.dir().join("more/a.toml"), included).unwrap();
    let text = "include = [\"more/*.toml\"]\n[defaults]\nenv = { LEVEL = \"${LEVEL}\" }\n";
    let path = write(&daemon, text);
    let mut command = daemon.cli_command(["apply", path.to_str().unwrap(), "--wait"]);
    command.env("LEVEL", "debug").env_remove("WHO");
    let said = tests::Said::of(command);
    assert_eq!(said.code, Some(0), "{said:?}");
    let line = eventually("it has printed", || {
        let line = daemon.ok(["runtime", "stdout", "a", "--no-follow"]);
        (!line.is_empty()).then_some(line)
    });
    assert_eq!(line, "nobody debug\n");
}

#[test]
fn two_at_once_come_one_after_the_other() {
    let daemon = Daemon::start();
    let texts = ["1", "2", "3", "4"].map(|level| {
        let names =
            ["a", "b", "c"].map(|name| sleeper(name, &format!("env = {{ LEVEL = \"{level}\" }}")));
        let path = daemon.dir().join(format!("{level}.toml"));
        fs::write(&path, names.concat()).unwrap();
        path
    });
    let applying = texts.each_ref().map(|path| {
        let mut command = daemon.cli_command(["apply", path.to_str().unwrap()]);
        command.stdout(std::process::Stdio::null()).spawn().unwrap()
    });
    for mut child in applying {
        assert!(child.wait().unwrap().success());
    }
    // One of them was the last, for all instances.
    let levels = || {
        let of = |name: &str| {
            let observed = daemon.info(name).observed;
            let Observed::Ready { pid, .. } = observed else { return None };
            let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
            let mut all = environment.split(|byte| *byte == 0);
            all.find(|it| it.starts_with(b"LEVEL=")).map(<[u8]>::to_owned)
        };
        let all = ["a", "b", "c"].map(of);
        (all[0].is_some() && all[0] == all[1] && all[1] == all[2]).then(|| all[0].clone().unwrap())
    };
    let level = eventually("all are as one of them says", levels);
    let level = String::from_utf8(level).unwrap().replace("LEVEL=", "");
    let path = daemon.dir().join(format!("{level}.toml"));
    let said = daemon.cli(["diff", path.to_str().unwrap(), "--prune"]);
    assert_eq!(said.code, Some(0), "{said:?} within {SOON:?}");
}

#[test]
fn what_still_runs_as_it_was_defined_before_is_known_to_another_daemon() {
    let daemon = Daemon::start();
    // It takes longer to stop than the daemon has to live.
    let script = "trap '' TERM; while :; do sleep 0.01; done";
    let text = |level: u32| {
        format!(
            "[instance.a]\nprogram = \"/bin/sh\"\nargs = [\"-c\", \"{script}\"]\n\
             env = {{ LEVEL = \"{level}\" }}\nstop-timeout = \"20s\"\n"
        )
    };
    apply(&daemon, &text(1), &[]);
    let before = daemon.info("a");
    let said = run(&daemon, "apply", &text(2), &[]);
    assert_eq!(said.code, Some(0), "{said:?}");
    // Nothing is done twice while it is being done.
    assert_eq!(run(&daemon, "diff", &text(2), &[]).code, Some(0));
    daemon.replace_killed();
    let said = run(&daemon, "diff", &text(2), &[]);
    assert_eq!(said.code, Some(5), "{said:?}");
    assert!(said.stdout.contains("~ instance a (restart)\n-     process = as defined before"));
    let said = run(&daemon, "apply", &text(2), &[]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(daemon.info("a").starts, before.starts);
    // Now nobody waits for it any more.
    becomes(&daemon, "a", "stopping");
    let old = before.observed.pid().unwrap();
    tests::processes::signal(old, nix::sys::signal::Signal::SIGKILL);
    let new = becomes(&daemon, "a", "ready");
    assert_ne!(new.pid(), Some(old));
    assert_eq!(run(&daemon, "diff", &text(2), &[]).code, Some(0));
}

/// How long one change takes among so many.
#[test]
fn one_change_among_many_is_quick() {
    let daemon = Daemon::start();
    let text = |changed: u32| -> String {
        let one = |i: u32| {
            let level = if i == 7 { changed } else { 0 };
            format!(
                "[instance.i{i}]\nprogram = \"/bin/sleep\"\nargs = [\"1000\"]\nstate = \"stopped\"\n\
                 env = {{ LEVEL = \"{level}\" }}\n"
            )
        };
        (0..4000).map(one).collect()
    };
    let said = run(&daemon, "apply", &text(0), &[]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let path = write(&daemon, &text(1));
    let read = std::time::Instant::now();
    let manifest = orchestrator_proto::manifest::Manifest::read(&path).unwrap();
    let read = read.elapsed();
    let request = orchestrator_proto::control::Request::Apply {
        set: manifest.set,
        prune: true,
        dry_run: false,
    };
    let begun = std::time::Instant::now();
    let reply = daemon.request(request).unwrap();
    let took = begun.elapsed();
    let orchestrator_proto::control::Reply::Plan(plan) = reply else { panic!() };
    assert_eq!((plan.instances.len(), plan.unchanged_instances), (1, 3999));
    eprintln!("read in {read:?}, applied in {took:?}");
    // Of a build that is not optimised, on a busy machine.
    assert!(took < SOON / 4, "{took:?}");
}
