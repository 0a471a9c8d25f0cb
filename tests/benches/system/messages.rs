//! Messages one way, under `block`: how many arrive in a second, one at a time and in bursts.

use std::os::unix::net::UnixListener;
use std::time::Instant;

use orchestrator_proto::LinkId;
use orchestrator_proto::control::{Policy, Transport};

use crate::actor::Actor;
use crate::relay::Relay;
use crate::sdk::{Numbered, Sender};
use crate::series::{Contender, take_turns};
use crate::stage::Stage;
use crate::table::{Row, Target, Unit};
use crate::wire::{DATA, Data64, Data1024, Dialect, Peer, Through, Wire};
use crate::{Effort, Setting};

/// Bytes of one write in a burst, at most.
const BURST_BYTES: usize = 64 << 10;
/// Messages of 64 B per second, in bursts.
const TARGET: f64 = 2e6;
/// The same over a lane.
const DIRECT: f64 = 15e6;
/// Messages that may wait on a link: the default, and more.
const CAPACITIES: [u32; 2] = [1024, 16 << 10];

pub(crate) fn run(setting: &Setting) -> Vec<Row> {
    let mut rows = measure::<Data64>(setting, 64, "sdk-count-64");
    rows.extend(measure::<Data1024>(setting, 1024, "sdk-count-1024"));
    rows
}

/// How messages are handed over.
#[derive(Clone, Copy)]
struct Way {
    /// Many with each write.
    burst: bool,
    /// How many altogether.
    count: u64,
}

impl Way {
    fn all(effort: Effort, size: usize) -> [Self; 2] {
        let bursts = if size > 64 { (100_000, 20_000) } else { (1_000_000, 200_000) };
        [
            Self { burst: false, count: effort.pick(100_000, 20_000) },
            Self { burst: true, count: effort.pick(bursts.0, bursts.1) },
        ]
    }
}

fn measure<T: Numbered>(setting: &Setting, size: usize, part: &str) -> Vec<Row> {
    let stage = Stage::start();
    let relay = Relay::start(1);
    let mut floor = OneWay::over_relay(&relay, size);
    let mut ours = CAPACITIES.map(|capacity| OneWay::over_daemon(&stage, size, capacity));
    let mut sdk = SdkWay::<T>::new(&stage, part, Transport::Routed);
    let mut bare = OneWay::over_nothing(size);
    let mut direct = SdkWay::<T>::new(&stage, part, Transport::Direct);
    direct.near.settle(|| stage.wait_direct(&[direct.link]));

    let mut rows = Vec::new();
    for way in Way::all(setting.effort, size) {
        let [default, larger] = &mut ours;
        let (floor, sdk) = (&mut floor, &mut sdk);
        let (bare, direct) = (&mut bare, &mut direct);
        let mut contenders: [Contender<'_, 1>; 6] = [
            Box::new(|| floor.measure(way)),
            Box::new(|| default.measure(way)),
            Box::new(|| larger.measure(way)),
            Box::new(|| sdk.measure(way)),
            Box::new(|| bare.measure(way)),
            Box::new(|| direct.measure(way)),
        ];
        let series = take_turns(setting.effort.rounds(), &mut contenders);
        drop(contenders);
        let names = [
            format!("native, capacity {}", CAPACITIES[0]),
            format!("native, capacity {}", CAPACITIES[1]),
            "SDK on tokio".to_owned(),
        ];
        let ours = names.into_iter().zip(&series[1..4]).map(|it| (it, &series[0]));
        let direct = "SDK on tokio, direct; floor: a bare socket pair".to_owned();
        for ((name, [ours]), floor) in ours.chain([((direct, &series[5]), &series[4])]) {
            let is_direct = name.contains("direct");
            let aimed_at = way.burst && size == 64 && (is_direct || name.starts_with("native"));
            rows.push(Row {
                what: format!(
                    "{size} B, {}, {name}",
                    if way.burst { "bursts" } else { "one by one" }
                ),
                regime: setting.regime,
                unit: Unit::Rate,
                ours: ours.clone(),
                floor: Some(floor[0].clone()),
                target: aimed_at.then_some(Target::AtLeast(if is_direct {
                    DIRECT
                } else {
                    TARGET
                })),
            });
        }
    }
    for way in &ours {
        stage.check_nothing_lost(&[way.link.expect("it has a link")], way.sent);
    }
    stage.check_nothing_lost(&[sdk.link], sdk.sent);
    direct.near.settle(|| stage.check_nothing_lost(&[direct.link], direct.sent));
    rows
}

/// Our end, and an actor that counts bytes.
struct OneWay {
    near: Peer,
    counter: Actor,
    messages: Vec<u8>,
    length: usize,
    burst: usize,
    link: Option<LinkId>,
    sent: u64,
}

impl OneWay {
    fn new(near: Peer, counter: Actor, link: Option<LinkId>, size: usize) -> Self {
        let message = Dialect::Native.message(DATA, size, 0);
        let length = message.len();
        let burst = BURST_BYTES / length;
        Self { near, counter, messages: message.repeat(burst), length, burst, link, sent: 0 }
    }

    fn over_relay(relay: &Relay, size: usize) -> Self {
        let wire = Wire::new(Dialect::Native, Through::Relay);
        let near = Peer::connect(wire, &relay.near, Some(DATA), None);
        Self::new(near, Actor::on("count", wire, &relay.far[0]), None, size)
    }

    /// To an actor at the other end of a socket, with nobody in between.
    fn over_nothing(size: usize) -> Self {
        let wire = Wire::new(Dialect::Native, Through::Relay);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bare");
        let listener = UnixListener::bind(&path).unwrap();
        let counter = Actor::on("count", wire, &path);
        let (near, _) = listener.accept().unwrap();
        Self::new(Peer::bare(near), counter, None, size)
    }

    fn over_daemon(stage: &Stage, size: usize, capacity: u32) -> Self {
        let wire = Wire::new(Dialect::Native, Through::Daemon);
        let (from, to) = (stage.seat(), stage.seat());
        let link = stage.link(from, DATA, to, Some(Policy::Block), Some(capacity));
        let counter = Actor::on("count", wire, &stage.socket(to, Dialect::Native));
        let near = stage.socket(from, Dialect::Native);
        let near = Peer::connect(wire, &near, Some(DATA), None);
        Self::new(near, counter, Some(link), size)
    }

    /// Messages delivered per second.
    fn measure(&mut self, way: Way) -> [f64; 1] {
        self.counter.order(way.count * self.length as u64);
        let burst = if way.burst { self.burst } else { 1 };
        let began = Instant::now();
        self.near.send(&self.messages, self.length, way.count, burst);
        self.counter.wait_done();
        self.sent += way.count;
        [way.count as f64 / began.elapsed().as_secs_f64()]
    }
}

/// The same through the SDK, at both ends.
struct SdkWay<T> {
    near: Sender<T>,
    counter: Actor,
    link: LinkId,
    sent: u64,
}

impl<T: Numbered> SdkWay<T> {
    fn new(stage: &Stage, part: &str, transport: Transport) -> Self {
        let (from, to) = (stage.seat(), stage.seat());
        let ends = (from, T::NAME, to);
        let link = stage.link_by(transport, ends, Some(Policy::Block), None);
        Self {
            counter: Actor::with_sdk(part, &stage.socket(to, Dialect::Native)),
            near: Sender::connect(&stage.socket(from, Dialect::Native)),
            link,
            sent: 0,
        }
    }

    fn measure(&mut self, way: Way) -> [f64; 1] {
        self.counter.order(way.count);
        let began = Instant::now();
        self.near.send(way.count, way.burst);
        self.counter.wait_done();
        self.sent += way.count;
        [way.count as f64 / began.elapsed().as_secs_f64()]
    }
}
