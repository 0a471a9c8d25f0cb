//! Declared message types: there afterwards, gone with their instance, and in nobody's way.

use std::time::Instant;

use orchestrator_proto::schema::{Field, MAX_BYTES, Variant, VariantBody};
use rusqlite::Connection;

use super::*;

fn name(number: u64) -> Arc<str> {
    format!("type.{number}").into()
}

/// A schema that is nearly as large as one can be; each number is another.
fn large(number: u64) -> TypeSchema {
    let variant = |at| Variant { name: format!("{number}-{at:0>240}"), body: VariantBody::Unit };
    let schema = TypeSchema::Enum((0..250).map(variant).collect());
    let size = schema.encode().len();
    assert!(size > MAX_BYTES * 9 / 10 && TypeSchema::decode(&schema.encode()).is_ok(), "{size}");
    schema
}

#[tokio::test]
async fn hundreds_of_large_types_are_in_nobodys_way_and_all_there_afterwards() {
    const COUNT: u64 = 300;
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.change(add(1)).await.unwrap();
    let schemas: Vec<_> = (0..COUNT).map(large).collect();
    // Nothing can be written until all of them wait.
    let other = Connection::open(dir.path().join("state.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    for (number, schema) in (0..).zip(&schemas) {
        store.note_type(1, Direction::Output, &name(number), Some(schema));
    }
    store.record_event(event(1));
    let told = store.commit(Durability::Logged);
    other.execute_batch("ROLLBACK").unwrap();
    told.await.unwrap();
    assert!(store.depths().0 > 0, "it is told while types wait, not after them");
    // The end comes after all of them.
    store.close().await;
    let (_, snapshot) = open(dir.path());
    let types = &snapshot.types[&1];
    assert_eq!(types.len(), schemas.len());
    for ((record, schema), number) in types.iter().zip(&schemas).zip(0..) {
        assert_eq!((&*record.name, record.hash), (&*name(number), schema.hash()));
        assert_eq!(*record.schema, *schema);
    }
}

#[tokio::test]
async fn types_are_written_by_themselves_after_the_events_that_were_told_before() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.change(add(1)).await.unwrap();
    let events = 3000;
    for number in 1..=events {
        store.record_event(event(number));
    }
    store.note_type(1, Direction::Input, &name(1), Some(&TypeSchema::U8));
    let count = |sql: &str| -> u32 {
        let connection = Connection::open(dir.path().join("state.db")).unwrap();
        connection.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    let began = Instant::now();
    while count("SELECT count(*) FROM types") == 0 {
        assert!(began.elapsed() < Duration::from_secs(20));
        tokio::task::yield_now().await;
    }
    assert_eq!(count("SELECT count(*) FROM events"), events);
}

#[tokio::test]
async fn a_type_that_cannot_be_read_is_reported_until_it_is_declared_again() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    for order in 1..=2 {
        store.change(add(order)).await.unwrap();
        for number in 0..4 {
            store.note_type(order, Direction::Output, &name(number), Some(&TypeSchema::U8));
        }
    }
    store.close().await;
    let sql = "UPDATE types SET schema = x'ff' WHERE id = 1;
         UPDATE types SET direction = 'sideways' WHERE id = 2;
         UPDATE types SET hash = x'00' WHERE id = 3;
         DELETE FROM instances WHERE number = 2;";
    Connection::open(dir.path().join("state.db")).unwrap().execute_batch(sql).unwrap();
    for round in 0..2 {
        let (store, snapshot) = open(dir.path());
        assert_eq!(snapshot.unreadable.len(), 3 - round, "{:?}", snapshot.unreadable);
        let all = snapshot.unreadable.join("\n");
        assert!(all.contains("sideways") && all.contains(&instance(1).id.to_string()), "{all}");
        assert_eq!(snapshot.types[&1].len(), 1 + round);
        assert_eq!(snapshot.types.len(), 1, "nobody's types are no fault");
        store.note_type(1, Direction::Output, &name(0), Some(&TypeSchema::U16));
        store.close().await;
    }
    let (store, _) = open(dir.path());
    store.change(Change::RemoveUnreadable).await.unwrap();
    store.close().await;
    let (_, snapshot) = open(dir.path());
    assert!(snapshot.unreadable.is_empty(), "{:?}", snapshot.unreadable);
    assert_eq!(snapshot.types[&1].len(), 2);
}

#[tokio::test]
async fn types_that_could_not_be_written_are_written_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.change(add(1)).await.unwrap();
    store.change(Change::LimitPages(1)).await.unwrap();
    let field = Field { name: "value".to_owned(), schema: TypeSchema::F64 };
    let schemas = [large(1), TypeSchema::Struct(vec![field])];
    for schema in &schemas {
        store.note_type(1, Direction::Output, &name(1), Some(schema));
        let full = store.commit(Durability::Logged).await;
        assert!(full.is_err() || *schema == schemas[1], "{full:?}");
    }
    store.change(Change::LimitPages(1_000_000)).await.unwrap();
    store.commit(Durability::Logged).await.unwrap();
    assert_eq!(store.depths(), (0, 0));
    store.close().await;
    let (_, snapshot) = open(dir.path());
    assert_eq!(*snapshot.types[&1][0].schema, schemas[1]);
    assert_eq!(snapshot.types[&1].len(), 1);
}

#[tokio::test]
async fn the_forms_of_a_type_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.change(add(1)).await.unwrap();
    let of = |forms: &[TypeSchema]| {
        store.note_type(1, Direction::Input, &name(1), forms);
        store.note_type(1, Direction::Output, &name(1), forms.first());
    };
    of(&[TypeSchema::U8, TypeSchema::U16, TypeSchema::String]);
    while store.depths().0 > 0 {
        store.commit(Durability::Logged).await.unwrap();
    }
    of(&[TypeSchema::F32, TypeSchema::U8]);
    store.close().await;
    let (store, snapshot) = open(dir.path());
    let types = &snapshot.types[&1];
    let found = |direction| types.iter().find(|it| it.direction == direction).unwrap();
    let input = found(Direction::Input);
    assert_eq!((types.len(), &*input.schema), (2, &TypeSchema::F32));
    let others: Vec<_> = input.also.iter().map(|(_, schema)| (**schema).clone()).collect();
    assert_eq!(others, [TypeSchema::U8]);
    assert_eq!(found(Direction::Output).also, []);
    store.close().await;
    // A form without the one before it is a fault of the database.
    let sql = "DELETE FROM types WHERE place = 0 AND direction = 'input'";
    Connection::open(dir.path().join("state.db")).unwrap().execute(sql, []).unwrap();
    let (_, snapshot) = open(dir.path());
    assert_eq!(snapshot.unreadable.len(), 1, "{:?}", snapshot.unreadable);
    assert_eq!(snapshot.types[&1].len(), 1);
}
