//! Why something could not be kept, in words that say what to do.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why something could not be kept.
#[derive(Debug, Error)]
pub enum StoreError {
    /// It can't be opened, and not because of what is in it.
    #[error("cannot open the database {path:?}: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// Its file system can't have a write-ahead log.
    #[error(
        "the file system of the database {path:?} has no shared memory, which its write-ahead log \
         needs (the journal mode is {mode:?}); choose a directory on another with --state-dir"
    )]
    NoLog {
        /// The file.
        path: PathBuf,
        /// What SQLite offers.
        mode: String,
    },
    /// A file beside it can't be used.
    #[error("cannot use {path:?}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It was written by a newer daemon.
    #[error(
        "the database {path:?} has the version {found}, and this daemon knows versions up to \
         {known}: run the newer daemon that wrote it, or choose another directory with \
         --state-dir (the database is left as it is)"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest that is known.
        known: i64,
    },
    /// The thread that writes can't be started.
    #[error("cannot start the thread that writes the database: {0}")]
    Thread(io::Error),
    /// The last write failed. Shared by all who waited for it.
    #[error("{0}")]
    Write(WriteFailure),
    /// What is to be added is there already.
    #[error("the database has it already: {0}")]
    Conflict(String),
    /// [`MAX_CHANGES`](super::MAX_CHANGES) changes wait to be written.
    #[error("too many changes wait to be written; try again later")]
    Busy,
    /// It is closed.
    #[error("the database is closed")]
    Closed,
    /// Events of before can't be read.
    #[error("cannot read from the database: {0}")]
    Read(rusqlite::Error),
}

/// Why a transaction could not be committed. Nothing of it is in the database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WriteFailure {
    /// There is no room.
    pub full: bool,
    /// What SQLite said.
    pub message: String,
}

impl std::fmt::Display for WriteFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let message = &self.message;
        if self.full {
            write!(f, "the disk of the state directory is full ({message}); make room on it")
        } else {
            write!(f, "the database can't be written: {message}")
        }
    }
}

impl From<&rusqlite::Error> for WriteFailure {
    fn from(error: &rusqlite::Error) -> Self {
        let code = error.sqlite_error_code();
        Self { full: code == Some(rusqlite::ErrorCode::DiskFull), message: error.to_string() }
    }
}

impl WriteFailure {
    /// When the operating system says it.
    pub(super) fn of_sync(error: &io::Error) -> Self {
        let full = error.kind() == io::ErrorKind::StorageFull;
        Self { full, message: format!("fdatasync: {error}") }
    }
}
