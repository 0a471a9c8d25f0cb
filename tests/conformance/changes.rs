//! What becomes of messages when a link or an end is removed, or a link is changed or watched, in
//! the middle of traffic.

use std::process::Stdio;

use orchestrator_proto::control::{Counters, Policy, Reply, Request};
use tests::Daemon;

use super::case::Case;
use super::stage::{End, Stage};

/// L21: what waits in a link that is removed is dropped, and said; what came before it arrives.
pub(crate) fn a_link_that_is_removed(case: Case) {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link_with("a", "n", "b", Policy::DropNewest, 1000);
    let mut sender = case.sender(&daemon, &a);
    let mut receiver = case.receiver(&daemon, &b);
    sender.send(0..50);
    assert_eq!(receiver.take(50), Vec::from_iter(0..50), "{case:?}");
    daemon.settled(link, 50);
    drop(receiver);
    daemon.connections("b", 0);
    sender.send(50..80);
    daemon.given(link, 80);
    match daemon.request(Request::LinkRemove { link }).unwrap() {
        Reply::LinkRemoved { discarded, .. } => assert_eq!(discarded, 30, "{case:?}"),
        other => panic!("{other:?}"),
    }
    // What is sent now goes nowhere, and is counted there; a new link begins with what comes then.
    sender.send(80..90);
    tests::eventually("ten go nowhere", || (daemon.detail("a").unrouted == 10).then_some(()));
    let link = daemon.link_with("a", "n", "b", Policy::DropNewest, 1000);
    sender.send(90..100);
    daemon.given(link, 10);
    let mut receiver = case.receiver(&daemon, &b);
    assert_eq!(receiver.take(10), Vec::from_iter(90..100), "{case:?}");
    assert_eq!(daemon.settled(link, 10).delivered, 10);
}

/// L22: an instance that is removed takes its links along. The other end, and its other links, go
/// on.
pub(crate) fn an_end_that_is_removed(case: Case) {
    let stage = Stage::new(case, Policy::Block, 64);
    let daemon = &stage.daemon;
    daemon.put("other");
    let lasting = daemon.link_with("a", "n", "other", Policy::Latest, 1);
    daemon.ok(["runtime", "remove", "--force", "b"]);
    let links = daemon.links();
    assert_eq!(links.iter().map(|link| link.id).collect::<Vec<_>>(), [lasting], "{case:?}");
    // Nothing holds the sender back any more.
    let before = daemon.counters(lasting).sent;
    tests::eventually("it goes on", || {
        (daemon.counters(lasting).sent > before + 500).then_some(())
    });
    stage.check_order();
    daemon.ok(["runtime", "remove", "--force", End::Sender.name()]);
    assert_eq!(daemon.links().len(), 0);
}

/// L23: a link that is changed keeps what waits in it, in its order, but for what the new policy
/// gives up.
pub(crate) fn a_link_that_is_changed(case: Case) {
    let stage = Stage::new(case, Policy::Block, 64);
    let set = |policy: &str, capacity: &str| {
        let link = stage.link.to_string();
        stage.daemon.ok(["link", "set", &link, "--policy", policy, "--capacity", capacity]);
        stage.passes(50);
    };
    for capacity in ["1", "700", "2", "64"] {
        set("block", capacity);
    }
    if case.can_wait() {
        assert_eq!(stage.daemon.counters(stage.link).dropped, 0, "{case:?}");
    }
    for policy in ["drop-oldest", "block", "latest", "drop-newest", "block"] {
        set(policy, "16");
    }
    let run_sent = stage.end();
    let Counters { sent, delivered, dropped, .. } = stage.settled();
    stage.check_order();
    assert_eq!((sent, delivered + dropped), (run_sent, run_sent), "{case:?}");
    let arrived = stage.arrived(1);
    assert!(arrived.values().all(|times| *times == 1), "{case:?}");
    assert_eq!(arrived.len() as u64, delivered, "{case:?}");
}

/// L24: whether somebody watches makes no difference to what is watched.
pub(crate) fn taps_change_nothing(case: Case) {
    let stage = Stage::new(case, Policy::Block, if case.can_wait() { 16 } else { 100_000 });
    for _ in 0..4 {
        let mut tap = stage.daemon.cli_command(["link", "tap"]);
        // What it prints is read by nobody, so it is a slow watcher too.
        let mut tap = tap.stdout(Stdio::piped()).spawn().unwrap();
        stage.passes(200);
        tap.kill().unwrap();
        tap.wait().unwrap();
        stage.passes(100);
    }
    let sent = stage.end();
    let Counters { delivered, dropped, .. } = stage.settled();
    stage.check_order();
    stage.check_all(1, sent);
    assert_eq!((delivered, dropped), (sent, 0), "{case:?}");
}
