//! A thousand links, with traffic on ten of them: what the others cost those.

use std::time::Instant;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use orchestrator_proto::InstanceId;
use orchestrator_proto::control::{Reply, Request, ServerBody, Transport};
use orchestrator_proto::sdk::{Input, Message, Output, Runtime, Schema};
use serde::{Deserialize, Serialize};
use tests::control::Control;

use super::carrier::{Carrier, TRANSPORTS};
use super::cell::in_turns;
use super::line::{Line, Load, trip_times};
use crate::Setting;
use crate::actor::{self, Actor};
use crate::ours;
use crate::stage::{Stage, link_spec};
use crate::table::{Row, Unit};
use crate::wire::Dialect;

/// Instances with a link from each to each other: 992 links.
const CROWD: usize = 32;
/// Links with traffic.
const BUSY: usize = 10;
/// Bytes of a message.
const SIZES: [usize; 2] = [32, 64];

/// What the crowd would say.
#[derive(Serialize, Deserialize, Schema, Message)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
#[message(name = "bench.idle")]
struct Idle(u8);

pub(crate) fn run(setting: &Setting) -> Vec<Row> {
    TRANSPORTS.iter().flat_map(|transport| measure(setting, *transport)).collect()
}

fn measure(setting: &Setting, transport: Transport) -> Vec<Row> {
    let carrier = Carrier::Link(transport);
    let name = carrier.name();
    if let Some(why) = too_few_files() {
        return vec![Row::absent(&format!("1,000 links, {name}"), &why, setting.regime)];
    }
    let effort = setting.effort;
    let stages = [Stage::start(), Stage::start()];
    let load = |size, receivers| Load { regime: setting.regime, size, receivers };
    let open = |size, receivers| -> Vec<Line<'_>> {
        let line = |stage| Line::open(carrier, load(size, receivers), stage);
        stages.iter().map(line).collect()
    };
    // These first, so that none of them is without a lane.
    let (mut pairs, mut fans) = (open(SIZES[0], 1), open(SIZES[1], BUSY));
    let _crowd = gather(&stages[1], transport);

    let trips = effort.pick(2000, 100);
    let trips = in_turns(&mut pairs, effort.rounds(), |line| {
        trip_times(line, trips).percentiles([50.0, 99.0])
    });
    let count = effort.pick(40_000, 1_000);
    let bursts = in_turns(&mut fans, effort.rounds(), |line| {
        let began = Instant::now();
        line.burst(count);
        [(count * BUSY) as f64 / began.elapsed().as_secs_f64()]
    });
    pairs.iter_mut().chain(&mut fans).for_each(Line::check_nothing_lost);

    let others = CROWD * (CROWD - 1);
    let row = |what: String, unit, [alone, among]: [&crate::series::Series; 2]| Row {
        what: format!("{what}, {name}, {others} other links; floor: none of them"),
        regime: setting.regime,
        unit,
        ours: among.clone(),
        floor: Some(alone.clone()),
        target: None,
    };
    let trip = |at: usize| [&trips[0][at], &trips[1][at]];
    vec![
        row(format!("round trip of {} B, p50", SIZES[0]), Unit::Time, trip(0)),
        row(format!("round trip of {} B, p99", SIZES[0]), Unit::Time, trip(1)),
        row(
            format!("1 to {BUSY}, {} B, bursts", SIZES[1]),
            Unit::Rate,
            [&bursts[0][0], &bursts[1][0]],
        ),
    ]
}

/// A daemon has lanes with an eighth of its files, which are as many as it may have.
fn too_few_files() -> Option<String> {
    let needed = 8 * 1024;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the kernel tells our limits");
    (hard < needed).then(|| format!("needs `ulimit -Hn {needed}`, has {hard}"))
}

/// Links from each of a crowd to each other, which are there and carry nothing; and the process
/// that is at all their ends.
fn gather(stage: &Stage, transport: Transport) -> Actor {
    let seats: Vec<InstanceId> = (0..CROWD).map(|_| stage.seat()).collect();
    let pairs = seats.iter().flat_map(|from| seats.iter().map(move |to| (*from, *to)));
    let pairs = pairs.filter(|(from, to)| from != to);
    let requests: Vec<_> = pairs
        .map(|(from, to)| {
            Request::LinkAdd(link_spec(transport, (from, Idle::NAME, to), None, None))
        })
        .collect();
    let mut client = Control::connect(stage.daemon.socket());
    let answers = ours::all(&mut client, requests.into_iter());
    let links = answers.into_iter().map(|answer| match answer {
        ServerBody::Reply(Reply::LinkAdded { id, .. }) => id,
        other => panic!("{other:?}"),
    });
    let links: Vec<_> = links.collect();
    let sockets = seats.iter().map(|seat| stage.socket(*seat, Dialect::Native).into_os_string());
    let part = ["crowd".into()].into_iter().chain(sockets);
    let mut crowd = Actor::start("transports", part);
    crowd.wait_ready();
    stage.wait_way(transport, &links);
    crowd
}

/// The part of the crowd: connects as each of these instances, and stays.
pub(super) fn play(sockets: &[&str]) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the kernel tells our limits");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("a limit can be raised to its bound");
    let mut orders = actor::lines_of_orders();
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio.block_on(async {
        let mut crowd: Vec<(Runtime, Output<Idle>, Input<Idle>)> = Vec::new();
        for socket in sockets {
            let runtime = Runtime::connect_to(socket).await.unwrap();
            let (output, input) = (runtime.output().unwrap(), runtime.input().unwrap());
            crowd.push((runtime, output, input));
        }
        actor::say_ready();
        while orders.recv().await.is_some() {}
    });
}
