//! One who sends, and many who get all of it.

use std::time::Instant;

use super::carrier::{Carrier, LINKS};
use super::cell::in_turns;
use super::line::{Line, Load};
use super::sheet::say;
use crate::Setting;
use crate::stage::Stage;
use crate::table::{Row, Unit};

/// How many get it.
const RECEIVERS: [usize; 2] = [8, 64];
/// Bytes of a message.
const SIZES: [usize; 2] = [64, 64 << 10];

pub(crate) fn run(setting: &Setting) -> Vec<Row> {
    let each = RECEIVERS.iter().flat_map(|receivers| SIZES.map(|size| (*receivers, size)));
    each.flat_map(|(receivers, size)| {
        measure(setting, Load { regime: setting.regime, size, receivers })
    })
    .collect()
}

/// Ours, and whom each of ours is compared with.
const OTHERS: [Carrier; 3] = [Carrier::Relay, Carrier::Zenoh, Carrier::Nats];

fn measure(setting: &Setting, load: Load) -> Vec<Row> {
    let (effort, stage) = (setting.effort, Stage::start());
    let count = effort.pick(400_000, 8_000).min(effort.pick(256 << 20, 8 << 20) / load.size);
    let count = (count / load.receivers).max(8);
    let there = LINKS.into_iter().chain(OTHERS).filter(|carrier| carrier.absent().is_none());
    let there: Vec<Carrier> = there.collect();
    let mut lines: Vec<Line<'_>> =
        there.iter().map(|carrier| Line::open(*carrier, load, &stage)).collect();
    let series = in_turns(&mut lines, effort.rounds(), |line| {
        let began = Instant::now();
        line.burst(count);
        [(count * load.receivers) as f64 / began.elapsed().as_secs_f64()]
    });
    lines.iter_mut().for_each(Line::check_nothing_lost);

    let measured = |carrier| {
        let at = there.iter().position(|it| *it == carrier).expect("it was measured");
        series[at][0].clone()
    };
    let pairs = LINKS.into_iter().flat_map(|ours| OTHERS.map(|other| (ours, other)));
    let rows = pairs.map(|(ours, other)| {
        let (receivers, size) = (load.receivers, say(load.size));
        let (name, floor) = (ours.name(), other.name());
        let what = format!("1 to {receivers}, {size}, bursts, {name}; floor: {floor}");
        match other.absent() {
            Some(why) => Row::absent(&what, why, load.regime),
            None => Row {
                what,
                regime: load.regime,
                unit: Unit::Rate,
                ours: measured(ours),
                floor: Some(measured(other)),
                target: None,
            },
        }
    });
    rows.collect()
}
