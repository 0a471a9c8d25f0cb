//! The table of calls, over random sequences of events.

use orchestrator_proto::{LinkId, SchemaHash, TypeSchema};
use proptest::prelude::*;

use super::*;

fn decl(schema: TypeSchema) -> Arc<TypeDecl> {
    let hash = SchemaHash::of(&schema.encode());
    Arc::new(TypeDecl::new("t".into(), Some((hash, Arc::new(schema)))))
}

fn instance(number: u8) -> InstanceId {
    InstanceId::from_bytes([number; 16])
}

fn way(link: u64, from: Option<u8>, to: u8) -> Way {
    let (from, to) = (from.map(instance), instance(to));
    Way { link: LinkId(link), from, to, counts: Arc::default() }
}

#[derive(Clone, Debug)]
enum Step {
    Client { instance: u8, other_schema: bool },
    Outside { to: u8 },
    CloseClient(usize),
    Service { instance: u8, at_once: u32, other_schema: bool },
    CloseService(usize),
    Ways(Vec<(Option<u8>, u8)>),
    Call { client: usize, timeout: u64, size: usize },
    Cancel(usize),
    Answer { given: usize, is_reply: bool },
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let other = prop::bool::weighted(0.1);
    let which = 0..16_usize;
    let step = prop_oneof![
        2 => (0..3_u8, other)
            .prop_map(|(instance, other_schema)| Step::Client { instance, other_schema }),
        1 => (3..6_u8).prop_map(|to| Step::Outside { to }),
        1 => which.clone().prop_map(Step::CloseClient),
        2 => (3..6_u8, 1..4_u32, other).prop_map(|(instance, at_once, other_schema)| {
            Step::Service { instance, at_once, other_schema }
        }),
        1 => which.clone().prop_map(Step::CloseService),
        1 => prop::collection::vec((prop::option::of(0..3_u8), 3..6_u8), 0..6)
            .prop_map(Step::Ways),
        12 => (which.clone(), 1..60_u64, 0..5_usize)
            .prop_map(|(client, timeout, size)| Step::Call { client, timeout, size }),
        2 => which.clone().prop_map(Step::Cancel),
        8 => (which, any::<bool>()).prop_map(|(given, is_reply)| Step::Answer { given, is_reply }),
        3 => (0..20_u64).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 0..200)
}

/// What the clients and services see, and what must hold of that.
#[derive(Default)]
struct World {
    table: Table,
    ways: Vec<Way>,
    clients: Vec<(ClientKey, Caller, bool)>,
    /// With the calls that it has and has not answered, and those among them that are not wanted.
    services: Vec<(ServiceKey, u8, u32, bool, Vec<CallKey>)>,
    withdrawn: HashSet<CallKey>,
    /// Calls that are not answered.
    waiting: HashSet<(ClientKey, u64)>,
    next_id: u64,
}

impl World {
    fn check(&mut self, out: Vec<Action>) -> Result<(), TestCaseError> {
        for action in out {
            match action {
                Action::Give { service, call, caller, .. } => {
                    let has = self.services.iter().find(|it| it.0 == service).unwrap();
                    let (at, other) = (has.1, has.3);
                    // It is the newest of its instance, and a link leads there.
                    let newest = self.services.iter().rev().find(|it| it.1 == at).unwrap();
                    prop_assert_eq!(newest.0, service);
                    let may = match caller {
                        Caller::Outside { to } => to == instance(at),
                        Caller::Instance(from) => self.ways.iter().any(|way| {
                            way.to == instance(at) && way.from.is_none_or(|only| only == from)
                        }),
                    };
                    prop_assert!(may);
                    prop_assert!(
                        self.clients.iter().any(|it| it.1 == caller && it.2 == other),
                        "the schemas agree"
                    );
                    let given = self.services.iter_mut().find(|it| it.0 == service).unwrap();
                    given.4.push(call);
                    prop_assert!(given.4.len() <= given.2 as usize, "no more than it takes");
                }
                Action::Withdraw { service, call } => {
                    if let Some(has) = self.services.iter().find(|it| it.0 == service) {
                        prop_assert!(has.4.contains(&call));
                    }
                    prop_assert!(self.withdrawn.insert(call), "withdrawn once");
                }
                Action::Answer { client, id, .. } => {
                    prop_assert!(self.waiting.remove(&(client, id)), "answered once");
                }
            }
        }
        // Each call has its timer, and nothing else has.
        prop_assert_eq!(self.table.deadlines.len(), self.table.calls.len());
        prop_assert_eq!(self.table.calls.len(), self.waiting.len());
        for (key, client) in &self.table.clients {
            let turns = self.table.turns.iter().filter(|other| *other == key).count();
            prop_assert_eq!(turns, usize::from(!client.waiting.is_empty()));
        }
        let in_flight: u64 = self.ways.iter().map(|way| way.counts.counters().in_flight).sum();
        let given = self
            .table
            .calls
            .values()
            .filter(|call| matches!(&call.state, State::Given { over: Some(_), .. }));
        prop_assert_eq!(in_flight, given.count() as u64);
        Ok(())
    }

    fn step(&mut self, step: Step, now: &mut Instant) -> Result<(), TestCaseError> {
        let mut out = Vec::new();
        let schema = |other| decl(if other { TypeSchema::U8 } else { TypeSchema::Bool });
        match step {
            Step::Client { instance: number, other_schema } => {
                let caller = Caller::Instance(instance(number));
                let key = self.table.open_client(caller, schema(other_schema));
                self.clients.push((key, caller, other_schema));
            }
            Step::Outside { to } => {
                let caller = Caller::Outside { to: instance(to) };
                let key = self.table.open_client(caller, schema(false));
                self.clients.push((key, caller, false));
            }
            Step::CloseClient(which) if which < self.clients.len() => {
                let (key, ..) = self.clients.remove(which);
                self.waiting.retain(|(client, _)| *client != key);
                self.table.close_client(key, &mut out);
            }
            Step::Service { instance: number, at_once, other_schema } => {
                // As the exchange does: what it is given at once finds it.
                let end = (instance(number), schema(other_schema));
                let key = ServiceKey(self.table.last_key + 1);
                self.services.push((key, number, at_once, other_schema, Vec::new()));
                let opened = self.table.open_service(end, at_once, *now, &mut out);
                prop_assert_eq!(opened, key);
            }
            Step::CloseService(which) if which < self.services.len() => {
                let (key, ..) = self.services.remove(which);
                self.table.close_service(key, *now, &mut out);
            }
            Step::Ways(ends) => {
                let mut ways: Vec<Way> = Vec::new();
                for (from, to) in ends {
                    let known = self
                        .ways
                        .iter()
                        .find(|way| way.from == from.map(instance) && way.to == instance(to));
                    // A link that stays is the same one.
                    let way = known.cloned().unwrap_or_else(|| {
                        self.next_id += 1;
                        way(self.next_id, from, to)
                    });
                    if !ways.iter().any(|other| other.link == way.link) {
                        ways.push(way);
                    }
                }
                ways.sort_by_key(|way| (way.from, way.to));
                ways.dedup_by_key(|way| (way.from, way.to));
                self.ways.clone_from(&ways);
                self.table.set_ways(ways.into_iter(), *now, &mut out);
            }
            Step::Call { client, timeout, size } if client < self.clients.len() => {
                let (key, ..) = self.clients[client];
                self.next_id += 1;
                self.waiting.insert((key, self.next_id));
                let (timeout, payload) = (Duration::from_secs(timeout), vec![0; size].into());
                let called = self.table.call(key, self.next_id, timeout, payload, *now, &mut out);
                prop_assert_eq!(called, Ok(()));
            }
            Step::Cancel(which) => {
                if let Some((client, id)) = self.waiting.iter().nth(which).copied() {
                    self.table.cancel(client, id, *now, &mut out);
                    let is_told = out.iter().any(|action| match action {
                        Action::Answer { client: whose, id: which, result } => {
                            (*whose, *which) == (client, id)
                                && *result == Err(CallFailure::Cancelled)
                        }
                        _ => false,
                    });
                    prop_assert!(is_told);
                }
            }
            Step::Answer { given, is_reply } => {
                let given = self
                    .services
                    .iter_mut()
                    .flat_map(|(key, .., given)| given.iter().map(|call| (*key, *call)))
                    .nth(given);
                if let Some((service, call)) = given {
                    let has = self.services.iter_mut().find(|it| it.0 == service).unwrap();
                    has.4.retain(|other| *other != call);
                    self.withdrawn.remove(&call);
                    let failed = || CallFailure::Failed("x".into());
                    let result = if is_reply { Ok(Bytes::new()) } else { Err(failed()) };
                    let answered =
                        self.table.answered(service, call, result.clone(), *now, &mut out);
                    prop_assert_eq!(answered, Ok(()));
                    // Not twice.
                    let again = self.table.answered(service, call, result, *now, &mut out);
                    prop_assert_eq!(again, Err(NotItsCall));
                }
            }
            Step::Wait(seconds) => {
                *now += Duration::from_secs(seconds);
                self.table.tick(*now, &mut out);
                let next = self.table.next_deadline();
                prop_assert!(next.is_none_or(|next| next > *now));
            }
            Step::CloseClient(_) | Step::CloseService(_) | Step::Call { .. } => {}
        }
        self.check(out)
    }
}

proptest! {
    #[test]
    fn each_call_gets_exactly_one_answer(steps in steps()) {
        let mut world = World::default();
        let mut now = Instant::now();
        for step in steps {
            world.step(step, &mut now)?;
        }
        // In the end nobody waits, whatever services do.
        world.step(Step::Wait(60), &mut now)?;
        prop_assert!(world.waiting.is_empty());
        prop_assert_eq!(world.table.next_deadline(), None);
        // And when they have answered, nothing is left.
        while world.services.iter().any(|it| !it.4.is_empty()) {
            world.step(Step::Answer { given: 0, is_reply: true }, &mut now)?;
        }
        prop_assert!(world.table.services.values().all(|it| it.given.is_empty() && it.bytes == 0));
        prop_assert!(world.table.clients.values().all(|it| it.calls.is_empty() && it.bytes == 0));
    }
}

/// A table with clients 0 and 1, and services that anybody may call.
fn table(services: &[(u8, u32)]) -> (Table, Vec<ClientKey>, Vec<ServiceKey>) {
    let mut table = Table::default();
    let now = Instant::now();
    let ways = services.iter().zip(1..).map(|((to, _), link)| way(link, None, *to));
    table.set_ways(ways, now, &mut Vec::new());
    let schema = || decl(TypeSchema::Bool);
    let clients = [0, 1].map(|it| table.open_client(Caller::Instance(instance(it)), schema()));
    let mut open = |(to, at_once): &(u8, u32)| {
        table.open_service((instance(*to), schema()), *at_once, now, &mut Vec::new())
    };
    let services = services.iter().map(&mut open).collect();
    (table, clients.to_vec(), services)
}

fn call(table: &mut Table, client: ClientKey, id: u64, size: usize) -> Vec<Action> {
    let mut out = Vec::new();
    let timeout = Duration::from_secs(9);
    table.call(client, id, timeout, vec![0; size].into(), Instant::now(), &mut out).unwrap();
    out
}

fn given_to(out: &[Action]) -> Vec<ServiceKey> {
    let given = |action: &Action| match action {
        Action::Give { service, .. } => Some(*service),
        _ => None,
    };
    out.iter().filter_map(given).collect()
}

fn failure(out: &[Action]) -> Option<&CallFailure> {
    out.iter().find_map(|action| match action {
        Action::Answer { result: Err(failure), .. } => Some(failure),
        _ => None,
    })
}

#[test]
fn services_share_the_calls() {
    let (mut table, clients, services) = table(&[(3, 10), (4, 10), (5, 10)]);
    let mut count = HashMap::new();
    for id in 0..30 {
        for service in given_to(&call(&mut table, clients[0], id, 1)) {
            *count.entry(service).or_insert(0) += 1;
        }
    }
    assert_eq!(count, services.into_iter().map(|service| (service, 10)).collect());
    // Those that are idle take their turns too.
    let (mut table, clients, services) = self::table(&[(3, 10), (4, 10)]);
    let mut turns = Vec::new();
    for id in 0..4 {
        let out = call(&mut table, clients[0], id, 1);
        let Action::Give { service, call, .. } = out[0].clone() else { panic!("{out:?}") };
        turns.push(service);
        let now = Instant::now();
        table.answered(service, call, Ok(Bytes::new()), now, &mut Vec::new()).unwrap();
    }
    assert_eq!(turns[..2], turns[2..]);
    assert_eq!(BTreeSet::from_iter(turns), BTreeSet::from_iter(services));
}

#[test]
fn what_waits_is_served_client_by_client() {
    let (mut table, clients, services) = table(&[(3, 1)]);
    for id in 0..3 {
        call(&mut table, clients[0], id, 1);
    }
    call(&mut table, clients[1], 7, 1);
    let mut ids = Vec::new();
    while let Some(key) = table.services[&services[0]].given.keys().next().copied() {
        let call = &table.calls[&key];
        ids.push((call.client, call.id));
        let now = Instant::now();
        table.answered(services[0], key, Ok(Bytes::new()), now, &mut Vec::new()).unwrap();
    }
    let [a, b] = clients[..] else { panic!() };
    assert_eq!(ids, [(a, 0), (a, 1), (b, 7), (a, 2)]);
}

#[test]
fn too_many_and_too_much_are_refused() {
    let (mut table, clients, services) = table(&[(3, 1)]);
    for id in 0..u64::from(MAX_CALLS) {
        assert_eq!(failure(&call(&mut table, clients[0], id, 1)), None);
    }
    assert_eq!(failure(&call(&mut table, clients[0], 9999, 1)), Some(&CallFailure::TooMany));
    // Another client is not affected, and large calls wait one by one.
    assert_eq!(failure(&call(&mut table, clients[1], 1, MAX_CALL_BYTES)), None);
    assert_eq!(failure(&call(&mut table, clients[1], 2, 1)), Some(&CallFailure::TooMany));
    let mut out = Vec::new();
    table.close_client(clients[0], &mut out);
    assert!(failure(&out).is_none());
    assert_eq!(table.services[&services[0]].given.len(), 1, "its place is free when it answers");
}

#[test]
fn an_id_is_not_used_twice_at_the_same_time() {
    let (mut table, clients, _) = table(&[(3, 1)]);
    let now = Instant::now();
    let mut twice = |out: &mut Vec<Action>| {
        table.call(clients[0], 1, Duration::from_secs(1), Bytes::new(), now, out)
    };
    let mut out = Vec::new();
    assert_eq!(twice(&mut out), Ok(()));
    assert_eq!(twice(&mut out), Err(Duplicate));
}
