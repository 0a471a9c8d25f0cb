//! Events to be read: the newest from memory, older ones from the database.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use orchestrator_proto::InstanceId;
use orchestrator_proto::control::Event;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior, params};
use tokio::sync::watch;

use super::write::int;
use super::{StoreError, read};

/// Events that are kept in memory too, so that those who follow need not ask the database.
pub(super) const RECENT: usize = 1024;

/// Which events to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EventQuery {
    /// Only events with a higher number.
    pub after: u64,
    /// Only events of this time or later, milliseconds since 1970 (UTC).
    pub since_ms: Option<u64>,
    /// Only events of this instance.
    pub instance: Option<InstanceId>,
}

impl EventQuery {
    fn takes(&self, event: &Event) -> bool {
        event.seq > self.after
            && self.since_ms.is_none_or(|since| event.time_ms >= since)
            && (self.instance.is_none() || self.instance == event.instance)
    }
}

/// What a reader gets.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct EventBatch {
    /// Events that were asked for and are no longer kept.
    pub missed: u64,
    /// Events that are there and can't be read.
    pub unreadable: u64,
    /// The next ones, in order.
    pub events: Vec<Event>,
    /// To go on after this number.
    pub seen: u64,
}

/// The newest events, and the way to those before.
pub(super) struct Recent {
    kept: Mutex<Kept>,
    newest: watch::Sender<u64>,
    path: PathBuf,
    /// Open from the first reader of old events to the last. They take turns.
    history: Arc<tokio::sync::Mutex<Option<Connection>>>,
}

struct Kept {
    events: VecDeque<Event>,
    /// The oldest event in the database.
    oldest: u64,
}

impl Recent {
    pub(super) fn new(path: PathBuf, oldest: u64, newest: u64) -> Self {
        Self {
            kept: Mutex::new(Kept { events: VecDeque::new(), oldest }),
            newest: watch::Sender::new(newest),
            path,
            history: Arc::default(),
        }
    }

    /// Of the database.
    pub(super) fn path(&self) -> &std::path::Path {
        &self.path
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These were committed.
    pub(super) fn publish(&self, events: Vec<Event>, oldest: u64) {
        let Some(newest) = events.last().map(|event| event.seq) else {
            return;
        };
        let mut kept = self.kept();
        kept.oldest = oldest;
        // Never beyond that, even for a moment: room that was needed once is not given back.
        let missed = events.len().saturating_sub(RECENT);
        let excess = (kept.events.len() + events.len() - missed).saturating_sub(RECENT);
        kept.events.drain(..excess);
        kept.events.extend(events.into_iter().skip(missed));
        drop(kept);
        self.newest.send_replace(newest);
    }

    /// The number of the newest event that was committed, and a way to wait for newer ones.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// Whether anybody waits for new events.
    pub(super) fn is_followed(&self) -> bool {
        self.newest.receiver_count() > 0
    }

    /// The number of the oldest event that is kept.
    pub(super) fn oldest(&self) -> u64 {
        self.kept().oldest
    }

    /// Up to `max` events.
    pub(super) async fn read(
        &self,
        query: EventQuery,
        max: usize,
    ) -> Result<EventBatch, StoreError> {
        let until = {
            let kept = self.kept();
            match kept.events.front().map(|event| event.seq) {
                Some(oldest) if query.after + 1 >= oldest => {
                    return Ok(from_memory(&kept.events, query, max));
                }
                Some(oldest) => oldest - 1,
                None => *self.newest.borrow(),
            }
        };
        if query.after >= until {
            return Ok(EventBatch { seen: query.after, ..EventBatch::default() });
        }
        let mut history = self.history.clone().lock_owned().await;
        let path = self.path.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let mut connection = match history.take() {
                Some(connection) => connection,
                None => open(&path)?,
            };
            let batch = from_database(&mut connection, query, until, max);
            *history = Some(connection);
            batch
        });
        let batch = reading.await.map_err(|_| StoreError::Closed)?;
        batch.map_err(StoreError::Read)
    }

    /// Nobody reads old events at the moment.
    pub(super) fn close_history(&self) {
        if let Ok(mut history) = self.history.try_lock() {
            history.take();
        }
    }
}

fn from_memory(events: &VecDeque<Event>, query: EventQuery, max: usize) -> EventBatch {
    let mut batch = EventBatch { seen: query.after, ..EventBatch::default() };
    let first = events.front().map_or(0, |event| event.seq);
    let skip = usize::try_from((query.after + 1).saturating_sub(first)).unwrap_or(usize::MAX);
    for event in events.iter().skip(skip) {
        batch.seen = event.seq;
        if query.takes(event) {
            batch.events.push(event.clone());
            if batch.events.len() == max {
                break;
            }
        }
    }
    batch
}

/// To look, not to change.
pub(super) fn open(path: &std::path::Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.pragma_update(None, "query_only", true)?;
    connection.pragma_update(None, "cache_size", -128)?;
    Ok(connection)
}

/// Those up to the number `until`.
fn from_database(
    connection: &mut Connection,
    query: EventQuery,
    until: u64,
    max: usize,
) -> rusqlite::Result<EventBatch> {
    // One view of the database for both questions, so that nothing is deleted in between.
    let view = Transaction::new(connection, TransactionBehavior::Deferred)?;
    let (oldest, _) = read::event_numbers(&view)?;
    let mut batch = EventBatch { seen: until, ..EventBatch::default() };
    batch.missed = oldest.min(until + 1).saturating_sub(query.after + 1);
    let mut statement = view.prepare_cached(
        "SELECT seq, time_ms, instance, name, kind FROM events
         WHERE seq > ?1 AND seq <= ?2 AND time_ms >= ?3 AND (?4 IS NULL OR instance = ?4)
         ORDER BY seq LIMIT ?5",
    )?;
    let limit = i64::try_from(max).unwrap_or(i64::MAX);
    let mut rows = statement.query(params![
        int(query.after),
        int(until),
        int(query.since_ms.unwrap_or(0)),
        query.instance.map(|id| id.to_string()),
        limit
    ])?;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        count += 1;
        if count == max {
            batch.seen = row.get::<_, i64>(0)?.cast_unsigned();
        }
        match read::event(row) {
            Ok(event) => batch.events.push(event),
            Err(error) => {
                batch.unreadable += 1;
                tracing::warn!(error, "an event in the database can't be read");
            }
        }
    }
    Ok(batch)
}
