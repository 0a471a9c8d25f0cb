//! The sender's end of a lane.

use std::io;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::super::kept::{Kept, Place, first_frames};
use super::conduit::{Obstacle, Outlet};
use super::waiting::Waiting;
use crate::control::Policy;
use crate::frame;
use crate::id::LinkId;
use crate::runtime::{Frame, Passed, Sender};

/// What a lane is, as the daemon said.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Terms {
    pub(in super::super) lane: u64,
    pub(in super::super) link: LinkId,
    pub(in super::super) policy: Policy,
    pub(in super::super) capacity: u32,
    /// Whose messages the receiver is told they are.
    pub(in super::super) sender: Sender,
    /// Whether each message has a stamp.
    pub(in super::super) is_stamped: bool,
}

/// One output's end of one lane.
pub(in super::super) struct Outgoing {
    pub(super) terms: Terms,
    outlet: Outlet,
    /// Messages that the receiver takes in total.
    granted: u64,
    /// Messages whose writing has begun.
    begun: u64,
    /// The number of the first message of the lane.
    first: u64,
    /// The number of the message that comes next.
    next: u64,
    /// Under `block`: the number of the message that is written next.
    position: u64,
    /// Where that is among the copies.
    place: Place,
    /// Under `block`: the first number that the receiver may need again.
    settled: u64,
    /// The number that the receiver expects next; none before it was told one.
    expected: Option<u64>,
    cut: Cut,
    /// Under the other policies: what the receiver did not take yet.
    waiting: Waiting,
    passed: Passed,
    /// What the kernel took that is in `passed` no more: earlier daemons were told of it.
    before: u64,
    /// As the daemon was told last.
    told: Passed,
    /// The task knows that there is something to tell, and does so in a while.
    is_telling: bool,
    broken: bool,
    kick: Arc<Notify>,
    task: AbortHandle,
}

/// What is written in part: it goes before everything else.
#[derive(Default)]
struct Cut {
    bytes: Vec<u8>,
    /// So many of them are written.
    at: usize,
    /// If it is a message: its number.
    message: Option<u64>,
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Outgoing {
    pub(super) fn new(
        terms: Terms,
        outlet: Outlet,
        first: u64,
        kick: Arc<Notify>,
        task: AbortHandle,
    ) -> Self {
        Self {
            terms,
            outlet,
            granted: 0,
            begun: 0,
            first,
            next: first,
            position: first,
            place: Place::default(),
            settled: first,
            expected: None,
            cut: Cut::default(),
            waiting: Waiting::default(),
            passed: Passed::default(),
            before: 0,
            told: Passed::default(),
            is_telling: false,
            broken: false,
            kick,
            task,
        }
    }

    /// Which lane.
    pub(in super::super) const fn lane(&self) -> u64 {
        self.terms.lane
    }

    /// What a daemon is told that does not know of it. For it the counts begin anew.
    pub(in super::super) fn uses(&mut self, channel: u16) -> [Frame<'static>; 2] {
        self.before += self.passed.delivered;
        let sent = self.passed.queued();
        (self.passed, self.told) = (Passed { sent, ..Passed::default() }, Passed::default());
        let memory = self.outlet.is_memory();
        let Terms { lane, link, .. } = self.terms;
        let count = self.before;
        [Frame::Uses { channel, lane, link, memory }, Frame::Counted { channel, lane, count }]
    }

    pub(in super::super) fn is_block(&self) -> bool {
        self.terms.policy == Policy::Block
    }

    /// How many messages may come now, when the next one has this number.
    pub(in super::super) fn room(&self, next: u64) -> u64 {
        match self.is_block() {
            true => u64::from(self.terms.capacity).saturating_sub(next - self.position),
            false => u64::MAX,
        }
    }

    /// The number of the first message that may have to be sent again; none if there is none to
    /// be kept.
    pub(in super::super) fn needs(&self) -> Option<u64> {
        self.is_block().then_some(self.settled)
    }

    /// So many messages, numbered from `first` on, are to go over it. Under `block` they are among
    /// the copies already.
    pub(in super::super) fn send(&mut self, kept: &Kept, frames: &[u8], first: u64, count: u64) {
        self.passed.sent += count;
        self.next = first + count;
        if self.is_block() {
            self.flush(kept);
        } else {
            let mut done = 0;
            if self.waiting.is_empty() && self.flush_cut() {
                let most = self.allowed().min(count);
                let length = if most == count { frames.len() } else { first_frames(frames, most) };
                done = self.write(&frames[..length], first, most);
            }
            if done < count {
                let rest = &frames[first_frames(frames, done)..];
                let rules = (self.terms.policy, self.terms.capacity);
                self.passed.dropped += self.waiting.push(rest, first + done, count - done, rules);
            }
        }
        if !self.is_telling || self.wants_write() {
            self.is_telling = true;
            self.kick.notify_one();
        }
    }

    fn allowed(&self) -> u64 {
        self.granted.saturating_sub(self.begun)
    }

    /// Writes what the receiver and the kernel take now.
    pub(in super::super) fn flush(&mut self, kept: &Kept) {
        while self.flush_cut() {
            let most = self.allowed();
            let (done, count) = if self.is_block() {
                let copies = kept.copies(self.position, most, &mut self.place);
                let Some((frames, count)) = copies else { return };
                let done = self.write(frames, self.position, count);
                self.position += done;
                (done, count)
            } else {
                let waiting = std::mem::take(&mut self.waiting);
                let written = waiting
                    .front(most)
                    .map(|(frames, first, count)| (self.write(frames, first, count), count));
                self.waiting = waiting;
                let Some((done, count)) = written else { return };
                self.waiting.pop(done);
                (done, count)
            };
            if done < count && self.cut.bytes.is_empty() {
                return;
            }
        }
    }

    /// Writes the first of so many frames, behind what the receiver must be told of their numbers.
    /// The answer is how many were begun; the last of these may be written in part.
    fn write(&mut self, frames: &[u8], first: u64, count: u64) -> u64 {
        if count == 0 || self.broken {
            return 0;
        }
        if self.expected != Some(first) {
            self.cut = Cut { bytes: self.head(first), at: 0, message: None };
            self.expected = Some(first);
            if !self.flush_cut() {
                return 0;
            }
        }
        let Some(written) = self.try_write(frames) else { return 0 };
        let (whole, end) = match written == frames.len() {
            true => (count, written),
            false => whole_frames(frames, written),
        };
        self.passed.delivered += whole;
        let mut begun = whole;
        if end < written {
            let length = first_frames(&frames[end..], 1);
            let bytes = frames[end..end + length].to_vec();
            self.cut = Cut { bytes, at: written - end, message: Some(first + whole) };
            begun += 1;
        }
        self.begun += begun;
        self.expected = Some(first + begun);
        begun
    }

    /// What the receiver is told before the message with this number.
    fn head(&self, number: u64) -> Vec<u8> {
        let channel = 0;
        let frame = match self.expected {
            Some(expected) if expected < number => {
                Frame::Skip { channel, count: number - expected }
            }
            _ => Frame::From {
                channel,
                sender: Some(self.terms.sender),
                next: number,
                kept: self.is_block(),
            },
        };
        let mut head = Vec::new();
        if self.expected.is_none() && self.terms.is_stamped {
            let _ = frame::append(
                &mut head,
                &Frame::Stamps { channel, stamped: true },
                frame::MAX_RUNTIME,
            );
        }
        // Numbers and an id: it fits.
        let _ = frame::append(&mut head, &frame, frame::MAX_RUNTIME);
        head
    }

    /// True if nothing is written in part any more.
    fn flush_cut(&mut self) -> bool {
        while self.cut.at < self.cut.bytes.len() {
            let bytes = std::mem::take(&mut self.cut.bytes);
            let written = self.try_write(&bytes[self.cut.at..]);
            self.cut.bytes = bytes;
            match written {
                Some(written) => self.cut.at += written,
                None => return false,
            }
        }
        if self.cut.message.take().is_some() {
            self.passed.delivered += 1;
        }
        self.cut.bytes.clear();
        self.cut.at = 0;
        !self.broken
    }

    fn try_write(&mut self, bytes: &[u8]) -> Option<usize> {
        if self.broken {
            return None;
        }
        match self.outlet.try_write(bytes) {
            Ok(written) => Some(written),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(_) => {
                self.breaks();
                None
            }
        }
    }

    /// The task sees it, and gives the lane up.
    fn breaks(&mut self) {
        self.broken = true;
        self.kick.notify_one();
    }

    /// What is to be waited for before more is written; none if nothing is to be.
    pub(super) fn obstacle(&mut self, kept: &Kept) -> Option<Obstacle> {
        while self.wants_write() {
            match self.outlet.obstacle() {
                Ok(Obstacle::None) => self.flush(kept),
                Ok(obstacle) => return Some(obstacle),
                Err(_) => self.breaks(),
            }
        }
        None
    }

    /// Whether something waits for the kernel: not for the receiver.
    pub(super) fn wants_write(&self) -> bool {
        let has_more = match self.is_block() {
            true => self.next > self.position,
            false => !self.waiting.is_empty(),
        };
        !self.broken && (!self.cut.bytes.is_empty() || (has_more && self.allowed() > 0))
    }

    /// Whether something waits.
    pub(in super::super) fn is_unsent(&self) -> bool {
        self.passed.queued() > 0 && !self.broken
    }

    pub(in super::super) const fn is_broken(&self) -> bool {
        self.broken
    }

    /// The receiver takes so many messages in total.
    pub(super) fn granted(&mut self, total: u64) {
        self.granted = self.granted.max(total);
    }

    /// The receiver acknowledges so many messages in total. False if it never got them.
    #[must_use]
    pub(in super::super) fn acknowledged(&mut self, total: u64) -> bool {
        let known = total <= self.begun && self.is_block();
        if known {
            self.settled = self.settled.max(self.first + total);
        }
        known
    }

    /// What the daemon is to be told in a while, if there is anything new.
    pub(super) const fn is_telling(&self) -> bool {
        self.is_telling
    }

    /// What the daemon is told now, and whether it is anything new.
    pub(in super::super) fn tell(&mut self, kept: &Kept) -> (Passed, bool) {
        self.is_telling = false;
        self.passed.output = kept.total();
        let is_new = std::mem::replace(&mut self.told, self.passed) != self.passed;
        (self.passed, is_new)
    }

    /// It is given up: no further byte is written. What goes back, each message with its number,
    /// and what passed as a whole.
    pub(in super::super) fn leave(
        &mut self,
        kept: &Kept,
        mut back: impl FnMut(u64, &[u8]),
    ) -> Passed {
        self.outlet.close();
        let mut returned = 0;
        let mut give = |first: u64, mut frames: &[u8]| {
            let mut number = first;
            while !frames.is_empty() {
                let length = first_frames(frames, 1);
                back(number, &frames[..length]);
                frames = &frames[length..];
                number += 1;
                returned += 1;
            }
        };
        if self.is_block() {
            let mut at = self.settled;
            while let Some((frames, count)) = kept.copies(at, u64::MAX, &mut self.place) {
                give(at, frames);
                at += count;
            }
        } else {
            if let Some(number) = self.cut.message {
                give(number, &self.cut.bytes);
            }
            while let Some((frames, first, count)) = self.waiting.front(u64::MAX) {
                give(first, frames);
                self.waiting.pop(count);
            }
        }
        // Under `block` also some of what the kernel took: that is not delivered then.
        self.passed.returned = returned;
        self.passed.output = kept.total();
        self.passed.delivered = (self.passed.sent - self.passed.dropped).saturating_sub(returned);
        self.passed
    }
}

/// How many frames are in the first so many bytes as a whole, and where the last of these ends.
fn whole_frames(frames: &[u8], written: usize) -> (u64, usize) {
    let (mut count, mut end) = (0, 0);
    loop {
        let length = first_frames(&frames[end..], 1);
        if length == 0 || end + length > written {
            return (count, end);
        }
        end += length;
        count += 1;
    }
}
