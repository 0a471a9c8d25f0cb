//! Another daemon takes the place of the one that runs, and nobody notices; or it can't, and the
//! one that runs stays.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::num::NonZeroU32;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use nix::sys::signal::Signal;
use orchestrator_proto::client::Client;
use orchestrator_proto::control::{
    EventKind, Item, LogQuery, Observed, Policy, Reply, Request, ServerBody, SuccessorSpec,
};
use orchestrator_proto::sdk::{Runtime, Schema};
use orchestrator_proto::{ErrorCode, Message};
use serde::{Deserialize, Serialize};
use tests::control::Control;
use tests::{Daemon, SOON, Said, binary, block_on, eventually, processes};

#[derive(Serialize, Deserialize, Schema, Message, PartialEq, Debug)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
#[message(name = "n")]
struct Number(u32);

/// Prints numbered lines, as fast as it can.
const CHATTY: &str = "i=0; while :; do i=$((i+1)); echo $i; done";

/// Prints numbered lines on both streams, at its ease.
const CALM: &str = "i=0; while :; do i=$((i+1)); echo $i; echo $i >&2; sleep 0.005; done";

#[track_caller]
fn running(daemon: &Daemon, name: &str) -> u32 {
    eventually(&format!("{name} runs"), || match daemon.info(name).observed {
        Observed::Ready { pid, .. } => Some(pid),
        _ => None,
    })
}

/// A program of which the command line prints more and more.
struct Follower {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    thread: std::thread::JoinHandle<()>,
}

impl Follower {
    fn start(daemon: &Daemon, args: &[&str]) -> Self {
        let mut child = daemon.cli_command(args).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let lines = Arc::new(Mutex::new(Vec::new()));
        let into = lines.clone();
        let thread = std::thread::spawn(move || {
            output.lines().map_while(Result::ok).for_each(|line| into.lock().unwrap().push(line));
        });
        Self { child, lines, thread }
    }

    fn count(&self) -> usize {
        self.lines.lock().unwrap().len()
    }

    /// Waits until it ends by itself, or ends it; the answer is what it printed.
    fn end(mut self, by_itself: bool) -> Vec<String> {
        if by_itself {
            let ended = eventually("it ended", || self.child.try_wait().unwrap());
            assert_eq!(ended.code(), Some(0));
        } else {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
        self.thread.join().unwrap();
        std::mem::take(&mut self.lines.lock().unwrap())
    }
}

/// Asks all the time, on a new connection and on an old one; each must be answered.
struct Asker {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<u64>>,
}

impl Asker {
    fn start(socket: &Path) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let start = |ask: fn(PathBuf, Arc<AtomicBool>, Arc<AtomicU64>) -> u64| {
            let (socket, stop, answered) = (socket.to_owned(), stop.clone(), answered.clone());
            std::thread::spawn(move || ask(socket, stop, answered))
        };
        let threads = vec![start(ask_anew), start(ask_on), start(ask_by_hand)];
        Self { stop, answered, threads }
    }

    /// Waits until it was answered so many times more.
    #[track_caller]
    fn goes_on(&self, count: u64) {
        let before = self.answered.load(Ordering::Relaxed);
        eventually("clients are answered", || {
            assert!(!self.threads.iter().any(std::thread::JoinHandle::is_finished));
            (self.answered.load(Ordering::Relaxed) >= before + count).then_some(())
        });
    }

    /// How many requests were cut, to be sent again.
    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    }
}

fn ask_anew(socket: PathBuf, stop: Arc<AtomicBool>, answered: Arc<AtomicU64>) -> u64 {
    block_on(async {
        while !stop.load(Ordering::Relaxed) {
            let client = Client::connect(&socket).await.expect("never refused");
            client.request(Request::RuntimeList).await.expect("always answered");
            answered.fetch_add(1, Ordering::Relaxed);
        }
    });
    0
}

fn ask_on(socket: PathBuf, stop: Arc<AtomicBool>, answered: Arc<AtomicU64>) -> u64 {
    block_on(async {
        let client = Client::connect(&socket).await.expect("never refused");
        while !stop.load(Ordering::Relaxed) {
            client.request(Request::LinkList).await.expect("always answered");
            answered.fetch_add(1, Ordering::Relaxed);
        }
    });
    0
}

/// As a client in another language would, with what PROTOCOL.md says of goodbyes.
fn ask_by_hand(socket: PathBuf, stop: Arc<AtomicBool>, answered: Arc<AtomicU64>) -> u64 {
    let mut cut = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut control = Control::silent(&socket);
        if control.hello(orchestrator_proto::control::MAGIC, 2).is_none() {
            cut += 1;
            continue;
        }
        for id in 1.. {
            control.request(id, Request::Status);
            match control.frame() {
                Some(frame) if frame.id == id => {
                    assert!(matches!(frame.body, ServerBody::Reply(Reply::Status(_))));
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                Some(frame) => {
                    let ServerBody::Error(error) = frame.body else { panic!("{frame:?}") };
                    assert_eq!((frame.id, error.code), (0, ErrorCode::Replaced));
                    assert!(control.frame().is_none(), "a goodbye is the last word");
                    cut += 1;
                    break;
                }
                None => panic!("the connection ended without a goodbye"),
            }
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
    }
    cut
}

fn numbers(lines: &[String]) -> Vec<u64> {
    lines.iter().map(|line| line.parse().unwrap()).collect()
}

/// All that an instance printed on a stream.
fn printed(daemon: &Daemon, name: &str, stream: &str) -> Vec<u64> {
    let text = daemon.ok(["runtime", stream, name, "--no-follow"]);
    text.lines().map(|line| line.parse().unwrap()).collect()
}

#[track_caller]
fn complete(what: &str, numbers: &[u64]) {
    let wrong = numbers.iter().zip(1..).position(|(number, expected)| *number != expected);
    assert_eq!(wrong, None, "{what}: {} lines", numbers.len());
    assert!(!numbers.is_empty(), "{what}");
}

/// Sends numbers under `block`, and receives them, until it is told to stop.
struct Messages {
    stop: Arc<AtomicBool>,
    got: Arc<Mutex<Vec<u32>>>,
    threads: [std::thread::JoinHandle<u32>; 2],
}

impl Messages {
    fn start(from: PathBuf, to: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let got = Arc::new(Mutex::new(Vec::new()));
        let (ready, connected) = std::sync::mpsc::sync_channel(1);
        let (last, arrived) = tokio::sync::oneshot::channel();
        let (into, done) = (got.clone(), stop.clone());
        let receiver = std::thread::spawn(move || {
            block_on(async {
                let runtime = Runtime::connect_to(to).await.unwrap();
                let window = NonZeroU32::new(64).unwrap();
                let mut input = runtime.input_with_window::<Number>(window).unwrap();
                ready.send(()).unwrap();
                loop {
                    match tokio::time::timeout(SOON, input.recv()).await.expect("one comes") {
                        // The last one.
                        Ok(Number(u32::MAX)) => {
                            let _ = last.send(());
                            return 0;
                        }
                        Ok(Number(number)) => into.lock().unwrap().push(number),
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        });
        connected.recv().unwrap();
        let sender = std::thread::spawn(move || {
            block_on(async {
                let runtime = Runtime::connect_to(from).await.unwrap();
                let output = runtime.output::<Number>().unwrap();
                let mut next = 0;
                while !done.load(Ordering::Relaxed) {
                    output.send(&Number(next)).await.unwrap();
                    next += 1;
                }
                output.send(&Number(u32::MAX)).await.unwrap();
                // Until then it may have to be sent again.
                let _ = arrived.await;
                next
            })
        });
        Self { stop, got, threads: [receiver, sender] }
    }

    fn count(&self) -> usize {
        self.got.lock().unwrap().len()
    }
}

#[test]
fn nobody_notices_under_load() {
    let daemon = Daemon::start_with(&["--instance-log-files", "1000"]);
    for (name, script) in [("chatty", CHATTY), ("one", CALM), ("two", CALM)] {
        daemon.add_script(name, script);
        daemon.ok(["runtime", "start", name]);
    }
    let ids = ["from", "to"].map(|name| daemon.put(name));
    daemon.link_with("from", "n", "to", Policy::Block, 32);
    let names = ["chatty", "one", "two"];
    let pids = names.map(|name| running(&daemon, name));
    let messages = Messages::start(daemon.native_socket(&ids[0]), daemon.native_socket(&ids[1]));
    let following = Follower::start(&daemon, &["runtime", "stdout", "one", "--follow"]);
    let logs = Follower::start(&daemon, &["runtime", "stdout", "chatty", "--follow"]);
    let events = Follower::start(&daemon, &["--json", "events", "--follow", "--after", "0"]);
    let asker = Asker::start(daemon.socket());
    let (holder, mut before) = (daemon.holder_pid(), daemon.pid());

    for round in 0..5 {
        asker.goes_on(50);
        let (passed, printed) = (messages.count(), following.count());
        let said = if round % 2 == 0 {
            daemon.ok(["daemon", "restart"])
        } else {
            let path = binary("orchestrator");
            daemon.ok(["daemon", "upgrade", "--binary", path.to_str().unwrap()])
        };
        let after = daemon.pid();
        let what = if round % 2 == 0 { "restarted" } else { "upgraded" };
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            said,
            format!(
                "daemon {what}: process {before} -> {after}, version {version} -> {version}, \
                 instances kept: 3\n"
            )
        );
        assert_ne!(before, after);
        processes::gone(before);
        before = after;
        assert_eq!(daemon.status().holder_pid, holder);
        assert_eq!(names.map(|name| running(&daemon, name)), pids);
        eventually("messages pass", || (messages.count() > passed + 100).then_some(()));
        eventually("lines are printed", || (following.count() > printed + 10).then_some(()));
    }

    asker.goes_on(50);
    let cut = asker.end();
    assert!(cut <= 5, "{cut} requests were cut by 5 replacements");
    messages.stop.store(true, Ordering::Relaxed);
    let [receiver, sender] = messages.threads;
    receiver.join().unwrap();
    let sent = sender.join().unwrap();
    assert_eq!(*messages.got.lock().unwrap(), Vec::from_iter(0..sent));

    for name in names {
        assert_eq!(daemon.info(name).starts, 1, "{name}");
        daemon.ok(["runtime", "stop", name]);
        complete(name, &printed(&daemon, name, "stdout"));
        assert_eq!(daemon.detail(name).log_bytes_lost, 0);
    }
    complete("stderr", &printed(&daemon, "two", "stderr"));
    let all = printed(&daemon, "one", "stdout").len();
    eventually("all is followed", || (following.count() == all).then_some(()));
    complete("followed", &numbers(&following.end(false)));
    complete("followed", &numbers(&logs.end(false)));

    daemon.ok(["runtime", "remove", "two"]);
    eventually("the last event is followed", || {
        events.lines.lock().unwrap().last().filter(|line| line.contains("removed")).map(|_| ())
    });
    let events: Vec<serde_json::Value> =
        events.end(false).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seqs: Vec<_> = events.iter().map(|event| event["event"]["seq"].as_u64().unwrap()).collect();
    complete("events", &seqs);
    let replaced =
        |event: &&serde_json::Value| event["event"]["kind"].get("daemon-replaced").is_some();
    assert_eq!(events.iter().filter(replaced).count(), 5);
    let bad = ["exited", "started\":", "messages-lost", "events-lost"];
    let until_stop = events.iter().take_while(|event| !event.to_string().contains("stopping"));
    for event in until_stop.skip_while(|event| !event.to_string().contains("replaced")) {
        let text = event.to_string();
        assert!(!bad.iter().any(|bad| text.contains(&format!("\"{bad}"))), "{text}");
    }
}

#[track_caller]
fn refused(daemon: &Daemon, binary: &Path, why: &str) {
    let pid = daemon.pid();
    let said = daemon.cli(["daemon", "upgrade", "--binary", binary.to_str().unwrap()]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains(why), "{said:?}");
    assert_eq!(daemon.pid(), pid, "the daemon stays");
    assert!(running(daemon, "a") > 0);
}

fn executable(path: PathBuf, content: &[u8]) -> PathBuf {
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn what_can_not_take_over_does_not() {
    let daemon = Daemon::start();
    daemon.add(["/bin/sleep", "--name", "a", "--", "1000"]);
    daemon.ok(["runtime", "start", "a"]);
    let pid = running(&daemon, "a");
    let file = |name: &str| daemon.dir().join(name);

    refused(&daemon, &file("none"), "No such file");
    refused(&daemon, daemon.dir(), "it is no file");
    fs::write(file("data"), "x").unwrap();
    refused(&daemon, &file("data"), "Permission denied");
    refused(&daemon, &executable(file("text"), b"nothing\n"), "Exec format error");
    refused(&daemon, &executable(file("script"), b"#!/bin/sh\nsleep 1000\n"), "script");
    let mut foreign = fs::read(binary("orchestrator")).unwrap();
    // The machine, in the header of an ELF file: none that there is.
    foreign[18..20].copy_from_slice(&[0xff, 0x7f]);
    refused(&daemon, &executable(file("foreign"), &foreign), "Exec format error");
    refused(&daemon, Path::new("/bin/true"), "ended with exit code 0");
    refused(&daemon, Path::new("/bin/false"), "ended with exit code 1");

    // A state that it can't read: the daemon has its database open, under another name now.
    let database = ["state.db", "state.db-wal", "state.db-shm"];
    for name in database {
        fs::rename(daemon.state_dir().join(name), file(name)).unwrap();
    }
    fs::write(daemon.state_dir().join("state.db"), "no database".repeat(1000)).unwrap();
    refused(&daemon, &binary("orchestrator"), "ended with exit code 1");
    assert!(daemon.log().contains("file is not a database"), "{}", daemon.log());
    for name in database {
        fs::rename(file(name), daemon.state_dir().join(name)).unwrap();
    }

    assert_eq!(running(&daemon, "a"), pid);
    assert_eq!(daemon.info("a").starts, 1);
    daemon.ok(["daemon", "restart"]);
    assert_eq!(running(&daemon, "a"), pid);
}

/// A state whose reader waits for ever, for as long as this is there.
struct Hang {
    state: PathBuf,
    aside: PathBuf,
}

impl Hang {
    fn new(daemon: &Daemon) -> Self {
        let (state, aside) = (daemon.state_dir().join("state.db"), daemon.dir().join("state.db"));
        fs::rename(&state, &aside).unwrap();
        nix::unistd::mkfifo(&state, nix::sys::stat::Mode::S_IRWXU).unwrap();
        Self { state, aside }
    }
}

impl Drop for Hang {
    fn drop(&mut self) {
        fs::rename(&self.aside, &self.state).unwrap();
    }
}

/// Waits until the capture process is there, and says which it is.
fn capture(daemon: &Daemon) -> u32 {
    let pid = eventually("capture is there", || {
        daemon.json(["daemon", "status"])["capture"]["pid"].as_u64()
    });
    u32::try_from(pid).unwrap()
}

/// Waits until a daemon that hangs is there beside these, which are all that there are without it.
fn hanging(daemon: &Daemon, known: &[u32]) -> u32 {
    eventually("another daemon is there", || {
        let name = |pid: u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let others = processes::children(daemon.holder_pid()).into_iter();
        others
            .filter(|other| !known.contains(other))
            .find(|other| name(*other).trim() == "orchestrator")
    })
}

#[test]
fn one_that_hangs_is_given_up_and_meanwhile_nobody_else_is_tried() {
    let daemon = Daemon::start();
    let pid = daemon.pid();
    let known = [pid, capture(&daemon)];
    let hang = Hang::new(&daemon);
    let mut first = daemon.cli_command(["daemon", "restart", "--timeout", "3s"]);
    let first = first.stderr(Stdio::piped()).spawn().unwrap();
    let other = hanging(&daemon, &known);
    let second = daemon.cli(["daemon", "restart"]);
    assert_eq!(second.code, Some(1));
    assert!(second.stderr.contains("another daemon is being started already"), "{second:?}");
    // The daemon is not held up.
    daemon.add(["/bin/sleep", "--name", "a", "--", "1000"]);
    let first = first.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&first.stderr).into_owned();
    assert_eq!(first.status.code(), Some(1), "{text}");
    assert!(text.contains("was not able to take over within 3s, and was killed"), "{text}");
    processes::gone(other);
    drop(hang);
    assert_eq!(daemon.pid(), pid);
    daemon.ok(["daemon", "restart"]);
    assert_ne!(daemon.pid(), pid);
    assert_eq!(daemon.info("a").starts, 0);
}

#[test]
fn sigterm_ends_everything_at_any_moment_of_a_replacement() {
    let mut daemon = Daemon::start();
    daemon.add(["/bin/sleep", "--name", "a", "--", "1000"]);
    daemon.ok(["runtime", "start", "a"]);
    let instance = running(&daemon, "a");
    let pid = daemon.pid();
    let known = [pid, instance, capture(&daemon)];
    let hang = Hang::new(&daemon);
    let mut client =
        daemon.cli_command(["daemon", "restart"]).stderr(Stdio::null()).spawn().unwrap();
    let other = hanging(&daemon, &known);
    drop(hang);
    assert_eq!(daemon.terminate().code(), Some(0), "{}", daemon.log());
    [pid, other, instance].into_iter().for_each(processes::gone);
    client.wait().unwrap();

    for round in 0..8 {
        daemon.launch();
        let instance = running(&daemon, "a");
        let mut control = Control::connect(daemon.socket());
        control.request(
            1,
            Request::DaemonReplace { successor: SuccessorSpec::Same, timeout_ms: 20_000 },
        );
        if round % 2 == 0 {
            // In the middle of it, or just before; else while it lets go, or just after.
            let ServerBody::Reply(Reply::Replacing { .. }) = control.answer(1) else {
                panic!("it can be replaced")
            };
        }
        for _ in 0..round * 200 {
            std::hint::spin_loop();
        }
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| daemon.terminate()));
        let code = ended.ok().and_then(|ended| ended.code());
        assert_eq!(code, Some(0), "round {round}: {}", daemon.log());
        processes::gone(instance);
        assert!(UnixStream::connect(daemon.socket()).is_err());
    }
}

#[test]
fn a_daemon_that_dies_after_an_upgrade_is_the_new_one_again() {
    let daemon = Daemon::start();
    daemon.add(["/bin/sleep", "--name", "a", "--", "1000"]);
    daemon.ok(["runtime", "start", "a"]);
    let instance = running(&daemon, "a");
    let copy = daemon.dir().join("copy");
    fs::copy(binary("orchestrator"), &copy).unwrap();
    daemon.ok(["daemon", "upgrade", "--binary", copy.to_str().unwrap()]);
    let exe = |pid: u32| fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    let pid = daemon.pid();
    assert_eq!(exe(pid), copy);
    // It is executed from the file that it was, whatever becomes of that.
    fs::remove_file(&copy).unwrap();
    processes::signal(pid, Signal::SIGKILL);
    processes::gone(pid);
    let next = daemon.pid();
    assert_ne!(next, pid);
    assert!(exe(next).as_os_str().as_bytes().ends_with(b"copy (deleted)"));
    assert_eq!(running(&daemon, "a"), instance);
    // The same version, which has no file any more; then what is in the file of that name.
    daemon.ok(["daemon", "restart"]);
    assert!(exe(daemon.pid()).as_os_str().as_bytes().ends_with(b"copy (deleted)"));
    let said = daemon.cli(["daemon", "upgrade"]);
    assert!(said.stderr.contains("No such file"), "{said:?}");
    fs::copy(binary("orchestrator"), &copy).unwrap();
    daemon.ok(["daemon", "upgrade"]);
    assert_eq!(exe(daemon.pid()), copy);
    assert_eq!(running(&daemon, "a"), instance);
}

#[test]
fn what_takes_long_is_cut_and_what_it_began_goes_on() {
    let daemon = Daemon::start();
    // It takes its time to stop.
    let script = "trap 'sleep 2; exit 3' TERM; echo ready; while :; do sleep 0.01; done";
    daemon.add_script("slow", script);
    daemon.ok(["runtime", "start", "slow"]);
    daemon.prints("slow", "ready");
    let mut control = Control::connect(daemon.socket());
    let follow = LogQuery { follow: true, ..LogQuery::of("slow") };
    control.request(1, Request::Logs(follow));
    assert!(matches!(control.answer(1), ServerBody::Item(Item::Log(_))));
    control.request(2, Request::RuntimeStop { instance: "slow".into() });
    daemon.event("slow is stopping", |event| {
        matches!(event.kind, EventKind::Stopping { .. }).then_some(())
    });
    daemon.ok(["daemon", "restart"]);
    // The stream at once, then the stop, then the goodbye.
    let mut cut = Vec::new();
    while let Some(frame) = control.frame() {
        if let ServerBody::Error(error) = frame.body {
            assert_eq!(error.code, ErrorCode::Replaced);
            cut.push(frame.id);
        }
    }
    assert_eq!(cut, [1, 2, 0]);
    // The next daemon goes on with the stop.
    eventually("it is stopped", || {
        matches!(daemon.info("slow").observed, Observed::Stopped { .. }).then_some(())
    });
    assert_eq!(daemon.info("slow").starts, 1);
}

#[test]
fn status_shows_all_processes() {
    let daemon = Daemon::start();
    let capture = capture(&daemon);
    let json = daemon.json(["daemon", "status"]);
    let (holder, pid) = (daemon.holder_pid(), daemon.pid());
    assert_eq!(json["holder"]["pid"], holder);
    assert_eq!(json["daemon"]["pid"], pid);
    assert_eq!(json["capture"]["pid"], capture);
    assert!(processes::children(holder).contains(&capture));
    for process in ["holder", "daemon", "capture"] {
        let process = &json[process];
        assert_eq!(process["version"], env!("CARGO_PKG_VERSION"));
        let pid = u32::try_from(process["pid"].as_u64().unwrap()).unwrap();
        let resident = process["resident_bytes"].as_u64().unwrap();
        let now = processes::resident_kib(pid) * 1024;
        assert!(resident > now / 2 && resident < now * 2, "{process} {now}");
        let files = process["open_files"].as_u64().unwrap() as usize;
        assert!(files.abs_diff(processes::open_files(pid)) < 8, "{process}");
        let started = process["started_ms"].as_u64().unwrap();
        assert!(daemon.status().started_ms.abs_diff(started) < 5_000, "{process}");
    }
    assert_eq!(json["queues"]["clients"], 1);
    assert_eq!(json["queues"]["requests"], 1);
    let text = Said::of(daemon.cli_command(["daemon", "status"])).stdout;
    assert!(text.contains(&format!("process {pid}, version")), "{text}");
}
