//! What waits to be written. Everything that is put here is taken in groups by the one thread
//! that writes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use orchestrator_proto::SchemaHash;
use orchestrator_proto::control::EventKind;
use tokio::sync::oneshot;

use super::error::WriteFailure;
use super::record::{Change, NewEvent, RunRecord};
use super::schemas::{NotedSchema, WaitingSchemas};
use super::types::{Declared, TypeKey, WaitingTypes};
use super::{Durability, LATE, LINGER, MAX_CHANGES, MAX_WAITING_EVENTS, RETRY, SYNC};

/// Why a request to the writer was not carried out. Each who waits gets one.
#[derive(Clone, Debug)]
pub(super) enum Refused {
    Failed(WriteFailure),
    Conflict(String),
    Busy,
    Closed,
}

pub(super) type Answer = oneshot::Sender<Result<(), Refused>>;

/// Shared by the writer and everybody else.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

#[derive(Default)]
struct Waiting {
    changes: VecDeque<(Change, Answer)>,
    /// The newest of each instance: at most one for each that there is.
    runs: HashMap<u64, RunRecord>,
    events: VecDeque<NewEvent>,
    /// Nobody waits for these; they come after everything that was put here before.
    types: WaitingTypes,
    /// The same of schemas.
    schemas: WaitingSchemas,
    /// Who waits for all that was put here before. Each belongs to a request of a client.
    barriers: Vec<(Durability, Answer)>,
    /// Events that found no place, ever.
    lost_in_all: u64,
    /// Somebody waits, or follows: write now.
    urgent: bool,
    /// When the oldest of what is here came.
    since: Option<Instant>,
    /// The writer will not look here by itself soon, so it has to be woken.
    asleep: bool,
    /// The last write failed: what nobody waits for is tried again later.
    failing: bool,
    closing: bool,
    closed: bool,
}

/// What the writer does next.
pub(super) enum Work {
    /// A group, to be written in one transaction.
    Write(Group),
    /// What was written is to be synced.
    Sync,
    /// Nothing has come for a while.
    Idle,
    /// Nothing will come any more.
    End,
}

/// What is written in one transaction.
#[derive(Default)]
pub(super) struct Group {
    pub(super) changes: VecDeque<(Change, Answer)>,
    pub(super) runs: HashMap<u64, RunRecord>,
    pub(super) events: VecDeque<NewEvent>,
    pub(super) types: Vec<(TypeKey, Declared)>,
    pub(super) schemas: Vec<NotedSchema>,
    pub(super) barriers: Vec<(Durability, Answer)>,
}

impl Group {
    /// Whether there is anything to write.
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
            && self.runs.is_empty()
            && self.events.is_empty()
            && self.types.is_empty()
            && self.schemas.is_empty()
    }

    /// Whether anybody waits until it is on the disk.
    pub(super) fn is_to_be_synced(&self) -> bool {
        !self.changes.is_empty()
            || self.barriers.iter().any(|(durability, _)| *durability == Durability::Synced)
    }
}

/// When the writer has to do what, besides writing what comes.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Timing {
    /// What is not synced was written then.
    pub(super) unsynced_since: Option<Instant>,
    /// The last write failed then.
    pub(super) failed_at: Option<Instant>,
    /// The last write was done then, and the writer is not known to be idle.
    pub(super) written_at: Option<Instant>,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, urgent: bool, put: impl FnOnce(&mut Waiting)) {
        let mut waiting = self.lock();
        put(&mut waiting);
        let urgent = urgent && !(waiting.failing && waiting.is_patient());
        waiting.since.get_or_insert_with(Instant::now);
        let wake = waiting.asleep || (urgent && !waiting.urgent);
        waiting.urgent |= urgent;
        waiting.asleep &= !wake;
        drop(waiting);
        if wake {
            self.wake.notify_one();
        }
    }

    /// Written and synced as soon as possible; then answered.
    pub(super) fn change(&self, change: Change, answer: Answer) {
        self.put(true, |waiting| {
            if waiting.closed {
                let _ = answer.send(Err(Refused::Closed));
            } else if waiting.changes.len() >= MAX_CHANGES {
                let _ = answer.send(Err(Refused::Busy));
            } else {
                waiting.changes.push_back((change, answer));
            }
        });
    }

    /// Written soon, or now if `urgent`, and all of it in one transaction. The run replaces what
    /// waits of the same instance. An event for which there is no place is lost, and counted.
    pub(super) fn news(
        &self,
        run: Option<(u64, RunRecord)>,
        events: impl IntoIterator<Item = NewEvent>,
        urgent: bool,
    ) {
        self.put(urgent, |waiting| {
            waiting.runs.extend(run);
            for event in events {
                waiting.event(event);
            }
        });
    }

    /// Written soon, though other things come first. Replaces what waits of the same.
    pub(super) fn declared(&self, key: TypeKey, declared: Declared) {
        self.put(false, |waiting| waiting.types.put(key, declared));
    }

    /// Written soon, though other things come first. False if there is no room.
    pub(super) fn schema(&self, noted: NotedSchema) -> bool {
        let mut has_room = true;
        self.put(false, |waiting| has_room = waiting.schemas.put(noted));
        has_room
    }

    /// The canonical form of a schema that waits to be written.
    pub(super) fn waiting_schema(&self, name: &str, hash: SchemaHash) -> Option<Arc<[u8]>> {
        self.lock().schemas.find(name, hash)
    }

    /// How much waits: changes, runs, types, schemas and barriers; events.
    pub(super) fn depths(&self) -> (u64, u64) {
        let waiting = self.lock();
        let changes = waiting.changes.len() + waiting.runs.len() + waiting.barriers.len();
        let changes = changes + waiting.types.len() + waiting.schemas.len();
        (changes as u64, waiting.events.len() as u64)
    }

    /// Events that were lost since the daemon began.
    pub(super) fn lost(&self) -> u64 {
        self.lock().lost_in_all
    }

    /// Answered when all that was put here before is written, or could not be.
    pub(super) fn barrier(&self, durability: Durability, answer: Answer) {
        self.put(true, |waiting| {
            if waiting.closed {
                let _ = answer.send(Err(Refused::Closed));
            } else {
                waiting.barriers.push((durability, answer));
            }
        });
    }

    /// The writer ends once all that is here is written.
    pub(super) fn close(&self) {
        self.put(true, |waiting| waiting.closing = true);
    }

    /// For the writer, as the last thing it does.
    pub(super) fn closed(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        let changes = std::mem::take(&mut waiting.changes);
        let barriers = std::mem::take(&mut waiting.barriers);
        drop(waiting);
        let changes = changes.into_iter().map(|(_, answer)| answer);
        for answer in changes.chain(barriers.into_iter().map(|(_, answer)| answer)) {
            let _ = answer.send(Err(Refused::Closed));
        }
    }

    /// For the writer: waits until there is something to do.
    pub(super) fn next(&self, timing: Timing) -> Work {
        let mut waiting = self.lock();
        loop {
            let now = Instant::now();
            let due = |since: Option<Instant>, after: Duration| since.map(|since| since + after);
            // While writing fails, what nobody waits for is tried again from time to time.
            let write = match timing.failed_at {
                None => due(waiting.since, LATE),
                Some(_) => waiting.since.and(due(timing.failed_at, RETRY)),
            };
            if waiting.urgent || write.is_some_and(|at| at <= now) {
                return Work::Write(waiting.take());
            }
            if waiting.closing {
                return Work::End;
            }
            let sync = due(timing.unsynced_since, SYNC);
            if sync.is_some_and(|at| at <= now) {
                return Work::Sync;
            }
            let idle = due(timing.written_at, LINGER);
            if waiting.since.is_none() && idle.is_some_and(|at| at <= now) {
                return Work::Idle;
            }
            let idle = idle.filter(|_| waiting.since.is_none());
            waiting.asleep = write.is_none() && idle.is_none();
            waiting = match [write, sync, idle].into_iter().flatten().min() {
                Some(at) => {
                    let timeout = at.saturating_duration_since(now);
                    let waited = self.wake.wait_timeout(waiting, timeout);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner),
            };
            waiting.asleep = false;
        }
    }

    /// For the writer: writing works.
    pub(super) fn works(&self) {
        self.lock().failing = false;
    }

    /// For the writer: what could not be written waits again, before what came since.
    pub(super) fn put_back(&self, group: Group) {
        let mut waiting = self.lock();
        waiting.failing = true;
        for (order, record) in group.runs {
            // What came since is newer.
            waiting.runs.entry(order).or_insert(record);
        }
        let came_since = std::mem::replace(&mut waiting.events, group.events);
        for event in came_since {
            waiting.event(event);
        }
        waiting.types.put_back(group.types);
        waiting.schemas.put_back(group.schemas);
        if !waiting.has_no_news() {
            waiting.since.get_or_insert_with(Instant::now);
        }
    }
}

impl Waiting {
    /// Whether nobody waits for an answer.
    fn is_patient(&self) -> bool {
        self.changes.is_empty() && self.barriers.is_empty() && !self.closing
    }

    /// Whether there is nothing to write but for changes.
    fn has_no_news(&self) -> bool {
        self.runs.is_empty() && self.events.is_empty() && self.has_no_types()
    }

    fn has_no_types(&self) -> bool {
        self.types.is_empty() && self.schemas.is_empty()
    }

    /// Where events find no place, one stands in for them that says how many they are.
    fn event(&mut self, event: NewEvent) {
        if self.events.len() < MAX_WAITING_EVENTS {
            self.events.push_back(event);
            return;
        }
        let more = match event.kind {
            EventKind::EventsLost { count } => count,
            _ => {
                self.lost_in_all += 1;
                1
            }
        };
        match self.events.back_mut().map(|last| &mut last.kind) {
            Some(EventKind::EventsLost { count }) => *count += more,
            _ => self.events.push_back(NewEvent {
                time_ms: event.time_ms,
                instance: None,
                name: None,
                kind: EventKind::EventsLost { count: more },
            }),
        }
    }

    fn take(&mut self) -> Group {
        // All changes, runs and events: barriers wait for them, and a run without the event that
        // tells of it would never be told. Types in parts: what came of them is told by then.
        let group = Group {
            changes: std::mem::take(&mut self.changes),
            runs: std::mem::take(&mut self.runs),
            events: std::mem::take(&mut self.events),
            types: self.types.take(),
            schemas: self.schemas.take(),
            barriers: std::mem::take(&mut self.barriers),
        };
        if self.has_no_news() {
            self.since = None;
        }
        self.urgent = self.closing && !self.has_no_types();
        group
    }
}
