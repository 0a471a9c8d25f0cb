//! What becomes of messages under each policy.

use orchestrator_proto::control::{Counters, Policy};
use orchestrator_proto::runtime::UNLIMITED;
use tests::routing::Random;
use tests::{Daemon, eventually};

use super::case::{Case, Dialect};
use super::texts::{LENGTH, Texts};

/// L1, L2, L3, L4: each message arrives whole, once and in its order, and is counted as that.
pub(crate) fn in_order_once_and_counted(case: Case) {
    let policies = [Policy::Block, Policy::DropNewest, Policy::DropOldest];
    for policy in policies {
        let daemon = Daemon::start();
        let (a, b) = (daemon.put("a"), daemon.put("b"));
        let mut sender = case.sender(&daemon, &a);
        // Of what is sent before there is a link, nothing is sent over it.
        sender.send(0..3);
        eventually("three go nowhere", || (daemon.detail("a").unrouted == 3).then_some(()));
        let link = daemon.link_with("a", "n", "b", policy, 5000);
        let mut receiver = case.receiver(&daemon, &b);
        let mut random = Random::new(7);
        let mut next = 3;
        while next < 3000 {
            let end = 3000.min(next + 1 + random.below(200) as u32);
            sender.send_as_granted(next..end);
            next = end;
        }
        assert_eq!(receiver.take(2997), Vec::from_iter(3..3000), "{case:?} {policy}");
        let Counters { delivered, dropped, .. } = daemon.settled(link, 2997);
        assert_eq!((delivered, dropped), (2997, 0), "{case:?} {policy}");
    }
}

/// What a receiver gets that comes when so many were sent.
fn kept(case: Case, policy: Policy, capacity: u32, sent: u32) -> Vec<u32> {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link_with("a", "n", "b", policy, capacity);
    let mut sender = case.sender(&daemon, &a);
    sender.send(0..sent);
    let Counters { dropped, queued, drops, .. } = daemon.given(link, sent.into());
    assert_eq!(drops.full, dropped);
    if policy != Policy::Block {
        // L14: nobody tells it anything.
        assert!(sender.granted().is_none_or(|granted| granted == UNLIMITED));
    }
    let mut receiver = case.receiver(&daemon, &b);
    let got = receiver.take(queued as usize);
    // What comes next comes next.
    sender.send(sent..sent + 1);
    assert_eq!(receiver.next(), Some(sent), "{case:?} {policy}");
    let after = daemon.settled(link, u64::from(sent) + 1);
    assert_eq!((after.dropped, after.delivered), (dropped, queued + 1));
    got
}

/// L6.
pub(crate) fn drop_newest_keeps_the_oldest(case: Case) {
    assert_eq!(kept(case, Policy::DropNewest, 5, 12), [0, 1, 2, 3, 4]);
}

/// L7.
pub(crate) fn drop_oldest_keeps_the_newest(case: Case) {
    assert_eq!(kept(case, Policy::DropOldest, 5, 12), [7, 8, 9, 10, 11]);
}

/// L8.
pub(crate) fn latest_keeps_one(case: Case) {
    assert_eq!(kept(case, Policy::Latest, 50, 12), [11]);
}

/// L9, L10, L13: who can be made to wait is told how much it may send, and loses nothing; who
/// can't is served as under `drop-newest`.
pub(crate) fn block_holds_back_whom_it_can(case: Case) {
    if !case.can_wait() {
        assert_eq!(kept(case, Policy::Block, 5, 12), [0, 1, 2, 3, 4]);
        return;
    }
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link_with("a", "n", "b", Policy::Block, 8);
    let mut sender = case.sender(&daemon, &a);
    sender.send_as_granted(0..8);
    daemon.given(link, 8);
    assert_eq!(sender.granted(), Some(8), "no more than fit");
    let mut receiver = std::thread::scope(|scope| {
        let sending = scope.spawn(|| sender.send_as_granted(8..500));
        let mut receiver = case.receiver(&daemon, &b);
        assert_eq!(receiver.take(500), Vec::from_iter(0..500), "{case:?}");
        sending.join().unwrap();
        receiver
    });
    // L9: whoever does not keep to it loses nothing by that within bounds.
    sender.send(500..3000);
    assert_eq!(receiver.take(2500), Vec::from_iter(500..3000), "{case:?}");
    assert_eq!(daemon.settled(link, 3000).dropped, 0);
}

/// L5, L11: a link whose receiver takes nothing holds up no other link, whatever its policy. Under
/// `block` it holds back the output that feeds it, and nothing else of that sender.
pub(crate) fn a_full_link_harms_itself_alone(case: Case) {
    for policy in [Policy::Block, Policy::DropNewest, Policy::DropOldest, Policy::Latest] {
        let daemon = Daemon::start();
        let (a, b) = (daemon.put("a"), daemon.put("b"));
        let (c, d) = (daemon.put("c"), daemon.put("d"));
        // Nobody ever takes these.
        let full = daemon.link_with("a", "n", "c", policy, 4);
        let link = daemon.link_with("d", "n", "b", Policy::Block, 100);
        let mut stuck = case.sender(&daemon, &a);
        stuck.send(0..400);
        if policy == Policy::Block && case.from == Dialect::Python {
            // It was to send as many, and heeds what it is granted.
            eventually("the link is full", || (daemon.counters(full).sent >= 4).then_some(()));
        } else {
            daemon.given(full, 400);
        }
        drop(c);
        let mut sender = case.sender(&daemon, &d);
        let mut receiver = case.receiver(&daemon, &b);
        for at in (0..1000).step_by(100) {
            sender.send_as_granted(at..at + 100);
            assert_eq!(receiver.take(100), Vec::from_iter(at..at + 100), "{case:?} {policy}");
        }
        assert_eq!(daemon.settled(link, 1000).dropped, 0);
        assert_eq!(daemon.counters(full).delivered, 0);
    }
}

/// L12.
pub(crate) fn bytes_are_bounded(case: Case) {
    const BOUND: usize = 64 << 20;
    let daemon = Daemon::start();
    let (a, _) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link_with("a", "text", "b", Policy::DropOldest, 1000);
    let mut sender = Texts::new(case, &daemon, &a);
    sender.send(80);
    daemon.given(link, 80);
    let Counters { queued, dropped, .. } = daemon.counters(link);
    assert!((BOUND / LENGTH - 1..=BOUND / LENGTH).contains(&(queued as usize)), "{queued}");
    assert_eq!(dropped, 80 - queued);
}
