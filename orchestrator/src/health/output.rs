//! A line of what an instance prints that says that it is ready.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use orchestrator_proto::control::{LogLine, LogStream};
use regex::bytes::{Regex, RegexBuilder};
use tokio::task::JoinHandle;

use crate::logs::{InstanceLog, LogReader, MAX_TEXT, ReadItem, ReadQuery};
use crate::process::{Pending, began_ns};
use crate::runtime::now_ns;

/// The most memory of a compiled pattern, bytes.
const MAX_PATTERN: usize = 1 << 20;

/// A pattern, compiled. `.` matches any character but a newline; what is not UTF-8 matches `(?-u:.)`.
///
/// # Errors
///
/// What is wrong with it, as the end of a sentence.
pub(super) fn pattern(text: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(text).size_limit(MAX_PATTERN).dfa_size_limit(MAX_PATTERN).build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(limit) => {
            format!("the pattern {text:?} would take more than {limit} bytes")
        }
        error => format!("{text:?} is no regular expression: {error}"),
    })
}

/// Looks for a line in what one instance prints.
#[derive(Debug)]
pub(super) struct Output {
    log: InstanceLog,
    search: Mutex<Sought>,
}

/// In which run's output.
#[derive(Debug, Default)]
struct Sought {
    /// When the last run began, nanoseconds since 1970 (UTC); none if an earlier daemon began it.
    since_ns: Option<u64>,
    /// How far it has been looked at; none before the first question, because most are never asked.
    search: Option<Arc<tokio::sync::Mutex<Search>>>,
}

/// How far a run's output has been looked at.
#[derive(Debug, Default)]
struct Search {
    /// See [`Sought::since_ns`].
    since_ns: Option<u64>,
    /// None before the first question.
    reader: Option<LogReader>,
    /// Of the last line of each stream what was printed so far.
    lines: Lines,
    /// What was read is being looked at.
    matching: Option<JoinHandle<(Lines, bool)>>,
    /// The line was found. That stays so.
    found: bool,
}

impl Output {
    pub(super) fn new(log: InstanceLog) -> Self {
        Self { log, search: Mutex::default() }
    }

    fn sought(&self) -> MutexGuard<'_, Sought> {
        self.search.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next run begins: what is printed from now on is its output.
    pub(super) fn launching(&self) {
        *self.sought() = Sought { since_ns: Some(now_ns()), search: None };
    }

    /// Ends when the run whose main process is `pid` has printed a line that matches, on either
    /// stream, now or since it began. If that was long ago, when it is not in the log any more, it is
    /// not found.
    ///
    /// A line of up to 16 KiB is matched as one; longer ones, in parts of that size. The beginning
    /// of a line whose end is slow to come, such as a prompt, is matched as it is, and again with
    /// its end.
    pub(super) fn find(&self, text: &str, pid: Option<u32>) -> Pending<Result<(), String>> {
        let search = self.sought().search();
        let (log, text) = (self.log.clone(), text.to_owned());
        Box::pin(async move { search.lock().await.go_on(&log, &text, pid).await })
    }
}

impl Sought {
    fn search(&mut self) -> Arc<tokio::sync::Mutex<Search>> {
        let search = Search { since_ns: self.since_ns, ..Search::default() };
        self.search.get_or_insert_with(|| Arc::new(tokio::sync::Mutex::new(search))).clone()
    }
}

impl Search {
    /// Loses nothing when it is dropped: the next one goes on.
    async fn go_on(
        &mut self,
        log: &InstanceLog,
        text: &str,
        pid: Option<u32>,
    ) -> Result<(), String> {
        if self.found {
            return Ok(());
        }
        let wanted = Arc::new(pattern(text)?);
        if self.reader.is_none() {
            self.reader = Some(self.open(log, pid)?);
        }
        loop {
            if let Some(matching) = &mut self.matching {
                let done = matching.await;
                self.matching = None;
                (self.lines, self.found) = done.map_err(|panic| panic.to_string())?;
                if self.found {
                    self.reader = None;
                    return Ok(());
                }
            }
            let Some(reader) = &mut self.reader else {
                return Err("its log can't be read".to_owned());
            };
            let items = match reader.next_batch().await {
                Ok(Some(items)) => items,
                end => {
                    self.reader = None;
                    return Err(match end {
                        Err(error) => error.to_string(),
                        Ok(_) => "its log was closed".to_owned(),
                    });
                }
            };
            let (wanted, mut lines) = (wanted.clone(), std::mem::take(&mut self.lines));
            // Takes long if the pattern is a bad one and the program prints much.
            self.matching = Some(tokio::task::spawn_blocking(move || {
                let mut texts = items.iter();
                let found =
                    texts.any(|it| lines.take(it).is_some_and(|text| wanted.is_match(text)));
                (lines, found)
            }));
        }
    }

    /// Begins where the run began.
    fn open(&self, log: &InstanceLog, pid: Option<u32>) -> Result<LogReader, String> {
        let since_ns = match (self.since_ns, pid) {
            (Some(since), _) => since,
            (None, Some(pid)) => began_ns(pid).map_err(|error| error.to_string())?,
            (None, None) => return Err("it does not run".to_owned()),
        };
        let query = ReadQuery { since_ns: Some(since_ns), follow: true, ..ReadQuery::default() };
        Ok(LogReader::open(log, query))
    }
}

/// Lines put together from their parts.
#[derive(Debug, Default)]
struct Lines {
    stdout: Line,
    stderr: Line,
}

#[derive(Debug, Default)]
struct Line {
    text: Vec<u8>,
    ended: bool,
}

impl Lines {
    /// What is there of the line that this belongs to, if it is one of the program.
    fn take(&mut self, item: &ReadItem) -> Option<&[u8]> {
        let ReadItem::Line(LogLine { stream, complete, text, .. }) = item else {
            return None;
        };
        let line = match stream {
            LogStream::Stdout => &mut self.stdout,
            LogStream::Stderr => &mut self.stderr,
            LogStream::Telemetry | LogStream::Orchestrator => return None,
        };
        let text = &text.0;
        if line.ended || line.text.len() + text.len() > MAX_TEXT {
            line.text.clear();
        }
        line.text.extend_from_slice(text);
        line.ended = *complete;
        Some(&line.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrator_proto::OsBytes;
    use proptest::prelude::*;

    fn part(stream: LogStream, text: &[u8], complete: bool) -> ReadItem {
        ReadItem::Line(LogLine {
            instance: orchestrator_proto::InstanceId::from_bytes([1; 16]),
            name: None,
            time_ns: 0,
            stream,
            complete,
            text: OsBytes(text.to_vec()),
        })
    }

    #[test]
    fn lines_are_put_together_and_streams_are_apart() {
        let mut lines = Lines::default();
        let mut take = |stream, text: &[u8], complete| {
            lines.take(&part(stream, text, complete)).map(<[u8]>::to_vec)
        };
        assert_eq!(take(LogStream::Stdout, b"rea", false).unwrap(), b"rea");
        assert_eq!(take(LogStream::Stderr, b"no", true).unwrap(), b"no");
        assert_eq!(take(LogStream::Stdout, b"dy", true).unwrap(), b"ready");
        assert_eq!(take(LogStream::Stdout, b"next", true).unwrap(), b"next");
        assert_eq!(take(LogStream::Telemetry, b"ready", true), None);
        assert_eq!(take(LogStream::Orchestrator, b"ready", true), None);
        assert_eq!(take(LogStream::Stderr, &[b'x'; MAX_TEXT], false).unwrap().len(), MAX_TEXT);
        assert_eq!(take(LogStream::Stderr, b"y", true).unwrap(), b"y");
    }

    #[test]
    fn patterns_are_bounded() {
        assert!(pattern("ready on port [0-9]+").unwrap().is_match(b"\xff ready on port 8080"));
        let error = pattern("(").unwrap_err();
        assert!(error.contains("is no regular expression"), "{error}");
        let error = pattern(r"(\w{1000}){1000}").unwrap_err();
        assert!(error.contains("would take more than"), "{error}");
    }

    proptest! {
        #[test]
        fn no_more_than_a_line_is_kept(
            parts in prop::collection::vec((any::<bool>(), any::<bool>(), 0..MAX_TEXT), 0..30),
        ) {
            let mut lines = Lines::default();
            for (stdout, complete, length) in parts {
                let stream = if stdout { LogStream::Stdout } else { LogStream::Stderr };
                lines.take(&part(stream, &vec![b'x'; length], complete));
                prop_assert!(lines.stdout.text.len().max(lines.stderr.text.len()) <= MAX_TEXT);
            }
        }
    }
}
