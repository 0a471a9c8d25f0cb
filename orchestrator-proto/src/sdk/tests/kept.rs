//! What is kept, against daemons that die at any moment.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::super::seen::Seen;
use super::*;
use crate::InstanceId;
use crate::frame;
use crate::runtime::{Frame, Sender};

/// A message that says its number.
fn message(number: u64) -> Vec<u8> {
    let payload = number.to_le_bytes();
    frame::encode(&Frame::Message { channel: 0, payload: &payload }, 1000).unwrap()
}

fn numbers(frames: &[u8]) -> Vec<u64> {
    let (mut at, mut numbers) = (0, Vec::new());
    while let Some(body) = frame::first_body(&frames[at..], 1000).unwrap() {
        at += PREFIX + body.len();
        match postcard::from_bytes(body).unwrap() {
            Frame::Message { payload, .. } => {
                numbers.push(u64::from_le_bytes(payload.try_into().unwrap()));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(at, frames.len());
    numbers
}

/// A daemon with one `block` link, and the sockets to and from it.
#[derive(Default)]
struct Daemon {
    /// Written by the sender, not read.
    incoming: VecDeque<u64>,
    /// Of this connection: the number of the first message.
    base: u64,
    read: u64,
    queue: VecDeque<u64>,
    /// Written to the receiver, not read by it.
    outgoing: VecDeque<u64>,
    delivered: u64,
    acknowledged: u64,
}

/// A receiver: what its program got, and what it has acknowledged on this connection.
#[derive(Default)]
struct Receiver {
    seen: Seen,
    program: Vec<u64>,
    waiting: VecDeque<u64>,
    received: u64,
}

const CAPACITY: u64 = 8;

fn sender() -> Sender {
    Sender { instance: InstanceId::from_bytes([1; 16]), epoch: 7, anybody: false }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// New messages are offered, so many together.
    Send(u64),
    Read(usize),
    Deliver(usize),
    Receive(usize),
    Consume(usize),
    /// The receiver's acknowledgement reaches the daemon.
    Acknowledge,
    /// The daemon's grant and acknowledgement reach the sender.
    Tell,
    /// The daemon dies; another one takes its place.
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1..6_u64).prop_map(Step::Send),
        4 => (1..6_usize).prop_map(Step::Read),
        4 => (1..6_usize).prop_map(Step::Deliver),
        4 => (1..6_usize).prop_map(Step::Receive),
        4 => (1..6_usize).prop_map(Step::Consume),
        2 => Just(Step::Acknowledge),
        4 => Just(Step::Tell),
        1 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 0..300)
}

/// Sender, daemon and receiver.
struct World {
    kept: Kept,
    daemon: Daemon,
    receiver: Receiver,
    sent: u64,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            kept: Kept::default(),
            daemon: Daemon::default(),
            receiver: Receiver::default(),
            sent: 0,
        };
        world.connect();
        world
    }

    fn connect(&mut self) {
        let Beginning { next, again, .. } = self.kept.begin();
        assert_eq!(next + again, self.sent);
        self.daemon = Daemon { base: next, ..Daemon::default() };
        self.receiver.received = 0;
    }

    fn send_again(&mut self) {
        while let Some((frames, count)) = self.kept.again() {
            let frames = numbers(frames);
            assert_eq!(frames.len() as u64, count);
            self.daemon.incoming.extend(frames);
            self.kept.wrote(count, None);
        }
    }

    fn step(&mut self, step: Step) {
        let Self { kept, daemon, receiver, sent } = self;
        match step {
            Step::Send(count) => {
                let frames: Vec<u8> = (*sent..*sent + count).flat_map(message).collect();
                let (bytes, taken) = kept.take(&frames, count, Demand::default());
                let taken_frames = numbers(&frames[..bytes]);
                assert_eq!(taken_frames.len() as u64, taken);
                daemon.incoming.extend(taken_frames);
                *sent += taken;
            }
            Step::Read(count) => {
                for _ in 0..count {
                    let Some(number) = daemon.incoming.pop_front() else { break };
                    assert_eq!(number, daemon.base + daemon.read, "numbers count up");
                    daemon.read += 1;
                    daemon.queue.push_back(number);
                }
            }
            Step::Deliver(count) => {
                let count = count.min(daemon.queue.len());
                daemon.outgoing.extend(daemon.queue.drain(..count));
                daemon.delivered += count as u64;
            }
            Step::Receive(count) => {
                for _ in 0..count {
                    let Some(number) = daemon.outgoing.pop_front() else { break };
                    receiver.received += 1;
                    let mut run = receiver.seen.turn_to(sender(), number);
                    if receiver.seen.arrived(&mut run, 1).had == 0 {
                        receiver.waiting.push_back(number);
                    }
                }
            }
            Step::Consume(count) => {
                let count = count.min(receiver.waiting.len());
                receiver.program.extend(receiver.waiting.drain(..count));
            }
            // What waits in the receiver's memory is safe from the daemon's death as well.
            Step::Acknowledge => daemon.acknowledged = receiver.received,
            Step::Tell => {
                kept.granted(daemon.delivered + CAPACITY, None);
                assert!(kept.acknowledged(daemon.acknowledged, None));
                self.send_again();
            }
            Step::Crash => {
                // The receiver reads what the dead daemon had written; nobody else does.
                self.step(Step::Receive(usize::MAX));
                self.connect();
            }
        }
    }
}

proptest! {
    #[test]
    fn each_message_arrives_once_and_in_order_whenever_daemons_die(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
            // At most the window and what the daemon has not acknowledged yet.
            prop_assert!(world.kept.bytes <= 2 * CHUNK);
        }
        // In the end the daemon lives for long enough.
        for _ in 0..400 {
            for step in [
                Step::Tell,
                Step::Read(usize::MAX),
                Step::Deliver(usize::MAX),
                Step::Receive(usize::MAX),
                Step::Consume(usize::MAX),
                Step::Acknowledge,
            ] {
                world.step(step);
            }
        }
        world.step(Step::Tell);
        prop_assert!(!world.kept.is_behind());
        prop_assert_eq!(&world.receiver.program, &Vec::from_iter(0..world.sent));
        prop_assert_eq!(world.kept.bytes, 0, "all is acknowledged, nothing is kept");
    }

    #[test]
    fn what_is_sent_again_is_what_was_not_acknowledged(
        batches in prop::collection::vec(1..40_u64, 1..30),
        acknowledged in any::<prop::sample::Index>(),
        grants in prop::collection::vec(1..50_u64, 1..10),
    ) {
        let mut kept = Kept::default();
        kept.begin();
        kept.granted(1 << 20, None);
        let mut sent = 0;
        for count in batches {
            let frames: Vec<u8> = (sent..sent + count).flat_map(message).collect();
            prop_assert_eq!(kept.take(&frames, count, Demand::default()), (frames.len(), count));
            sent += count;
        }
        let acknowledged = acknowledged.index(sent as usize + 1) as u64;
        prop_assert!(kept.acknowledged(acknowledged, None));
        let begun = kept.begin();
        prop_assert_eq!(begun, Beginning { next: acknowledged, again: sent - acknowledged, skip: 0 });
        prop_assert!(kept.again().is_none(), "not before the daemon has answered");
        let (mut again, mut total) = (Vec::new(), 0);
        for grant in grants.into_iter().chain([1 << 20]) {
            total += grant;
            kept.granted(total, None);
            while let Some((frames, count)) = kept.again() {
                again.extend(numbers(frames));
                kept.wrote(count, None);
            }
            prop_assert_eq!(again.len() as u64, total.min(sent - acknowledged));
        }
        prop_assert_eq!(again, Vec::from_iter(acknowledged..sent));
    }
}

#[test]
fn nothing_is_kept_where_no_link_blocks() {
    let mut kept = Kept::default();
    kept.begin();
    let frames: Vec<u8> = (0..10).flat_map(message).collect();
    assert_eq!(kept.take(&frames, 10, Demand::default()).1, 10);
    assert!(kept.waits(), "there might be a link that blocks");
    kept.granted(UNLIMITED, None);
    assert!(!kept.waits());
    assert_eq!(kept.take(&frames, 10, Demand::default()).1, 10);
    assert_eq!((kept.bytes, kept.chunks.len()), (0, 0));
    assert_eq!(kept.begin(), Beginning { next: 20, again: 0, skip: 0 });
    // A link is made later: from then on.
    kept.granted(UNLIMITED, None);
    assert_eq!(kept.take(&frames, 10, Demand::default()).1, 10);
    kept.granted(18, None);
    assert_eq!(kept.take(&frames, 10, Demand::default()).1, 8);
    assert_eq!(kept.begin(), Beginning { next: 30, again: 8, skip: 0 });
    // A daemon without the link gets them all the same, and says that nobody takes them.
    kept.granted(UNLIMITED, None);
    assert_eq!(kept.again().map(|(_, count)| count), Some(8));
    kept.wrote(8, None);
    assert_eq!((kept.bytes, kept.waits()), (0, false));
}

#[test]
fn an_answer_is_waited_for_and_an_acknowledgement_is_checked() {
    let mut kept = Kept::default();
    kept.begin();
    let frames: Vec<u8> = (0..2000).flat_map(message).collect();
    assert_eq!(kept.take(&frames, 2000, Demand::default()).1, UNANSWERED_MESSAGES);
    assert_eq!(kept.take(&frames, 2000, Demand::default()).1, 0);
    assert!(!kept.acknowledged(UNANSWERED_MESSAGES + 1, None));
    assert!(kept.acknowledged(UNANSWERED_MESSAGES, None));
    let large = frame::encode(&vec![7_u8; 2 * UNANSWERED_BYTES], 1 << 24).unwrap();
    kept.begin();
    assert_eq!(kept.take(&large, 1, Demand::default()).1, 1);
    assert_eq!(kept.take(&large, 1, Demand::default()).1, 0);
    kept.granted(1000, None);
    assert_eq!(kept.take(&large, 1, Demand::default()).1, 1);
}

#[test]
fn what_only_a_lane_needs_is_kept_for_it_and_then_for_the_daemon() {
    let mut kept = Kept::default();
    kept.begin();
    kept.granted(UNLIMITED, None);
    let frames: Vec<u8> = (0..10).flat_map(message).collect();
    // Nobody but a lane gets these, and it has room for eight.
    let lane = Demand { daemon: false, room: 8, lanes: Some(0) };
    assert_eq!(kept.take(&frames, 10, lane).1, 8);
    let mut place = Place::default();
    assert_eq!(
        kept.copies(3, 4, &mut place).map(|(frames, count)| (numbers(frames), count)),
        Some((vec![3, 4, 5, 6], 4))
    );
    assert_eq!(kept.copies(8, 4, &mut place), None);
    kept.settle(Some(2));
    // A new daemon has no use for what went elsewhere.
    assert_eq!(kept.begin(), Beginning { next: 2, again: 6, skip: 6 });
    assert!(!kept.is_behind());
    // The lane is left: the daemon answers for what was not acknowledged there.
    assert_eq!(kept.resume(), 0);
    kept.take_over(2);
    assert!(kept.waits());
    assert_eq!(kept.begin(), Beginning { next: 2, again: 6, skip: 0 });
    kept.granted(100, None);
    assert_eq!(kept.again().map(|(frames, _)| numbers(frames)), Some(Vec::from_iter(2..8)));
    kept.wrote(6, None);
    assert!(kept.acknowledged(6, None));
    assert_eq!((kept.bytes, kept.waits()), (0, true));
}
