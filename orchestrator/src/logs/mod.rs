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
//! - Instances never wait for the disk: when it is full or fails, reading goes on.
//! - A log has at most `max_files` files of `max_file_bytes` each; the oldest goes first.
//! - No instance starves another: each pipe is read at most 64 KiB per turn.
//! - A reader gets records in order, none twice, and is told of those that were deleted
//!   before it came to them. It slows nobody, however slow it is.
//! - Neither the daemon nor capture ever waits for the other: what finds no room in the socket
//!   waits in bounded space, and one report at most is under way for each log.
//! - What is in the log has been given to the kernel, not to the disk: it survives the
//!   daemon, while a power failure may cost the last seconds. A record that was torn by that is
//!   cut off when the log is opened again, and a remark says so.
//!
//! The files are `00000001.log` and so on, one record per line, in the CRI log format:
//! `2026-11-20T18:24:53.123456789Z stdout F text`. `F` ends a line, `P` is a part of one that
//! goes on in the next record of the same stream.

mod asked;
mod capture;
mod file;
mod instance;
mod lines;
mod link;
mod outbox;
mod process;
mod read;
mod record;
mod socket;
mod source;
mod start;
mod tail;
mod wire;
mod writer;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use orchestrator_proto::InstanceId;
use serde::{Deserialize, Serialize};

pub use capture::{Capture, Captured};
pub use instance::InstanceLog;
pub use process::{CAPTURE_ROLE, capture_role};
pub use read::{LogReader, ReadItem, ReadQuery};
pub use record::MAX_TEXT;
pub use source::{Kept, PendingPipes, PipeSource, Pipes};
pub use start::Starter;

/// How long the beginning of a line waits for its end before it is written: 100 ms.
pub const QUIET: Duration = Duration::from_millis(100);

/// The bounds of each instance's log.
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

/// The least `max_file_bytes`, so that a file has room for some of the longest records.
const MIN_FILE_BYTES: u64 = 64 << 10;

impl CaptureConfig {
    /// The bounds that are used.
    fn bounded(self) -> Self {
        Self {
            max_file_bytes: self.max_file_bytes.max(MIN_FILE_BYTES),
            max_files: self.max_files.max(1),
        }
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
    /// Whether output is missing of which the log does not tell yet: writing does not work.
    pub failing: bool,
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
