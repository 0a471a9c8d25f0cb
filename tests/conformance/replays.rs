//! Messages of a recording, in the place of their sender.

use orchestrator_proto::TypeSchema;
use orchestrator_proto::client::Client;
use orchestrator_proto::control::{
    Counters, Item, Policy, ReplayMessage, ReplaySource, ReplaySpec, Reply, Request, RulesSpec,
};
use tests::Daemon;

use super::case::{Case, Dialect};

fn spec(case: Case) -> ReplaySpec {
    let schema = case.from.is_native().then(|| TypeSchema::U32.encode());
    let source = ReplaySource { from: Some("a".into()), type_name: "n".to_owned(), schema };
    ReplaySpec { sources: vec![source], ..ReplaySpec::default() }
}

fn message(case: Case, number: u32) -> ReplayMessage {
    let payload = match case.from {
        Dialect::Native | Dialect::Python => postcard::to_stdvec(&number).unwrap(),
        Dialect::Veecle => serde_json::to_vec(&number.to_string()).unwrap(),
    };
    ReplayMessage { source: 0, payload }
}

fn peers() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Feeds these, to their end.
fn feed(daemon: &Daemon, case: Case, numbers: impl Iterator<Item = u32>) {
    peers().block_on(async {
        let client = Client::connect(daemon.socket()).await.unwrap();
        let (mut items, feeder) = client.replay(spec(case)).await.unwrap();
        assert!(matches!(items.next().await, Some(Ok(Item::Replaying(_)))));
        feeder.feed(numbers.map(|number| message(case, number)).collect()).await.unwrap();
        feeder.end().await.unwrap();
        while let Some(item) = items.next().await {
            assert!(matches!(item, Ok(Item::Fed(_))), "{item:?}");
        }
    });
}

/// R1, R2.
pub(crate) fn what_is_fed_is_carried_like_any_message(case: Case) {
    for policy in [Policy::Block, Policy::DropNewest, Policy::DropOldest] {
        let daemon = Daemon::start();
        daemon.put("a");
        let (b, c) = (daemon.put("b"), daemon.put("c"));
        let link = daemon.link_with("a", "n", "b", policy, 10);
        let rules = RulesSpec { history: Some(3), ..RulesSpec::default() };
        let set = daemon.request(Request::LinkSet { link, rules }).unwrap();
        assert!(matches!(set, Reply::LinkSet { .. }));
        let any = daemon.link("any", "n", "c");
        // Before there is anybody: what the policy keeps waits.
        let count = if policy == Policy::Block { 10 } else { 20 };
        feed(&daemon, case, 0..count);
        let kept = match policy {
            Policy::DropOldest => Vec::from_iter(10..20),
            _ => Vec::from_iter(0..10),
        };
        let Counters { sent, dropped, queued, .. } = daemon.counters(link);
        assert_eq!((sent, dropped, queued), (count.into(), u64::from(count) - 10, 10));
        let mut receiver = case.receiver(&daemon, &b);
        assert_eq!(receiver.take(10), kept, "{case:?} {policy}");
        let mut other = case.receiver(&daemon, &c);
        assert_eq!(other.take(count as usize), Vec::from_iter(0..count), "{case:?} {policy}");
        // Many at once, as far as there is room.
        if policy == Policy::Block {
            feed(&daemon, case, 100..600);
            assert_eq!(receiver.take(500), Vec::from_iter(100..600), "{case:?} {policy}");
        } else {
            feed(&daemon, case, 590..600);
            assert_eq!(receiver.take(10), Vec::from_iter(590..600), "{case:?} {policy}");
        }
        // The link remembers them like any other.
        drop(receiver);
        daemon.connections("b", 0);
        let mut late = case.receiver(&daemon, &b);
        assert_eq!(late.take(3), [597, 598, 599], "{case:?} {policy}");
        assert_eq!(daemon.counters(any).dropped, 0);
    }
}

/// R3, R4.
pub(crate) fn a_sender_that_is_there_sends_too_and_a_daemon_that_dies_ends_it(case: Case) {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link_with("a", "n", "b", Policy::Block, 100);
    let mut sender = case.sender(&daemon, &a);
    sender.send(0..5);
    daemon.given(link, 5);
    let declared = daemon.detail("a").outputs;
    feed(&daemon, case, 5..10);
    sender.send(10..15);
    daemon.given(link, 15);
    assert_eq!(daemon.detail("a").outputs, declared, "{case:?}");
    assert_eq!(daemon.detail("a").sent, 10, "it has not sent what was fed");
    let mut receiver = case.receiver(&daemon, &b);
    assert_eq!(receiver.take(15), Vec::from_iter(0..15), "{case:?}");
    drop((receiver, sender));
    daemon.connections("b", 0);
    let peers = peers();
    let mut items = peers.block_on(async {
        let client = Client::connect(daemon.socket()).await.unwrap();
        let (mut items, feeder) = client.replay(spec(case)).await.unwrap();
        assert!(matches!(items.next().await, Some(Ok(Item::Replaying(_)))));
        feeder.feed(vec![message(case, 100)]).await.unwrap();
        assert!(matches!(items.next().await, Some(Ok(Item::Fed(_)))));
        items
    });
    daemon.replace_killed();
    peers.block_on(async {
        assert!(matches!(items.next().await, Some(Err(_))));
        assert!(items.next().await.is_none());
    });
    // What it had fed went with the daemon.
    feed(&daemon, case, 200..203);
    let mut receiver = case.receiver(&daemon, &b);
    assert_eq!(receiver.take(3), [200, 201, 202], "{case:?}");
}
