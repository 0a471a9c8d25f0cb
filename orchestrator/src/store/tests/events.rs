//! Events: numbered for ever, kept for a while, read in parts.

use super::*;

#[tokio::test]
async fn numbers_go_on_where_they_ended() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..5_u32 {
        let (store, _) = open(dir.path());
        let old = u64::from(round) * 400;
        assert_eq!(*store.watch_events().borrow(), old);
        for number in 1..=400 {
            store.record_event(event(round * 400 + number));
        }
        store.commit(Durability::Logged).await.unwrap();
        let expected: Vec<_> = (1..=(round + 1) * 400).map(|n| (u64::from(n), n)).collect();
        assert_eq!(pids(&store, 0).await, expected);
        assert_eq!(pids(&store, old + 100).await, expected[usize::try_from(old).unwrap() + 100..]);
        store.close().await;
    }
}

#[tokio::test]
async fn the_last_hundred_thousand_are_kept_and_what_is_gone_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let all = u32::try_from(KEPT_EVENTS + EVENTS_SLACK + 500).unwrap();
    for number in 1..=all {
        store.record_event(event(number));
        if number % 10_000 == 0 {
            store.commit(Durability::Logged).await.unwrap();
        }
    }
    store.commit(Durability::Logged).await.unwrap();
    let oldest = store.oldest_event();
    let kept = u64::from(all) + 1 - oldest;
    assert!((KEPT_EVENTS..=KEPT_EVENTS + EVENTS_SLACK).contains(&kept), "{kept}");
    let batch = store.read_events(EventQuery::default(), 3).await.unwrap();
    assert_eq!(batch.missed, oldest - 1);
    let numbers: Vec<_> = batch.events.iter().map(|event| event.seq).collect();
    assert_eq!(numbers, [oldest, oldest + 1, oldest + 2]);
    store.close().await;
    let (store, _) = open(dir.path());
    assert_eq!(store.oldest_event(), oldest);
    assert_eq!(*store.watch_events().borrow(), u64::from(all));
}

#[tokio::test]
async fn only_those_that_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let id = instance(1).id;
    for again in [false, true] {
        let (store, _) = open(dir.path());
        if !again {
            for number in 1..=3000 {
                let about = (number % 3 == 0).then_some(id);
                store.record_event(NewEvent { instance: about, ..event(number) });
            }
            store.commit(Durability::Logged).await.unwrap();
        }
        // From memory and from the database; the times are the numbers.
        for (after, since_ms, max) in [(0, Some(100), 40), (2500, None, 40), (2990, None, 40)] {
            let query = EventQuery { after, since_ms, instance: Some(id) };
            let batch = store.read_events(query, max).await.unwrap();
            let first = after.max(since_ms.unwrap_or(0) - u64::from(since_ms.is_some()));
            let expected: Vec<_> = (first + 1..=3000).filter(|n| n % 3 == 0).take(max).collect();
            let numbers: Vec<_> = batch.events.iter().map(|event| event.seq).collect();
            assert_eq!(numbers, expected, "{query:?} again {again}");
            assert!(batch.seen >= *expected.last().unwrap());
        }
        store.close().await;
    }
}

#[tokio::test]
async fn an_event_that_cannot_be_read_is_counted_and_the_others_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    for number in 1..=3 {
        store.record_event(event(number));
    }
    store.close().await;
    let connection = rusqlite::Connection::open(dir.path().join("state.db")).unwrap();
    connection.execute("UPDATE events SET kind = '\"sung\"' WHERE seq = 2", []).unwrap();
    drop(connection);
    let (store, _) = open(dir.path());
    let batch = store.read_events(EventQuery::default(), 10).await.unwrap();
    assert_eq!((batch.unreadable, batch.events.len(), batch.seen), (1, 2, 3));
}
