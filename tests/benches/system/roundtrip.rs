//! A message and its answer: how long the daemon stands between two instances.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Instant;

use orchestrator_proto::control::Transport;
use orchestrator_proto::{InstanceId, LinkId};

use crate::Setting;
use crate::actor::Actor;
use crate::relay::Relay;
use crate::sdk::Pinger;
use crate::series::{Contender, Times, take_turns};
use crate::stage::Stage;
use crate::table::{Row, Target, Unit};
use crate::wire::{Dialect, PING, PONG, Peer, ROUNDTRIP_SIZE, Through, Wire};

/// What the two daemon's dialects may cost, as a ratio to the relay.
const TARGET: f64 = 1.3;
/// What a lane may cost, as a ratio to the bare socket.
const DIRECT: f64 = 1.1;

pub(crate) fn run(setting: &Setting) -> Vec<Row> {
    let count = setting.effort.pick(5000, 1500);
    let stage = Stage::start();
    let dialects = [Dialect::Native, Dialect::Veecle];

    let relays = [Relay::start(1), Relay::start(1)];
    let mut floors: Vec<Pair> = relays
        .iter()
        .zip(dialects)
        .map(|(relay, dialect)| {
            let wire = Wire::new(dialect, Through::Relay);
            // The relay takes the near end first.
            let near = Peer::connect(wire, &relay.near, None, None).stream;
            Pair::new(wire, near, &relay.far[0])
        })
        .collect();
    let mut daemons: Vec<Pair> = dialects
        .map(|dialect| {
            let wire = Wire::new(dialect, Through::Daemon);
            let (a, b) = seats(&stage);
            let near = stage.socket(a, dialect);
            let near = Peer::connect(wire, &near, Some(PING), Some(PONG)).stream;
            Pair::new(wire, near, &stage.socket(b, dialect))
        })
        .into();
    let mut bare = bare();
    let (_echo, mut pinger, _) = sdk(&stage, Transport::Routed);
    let (_direct_echo, mut direct, links) = sdk(&stage, Transport::Direct);
    direct.roundtrips(1, || {});
    direct.settle(|| stage.wait_direct(&links));

    let mut contenders: Vec<Contender<'_, 2>> = Vec::new();
    for (floor, ours) in floors.iter_mut().zip(&mut daemons) {
        contenders.push(Box::new(move || floor.measure(count)));
        contenders.push(Box::new(move || ours.measure(count)));
    }
    contenders.push(Box::new(move || measure_sdk(&mut pinger, count)));
    contenders.push(Box::new(move || bare.measure(count)));
    contenders.push(Box::new(move || measure_sdk(&mut direct, count)));
    let series = take_turns(setting.effort.rounds(), &mut contenders);

    let (native_floor, sdk) = (&series[0], &series[4]);
    let lines = [
        ("native", &series[1], native_floor, Some(TARGET)),
        ("Veecle", &series[3], &series[2], Some(TARGET)),
        ("SDK on tokio", sdk, native_floor, None),
        ("SDK on tokio, direct; floor: a bare socket pair", &series[6], &series[5], Some(DIRECT)),
    ];
    let mut rows = Vec::new();
    for (name, ours, floor, target) in lines {
        for (percentile, ours, floor) in
            [("p50", &ours[0], &floor[0]), ("p99", &ours[1], &floor[1])]
        {
            let aimed_at = percentile == "p50" && setting.regime == crate::Regime::Pinned;
            rows.push(Row {
                what: format!("round trip, {name}, {percentile}"),
                regime: setting.regime,
                unit: Unit::Time,
                ours: ours.clone(),
                floor: Some(floor.clone()),
                target: target.filter(|_| aimed_at).map(Target::Ratio),
            });
        }
    }
    rows
}

/// Two instances that are linked both ways.
fn seats(stage: &Stage) -> (InstanceId, InstanceId) {
    let (a, b) = (stage.seat(), stage.seat());
    stage.link(a, PING, b, None, None);
    stage.link(b, PONG, a, None, None);
    (a, b)
}

/// The same with the SDK at both ends.
fn sdk(stage: &Stage, transport: Transport) -> (Actor, Pinger, [LinkId; 2]) {
    let (a, b) = (stage.seat(), stage.seat());
    let links = [(a, PING, b), (b, PONG, a)].map(|ends| stage.link_by(transport, ends, None, None));
    let echo = Actor::with_sdk("sdk-echo", &stage.socket(b, Dialect::Native));
    (echo, Pinger::connect(&stage.socket(a, Dialect::Native)), links)
}

/// An actor at the other end of a socket, and nobody in between.
fn bare() -> Pair {
    let wire = Wire::new(Dialect::Native, Through::Relay);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bare");
    let listener = UnixListener::bind(&path).unwrap();
    // It connects into the backlog.
    let ping = wire.dialect.message(PING, ROUNDTRIP_SIZE, 0);
    let echo = Actor::on("echo", wire, &path);
    let (near, _) = listener.accept().unwrap();
    Pair { near, pong: ping.clone(), ping, _echo: echo }
}

/// Our end, and an actor that echoes.
struct Pair {
    near: UnixStream,
    ping: Vec<u8>,
    pong: Vec<u8>,
    _echo: Actor,
}

impl Pair {
    fn new(wire: Wire, near: UnixStream, far: &std::path::Path) -> Self {
        let ping = wire.dialect.message(PING, ROUNDTRIP_SIZE, 0);
        Self { near, pong: ping.clone(), ping, _echo: Actor::on("echo", wire, far) }
    }

    fn measure(&mut self, count: usize) -> [f64; 2] {
        let mut times = Times::with_capacity(count);
        for _ in 0..count {
            let began = Instant::now();
            self.near.write_all(&self.ping).unwrap();
            self.near.read_exact(&mut self.pong).unwrap();
            times.push(began.elapsed());
        }
        times.p50_p99()
    }
}

fn measure_sdk(pinger: &mut Pinger, count: usize) -> [f64; 2] {
    let mut times = Times::with_capacity(count);
    let mut began = Instant::now();
    pinger.roundtrips(count, || {
        times.push(began.elapsed());
        began = Instant::now();
    });
    times.p50_p99()
}
