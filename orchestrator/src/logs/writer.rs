//! Writes the records of one log, and keeps account of what could not be written.

use std::io;
use std::path::PathBuf;

use orchestrator_proto::control::LogStream;

use super::file::{Disk, LogFiles, Position};
use super::record::{Batch, Record, format_time, newline, now_ns};
use super::{CaptureConfig, LogStats, WriteError};

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

/// The writing end of one log. All methods block on the disk, none fails: what can't be
/// written is counted, and told in the log as soon as writing works again.
pub(super) struct Writer {
    files: LogFiles,
    /// At most one for each stream.
    gaps: Vec<Gap>,
    /// Bytes of a torn record that were cut off when the log was opened.
    cut: u64,
    /// Streams whose last part did not end its line.
    open: Vec<LogStream>,
    stats: LogStats,
}

impl Writer {
    pub(super) fn open(
        dir: PathBuf,
        config: CaptureConfig,
        disk: Box<dyn Disk>,
    ) -> io::Result<Self> {
        let (files, cut) = LogFiles::open(dir, config, disk)?;
        Ok(Self { files, gaps: Vec::new(), cut, open: Vec::new(), stats: LogStats::default() })
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

    /// Changes the bounds of the files, from the next one on.
    pub(super) fn set_config(&mut self, config: CaptureConfig) {
        self.files.set_config(config);
    }

    pub(super) fn stats(&self) -> &LogStats {
        &self.stats
    }

    /// Writes a batch, with a remark before it if output is missing there.
    pub(super) fn write(&mut self, batch: &Batch) {
        let mark = self.files.end();
        let remarks = self.remarks();
        let result = self.files.write(remarks.bytes());
        let mut written = 0;
        let result = result.and_then(|()| {
            let result = self.files.write(batch.bytes());
            written = match &result {
                Ok(()) => batch.bytes().len(),
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
        let mut lost = 0;
        if let Err(failure) = result {
            let time_ns = now_ns();
            let message = failure.source.to_string();
            self.lose_records(&batch.bytes()[written..], &message, &mut lost);
            self.stats.last_error = Some(WriteError { time_ns, message });
        }
        self.stats.bytes_written += batch.printed() - lost;
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

    /// Whether output is missing of which the log does not tell yet.
    pub(super) fn is_owing(&self) -> bool {
        !self.gaps.is_empty()
    }

    fn lose_records(&mut self, mut records: &[u8], reason: &str, lost: &mut u64) {
        while let Some(end) = newline(records) {
            if let Some(record) = Record::parse(&records[..end]) {
                let (time_ns, printed) = (record.time_ns, record.printed());
                self.lose(record.stream, printed, time_ns, time_ns, reason);
                *lost += printed;
            }
            records = &records[end + 1..];
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
