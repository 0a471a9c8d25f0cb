//! Shared memory between two processes, without a daemon: the ring of orchestrator-proto beside
//! what is the least of its kind, a ring that checks nothing and sleeps never; beside a socket
//! pair; and beside iceoryx2, if this was built with `--features rivals`.
//!
//! All do the same work: a message begins in a buffer of the sender and ends in one of the receiver.

use std::time::{Duration, Instant};

use orchestrator_proto::ring::{Consumer, Files, Producer};

use crate::actor::{self, Actor};
use crate::pipe::{Bare, Far, Near, Pipe, Sockets};
use crate::series::{Contender, Series, Times, take_turns};
use crate::table::{Row, Target, Unit};
use crate::{Effort, Regime, Setting};

pub(crate) const NOTE: &str = "\
Every message begins in a buffer of the sender's and ends in one of the receiver's. Spinning, both
ends keep a processor busy; sleeping, they wait for an eventfd. Floors: a ring in shared memory that
checks nothing and only spins, and a socket pair, which only sleeps. iceoryx2 publishes and
subscribes, spinning; `in place` it is read, and echoed, without a copy out of its memory.";

/// Bytes of a message.
const SIZES: [usize; 6] = [32, 1 << 10, 16 << 10, 64 << 10, 1 << 20, 4 << 20];
/// Longer than any wait here.
pub(crate) const SPIN: Duration = Duration::from_secs(1);
/// Of the ring: long messages are copied fastest through as much as does not fit a core's own
/// cache, from which another one takes them slowly.
pub(crate) const CAPACITY: usize = 1 << 20;

/// The ring, both ways.
pub(crate) struct Ring {
    producer: Producer,
    consumer: Consumer,
}

impl Ring {
    pub(crate) fn new(out: Files, back: Files, spin: Duration) -> Self {
        let mut producer = Producer::open(out).unwrap();
        let mut consumer = Consumer::open(back).unwrap();
        producer.set_spin(spin);
        consumer.set_spin(spin);
        // The first use of a page is not what is measured.
        producer.populate().unwrap();
        consumer.populate().unwrap();
        Self { producer, consumer }
    }
}

impl Pipe for Ring {
    fn send(&mut self, bytes: &[u8]) {
        assert!(self.producer.push(0, bytes, None).unwrap());
    }

    fn receive(&mut self, into: &mut Vec<u8>) {
        self.consumer.pop(into, None).unwrap();
    }

    fn send_many(&mut self, bytes: &[u8], count: usize) {
        for number in 0..count as u64 {
            match self.producer.stage(number, bytes) {
                Ok(true) if number % 64 != 63 => {}
                Ok(true) => self.producer.publish().unwrap(),
                // All of it, when there is room.
                _ => assert!(self.producer.push(number, bytes, None).unwrap()),
            }
        }
        self.producer.publish().unwrap();
    }

    fn receive_many(&mut self, into: &mut Vec<u8>, count: usize) {
        let mut left = count;
        while left > 0 {
            left -= self.consumer.pop_many(left.min(64), into, |_, _| ()).unwrap();
            if left > 0 {
                self.consumer.pop(into, None).unwrap();
                left -= 1;
            }
        }
    }
}

/// The parts of other processes.
pub(crate) fn play(parts: &[&str]) -> bool {
    let ["ring", what, kind, size, path] = *parts else { return false };
    let size = size.parse().unwrap();
    let far = Far::connect(path);
    let mut pipe: Box<dyn Pipe> = match kind {
        "spin" | "sleep" => {
            let spin = if kind == "spin" { SPIN } else { Duration::ZERO };
            let [out, back] = [far.files(), far.files()].map(Files::from_fds);
            Box::new(Ring::new(back, out, spin))
        }
        "bare" => {
            let [out, back] = [far.files(), far.files()];
            Box::new(Bare::new(&back[0], &out[0], size))
        }
        "sockets" => Box::new(Sockets(far.0)),
        #[cfg(feature = "rivals")]
        "iceoryx2" | "in-place" => {
            Box::new(crate::iceoryx::Iceoryx::far(path, size, kind == "in-place"))
        }
        other => panic!("{other:?} is no pipe"),
    };
    actor::say_ready();
    let mut bytes = vec![0; size];
    for count in actor::orders() {
        match what {
            "echo" => (0..count).for_each(|_| pipe.echo(&mut bytes)),
            _ => pipe.receive_many(&mut bytes, count as usize),
        }
        actor::say_done();
    }
    true
}

/// What is compared.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Kind(&'static str);

impl Kind {
    const SPIN: Self = Self("spin");
    const SLEEP: Self = Self("sleep");
    const BARE: Self = Self("bare");
    const SOCKETS: Self = Self("sockets");
    #[cfg(feature = "rivals")]
    const ICEORYX: [Self; 2] = [Self("iceoryx2"), Self("in-place")];
    #[cfg(not(feature = "rivals"))]
    const ICEORYX: [Self; 0] = [];

    const fn name(self) -> &'static str {
        match self.0.as_bytes() {
            b"spin" => "ring, spinning",
            b"sleep" => "ring, sleeping",
            b"bare" => "bare ring",
            b"sockets" => "socket pair",
            b"in-place" => "iceoryx2 in place",
            _ => "iceoryx2",
        }
    }

    /// Both ends: ours, and a process in this part.
    fn open(self, what: &str, size: usize) -> (Box<dyn Pipe>, Actor) {
        let near = Near::new();
        let path = near.path().to_owned();
        let size_text = size.to_string();
        let mut actor = Actor::start("ring", [what, self.0, &size_text, path.to_str().unwrap()]);
        let pipe: Box<dyn Pipe> = match self.0 {
            "spin" | "sleep" => {
                let spin = if self == Self::SPIN { SPIN } else { Duration::ZERO };
                let [out, back] = [(); 2].map(|()| Files::ring(CAPACITY).unwrap());
                let far = near.accept();
                far.give(&out.as_fds());
                far.give(&back.as_fds());
                Box::new(Ring::new(out, back, spin))
            }
            "bare" => {
                let [out, back] = [(); 2].map(|()| Bare::file(size));
                let far = near.accept();
                for file in [&out, &back] {
                    let file = std::os::fd::AsFd::as_fd(file);
                    far.give(&[file; 3]);
                }
                Box::new(Bare::new(&out, &back, size))
            }
            "sockets" => Box::new(Sockets(near.accept().0)),
            #[cfg(feature = "rivals")]
            _ => {
                let pipe = crate::iceoryx::Iceoryx::near(&path, size);
                near.accept();
                Box::new(pipe)
            }
            #[cfg(not(feature = "rivals"))]
            other => panic!("{other:?} is no pipe"),
        };
        actor.wait_ready();
        (pipe, actor)
    }
}

pub(crate) fn run(setting: &Setting) -> Vec<Row> {
    let mut rows = Vec::new();
    for size in SIZES {
        rows.extend(roundtrips(setting, size));
    }
    for size in SIZES {
        rows.extend(throughput(setting, size));
    }
    rows
}

/// Who takes part: nobody can spin where all share one core.
fn kinds(regime: Regime) -> Vec<Kind> {
    match regime {
        Regime::Pinned => vec![Kind::SLEEP, Kind::SOCKETS],
        Regime::Free | Regime::Apart | Regime::Spinning => {
            let all = [Kind::SPIN, Kind::BARE, Kind::SLEEP, Kind::SOCKETS];
            all.into_iter().chain(Kind::ICEORYX).collect()
        }
    }
}

/// So that each round takes about as long whatever the size is.
fn count(effort: Effort, size: usize) -> usize {
    let bytes = effort.pick(96_usize, 24) << 20;
    (bytes / size).clamp(effort.pick(30, 10), effort.pick(5000, 1500))
}

/// Who is compared with whom, of those who are there.
fn compared(kinds: &[Kind]) -> Vec<(usize, usize)> {
    let at = |kind: Kind| kinds.iter().position(|it| *it == kind);
    let mut pairs = vec![(Kind::SLEEP, Kind::SOCKETS), (Kind::SPIN, Kind::BARE)];
    pairs.extend(Kind::ICEORYX.map(|iceoryx| (Kind::SPIN, iceoryx)));
    pairs.into_iter().filter_map(|(ours, floor)| Some((at(ours)?, at(floor)?))).collect()
}

fn roundtrips(setting: &Setting, size: usize) -> Vec<Row> {
    let count = count(setting.effort, size);
    let kinds = kinds(setting.regime);
    let mut opened: Vec<_> = kinds.iter().map(|kind| kind.open("echo", size)).collect();
    let mut contenders: Vec<Contender<'_, 2>> = Vec::new();
    for (pipe, echo) in &mut opened {
        let mut bytes = vec![7; size];
        contenders.push(Box::new(move || {
            let mut times = Times::with_capacity(count);
            echo.order(count as u64);
            for _ in 0..count {
                let began = Instant::now();
                pipe.send(&bytes);
                pipe.receive(&mut bytes);
                times.push(began.elapsed());
                assert_eq!(bytes.len(), size);
            }
            echo.wait_done();
            times.p50_p99()
        }));
    }
    let series = take_turns(setting.effort.rounds(), &mut contenders);
    let mut rows = Vec::new();
    for (ours, floor) in compared(&kinds) {
        for (at, percentile) in ["p50", "p99"].into_iter().enumerate() {
            let is_first = percentile == "p50" && kinds[ours] == Kind::SPIN;
            let target = match size {
                _ if !is_first => None,
                _ if kinds[floor].0 == "iceoryx2" => Some(Target::Ratio(1.0)),
                _ if kinds[floor] != Kind::BARE => None,
                32 => Some(Target::AtMost(1e-6)),
                size if size == 4 << 20 => Some(Target::AtMost(0.9e-3)),
                _ => None,
            };
            rows.push(Row {
                what: format!(
                    "{}, {}, {percentile}; {}",
                    say(size),
                    pair(&kinds, ours),
                    kinds[floor].name()
                ),
                regime: setting.regime,
                unit: Unit::Time,
                ours: series[ours][at].clone(),
                floor: Some(series[floor][at].clone()),
                target,
            });
        }
    }
    rows
}

fn pair(kinds: &[Kind], at: usize) -> &'static str {
    kinds[at].name()
}

fn throughput(setting: &Setting, size: usize) -> Vec<Row> {
    // More than there is room for, so that it is the rate at which messages arrive.
    let count = count(setting.effort, size) * if size < 1 << 10 { 40 } else { 4 };
    let kinds = kinds(setting.regime);
    let mut opened: Vec<_> = kinds.iter().map(|kind| kind.open("sink", size)).collect();
    let mut contenders: Vec<Contender<'_, 1>> = Vec::new();
    for (pipe, sink) in &mut opened {
        let bytes = vec![7; size];
        contenders.push(Box::new(move || {
            sink.order(count as u64);
            let began = Instant::now();
            pipe.send_many(&bytes, count);
            sink.wait_done();
            [count as f64 / began.elapsed().as_secs_f64()]
        }));
    }
    let series = take_turns(setting.effort.rounds(), &mut contenders);
    let large = size >= 64 << 10;
    let figure = |series: &[Series; 1]| match large {
        true => series[0].times(size as f64),
        false => series[0].clone(),
    };
    let row = |(ours, floor): (usize, usize)| Row {
        what: format!("{} one way, {}; {}", say(size), kinds[ours].name(), kinds[floor].name()),
        regime: setting.regime,
        unit: if large { Unit::Throughput } else { Unit::Rate },
        ours: figure(&series[ours]),
        floor: Some(figure(&series[floor])),
        target: (large && kinds[ours] == Kind::SPIN && kinds[floor] == Kind::BARE)
            .then_some(Target::AtLeast(8e9)),
    };
    compared(&kinds).into_iter().map(row).collect()
}

fn say(size: usize) -> String {
    match size {
        size if size >= 1 << 20 => format!("{} MiB", size >> 20),
        size if size >= 1 << 10 => format!("{} KiB", size >> 10),
        size => format!("{size} B"),
    }
}
