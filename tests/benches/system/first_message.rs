//! How soon messages pass after the programs were started: what a person waits for.

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use orchestrator_proto::control::{Item, LogQuery, Request};
use tests::{SOON, block_on};

use crate::Setting;
use crate::series::Series;
use crate::stage::Stage;
use crate::table::{Row, Target, Unit};

/// From the return of the second start to the first message, seconds.
const TARGET: f64 = 0.030;

pub(crate) fn run(setting: &Setting) -> Vec<Row> {
    let rounds = setting.effort.pick(10, 3);
    let (mut after_return, mut after_launch) = (Series::default(), Series::default());
    for _ in 0..rounds {
        let (launch, returned) = measure();
        after_launch.push(launch);
        after_return.push(returned);
    }
    let row = |what: &str, ours, target| Row {
        what: what.to_owned(),
        regime: setting.regime,
        unit: Unit::Time,
        ours,
        floor: None,
        target,
    };
    let target = Some(Target::AtMost(TARGET));
    vec![
        row("first message, after the second `runtime start`", after_return, target),
        row("first message, after the launch of that command", after_launch, None),
    ]
}

/// One pair of examples in a daemon of its own. The answer is the time of the first message
/// after the launch and after the return of the second start.
fn measure() -> (f64, f64) {
    let stage = Stage::start();
    let daemon = &stage.daemon;
    let [ping, pong] = ["ping", "pong"].map(|name| {
        let program = tests::binary(name);
        daemon.add([program.as_os_str(), "--name".as_ref(), name.as_ref()]);
        name
    });
    for (message, from, to) in [("ping", ping, pong), ("pong", pong, ping)] {
        let name = format!("examples.{message}.v1");
        let link = ["link", "add", "--type", &name, "--from", from, "--to", to];
        daemon.ok(link);
    }
    daemon.ok(["runtime", "start", pong]);
    let mut start: Command = daemon.cli_command(["runtime", "start", ping]);
    let launched = now();
    let output = start.output().unwrap();
    let returned = now();
    assert!(output.status.success(), "{output:?}");
    let first = first_line(&stage, pong);
    // It may come before the command has returned.
    let since = |start: Duration| first.saturating_sub(start).as_secs_f64();
    (since(launched), since(returned))
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// When the daemon read the first line of this instance, which says that a message came.
fn first_line(stage: &Stage, instance: &str) -> Duration {
    block_on(async {
        let logs = Request::Logs(LogQuery { follow: true, ..LogQuery::of(instance) });
        let mut logs = stage.daemon.client().await.stream(logs).await.unwrap();
        let first = tokio::time::timeout(SOON, logs.next()).await;
        match first {
            Ok(Some(Ok(Item::Log(line)))) => Duration::from_nanos(line.time_ns),
            other => panic!("no message came: {other:?}"),
        }
    })
}
