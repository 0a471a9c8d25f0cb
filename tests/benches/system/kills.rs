//! What is lost when the daemon is killed again and again: nothing.

use std::collections::HashMap;
use std::time::Duration;

use nix::sys::signal::Signal;
use orchestrator_proto::InstanceId;
use orchestrator_proto::client::Client;
use orchestrator_proto::control::{
    EventKind, Item, LogQuery, LogStream, Observed, Reply, Request, RuntimeInfo, RuntimeSpec,
};
use tests::{block_on, eventually, processes};

use crate::Setting;
use crate::actor::{FLAG, LINES};
use crate::series::Series;
use crate::stage::Stage;
use crate::table::{Row, Target, Unit};

/// Instances that nobody touches.
const STEADY: usize = 80;
/// Instances that are killed, and started again.
const MORTAL: usize = 20;

pub(crate) fn run(setting: &Setting) -> Vec<Row> {
    let kills = setting.effort.pick(1000, 20);
    let stage = Stage::start();
    let mut spec = RuntimeSpec::new(std::env::current_exe().unwrap().as_os_str());
    spec.args = [FLAG, LINES].map(Into::into).to_vec();
    let add = |_| {
        let id = stage.add(spec.clone());
        start(&stage, id);
        id
    };
    let steady: Vec<InstanceId> = (0..STEADY).map(add).collect();
    let mortal: Vec<InstanceId> = (0..MORTAL).map(add).collect();
    let before = processes_of(&stage).unwrap();
    let mut ended: HashMap<InstanceId, usize> = HashMap::new();
    let mut reported = Reported::default();
    let mut random = Random(0x2545_f491_4f6c_dd1d);

    for kill in 0..kills {
        if kill % 50 == 0 {
            // There are more events than are kept.
            block_on(reported.read(&stage));
        }
        std::thread::park_timeout(Duration::from_millis(random.below(60)));
        let id = mortal[random.below(MORTAL as u64) as usize];
        let pid = processes_of(&stage).and_then(|all| all.get(&id).copied());
        if let Some(pid) = pid {
            processes::signal(pid, Signal::SIGKILL);
            *ended.entry(id).or_default() += 1;
        }
        std::thread::park_timeout(Duration::from_micros(random.below(3000)));
        if let Some(daemon) = status(&stage) {
            processes::signal(daemon, Signal::SIGKILL);
        }
        if pid.is_some() {
            eventually("its end is known", || {
                processes_of(&stage).filter(|a| !a.contains_key(&id))
            });
            start(&stage, id);
        }
    }

    let after =
        eventually("all run", || processes_of(&stage).filter(|all| all.len() == before.len()));
    let died = steady.iter().filter(|id| before[id] != after[id]).count();
    let doubled = steady.iter().chain(&mortal).filter(|id| processes_with(**id) != 1).count();
    block_on(reported.read(&stage));
    let unequal = |id: &InstanceId| {
        let count = |map: &HashMap<InstanceId, usize>| map.get(id).copied().unwrap_or(0);
        count(&ended).abs_diff(count(&reported.exits))
    };
    let exits: usize = steady.iter().chain(&mortal).map(unequal).sum();
    let lines: usize = steady.iter().map(|id| block_on(unprinted(&stage, *id))).sum();
    let all_ended: usize = ended.values().sum();
    let row = |what: String, count: usize| Row {
        what,
        regime: setting.regime,
        unit: Unit::Count,
        ours: Series::from_iter([count as f64]),
        floor: None,
        target: Some(Target::AtMost(0.0)),
    };
    vec![
        row(format!("{kills} kills of the daemon: instances of {STEADY} that died"), died),
        row("instances with more or fewer than one process".to_owned(), doubled),
        row(format!("ends of {all_ended} that were not reported, or twice"), exits),
        row("lines of output that are missing, or there twice".to_owned(), lines),
    ]
}

/// xorshift64: as random as it has to be, and the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Starts an instance, whichever daemon hears of it.
fn start(stage: &Stage, instance: InstanceId) {
    eventually("it is started", || {
        let start = Request::RuntimeStart { instance: instance.to_string().into(), priority: None };
        matches!(stage.daemon.request(start), Ok(Reply::Started { .. })).then_some(())
    });
}

fn status(stage: &Stage) -> Option<u32> {
    match block_on(async {
        let client = Client::connect(stage.daemon.socket()).await.ok()?;
        client.request(Request::Status).await.ok()
    }) {
        Some(Reply::Status(status)) => Some(status.pid),
        _ => None,
    }
}

/// The main process of each instance that runs; none if the daemon ends before it has answered.
fn processes_of(stage: &Stage) -> Option<HashMap<InstanceId, u32>> {
    let process = |instance: RuntimeInfo| match instance.observed {
        Observed::Ready { pid, .. } => Some((instance.id, pid)),
        _ => None,
    };
    match block_on(async {
        let client = Client::connect(stage.daemon.socket()).await.ok()?;
        client.request(Request::RuntimeList).await.ok()
    }) {
        Some(Reply::Runtimes(list)) => Some(list.into_iter().filter_map(process).collect()),
        _ => None,
    }
}

/// How many processes there are that were executed for an instance.
fn processes_with(instance: InstanceId) -> usize {
    let variable = format!("ORCHESTRATOR_INSTANCE_ID={instance}\0");
    let of_it =
        |environ: Vec<u8>| environ.windows(variable.len()).any(|w| w == variable.as_bytes());
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter(|entry| std::fs::read(entry.path().join("environ")).is_ok_and(of_it)).count()
}

/// The ends that were reported, by instance, up to an event.
#[derive(Default)]
struct Reported {
    exits: HashMap<InstanceId, usize>,
    last: u64,
}

impl Reported {
    async fn read(&mut self, stage: &Stage) {
        let (after, since_ms) = (Some(self.last), None);
        let events = Request::Events { follow: false, after, since_ms, instance: None };
        let client = stage.daemon.client().await;
        let mut events = client.stream(events).await.unwrap();
        while let Some(item) = events.next().await {
            match item.unwrap() {
                Item::Event(event) => {
                    self.last = event.seq;
                    if let (EventKind::Exited { .. }, Some(id)) = (&event.kind, event.instance) {
                        *self.exits.entry(id).or_default() += 1;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Stops an instance. How many of the numbers from 1 to the last one that it printed are not in
/// its log, or not in their place.
async fn unprinted(stage: &Stage, instance: InstanceId) -> usize {
    let client = stage.daemon.client().await;
    let instance = || instance.to_string().into();
    client.request(Request::RuntimeStop { instance: instance() }).await.unwrap();
    let query = LogQuery { stream: Some(LogStream::Stdout), ..LogQuery::of(instance()) };
    let mut items = client.stream(Request::Logs(query)).await.unwrap();
    let (mut expected, mut wrong) = (1, 0);
    while let Some(item) = items.next().await {
        if let Item::Log(line) = item.unwrap()
            && line.stream == LogStream::Stdout
        {
            let number: usize = String::from_utf8_lossy(&line.text.0).trim().parse().unwrap_or(0);
            wrong += usize::from(number != expected);
            expected = number + 1;
        }
    }
    assert!(expected > 1, "it printed nothing");
    wrong
}
