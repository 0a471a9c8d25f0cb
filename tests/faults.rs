//! Receivers that misbehave or come back: each harms itself alone, and the counters still add
//! up.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use orchestrator_proto::control::{Policy, Request};
use orchestrator_proto::runtime::{Direction, Frame};
use orchestrator_proto::{LinkId, TypeSchema};
use tests::routing::Random;
use tests::{Daemon, binary, eventually, processes};

const PING: &str = "examples.ping.v1";

/// The schema of a ping: a struct with a number. On the wire it is the number alone.
fn ping() -> TypeSchema {
    let value =
        orchestrator_proto::schema::Field { name: "value".to_owned(), schema: TypeSchema::U32 };
    TypeSchema::Struct(vec![value])
}

/// What happens to a receiver under load.
#[derive(Clone, Copy, Debug)]
enum Fault {
    StopsReading,
    Sigstop,
    Sigkill,
    Removed,
    NeverStarts,
}

const FAULTS: [Fault; 5] =
    [Fault::StopsReading, Fault::Sigstop, Fault::Sigkill, Fault::Removed, Fault::NeverStarts];

const POLICIES: [Policy; 3] = [Policy::DropOldest, Policy::DropNewest, Policy::Latest];

/// One sender under full load, one receiver that must get every message in order, and others
/// to which something happens.
fn faults_harm_themselves_alone(seed: u64) {
    let mut random = Random::new(seed);
    let daemon = Daemon::start();
    let (source, good) = (daemon.put("source"), daemon.put("good"));
    let good_link = daemon.link_with("source", PING, "good", Policy::Block, 64);
    let mut others = Vec::new();
    for (n, fault) in FAULTS.into_iter().enumerate() {
        let name = format!("r{n}");
        let trace = binary("trace");
        let id = daemon.add([trace.to_str().unwrap(), "--name", &name]);
        let policy = POLICIES[random.below(3)];
        let capacity = 1 + u32::try_from(random.below(2000)).unwrap();
        let link = daemon.link_with("source", PING, &name, policy, capacity);
        if matches!(fault, Fault::Sigstop | Fault::Sigkill | Fault::Removed) {
            daemon.ok(["runtime", "start", &name]);
            daemon.declared(&name, PING);
        }
        others.push((fault, name, id, link));
    }
    let stuck = others.iter().find(|o| matches!(o.0, Fault::StopsReading));
    let mut stuck = daemon.native(&stuck.unwrap().2);
    stuck.declare(0, Direction::Input, PING, &ping(), 0);
    let mut receiver = daemon.native(&good);
    receiver.declare(0, Direction::Input, PING, &ping(), 0);
    let mut sender = daemon.native(&source);
    sender.declare(0, Direction::Output, PING, &ping(), 0);

    let (stop, received) = (AtomicBool::new(false), AtomicU32::new(0));
    let sent = std::thread::scope(|scope| {
        let sending = scope.spawn(|| sender.numbers_until(|| stop.load(Ordering::Relaxed)));
        let reading = scope.spawn(|| {
            for expected in 0.. {
                match receiver.next_number().expect("the good one stays connected") {
                    u32::MAX => return expected,
                    number => assert_eq!(number, expected),
                }
                received.store(expected, Ordering::Relaxed);
            }
            unreachable!("the sender ends");
        });
        let mut left = Vec::from_iter(&others);
        while !left.is_empty() {
            let before = received.load(Ordering::Relaxed);
            let (fault, name, ..) = left.swap_remove(random.below(left.len()));
            let pid = || daemon.info(name).observed.pid().unwrap();
            match fault {
                Fault::Sigstop => processes::signal(pid(), Signal::SIGSTOP),
                Fault::Sigkill => processes::signal(pid(), Signal::SIGKILL),
                Fault::Removed => {
                    let request =
                        Request::RuntimeRemove { instance: name.as_str().into(), force: true };
                    daemon.request(request).unwrap();
                }
                Fault::StopsReading | Fault::NeverStarts => {}
            }
            for link in daemon.links() {
                tests::routing::assert_adds_up(&link.counters);
            }
            daemon.status();
            eventually("the good receiver goes on", || {
                (received.load(Ordering::Relaxed) >= before + 2000).then_some(())
            });
        }
        stop.store(true, Ordering::Relaxed);
        let sent = sending.join().unwrap();
        assert_eq!(reading.join().unwrap(), sent);
        sent
    });
    let total = u64::from(sent) + 1;
    assert_eq!(daemon.settled(good_link, total).dropped, 0);
    for (fault, name, _, link) in &others {
        if matches!(fault, Fault::Removed) {
            assert!(daemon.links().iter().all(|info| info.id != *link));
            continue;
        }
        let counters = daemon.given(*link, total);
        if matches!(fault, Fault::NeverStarts) {
            assert_eq!(counters.delivered, 0);
        }
        if matches!(fault, Fault::Sigstop) {
            let pid = daemon.info(name).observed.pid().unwrap();
            processes::signal(pid, Signal::SIGCONT);
            daemon.settled(*link, total);
        }
    }
}

#[test]
fn receivers_that_fail_in_any_order_harm_themselves_alone_1() {
    faults_harm_themselves_alone(1);
}

#[test]
fn receivers_that_fail_in_any_order_harm_themselves_alone_2() {
    faults_harm_themselves_alone(2);
}

#[test]
fn receivers_that_fail_in_any_order_harm_themselves_alone_3() {
    faults_harm_themselves_alone(3);
}

/// A receiver that connects again and again under full load, either after its last connection
/// has ended or while it ends.
fn comes_back(wait_for_the_end: bool) {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link_with("a", "n", "b", Policy::Block, 256);
    let mut sender = daemon.sender(&a, "n");
    let stop = AtomicBool::new(false);
    let (total, received) = std::thread::scope(|scope| {
        let sending = scope.spawn(|| sender.numbers_until(|| stop.load(Ordering::Relaxed)) + 1);
        let mut random = Random::new(7);
        let mut received = Vec::new();
        for _ in 0..8 {
            let mut receiver = daemon.receiver(&b, "n");
            received.extend(receiver.take_numbers(1 + random.below(10_000)));
            daemon.counters(link);
            drop(receiver);
            if wait_for_the_end {
                daemon.connections("b", 0);
            }
        }
        let mut receiver = daemon.receiver(&b, "n");
        received.push(receiver.next_number().unwrap());
        stop.store(true, Ordering::Relaxed);
        while received.last() != Some(&u32::MAX) {
            received.push(receiver.next_number().unwrap());
        }
        (sending.join().unwrap(), received)
    });
    let counters = daemon.settled(link, total.into());
    // What is missing was with the kernel when a connection ended: delivered, as it is defined.
    assert_eq!((counters.delivered, counters.dropped), (total.into(), 0));
    for pair in received.windows(2) {
        assert!(pair[0] < pair[1], "in order, none twice: {pair:?}");
    }
}

#[test]
fn after_a_receiver_comes_back_delivery_goes_on_and_the_counters_add_up() {
    comes_back(true);
}

#[test]
fn a_connection_that_replaces_one_that_is_ending_goes_on_in_order() {
    comes_back(false);
}

#[test]
fn of_two_connections_the_newest_gets_messages_and_the_older_one_when_it_is_gone() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link("a", "n", "b");
    let mut sender = daemon.sender(&a, "n");
    let mut older = daemon.receiver(&b, "n");
    sender.number(1);
    assert_eq!(older.next_number(), Some(1));
    let mut newer = daemon.receiver(&b, "n");
    assert_eq!(newer.next(|frame| matches!(frame, Frame::Welcome { .. })), Some(true));
    daemon.connections("b", 2);
    sender.numbers(2..5);
    assert_eq!(newer.take_numbers(3), [2, 3, 4]);
    assert!(older.is_silent_for(Duration::from_millis(50)));
    drop(newer);
    daemon.connections("b", 1);
    sender.numbers(5..8);
    assert_eq!(older.take_numbers(3), [5, 6, 7]);
    // The older one can go first, too.
    let mut newest = daemon.receiver(&b, "n");
    daemon.connections("b", 2);
    drop(older);
    daemon.connections("b", 1);
    sender.number(8);
    assert_eq!(newest.next_number(), Some(8));
    assert_eq!(daemon.settled(link, 8).dropped, 0);
}

#[test]
fn connections_of_one_instance_are_bounded_and_a_free_place_is_used_again() {
    let daemon = Daemon::start();
    let a = daemon.put("a");
    let open: Vec<_> = (0..16).map(|_| daemon.native(&a)).collect();
    daemon.connections("a", 16);
    let mut refused = daemon.native(&a);
    assert_eq!(refused.next(|_| ()), None);
    drop(open);
    daemon.connections("a", 0);
    let mut next = daemon.native(&a);
    assert_eq!(next.next(|frame| matches!(frame, Frame::Welcome { .. })), Some(true));
}

#[test]
fn a_sender_that_is_killed_in_the_middle_of_a_frame_leaves_whole_messages_only() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link("a", "n", "b");
    let mut receiver = daemon.receiver(&b, "n");
    for round in 0..20 {
        let mut sender = daemon.sender(&a, "n");
        sender.number(round);
        std::io::Write::write_all(&mut sender.stream, &[9, 0, 0, 0, 4, 0]).unwrap();
        drop(sender);
        assert_eq!(receiver.next_number(), Some(round));
    }
    assert_eq!(daemon.settled(link, 20).delivered, 20);
    assert_eq!(daemon.detail("a").protocol_errors, 0);
}

#[test]
fn a_restarted_example_gets_what_waited_for_it() {
    let daemon = Daemon::start();
    let pong = binary("pong");
    daemon.add([pong.to_str().unwrap(), "--name", "pong"]);
    let source = daemon.put("source");
    let link = daemon.link("source", PING, "pong");
    let mut sender = daemon.native(&source);
    sender.declare(0, Direction::Output, PING, &ping(), 0);
    for round in 0..5 {
        daemon.ok(["runtime", "start", "pong"]);
        sender.number(2 * round);
        daemon.prints("pong", &format!("received ping {}", 2 * round));
        let pid = daemon.info("pong").observed.pid().unwrap();
        processes::signal(pid, Signal::SIGKILL);
        daemon.connections("pong", 0);
        eventually("it is seen to be dead", || {
            daemon.info("pong").observed.pid().is_none().then_some(())
        });
        sender.number(2 * round + 1);
        daemon.given(link, u64::from(2 * round + 2));
    }
    daemon.ok(["runtime", "start", "pong"]);
    daemon.prints("pong", "received ping 9");
    let printed = daemon.printed("pong");
    let received = printed.lines().filter_map(|l| l.strip_prefix("received ping "));
    let received: Vec<u32> = received.map(|n| n.parse().unwrap()).collect();
    assert_eq!(received, Vec::from_iter(0..10));
    assert_eq!(daemon.settled(LinkId(1), 10).delivered, 10);
}
