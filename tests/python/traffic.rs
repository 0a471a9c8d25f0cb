//! Messages from, through and to programs in Python.

use nix::sys::signal::Signal;
use orchestrator_proto::control::{EventKind, Exit, LinkState, Observed, Policy};
use orchestrator_proto::runtime::{Direction, Frame};
use orchestrator_proto::sdk::{Runtime, Schema};
use orchestrator_proto::{LinkId, Message, TypeSchema};
use serde::{Deserialize, Serialize};
use tests::{Daemon, SOON, block_on, eventually, processes};

use super::{add, python, said};

#[derive(Serialize, Deserialize, Schema, Message)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
#[message(name = "n")]
struct Number(u32);

#[derive(Serialize, Deserialize, Schema, Message)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
#[message(name = "m")]
struct Passed(u32);

/// How far a receiver has come.
fn received(daemon: &Daemon, name: &str) -> u32 {
    let printed = daemon.printed(name);
    let last = printed.lines().rev().find_map(|line| line.strip_prefix("all below "));
    last.map_or(0, |number| number.parse().unwrap())
}

fn has(daemon: &Daemon, name: &str, count: u32) {
    eventually(&format!("{name} has all below {count}"), || {
        (received(daemon, name) >= count).then_some(())
    });
}

#[test]
fn nothing_is_lost_or_doubled_when_the_daemon_is_killed() {
    const COUNT: u32 = 8_000;
    let Some(_) = python() else { return };
    let daemon = Daemon::start();
    add(&daemon, "sender", &[], "numbers.py", &["send", &COUNT.to_string()]);
    add(&daemon, "relay", &[], "numbers.py", &["relay"]);
    add(&daemon, "receiver", &[], "numbers.py", &["receive", &COUNT.to_string()]);
    daemon.link_with("sender", "n", "relay", Policy::Block, 16);
    daemon.link_with("relay", "m", "receiver", Policy::Block, 300);
    daemon.ok(["runtime", "start", "receiver", "relay", "sender"]);
    for round in 1..5 {
        has(&daemon, "receiver", round * COUNT / 6);
        daemon.replace_killed();
    }
    has(&daemon, "receiver", COUNT);
    daemon.prints("sender", &format!("sent {COUNT}"));
    // Had something come twice or not at all, it would have said so.
    let said = said(&daemon, "receiver");
    assert!(!said.contains("expected") && !said.contains("Traceback"), "{said}");
    for link in daemon.links() {
        assert_eq!(link.counters.dropped, 0, "{link:?}");
    }
}

#[test]
fn from_rust_to_python_and_back_nothing_is_lost_when_the_daemon_is_killed() {
    rust_to_python_and_back("relay");
}

#[test]
fn with_asyncio_nothing_is_lost_when_the_daemon_is_killed() {
    rust_to_python_and_back("aio-relay");
}

fn rust_to_python_and_back(mode: &str) {
    const COUNT: u32 = 6_000;
    let Some(_) = python() else { return };
    let daemon = Daemon::start();
    add(&daemon, "relay", &[], "numbers.py", &[mode]);
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    daemon.link_with("a", "n", "relay", Policy::Block, 50);
    daemon.link_with("relay", "m", "b", Policy::Block, 20);
    daemon.ok(["runtime", "start", "relay"]);
    let (to_a, to_b) = (daemon.native_socket(&a), daemon.native_socket(&b));
    let sender = std::thread::spawn(move || {
        block_on(async {
            let runtime = Runtime::connect_to(to_a).await.unwrap();
            let output = runtime.output::<Number>().unwrap();
            // The sender lives until all have arrived.
            for number in 0..=COUNT {
                output.send(&Number(number)).await.unwrap();
            }
            output
        })
    });
    let (progress, reached) = std::sync::mpsc::sync_channel(8);
    let receiver = std::thread::spawn(move || {
        block_on(async {
            let runtime = Runtime::connect_to(to_b).await.unwrap();
            let mut input = runtime.input::<Passed>().unwrap();
            for expected in 0..COUNT {
                let got = tokio::time::timeout(SOON, input.recv()).await.expect("one comes");
                assert_eq!(got.unwrap().0, expected);
                if expected % (COUNT / 4) == COUNT / 8 {
                    progress.send(()).unwrap();
                }
            }
        });
    });
    for () in reached {
        daemon.replace_killed();
    }
    receiver.join().unwrap_or_else(|_| panic!("{}", said(&daemon, "relay")));
    sender.join().unwrap();
}

#[test]
fn a_receiver_hears_who_sent_a_message_and_how_many_it_missed() {
    let Some(_) = python() else { return };
    let daemon = Daemon::start();
    let id = daemon.put("a");
    add(&daemon, "b", &[], "numbers.py", &["envelopes"]);
    let link = daemon.link_with("a", "n", "b", Policy::DropOldest, 3);
    daemon.ok(["runtime", "start", "b"]);
    daemon.prints("b", "listening");
    let mut sender = daemon.native(&id);
    sender.send(&Frame::Keep { channel: 0, epoch: 1, next: 0, again: 0 });
    sender.declare(0, Direction::Output, "n", &TypeSchema::U32, 0);
    sender.number(0);
    daemon.prints("b", &format!("0 0 0 {id}"));
    // While it does not read, only so many can wait for it.
    let Observed::Ready { pid, .. } = daemon.info("b").observed else { panic!("it runs") };
    processes::signal(pid, Signal::SIGSTOP);
    sender.numbers(1..=20);
    daemon.given(link, 21);
    processes::signal(pid, Signal::SIGCONT);
    let counters = daemon.settled(link, 21);
    assert!(counters.dropped > 0, "{counters:?}");
    eventually("it has the last one", || {
        let printed = daemon.printed("b");
        printed.lines().any(|line| line.starts_with("20 20 ")).then_some(())
    });
    let printed = daemon.printed("b");
    let missed = printed.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<u64>().ok());
    assert_eq!(missed.sum::<u64>(), counters.dropped, "{printed}");
}

#[test]
fn another_type_under_the_same_name_is_shown_beside_it() {
    let Some(_) = python() else { return };
    let daemon = Daemon::start();
    add(&daemon, "a", &[], "numbers.py", &["send", "1"]);
    add(&daemon, "b", &[], "numbers.py", &["mistyped"]);
    let link = daemon.link("a", "n", "b");
    daemon.ok(["runtime", "start", "a", "b"]);
    let error = daemon.event("the types differ", |event| match &event.kind {
        EventKind::LinkMismatched { link: other, error } if *other == link => Some(error.clone()),
        _ => None,
    });
    let shown = error.to_string();
    assert!(shown.contains("u32") && shown.contains("value: u64"), "{shown}");
    assert!(matches!(daemon.link_info(link).state, LinkState::Mismatched { .. }));
}

#[test]
fn the_examples_in_python_and_in_rust_answer_each_other() {
    let Some(_) = python() else { return };
    let daemon = Daemon::start();
    let examples = |name: &str| super::package().join(name).to_str().unwrap().to_owned();
    let rust = |name: &str| tests::binary(name).to_str().unwrap().to_owned();
    let (ping, pong) = (examples("ping.py"), examples("pong.py"));
    daemon.add(["/usr/bin/env", "--name", "p", "--", "python3", "-B", &ping, "--interval-ms", "2"]);
    daemon.add(["/usr/bin/env", "--name", "q", "--", "python3", "-B", &pong]);
    daemon.add([rust("ping").as_str(), "--name", "r", "--", "--interval-ms", "2"]);
    daemon.add([rust("pong").as_str(), "--name", "s"]);
    for (ping, pong) in [("p", "s"), ("r", "q")] {
        daemon.link(ping, "examples.ping.v1", pong);
        daemon.link(pong, "examples.pong.v1", ping);
    }
    let (imu, tilt) = (examples("imu.py"), examples("tilt.py"));
    let python = ["--", "python3", "-B"];
    let all = [&["/usr/bin/env", "--name", "imu", "--ready-runtime"], &python[..], &[&imu]];
    daemon.add(all.concat());
    daemon.add([&["/usr/bin/env", "--name", "tilt"], &python[..], &[&tilt]].concat());
    daemon.link("imu", "examples.imu.v1", "tilt");
    daemon.ok(["runtime", "start", "s", "q", "p", "r", "tilt", "imu"]);
    daemon.prints("p", "received pong 50");
    daemon.prints("r", "received pong 50");
    daemon.prints("tilt", "reading 50: 13.7°");
    daemon.ok(["runtime", "stop", "p", "q", "imu", "tilt"]);
    // They heard that they were to stop, and ended by themselves.
    for name in ["p", "q", "imu", "tilt"] {
        let exit = daemon.exited(name);
        assert_eq!(exit, Exit::Code(0), "{}", said(&daemon, name));
    }
}

#[test]
fn a_sender_is_told_what_was_dropped_after_the_block_timeout() {
    let Some(_) = python() else { return };
    let daemon = Daemon::start();
    add(&daemon, "a", &[], "numbers.py", &["send", "3000"]);
    daemon.put("b");
    let rules = ["--policy", "block", "--capacity", "200", "--block-timeout", "20ms"];
    let link = ["link", "add", "--from", "a", "--type", "n", "--to", "b"];
    daemon.ok(link.iter().chain(&rules));
    daemon.ok(["runtime", "start", "a"]);
    // Nobody takes them, and the sender is not held back for ever. What it had sent before it knew of
    // the limit finds a place all the same.
    daemon.prints("a", "sent 3000");
    let dropped = daemon.given(LinkId(1), 3000).drops.timed_out;
    assert!(dropped > 0);
    daemon.prints("a", &format!("{dropped} were dropped"));
}
