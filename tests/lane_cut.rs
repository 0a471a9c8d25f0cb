//! Senders that are told to leave a lane and do not: the daemon ends it by force. See
//! `orchestrator-proto/LINKS.md` (D3, D15).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::process::Stdio;

use orchestrator_proto::control::{EventKind, Policy, Transport, Way};
use orchestrator_proto::runtime::{Direction, Frame, Passed};
use orchestrator_proto::sdk::{Input, Output, Runtime, Schema};
use orchestrator_proto::{LinkId, Message};
use serde::{Deserialize, Serialize};
use tests::lane::{Lane, end_of, left, received, rest};
use tests::{Daemon, SOON, eventually};

#[derive(Serialize, Deserialize, Schema, Message, PartialEq, Debug)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
#[message(name = "n")]
struct Number(u32);

/// What the event says that is told of a lane that was ended by force: how many messages waited.
fn cut(daemon: &Daemon, link: LinkId) -> u64 {
    let (from, queued) = daemon.event("the lane is cut", |event| match event.kind {
        EventKind::LaneCut { link: of, queued } if of == link => Some((event.name.clone(), queued)),
        _ => None,
    });
    assert_eq!(from.as_deref(), Some("a"));
    let text = daemon.ok(["events"]);
    assert!(text.contains(&format!("did not leave its lane on link {link}")), "{text}");
    queued
}

fn counts(daemon: &Daemon, link: LinkId) -> [u64; 4] {
    let counters = daemon.counters(link);
    tests::routing::assert_adds_up(&counters);
    [counters.sent, counters.delivered, counters.dropped, counters.queued]
}

/// D15: whatever the reason is for which it is to leave, a sender that only goes on writing is cut off.
/// Its link is listed as what it is, and what it says later is heeded.
#[test]
fn a_sender_that_does_not_leave_its_lane_is_cut_off() {
    for change in [
        ["--transport", "routed"],
        ["--history", "3"],
        ["--policy", "drop-newest"],
        ["--capacity", "5"],
    ] {
        let daemon = Daemon::start();
        let (a, b) = (daemon.put("a"), daemon.put("b"));
        let link = daemon.link_by(Transport::Direct, "a", "m", "b", (Policy::DropOldest, 64));
        let mut lane = Lane::open(&daemon, (&a, &b), "m");
        assert!(lane.send(1));
        let said = Passed { sent: 3, delivered: 1, output: 3, ..Passed::default() };
        lane.sender.send(&Frame::Passed { channel: 0, lane: lane.id, passed: said });
        eventually("that is known", || (counts(&daemon, link)[0] == 3).then_some(()));
        let text = link.to_string();
        daemon.ok(["link", "set", &text, change[0], change[1]]);
        lane.sender.told_to_leave(lane.id);
        // It does not, and what it wrote before is read.
        assert_eq!(rest(&lane.to).last(), Some(&1));
        assert!(!lane.send(2), "{change:?}");
        assert_eq!(cut(&daemon, link), 2);
        assert_eq!(daemon.link_info(link).way, Way::Routed);
        assert_eq!(counts(&daemon, link), [3, 1, 0, 2], "the rest waits with the sender");
        let read = Passed { sent: 1, delivered: 1, ..Passed::default() };
        lane.receiver.send(&left(lane.id, read));
        // When it does, that goes by the daemon.
        let said = Passed { sent: 3, delivered: 1, returned: 2, output: 3, ..said };
        lane.sender.send(&Frame::Skip { channel: 0, count: 3 });
        lane.sender.send(&left(lane.id, said));
        for number in [1, 2] {
            let payload = postcard::to_stdvec(&(number + 10)).unwrap();
            let again = Frame::Again { channel: 0, lane: lane.id, number, payload: &payload };
            lane.sender.send(&again);
        }
        assert_eq!(lane.receiver.take_numbers(2), [11, 12]);
        eventually("all is counted", || (counts(&daemon, link) == [3, 3, 0, 0]).then_some(()));
        assert!(!daemon.ok(["events"]).contains("counts wrongly"));
    }
}

/// D15: what the receiver says that it has read counts as well while the sender says nothing, and when it
/// ends without a word.
#[test]
fn what_a_sender_that_is_cut_off_never_says_is_what_its_receiver_read() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link_by(Transport::Direct, "a", "m", "b", (Policy::DropOldest, 64));
    let mut lane = Lane::open(&daemon, (&a, &b), "m");
    (0..5).for_each(|number| assert!(lane.send(number)));
    daemon.ok(["link", "set", &link.to_string(), "--transport", "routed"]);
    assert!(!rest(&lane.to).is_empty());
    let read = Passed { sent: 5, delivered: 5, ..Passed::default() };
    lane.receiver.send(&left(lane.id, read));
    eventually("that is known", || (counts(&daemon, link) == [5, 5, 0, 0]).then_some(()));
    drop(lane.sender);
    daemon.connections("a", 0);
    assert_eq!(counts(&daemon, link), [5, 5, 0, 0]);
    // The next process is one like any other.
    let mut next = end_of(&daemon, &a, (Direction::Output, "m"), None);
    next.number(7);
    assert_eq!(lane.receiver.take_numbers(1), [7]);
}

/// D3: a watcher sees what is sent after it is told that it watches, also if the sender heeds nothing.
#[test]
fn who_watches_does_not_depend_on_the_sender() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link_by(Transport::Direct, "a", "m", "b", (Policy::DropOldest, 64));
    let mut lane = Lane::open(&daemon, (&a, &b), "m");
    assert!(lane.send(1));
    let mut tap = daemon.cli_command(["link", "tap", "--count", "1"]);
    let tap = tap.stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(rest(&lane.to).last(), Some(&1));
    assert!(!lane.send(2), "nothing passes beside the watcher");
    cut(&daemon, link);
    lane.sender.send(&left(lane.id, Passed { sent: 1, delivered: 1, ..Passed::default() }));
    lane.sender.number(3);
    let seen = tap.wait_with_output().unwrap();
    assert!(String::from_utf8(seen.stdout).unwrap().contains(": 3"));
}

/// D13, D15: nor does the next daemon wait longer for one that has not come to it.
#[test]
fn a_sender_that_has_not_come_to_the_next_daemon_is_cut_off_likewise() {
    for with_receiver in [true, false] {
        let daemon = Daemon::start();
        let (a, b) = (daemon.put("a"), daemon.put("b"));
        let link = daemon.link_by(Transport::Direct, "a", "m", "b", (Policy::DropOldest, 64));
        let mut lane = Lane::open(&daemon, (&a, &b), "m");
        daemon.replace_killed();
        if with_receiver {
            let uses = Some((lane.id, link));
            lane.receiver = end_of(&daemon, &b, (Direction::Input, "m"), uses);
            daemon.declared("b", "m");
        }
        assert!(lane.send(1));
        let mut tap = daemon.cli_command(["link", "tap", "--count", "1"]);
        let mut tap = tap.stdout(Stdio::null()).spawn().unwrap();
        assert_eq!(rest(&lane.to).last(), Some(&1));
        assert!(!lane.send(2));
        tap.kill().unwrap();
        tap.wait().unwrap();
    }
}

/// D15: so is one that hangs, whose program has not its turn: its library goes on as from a lane that
/// broke, and nothing is lost, doubled or out of order.
#[test]
fn a_program_that_hangs_is_cut_off_and_goes_on_by_the_daemon() {
    for (transport, policy) in [
        (Transport::Direct, Policy::Block),
        (Transport::Direct, Policy::DropOldest),
        (Transport::Shm, Policy::Block),
        (Transport::Shm, Policy::DropOldest),
    ] {
        hangs(transport, policy);
    }
}

fn hangs(transport: Transport, policy: Policy) {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link_by(transport, "a", "n", "b", (policy, 4096));
    // It has its turn only while somebody waits for it.
    let program = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let peers =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let sender = program.block_on(Runtime::connect_to(daemon.native_socket(&a))).unwrap();
    let receiver = peers.block_on(Runtime::connect_to(daemon.native_socket(&b))).unwrap();
    let output: Output<Number> = program.block_on(async { sender.output() }).unwrap();
    let mut input: Input<Number> = peers.block_on(async { receiver.input() }).unwrap();
    let mut take = |count: usize| -> Vec<u32> {
        let numbers = peers.block_on(received(&mut input, count));
        numbers.into_iter().map(|Number(number)| number).collect()
    };
    let is_direct = || (daemon.link_info(link).way != Way::Routed).then_some(());
    eventually("messages go directly", || {
        program.block_on(tokio::task::yield_now());
        is_direct()
    });
    // From then on it knows what it is granted.
    program.block_on(output.send(&Number(0))).unwrap();
    eventually("it knows of its grant", || {
        program.block_on(tokio::task::yield_now());
        (daemon.counters(link).delivered == 1).then_some(())
    });
    (1..100).for_each(|number| output.try_send(&Number(number)).unwrap());
    assert_eq!(take(100), Vec::from_iter(0..100));
    daemon.ok(["link", "set", &link.to_string(), "--transport", "routed"]);
    cut(&daemon, link);
    assert_eq!(daemon.link_info(link).way, Way::Routed);
    (100..200).for_each(|number| output.try_send(&Number(number)).unwrap());
    // And goes on.
    program.block_on(async {
        tokio::time::timeout(SOON, sender.flush()).await.expect("it is written soon").unwrap();
        output.send(&Number(200)).await.unwrap();
        sender.flush().await.unwrap();
    });
    let mut arrived = Vec::new();
    eventually("the last one comes", || {
        program.block_on(tokio::task::yield_now());
        arrived.extend(take(1));
        (arrived.last() == Some(&200)).then_some(())
    });
    assert_eq!(arrived, Vec::from_iter(100..=200), "{transport} {policy}");
    eventually("all is counted", || {
        program.block_on(tokio::task::yield_now());
        (counts(&daemon, link) == [201, 201, 0, 0]).then_some(())
    });
    assert!(!daemon.ok(["events"]).contains("counts wrongly"), "{transport} {policy}");
}
