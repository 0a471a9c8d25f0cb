//! What is being written to one peer: control frames, then messages, in as few slices as can be.

use std::collections::{VecDeque, vec_deque};
use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::route::{Entry, Link};

/// Slices in one system call: below the kernel's IOV_MAX of 1,024, see writev(2).
const MAX_SLICES: usize = 1020;
/// Payloads up to this are written together with their heads, so that a batch of small messages
/// is one slice: the kernel takes longer to follow a reference than to copy so little. Larger
/// ones are never copied on their way out.
const INLINE: usize = 256;

/// The payload of a message as the peer will see it.
pub(super) struct Body {
    /// Set when it had to be translated; else it is the entry's own.
    pub(super) translated: Option<Bytes>,
    /// What comes after it.
    pub(super) tail: &'static [u8],
    /// Whether the peer will acknowledge it, until when it is kept.
    pub(super) kept: bool,
}

/// What is being written.
#[derive(Default)]
pub(super) struct Batch {
    /// Control frames and the heads of the pieces, one after the other.
    pub(super) heads: Vec<u8>,
    /// Control frames at the beginning of `heads`, in bytes.
    pub(super) control: usize,
    pieces: VecDeque<Piece>,
    /// Bytes of what is first (the control frames, else the first piece) that are written.
    written: usize,
    /// Spare place for what is taken from a link.
    pub(super) taken: Vec<Entry>,
}

struct Piece {
    link: Arc<Link>,
    entry: Entry,
    /// In [`Batch::heads`]; the payload and the tail too if the payload is short.
    head: Range<usize>,
    body: Body,
    inline: bool,
    /// Went back to its link already, although the rest of it is still to be written.
    returned: bool,
}

impl Piece {
    fn is_kept(&self) -> bool {
        self.body.kept && !self.returned
    }

    /// Whether both are settled in the same way.
    fn goes_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.link, &other.link)
            && Arc::ptr_eq(&self.entry.origin, &other.entry.origin)
            && self.body.kept == other.body.kept
            && self.returned == other.returned
    }

    fn payload(&self) -> &Bytes {
        self.body.translated.as_ref().unwrap_or(&self.entry.body)
    }

    fn len(&self) -> usize {
        match self.inline {
            true => self.head.len(),
            false => self.head.len() + self.payload().len() + self.body.tail.len(),
        }
    }
}

impl Batch {
    /// Messages that are not written completely.
    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Whether everything is written.
    pub(super) fn is_done(&self) -> bool {
        self.control == 0 && self.pieces.is_empty()
    }

    /// Adds a message whose head stands at the end of `heads`, from `start` on.
    pub(super) fn add(&mut self, link: &Arc<Link>, entry: Entry, start: usize, body: Body) {
        let link = link.clone();
        let (head, inline, returned) = (0..0, false, false);
        let mut piece = Piece { link, entry, head, body, inline, returned };
        piece.inline = piece.payload().len() <= INLINE;
        if piece.inline {
            self.heads.extend_from_slice(piece.payload());
            self.heads.extend_from_slice(piece.body.tail);
        }
        piece.head = start..self.heads.len();
        self.pieces.push_back(piece);
    }

    /// What is to be written, as few slices as possible: what stands together in `heads` is one.
    /// They end with a whole message, and have at most this many bytes, unless what comes first
    /// has more.
    pub(super) fn slices(&self, most: usize) -> Vec<IoSlice<'_>> {
        let mut slices = Slices { parts: Vec::with_capacity(4), skip: self.written };
        let first = self.pieces.front().map_or(self.control, |piece| piece.head.start);
        // What of `heads` comes next. Heads stand in the order of their pieces, without gaps.
        let mut heads = if self.control > 0 { 0..self.control } else { first..first };
        // What fits in beside what is written already.
        let mut room = most.saturating_add(self.written);
        let mut is_first = self.control == 0;
        room = room.saturating_sub(self.control);
        for piece in &self.pieces {
            if piece.len() > room && !is_first {
                break;
            }
            room = room.saturating_sub(piece.len());
            is_first = false;
            heads.end = piece.head.end;
            if !piece.inline {
                slices.push(&self.heads[heads]);
                slices.push(piece.payload());
                slices.push(piece.body.tail);
                heads = piece.head.end..piece.head.end;
            }
            if slices.is_full() {
                break;
            }
        }
        slices.push(&self.heads[heads]);
        slices.parts
    }

    /// `count` more bytes are with the kernel: settles the messages that are complete. Those that
    /// the peer will acknowledge go to `kept`, others are counted there; in their order.
    pub(super) fn advance(&mut self, count: usize, mut kept: impl FnMut(Written<'_>)) {
        self.written += count;
        if self.control > 0 {
            if self.written < self.control {
                return;
            }
            self.written -= self.control;
            self.control = 0;
        }
        let mut complete = 0;
        for piece in &self.pieces {
            if self.written < piece.len() {
                break;
            }
            self.written -= piece.len();
            complete += 1;
        }
        while complete > 0
            && let Some(first) = self.pieces.front()
        {
            let run = self.pieces.iter().take(complete);
            let length = run.take_while(|piece| first.goes_with(piece)).count();
            complete -= length;
            let (link, is_kept, returned) = (first.link.clone(), first.is_kept(), first.returned);
            let count = length as u64;
            if is_kept {
                link.delivered_unacknowledged(&first.entry.origin, count);
            }
            let mut pieces = self.pieces.drain(..length);
            if is_kept {
                kept(Written::Kept(&link, Entries(pieces)));
            } else {
                if let Some(last) = pieces.next_back()
                    && !returned
                {
                    link.delivered(&last.entry, count);
                }
                drop(pieces);
                kept(Written::Others(&link, count));
            }
        }
    }

    /// Gives the messages that are not begun back to their links; if the connection is `over`,
    /// also one that is half written. One that its peer would acknowledge goes back even if
    /// it is being written, because the peer may be about to leave; it will know it again.
    pub(super) fn give_back(&mut self, over: bool, returned: impl Fn(&Link)) {
        let begun = usize::from(!over && self.control == 0 && self.written > 0);
        // From the back, so that each link gets its messages back newest first.
        while self.pieces.len() > begun
            && let Some(piece) = self.pieces.pop_back()
        {
            if !piece.returned {
                returned(&piece.link);
                piece.link.put_back(std::iter::once(piece.entry));
            }
        }
        if let Some(piece) = self.pieces.front_mut()
            && piece.is_kept()
        {
            piece.returned = true;
            piece.link.put_back(std::iter::once(piece.entry.clone()));
        }
        if over {
            self.control = 0;
            self.written = 0;
        }
    }
}

/// Messages of one link and origin that were written.
pub(super) enum Written<'a> {
    /// The peer will acknowledge them.
    Kept(&'a Arc<Link>, Entries<'a>),
    /// So many others.
    Others(&'a Arc<Link>, u64),
}

/// Messages of a batch, in their order.
pub(super) struct Entries<'a>(vec_deque::Drain<'a, Piece>);

impl Iterator for Entries<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        self.0.next().map(|piece| piece.entry)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

/// Collects slices, leaving out what is written already.
struct Slices<'a> {
    parts: Vec<IoSlice<'a>>,
    skip: usize,
}

impl<'a> Slices<'a> {
    fn push(&mut self, part: &'a [u8]) {
        let skipped = self.skip.min(part.len());
        self.skip -= skipped;
        if skipped < part.len() {
            self.parts.push(IoSlice::new(&part[skipped..]));
        }
    }

    fn is_full(&self) -> bool {
        self.parts.len() + 4 > MAX_SLICES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{LinkRequest, LinkTarget, Mailbox, Router, Surroundings, TypeDecl, Woken};
    use orchestrator_proto::control::{LinkRules, Policy};
    use orchestrator_proto::{InstanceId, LinkId, WireError};
    use proptest::prelude::*;

    struct Quiet;

    impl Surroundings for Quiet {
        fn link_mismatched(&self, _: LinkId, _: Option<InstanceId>, _: &WireError) {}
        fn messages_lost(&self, _: LinkId, _: InstanceId, _: u64) {}
        fn open_peer(&self, _: &str, _: &Arc<Mailbox>) {}
        fn close_peer(&self, _: &str) {}
    }

    /// A link with these payloads waiting in it.
    fn link_with(payloads: &[Vec<u8>]) -> Arc<Link> {
        let router = Router::new(Box::new(Quiet));
        let instance = InstanceId::generate();
        let _mailbox = router.add_instance(instance);
        let request = LinkRequest {
            from: None,
            type_name: "t".into(),
            to: LinkTarget::Instance(instance),
            rules: LinkRules { policy: Policy::DropOldest, capacity: 1000, ..LinkRules::default() },
        };
        router.add_link(&request).unwrap();
        let source = router.open_source(Some(instance), None, Arc::default());
        let decl = Arc::new(TypeDecl::new("t".into(), None));
        let output = router.declare_output(&source, decl, 0, None).unwrap();
        let mut bodies = payloads.iter().map(|payload| payload.clone().into()).collect();
        source.send_run(output, &mut bodies, 1, &mut Woken::default());
        router.links().remove(0)
    }

    proptest! {
        #[test]
        fn what_is_written_is_whole_wherever_the_socket_was_full(
            control in prop::collection::vec(any::<u8>(), 0..40),
            payloads in prop::collection::vec(
                prop_oneof![
                    3 => prop::collection::vec(any::<u8>(), 0..20),
                    1 => prop::collection::vec(any::<u8>(), INLINE - 2..INLINE + 40),
                ],
                0..30,
            ),
            writes in prop::collection::vec(1..400_usize, 1..20),
            most in prop_oneof![Just(usize::MAX), 0..600_usize],
        ) {
            const HEAD: &[u8] = b"<head>";
            const TAIL: &[u8] = b"!";
            let link = link_with(&payloads);
            let mut batch = Batch { heads: control.clone(), control: control.len(), ..Batch::default() };
            let mut entries = Vec::new();
            link.take(1000, usize::MAX, &mut entries);
            let mut expected = control;
            // Where something whole ends.
            let mut ends = vec![0, expected.len()];
            for (entry, payload) in entries.into_iter().zip(&payloads) {
                let start = batch.heads.len();
                batch.heads.extend_from_slice(HEAD);
                batch.add(&link, entry, start, Body { translated: None, tail: TAIL, kept: false });
                expected.extend([HEAD, payload, TAIL].concat());
                ends.push(expected.len());
            }
            let mut seen: Vec<u8> = Vec::new();
            for write in writes.iter().cycle().take(10_000) {
                if batch.is_done() {
                    break;
                }
                let bytes: Vec<u8> = batch.slices(most).iter().flat_map(|slice| slice.to_vec()).collect();
                let before = seen.len();
                let end = before + bytes.len();
                prop_assert!(ends.contains(&end), "up to {} of {:?}", end, ends);
                let first = ends.iter().find(|end| **end > before).unwrap();
                prop_assert!(bytes.len() <= most || end == *first);
                prop_assert!(end > before);
                seen.extend(bytes.iter().take(*write));
                batch.advance(seen.len() - before, |_| {});
            }
            prop_assert_eq!(seen, expected);
            prop_assert_eq!(link.counters().delivered, payloads.len() as u64);
        }
    }
}
