//! What was answered is there, whenever the process ends; and how few syncs that takes.

use std::fs;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use tokio::task::JoinSet;

use super::*;

fn counted(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

/// As the kernel has it now, whatever becomes of this process.
fn copy_of(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    // Both as they were at one moment: nothing was moved from one to the other meanwhile.
    let read = |file: &str| fs::read(dir.join(file)).unwrap();
    let (database, log) = loop {
        let (database, log) = (read("state.db"), read("state.db-wal"));
        if database == read("state.db") {
            break (database, log);
        }
    };
    fs::write(copy.path().join("state.db"), database).unwrap();
    fs::write(copy.path().join("state.db-wal"), log).unwrap();
    copy
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_and_the_event_that_tells_of_it_are_both_there_at_any_moment_or_neither() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.change(add(1)).await.unwrap();
    let writing = tokio::spawn({
        let store = store.clone();
        async move {
            for starts in 1..=30_000 {
                let run = RunRecord { starts, ..RunRecord::default() };
                store.note(Some((1, run)), vec![event(u32::try_from(starts).unwrap())]);
                if starts % 5000 == 0 {
                    store.commit(Durability::Logged).await.unwrap();
                }
            }
        }
    });
    let mut copies = 0;
    while !writing.is_finished() || copies == 0 {
        copies += 1;
        let copy = copy_of(dir.path());
        let (copied, snapshot) = open(copy.path());
        assert_eq!(snapshot.instances[0].1.starts, pids(&copied, 0).await.len() as u64);
    }
    writing.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_made_at_any_moment_has_all_that_was_answered() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let answered = Arc::new(AtomicU64::new(0));
    let writing = tokio::spawn({
        let (store, answered) = (store.clone(), answered.clone());
        async move {
            for order in 1..=300 {
                store.record_event(event(u32::try_from(order).unwrap()));
                store.change(add(order)).await.unwrap();
                answered.store(order, Ordering::Release);
            }
        }
    });
    let mut copies = 0;
    while !writing.is_finished() || copies == 0 {
        copies += 1;
        let before = answered.load(Ordering::Acquire);
        let copy = copy_of(dir.path());
        let (copied, snapshot) = open(copy.path());
        let orders: Vec<_> = snapshot.instances.iter().map(|(record, _)| record.order).collect();
        assert!(orders.len() as u64 >= before, "{} of {before}", orders.len());
        assert!(orders.iter().copied().eq(1..=orders.len() as u64), "{orders:?}");
        let events = pids(&copied, 0).await;
        assert!(events.len() as u64 >= before);
        assert!(events.iter().all(|(seq, pid)| *seq == u64::from(*pid)));
    }
    writing.await.unwrap();
}

#[tokio::test]
async fn many_changes_at_once_share_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let mut changes = JoinSet::new();
    for order in 1..=1000 {
        changes.spawn(store.change(add(order)));
    }
    while let Some(result) = changes.join_next().await {
        result.unwrap().unwrap();
    }
    let counts = &store.shared().counts;
    let (transactions, syncs) = (counted(&counts.transactions), counted(&counts.syncs));
    assert!(transactions <= 20 && syncs <= 20, "{transactions} transactions, {syncs} syncs");
    store.close().await;
    assert_eq!(open(dir.path()).1.instances.len(), 1000);
}

#[tokio::test]
async fn what_nobody_waits_for_is_written_soon_and_together() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    for number in 1..=500 {
        store.record_event(event(number));
        store.note_run(1, RunRecord::default());
    }
    let mut newest = store.watch_events();
    newest.wait_for(|newest| *newest == 500).await.unwrap();
    let transactions = counted(&store.shared().counts.transactions);
    assert!(transactions <= 20, "{transactions}");
}

#[tokio::test]
async fn what_is_logged_is_synced_soon_and_then_nothing_happens() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let counts = &store.shared().counts;
    store.record_event(event(1));
    store.commit(Durability::Logged).await.unwrap();
    assert_eq!(counted(&counts.syncs), 0);
    let began = Instant::now();
    while counted(&counts.syncs) == 0 {
        assert!(began.elapsed() < Duration::from_secs(60));
        tokio::task::yield_now().await;
    }
    assert_eq!((counted(&counts.transactions), counted(&counts.syncs)), (1, 1));
    // Nothing new: nothing to be written. Who waits for a sync gets one; once is enough.
    for _ in 0..2 {
        store.commit(Durability::Synced).await.unwrap();
        assert_eq!((counted(&counts.transactions), counted(&counts.syncs)), (1, 2));
    }
    store.record_event(event(2));
    store.commit(Durability::Synced).await.unwrap();
    assert_eq!((counted(&counts.transactions), counted(&counts.syncs)), (2, 3));
}

#[tokio::test]
async fn the_log_is_brought_into_the_database_and_does_not_grow() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.change(add(1)).await.unwrap();
    for number in 1..=12_000 {
        store.record_event(event(number));
        store.commit(Durability::Logged).await.unwrap();
    }
    let log = fs::metadata(dir.path().join("state.db-wal")).unwrap().len();
    assert!(log < 20 << 20, "{log} bytes");
}

#[tokio::test]
async fn nothing_is_taken_after_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.close().await;
    assert!(matches!(store.change(add(1)).await, Err(StoreError::Closed)));
    assert!(matches!(store.commit(Durability::Logged).await, Err(StoreError::Closed)));
    store.record_event(event(1));
    store.close().await;
}
