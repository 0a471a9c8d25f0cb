//! What it costs that not the daemon executes programs, but its holder.

use std::cell::RefCell;
use std::path::PathBuf;
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
/// An ordinary program.
const TRUE: &str = "/bin/true";
/// How many run meanwhile, in the larger of the two daemons.
const INSTANCES: usize = 1000;

/// What is compared, for the reader of the table.
pub(crate) const NOTE: &str = "\
Each is one program after the other, which ends at once: an ordinary one, with a loader and a library,
or the smallest there can be, of a few bytes. A round is over when the pidfd and both pipes of each
were there and its end is known. Holder and daemon take turns in the
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
    let programs = [PathBuf::from(TRUE), smallest::end(dir.path())];
    let (pause, args) = smallest::pause(dir.path());
    let pause = (pause, args.into_iter().map(str::to_owned).collect());
    let daemons = [0, INSTANCES].map(|instances| Rc::new(RefCell::new(start(instances, &pause))));

    let mut contenders: Vec<Contender<'_, 1>> = Vec::new();
    let ways = [Way::Holder, Way::Spawn, Way::Fork];
    for program in &programs {
        let mut bare = Actor::start(BARE, [program]);
        bare.wait_ready();
        contenders.push(Box::new(move || {
            rate(count, || {
                bare.order(count as u64);
                bare.wait_done();
            })
        }));
        for (daemon, way) in daemons.iter().flat_map(|daemon| ways.map(|way| (daemon, way))) {
            let daemon = Rc::clone(daemon);
            let round = Round { way, count, program: program.clone() };
            let order = serde_json::to_string(&round).unwrap();
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
    let turns = 1 + daemons.len() * ways.len();
    for (program, bare) in ["/bin/true", "smallest program"].into_iter().zip((0..).step_by(turns)) {
        for (instances, holder) in [(0, bare + 1), (INSTANCES, bare + 1 + ways.len())] {
            let floors = [
                ("posix_spawn from the daemon", holder + 1, Some(Target::Share(TARGET))),
                ("fork from the daemon", holder + 2, None),
                ("bare posix_spawn", bare, None),
            ];
            rows.extend(floors.map(|(floor, at, target)| Row {
                what: format!("{program} by the holder, {instances} instances; floor: {floor}"),
                regime: setting.regime,
                unit: Unit::Rate,
                ours: series[holder][0].clone(),
                floor: Some(series[at][0].clone()),
                target,
            }));
        }
    }
    rows
}

/// A program and its arguments.
type Command = (PathBuf, Vec<String>);

/// A holder and its daemon, as large as real ones with so many instances.
fn start(instances: usize, pause: &Command) -> Actor {
    let size = measure(instances, pause);
    let part = Part { size, pause: pause.clone() };
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
