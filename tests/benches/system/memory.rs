//! Resident memory, as the kernel counts it.

use std::fs;

use orchestrator_proto::InstanceId;
use orchestrator_proto::control::{Reply, Request, RuntimeSpec};
use tests::{eventually, processes};

use crate::series::Series;
use crate::stage::Stage;
use crate::table::{Row, Target, Unit};
use crate::{Setting, smallest};

/// Of the daemon when it has nothing to do, bytes.
const TARGET: f64 = 6e6;
const INSTANCES: usize = 500;

pub(crate) fn run(setting: &Setting) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut say = |when: &str, samples: &[Vec<Sample>], target: Option<f64>| {
        // The processes are the same each time: the daemon, the holder if there is one, and
        // the one that captures output.
        for (at, sample) in samples[0].iter().enumerate() {
            let of = |pick: fn(&Sample) -> f64| -> Series {
                samples.iter().map(|sample| pick(&sample[at])).collect()
            };
            let kinds = [("RSS", of(|s| s.rss)), ("PSS", of(|s| s.pss))];
            for (kind, ours) in kinds {
                let aimed_at = kind == "RSS" && sample.name == "daemon";
                rows.push(Row {
                    what: format!("{}, {kind}, {when}", sample.name),
                    regime: setting.regime,
                    unit: Unit::Memory,
                    ours,
                    floor: None,
                    target: target.filter(|_| aimed_at).map(Target::AtMost),
                });
            }
        }
    };

    let idle = |_| look(&Stage::start());
    let rounds = setting.effort.pick(5, 2);
    say("idle", &(0..rounds).map(idle).collect::<Vec<_>>(), Some(TARGET));

    let stage = Stage::start();
    let (pause, args) = smallest::pause(stage.daemon.dir());
    let mut spec = RuntimeSpec::new(pause.as_os_str());
    spec.args = args.into_iter().map(Into::into).collect();
    let instances: Vec<_> = (0..INSTANCES).map(|_| stage.add(spec.clone())).collect();
    let when = format!("{INSTANCES} instances added");
    say(&when, &[look(&stage)], None);

    let started = instances.iter().take_while(|id| start(&stage, **id)).count();
    let when = format!("{started} instances running");
    say(&when, &[look(&stage)], None);
    rows
}

/// Whether it could be started: a small machine may not have room for so many.
fn start(stage: &Stage, instance: InstanceId) -> bool {
    let start = Request::RuntimeStart { instance: instance.to_string().into(), priority: None };
    match stage.daemon.request(start) {
        Ok(Reply::Started { .. }) => true,
        other => {
            eprintln!("no more instances could be started: {other:?}");
            false
        }
    }
}

/// What one process occupies, bytes.
struct Sample {
    name: &'static str,
    rss: f64,
    pss: f64,
}

fn look(stage: &Stage) -> Vec<Sample> {
    let (daemon, holder) = (stage.daemon.pid(), stage.daemon.holder_pid());
    let mut samples = vec![sample("daemon", daemon)];
    if holder != daemon {
        samples.push(sample("holder", holder));
    }
    let capture = eventually("there is a capture process", || processes::capture(holder));
    samples.push(sample("capture", capture));
    samples
}

fn sample(name: &'static str, pid: u32) -> Sample {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let field = |name: &str| -> f64 {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        1024.0 * kib.unwrap().trim().parse::<f64>().unwrap()
    };
    Sample { name, rss: field("Rss:"), pss: field("Pss:") }
}
