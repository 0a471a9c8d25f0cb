//! Under a service manager, and as the first process of a container.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::fs;
use std::io::IoSliceMut;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use orchestrator_proto::control::Observed;
use tests::{Daemon, SOON, eventually, processes, skipped};

/// A socket as a service manager has it: it knows who has sent what. It is read all the time: who
/// tells something does not wait, and the socket may have room for ten words only
/// (`net.unix.max_dgram_qlen`).
struct Manager {
    socket: UnixDatagram,
    told: Receiver<(u32, String)>,
}

impl Manager {
    fn new(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        setsockopt(&socket, sockopt::PassCred, &true).unwrap();
        let reader = socket.try_clone().unwrap();
        let (tell, told) = sync_channel(4096);
        std::thread::spawn(move || {
            while let Some(next) = receive(&reader)
                && tell.send(next).is_ok()
            {}
        });
        Self { socket, told }
    }

    /// What it is told next, and by whom.
    fn next(&self) -> (u32, String) {
        self.told.recv_timeout(SOON).expect("it is told")
    }

    /// Waits until it is told nothing for so long.
    fn silence(&self, time: Duration) {
        while self.told.recv_timeout(time).is_ok() {}
    }

    /// Waits until it is told this, by the holder as all before.
    #[track_caller]
    fn told(&self, holder: u32, wanted: &str) -> String {
        loop {
            let (pid, text) = self.next();
            assert_eq!(pid, holder, "{text}");
            if text.lines().any(|line| line == wanted) {
                return text;
            }
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        // Ends the thread that reads.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }
}

/// The next word, and by whom; none at the end.
fn receive(socket: &UnixDatagram) -> Option<(u32, String)> {
    let mut bytes = [0; 4096];
    let mut space = nix::cmsg_space!(nix::libc::ucred);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let fd = socket.as_raw_fd();
    let received =
        recvmsg::<()>(fd, &mut parts, Some(&mut space), MsgFlags::empty()).expect("it can be read");
    let mut pid = 0;
    for message in received.cmsgs().unwrap() {
        if let ControlMessageOwned::ScmCredentials(credentials) = message {
            pid = credentials.pid().unsigned_abs();
        }
    }
    let len = received.bytes;
    (len > 0).then(|| (pid, String::from_utf8(bytes[..len].to_vec()).unwrap()))
}

#[test]
fn a_service_manager_is_told_by_the_process_that_it_started() {
    let mut daemon = Daemon::prepare(&[]);
    let path = daemon.dir().join("notify");
    let manager = Manager::new(&path);
    daemon = daemon.env("NOTIFY_SOCKET", path.to_str().unwrap()).env("WATCHDOG_USEC", "200000");
    daemon.launch();
    let holder = daemon.holder_pid();
    let text = manager.told(holder, "READY=1");
    assert!(text.contains(&format!("MAINPID={holder}\n")), "{text}");
    assert!(text.contains("STATUS=version "), "{text}");
    for _ in 0..3 {
        manager.told(holder, "WATCHDOG=1");
    }
    // A daemon that hangs says nothing.
    let pid = daemon.pid();
    processes::suspend(pid);
    manager.silence(Duration::from_millis(400));
    processes::signal(pid, Signal::SIGCONT);
    manager.told(holder, "WATCHDOG=1");

    daemon.ok(["daemon", "restart"]);
    let text = manager.told(holder, "RELOADING=1");
    assert!(text.contains("MONOTONIC_USEC="), "{text}");
    manager.told(holder, "READY=1");
    manager.told(holder, "WATCHDOG=1");
    // Instances are not told where the service manager is.
    daemon.add_script("env", "env; echo the end");
    daemon.ok(["runtime", "start", "env"]);
    daemon.prints("env", "the end");
    let env = daemon.printed("env");
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "ORCHESTRATOR_ROLE"] {
        assert!(!env.contains(name), "{env}");
    }
    daemon.signal(Signal::SIGTERM);
    manager.told(holder, "STOPPING=1");
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn a_watchdog_of_somebody_else_and_a_manager_that_is_gone_are_no_trouble() {
    let mut daemon = Daemon::prepare(&[]);
    let path = daemon.dir().join("notify");
    let manager = Manager::new(&path);
    daemon = daemon
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .env("WATCHDOG_USEC", "1000")
        .env("WATCHDOG_PID", "1");
    daemon.launch();
    manager.told(daemon.holder_pid(), "READY=1");
    drop(manager);
    fs::remove_file(&path).unwrap();
    daemon.ok(["daemon", "restart"]);
    assert_eq!(daemon.terminate().code(), Some(0));
    assert!(!daemon.log().contains("service manager"), "{}", daemon.log());
}

/// The first process of a container may be ours, if this machine lets us make one.
fn container() -> Option<Command> {
    let mut command = Command::new("unshare");
    let options = ["--fork", "--pid", "--mount-proc"];
    let tried = command.args(options).arg("true").stderr(Stdio::null()).status();
    let mut command = Command::new("unshare");
    command.args(options);
    tried.is_ok_and(|status| status.success()).then_some(command)
}

/// Ends a container whatever becomes of the test.
struct Ends(u32);

impl Drop for Ends {
    fn drop(&mut self) {
        if std::thread::panicking() {
            processes::signal(self.0, Signal::SIGKILL);
        }
    }
}

#[test]
fn as_the_first_process_of_a_container() {
    let Some(mut unshare) = container() else {
        skipped("this machine does not let us make a pid namespace with unshare(1)");
        return;
    };
    let daemon = Daemon::prepare(&[]);
    let inner = daemon.command();
    unshare.arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => unshare.env(name, value),
            None => unshare.env_remove(name),
        };
    }
    let log = fs::File::create(daemon.dir().join("daemon.log")).unwrap();
    let mut outer = unshare.stdin(Stdio::null()).stderr(log).spawn().unwrap();
    eventually("the daemon accepts clients", || {
        std::os::unix::net::UnixStream::connect(daemon.socket()).ok()
    });
    // Numbers are those of the container.
    assert_eq!(daemon.status().holder_pid, 1);
    let holder =
        eventually("the holder is there", || processes::children(outer.id()).into_iter().next());
    let _ends = Ends(holder);

    // It leaves a process that leaves its group, which the first process has to collect.
    let file = daemon.dir().join("orphan");
    let script = format!(
        "setsid sh -c 'echo begun > {0}; sleep 0.1' & while [ ! -s {0} ]; do :; done; exit 0",
        file.display()
    );
    daemon.add_script("forgetful", &script);
    daemon.ok(["runtime", "start", "forgetful"]);
    eventually("the orphan has begun", || fs::read(&file).ok().filter(|text| !text.is_empty()));
    eventually("the orphan is collected", || {
        let known = ["orchestrator", "orch-capture"];
        let name = |pid| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let children = processes::children(holder);
        children.into_iter().all(|pid| known.contains(&name(pid).trim())).then_some(())
    });

    daemon.add(["/bin/sleep", "--name", "a", "--", "1000"]);
    daemon.ok(["runtime", "start", "a"]);
    let pid = |daemon: &Daemon| match daemon.info("a").observed {
        Observed::Ready { pid, .. } => pid,
        other => panic!("{other:?}"),
    };
    let before = pid(&daemon);
    daemon.ok(["daemon", "restart"]);
    assert_eq!(pid(&daemon), before);
    assert_eq!(daemon.json(["daemon", "status"])["holder"]["pid"], 1);

    processes::signal(holder, Signal::SIGTERM);
    let ended = eventually("everything has ended", || outer.try_wait().unwrap());
    assert_eq!(ended.code(), Some(0), "{}", daemon.log());
    processes::gone(holder);
}

/// Executes the program of its arguments with a listening socket as its file 3, as a service
/// manager does.
const ACTIVATE: &str = r#"
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen(16)
if listener.fileno() != 3:
    os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="control")
os.execv(sys.argv[2], sys.argv[2:])
"#;

/// The same daemon, on a socket that is there before it.
fn activated(daemon: &Daemon, socket: &Path) -> Command {
    let inner = daemon.command();
    let mut outer = Command::new("python3");
    outer.args(["-c", ACTIVATE]).arg(socket).arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    outer.stdin(Stdio::null());
    outer
}

#[test]
fn the_control_socket_of_a_service_manager() {
    let daemon = Daemon::prepare(&[]);
    let log = fs::File::create(daemon.dir().join("daemon.log")).unwrap();
    let mut holder = activated(&daemon, daemon.socket()).stderr(log).spawn().unwrap();
    let _ends = Ends(holder.id());
    // Who connects before there is a daemon waits for it.
    eventually("somebody listens", || {
        std::os::unix::net::UnixStream::connect(daemon.socket()).ok()
    });
    assert_eq!(daemon.status().holder_pid, holder.id());
    let inode = || std::os::unix::fs::MetadataExt::ino(&fs::metadata(daemon.socket()).unwrap());
    let before = inode();
    daemon.add_script("env", "env; ls -l /proc/self/fd; echo the end; exec sleep 1000");
    daemon.ok(["runtime", "start", "env"]);
    daemon.prints("env", "the end");
    let printed = daemon.printed("env");
    assert!(!printed.contains("LISTEN_") && !printed.contains("socket:["), "{printed}");

    daemon.ok(["daemon", "restart"]);
    daemon.replace_killed();
    daemon.ok(["daemon", "restart", "--all"]);
    daemon.replace_killed();
    assert_eq!(inode(), before);
    assert!(daemon.info("env").observed.is_active());

    processes::signal(holder.id(), Signal::SIGTERM);
    let ended = eventually("everything has ended", || holder.try_wait().unwrap());
    assert_eq!(ended.code(), Some(0), "{}", daemon.log());
    // It is not ours.
    assert_eq!(inode(), before);
}

#[test]
fn a_control_socket_that_is_not_the_one_that_was_asked_for() {
    let daemon = Daemon::prepare(&[]);
    let said = tests::Said::of(activated(&daemon, &daemon.dir().join("other")));
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("the service manager has opened"), "{said:?}");
    assert!(!daemon.socket().exists());
}

/// What it takes to be the ordinary user 1000, if this machine lets us.
fn ordinary_user() -> Option<Vec<&'static str>> {
    let words = vec!["unshare", "--user", "--map-user=1000", "--map-group=1000"];
    let mut command = Command::new(words[0]);
    let tried = command.args(&words[1..]).arg("true").stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success()).then_some(words)
}

/// As that user, with these variables and no others.
fn by_user(user: &[&str], program: &str, env: &[(&str, &Path)]) -> Command {
    let mut command = Command::new(user[0]);
    command.args(&user[1..]).arg(tests::binary(program)).env_clear().stdin(Stdio::null());
    command.envs(env.iter().copied()).env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

#[test]
fn as_an_ordinary_user_without_any_options() {
    let Some(user) = ordinary_user() else {
        skipped("this machine does not let us make a user namespace with unshare(1)");
        return;
    };
    let dir = tempfile::Builder::new().prefix("orc").tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for name in ["run", "tmp", "home"] {
        fs::create_dir(path(name)).unwrap();
    }
    let (run, state, tmp, home) = (path("run"), path("state"), path("tmp"), path("home"));
    let session: [(&str, &Path); 3] =
        [("XDG_RUNTIME_DIR", &run), ("XDG_STATE_HOME", &state), ("HOME", &home)];
    // Neither a session nor a home of its own for state.
    let bare: [(&str, &Path); 2] = [("TMPDIR", &tmp), ("HOME", &home)];
    let places = [
        (&session[..], run.join("orchestrator.socket"), state.join("orchestrator")),
        (
            &bare[..],
            tmp.join("orchestrator-1000/orchestrator.socket"),
            home.join(".local/state/orchestrator"),
        ),
    ];
    for (env, socket, state) in places {
        let log = fs::File::create(path("log")).unwrap();
        let mut holder = by_user(&user, "orchestrator", env).stderr(log).spawn().unwrap();
        let _ends = Ends(holder.id());
        let cli = |args: &[&str]| {
            let mut command = by_user(&user, "orchestrator-cli", env);
            command.args(args);
            tests::Said::of(command)
        };
        eventually("the daemon is there", || (cli(&["version"]).code == Some(0)).then_some(()));
        assert!(socket.exists() && state.join("lock").exists());
        let said = cli(&["runtime", "add", "/bin/sleep", "--name", "a", "--", "1000"]);
        assert_eq!(said.code, Some(0), "{said:?}");
        let said = cli(&["runtime", "start", "a"]);
        assert_eq!(said.code, Some(0), "{said:?}");
        processes::signal(holder.id(), Signal::SIGTERM);
        let ended = eventually("everything has ended", || holder.try_wait().unwrap());
        assert_eq!(ended.code(), Some(0), "{}", fs::read_to_string(path("log")).unwrap());
        assert!(!socket.exists());
    }
}
