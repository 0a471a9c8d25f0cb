//! PURE: what one output has sent, how much more it may send, and its copies of what may have to
//! be sent again.
//!
//! Each message has a number, counted from 0 over all connections. In their order stand
//!
//! ```text
//! settled ≤ acknowledged ≤ written ≤ next
//! ```
//!
//! - below `settled` nothing is kept: neither the daemon nor a lane needs it again;
//! - below `acknowledged` the daemon doesn't: it has acknowledged it, or no link with the policy
//!   `block` took it there, or it went elsewhere;
//! - from `settled` to `next` there are copies;
//! - from `written` to `next` they were written to an earlier connection, not to this one.
//!
//! Copies are made as long as the daemon's grant is finite, because then a `block` link takes the
//! messages, and until it has answered the declaration, because then one might; and as long as a
//! lane needs them, see [`Demand`].

use std::collections::VecDeque;

use crate::frame::PREFIX;
use crate::runtime::UNLIMITED;

/// Copies are kept in pieces of so many bytes; a longer message has one for itself.
const CHUNK: usize = 64 << 10;
/// Empty chunks whose memory is kept.
const MAX_SPARE: usize = 4;
/// Messages that may be sent before the daemon has answered the declaration.
const UNANSWERED_MESSAGES: u64 = 1024;
/// Bytes likewise: 1 MiB. One more message or batch may come on top.
const UNANSWERED_BYTES: usize = 1 << 20;
/// Bytes of copies beyond which senders wait: 256 MiB. A daemon lets no link come so far (at
/// most 64 MiB wait in it, and as much with the receiver); this is for one that does.
const MAX_KEPT: usize = 256 << 20;

/// The state of one output; see the module.
#[derive(Default)]
pub(super) struct Kept {
    next: u64,
    /// The number of this connection's first message.
    base: u64,
    written: u64,
    acknowledged: u64,
    settled: u64,
    /// Messages that went elsewhere, after the last one that this connection carried.
    skipped: u64,
    /// How many messages this connection may have carried; none before the daemon has said.
    limit: Option<u64>,
    /// Whether the daemon that answered last had a `block` link for this output.
    held: bool,
    chunks: VecDeque<Chunk>,
    /// In all chunks.
    bytes: usize,
    /// Memory of empty chunks for the next ones: freed, the allocator might give it back to the
    /// kernel, only to ask for it again.
    spare: Vec<Vec<u8>>,
}

/// Whole frames, back to back.
struct Chunk {
    /// The number of the first message in it.
    first: u64,
    count: u64,
    frames: Vec<u8>,
}

/// Where a message's frame begins: in the chunk whose first message has this number, so many bytes
/// from its beginning.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    chunk: u64,
    number: u64,
    at: usize,
}

/// How an output begins on a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Beginning {
    /// The number of the first message.
    pub(super) next: u64,
    /// How many there are before the first new one.
    pub(super) again: u64,
    /// So many of these, the first ones, don't come.
    pub(super) skip: u64,
}

/// Who needs an output's messages, besides links in the daemon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Demand {
    /// Whether the daemon gets them.
    pub(super) daemon: bool,
    /// How many more messages the lanes have room for.
    pub(super) room: u64,
    /// The number of the first message that a lane may need again; none if no lane does.
    pub(super) lanes: Option<u64>,
}

impl Default for Demand {
    fn default() -> Self {
        Self { daemon: true, room: u64::MAX, lanes: None }
    }
}

impl Kept {
    /// A connection begins.
    pub(super) fn begin(&mut self) -> Beginning {
        (self.base, self.written, self.limit) = (self.settled, self.acknowledged, None);
        let (next, again) = (self.base, self.next - self.base);
        self.skipped = 0;
        Beginning { next, again, skip: self.acknowledged - self.base }
    }

    /// The number of the next message.
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    /// How many messages there were since the beginning of the connection.
    pub(super) const fn total(&self) -> u64 {
        self.next - self.base
    }

    /// Whether copies are made.
    fn keeps(&self) -> bool {
        self.limit != Some(UNLIMITED)
    }

    /// Whether a sender should wait for the next connection rather than fail.
    pub(super) fn waits(&self) -> bool {
        self.held || self.acknowledged < self.next
    }

    /// Whether something must be sent again before anything new.
    pub(super) fn is_behind(&self) -> bool {
        self.written < self.next
    }

    /// How many bytes and messages from the start of `frames`, which are `messages` new ones, may
    /// be written now. They count as written.
    pub(super) fn take(&mut self, frames: &[u8], messages: u64, demand: Demand) -> (usize, u64) {
        if !demand.daemon && self.is_behind() {
            // Nobody there has a use for what was to come again.
            self.skipped += self.next - self.written;
            self.written = self.next;
        }
        let daemon_keeps = demand.daemon && self.keeps();
        let keeps = daemon_keeps || demand.lanes.is_some();
        if (demand.daemon && self.is_behind()) || (keeps && self.bytes >= MAX_KEPT) {
            return (0, 0);
        }
        let sent = self.next - self.base;
        let allowed = match self.limit {
            _ if !demand.daemon => u64::MAX,
            Some(limit) => limit.saturating_sub(sent),
            None if self.bytes >= UNANSWERED_BYTES => 0,
            None => UNANSWERED_MESSAGES.saturating_sub(sent),
        };
        let allowed = allowed.min(messages).min(demand.room);
        let bytes = if allowed == messages { frames.len() } else { first_frames(frames, allowed) };
        if allowed > 0 && keeps {
            self.keep(&frames[..bytes], allowed);
        }
        self.next += allowed;
        if !demand.daemon {
            self.skipped += allowed;
        }
        self.written = self.next;
        if !daemon_keeps {
            self.acknowledged = self.next;
        }
        self.settle(demand.lanes);
        (bytes, allowed)
    }

    /// From now on the daemon gets the messages again. The answer is how many it did not get.
    pub(super) fn resume(&mut self) -> u64 {
        std::mem::take(&mut self.skipped)
    }

    fn keep(&mut self, frames: &[u8], count: u64) {
        self.bytes += frames.len();
        match self.chunks.back_mut() {
            Some(last)
                if last.frames.len() + frames.len() <= CHUNK
                    && last.first + last.count == self.next =>
            {
                last.frames.extend_from_slice(frames);
                last.count += count;
            }
            _ => {
                let mut memory = self.spare.pop().unwrap_or_default();
                memory.extend_from_slice(frames);
                self.chunks.push_back(Chunk { first: self.next, count, frames: memory });
            }
        }
    }

    /// What may be sent again now, and how many messages it is. Call [`Kept::wrote`] then.
    pub(super) fn again(&self) -> Option<(&[u8], u64)> {
        let allowed = self.limit?.saturating_sub(self.written - self.base);
        self.copies(self.written, allowed, &mut Place::default())
    }

    /// The frames of messages from this one on, at most so many of them, and how many they are.
    /// `place` is where the caller was last, so that what lies before it is not looked through
    /// again.
    pub(super) fn copies(&self, number: u64, most: u64, place: &mut Place) -> Option<(&[u8], u64)> {
        let wanted = self.next.saturating_sub(number).min(most);
        if wanted == 0 {
            return None;
        }
        let at = self.chunks.partition_point(|chunk| chunk.first + chunk.count <= number);
        let chunk = self.chunks.get(at)?;
        let skipped = number.checked_sub(chunk.first)?;
        if place.chunk != chunk.first || place.number < chunk.first || place.number > number {
            *place = Place { chunk: chunk.first, number: chunk.first, at: 0 };
        }
        let rest = chunk.frames.get(place.at..)?;
        place.at += first_frames(rest, number - place.number);
        place.number = number;
        let rest = chunk.frames.get(place.at..)?;
        let count = wanted.min(chunk.count - skipped);
        let length = match count == chunk.count - skipped {
            true => rest.len(),
            false => first_frames(rest, count),
        };
        Some((&rest[..length], count))
    }

    /// So many messages that came from [`Kept::again`] are written.
    pub(super) fn wrote(&mut self, count: u64, lanes: Option<u64>) {
        self.written += count;
        self.forget_if_free(lanes);
    }

    /// The daemon allows so many messages in total.
    pub(super) fn granted(&mut self, total: u64, lanes: Option<u64>) {
        self.limit = Some(total);
        self.held = total != UNLIMITED;
        self.forget_if_free(lanes);
    }

    /// Nobody will acknowledge what no `block` link takes.
    fn forget_if_free(&mut self, lanes: Option<u64>) {
        if !self.keeps() && !self.is_behind() {
            self.acknowledged = self.next;
            self.settle(lanes);
        }
    }

    /// The daemon acknowledges so many messages in total. False if that is more than it got.
    #[must_use]
    pub(super) fn acknowledged(&mut self, total: u64, lanes: Option<u64>) -> bool {
        let sent = self.written - self.base;
        if total <= sent {
            self.acknowledged = self.acknowledged.max(self.base + total);
            self.settle(lanes);
        }
        total <= sent
    }

    /// A lane that needed messages from this one on is no more: the daemon answers for them. Until
    /// it has answered, it is not known how much it takes.
    pub(super) fn take_over(&mut self, from: u64) {
        self.acknowledged = self.acknowledged.min(from).max(self.settled);
        if self.limit == Some(UNLIMITED) {
            self.limit = None;
        }
        self.held = true;
    }

    /// Copies that neither the daemon nor a lane needs are thrown away: the lanes need those from
    /// this one on.
    pub(super) fn settle(&mut self, lanes: Option<u64>) {
        let settled = lanes.map_or(self.acknowledged, |lanes| lanes.min(self.acknowledged));
        self.settled = self.settled.max(settled);
        while let Some(chunk) = self.chunks.front()
            && chunk.first + chunk.count <= self.settled
            && let Some(mut chunk) = self.chunks.pop_front()
        {
            self.bytes -= chunk.frames.len();
            if self.spare.len() < MAX_SPARE && chunk.frames.capacity() <= 2 * CHUNK {
                chunk.frames.clear();
                self.spare.push(chunk.frames);
            }
        }
    }
}

/// The length of the first so many frames.
pub(super) fn first_frames(frames: &[u8], count: u64) -> usize {
    let mut at = 0;
    for _ in 0..count {
        match frames.get(at..).and_then(|rest| rest.first_chunk::<PREFIX>()) {
            Some(prefix) => at += PREFIX + u32::from_le_bytes(*prefix) as usize,
            None => break,
        }
    }
    at.min(frames.len())
}

#[cfg(test)]
#[path = "tests/kept.rs"]
mod tests;
