//! Every schema that was ever declared.

use orchestrator_proto::schema::{Field, Variant, VariantBody};
use rusqlite::{Connection, params};

use super::*;

fn name(of: &str) -> Arc<str> {
    of.into()
}

fn note(store: &Store, of: &str, schema: &TypeSchema) {
    store.note_schema(&name(of), schema.hash(), schema);
}

fn number(number: u64) -> TypeSchema {
    let name = format!("field-{number}");
    TypeSchema::Struct(vec![Field { name, schema: TypeSchema::U8 }])
}

fn names_and_hashes(store: &Store) -> Vec<(Arc<str>, SchemaHash)> {
    let all = store.schemas().into_iter();
    let mut all: Vec<_> = all
        .flat_map(|(name, forms)| forms.into_iter().map(move |it| (name.clone(), it.hash)))
        .collect();
    all.sort_by_key(|(name, hash)| (name.clone(), hash.0));
    all
}

#[tokio::test]
async fn a_form_that_was_declared_for_a_moment_is_there_when_nobody_declares_it() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.change(add(1)).await.unwrap();
    // Nothing can be written until all of it waits.
    let other = Connection::open(dir.path().join("state.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let forms = [TypeSchema::U8, number(1), number(2)];
    for form in &forms {
        store.note_type(1, Direction::Output, &name("a.b"), Some(form));
        note(&store, "a.b", form);
        note(&store, "a.b", form);
    }
    note(&store, "c.d", &forms[0]);
    // What waits can be read.
    let waiting = store.read_schema("a.b", forms[1].hash()).unwrap();
    assert_eq!(waiting.as_deref(), Some(&forms[1].encode()[..]));
    let before = names_and_hashes(&store);
    assert_eq!(before.len(), 4);
    other.execute_batch("ROLLBACK").unwrap();
    store.change(Change::RemoveInstance { order: 1, id: instance(1).id }).await.unwrap();
    store.close().await;
    let (store, snapshot) = open(dir.path());
    assert!(snapshot.types.is_empty());
    assert_eq!(names_and_hashes(&store), before);
    for form in &forms {
        let read = store.read_schema("a.b", form.hash()).unwrap();
        assert_eq!(read.as_deref(), Some(&form.encode()[..]));
    }
    assert_eq!(store.read_schema("a.b", TypeSchema::U16.hash()).unwrap(), None);
    assert_eq!(store.read_schema("x", forms[0].hash()).unwrap(), None);
}

#[tokio::test]
async fn what_is_too_much_is_forgotten_and_told_but_for_what_is_declared() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.change(add(1)).await.unwrap();
    store.note_type(1, Direction::Input, &name("old"), Some(&number(0)));
    note(&store, "old", &number(0));
    store.close().await;
    // As many as are kept, and each of them younger than that.
    let connection = Connection::open(dir.path().join("state.db")).unwrap();
    connection.execute_batch("BEGIN").unwrap();
    let now = i64::try_from(now_ms()).unwrap();
    for at in 1..MAX_SCHEMAS as u64 {
        let (schema, at_ms) = (number(at).encode(), now + i64::try_from(at).unwrap());
        let sql = "INSERT INTO schemas (name, hash, schema, first_seen_ms, last_seen_ms)
                   VALUES ('t', ?1, ?2, ?3, ?3)";
        connection.execute(sql, params![SchemaHash::of(&schema).0, schema, at_ms]).unwrap();
    }
    connection.execute_batch("COMMIT").unwrap();
    drop(connection);
    let (store, _) = open(dir.path());
    assert_eq!(names_and_hashes(&store).len(), MAX_SCHEMAS);
    note(&store, "new", &number(0));
    let forgotten = |store: &Store| {
        let store = store.clone();
        async move {
            let batch = store.read_events(EventQuery::default(), 100).await.unwrap();
            let counts = batch.events.into_iter().filter_map(|event| match event.kind {
                EventKind::SchemasForgotten { count } => Some(count),
                _ => None,
            });
            counts.collect::<Vec<_>>()
        }
    };
    let mut news = store.watch_events();
    news.wait_for(|newest| *newest > 0).await.unwrap();
    let counts = forgotten(&store).await;
    assert_eq!(counts.len(), 1);
    let left = names_and_hashes(&store);
    assert_eq!(left.len() as u64, MAX_SCHEMAS as u64 + 1 - counts[0]);
    let is_there = |of: &str, at| left.contains(&(name(of), number(at).hash()));
    assert!(is_there("old", 0), "an instance declares it");
    assert!(is_there("new", 0) && is_there("t", MAX_SCHEMAS as u64 - 1));
    assert!(!is_there("t", 1) && !is_there("t", counts[0]) && is_there("t", counts[0] + 1));
    // What was forgotten is new again.
    note(&store, "t", &number(1));
    store.close().await;
    let (store, _) = open(dir.path());
    assert_eq!(names_and_hashes(&store).len(), left.len() + 1);
    assert!(store.read_schema("t", number(1).hash()).unwrap().is_some());
}

#[tokio::test]
async fn large_ones_are_bounded_by_their_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let large = |number: u64| {
        let variant =
            |at| Variant { name: format!("{number}-{at:0>240}"), body: VariantBody::Unit };
        TypeSchema::Enum((0..250).map(variant).collect())
    };
    let length = large(1).encode().len() as u64;
    let count = MAX_SCHEMA_BYTES / length + 10;
    for number in 0..count {
        note(&store, "a", &large(number));
        if number % 100 == 99 {
            store.close_to_written().await;
        }
    }
    store.close().await;
    let (store, _) = open(dir.path());
    let left = store.schemas().pop().unwrap().1;
    assert!(left.len() as u64 * length <= MAX_SCHEMA_BYTES, "{}", left.len());
    assert!(left.len() as u64 + 200 > count, "{}", left.len());
    let last = large(count - 1).hash();
    assert!(left.iter().any(|it| it.hash == last), "the youngest is kept");
}

impl Store {
    /// Waits until all types and schemas are written.
    async fn close_to_written(&self) {
        while self.depths().0 > 0 {
            self.commit(Durability::Logged).await.unwrap();
        }
        // What was taken to be written is written when this is answered.
        self.commit(Durability::Logged).await.unwrap();
    }
}
