//! `apply --wait`

use tests::Daemon;

use super::{apply, becomes, run, sleeper};

#[test]
fn it_says_what_is_not_ready_and_why() {
    let daemon = Daemon::start();
    let text = sleeper("good", "")
        + &sleeper("deaf", "readiness = { tcp = \"127.0.0.1:1\" }\nstart-timeout = \"100ms\"")
        + &sleeper("web", "requires = [\"deaf\"]")
        + "[instance.none]\nprogram = \"/nonexistent\"\n"
        + "[instance.task]\nkind = \"task\"\nprogram = \"/bin/true\"\n";
    let said = run(&daemon, "apply", &text, &["--wait"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    for line in [
        "warning: \"/nonexistent\" can't be started as it is now: No such file",
        "error: 3 instances are not as wanted and can't be",
        "  because: deaf: failed: it was not ready within 100ms",
        "  because: web: ",
        "  because: none: failed: ",
    ] {
        assert!(said.stderr.contains(line), "{line}\n{said:?}");
    }
    becomes(&daemon, "good", "ready");
    becomes(&daemon, "task", "completed");
}

#[test]
fn it_does_not_take_longer_than_it_may() {
    let daemon = Daemon::start();
    let text = sleeper("slow", "readiness = \"notify\"");
    let said = run(&daemon, "apply", &text, &["--wait", "--timeout", "200ms"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("1 instance is not as wanted in time"), "{said:?}");
    assert!(said.stderr.contains("because: slow: starting as process "), "{said:?}");
}

#[test]
fn what_was_ready_before_is_not_ready_yet() {
    let daemon = Daemon::start();
    apply(&daemon, &sleeper("a", ""), &[]);
    // It takes a while to stop; only what comes after that counts.
    let script = "trap 'sleep 0.3; exit 0' TERM; while :; do sleep 0.01; done";
    let text = |level: u32| {
        format!(
            "[instance.a]\nprogram = \"/bin/sh\"\nargs = [\"-c\", \"{script}\"]\n\
             env = {{ LEVEL = \"{level}\" }}\n"
        )
    };
    for level in 1..4 {
        let starts = daemon.info("a").starts;
        apply(&daemon, &text(level), &[]);
        let info = daemon.info("a");
        assert_eq!((info.starts, info.observed.word()), (starts + 1, "ready"));
    }
    // A task does its work again when that is another one.
    let task = |code: u32| {
        format!(
            "[instance.t]\nkind = \"task\"\nprogram = \"/bin/sh\"\nargs = [\"-c\", \"exit {code}\"]\n"
        )
    };
    apply(&daemon, &task(0), &[]);
    let said = run(&daemon, "apply", &task(3), &["--wait"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("because: t: failed: exit code 3"), "{said:?}");
}
