//! Both ends on real memory and real eventfds.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use super::model::payload;
use crate::ring::layout::{CONTROL, Cell, Kind, MAGIC};
use crate::ring::memory;
use crate::ring::{
    Consumer, Files, InPlace, LatestConsumer, LatestProducer, MAX_CAPACITY, MAX_PAYLOAD, Producer,
    RingError, Side,
};

/// For what has to come.
pub(super) fn soon() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(60))
}

/// For what will not come.
fn now() -> Option<Instant> {
    Some(Instant::now())
}

pub(super) fn ring(capacity: usize) -> (Files, Producer, Consumer) {
    let files = Files::ring(capacity).unwrap();
    let producer = Producer::open(files.try_clone().unwrap()).unwrap();
    let consumer = Consumer::open(files.try_clone().unwrap()).unwrap();
    (files, producer, consumer)
}

#[test]
fn lengths_from_nothing_to_the_most_pass() {
    let (_files, mut producer, mut consumer) = ring(64 << 10);
    let lengths = [0, 1, 15, 16, 17, 4096, 16 << 10, 16400, 40_000, 1 << 20, MAX_PAYLOAD];
    let sender = thread::spawn(move || {
        for (number, len) in (0..).zip(lengths) {
            // Quick to make, and different from each other.
            let bytes = vec![number as u8 + 1; len];
            assert!(producer.push(number, &bytes, soon()).unwrap());
        }
        let error = producer.push(99, &vec![0; MAX_PAYLOAD + 1], soon()).unwrap_err();
        assert!(matches!(error, RingError::TooLong { most: MAX_PAYLOAD, .. }), "{error}");
    });
    let mut bytes = Vec::new();
    for (number, len) in (0..).zip(lengths) {
        assert_eq!(consumer.pop(&mut bytes, soon()).unwrap(), Some(number));
        assert_eq!(bytes.len(), len);
        assert!(bytes.iter().all(|byte| *byte == number as u8 + 1));
    }
    sender.join().unwrap();
    assert!(matches!(consumer.pop(&mut bytes, soon()), Err(RingError::Closed)));
    assert_eq!(consumer.cut_short(), 0);
}

#[test]
fn a_full_ring_refuses_and_waits_until_its_time() {
    let (_files, mut producer, mut consumer) = ring(4096);
    let bytes = [7; 100];
    let count = (0..).take_while(|number| producer.try_push(*number, &bytes).unwrap()).count();
    assert_eq!(count, 4096 / (16 + 112));
    assert!(!producer.push(99, &bytes, now()).unwrap());
    let error = producer.try_push(99, &[0; 5000]).unwrap_err();
    assert!(matches!(error, RingError::TooLong { most: 4032, .. }), "{error}");
    let mut into = Vec::new();
    let mut numbers = Vec::new();
    let many = consumer.pop_many(10, &mut into, |number, bytes| {
        assert_eq!(bytes, [7; 100]);
        numbers.push(number);
    });
    assert_eq!((many.unwrap(), numbers), (10, (0..10).collect::<Vec<_>>()));
    assert!(producer.push(100, &bytes, now()).unwrap());
    assert_eq!(consumer.pop_many(1000, &mut into, |_, _| ()).unwrap(), count - 10 + 1);
    assert_eq!(consumer.pop(&mut into, now()).unwrap(), None);
}

#[test]
fn what_is_staged_is_seen_when_it_is_published() {
    let (files, mut producer, mut consumer) = ring(4096);
    let mut into = Vec::new();
    assert!(producer.stage(1, b"one").unwrap() && producer.stage(2, b"two").unwrap());
    assert_eq!(consumer.try_pop(&mut into).unwrap(), None);
    producer.publish().unwrap();
    assert_eq!(consumer.try_pop(&mut into).unwrap(), Some(1));
    assert_eq!(consumer.try_pop(&mut into).unwrap(), Some(2));
    assert!(producer.stage(3, b"three").unwrap());
    drop((producer, files));
    assert!(matches!(consumer.try_pop(&mut into), Err(RingError::Closed)));
}

/// Whoever waits for room gets the consumer to make some.
#[test]
fn what_is_staged_is_published_before_waiting() {
    let (_files, mut producer, mut consumer) = ring(4096);
    let taking = thread::spawn(move || {
        let mut into = Vec::new();
        (0..200).all(|number| consumer.pop(&mut into, soon()).unwrap() == Some(number))
    });
    for number in 0..200 {
        if !producer.stage(number, &[7; 200]).unwrap() {
            assert!(producer.push(number, &[7; 200], soon()).unwrap());
        }
    }
    producer.publish().unwrap();
    assert!(taking.join().unwrap());
}

#[test]
fn closing_wakes_the_other_end() {
    let (_files, producer, mut consumer) = ring(4096);
    let waiting = thread::spawn(move || consumer.pop(&mut Vec::new(), soon()));
    drop(producer);
    assert!(matches!(waiting.join().unwrap(), Err(RingError::Closed)));

    let (_files, mut producer, consumer) = ring(4096);
    assert!(producer.try_push(1, &[1; 3000]).unwrap());
    let waiting = thread::spawn(move || producer.push(2, &[2; 2000], soon()));
    drop(consumer);
    assert!(matches!(waiting.join().unwrap(), Err(RingError::Closed)));
}

#[test]
fn who_made_it_can_close_it() {
    let (files, mut producer, mut consumer) = ring(4096);
    assert!(producer.try_push(1, b"before").unwrap());
    let mut into = Vec::new();
    assert_eq!(consumer.pop(&mut into, soon()).unwrap(), Some(1));
    let waiting = thread::spawn(move || (consumer.pop(&mut Vec::new(), soon()), consumer));
    assert!(files.revoke().is_ok());
    let (answer, _consumer) = waiting.join().unwrap();
    assert!(matches!(answer, Err(RingError::Closed)));
    assert!(matches!(producer.try_push(2, b"after"), Err(RingError::Closed)));
    assert!(matches!(Producer::open(files.try_clone().unwrap()), Err(RingError::Taken(_))));
    drop(producer);
    files.vacate(Side::Producer).unwrap();
    assert!(matches!(Producer::open(files), Err(RingError::Closed)));
}

#[test]
fn an_end_is_opened_once_and_again_when_it_is_vacated() {
    let (files, mut producer, mut consumer) = ring(4096);
    assert!(producer.try_push(1, b"one").unwrap());
    for side in [Side::Producer, Side::Consumer] {
        let again = files.try_clone().unwrap();
        let error = match side {
            Side::Producer => Producer::open(again).map(drop),
            Side::Consumer => Consumer::open(again).map(drop),
        };
        assert!(matches!(error, Err(RingError::Taken(taken)) if taken == side));
    }
    // As if they were killed: nothing of them is run any more.
    std::mem::forget((producer, consumer.try_pop(&mut Vec::new())));
    std::mem::forget(consumer);
    files.vacate(Side::Producer).unwrap();
    files.vacate(Side::Consumer).unwrap();
    let mut producer = Producer::open(files.try_clone().unwrap()).unwrap();
    let mut consumer = Consumer::open(files).unwrap();
    assert!(producer.try_push(2, b"two").unwrap());
    assert_eq!(consumer.try_pop(&mut Vec::new()).unwrap(), Some(2));
}

#[test]
fn a_large_ring_takes_the_memory_that_was_used() {
    let (files, mut producer, mut consumer) = ring(MAX_CAPACITY);
    assert!(producer.try_push(1, &[1; 1000]).unwrap());
    assert_eq!(consumer.try_pop(&mut Vec::new()).unwrap(), Some(1));
    let stat = rustix::fs::fstat(&files.memory).unwrap();
    assert!(stat.st_blocks * 512 <= 64 << 10, "{} blocks", stat.st_blocks);
}

#[test]
fn messages_are_written_in_place() {
    let (_files, mut producer, mut consumer) = ring(4096);
    let mut into = Vec::new();
    let value = (7_u32, "text", vec![1.5_f32; 20]);
    let len = postcard::to_stdvec(&value).unwrap().len();
    let write = |place: &mut InPlace<'_>| {
        postcard::to_io(&value, place).map(drop).map_err(std::io::Error::other)
    };
    assert!(producer.try_push_with(1, len, write).unwrap());
    assert_eq!(consumer.try_pop(&mut into).unwrap(), Some(1));
    assert_eq!(into, postcard::to_stdvec(&value).unwrap());
    assert!(producer.try_push_with(2, 0, |_| Ok(())).unwrap());
    assert_eq!((consumer.try_pop(&mut into).unwrap(), into.len()), (Some(2), 0));

    // Not what was announced, and a writer that fails: nothing comes of it.
    let shorter = producer.try_push_with(3, len + 1, write);
    assert!(matches!(shorter, Err(RingError::Write(_))), "{shorter:?}");
    let longer = producer.try_push_with(3, len - 1, write);
    assert!(matches!(longer, Err(RingError::Write(_))), "{longer:?}");
    let failed = producer.push_with(3, 10, soon(), |_| Err(std::io::Error::other("no")));
    assert!(matches!(failed, Err(RingError::Write(_))), "{failed:?}");
    assert_eq!(consumer.try_pop(&mut into).unwrap(), None);

    // No room: at once, or in time.
    let fill = |place: &mut InPlace<'_>| place.write_all(&[4; 3000]);
    assert!(producer.try_push_with(4, 3000, fill).unwrap());
    assert!(!producer.try_push_with(5, 3000, |_| panic!("it is asked for nothing")).unwrap());
    assert!(!producer.push_with(5, 30_000, now(), |place| place.write_all(&[5; 30_000])).unwrap());
    let error = producer.try_push_with(5, 5000, |_| Ok(())).unwrap_err();
    assert!(matches!(error, RingError::TooLong { most: 4032, .. }), "{error}");
    assert_eq!((consumer.try_pop(&mut into).unwrap(), into.len()), (Some(4), 3000));

    // Longer than the ring, in pieces of any length.
    let bytes = payload(6, 100_000);
    let sent = bytes.clone();
    let sender = thread::spawn(move || {
        producer.push_with(6, sent.len(), soon(), |place| {
            sent.chunks(777).try_for_each(|piece| place.write_all(piece))
        })
    });
    assert_eq!(consumer.pop(&mut into, soon()).unwrap(), Some(6));
    assert_eq!(into, bytes);
    assert!(sender.join().unwrap().unwrap());
    assert!(consumer.cut_short() <= 1, "the one without room");
}

#[test]
fn spinning_and_sleeping_change_nothing() {
    for spin in [0, 1, 200].map(Duration::from_micros) {
        let (_files, mut there, mut echo) = ring(4096);
        let (_others, mut back, mut here) = ring(4096);
        there.set_spin(spin);
        echo.set_spin(spin);
        back.set_spin(spin);
        here.set_spin(spin);
        let echoing = thread::spawn(move || {
            let mut bytes = Vec::new();
            while let Ok(Some(number)) = echo.pop(&mut bytes, soon()) {
                assert!(back.push(number, &bytes, soon()).unwrap());
            }
        });
        let mut bytes = Vec::new();
        for number in 0..300 {
            let sent = payload(number, number as usize * 31);
            assert!(there.push(number, &sent, soon()).unwrap());
            assert_eq!(here.pop(&mut bytes, soon()).unwrap(), Some(number));
            assert_eq!(bytes, sent);
        }
        drop(there);
        echoing.join().unwrap();
    }
}

#[test]
fn the_newest_value_is_taken_once() {
    let files = Files::latest(5000).unwrap();
    let mut producer = LatestProducer::open(files.try_clone().unwrap()).unwrap();
    let mut consumer = LatestConsumer::open(files.try_clone().unwrap()).unwrap();
    let mut into = Vec::new();
    assert_eq!(consumer.try_take(&mut into).unwrap(), None);
    assert!(!producer.put(1, b"").unwrap());
    assert_eq!((consumer.try_take(&mut into).unwrap(), &into[..]), (Some(1), &b""[..]));
    assert!(!producer.put(2, &[2; 5000]).unwrap());
    assert!(producer.put(3, &[3; 17]).unwrap(), "nobody took the second");
    assert_eq!((consumer.try_take(&mut into).unwrap(), &into[..]), (Some(3), &[3; 17][..]));
    assert_eq!(consumer.take(&mut into, now()).unwrap(), None);
    assert!(matches!(producer.put(4, &[4; 5001]), Err(RingError::TooLong { most: 5000, .. })));
    assert!(matches!(files.vacate(Side::Consumer), Err(RingError::NotARing(_))));

    let waiting = thread::spawn(move || {
        let mut last = 0;
        loop {
            match consumer.take(&mut into, soon()) {
                Ok(Some(number)) => {
                    assert!(number > last);
                    assert_eq!(into, payload(number, 3000));
                    last = number;
                }
                Err(RingError::Closed) => return last,
                other => panic!("{other:?}"),
            }
        }
    });
    for number in 1..=3000 {
        producer.put(number, &payload(number, 3000)).unwrap();
    }
    drop(producer);
    assert_eq!(waiting.join().unwrap(), 3000);
}

/// All that is not the file of a ring, or not of this one, is told from it.
#[test]
fn other_files_are_refused() {
    let good = Files::ring(4096).unwrap();
    let with = |memory: OwnedFd| {
        let mut files = good.try_clone().unwrap();
        files.memory = memory;
        files
    };
    let refused = |files: Files| Consumer::open(files).map(drop).unwrap_err();
    let not_sealed = rustix::fs::MemfdFlags::CLOEXEC;
    let not_sealed = rustix::fs::memfd_create("other", not_sealed).unwrap();
    rustix::fs::ftruncate(&not_sealed, 8192).unwrap();
    for memory in
        [not_sealed, File::open("/dev/null").unwrap().into(), tempfile::tempfile().unwrap().into()]
    {
        assert!(matches!(refused(with(memory)), RingError::NotSealed));
    }
    for (area, size) in
        [(4096, 8192), (4096, 0), (12288, 12288), (0, 0), (4096, usize::MAX), (16, 16)]
    {
        let memory = memory::make(Kind::Ring, area, size).unwrap();
        assert!(matches!(refused(with(memory)), RingError::NotARing(_)), "{area} {size}");
    }
    let latest = || memory::make(Kind::Latest, 12288, 100).unwrap();
    assert!(matches!(refused(with(latest())), RingError::NotARing(_)));
    assert!(LatestConsumer::open(with(latest())).is_ok());
    assert!(LatestConsumer::open(good.try_clone().unwrap()).is_err());
    for size in [100_000, usize::MAX, MAX_PAYLOAD + 1] {
        let memory = memory::make(Kind::Latest, 12288, size).unwrap();
        assert!(matches!(LatestProducer::open(with(memory)), Err(RingError::NotARing(_))));
    }
    for (at, word) in [(Cell::Magic, MAGIC + 1), (Cell::Kind, Kind::Ring.word() + 1)] {
        let memory = memory::make(Kind::Ring, 4096, 4096).unwrap();
        rustix::io::pwrite(&memory, &word.to_ne_bytes(), at as u64).unwrap();
        assert!(matches!(refused(with(memory)), RingError::NotARing(_)));
    }
    for head in [8, 8192, u64::MAX - 15] {
        let memory = memory::make(Kind::Ring, 4096, 4096).unwrap();
        rustix::io::pwrite(&memory, &head.to_ne_bytes(), Cell::Head as u64).unwrap();
        assert!(matches!(refused(with(memory)), RingError::Broken(_)), "{head}");
    }
    // An eventfd that would wait.
    let mut files = Files::ring(4096).unwrap();
    files.data = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    assert!(matches!(refused(files), RingError::NotARing(_)));
}

#[test]
fn capacities_have_bounds() {
    for capacity in [0, 1, 2048, 5000, 3 << 20, MAX_CAPACITY * 2, usize::MAX] {
        assert!(matches!(Files::ring(capacity), Err(RingError::BadCapacity(_))), "{capacity}");
    }
    assert!(matches!(Files::latest(MAX_PAYLOAD + 1), Err(RingError::TooLong { .. })));
    assert!(Files::latest(0).is_ok() && Files::latest(MAX_PAYLOAD).is_ok());
}

/// Nobody can make the file shorter under who has mapped it.
#[test]
fn the_file_stays_as_long_as_it_is() {
    let files = Files::ring(4096).unwrap();
    for len in [0, CONTROL, 1 << 20] {
        assert!(rustix::fs::ftruncate(&files.memory, len as u64).is_err());
    }
}

/// What `RING.md` says of the memory, for those who write an end in another language.
#[test]
fn the_memory_is_as_it_is_described() {
    let (files, mut producer, mut consumer) = ring(4096);
    assert!(producer.try_push(7, b"ahead").unwrap());
    assert!(producer.push(8, &[5; 1500], soon()).unwrap());
    assert_eq!(consumer.try_pop(&mut Vec::new()).unwrap(), Some(7));
    let word = |at: u64| {
        let mut word = [0; 8];
        assert_eq!(rustix::io::pread(&files.memory, &mut word, at).unwrap(), 8);
        u64::from_ne_bytes(word)
    };
    assert_eq!(word(0).to_le_bytes(), *b"orchring");
    assert_eq!([word(8), word(16)], [1 | 1 << 32, 4096]);
    let head = 32 + (16 + 1008) + (16 + 496);
    assert_eq!([word(128), word(256)], [head, 32]);
    assert_eq!([word(384), word(512)], [1, 1], "both are open and awake");
    assert_eq!([word(4096), word(4104)], [5 | 1 << 31, 7]);
    assert_eq!(&word(4112).to_ne_bytes()[..5], b"ahead");
    assert_eq!([word(4128), word(4136)], [1008 | 1 << 31 | 492 << 32, 8]);
    assert_eq!([word(4128 + 1024), word(4136 + 1024)], [492, 8]);
    assert_eq!(consumer.try_pop(&mut Vec::new()).unwrap(), Some(8));
    assert!(consumer.half.sleep());
    assert_eq!([word(256), word(512)], [head, 3]);
    drop(producer);
    assert_eq!(word(384), 5);

    let files = Files::latest(100).unwrap();
    let mut producer = LatestProducer::open(files.try_clone().unwrap()).unwrap();
    assert!(!producer.put(9, b"newest").unwrap());
    let mut all = [0; 4096 * 4];
    assert_eq!(rustix::io::pread(&files.memory, &mut all, 0).unwrap(), all.len());
    assert_eq!(all[8..24], [[1, 0, 0, 0, 2, 0, 0, 0], 100_u64.to_ne_bytes()].concat());
    assert_eq!(all[640..648], (4_u64 + 1).to_ne_bytes());
    let slot = &all[4096 * 2..];
    assert_eq!(slot[..16], [6_u64.to_ne_bytes(), 9_u64.to_ne_bytes()].concat());
    assert_eq!(&slot[16..22], b"newest");
}
