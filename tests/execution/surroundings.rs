//! The environment and the standard input.

use std::fs;

use orchestrator_proto::control::Exit;
use tests::{Daemon, executable};

use super::{environment, refusal, start, text};

/// Without what the daemon sets for each instance.
fn given(pid: u32) -> Vec<String> {
    let own = ["ORCHESTRATOR_", "VEECLE_"];
    let mut all = environment(pid);
    all.retain(|it| !own.iter().any(|own| it.starts_with(own)));
    all.sort();
    all
}

fn launched() -> Daemon {
    let mut daemon = Daemon::prepare(&[])
        .env("LANG", "C.UTF-8")
        .env("LC_TIME", "C")
        .env("TZ", "UTC")
        .env("TMPDIR", "/tmp")
        .env("PATH", "/usr/bin:/bin")
        .env("SECRET", "of the daemon")
        .env("DISPLAY", ":7")
        .env("XDG_RUNTIME_DIR", "/run/nowhere");
    daemon.launch();
    daemon
}

#[test]
fn the_environment_is_small_and_clean_unless_it_is_asked_for() {
    let daemon = launched();
    let add = |name: &str, rule: &[&str]| {
        let all = ["/bin/sleep", "--name", name].into_iter().chain(rule.iter().copied());
        daemon.add(all.chain(["--", "1000"]));
        start(&daemon, name)
    };
    let names = |pid: u32| -> Vec<String> {
        given(pid).iter().map(|it| it.split_once('=').unwrap().0.to_owned()).collect()
    };
    let clean = add("clean", &[]);
    let own = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap();
    if let Some(own) = own {
        let home = format!("HOME={}", own.dir.display());
        let user = [format!("LOGNAME={}", own.name), format!("USER={}", own.name)];
        let shell = format!("SHELL={}", own.shell.display());
        let mut expected = vec![home, shell];
        expected.extend(user);
        for variable in [
            "LANG=C.UTF-8",
            "LC_TIME=C",
            "PATH=/usr/bin:/bin",
            "TMPDIR=/tmp",
            "TZ=UTC",
            "XDG_RUNTIME_DIR=/run/nowhere",
        ] {
            expected.push(variable.to_owned());
        }
        // Those of whoever runs the tests.
        let strangers = |it: &String| it.starts_with("LC_") || it.starts_with("LANGUAGE=");
        let mut found = given(clean);
        found.retain(|it| !strangers(it) || it == "LC_TIME=C");
        expected.sort();
        assert_eq!(found, expected);
    }
    assert!(!names(clean).contains(&"SECRET".to_owned()));
    let named = names(add("named", &["--inherit-env", "DISPLAY,NOT_SET"]));
    let mut expected = names(clean);
    expected.push("DISPLAY".into());
    expected.sort();
    assert_eq!(named, expected);
    assert_eq!(given(add("none", &["--inherit-env", "none"])), Vec::<String>::new());
    let variable = add("variable", &["--inherit-env", "none", "--env", "A=1"]);
    assert_eq!(given(variable), ["A=1"]);
    let all = given(add("all", &["--inherit-env", "all"]));
    assert!(all.iter().any(|it| it == "SECRET=of the daemon"), "{all:?}");
    for own in ["ORCHESTRATOR_LOG=", "ORCHESTRATOR_SOCKET="] {
        let all = environment(daemon.info("all").observed.pid().unwrap());
        assert!(!all.iter().any(|it| it.starts_with(own)), "{own} in {all:?}");
    }
}

#[test]
fn files_of_variables_are_read_at_each_start() {
    let daemon = launched();
    let (first, second) = (daemon.dir().join("first"), daemon.dir().join("second"));
    fs::write(&first, "# of the first\nA=1\nB='1 2'\nexport C=\"x\\\"y\"\nTZ=CET\n").unwrap();
    let dir = daemon.dir();
    let optional = format!("--env-file=-{}", text(&second));
    let mut add = daemon.cli_command(["runtime", "add", "/bin/sleep", "--name", "it", &optional]);
    // Relative to where the command is given.
    add.args(["--env-file", "first", "--env", "B=3", "--inherit-env", "none", "--", "1000"]);
    add.current_dir(dir);
    assert_eq!(tests::Said::of(add).code, Some(0));
    assert_eq!(given(start(&daemon, "it")), ["A=1", "B=3", "C=x\"y", "TZ=CET"]);
    // The later one counts, and that is the one given last.
    fs::write(&second, "A=2\nD=2\n").unwrap();
    daemon.ok(["runtime", "restart", "it"]);
    let pid = daemon.info("it").observed.pid().unwrap();
    assert_eq!(given(pid), ["A=1", "B=3", "C=x\"y", "D=2", "TZ=CET"]);
    // What is wrong is why it does not start.
    daemon.ok(["runtime", "stop", "it"]);
    fs::write(&first, "A=1\n\nB 2\n").unwrap();
    let why = refusal(&daemon, "it");
    let told = format!("line 3 of the environment file {first:?} is no variable: there is no =");
    assert!(why.contains(&told), "{why}");
    fs::remove_file(&first).unwrap();
    let why = refusal(&daemon, "it");
    let told = format!("the environment file {first:?} can't be read: No such file or directory");
    assert!(why.contains(&told), "{why}");
    assert_eq!(daemon.info("it").observed.word(), "failed");
}

#[test]
fn the_standard_input_is_nothing_or_a_file_and_not_that_of_commands() {
    let daemon = Daemon::start();
    let input = daemon.dir().join("input");
    fs::write(&input, "hello\n").unwrap();
    let file = format!("file:{}", text(&input));
    daemon.add(["/bin/cat", "--name", "cat", "--stdin", &file]);
    for _ in 0..2 {
        // From its beginning each time.
        daemon.ok(["runtime", "start", "cat"]);
        daemon.ok(["runtime", "wait", "cat", "--for", "completed"]);
    }
    assert_eq!(daemon.ok(["runtime", "stdout", "cat"]), "hello\nhello\n");
    daemon.add(["/bin/cat", "--name", "nothing"]);
    daemon.ok(["runtime", "start", "nothing"]);
    assert_eq!(daemon.exited("nothing"), Exit::Code(0));
    assert_eq!(daemon.ok(["runtime", "stdout", "nothing"]), "");

    // A pipe that nobody writes to is not waited for.
    let fifo = daemon.dir().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    daemon.add(["/bin/cat", "--name", "fifo", "--stdin", &format!("file:{}", text(&fifo))]);
    daemon.ok(["runtime", "start", "fifo"]);
    assert_eq!(daemon.exited("fifo"), Exit::Code(0));

    let probe = daemon.dir().join("probe");
    let out = daemon.dir().join("out");
    executable(
        &probe,
        format!("#!/bin/sh\nreadlink /proc/self/fd/0 > {}\n", text(&out)).as_bytes(),
    );
    daemon.add([
        "/bin/sleep",
        "--name",
        "nap",
        "--stdin",
        &file,
        "--ready-exec",
        text(&probe),
        "--",
        "1000",
    ]);
    let pid = start(&daemon, "nap");
    assert_eq!(fs::read_link(format!("/proc/{pid}/fd/0")).unwrap(), input);
    assert_eq!(fs::read_to_string(out).unwrap(), "/dev/null\n");

    fs::remove_file(&input).unwrap();
    daemon.ok(["runtime", "stop", "nap"]);
    let why = refusal(&daemon, "nap");
    let told = format!("can't open its standard input {input:?}: No such file or directory");
    assert!(why.contains(&told), "{why}");
}
