//! A peer that writes anything over the shared memory while this end works with it: errors or other
//! bytes, but no panic, no access elsewhere, nothing without an end.

use std::io::Write;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::model::payload;
use crate::ring::layout::{CONTROL, Cell, Kind, Memory};
use crate::ring::memory::Mapping;
use crate::ring::{Consumer, Files, LatestConsumer, LatestProducer, MAX_PAYLOAD, Producer};

/// For how long each end is harmed. Everything that it calls comes back in that time, and a bit.
const TIME: Duration = Duration::from_millis(400);

/// Words that look like something more often than by chance.
fn word(rng: &mut TestRng) -> u64 {
    match rng.next_u32() % 6 {
        0 => rng.next_u64(),
        1 => u64::from(rng.next_u32() % 512) * 16,
        2 => u64::from(rng.next_u32() % 8),
        3 => u64::from(rng.next_u32() % 4096) | 1 << 31,
        4 => (u64::from(rng.next_u32() % 64) * 16) | (1 << 31) | (u64::from(rng.next_u32()) << 32),
        _ => 16 | 1 << 31,
    }
}

fn scribble(mapping: &Mapping, rng: &mut TestRng) {
    let cells =
        [Cell::Head, Cell::Tail, Cell::Producer, Cell::Wanted, Cell::Consumer, Cell::Newest];
    let value = word(rng);
    match rng.next_u32() % 4 {
        0 => mapping.store(cells[rng.next_u32() as usize % cells.len()], value),
        // A little more, which may be true.
        1 => {
            mapping.store(Cell::Head, mapping.load(Cell::Head).wrapping_add(value % 512 / 16 * 16))
        }
        _ => {
            let at = rng.next_u32() as usize % mapping.area() / 8 * 8;
            mapping.set_word(at, value).unwrap();
        }
    }
}

/// Lets `work` go on with an end again and again while its memory is changed.
fn harm(files: &Files, kind: Kind, mut work: impl FnMut(Files)) {
    let (mapping, _) = Mapping::open(files.memory.as_fd(), kind).unwrap();
    let until = Instant::now() + TIME;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
            while !done.load(Ordering::Relaxed) {
                for _ in 0..64 {
                    scribble(&mapping, &mut rng);
                }
                thread::yield_now();
            }
        });
        let mut rounds = 0;
        while Instant::now() < until {
            // As it is when a ring is new, so that the end can be opened.
            for cell in [Cell::Head, Cell::Tail, Cell::Producer, Cell::Consumer] {
                mapping.store(cell, 0);
            }
            work(files.try_clone().unwrap());
            rounds += 1;
        }
        done.store(true, Ordering::Relaxed);
        assert!(rounds > 10, "it hung: {rounds}");
    });
}

fn soon() -> Option<Instant> {
    Some(Instant::now() + Duration::from_micros(300))
}

#[test]
fn a_consumer_outlives_its_producer_s_lies() {
    let files = Files::ring(4096).unwrap();
    let mut bytes = Vec::new();
    harm(&files, Kind::Ring, |files| {
        let Ok(mut consumer) = Consumer::open(files) else { return };
        for _ in 0..50 {
            let done = consumer.try_pop(&mut bytes).is_err()
                || consumer.pop_many(5, &mut bytes, |_, _| ()).is_err()
                || consumer.pop(&mut bytes, soon()).is_err();
            assert!(bytes.len() <= MAX_PAYLOAD);
            if done {
                break;
            }
        }
    });
}

#[test]
fn a_producer_outlives_its_consumer_s_lies() {
    let files = Files::ring(4096).unwrap();
    let bytes = payload(1, 20_000);
    harm(&files, Kind::Ring, |files| {
        let Ok(mut producer) = Producer::open(files) else { return };
        for number in 0..50 {
            let len = number as usize * 401 % 900;
            let done = producer.try_push(number, &bytes[..len]).is_err()
                || producer.push(number, &bytes[..len], soon()).is_err()
                || producer.push(number, &bytes, soon()).is_err()
                || producer
                    .push_with(number, bytes.len(), soon(), |it| it.write_all(&bytes))
                    .is_err();
            if done {
                break;
            }
        }
    });
}

#[cfg(feature = "sdk")]
#[test]
fn ends_of_a_stream_outlive_lies() {
    use crate::ring::{ByteConsumer, ByteProducer};
    let files = Files::ring(4096).unwrap();
    let bytes = payload(1, 20_000);
    harm(&files, Kind::Ring, |files| {
        let Ok(mut producer) = ByteProducer::open(files.try_clone().unwrap()) else { return };
        let Ok(mut consumer) = ByteConsumer::open(files) else { return };
        for number in 0..50 {
            let mut into = Vec::new();
            let written = producer.try_write(&bytes[..number * 401]);
            let asked = producer.ask(number * 401);
            let read = consumer.try_read(9000, &mut into);
            // Of one record more than that, which is no longer than the ring.
            assert!(into.len() <= 9000 + 4096);
            if (written.is_err() || asked.is_err()) && read.is_err() {
                break;
            }
        }
    });
}

#[test]
fn ends_of_the_newest_value_outlive_lies() {
    let files = Files::latest(5000).unwrap();
    let mut into = Vec::new();
    harm(&files, Kind::Latest, |files| {
        let Ok(mut producer) = LatestProducer::open(files.try_clone().unwrap()) else { return };
        let Ok(mut consumer) = LatestConsumer::open(files) else { return };
        for number in 0..50 {
            let put = producer.put(number, &[1; 5000]);
            let taken = consumer.take(&mut into, soon());
            assert!(into.len() <= 5000);
            if put.is_err() && taken.is_err() {
                break;
            }
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    /// Any bytes as a whole ring: what comes out is no more than what was in.
    #[test]
    fn any_memory_can_be_read(area in prop::collection::vec(any::<u8>(), 4096), head in 0..5000_u64) {
        let files = Files::ring(4096).unwrap();
        rustix::io::pwrite(&files.memory, &area, CONTROL as u64).unwrap();
        rustix::io::pwrite(&files.memory, &head.to_ne_bytes(), Cell::Head as u64).unwrap();
        let Ok(mut consumer) = Consumer::open(files) else { return Ok(()) };
        let mut bytes = Vec::new();
        let mut all = 0;
        while let Ok(Some(_)) = consumer.try_pop(&mut bytes) {
            all += 16 + bytes.len();
        }
        prop_assert!(all <= 4096);
    }
}
