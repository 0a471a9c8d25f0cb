//! What instances print: captured, kept in files of bounded size, read back and followed.
//!
//! [`Capture`] reads the pipes of all instances in a thread of its own, so a flood of output
//! and a slow disk cost the rest of the daemon nothing; all it does is asked for by messages
//! and seen in the files and in notifications, so that it can become a process of its own.
//! Whoever starts instances opens an [`InstanceLog`] for each and attaches the pipes;
//! whoever answers clients reads with a [`LogReader`].
//!
//! What is promised:
//!
//! - Every byte that was printed is in the log, unchanged and in the order of its stream,
//!   or is counted as lost, with a remark in the log where it is missing. Lines longer than
//!   [`MAX_TEXT`] come in parts. The beginning of a line whose end does not come within
//!   [`QUIET`] (a prompt) is written as a part of its own; its end follows as another.
//! - Instances never wait for the disk: when it is full or fails, reading goes on.
//! - A log has at most `max_files` files of `max_file_bytes` each; the oldest goes first.
//! - No instance starves another: each pipe is read at most 64 KiB per turn.
//! - A reader gets records in order, none twice, and is told of those that were deleted
//!   before it came to them. It slows nobody, however slow it is.
//! - What is in the log has been given to the kernel, not to the disk: it survives the
//!   daemon, while a power failure may cost the last seconds. A record that was torn by that is
//!   cut off when the log is opened again, and a remark says so.
//!
//! The files are `00000001.log` and so on, one record per line, in the CRI log format:
//! `2026-11-20T18:24:53.123456789Z stdout F text`. `F` ends a line, `P` is a part of one that
//! goes on in the next record of the same stream.

mod capture;
mod file;
mod instance;
mod lines;
mod prune;
mod pump;
mod read;
mod record;
mod tail;
mod writer;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use orchestrator_proto::InstanceId;
use orchestrator_proto::control::LogStream;

pub use capture::Capture;
pub use instance::InstanceLog;
pub use prune::prune;
pub use read::{LogReader, ReadItem, ReadQuery};
pub use record::MAX_TEXT;

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

/// What became of an instance's output since its log was opened.
///
/// Both counts are of printed bytes, newlines included, without what a record adds to them.
/// Together they are what was read, except for the beginning of a line that waits for its end.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
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
#[derive(Clone, PartialEq, Eq, Debug)]
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
    /// What should be attached is no pipe, or not its reading end.
    #[error("cannot capture {stream} of instance {instance}: {source}")]
    Attach {
        /// Whose output.
        instance: InstanceId,
        /// Which of it.
        stream: LogStream,
        /// Why.
        source: io::Error,
    },
    /// An instance has one log at a time.
    #[error("the log of instance {0} is already open")]
    AlreadyOpen(InstanceId),
    /// The log was closed or removed, or capture was shut down.
    #[error("the log of instance {0} is closed")]
    Closed(InstanceId),
    /// Capture is shut down.
    #[error("output is no longer captured: the daemon is shutting down")]
    Stopped,
    /// The disk did not answer in time.
    #[error("capture did not come to its end within {0:?}; output in its hands may be lost")]
    Deadline(Duration),
}
