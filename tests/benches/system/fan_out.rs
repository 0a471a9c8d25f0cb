//! Messages to many receivers at once.

use std::time::Instant;

use orchestrator_proto::control::Policy;

use crate::Setting;
use crate::actor::Actor;
use crate::relay::Relay;
use crate::series::{Contender, take_turns};
use crate::stage::Stage;
use crate::table::{Row, Unit};
use crate::wire::{DATA, Dialect, Peer, Through, Wire};

const RECEIVERS: usize = 8;
const SIZE: usize = 64;
/// Messages of one write, at most.
const BURST: usize = 900;

pub(crate) fn run(setting: &Setting) -> Vec<Row> {
    let count = setting.effort.pick(200_000, 40_000);
    let wire = Wire::new(Dialect::Native, Through::Relay);
    let relay = Relay::start(RECEIVERS);
    // The relay takes its sockets in their order, whenever they were connected.
    let counters = relay.far.iter().map(|far| Actor::on("count", wire, far));
    let mut floor = Fan {
        counters: counters.collect(),
        near: Peer::connect(wire, &relay.near, Some(DATA), None),
    };

    let stage = Stage::start();
    let wire = Wire::new(Dialect::Native, Through::Daemon);
    let from = stage.seat();
    let receivers: Vec<_> = (0..RECEIVERS).map(|_| stage.seat()).collect();
    let link = |to: &_| stage.link(from, DATA, *to, Some(Policy::Block), None);
    let links: Vec<_> = receivers.iter().map(link).collect();
    let socket = |to: &_| stage.socket(*to, Dialect::Native);
    let mut ours = Fan {
        counters: receivers.iter().map(|to| Actor::on("count", wire, &socket(to))).collect(),
        near: Peer::connect(wire, &socket(&from), Some(DATA), None),
    };

    let rounds = setting.effort.rounds();
    let mut contenders: [Contender<'_, 1>; 2] =
        [Box::new(|| floor.measure(count)), Box::new(|| ours.measure(count))];
    let series = take_turns(rounds, &mut contenders);
    stage.check_nothing_lost(&links, (rounds as u64 + 1) * count);
    vec![Row {
        what: format!("1 to {RECEIVERS}, {SIZE} B, bursts"),
        regime: setting.regime,
        unit: Unit::Rate,
        ours: series[1][0].clone(),
        floor: Some(series[0][0].clone()),
        target: None,
    }]
}

/// Our end, and those that count bytes.
struct Fan {
    near: Peer,
    counters: Vec<Actor>,
}

impl Fan {
    /// Messages delivered per second, to all together.
    fn measure(&mut self, count: u64) -> [f64; 1] {
        let message = Dialect::Native.message(DATA, SIZE, 0);
        let length = message.len();
        for counter in &mut self.counters {
            counter.order(count * length as u64);
        }
        let messages = message.repeat(BURST);
        let began = Instant::now();
        self.near.send(&messages, length, count, BURST);
        self.counters.iter_mut().for_each(Actor::wait_done);
        [(count * RECEIVERS as u64) as f64 / began.elapsed().as_secs_f64()]
    }
}
