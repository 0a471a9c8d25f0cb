//! The tables, and how older ones become those of today.
//!
//! The version is SQLite's `user_version`. Migrations are only ever added: the one at place
//! `n` brings a database from version `n` to `n + 1`.

use rusqlite::{Connection, Transaction, TransactionBehavior};

/// From nothing to today's tables.
const MIGRATIONS: [&str; 12] = [
    // 1. Words and JSON where that is cheap, so that `sqlite3 state.db` shows what is there.
    "CREATE TABLE instances (
        number   INTEGER PRIMARY KEY AUTOINCREMENT, -- the order in which they were added
        id       TEXT NOT NULL UNIQUE,
        name     TEXT,
        spec     TEXT NOT NULL,                     -- JSON
        copy     BLOB,                              -- below programs/, if a client sent it
        added_ms INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE runs (                             -- one row for each instance
        number      INTEGER PRIMARY KEY,
        desired     TEXT NOT NULL,                  -- stopped, running
        priority    TEXT NOT NULL,
        starts      INTEGER NOT NULL,
        active      INTEGER NOT NULL,               -- starting, running or stopping
        rest        TEXT NOT NULL,                  -- stopped, exited, failed: when last at rest
        exit_code   INTEGER,
        exit_signal INTEGER,
        core_dumped INTEGER,
        rest_ms     INTEGER,
        error       TEXT,
        pid         INTEGER,                        -- of the main process, while there is one
        start_ticks INTEGER,
        boot_id     TEXT,
        started_ms  INTEGER,
        run         INTEGER
    ) STRICT;
    CREATE TABLE links (
        id       INTEGER PRIMARY KEY AUTOINCREMENT,
        sender   TEXT,                              -- an instance; nothing is anybody
        type     TEXT NOT NULL,
        receiver TEXT,                              -- an instance,
        udp      TEXT,                              -- or HOST:PORT
        policy   TEXT NOT NULL,
        capacity INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX links_by_sender ON links (sender) WHERE sender IS NOT NULL;
    CREATE INDEX links_by_receiver ON links (receiver) WHERE receiver IS NOT NULL;
    CREATE TABLE events (
        seq      INTEGER PRIMARY KEY,
        time_ms  INTEGER NOT NULL,
        instance TEXT,
        name     TEXT,
        kind     TEXT NOT NULL                      -- JSON
    ) STRICT;
    CREATE TABLE numbers (
        name  TEXT PRIMARY KEY,
        value INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;",
    // 2. What instances last declared of their message types; up to which process runs are noted.
    "CREATE TABLE types (
        id        INTEGER PRIMARY KEY AUTOINCREMENT,
        number    INTEGER NOT NULL,                 -- of the instance
        direction TEXT NOT NULL,                    -- output, input
        name      TEXT NOT NULL,
        hash      BLOB NOT NULL,                    -- BLAKE3 of the schema
        schema    BLOB NOT NULL,                    -- its canonical form
        UNIQUE (number, direction, name)
    ) STRICT;
    ALTER TABLE runs ADD COLUMN start_noted INTEGER; -- of this process, by the holder's number
    ALTER TABLE runs ADD COLUMN end_noted INTEGER;",
    // 3. Whether a main process has been ready; an end by itself is a success or a failure.
    "ALTER TABLE runs ADD COLUMN ready INTEGER NOT NULL DEFAULT 1;
    UPDATE runs SET rest = 'completed' WHERE rest = 'exited' AND exit_code = 0;
    UPDATE runs
        SET rest = 'failed', error = coalesce('exit code ' || exit_code, 'signal ' || exit_signal)
        WHERE rest = 'exited';",
    // 4. How often instances were started again by themselves, and how they ended the last times.
    "ALTER TABLE runs ADD COLUMN restarts INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE runs ADD COLUMN exits TEXT NOT NULL DEFAULT '[]'; -- JSON, the newest last",
    // 5. What a schedule has done, as JSON.
    "ALTER TABLE runs ADD COLUMN schedule TEXT;",
    // 6. Sets of replicas, whose instances are known by their names; links from and to them.
    "CREATE TABLE sets (
        name     TEXT PRIMARY KEY,
        spec     TEXT NOT NULL,                     -- JSON
        desired  TEXT NOT NULL,                     -- stopped, running
        priority TEXT,
        leaving  INTEGER NOT NULL                   -- being removed
    ) STRICT, WITHOUT ROWID;
    ALTER TABLE links ADD COLUMN sender_set TEXT;   -- a set, in the place of an instance
    ALTER TABLE links ADD COLUMN receiver_set TEXT;",
    // 7. How long a link holds its senders back.
    "ALTER TABLE links ADD COLUMN block_timeout_ms INTEGER NOT NULL DEFAULT 0;",
    // 8. How many of the last messages a receiver gets that comes later.
    "ALTER TABLE links ADD COLUMN history INTEGER NOT NULL DEFAULT 0;",
    // 9. Which way the messages of a link are to go.
    "ALTER TABLE links ADD COLUMN transport TEXT NOT NULL DEFAULT 'auto';",
    // 10. Every schema that was ever declared; those of today's types among them.
    "CREATE TABLE schemas (
        number        INTEGER PRIMARY KEY,
        name          TEXT NOT NULL,                -- of the message type
        hash          BLOB NOT NULL,                -- BLAKE3 of the schema
        schema        BLOB NOT NULL,                -- its canonical form
        first_seen_ms INTEGER NOT NULL,
        last_seen_ms  INTEGER NOT NULL,             -- to within an hour
        UNIQUE (name, hash)
    ) STRICT;
    CREATE INDEX schemas_by_last_seen ON schemas (last_seen_ms);
    CREATE INDEX types_by_schema ON types (name, hash);
    INSERT OR IGNORE INTO schemas (name, hash, schema, first_seen_ms, last_seen_ms)
        SELECT name, hash, schema, unixepoch() * 1000, unixepoch() * 1000 FROM types ORDER BY id;",
    // 11. An input may take several forms of a type.
    "CREATE TABLE forms (
        id        INTEGER PRIMARY KEY AUTOINCREMENT,
        number    INTEGER NOT NULL,                 -- of the instance
        direction TEXT NOT NULL,                    -- output, input
        name      TEXT NOT NULL,
        place     INTEGER NOT NULL,                 -- among the forms of the type; 0 is the best
        hash      BLOB NOT NULL,                    -- BLAKE3 of the schema
        schema    BLOB NOT NULL,                    -- its canonical form
        UNIQUE (number, direction, name, place)
    ) STRICT;
    INSERT INTO forms (id, number, direction, name, place, hash, schema)
        SELECT id, number, direction, name, 0, hash, schema FROM types;
    DROP TABLE types;
    ALTER TABLE forms RENAME TO types;
    CREATE INDEX types_by_schema ON types (name, hash);",
    // 12. For how long an end of a link that waits keeps a processor busy.
    "ALTER TABLE links ADD COLUMN spin_us INTEGER NOT NULL DEFAULT 0;",
];

/// The version of today's tables.
pub(super) const VERSION: i64 = MIGRATIONS.len() as i64;

/// The version of a database; 0 is an empty one.
pub(super) fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Brings the tables to today's version, each step as a whole or not at all.
pub(super) fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    migrate_with(connection, &MIGRATIONS)
}

fn migrate_with(connection: &mut Connection, migrations: &[&str]) -> rusqlite::Result<()> {
    let from = usize::try_from(version(connection)?).unwrap_or(usize::MAX);
    for (done, migration) in migrations.iter().enumerate().skip(from) {
        let step = Transaction::new(connection, TransactionBehavior::Immediate)?;
        step.execute_batch(migration)?;
        step.pragma_update(None, "user_version", done as i64 + 1)?;
        step.commit()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use orchestrator_proto::Millis;
    use orchestrator_proto::control::Transport;

    use super::*;

    #[test]
    fn every_step_is_done_once_and_as_a_whole() {
        let mut connection = Connection::open_in_memory().unwrap();
        let steps =
            ["CREATE TABLE a (x)", "INSERT INTO a VALUES (1); INSERT INTO a VALUES (2)", "bad"];
        let rows = |connection: &Connection| {
            connection.query_row("SELECT count(*) FROM a", [], |row| row.get::<_, i64>(0)).unwrap()
        };
        migrate_with(&mut connection, &steps[..1]).unwrap();
        assert_eq!((version(&connection).unwrap(), rows(&connection)), (1, 0));
        for _ in 0..2 {
            migrate_with(&mut connection, &steps[..2]).unwrap();
            assert_eq!((version(&connection).unwrap(), rows(&connection)), (2, 2));
        }
        migrate_with(&mut connection, &steps).unwrap_err();
        let halfway = ["", "", "INSERT INTO a VALUES (3); bad"];
        migrate_with(&mut connection, &halfway).unwrap_err();
        assert_eq!((version(&connection).unwrap(), rows(&connection)), (2, 2));
    }

    #[test]
    fn what_a_first_version_has_kept_is_there_afterwards() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate_with(&mut connection, &MIGRATIONS[..1]).unwrap();
        let add = "INSERT INTO instances (number, id, spec, added_ms) VALUES (7, 'i', '{}', 1);
             INSERT INTO events (seq, time_ms, kind) VALUES (9, 1, '\"added\"')";
        connection.execute_batch(add).unwrap();
        migrate(&mut connection).unwrap();
        let kept = "SELECT (SELECT number FROM instances), (SELECT seq FROM events),
             (SELECT count(*) FROM types)";
        let kept: (i64, i64, i64) = connection
            .query_row(kept, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .unwrap();
        assert_eq!(kept, (7, 9, 0));
    }

    #[test]
    fn a_link_of_a_time_with_one_way_goes_the_way_that_is_the_default() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate_with(&mut connection, &MIGRATIONS[..8]).unwrap();
        let add = "INSERT INTO links (id, type, udp, policy, capacity, history)
                VALUES (3, 't', 'h:1', 'latest', 1, 5);
             INSERT INTO links (id, type, receiver_set, policy, capacity, block_timeout_ms)
                VALUES (4, 't', 's', 'block', 9, 500)";
        connection.execute_batch(add).unwrap();
        migrate(&mut connection).unwrap();
        let (kept, _) = super::super::read::snapshot(&connection).unwrap();
        assert!(kept.unreadable.is_empty(), "{:?}", kept.unreadable);
        let rules = [kept.links[0].rules, kept.set_links[0].rules];
        assert_eq!(rules.map(|it| (it.transport, it.spin_us)), [(Transport::Auto, 0); 2]);
        assert_eq!((rules[0].history, rules[1].block_timeout), (5, Millis(500)));
    }

    #[test]
    fn todays_tables_come_from_nothing() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection).unwrap();
        assert_eq!(version(&connection).unwrap(), VERSION);
        migrate(&mut connection).unwrap();
    }
}
