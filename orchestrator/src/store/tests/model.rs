//! Whatever is done in whatever order, what is there afterwards is what a model says, also after
//! the store was dropped without a word, and also in a copy that was made at any moment.

use std::collections::BTreeMap;
use std::fs;

use orchestrator_proto::Size;
use orchestrator_proto::TypeSchema::{self, String, U8, U16};
use orchestrator_proto::control::{Desired, Exit, LastRun, PastExit, Priority, RunResult};
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Add,
    /// Of those that are there, by place.
    Remove(prop::sample::Index),
    Link(Option<prop::sample::Index>, Option<prop::sample::Index>),
    Unlink(prop::sample::Index),
    Run(prop::sample::Index, Box<RunRecord>),
    /// A type in one of a few forms, or in none.
    Declare(prop::sample::Index, u8, Option<u8>),
    Event,
    /// Closed, or only dropped, and opened again.
    Reopen {
        close: bool,
    },
    /// As if the power had been cut off.
    Copy,
}

const fn direction(name: u8) -> Direction {
    if name.is_multiple_of(2) { Direction::Output } else { Direction::Input }
}

fn type_name(name: u8) -> Arc<str> {
    format!("type.{name}").into()
}

fn declared(name: u8, schema: &TypeSchema) -> TypeRecord {
    let schema = Arc::new(schema.clone());
    let (direction, hash) = (direction(name), schema.hash());
    TypeRecord { direction, name: type_name(name), hash, schema, also: Vec::new() }
}

fn run() -> impl Strategy<Value = RunRecord> {
    let exit = prop_oneof![
        any::<u8>().prop_map(|code| Exit::Code(code.into())),
        (1..65, any::<bool>())
            .prop_map(|(signal, core_dumped)| Exit::Signal { signal, core_dumped }),
        prop::option::of(0..=i64::MAX.cast_unsigned())
            .prop_map(|limit| Exit::OutOfMemory { limit: limit.map(Size) }),
    ];
    let at_ms = 1..u64::from(u32::MAX);
    let rest = prop_oneof![
        (prop::option::of(exit.clone()), prop::option::of(at_ms.clone()))
            .prop_map(|(last_exit, at_ms)| Rest::Stopped { last_exit, at_ms }),
        (exit.clone(), at_ms.clone()).prop_map(|(exit, at_ms)| Rest::Completed { exit, at_ms }),
        (".*", prop::option::of(exit.clone()), at_ms.clone())
            .prop_map(|(reason, exit, at_ms)| Rest::Failed { reason, exit, at_ms }),
    ];
    let process =
        (1..u32::MAX, any::<u32>(), any::<bool>()).prop_map(|(pid, ticks, ready)| ProcessRecord {
            pid,
            start_ticks: ticks.into(),
            boot_id: "6d1d3a1c".into(),
            started_ms: 5,
            run: 6,
            ready,
        });
    let priority = prop_oneof![Just(Priority::High), Just(Priority::Low)];
    let noted = any::<(Option<u32>, Option<u32>)>();
    let schedule = any::<(Option<u32>, Option<u32>, bool)>().prop_map(|(seen, began, ran)| {
        let reason = "it did not end within 5s".to_owned();
        let result = RunResult::Failed { reason, exit: Some(Exit::Code(3)) };
        ScheduleRecord {
            seen_ms: seen.map(u64::from),
            began_ms: began.map(u64::from),
            last: ran.then_some(LastRun { began_ms: 7, ended_ms: 8, result }),
            skipped: seen.map_or(0, u64::from),
        }
    });
    let process = prop::option::of(process);
    (any::<(bool, bool, u32)>(), rest, process, priority, noted, schedule).prop_map(
        |((wanted, active, starts), rest, process, priority, noted, schedule)| RunRecord {
            desired: if wanted { Desired::Running } else { Desired::Stopped },
            priority,
            starts: starts.into(),
            active,
            rest,
            process,
            start_noted: noted.0.map(u64::from),
            end_noted: noted.1.map(u64::from),
            restarts: u64::from(starts) / 2,
            exits: (0..u64::from(starts % 6))
                .map(|at_ms| PastExit {
                    exit: Exit::Signal { signal: 6, core_dumped: active },
                    at_ms,
                    ran_ms: noted.0.map(u64::from),
                    requested: wanted,
                })
                .collect(),
            schedule: schedule.into(),
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let at = || any::<prop::sample::Index>();
    prop_oneof![
        3 => Just(Step::Add),
        1 => at().prop_map(Step::Remove),
        3 => (prop::option::of(at()), prop::option::of(at())).prop_map(|(a, b)| Step::Link(a, b)),
        1 => at().prop_map(Step::Unlink),
        3 => (at(), run()).prop_map(|(at, run)| Step::Run(at, Box::new(run))),
        3 => (at(), 0..4_u8, prop::option::of(0..3_u8))
            .prop_map(|(at, name, form)| Step::Declare(at, name, form)),
        4 => Just(Step::Event),
        1 => any::<bool>().prop_map(|close| Step::Reopen { close }),
        1 => Just(Step::Copy),
    ]
}

#[derive(Default, Clone)]
struct Model {
    instances: BTreeMap<u64, RunRecord>,
    /// By order and number of the type.
    types: BTreeMap<(u64, u8), TypeRecord>,
    links: BTreeMap<u64, LinkRecord>,
    last_order: u64,
    last_link: u64,
    events: u32,
}

impl Model {
    fn order(&self, at: &prop::sample::Index) -> Option<u64> {
        let orders: Vec<_> = self.instances.keys().copied().collect();
        (!orders.is_empty()).then(|| *at.get(&orders))
    }

    fn check(&self, snapshot: &Snapshot) {
        let instances: Vec<_> =
            self.instances.iter().map(|(order, run)| (instance(*order), run.clone())).collect();
        assert_eq!(snapshot.instances, instances);
        let mut types = BTreeMap::new();
        for ((order, _), record) in &self.types {
            types.entry(*order).or_insert_with(Vec::new).push(record.clone());
        }
        let found = snapshot.types.iter().map(|(order, found)| {
            let mut found = found.clone();
            found.sort_by(|a, b| a.name.cmp(&b.name));
            (*order, found)
        });
        assert_eq!(found.collect::<BTreeMap<_, _>>(), types);
        assert_eq!(snapshot.links, self.links.values().cloned().collect::<Vec<_>>());
        assert_eq!((snapshot.last_order, snapshot.last_link), (self.last_order, self.last_link));
        assert!(snapshot.unreadable.is_empty() && snapshot.set_aside.is_none());
        let copies = instances.iter().filter_map(|(record, _)| record.copy.clone()).collect();
        assert_eq!(snapshot.copies, copies);
    }

    async fn check_events(&self, store: &Store) {
        let expected: Vec<_> = (1..=self.events).map(|n| (u64::from(n), n)).collect();
        assert_eq!(pids(store, 0).await, expected);
    }
}

async fn play(steps: Vec<Step>) {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Add => {
                model.last_order += 1;
                model.instances.insert(model.last_order, RunRecord::default());
                store.change(add(model.last_order)).await.unwrap();
            }
            Step::Remove(at) => {
                let Some(order) = model.order(&at) else { continue };
                let id = instance(order).id;
                model.instances.remove(&order);
                model.types.retain(|(of, _), _| *of != order);
                model
                    .links
                    .retain(|_, link| link.from != Some(id) && link.to != LinkEnd::Instance(id));
                store.change(Change::RemoveInstance { order, id }).await.unwrap();
            }
            Step::Link(from, to) => {
                let from = from.and_then(|at| model.order(&at));
                let to = to.and_then(|at| model.order(&at)).unwrap_or(0);
                model.last_link += 1;
                let record = link(model.last_link, from, to);
                model.links.insert(model.last_link, record.clone());
                store.change(Change::AddLink(record)).await.unwrap();
            }
            Step::Unlink(at) => {
                let ids: Vec<_> = model.links.keys().copied().collect();
                if !ids.is_empty() {
                    let id = *at.get(&ids);
                    model.links.remove(&id);
                    store.change(Change::RemoveLink(LinkId(id))).await.unwrap();
                }
            }
            Step::Run(at, run) => {
                let Some(order) = model.order(&at) else { continue };
                store.note_run(order, *run.clone());
                model.instances.insert(order, *run);
            }
            Step::Declare(at, name, form) => {
                // Of one that was removed too.
                let order = model.order(&at).unwrap_or(model.last_order);
                let record = form.map(|form| declared(name, &[U8, U16, String][usize::from(form)]));
                let schema = record.as_ref().map(|record| &*record.schema);
                store.note_type(order, direction(name), &type_name(name), schema);
                let known = model.instances.contains_key(&order);
                match record.filter(|_| known) {
                    Some(record) => model.types.insert((order, name), record),
                    None => model.types.remove(&(order, name)),
                };
            }
            Step::Event => {
                model.events += 1;
                store.record_event(event(model.events));
            }
            Step::Reopen { close: true } => {
                store.close().await;
                let (again, snapshot) = open(dir.path());
                store = again;
                model.check(&snapshot);
                model.check_events(&store).await;
            }
            Step::Reopen { close: false } => {
                let mut ended = store.shared().ended.subscribe();
                drop(store);
                ended.wait_for(|ended| *ended).await.unwrap();
                let (again, snapshot) = open(dir.path());
                store = again;
                model.check(&snapshot);
            }
            Step::Copy => {
                store.commit(Durability::Logged).await.unwrap();
                let copy = tempfile::tempdir().unwrap();
                for file in ["state.db", "state.db-wal"] {
                    fs::copy(dir.path().join(file), copy.path().join(file)).unwrap();
                }
                let (copied, snapshot) = open(copy.path());
                model.check(&snapshot);
                model.check_events(&copied).await;
            }
        }
    }
    store.commit(Durability::Logged).await.unwrap();
    model.check_events(&store).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn what_is_there_is_what_was_done(steps in prop::collection::vec(step(), 1..60)) {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio.block_on(play(steps));
    }
}
