//! What starts, ends and stops, and what is said about it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Stdio};

use nix::sys::signal::Signal;
use orchestrator_proto::ErrorCode;
use orchestrator_proto::client::ClientError;
use orchestrator_proto::control::{
    Desired, EventKind, Exit, Item, LinkSpec, Observed, Priority, Reply, Request, RuntimeSpec,
    ServerBody, TargetSpec,
};
use tests::control::Control;
use tests::{Daemon, Said, binary, eventually, executable, processes, skipped};

const KILLED: Exit = Exit::Signal { signal: 9, core_dumped: false };

/// `trap … TERM` with this, then tells its pid through a file and waits.
fn waits_after(trap: &str, file: &str) -> String {
    format!("{trap}; echo $$ > {file}; exec sleep 1000")
}

fn events_of(daemon: &Daemon, name: &str) -> Vec<EventKind> {
    let mut found = Vec::new();
    let mut seen = 0;
    let said = daemon.ok(["--json", "events", "--instance", name]);
    for line in said.lines() {
        let item: Item = serde_json::from_str(line).unwrap();
        if let Item::Event(event) = item {
            assert!(event.seq > seen);
            seen = event.seq;
            found.push(event.kind);
        }
    }
    found
}

/// Begins a command whose end is waited for later.
fn begin(daemon: &Daemon, args: &[&str]) -> Child {
    let mut command = daemon.cli_command(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Starts an instance; the answer is its process.
#[track_caller]
fn start(daemon: &Daemon, name: &str) -> u32 {
    let reply = daemon.json(["runtime", "start", name]);
    u32::try_from(reply["started"]["pid"].as_u64().unwrap()).unwrap()
}

#[track_caller]
fn becomes(daemon: &Daemon, name: &str, word: &str) -> Observed {
    eventually(&format!("{name} is {word}"), || {
        let observed = daemon.info(name).observed;
        (observed.word() == word).then_some(observed)
    })
}

#[test]
fn an_exit_code_is_shown_as_soon_as_the_event_is_out() {
    let daemon = Daemon::start();
    daemon.add_script("seven", "exit 7");
    start(&daemon, "seven");
    assert_eq!(daemon.exited("seven"), Exit::Code(7));
    assert_eq!(daemon.info("seven").observed.ended(), Some(Exit::Code(7)));
    let list = daemon.ok(["runtime", "list"]);
    let line = list.lines().find(|line| line.contains("seven")).unwrap();
    assert!(line.contains("failed") && line.contains(" 7 "), "{list}");
    let shown = daemon.ok(["runtime", "show", "seven"]);
    assert!(shown.contains("failed: exit code 7"), "{shown}");
}

#[test]
fn the_signal_that_ended_a_program_is_shown_by_its_name() {
    let daemon = Daemon::start();
    for (name, signal) in [("nine", 9), ("usr1", 10), ("pipe", 13)] {
        daemon.add_script(name, &format!("kill -{signal} $$"));
        start(&daemon, name);
        let core_dumped = false;
        assert_eq!(daemon.exited(name), Exit::Signal { signal, core_dumped });
    }
    let list = daemon.ok(["runtime", "list"]);
    for word in ["SIGKILL", "SIGUSR1", "SIGPIPE"] {
        assert!(list.contains(word), "{list}");
    }
}

#[test]
fn a_program_that_is_killed_from_outside_is_no_longer_listed_as_running() {
    let daemon = Daemon::start();
    daemon.add(["/bin/sleep", "--name", "nap", "--", "1000"]);
    let pid = start(&daemon, "nap");
    processes::signal(pid, Signal::SIGKILL);
    assert_eq!(daemon.exited("nap"), KILLED);
    assert_eq!(daemon.info("nap").observed.word(), "failed");
    assert_eq!(daemon.status().running, 0);
}

#[test]
fn an_exited_program_is_started_again_without_a_stop() {
    let daemon = Daemon::start();
    daemon.add_script("brief", "exit 3");
    let first = start(&daemon, "brief");
    becomes(&daemon, "brief", "failed");
    assert_eq!(daemon.info("brief").desired, Desired::Running);
    let second = start(&daemon, "brief");
    assert_ne!(first, second);
    becomes(&daemon, "brief", "failed");
    assert_eq!(daemon.info("brief").starts, 2);
}

#[test]
fn an_exited_program_can_be_stopped_and_then_is_stopped_not_exited() {
    let daemon = Daemon::start();
    let id = daemon.add_script("brief", "exit 3");
    start(&daemon, "brief");
    becomes(&daemon, "brief", "failed");
    let said = daemon.ok(["runtime", "stop", "brief"]);
    assert_eq!(said, format!("instance {id} was not running\n"));
    let Observed::Stopped { last_exit, .. } = daemon.info("brief").observed else {
        panic!("{:?}", daemon.info("brief"));
    };
    assert_eq!(last_exit, Some(Exit::Code(3)));
    assert_eq!(daemon.info("brief").desired, Desired::Stopped);
}

#[test]
fn no_zombie_is_left_neither_of_programs_nor_of_orphans() {
    let daemon = Daemon::start();
    for number in 0..10 {
        let name = format!("leaf-{number}");
        // A child and an orphan each, which end before and after their parent.
        daemon.add_script(&name, "(/bin/true & ) ; /bin/true & exit 1");
        start(&daemon, &name);
    }
    for number in 0..10 {
        assert_eq!(daemon.exited(&format!("leaf-{number}")), Exit::Code(1));
    }
    let status = daemon.status();
    eventually("no zombie is left", || {
        let zombies = [status.pid, daemon.holder_pid()].map(processes::zombies);
        zombies.iter().all(Vec::is_empty).then_some(())
    });
}

#[test]
fn a_stop_sends_sigterm_and_reports_how_the_program_ended() {
    let daemon = Daemon::start();
    let file = daemon.dir().join("pid");
    // The child is there before the trap is: it could take a signal for that between its fork and
    // its execution, and would go on.
    let script = format!("sleep 1000 & trap 'exit 5' TERM; echo $$ > {}; wait", file.display());
    let id = daemon.add_script("polite", &script);
    start(&daemon, "polite");
    let pid = processes::pid_in(&file);
    let said = daemon.ok(["runtime", "stop", "polite"]);
    assert_eq!(said, format!("stopped instance {id}\n"));
    assert!(!processes::is_alive(pid));
    let Observed::Stopped { last_exit, .. } = daemon.info("polite").observed else {
        panic!("{:?}", daemon.info("polite"));
    };
    assert_eq!(last_exit, Some(Exit::Code(5)));
    let events = events_of(&daemon, "polite");
    assert_eq!(
        events,
        [
            EventKind::Added,
            EventKind::Started { pid },
            EventKind::Stopping { signal: 15 },
            EventKind::Exited { exit: Exit::Code(5), requested: true },
            EventKind::Stopped,
        ]
    );
}

#[test]
fn a_stop_sends_the_signal_that_was_asked_for() {
    let daemon = Daemon::start();
    for (name, signal, number) in [("int", "INT", 2), ("usr2", "sigusr2", 12), ("rt", "40", 40)] {
        daemon.add(["/bin/sleep", "--name", name, "--stop-signal", signal, "--", "1000"]);
        start(&daemon, name);
        daemon.ok(["runtime", "stop", name]);
        let core_dumped = false;
        let exit = Exit::Signal { signal: number, core_dumped };
        assert_eq!(daemon.exited(name), exit);
    }
}

#[test]
fn a_program_that_ignores_the_stop_signal_is_killed_after_its_stop_timeout() {
    let daemon = Daemon::start();
    let file = daemon.dir().join("pid");
    let script = waits_after("trap '' TERM", &file.display().to_string());
    daemon.add(["/bin/sh", "--name", "deaf", "--stop-timeout", "150ms", "--", "-c", &script]);
    start(&daemon, "deaf");
    let pid = processes::pid_in(&file);
    daemon.ok(["runtime", "stop", "deaf"]);
    assert!(!processes::is_alive(pid));
    assert_eq!(
        events_of(&daemon, "deaf")[2..],
        [
            EventKind::Stopping { signal: 15 },
            EventKind::Killed,
            EventKind::Exited { exit: KILLED, requested: true },
            EventKind::Stopped,
        ]
    );
}

#[test]
fn a_stop_timeout_of_zero_kills_at_once() {
    let daemon = Daemon::start();
    let file = daemon.dir().join("pid");
    let script = waits_after("trap '' TERM", &file.display().to_string());
    let timeout = ["--stop-timeout", "0"];
    daemon
        .add(["/bin/sh", "--name", "deaf"].into_iter().chain(timeout).chain(["--", "-c", &script]));
    start(&daemon, "deaf");
    let pid = processes::pid_in(&file);
    daemon.ok(["runtime", "stop", "deaf"]);
    assert!(!processes::is_alive(pid));
}

#[test]
fn a_suspended_program_is_stopped_all_the_same() {
    let daemon = Daemon::start();
    daemon.add(["/bin/sleep", "--name", "nap", "--stop-timeout", "150ms", "--", "1000"]);
    let pid = start(&daemon, "nap");
    processes::signal(pid, Signal::SIGSTOP);
    eventually("it is suspended", || (processes::state(pid) == Some('T')).then_some(()));
    assert_eq!(daemon.info("nap").observed.word(), "ready");
    daemon.ok(["runtime", "stop", "nap"]);
    assert!(!processes::is_alive(pid));
}

#[test]
fn a_stop_reaches_the_background_children_of_a_shell() {
    let daemon = Daemon::start();
    let file = daemon.dir().join("pid");
    let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
    daemon.add_script("shell", &script);
    start(&daemon, "shell");
    let child = processes::pid_in(&file);
    assert!(processes::is_alive(child));
    daemon.ok(["runtime", "stop", "shell"]);
    assert!(!processes::is_alive(child));
}

#[test]
fn a_stop_reaches_a_child_that_ignores_the_signal() {
    let daemon = Daemon::start();
    let file = daemon.dir().join("pid");
    let child = format!("trap \"\" TERM; echo $$ > {}; exec sleep 1000", file.display());
    let script = format!("sh -c '{child}' & wait");
    daemon.add(["/bin/sh", "--name", "shell", "--stop-timeout", "150ms", "--", "-c", &script]);
    start(&daemon, "shell");
    let child = processes::pid_in(&file);
    daemon.ok(["runtime", "stop", "shell"]);
    assert!(!processes::is_alive(child));
    let events = events_of(&daemon, "shell");
    let at = |wanted: fn(&EventKind) -> bool| events.iter().position(wanted).unwrap();
    // The leader was told and went; only its child had to be killed.
    let exited = at(|kind| matches!(kind, EventKind::Exited { .. }));
    let killed = at(|kind| matches!(kind, EventKind::Killed));
    let stopped = at(|kind| matches!(kind, EventKind::Stopped));
    assert!(exited < killed && killed < stopped, "{events:?}");
}

#[test]
fn what_outlives_a_leader_that_exits_by_itself_is_ended_and_the_exit_is_told_at_once() {
    let daemon = Daemon::start();
    let file = daemon.dir().join("pid");
    let child = format!(
        "trap \"\" TERM; echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000",
        file.display()
    );
    let script =
        format!("sh -c '{child}' & while [ ! -e {} ]; do sleep 0.01; done; exit 4", file.display());
    daemon.add(["/bin/sh", "--name", "parent", "--stop-timeout", "1h", "--", "-c", &script]);
    start(&daemon, "parent");
    let child = processes::pid_in(&file);
    assert_eq!(daemon.exited("parent"), Exit::Code(4));
    // Its main process is gone, a child is left, and that is what is said.
    assert!(matches!(becomes(&daemon, "parent", "stopping"), Observed::Stopping { pid: None, .. }));
    assert!(processes::is_alive(child));
    processes::signal(child, Signal::SIGKILL);
    assert_eq!(becomes(&daemon, "parent", "failed").ended(), Some(Exit::Code(4)));
}

#[test]
fn what_outlives_its_leader_and_ignores_the_signal_is_killed() {
    let daemon = Daemon::start();
    let file = daemon.dir().join("pid");
    let child = format!(
        "trap \"\" TERM; echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000",
        file.display()
    );
    let script =
        format!("sh -c '{child}' & while [ ! -e {} ]; do sleep 0.01; done; exit 4", file.display());
    daemon.add(["/bin/sh", "--name", "parent", "--stop-timeout", "150ms", "--", "-c", &script]);
    start(&daemon, "parent");
    let child = processes::pid_in(&file);
    becomes(&daemon, "parent", "failed");
    assert!(!processes::is_alive(child));
    assert_eq!(daemon.exited("parent"), Exit::Code(4));
}

#[test]
fn a_slow_stop_delays_nobody_else() {
    let daemon = Daemon::start();
    let file = daemon.dir().join("pid");
    let script = waits_after("trap '' TERM", &file.display().to_string());
    daemon.add(["/bin/sh", "--name", "slow", "--stop-timeout", "1h", "--", "-c", &script]);
    daemon.add(["/bin/sleep", "--name", "other", "--", "1000"]);
    daemon.add(["/bin/sleep", "--name", "third", "--", "1000"]);
    start(&daemon, "slow");
    start(&daemon, "other");
    let pid = processes::pid_in(&file);

    let mut stop = begin(&daemon, &["runtime", "stop", "slow"]);
    daemon.event("slow is asked to stop", |event| {
        let slow = event.name.as_deref() == Some("slow");
        (slow && matches!(event.kind, EventKind::Stopping { .. })).then_some(())
    });
    // All of this within the stop timeout: an hour.
    let list = daemon.ok(["runtime", "list"]);
    assert!(list.contains("stopping"), "{list}");
    daemon.ok(["runtime", "stop", "other"]);
    daemon.ok(["runtime", "start", "third"]);
    daemon.ok(["runtime", "restart", "third"]);
    daemon.ok(["runtime", "remove", "--force", "third"]);
    daemon.add_script("late", "exit 0");
    start(&daemon, "late");
    assert_eq!(daemon.exited("late"), Exit::Code(0));
    // In one command too: the others are told while the slow one is under way.
    assert_eq!(daemon.info("slow").observed.word(), "stopping");
    assert!(stop.try_wait().unwrap().is_none());
    assert!(processes::is_alive(pid));

    processes::signal(pid, Signal::SIGKILL);
    assert_eq!(Said::when_ended(stop).code, Some(0));
    assert!(!events_of(&daemon, "slow").contains(&EventKind::Killed));
}

#[test]
fn a_start_that_can_not_be_fails_at_once_and_says_why() {
    let daemon = Daemon::start();
    let dir = daemon.dir().to_owned();
    let write = |name: &OsStr, text: &str, mode: u32| {
        let path = dir.join(name);
        executable(&path, text.as_bytes());
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.into_os_string()
    };
    let odd = OsString::from_vec(b"/nonexistent/\xff\xfe".to_vec());
    let cases: [(&str, OsString, Option<&str>, &[&str]); 9] = [
        (
            "missing",
            "/nonexistent/x".into(),
            None,
            &["/nonexistent/x", "No such file or directory (ENOENT)"],
        ),
        ("directory", "/tmp".into(), None, &["/tmp", "Permission denied (EACCES)"]),
        (
            "no-x-bit",
            write("plain".as_ref(), "#!/bin/sh\n", 0o644),
            None,
            &["plain", "Permission denied (EACCES)"],
        ),
        ("not-utf-8", odd, None, &["No such file or directory (ENOENT)"]),
        (
            "no-cwd",
            "/bin/true".into(),
            Some("/nonexistent/dir"),
            &["/nonexistent/dir", "No such file or directory (ENOENT)"],
        ),
        (
            "cwd-is-a-file",
            "/bin/true".into(),
            Some("/etc/passwd"),
            &["/etc/passwd", "Not a directory (ENOTDIR)"],
        ),
        (
            "no-interpreter",
            write("script".as_ref(), "#!/nonexistent/interpreter\n", 0o755),
            None,
            &["/nonexistent/interpreter", "(ENOENT)"],
        ),
        (
            "no-format",
            write("text".as_ref(), "hello\n", 0o755),
            None,
            &["text", "Exec format error (ENOEXEC)"],
        ),
        (
            "below-a-file",
            "/etc/passwd/x".into(),
            None,
            &["/etc/passwd/x", "Not a directory (ENOTDIR)"],
        ),
    ];
    for (name, program, cwd, texts) in cases {
        let mut args: Vec<OsString> = vec![program, "--name".into(), name.into()];
        if let Some(cwd) = cwd {
            args.extend(["--cwd".into(), cwd.into()]);
        }
        daemon.add(args);
        let said = daemon.cli(["runtime", "start", name]);
        assert_eq!(said.code, Some(1), "{name}: {said:?}");
        for text in texts {
            assert!(said.stderr.contains(text), "{name}: {said:?}");
        }
        let info = daemon.info(name);
        assert_eq!(info.observed.word(), "failed", "{name}");
        assert_eq!(info.starts, 0, "{name}");
        let list = daemon.ok(["runtime", "list"]);
        assert!(list.contains(texts[texts.len() - 1]), "{name}: {list}");
    }
    assert!(daemon.processes().is_empty());
}

#[test]
fn a_program_that_could_not_be_started_starts_when_the_obstacle_is_gone() {
    let daemon = Daemon::start();
    let path = daemon.dir().join("later");
    let mut command = daemon.cli_command(["runtime", "add", "--name", "later"]);
    command.arg(&path);
    let said = Said::of(command);
    assert_eq!(said.code, Some(0));
    assert!(said.stderr.starts_with("warning: "), "{said:?}");
    assert_eq!(daemon.cli(["runtime", "start", "later"]).code, Some(1));
    executable(&path, b"#!/bin/sh\nexit 6\n");
    daemon.ok(["runtime", "start", "later"]);
    assert_eq!(daemon.exited("later"), Exit::Code(6));
}

#[test]
fn paths_arguments_and_variables_that_are_not_utf_8_arrive_as_they_are() {
    let daemon = Daemon::start();
    let name = OsString::from_vec(b"pr\xffg".to_vec());
    let (program, out) = (daemon.dir().join(&name), daemon.dir().join("out"));
    let text = format!("#!/bin/sh\nprintf '%s|' \"$0\" \"$@\" \"$ODD\" > {}\n", out.display());
    executable(&program, text.as_bytes());
    let odd = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    daemon.add([
        program.clone().into_os_string(),
        "--name".into(),
        "odd".into(),
        "--env".into(),
        odd(b"ODD=\xfe=\xff"),
        "--".into(),
        odd(b"\x80\n"),
        "".into(),
        "a b".into(),
        "--name".into(),
    ]);
    start(&daemon, "odd");
    assert_eq!(daemon.exited("odd"), Exit::Code(0));
    let mut wanted = program.as_os_str().as_bytes().to_vec();
    wanted.extend(b"|\x80\n||a b|--name|\xfe=\xff|");
    assert_eq!(fs::read(out).unwrap(), wanted);
}

#[test]
fn the_working_directory_is_the_given_one_or_the_root() {
    let daemon = Daemon::start();
    let dir = daemon.dir().join("somewhere");
    fs::create_dir(&dir).unwrap();
    let out = daemon.dir().join("out");
    let script = format!("pwd > {}", out.display());
    daemon.add(["/bin/sh", "--name", "root", "--", "-c", &script]);
    start(&daemon, "root");
    daemon.exited("root");
    assert_eq!(fs::read_to_string(&out).unwrap(), "/\n");
    // A relative one is relative to where the command was given.
    let mut command = daemon.cli_command(["runtime", "add", "/bin/sh", "--name", "there"]);
    command.args(["--cwd", "somewhere", "--", "-c", &script]).current_dir(daemon.dir());
    assert_eq!(Said::of(command).code, Some(0));
    start(&daemon, "there");
    daemon.exited("there");
    assert_eq!(fs::read_to_string(&out).unwrap(), format!("{}\n", dir.display()));
}

#[test]
fn an_instance_can_inherit_the_daemons_environment_but_not_what_is_the_daemons_own() {
    let mut daemon = Daemon::prepare(&[])
        .env("INHERITED", "yes")
        .env("OVERRIDDEN", "no")
        .env("ORCHESTRATOR_STATE_DIR", "/nonexistent/never/used")
        .env("NOTIFY_SOCKET", "/nonexistent/notify")
        .env("LISTEN_FDS", "0");
    daemon.launch();
    let out = daemon.dir().join("out");
    let script = format!("exec env > {}", out.display());
    let id = daemon.add([
        "/bin/sh",
        "--name",
        "env",
        "--inherit-env",
        "all",
        "--env",
        "OVERRIDDEN=yes",
        "--env",
        "EMPTY=",
        "--",
        "-c",
        &script,
    ]);
    start(&daemon, "env");
    assert_eq!(daemon.exited("env"), Exit::Code(0));
    let text = fs::read_to_string(out).unwrap();
    let has = |line: &str| text.lines().any(|it| it == line);
    assert!(has("INHERITED=yes") && has("OVERRIDDEN=yes") && has("EMPTY="), "{text}");
    assert!(has(&format!("ORCHESTRATOR_INSTANCE_ID={id}")), "{text}");
    assert!(has(&format!("VEECLE_RUNTIME_ID={id}")), "{text}");
    for name in [
        "ORCHESTRATOR_LOG",
        "ORCHESTRATOR_SOCKET",
        "ORCHESTRATOR_STATE_DIR",
        "ORCHESTRATOR_HOLDER",
        "NOTIFY_SOCKET",
        "LISTEN_FDS",
    ] {
        assert!(!text.lines().any(|line| line.starts_with(name)), "{name} in {text}");
    }
}

#[test]
fn an_instance_inherits_no_file_no_blocked_and_no_ignored_signal() {
    let daemon = Daemon::start();
    // Other instances with their pipes and sockets, and a client, are open meanwhile.
    daemon.add(["/bin/sleep", "--name", "other", "--", "1000"]);
    start(&daemon, "other");
    let _client = Control::connect(daemon.socket());
    let out = daemon.dir().join("out");
    let script = format!(
        "{{ ls -l /proc/$$/fd; grep -E '^Sig(Blk|Ign)' /proc/self/status; cat /proc/$$/stat; }} > {}",
        out.display()
    );
    daemon.add_script("bare", &script);
    let pid = start(&daemon, "bare");
    daemon.exited("bare");
    let text = fs::read_to_string(out).unwrap();
    let files: Vec<_> = text
        .lines()
        .filter_map(|line| line.rsplit_once(" -> "))
        .map(|(left, to)| (left.rsplit(' ').next().unwrap().to_owned(), to.to_owned()))
        .collect();
    let numbers: Vec<_> = files.iter().map(|(number, _)| number.as_str()).collect();
    // 1 is the file of the redirection just now; the shell may keep what 1 was as 10.
    assert!(numbers.iter().all(|number| ["0", "1", "2", "10"].contains(number)), "{files:?}");
    assert_eq!(files[0].1, "/dev/null");
    // As grep(1) inherited it; the shell blocks signals itself while it starts something.
    let mask = |field: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        u64::from_str_radix(line.unwrap().trim(), 16).unwrap()
    };
    assert_eq!(mask("SigBlk:"), 0, "{text}");
    // glibc itself ignores its two internal signals, 32 and 33, in what posix_spawn(3) executes.
    assert_eq!(mask("SigIgn:") & !(0b11 << 31), 0, "{text}");
    // It leads a process group of its own.
    let group = format!("{pid} (sh) ");
    let stat = text.lines().find(|line| line.starts_with(&group)).unwrap();
    assert_eq!(stat.split(' ').nth(4).unwrap(), pid.to_string());
}

#[test]
fn the_priority_is_the_nice_value_and_is_kept_until_it_is_changed() {
    let daemon = Daemon::start();
    daemon.add(["/bin/sleep", "--name", "nap", "--", "1000"]);
    let nice = |text: &str| {
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        let pid = u32::try_from(value["started"]["pid"].as_u64().unwrap()).unwrap();
        processes::nice(pid).unwrap()
    };
    let own = processes::nice(std::process::id()).unwrap();
    if own != 0 {
        skipped(&format!("these tests run with nice {own}, so the defaults can't be seen"));
        return;
    }
    assert_eq!(nice(&daemon.ok(["--json", "runtime", "start", "nap"])), 0);
    daemon.ok(["runtime", "stop", "nap"]);
    let low = ["--json", "runtime", "start", "nap", "--priority", "low"];
    assert_eq!(nice(&daemon.ok(low)), 10);
    assert_eq!(nice(&daemon.ok(["--json", "runtime", "restart", "nap"])), 10);
    assert_eq!(daemon.info("nap").priority, Priority::Low);
    daemon.ok(["runtime", "stop", "nap"]);
    let high = ["runtime", "start", "nap", "--priority", "high"];
    let said = daemon.cli(high);
    assert_eq!(said.code, Some(0));
    let nice = processes::nice(daemon.info("nap").observed.pid().unwrap()).unwrap();
    if nix::unistd::geteuid().is_root() {
        assert_eq!(nice, -10, "{said:?}");
        assert_eq!(said.stderr, "");
    } else if nice != -10 {
        assert!(said.stderr.contains("warning: priority high"), "{said:?}");
    }
}

#[test]
fn a_second_start_finds_it_running() {
    let daemon = Daemon::start();
    let id = daemon.add(["/bin/sleep", "--name", "nap", "--", "1000"]);
    let pid = start(&daemon, "nap");
    let said = daemon.ok(["runtime", "start", "nap"]);
    assert_eq!(said, format!("instance {id} was already running\n"));
    assert_eq!(start(&daemon, "nap"), pid);
    assert_eq!(daemon.info("nap").starts, 1);
}

#[test]
fn a_restart_gives_another_process() {
    let daemon = Daemon::start();
    let id = daemon.add(["/bin/sleep", "--name", "nap", "--", "1000"]);
    let first = start(&daemon, "nap");
    assert_eq!(daemon.ok(["runtime", "restart", "nap"]), format!("restarted instance {id}\n"));
    let second = daemon.info("nap").observed.pid().unwrap();
    assert_ne!(first, second);
    assert!(!processes::is_alive(first) && processes::is_alive(second));
    daemon.ok(["runtime", "stop", "nap"]);
    // One that does not run is started.
    daemon.ok(["runtime", "restart", "nap"]);
    assert_eq!(daemon.info("nap").starts, 3);
}

#[test]
fn a_running_instance_is_removed_by_force_only_and_with_everything_of_it() {
    let daemon = Daemon::start();
    let id = daemon.add(["/bin/sleep", "--name", "nap", "--", "1000"]);
    daemon.add(["/bin/sleep", "--name", "peer", "--", "1000"]);
    daemon.ok(["link", "add", "--from", "nap", "--type", "T", "--to", "peer"]);
    daemon.ok(["link", "add", "--type", "U", "--to", "nap"]);
    daemon.ok(["link", "add", "--type", "V", "--to", "peer"]);
    let pid = start(&daemon, "nap");
    let said = daemon.cli(["runtime", "remove", "nap"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("is ready") && said.stderr.contains("--force"), "{said:?}");
    assert!(processes::is_alive(pid));

    let logs = daemon.state_dir().join("logs").join(&id);
    assert!(logs.exists());
    let said = daemon.ok(["runtime", "remove", "--force", "nap"]);
    assert_eq!(said, format!("removed instance {id} with links 1, 2\n"));
    assert!(!processes::is_alive(pid));
    assert!(!logs.exists());
    let links = daemon.json(["link", "list"]);
    assert_eq!(links["links"].as_array().unwrap().len(), 1);
    for name in ["nap", &id] {
        assert_eq!(daemon.cli(["runtime", "show", name]).code, Some(3));
    }
    // The name is free again.
    daemon.add(["/bin/sleep", "--name", "nap", "--", "1000"]);
}

#[test]
fn clear_removes_everything_and_running_instances_by_force_only() {
    let daemon = Daemon::start();
    for name in ["a", "b", "c"] {
        daemon.add(["/bin/sleep", "--name", name, "--", "1000"]);
    }
    daemon.ok(["link", "add", "--from", "a", "--type", "T", "--to", "b"]);
    let pid = start(&daemon, "a");
    let said = daemon.cli(["clear"]);
    assert_eq!(said.code, Some(1));
    assert_eq!(daemon.status().runtimes, 3);
    let said = daemon.ok(["clear", "--force"]);
    assert_eq!(said, "removed 3 instances and 1 link\n");
    assert!(!processes::is_alive(pid));
    let status = daemon.status();
    assert_eq!((status.runtimes, status.links), (0, 0));
    let logs = fs::read_dir(daemon.state_dir().join("logs")).unwrap();
    assert_eq!(logs.count(), 0);
    assert_eq!(daemon.ok(["clear"]), "removed 0 instances and 0 links\n");
}

#[test]
fn names_are_unique_and_ids_are_found_by_a_prefix_of_their_own() {
    let daemon = Daemon::start();
    let ids = [
        "0195fc7b-33e6-70e3-bee1-ac515185fac7",
        "0195fc7b-33e6-70e3-bee1-ac515185fac8",
        "f195fc7b-33e6-70e3-bee1-ac515185fac8",
    ];
    for (id, name) in ids.iter().zip(["one", "two", "f"]) {
        assert_eq!(daemon.add(["/bin/true", "--id", id, "--name", name]), *id);
    }
    let taken = daemon.cli(["runtime", "add", "/bin/true", "--name", "one"]);
    assert_eq!(taken.code, Some(1));
    assert!(taken.stderr.contains("\"one\" is taken by instance 0195"), "{taken:?}");
    let taken = daemon.cli(["runtime", "add", "/bin/true", "--id", ids[0]]);
    assert_eq!(taken.code, Some(1));
    assert!(taken.stderr.contains("is taken"), "{taken:?}");

    let name = |selector: &str| daemon.info(selector).name.unwrap();
    assert_eq!(name("0195fc7b-33e6-70e3-bee1-ac515185fac8"), "two");
    assert_eq!(name("0195FC7B-33E6-70E3-BEE1-AC515185FAC8"), "two");
    assert_eq!(name("f1"), "f");
    // A name goes before a prefix of an id.
    daemon.add(["/bin/true", "--name", "f19"]);
    assert_eq!(name("f19"), "f19");

    let said = daemon.cli(["runtime", "start", "0195fc"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("2 instances have an id that begins"), "{said:?}");
    let said = daemon.cli(["runtime", "start", "0195fd"]);
    assert_eq!(said.code, Some(3));
    assert_eq!(daemon.info("one").starts + daemon.info("two").starts, 0);
    // Nothing begins with nothing.
    assert_eq!(daemon.cli(["runtime", "start", ""]).code, Some(3));
}

#[test]
fn a_program_that_forks_and_exits_is_seen_as_it_is() {
    let daemon = Daemon::start();
    let file = daemon.dir().join("pid");
    let script = format!("sleep 1000 & echo $! > {}; exit 0", file.display());
    daemon.add_script("forking", &script);
    start(&daemon, "forking");
    // The child is in its process group, so it goes with its leader.
    let child = processes::pid_in(&file);
    assert_eq!(daemon.exited("forking"), Exit::Code(0));
    becomes(&daemon, "forking", "completed");
    assert!(!processes::is_alive(child));
}

#[test]
fn a_program_that_closes_its_output_still_runs() {
    let daemon = Daemon::start();
    daemon.add_script("mute", "echo before; exec sleep 1000 >&- 2>&- <&-");
    let pid = start(&daemon, "mute");
    eventually("its line is there", || {
        (daemon.ok(["runtime", "stdout", "--no-follow", "mute"]) == "before\n").then_some(())
    });
    eventually("it has closed everything", || (processes::open_files(pid) == 0).then_some(()));
    assert_eq!(daemon.info("mute").observed.pid(), Some(pid));
    daemon.ok(["runtime", "stop", "mute"]);
    assert!(!processes::is_alive(pid));
}

#[test]
fn a_program_that_exits_at_once_was_started_every_time() {
    let daemon = Daemon::start();
    daemon.add(["/bin/true", "--name", "true"]);
    let mut client = Control::connect(daemon.socket());
    for count in 1..=100 {
        let start = Request::RuntimeStart { instance: "true".into(), priority: None };
        match client.ask(count, start) {
            ServerBody::Reply(Reply::Started { changed, .. }) => {
                // It may not have been collected since the start before this one.
                if !changed {
                    becomes(&daemon, "true", "completed");
                }
            }
            other => panic!("{other:?}"),
        }
    }
    becomes(&daemon, "true", "completed");
    let exits = events_of(&daemon, "true")
        .iter()
        .filter(|kind| matches!(kind, EventKind::Exited { .. }))
        .count() as u64;
    assert_eq!(exits, daemon.info("true").starts);
}

#[test]
fn fifty_instances_start_and_stop_at_once() {
    let daemon = Daemon::start();
    let names: Vec<_> = (0..50).map(|number| format!("nap-{number}")).collect();
    for name in &names {
        let reply = daemon.request(Request::RuntimeAdd(RuntimeSpec {
            name: Some(name.clone()),
            args: vec!["1000".into()],
            ..RuntimeSpec::new("/bin/sleep")
        }));
        assert!(reply.is_ok());
    }
    let all = |verb| ["runtime", verb].into_iter().chain(names.iter().map(String::as_str));
    assert_eq!(daemon.ok(all("start")).lines().count(), 50);
    assert_eq!(daemon.status().running, 50);
    let pids: Vec<_> = names.iter().map(|name| daemon.info(name).observed.pid().unwrap()).collect();
    assert!(pids.iter().all(|pid| processes::is_alive(*pid)));
    assert_eq!(daemon.ok(all("restart")).lines().count(), 50);
    assert!(!pids.iter().any(|pid| processes::is_alive(*pid)));
    assert_eq!(daemon.ok(all("stop")).lines().count(), 50);
    assert_eq!(daemon.status().running, 0);
    assert!(daemon.processes().is_empty());
    daemon.ok(all("remove"));
    assert_eq!(daemon.status().runtimes, 0);
}

#[test]
fn starts_and_stops_that_cross_leave_what_the_last_one_asked_for() {
    let daemon = Daemon::start();
    daemon.add(["/bin/sleep", "--name", "nap", "--", "1000"]);
    let mut client = Control::connect(daemon.socket());
    let mut id = 0;
    for round in 0..20 {
        let first = id + 1;
        for step in 0..6 {
            id += 1;
            let instance = "nap".into();
            let request = match (round + step) % 3 {
                0 => Request::RuntimeStart { instance, priority: None },
                1 => Request::RuntimeStop { instance },
                _ => Request::RuntimeRestart { instance },
            };
            client.request(id, request);
        }
        let mut open: Vec<_> = (first..=id).collect();
        while !open.is_empty() {
            let frame = client.frame().unwrap();
            assert!(
                matches!(&frame.body, ServerBody::Reply(_))
                    || matches!(&frame.body, ServerBody::Error(error)
                        if error.to_string().contains("stopped before it started")),
                "{frame:?}"
            );
            open.retain(|id| *id != frame.id);
        }
    }
    id += 1;
    let instance = "nap".into();
    let stop = client.ask(id, Request::RuntimeStop { instance });
    assert!(matches!(stop, ServerBody::Reply(Reply::Stopped { .. })));
    assert_eq!(daemon.info("nap").observed.word(), "stopped");
    assert!(daemon.processes().is_empty());
    // Every process that began has ended, once.
    let events = events_of(&daemon, "nap");
    let count = |wanted: fn(&EventKind) -> bool| events.iter().filter(|kind| wanted(kind)).count();
    assert_eq!(
        count(|kind| matches!(kind, EventKind::Started { .. })),
        count(|kind| matches!(kind, EventKind::Exited { .. })),
    );
}

#[test]
fn a_start_during_a_slow_stop_begins_when_that_is_done() {
    let daemon = Daemon::start();
    let file = daemon.dir().join("pid");
    let script = waits_after("trap '' TERM", &file.display().to_string());
    daemon.add(["/bin/sh", "--name", "slow", "--stop-timeout", "1h", "--", "-c", &script]);
    start(&daemon, "slow");
    let first = processes::pid_in(&file);
    let stop = begin(&daemon, &["runtime", "stop", "slow"]);
    becomes(&daemon, "slow", "stopping");
    let start = begin(&daemon, &["runtime", "start", "slow"]);
    eventually("it should run again", || {
        (daemon.info("slow").desired == Desired::Running).then_some(())
    });
    let info = daemon.info("slow");
    assert_eq!((info.observed.word(), info.observed.pid()), ("stopping", Some(first)));
    processes::signal(first, Signal::SIGKILL);
    assert_eq!(Said::when_ended(start).code, Some(0));
    assert_eq!(Said::when_ended(stop).code, Some(0));
    let second = daemon.info("slow").observed.pid().unwrap();
    assert_ne!(first, second);
    assert!(!processes::is_alive(first) && processes::is_alive(second));
}

#[test]
fn a_removal_whose_client_goes_away_is_done_or_not_done_but_not_half_done() {
    let daemon = Daemon::start();
    daemon.add(["/bin/true", "--name", "peer"]);
    let mut watcher = Control::connect(daemon.socket());
    let mut removed = Vec::new();
    for number in 0..150 {
        let name = format!("nap-{number}");
        let add = Request::RuntimeAdd(RuntimeSpec {
            name: Some(name.clone()),
            args: vec!["1000".into()],
            ..RuntimeSpec::new("/bin/sleep")
        });
        let ServerBody::Reply(Reply::Added { id, .. }) = watcher.ask(1, add) else {
            panic!("it was not added");
        };
        let link = Request::LinkAdd(LinkSpec {
            from: Some(name.as_str().into()),
            type_name: "T".into(),
            to: TargetSpec::Instance("peer".into()),
            policy: None,
            capacity: None,
            block_timeout: None,
            history: None,
            transport: None,
            spin_us: None,
        });
        assert!(matches!(watcher.ask(2, link), ServerBody::Reply(_)));
        // One that must be stopped first takes longer, so it is left at another point.
        if number % 3 == 0 {
            let instance = name.as_str().into();
            let priority = None;
            watcher.ask(3, Request::RuntimeStart { instance, priority });
        }
        let mut client = Control::connect(daemon.socket());
        let instance = name.as_str().into();
        client.request(1, Request::RuntimeRemove { instance, force: true });
        drop(client);
        removed.push((id, name));
    }
    for (id, name) in removed {
        eventually("it is there as a whole, or gone as a whole", || {
            let Ok(Reply::Runtimes(runtimes)) = daemon.request(Request::RuntimeList) else {
                panic!("no list");
            };
            let Ok(Reply::Links(links)) = daemon.request(Request::LinkList) else {
                panic!("no list");
            };
            let listed = runtimes.iter().any(|info| info.id == id);
            let linked = links.iter().any(|link| link.from == Some(id));
            let logs = daemon.state_dir().join("logs").join(id.to_string());
            (listed == linked && linked == logs.exists()).then_some(())
        });
        if let Err(ClientError::Failed(error)) =
            daemon.request(Request::RuntimeShow { instance: name.as_str().into() })
        {
            assert_eq!(error.code, ErrorCode::NotFound);
            daemon.event("its removal", |event| {
                let its = event.instance == Some(id);
                (its && matches!(event.kind, EventKind::Removed { .. })).then_some(())
            });
        }
    }
}

#[test]
fn the_daemon_can_be_told_apart_from_its_programs_by_its_version() {
    let mut command = std::process::Command::new(binary("orchestrator"));
    command.arg("--version");
    assert_eq!(Said::of(command).stdout, "orchestrator 0.1.0\n");
}
