//! How a daemon begins and ends: its place in the file system, its signals, and that nothing
//! it started outlives it, however it ends.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use orchestrator_proto::ErrorCode;
use orchestrator_proto::control::{EventKind, Request, RuntimeSpec, ServerBody};
use tests::control::Control;
use tests::{Daemon, Said, binary, eventually, processes, skipped};

/// Adds and starts `sh -c SCRIPT`; the script tells a pid through the file `NAME.pid`, whose
/// path is `$FILE`.
#[track_caller]
fn start_script(daemon: &Daemon, name: &str, stop_timeout: &str, script: &str) -> u32 {
    let file = daemon.dir().join(format!("{name}.pid"));
    let _ = fs::remove_file(&file);
    let variable = format!("FILE={}", file.display());
    daemon.add([
        "/bin/sh",
        "--name",
        name,
        "--env",
        &variable,
        "--stop-timeout",
        stop_timeout,
        "--",
        "-c",
        script,
    ]);
    daemon.ok(["runtime", "start", name]);
    processes::pid_in(&file)
}

const DEAF: &str = "trap '' TERM; echo $$ > $FILE; exec sleep 1000";

/// A daemon that must refuse to start.
#[track_caller]
fn refused(socket: &Path, state: &Path) -> String {
    let mut command = Command::new(binary("orchestrator"));
    command
        .arg("--socket")
        .arg(socket)
        .arg("--state-dir")
        .arg(state)
        .env_remove("ORCHESTRATOR_LOG");
    let said = Said::of(command);
    assert_eq!(said.code, Some(1), "{said:?}");
    said.stderr
}

fn is_socket(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.file_type().is_socket())
}

#[test]
fn signals_end_the_daemon_and_everything_it_started() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut daemon = Daemon::start();
        let polite = start_script(&daemon, "polite", "1h", "sleep 1000 & echo $! > $FILE; wait");
        let other = start_script(&daemon, "other", "1h", "echo $$ > $FILE; exec sleep 1000");
        let (socket, status) = (daemon.socket().to_owned(), daemon.status());
        daemon.signal(signal);
        let ended = daemon.wait();
        assert_eq!(ended.code(), Some(0), "{signal}: {}", daemon.log());
        assert!(!processes::is_alive(polite) && !processes::is_alive(other));
        assert!(!processes::is_alive(status.pid));
        // Nothing of it is left but its state.
        assert!(!socket.exists());
        for suffix in [".d", ".lock"] {
            let path = PathBuf::from(format!("{}{suffix}", socket.display()));
            assert!(!path.exists(), "{path:?}");
        }
        assert!(daemon.state_dir().join("logs").exists());
    }
}

#[test]
fn a_signal_to_the_daemon_proper_ends_it_like_one_to_the_holder() {
    let mut daemon = Daemon::start();
    let pid = start_script(&daemon, "nap", "1h", "echo $$ > $FILE; exec sleep 1000");
    processes::signal(daemon.pid(), Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.log());
    assert!(!processes::is_alive(pid));
    assert!(!daemon.socket().exists());
}

#[test]
fn all_instances_are_stopped_at_once() {
    let mut daemon = Daemon::start();
    // Each ends only when all of them have been told to.
    let dir = daemon.dir().display().to_string();
    let script = format!(
        "trap 'touch {dir}/told-$$; while [ $(ls {dir}/told-* | wc -l) -lt 5 ]; do sleep 0.01; done; exit 0' TERM
         echo $$ > $FILE; sleep 1000 & while :; do wait; done"
    );
    let pids: Vec<_> =
        (0..5).map(|number| start_script(&daemon, &format!("i{number}"), "1h", &script)).collect();
    assert_eq!(daemon.terminate().code(), Some(0));
    assert!(!pids.iter().any(|pid| processes::is_alive(*pid)));
}

#[test]
fn the_end_waits_for_the_longest_stop_timeout_and_for_nothing_else() {
    let mut daemon = Daemon::start();
    let deaf = start_script(&daemon, "deaf", "500ms", DEAF);
    let child = start_script(
        &daemon,
        "child",
        "300ms",
        "sh -c 'trap \"\" TERM; echo $$ > $FILE; exec sleep 1000' & wait",
    );
    let began = Instant::now();
    assert_eq!(daemon.terminate().code(), Some(0));
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(500), "{took:?}");
    assert!(!processes::is_alive(deaf) && !processes::is_alive(child));
}

#[test]
fn a_second_signal_kills_at_once() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut daemon = Daemon::start();
        let deaf = start_script(&daemon, "deaf", "1d", DEAF);
        daemon.signal(signal);
        eventually("the first one was heard", || (!daemon.socket().exists()).then_some(()));
        daemon.signal(signal);
        assert_eq!(daemon.wait().code(), Some(0));
        assert!(!processes::is_alive(deaf));
    }
}

#[test]
fn who_is_connected_while_it_ends_is_told_so() {
    let mut daemon = Daemon::start();
    let deaf = start_script(&daemon, "deaf", "1h", DEAF);
    daemon.add(["/bin/true", "--name", "true"]);
    let mut client = Control::connect(daemon.socket());
    let events = Request::Events { follow: true, after: Some(0), since_ms: None, instance: None };
    client.request(1, events);
    assert!(matches!(client.answer(1), ServerBody::Item(_)));
    daemon.signal(Signal::SIGTERM);
    loop {
        let ServerBody::Item(item) = client.answer(1) else {
            panic!("the stream ended");
        };
        let text = serde_json::to_value(item).unwrap();
        if text["event"]["kind"] == serde_json::to_value(EventKind::DaemonStopping).unwrap() {
            break;
        }
    }
    let instance = || "true".into();
    let priority = None;
    let requests = [
        Request::RuntimeStart { instance: instance(), priority },
        Request::RuntimeRestart { instance: instance() },
        Request::RuntimeAdd(RuntimeSpec::new("/bin/true")),
    ];
    for (request, id) in requests.into_iter().zip(10..) {
        let ServerBody::Error(error) = client.ask(id, request) else {
            panic!("it was done");
        };
        assert_eq!(error.code, ErrorCode::ShuttingDown);
    }
    // What is there can still be looked at.
    assert!(client.is_usable());
    // The last one has ended, and with it the daemon: no second signal is needed.
    processes::signal(deaf, Signal::SIGKILL);
    assert_eq!(daemon.wait().code(), Some(0));
}

const CHILD: &str = "echo $$ > $FILE.new; mv $FILE.new $FILE; exec sleep 1000";

/// Instances that ignore SIGTERM, in whole or in part; the answer is all their processes.
fn start_deaf(daemon: &Daemon, stop_timeout: &str) -> Vec<u32> {
    let child = format!("sh -c 'trap \"\" TERM; {CHILD}' & wait");
    let mut pids = vec![
        start_script(daemon, "deaf", stop_timeout, DEAF),
        start_script(daemon, "child", stop_timeout, &child),
    ];
    pids.extend(daemon.info("child").observed.pid());
    assert!(pids.iter().all(|pid| processes::is_alive(*pid)));
    pids
}

/// Instances of which a process has a session and a process group of its own; the answer is
/// these processes.
fn start_sessions(daemon: &Daemon) -> Vec<u32> {
    let until_told = "while [ ! -e $FILE ]; do sleep 0.01; done";
    let pids = vec![
        // Below an instance that goes on.
        start_script(daemon, "session", "1s", &format!("setsid sh -c '{CHILD}' & wait")),
        // The same, but its parent is gone.
        start_script(daemon, "orphan", "1s", &format!("(setsid sh -c '{CHILD}' &) ; sleep 1000")),
        // As a daemon of the old kind: the instance itself is gone.
        start_script(daemon, "forking", "1s", &format!("setsid sh -c '{CHILD}' & {until_told}")),
    ];
    assert!(pids.iter().all(|pid| processes::is_alive(*pid)));
    pids
}

#[test]
fn a_normal_end_leaves_no_process_not_even_one_in_a_session_of_its_own() {
    let mut daemon = Daemon::start();
    let mut pids = start_sessions(&daemon);
    pids.extend(start_deaf(&daemon, "200ms"));
    assert_eq!(daemon.terminate().code(), Some(0));
    // Not a moment after its end.
    pids.retain(|pid| processes::is_alive(*pid));
    assert!(pids.is_empty(), "{pids:?} are left: {}", daemon.log());
}

#[test]
fn the_holder_is_the_process_that_was_started_and_the_daemon_its_child() {
    let daemon = Daemon::start();
    let status = daemon.status();
    assert_eq!(status.holder_pid, daemon.holder_pid());
    assert!(processes::children(daemon.holder_pid()).contains(&status.pid));
}

#[test]
fn what_a_killed_daemon_left_behind_is_replaced() {
    let mut daemon = Daemon::start();
    daemon.add(["/bin/true", "--name", "true"]);
    let pid = daemon.pid();
    daemon.kill();
    assert!(is_socket(daemon.socket()));
    assert!(std::os::unix::net::UnixStream::connect(daemon.socket()).is_err());
    daemon.launch();
    assert_ne!(daemon.pid(), pid);
    assert_eq!(daemon.ok(["version"]), "server version: 0.1.0\n");
}

#[test]
fn a_second_daemon_on_the_same_socket_is_refused_and_the_first_goes_on() {
    let daemon = Daemon::start();
    let pid = start_script(&daemon, "nap", "1h", "echo $$ > $FILE; exec sleep 1000");
    let other = daemon.dir().join("other-state");
    let stderr = refused(daemon.socket(), &other);
    assert!(stderr.starts_with("error: "), "{stderr}");
    let own = daemon.pid().to_string();
    assert!(stderr.contains(&own) && stderr.contains("in use"), "{stderr}");
    assert!(stderr.contains(daemon.socket().to_str().unwrap()), "{stderr}");
    assert_eq!(stderr.trim_end().lines().count(), 1, "{stderr}");
    // Not by a connection that was open before, either.
    assert_eq!(daemon.info("nap").observed.pid(), Some(pid));
    let sockets = PathBuf::from(format!("{}.d", daemon.socket().display()));
    // Of the one instance, and the capture process's with its lock.
    assert_eq!(fs::read_dir(sockets).unwrap().count(), 2 + 2);
    assert!(processes::is_alive(pid));
}

#[test]
fn a_second_daemon_on_the_same_state_is_refused_and_the_first_goes_on() {
    let daemon = Daemon::start();
    let socket = daemon.dir().join("other.sock");
    let stderr = refused(&socket, daemon.state_dir());
    let own = daemon.pid().to_string();
    assert!(stderr.contains(&own) && stderr.contains("in use"), "{stderr}");
    assert!(stderr.contains(daemon.state_dir().to_str().unwrap()), "{stderr}");
    assert!(!socket.exists());
    assert_eq!(daemon.ok(["version"]), "server version: 0.1.0\n");
}

#[test]
fn a_socket_of_another_program_is_left_alone() {
    let daemon = Daemon::prepare(&[]);
    let _listener = UnixListener::bind(daemon.socket()).unwrap();
    let stderr = refused(daemon.socket(), daemon.state_dir());
    let own = std::process::id().to_string();
    assert!(stderr.contains(&own) && stderr.contains("in use"), "{stderr}");
    assert!(is_socket(daemon.socket()));
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let daemon = Daemon::prepare(&[]);
    fs::write(daemon.socket(), "precious").unwrap();
    let stderr = refused(daemon.socket(), daemon.state_dir());
    assert!(stderr.contains("is no socket"), "{stderr}");
    assert_eq!(fs::read_to_string(daemon.socket()).unwrap(), "precious");
    fs::remove_file(daemon.socket()).unwrap();
    fs::create_dir(daemon.socket()).unwrap();
    let stderr = refused(daemon.socket(), daemon.state_dir());
    assert!(stderr.contains("is no socket"), "{stderr}");
}

#[test]
fn a_state_directory_that_can_not_be_used_is_refused_with_the_reason() {
    let daemon = Daemon::prepare(&[]);
    fs::write(daemon.state_dir(), "a file in the way").unwrap();
    let below = daemon.state_dir().join("below");
    let cases = [
        (daemon.state_dir(), "File exists"),
        (&below, "Not a directory"),
        (Path::new("/proc/nonexistent/state"), "No such file"),
    ];
    for (state, reason) in cases {
        let stderr = refused(daemon.socket(), state);
        assert!(stderr.contains(state.to_str().unwrap()), "{stderr}");
        assert!(stderr.contains(reason), "{state:?}: {stderr}");
        assert!(!daemon.socket().exists());
    }
    // For others to write to: they could replace what is in it.
    let open = daemon.dir().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    let stderr = refused(daemon.socket(), &open);
    assert!(stderr.contains("others can write to it"), "{stderr}");
}

#[test]
fn a_state_directory_on_a_read_only_file_system_is_refused_with_the_reason() {
    let daemon = Daemon::prepare(&[]);
    fs::create_dir_all(daemon.state_dir()).unwrap();
    let mut probe = Command::new("unshare");
    probe.args(["-m", "mount", "-t", "tmpfs", "none", "/mnt"]);
    if !probe.output().is_ok_and(|output| output.status.success()) {
        skipped("this user can't make a mount namespace");
        return;
    }
    let state = daemon.state_dir().display().to_string();
    let script = format!("mount -t tmpfs -o ro none {state} && exec \"$0\" \"$@\"");
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", &script])
        .arg(binary("orchestrator"))
        .args(["--state-dir", &state, "--socket"])
        .arg(daemon.socket());
    let said = Said::of(command);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("Read-only file system"), "{said:?}");
    assert!(said.stderr.contains(&state), "{said:?}");
}

#[test]
fn a_socket_path_that_is_too_long_is_refused_with_the_number_of_bytes() {
    let daemon = Daemon::prepare(&[]);
    let socket = daemon.dir().join("x".repeat(120)).join("o.sock");
    let stderr = refused(&socket, daemon.state_dir());
    assert!(stderr.contains("bytes too long"), "{stderr}");
    assert!(!daemon.state_dir().exists());
}

#[test]
fn the_longest_socket_path_that_is_accepted_works_for_instances_too() {
    let daemon = Daemon::prepare(&[]);
    let base = daemon.dir().join("x");
    let base = base.to_str().unwrap();
    // From too long to just right.
    for length in (base.len()..108).rev() {
        let socket = PathBuf::from(format!("{base}{}", "y".repeat(length - base.len())));
        let mut command = Command::new(binary("orchestrator"));
        command
            .args(["--socket".as_ref(), socket.as_os_str()])
            .args(["--state-dir".as_ref(), daemon.state_dir().as_os_str()])
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let accepted = eventually("it listens or ends", || match child.try_wait().unwrap() {
            Some(status) => Some(Err(status.code())),
            None => std::os::unix::net::UnixStream::connect(&socket).ok().map(Ok),
        });
        match accepted {
            Err(code) => assert_eq!(code, Some(1)),
            Ok(_) => {
                let mut add = Command::new(binary("orchestrator-cli"));
                add.arg("--socket").arg(&socket);
                add.args(["runtime", "add", "/bin/true"]);
                let said = Said::of(add);
                processes::signal(child.id(), Signal::SIGTERM);
                eventually("it ended", || child.try_wait().unwrap());
                assert_eq!(said.code, Some(0), "{said:?}");
                return;
            }
        }
    }
    panic!("no length is accepted");
}

#[test]
fn the_socket_is_for_this_user_alone_and_so_are_directories_that_the_daemon_makes() {
    let daemon = Daemon::prepare(&[]);
    let socket = daemon.dir().join("made/for/it/o.sock");
    let mut command = Command::new(binary("orchestrator"));
    command
        .args(["--socket".as_ref(), socket.as_os_str()])
        .args(["--state-dir".as_ref(), daemon.state_dir().as_os_str()])
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    // It answers only when everything is made; connections are taken before that.
    eventually("it serves", || {
        let mut version = Command::new(binary("orchestrator-cli"));
        version.env("ORCHESTRATOR_SOCKET", &socket).arg("version");
        (Said::of(version).code == Some(0)).then_some(())
    });
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let modes = [
        mode(&socket),
        mode(socket.parent().unwrap()),
        mode(&PathBuf::from(format!("{}.d", socket.display()))),
        mode(daemon.state_dir()),
    ];
    processes::signal(child.id(), Signal::SIGTERM);
    eventually("it ended", || child.try_wait().unwrap());
    // Root's instances may be other users': they get through to their sockets, and see nothing.
    let way = if nix::unistd::geteuid().is_root() { 0o711 } else { 0o700 };
    assert_eq!(modes, [0o600, way, way, 0o700]);
}

#[test]
fn the_default_socket_is_in_the_runtime_directory_for_both_sides() {
    let daemon = Daemon::prepare(&[]);
    let both = |name: &str| {
        let mut command = Command::new(binary(name));
        command
            .env("XDG_RUNTIME_DIR", daemon.dir())
            .env_remove("ORCHESTRATOR_SOCKET")
            .stderr(Stdio::piped());
        command
    };
    let mut command = both("orchestrator");
    command.arg("--state-dir").arg(daemon.state_dir());
    let mut child = command.spawn().unwrap();
    let socket = daemon.dir().join("orchestrator.socket");
    eventually("it listens", || std::os::unix::net::UnixStream::connect(&socket).ok());
    let mut command = both("orchestrator-cli");
    command.arg("version");
    let said = Said::of(command);
    processes::signal(child.id(), Signal::SIGTERM);
    eventually("it ended", || child.try_wait().unwrap());
    assert_eq!(said.stdout, "server version: 0.1.0\n", "{said:?}");
}

#[test]
fn the_json_log_is_one_object_on_each_line() {
    let mut daemon = Daemon::start_with(&["--log-format", "json"]);
    daemon.add_script("brief", "exit 1");
    daemon.ok(["runtime", "start", "brief"]);
    daemon.exited("brief");
    assert_eq!(daemon.cli(["runtime", "show", "nobody"]).code, Some(3));
    assert_eq!(daemon.terminate().code(), Some(0));
    let log = daemon.log();
    assert!(log.lines().count() > 3, "{log}");
    for line in log.lines() {
        let object: serde_json::Value = serde_json::from_str(line).expect(line);
        assert!(object["level"].is_string() && object["timestamp"].is_string(), "{line}");
    }
}

#[test]
fn a_log_filter_that_is_none_is_a_wrong_command_line() {
    let daemon = Daemon::prepare(&[]);
    for filter in ["orchestrator=loud", "a=b=c"] {
        let mut command = daemon.command();
        command.env("ORCHESTRATOR_LOG", filter);
        let said = Said::of(command);
        assert_eq!(said.code, Some(2), "{said:?}");
        assert!(said.stderr.contains(filter), "{said:?}");
    }
    let mut command = daemon.command();
    command.arg("--nonsense");
    assert_eq!(Said::of(command).code, Some(2));
    assert!(!daemon.state_dir().exists());
}
