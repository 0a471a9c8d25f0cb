//! Every schema that was ever declared, by type name and hash: so that what was recorded by one of
//! them can be read as long as it is known here, whatever its instances declare today.
//!
//! Names, hashes and times are in memory too, so that a declaration of what is known costs a look
//! into a map, and nothing is written. The schemas themselves are in the database only.
//!
//! There are at most [`MAX_SCHEMAS`] with [`MAX_SCHEMA_BYTES`] together: beyond that, those that no
//! instance declares are forgotten, the one that was declared the longest ago first, and an event
//! says how many. What instances declare now is never forgotten.

mod table;
mod waiting;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use orchestrator_proto::SchemaHash;

pub(super) use table::{all, forget_excess, form, write};
pub(super) use waiting::{NotedSchema, WaitingSchemas};

/// Schemas that are kept.
pub const MAX_SCHEMAS: usize = 16_384;

/// Bytes of canonical forms that are kept: 64 MiB.
pub const MAX_SCHEMA_BYTES: u64 = 64 << 20;

/// How old the time of the last declaration in the database may be while a schema is declared again
/// and again: an hour.
const SEEN_AGAIN: Duration = Duration::from_secs(3600);

/// When a schema was declared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SeenSchema {
    /// Its hash.
    pub hash: SchemaHash,
    /// For the first time, milliseconds since 1970 (UTC).
    pub first_ms: u64,
    /// For the last time, as far as it is known; up to an hour before that after the end of a daemon.
    pub last_ms: u64,
    /// As long is its canonical form, bytes.
    pub(super) length: u32,
    /// The last time, as it was told to be written.
    written_ms: u64,
}

/// What is to be done about a schema that is declared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum News {
    /// It is known.
    None,
    /// It is known, and the time is to be written.
    Again,
    /// It is new.
    New,
}

/// Those that there are.
#[derive(Default)]
pub(super) struct Schemas(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    by_name: HashMap<Arc<str>, Vec<SeenSchema>>,
    count: usize,
    bytes: u64,
}

/// A row of the table without its schema.
pub(super) struct Row {
    pub(super) name: Arc<str>,
    pub(super) hash: SchemaHash,
    pub(super) first_ms: u64,
    pub(super) last_ms: u64,
    pub(super) length: u32,
}

impl Schemas {
    /// Those that were read from the database.
    pub(super) fn new(rows: Vec<Row>) -> Self {
        let mut seen = Seen::default();
        for Row { name, hash, first_ms, last_ms, length } in rows {
            let it = SeenSchema { hash, first_ms, last_ms, length, written_ms: last_ms };
            seen.insert(&name, it);
        }
        Self(Mutex::new(seen))
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A schema is declared.
    pub(super) fn declared(
        &self,
        name: &Arc<str>,
        hash: SchemaHash,
        length: impl FnOnce() -> usize,
        now_ms: u64,
    ) -> News {
        let mut seen = self.lock();
        if let Some(known) = seen.find(name, hash) {
            known.last_ms = known.last_ms.max(now_ms);
            let age = Duration::from_millis(now_ms.saturating_sub(known.written_ms));
            if age < SEEN_AGAIN {
                return News::None;
            }
            known.written_ms = now_ms;
            return News::Again;
        }
        let length = u32::try_from(length()).unwrap_or(u32::MAX);
        let (first_ms, last_ms, written_ms) = (now_ms, now_ms, now_ms);
        seen.insert(name, SeenSchema { hash, first_ms, last_ms, length, written_ms });
        News::New
    }

    /// It is not kept.
    pub(super) fn forget(&self, name: &str, hash: SchemaHash) {
        let mut seen = self.lock();
        let Some(forms) = seen.by_name.get_mut(name) else { return };
        let Some(at) = forms.iter().position(|form| form.hash == hash) else { return };
        let gone = forms.remove(at);
        if forms.is_empty() {
            seen.by_name.remove(name);
        }
        seen.count -= 1;
        seen.bytes -= u64::from(gone.length);
    }

    /// How many there are, and the bytes of their canonical forms.
    pub(super) fn size(&self) -> (usize, u64) {
        let seen = self.lock();
        (seen.count, seen.bytes)
    }

    /// All names and what was declared under each of them, in no order.
    pub(super) fn list(&self) -> Vec<(Arc<str>, Vec<SeenSchema>)> {
        let seen = self.lock();
        seen.by_name.iter().map(|(name, forms)| (name.clone(), forms.clone())).collect()
    }
}

impl Seen {
    fn find(&mut self, name: &str, hash: SchemaHash) -> Option<&mut SeenSchema> {
        self.by_name.get_mut(name)?.iter_mut().find(|form| form.hash == hash)
    }

    fn insert(&mut self, name: &Arc<str>, form: SeenSchema) {
        self.count += 1;
        self.bytes += u64::from(form.length);
        self.by_name.entry(name.clone()).or_default().push(form);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_declared_again_and_again_is_written_once_an_hour() {
        let (schemas, name): (_, Arc<str>) = (Schemas::default(), "a.b".into());
        let hash = |byte| SchemaHash([byte; 32]);
        let declared = |of, now_ms| schemas.declared(&name, hash(of), || 7, now_ms);
        let hour = 3_600_000;
        assert_eq!(declared(1, 1000), News::New);
        assert_eq!(declared(1, 1001), News::None);
        assert_eq!(declared(2, 1002), News::New);
        assert_eq!(declared(1, 999 + hour), News::None);
        assert_eq!(declared(1, 1000 + hour), News::Again);
        assert_eq!(declared(1, 1001 + hour), News::None);
        // A clock that goes back.
        assert_eq!(declared(1, 5), News::None);
        let (_, forms) = schemas.list().pop().unwrap();
        let times: Vec<_> = forms.iter().map(|it| (it.first_ms, it.last_ms)).collect();
        assert_eq!(times, [(1000, 1001 + hour), (1002, 1002)]);
        assert_eq!(schemas.size(), (2, 14));
        schemas.forget("a.b", hash(1));
        schemas.forget("a.b", hash(1));
        assert_eq!(schemas.size(), (1, 7));
        assert_eq!(declared(1, 2000), News::New);
        schemas.forget("a.b", hash(1));
        schemas.forget("a.b", hash(2));
        assert!(schemas.list().is_empty());
    }
}
