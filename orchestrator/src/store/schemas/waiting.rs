//! Schemas that wait to be written.

use std::collections::VecDeque;
use std::sync::Arc;

use orchestrator_proto::SchemaHash;

use super::MAX_SCHEMAS;

/// Bytes of canonical forms that may wait: 64 MiB. They pile up only while nothing can be written.
const MAX_WAITING_BYTES: usize = 64 << 20;

/// Bytes of schemas in one transaction: 256 KiB, or one schema.
const MAX_BYTES: usize = 256 << 10;

/// Bytes that one costs besides its name and its schema, about.
const ROW: usize = 128;

/// A schema that was declared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::store) struct NotedSchema {
    pub(in crate::store) name: Arc<str>,
    pub(in crate::store) hash: SchemaHash,
    /// Its canonical form; none if it is in the database, and only the time is new.
    pub(in crate::store) schema: Option<Arc<[u8]>>,
    /// When, milliseconds since 1970 (UTC).
    pub(in crate::store) at_ms: u64,
}

impl NotedSchema {
    fn cost(&self) -> usize {
        ROW + self.name.len() + self.schema.as_ref().map_or(0, |schema| schema.len())
    }
}

/// In the order in which they were declared.
#[derive(Default)]
pub(in crate::store) struct WaitingSchemas {
    waiting: VecDeque<NotedSchema>,
    bytes: usize,
}

impl WaitingSchemas {
    pub(in crate::store) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(in crate::store) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// False if there is no room.
    pub(in crate::store) fn put(&mut self, noted: NotedSchema) -> bool {
        let cost = noted.cost();
        let has_room = self.waiting.len() < MAX_SCHEMAS && self.bytes + cost <= MAX_WAITING_BYTES;
        if has_room {
            self.bytes += cost;
            self.waiting.push_back(noted);
        }
        has_room
    }

    /// The canonical form of one that waits.
    pub(in crate::store) fn find(&self, name: &str, hash: SchemaHash) -> Option<Arc<[u8]>> {
        let mut all = self.waiting.iter().filter(|it| it.hash == hash && &*it.name == name);
        all.find_map(|it| it.schema.clone())
    }

    /// Those that came first, up to [`MAX_BYTES`] together, but at least one.
    pub(in crate::store) fn take(&mut self) -> Vec<NotedSchema> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some(cost) = self.waiting.front().map(NotedSchema::cost) {
            if !taken.is_empty() && bytes + cost > MAX_BYTES {
                break;
            }
            bytes += cost;
            taken.extend(self.waiting.pop_front());
        }
        self.bytes -= bytes;
        taken
    }

    /// What could not be written waits again, before the others.
    pub(in crate::store) fn put_back(&mut self, taken: Vec<NotedSchema>) {
        for noted in taken.into_iter().rev() {
            self.bytes += noted.cost();
            self.waiting.push_front(noted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(number: u8, length: usize) -> NotedSchema {
        let schema = (length > 0).then(|| vec![number; length].into());
        NotedSchema { name: "a".into(), hash: SchemaHash([number; 32]), schema, at_ms: 1 }
    }

    #[test]
    fn they_are_written_in_parts_in_their_order() {
        let mut waiting = WaitingSchemas::default();
        for number in 0..9 {
            assert!(waiting.put(noted(number, 60_000)));
        }
        let part = waiting.take();
        assert_eq!((part.len(), waiting.len()), (4, 5));
        assert_eq!(part[0], noted(0, 60_000));
        waiting.put_back(part.clone());
        assert_eq!(waiting.take(), part);
        assert_eq!(waiting.find("a", SchemaHash([5; 32])).unwrap()[..], [5; 60_000]);
        assert_eq!(waiting.find("a", SchemaHash([0; 32])), None);
        while !waiting.is_empty() {
            assert!(!waiting.take().is_empty());
        }
        assert_eq!(waiting.bytes, 0);
    }

    #[test]
    fn only_so_many_wait() {
        let mut waiting = WaitingSchemas::default();
        let most = MAX_WAITING_BYTES / 60_000;
        let count = (0..2000).take_while(|_| waiting.put(noted(1, 60_000))).count();
        assert!((most - 10..=most).contains(&count), "{count}");
        let mut waiting = WaitingSchemas::default();
        let count = (0..100_000).take_while(|_| waiting.put(noted(1, 0))).count();
        assert_eq!(count, MAX_SCHEMAS);
    }
}
