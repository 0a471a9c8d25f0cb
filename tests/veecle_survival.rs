//! Existing Veecle OS runtimes outlive the daemon with the connection that they have: they can't
//! make another one.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::sys::signal::Signal;
use orchestrator_proto::control::{EventKind, Item, Policy, Program, Request};
use serde_json::{Value, json};
use tests::routing::Random;
use tests::veecle::Veecle;
use tests::{Daemon, SOON, block_on, eventually, processes};

/// Kills the daemon, but not its holder, and waits for the next one.
fn kill(daemon: &Daemon) {
    let pid = daemon.pid();
    processes::signal(pid, Signal::SIGKILL);
    processes::gone(pid);
    assert_ne!(daemon.pid(), pid);
}

/// The same when it can't be asked for its number.
fn kill_stopped(daemon: &Daemon, pid: u32) {
    processes::signal(pid, Signal::SIGKILL);
    processes::gone(pid);
    assert_ne!(daemon.pid(), pid);
}

/// Events of the instance of this name so far that `wanted` counts.
fn events(daemon: &Daemon, name: &str, wanted: impl Fn(&EventKind) -> bool) -> usize {
    let all = Request::Events { follow: false, after: Some(0), since_ms: None, instance: None };
    block_on(async {
        let client = daemon.client().await;
        let mut events = client.stream(all).await.unwrap();
        let mut count = 0;
        while let Some(item) = events.next().await {
            if let Item::Event(event) = item.unwrap() {
                let is_theirs = event.name.as_deref() == Some(name);
                count += usize::from(is_theirs && wanted(&event.kind));
            }
        }
        count
    })
}

fn is_kept(kind: &EventKind) -> bool {
    matches!(kind, EventKind::ConnectionKept { dialect } if dialect == "veecle")
}

fn is_cut(kind: &EventKind) -> bool {
    matches!(kind, EventKind::MessageCut { dialect } if dialect == "veecle")
}

/// One instance's connection went on with each of so many daemons, and nothing was held against
/// it.
#[track_caller]
fn went_on(daemon: &Daemon, name: &str, kills: usize) {
    eventually("it is said that it went on", || {
        (events(daemon, name, is_kept) == kills).then_some(())
    });
    // An event just before the kill may not be kept.
    assert!(events(daemon, name, |kind| matches!(kind, EventKind::Connected { .. })) <= 1);
    assert_eq!(events(daemon, name, |kind| matches!(kind, EventKind::Disconnected { .. })), 0);
    assert_eq!((daemon.detail(name).protocol_errors, daemon.info(name).connections), (0, 1));
}

/// A connection that the daemon knows of.
fn connect(daemon: &Daemon, name: &str, id: &str) -> Veecle {
    let connections = daemon.info(name).connections;
    let veecle = daemon.veecle(id);
    daemon.connections(name, connections + 1);
    veecle
}

fn number(n: u64) -> String {
    json!({"Storable": {"type_name": "n", "value": n.to_string()}}).to_string()
}

/// Messages between two peers, of which only so many are on their way at any time, so that none
/// is lost but by the end of a daemon.
struct Traffic {
    sent: AtomicU64,
    /// All below are no longer waited for.
    base: AtomicU64,
    over: AtomicBool,
}

/// Ends those who send until this is true, also when the test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Traffic {
    const WINDOW: u64 = 400;

    fn send(&self, mut to: Veecle) -> Veecle {
        let mut random = Random::new(1);
        while !self.over.load(Ordering::Acquire) {
            let sent = self.sent.load(Ordering::Acquire);
            let room = (self.base.load(Ordering::Acquire) + Self::WINDOW).saturating_sub(sent);
            if room == 0 {
                std::thread::yield_now();
                continue;
            }
            let burst = (1 + random.below(50) as u64).min(room);
            let mut lines = String::new();
            for n in sent..sent + burst {
                lines += &number(n);
                lines.push('\n');
                if random.below(3) == 0 {
                    lines += r#"{"Telemetry":{"thread_id":"a:1","message":{"Tracing":{}}}}"#;
                    lines.push('\n');
                }
            }
            to.stream.write_all(lines.as_bytes()).unwrap();
            self.sent.store(sent + burst, Ordering::Release);
        }
        to
    }

    /// Until the last one; the answer is what came.
    fn receive(&self, mut from: Veecle) -> (Veecle, Vec<u64>) {
        let mut got = Vec::new();
        loop {
            let (name, value) = from.next_storable().expect("the connection stays");
            assert_eq!(name, "n");
            match value.as_u64() {
                Some(n) => {
                    self.base.fetch_max(n + 1, Ordering::AcqRel);
                    got.push(n);
                }
                None => return (from, got),
            }
        }
    }

    /// Waits until so many more have arrived than at first.
    fn passes(&self, more: u64) {
        let before = self.base.load(Ordering::Acquire);
        eventually("messages pass", || {
            (self.base.load(Ordering::Acquire) > before + more).then_some(())
        });
    }
}

#[test]
fn under_load_no_line_is_torn_or_doubled_and_loss_is_bounded_and_reported() {
    const KILLS: u64 = 5;
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    daemon.link_with("a", "n", "b", Policy::DropOldest, 2000);
    let receiver = connect(&daemon, "b", &b);
    let sender = connect(&daemon, "a", &a);
    let traffic =
        Traffic { sent: AtomicU64::new(0), base: AtomicU64::new(0), over: AtomicBool::new(false) };
    let got = std::thread::scope(|scope| {
        let receiving = scope.spawn(|| traffic.receive(receiver));
        let sending = scope.spawn(|| traffic.send(sender));
        let ends = Ends(&traffic.over);
        for kills in 0..KILLS {
            traffic.passes(3000);
            went_on(&daemon, "a", kills as usize);
            went_on(&daemon, "b", kills as usize);
            kill(&daemon);
            // What is lost is not waited for.
            traffic.base.fetch_max(traffic.sent.load(Ordering::Acquire), Ordering::AcqRel);
        }
        traffic.passes(3000);
        drop(ends);
        let mut sender = sending.join().unwrap();
        sender.storable("n", &json!("end"));
        let (_open, got) = receiving.join().unwrap();
        went_on(&daemon, "a", KILLS as usize);
        went_on(&daemon, "b", KILLS as usize);
        got
    });
    assert!(got.is_sorted_by(|a, b| a < b), "nothing comes twice, and nothing out of order");
    let lost = traffic.sent.load(Ordering::Acquire) - got.len() as u64;
    assert!(lost <= KILLS * 2 * Traffic::WINDOW, "{lost} are lost");
    assert!(events(&daemon, "a", is_cut) <= KILLS as usize);
    let said = daemon.ok(["events"]);
    assert!(said.contains("what the daemon before had read and not passed on is lost"), "{said}");
}

/// A sender, and a receiver that gets what it sends.
fn pair(daemon: &Daemon) -> (Veecle, Veecle) {
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    daemon.link("a", "n", "b");
    (connect(daemon, "a", &a), connect(daemon, "b", &b))
}

#[test]
fn a_line_of_which_a_dead_daemon_had_read_the_first_part_is_said_to_be_lost() {
    let daemon = Daemon::start();
    let (mut sender, mut receiver) = pair(&daemon);
    let line = number(1_000_000);
    let cuts =
        [1, line.find(r#""type_name""#).unwrap(), line.len() - 3, line.len() - 1, line.len()];
    for (round, cut) in (1..).zip(cuts) {
        let (first, rest) = line.split_at(cut);
        // Read together, so that the second has been read when the first has arrived.
        let both = format!("{}\n{first}", number(round));
        sender.stream.write_all(both.as_bytes()).unwrap();
        assert_eq!(receiver.next_storable().unwrap().1, json!(round));
        kill(&daemon);
        let both = format!("{rest}\n{}\n", number(10 * round));
        sender.stream.write_all(both.as_bytes()).unwrap();
        assert_eq!(receiver.next_storable().unwrap().1, json!(10 * round));
        eventually("it is said", || (events(&daemon, "a", is_cut) == round as usize).then_some(()));
        went_on(&daemon, "a", round as usize);
    }
    let said = daemon.ok(["events"]);
    assert!(said.contains("the daemon before ended when it had read the first part"), "{said}");
    // It is the first line only: what is wrong later is wrong.
    sender.line("nonsense");
    assert_eq!(sender.next(), None);
    eventually("it is counted", || (daemon.detail("a").protocol_errors == 1).then_some(()));
}

#[test]
fn what_a_dead_daemon_had_not_read_arrives() {
    let daemon = Daemon::start();
    let (mut sender, mut receiver) = pair(&daemon);
    for round in 0..3 {
        let pid = daemon.pid();
        processes::suspend(pid);
        sender.line(&number(10 * round));
        let line = number(10 * round + 1);
        let (first, rest) = line.split_at(20);
        sender.stream.write_all(first.as_bytes()).unwrap();
        kill_stopped(&daemon, pid);
        sender.line(rest);
        for expected in [10 * round, 10 * round + 1] {
            assert_eq!(receiver.next_storable().unwrap().1, json!(expected));
        }
        went_on(&daemon, "a", round as usize + 1);
    }
    assert_eq!(events(&daemon, "a", is_cut), 0);
}

#[test]
fn a_receiver_that_does_not_read_finds_whole_lines_when_it_does() {
    const KILLS: usize = 4;
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link_with("a", "t", "b", Policy::DropOldest, 400);
    let mut receiver = connect(&daemon, "b", &b);
    let mut sender = connect(&daemon, "a", &a);
    let mut random = Random::new(7);
    let mut sent = 0;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                // Of all lengths, so that the socket is full at any place in a line.
                let value = json!([sent, "x".repeat(random.below(1900))]);
                sender.storable("t", &value);
                sent += 1;
            }
            sender.storable("t", &json!("end"));
            (sender, sent)
        });
        let ends = Ends(&over);
        let is_full = || {
            eventually("the socket and the link are full", || {
                (daemon.counters(link).drops.full > 100).then_some(())
            });
        };
        let mut last = None;
        let mut read = |receiver: &mut Veecle, count: usize| {
            for _ in 0..count {
                let (_, value) = receiver.next_storable().expect("the connection stays");
                if value == json!("end") {
                    return false;
                }
                let n = value[0].as_u64();
                assert!(n > last, "{n:?} after {last:?}");
                last = n;
            }
            true
        };
        for kills in 1..=KILLS {
            is_full();
            went_on(&daemon, "a", kills - 1);
            went_on(&daemon, "b", kills - 1);
            kill(&daemon);
            // A little, so that it is not full in the same place again; at last everything.
            assert!(read(&mut receiver, 37 * kills));
        }
        is_full();
        drop(ends);
        while read(&mut receiver, 1000) {}
        let (_sender, _) = flood.join().unwrap();
        went_on(&daemon, "a", KILLS);
        went_on(&daemon, "b", KILLS);
    });
}

#[test]
fn messages_go_to_the_newest_connection_with_the_next_daemon_too() {
    let daemon = Daemon::start();
    // With what listens for the two. Who is counted is served; what goes on is what the holder has.
    let base = files(&daemon) + 4;
    let (mut sender, oldest) = pair(&daemon);
    let b = daemon.info("b").id.to_string();
    let mut middle = connect(&daemon, "b", &b);
    comes_to(&daemon, base + 3);
    drop(oldest);
    daemon.connections("b", 1);
    comes_to(&daemon, base + 2);
    let mut newest = connect(&daemon, "b", &b);
    comes_to(&daemon, base + 3);
    for round in 0..3 {
        kill(&daemon);
        daemon.connections("b", 2);
        sender.line(&number(round));
        assert_eq!(newest.next_storable().unwrap().1, json!(round));
    }
    drop(newest);
    daemon.connections("b", 1);
    sender.line(&number(9));
    assert_eq!(middle.next_storable().unwrap().1, json!(9));
}

/// How many files the holder has when it has done all that it was told before.
fn files(daemon: &Daemon) -> usize {
    daemon.put_with("missing", |spec| spec.program = Program::Path("/missing".into()));
    for _ in 0..2 {
        // Answered by the capture process: it is not on its way any more.
        daemon.printed("missing");
        // Answered by the holder, which does one thing after the other.
        assert_ne!(daemon.cli(["runtime", "start", "missing"]).code, Some(0));
    }
    let files = processes::open_files(daemon.holder_pid());
    daemon.ok(["runtime", "remove", "missing"]);
    // Without its two listeners.
    files - 2
}

/// How many files the holder has, if that is what they come to.
#[track_caller]
fn comes_to(daemon: &Daemon, files: usize) {
    let holder = daemon.holder_pid();
    eventually(&format!("the holder has {files} files"), || {
        (processes::open_files(holder) == files).then_some(())
    });
}

#[test]
fn the_holder_keeps_a_connection_for_as_long_as_it_lasts() {
    let daemon = Daemon::start();
    let a = daemon.put("a");
    let base = files(&daemon);
    for round in 0..300 {
        let mut veecle = daemon.veecle(&a);
        // Some end by a mistake, some before they are accepted.
        if round % 3 == 0 {
            // It may be one too many.
            let _ = veecle.stream.write_all(b"nonsense\n");
        }
    }
    // Those before it have been accepted when one that comes later is served.
    daemon.link("a", "n", "a");
    eventually("one is served", || {
        let mut veecle = daemon.veecle(&a);
        let sent = veecle.stream.write_all(format!("{}\n", number(1)).as_bytes());
        sent.ok().and_then(|()| veecle.next())
    });
    daemon.connections("a", 0);
    comes_to(&daemon, base);
    let two = [connect(&daemon, "a", &a), connect(&daemon, "a", &a)];
    comes_to(&daemon, base + 2);
    kill(&daemon);
    daemon.connections("a", 2);
    comes_to(&daemon, base + 2);
    // It goes while nobody sees it.
    let pid = daemon.pid();
    processes::suspend(pid);
    let [one, other] = two;
    drop(one);
    kill_stopped(&daemon, pid);
    daemon.connections("a", 1);
    comes_to(&daemon, base + 1);
    drop(other);
    daemon.connections("a", 0);
    comes_to(&daemon, base);
}

#[test]
fn a_removed_instance_takes_its_connections_along() {
    let daemon = Daemon::start();
    let base = files(&daemon);
    for kills in 0..3 {
        let a = daemon.put("a");
        let mut veecle = connect(&daemon, "a", &a);
        for _ in 0..kills {
            kill(&daemon);
        }
        daemon.connections("a", 1);
        daemon.ok(["runtime", "remove", "a"]);
        assert_eq!(veecle.next(), None, "it sees the end");
        comes_to(&daemon, base);
    }
}

#[test]
fn connections_that_go_on_count_as_connections() {
    let daemon = Daemon::start();
    let a = daemon.put("a");
    let holder = daemon.holder_pid();
    let before = processes::open_files(holder);
    let mut all: Vec<_> = (0..16).map(|_| daemon.veecle(&a)).collect();
    daemon.connections("a", 16);
    // Who is counted is served; what goes on is what the holder has.
    eventually("the holder has them all", || {
        (processes::open_files(holder) >= before + 16).then_some(())
    });
    kill(&daemon);
    daemon.connections("a", 16);
    let refused = |daemon: &Daemon| daemon.veecle(&a).next().is_none();
    assert!(refused(&daemon), "there are as many as may be");
    all.pop();
    daemon.connections("a", 15);
    let mut other = connect(&daemon, "a", &a);
    daemon.link("any", "n", "a");
    other.storable("n", &json!(1));
    assert_eq!(other.next_storable().unwrap().1, json!(1));
    assert!(refused(&daemon));
}

/// Counts for as long as it lives, and prints what it gets. Ends when its connection does.
const RUNTIME: &str = r#"
import json, os, socket, threading, time
s = socket.socket(socket.AF_UNIX)
s.connect(os.environ["VEECLE_IPC_SOCKET"])
def count():
    n = 0
    while True:
        storable = {"type_name": "n", "value": str(n)}
        s.sendall((json.dumps({"Storable": storable}) + "\n").encode())
        n += 1
        time.sleep(0.001)
threading.Thread(target=count, daemon=True).start()
for line in s.makefile("r"):
    print(json.loads(line)["Storable"]["value"], flush=True)
"#;

#[test]
fn a_runtime_never_learns_that_its_daemon_was_killed() {
    let daemon = Daemon::start();
    let script = daemon.dir().join("runtime.py");
    fs::write(&script, RUNTIME).unwrap();
    daemon.put("test");
    let base = files(&daemon);
    daemon.add(["/usr/bin/env", "--name", "r", "--", "python3", script.to_str().unwrap()]);
    let added = files(&daemon);
    let test = daemon.info("test").id.to_string();
    daemon.link("test", "word", "r");
    daemon.link("r", "n", "test");
    let mut peer = connect(&daemon, "test", &test);
    daemon.ok(["runtime", "start", "r"]);
    daemon.connections("r", 1);
    let pid = daemon.info("r").observed.pid();
    let got = Mutex::new(Vec::new());
    let read = |peer: &mut Veecle| {
        let (_, value) = peer.next_storable().unwrap();
        got.lock().unwrap().push(value.as_u64().unwrap());
    };
    for round in 0..4 {
        for _ in 0..50 {
            read(&mut peer);
        }
        kill(&daemon);
        peer.storable("word", &json!(format!("round {round}")));
        daemon.prints("r", &format!("\"round {round}\""));
        went_on(&daemon, "r", round + 1);
        assert_eq!(daemon.info("r").observed.pid(), pid);
    }
    read(&mut peer);
    assert!(got.into_inner().unwrap().is_sorted_by(|a, b| a < b));
    let stop = ["runtime", "stop", "r"];
    daemon.ok(stop);
    daemon.connections("r", 0);
    drop(peer);
    comes_to(&daemon, added);
    daemon.ok(["runtime", "remove", "r"]);
    comes_to(&daemon, base);
}

#[test]
fn a_peer_that_has_gone_meanwhile_is_seen_to_have_gone() {
    let daemon = Daemon::start();
    let (mut sender, receiver) = pair(&daemon);
    let pid = daemon.pid();
    processes::suspend(pid);
    drop(receiver);
    sender.line(&number(1));
    kill_stopped(&daemon, pid);
    daemon.connections("b", 0);
    let b = daemon.info("b").id.to_string();
    // What was for nobody waits for the next connection.
    let stream = UnixStream::connect(daemon.veecle_socket(&b)).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    daemon.connections("b", 1);
    drop(stream);
    daemon.connections("b", 0);
    let mut next = connect(&daemon, "b", &b);
    sender.line(&number(2));
    let mut got: Vec<Value> = Vec::new();
    while got.last() != Some(&json!(2)) {
        got.push(next.next_storable().unwrap().1);
    }
    assert!(got.len() <= 2, "{got:?}");
}
