//! `link replay`

mod file;
mod pace;

use std::path::Path;
use std::time::{Duration, Instant};

use mcap::McapError;
use orchestrator_proto::client::{Client, ItemStream};
use orchestrator_proto::control::{Fed, Item, ReplayRoute, ReplaySource, ReplaySpec};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::cli::LinkReplay;
use crate::failure::{Exit, Failure};
use crate::format;
use crate::interrupt::Signals;
use crate::output::Output;

use file::Contents;
use pace::{Batch, Came, Player};

pub(crate) use pace::Rate;

/// A message that sets off so much later than it was due is late.
const LATE: Duration = Duration::from_millis(1);

/// Why calls are not played, and what to do.
const CALLS: &str = "nobody would wait for the replies; `link call` makes a call";

/// Batches that are read ahead, of 64 KiB each, or of one message that has more.
const AHEAD: usize = 4;

/// Bytes that may be under way, or one batch that has more: 8 MiB.
const MAX_BYTES: usize = 8 << 20;

/// What is told at the end.
#[derive(Default, Serialize)]
struct Summary {
    messages: u64,
    unrouted: u64,
    unplayable: u64,
    /// Calls in the file, none of which is played.
    calls: u64,
    late: u64,
    /// How late the latest was, microseconds.
    latest_us: u64,
    rounds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cut: Option<String>,
}

/// `link replay`
pub(crate) async fn replay(
    client: &Client,
    out: &mut Output,
    args: LinkReplay,
) -> Result<Exit, Failure> {
    let LinkReplay { file: path, types, links, to, rate, skip, again } = args;
    let contents = file::look(&path, &types).map_err(|error| not_read(&path, error))?;
    check(&path, &contents)?;
    if let Some(why) = &contents.cut {
        out.warning(&format!(
            "{} is not whole ({why}); it is played up to there",
            format::line(&path.to_string_lossy())
        ));
    }
    let calls = contents.calls.count();
    if calls > 0 {
        let are = if calls == 1 { "is" } else { "are" };
        let calls = format::count(calls, "call");
        out.warning(&format!("{calls} {are} not replayed: {CALLS}"));
    }
    let mut signals = Signals::listen()?;
    let to = to.map(Into::into);
    let spec = ReplaySpec { sources: contents.sources.clone(), links, to };
    let (mut items, feeder) = client.replay(spec).await?;
    let Some(Item::Replaying(routes)) = items.next().await.transpose()? else {
        return Err(Failure::unexpected_reply());
    };
    warn(out, &contents.sources, &routes);
    out.flush()?;

    let mut summary = Summary { calls, cut: contents.cut.clone(), ..Summary::default() };
    let (sender, mut batches) = mpsc::channel(AHEAD);
    let player = Player { path: path.clone(), contents, rate, skip: skip.duration(), again };
    std::thread::Builder::new()
        .name("replay".to_owned())
        .spawn(move || player.play(&sender))
        .map_err(|error| Failure::io("can't start a thread", &error))?;
    let mut under_way = UnderWay::default();
    let ended = loop {
        let came = tokio::select! {
            biased;
            signal = signals.next() => break Some(signal),
            fed = next_fed(&mut items) => {
                under_way.fed(fed?, &mut summary);
                continue;
            }
            came = batches.recv(), if under_way.has_room() => came,
        };
        match came {
            Some(Came::Batch(batch)) => {
                summary.unplayable += batch.unplayable;
                summary.is_late(&batch);
                if !batch.messages.is_empty() {
                    under_way.add(batch.size());
                    feeder.feed(batch.messages).await?;
                }
            }
            Some(Came::Round) => summary.rounds += 1,
            Some(Came::Failed(error)) => return Err(not_read(&path, error)),
            None => break None,
        }
    };
    if ended.is_none() {
        feeder.end().await?;
    } else {
        // What is under way may wait for a link that has no room.
        drop(feeder);
    }
    while ended.is_none() {
        tokio::select! {
            biased;
            _ = signals.next() => break,
            item = items.next() => match item.transpose()? {
                Some(Item::Fed(fed)) => under_way.fed(fed, &mut summary),
                Some(_) => return Err(Failure::unexpected_reply()),
                None => break,
            },
        }
    }
    tell(out, &summary)?;
    Ok(Exit::Ok)
}

/// What the daemon has taken by now.
async fn next_fed(items: &mut ItemStream) -> Result<Fed, Failure> {
    match items.next().await.transpose()? {
        Some(Item::Fed(fed)) => Ok(fed),
        _ => Err(Failure::unexpected_reply()),
    }
}

/// Batches that were fed and not taken yet, by their sizes.
#[derive(Default)]
struct UnderWay {
    sizes: std::collections::VecDeque<usize>,
    bytes: usize,
    /// Feeds that were taken.
    taken: u64,
}

impl UnderWay {
    fn has_room(&self) -> bool {
        self.sizes.len() < ReplaySpec::WINDOW && self.bytes < MAX_BYTES
    }

    fn add(&mut self, size: usize) {
        self.sizes.push_back(size);
        self.bytes += size;
    }

    fn fed(&mut self, fed: Fed, summary: &mut Summary) {
        while self.taken < fed.feeds {
            self.taken += 1;
            self.bytes -= self.sizes.pop_front().unwrap_or_default();
        }
        (summary.messages, summary.unrouted) = (fed.messages, fed.unrouted);
    }
}

impl Summary {
    fn is_late(&mut self, batch: &Batch) {
        let Some(due) = batch.due else { return };
        let late = Instant::now().saturating_duration_since(due);
        self.latest_us = self.latest_us.max(u64::try_from(late.as_micros()).unwrap_or(u64::MAX));
        if late >= LATE {
            self.late += batch.messages.len() as u64;
        }
    }
}

fn check(path: &Path, contents: &Contents) -> Result<(), Failure> {
    let shown = path.to_string_lossy();
    let shown = format::line(&shown);
    if contents.sources.is_empty() {
        return Err(Failure::invalid(match contents.foreign {
            _ if contents.calls.count() > 0 => {
                let calls = format::count(contents.calls.count(), "call");
                format!("{shown} has {calls} and no messages; calls are not replayed: {CALLS}")
            }
            0 => format!("{shown} has no messages of that kind"),
            _ => format!("{shown} has no messages that `link record` has written"),
        }));
    }
    if contents.sources.len() > ReplaySpec::MAX_SOURCES {
        return Err(Failure::invalid(format!(
            "{shown} has messages of {} senders and types, and at most {} are played at once; choose \
             some with --type",
            contents.sources.len(),
            ReplaySpec::MAX_SOURCES
        )));
    }
    Ok(())
}

fn not_read(path: &Path, error: McapError) -> Failure {
    let shown = path.to_string_lossy().into_owned();
    let message = format!("can't read {}", format::line(&shown));
    match error {
        McapError::Io(error) => Failure::io(message, &error),
        other => Failure::io(message, &std::io::Error::other(other)),
    }
}

/// What will not be as it was when it was recorded.
fn warn(out: &mut Output, sources: &[ReplaySource], routes: &[ReplayRoute]) {
    for (source, route) in sources.iter().zip(routes) {
        let from = source.from.as_ref().map_or("anybody", |from| from.0.as_str());
        let (from, name) = (format::line(from), format::line(&source.type_name));
        if route.links == 0 {
            out.warning(&format!(
                "no link takes {name} from {from}; what there is of it is unrouted"
            ));
        } else if route.is_connected {
            out.warning(&format!("{from} is connected, and may send {name} over the same links"));
        }
    }
}

fn tell(out: &mut Output, summary: &Summary) -> Result<(), Failure> {
    if out.is_json() {
        return out.json(summary);
    }
    let mut text = format!("played {}", format::count(summary.messages, "message"));
    if summary.rounds > 1 {
        text += &format!(" in {}", format::count(summary.rounds, "round"));
    }
    if summary.late > 0 {
        let latest = Duration::from_micros(summary.latest_us);
        text += &format!(", {} of them late, by {latest:.1?} at most", summary.late);
    }
    if summary.unrouted > 0 {
        text += &format!(", {} that no link takes", summary.unrouted);
    }
    if summary.unplayable > 0 {
        text += &format!(", and passed over {} that can't be put back", summary.unplayable);
    }
    out.line(&text)
}
