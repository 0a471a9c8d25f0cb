//! Processes that speak the Veecle dialect: what users of the existing daemon suffer from, each
//! as a test.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::sys::signal::Signal;
use orchestrator_proto::control::{EventKind, Exit, Observed, Policy, Request};
use serde_json::json;
use tests::{Daemon, Said, eventually, processes};

/// Prints each value that it gets; sends a number as often as it can if told so; stops reading
/// when it gets the word "stop reading".
const RUNTIME: &str = r#"
import json, os, socket, sys, threading, time
s = socket.socket(socket.AF_UNIX)
s.connect(os.environ["VEECLE_IPC_SOCKET"])
def send(name, value):
    storable = {"type_name": name, "value": json.dumps(value)}
    s.sendall((json.dumps({"Storable": storable}) + "\n").encode())
def flood():
    n = 0
    while True:
        send("flood", n)
        n += 1
if "flood" in sys.argv:
    threading.Thread(target=flood, daemon=True).start()
print("connected", flush=True)
for line in s.makefile("r"):
    message = json.loads(line)
    if "Storable" in message:
        value = message["Storable"]["value"]
        if "quiet" not in sys.argv:
            print("got " + value, flush=True)
        if value == '"stop reading"':
            break
while True:
    time.sleep(1000)
"#;

/// Adds such a runtime.
fn add(daemon: &Daemon, name: &str, args: &[&str]) -> String {
    let script = daemon.dir().join("runtime.py");
    fs::write(&script, RUNTIME).unwrap();
    let script = script.to_str().unwrap();
    let mut all = vec!["/usr/bin/env", "--name", name, "--stop-timeout", "1s"];
    all.extend(["--", "python3", script]);
    all.extend(args);
    daemon.add(all)
}

fn start(daemon: &Daemon, name: &str) {
    daemon.ok(["runtime", "start", name]);
    daemon.connections(name, 1);
}

/// What the instance of this name got, as it printed it.
fn gets(daemon: &Daemon, name: &str, value: &serde_json::Value) {
    daemon.prints(name, &format!("got {value}"));
}

#[test]
fn a_child_that_exits_is_no_zombie_is_listed_as_exited_and_starts_again_at_once() {
    let daemon = Daemon::start();
    daemon.add_script("short", "echo out; echo err >&2; exit 3");
    for round in 1..=3 {
        daemon.ok(["runtime", "start", "short"]);
        eventually("it is listed as exited", || {
            let info = daemon.info("short");
            let exited = info.observed.ended() == Some(Exit::Code(3));
            (exited && info.starts == round).then_some(())
        });
        assert!(daemon.ok(["runtime", "list"]).contains("failed"));
        for parent in [daemon.pid(), daemon.holder_pid()] {
            assert!(processes::zombies(parent).is_empty());
        }
    }
}

#[test]
fn the_output_of_children_can_be_read_back() {
    let daemon = Daemon::start();
    daemon.add_script("short", "echo out; echo err >&2");
    daemon.ok(["runtime", "start", "short"]);
    daemon.exited("short");
    daemon.prints("short", "out");
    eventually("its standard error is there, too", || {
        let printed = daemon.ok(["runtime", "stderr", "short", "--no-follow"]);
        (printed == "err\n").then_some(())
    });
}

/// Receivers of a flood that don't take it.
struct Flooded {
    daemon: Daemon,
}

impl Flooded {
    /// A runtime floods one that stops reading, one that was never started, one that is
    /// suspended, and one that works.
    fn new() -> Self {
        let daemon = Daemon::start();
        add(&daemon, "source", &["flood"]);
        add(&daemon, "stuck", &[]);
        add(&daemon, "never-started", &[]);
        add(&daemon, "suspended", &["quiet"]);
        add(&daemon, "good", &["quiet"]);
        daemon.put("test");
        daemon.link("test", "word", "stuck");
        for name in ["stuck", "suspended", "good"] {
            start(&daemon, name);
        }
        let mut test = daemon.veecle(&daemon.info("test").id.to_string());
        test.storable("word", &json!("stop reading"));
        gets(&daemon, "stuck", &json!("stop reading"));
        let pid = daemon.info("suspended").observed.pid().unwrap();
        processes::suspend(pid);
        for to in ["stuck", "never-started", "suspended", "good"] {
            daemon.link_with("source", "flood", to, Policy::Block, 100);
        }
        start(&daemon, "source");
        let flooded = Self { daemon };
        flooded.others_drop();
        flooded
    }

    /// Waits until those that don't read have lost messages.
    fn others_drop(&self) {
        eventually("the queues are full", || {
            let links = self.daemon.links();
            let mut flood = links.iter().filter(|link| link.type_name == "flood");
            flood.by_ref().take(3).all(|link| link.counters.drops.full > 0).then_some(())
        });
    }

    /// The good receiver gets more.
    fn good_goes_on(&self) {
        let delivered = || self.daemon.links()[4].counters.delivered;
        let before = delivered();
        eventually("messages pass", || (delivered() > before + 1000).then_some(()));
    }
}

#[test]
fn a_receiver_that_does_not_read_or_never_started_stops_neither_routing_nor_control() {
    let flooded = Flooded::new();
    let daemon = &flooded.daemon;
    for round in 0..5 {
        flooded.good_goes_on();
        daemon.status();
        daemon.put(&format!("x{round}"));
        daemon.ok(["runtime", "list"]);
        daemon.ok(["link", "list"]);
    }
    for link in daemon.links() {
        tests::routing::assert_adds_up(&link.counters);
    }
}

#[test]
fn a_receiver_that_does_not_read_does_not_keep_sigterm_from_ending_the_daemon() {
    let mut flooded = Flooded::new();
    let status = flooded.daemon.terminate();
    assert!(status.success(), "{status:?}");
}

#[test]
fn neither_a_removed_receiver_nor_one_that_is_killed_ends_routing() {
    let daemon = Daemon::start();
    add(&daemon, "source", &["flood"]);
    add(&daemon, "good", &["quiet"]);
    let good = daemon.link("source", "flood", "good");
    start(&daemon, "good");
    start(&daemon, "source");
    for round in 0..5 {
        let victim = format!("victim{round}");
        add(&daemon, &victim, &["quiet"]);
        daemon.link("source", "flood", &victim);
        start(&daemon, &victim);
        let killed = round % 2 == 0;
        if killed {
            let pid = daemon.info(&victim).observed.pid().unwrap();
            processes::signal(pid, Signal::SIGKILL);
            eventually("it is seen to be dead", || {
                let observed = daemon.info(&victim).observed;
                let killed = matches!(observed.ended(), Some(Exit::Signal { signal: 9, .. }));
                killed.then_some(())
            });
        } else {
            daemon.ok(["runtime", "remove", "--force", &victim]);
        }
        let before = daemon.counters(good).delivered;
        eventually("messages pass", || {
            (daemon.counters(good).delivered > before + 1000).then_some(())
        });
        if killed {
            start(&daemon, &victim);
        }
    }
}

#[test]
fn a_line_that_is_too_long_or_no_json_leaves_the_instance_its_socket() {
    let daemon = Daemon::start();
    let id = add(&daemon, "a", &[]);
    let source = daemon.put("source");
    let link = daemon.link("source", "n", "a");
    let mut sender = daemon.veecle(&source);
    start(&daemon, "a");
    for (n, line) in ["no JSON\n".to_owned(), "x".repeat((1 << 20) + 10)].into_iter().enumerate() {
        let mut bad = daemon.veecle(&id);
        let _ = bad.stream.write_all(line.as_bytes());
        assert_eq!(bad.next(), None);
        daemon.connections("a", 1);
        assert!(daemon.veecle_socket(&id).exists());
        // The process, which is another connection, still gets messages, ...
        sender.storable("n", &json!(n));
        gets(&daemon, "a", &json!(n));
        // ... and so does the next one.
        daemon.ok(["runtime", "restart", "a"]);
        daemon.connections("a", 1);
        sender.storable("n", &json!(n + 10));
        gets(&daemon, "a", &json!(n + 10));
    }
    assert_eq!(daemon.settled(link, 4).delivered, 4);
}

#[test]
fn fifty_stops_and_starts_under_traffic_never_lose_the_socket() {
    let daemon = Daemon::start();
    let source = daemon.put("source");
    let id = add(&daemon, "a", &["quiet"]);
    let link = daemon.link_with("source", "n", "a", Policy::DropOldest, 10);
    let mut sender = daemon.veecle(&source);
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                sender.storable("n", &json!(0));
                sent.fetch_add(1, Ordering::Relaxed);
            }
        });
        for _ in 0..50 {
            let delivered = daemon.counters(link).delivered;
            daemon.ok(["runtime", "start", "a"]);
            eventually("it gets messages", || {
                (daemon.counters(link).delivered > delivered).then_some(())
            });
            assert!(daemon.veecle_socket(&id).exists());
            daemon.ok(["runtime", "stop", "a"]);
        }
        stop.store(true, Ordering::Relaxed);
    });
    let counters = daemon.given(link, sent.load(Ordering::Relaxed));
    assert_eq!(counters.drops.full, counters.dropped);
    assert_eq!(daemon.info("a").starts, 50);
    daemon.connections("a", 0);
}

#[test]
fn grandchildren_are_signalled_too() {
    let daemon = Daemon::start();
    let script = "sh -c 'sleep 1000 & echo $!; wait' & wait";
    daemon.add_script("family", script);
    daemon.ok(["runtime", "start", "family"]);
    let grandchild =
        eventually("the grandchild runs", || daemon.printed("family").trim().parse::<u32>().ok());
    assert!(processes::is_alive(grandchild));
    daemon.ok(["runtime", "stop", "family"]);
    assert!(!processes::is_alive(grandchild));
}

#[test]
fn a_slow_stop_blocks_nobody_and_gets_its_time() {
    let daemon = Daemon::start();
    daemon.add_script(
        "slow",
        "trap 'sleep 1; echo saved; exit 0' TERM; echo ready; while :; do sleep 0.1; done",
    );
    add(&daemon, "source", &["flood"]);
    add(&daemon, "good", &["quiet"]);
    let link = daemon.link("source", "flood", "good");
    start(&daemon, "good");
    start(&daemon, "source");
    daemon.ok(["runtime", "start", "slow"]);
    daemon.prints("slow", "ready");
    let mut stopping = daemon.cli_command(["runtime", "stop", "slow"]).spawn().unwrap();
    daemon.event("it is stopping", |event| {
        matches!(event.kind, EventKind::Stopping { .. }).then_some(())
    });
    let before = daemon.counters(link).delivered;
    daemon.ok(["runtime", "restart", "good"]);
    eventually("messages pass", || (daemon.counters(link).delivered > before).then_some(()));
    assert!(stopping.wait().unwrap().success());
    daemon.prints("slow", "saved");
    assert_eq!(daemon.exited("slow"), Exit::Code(0), "it was not killed");
}

#[test]
fn a_second_daemon_on_the_same_socket_ends_and_says_why_and_a_stale_socket_is_replaced() {
    let mut daemon = Daemon::start();
    let said = Said::of(daemon.command());
    assert!(said.code.is_some_and(|code| code != 0), "{said:?}");
    assert!(said.stderr.contains("in use"), "{said:?}");
    daemon.put("still-works");
    assert!(daemon.terminate().success());
    // A socket file that nobody listens on, as a crash leaves it behind.
    drop(UnixListener::bind(daemon.socket()).unwrap());
    assert!(daemon.socket().exists());
    daemon.launch();
    daemon.put("works");
}

#[test]
fn what_a_killed_daemon_had_started_belongs_to_the_next_and_ends_with_it() {
    let mut daemon = Daemon::start();
    for name in ["a", "b"] {
        add(&daemon, name, &["flood"]);
        start(&daemon, name);
    }
    daemon.add_script("family", "sh -c 'sleep 1000 & echo $!; wait' & wait");
    daemon.ok(["runtime", "start", "family"]);
    let grandchild =
        eventually("the grandchild runs", || daemon.printed("family").trim().parse::<u32>().ok());
    let mut pids = vec![grandchild];
    for name in ["a", "b", "family"] {
        pids.push(daemon.info(name).observed.pid().unwrap());
    }
    daemon.replace_killed();
    for (name, pid) in ["a", "b", "family"].iter().zip(&pids[1..]) {
        assert_eq!(daemon.info(name).observed.pid(), Some(*pid));
    }
    assert!(pids.iter().all(|pid| processes::is_alive(*pid)));
    assert_eq!(daemon.terminate().code(), Some(0));
    for pid in pids {
        assert!(!processes::is_alive(pid));
    }
}

#[test]
fn a_privileged_runtime_that_stops_itself_is_stopped_by_request() {
    let daemon = Daemon::start();
    let script = r#"
import json, os, socket
s = socket.socket(socket.AF_UNIX)
s.connect(os.environ["VEECLE_IPC_SOCKET"])
stop = {"StopRuntime": {"id": os.environ["VEECLE_RUNTIME_ID"]}}
s.sendall((json.dumps({"ControlRequest": stop}) + "\n").encode())
print(s.recv(1000), flush=True)
"#;
    let path = daemon.dir().join("machine.py");
    fs::write(&path, script).unwrap();
    let path = path.to_str().unwrap();
    daemon.add(["/usr/bin/env", "--name", "m", "--privileged", "--", "python3", path]);
    let start = Request::RuntimeStart { instance: "m".into(), priority: None };
    daemon.request(start).unwrap();
    let requested = daemon.event("it ended", |event| match event.kind {
        EventKind::Exited { requested, .. } => Some(requested),
        _ => None,
    });
    assert!(requested);
    eventually("it is stopped", || {
        matches!(daemon.info("m").observed, Observed::Stopped { .. }).then_some(())
    });
}
