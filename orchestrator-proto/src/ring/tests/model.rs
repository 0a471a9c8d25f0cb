//! The pure halves against a queue, for any order of operations, and against a peer that scribbles.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::heap::{Heap, Mute};
use crate::ring::RingError;
use crate::ring::layout::{Cell, Memory};
use crate::ring::pop::{Popped, Popper};
use crate::ring::push::Pusher;
use crate::ring::record::Around;

type Ends = (Pusher<Heap, Mute>, Popper<Heap, Mute>);

fn pusher(heap: &Heap) -> Result<Pusher<Heap, Mute>, RingError> {
    Pusher::new(Around::new(heap.clone()).unwrap(), Mute)
}

fn popper(heap: &Heap) -> Result<Popper<Heap, Mute>, RingError> {
    Popper::new(Around::new(heap.clone()).unwrap(), Mute)
}

fn ends(heap: &Heap) -> Ends {
    (pusher(heap).unwrap(), popper(heap).unwrap())
}

/// A payload that is told from others by its bytes.
pub(super) fn payload(number: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|n| (n.wrapping_mul(31).wrapping_add(number * 7)) as u8).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Push(usize),
    Stage(usize),
    Publish,
    Begin(usize),
    Feed(usize),
    Pop,
    Take,
    /// Another program in place of the one that was there.
    NewPusher,
    NewPopper,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let len = prop_oneof![Just(0_usize), 0..40_usize, 0..600_usize];
    let step = prop_oneof![
        4 => len.clone().prop_map(Step::Push),
        2 => len.prop_map(Step::Stage),
        1 => Just(Step::Publish),
        1 => (1..2000_usize).prop_map(Step::Begin),
        4 => (1..2000_usize).prop_map(Step::Feed),
        8 => Just(Step::Pop),
        2 => Just(Step::Take),
        1 => Just(Step::NewPusher),
        1 => Just(Step::NewPopper),
    ];
    prop::collection::vec(step, 0..200)
}

/// A message that should come, or may be missing: because whoever had taken its beginning is gone.
#[derive(Clone, Debug)]
struct Expected {
    number: u64,
    bytes: Vec<u8>,
    maybe: bool,
}

/// What should be in the ring.
#[derive(Default)]
struct Model {
    there: VecDeque<Expected>,
    staged: VecDeque<Expected>,
    /// What is sent in parts, and how much of it was taken.
    sending: Option<(Expected, usize)>,
}

impl Model {
    fn publish(&mut self) {
        self.there.append(&mut self.staged);
    }

    fn popped(&mut self, number: u64, bytes: &[u8]) {
        while self.there.front().is_some_and(|it| it.maybe && it.number != number) {
            self.there.pop_front();
        }
        let expected = self.there.pop_front().expect("nothing is there");
        assert_eq!((expected.number, &expected.bytes[..]), (number, bytes));
    }

    fn empty(&self) {
        assert!(self.there.iter().all(|it| it.maybe), "{:?}", self.there);
    }
}

/// Carries a step out on both the ring and the model.
fn apply(step: &Step, number: u64, heap: &Heap, (push, pop): &mut Ends, model: &mut Model) {
    let expected = |len| Expected { number, bytes: payload(number, len), maybe: false };
    match *step {
        Step::Push(len) | Step::Stage(len) => {
            let expected = expected(len);
            match push.stage(number, &expected.bytes) {
                Ok(true) => {
                    model.sending = None;
                    if len > push.most_of_record() {
                        model.publish();
                    }
                    model.staged.push_back(expected);
                }
                Ok(false) => {}
                Err(RingError::TooLong { most, .. }) => assert!(len > most),
                Err(error) => panic!("{error}"),
            }
            if matches!(step, Step::Push(_)) {
                push.publish().unwrap();
                model.publish();
            }
        }
        Step::Publish => {
            push.publish().unwrap();
            model.publish();
        }
        Step::Begin(len) => {
            push.begin(number, len).unwrap();
            model.sending = Some((expected(len), 0));
        }
        Step::Feed(most) => {
            let Some((expected, taken)) = &mut model.sending else { return };
            let rest = &expected.bytes[*taken..];
            let fed = push.feed(&rest[..most.min(rest.len())]).unwrap();
            let parts = *taken / push.most_of_record();
            *taken += fed;
            assert_eq!(push.left(), expected.bytes.len() - *taken);
            if *taken / push.most_of_record() > parts || fed > 0 && push.left() == 0 {
                model.there.append(&mut model.staged);
            }
            if *taken == expected.bytes.len() {
                model.there.extend(model.sending.take().map(|(expected, _)| expected));
            }
        }
        Step::Pop | Step::Take => {
            let mut into = vec![9; 9];
            let popped =
                if matches!(step, Step::Pop) { pop.pop(&mut into) } else { pop.take(&mut into) };
            match popped.unwrap() {
                Popped::Message(number) => model.popped(number, &into),
                Popped::Empty => model.empty(),
                Popped::Remains => {}
            }
        }
        Step::NewPusher => {
            model.staged.clear();
            model.sending = None;
            *push = pusher(heap).unwrap();
        }
        Step::NewPopper => {
            pop.give_back().unwrap();
            // Of the next message the one before may have taken a part.
            let most = push.most_of_record();
            let next = model.there.front_mut().filter(|it| it.bytes.len() > most);
            next.into_iter().chain(&mut model.staged).for_each(|it| it.maybe = true);
            model.sending.iter_mut().for_each(|it| it.0.maybe = true);
            *pop = popper(heap).unwrap();
        }
    }
}

const CASES: u32 = if cfg!(miri) { 6 } else { 500 };

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(CASES)
    })]

    #[test]
    fn it_is_a_queue(
        steps in steps(),
        size in 6..11_u32,
        start in prop_oneof![Just(0), Just(u64::MAX - 127), any::<u64>()],
    ) {
        let heap = Heap::new(1 << size);
        let start = start / 16 * 16;
        heap.store(Cell::Head, start);
        heap.store(Cell::Tail, start);
        let mut ends = ends(&heap);
        let mut model = Model::default();
        for (number, step) in (0..).zip(&steps) {
            apply(step, number, &heap, &mut ends, &mut model);
        }
        // All that was published comes, and no more.
        let mut into = Vec::new();
        loop {
            match ends.1.pop(&mut into).unwrap() {
                Popped::Message(number) => model.popped(number, &into),
                Popped::Empty => break,
                Popped::Remains => {}
            }
        }
        model.empty();
    }

    /// A peer that writes anything anywhere at any time: errors or wrong bytes, nothing else.
    #[test]
    fn it_is_a_stream_of_bytes(
        steps in prop::collection::vec((any::<bool>(), 0..900_usize), 0..120),
        area in prop::sample::select(vec![64_usize, 256, 4096]),
    ) {
        let heap = Heap::new(area);
        let (mut push, mut pop) = ends(&heap);
        let mut under_way: VecDeque<u8> = VecDeque::new();
        let (mut next, mut into) = (0_u64, Vec::new());
        for (writes, len) in steps {
            if writes {
                let bytes = payload(next, len);
                let written = push.write(&bytes).unwrap();
                // A ring that is empty takes something.
                prop_assert!(written > 0 || len == 0 || !under_way.is_empty());
                under_way.extend(&bytes[..written]);
                next += 1;
            } else {
                into.clear();
                let read = pop.read(len, &mut into).unwrap();
                prop_assert_eq!(read, into.len());
                prop_assert!(read > 0 || len == 0 || under_way.is_empty());
                prop_assert!(read <= len + push.most_of_record());
                prop_assert!(under_way.drain(..read).eq(into.iter().copied()));
            }
        }
        push.close().unwrap();
        into.clear();
        while let Ok(1..) = pop.read(usize::MAX, &mut into) {}
        prop_assert!(under_way.into_iter().eq(into.iter().copied()));
        prop_assert!(matches!(pop.read(1, &mut Vec::new()), Err(RingError::Closed)));
    }

    #[test]
    fn a_peer_that_scribbles_harms_nobody_else(
        steps in prop::collection::vec((steps(), any::<u16>(), scribbles()), 1..8),
        size in 6..11_u32,
    ) {
        let heap = Heap::new(1 << size);
        let (mut push, mut pop) = ends(&heap);
        let mut into = Vec::new();
        for (steps, at, value) in steps {
            for (number, step) in (0..).zip(&steps) {
                let _ = match step {
                    Step::Push(len) | Step::Stage(len) => push
                        .stage(number, &payload(number, *len))
                        .and_then(|_| push.publish())
                        .map(|()| false),
                    Step::Publish => push.sleep(*push_wanted(number)).map(|_| false),
                    Step::Begin(len) => push.begin(number, *len).map(|()| false),
                    Step::Feed(len) => push.feed(&payload(number, *len)).map(|_| false),
                    Step::Pop => pop.pop(&mut into).map(|_| false),
                    Step::Take => pop.take(&mut into).map(|_| pop.sleep()),
                    Step::NewPusher => pusher(&heap).map(|new| {
                        push = new;
                        false
                    }),
                    Step::NewPopper => popper(&heap).map(|new| {
                        pop = new;
                        false
                    }),
                };
                assert!(into.len() <= crate::ring::MAX_PAYLOAD);
            }
            heap.scribble(at.into(), value);
        }
    }
}

/// Some room to wait for.
fn push_wanted(number: u64) -> &'static u64 {
    &[0, 16, 32, 64, 1 << 40][number as usize % 5]
}

/// Words that look like something more often than by chance.
fn scribbles() -> impl Strategy<Value = u64> {
    let part = (0..2000_u64, any::<bool>(), prop_oneof![Just(0), 0..2000_u64, any::<u64>()]);
    prop_oneof![
        any::<u64>(),
        (0..256_u64).prop_map(|n| n * 16),
        part.prop_map(|(len, first, left)| len | u64::from(first) << 31 | left << 32),
    ]
}

/// Two threads, so that Miri looks at the order in which memory is seen.
#[test]
fn threads_pass_messages_on() {
    let heap = Heap::new(256);
    let (mut push, mut pop) = ends(&heap);
    let count = if cfg!(miri) { 60 } else { 20_000 };
    let len = |number: u64| (number * 13 % 150) as usize;
    let sender = std::thread::spawn(move || {
        for number in 0..count {
            let bytes = payload(number, len(number));
            if bytes.len() <= push.most_at_once() {
                while !push.stage(number, &bytes).unwrap() {
                    std::thread::yield_now();
                }
                push.publish().unwrap();
                continue;
            }
            push.begin(number, bytes.len()).unwrap();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                rest = &rest[push.feed(rest).unwrap()..];
                std::thread::yield_now();
            }
        }
        push.close().unwrap();
    });
    let mut into = Vec::new();
    let mut expected = 0;
    loop {
        match pop.pop(&mut into) {
            Ok(Popped::Message(number)) => {
                assert_eq!((number, &into), (expected, &payload(number, len(number))));
                expected += 1;
            }
            Ok(_) => std::thread::yield_now(),
            Err(RingError::Closed) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((expected, pop.cut_short()), (count, 0));
    sender.join().unwrap();
}
