//! Links between native instances: making and removing them, policies, counters.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use orchestrator_proto::control::{Counters, EventKind, Policy, Reply, Request};
use orchestrator_proto::runtime::Direction;
use orchestrator_proto::{ErrorCode, LinkId, TypeSchema};
use tests::native::Native;
use tests::{Daemon, binary, eventually};

const PING: &str = "examples.ping.v1";
const PONG: &str = "examples.pong.v1";

fn add_example(daemon: &Daemon, name: &str, args: &[&str]) -> String {
    let path = binary(name);
    let mut all = vec![path.to_str().unwrap(), "--name", name, "--"];
    all.extend(args);
    daemon.add(all)
}

fn link(daemon: &Daemon, from: &str, type_name: &str, to: &str) {
    daemon.ok(["link", "add", "--from", from, "--type", type_name, "--to", to]);
}

#[test]
fn the_examples_exchange_messages() {
    let daemon = Daemon::start();
    add_example(&daemon, "ping", &["--interval-ms", "2"]);
    add_example(&daemon, "pong", &[]);
    add_example(&daemon, "trace", &[]);
    link(&daemon, "ping", PING, "pong");
    link(&daemon, "pong", PONG, "ping");
    daemon.ok(["link", "add", "--type", PING, "--to", "trace"]);
    daemon.ok(["link", "add", "--type", PONG, "--to", "trace"]);
    daemon.ok(["runtime", "start", "trace", "pong", "ping"]);
    daemon.prints("ping", "received pong 20");
    daemon.prints("pong", "received ping 20");
    daemon.prints("trace", "ping 20");
    daemon.prints("trace", "pong 20");
    daemon.ok(["runtime", "stop", "ping"]);
    // What it had sent before its end is read until then.
    daemon.connections("ping", 0);
    // Each ping is answered. What went over a lane is known when its receiver has read it. Who is
    // killed may have written its last message to one lane and not to the other.
    let sent = eventually("all agree on how many were sent", || {
        let links = daemon.links();
        let [to_pong, to_trace, answers] = [1, 3, 4].map(|id| {
            let link = links.iter().find(|link| link.id == LinkId(id)).unwrap();
            let Counters { sent, delivered, dropped, .. } = link.counters;
            ((sent, 0) == (delivered, dropped)).then_some(sent)
        });
        let (to_pong, to_trace, answers) = (to_pong?, to_trace?, answers?);
        let is_answered = to_pong == answers && to_pong.abs_diff(to_trace) <= 1;
        let sent = daemon.detail("ping").sent;
        (is_answered && sent == to_pong.max(to_trace)).then_some(to_pong)
    });
    assert!(sent > 20);
    // The last pongs may find no ping any more, and wait.
    assert_eq!(daemon.given(LinkId(2), sent).dropped, 0);
}

#[test]
fn the_example_that_writes_the_protocol_itself_answers_the_one_in_rust() {
    let daemon = Daemon::start();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/python/wire_pong.py");
    let id = daemon.add(["/usr/bin/env", "--name", "pong", "--", "python3", script]);
    add_example(&daemon, "ping", &["--interval-ms", "2"]);
    link(&daemon, "ping", PING, &id);
    link(&daemon, &id, PONG, "ping");
    daemon.ok(["runtime", "start", "pong", "ping"]);
    daemon.prints("ping", "received pong 100");
    daemon.prints("pong", "sent pong 100");
}

#[test]
fn messages_for_an_instance_that_does_not_run_yet_wait_for_it() {
    let daemon = Daemon::start();
    add_example(&daemon, "ping", &["--interval-ms", "1", "--count", "5"]);
    add_example(&daemon, "pong", &[]);
    link(&daemon, "ping", PING, "pong");
    daemon.ok(["runtime", "start", "ping"]);
    daemon.exited("ping");
    assert_eq!(daemon.given(LinkId(1), 5).queued, 5);
    daemon.ok(["runtime", "start", "pong"]);
    daemon.prints("pong", "received ping 4");
    let printed = daemon.printed("pong");
    let received: Vec<_> = printed.lines().filter(|l| l.contains("received")).collect();
    let expected = [0, 1, 2, 3, 4].map(|n| format!("received ping {n}"));
    assert_eq!(received, expected);
    assert_eq!(daemon.settled(LinkId(1), 5).delivered, 5);
}

#[test]
fn a_link_that_is_made_before_its_type_is_known_carries_from_the_first_message() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link("a", "n", "b");
    let mut receiver = daemon.receiver(&b, "n");
    let mut sender = daemon.sender(&a, "n");
    sender.numbers(0..10);
    assert_eq!(receiver.take_numbers(10), Vec::from_iter(0..10));
    assert_eq!(daemon.settled(link, 10).delivered, 10);
}

#[test]
fn a_link_that_is_made_after_messages_were_sent_carries_the_later_ones() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let mut sender = daemon.sender(&a, "n");
    let mut receiver = daemon.receiver(&b, "n");
    sender.numbers(0..10);
    eventually("ten messages are known", || (daemon.detail("a").sent == 10).then_some(()));
    assert_eq!(daemon.detail("a").unrouted, 10);
    let link = daemon.link("a", "n", "b");
    sender.numbers(10..20);
    assert_eq!(receiver.take_numbers(10), Vec::from_iter(10..20));
    assert_eq!(daemon.settled(link, 10).delivered, 10);
    assert_eq!(daemon.detail("a").unrouted, 10);
}

#[test]
fn links_that_come_and_go_under_traffic_lose_nothing_in_between_and_disturb_no_other() {
    let daemon = Daemon::start();
    let (a, b, c) = (daemon.put("a"), daemon.put("b"), daemon.put("c"));
    let steady = daemon.link_with("a", "n", "b", Policy::Block, 64);
    let mut steady_receiver = daemon.receiver(&b, "n");
    let mut other_receiver = daemon.receiver(&c, "n");
    let mut sender = daemon.sender(&a, "n");
    let stop = AtomicBool::new(false);
    let (total, seen, delivered) = std::thread::scope(|scope| {
        // Its mark for the end comes after the last link to `c` is made.
        let sending = scope.spawn(|| sender.numbers_until(|| stop.load(Ordering::Relaxed)));
        let steady_reading = scope.spawn(|| {
            let numbers = std::iter::from_fn(|| steady_receiver.next_number());
            let mut expected = 0;
            for number in numbers.take_while(|number| *number != u32::MAX) {
                assert_eq!(number, expected);
                expected += 1;
            }
            expected
        });
        let other_reading = scope.spawn(|| {
            let numbers = std::iter::from_fn(|| other_receiver.next_number());
            Vec::from_iter(numbers.take_while(|number| *number != u32::MAX))
        });
        let mut delivered = 0;
        for round in 0..20 {
            let link = daemon.link_with("a", "n", "c", Policy::Block, 32);
            eventually("messages pass", || (daemon.counters(link).delivered >= 10).then_some(()));
            if round == 19 {
                stop.store(true, Ordering::Relaxed);
            } else {
                let before = daemon.counters(link);
                daemon.request(Request::LinkRemove { link }).unwrap();
                delivered += before.delivered;
            }
        }
        let total = sending.join().unwrap();
        assert_eq!(steady_reading.join().unwrap(), total);
        (total, other_reading.join().unwrap(), delivered)
    });
    assert!(seen.is_sorted_by(|a, b| a < b), "in order and none twice");
    assert!(seen.len() as u64 >= delivered);
    let gaps = seen.windows(2).filter(|pair| pair[1] != pair[0] + 1);
    assert!(gaps.count() <= 19, "only where there was no link");
    let counters = daemon.settled(steady, u64::from(total) + 1);
    assert_eq!(counters.dropped, 0);
    assert_eq!(daemon.links().len(), 2);
}

#[test]
fn the_same_link_twice_is_one_link_and_says_so() {
    let daemon = Daemon::start();
    daemon.put("a");
    daemon.put("b");
    let add = ["link", "add", "--from", "a", "--type", "n", "--to", "b"];
    assert_eq!(daemon.ok(add), "added link 1\n");
    assert_eq!(daemon.ok(add), "link 1 was there already\n");
    let mut latest = add.to_vec();
    latest.extend(["--policy", "latest", "--capacity", "7"]);
    let said = daemon.cli(&latest);
    assert_eq!(said.code, Some(1), "{said:?}");
    for part in ["link 1", "drop-oldest", "1024", "link set 1"] {
        assert!(said.stderr.contains(part), "{part}: {said:?}");
    }
    let refused = daemon.try_link("a", "n", "b", Policy::DropOldest, 1023);
    assert_eq!(refused.unwrap_err().code, ErrorCode::AlreadyExists);
    assert_eq!(daemon.links().len(), 1);
    // Under `latest` the capacity is one, whatever was said.
    daemon.ok(["link", "remove", "1"]);
    assert_eq!(daemon.ok(&latest), "added link 2\n");
    assert_eq!(daemon.ok(&latest[..10]), "link 2 was there already\n");
    assert_eq!(daemon.links()[0].capacity, 1);
}

#[test]
fn a_link_needs_ends_that_exist_a_name_and_a_capacity() {
    let daemon = Daemon::start();
    daemon.put("a");
    let too_long = "x".repeat(256);
    let code = |from, type_name, to, capacity| {
        let result = daemon.try_link(from, type_name, to, Policy::Block, capacity);
        result.unwrap_err().code
    };
    assert_eq!(code("a", "n", "nobody", 1), ErrorCode::NotFound);
    assert_eq!(code("nobody", "n", "a", 1), ErrorCode::NotFound);
    assert_eq!(code("a", "", "a", 1), ErrorCode::InvalidArgument);
    assert_eq!(code("a", &too_long, "a", 1), ErrorCode::InvalidArgument);
    assert_eq!(code("a", "n", "a", 0), ErrorCode::InvalidArgument);
    assert_eq!(code("a", "n", "a", (1 << 20) + 1), ErrorCode::InvalidArgument);
    let removed = daemon.cli(["link", "remove", "7"]);
    assert_eq!(removed.code, Some(3), "{removed:?}");
    assert!(daemon.links().is_empty());
}

#[test]
fn an_instance_can_be_linked_to_itself() {
    let daemon = Daemon::start();
    let a = daemon.put("a");
    let link = daemon.link("a", "n", "a");
    let mut native = daemon.receiver(&a, "n");
    native.declare(1, Direction::Output, "n", &TypeSchema::U32, 0);
    for n in 0..100_u32 {
        native.message(1, &postcard::to_stdvec(&n).unwrap());
    }
    assert_eq!(native.take_numbers(100), Vec::from_iter(0..100));
    assert_eq!(daemon.settled(link, 100).delivered, 100);
}

/// Sends numbers to a receiver that is not there; what waits then is what is delivered.
fn kept(policy: Policy, capacity: u32, sent: u32) -> Vec<u32> {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link_with("a", "n", "b", policy, capacity);
    let mut sender = daemon.sender(&a, "n");
    sender.numbers(0..sent);
    let counters = daemon.given(link, sent.into());
    assert_eq!(counters.delivered, 0);
    assert_eq!(counters.drops.full, counters.dropped);
    let mut receiver = daemon.receiver(&b, "n");
    let kept = receiver.take_numbers(usize::try_from(counters.queued).unwrap());
    assert!(receiver.is_silent_for(Duration::from_millis(50)));
    let settled = daemon.settled(link, sent.into());
    assert_eq!(settled.delivered, counters.queued);
    assert_eq!(settled.dropped, counters.dropped);
    kept
}

#[test]
fn drop_oldest_keeps_the_newest() {
    assert_eq!(kept(Policy::DropOldest, 10, 100), Vec::from_iter(90..100));
    assert_eq!(kept(Policy::DropOldest, 10, 7), Vec::from_iter(0..7));
    assert_eq!(kept(Policy::DropOldest, 1, 3), [2]);
}

#[test]
fn drop_newest_keeps_the_oldest() {
    assert_eq!(kept(Policy::DropNewest, 10, 100), Vec::from_iter(0..10));
}

#[test]
fn latest_keeps_one() {
    assert_eq!(kept(Policy::Latest, 10, 100), [99]);
}

#[test]
fn the_capacity_is_1024_unless_said_otherwise() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    link(&daemon, "a", "n", "b");
    assert_eq!(daemon.links()[0].capacity, 1024);
    let mut sender = daemon.sender(&a, "n");
    sender.numbers(0..2000);
    let counters = daemon.given(LinkId(1), 2000);
    assert_eq!((counters.queued, counters.drops.full), (1024, 976));
    let mut receiver = daemon.receiver(&b, "n");
    assert_eq!(receiver.take_numbers(1024), Vec::from_iter(976..2000));
}

/// Sends `total` numbers on channel 0 and never more than was granted.
fn send_as_granted(sender: &mut Native, total: u64) {
    let (mut sent, mut limit) = (0, 0);
    while sent < total {
        while sent >= limit {
            let (channel, total) = sender.next_grant().expect("the daemon grants");
            assert_eq!(channel, 0);
            assert!(total >= limit, "grants never decrease");
            limit = total;
        }
        let end = limit.min(total);
        sender.numbers(u32::try_from(sent).unwrap()..u32::try_from(end).unwrap());
        sent = end;
    }
}

#[test]
fn block_loses_nothing_and_never_queues_more_than_its_capacity() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link_with("a", "n", "b", Policy::Block, 8);
    let mut sender = daemon.sender(&a, "n");
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| send_as_granted(&mut sender, 5000));
        assert_eq!(daemon.given(link, 8).queued, 8);
        let mut receiver = daemon.receiver_with_window(&b, "n", 4);
        let mut granted = 4;
        for n in 0..5000 {
            assert_eq!(receiver.next_number(), Some(n));
            if n + 1 == granted {
                // The reader takes its time: nothing more comes meanwhile.
                if n < 100 {
                    eventually("all that was granted is delivered", || {
                        let counters = daemon.counters(link);
                        assert!(counters.queued <= 8, "{counters:?}");
                        (counters.delivered == u64::from(granted)).then_some(())
                    });
                }
                granted += 4;
                receiver.send(&orchestrator_proto::runtime::Frame::Grant {
                    channel: 0,
                    total: granted.into(),
                });
            }
        }
        sending.join().unwrap();
    });
    let counters = daemon.settled(link, 5000);
    assert_eq!((counters.delivered, counters.dropped), (5000, 0));
}

#[test]
fn block_to_several_receivers_never_stops_for_good() {
    let daemon = Daemon::start();
    let a = daemon.put("a");
    let (mut receivers, mut links) = (Vec::new(), Vec::new());
    for n in 0..4 {
        let id = daemon.put(&format!("r{n}"));
        links.push(daemon.link_with("a", "n", &id, Policy::Block, 2));
        receivers.push(daemon.receiver(&id, "n"));
    }
    let mut sender = daemon.sender(&a, "n");
    std::thread::scope(|scope| {
        scope.spawn(|| send_as_granted(&mut sender, 10_000));
        for mut receiver in receivers {
            scope.spawn(move || {
                assert_eq!(receiver.take_numbers(10_000), Vec::from_iter(0..10_000));
            });
        }
    });
    for link in links {
        assert_eq!(daemon.settled(link, 10_000).dropped, 0);
    }
}

#[test]
fn block_ends_with_its_link() {
    let daemon = Daemon::start();
    let a = daemon.put("a");
    daemon.put("b");
    let mut sender = daemon.sender(&a, "n");
    daemon.declared("a", "n");
    let link = daemon.link_with("a", "n", "b", Policy::Block, 3);
    assert_eq!(sender.next_grant(), Some((0, 3)));
    sender.numbers(0..3);
    daemon.given(link, 3);
    assert_eq!(
        daemon.ok(["link", "remove", "1"]),
        "removed link 1 and dropped 3 waiting messages\n"
    );
    let unlimited = Some((0, orchestrator_proto::runtime::UNLIMITED));
    assert_eq!(sender.next_grant(), unlimited);
    // Made again, it counts from what was sent so far.
    daemon.link_with("a", "n", "b", Policy::Block, 5);
    let mut grants = std::iter::from_fn(|| Some(sender.next_grant()));
    assert_eq!(grants.find(|grant| *grant != unlimited), Some(Some((0, 8))));
}

#[test]
fn block_holds_back_the_sender_on_that_output_only() {
    let daemon = Daemon::start();
    let (a, b, c) = (daemon.put("a"), daemon.put("b"), daemon.put("c"));
    let stuck = daemon.link_with("a", "n", "b", Policy::Block, 4);
    let free = daemon.link_with("a", "m", "c", Policy::Block, 16);
    let _never_reads = daemon.receiver_with_window(&b, "n", 2);
    let mut receiver = daemon.receiver(&c, "m");
    let mut sender = daemon.sender(&a, "n");
    sender.declare(1, Direction::Output, "m", &TypeSchema::U32, 0);
    let (mut sent, mut limits) = ([0_u64; 2], [0_u64; 2]);
    // Two are delivered to the one that never reads, and four wait.
    while sent != [6, 1000] {
        while sent[0] >= limits[0].min(6) && sent[1] >= limits[1].min(1000) {
            let (channel, total) = sender.next_grant().expect("the daemon grants");
            limits[usize::from(channel)] = total;
        }
        for channel in [0, 1] {
            let at = usize::from(channel);
            while sent[at] < limits[at].min(1000) {
                sender.message(channel, &postcard::to_stdvec(&sent[at]).unwrap());
                sent[at] += 1;
            }
        }
    }
    assert_eq!(receiver.take_numbers(1000), Vec::from_iter(0..1000));
    let counters = daemon.given(stuck, 6);
    assert_eq!((counters.delivered, counters.queued), (2, 4));
    assert_eq!((limits[0], daemon.settled(free, 1000).dropped), (6, 0));
}

#[test]
fn a_sender_that_ignores_its_grants_waits_in_its_own_socket_and_loses_nothing() {
    let daemon = Daemon::start();
    let (a, b, c) = (daemon.put("a"), daemon.put("b"), daemon.put("c"));
    let link = daemon.link_with("a", "n", "b", Policy::Block, 4);
    let other = daemon.link("c", "n", "b");
    let total = 100_000;
    let mut sender = daemon.sender(&a, "n");
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            for start in (0..total).step_by(100) {
                sender.numbers(start..start + 100);
            }
        });
        eventually("the sender is held back", || (daemon.counters(link).queued >= 4).then_some(()));
        // Others are not.
        let mut second = daemon.sender(&c, "n");
        second.numbers(0..10);
        assert_eq!(daemon.given(other, 10).queued, 10);
        assert!(daemon.counters(link).sent < u64::from(total));
        let mut receiver = daemon.receiver(&b, "n");
        let numbers = receiver.take_numbers(total as usize + 10);
        sending.join().unwrap();
        assert_eq!(numbers.len(), total as usize + 10);
    });
    assert_eq!(daemon.settled(link, total.into()).dropped, 0);
}

#[test]
fn one_output_reaches_one_to_eight_receivers() {
    let daemon = Daemon::start();
    let a = daemon.put("a");
    let mut sender = daemon.sender(&a, "n");
    let (mut receivers, mut links, mut next) = (Vec::new(), Vec::new(), 0);
    for fan_out in 1..=8_u32 {
        let id = daemon.put(&format!("r{fan_out}"));
        links.push((daemon.link("a", "n", &id), next));
        receivers.push(daemon.receiver(&id, "n"));
        sender.numbers(next..next + 500);
        for receiver in &mut receivers {
            let expected = Vec::from_iter(next..next + 500);
            assert_eq!(receiver.take_numbers(500), expected);
        }
        next += 500;
    }
    for (link, since) in links {
        let counters = daemon.settled(link, u64::from(next - since));
        assert_eq!(counters.dropped, 0);
    }
}

#[test]
fn a_link_from_anybody_takes_from_all_but_only_its_type() {
    let daemon = Daemon::start();
    let (a, b, c) = (daemon.put("a"), daemon.put("b"), daemon.put("c"));
    let link = daemon.link("any", "n", "c");
    let mut receiver = daemon.receiver(&c, "n");
    let (mut first, mut second) = (daemon.sender(&a, "n"), daemon.sender(&b, "n"));
    first.declare(1, Direction::Output, "m", &TypeSchema::U32, 0);
    first.message(1, &[9]);
    first.number(1);
    second.number(2);
    let mut numbers = receiver.take_numbers(2);
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2]);
    assert_eq!(daemon.settled(link, 2).delivered, 2);
    assert_eq!(daemon.detail("a").unrouted, 1);
}

#[test]
fn the_window_of_an_input_is_kept_to() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link("a", "n", "b");
    let mut receiver = daemon.receiver_with_window(&b, "n", 10);
    let mut sender = daemon.sender(&a, "n");
    sender.numbers(0..100);
    assert_eq!(receiver.take_numbers(10), Vec::from_iter(0..10));
    assert!(receiver.is_silent_for(Duration::from_millis(50)));
    eventually("ten are delivered and all others wait", || {
        let counters = daemon.counters(link);
        ((counters.delivered, counters.queued) == (10, 90)).then_some(())
    });
    let grant = |total| orchestrator_proto::runtime::Frame::Grant { channel: 0, total };
    receiver.send(&grant(25));
    assert_eq!(receiver.take_numbers(15), Vec::from_iter(10..25));
    assert!(receiver.is_silent_for(Duration::from_millis(50)));
    // A grant never takes anything back.
    receiver.send(&grant(5));
    receiver.send(&grant(26));
    assert_eq!(receiver.take_numbers(1), [25]);
    receiver.send(&grant(orchestrator_proto::runtime::UNLIMITED));
    assert_eq!(receiver.take_numbers(74), Vec::from_iter(26..100));
    assert_eq!(daemon.settled(link, 100).delivered, 100);
}

#[test]
fn messages_wait_for_an_input_that_is_not_declared_yet_and_hold_up_no_other() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let undeclared = daemon.link("a", "n", "b");
    let declared = daemon.link("a", "m", "b");
    let mut receiver = daemon.receiver(&b, "m");
    let mut sender = daemon.sender(&a, "n");
    sender.declare(1, Direction::Output, "m", &TypeSchema::U32, 0);
    sender.numbers(0..5);
    sender.message(1, &[42]);
    assert_eq!(receiver.take_numbers(1), [42]);
    assert_eq!(daemon.given(undeclared, 5).queued, 5);
    assert_eq!(daemon.settled(declared, 1).delivered, 1);
    receiver.declare(7, Direction::Input, "n", &TypeSchema::U32, 0);
    for n in 0..5 {
        assert_eq!(receiver.next_message(), Some((7, vec![n])));
    }
}

#[test]
fn an_instance_takes_its_links_along_when_it_is_removed_and_says_so() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    daemon.put("c");
    daemon.link("a", "n", "b");
    daemon.link("b", "n", "c");
    daemon.link("a", "n", "c");
    let mut sender = daemon.sender(&a, "n");
    let mut gone = daemon.receiver(&b, "n");
    daemon.declared("b", "n");
    assert_eq!(
        daemon.ok(["runtime", "remove", "b"]),
        format!("removed instance {b} with links 1, 2\n")
    );
    let links = daemon.event("removed", |event| match event.kind {
        EventKind::Removed { links } => Some(links),
        _ => None,
    });
    assert_eq!(links, 2);
    assert_eq!(gone.next(|_| ()).and_then(|()| gone.next(|_| ())), None);
    assert!(!daemon.native_socket(&b).exists());
    assert!(!daemon.veecle_socket(&b).exists());
    sender.numbers(0..3);
    assert_eq!(daemon.given(LinkId(3), 3).queued, 3);
    assert_eq!(daemon.links().len(), 1);
    match daemon.request(Request::Clear { force: false }).unwrap() {
        Reply::Cleared { runtimes, links } => assert_eq!((runtimes, links), (2, 1)),
        other => panic!("{other:?}"),
    }
}
