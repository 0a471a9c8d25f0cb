//! Sets of replicas: the differences, carried out on plain values.

use orchestrator_proto::control::{Replica, Replicas};

use super::*;
use crate::plan::sets::{PresentSetLink, SetLinkStep, SetStep, Side, There, Whole, diff_all};

fn replicas(name: &str, count: u32) -> Wanted {
    let mut set = wanted(name);
    set.spec.replicas = Some(Replicas(count));
    set
}

fn link(from: Option<&str>, to: &str) -> LinkSpec {
    LinkSpec {
        from: from.map(Into::into),
        type_name: "T".into(),
        to: to.parse().unwrap(),
        policy: None,
        capacity: None,
        block_timeout: None,
        history: None,
        transport: None,
        spin_us: None,
    }
}

/// A world of plain values, with sets.
#[derive(Clone, Debug, Default)]
struct Sets {
    world: World,
    sets: Vec<Wanted>,
    links: Vec<PresentSetLink>,
    last: u64,
}

impl Sets {
    fn there(&self) -> There {
        There {
            instances: self.world.instances.clone(),
            links: self.world.links.clone(),
            sets: self.sets.clone(),
            set_links: self.links.clone(),
        }
    }

    fn diff(&self, wanted: &WantedSet, prune: bool) -> Result<Whole, Vec<String>> {
        diff_all(wanted, &self.there(), prune)
    }

    fn id(&self, name: &str) -> InstanceId {
        let found = self.world.instances.iter().find(|it| it.spec.name.as_deref() == Some(name));
        found.unwrap_or_else(|| panic!("{name} is there")).id
    }

    fn names(&self) -> Vec<String> {
        let names = self.world.instances.iter().filter_map(|it| it.spec.name.clone());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    /// What is there, as `FROM>TO`.
    fn routes(&self) -> Vec<String> {
        let name = |id: &InstanceId| {
            let it = self.world.instances.iter().find(|it| it.id == *id).unwrap();
            it.spec.name.clone().unwrap()
        };
        let route = |link: &PresentLink| {
            let from = link.route.from.as_ref().map_or_else(|| "any".to_owned(), name);
            match &link.route.to {
                Target::Instance(to) => format!("{from}>{}", name(to)),
                Target::Udp(address) => format!("{from}>udp:{address}"),
            }
        };
        let mut routes: Vec<_> = self.world.links.iter().map(route).collect();
        routes.sort();
        routes
    }

    fn carry_out(&mut self, whole: &Whole) {
        self.world.carry_out(&whole.singly, &whole.all);
        for step in &whole.sets {
            let name = match step {
                SetStep::Put { set, .. } => set.spec.name.clone(),
                SetStep::Remove(name) => Some(name.clone()),
            };
            self.sets.retain(|it| it.spec.name != name);
            if let SetStep::Put { set, .. } = step {
                self.sets.push(set.as_ref().clone());
            }
        }
        for step in &whole.set_links {
            match step {
                SetLinkStep::Remove(id) => self.links.retain(|link| link.id != *id),
                SetLinkStep::Change { id, rules } => {
                    let link = self.links.iter_mut().find(|link| link.id == *id).unwrap();
                    link.rules = *rules;
                }
                SetLinkStep::Make { route, rules } => {
                    let side = |side: &Side<End>| match side {
                        Side::Set(name) => Side::Set(name.clone()),
                        Side::One(End::Present(id)) => Side::One(*id),
                        Side::One(End::New(place)) => {
                            Side::One(self.id(&whole.singly.instances[*place].label()))
                        }
                    };
                    let route = Route {
                        from: route.from.as_ref().map(side),
                        type_name: route.type_name.clone(),
                        to: match &route.to {
                            Target::Instance(to) => Target::Instance(side(to)),
                            Target::Udp(address) => Target::Udp(address.clone()),
                        },
                    };
                    self.last += 1;
                    let (id, rules) = (LinkId(1000 + self.last), *rules);
                    self.links.push(PresentSetLink { id, route, rules });
                }
            }
        }
        // Links go with their instances.
        let ids: HashSet<_> = self.world.instances.iter().map(|it| it.id).collect();
        let is_there = |side: &Side<InstanceId>| match side {
            Side::One(id) => ids.contains(id),
            Side::Set(_) => true,
        };
        self.links.retain(|link| {
            let to = match &link.route.to {
                Target::Instance(to) => is_there(to),
                Target::Udp(_) => true,
            };
            to && link.route.from.as_ref().is_none_or(is_there)
        });
    }

    #[track_caller]
    fn apply(&mut self, wanted: &WantedSet, prune: bool) -> Whole {
        let whole = self.diff(wanted, prune).unwrap();
        self.carry_out(&whole);
        let again = self.diff(wanted, prune).unwrap();
        let nothing = again.all.instances.is_empty()
            && again.all.links.is_empty()
            && again.sets.is_empty()
            && again.set_links.is_empty();
        assert!(nothing, "{again:?}");
        whole
    }
}

#[test]
fn a_change_of_the_number_touches_what_is_added_or_removed_alone() {
    let mut sets = Sets::default();
    sets.apply(&set(vec![replicas("w", 2), wanted("x")], vec![]), false);
    assert_eq!(sets.names(), ["w.1", "w.2", "x"]);
    let before = sets.clone();
    let whole = sets.apply(&set(vec![replicas("w", 4)], vec![]), false);
    let kinds: Vec<_> = whole.all.shown_instances.iter().map(|it| it.kind).collect();
    assert_eq!(kinds, [ChangeKind::Add, ChangeKind::Add]);
    assert_eq!(whole.all.unchanged_instances, 2);
    let change = &whole.shown_sets[0];
    assert_eq!((change.kind, change.name.as_str()), (ChangeKind::Change, "w"));
    let keys: Vec<_> = change.keys.iter().map(|key| (key.key.as_str(), &key.to)).collect();
    assert_eq!(keys, [("replicas", &Some("4".to_owned()))]);
    for it in &before.world.instances {
        assert!(sets.world.instances.contains(it));
    }
    let whole = sets.apply(&set(vec![replicas("w", 1)], vec![]), false);
    let gone: Vec<_> = whole.all.shown_instances.iter().map(|it| it.name.clone()).collect();
    assert_eq!(gone, ["w.2", "w.3", "w.4"].map(|name| Some(name.to_owned())));
    assert_eq!(sets.names(), ["w.1", "x"]);
    // The set stays without replicas, and is removed like anything else.
    sets.apply(&set(vec![replicas("w", 0)], vec![]), false);
    assert_eq!((sets.names(), sets.sets.len()), (vec!["x".to_owned()], 1));
    let whole = sets.apply(&set(vec![wanted("x")], vec![]), true);
    assert_eq!(whole.shown_sets[0].kind, ChangeKind::Remove);
    assert!(sets.sets.is_empty());
}

#[test]
fn a_change_of_the_program_is_one_of_each_replica() {
    let mut sets = Sets::default();
    sets.apply(&set(vec![replicas("w", 2)], vec![]), false);
    let mut other = replicas("w", 3);
    other.spec.args = vec!["x".into()];
    let whole = sets.apply(&set(vec![other], vec![]), false);
    let shown: Vec<_> = whole.all.shown_instances.iter().map(|it| (it.kind, it.effect)).collect();
    let changed = (ChangeKind::Change, Effect::Restart);
    assert_eq!(shown, [changed, changed, (ChangeKind::Add, Effect::Start)]);
    assert_eq!(sets.sets[0].spec.args.len(), 1);
}

#[test]
fn links_of_a_set_are_those_of_its_replicas_and_follow_it() {
    let mut sets = Sets::default();
    let links = vec![link(Some("w"), "x"), link(None, "w"), link(Some("w"), "udp:10.0.0.1:9")];
    sets.apply(&set(vec![replicas("w", 2), wanted("x")], links.clone()), false);
    let two = ["any>w.1", "any>w.2", "w.1>udp:10.0.0.1:9", "w.1>x", "w.2>udp:10.0.0.1:9", "w.2>x"];
    assert_eq!(sets.routes(), two);
    // Also when nobody speaks of them.
    sets.apply(&set(vec![replicas("w", 3)], vec![]), false);
    assert_eq!(sets.routes().len(), 9);
    sets.apply(&set(vec![replicas("w", 0)], vec![]), false);
    assert_eq!((sets.routes(), sets.links.len()), (vec![], 3));
    sets.apply(&set(vec![replicas("w", 2)], vec![]), false);
    assert_eq!(sets.routes(), two);
    // Another policy is one of all of them.
    let latest = LinkSpec { policy: Some(Policy::Latest), ..link(Some("w"), "x") };
    let whole = sets.apply(&set(vec![], vec![latest]), false);
    assert_eq!((whole.set_links.len(), whole.all.links.len()), (1, 2));
    // One that is not wanted any more goes as a whole.
    let whole = sets.apply(&set(vec![replicas("w", 2), wanted("x")], links[1..].to_vec()), true);
    assert_eq!((whole.set_links.len(), whole.all.links.len()), (1, 2));
    assert_eq!(sets.routes(), ["any>w.1", "any>w.2", "w.1>udp:10.0.0.1:9", "w.2>udp:10.0.0.1:9"]);
}

#[test]
fn a_link_between_sets_joins_each_with_each() {
    let mut sets = Sets::default();
    let links = vec![link(Some("a"), "b")];
    sets.apply(&set(vec![replicas("a", 2), replicas("b", 2)], links), false);
    assert_eq!(sets.routes(), ["a.1>b.1", "a.1>b.2", "a.2>b.1", "a.2>b.2"]);
    let many = set(vec![replicas("a", 256), replicas("b", 256)], vec![]);
    let problems = sets.diff(&many, false).unwrap_err();
    assert!(problems[0].contains("more than 16384"), "{problems:?}");
}

#[test]
fn names_that_collide_are_refused_with_what_to_do() {
    let mut sets = Sets::default();
    sets.apply(&set(vec![replicas("w", 1), wanted("x"), wanted("y.2")], vec![]), false);
    let problem = |instances: Vec<Wanted>| {
        let problems = sets.diff(&set(instances, vec![]), false).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems[0].clone()
    };
    let cases = [
        (vec![wanted("w")], "w: it is a set of replicas; say how many"),
        (vec![wanted("w.1")], "w.1: that is the name of a replica of w; choose another one"),
        (vec![wanted("w.9")], "w.9: that is the name of a replica of w; choose another one"),
        (vec![replicas("x", 1)], "x: there is an instance of that name, which is no set"),
        (vec![replicas("y", 1)], "y: there is an instance y.2, which would be one of its"),
        (vec![replicas("z", 1), wanted("z.3")], "z.3: that is the name of a replica of z"),
    ];
    for (instances, expected) in cases {
        let problem = problem(instances);
        assert!(problem.starts_with(expected), "{problem}");
    }
}

fn some() -> impl Strategy<Value = WantedSet> {
    let one = (0..3_u8, prop::option::of(0..4_u32), 0..2_u8, any::<bool>());
    let instances = prop::collection::vec(one, 0..5).prop_map(|all| {
        let mut all: Vec<_> = all
            .into_iter()
            .map(|(name, count, args, runs)| {
                // A name is always that of a set, or always that of an instance.
                let mut it = match count {
                    Some(count) => replicas(&format!("s{name}"), count),
                    None => wanted(&format!("i{name}")),
                };
                it.spec.args = (0..args).map(|arg| arg.to_string().into()).collect();
                it.desired = if runs { Desired::Running } else { Desired::Stopped };
                it
            })
            .collect();
        all.sort_by_key(Wanted::label);
        all.dedup_by_key(|it| it.label());
        all
    });
    let link = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1..4_u32);
    (instances, prop::collection::vec(link, 0..5)).prop_map(|(instances, links)| {
        let mut all = set(instances, vec![]);
        let mut seen = HashSet::new();
        for (from, to, capacity) in links {
            let names: Vec<_> = all.instances.iter().map(Wanted::label).collect();
            if names.is_empty() {
                break;
            }
            let (from, to) = (from.get(&names), to.get(&names));
            if seen.insert((from.clone(), to.clone())) {
                let capacity = Some(capacity);
                all.links.push(LinkSpec { capacity, ..link_of(from, to) });
            }
        }
        all
    })
}

fn link_of(from: &str, to: &str) -> LinkSpec {
    link(Some(from), to)
}

proptest! {
    #[test]
    fn carried_out_nothing_differs_and_what_is_not_meant_stays(
        first in some(), second in some(), prune: bool,
    ) {
        let mut sets = Sets::default();
        sets.apply(&first, true);
        let before = sets.clone();
        sets.apply(&second, prune);
        // There are as many of each set as are wanted, and each is as its set is.
        for set in &sets.sets {
            let name = set.spec.name.as_deref().unwrap();
            let of_it = |it: &&Present| {
                let replica = it.spec.name.as_deref().and_then(Replica::of_name);
                replica.is_some_and(|replica| replica.set == name)
            };
            let mine: Vec<_> = sets.world.instances.iter().filter(of_it).collect();
            prop_assert_eq!(mine.len(), set.spec.replicas.unwrap().0 as usize);
            prop_assert!(mine.iter().all(|it| it.spec.args == set.spec.args));
        }
        let named: HashSet<_> = second.instances.iter().map(Wanted::label).collect();
        for it in &before.world.instances {
            let name = it.spec.name.clone().unwrap();
            let whose = Replica::of_name(&name).map_or_else(|| name.clone(), |it| it.set);
            if !named.contains(&whose) {
                prop_assert_eq!(sets.world.instances.contains(it), !prune, "{}", name);
            }
        }
        // Links between instances are those of links from and to sets, and no others.
        let ends = |name: &str| match sets.sets.iter().find(|it| it.label() == name) {
            Some(set) => set.replicas().unwrap().iter().map(Wanted::label).collect(),
            None => vec![name.to_owned()],
        };
        let mut expected = HashSet::new();
        let kept = if prune { &[][..] } else { &first.links[..] };
        for it in second.links.iter().chain(kept) {
            let TargetSpec::Instance(to) = &it.to else { panic!() };
            for from in ends(&it.from.as_ref().unwrap().0) {
                expected.extend(ends(&to.0).into_iter().map(|to| format!("{from}>{to}")));
            }
        }
        prop_assert_eq!(sets.routes().into_iter().collect::<HashSet<_>>(), expected);
    }
}
