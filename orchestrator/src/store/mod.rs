//! What outlives the daemon: its instances, their message types, its links, whether they should
//! run, what became of them, and what happened. An SQLite database, `state.db` in the state directory.
//!
//! For `events/` and `registry/`, which tell it of everything that changes, and `daemon/`, which
//! opens it. Knows the protocol's types and no other room.
//!
//! It promises that
//!
//! - what [`Store::change`] answered well is on the disk: it survives a power cut;
//! - what [`Store::commit`] answered well is in the write-ahead log: it survives the end of any
//!   process, and a power cut [`SYNC`] later, or at once where [`Durability::Synced`] was asked
//!   for;
//! - telling of a run ([`Store::note_run`]) and of an event ([`Store::record_event`]) never
//!   waits. Both are written within [`LATE`], in the order in which they were told, and with the
//!   next answer at the latest. What is told in one piece ([`Store::note`]) is written in one
//!   transaction;
//! - telling of a message type ([`Store::note_type`]) never waits either. Types are written soon
//!   after everything that was told before them, in parts of 256 KiB, so that nobody waits for
//!   more than that because some are large; what is not written yet when the daemon is killed is
//!   declared again when its instance connects. The same holds of schemas ([`Store::note_schema`]),
//!   of which the last [`MAX_SCHEMAS`] are kept that any instance has declared;
//! - an event gets its number when it is committed, and is shown to nobody before. So no number
//!   is used twice or left out, whatever ends the daemon;
//! - many who change something at once share a transaction and a sync;
//! - when the disk is full or fails, changes and commits are refused with the reason. Runs are
//!   kept in memory, the newest of each instance; events are kept too, up to
//!   [`MAX_WAITING_EVENTS`], and those that come then are counted, and told as one event
//!   (`EventsLost`) in their place. All of it is written as soon as that works again, which is
//!   tried every [`RETRY`] and with each change;
//! - a database that is corrupt is set aside under a name that nobody has, never deleted; one of
//!   a newer daemon is refused; a row that can't be read is kept and reported;
//! - nothing happens in here when nothing happens elsewhere.
//!
//! One thread writes, and one syncs what nobody waits for. The one that writes is not woken for
//! what nobody waits for: after a write it looks by itself for a while ([`LINGER`]), so a busy
//! daemon wakes it for answers only.

mod error;
mod open;
mod queue;
mod read;
mod recent;
mod record;
mod schema;
mod schemas;
mod sets;
mod spec;
mod types;
mod write;
mod writer;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use orchestrator_proto::runtime::Direction;
use orchestrator_proto::{SchemaHash, TypeSchema};
use tokio::sync::{oneshot, watch};

pub use error::{StoreError, WriteFailure};
pub use recent::{EventBatch, EventQuery};
pub use record::{
    Change, InstanceRecord, LinkEnd, LinkRecord, NewEvent, ProcessRecord, Rest, RunRecord,
    ScheduleRecord, SetAside, SetLinkEnd, SetLinkRecord, SetRecord, Snapshot, TypeRecord,
};

pub use schemas::{MAX_SCHEMA_BYTES, MAX_SCHEMAS, SeenSchema};

use queue::{Queue, Refused, Timing};
use recent::Recent;
use schemas::{News, NotedSchema, Schemas};
use types::TypeKey;
use writer::Writer;

/// How late something that nobody waits for may be written: 5 ms.
pub const LATE: Duration = Duration::from_millis(5);

/// How long the writer looks by itself for more, after a write. Not longer than [`LATE`].
pub const LINGER: Duration = Duration::from_millis(5);

/// How long after it was written something is brought to the disk: 50 ms, so that it is there
/// within 100 ms on a disk that takes no longer than that for it.
pub const SYNC: Duration = Duration::from_millis(50);

/// How often writing is tried again while it fails: every second.
pub const RETRY: Duration = Duration::from_secs(1);

/// Changes that may wait to be written; more are refused.
pub const MAX_CHANGES: usize = 8192;

/// Events that may wait to be written; more are counted and lost.
pub const MAX_WAITING_EVENTS: usize = 16_384;

/// Events that are kept: this many of the last ones, and up to [`EVENTS_SLACK`] more.
pub const KEPT_EVENTS: u64 = 100_000;

/// Events that are deleted at once.
pub const EVENTS_SLACK: u64 = 1000;

/// What is waited for before something counts as done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Durability {
    /// It is in the write-ahead log: the kernel has it, whatever becomes of the daemon.
    #[default]
    Logged,
    /// It is on the disk, whatever becomes of the machine.
    Synced,
}

/// The database, open. Clones are the same one. It is closed when the last of them is dropped,
/// after all that was told is written; [`Store::close`] waits for that.
#[derive(Clone)]
pub struct Store(Arc<Handle>);

/// Closes the queue when the last store is dropped. The writer has the shared part only.
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.queue.close();
    }
}

struct Shared {
    queue: Queue,
    recent: Recent,
    schemas: Schemas,
    /// Why the last write failed; none if it worked.
    failing: Mutex<Option<WriteFailure>>,
    counts: Counts,
    /// Set when the writer has ended.
    ended: watch::Sender<bool>,
}

#[derive(Default)]
struct Counts {
    transactions: AtomicU64,
    syncs: AtomicU64,
}

impl Counts {
    fn transaction(&self) {
        self.transactions.fetch_add(1, Ordering::Relaxed);
    }

    fn sync(&self) {
        self.syncs.fetch_add(1, Ordering::Relaxed);
    }
}

impl Shared {
    /// Whether that is news.
    fn set_failing(&self, failure: Option<WriteFailure>) -> bool {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let news = *failing != failure;
        *failing = failure;
        news
    }
}

impl Store {
    /// Opens the database in `dir`, which must be this process's alone, and reads what is there.
    /// Reads and writes files, so it may block.
    ///
    /// # Errors
    ///
    /// When it can't be opened, or was written by a newer daemon. A corrupt one is set aside,
    /// which [`Snapshot::set_aside`] tells of.
    pub fn open(dir: &Path) -> Result<(Self, Snapshot), StoreError> {
        let opened = open::open(dir)?;
        let (oldest, newest) = opened.events;
        let shared = Arc::new(Shared {
            queue: Queue::default(),
            recent: Recent::new(opened.path, oldest, newest),
            schemas: Schemas::new(opened.schemas),
            failing: Mutex::default(),
            counts: Counts::default(),
            ended: watch::Sender::new(false),
        });
        let (sync_later, orders) = std::sync::mpsc::sync_channel(1);
        let (log, syncing) = (opened.log, shared.clone());
        let log_to_sync =
            log.try_clone().map_err(|source| StoreError::File { path: dir.to_owned(), source })?;
        std::thread::Builder::new()
            .name("store-sync".to_owned())
            .spawn(move || writer::sync_when_told(&log_to_sync, &syncing, &orders))
            .map_err(StoreError::Thread)?;
        let writer = Writer {
            shared: shared.clone(),
            connection: opened.connection,
            log,
            sync_later,
            unsynced: false,
            unreadable: opened.unreadable,
            events: opened.events,
            timing: Timing::default(),
            syncs: true,
            checkpoint_failed: false,
        };
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run())
            .map_err(StoreError::Thread)?;
        Ok((Self(Arc::new(Handle(shared))), opened.snapshot))
    }

    /// Whether the database in `dir`, which another daemon may have open, is one that this program
    /// can take over: it is not there, or it can be read and is of no newer version. Changes
    /// nothing. Reads files, so it may block.
    ///
    /// # Errors
    ///
    /// [`StoreError::Open`], [`StoreError::Newer`], [`StoreError::File`].
    pub fn check(dir: &Path) -> Result<(), StoreError> {
        open::check(dir)
    }

    fn shared(&self) -> &Shared {
        &self.0.0
    }

    /// Queues a change now; the answer comes when it is on the disk, or is not to be. Changes
    /// are carried out in the order of these calls, whether anybody waits for the answer or not.
    ///
    /// # Errors
    ///
    /// See [`StoreError`]; then nothing of it is in the database.
    pub fn change(&self, change: Change) -> impl Future<Output = Result<(), StoreError>> + use<> {
        let (answer, answered) = oneshot::channel();
        self.shared().queue.change(change, answer);
        wait(answered)
    }

    /// Tells how an instance is now. Never waits; see the module.
    pub fn note_run(&self, order: u64, run: RunRecord) {
        self.note(Some((order, run)), Vec::new());
    }

    /// Tells how an instance declares a message type now, in which forms, the best one first;
    /// without a schema, no more. Only of what has changed. Never waits; see the module.
    pub fn note_type<'a>(
        &self,
        order: u64,
        direction: Direction,
        name: &Arc<str>,
        forms: impl IntoIterator<Item = &'a TypeSchema>,
    ) {
        let key = TypeKey { order, direction, name: name.clone() };
        let forms = forms.into_iter().map(|schema| schema.encode().into());
        self.shared().queue.declared(key, forms.collect());
    }

    /// Tells that a schema is declared under a type name, be it known or not. Never waits; it is
    /// written as types are, so that every schema is kept that was ever told of.
    pub fn note_schema(&self, name: &Arc<str>, hash: SchemaHash, schema: &TypeSchema) {
        let shared = self.shared();
        let (mut encoded, at_ms) = (None, now_ms());
        let encode = || encoded.insert(Arc::<[u8]>::from(schema.encode())).len();
        let schema = match shared.schemas.declared(name, hash, encode, at_ms) {
            News::None => return,
            News::Again => None,
            News::New => encoded,
        };
        let noted = NotedSchema { name: name.clone(), hash, schema, at_ms };
        if !shared.queue.schema(noted) {
            // It is noted when it is declared again.
            shared.schemas.forget(name, hash);
            tracing::warn!(name = &**name, "a schema is not kept: nothing can be written");
        }
    }

    /// All schemas that are kept, by the names under which they were declared, in no order.
    #[must_use]
    pub fn schemas(&self) -> Vec<(Arc<str>, Vec<SeenSchema>)> {
        self.shared().schemas.list()
    }

    /// The canonical form of a schema that is kept. Reads the database, so it may block.
    ///
    /// # Errors
    ///
    /// [`StoreError::Read`].
    pub fn read_schema(
        &self,
        name: &str,
        hash: SchemaHash,
    ) -> Result<Option<Arc<[u8]>>, StoreError> {
        let shared = self.shared();
        if let Some(waiting) = shared.queue.waiting_schema(name, hash) {
            return Ok(Some(waiting));
        }
        let look = || schemas::form(&recent::open(shared.recent.path())?, name, hash);
        look().map_err(StoreError::Read)
    }

    /// Tells what happened. Never waits; see the module.
    pub fn record_event(&self, event: NewEvent) {
        self.note(None, vec![event]);
    }

    /// Tells how an instance is now and what tells of it, in one piece: both are there after any
    /// end, or neither. Never waits; see the module.
    pub fn note(&self, run: Option<(u64, RunRecord)>, events: Vec<NewEvent>) {
        let shared = self.shared();
        let urgent = !events.is_empty() && shared.recent.is_followed();
        shared.queue.news(run, events, urgent);
    }

    /// Answers when all runs and events that were told before are written.
    ///
    /// # Errors
    ///
    /// See [`StoreError`]. What was told is kept in memory then, and written later.
    pub fn commit(
        &self,
        durability: Durability,
    ) -> impl Future<Output = Result<(), StoreError>> + use<> {
        let (answer, answered) = oneshot::channel();
        self.shared().queue.barrier(durability, answer);
        wait(answered)
    }

    /// Why the last write failed; none if it worked.
    #[must_use]
    pub fn failing(&self) -> Option<WriteFailure> {
        self.shared().failing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How much waits to be written: changes, runs, types, schemas and those who wait for an answer; events.
    #[must_use]
    pub fn depths(&self) -> (u64, u64) {
        self.shared().queue.depths()
    }

    /// Events that were lost because [`MAX_WAITING_EVENTS`] waited, since this was opened.
    #[must_use]
    pub fn events_lost(&self) -> u64 {
        self.shared().queue.lost()
    }

    /// The number of the newest event that was committed, and a way to wait for newer ones. As
    /// long as anybody has one of these, events are written at once.
    #[must_use]
    pub fn watch_events(&self) -> watch::Receiver<u64> {
        self.shared().recent.watch()
    }

    /// The number of the oldest event that is kept.
    #[must_use]
    pub fn oldest_event(&self) -> u64 {
        self.shared().recent.oldest()
    }

    /// The next events, up to `max`.
    ///
    /// # Errors
    ///
    /// When older ones can't be read from the database.
    pub async fn read_events(
        &self,
        query: EventQuery,
        max: usize,
    ) -> Result<EventBatch, StoreError> {
        self.shared().recent.read(query, max).await
    }

    /// A reader of events has come to the newest: what it needed for older ones can go.
    pub fn end_of_history(&self) {
        self.shared().recent.close_history();
    }

    /// Writes and syncs everything that was told, and closes the database.
    pub async fn close(&self) {
        self.end_of_history();
        let mut ended = self.shared().ended.subscribe();
        self.shared().queue.close();
        // Fails only without a sender, and that is part of `self`.
        let _ = ended.wait_for(|ended| *ended).await;
    }
}

async fn wait(answered: oneshot::Receiver<Result<(), Refused>>) -> Result<(), StoreError> {
    match answered.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(Refused::Failed(failure))) => Err(StoreError::Write(failure)),
        Ok(Err(Refused::Conflict(message))) => Err(StoreError::Conflict(message)),
        Ok(Err(Refused::Busy)) => Err(StoreError::Busy),
        Ok(Err(Refused::Closed)) | Err(_) => Err(StoreError::Closed),
    }
}

/// Milliseconds since 1970 (UTC).
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
