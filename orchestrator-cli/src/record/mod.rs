//! `link record`

pub(crate) mod file;

use std::fs::File;
use std::io::{BufWriter, ErrorKind};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mcap::McapError;
use orchestrator_proto::client::{Client, ItemStream};
use orchestrator_proto::control::{Item, RecordFilter, Request};
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

use self::file::Recording;
use crate::cli::LinkRecord;
use crate::failure::{Exit, Failure};
use crate::format;
use crate::interrupt::Signals;
use crate::logs::{self, Next};
use crate::output::Output;

/// How long a message may be in memory alone.
const FLUSH: Duration = Duration::from_secs(1);

/// What is told at the end.
#[derive(Serialize)]
struct Summary<'a> {
    file: &'a Path,
    messages: u64,
    missed: u64,
    bytes: u64,
}

/// `link record`
pub(crate) async fn record(
    client: &Client,
    out: &mut Output,
    args: LinkRecord,
) -> Result<Exit, Failure> {
    let LinkRecord { types, from, links, output, encoding, force, count, duration } = args;
    let filter = RecordFilter { types, from: from.into_iter().map(Into::into).collect(), links };
    let mut signals = Signals::listen()?;
    let items = client.stream(Request::LinkRecord(filter.clone())).await?;
    let file = create(&output, force)?;
    let failed = |error: McapError| not_written(&output, error);
    let mut recording = Recording::begin(BufWriter::new(file), encoding).map_err(failed)?;
    out.flush()?;
    let mut input = Input { client, filter, items };
    let mut flush = interval_at(Instant::now() + FLUSH, FLUSH);
    flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Without an end: farther away than this program runs.
    let duration = duration.map_or(Duration::from_secs(u32::MAX.into()), |it| it.duration());
    let end = Instant::now().checked_add(duration).unwrap_or_else(Instant::now);
    // Why there is no more to come.
    let mut lost = None;
    let result = loop {
        if count.is_some_and(|count| recording.messages >= count) {
            break Ok(());
        }
        let done = tokio::select! {
            biased;
            _ = signals.next() => break Ok(()),
            () = sleep_until(end) => break Ok(()),
            _ = flush.tick() => recording.flush().map_err(failed),
            item = input.next(out) => match item {
                Ok(Some(Came::Item(item))) => put(&mut recording, out, item, &output),
                Ok(Some(Came::Anew)) => {
                    recording.forget_sources();
                    let why = "the daemon was replaced, and what passed meanwhile was not seen";
                    logs::missed(out, 0, why);
                    recording.missed(now_ns(), 0, why).map_err(failed)
                }
                Ok(None) => break Ok(()),
                Err(failure) => {
                    lost = Some(failure);
                    break Ok(());
                }
            },
        };
        if done.is_err() {
            break done;
        }
    };
    // Also when it ends badly: what is there should be whole.
    let (messages, missed) = (recording.messages, recording.missed);
    let finished = recording.finish().map_err(failed);
    if (result.is_err() || lost.is_some()) && messages + missed == 0 && !force {
        // Nothing was ever recorded, for a reason that is told.
        let _ = std::fs::remove_file(&output);
        return result.and(lost.map_or(Ok(Exit::Ok), Err));
    }
    result?;
    let file = finished?
        .into_inner()
        .map_err(|error| not_written(&output, McapError::Io(error.into_error())))?;
    let synced = file.sync_all().and_then(|()| file.metadata());
    let bytes = synced.map_err(|error| not_written(&output, McapError::Io(error)))?.len();
    let summary = Summary { file: &output, messages, missed, bytes };
    tell(out, &summary)?;
    lost.map_or(Ok(Exit::Ok), Err)
}

/// A stream that goes on with the next daemon.
struct Input<'a> {
    client: &'a Client,
    filter: RecordFilter,
    items: ItemStream,
}

enum Came {
    Item(Item),
    /// The stream is another one from here on.
    Anew,
}

impl Input<'_> {
    async fn next(&mut self, out: &mut Output) -> Result<Option<Came>, Failure> {
        Ok(match logs::next(&mut self.items, out).await? {
            Next::Item(item) => Some(Came::Item(item)),
            Next::End => None,
            Next::Replaced => {
                self.items = self.client.stream(Request::LinkRecord(self.filter.clone())).await?;
                Some(Came::Anew)
            }
        })
    }
}

fn put(
    recording: &mut Recording<BufWriter<File>>,
    out: &mut Output,
    item: Item,
    output: &Path,
) -> Result<(), Failure> {
    let done = match item {
        Item::Source(source) => recording.source(&source),
        Item::Recorded(message) => recording.message(&message),
        Item::Missed { count, reason } => {
            logs::missed(out, count, &reason);
            recording.missed(now_ns(), count, &reason)
        }
        Item::Log(_) | Item::Event(_) | Item::Message(_) | Item::Replaying(_) | Item::Fed(_) => {
            return Err(Failure::unexpected_reply());
        }
    };
    done.map_err(|error| not_written(output, error))
}

fn create(path: &Path, force: bool) -> Result<File, Failure> {
    let opened = match force {
        true => File::create(path),
        false => File::create_new(path),
    };
    opened.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => Failure::invalid(format!(
            "{} is there already; give another name, or --force to write over it",
            format::line(&path.to_string_lossy())
        )),
        _ => not_written(path, McapError::Io(error)),
    })
}

fn not_written(path: &Path, error: McapError) -> Failure {
    let message = format!("can't write to {}", format::line(&path.to_string_lossy()));
    match error {
        McapError::Io(error) => Failure::io(message, &error),
        other => Failure::io(message, &std::io::Error::other(other)),
    }
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

fn tell(out: &mut Output, summary: &Summary<'_>) -> Result<(), Failure> {
    if out.is_json() {
        return out.json(summary);
    }
    let missed = match summary.missed {
        0 => String::new(),
        missed => format!(", {} missing", format::count(missed, "message")),
    };
    let file = summary.file.to_string_lossy();
    let (messages, size) = (format::count(summary.messages, "message"), summary.bytes);
    out.line(&format!("{messages} in {}, {size} bytes{missed}", format::line(&file)))
}
