//! How fast programs are started and ended.
//!
//! The program that is stopped is the smallest there can be. The floor kills a larger one
//! before its loader has done its work, which the daemon does not, so they could not be
//! compared; a larger one that ends by itself can.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::signal::Signal;
use orchestrator_proto::InstanceId;
use orchestrator_proto::client::{Client, ItemStream};
use orchestrator_proto::control::{EventKind, Item, Reply, Request, RuntimeSpec};
use tests::processes;

use crate::series::{Contender, take_turns};
use crate::stage::Stage;
use crate::table::{Row, Target, Unit};
use crate::{Setting, pause};

/// The share of the floor's rate that starting and stopping has to reach.
const TARGET: f64 = 0.5;
/// A program that ends at once.
const TRUE: &str = "/bin/true";

pub(crate) fn run(setting: &Setting) -> Vec<Row> {
    let count = setting.effort.pick(300, 60);
    let stage = Stage::start();
    let (pause, pause_args) = pause::program(stage.daemon.dir());
    let mut spec = RuntimeSpec::new(pause.as_os_str());
    spec.args = pause_args.iter().map(|arg| (*arg).into()).collect();
    let pausing = stage.add(spec);
    let ending = stage.add(RuntimeSpec::new(TRUE));
    let driver = Driver::connect(&stage);
    let mut events = driver.follow(ending);

    let mut contenders: [Contender<'_, 1>; 4] = [
        Box::new(|| rate(count, || spawn_and_kill(&pause, &pause_args))),
        Box::new(|| driver.start_and_stop(pausing, count)),
        Box::new(|| rate(count, spawn_to_end)),
        Box::new(|| driver.start_to_end(ending, &mut events, count)),
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
        row("start and stop, the smallest program", 1, 0, Some(Target::Share(TARGET))),
        row("start and let end, /bin/true", 3, 2, None),
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

fn spawn_and_kill(program: &Path, args: &[&str]) {
    let mut child = bare(program, args);
    processes::signal(child.id(), Signal::SIGTERM);
    child.wait().unwrap();
}

fn spawn_to_end() {
    assert!(bare(Path::new(TRUE), &[]).wait().unwrap().success());
}

/// A client with one connection.
struct Driver {
    tokio: tokio::runtime::Runtime,
    client: Client,
}

impl Driver {
    fn connect(stage: &Stage) -> Self {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = tokio.block_on(stage.daemon.client());
        Self { tokio, client }
    }

    async fn start(&self, instance: InstanceId) {
        let start = Request::RuntimeStart { instance: instance.to_string().into(), priority: None };
        match self.client.request(start).await {
            Ok(Reply::Started { changed: true, .. }) => {}
            other => panic!("{other:?}"),
        }
    }

    async fn stop(&self, instance: InstanceId) {
        let stop = Request::RuntimeStop { instance: instance.to_string().into() };
        match self.client.request(stop).await {
            Ok(Reply::Stopped { changed: true, .. }) => {}
            other => panic!("{other:?}"),
        }
    }

    fn start_and_stop(&self, instance: InstanceId, count: usize) -> [f64; 1] {
        self.tokio.block_on(async {
            let began = Instant::now();
            for _ in 0..count {
                self.start(instance).await;
                self.stop(instance).await;
            }
            [count as f64 / began.elapsed().as_secs_f64()]
        })
    }

    /// What happens to the instance.
    fn follow(&self, instance: InstanceId) -> ItemStream {
        let follow = Request::Events {
            follow: true,
            after: None,
            since_ms: None,
            instance: Some(instance.to_string().into()),
        };
        self.tokio.block_on(self.client.stream(follow)).unwrap()
    }

    fn start_to_end(
        &self,
        instance: InstanceId,
        events: &mut ItemStream,
        count: usize,
    ) -> [f64; 1] {
        self.tokio.block_on(async {
            let began = Instant::now();
            for _ in 0..count {
                self.start(instance).await;
                ended(events).await;
            }
            [count as f64 / began.elapsed().as_secs_f64()]
        })
    }
}

async fn ended(events: &mut ItemStream) {
    loop {
        match events.next().await {
            Some(Ok(Item::Event(event))) => {
                if let EventKind::Exited { .. } = event.kind {
                    return;
                }
            }
            other => panic!("{other:?}"),
        }
    }
}
