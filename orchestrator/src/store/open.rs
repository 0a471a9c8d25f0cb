//! Opening the database: checked, brought to today's version, and set aside if it is corrupt.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::read::{self, Unreadable};
use super::record::{SetAside, Snapshot};
use super::schemas::{self, Row};
use super::{StoreError, schema, write};

/// The file in the state directory.
pub(super) const FILE: &str = "state.db";

/// What SQLite keeps beside it: the write-ahead log, and an index of that.
const BESIDE: [&str; 2] = ["-wal", "-shm"];

/// How long somebody else, such as a person with `sqlite3`, may keep the database locked
/// before a write fails.
const LOCKED: Duration = Duration::from_secs(2);

/// Pages of the database that are kept in memory: 256 KiB.
const CACHE_KIB: i64 = 256;

/// The write-ahead log is cut to this size when it begins anew: 4 MiB.
const LOG_BYTES: i64 = 4 << 20;

/// A database that is ready.
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) snapshot: Snapshot,
    pub(super) unreadable: Unreadable,
    /// The numbers of the oldest event that is kept and of the newest there ever was.
    pub(super) events: (u64, u64),
    /// The write-ahead log, to be synced.
    pub(super) log: File,
    pub(super) path: PathBuf,
    /// The schemas that are kept, without themselves.
    pub(super) schemas: Vec<Row>,
}

/// Why it is not.
enum Fault {
    Corrupt {
        reason: String,
        /// The number of its last event, if that could be read.
        last_event: Option<u64>,
    },
    Other(StoreError),
}

/// Opens the database in `dir`, which must be this process's alone.
///
/// # Errors
///
/// See [`StoreError`]. A corrupt one is no error: it is set aside, and the answer says so.
pub(super) fn open(dir: &Path) -> Result<Opened, StoreError> {
    let path = dir.join(FILE);
    let (reason, last_event) = match try_open(&path) {
        Ok(opened) => return Ok(opened),
        Err(Fault::Other(error)) => return Err(error),
        Err(Fault::Corrupt { reason, last_event }) => (reason, last_event),
    };
    let mut aside = set_aside(&path)?;
    aside.reason = reason;
    let mut opened = match try_open(&path) {
        Ok(opened) => opened,
        Err(Fault::Other(error)) => return Err(error),
        Err(Fault::Corrupt { reason, .. }) => {
            let source = io::Error::other(format!("a new database is corrupt: {reason}"));
            return Err(StoreError::File { path, source });
        }
    };
    if let Some(last) = last_event {
        // So that no number is used twice.
        write::number(&opened.connection, "last event", last)
            .map_err(|source| StoreError::Open { path, source })?;
        opened.events = (last + 1, last);
    }
    opened.snapshot.set_aside = Some(aside);
    Ok(opened)
}

/// See [`Store::check`](super::Store::check).
pub(super) fn check(dir: &Path) -> Result<(), StoreError> {
    let path = dir.join(FILE);
    match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(StoreError::File { path, source }),
        Ok(_) => {}
    }
    let look = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&path, flags)?;
        connection.busy_timeout(LOCKED)?;
        let found = schema::version(&connection)?;
        // As good as any other table: it shows that the log beside the database can be read.
        let seen = "SELECT count(*) FROM instances";
        if (1..=schema::VERSION).contains(&found) {
            connection.query_row(seen, [], |row| row.get::<_, i64>(0))?;
        }
        Ok(found)
    };
    match look() {
        Ok(found) if found > schema::VERSION => {
            Err(StoreError::Newer { path, found, known: schema::VERSION })
        }
        Ok(_) => Ok(()),
        Err(source) => Err(StoreError::Open { path, source }),
    }
}

fn try_open(path: &Path) -> Result<Opened, Fault> {
    make_private(path)
        .map_err(|source| Fault::Other(StoreError::File { path: path.to_owned(), source }))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection =
        Connection::open_with_flags(path, flags).map_err(|error| fault(path, None, error))?;
    let found = schema::version(&connection).map_err(|error| fault(path, None, error))?;
    if found > schema::VERSION {
        let (path, known) = (path.to_owned(), schema::VERSION);
        return Err(Fault::Other(StoreError::Newer { path, found, known }));
    }
    let prepared = prepare(&mut connection, found > 0);
    let (snapshot, unreadable, events, schemas) = match prepared {
        Ok(all) => all,
        Err(Problem::Corrupt(reason)) => {
            let last_event = last_event(&connection);
            return Err(Fault::Corrupt { reason, last_event });
        }
        Err(Problem::NoLog(mode)) => {
            let path = path.to_owned();
            return Err(Fault::Other(StoreError::NoLog { path, mode }));
        }
        Err(Problem::Sql(error)) => return Err(fault(path, Some(&connection), error)),
    };
    let log = open_log(path).map_err(Fault::Other)?;
    let path = path.to_owned();
    Ok(Opened { connection, snapshot, unreadable, events, log, path, schemas })
}

type All = (Snapshot, Unreadable, (u64, u64), Vec<Row>);

enum Problem {
    Sql(rusqlite::Error),
    /// The check says so.
    Corrupt(String),
    /// There is only this journal mode.
    NoLog(String),
}

impl From<rusqlite::Error> for Problem {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

/// Sets it up, checks it, and reads what is in it.
fn prepare(connection: &mut Connection, check: bool) -> Result<All, Problem> {
    connection.busy_timeout(LOCKED)?;
    connection.set_prepared_statement_cache_capacity(32);
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "temp_store", "memory")?;
    connection.pragma_update(None, "foreign_keys", false)?;
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    if mode != "wal" {
        return Err(Problem::NoLog(mode));
    }
    // The writer decides when; see there.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES)?;
    connection.pragma_update(None, "synchronous", "full")?;
    if check {
        let verdict: String =
            connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if verdict != "ok" {
            return Err(Problem::Corrupt(verdict));
        }
    }
    schema::migrate(connection)?;
    let (snapshot, unreadable) = read::snapshot(connection)?;
    let schemas = schemas::all(connection)?;
    Ok((snapshot, unreadable, read::event_numbers(connection)?, schemas))
}

fn fault(path: &Path, connection: Option<&Connection>, error: rusqlite::Error) -> Fault {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Fault::Corrupt {
            reason: error.to_string(),
            last_event: connection.and_then(last_event),
        },
        _ => Fault::Other(StoreError::Open { path: path.to_owned(), source: error }),
    }
}

/// As far as a corrupt database can say.
fn last_event(connection: &Connection) -> Option<u64> {
    let (_, newest) = read::event_numbers(connection).ok()?;
    (newest > 0).then_some(newest)
}

/// Makes the file, for this user alone, if there is none.
fn make_private(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => {
            file.sync_all()?;
            sync_dir(path)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// The names in the directory of this file are on the disk.
fn sync_dir(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// A file of our own to sync by. SQLite holds no lock on this one, so closing it lets go of none.
fn open_log(path: &Path) -> Result<File, StoreError> {
    let log = with_suffix(path, BESIDE[0]);
    let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&log);
    opened
        .and_then(|file| sync_dir(path).map(|()| file))
        .map_err(|source| StoreError::File { path: log, source })
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Moves the database and what belongs to it to names that nobody has.
fn set_aside(path: &Path) -> Result<SetAside, StoreError> {
    let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S");
    let names = |suffix: &str| {
        let aside = with_suffix(path, suffix);
        let mut pairs = vec![(path.to_owned(), aside.clone())];
        // The same relation between the names as before, so that `sqlite3` can still read it.
        pairs.extend(BESIDE.map(|end| (with_suffix(path, end), with_suffix(&aside, end))));
        pairs
    };
    let free = |suffix: &String| {
        names(suffix).iter().all(|(_, aside)| fs::symlink_metadata(aside).is_err())
    };
    // The directory is ours alone, so a name that is free stays free.
    let plain = format!(".corrupt-{time}Z");
    let mut suffixes =
        std::iter::once(plain.clone()).chain((1..).map(|n: u32| format!("{plain}-{n}")));
    let suffix = suffixes.find(free).unwrap_or(plain);
    for (from, to) in names(&suffix) {
        match fs::rename(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(StoreError::File { path: from, source }),
            Ok(()) => {}
        }
    }
    sync_dir(path).map_err(|source| StoreError::File { path: path.to_owned(), source })?;
    Ok(SetAside { path: with_suffix(path, &suffix), suffix, reason: String::new() })
}
