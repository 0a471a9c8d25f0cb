//! Writes the records of one log, and keeps account of what could not be written.

use std::io;
use std::path::Path;
use std::sync::Arc;

use orchestrator_proto::control::{LogStream, WhenFull};

use super::file::{Disk, LogFiles, Position};
use super::record::{Batch, Record, format_time, newline, now_ns};
use super::rules::Rules;
use super::{LogStats, WriteError};

/// Output of one stream that is missing, and of which the log does not tell yet.
struct Gap {
    stream: LogStream,
    /// Printed bytes.
    bytes: u64,
    from_ns: u64,
    to_ns: u64,
    reason: String,
}

/// How a remark begins that says that another process captured before.
pub(super) const RESTARTED: &str = "capture was restarted";

/// The most bytes of records that are held from inside the daemon while writing does not work;
/// what instances print has bounds of its own, see [`Writer::is_blocked`].
const MAX_HELD: usize = 256 << 10;

/// The writing end of one log. All methods block on the disk, none fails. Under
/// [`WhenFull::Block`] what can't be written is held, and whoever has more to come is to wait
/// ([`Writer::is_blocked`]); under [`WhenFull::Drop`] it is counted, and told in the log as soon
/// as writing works again.
pub(super) struct Writer {
    files: LogFiles,
    when_full: WhenFull,
    /// Whole records that could not be written.
    held: Vec<u8>,
    /// At most one for each stream.
    gaps: Vec<Gap>,
    /// Bytes of a torn record that were cut off when the log was opened.
    cut: u64,
    /// Streams whose last part did not end its line.
    open: Vec<LogStream>,
    stats: LogStats,
}

impl Writer {
    pub(super) fn open(dir: Arc<Path>, rules: Rules, disk: Box<dyn Disk>) -> io::Result<Self> {
        let (files, cut) = LogFiles::open(dir, rules, disk)?;
        Ok(Self {
            files,
            when_full: rules.when_full,
            held: Vec::new(),
            gaps: Vec::new(),
            cut,
            open: Vec::new(),
            stats: LogStats::default(),
        })
    }

    /// Where the log ends.
    pub(super) fn end(&self) -> Position {
        self.files.end()
    }

    /// Notes the next part of a stream. The answer is whether it begins a line.
    pub(super) fn begins_line(&mut self, stream: LogStream, complete: bool) -> bool {
        let at = self.open.iter().position(|&open| open == stream);
        match (at, complete) {
            (Some(at), true) => {
                self.open.swap_remove(at);
            }
            (None, false) => self.open.push(stream),
            _ => {}
        }
        at.is_none()
    }

    /// Changes what is kept. What is held stays so until the next write, even if nobody is to wait
    /// any more.
    pub(super) fn set_rules(&mut self, rules: Rules) {
        self.when_full = rules.when_full;
        self.files.set_rules(rules);
    }

    /// From now on what can't be written is lost, so that it comes to an end.
    pub(super) fn give_up_waiting(&mut self) {
        self.when_full = WhenFull::Drop;
    }

    /// The files, to have them compressed.
    pub(super) fn files(&mut self) -> &mut LogFiles {
        &mut self.files
    }

    pub(super) fn stats(&self) -> &LogStats {
        &self.stats
    }

    /// Whether nothing more is to be read before writing works again.
    pub(super) fn is_blocked(&self) -> bool {
        !self.held.is_empty()
    }

    /// Whether there is no room for anything more that does not wait.
    pub(super) fn is_full(&self) -> bool {
        self.held.len() >= MAX_HELD
    }

    /// Whether it does not wait for the disk.
    pub(super) fn drops(&self) -> bool {
        self.when_full == WhenFull::Drop
    }

    /// Writes a batch after what is held, with a remark before it if output is missing there.
    pub(super) fn write(&mut self, batch: &Batch) {
        if self.held.is_empty() {
            self.write_records(batch.bytes(), Some(batch.printed()));
        } else {
            let mut records = std::mem::take(&mut self.held);
            records.extend_from_slice(batch.bytes());
            self.write_records(&records, None);
        }
    }

    /// Writes whole records. How much was printed for them is counted if it is not known.
    fn write_records(&mut self, records: &[u8], printed: Option<u64>) {
        let mark = self.files.end();
        let remarks = self.remarks();
        let result = self.files.write(remarks.bytes());
        let mut written = 0;
        let result = result.and_then(|()| {
            let result = self.files.write(records);
            written = match &result {
                Ok(()) => records.len(),
                Err(failure) => failure.written,
            };
            result
        });
        if result.is_ok() || written > 0 {
            self.gaps.clear();
            self.cut = 0;
        } else {
            // Else a disk that has room for a remark only would soon be full of remarks.
            self.files.take_back(mark);
        }
        let (done, rest) = records.split_at(written);
        self.stats.bytes_written += match printed {
            Some(printed) if rest.is_empty() => printed,
            _ => printed_by(done),
        };
        if let Err(failure) = result {
            let time_ns = now_ns();
            let message = failure.source.to_string();
            match self.when_full {
                WhenFull::Block => self.held = rest.to_vec(),
                WhenFull::Drop => self.lose_records(rest, &message),
            }
            self.stats.last_error = Some(WriteError { time_ns, message });
        }
        self.stats.blocked = self.is_blocked();
        self.stats.failing = self.is_owing();
    }

    /// Counts output that never became a record.
    pub(super) fn lose(
        &mut self,
        stream: LogStream,
        bytes: u64,
        from_ns: u64,
        to_ns: u64,
        reason: &str,
    ) {
        self.stats.bytes_lost += bytes;
        match self.gaps.iter_mut().find(|gap| gap.stream == stream) {
            Some(gap) => {
                gap.bytes += bytes;
                gap.from_ns = gap.from_ns.min(from_ns);
                gap.to_ns = gap.to_ns.max(to_ns);
                gap.reason.clear();
                gap.reason.push_str(reason);
            }
            None => {
                self.gaps.push(Gap { stream, bytes, from_ns, to_ns, reason: reason.to_owned() })
            }
        }
    }

    /// Whether something is still to be written: output that is held, or that some is missing.
    pub(super) fn is_owing(&self) -> bool {
        !self.gaps.is_empty() || self.is_blocked()
    }

    fn lose_records(&mut self, records: &[u8], reason: &str) {
        for record in each(records) {
            let (time_ns, printed) = (record.time_ns, record.printed());
            self.lose(record.stream, printed, time_ns, time_ns, reason);
        }
    }

    fn remarks(&self) -> Batch {
        let mut batch = Batch::default();
        let mut remark = |text: String| {
            batch.push(now_ns(), LogStream::Orchestrator, true, text.as_bytes());
        };
        if self.cut > 0 {
            remark(format!(
                "the last record was torn when writing ended without warning; {} bytes of it were cut off",
                self.cut
            ));
        }
        for gap in &self.gaps {
            remark(format!(
                "{}, between {} and {}: {}",
                missing(gap.bytes, gap.stream),
                format_time(gap.from_ns),
                format_time(gap.to_ns),
                gap.reason
            ));
        }
        batch
    }
}

/// The records in what is written together.
fn each(mut records: &[u8]) -> impl Iterator<Item = Record<'_>> {
    std::iter::from_fn(move || {
        let end = newline(records)?;
        let record = Record::parse(&records[..end]);
        records = &records[end + 1..];
        Some(record)
    })
    .flatten()
}

fn printed_by(records: &[u8]) -> u64 {
    each(records).map(|record| record.printed()).sum()
}

fn missing(bytes: u64, stream: LogStream) -> String {
    format!("{bytes} bytes of {stream} are missing here")
}

/// Whether a remark of the daemon concerns output of this stream.
pub(super) fn concerns(remark: &[u8], stream: LogStream) -> bool {
    let sign = format!(" bytes of {stream} are missing here");
    let digits = remark.iter().take_while(|byte| byte.is_ascii_digit());
    remark[digits.count()..].starts_with(sign.as_bytes())
        || remark.starts_with(b"the last record was torn")
        || remark.starts_with(RESTARTED.as_bytes())
}
