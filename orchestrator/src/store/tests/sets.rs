//! Sets of replicas and links from and to them.

use orchestrator_proto::control::{Desired, Priority, Replicas, Wanted};

use super::*;

fn set(name: &str, count: u32) -> SetRecord {
    let replicas = Some(Replicas(count));
    let spec = RuntimeSpec { name: Some(name.into()), replicas, ..RuntimeSpec::new("/bin/true") };
    SetRecord { set: Wanted::running(spec), leaving: false }
}

fn of(name: &str) -> SetLinkEnd {
    SetLinkEnd::Set(name.into())
}

fn one(order: u64) -> SetLinkEnd {
    SetLinkEnd::Single(LinkEnd::Instance(instance(order).id))
}

fn set_link(id: u64, from: Option<SetLinkEnd>, to: SetLinkEnd) -> SetLinkRecord {
    let rules = LinkRules {
        policy: Policy::Block,
        capacity: 9,
        block_timeout: Millis(500),
        history: 6,
        transport: Transport::Shm,
        spin_us: 40,
    };
    SetLinkRecord { id: LinkId(id), from, type_name: "a.b.v1".into(), to, rules }
}

async fn put(store: &Store, record: SetRecord) {
    store.change(Change::PutSet(Box::new(record))).await.unwrap();
}

#[tokio::test]
async fn they_are_kept_changed_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.change(Change::All(vec![add(1), add(2)])).await.unwrap();
    put(&store, set("b", 0)).await;
    put(&store, set("a", 3)).await;
    let udp = SetLinkEnd::Single(LinkEnd::Udp("127.0.0.1:9".into()));
    let links = [
        set_link(4, Some(of("a")), of("b")),
        set_link(5, None, of("a")),
        set_link(6, Some(one(1)), of("a")),
        set_link(7, Some(of("b")), one(2)),
        set_link(8, Some(of("b")), udp),
    ];
    for link in links.clone() {
        store.change(Change::AddSetLink(link)).await.unwrap();
    }
    store.change(Change::AddLink(link(9, Some(1), 2))).await.unwrap();
    store.close().await;

    let (store, snapshot) = open(dir.path());
    assert_eq!(snapshot.sets, [set("a", 3), set("b", 0)]);
    assert_eq!(snapshot.set_links, links);
    assert_eq!((snapshot.links, snapshot.last_link), (vec![link(9, Some(1), 2)], 9));
    let mut changed = set("a", 5);
    (changed.leaving, changed.set.desired) = (true, Desired::Stopped);
    changed.set.priority = Some(Priority::Low);
    put(&store, changed.clone()).await;
    let mut other = links[1].clone();
    other.rules = LinkRules { policy: Policy::Latest, capacity: 1, ..LinkRules::default() };
    store.change(Change::ChangeSetLink(other.clone())).await.unwrap();
    // Links go with either end, whatever that is.
    store.change(Change::RemoveInstance { order: 1, id: instance(1).id }).await.unwrap();
    store.change(Change::RemoveSet("b".into())).await.unwrap();
    store.close().await;

    let (store, snapshot) = open(dir.path());
    assert_eq!(snapshot.sets, [changed]);
    assert_eq!(snapshot.set_links, [other]);
    assert!(snapshot.links.is_empty() && snapshot.unreadable.is_empty());
    store.change(Change::RemoveLink(LinkId(5))).await.unwrap();
    store.close().await;
    assert!(open(dir.path()).1.set_links.is_empty());
}

#[tokio::test]
async fn what_can_not_be_read_is_told_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    for name in ["few", "many", "worse"] {
        put(&store, set(name, 2)).await;
    }
    store.change(Change::AddSetLink(set_link(3, None, of("few")))).await.unwrap();
    store.close().await;
    let path = dir.path().join("state.db");
    let bad = "UPDATE sets SET spec = replace(spec, '\"replicas\":2', '\"replicas\":257')
             WHERE name = 'many';
         UPDATE sets SET desired = 'asleep' WHERE name = 'worse';
         UPDATE links SET receiver = 'x' WHERE id = 3;";
    rusqlite::Connection::open(&path).unwrap().execute_batch(bad).unwrap();
    let (store, snapshot) = open(dir.path());
    assert_eq!((snapshot.sets, snapshot.set_links), (vec![set("few", 2)], vec![]));
    let expected = ["the set of replicas many: ", "the set of replicas worse: ", "link 3: "];
    assert_eq!(snapshot.unreadable.len(), 3, "{:?}", snapshot.unreadable);
    for (unreadable, expected) in snapshot.unreadable.iter().zip(expected) {
        assert!(unreadable.starts_with(expected), "{unreadable}");
    }
    store.change(Change::RemoveUnreadable).await.unwrap();
    store.close().await;
    let (_, snapshot) = open(dir.path());
    assert_eq!((snapshot.sets, snapshot.unreadable), (vec![set("few", 2)], Vec::<String>::new()));
}
