//! What it takes to outlive: the time without a daemon after `kill -9`, and what lasting changes
//! cost.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use orchestrator_proto::InstanceId;
use orchestrator_proto::control::{
    Observed, Policy, Reply, Request, RuntimeInfo, RuntimeSpec, ServerBody,
};
use orchestrator_proto::sdk::{Message, Runtime};
use tests::control::Control;
use tests::{eventually, processes};

use crate::series::{Contender, Series, take_turns};
use crate::stage::Stage;
use crate::table::{Row, Target, Unit};
use crate::wire::{Data64, Dialect};
use crate::{Setting, smallest};

/// Within this all instances are supervised again.
const RECOVERED: f64 = 1.0;

pub(crate) fn run(setting: &Setting) -> Vec<Row> {
    let mut rows = Vec::new();
    let row = |what: String, unit, ours, floor, target| Row {
        what,
        regime: setting.regime,
        unit,
        ours,
        floor,
        target,
    };
    for instances in [0, 10, 100, 1000] {
        let what = format!("from kill -9 of the daemon until {instances} instances are listed");
        let times = recovery(instances, setting.effort.pick(5, 2));
        rows.push(row(what, Unit::Time, times, None, Some(Target::AtMost(RECOVERED))));
    }
    let gaps = gaps(setting.effort.pick(5, 2));
    let what = "longest gap in a stream of a message each ms, across kill -9 of the daemon";
    rows.push(row(what.to_owned(), Unit::Time, gaps, None, None));

    let count = setting.effort.pick(400_u64, 100);
    let stage = Stage::start();
    let mut client = Control::connect(stage.daemon.socket());
    let mut file = synced_file(&stage);
    let mut contenders: [Contender<'_, 1>; 3] = [
        Box::new(|| {
            let began = Instant::now();
            for _ in 0..count {
                file.write_all(&[0; 512]).unwrap();
                file.sync_data().unwrap();
            }
            [count as f64 / began.elapsed().as_secs_f64()]
        }),
        Box::new(|| adds(&stage, 1, count)),
        Box::new(|| adds(&stage, 64, count)),
    ];
    let series = take_turns(setting.effort.pick(3, 2), &mut contenders);
    drop(contenders);
    let floor = || Some(series[0][0].clone());
    for (at, what) in [(1, "one by one"), (2, "64 at a time")] {
        let what = format!("`runtime add`, on the disk when answered, {what}; floor: write, sync");
        rows.push(row(what, Unit::Rate, series[at][0].clone(), floor(), None));
    }
    clear(&mut client);
    rows
}

fn synced_file(stage: &Stage) -> File {
    let path = stage.daemon.state_dir().join("floor");
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}

/// How many instances per second can be added, with so many requests under way.
fn adds(stage: &Stage, width: u64, count: u64) -> [f64; 1] {
    let mut client = Control::connect(stage.daemon.socket());
    let began = Instant::now();
    let mut sent = 0;
    for answered in 0..count {
        while sent < count && sent < answered + width {
            client.request(sent + 1, Request::RuntimeAdd(RuntimeSpec::new("/bin/true")));
            sent += 1;
        }
        let frame = client.frame().unwrap();
        assert!(matches!(frame.body, ServerBody::Reply(Reply::Added { .. })), "{frame:?}");
    }
    let rate = count as f64 / began.elapsed().as_secs_f64();
    clear(&mut client);
    [rate]
}

fn clear(client: &mut Control) {
    let answer = client.ask(u64::MAX, Request::Clear { force: true });
    assert!(matches!(answer, ServerBody::Reply(Reply::Cleared { .. })), "{answer:?}");
}

async fn daemon_pid(stage: &Stage) -> u32 {
    match stage.daemon.client().await.request(Request::Status).await {
        Ok(Reply::Status(status)) => status.pid,
        other => panic!("{other:?}"),
    }
}

/// Seconds from the end of a daemon until the next one lists all instances as running, under the
/// numbers that they had.
fn recovery(instances: usize, rounds: usize) -> Series {
    let stage = Stage::start();
    let (pause, args) = smallest::pause(stage.daemon.dir());
    let mut spec = RuntimeSpec::new(pause.as_os_str());
    spec.args = args.into_iter().map(Into::into).collect();
    let ids: Vec<InstanceId> = (0..instances).map(|_| stage.add(spec.clone())).collect();
    for id in ids {
        let start = Request::RuntimeStart { instance: id.to_string().into(), priority: None };
        assert!(matches!(stage.daemon.request(start), Ok(Reply::Started { .. })));
    }
    let before = running(&stage).unwrap();
    assert_eq!(before.len(), instances);
    let mut times = Series::default();
    for _ in 0..rounds {
        processes::signal(stage.daemon.pid(), Signal::SIGKILL);
        let began = Instant::now();
        let after = eventually("the next daemon lists them", || {
            running(&stage).filter(|now| now.len() == instances)
        });
        times.push(began.elapsed().as_secs_f64());
        assert_eq!(after, before, "an instance has died");
    }
    times
}

/// The processes of what runs; none if the daemon ends before it has answered.
fn running(stage: &Stage) -> Option<Vec<u32>> {
    match stage.daemon.request(Request::RuntimeList) {
        Ok(Reply::Runtimes(list)) => Some(list.iter().filter_map(process).collect()),
        _ => None,
    }
}

fn process(instance: &RuntimeInfo) -> Option<u32> {
    match instance.observed {
        Observed::Ready { pid, .. } => Some(pid),
        _ => None,
    }
}

/// The longest time that a receiver waits for the next message, in seconds, while the daemon is
/// killed. Each message comes once and in its order.
fn gaps(rounds: usize) -> Series {
    let stage = Stage::start();
    let (from, to) = (stage.seat(), stage.seat());
    stage.link(from, DATA_64, to, Some(Policy::Block), None);
    let socket = |instance| stage.socket(instance, Dialect::Native);
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut gaps = Series::default();
    tokio.block_on(async {
        let sending = Runtime::connect_to(socket(from)).await.unwrap();
        let receiving = Runtime::connect_to(socket(to)).await.unwrap();
        let output = sending.output::<Data64>().unwrap();
        let mut input = receiving.input::<Data64>().unwrap();
        let sender = tokio::spawn(async move {
            let mut every = tokio::time::interval(Duration::from_millis(1));
            let mut number = 0.0;
            loop {
                every.tick().await;
                output.send(&Data64 { values: [number; 8] }).await.unwrap();
                number += 1.0;
            }
        });
        let mut expected = 0.0;
        for _ in 0..rounds {
            let (mut longest, mut last) = (Duration::ZERO, Instant::now());
            for at in 0..400 {
                let message = input.recv().await.unwrap();
                assert!(message.values[0] == expected, "a message is missing");
                expected += 1.0;
                if at > 0 {
                    longest = longest.max(last.elapsed());
                }
                last = Instant::now();
                if at == 100 {
                    processes::signal(daemon_pid(&stage).await, Signal::SIGKILL);
                    last = Instant::now();
                }
            }
            gaps.push(longest.as_secs_f64());
        }
        sender.abort();
    });
    gaps
}

const DATA_64: &str = <Data64 as Message>::NAME;
