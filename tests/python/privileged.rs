//! What a program in Python asks of its daemon.

use orchestrator_proto::control::Observed;
use tests::{Daemon, Said, eventually};

use super::{add, python, said};

fn expect(daemon: &Daemon, name: &str, line: &str) {
    eventually(&format!("{name} prints {line:?}"), || {
        let printed = said(daemon, name);
        assert!(!printed.contains("Traceback"), "{printed}");
        printed.lines().any(|other| other.contains(line)).then_some(())
    });
}

#[test]
fn a_privileged_program_lists_starts_and_stops_instances() {
    let Some(_) = python() else { return };
    let daemon = Daemon::start();
    let boss = add(&daemon, "boss", &["--privileged", "--ready-runtime"], "boss.py", &[]);
    let idle = daemon.add(["/bin/sleep", "--name", "idle", "--", "600"]);
    let failing =
        daemon.add(["/bin/sh", "--name", "failing", "--restart", "never", "--", "-c", "exit 3"]);
    daemon.add(["/bin/true", "--name", "nightly", "--schedule", "@daily"]);
    daemon.ok(["runtime", "add", "/bin/sleep", "--name", "set", "--replicas", "2", "--", "600"]);
    daemon.ok(["runtime", "start", "failing"]);
    daemon.exited("failing");
    daemon.ok(["runtime", "start", "boss"]);
    expect(&daemon, "boss", &format!("{boss} boss Running "));
    expect(&daemon, "boss", &format!("{failing} failing Running Failed None None"));
    expect(&daemon, "boss", "nightly Stopped Stopped @daily None");
    expect(&daemon, "boss", "set.2 Stopped Stopped None set");
    expect(&daemon, "boss", &format!("started {idle}"));
    expect(&daemon, "boss", "Low Running");
    expect(&daemon, "boss", &format!("stopped {idle}"));
    expect(&daemon, "boss", "5 ");
    daemon.exited("boss");
}

#[test]
fn who_is_not_privileged_is_told() {
    let Some(_) = python() else { return };
    let daemon = Daemon::start();
    add(&daemon, "boss", &[], "boss.py", &[]);
    daemon.ok(["runtime", "start", "boss"]);
    eventually("it was refused", || {
        let said = said(&daemon, "boss");
        said.contains("RequestError: ").then(|| assert!(said.contains("privileged"), "{said}"))
    });
}

#[test]
fn an_instance_is_ready_when_it_says_so() {
    let Some(_) = python() else { return };
    let daemon = Daemon::start();
    let id = daemon.put("a");
    add(&daemon, "boss", &["--ready-runtime"], "numbers.py", &["envelopes"]);
    let observed = || daemon.info("boss").observed;
    let starting = daemon.cli_command(["runtime", "start", "boss"]).spawn().unwrap();
    daemon.prints("boss", "listening");
    assert!(matches!(observed(), Observed::Starting { .. }));
    let mut sender = daemon.sender(&id, "n");
    daemon.link("a", "n", "boss");
    sender.number(1);
    eventually("it is ready", || matches!(observed(), Observed::Ready { .. }).then_some(()));
    Said::when_ended(starting);
}
