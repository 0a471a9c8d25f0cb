//! A disk that is full, files that are not what they should be.

use std::fs;

use rusqlite::Connection;

use super::*;

/// Ends everything that is open in `dir` first.
fn sql(dir: &Path, sql: &str) {
    Connection::open(dir.join("state.db")).unwrap().execute_batch(sql).unwrap();
}

#[tokio::test]
async fn a_full_disk_refuses_changes_keeps_the_rest_and_recovers_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.change(add(1)).await.unwrap();
    store.change(Change::LimitPages(1)).await.unwrap();
    let mut order = 1;
    let failure = loop {
        order += 1;
        match store.change(add(order)).await {
            Ok(()) => {}
            Err(StoreError::Write(failure)) => break failure,
            Err(other) => panic!("{other:?}"),
        }
    };
    assert!(failure.full, "{failure}");
    assert_eq!(store.failing(), Some(failure));

    // More than there is place for. The last of what is told of a run counts.
    let waiting = u32::try_from(MAX_WAITING_EVENTS).unwrap();
    for number in 1..=waiting + 10 {
        // The first does not fit into any page there is, so that none of them is written.
        let name = (number == 1).then(|| "x".repeat(5000));
        store.record_event(NewEvent { name, ..event(number) });
    }
    let full = store.commit(Durability::Logged).await;
    assert!(matches!(full, Err(StoreError::Write(WriteFailure { full: true, .. }))), "{full:?}");
    for starts in 1..=3 {
        store.note_run(1, RunRecord { starts, ..RunRecord::default() });
    }
    assert_eq!(*store.watch_events().borrow(), 0);

    store.change(Change::LimitPages(1_000_000)).await.unwrap();
    store.commit(Durability::Logged).await.unwrap();
    assert_eq!(store.failing(), None);
    let events = pids(&store, 0).await;
    assert!(events.iter().copied().eq((1..=waiting).map(|n| (u64::from(n), n))));
    let query = EventQuery { after: u64::from(waiting), ..EventQuery::default() };
    let batch = store.read_events(query, 10).await.unwrap();
    let kinds: Vec<_> = batch.events.into_iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::EventsLost { count: 10 }]);
    store.close().await;
    let (_, snapshot) = open(dir.path());
    assert_eq!(snapshot.instances[0].1.starts, 3);
    assert_eq!(snapshot.instances.len() as u64, order - 1);
}

#[tokio::test]
async fn what_waits_is_written_without_being_asked_for_once_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let mut newest = store.watch_events();
    // Somebody else has the database for longer than a write waits.
    let other = Connection::open(dir.path().join("state.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    store.record_event(event(1));
    let locked = store.commit(Durability::Logged).await;
    assert!(matches!(locked, Err(StoreError::Write(WriteFailure { full: false, .. }))));
    other.execute_batch("ROLLBACK").unwrap();
    newest.wait_for(|newest| *newest == 1).await.unwrap();
    assert_eq!(store.failing(), None);
}

#[tokio::test]
async fn what_conflicts_is_left_out_and_what_shares_its_transaction_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.change(add(1)).await.unwrap();
    let (a, b, c) = (store.change(add(2)), store.change(add(1)), store.change(add(3)));
    let (a, b, c) = tokio::join!(a, b, c);
    assert!(a.is_ok() && c.is_ok() && matches!(b, Err(StoreError::Conflict(_))), "{b:?}");
    store.close().await;
    assert_eq!(open(dir.path()).1.instances.len(), 3);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_set_aside_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let contents = "not a database, but somebody's all the same ".repeat(1000);
    let mut places = std::collections::HashSet::new();
    for _ in 0..3 {
        fs::write(dir.path().join("state.db"), &contents).unwrap();
        let (store, snapshot) = open(dir.path());
        let aside = snapshot.set_aside.unwrap();
        assert_eq!(fs::read_to_string(&aside.path).unwrap(), contents);
        assert!(aside.path.to_str().unwrap().ends_with(&aside.suffix));
        assert!(aside.reason.contains("not a database"), "{aside:?}");
        assert!(places.insert(aside.path), "a name was used twice");
        store.change(add(1)).await.unwrap();
        store.close().await;
        let (store, snapshot) = open(dir.path());
        assert_eq!((snapshot.instances.len(), snapshot.set_aside), (1, None));
        store.close().await;
    }
}

#[tokio::test]
async fn a_damaged_database_is_set_aside_and_its_numbers_are_not_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    for order in 1..=500 {
        drop(store.change(add(order)));
        store.record_event(event(u32::try_from(order).unwrap()));
    }
    store.close().await;
    let path = dir.path().join("state.db");
    let mut bytes = fs::read(&path).unwrap();
    // A page of the instances: the first that mentions the program.
    let at = bytes.windows(9).position(|text| text == b"/bin/true").unwrap() / 4096 * 4096;
    bytes[at..at + 4096].fill(0xa5);
    fs::write(&path, &bytes).unwrap();
    let (store, snapshot) = open(dir.path());
    let aside = snapshot.set_aside.unwrap();
    assert_eq!(fs::read(&aside.path).unwrap(), bytes);
    assert!(snapshot.instances.is_empty());
    store.record_event(event(7));
    store.commit(Durability::Logged).await.unwrap();
    assert_eq!(pids(&store, 500).await, [(501, 7)]);
    store.close().await;
    let (store, _) = open(dir.path());
    assert_eq!(pids(&store, 500).await, [(501, 7)]);
}

#[tokio::test]
async fn a_torn_end_of_the_log_costs_what_was_not_synced_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.change(add(1)).await.unwrap();
    let log = dir.path().join("state.db-wal");
    let synced = fs::metadata(&log).unwrap().len();
    for number in 1..=50 {
        store.record_event(event(number));
        store.commit(Durability::Logged).await.unwrap();
    }
    let written = fs::metadata(&log).unwrap().len();
    for cut in (synced..written).step_by(1731) {
        let copy = tempfile::tempdir().unwrap();
        fs::copy(dir.path().join("state.db"), copy.path().join("state.db")).unwrap();
        let mut bytes = fs::read(&log).unwrap();
        bytes.truncate(usize::try_from(cut).unwrap());
        fs::write(copy.path().join("state.db-wal"), bytes).unwrap();
        let (copied, snapshot) = open(copy.path());
        assert_eq!((snapshot.instances.len(), snapshot.set_aside), (1, None));
        let events = pids(&copied, 0).await;
        assert!(events.iter().all(|(seq, pid)| *seq == u64::from(*pid)));
    }
}

#[tokio::test]
async fn a_newer_database_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.change(add(1)).await.unwrap();
    store.close().await;
    sql(dir.path(), "PRAGMA user_version = 99");
    let before = fs::read(dir.path().join("state.db")).unwrap();
    let error = Store::open(dir.path()).err().unwrap();
    assert!(matches!(error, StoreError::Newer { found: 99, .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("99") && text.contains("--state-dir"), "{text}");
    assert_eq!(fs::read(dir.path().join("state.db")).unwrap(), before);
}

#[tokio::test]
async fn rows_that_cannot_be_read_are_reported_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    for order in 1..=4 {
        store.change(add(order)).await.unwrap();
    }
    for id in 1..=2 {
        store.change(Change::AddLink(link(id, Some(2), 4))).await.unwrap();
    }
    store.close().await;
    sql(
        dir.path(),
        "UPDATE instances SET spec = '{\"program\":{\"wasm\":\"x\"}}' WHERE number = 1;
         UPDATE runs SET desired = 'maybe' WHERE number = 2;
         UPDATE instances SET id = 'nobody' WHERE number = 3;
         UPDATE links SET policy = 'sometimes' WHERE id = 1;",
    );
    for _ in 0..2 {
        let (store, snapshot) = open(dir.path());
        let orders: Vec<_> = snapshot.instances.iter().map(|(record, _)| record.order).collect();
        assert_eq!(orders, [2, 4]);
        assert_eq!(snapshot.instances[0].1, RunRecord::default());
        assert_eq!(snapshot.links, [link(2, Some(2), 4)]);
        assert_eq!(snapshot.unreadable.len(), 4, "{:?}", snapshot.unreadable);
        assert_eq!((snapshot.last_order, snapshot.last_link), (4, 2));
        // What clients sent for them is not to be deleted.
        assert!(snapshot.copies.contains(Path::new("dir-1/program")));
        assert!(snapshot.ids.contains(&instance(1).id.to_string()));
        store.close().await;
    }
    let (store, _) = open(dir.path());
    store.change(Change::RemoveUnreadable).await.unwrap();
    store.close().await;
    let (_, snapshot) = open(dir.path());
    assert_eq!(snapshot.unreadable.len(), 1, "{:?}", snapshot.unreadable);
}

#[test]
fn a_directory_that_is_not_there_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let error = Store::open(&dir.path().join("none")).err().unwrap();
    assert!(matches!(error, StoreError::File { .. }), "{error}");
}

#[test]
fn whether_it_can_be_taken_over_is_seen_while_another_has_it_open() {
    let dir = tempfile::tempdir().unwrap();
    Store::check(dir.path()).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is changed");
    let (store, _) = Store::open(dir.path()).unwrap();
    Store::check(dir.path()).unwrap();
    sql(dir.path(), "PRAGMA user_version = 99");
    assert!(matches!(Store::check(dir.path()), Err(StoreError::Newer { found: 99, .. })));
    drop(store);
    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("state.db"), "no database".repeat(1000)).unwrap();
    assert!(matches!(Store::check(other.path()), Err(StoreError::Open { .. })));
}
