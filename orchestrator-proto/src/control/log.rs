//! What instances print: what is kept of it, and how it is read back.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::spec::Selector;
use crate::id::InstanceId;
use crate::millis::Millis;
use crate::os::OsBytes;
use crate::size::Size;

/// What is kept of what an instance prints, and what if there is no room for it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct LogRules {
    /// A new file is begun when one has so many bytes, [`LogRules::MIN_SIZE`] to
    /// [`LogRules::MAX_SIZE`]; none is as the daemon was told, 8 MiB if it was not.
    pub max_size: Option<Size>,
    /// A new file is begun with the first line that comes so long after the first one of the
    /// file; 0 is never.
    pub max_age: Millis,
    /// So many files are kept, 1 to [`LogRules::MAX_KEEP`], the one that is written included;
    /// none is as the daemon was told, 4 if it was not.
    pub keep: Option<u32>,
    /// How files are kept that are complete. The newest of those stays as it is until the next
    /// one is complete, so that whatever ships logs has the time to read it.
    pub compress: Compression,
    /// What if there is no room on the disk, or the instance prints faster than can be written.
    pub when_full: WhenFull,
}

impl LogRules {
    /// The least `max_size`: 64 KiB.
    pub const MIN_SIZE: Size = Size(64 << 10);
    /// The largest `max_size`: 64 GiB.
    pub const MAX_SIZE: Size = Size(1 << 36);
    /// The largest `keep`.
    pub const MAX_KEEP: u32 = 10_000;
    /// The longest `max_age`: a year.
    pub const MAX_AGE: Millis = Millis(365 * 86_400_000);

    /// Whether all of it can be.
    ///
    /// # Errors
    ///
    /// The key of the first that can't, and why.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let (least, most) = (Self::MIN_SIZE, Self::MAX_SIZE);
        if let Some(size) = self.max_size.filter(|size| !(least..=most).contains(size)) {
            return Err(("log-max-size", format!("{size} is not {least} to {most}")));
        }
        if self.max_age > Self::MAX_AGE {
            return Err(("log-max-age", format!("{} is more than a year", self.max_age)));
        }
        let most = Self::MAX_KEEP;
        match self.keep.filter(|keep| !(1..=most).contains(keep)) {
            Some(keep) => Err(("log-keep", format!("{keep} is not 1 to {most}"))),
            None => Ok(()),
        }
    }
}

/// How complete log files are kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// As they are.
    #[default]
    None,
    /// Compressed with Zstandard (RFC 8878).
    Zstd,
}

/// What becomes of output for which there is no room.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenFull {
    /// The instance waits, as soon as its pipes are full, until there is room again. Nothing is
    /// lost.
    #[default]
    Block,
    /// It is lost, counted, and the log says where and how much. The instance does not wait.
    Drop,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::Zstd => "zstd",
        })
    }
}

impl FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "zstd" => Ok(Self::Zstd),
            other => Err(format!("{other:?} is no compression; use none or zstd")),
        }
    }
}

impl fmt::Display for WhenFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Block => "block",
            Self::Drop => "drop",
        })
    }
}

impl FromStr for WhenFull {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "block" => Ok(Self::Block),
            "drop" => Ok(Self::Drop),
            other => Err(format!("{other:?} is no policy of a log; use block or drop")),
        }
    }
}

/// Which lines to read back. Several instances are read at once, their lines in the order of
/// their times; new ones as they come.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LogQuery {
    /// Which instances, at most [`LogQuery::MAX_INSTANCES`]; empty means all that there are.
    pub instances: Vec<Selector>,
    /// Only this stream; none means all.
    pub stream: Option<LogStream>,
    /// Only this many of the last lines of each instance, of those that the rest asks for; then
    /// new ones. At most 1,000,000.
    pub tail: Option<u64>,
    /// Only lines that were read at this time or later, nanoseconds since 1970 (UTC).
    pub since_ns: Option<u64>,
    /// Only lines that were read at this time or earlier. It ends then, also if it follows.
    pub until_ns: Option<u64>,
    /// Only lines in which this regular expression matches something, at most
    /// [`LogQuery::MAX_GREP`] bytes; of a line in parts, each part by itself. The syntax is that
    /// of the Rust crate `regex`.
    pub grep: Option<String>,
    /// Go on with new lines until the instances are removed; else end after those kept.
    pub follow: bool,
}

impl LogQuery {
    /// The most instances of one query.
    pub const MAX_INSTANCES: usize = 256;
    /// The longest `grep`, bytes.
    pub const MAX_GREP: usize = 4096;

    /// All that one instance has printed.
    pub fn of(instance: impl Into<Selector>) -> Self {
        Self { instances: vec![instance.into()], ..Self::default() }
    }
}

/// Where an instance printed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogStream {
    /// Its standard output.
    Stdout,
    /// Its standard error.
    Stderr,
    /// Log messages in its telemetry (existing Veecle OS runtimes).
    Telemetry,
    /// The daemon's own remark, such as a gap where the disk was full.
    Orchestrator,
}

impl fmt::Display for LogStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Telemetry => "telemetry",
            Self::Orchestrator => "orchestrator",
        })
    }
}

impl FromStr for LogStream {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "stdout" => Ok(Self::Stdout),
            "stderr" => Ok(Self::Stderr),
            "telemetry" => Ok(Self::Telemetry),
            "orchestrator" => Ok(Self::Orchestrator),
            other => Err(format!(
                "{other:?} is not a stream; use stdout, stderr, telemetry or orchestrator"
            )),
        }
    }
}

/// A line, or a part of one, that an instance printed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LogLine {
    /// Which instance.
    pub instance: InstanceId,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// When it was read, nanoseconds since 1970 (UTC).
    pub time_ns: u64,
    /// Where it was printed.
    pub stream: LogStream,
    /// Whether this ends a line; longer lines than the capture's bound come in parts.
    pub complete: bool,
    /// Exactly what was printed, without the newline. In JSON: text, lossy.
    pub text: OsBytes,
}
