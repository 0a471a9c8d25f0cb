//! The one thread that writes: takes what waits in groups, each a transaction.

use std::cell::Cell;
use std::fs::File;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::Instant;

use orchestrator_proto::SchemaHash;
use orchestrator_proto::control::{Event, EventKind};
use rusqlite::Connection;

use super::error::WriteFailure;
use super::queue::{Answer, Group, Refused, Timing, Work};
use super::read::Unreadable;
use super::record::{Change, NewEvent};
use super::{EVENTS_SLACK, KEPT_EVENTS, Shared, now_ms, schemas, write};

/// Pages of the write-ahead log from which on they are brought into the database when nothing
/// else is to be done: 1 MiB.
const CHECKPOINT_PAGES: u64 = 256;

/// Pages from which on that is done at once: 8 MiB.
const CHECKPOINT_NOW_PAGES: u64 = 2048;

thread_local! {
    /// Pages in the write-ahead log, as SQLite told this thread after the last transaction.
    static LOG_PAGES: Cell<u64> = const { Cell::new(0) };
}

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) connection: Connection,
    /// The write-ahead log.
    pub(super) log: File,
    /// To the thread that syncs what nobody waits for.
    pub(super) sync_later: SyncSender<()>,
    /// What was written since this thread last synced, or had SQLite do so, may not be on the
    /// disk.
    pub(super) unsynced: bool,
    pub(super) unreadable: Unreadable,
    /// The numbers of the oldest event that is kept and of the newest.
    pub(super) events: (u64, u64),
    pub(super) timing: Timing,
    /// What SQLite is told to do at the end of a transaction.
    pub(super) syncs: bool,
    /// The last checkpoint failed, and the log says so.
    pub(super) checkpoint_failed: bool,
}

/// What came of a transaction.
struct Written {
    /// Of each change: nothing, or why it was left out.
    changes: Vec<Result<(), Refused>>,
    events: Vec<Event>,
    /// Schemas that were too many.
    forgotten: Vec<(String, SchemaHash)>,
}

impl Writer {
    pub(super) fn run(mut self) {
        self.connection.wal_hook(Some(|_, pages| {
            LOG_PAGES.set(u64::try_from(pages).unwrap_or(0));
            Ok(())
        }));
        loop {
            match self.shared.queue.next(self.timing) {
                Work::Write(group) => self.write(group),
                Work::Sync => {
                    // If there is no place, one is to come that has not begun, and will do.
                    let _ = self.sync_later.try_send(());
                    self.timing.unsynced_since = None;
                }
                Work::Idle => {
                    self.timing.written_at = None;
                    self.checkpoint(CHECKPOINT_PAGES);
                    // What is read again comes from the kernel's cache.
                    if let Err(error) = self.connection.release_memory() {
                        tracing::debug!(%error, "the database keeps its memory");
                    }
                }
                Work::End => break,
            }
        }
        let _ = self.sync();
        self.shared.queue.closed();
        let shared = self.shared.clone();
        // The last connection brings everything into the database and deletes the log.
        if let Err((_, error)) = self.connection.close() {
            tracing::warn!(%error, "the database could not be closed well; nothing is lost");
        }
        shared.ended.send_replace(true);
    }

    fn write(&mut self, mut group: Group) {
        let result = self.transaction(&group);
        match result {
            Err(failure) => {
                self.timing.failed_at = Some(Instant::now());
                self.failed(&failure);
                let refused = Err(Refused::Failed(failure));
                for (_, answer) in group.changes.drain(..) {
                    let _ = answer.send(refused.clone());
                }
                let barriers = std::mem::take(&mut group.barriers);
                self.shared.queue.put_back(group);
                answer_all(barriers.into_iter().map(|(_, answer)| answer), &refused);
            }
            Ok(written) => {
                if self.timing.failed_at.take().is_some() {
                    self.shared.set_failing(None);
                    self.shared.queue.works();
                    tracing::info!("the database can be written again");
                }
                self.shared.recent.publish(written.events, self.events.0);
                for ((_, answer), result) in group.changes.into_iter().zip(written.changes) {
                    let _ = answer.send(result);
                }
                answer_all(group.barriers.into_iter().map(|(_, answer)| answer), &Ok(()));
                self.checkpoint(CHECKPOINT_NOW_PAGES);
            }
        }
    }

    /// Writes a group as a whole or not at all, and syncs it if anybody waits for that.
    fn transaction(&mut self, group: &Group) -> Result<Written, WriteFailure> {
        let sync = group.is_to_be_synced();
        if group.is_empty() && self.timing.failed_at.is_none() {
            if sync {
                self.sync()?;
            }
            return Ok(Written { changes: Vec::new(), events: Vec::new(), forgotten: Vec::new() });
        }
        let written = self.try_transaction(group, sync).map_err(|error| {
            if !self.connection.is_autocommit()
                && let Err(error) = self.connection.execute_batch("ROLLBACK")
            {
                tracing::error!(%error, "a transaction could not be rolled back");
            }
            WriteFailure::from(&error)
        })?;
        for (name, hash) in &written.forgotten {
            self.shared.schemas.forget(name, *hash);
        }
        let now = Instant::now();
        self.timing.written_at = Some(now);
        self.shared.counts.transaction();
        if sync {
            // SQLite has synced the whole log, so what was written before too.
            self.synced();
            self.shared.counts.sync();
        } else {
            self.unsynced = true;
            self.timing.unsynced_since.get_or_insert(now);
        }
        if let Some(last) = written.events.last() {
            self.events.1 = last.seq;
        }
        Ok(written)
    }

    fn try_transaction(&mut self, group: &Group, sync: bool) -> rusqlite::Result<Written> {
        if sync != self.syncs {
            let level = if sync { "full" } else { "normal" };
            self.connection.pragma_update(None, "synchronous", level)?;
            self.syncs = sync;
        }
        let connection = &self.connection;
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        if self.timing.failed_at.is_some() {
            // While writing fails, find out whether it still does before much is tried.
            write::number(connection, "probe", now_ms())?;
            connection.cache_flush()?;
        }
        let mut changes = Vec::with_capacity(group.changes.len());
        for (change, _) in &group.changes {
            let result = match change {
                Change::RemoveUnreadable => remove(connection, &self.unreadable),
                #[cfg(test)]
                Change::LimitPages(pages) => {
                    let sql = format!("PRAGMA max_page_count = {pages}");
                    connection.query_row(&sql, [], |_| Ok(()))
                }
                change => write::change(connection, change),
            };
            changes.push(match result {
                Ok(()) => Ok(()),
                // Nothing of this statement is done, and the others are not touched.
                Err(error) if is_conflict(&error) => Err(Refused::Conflict(error.to_string())),
                Err(error) => return Err(error),
            });
        }
        for (order, record) in &group.runs {
            write::note_run(connection, *order, record, false)?;
        }
        for (key, declared) in &group.types {
            write::note_type(connection, key, declared)?;
        }
        let mut forgotten = Vec::new();
        if !group.schemas.is_empty() {
            schemas::write(connection, &group.schemas)?;
            forgotten = schemas::forget_excess(connection, &self.shared.schemas)?;
        }
        let told = (!forgotten.is_empty()).then(|| NewEvent {
            time_ms: now_ms(),
            instance: None,
            name: None,
            kind: EventKind::SchemasForgotten { count: forgotten.len() as u64 },
        });
        let mut events = Vec::with_capacity(group.events.len());
        for (seq, event) in (self.events.1 + 1..).zip(group.events.iter().cloned().chain(told)) {
            let NewEvent { time_ms, instance, name, kind } = event;
            let event = Event { seq, time_ms, instance, name, kind };
            write::event(connection, &event)?;
            events.push(event);
        }
        let newest = self.events.1 + events.len() as u64;
        let oldest = (newest + 1).saturating_sub(KEPT_EVENTS);
        let forget = oldest >= self.events.0.saturating_add(EVENTS_SLACK);
        if forget {
            write::forget_events(connection, oldest)?;
        }
        connection.prepare_cached("COMMIT")?.execute([])?;
        if forget {
            self.events.0 = oldest;
        }
        Ok(Written { changes, events, forgotten })
    }

    /// Brings what was written to the disk.
    fn sync(&mut self) -> Result<(), WriteFailure> {
        if self.unsynced {
            sync(&self.log, &self.shared)?;
        }
        self.synced();
        Ok(())
    }

    fn synced(&mut self) {
        self.unsynced = false;
        self.timing.unsynced_since = None;
    }

    /// Brings what is in the log into the database, if the log has this many pages.
    fn checkpoint(&mut self, pages: u64) {
        if LOG_PAGES.get() < pages {
            return;
        }
        let result = self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        match result {
            Ok(()) => {
                LOG_PAGES.set(0);
                self.checkpoint_failed = false;
                self.synced();
            }
            // The log goes on to grow, and it is tried again.
            Err(error) if !self.checkpoint_failed => {
                self.checkpoint_failed = true;
                tracing::warn!(%error, "the database's log could not be brought into it");
            }
            Err(_) => {}
        }
    }

    /// Says so the first time, and when the reason is another.
    fn failed(&self, failure: &WriteFailure) {
        if self.shared.set_failing(Some(failure.clone())) {
            let error = failure.to_string();
            tracing::error!(error, "changes are refused until this works again");
        }
    }
}

/// Brings the write-ahead log to the disk.
fn sync(log: &File, shared: &Shared) -> Result<(), WriteFailure> {
    shared.counts.sync();
    log.sync_data().map_err(|error| {
        tracing::error!(%error, "what was written last may not survive a power cut");
        WriteFailure::of_sync(&error)
    })
}

/// Syncs what nobody waits for, in a thread of its own: on a slow disk that takes long, and
/// starts and stops are not to wait for it. Ends when the sender is dropped.
pub(super) fn sync_when_told(log: &File, shared: &Shared, orders: &Receiver<()>) {
    while orders.recv().is_ok() {
        // It is said; the next sync may work.
        let _ = sync(log, shared);
    }
}

fn answer_all(answers: impl Iterator<Item = Answer>, result: &Result<(), Refused>) {
    for answer in answers {
        // Whoever waited may have gone.
        let _ = answer.send(result.clone());
    }
}

fn is_conflict(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation)
}

fn remove(connection: &Connection, unreadable: &Unreadable) -> rusqlite::Result<()> {
    for number in &unreadable.instances {
        connection.execute("DELETE FROM runs WHERE number = ?1", [number])?;
        connection.execute("DELETE FROM types WHERE number = ?1", [number])?;
        connection.execute("DELETE FROM instances WHERE number = ?1", [number])?;
    }
    for id in &unreadable.types {
        connection.execute("DELETE FROM types WHERE id = ?1", [id])?;
    }
    for name in &unreadable.sets {
        connection.execute("DELETE FROM sets WHERE name = ?1", [name])?;
    }
    for number in &unreadable.links {
        connection.execute("DELETE FROM links WHERE id = ?1", [number])?;
    }
    Ok(())
}
