//! PURE: messages that wait for their lane, under a policy that gives some up.

use std::collections::VecDeque;

use super::super::kept::first_frames;
use crate::control::Policy;
use crate::frame::PREFIX;

/// Messages are kept in pieces of so many bytes; a longer one has a piece for itself.
const CHUNK: usize = 64 << 10;
/// Bytes that may wait, whatever the capacity: 64 MiB. A message that is alone may have more.
const MAX_BYTES: usize = 64 << 20;

/// Whole frames, in the order of their numbers, which may have gaps.
#[derive(Default)]
pub(super) struct Waiting {
    chunks: VecDeque<Chunk>,
    count: u64,
    bytes: usize,
}

/// Frames whose numbers follow each other.
struct Chunk {
    /// The number of the first one that is left.
    first: u64,
    count: u64,
    frames: Vec<u8>,
    /// Where that begins in `frames`.
    at: usize,
}

impl Chunk {
    fn rest(&self) -> &[u8] {
        self.frames.get(self.at..).unwrap_or_default()
    }
}

/// The length of the first frame.
fn first_frame(frames: &[u8]) -> usize {
    first_frames(frames, 1)
}

impl Waiting {
    /// Whether nothing waits.
    pub(super) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Takes in so many frames, numbered from `first` on. The answer is how many messages gave way,
    /// old or new ones, as the policy says.
    pub(super) fn push(
        &mut self,
        frames: &[u8],
        first: u64,
        count: u64,
        (policy, capacity): (Policy, u32),
    ) -> u64 {
        let capacity = u64::from(capacity.max(1));
        if policy == Policy::DropNewest {
            let mut taken = (0, 0);
            while taken.1 < count {
                let length = first_frame(&frames[taken.0..]);
                let has_room = self.count + taken.1 < capacity
                    && self.bytes + taken.0 + length <= MAX_BYTES.max(length + PREFIX);
                if !has_room && self.count + taken.1 > 0 {
                    break;
                }
                taken = (taken.0 + length, taken.1 + 1);
            }
            self.append(&frames[..taken.0], first, taken.1);
            return count - taken.1;
        }
        // No older one has a place beside these: no need to copy what goes at once.
        let skipped = count.saturating_sub(capacity);
        let at = first_frames(frames, skipped);
        self.append(&frames[at..], first + skipped, count - skipped);
        let mut dropped = skipped;
        while self.count > capacity || (self.bytes > MAX_BYTES && self.count > 1) {
            self.pop(1);
            dropped += 1;
        }
        dropped
    }

    fn append(&mut self, frames: &[u8], first: u64, count: u64) {
        if count == 0 {
            return;
        }
        self.count += count;
        self.bytes += frames.len();
        match self.chunks.back_mut() {
            Some(last)
                if last.first + last.count == first
                    && last.frames.len() + frames.len() <= CHUNK =>
            {
                last.frames.extend_from_slice(frames);
                last.count += count;
            }
            _ => self.chunks.push_back(Chunk { first, count, frames: frames.to_vec(), at: 0 }),
        }
    }

    /// The frames that are next, at most so many: with the number of the first one, and how many
    /// they are.
    pub(super) fn front(&self, most: u64) -> Option<(&[u8], u64, u64)> {
        let chunk = self.chunks.front()?;
        let count = chunk.count.min(most);
        let rest = chunk.rest();
        let length = if count == chunk.count { rest.len() } else { first_frames(rest, count) };
        (count > 0).then(|| (&rest[..length], chunk.first, count))
    }

    /// The first so many are gone.
    pub(super) fn pop(&mut self, count: u64) {
        let mut left = count;
        while left > 0
            && let Some(chunk) = self.chunks.front_mut()
        {
            let now = left.min(chunk.count);
            let length = match now == chunk.count {
                true => chunk.rest().len(),
                false => first_frames(chunk.rest(), now),
            };
            left -= now;
            self.count -= now;
            self.bytes -= length;
            chunk.at += length;
            chunk.first += now;
            chunk.count -= now;
            if chunk.count == 0 {
                self.chunks.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame;
    use crate::runtime::Frame;
    use proptest::prelude::*;

    fn frames(first: u64, count: u64) -> Vec<u8> {
        let mut frames = Vec::new();
        for number in first..first + count {
            let payload = number.to_le_bytes();
            let message = Frame::Message { channel: 0, payload: &payload };
            frame::append(&mut frames, &message, 1000).unwrap();
        }
        frames
    }

    fn numbers(mut frames: &[u8]) -> Vec<u64> {
        let mut numbers = Vec::new();
        while let Some(body) = frame::first_body(frames, 1000).unwrap() {
            match postcard::from_bytes(body).unwrap() {
                Frame::Message { payload, .. } => {
                    numbers.push(u64::from_le_bytes(payload.try_into().unwrap()));
                }
                other => panic!("{other:?}"),
            }
            frames = &frames[PREFIX + body.len()..];
        }
        numbers
    }

    proptest! {
        #[test]
        fn what_waits_is_what_the_policy_keeps(
            policy in prop::sample::select(vec![Policy::DropNewest, Policy::DropOldest]),
            capacity in 1..20_u32,
            steps in prop::collection::vec((any::<bool>(), 1..30_u64), 0..100),
        ) {
            let mut waiting = Waiting::default();
            let mut expected: VecDeque<u64> = VecDeque::new();
            let mut next = 0;
            for (push, count) in steps {
                if push {
                    let dropped =
                        waiting.push(&frames(next, count), next, count, (policy, capacity));
                    let mut gone = 0;
                    for number in next..next + count {
                        if expected.len() < capacity as usize {
                            expected.push_back(number);
                        } else {
                            gone += 1;
                            if policy == Policy::DropOldest {
                                expected.pop_front();
                                expected.push_back(number);
                            }
                        }
                    }
                    prop_assert_eq!(dropped, gone);
                    next += count;
                } else if let Some((frames, first, taken)) = waiting.front(count) {
                    let front = numbers(frames);
                    prop_assert_eq!(front.len() as u64, taken);
                    prop_assert!(taken <= count);
                    prop_assert_eq!(front[0], first);
                    waiting.pop(taken);
                    for number in front {
                        prop_assert_eq!(expected.pop_front(), Some(number));
                    }
                } else {
                    prop_assert!(expected.is_empty());
                }
                prop_assert_eq!(waiting.is_empty(), expected.is_empty());
                prop_assert_eq!(waiting.count, expected.len() as u64);
            }
        }
    }
}
