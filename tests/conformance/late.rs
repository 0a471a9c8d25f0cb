//! What a receiver gets that comes later.

use nix::sys::signal::Signal;
use orchestrator_proto::control::{Counters, Policy, Reply, Request, RulesSpec};
use orchestrator_proto::runtime::Direction;
use orchestrator_proto::sdk::{Runtime, Schema};
use orchestrator_proto::{LinkId, Message, TypeSchema};
use serde::{Deserialize, Serialize};
use tests::{Daemon, SOON, eventually};

use super::case::{Case, Dialect, In};
use super::stage::{End, Stage};
use super::texts::Texts;

#[derive(Serialize, Deserialize, Schema, Message)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
#[message(name = "n")]
struct Number(u32);

/// Runs peers of the test beside its blocking calls.
fn peers() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn link(daemon: &Daemon, policy: Policy, capacity: u32, history: u32) -> LinkId {
    let link = daemon.link_with("a", "n", "b", policy, capacity);
    set(daemon, link, history);
    link
}

fn set(daemon: &Daemon, link: LinkId, history: u32) {
    let rules = RulesSpec { history: Some(history), ..RulesSpec::default() };
    match daemon.request(Request::LinkSet { link, rules }).unwrap() {
        Reply::LinkSet { .. } => assert_eq!(daemon.link_info(link).history, history),
        other => panic!("{other:?}"),
    }
}

fn leaves(daemon: &Daemon, receiver: In) {
    drop(receiver);
    daemon.connections("b", 0);
}

/// L33, L34, L35.
pub(crate) fn a_late_joiner_gets_the_last_messages(case: Case) {
    for policy in [Policy::Block, Policy::DropNewest, Policy::DropOldest] {
        let daemon = Daemon::start();
        let (a, b) = (daemon.put("a"), daemon.put("b"));
        let link = link(&daemon, policy, 100, 3);
        let mut sender = case.sender(&daemon, &a);
        // Who comes first gets what waits.
        sender.send_as_granted(0..10);
        daemon.given(link, 10);
        let mut receiver = case.receiver(&daemon, &b);
        assert_eq!(receiver.take(10), Vec::from_iter(0..10), "{case:?} {policy}");
        leaves(&daemon, receiver);
        for round in 1..4 {
            let mut receiver = case.receiver(&daemon, &b);
            // When it has these, what is sent next does not wait.
            let before: Vec<_> = (round * 10 - 3..round * 10).collect();
            assert_eq!(receiver.take(3), before, "{case:?} {policy}");
            sender.send_as_granted(round * 10..round * 10 + 10);
            let then: Vec<_> = (round * 10..round * 10 + 10).collect();
            assert_eq!(receiver.take(10), then, "{case:?} {policy}");
            leaves(&daemon, receiver);
            let sent = u64::from(round) * 10 + 10;
            let counters = daemon.settled(link, sent);
            let Counters { delivered, replayed, .. } = counters;
            assert_eq!((delivered, replayed), (sent, u64::from(round) * 3), "{case:?} {policy}");
        }
    }
}

/// L33: it is the last so many in all.
pub(crate) fn what_waits_is_not_doubled(case: Case) {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = link(&daemon, Policy::DropOldest, 6, 5);
    let mut sender = case.sender(&daemon, &a);
    let mut receiver = case.receiver(&daemon, &b);
    sender.send(0..6);
    assert_eq!(receiver.take(6), Vec::from_iter(0..6), "{case:?}");
    leaves(&daemon, receiver);
    // Two wait, so three come again.
    sender.send(6..8);
    daemon.given(link, 8);
    let mut receiver = case.receiver(&daemon, &b);
    assert_eq!(receiver.take(5), Vec::from_iter(3..8), "{case:?}");
    leaves(&daemon, receiver);
    // More wait than it remembers, and what is dropped is dropped.
    sender.send(8..20);
    daemon.given(link, 20);
    let mut receiver = case.receiver(&daemon, &b);
    assert_eq!(receiver.take(6), Vec::from_iter(14..20), "{case:?}");
    sender.send(20..21);
    assert_eq!(receiver.next(), Some(20), "{case:?}");
    let Counters { replayed, dropped, .. } = daemon.settled(link, 21);
    assert_eq!((replayed, dropped), (3, 6), "{case:?}");
}

/// L33.
pub(crate) fn latest_with_a_history_of_one_is_the_last_value(case: Case) {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = link(&daemon, Policy::Latest, 1, 1);
    let mut sender = case.sender(&daemon, &a);
    sender.send(0..7);
    daemon.given(link, 7);
    for _ in 0..3 {
        let mut receiver = case.receiver(&daemon, &b);
        assert_eq!(receiver.next(), Some(6), "{case:?}");
        leaves(&daemon, receiver);
    }
    assert_eq!(daemon.settled(link, 7).replayed, 2, "{case:?}");
}

/// L34: also if the connection was cut, or another one took its place for a while.
pub(crate) fn a_process_that_takes_part_passes_over_what_it_has_had(case: Case) {
    if !case.acknowledges() {
        return;
    }
    for policy in [Policy::Block, Policy::DropOldest] {
        let daemon = Daemon::start();
        let (a, b) = (daemon.put("a"), daemon.put("b"));
        let link = link(&daemon, policy, 100, 5);
        let peers = peers();
        let connect = |id: &str| {
            let path = daemon.native_socket(id);
            peers.block_on(Runtime::connect_to(path)).unwrap()
        };
        // The libraries themselves, in either language.
        let mut send: Box<dyn FnMut(u32)> = match case.from {
            Dialect::Python => {
                let mut sender = case.sender(&daemon, &a);
                Box::new(move |number| sender.send_as_granted(number..number + 1))
            }
            Dialect::Native | Dialect::Veecle => {
                let output = connect(&a).output::<Number>().unwrap();
                let peers = &peers;
                Box::new(move |number| peers.block_on(output.send(&Number(number))).unwrap())
            }
        };
        let mut take: Box<dyn FnMut() -> u32> = match case.to {
            Dialect::Python => {
                let mut receiver = case.receiver(&daemon, &b);
                Box::new(move || receiver.take(1)[0])
            }
            Dialect::Native | Dialect::Veecle => {
                let mut input = connect(&b).input::<Number>().unwrap();
                let peers = &peers;
                Box::new(move || {
                    let next = async { tokio::time::timeout(SOON, input.recv()).await };
                    peers.block_on(next).expect("a message comes").unwrap().0
                })
            }
        };
        for number in 0..10 {
            send(number);
            assert_eq!(take(), number);
        }
        daemon.settled(link, 10);
        // Another one comes, and gets what this one has had and may still need.
        let mut other = case.receiver(&daemon, &b);
        // Under `block` that is also what was not acknowledged, however far back.
        let first = other.take(1)[0];
        assert!(first == 5 || (policy == Policy::Block && first < 5), "{policy}: {first}");
        let replayed = other.take(9 - usize::try_from(first).unwrap());
        assert_eq!(replayed, (first + 1..10).collect::<Vec<_>>(), "{policy}");
        drop(other);
        daemon.connections("b", 1);
        for number in 10..20 {
            send(number);
            assert_eq!(take(), number, "{policy}: none twice");
        }
    }
}

/// L4, L33, L35, with processes.
pub(crate) fn each_process_begins_with_the_history(case: Case) {
    const HISTORY: u32 = 20;
    // None of them is dropped for want of room.
    let stage = Stage::new(case, Policy::DropNewest, 1_000_000);
    set(&stage.daemon, stage.link, HISTORY);
    for _ in 0..3 {
        stage.passes(100);
        // Nothing waits, so all of the history comes again.
        stage.signal(End::Sender, Signal::SIGSTOP);
        stage.settled();
        let all = stage.count() + HISTORY as usize;
        stage.kill(End::Receiver);
        stage.start(End::Receiver);
        eventually("it gets the last ones again", || (stage.count() == all).then_some(()));
        stage.signal(End::Sender, Signal::SIGCONT);
    }
    stage.passes(100);
    let sent = stage.end();
    let counters = stage.settled();
    stage.check_order();
    stage.check_all(1, sent);
    let all = stage.got();
    for (run, got) in all.iter().enumerate().skip(1) {
        let before = all[run - 1].last().unwrap().1;
        let expected = before + 1 - u64::from(HISTORY)..;
        let first: Vec<_> = got.iter().map(|(_, number)| *number).collect();
        assert!(first.iter().copied().eq(expected.take(first.len())), "{case:?}: {first:?}");
    }
    let Counters { delivered, replayed, .. } = counters;
    assert_eq!((delivered, replayed), (sent, 3 * u64::from(HISTORY)), "{case:?}");
}

/// L36.
pub(crate) fn what_is_remembered_is_bounded(case: Case) {
    if case.to == Dialect::Veecle {
        // Its messages are short.
        return;
    }
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link_with("a", "text", "b", Policy::DropNewest, 1000);
    set(&daemon, link, 1000);
    let receiver = || {
        let mut native = daemon.native(&b);
        native.declare(0, Direction::Input, "text", &TypeSchema::String, 0);
        native
    };
    let mut first = receiver();
    let mut sender = Texts::new(case, &daemon, &a);
    for _ in 0..30 {
        sender.send(1);
        assert!(first.next_message().is_some());
    }
    daemon.settled(link, 30);
    drop(first);
    daemon.connections("b", 0);
    let mut second = receiver();
    for _ in 0..16 {
        assert!(second.next_message().is_some());
    }
    eventually("all are replayed", || (daemon.counters(link).replayed == 16).then_some(()));
}

/// L33, L36, L37.
pub(crate) fn a_history_begins_when_it_is_given(case: Case) {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link_with("a", "n", "b", Policy::DropNewest, 100);
    let mut sender = case.sender(&daemon, &a);
    let mut receiver = case.receiver(&daemon, &b);
    sender.send(0..5);
    assert_eq!(receiver.take(5), [0, 1, 2, 3, 4], "{case:?}");
    daemon.settled(link, 5);
    set(&daemon, link, 10);
    sender.send(5..8);
    assert_eq!(receiver.take(3), [5, 6, 7], "{case:?}");
    daemon.settled(link, 8);
    leaves(&daemon, receiver);
    let mut receiver = case.receiver(&daemon, &b);
    assert_eq!(receiver.take(3), [5, 6, 7], "{case:?}");
    leaves(&daemon, receiver);
    // Less is enough from now on.
    set(&daemon, link, 2);
    let mut receiver = case.receiver(&daemon, &b);
    assert_eq!(receiver.take(2), [6, 7], "{case:?}");
    leaves(&daemon, receiver);
    // A daemon that dies takes it along; the rule stays.
    drop(sender);
    daemon.replace_killed();
    assert_eq!(daemon.link_info(link).history, 2);
    daemon.connections("a", 0);
    let mut sender = case.sender(&daemon, &a);
    let mut receiver = case.receiver(&daemon, &b);
    sender.send(8..10);
    assert_eq!(receiver.take(2), [8, 9], "{case:?}");
    // So does a link that is removed.
    daemon.settled(link, 2);
    daemon.ok(["link", "remove", &link.to_string()]);
    let link = self::link(&daemon, Policy::DropNewest, 100, 2);
    leaves(&daemon, receiver);
    let mut receiver = case.receiver(&daemon, &b);
    sender.send(10..11);
    assert_eq!(receiver.next(), Some(10), "{case:?}");
    assert_eq!(daemon.settled(link, 1).replayed, 0, "{case:?}");
}
