//! What it costs that not the daemon executes programs, but its holder.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use orchestrator_proto::control::{Reply, Request, RuntimeSpec};
use tests::processes;

use crate::actor::Actor;
use crate::series::{Contender, take_turns};
use crate::spawner::{BARE, HELD, Part, Round, Size, Way};
use crate::stage::Stage;
use crate::table::{Row, Target, Unit};
use crate::{Setting, smallest};

/// The share of the rate of a daemon that does it itself: no less.
const TARGET: f64 = 1.0;
/// How many run meanwhile, in the larger of the two daemons.
const INSTANCES: usize = 1000;

/// What is compared, for the reader of the table.
pub(crate) const NOTE: &str = "\
Each is one program after the other, of a few bytes, which ends at once; a round is over when the
pidfd and both pipes of each were there and its end is known. Holder and daemon take turns in the
same process: a tokio runtime of several threads, with the resident and mapped memory, the open
files and the threads that were just seen of a real daemon with so many instances. The holder is the
real one, with as many programs and files. Both ways give a program a process group, a working
directory, a limit and two pipes of 256 KiB. The holder pays for what the daemon need not do: four
more switches between processes, files that are passed on, ends that it remembers until it is told
to forget, and a wait for any child, since it adopts orphans. The daemon pays for less than a real
one would: it waits for execve(2) on a worker, where a file system that does not answer would stop
others, and it is the parent of nothing else. With posix_spawn(3) and the holder's clone(2) no
memory is copied; with fork(2) its tables are. What grows with the instances is the table of open
files, which the daemon's two ways copy and close; with the holder, a program is given a table with
the four that it needs. The bare floor is a small process of one thread, without pipes.";

pub(crate) fn run(setting: &Setting) -> Vec<Row> {
    let count = setting.effort.pick(1000, 100);
    let dir = tempfile::tempdir().unwrap();
    let end = smallest::end(dir.path());
    let (pause, args) = smallest::pause(dir.path());
    let pause = (pause, args.into_iter().map(str::to_owned).collect());
    let mut bare = Actor::start(BARE, [&end]);
    bare.wait_ready();
    let [mut idle, mut busy] = [0, INSTANCES].map(|instances| start(instances, &pause, &end));

    let mut contenders: Vec<Contender<'_, 1>> = vec![Box::new(|| {
        rate(count, || {
            bare.order(count as u64);
            bare.wait_done();
        })
    })];
    let ways = [Way::Holder, Way::Spawn, Way::Fork];
    for daemon in [&mut idle, &mut busy] {
        let daemon = Rc::new(RefCell::new(daemon));
        for way in ways {
            let daemon = Rc::clone(&daemon);
            let order = serde_json::to_string(&Round { way, count }).unwrap();
            contenders.push(Box::new(move || {
                rate(count, || {
                    let mut daemon = daemon.borrow_mut();
                    daemon.tell(&order);
                    daemon.wait_done();
                })
            }));
        }
    }
    let series = take_turns(setting.effort.rounds(), &mut contenders);
    drop(contenders);

    let mut rows = Vec::new();
    for (instances, holder) in [(0, 1), (INSTANCES, 1 + ways.len())] {
        let floors = [
            ("posix_spawn from the daemon", holder + 1, Some(Target::Share(TARGET))),
            ("fork from the daemon", holder + 2, None),
            ("bare posix_spawn", 0, None),
        ];
        rows.extend(floors.map(|(floor, at, target)| Row {
            what: format!("spawn by the holder, {instances} instances; floor: {floor}"),
            regime: setting.regime,
            unit: Unit::Rate,
            ours: series[holder][0].clone(),
            floor: Some(series[at][0].clone()),
            target,
        }));
    }
    rows
}

/// A program and its arguments.
type Command = (PathBuf, Vec<String>);

/// A holder and its daemon, as large as real ones with so many instances.
fn start(instances: usize, pause: &Command, end: &Path) -> Actor {
    let size = measure(instances, pause);
    let part = Part { size, pause: pause.clone(), end: end.to_owned() };
    let mut daemon = Actor::start(HELD, [serde_json::to_string(&part).unwrap()]);
    daemon.wait_ready();
    daemon
}

/// How large a real daemon and its holder are.
fn measure(instances: usize, (program, args): &Command) -> Size {
    let stage = Stage::start();
    let mut spec = RuntimeSpec::new(program.as_os_str());
    spec.args = args.iter().map(|arg| arg.as_str().into()).collect();
    for _ in 0..instances {
        let id = stage.add(spec.clone());
        let start = Request::RuntimeStart { instance: id.to_string().into(), priority: None };
        let started = stage.daemon.request(start);
        assert!(matches!(started, Ok(Reply::Started { .. })), "{started:?}");
    }
    let (daemon, holder) = (stage.daemon.pid(), stage.daemon.holder_pid());
    Size {
        instances,
        resident_kib: processes::resident_kib(daemon),
        mapped_kib: processes::mapped_kib(daemon),
        files: processes::open_files(daemon),
        threads: processes::threads(daemon),
        holder_files: processes::open_files(holder),
    }
}

/// How many per second.
fn rate(count: usize, round: impl FnOnce()) -> [f64; 1] {
    let began = Instant::now();
    round();
    [count as f64 / began.elapsed().as_secs_f64()]
}
