//! Rows into records, and what to do with those that can't be read.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;

use orchestrator_proto::control::{Desired, Event, Exit, LinkRules, PastExit};
use orchestrator_proto::runtime::Direction;
use orchestrator_proto::{InstanceId, LinkId, Millis, SchemaHash, Size, TypeSchema};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};

use super::record::{
    InstanceRecord, LinkEnd, LinkRecord, ProcessRecord, Rest, RunRecord, ScheduleRecord, Snapshot,
    TypeRecord,
};
use super::write::OUT_OF_MEMORY;
use super::{sets, spec, write};

/// Why a row is no record, in words.
pub(super) type Bad = String;

/// Everything but the events; and the keys of rows that can't be read.
pub(super) fn snapshot(connection: &Connection) -> rusqlite::Result<(Snapshot, Unreadable)> {
    let mut snapshot = Snapshot::default();
    let mut unreadable = Unreadable::default();
    let mut statement = connection.prepare(
        "SELECT i.number, i.id, i.name, i.spec, i.copy, i.added_ms, r.* FROM instances i
         LEFT JOIN runs r ON r.number = i.number ORDER BY i.number",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let number: i64 = row.get(0)?;
        if let Ok(id) = row.get::<_, String>(1) {
            snapshot.ids.insert(id);
        }
        if let Ok(Some(copy)) = copy(row) {
            snapshot.copies.insert(copy);
        }
        match instance(row) {
            Ok(record) => {
                let run = run(row).unwrap_or_else(|bad| {
                    let what = format!("whether instance {} is to run: {bad}", record.id);
                    snapshot.unreadable.push(what);
                    RunRecord::default()
                });
                snapshot.instances.push((record, run));
            }
            Err(bad) => {
                snapshot.unreadable.push(format!("instance number {number}: {bad}"));
                unreadable.instances.push(number);
            }
        }
    }
    read_types(connection, &mut snapshot, &mut unreadable)?;
    sets::read(connection, &mut snapshot, &mut unreadable)?;
    let mut statement = connection.prepare(
        "SELECT id, sender, type, receiver, udp, policy, capacity, block_timeout_ms, history,
         transport, spin_us FROM links
         WHERE sender_set IS NULL AND receiver_set IS NULL ORDER BY id",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let number: i64 = row.get(0)?;
        match link(row) {
            Ok(record) => snapshot.links.push(record),
            Err(bad) => {
                snapshot.unreadable.push(format!("link {number}: {bad}"));
                unreadable.links.push(number);
            }
        }
    }
    snapshot.last_order = last(connection, "instances")?;
    snapshot.last_link = last(connection, "links")?;
    Ok((snapshot, unreadable))
}

/// The keys of rows that can't be read.
#[derive(Debug, Default)]
pub(super) struct Unreadable {
    pub(super) instances: Vec<i64>,
    pub(super) links: Vec<i64>,
    pub(super) sets: Vec<String>,
    pub(super) types: Vec<i64>,
}

/// Of instances that can be read.
fn read_types(
    connection: &Connection,
    snapshot: &mut Snapshot,
    unreadable: &mut Unreadable,
) -> rusqlite::Result<()> {
    let names: HashMap<u64, _> =
        snapshot.instances.iter().map(|(record, _)| (record.order, record.id)).collect();
    let mut statement = connection.prepare(
        "SELECT id, number, direction, name, hash, schema, place FROM types ORDER BY id",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (id, order): (i64, u64) = (row.get(0)?, unsigned(row, 1)?);
        let Some(instance) = names.get(&order) else {
            continue;
        };
        let known = snapshot.types.entry(order).or_default();
        match declared(row).and_then(|record| enter(known, record, row.get(6).map_err(words)?)) {
            Ok(()) => {}
            Err(bad) => {
                snapshot.unreadable.push(format!("a message type of instance {instance}: {bad}"));
                unreadable.types.push(id);
            }
        }
    }
    Ok(())
}

/// A form of a type, at its place among the forms of this type.
fn enter(known: &mut Vec<TypeRecord>, record: TypeRecord, place: i64) -> Result<(), Bad> {
    if place == 0 {
        known.push(record);
        return Ok(());
    }
    let TypeRecord { direction, name, hash, schema, .. } = record;
    let of = known.iter_mut().find(|it| it.direction == direction && it.name == name);
    let of = of.ok_or_else(|| format!("form {place} of {name:?} has none before it"))?;
    of.also.push((hash, schema));
    Ok(())
}

fn declared(row: &Row<'_>) -> Result<TypeRecord, Bad> {
    let word: String = row.get(2).map_err(words)?;
    let mut directions = [Direction::Output, Direction::Input].into_iter();
    let direction = directions
        .find(|direction| write::direction(*direction) == word)
        .ok_or_else(|| format!("{word:?} is neither output nor input"))?;
    let name: String = row.get(3).map_err(words)?;
    let canonical = row.get_ref(5).map_err(words)?.as_blob().map_err(words)?;
    let hash = SchemaHash(row.get(4).map_err(words)?);
    if hash != SchemaHash::of(canonical) {
        return Err(format!("the hash of {name:?} is not that of its schema"));
    }
    let schema = TypeSchema::decode(canonical)
        .map_err(|error| format!("the schema of {name:?}: {error}"))?;
    let (name, schema) = (name.into(), Arc::new(schema));
    Ok(TypeRecord { direction, name, hash, schema, also: Vec::new() })
}

/// The highest key that a table ever had.
fn last(connection: &Connection, table: &str) -> rusqlite::Result<u64> {
    let sql = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = ?1";
    connection.query_row(sql, [table], |row| unsigned(row, 0))
}

/// The numbers of the oldest event that is kept, and of the newest that there ever was.
pub(super) fn event_numbers(connection: &Connection) -> rusqlite::Result<(u64, u64)> {
    let numbers = "SELECT coalesce(max(value), 0) FROM numbers WHERE name = 'last event'";
    let before = connection.query_row(numbers, [], |row| unsigned(row, 0))?;
    let sql = "SELECT (SELECT min(seq) FROM events), (SELECT max(seq) FROM events)";
    let (oldest, newest) = connection.query_row(sql, [], |row| {
        Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, Option<i64>>(1)?))
    })?;
    let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
    let newest = newest.map_or(0, unsigned).max(before);
    Ok((oldest.map_or(newest + 1, unsigned), newest))
}

pub(super) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|number| u64::try_from(number).unwrap_or(0))
}

fn copy(row: &Row<'_>) -> rusqlite::Result<Option<PathBuf>> {
    let bytes = match row.get_ref(4)? {
        ValueRef::Null => return Ok(None),
        value => value.as_bytes()?.to_vec(),
    };
    Ok(Some(OsString::from_vec(bytes).into()))
}

pub(super) fn words(error: impl std::fmt::Display) -> Bad {
    error.to_string()
}

fn instance(row: &Row<'_>) -> Result<InstanceRecord, Bad> {
    let id: String = row.get(1).map_err(words)?;
    let name: Option<String> = row.get(2).map_err(words)?;
    let json: String = row.get(3).map_err(words)?;
    let shown = name.clone().unwrap_or_else(|| id.clone());
    let (spec, from_start) =
        spec::from_json(&json, name).map_err(|error| format!("{shown}: {error}"))?;
    Ok(InstanceRecord {
        order: unsigned(row, 0).map_err(words)?,
        id: id.parse().map_err(|_| format!("{id:?} is no id"))?,
        spec,
        copy: copy(row).map_err(words)?,
        added_ms: unsigned(row, 5).map_err(words)?,
        from_start,
    })
}

/// From the columns of `runs`, which begin with its number at 6. All are nothing if there is no
/// such row.
fn run(row: &Row<'_>) -> Result<RunRecord, Bad> {
    let Some(desired) = row.get::<_, Option<String>>(7).map_err(words)? else {
        return Err("there is no row".to_owned());
    };
    let number = |column| -> Result<Option<u64>, Bad> {
        let number: Option<i64> = row.get(column).map_err(words)?;
        Ok(number.and_then(|number| u64::try_from(number).ok()))
    };
    let exit = match (
        row.get::<_, Option<i64>>(12).map_err(words)?,
        row.get::<_, Option<i32>>(13).map_err(words)?,
    ) {
        (limit, Some(OUT_OF_MEMORY)) => {
            let limit = limit.and_then(|bytes| u64::try_from(bytes).ok()).map(Size);
            Some(Exit::OutOfMemory { limit })
        }
        (Some(code), _) => Some(Exit::Code(i32::try_from(code).map_err(|e| e.to_string())?)),
        (None, Some(0)) => Some(Exit::Unknown),
        (None, Some(signal)) => {
            let core_dumped: Option<bool> = row.get(14).map_err(words)?;
            Some(Exit::Signal { signal, core_dumped: core_dumped.unwrap_or(false) })
        }
        (None, None) => None,
    };
    let at_ms = number(15)?;
    let rest: String = row.get(11).map_err(words)?;
    Ok(RunRecord {
        desired: self::desired(&desired)?,
        priority: row.get::<_, String>(8).map_err(words)?.parse()?,
        starts: unsigned(row, 9).map_err(words)?,
        active: row.get(10).map_err(words)?,
        rest: match (rest.as_str(), exit) {
            ("stopped", last_exit) => Rest::Stopped { last_exit, at_ms },
            ("completed", Some(exit)) => Rest::Completed { exit, at_ms: at_ms.unwrap_or(0) },
            ("failed", exit) => Rest::Failed {
                reason: row.get::<_, Option<String>>(16).map_err(words)?.unwrap_or_default(),
                exit,
                at_ms: at_ms.unwrap_or(0),
            },
            (other, _) => return Err(format!("{other:?} without an exit")),
        },
        process: process(row).map_err(words)?,
        start_noted: number(22)?,
        end_noted: number(23)?,
        restarts: unsigned(row, 25).map_err(words)?,
        exits: exits(row)?,
        schedule: schedule(row)?.into(),
    })
}

pub(super) fn desired(word: &str) -> Result<Desired, Bad> {
    match word {
        "running" => Ok(Desired::Running),
        "stopped" => Ok(Desired::Stopped),
        other => Err(format!("{other:?} is neither running nor stopped")),
    }
}

/// Those that are of use: they are shown, and nothing is decided by them.
fn exits(row: &Row<'_>) -> Result<Vec<PastExit>, Bad> {
    let json: String = row.get(26).map_err(words)?;
    let mut exits: Vec<PastExit> = serde_json::from_str(&json).unwrap_or_else(|error| {
        tracing::warn!(%error, "how an instance ended before can't be read");
        Vec::new()
    });
    exits.drain(..exits.len().saturating_sub(PastExit::KEPT));
    Ok(exits)
}

fn schedule(row: &Row<'_>) -> Result<ScheduleRecord, Bad> {
    match row.get::<_, Option<String>>(27).map_err(words)? {
        Some(json) => serde_json::from_str(&json).map_err(|error| error.to_string()),
        None => Ok(ScheduleRecord::default()),
    }
}

fn process(row: &Row<'_>) -> rusqlite::Result<Option<ProcessRecord>> {
    let Some(pid) = row.get::<_, Option<u32>>(17)? else {
        return Ok(None);
    };
    Ok(Some(ProcessRecord {
        pid,
        start_ticks: unsigned(row, 18)?,
        boot_id: row.get::<_, String>(19)?.into(),
        started_ms: unsigned(row, 20)?,
        run: unsigned(row, 21)?,
        ready: row.get(24)?,
    }))
}

fn link(row: &Row<'_>) -> Result<LinkRecord, Bad> {
    let id = |text: String| text.parse::<InstanceId>().map_err(|_| format!("{text:?} is no id"));
    let sender: Option<String> = row.get(1).map_err(words)?;
    let receiver: Option<String> = row.get(3).map_err(words)?;
    let udp: Option<String> = row.get(4).map_err(words)?;
    Ok(LinkRecord {
        id: LinkId(unsigned(row, 0).map_err(words)?),
        from: sender.map(id).transpose()?,
        type_name: Arc::from(row.get::<_, String>(2).map_err(words)?),
        to: match (receiver, udp) {
            (Some(receiver), None) => LinkEnd::Instance(id(receiver)?),
            (None, Some(address)) => LinkEnd::Udp(address.into()),
            _ => return Err("it has not one target".to_owned()),
        },
        rules: rules(row)?,
    })
}

/// The rules of a link.
pub(super) fn rules(row: &Row<'_>) -> Result<LinkRules, Bad> {
    let policy: String = row.get("policy").map_err(words)?;
    let transport: String = row.get("transport").map_err(words)?;
    let block_timeout: i64 = row.get("block_timeout_ms").map_err(words)?;
    Ok(LinkRules {
        policy: policy.parse()?,
        capacity: row.get("capacity").map_err(words)?,
        block_timeout: Millis(u64::try_from(block_timeout).map_err(words)?),
        history: row.get("history").map_err(words)?,
        transport: transport.parse()?,
        spin_us: row.get("spin_us").map_err(words)?,
    })
}

/// An event, from the columns of its table in their order.
pub(super) fn event(row: &Row<'_>) -> Result<Event, Bad> {
    let instance: Option<String> = row.get(2).map_err(words)?;
    let json: String = row.get(4).map_err(words)?;
    Ok(Event {
        seq: unsigned(row, 0).map_err(words)?,
        time_ms: unsigned(row, 1).map_err(words)?,
        instance: instance
            .map(|id| id.parse().map_err(|_| format!("{id:?} is no id")))
            .transpose()?,
        name: row.get(3).map_err(words)?,
        kind: serde_json::from_str(&json).map_err(words)?,
    })
}
