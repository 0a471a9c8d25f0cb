//! What instances print: captured, kept in files of bounded size, read back and followed.
//!
//! A process of its own reads the pipes of all instances and writes the files ([`capture_role`]
//! is where it begins), so that the daemon's death loses no byte, and a flood of output and a
//! slow disk cost the daemon nothing. [`Capture`] is the daemon's side: it starts that process,
//! again whenever it ends, and talks to it over a socket. Whoever starts instances opens an
//! [`InstanceLog`] for each and attaches the pipes; whoever answers clients reads the files
//! with a [`LogReader`].
//!
//! What is promised:
//!
//! - Every byte that was printed is in the log, unchanged and in the order of its stream,
//!   or is counted as lost, with a remark in the log where it is missing. Lines longer than
//!   [`MAX_TEXT`] come in parts. The beginning of a line whose end does not come within
//!   [`QUIET`] (a prompt) is written as a part of its own; its end follows as another.
//! - If the daemon ends, however it does, nothing is lost or doubled: capture goes on, and the
//!   next daemon finds it. If capture is killed it is started again, and reads on from copies
//!   of the pipes ([`PipeSource`]); what it had read and not written is lost, at most 64 KiB
//!   of each pipe, and a remark says so. Until it is back, instances that fill their pipes wait.
//! - Capture can be replaced: it ends after what it has read, and the next one reads on. Nothing is
//!   lost or doubled.
//! - When the disk is full or fails, it is up to the [`LogRules`] of an instance: by default it
//!   waits, as soon as its pipes are full, and goes on by itself within half a second of there
//!   being room again; or it never waits, also not for a disk that is slower than it prints, and
//!   what is lost is counted. A log that is closed meanwhile counts what it can't write as lost.
//! - A log has at most so many files of at most such a size as its rules say; the oldest goes
//!   first. A file may be left for a new one when it is so old. Complete files are compressed,
//!   if that is wanted, but for the newest of them, so that whatever ships logs has the time to
//!   read it; a kill in the middle of that loses nothing.
//! - The rules of a log may change while it is written to: nothing is lost or doubled for that, but
//!   files that are not to be kept any more.
//! - No instance starves another: each pipe is read at most 64 KiB per turn.
//! - A reader gets records in order, none twice, and is told of those that were deleted
//!   before it came to them. It slows nobody, however slow it is. It gets all that was in the
//!   pipes when it began (at most 1 MiB of each), so that of a program that has ended, all.
//! - Neither the daemon nor capture ever waits for the other: what finds no room in the socket
//!   waits in bounded space, and one report at most is under way for each log.
//! - What is in the log has been given to the kernel, not to the disk: it survives the
//!   daemon, while a power failure may cost the last seconds. A record that was torn by that is
//!   cut off when the log is opened again, and a remark says so.
//!
//! [`LogRules`]: orchestrator_proto::control::LogRules
//!
//! The files are `00000001.log` and so on, `00000001.log.zst` when compressed, one record per line, in the CRI log format:
//! `2026-11-20T18:24:53.123456789Z stdout F text`. `F` ends a line, `P` is a part of one that
//! goes on in the next record of the same stream. Telemetry and remarks of the orchestrator are
//! written such that whatever reads this format takes them, see `record.rs`.

mod asked;
mod capture;
mod file;
mod findings;
mod grep;
mod instance;
mod lines;
mod link;
mod merge;
mod names;
mod outbox;
mod packed;
mod process;
mod read;
mod record;
mod rules;
mod socket;
mod source;
mod start;
mod stored;
mod tail;
mod wire;
mod writer;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::{Bench, open_bench};

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use orchestrator_proto::InstanceId;
use serde::{Deserialize, Serialize};

pub use capture::{Capture, Captured};
pub use grep::Grep;
pub use instance::InstanceLog;
pub use merge::MergedLogs;
pub use process::{CAPTURE_ROLE, capture_role};
pub use read::{LogReader, ReadItem, ReadQuery};
pub use record::MAX_TEXT;
pub use source::{Kept, PendingPipes, PipeSource, Pipes};
pub use start::Starter;

/// How long the beginning of a line waits for its end before it is written: 100 ms.
pub const QUIET: Duration = Duration::from_millis(100);

/// The bounds of the log of each instance that has no others by its [`LogRules`].
///
/// [`LogRules`]: orchestrator_proto::control::LogRules
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CaptureConfig {
    /// The most bytes of one file; at least 64 KiB are used. By default 8 MiB.
    pub max_file_bytes: u64,
    /// The most files that are kept; at least 1. By default 4.
    pub max_files: u32,
}

impl Default for CaptureConfig {
    fn default() -> Self {
        Self { max_file_bytes: 8 << 20, max_files: 4 }
    }
}

/// What became of an instance's output since its log was opened.
///
/// Both counts are of printed bytes, newlines included, without what a record adds to them.
/// Together they are what was read, except for the beginning of a line that waits for its end.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LogStats {
    /// Printed bytes that were written.
    pub bytes_written: u64,
    /// Printed bytes that were read and could not be written.
    pub bytes_lost: u64,
    /// Whether output is missing of which the log does not tell yet, or is held: writing does
    /// not work.
    pub failing: bool,
    /// Whether nothing is read until writing works again, so that the instance waits as soon as
    /// its pipes are full.
    pub blocked: bool,
    /// Why writing failed the last time, even if it works again.
    pub last_error: Option<WriteError>,
}

/// Why output could not be written.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WriteError {
    /// When, nanoseconds since 1970 (UTC).
    pub time_ns: u64,
    /// The errno in words.
    pub message: String,
}

/// What can go wrong with a log. A failing disk is no error here: see [`LogStats`].
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The directory can't be created or listed, or its newest file can't be opened.
    #[error("cannot open the log in {}: {source}", dir.display())]
    Open {
        /// The log's directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of the log exists and can't be read.
    #[error("cannot read the log in {}: {source}", dir.display())]
    Read {
        /// The log's directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of the log can't be deleted.
    #[error("cannot delete the log in {}: {source}", dir.display())]
    Remove {
        /// The log's directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An instance leaves processes behind that never end, each time it is started.
    #[error(
        "cannot capture the output of instance {0}: 32 runs of it still have their pipes open; \
         stop what they left behind"
    )]
    Attach(InstanceId),
    /// An instance has one log at a time.
    #[error("the log of instance {0} is already open")]
    AlreadyOpen(InstanceId),
    /// The log was closed or removed, or capture was shut down.
    #[error("the log of instance {0} is closed")]
    Closed(InstanceId),
    /// There is no capture process.
    #[error("output is not captured: there is no capture process; the daemon's log says why")]
    Stopped,
    /// What is missing in a log must be told of before the process that knows it ends.
    #[error(
        "a log can't be written, and has to tell of what is missing in it first; see whether the disk \
         is full"
    )]
    Failing,
    /// The capture process was told to end, and another one is to go on.
    #[error("it did not end within {0:?}; another one goes on as soon as it has")]
    Late(Duration),
    /// The disk did not answer in time.
    #[error("capture did not come to its end within {0:?}; output in its hands may be lost")]
    Deadline(Duration),
}
