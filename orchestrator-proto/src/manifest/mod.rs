//! The manifest, `orchestrator.toml`: all instances and links of a daemon as a text that people
//! write.
//!
//! [`Manifest::read`] makes of it what [`Request::Apply`](crate::control::Request::Apply) takes,
//! or says everything that is wrong with it, each with file, line and column. [`write()`] does the
//! reverse. [`json_schema`] is what editors complete it with.
//!
//! ```toml
//! version = 1
//! include = ["robots/*.toml"]
//!
//! [defaults]
//! restart = "on-failure"
//!
//! [instance.db]
//! program = "bin/db"
//! args = ["--data", "${STATE_DIR:-/var/lib/db}"]
//! readiness = { tcp = "127.0.0.1:5432" }
//!
//! [instance.web]
//! program = "bin/web"
//! requires = ["db"]
//! stop = ["SIGINT 1s", "SIGTERM 5s"]
//!
//! [[link]]
//! from = "db"
//! type = "Row"
//! to = "web"
//! ```
//!
//! - Paths are relative to the directory of the file that they are in. `$PATH` is not searched.
//! - `[defaults]` hold for the instances of that file and of the files that it includes; what is
//!   nearer to an instance wins. `env`, `rlimit`, `restart` and the parts of `stop` are joined key by key.
//! - `${NAME}` in a text is the variable of that name in the environment of who reads the
//!   manifest, and has to be set; `${NAME:-text}` is `text` if it is not set or empty. `$$` is a
//!   dollar. See [`System`].
//! - `include` names files, or patterns with `*` and `?` in their last component. A file is
//!   included once.
//! - An instance with the key `replicas` is a set of so many: `worker` stands for `worker.1`,
//!   `worker.2` and so on, wherever an instance is named.
//! - There is no key for `runtime add --copy`: a manifest names programs where they are. Nor is
//!   there one for how a log is kept (`--log-max-size` and its like): what is added by a manifest
//!   has the defaults, and what is there stays as it is.
//!
//! Only [`System`] reads anything. Everything else is pure, and panics on no text.

mod check;
mod execution;
mod expand;
mod include;
mod keys;
mod layer;
mod limits;
mod link;
mod listen;
mod log;
mod problem;
mod read;
mod replicas;
mod schedule;
mod schema;
mod supervision;
#[cfg(test)]
mod tests;
mod write;

use std::io;
use std::path::{Path, PathBuf};

pub use problem::{Position, Problem, Problems};
pub use schema::json_schema;
pub use write::{NotText, entries, link_entries, write};

use crate::control::WantedSet;

/// The version of the form, as in `version = 1`.
pub const VERSION: u64 = 1;

/// The longest file, bytes.
pub const MAX_FILE: u64 = 16 << 20;

/// The most files of one manifest.
pub const MAX_FILES: usize = 1024;

/// The most problems that are told; more are counted.
pub const MAX_PROBLEMS: usize = 100;

/// A manifest that can be applied.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Manifest {
    /// What it says: instances and links in the order in which they are written.
    pub set: WantedSet,
    /// The files that it is made of, the one that was asked for first.
    pub files: Vec<PathBuf>,
    /// What may be a slip, but need not be.
    pub warnings: Vec<Problem>,
}

impl Manifest {
    /// Reads a manifest with the files and the environment of this process.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub fn read(path: &Path) -> Result<Self, Problems> {
        Self::read_from(path, &System)
    }

    /// Reads a manifest with the files and the environment of `surroundings`.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub fn read_from(path: &Path, surroundings: &dyn Surroundings) -> Result<Self, Problems> {
        include::read(path, surroundings)
    }
}

/// What a manifest is read from.
pub trait Surroundings {
    /// The text of a file.
    ///
    /// # Errors
    ///
    /// Why it can't be read.
    fn text(&self, path: &Path) -> io::Result<String>;

    /// The names of what is in a directory, in any order.
    ///
    /// # Errors
    ///
    /// Why it can't be read.
    fn names(&self, directory: &Path) -> io::Result<Vec<String>>;

    /// The path by which a file is known, whichever way leads to it.
    fn identity(&self, path: &Path) -> PathBuf {
        path.to_owned()
    }

    /// The path as seen from the root directory. Symbolic links stay.
    fn absolute(&self, path: &Path) -> PathBuf {
        Path::new("/").join(path)
    }

    /// A variable of the environment.
    fn variable(&self, name: &str) -> Option<String>;
}

/// The files and the environment of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

impl Surroundings for System {
    fn text(&self, path: &Path) -> io::Result<String> {
        use std::io::Read;
        let file = std::fs::File::open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE {
            let message = format!("it has more than {} MiB", MAX_FILE >> 20);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let message = format!("byte {} of it is not UTF-8", at + 1);
            io::Error::new(io::ErrorKind::InvalidData, message)
        })
    }

    fn names(&self, directory: &Path) -> io::Result<Vec<String>> {
        let entries = std::fs::read_dir(directory)?;
        let names = entries.filter_map(|entry| Some(entry.ok()?.file_name().into_string()));
        // A name that is not UTF-8 matches no pattern.
        Ok(names.filter_map(Result::ok).collect())
    }

    fn identity(&self, path: &Path) -> PathBuf {
        path.canonicalize().unwrap_or_else(|_| path.to_owned())
    }

    fn absolute(&self, path: &Path) -> PathBuf {
        std::path::absolute(path).unwrap_or_else(|_| Path::new("/").join(path))
    }

    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}
