//! PURE: messages in the order in which they arrived, with what is known of each. What is the same for
//! messages that arrived together is kept once.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::InstanceId;
use crate::runtime::unstamped;

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
    /// Whether it has a stamp behind it, see [`Frame::Stamps`](crate::runtime::Frame).
    pub(super) is_stamped: bool,
}

impl Arrived {
    /// Takes the stamp off, if there is one.
    fn take_stamp(&mut self) -> Option<SystemTime> {
        let (value, ns) = unstamped(&self.payload).filter(|_| self.is_stamped)?;
        let length = value.len();
        self.payload.truncate(length);
        Some(UNIX_EPOCH + Duration::from_nanos(ns))
    }
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
    /// When it was sent; until it is taken out it is with the payload.
    pub(super) sent: Option<SystemTime>,
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
    pub(super) fn push(
        &mut self,
        batch: &mut Vec<Bytes>,
        (form, is_stamped): (u8, bool),
        known: Known,
    ) {
        if batch.is_empty() {
            return;
        }
        self.groups.push_back(Group { left: batch.len(), known });
        self.messages.extend(batch.drain(..).map(|payload| Arrived { payload, form, is_stamped }));
    }

    pub(super) fn pop(&mut self) -> Option<(Arrived, Known)> {
        let group = self.groups.front_mut()?;
        let mut known = group.next();
        if group.left == 0 {
            self.groups.pop_front();
        }
        let mut arrived = self.messages.pop_front()?;
        known.sent = arrived.take_stamp();
        Some((arrived, known))
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
                    sent: None,
                };
                let mut batch = (0..count).map(|at| Bytes::from(vec![at as u8])).collect();
                arrivals.push(&mut batch, (form, false), known(0));
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
