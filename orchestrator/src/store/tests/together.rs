//! Changes that are made together, or not at all.

use super::*;

fn changed(order: u64) -> InstanceRecord {
    let mut record = instance(order);
    record.spec.args = vec!["changed".into()];
    record.copy = None;
    record.from_start = 7;
    record
}

#[tokio::test]
async fn all_of_them_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.change(add(1)).await.unwrap();
    let all =
        vec![add(2), Change::ChangeInstance(changed(1).into()), Change::AddLink(link(1, None, 2))];
    store.change(Change::All(all)).await.unwrap();
    store.close().await;
    let (_, snapshot) = open(dir.path());
    let records: Vec<_> = snapshot.instances.into_iter().map(|(record, _)| record).collect();
    assert_eq!(records, [changed(1), instance(2)]);
    assert_eq!(snapshot.links, [link(1, None, 2)]);
}

#[tokio::test]
async fn one_that_can_not_be_made_undoes_the_others_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.change(add(1)).await.unwrap();
    let all = vec![Change::ChangeInstance(changed(1).into()), add(2), add(1)];
    let (good, bad) = (store.change(add(3)), store.change(Change::All(all)));
    let also_good = store.change(add(4));
    good.await.unwrap();
    assert!(matches!(bad.await, Err(StoreError::Conflict(_))));
    also_good.await.unwrap();
    store.close().await;
    let (_, snapshot) = open(dir.path());
    let records: Vec<_> = snapshot.instances.into_iter().map(|(record, _)| record).collect();
    assert_eq!(records, [instance(1), instance(3), instance(4)]);
}
