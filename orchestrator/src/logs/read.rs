//! Reading a log back, and following it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use orchestrator_proto::InstanceId;
use orchestrator_proto::control::{LogLine, LogStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::file::{Position, end_of};
use super::findings::Findings;
use super::grep::Grep;
use super::instance::{Progress, Shared};
use super::names::numbers;
use super::record::{Record, newline};
use super::stored::Stored;
use super::{InstanceLog, LogError, tail, writer};
use crate::shown::Looker;

/// The most bytes of a file that are read at once; more than any record has.
pub(super) const CHUNK: usize = 64 << 10;

/// The same for who has many readers.
const FRUGAL_CHUNK: usize = 20 << 10;

/// How long a reader waits for the capture process to say how far the log goes.
const FRESH: Duration = Duration::from_secs(1);

/// What of a log is to be read.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ReadQuery {
    /// Only this stream, and remarks on output of it that is missing; `None` means all.
    pub stream: Option<LogStream>,
    /// Only this many of the last lines, of those that the rest of the query asks for; then
    /// new ones if `follow`. A line's parts count as one line for each MiB.
    pub tail: Option<u64>,
    /// Only lines that were read at this time or later, nanoseconds since 1970 (UTC).
    pub since_ns: Option<u64>,
    /// Only lines that were read at this time or earlier, nanoseconds since 1970 (UTC).
    pub until_ns: Option<u64>,
    /// Only lines in which this is found; of a line in parts, each part by itself.
    pub grep: Option<Grep>,
    /// Go on with new lines until the log is closed or removed. Else what the log has when
    /// the reader begins is all.
    pub follow: bool,
}

impl ReadQuery {
    pub(super) fn wants(&self, record: &Record<'_>) -> bool {
        self.since_ns.is_none_or(|since| record.time_ns >= since)
            && self.until_ns.is_none_or(|until| record.time_ns <= until)
            && self.stream.is_none_or(|stream| {
                record.stream == stream
                    || (record.stream == LogStream::Orchestrator
                        && writer::concerns(record.text, stream))
            })
            && self.grep.as_ref().is_none_or(|grep| grep.is_in(record.text))
    }
}

/// What a reader finds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReadItem {
    /// A line, or a part of one; without the name of the instance, which is not known here.
    Line(LogLine),
    /// Something that was in the log can't be read any more.
    Missed {
        /// How many records; 0 when that is unknown.
        count: u64,
        /// What and why, as a sentence.
        reason: String,
    },
}

/// What a reader has found.
#[derive(Debug)]
pub(super) enum Found {
    /// At least one.
    Items(Vec<ReadItem>),
    /// All was read that the log has now; the next answer comes when there is more.
    AllForNow,
    /// Nothing more will come.
    End,
}

/// Reads a log at the speed of whoever calls it, and holds nothing in memory meanwhile but
/// its place. Reading goes on after the log was closed.
#[derive(Debug)]
pub struct LogReader {
    shared: Arc<Shared>,
    progress: Looker<Progress>,
    query: ReadQuery,
    /// The question how far the log goes, asked when the reader was opened.
    look: u64,
    look_until: Instant,
    /// Where the log ended when that was answered.
    opened: Position,
    /// How far it is being read.
    limit: Position,
    /// Why there may be more than was read, until that is told.
    untold: Option<Arc<str>>,
    /// What of that kind was told last.
    told: Option<Arc<str>>,
    /// Whether it was said that there is nothing more for now.
    told_all: bool,
    /// The most bytes that are read at once.
    chunk: usize,
    place: Place,
}

/// The cursor is here or with a blocking thread, so that dropping the future of
/// [`LogReader::next_batch`] loses nothing.
#[derive(Debug)]
enum Place {
    /// It is not known yet how far the log goes.
    Before,
    Here(Box<Cursor>),
    Reading {
        handle: JoinHandle<(Box<Cursor>, io::Result<Step>)>,
        /// Whether the log was closed already when this began.
        closed: bool,
    },
    Done,
}

impl LogReader {
    /// Begins to read. Must be called in a tokio runtime. Costs one question to the capture
    /// process until [`next_batch`](Self::next_batch); all that was appended before is in the
    /// log by the time of its answer.
    #[must_use]
    pub fn open(log: &InstanceLog, query: ReadQuery) -> Self {
        Self {
            shared: log.shared.clone(),
            progress: log.shared.progress.subscribe(),
            query,
            look: log.shared.look(),
            look_until: Instant::now() + FRESH,
            opened: Position::default(),
            limit: Position::default(),
            untold: None,
            told: None,
            told_all: false,
            chunk: CHUNK,
            place: Place::Before,
        }
    }

    /// The same with less memory, for who has many readers.
    #[must_use]
    pub fn frugal(mut self) -> Self {
        self.chunk = FRUGAL_CHUNK;
        self
    }

    /// The next items, at least one, from at most 64 KiB of the log. Waits for them when
    /// following. `None` at the end: all was read and, when following, the log was closed
    /// or removed. The future can be dropped at any time without losing items.
    ///
    /// If the capture process can't be asked, what is in the files is read, and an item tells
    /// why there may be more.
    ///
    /// # Errors
    ///
    /// [`LogError::Read`] when a file exists but can't be read. The reader is at its end then.
    pub async fn next_batch(&mut self) -> Result<Option<Vec<ReadItem>>, LogError> {
        loop {
            match self.next().await? {
                Found::Items(items) => return Ok(Some(items)),
                Found::AllForNow => {}
                Found::End => return Ok(None),
            }
        }
    }

    /// The same step by step: also tells when it is going to wait.
    pub(super) async fn next(&mut self) -> Result<Found, LogError> {
        loop {
            let (handle, closed) = match &mut self.place {
                Place::Reading { handle, closed } => (handle, *closed),
                Place::Done => return Ok(Found::End),
                Place::Before => {
                    self.begin().await?;
                    continue;
                }
                Place::Here(_) => {
                    self.begin_step();
                    continue;
                }
            };
            let result = handle.await;
            self.place = Place::Done;
            let (cursor, step) = result.map_err(|panic| self.error(io::Error::other(panic)))?;
            let step = step.map_err(|error| self.error(error))?;
            self.place = Place::Here(cursor);
            match step {
                Step::Items(items) if items.is_empty() => {}
                Step::Items(items) => {
                    self.told_all = false;
                    return Ok(Found::Items(items));
                }
                // Nothing is written after `closed` is set, so then this was the last word.
                Step::End if self.query.follow && !closed => {
                    if let Some(told) = self.tell() {
                        return Ok(Found::Items(told));
                    }
                    if !std::mem::replace(&mut self.told_all, true) {
                        return Ok(Found::AllForNow);
                    }
                    self.shared.watch(self.limit);
                    // Fails only without a sender, and that lives as long as this reader.
                    let _ = self.progress.changed().await;
                    self.untold.clone_from(&self.progress.borrow().trouble);
                    // The same again, after it was over, is news.
                    self.told = self.told.take().filter(|_| self.untold.is_some());
                }
                Step::End => {
                    self.place = Place::Done;
                    return Ok(self.tell().map_or(Found::End, Found::Items));
                }
            }
        }
    }

    /// Learns how far the log goes.
    async fn begin(&mut self) -> Result<(), LogError> {
        let look = self.look;
        let known = |p: &Progress| p.looked >= look || p.closed || p.trouble.is_some();
        let waited = timeout_at(self.look_until, self.progress.wait_for(known)).await;
        let answer = waited.ok().and_then(|answer| Some(answer.ok()?.clone()));
        let progress = answer.unwrap_or_else(|| Progress {
            trouble: Some("the process that captures output does not answer".into()),
            ..Progress::default()
        });
        self.opened = progress.end;
        if !progress.exact {
            let dir = self.shared.dir.clone();
            let end = tokio::task::spawn_blocking(move || end_of(&dir)).await;
            let end = end.unwrap_or_else(|panic| Err(io::Error::other(panic)));
            self.opened = end.map_err(|error| self.error(error))?;
            self.untold = progress.trouble;
        }
        self.place = Place::Here(Box::new(Cursor {
            dir: self.shared.dir.clone(),
            instance: self.shared.instance,
            query: self.query.clone(),
            chunk: self.chunk,
            file: None,
            next: Position::default(),
            begin: Begin::Query(self.opened),
            skipping: false,
            told_cut: false,
        }));
        Ok(())
    }

    /// What was not told yet about why nothing comes.
    fn tell(&mut self) -> Option<Vec<ReadItem>> {
        let reason = self.untold.take().filter(|reason| self.told.as_ref() != Some(reason))?;
        self.told = Some(reason.clone());
        Some(vec![ReadItem::Missed { count: 0, reason: reason.to_string() }])
    }

    /// Lets a blocking thread read up to where the log ends now.
    fn begin_step(&mut self) {
        // Marked as seen here and nowhere else, so no change is slept through.
        let now = self.progress.borrow_and_update().clone();
        // What was in the files is read, also before anybody said so.
        let limit = if self.query.follow { now.end.max(self.opened) } else { self.opened };
        self.limit = limit;
        match std::mem::replace(&mut self.place, Place::Done) {
            Place::Here(mut cursor) => {
                self.place = Place::Reading {
                    handle: tokio::task::spawn_blocking(move || {
                        let step = cursor.step(limit);
                        (cursor, step)
                    }),
                    closed: now.closed,
                };
            }
            other => self.place = other,
        }
    }

    fn error(&self, source: io::Error) -> LogError {
        LogError::Read { dir: self.shared.dir.clone(), source }
    }
}

/// What a step has found.
#[derive(Debug)]
pub(super) enum Step {
    /// There may be more.
    Items(Vec<ReadItem>),
    /// All up to the limit was read.
    End,
}

#[derive(Debug)]
enum Begin {
    /// To be found by the query, in what the log had then.
    Query(Position),
    /// With the oldest file, whichever it is by now.
    Oldest,
    /// Begun: what is missing from now on is missed.
    Begun,
}

/// A place in the files. Blocks on the disk.
#[derive(Debug)]
struct Cursor {
    dir: PathBuf,
    instance: InstanceId,
    query: ReadQuery,
    chunk: usize,
    /// File number `next.number`, once it is open.
    file: Option<Stored>,
    next: Position,
    begin: Begin,
    /// In the middle of a line that is too long for a record.
    skipping: bool,
    /// Somebody cut this file, and that was told.
    told_cut: bool,
}

impl Cursor {
    fn step(&mut self, limit: Position) -> io::Result<Step> {
        if let Begin::Query(opened) = self.begin {
            match self.query.tail {
                Some(count) => {
                    self.next = tail::find(&self.dir, opened, count, &self.query)?;
                    self.begin = Begin::Begun;
                }
                None => self.begin = Begin::Oldest,
            }
            // Nothing was written yet.
            self.next.number = self.next.number.max(1);
        }
        let mut found = Findings::default();
        loop {
            if self.next >= limit {
                // All that there was has been read; what is gone later is missed.
                self.begin = Begin::Begun;
                return Ok(found.end());
            }
            let Some(file) = &mut self.file else {
                self.open_file(limit, &mut found)?;
                continue;
            };
            let is_last = self.next.number == limit.number;
            let size = file.len()?;
            let end = if is_last { limit.offset } else { size };
            let wanted = end.saturating_sub(self.next.offset);
            if wanted == 0 {
                if self.next.offset > size {
                    self.tell_cut(&mut found);
                }
                self.skip_to(self.next.number + 1);
                continue;
            }
            let wanted =
                usize::try_from(wanted).map_or(self.chunk, |wanted| wanted.min(self.chunk));
            let mut chunk = vec![0; wanted];
            let count = match file.read_at(&mut chunk, self.next.offset) {
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    found.damaged(self.next.number, &error);
                    self.skip_to(self.next.number + 1);
                    continue;
                }
                read => read?,
            };
            if count == 0 {
                // Somebody cut the file, so there is nothing up to where it ended.
                self.tell_cut(&mut found);
                self.next.offset = end;
                continue;
            }
            let at_end = self.next.offset + count as u64 == end || count < wanted;
            let used = self.parse(&chunk[..count], at_end, &mut found);
            self.next.offset += used as u64;
            return Ok(Step::Items(found.items()));
        }
    }

    /// Opens file `next.number`, or the next one that is there.
    fn open_file(&mut self, limit: Position, found: &mut Findings) -> io::Result<()> {
        let wanted = self.next.number;
        let there = numbers(&self.dir)?
            .into_iter()
            .find(|&number| (wanted..=limit.number).contains(&number));
        let number = there.unwrap_or(limit.number + 1);
        if number > wanted {
            // Files that were deleted before the reader began are not missed.
            if matches!(self.begin, Begin::Begun) {
                found.deleted(wanted, number - 1);
            }
            self.skip_to(number);
        }
        if there.is_some() {
            match Stored::open(&self.dir, number) {
                Ok(file) => self.file = Some(file),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    found.damaged(number, &error);
                    self.skip_to(number + 1);
                }
                // Deleted this moment: the next look at the directory will tell.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.begin = Begin::Begun;
        Ok(())
    }

    fn skip_to(&mut self, number: u64) {
        self.file = None;
        self.skipping = false;
        self.told_cut = false;
        self.next = Position { number, offset: 0 };
    }

    fn tell_cut(&mut self, found: &mut Findings) {
        if !std::mem::replace(&mut self.told_cut, true) {
            found.missed(0, "a log file was cut before it could be read".to_owned());
        }
    }

    /// Takes the records in a chunk. Returns how many bytes are done with.
    fn parse(&mut self, chunk: &[u8], at_end: bool, found: &mut Findings) -> usize {
        let mut at = 0;
        while let Some(len) = newline(&chunk[at..]) {
            let line = &chunk[at..at + len];
            at += len + 1;
            if std::mem::take(&mut self.skipping) {
                found.malformed += 1;
                continue;
            }
            match Record::parse(line) {
                Some(record) if self.query.wants(&record) => found.line(self.instance, &record),
                Some(_) => {}
                None => found.malformed += 1,
            }
        }
        if at < chunk.len() && at_end {
            // A record that was torn, or that somebody edited.
            self.skipping = false;
            found.malformed += 1;
            return chunk.len();
        }
        if at == 0 {
            // Without a newline in all of it: longer than any record.
            self.skipping = true;
            return chunk.len();
        }
        at
    }
}

/// Reads until the buffer is full or the file is at its end.
pub(super) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
