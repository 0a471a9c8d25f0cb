//! Records into rows. Each of these is one or two statements within the caller's transaction.

use std::os::unix::ffi::OsStrExt;

use orchestrator_proto::control::{Desired, Event, EventKind, Exit, LinkRules};
use orchestrator_proto::runtime::Direction;
use orchestrator_proto::{LinkId, SchemaHash};
use rusqlite::{Connection, params};

use super::record::{
    Change, InstanceRecord, LinkEnd, LinkRecord, Rest, RunRecord, ScheduleRecord, SetLinkRecord,
};
use super::sets;
use super::spec;
use super::types::{Declared, TypeKey};

/// SQLite's integers have a sign; nothing that is counted here comes near to that.
pub(super) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn change(connection: &Connection, change: &Change) -> rusqlite::Result<()> {
    match change {
        Change::AddInstance(record) => add_instance(connection, record),
        Change::ChangeInstance(record) => change_instance(connection, record),
        Change::All(changes) => all(connection, changes),
        Change::RemoveInstance { order, id } => {
            let (number, id) = (int(*order), id.to_string());
            run(connection, "DELETE FROM links WHERE sender = ?1 OR receiver = ?1", [&id])?;
            run(connection, "DELETE FROM runs WHERE number = ?1", [number])?;
            run(connection, "DELETE FROM types WHERE number = ?1", [number])?;
            run(connection, "DELETE FROM instances WHERE number = ?1", [number])
        }
        Change::AddLink(record) => add_link(connection, record),
        Change::ChangeLink(LinkRecord { id, rules, .. })
        | Change::ChangeSetLink(SetLinkRecord { id, rules, .. }) => {
            set_rules(connection, *id, *rules)
        }
        Change::RemoveLink(id) => run(connection, "DELETE FROM links WHERE id = ?1", [int(id.0)]),
        Change::PutSet(record) => sets::put(connection, record),
        Change::RemoveSet(name) => sets::remove(connection, name),
        Change::AddSetLink(record) => sets::add_link(connection, record),
        // Carried out by the writer, which knows what could not be read.
        Change::RemoveUnreadable => Ok(()),
        #[cfg(test)]
        Change::LimitPages(_) => Ok(()),
    }
}

pub(super) fn run(
    connection: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute(params).map(|_| ())
}

/// As a whole or not at all: what went before a conflict is undone, and the transaction goes on.
fn all(connection: &Connection, changes: &[Change]) -> rusqlite::Result<()> {
    connection.prepare_cached("SAVEPOINT together")?.execute([])?;
    let result = changes.iter().try_for_each(|each| change(connection, each));
    if result.is_err() {
        connection.prepare_cached("ROLLBACK TO together")?.execute([])?;
    }
    connection.prepare_cached("RELEASE together")?.execute([])?;
    result
}

fn json(record: &InstanceRecord) -> rusqlite::Result<String> {
    spec::to_json(&record.spec, record.from_start)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

fn change_instance(connection: &Connection, record: &InstanceRecord) -> rusqlite::Result<()> {
    run(
        connection,
        "UPDATE instances SET spec = ?2, copy = ?3 WHERE number = ?1",
        params![
            int(record.order),
            json(record)?,
            record.copy.as_ref().map(|copy| copy.as_os_str().as_bytes())
        ],
    )
}

fn add_instance(connection: &Connection, record: &InstanceRecord) -> rusqlite::Result<()> {
    let json = json(record)?;
    let number = int(record.order);
    run(
        connection,
        "INSERT INTO instances (number, id, name, spec, copy, added_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            number,
            record.id.to_string(),
            record.spec.name,
            json,
            record.copy.as_ref().map(|copy| copy.as_os_str().as_bytes()),
            int(record.added_ms)
        ],
    )?;
    // Rows of an instance that was removed by hand may be left.
    run(connection, "DELETE FROM runs WHERE number = ?1", [number])?;
    run(connection, "DELETE FROM types WHERE number = ?1", [number])?;
    note_run(connection, record.order, &RunRecord::default(), true)
}

fn add_link(connection: &Connection, record: &LinkRecord) -> rusqlite::Result<()> {
    let (receiver, udp) = match &record.to {
        LinkEnd::Instance(id) => (Some(id.to_string()), None),
        LinkEnd::Udp(address) => (None, Some(&**address)),
    };
    run(
        connection,
        "INSERT INTO links (id, sender, type, receiver, udp, policy, capacity)
         VALUES (?1, ?2, ?3, ?4, ?5, '', 0)",
        params![
            int(record.id.0),
            record.from.map(|from| from.to_string()),
            &*record.type_name,
            receiver,
            udp
        ],
    )?;
    set_rules(connection, record.id, record.rules)
}

/// The rules of a link, in the row that is there.
pub(super) fn set_rules(
    connection: &Connection,
    id: LinkId,
    rules: LinkRules,
) -> rusqlite::Result<()> {
    let LinkRules { policy, capacity, block_timeout, history, transport, spin_us } = rules;
    run(
        connection,
        "UPDATE links SET policy = ?2, capacity = ?3, block_timeout_ms = ?4, history = ?5,
         transport = ?6, spin_us = ?7 WHERE id = ?1",
        params![
            int(id.0),
            policy.to_string(),
            capacity,
            int(block_timeout.0),
            history,
            transport.to_string(),
            spin_us
        ],
    )
}

/// In the place of a signal: the kernel killed it. In that of the exit code is the limit, if it
/// has reached one.
pub(super) const OUT_OF_MEMORY: i32 = -1;

/// How a main process ended, in three columns. No signal has the number 0, or one below that.
fn exit_columns(exit: Exit) -> (Option<i64>, Option<i32>, Option<bool>) {
    match exit {
        Exit::Code(code) => (Some(code.into()), None, None),
        Exit::OutOfMemory { limit } => {
            let limit = limit.map(|limit| i64::try_from(limit.0).unwrap_or(i64::MAX));
            (limit, Some(OUT_OF_MEMORY), None)
        }
        Exit::Signal { signal, core_dumped } => (None, Some(signal), Some(core_dumped)),
        Exit::Unknown => (None, Some(0), None),
    }
}

/// Does nothing for an instance that was removed, unless it is `new`.
pub(super) fn note_run(
    connection: &Connection,
    order: u64,
    record: &RunRecord,
    new: bool,
) -> rusqlite::Result<()> {
    const INSERT: &str = "INSERT INTO runs (number, desired, priority, starts, active, rest,
         exit_code, exit_signal, core_dumped, rest_ms, error, pid, start_ticks, boot_id,
         started_ms, run, start_noted, end_noted, ready, restarts, exits, schedule)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18,
         ?19, ?20, ?21, ?22)";
    const UPDATE: &str = "UPDATE runs SET desired = ?2, priority = ?3, starts = ?4, active = ?5,
         rest = ?6, exit_code = ?7, exit_signal = ?8, core_dumped = ?9, rest_ms = ?10, error = ?11,
         pid = ?12, start_ticks = ?13, boot_id = ?14, started_ms = ?15, run = ?16,
         start_noted = ?17, end_noted = ?18, ready = ?19, restarts = ?20, exits = ?21,
         schedule = ?22
         WHERE number = ?1";
    let (rest, exit, at_ms, error) = match &record.rest {
        Rest::Stopped { last_exit, at_ms } => ("stopped", *last_exit, *at_ms, None),
        Rest::Completed { exit, at_ms } => ("completed", Some(*exit), Some(*at_ms), None),
        Rest::Failed { reason, exit, at_ms } => ("failed", *exit, Some(*at_ms), Some(reason)),
    };
    let (code, signal, core_dumped) = exit.map(exit_columns).unwrap_or_default();
    let exits = serde_json::to_string(&record.exits)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    let process = record.process.as_ref();
    let schedule = Some(&*record.schedule).filter(|it| **it != ScheduleRecord::default());
    let schedule = schedule.map(serde_json::to_string).transpose();
    let schedule =
        schedule.map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    run(
        connection,
        if new { INSERT } else { UPDATE },
        params![
            int(order),
            desired(record.desired),
            record.priority.to_string(),
            int(record.starts),
            record.active,
            rest,
            code,
            signal,
            core_dumped,
            at_ms.map(int),
            error,
            process.map(|process| process.pid),
            process.map(|process| int(process.start_ticks)),
            process.map(|process| &*process.boot_id),
            process.map(|process| int(process.started_ms)),
            process.map(|process| int(process.run)),
            record.start_noted.map(int),
            record.end_noted.map(int),
            process.is_some_and(|process| process.ready),
            int(record.restarts),
            exits,
            schedule
        ],
    )
}

/// The word for it in the table.
pub(super) const fn desired(desired: Desired) -> &'static str {
    match desired {
        Desired::Running => "running",
        Desired::Stopped => "stopped",
    }
}

/// The word for it in the table.
pub(super) const fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Output => "output",
        Direction::Input => "input",
    }
}

/// Does nothing for an instance that was removed.
pub(super) fn note_type(
    connection: &Connection,
    key: &TypeKey,
    declared: &Declared,
) -> rusqlite::Result<()> {
    let TypeKey { order, direction, name } = key;
    let (number, direction) = (int(*order), self::direction(*direction));
    // New rows, also instead of old ones: what could not be read is known by its id.
    run(
        connection,
        "DELETE FROM types WHERE number = ?1 AND direction = ?2 AND name = ?3",
        params![number, direction, &**name],
    )?;
    for (place, schema) in (0_i64..).zip(declared) {
        run(
            connection,
            "INSERT INTO types (number, direction, name, place, hash, schema)
             SELECT number, ?2, ?3, ?4, ?5, ?6 FROM instances WHERE number = ?1",
            params![number, direction, &**name, place, SchemaHash::of(schema).0, &**schema],
        )?;
    }
    Ok(())
}

pub(super) fn event(connection: &Connection, event: &Event) -> rusqlite::Result<()> {
    let json = kind_to_json(&event.kind)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    run(
        connection,
        "INSERT INTO events (seq, time_ms, instance, name, kind) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            int(event.seq),
            int(event.time_ms),
            event.instance.map(|id| id.to_string()),
            event.name,
            json
        ],
    )
}

fn kind_to_json(kind: &EventKind) -> serde_json::Result<String> {
    serde_json::to_string(kind)
}

/// Deletes all events with numbers below this one.
pub(super) fn forget_events(connection: &Connection, below: u64) -> rusqlite::Result<()> {
    run(connection, "DELETE FROM events WHERE seq < ?1", [int(below)])
}

/// Sets a number that is kept by name.
pub(super) fn number(connection: &Connection, name: &str, value: u64) -> rusqlite::Result<()> {
    run(
        connection,
        "INSERT INTO numbers (name, value) VALUES (?1, ?2)
         ON CONFLICT (name) DO UPDATE SET value = ?2",
        params![name, int(value)],
    )
}
