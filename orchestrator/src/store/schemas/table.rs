//! Schemas in the database.

use std::sync::Arc;

use orchestrator_proto::SchemaHash;
use rusqlite::{Connection, OptionalExtension, params};

use super::{MAX_SCHEMA_BYTES, MAX_SCHEMAS, NotedSchema, Row, Schemas};
use crate::store::read::unsigned;
use crate::store::write::{int, run};

/// So many are forgotten at once, if any: that is not looked into for each that comes.
const AT_ONCE: usize = 128;

/// All of them that can be read, without the schemas.
pub(in crate::store) fn all(connection: &Connection) -> rusqlite::Result<Vec<Row>> {
    let mut statement = connection.prepare(
        "SELECT name, hash, first_seen_ms, last_seen_ms, length(schema) FROM schemas
         ORDER BY first_seen_ms, number",
    )?;
    let rows = statement.query_map([], |row| {
        Ok((
            row.get::<_, String>(0)?,
            row.get::<_, Vec<u8>>(1)?,
            unsigned(row, 2)?,
            unsigned(row, 3)?,
            row.get(4)?,
        ))
    })?;
    let mut all = Vec::new();
    for row in rows {
        let (name, hash, first_ms, last_ms, length) = row?;
        match hash.try_into() {
            Ok(hash) => {
                let (name, hash) = (name.into(), SchemaHash(hash));
                all.push(Row { name, hash, first_ms, last_ms, length });
            }
            Err(_) => {
                tracing::warn!(name, "a schema in the database has no hash and is passed over")
            }
        }
    }
    Ok(all)
}

/// The canonical form of one of them, as it is there.
pub(in crate::store) fn form(
    connection: &Connection,
    name: &str,
    hash: SchemaHash,
) -> rusqlite::Result<Option<Arc<[u8]>>> {
    let mut statement =
        connection.prepare_cached("SELECT schema FROM schemas WHERE name = ?1 AND hash = ?2")?;
    let found = statement.query_row(params![name, hash.0], |row| row.get::<_, Vec<u8>>(0));
    Ok(found.optional()?.map(Into::into))
}

/// These were declared.
pub(in crate::store) fn write(
    connection: &Connection,
    noted: &[NotedSchema],
) -> rusqlite::Result<()> {
    for NotedSchema { name, hash, schema, at_ms } in noted {
        match schema {
            Some(schema) => run(
                connection,
                "INSERT INTO schemas (name, hash, schema, first_seen_ms, last_seen_ms)
                 VALUES (?1, ?2, ?3, ?4, ?4)
                 ON CONFLICT (name, hash) DO UPDATE SET last_seen_ms = max(last_seen_ms, ?4)",
                params![&**name, hash.0, &**schema, int(*at_ms)],
            )?,
            None => run(
                connection,
                "UPDATE schemas SET last_seen_ms = max(last_seen_ms, ?3)
                 WHERE name = ?1 AND hash = ?2",
                params![&**name, hash.0, int(*at_ms)],
            )?,
        }
    }
    Ok(())
}

/// Forgets those that are too many; see the module. The answer is which. To be told to `schemas`
/// when it is committed.
pub(in crate::store) fn forget_excess(
    connection: &Connection,
    schemas: &Schemas,
) -> rusqlite::Result<Vec<(String, SchemaHash)>> {
    let (mut count, mut bytes) = schemas.size();
    let mut forgotten = Vec::new();
    while count > MAX_SCHEMAS || bytes > MAX_SCHEMA_BYTES {
        let mut statement = connection.prepare_cached(
            "DELETE FROM schemas WHERE number IN (
                 SELECT number FROM schemas AS old
                 WHERE NOT EXISTS (
                     SELECT 1 FROM types WHERE types.name = old.name AND types.hash = old.hash
                 )
                 ORDER BY last_seen_ms, number LIMIT ?1
             ) RETURNING name, hash, length(schema)",
        )?;
        let gone = statement.query_map([int(AT_ONCE as u64)], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, [u8; 32]>(1)?, unsigned(row, 2)?))
        })?;
        let before = forgotten.len();
        for row in gone {
            let (name, hash, length) = row?;
            bytes = bytes.saturating_sub(length);
            forgotten.push((name, SchemaHash(hash)));
        }
        if forgotten.len() == before {
            // Instances declare all that is left.
            break;
        }
        count = count.saturating_sub(forgotten.len() - before);
    }
    Ok(forgotten)
}
