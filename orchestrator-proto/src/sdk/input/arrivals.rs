//! PURE: messages in the order in which they arrived, with what is known of each. What is the same for
//! messages that arrived together is kept once.

use std::collections::VecDeque;
use std::time::{Instant, SystemTime};

use bytes::Bytes;

use crate::InstanceId;

/// When something arrived, by both clocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stamp {
    pub(super) instant: Instant,
    pub(super) time: SystemTime,
}

impl Stamp {
    pub(super) fn now() -> Self {
        Self { instant: Instant::now(), time: SystemTime::now() }
    }
}

/// A message as it came.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) payload: Bytes,
    /// See [`Frame::Form`](crate::runtime::Frame).
    pub(super) form: u8,
}

/// Whose message it is, if its sender numbers them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct From {
    pub(super) sender: InstanceId,
    pub(super) number: u64,
    /// So many, right before it, do not come; none if that is not known.
    pub(super) missed: Option<u64>,
}

/// What is known of a message beside its payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Known {
    pub(super) from: Option<From>,
    pub(super) stamp: Stamp,
}

/// Messages that arrived together, at least one; their numbers follow each other.
struct Group {
    left: usize,
    /// Of the next one.
    known: Known,
}

impl Group {
    fn next(&mut self) -> Known {
        let known = self.known;
        self.left = self.left.saturating_sub(1);
        if let Some(from) = &mut self.known.from {
            *from = From { number: from.number + 1, missed: Some(0), ..*from };
        }
        known
    }
}

/// Messages that wait.
#[derive(Default)]
pub(super) struct Arrivals {
    messages: VecDeque<Arrived>,
    /// As many messages as in `messages`, in the same order.
    groups: VecDeque<Group>,
}

impl Arrivals {
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Takes these in, and empties `batch`. What is known is that of the first one.
    pub(super) fn push(&mut self, batch: &mut Vec<Bytes>, form: u8, known: Known) {
        if batch.is_empty() {
            return;
        }
        self.groups.push_back(Group { left: batch.len(), known });
        self.messages.extend(batch.drain(..).map(|payload| Arrived { payload, form }));
    }

    pub(super) fn pop(&mut self) -> Option<(Arrived, Known)> {
        let group = self.groups.front_mut()?;
        let known = group.next();
        if group.left == 0 {
            self.groups.pop_front();
        }
        Some((self.messages.pop_front()?, known))
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_message_has_what_is_known_of_it(
            groups in prop::collection::vec((1..5_usize, any::<Option<u32>>(), any::<u8>()), 0..20),
        ) {
            let stamp = Stamp::now();
            let (mut arrivals, mut expected) = (Arrivals::default(), Vec::new());
            for (index, (count, first, form)) in groups.into_iter().enumerate() {
                let sender = InstanceId::from_bytes([index as u8; 16]);
                let known = |at: usize| Known {
                    from: first.map(|first| From {
                        sender,
                        number: u64::from(first) + at as u64,
                        missed: if at == 0 { None } else { Some(0) },
                    }),
                    stamp,
                };
                let mut batch = (0..count).map(|at| Bytes::from(vec![at as u8])).collect();
                arrivals.push(&mut batch, form, known(0));
                prop_assert!(batch.is_empty());
                expected.extend((0..count).map(|at| (at as u8, form, known(at))));
            }
            for (byte, form, known) in expected {
                let (arrived, of) = arrivals.pop().unwrap();
                prop_assert_eq!((arrived.payload[0], arrived.form, of), (byte, form, known));
            }
            prop_assert!(arrivals.pop().is_none() && arrivals.is_empty());
        }
    }
}
