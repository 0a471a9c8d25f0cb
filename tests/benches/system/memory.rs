//! Resident memory and open files, as the kernel counts them.

use std::fs;
use std::time::Duration;

use orchestrator_proto::InstanceId;
use orchestrator_proto::control::{Reply, Request, RuntimeSpec};
use tests::{eventually, processes};

use crate::series::Series;
use crate::stage::Stage;
use crate::table::{Row, Target, Unit};
use crate::{Setting, machine, smallest};

/// Of the daemon when it has nothing to do, bytes.
const DAEMON: f64 = 6e6;
/// Of the holder, whatever runs, bytes.
const HOLDER: f64 = 1.5e6;
/// Longer than nothing happens before the processes give back what they needed for what they did.
const QUIET: Duration = Duration::from_secs(3);
/// How many run, where so many files may be open.
const INSTANCES: usize = 1000;
/// So many are started first, to see how many files each of them costs.
const FEW: usize = 10;
/// Files that are left for clients and for what is open for a moment only.
const SPARE_FILES: usize = 100;

pub(crate) fn run(setting: &Setting) -> Vec<Row> {
    let row = |what: String, unit, ours, target: Option<f64>| Row {
        what,
        regime: setting.regime,
        unit,
        ours,
        floor: None,
        target: target.map(Target::AtMost),
    };
    let mut rows = Vec::new();
    let mut say = |when: &str, samples: &[Vec<Sample>], targets: &[(&str, f64)]| {
        // The processes are the same each time: the daemon, the holder if there is one, and
        // the one that captures output.
        for (at, Sample { name, .. }) in samples[0].iter().enumerate() {
            let of = |pick: fn(&Sample) -> f64| -> Series {
                samples.iter().map(|sample| pick(&sample[at])).collect()
            };
            let target = targets.iter().find(|(of, _)| of == name).map(|(_, most)| *most);
            let memory = Unit::Memory;
            rows.push(row(format!("{name}, RSS, {when}"), memory, of(|s| s.rss), target));
            rows.push(row(format!("{name}, PSS, {when}"), memory, of(|s| s.pss), None));
            let files = of(|s| s.files as f64);
            rows.push(row(format!("{name}, open files, {when}"), Unit::Count, files, None));
        }
    };

    let idle = |_| at_rest(&Stage::start());
    let rounds = setting.effort.pick(5, 2);
    let targets = [("daemon", DAEMON), ("holder", HOLDER)];
    say("idle", &(0..rounds).map(idle).collect::<Vec<_>>(), &targets);

    let loads: Vec<Load> = (0..setting.effort.pick(5, 1)).map(|_| load()).collect();
    let all = |pick: fn(&Load) -> &Vec<Sample>| -> Vec<Vec<Sample>> {
        loads.iter().map(|load| pick(load).clone()).collect()
    };
    say(&format!("{INSTANCES} instances added"), &all(|load| &load.added), &[]);
    let fewest = loads.iter().map(|load| load.started).min();
    let when = match fewest {
        Some(fewer) if fewer < INSTANCES => {
            eprintln!("only {fewer} of {INSTANCES} instances could run: see ulimit -n and -u");
            format!("ONLY {fewer} OF {INSTANCES} instances running")
        }
        _ => format!("{INSTANCES} instances running"),
    };
    say(&when, &all(|load| &load.running), &[("holder", HOLDER)]);
    for (at, Sample { name, .. }) in loads[0].running.iter().enumerate() {
        let each = loads.iter().map(|load| load.files_of_one(at)).collect();
        rows.push(row(format!("{name}, open files per instance"), Unit::Count, each, None));
    }
    rows
}

/// A daemon with many instances.
struct Load {
    idle: Vec<Sample>,
    /// All instances are added, none runs.
    added: Vec<Sample>,
    /// So many run.
    running: Vec<Sample>,
    started: usize,
}

impl Load {
    /// What an instance that runs costs one of the processes.
    fn files_of_one(&self, at: usize) -> f64 {
        let files = |samples: &[Sample]| samples[at].files as f64;
        let (idle, added, running) = (files(&self.idle), files(&self.added), files(&self.running));
        (added - idle) / INSTANCES as f64 + (running - added) / self.started as f64
    }
}

fn load() -> Load {
    let stage = Stage::start();
    let idle = at_rest(&stage);
    let (pause, args) = smallest::pause(stage.daemon.dir());
    let mut spec = RuntimeSpec::new(pause.as_os_str());
    spec.args = args.into_iter().map(Into::into).collect();
    let instances: Vec<_> = (0..INSTANCES).map(|_| stage.add(spec.clone())).collect();
    let added = at_rest(&stage);
    let (few, others) = instances.split_at(FEW);
    let start_all = |ids: &[InstanceId]| ids.iter().take_while(|id| start(&stage, **id)).count();
    let mut started = start_all(few);
    let room = room(&added, &look(&stage));
    started += start_all(&others[..others.len().min(room)]);
    Load { idle, added, running: at_rest(&stage), started }
}

/// How many more instances can run before one of the processes has no files left, when [`FEW`]
/// run.
fn room(before: &[Sample], after: &[Sample]) -> usize {
    let of_one = |(before, after): (&Sample, &Sample)| {
        let left = after.most_files.saturating_sub(after.files + SPARE_FILES);
        left * FEW / after.files.saturating_sub(before.files).max(1)
    };
    before.iter().zip(after).map(of_one).min().unwrap_or(0)
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

/// What one process occupies.
#[derive(Clone)]
struct Sample {
    name: &'static str,
    /// Bytes.
    rss: f64,
    /// Bytes.
    pss: f64,
    files: usize,
    /// How many it may have open.
    most_files: usize,
}

/// When nothing has happened for a while.
fn at_rest(stage: &Stage) -> Vec<Sample> {
    machine::wait(QUIET);
    look(stage)
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
    Sample {
        name,
        rss: field("Rss:"),
        pss: field("Pss:"),
        files: processes::open_files(pid),
        most_files: most_files(pid),
    }
}

/// The bound on a process's open files that is in force now, see proc_pid_limits(5).
fn most_files(pid: u32) -> usize {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = soft.and_then(|fields| fields.split_whitespace().next()).unwrap();
    soft.parse().unwrap_or(usize::MAX)
}
