//! The differences, carried out on plain values.

use orchestrator_proto::Millis;
use orchestrator_proto::control::{LinkSpec, Policy, Program, Readiness, TargetSpec, Transport};
use proptest::prelude::*;

use super::*;

mod sets;

fn id(number: u8) -> InstanceId {
    InstanceId::from_bytes([number; 16])
}

fn wanted(name: &str) -> Wanted {
    Wanted::running(RuntimeSpec { name: Some(name.into()), ..RuntimeSpec::new("/bin/a") })
}

fn there(number: u8, wanted: &Wanted) -> Present {
    let Program::Path(program) = wanted.spec.program.clone() else { panic!() };
    let (desired, priority) = (wanted.desired, wanted.priority.unwrap_or_default());
    Present {
        id: id(number),
        spec: wanted.spec.clone(),
        program,
        desired,
        priority,
        is_stale: false,
    }
}

fn set(instances: Vec<Wanted>, links: Vec<LinkSpec>) -> WantedSet {
    WantedSet { instances, links }
}

fn only(set: &WantedSet, present: &Present) -> (Effect, Vec<String>) {
    let all = diff(set, std::slice::from_ref(present), &[], true).unwrap();
    let shown = &all.shown_instances[0];
    let keys = shown.keys.iter().map(|key| {
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
        format!("{}: {} → {}", key.key, shown(&key.from), shown(&key.to))
    });
    (shown.effect, keys.collect())
}

#[test]
fn what_needs_a_restart_and_what_does_not() {
    let before = wanted("a");
    let present = there(1, &before);
    let check = |change: &dyn Fn(&mut Wanted), effect: Effect, key: &str| {
        let mut after = before.clone();
        change(&mut after);
        assert_eq!(only(&set(vec![after], vec![]), &present), (effect, vec![key.to_owned()]));
    };
    let (restart, nothing) = (Effect::Restart, Effect::Nothing);
    check(&|it| it.spec.args = vec!["x".into()], restart, "args: - → [\"x\"]");
    check(&|it| it.spec.env = vec![("A".into(), "b".into())], restart, "env.A: - → \"b\"");
    check(&|it| it.spec.cwd = Some("/tmp".into()), restart, "cwd: - → \"/tmp\"");
    let other = |it: &mut Wanted| it.spec.program = Program::Path("/bin/b".into());
    check(&other, restart, "program: \"/bin/a\" → \"/bin/b\"");
    check(&|it| it.priority = Some(Priority::Low), restart, "priority: \"normal\" → \"low\"");
    let watchdog = |it: &mut Wanted| it.spec.supervision.watchdog = Millis::secs(1);
    check(&watchdog, restart, "watchdog: - → \"1s\"");
    let notify = |it: &mut Wanted| it.spec.supervision.readiness = Readiness::Notify;
    check(&notify, restart, "readiness: - → \"notify\"");
    let runtime = |it: &mut Wanted| it.spec.supervision.readiness = Readiness::Runtime;
    check(&runtime, nothing, "readiness: - → \"runtime\"");
    check(&|it| it.spec.privileged = true, nothing, "privileged: - → true");
    let delay = |it: &mut Wanted| it.spec.supervision.restart.delay = Millis::secs(1);
    check(&delay, nothing, "restart.delay: - → \"1s\"");
    check(&|it| it.spec.log.keep = Some(2), nothing, "log-keep: - → 2");
    check(&|it| it.desired = Desired::Stopped, Effect::Stop, "state: - → \"stopped\"");
    let listen = |it: &mut Wanted| it.spec.listen = vec!["tcp:127.0.0.1:80".parse().unwrap()];
    check(&listen, restart, "listen: - → [\"tcp:127.0.0.1:80\"]");
}

#[test]
fn who_may_connect_is_changed_without_a_restart_and_what_is_found_is_not() {
    let listens = |texts: &[&str]| {
        let mut wanted = wanted("a");
        wanted.spec.listen = texts.iter().map(|text| text.parse().unwrap()).collect();
        wanted
    };
    let present = there(1, &listens(&["a=unix:/a", "udp:127.0.0.1:53"]));
    for (texts, effect) in [
        (&["a=unix:/a,mode=0666", "udp:127.0.0.1:53"][..], Effect::Nothing),
        (&["unix:/a", "udp:127.0.0.1:53"], Effect::Restart),
        (&["udp:127.0.0.1:53", "a=unix:/a"], Effect::Restart),
        (&["a=unix-datagram:/a", "udp:127.0.0.1:53"], Effect::Restart),
        (&["a=unix:/a"], Effect::Restart),
        (&[], Effect::Restart),
    ] {
        assert_eq!(only(&set(vec![listens(texts)], vec![]), &present).0, effect, "{texts:?}");
    }
}

#[test]
fn what_is_stopped_is_not_started_by_a_change() {
    let mut before = wanted("a");
    before.desired = Desired::Stopped;
    let present = there(1, &before);
    before.spec.args = vec!["x".into()];
    let (effect, _) = only(&set(vec![before.clone()], vec![]), &present);
    assert_eq!(effect, Effect::Nothing);
    // A priority says nothing of what is not to run.
    before.spec.args.clear();
    before.priority = Some(Priority::High);
    let all = diff(&set(vec![before.clone()], vec![]), std::slice::from_ref(&present), &[], false)
        .unwrap();
    assert!(all.instances.is_empty());
    before.desired = Desired::Running;
    let (effect, _) = only(&set(vec![before], vec![]), &present);
    assert_eq!(effect, Effect::Start);
}

#[test]
fn what_means_the_same_is_the_same() {
    let mut before = wanted("a");
    before.spec.env = vec![("A".into(), "1".into()), ("B".into(), "2".into())];
    let mut present = there(1, &before);
    let mut after = before;
    after.spec.env.reverse();
    after.spec.cwd = Some("/".into());
    let same = |after: &Wanted, present: &Present| {
        let set = set(vec![after.clone()], vec![]);
        diff(&set, std::slice::from_ref(present), &[], true).unwrap().unchanged_instances == 1
    };
    assert!(same(&after, &present));
    // Its copy, by the path that it has.
    present.spec.program = Program::Upload { file_name: "a".into(), size: 7 };
    assert!(same(&after, &present));
    // As long as it does not run as it is defined.
    present.is_stale = true;
    assert!(!same(&after, &present));
    let (effect, keys) = only(&set(vec![after], vec![]), &present);
    assert_eq!((effect, keys.len()), (Effect::Restart, 1));
}

fn link(from: Option<&str>, to: &str) -> LinkSpec {
    LinkSpec {
        from: from.map(Into::into),
        type_name: "T".into(),
        to: TargetSpec::Instance(to.into()),
        policy: None,
        capacity: None,
        block_timeout: None,
        history: None,
        transport: None,
        spin_us: None,
    }
}

#[test]
fn what_can_not_be_wanted() {
    let problems = |set: &WantedSet, prune| {
        let present = [there(1, &wanted("a")), there(2, &wanted("b"))];
        diff(set, &present, &[], prune).unwrap_err()
    };
    let twice = set(vec![wanted("c"), wanted("c")], vec![link(None, "c"), link(None, "c")]);
    assert_eq!(
        problems(&twice, false),
        ["c: it is wanted twice", "the link of \"T\" is wanted twice"]
    );
    let nobody = set(vec![], vec![link(Some("x"), "a"), link(None, "b")]);
    let missing = "the link of \"T\": there is no instance \"x\", and none is wanted";
    assert_eq!(problems(&nobody, false), [missing]);
    let gone = set(vec![wanted("a")], vec![link(None, "b")]);
    let expected = "the link of \"T\": b is not wanted, and would be removed";
    assert_eq!(problems(&gone, true), [expected]);
    let mut other = wanted("a");
    other.spec.id = Some(id(2));
    assert_eq!(problems(&set(vec![other.clone()], vec![]), false).len(), 1);
    other.spec.name = None;
    assert_eq!(problems(&set(vec![wanted("b"), other], vec![]), false).len(), 1);
    let nameless = Wanted::running(RuntimeSpec::new("/a"));
    assert_eq!(problems(&set(vec![nameless], vec![]), false).len(), 1);
}

/// A world of plain values.
#[derive(Clone, Debug, Default)]
struct World {
    instances: Vec<Present>,
    links: Vec<PresentLink>,
    /// The number of the last instance that was added.
    last: u8,
}

impl World {
    fn carry_out(&mut self, wanted: &WantedSet, all: &Differences) {
        let before = self.clone();
        let mut new = HashMap::new();
        for step in &all.instances {
            match step {
                InstanceStep::Remove(id) => {
                    self.instances.retain(|it| it.id != *id);
                    self.links.retain(|link| {
                        link.route.from != Some(*id) && link.route.to != Target::Instance(*id)
                    });
                }
                InstanceStep::Add(place) => {
                    self.last += 1;
                    let number = self.last;
                    self.instances.push(there(number, &wanted.instances[*place]));
                    new.insert(*place, id(number));
                }
                InstanceStep::Change { id, spec, priority, effect } => {
                    let it = self.instances.iter_mut().find(|it| it.id == *id).unwrap();
                    if let Some(spec) = spec {
                        assert!(
                            *effect == Effect::Restart
                                || it.desired == Desired::Stopped
                                || *effect == Effect::Stop
                                || !needs_restart(&it.spec, spec)
                        );
                        it.spec = *spec.clone();
                        if let Program::Path(path) = &it.spec.program {
                            it.program = path.clone();
                        }
                    }
                    it.desired = match effect {
                        Effect::Nothing => it.desired,
                        Effect::Stop => Desired::Stopped,
                        Effect::Start | Effect::Restart => Desired::Running,
                    };
                    if matches!(effect, Effect::Start | Effect::Restart) {
                        it.priority = priority.unwrap_or(it.priority);
                        it.is_stale = false;
                    }
                    assert_ne!(before.instances.iter().find(|it| it.id == *id), Some(&*it));
                }
            }
        }
        for step in &all.links {
            match step {
                LinkStep::Remove(id) => self.links.retain(|link| link.id != *id),
                LinkStep::Change { id, rules } => {
                    let link = self.links.iter_mut().find(|link| link.id == *id).unwrap();
                    assert_ne!(link.rules, *rules);
                    link.rules = *rules;
                }
                LinkStep::Make { route, rules } => {
                    let end = |end: &End| match end {
                        End::Present(id) => *id,
                        End::New(place) => new[place],
                    };
                    let route = Route {
                        from: route.from.as_ref().map(end),
                        type_name: route.type_name.clone(),
                        to: match &route.to {
                            Target::Instance(to) => Target::Instance(end(to)),
                            Target::Udp(address) => Target::Udp(address.clone()),
                        },
                    };
                    assert!(self.links.iter().all(|link| link.route != route));
                    let last = self.links.iter().map(|link| link.id.0).max().unwrap_or(0);
                    let (id, rules) = (LinkId(last + 1), *rules);
                    self.links.push(PresentLink { id, route, rules });
                }
            }
        }
    }
}

fn some_instances() -> impl Strategy<Value = Vec<Wanted>> {
    let one = (0..6_u8, 0..3_u8, any::<bool>(), 0..3_u8, any::<bool>(), any::<bool>());
    let one = one.prop_map(|(name, args, runs, priority, notify, privileged)| {
        let mut it = wanted(&format!("i{name}"));
        it.spec.args = (0..args).map(|arg| arg.to_string().into()).collect();
        it.spec.privileged = privileged;
        if notify {
            it.spec.supervision.readiness = Readiness::Notify;
        }
        it.desired = if runs { Desired::Running } else { Desired::Stopped };
        it.priority = [None, Some(Priority::High), Some(Priority::Low)][usize::from(priority)];
        it
    });
    prop::collection::vec(one, 0..6).prop_map(|mut all| {
        all.sort_by_key(Wanted::label);
        all.dedup_by_key(|it| it.label());
        all
    })
}

#[test]
fn another_transport_is_a_change_of_the_link() {
    let mut world = World::default();
    let with = |transport| LinkSpec { transport, ..link(Some("a"), "a") };
    let set = |transport| set(vec![wanted("a")], vec![with(transport)]);
    let mut differs = |transport| {
        let set = set(transport);
        let all = diff(&set, &world.instances, &world.links, true).unwrap();
        world.carry_out(&set, &all);
        let keys = all.shown_links.into_iter().flat_map(|it| it.keys);
        keys.map(|it| (it.key, it.from, it.to)).collect::<Vec<_>>()
    };
    let said = |word: &str| Some(format!("\"{word}\""));
    let key = || "transport".to_owned();
    assert_eq!(differs(None), []);
    assert_eq!(differs(Some(Transport::Auto)), []);
    assert_eq!(differs(Some(Transport::Direct)), [(key(), None, said("direct"))]);
    assert_eq!(differs(Some(Transport::Routed)), [(key(), said("direct"), said("routed"))]);
    assert_eq!(differs(None), [(key(), said("routed"), None)]);
}

fn some_set() -> impl Strategy<Value = WantedSet> {
    let link = (0..7_usize, 0..7_usize, any::<bool>(), 1..4_u32);
    (some_instances(), prop::collection::vec(link, 0..6)).prop_map(|(instances, links)| {
        let name = |at: usize| instances.get(at).map(Wanted::label);
        let links = links.into_iter().map(|(from, to, latest, capacity)| {
            let to = name(to).map_or_else(
                || TargetSpec::Udp("10.0.0.1:9".into()),
                |to| TargetSpec::Instance(to.into()),
            );
            LinkSpec {
                from: name(from).map(Into::into),
                type_name: "T".into(),
                to,
                policy: latest.then_some(Policy::Latest),
                capacity: Some(capacity),
                block_timeout: None,
                history: None,
                transport: None,
                spin_us: None,
            }
        });
        let mut seen = HashSet::new();
        let links = links.filter(|it| seen.insert((it.from.clone(), format!("{:?}", it.to))));
        let links = links.collect();
        WantedSet { instances, links }
    })
}

proptest! {
    #[test]
    fn carried_out_nothing_differs(first in some_set(), second in some_set(), prune: bool, stale: bool) {
        let mut world = World::default();
        world.carry_out(&first, &diff(&first, &[], &[], true).unwrap());
        let again = diff(&first, &world.instances, &world.links, true).unwrap();
        prop_assert!(again.instances.is_empty() && again.links.is_empty(), "{:?}", again);
        prop_assert_eq!(again.unchanged_instances, first.instances.len() as u64);
        prop_assert_eq!(again.unchanged_links, first.links.len() as u64);
        if let Some(it) = world.instances.first_mut() {
            it.is_stale = stale && it.desired == Desired::Running;
        }
        let all = diff(&second, &world.instances, &world.links, prune).unwrap();
        prop_assert_eq!(all.instances.len(), all.shown_instances.len());
        prop_assert_eq!(all.links.len(), all.shown_links.len());
        let before = world.clone();
        world.carry_out(&second, &all);
        let again = diff(&second, &world.instances, &world.links, prune).unwrap();
        prop_assert!(again.instances.is_empty() && again.links.is_empty(), "{:?}", again);
        if prune {
            prop_assert_eq!(world.instances.len(), second.instances.len());
            prop_assert_eq!(world.links.len(), second.links.len());
        } else {
            // Nothing that was not named is touched.
            let named: HashSet<_> = second.instances.iter().map(|it| Some(it.label())).collect();
            for it in before.instances.iter().filter(|it| !named.contains(&it.spec.name)) {
                prop_assert!(world.instances.contains(it));
            }
        }
    }
}
