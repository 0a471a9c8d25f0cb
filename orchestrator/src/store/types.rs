//! Declarations of message types that wait to be written.
//!
//! They are the one thing in here that can be large: an instance may declare thousands of types of
//! 64 KiB. So they come last and in parts, and nobody else waits longer than for one part.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use orchestrator_proto::runtime::Direction;

/// Bytes of types in one transaction: 256 KiB, or one type.
const MAX_BYTES: usize = 256 << 10;

/// Bytes that a type costs besides its name and its schema, about.
const ROW: usize = 128;

/// What there is one declaration of: an instance, by its order, a direction and a name.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct TypeKey {
    pub(super) order: u64,
    pub(super) direction: Direction,
    pub(super) name: Arc<str>,
}

/// The canonical forms of the schemas, the best one first; none if the type is declared no more.
pub(super) type Declared = Vec<Arc<[u8]>>;

/// The newest of each key, in the order in which the keys came.
#[derive(Default)]
pub(super) struct WaitingTypes {
    order: VecDeque<TypeKey>,
    newest: HashMap<TypeKey, Declared>,
}

fn cost(key: &TypeKey, declared: &Declared) -> usize {
    let rows = declared.iter().map(|schema| ROW + schema.len()).sum::<usize>();
    ROW + key.name.len() + rows
}

impl WaitingTypes {
    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// Replaces what waits of the same key.
    pub(super) fn put(&mut self, key: TypeKey, declared: Declared) {
        if self.newest.insert(key.clone(), declared).is_none() {
            self.order.push_back(key);
        }
    }

    /// Those that came first, up to [`MAX_BYTES`] together, but at least one.
    pub(super) fn take(&mut self) -> Vec<(TypeKey, Declared)> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some(key) = self.order.front() {
            let next = self.newest.get(key).map_or(0, |declared| cost(key, declared));
            if !taken.is_empty() && bytes + next > MAX_BYTES {
                break;
            }
            bytes += next;
            if let Some(key) = self.order.pop_front()
                && let Some(declared) = self.newest.remove(&key)
            {
                taken.push((key, declared));
            }
        }
        taken
    }

    /// What could not be written waits again, before the others. What came since is newer.
    pub(super) fn put_back(&mut self, taken: Vec<(TypeKey, Declared)>) {
        for (key, declared) in taken.into_iter().rev() {
            if !self.newest.contains_key(&key) {
                self.order.push_front(key.clone());
                self.newest.insert(key, declared);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn key(number: u64) -> TypeKey {
        TypeKey { order: number, direction: Direction::Output, name: "a.b".into() }
    }

    fn schema(fill: u8, length: usize) -> Declared {
        vec![vec![fill; length].into()]
    }

    proptest! {
        /// Whatever fails in between, what is written last of each key is what came last of it.
        #[test]
        fn the_newest_of_each_is_written_in_parts_that_are_bounded(
            steps in prop::collection::vec(
                (0..6_u64, any::<u8>(), 0..70_000_usize, 0..4_u8), 0..80,
            ),
        ) {
            let mut waiting = WaitingTypes::default();
            let (mut expected, mut written) = (BTreeMap::new(), BTreeMap::new());
            let mut write = |waiting: &mut WaitingTypes, fails: bool| {
                let part = waiting.take();
                let bytes: usize = part.iter().map(|(key, it)| cost(key, it)).sum();
                assert!(part.len() == 1 || bytes <= MAX_BYTES);
                if fails {
                    waiting.put_back(part);
                } else {
                    written.extend(part.into_iter().map(|(key, it)| (key.order, it)));
                }
            };
            for (number, fill, length, then) in steps {
                let mut declared = schema(fill, length);
                declared.truncate(length % 5);
                waiting.put(key(number), declared.clone());
                expected.insert(number, declared);
                match then {
                    0 => write(&mut waiting, false),
                    1 => write(&mut waiting, true),
                    _ => {}
                }
            }
            prop_assert_eq!(waiting.len(), waiting.newest.len());
            while !waiting.is_empty() {
                write(&mut waiting, false);
            }
            prop_assert_eq!(written, expected);
        }
    }

    #[test]
    fn who_came_first_is_written_first() {
        let mut waiting = WaitingTypes::default();
        for number in 0..8 {
            waiting.put(key(number), schema(0, 60_000));
        }
        // A newer one does not lose its place.
        waiting.put(key(0), schema(1, 60_000));
        let part = waiting.take();
        let numbers = |part: &[(TypeKey, Declared)]| -> Vec<_> {
            part.iter().map(|(key, _)| key.order).collect()
        };
        assert_eq!(numbers(&part), [0, 1, 2, 3]);
        assert_eq!(part[0].1, schema(1, 60_000));
        // One that has come meanwhile stays as it is.
        waiting.put(key(2), schema(2, 10));
        waiting.put_back(part);
        assert_eq!(numbers(&waiting.take()), [0, 1, 3, 4]);
        let rest = waiting.take();
        assert_eq!(numbers(&rest), [5, 6, 7, 2]);
        assert_eq!(rest[3].1, schema(2, 10));
    }
}
