//! Sets of replicas and the links from and to them, as rows and as records.

use orchestrator_proto::control::Wanted;
use orchestrator_proto::{InstanceId, LinkId};
use rusqlite::{Connection, Row, params};

use super::read::{Bad, Unreadable, desired, rules, unsigned, words};
use super::record::{LinkEnd, SetLinkEnd, SetLinkRecord, SetRecord, Snapshot};
use super::spec;
use super::write::{self, int, run};

/// Adds a set, or changes the one of that name.
pub(super) fn put(connection: &Connection, record: &SetRecord) -> rusqlite::Result<()> {
    let SetRecord { set, leaving } = record;
    let json = spec::to_json(&set.spec, 1)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    run(
        connection,
        "INSERT INTO sets (name, spec, desired, priority, leaving) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (name) DO UPDATE SET spec = ?2, desired = ?3, priority = ?4, leaving = ?5",
        params![
            set.spec.name,
            json,
            write::desired(set.desired),
            set.priority.map(|priority| priority.to_string()),
            leaving
        ],
    )
}

/// Removes a set and the links from and to it.
pub(super) fn remove(connection: &Connection, name: &str) -> rusqlite::Result<()> {
    run(connection, "DELETE FROM links WHERE sender_set = ?1 OR receiver_set = ?1", [name])?;
    run(connection, "DELETE FROM sets WHERE name = ?1", [name])
}

/// Adds a link from or to a set.
pub(super) fn add_link(connection: &Connection, record: &SetLinkRecord) -> rusqlite::Result<()> {
    let (sender, sender_set) = match &record.from {
        None => (None, None),
        Some(SetLinkEnd::Set(name)) => (None, Some(name)),
        Some(SetLinkEnd::Single(LinkEnd::Instance(id))) => (Some(id.to_string()), None),
        // Nobody sends from there; there is no such row to be read either.
        Some(SetLinkEnd::Single(LinkEnd::Udp(_))) => return Ok(()),
    };
    let (receiver, udp, receiver_set) = match &record.to {
        SetLinkEnd::Set(name) => (None, None, Some(name)),
        SetLinkEnd::Single(LinkEnd::Instance(id)) => (Some(id.to_string()), None, None),
        SetLinkEnd::Single(LinkEnd::Udp(address)) => (None, Some(&**address), None),
    };
    run(
        connection,
        "INSERT INTO links (id, sender, type, receiver, udp, policy, capacity, sender_set,
         receiver_set) VALUES (?1, ?2, ?3, ?4, ?5, '', 0, ?6, ?7)",
        params![
            int(record.id.0),
            sender,
            &*record.type_name,
            receiver,
            udp,
            sender_set,
            receiver_set
        ],
    )?;
    write::set_rules(connection, record.id, record.rules)
}

/// All sets and links from and to them.
pub(super) fn read(
    connection: &Connection,
    snapshot: &mut Snapshot,
    unreadable: &mut Unreadable,
) -> rusqlite::Result<()> {
    let mut statement = connection
        .prepare("SELECT name, spec, desired, priority, leaving FROM sets ORDER BY name")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        match set(row) {
            Ok(record) => snapshot.sets.push(record),
            Err(bad) => {
                let name: String = row.get(0)?;
                snapshot.unreadable.push(format!("the set of replicas {name}: {bad}"));
                unreadable.sets.push(name);
            }
        }
    }
    let mut statement = connection.prepare(
        "SELECT id, sender, type, receiver, udp, sender_set, receiver_set, policy, capacity,
         block_timeout_ms, history, transport, spin_us FROM links
         WHERE sender_set IS NOT NULL OR receiver_set IS NOT NULL ORDER BY id",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        match link(row) {
            Ok(record) => snapshot.set_links.push(record),
            Err(bad) => {
                let number: i64 = row.get(0)?;
                snapshot.unreadable.push(format!("link {number}: {bad}"));
                unreadable.links.push(number);
            }
        }
    }
    Ok(())
}

fn set(row: &Row<'_>) -> Result<SetRecord, Bad> {
    let name: String = row.get(0).map_err(words)?;
    let json: String = row.get(1).map_err(words)?;
    let (spec, _) = spec::from_json(&json, Some(name)).map_err(words)?;
    let replicas = spec.replicas.ok_or("it does not say how many there are")?;
    replicas.check()?;
    let priority: Option<String> = row.get(3).map_err(words)?;
    Ok(SetRecord {
        set: Wanted {
            spec,
            desired: desired(&row.get::<_, String>(2).map_err(words)?)?,
            priority: priority.map(|word| word.parse()).transpose()?,
        },
        leaving: row.get(4).map_err(words)?,
    })
}

fn link(row: &Row<'_>) -> Result<SetLinkRecord, Bad> {
    let text = |column| row.get::<_, Option<String>>(column).map_err(words);
    let instance = |text: String| {
        let id = text.parse::<InstanceId>().map_err(|_| format!("{text:?} is no id"))?;
        Ok::<_, Bad>(SetLinkEnd::Single(LinkEnd::Instance(id)))
    };
    let from = match (text(1)?, text(5)?) {
        (None, Some(set)) => Some(SetLinkEnd::Set(set)),
        (Some(sender), None) => Some(instance(sender)?),
        (None, None) => None,
        (Some(_), Some(_)) => return Err("it has two senders".to_owned()),
    };
    let to = match (text(3)?, text(4)?, text(6)?) {
        (None, None, Some(set)) => SetLinkEnd::Set(set),
        (Some(receiver), None, None) => instance(receiver)?,
        (None, Some(address), None) => SetLinkEnd::Single(LinkEnd::Udp(address.into())),
        _ => return Err("it has not one target".to_owned()),
    };
    Ok(SetLinkRecord {
        id: LinkId(unsigned(row, 0).map_err(words)?),
        from,
        type_name: row.get::<_, String>(2).map_err(words)?.into(),
        to,
        rules: rules(row)?,
    })
}
