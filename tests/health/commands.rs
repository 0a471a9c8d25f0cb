//! The command that asks an instance to stop.

use nix::sys::signal::Signal;

use super::*;

#[test]
fn the_stop_command_comes_first_and_signals_only_if_it_is_of_no_use() {
    let daemon = Daemon::start();
    let file = |name: &str| daemon.dir().join(name).display().to_string();
    let program = script(
        &daemon,
        "polite",
        &format!(
            "trap 'echo term >> {happened}' TERM; echo up > {up}\n\
             while ! [ -e {bye} ]; do sleep 0.01; done; echo bye >> {happened}; rm {bye}",
            happened = file("happened"),
            up = file("up"),
            bye = file("bye"),
        ),
    );
    let asks = script(
        &daemon,
        "asks",
        &format!(
            "echo command $MAINPID >> {happened}; touch {bye}\n\
             while [ -e {bye} ]; do sleep 0.01; done",
            happened = file("happened"),
            bye = file("bye"),
        ),
    );
    let command = asks.to_str().unwrap();
    add(&daemon, &program, "polite", &["--stop-command", command, "--stop-timeout", "1h"], &[]);
    daemon.ok(["runtime", "start", "polite"]);
    eventually("it is up", || fs::exists(file("up")).unwrap().then_some(()));
    let main = pid(&daemon, "polite");
    daemon.ok(["runtime", "stop", "polite"]);
    let happened = fs::read_to_string(file("happened")).unwrap();
    assert_eq!(happened, format!("command {main}\nbye\n"));
    only(&daemon, &[]);
    assert_eq!(count(&daemon, "polite", |it| matches!(it, EventKind::Stopping { .. })), 0);
}

#[test]
fn signals_follow_a_stop_command_that_fails_or_takes_too_long() {
    let daemon = Daemon::start();
    let left = daemon.dir().join("left");
    let hangs = script(
        &daemon,
        "hangs",
        &format!("trap '' TERM; sleep 1000 & echo $$ > {}; sleep 1000", left.display()),
    );
    let fails = script(&daemon, "fails", "echo no such queue >&2; exit 1");
    for (name, command, time) in [("slow", &hangs, "200ms"), ("useless", &fails, "1h")] {
        let options = ["--stop-command", command.to_str().unwrap(), "--stop-timeout", time];
        add(&daemon, Path::new("/bin/sleep"), name, &options, &["1000"]);
        daemon.ok(["runtime", "start", name]);
        daemon.ok(["runtime", "stop", name]);
        let term =
            |kind: &EventKind| *kind == EventKind::Stopping { signal: Signal::SIGTERM as i32 };
        assert_eq!(count(&daemon, name, term), 1);
        only(&daemon, &[]);
    }
    assert!(!processes::is_alive(processes::pid_in(&left)));
    assert!(daemon.log().contains("exit code 1: no such queue"), "{}", daemon.log());
}

#[test]
fn a_stop_goes_on_when_the_daemon_is_killed_within_its_command() {
    let daemon = Daemon::start();
    let asked = daemon.dir().join("asked");
    let command =
        script(&daemon, "command", &format!("echo $$ >> {}; exec sleep 1000", asked.display()));
    let options = ["--stop-command", command.to_str().unwrap(), "--stop-timeout", "1s"];
    add(&daemon, Path::new("/bin/sleep"), "stopped", &options, &["1000"]);
    daemon.ok(["runtime", "start", "stopped"]);
    let stopping = daemon
        .cli_command(["runtime", "stop", "stopped"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let first = processes::pid_in(&asked);
    stored(&daemon);
    daemon.replace_killed();
    processes::gone(first);
    over(stopping);
    becomes(&daemon, "stopped", "stopped");
    only(&daemon, &[]);
}
