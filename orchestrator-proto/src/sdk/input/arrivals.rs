//! PURE: messages in the order in which they arrived, with what is known of each. What is the same for
//! messages that arrived together is kept once.

use std::collections::VecDeque;
use std::ops::Range;
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

/// Where a payload is among the bytes that were read together.
pub(in crate::sdk) type Span = Range<usize>;

/// Where the payload is, which is a part of `chunk`.
pub(in crate::sdk) fn span(chunk: &Bytes, payload: &[u8]) -> Span {
    let start = payload.as_ptr().addr() - chunk.as_ptr().addr();
    start..start + payload.len()
}

/// A message as it came, where it lies.
#[derive(Clone, Copy, Debug)]
pub(in crate::sdk) struct Arrived<'a> {
    chunk: &'a Bytes,
    pub(in crate::sdk) payload: &'a [u8],
    /// See [`Frame::Form`](crate::runtime::Frame).
    pub(super) form: u8,
}

impl<'a> Arrived<'a> {
    /// One that is all there was.
    pub(super) fn whole(payload: &'a Bytes, form: u8) -> Self {
        Self { chunk: payload, payload, form }
    }
}

impl Arrived<'_> {
    /// The payload, which shares the memory of all that was read with it.
    pub(in crate::sdk) fn to_bytes(self) -> Bytes {
        self.chunk.slice_ref(self.payload)
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
    /// The bytes that they are in.
    chunk: Bytes,
    left: usize,
    /// See [`Frame::Form`](crate::runtime::Frame).
    form: u8,
    /// Whether each has a stamp behind it, see [`Frame::Stamps`](crate::runtime::Frame).
    are_stamped: bool,
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
    spans: VecDeque<Span>,
    /// Of as many messages as in `spans`, in the same order.
    groups: VecDeque<Group>,
}

impl Arrivals {
    pub(super) fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Takes these in, which are in `chunk`, and empties `batch`. What is known is that of the first
    /// one.
    pub(super) fn push(
        &mut self,
        (chunk, batch): (&Bytes, &mut Vec<Span>),
        (form, are_stamped): (u8, bool),
        known: Known,
    ) {
        if batch.is_empty() {
            return;
        }
        let (chunk, left) = (chunk.clone(), batch.len());
        self.groups.push_back(Group { chunk, left, form, are_stamped, known });
        self.spans.extend(batch.drain(..));
    }

    /// Takes out the next one. Its memory is free once the last that came with it was taken, and
    /// `then` has returned.
    pub(super) fn pop<R>(&mut self, then: impl FnOnce(Arrived<'_>, Known) -> R) -> Option<R> {
        // Not removed if `then` has panicked.
        while self.groups.front().is_some_and(|group| group.left == 0) {
            self.groups.pop_front();
        }
        let (group, span) = (self.groups.front_mut()?, self.spans.pop_front()?);
        let mut known = group.next();
        let mut payload = &group.chunk[span];
        if group.are_stamped
            && let Some((value, ns)) = unstamped(payload)
        {
            payload = value;
            known.sent = Some(UNIX_EPOCH + Duration::from_nanos(ns));
        }
        let done = then(Arrived { chunk: &group.chunk, payload, form: group.form }, known);
        if group.left == 0 {
            self.groups.pop_front();
        }
        Some(done)
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
                let chunk: Bytes = (0..count).map(|at| at as u8).collect();
                let mut batch = (0..count).map(|at| span(&chunk, &chunk[at..=at])).collect();
                arrivals.push((&chunk, &mut batch), (form, false), known(0));
                prop_assert!(batch.is_empty());
                expected.extend((0..count).map(|at| (at as u8, form, known(at))));
            }
            for (byte, form, known) in expected {
                let got = arrivals.pop(|arrived, of| {
                    assert_eq!(arrived.to_bytes(), arrived.payload);
                    (arrived.payload.to_vec(), arrived.form, of)
                });
                prop_assert_eq!(got, Some((vec![byte], form, known)));
            }
            prop_assert!(arrivals.pop(|_, _| ()).is_none() && arrivals.is_empty());
        }
    }
}
