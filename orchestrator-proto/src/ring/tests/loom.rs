//! All orders in which two threads can see what the other one does, as far as loom can make them:
//! no message is lost, torn or seen before it was published, and nobody sleeps for ever.

use loom::sync::Arc;
use loom::sync::Notify;
use loom::sync::atomic::{AtomicU64, Ordering, fence};
use loom::thread;

use crate::ring::RingError;
use crate::ring::latest::{self, Reader, Writer};
use crate::ring::layout::{Bell, Cell, Memory, OUTSIDE};
use crate::ring::pop::{Popped, Popper};
use crate::ring::push::Pusher;
use crate::ring::record::Around;

/// The cells in use, and the area.
struct Words([AtomicU64; 6], Vec<AtomicU64>, usize);

/// Memory whose every access is one that loom knows of.
#[derive(Clone)]
struct Modelled(Arc<Words>);

impl Modelled {
    /// `area` is what it says to have, of which only so many words are used.
    fn new(area: usize, used: usize) -> Self {
        let cells = std::array::from_fn(|_| AtomicU64::new(0));
        Self(Arc::new(Words(cells, (0..used).map(|_| AtomicU64::new(0)).collect(), area)))
    }

    fn cell(&self, cell: Cell) -> &AtomicU64 {
        let at = match cell {
            Cell::Head => 0,
            Cell::Tail => 1,
            Cell::Producer => 2,
            Cell::Wanted => 3,
            Cell::Consumer => 4,
            Cell::Newest => 5,
            Cell::Magic | Cell::Kind | Cell::Size => panic!("there is no header"),
        };
        &self.0.0[at]
    }

    /// Slots are whole pages; of each, the first words are there.
    fn at(&self, at: usize) -> Result<&AtomicU64, RingError> {
        let (page, word) = (at / 4096, at % 4096 / 8);
        self.0.1.get(page * 3 + word).ok_or(OUTSIDE)
    }
}

impl Memory for Modelled {
    fn load(&self, cell: Cell) -> u64 {
        self.cell(cell).load(Ordering::Acquire)
    }

    fn store(&self, cell: Cell, value: u64) {
        self.cell(cell).store(value, Ordering::Release);
    }

    fn swap(&self, cell: Cell, value: u64) -> u64 {
        self.cell(cell).swap(value, Ordering::AcqRel)
    }

    fn set(&self, cell: Cell, bits: u64) -> u64 {
        self.cell(cell).fetch_or(bits, Ordering::AcqRel)
    }

    fn clear(&self, cell: Cell, bits: u64) -> u64 {
        self.cell(cell).fetch_and(!bits, Ordering::AcqRel)
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    fn area(&self) -> usize {
        self.0.2
    }

    fn word(&self, at: usize) -> Result<u64, RingError> {
        Ok(self.at(at)?.load(Ordering::Relaxed))
    }

    fn set_word(&self, at: usize, value: u64) -> Result<(), RingError> {
        self.at(at)?.store(value, Ordering::Relaxed);
        Ok(())
    }

    /// Whole words only.
    fn copy_in(&self, at: usize, bytes: &[u8]) -> Result<(), RingError> {
        for (n, word) in bytes.chunks_exact(8).enumerate() {
            self.set_word(at + 8 * n, u64::from_ne_bytes(word.try_into().unwrap()))?;
        }
        Ok(())
    }

    fn copy_out(&self, at: usize, len: usize, into: &mut Vec<u8>) -> Result<(), RingError> {
        for n in 0..len / 8 {
            into.extend(self.word(at + 8 * n)?.to_ne_bytes());
        }
        Ok(())
    }
}

/// An eventfd.
#[derive(Clone)]
struct Event(Arc<Notify>);

impl Event {
    fn new() -> Self {
        Self(Arc::new(Notify::new()))
    }
}

impl Bell for Event {
    fn ring(&self) -> Result<(), RingError> {
        self.0.notify();
        Ok(())
    }
}

fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    // Interruptions of a thread that could go on. With 3, which `LOOM_MAX_PREEMPTIONS=3` asks for,
    // it takes minutes; nearly all faults show with 2.
    builder.preemption_bound.get_or_insert(2);
    builder.check(check);
}

const SIZE: usize = 64;

/// A consumer that sleeps whenever there is nothing, a producer that sleeps when there is no room:
/// the ring has room for two of these messages.
fn pass(count: u64, size: usize) {
    let memory = Modelled::new(SIZE, SIZE / 8);
    let (data, room) = (Event::new(), Event::new());
    let mut pop = Popper::new(Around::new(memory.clone()).unwrap(), room.clone()).unwrap();
    let mut push = Pusher::new(Around::new(memory).unwrap(), data.clone()).unwrap();
    let sender = thread::spawn(move || {
        for number in 0..count {
            let bytes = number.to_ne_bytes().repeat(size / 8);
            let mut rest = &bytes[..];
            let parts = !push.fits_half(size);
            if parts {
                push.begin(number, size).unwrap();
            }
            loop {
                if parts {
                    rest = &rest[push.feed(rest).unwrap()..];
                    if rest.is_empty() {
                        break;
                    }
                } else if push.stage(number, &bytes).unwrap() {
                    push.publish().unwrap();
                    break;
                }
                if push.sleep(push.wanted(rest.len())).unwrap() {
                    room.0.wait();
                    push.awake();
                }
            }
        }
        push.close().unwrap();
    });
    let mut into = Vec::new();
    let mut expected = 0;
    loop {
        match pop.pop(&mut into) {
            Ok(Popped::Message(number)) => {
                assert_eq!((number, &into), (expected, &number.to_ne_bytes().repeat(size / 8)));
                expected += 1;
                continue;
            }
            Ok(_) => {}
            Err(RingError::Closed) => break,
            Err(error) => panic!("{error}"),
        }
        if pop.sleep() {
            data.0.wait();
            pop.awake();
        }
    }
    assert_eq!((expected, pop.cut_short()), (count, 0));
    sender.join().unwrap();
}

#[test]
fn a_message_wakes_who_waits_for_it() {
    model(|| pass(1, 8));
}

#[test]
fn messages_go_through_a_ring_that_is_full() {
    model(|| pass(3, 8));
}

#[test]
fn a_message_goes_through_in_parts() {
    model(|| pass(1, 48));
}

/// As [`pass`], for a stream of bytes.
fn stream(len: usize) {
    let memory = Modelled::new(SIZE, SIZE / 8);
    let (data, room) = (Event::new(), Event::new());
    let mut pop = Popper::new(Around::new(memory.clone()).unwrap(), room.clone()).unwrap();
    let mut push = Pusher::new(Around::new(memory).unwrap(), data.clone()).unwrap();
    let bytes: Vec<u8> = (0..len as u8).collect();
    let sent = bytes.clone();
    let sender = thread::spawn(move || {
        let mut rest = &sent[..];
        loop {
            rest = &rest[push.write(rest).unwrap()..];
            if rest.is_empty() {
                break;
            }
            if push.sleep(push.wanted(rest.len())).unwrap() {
                room.0.wait();
                push.awake();
            }
        }
        push.close().unwrap();
    });
    let mut read = Vec::new();
    loop {
        match pop.read(usize::MAX, &mut read) {
            Ok(0) if pop.sleep() => {
                data.0.wait();
                pop.awake();
            }
            Ok(_) => {}
            Err(RingError::Closed) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(read, bytes);
    sender.join().unwrap();
}

#[test]
fn bytes_go_through_a_ring_that_is_full() {
    model(|| stream(40));
}

#[test]
fn what_is_newest_is_whole() {
    model(|| {
        // Three slots of two words and a value of one.
        let memory = Modelled::new(latest::SLOTS * latest::stride(8), 9);
        let data = Event::new();
        let mut reader = Reader::new(memory.clone(), 8).unwrap();
        let mut writer = Writer::new(memory, 8, data.clone()).unwrap();
        // Does not close, which would wake a reader that was forgotten.
        let sender = thread::spawn(move || {
            (1..=2_u64).filter(|number| writer.put(*number, &number.to_ne_bytes()).unwrap()).count()
        });
        let mut into = Vec::new();
        let (mut last, mut count) = (0, 0);
        while last < 2 {
            if let Some(number) = reader.take(&mut into).unwrap() {
                assert_eq!(into, number.to_ne_bytes());
                assert!(number > last);
                (last, count) = (number, count + 1);
            } else if reader.sleep() {
                data.0.wait();
                reader.awake();
            }
        }
        assert_eq!(count + sender.join().unwrap(), 2, "what was missed is known");
    });
}
