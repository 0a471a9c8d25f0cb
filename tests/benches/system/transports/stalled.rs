//! A receiver that stands still: what it does to the round trips of others.

use std::time::Duration;

use orchestrator_proto::LinkId;
use orchestrator_proto::control::{Policy, Transport};
use orchestrator_proto::sdk::{Message, Runtime};
use tests::processes;

use super::blob::Out;
use super::carrier::{Carrier, TRANSPORTS};
use super::cell::in_turns;
use super::line::{Line, Load, far_actor, trip_times};
use crate::Setting;
use crate::actor::{self, Actor};
use crate::stage::Stage;
use crate::table::{Row, Unit};
use crate::wire::Dialect;

/// Bytes of a message.
const SIZE: usize = 32;
/// So long that few of them may wait in the one who stands still.
const LONG: usize = 16 << 20;
/// Messages that may wait in its link.
const CAPACITY: u32 = 16;
/// More than may wait in it and in its link.
const FILL: usize = 200;
/// A sender that waits for longer is held back.
const HELD: Duration = Duration::from_millis(200);

pub(crate) fn run(setting: &Setting) -> Vec<Row> {
    TRANSPORTS.iter().flat_map(|transport| measure(setting, *transport)).collect()
}

fn measure(setting: &Setting, transport: Transport) -> Vec<Row> {
    let effort = setting.effort;
    let load = Load { regime: setting.regime, size: SIZE, receivers: 1 };
    let stages = [Stage::start(), Stage::start(), Stage::start()];
    let line = |stage| Line::open(Carrier::Link(transport), load, stage);
    let mut lines: Vec<Line<'_>> = stages.iter().map(line).collect();
    let _held = hold_back(&stages[1], transport, load);
    let (_stalled, link) = stall_beside(&stages[2], &mut lines[2], transport, load);
    lines[2].roundtrips(FILL, &mut || ());

    let count = effort.pick(2000, 100);
    let series = in_turns(&mut lines, effort.rounds(), |line| {
        trip_times(line, count).percentiles([50.0, 99.0])
    });
    lines.iter_mut().for_each(Line::check_nothing_lost);
    // Else it has not stood in anybody's way.
    lines[2].near.settle(Box::new(|| stages[2].wait_dropped(link)));

    let name = Carrier::Link(transport).name();
    let beside = [
        "a link of others, full, whose receiver stands still",
        "another receiver of its output, which stands still",
    ];
    let mut rows = Vec::new();
    for (at, beside) in (1..).zip(beside) {
        for (figure, percentile) in ["p50", "p99"].into_iter().enumerate() {
            rows.push(Row {
                what: format!(
                    "round trip of {SIZE} B, {percentile}, {name}, beside {beside}; floor: without"
                ),
                regime: setting.regime,
                unit: Unit::Time,
                ours: series[at][figure].clone(),
                floor: Some(series[0][figure].clone()),
                target: None,
            });
        }
    }
    rows
}

/// Two other instances: the receiver stands still, and its sender is held back under `block`.
fn hold_back(stage: &Stage, transport: Transport, load: Load) -> [Actor; 2] {
    let (from, to) = (stage.seat(), stage.seat());
    let ends = (from, Out::NAME, to);
    let link = stage.link_by(transport, ends, Some(Policy::Block), Some(CAPACITY));
    let load = Load { size: LONG, ..load };
    let mut receiver = far_actor(transport, load, &stage.socket(to, Dialect::Native));
    receiver.wait_ready();
    let socket = stage.socket(from, Dialect::Native);
    let mut sender = Actor::start("transports", ["held".as_ref(), socket.as_os_str()]);
    sender.wait_ready();
    stage.wait_way(transport, &[link]);
    processes::suspend(receiver.pid());
    sender.tell("send");
    sender.wait_done();
    // The sender ends first: it would go on when nobody holds it back.
    [sender, receiver]
}

/// Another receiver of the output whose round trips are measured, which stands still: it gets what
/// there is room for.
fn stall_beside(
    stage: &Stage,
    line: &mut Line<'_>,
    transport: Transport,
    load: Load,
) -> (Actor, LinkId) {
    let to = stage.seat();
    let ends = (line.sender(), Out::NAME, to);
    let link = stage.link_by(transport, ends, Some(Policy::DropOldest), Some(CAPACITY));
    let load = Load { size: LONG, ..load };
    let mut receiver = far_actor(transport, load, &stage.socket(to, Dialect::Native));
    receiver.wait_ready();
    line.near.settle(Box::new(|| stage.wait_way(transport, &[link])));
    processes::suspend(receiver.pid());
    (receiver, link)
}

/// The part of a sender that sends until it is held back, says so, and goes on waiting.
pub(super) fn play_held(socket: &str) {
    let mut orders = actor::lines_of_orders();
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio.block_on(async {
        let runtime = Runtime::connect_to(socket).await.unwrap();
        let output = runtime.output::<Out>().unwrap();
        let message = Out::from(vec![7; SIZE]);
        actor::say_ready();
        orders.recv().await;
        while let Ok(sent) = tokio::time::timeout(HELD, output.send(&message)).await {
            sent.unwrap();
        }
        actor::say_done();
        // If it was only slow, it is held back later.
        loop {
            output.send(&message).await.unwrap();
        }
    });
}
