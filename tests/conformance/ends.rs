//! What becomes of messages when an end stops, dies or comes back.

use nix::sys::signal::Signal;
use orchestrator_proto::control::{Counters, Policy};
use tests::{Daemon, eventually};

use super::case::{Case, Dialect};
use super::stage::{End, Stage};

/// L15, L17: messages wait for a receiver that is not there, and for its next connection.
pub(crate) fn what_waits_is_there_for_the_next_connection(case: Case) {
    // Each is a process where the library for Python plays it, which takes a while to begin.
    let rounds = if case.to == Dialect::Python { 2 } else { 5 };
    for policy in [Policy::Block, Policy::DropNewest, Policy::DropOldest] {
        let daemon = Daemon::start();
        let (a, b) = (daemon.put("a"), daemon.put("b"));
        let link = daemon.link_with("a", "n", "b", policy, 1000);
        let mut sender = case.sender(&daemon, &a);
        let mut next = 0;
        for _ in 0..rounds {
            sender.send_as_granted(next..next + 20);
            daemon.given(link, u64::from(next) + 20);
            let mut receiver = case.receiver(&daemon, &b);
            assert_eq!(receiver.take(20), Vec::from_iter(next..next + 20), "{case:?} {policy}");
            // The newest connection is the one that gets messages.
            let mut newer = case.receiver(&daemon, &b);
            newer.is_served();
            sender.send_as_granted(next + 20..next + 25);
            assert_eq!(newer.take(5), Vec::from_iter(next + 20..next + 25), "{case:?} {policy}");
            drop((receiver, newer));
            daemon.connections("b", 0);
            next += 25;
        }
        let Counters { delivered, dropped, .. } = daemon.settled(link, next.into());
        assert_eq!((delivered, dropped), (next.into(), 0), "{case:?} {policy}");
    }
}

/// L16: what a receiver that dies was given and had not taken in is lost with it, unless it
/// acknowledges: then the next process gets it.
pub(crate) fn a_receiver_that_is_killed(case: Case) {
    let stage = Stage::new(case, Policy::Block, 64);
    for _ in 0..3 {
        stage.kill(End::Receiver);
        stage.start(End::Receiver);
        stage.passes(100);
    }
    let sent = stage.end();
    let counters = stage.settled();
    stage.check_order();
    if case.acknowledges() {
        stage.check_all(1, sent);
    }
    if case.can_wait() {
        assert_eq!((counters.sent, counters.dropped), (sent, 0), "{case:?}");
    }
    if case.to == Dialect::Veecle {
        // None comes to two processes.
        assert!(stage.arrived(1).values().all(|times| *times == 1), "{case:?}");
        assert!(stage.count() as u64 <= counters.delivered, "{case:?}");
    }
}

/// L2, L19, L20: what a sender had sent when it died arrives; what it was writing does not; its
/// next process goes on.
pub(crate) fn a_sender_that_is_killed(case: Case) {
    // None of them is dropped for want of room.
    let stage = Stage::new(case, Policy::DropNewest, 1_000_000);
    for _ in 0..3 {
        stage.kill(End::Sender);
        stage.start(End::Sender);
        stage.passes(100);
    }
    let last = stage.end();
    let counters = stage.settled();
    stage.check_order();
    let arrived: Vec<_> = (1..=4).map(|run| stage.arrived(run)).collect();
    for (at, arrived) in arrived.iter().enumerate() {
        assert!(arrived.values().all(|times| *times == 1), "{case:?}");
        stage.check_all(at as u64 + 1, arrived.len() as u64);
    }
    assert_eq!(arrived[3].len() as u64, last, "{case:?}");
    let all: usize = arrived.iter().map(|it| it.len()).sum();
    let Counters { sent, delivered, dropped, .. } = counters;
    assert_eq!((sent, delivered, dropped), (all as u64, all as u64, 0), "{case:?}");
}

/// L18: an end that is stopped for a while loses nothing but what the policy gives up.
pub(crate) fn ends_that_are_stopped(case: Case) {
    let policies = if case.can_wait() {
        [(Policy::Block, 16), (Policy::DropOldest, 100_000)]
    } else {
        [(Policy::Block, 100_000), (Policy::DropOldest, 100_000)]
    };
    for (policy, capacity) in policies {
        let stage = Stage::new(case, policy, capacity);
        stage.signal(End::Receiver, Signal::SIGSTOP);
        if policy == Policy::Block && case.can_wait() {
            // Until the sender is held back: what it was granted is under way.
            eventually("the link is full", || {
                (stage.daemon.counters(stage.link).queued >= 8).then_some(())
            });
        } else {
            stage.is_given(500);
        }
        stage.signal(End::Receiver, Signal::SIGCONT);
        stage.passes(100);
        stage.signal(End::Sender, Signal::SIGSTOP);
        stage.signal(End::Sender, Signal::SIGCONT);
        stage.passes(100);
        let sent = stage.end();
        let Counters { delivered, dropped, .. } = stage.settled();
        stage.check_order();
        stage.check_all(1, sent);
        assert_eq!((delivered, dropped), (sent, 0), "{case:?} {policy}");
    }
}
