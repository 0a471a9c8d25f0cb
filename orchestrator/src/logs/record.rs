//! One record of a log file, in the CRI log format that is known from Kubernetes:
//!
//! ```text
//! 2026-11-20T18:24:53.123456789Z stdout F text
//! ```
//!
//! The time (RFC 3339, UTC), the stream, `F` when the text ends a line or `P` when the line
//! goes on in a later record of the same stream, one space, the text exactly as printed, and
//! a newline. A text contains no newline, so each newline of a file ends a record.
//!
//! The format has two streams and its readers (Fluent Bit, Vector, Promtail) accept no other
//! words, nor other tags than `F` and `P`. What is no output of a program is therefore told by
//! how its time is written, which they accept both ways: with `+00:00` instead of `Z`, `stderr`
//! is a remark of the orchestrator and `stdout` is telemetry. For people, and for readers that
//! know nothing of this, such a line begins with the stream's real name:
//!
//! ```text
//! 2026-11-20T18:24:53.123456789+00:00 stderr F orchestrator: 7 bytes of stdout are missing here
//! ```
//!
//! That is not part of its text. A later part of a line begins so only if its text does anyway,
//! so that whoever reads takes it away once wherever it stands.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::fmt::temporal::{DateTimeParser, DateTimePrinter};
use orchestrator_proto::control::LogStream;

/// The most bytes of one record's text: 16 KiB.
pub const MAX_TEXT: usize = 16 << 10;

/// The most bytes of one record, newline included.
pub(super) const MAX_RECORD: usize = MAX_TEXT + 64;

/// How the time of a record ends that is no output of a program.
const MARK: &str = "+00:00";

static PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(9));
static PARSER: DateTimeParser = DateTimeParser::new();

/// Nanoseconds since 1970 (UTC) by the system's clock; 0 if that is set to an earlier time.
pub(super) fn now_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |age| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX))
}

/// A time as it stands in records.
pub(super) fn format_time(time_ns: u64) -> String {
    // Each u64 is in jiff's range: the last one is in the year 2554.
    let time = Timestamp::from_nanosecond(i128::from(time_ns)).unwrap_or(Timestamp::MAX);
    PRINTER.timestamp_to_string(&time)
}

/// Where the first newline is.
pub(super) fn newline(bytes: &[u8]) -> Option<usize> {
    memchr::memchr(b'\n', bytes)
}

/// A record that was parsed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Record<'a> {
    pub(super) time_ns: u64,
    pub(super) stream: LogStream,
    /// Whether the text ends a line.
    pub(super) complete: bool,
    pub(super) text: &'a [u8],
}

impl<'a> Record<'a> {
    /// Parses a record without its newline. `None` if it isn't one.
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        let (time, rest) = split_at_space(line)?;
        let (stream, rest) = split_at_space(rest)?;
        // Some editors cut spaces at the end of a line.
        let (tag, text) = split_at_space(rest).unwrap_or((rest, b""));
        let stream = match (stream, time.ends_with(MARK.as_bytes())) {
            (b"stdout", false) => LogStream::Stdout,
            (b"stderr", false) => LogStream::Stderr,
            (b"stdout", true) => LogStream::Telemetry,
            (b"stderr", true) => LogStream::Orchestrator,
            _ => return None,
        };
        let time = PARSER.parse_timestamp(time).ok()?;
        Some(Self {
            time_ns: u64::try_from(time.as_nanosecond()).ok()?,
            stream,
            complete: match tag {
                b"F" => true,
                b"P" => false,
                _ => return None,
            },
            text: text.strip_prefix(name(stream)).unwrap_or(text),
        })
    }

    /// How many bytes were printed for this record: the text, and the newline if it had one.
    pub(super) fn printed(&self) -> u64 {
        self.text.len() as u64 + u64::from(self.complete)
    }
}

/// What stands before a line that is no output of a program.
const fn name(stream: LogStream) -> &'static [u8] {
    match stream {
        LogStream::Stdout | LogStream::Stderr => b"",
        LogStream::Telemetry => b"telemetry: ",
        LogStream::Orchestrator => b"orchestrator: ",
    }
}

fn split_at_space(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&byte| byte == b' ')?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// Whole records that are to be written together.
#[derive(Default, Debug)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    printed: u64,
    head: Head,
}

/// How a record begins, up to its text. Most records of one read begin alike.
#[derive(Default, Debug)]
struct Head {
    /// Of what: its time, its stream, and whether it ends a line.
    of: Option<(u64, LogStream, bool)>,
    bytes: Vec<u8>,
}

impl Head {
    fn set(&mut self, time_ns: u64, stream: LogStream, complete: bool) {
        if self.of == Some((time_ns, stream, complete)) {
            return;
        }
        self.of = Some((time_ns, stream, complete));
        let stamp = format_time(time_ns);
        let printed: &[u8] = match stream {
            LogStream::Stdout | LogStream::Telemetry => b" stdout ",
            LogStream::Stderr | LogStream::Orchestrator => b" stderr ",
        };
        self.bytes.clear();
        if name(stream).is_empty() {
            self.bytes.extend_from_slice(stamp.as_bytes());
        } else {
            self.bytes.extend_from_slice(stamp.trim_end_matches('Z').as_bytes());
            self.bytes.extend_from_slice(MARK.as_bytes());
        }
        self.bytes.extend_from_slice(printed);
        self.bytes.extend_from_slice(if complete { b"F " } else { b"P " });
    }
}

impl Batch {
    /// Adds a record that begins a line. `text` has no newline and at most [`MAX_TEXT`] bytes.
    pub(super) fn push(&mut self, time_ns: u64, stream: LogStream, complete: bool, text: &[u8]) {
        self.push_part(time_ns, stream, true, complete, text);
    }

    /// The same for any part of a line.
    pub(super) fn push_part(
        &mut self,
        time_ns: u64,
        stream: LogStream,
        begins: bool,
        complete: bool,
        text: &[u8],
    ) {
        self.head.set(time_ns, stream, complete);
        self.bytes.extend_from_slice(&self.head.bytes);
        let name = name(stream);
        if !name.is_empty() && (begins || text.starts_with(name)) {
            self.bytes.extend_from_slice(name);
        }
        self.bytes.extend_from_slice(text);
        self.bytes.push(b'\n');
        self.printed += text.len() as u64 + u64::from(complete);
    }

    /// The records.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many printed bytes the records stand for.
    pub(super) fn printed(&self) -> u64 {
        self.printed
    }

    /// Removes all records; keeps at most `keep` bytes of memory.
    pub(super) fn clear(&mut self, keep: usize) {
        self.bytes.clear();
        self.bytes.shrink_to(keep);
        self.printed = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn streams() -> impl Strategy<Value = LogStream> {
        prop::sample::select(vec![
            LogStream::Stdout,
            LogStream::Stderr,
            LogStream::Telemetry,
            LogStream::Orchestrator,
        ])
    }

    #[test]
    fn a_record_looks_as_documented() {
        let mut batch = Batch::default();
        batch.push(1_795_199_093_123_456_789, LogStream::Stdout, true, b"text\r");
        batch.push(1_795_199_093_000_000_000, LogStream::Stderr, false, b"");
        assert_eq!(
            batch.bytes(),
            b"2026-11-20T18:24:53.123456789Z stdout F text\r\n\
              2026-11-20T18:24:53.000000000Z stderr P \n"
        );
        assert_eq!(batch.printed(), 6);
        batch.clear(0);
        batch.push(1_795_199_093_000_000_000, LogStream::Orchestrator, true, b"a remark");
        batch.push(1_795_199_093_000_000_000, LogStream::Telemetry, false, b"a");
        batch.push_part(1_795_199_093_000_000_000, LogStream::Telemetry, false, true, b"b");
        assert_eq!(
            batch.bytes(),
            b"2026-11-20T18:24:53.000000000+00:00 stderr F orchestrator: a remark\n\
              2026-11-20T18:24:53.000000000+00:00 stdout P telemetry: a\n\
              2026-11-20T18:24:53.000000000+00:00 stdout F b\n"
        );
        assert_eq!(batch.printed(), 8 + 1 + 1 + 2);
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for line in [
            &b""[..],
            b" ",
            b"hello",
            b"2026-11-20T18:24:53Z",
            b"2026-11-20T18:24:53Z stdout",
            b"2026-11-20T18:24:53Z stdout X text",
            b"2026-11-20T18:24:53Z stdin F text",
            b"2026-13-20T18:24:53Z stdout F text",
            b"1969-11-20T18:24:53Z stdout F text",
            b"\xff\xff stdout F text",
        ] {
            assert_eq!(Record::parse(line), None, "{line:?}");
        }
        let cut = Record::parse(b"2026-11-20T18:24:53Z stdout F").unwrap();
        assert_eq!((cut.text, cut.complete), (&b""[..], true));
    }

    /// As those that ship logs read it: Fluent Bit and Promtail take the like of this, Vector
    /// only these tags.
    fn is_cri(record: &[u8]) -> bool {
        let pattern = r"(?s-u)\A[^ ]+ (stdout|stderr) (F|P) .*\n\z";
        regex::bytes::Regex::new(pattern).unwrap().is_match(record)
    }

    proptest! {
        #[test]
        fn a_record_survives(
            time_ns: u64,
            stream in streams(),
            begins: bool,
            complete: bool,
            names in "(orchestrator: |telemetry: ){0,3}",
            more in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut text = [names.as_bytes(), &more].concat();
            text.retain(|&byte| byte != b'\n');
            let mut batch = Batch::default();
            batch.push_part(time_ns, stream, begins, complete, &text);
            prop_assert!(is_cri(batch.bytes()));
            prop_assert!(batch.bytes().len() <= text.len() + MAX_RECORD - MAX_TEXT);
            let end = newline(batch.bytes()).unwrap();
            prop_assert_eq!(end + 1, batch.bytes().len());
            let record = Record::parse(&batch.bytes()[..end]);
            prop_assert_eq!(record, Some(Record { time_ns, stream, complete, text: &text }));
        }

        #[test]
        fn arbitrary_lines_never_panic(line in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Record::parse(&line);
        }

        #[test]
        fn the_first_newline_is_found(bytes in prop::collection::vec(8_u8..12, 0..40)) {
            prop_assert_eq!(newline(&bytes), bytes.iter().position(|&byte| byte == b'\n'));
        }
    }
}
