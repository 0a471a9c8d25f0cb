//! What a person or a script waits for when it runs the command line.

use std::process::{Command, Stdio};
use std::time::Instant;

use crate::Setting;
use crate::series::{Contender, Times, take_turns};
use crate::stage::Stage;
use crate::table::{Row, Unit};

pub(crate) fn run(setting: &Setting) -> Vec<Row> {
    let count = setting.effort.pick(40, 15);
    let stage = Stage::start();
    let mut contenders: [Contender<'_, 2>; 2] = [
        Box::new(|| measure(count, || Command::new("/bin/true"))),
        Box::new(|| measure(count, || stage.daemon.cli_command(["version"]))),
    ];
    let series = take_turns(setting.effort.rounds(), &mut contenders);
    vec![Row {
        what: "orchestrator-cli version, p50".to_owned(),
        regime: setting.regime,
        unit: Unit::Time,
        ours: series[1][0].clone(),
        floor: Some(series[0][0].clone()),
        target: None,
    }]
}

fn measure(count: usize, command: impl Fn() -> Command) -> [f64; 2] {
    let mut times = Times::with_capacity(count);
    for _ in 0..count {
        let mut command = command();
        command.stdout(Stdio::null());
        let began = Instant::now();
        let status = command.status().unwrap();
        times.push(began.elapsed());
        assert!(status.success());
    }
    times.p50_p99()
}
