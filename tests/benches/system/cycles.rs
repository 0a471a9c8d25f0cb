//! How fast programs are started and ended.
//!
//! An ordinary program is stopped when it runs, which it says by a FIFO: whoever kills it as soon
//! as it is executed kills it before its loader has done its work. The smallest program there can
//! be has no loader, and shows the daemon's own share: each of its starts and stops is a durable
//! change of state, and its pipes go to the capture process.

use std::cell::RefCell;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use orchestrator_proto::InstanceId;
use orchestrator_proto::control::{EventKind, Item, Reply, Request, RuntimeSpec, ServerBody};
use tests::control::Control;
use tests::processes;

use crate::series::{Contender, take_turns};
use crate::stage::Stage;
use crate::table::{Row, Target, Unit};
use crate::{Setting, smallest};

/// The share of the floor's rate that starting and stopping has to reach.
const TARGET: f64 = 0.5;
/// A program that ends at once.
const TRUE: &str = "/bin/true";
/// A program with a loader and a library.
const SH: &str = "/bin/sh";

pub(crate) fn run(setting: &Setting) -> Vec<Row> {
    let count = setting.effort.pick(300, 60);
    let stage = Stage::start();
    let (pause, pause_args) = smallest::pause(stage.daemon.dir());
    let mut spec = RuntimeSpec::new(pause.as_os_str());
    spec.args = pause_args.iter().map(|arg| (*arg).into()).collect();
    let pausing = stage.add(spec);
    let ending = stage.add(RuntimeSpec::new(TRUE));
    let fifo = stage.daemon.dir().join("fifo");
    nix::unistd::mkfifo(&fifo, Mode::from_bits_truncate(0o600)).unwrap();
    // Both ends, so that there is no end of it.
    let mut said = File::options().read(true).write(true).open(&fifo).unwrap();
    let mut said_too = said.try_clone().unwrap();
    // Then it waits for somebody who writes to another one, where nobody does.
    let never = stage.daemon.dir().join("never");
    nix::unistd::mkfifo(&never, Mode::from_bits_truncate(0o600)).unwrap();
    let script = format!("echo >{}; read line <{}", fifo.display(), never.display());
    let ordinary = ["-c", script.as_str()];
    let mut spec = RuntimeSpec::new(SH);
    spec.args = ordinary.iter().map(|arg| (*arg).into()).collect();
    let running = stage.add(spec);
    let driver = RefCell::new(Driver::connect(&stage));
    let mut ends = Ends::follow(&stage, ending);

    let mut contenders: [Contender<'_, 1>; 6] = [
        Box::new(|| rate(count, || spawn_and_kill(&pause, &pause_args, || {}))),
        Box::new(|| rate(count, || driver.borrow_mut().start_and_stop(pausing, || {}))),
        Box::new(|| rate(count, spawn_to_end)),
        Box::new(|| {
            rate(count, || {
                driver.borrow_mut().start(ending);
                ends.next();
            })
        }),
        Box::new(|| rate(count, || spawn_and_kill(SH.as_ref(), &ordinary, || hear(&mut said)))),
        Box::new(|| {
            rate(count, || driver.borrow_mut().start_and_stop(running, || hear(&mut said_too)))
        }),
    ];
    let series = take_turns(setting.effort.rounds(), &mut contenders);
    let row = |what: &str, ours: usize, floor: usize, target| Row {
        what: what.to_owned(),
        regime: setting.regime,
        unit: Unit::Rate,
        ours: series[ours][0].clone(),
        floor: Some(series[floor][0].clone()),
        target,
    };
    vec![
        row(
            "ordinary program (/bin/sh): start until it says it runs, stop; floor: bare, the same",
            5,
            4,
            Some(Target::Share(TARGET)),
        ),
        row("smallest possible program: start, stop; floor: bare, the same", 1, 0, None),
        row("/bin/true: start, let end; floor: bare, the same", 3, 2, None),
    ]
}

/// How often per second `cycle` can be run.
fn rate(count: usize, mut cycle: impl FnMut()) -> [f64; 1] {
    let began = Instant::now();
    (0..count).for_each(|_| cycle());
    [count as f64 / began.elapsed().as_secs_f64()]
}

/// No output to be captured, no process group: less can't be done.
fn bare(program: &Path, args: &[&str]) -> std::process::Child {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null());
    command.spawn().unwrap()
}

fn spawn_and_kill(program: &Path, args: &[&str], until_it_runs: impl FnOnce()) {
    let mut child = bare(program, args);
    until_it_runs();
    processes::signal(child.id(), Signal::SIGTERM);
    child.wait().unwrap();
}

fn spawn_to_end() {
    assert!(bare(Path::new(TRUE), &[]).wait().unwrap().success());
}

/// A program says that it runs.
fn hear(fifo: &mut File) {
    fifo.read_exact(&mut [0]).unwrap();
}

/// A client with one connection, and as little of its own as can be.
struct Driver {
    control: Control,
    last: u64,
}

impl Driver {
    fn connect(stage: &Stage) -> Self {
        Self { control: Control::connect(stage.daemon.socket()), last: 0 }
    }

    fn request(&mut self, request: Request) -> Reply {
        self.last += 1;
        match self.control.ask(self.last, request) {
            ServerBody::Reply(reply) => reply,
            other => panic!("{other:?}"),
        }
    }

    fn start(&mut self, instance: InstanceId) {
        let instance = instance.to_string().into();
        match self.request(Request::RuntimeStart { instance, priority: None }) {
            Reply::Started { changed: true, .. } => {}
            other => panic!("{other:?}"),
        }
    }

    fn start_and_stop(&mut self, instance: InstanceId, until_it_runs: impl FnOnce()) {
        self.start(instance);
        until_it_runs();
        let instance = instance.to_string().into();
        match self.request(Request::RuntimeStop { instance }) {
            Reply::Stopped { changed: true, .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

/// The ends of an instance, as a client that follows events sees them.
struct Ends(Control);

impl Ends {
    fn follow(stage: &Stage, instance: InstanceId) -> Self {
        let mut control = Control::connect(stage.daemon.socket());
        let instance = Some(instance.to_string().into());
        control.request(1, Request::Events { follow: true, after: None, since_ms: None, instance });
        Self(control)
    }

    fn next(&mut self) {
        loop {
            match self.0.frame().unwrap().body {
                ServerBody::Item(Item::Event(event)) => {
                    if let EventKind::Exited { .. } = event.kind {
                        return;
                    }
                }
                ServerBody::Item(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}
