//! `block` with a timeout.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use orchestrator_proto::control::{Counters, Policy};
use orchestrator_proto::runtime::Frame;
use orchestrator_proto::sdk::{Runtime, Schema};
use orchestrator_proto::{LinkId, Message};
use serde::{Deserialize, Serialize};
use tests::{Daemon, eventually};

use super::case::{Case, Dialect, Out};
use super::stage::{End, Stage};

#[derive(Serialize, Deserialize, Schema, Message)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
#[message(name = "n")]
struct Number(u32);

/// A link with this timeout and a capacity of 4.
fn link(daemon: &Daemon, timeout: &str) -> LinkId {
    daemon.ok([
        "link",
        "add",
        "--from",
        "a",
        "--type",
        "n",
        "--to",
        "b",
        "--policy",
        "block",
        "--capacity",
        "4",
        "--block-timeout",
        timeout,
    ]);
    daemon.links()[0].id
}

/// How many the sender was told are dropped.
fn told_dropped(sender: &mut Out, wanted: u64) {
    if let Out::Python { .. } = sender {
        return eventually("it is told", || (sender.dropped() == Some(wanted)).then_some(()));
    }
    let Out::Native { native, granted, .. } = sender else { return };
    loop {
        let total = native.next(|frame| match frame {
            Frame::Dropped { channel: 0, total } => Some(total),
            Frame::Grant { channel: 0, total } => {
                *granted = total;
                None
            }
            _ => None,
        });
        match total.expect("the connection stays") {
            Some(total) if total == wanted => return,
            Some(total) => assert!(total < wanted, "{total}"),
            None => {}
        }
    }
}

/// L29, L30, L31, L32.
pub(crate) fn a_sender_is_let_go_after_the_timeout(case: Case) {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = link(&daemon, "100ms");
    let mut sender = case.sender(&daemon, &a);
    if let Out::Native { native, .. } = &mut sender {
        native.send(&Frame::Report { channel: 0 });
    }
    let began = Instant::now();
    // More than there is room for, as it is let go.
    sender.send_as_granted(0..24);
    let Counters { queued, drops, dropped, .. } = daemon.given(link, 24);
    assert_eq!((queued, dropped), (4, 20), "{case:?}");
    if case.can_wait() {
        assert!(began.elapsed() >= Duration::from_millis(100), "{case:?}");
        assert_eq!(drops.timed_out, 20, "{case:?}");
        told_dropped(&mut sender, 20);
    } else {
        assert_eq!(drops.full, 20, "{case:?}");
    }
    // When there is room it goes on as if nothing had been.
    let mut receiver = case.receiver(&daemon, &b);
    assert_eq!(receiver.take(4), [0, 1, 2, 3], "{case:?}");
    eventually("there is room", || (daemon.counters(link).delivered == 4).then_some(()));
    for at in 24..200 {
        sender.send_as_granted(at..at + 1);
        assert_eq!(receiver.next(), Some(at), "{case:?}");
    }
    assert_eq!(daemon.settled(link, 200).dropped, 20, "{case:?}");
}

/// L30: who finds room in time loses nothing, however often it had to wait for it.
pub(crate) fn nothing_is_dropped_within_the_timeout(case: Case) {
    if !case.can_wait() {
        return;
    }
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = link(&daemon, "1h");
    let mut sender = case.sender(&daemon, &a);
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| sender.send_as_granted(0..1000));
        daemon.given(link, 4);
        let mut receiver = case.receiver(&daemon, &b);
        assert_eq!(receiver.take(1000), Vec::from_iter(0..1000), "{case:?}");
        sending.join().unwrap();
    });
    assert_eq!(daemon.settled(link, 1000).dropped, 0);
}

/// L29, L30: also of who is held back already.
pub(crate) fn a_timeout_may_change_while_a_sender_is_held_back(case: Case) {
    if !case.can_wait() {
        return;
    }
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = link(&daemon, "0");
    let mut sender = case.sender(&daemon, &a);
    sender.send_as_granted(0..4);
    daemon.given(link, 4);
    assert_eq!(sender.granted(), Some(4), "held back without end");
    let set = |time: &str| daemon.ok(["link", "set", &link.to_string(), "--block-timeout", time]);
    set("1h");
    assert_eq!(sender.granted(), Some(4), "held back for an hour");
    set("10ms");
    sender.send_as_granted(4..30);
    assert_eq!(daemon.given(link, 30).drops.timed_out, 26);
    // Held back without end again.
    set("0");
    assert_eq!(daemon.links()[0].block_timeout.0, 0);
    let mut receiver = case.receiver(&daemon, &b);
    assert_eq!(receiver.take(4), [0, 1, 2, 3]);
    sender.send_as_granted(30..60);
    assert_eq!(receiver.take(30), Vec::from_iter(30..60));
    assert_eq!(daemon.settled(link, 60).drops.timed_out, 26);
}

/// L31, with the SDK.
pub(crate) fn the_sdk_knows_what_was_dropped(case: Case) {
    if !case.can_wait() {
        return;
    }
    let daemon = Daemon::start();
    let (a, _) = (daemon.put("a"), daemon.put("b"));
    let link = link(&daemon, "20ms");
    if case.from == Dialect::Python {
        let mut sender = case.sender(&daemon, &a);
        sender.send_as_granted(0..3000);
        let counters = daemon.given(link, 3000);
        assert!(counters.drops.timed_out >= 3000 - 1024 - 4, "{counters:?}");
        return told_dropped(&mut sender, counters.dropped);
    }
    let peers = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let peers = peers.unwrap();
    let runtime = peers.block_on(Runtime::connect_to(daemon.native_socket(&a))).unwrap();
    let output = runtime.output::<Number>().unwrap();
    peers.block_on(async {
        // More than it may send before it knows of the link.
        for number in 0..3000 {
            output.send(&Number(number)).await.unwrap();
        }
        runtime.flush().await.unwrap();
    });
    let counters = daemon.given(link, 3000);
    assert!(counters.drops.timed_out >= 3000 - 1024 - 4, "{counters:?}");
    eventually("it is told", || (output.dropped() == counters.dropped).then_some(()));
}

/// L4, L29, L30, with processes: every message is accounted for.
pub(crate) fn a_receiver_that_hangs_costs_its_sender_the_timeout_once(case: Case) {
    let stage = Stage::new(case, Policy::Block, 16);
    let set = |time: &str| {
        let link = stage.link.to_string();
        stage.daemon.ok(["link", "set", &link, "--block-timeout", time]);
    };
    set("20ms");
    for _ in 0..2 {
        let before = stage.daemon.counters(stage.link).dropped;
        stage.signal(End::Receiver, Signal::SIGSTOP);
        eventually("the sender goes on without it", || {
            (stage.daemon.counters(stage.link).dropped > before + 500).then_some(())
        });
        stage.signal(End::Receiver, Signal::SIGCONT);
        stage.passes(100);
    }
    let sent = stage.end();
    let counters = stage.settled();
    stage.check_order();
    let arrived = stage.arrived(1);
    assert!(arrived.values().all(|times| *times == 1), "{case:?}");
    assert_eq!(arrived.len() as u64, counters.delivered, "{case:?}");
    assert_eq!(counters.sent, sent, "{case:?}");
    let reason = if case.can_wait() { counters.drops.timed_out } else { counters.drops.full };
    assert_eq!(reason, counters.dropped, "{case:?}");
}
