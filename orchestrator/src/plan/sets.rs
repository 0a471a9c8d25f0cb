//! Sets of replicas as they are, and as they should be: what is wanted of each replica, and each
//! link from or to a set as links from and to its replicas.

use std::collections::{BTreeMap, HashMap, HashSet};

use orchestrator_proto::control::{
    ChangeKind, KeyChange, LinkChange, LinkRules, LinkSpec, Program, Replica, Replicas, SetChange,
    TargetSpec, Wanted, WantedSet,
};
use orchestrator_proto::manifest::link_entries;
use orchestrator_proto::{InstanceId, LinkId};

use super::ends::Known;
use super::links::{self, Implied};
use super::{
    Differences, End, InstanceStep, Present, PresentLink, Route, Target, diff_among, differing,
    instance,
};

/// More links than a daemon has are not counted out.
const MAX_LINKS: usize = 16_384;

/// All that is there.
#[derive(Clone, Debug, Default)]
pub struct There {
    /// Instances, replicas too.
    pub instances: Vec<Present>,
    /// Links between them.
    pub links: Vec<PresentLink>,
    /// Sets of replicas.
    pub sets: Vec<Wanted>,
    /// Links from and to these as a whole.
    pub set_links: Vec<PresentSetLink>,
}

/// A link from or to a set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PresentSetLink {
    /// Its id.
    pub id: LinkId,
    /// Its ends and its type.
    pub route: Route<Side<InstanceId>>,
    /// Its rules.
    pub rules: LinkRules,
}

/// One end of a link from or to a set.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Side<I> {
    /// One instance.
    One(I),
    /// Each replica of the set of this name.
    Set(String),
}

/// Something to be done with a set; what that means for its replicas is said of each.
#[derive(Clone, PartialEq, Debug)]
pub enum SetStep {
    /// From now on it is so.
    Put {
        /// How it is to be.
        set: Box<Wanted>,
        /// How many replicas it had; none if it is new.
        before: Option<Replicas>,
    },
    /// Remove it, when its replicas are gone.
    Remove(String),
}

/// Something to be done with a link from or to a set; what that means for the links between
/// instances is said of each.
#[derive(Clone, PartialEq, Debug)]
pub enum SetLinkStep {
    /// Remove it.
    Remove(LinkId),
    /// Change it.
    Change {
        /// The one that joins the same ends.
        id: LinkId,
        /// Its rules.
        rules: LinkRules,
    },
    /// Make it.
    Make {
        /// Its ends and its type.
        route: Route<Side<End>>,
        /// Its rules.
        rules: LinkRules,
    },
}

/// What is to be done, with sets too.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Whole {
    /// What is wanted, each replica by itself: places are those in here.
    pub singly: WantedSet,
    /// With instances and links between them.
    pub all: Differences,
    /// With sets.
    pub sets: Vec<SetStep>,
    /// With links from and to them as a whole.
    pub set_links: Vec<SetLinkStep>,
    /// Links from and to sets that were named and do not differ.
    pub unchanged_set_links: Vec<LinkId>,
    /// How the sets differ, for people.
    pub shown_sets: Vec<SetChange>,
    /// How those links differ, for people.
    pub shown_links: Vec<LinkChange>,
}

/// What is to be done so that everything is as wanted; `prune` removes what is not. Of a set that
/// is wanted, replicas beyond its number are removed in any case.
///
/// # Errors
///
/// All that is wrong with what is wanted, a sentence each.
pub fn diff_all(wanted: &WantedSet, there: &There, prune: bool) -> Result<Whole, Vec<String>> {
    let mut problems = names(wanted, there, prune);
    let mut whole = Whole::default();
    let is_set = |it: &&Wanted| it.spec.replicas.is_some();
    let asked: BTreeMap<_, _> = by_name(wanted.instances.iter().filter(is_set));
    let before: BTreeMap<_, _> = by_name(there.sets.iter());
    for (name, set) in &asked {
        let step = match before.get(name) {
            None => Some((ChangeKind::Add, Wanted::clone(set), Vec::new())),
            Some(before) => changed(set, before),
        };
        if let Some((kind, set, keys)) = step {
            let before = before.get(name).and_then(|before| before.spec.replicas);
            whole.sets.push(SetStep::Put { set: Box::new(set), before });
            whole.shown_sets.push(SetChange { kind, name: (*name).to_owned(), keys });
        }
    }
    // How many replicas each set has afterwards.
    let mut counts: HashMap<&str, u32> = HashMap::new();
    for (name, set) in &before {
        if !prune || asked.contains_key(name) {
            counts.insert(name, set.spec.replicas.map_or(0, |it| it.0));
        } else {
            whole.sets.push(SetStep::Remove((*name).to_owned()));
            let (kind, keys) = (ChangeKind::Remove, Vec::new());
            whole.shown_sets.push(SetChange { kind, name: (*name).to_owned(), keys });
        }
    }
    counts.extend(asked.iter().map(|(name, set)| (*name, set.spec.replicas.map_or(0, |it| it.0))));

    let each = wanted.instances.iter();
    let each = each.flat_map(|it| it.replicas().unwrap_or_else(|| vec![it.clone()]));
    whole.singly.instances = each.collect();
    let is_set = |text: &str| counts.contains_key(text);
    let (of_sets, single): (Vec<_>, Vec<_>) =
        wanted.links.iter().cloned().partition(|link| sides(link).any(is_set));
    whole.singly.links = single;

    let is_surplus = |it: &Present| {
        let replica = it.spec.name.as_deref().and_then(Replica::of_name);
        replica.is_some_and(|it| {
            asked.contains_key(it.set.as_str())
                && counts.get(it.set.as_str()).is_some_and(|count| it.index > *count)
        })
    };
    let mut unlike = Vec::new();
    let instances = whole.singly.clone();
    let known = Known::new(&instances, &there.instances, |it| prune || is_surplus(it), &mut unlike);
    problems.extend(unlike);
    let ends = Ends { known: &known, counts: &counts };
    ends.diff(&mut whole, &of_sets, &there.set_links, prune, &mut problems);
    let implied = if prune { Vec::new() } else { ends.implied(&there.set_links, &mut problems) };
    let present = (&there.instances[..], &there.links[..], &implied[..]);
    let all = diff_among(&whole.singly, present, &known, prune, problems)?;
    Ok(Whole { all, ..whole })
}

fn by_name<'a>(sets: impl Iterator<Item = &'a Wanted>) -> BTreeMap<&'a str, &'a Wanted> {
    sets.filter_map(|set| Some((set.spec.name.as_deref()?, set))).collect()
}

/// A set as it is to be, and which keys differ.
fn changed(wanted: &Wanted, before: &Wanted) -> Option<(ChangeKind, Wanted, Vec<KeyChange>)> {
    let Program::Path(program) = before.spec.program.clone() else {
        return None;
    };
    let present = Present {
        // A set has none, and nothing is asked of this one.
        id: InstanceId::from_bytes([0; 16]),
        spec: before.spec.clone(),
        program,
        desired: before.desired,
        priority: before.priority.unwrap_or_default(),
        is_stale: false,
    };
    let (step, shown) = instance::change(wanted, &present)?;
    let spec = match step {
        InstanceStep::Change { spec: Some(spec), .. } => *spec,
        _ => before.spec.clone(),
    };
    let priority = wanted.priority.or(before.priority);
    Some((ChangeKind::Change, Wanted { spec, desired: wanted.desired, priority }, shown.keys))
}

/// Names that collide, a sentence each.
fn names(wanted: &WantedSet, there: &There, prune: bool) -> Vec<String> {
    let is_set = |it: &&Wanted| it.spec.replicas.is_some();
    let asked: HashSet<_> =
        wanted.instances.iter().filter(is_set).filter_map(|it| it.spec.name.as_deref()).collect();
    let before: HashSet<_> = there.sets.iter().filter_map(|it| it.spec.name.as_deref()).collect();
    let mut problems = Vec::new();
    for wanted in &wanted.instances {
        let Some(name) = wanted.spec.name.as_deref() else { continue };
        let is_set = wanted.spec.replicas.is_some();
        if !is_set && before.contains(name) {
            problems.push(format!(
                "{name}: it is a set of replicas; say how many, or remove the set first"
            ));
        }
        if let Some(Replica { set, .. }) = Replica::of_name(name) {
            let stays = before.contains(set.as_str()) && !prune;
            if asked.contains(set.as_str()) || stays {
                problems.push(format!(
                    "{name}: that is the name of a replica of {set}; choose another one, or give \
                     {set} as many replicas as are wanted"
                ));
            }
        }
    }
    for present in &there.instances {
        let Some(name) = present.spec.name.as_deref() else { continue };
        if asked.contains(name) {
            problems.push(format!(
                "{name}: there is an instance of that name, which is no set of replicas; remove \
                 it first, or choose another name"
            ));
        }
        if let Some(Replica { set, .. }) = Replica::of_name(name)
            && asked.contains(set.as_str())
            && !before.contains(set.as_str())
        {
            problems.push(format!(
                "{set}: there is an instance {name}, which would be one of its replicas; remove \
                 it first, or choose another name for the set"
            ));
        }
    }
    problems
}

/// Both ends of a link that name instances or sets.
fn sides(link: &LinkSpec) -> impl Iterator<Item = &str> {
    let to = match &link.to {
        TargetSpec::Instance(to) => Some(to.0.as_str()),
        TargetSpec::Udp(_) => None,
    };
    link.from.iter().map(|from| from.0.as_str()).chain(to)
}

/// Which instances and sets there will be.
struct Ends<'a> {
    known: &'a Known<'a>,
    counts: &'a HashMap<&'a str, u32>,
}

impl Ends<'_> {
    /// Links from and to sets; each that is wanted is among those that are wanted singly too.
    fn diff(
        &self,
        whole: &mut Whole,
        wanted: &[LinkSpec],
        present: &[PresentSetLink],
        prune: bool,
        problems: &mut Vec<String>,
    ) {
        let mut seen = HashSet::new();
        let mut kept = HashSet::new();
        let mut made = Vec::new();
        for link in wanted {
            let route = match links::check(link).and_then(|()| self.route(link)) {
                Ok(route) => route,
                Err(problem) => {
                    problems.push(format!("the link of {:?}: {problem}", link.type_name));
                    continue;
                }
            };
            if !seen.insert(route.clone()) {
                problems.push(format!("the link of {:?} is wanted twice", link.type_name));
                continue;
            }
            if whole.singly.links.len() + self.count(link) > MAX_LINKS {
                problems.push(too_many(link));
                continue;
            }
            whole.singly.links.extend(self.each(link));
            let before = present.iter().find(|it| as_wanted(&it.route) == route);
            kept.extend(before.map(|before| before.id));
            let rules = links::rules(link);
            if let Some(same) = before
                && same.rules == rules
            {
                whole.unchanged_set_links.push(same.id);
                continue;
            }
            let keys = before.map(|before| {
                let spec = link.clone().with_rules(before.rules);
                differing(link_entries(&spec), link_entries(link))
            });
            let shown = LinkChange {
                kind: if before.is_some() { ChangeKind::Change } else { ChangeKind::Add },
                id: before.map(|before| before.id),
                from: link.from.as_ref().map(ToString::to_string),
                type_name: link.type_name.clone(),
                to: shown_target(&link.to),
                keys: keys.unwrap_or_default(),
            };
            let step = match before {
                Some(before) => SetLinkStep::Change { id: before.id, rules },
                None => SetLinkStep::Make { route, rules },
            };
            made.push((step, shown));
        }
        for gone in present.iter().filter(|it| prune && !kept.contains(&it.id)) {
            whole.set_links.push(SetLinkStep::Remove(gone.id));
            whole.shown_links.push(LinkChange {
                kind: ChangeKind::Remove,
                id: Some(gone.id),
                from: gone.route.from.as_ref().map(|from| self.label(from)),
                type_name: gone.route.type_name.clone(),
                to: match &gone.route.to {
                    Target::Instance(to) => self.label(to),
                    Target::Udp(address) => format!("udp:{address}"),
                },
                keys: Vec::new(),
            });
        }
        for (step, shown) in made {
            whole.set_links.push(step);
            whole.shown_links.push(shown);
        }
    }

    fn label(&self, side: &Side<InstanceId>) -> String {
        match side {
            Side::One(id) => self.known.label(*id),
            Side::Set(name) => name.clone(),
        }
    }

    fn route(&self, link: &LinkSpec) -> Result<Route<Side<End>>, String> {
        let side = |text: &str| match self.counts.contains_key(text) {
            true => Ok(Side::Set(text.to_owned())),
            false => self.known.end(text).map(Side::One),
        };
        let to = match &link.to {
            TargetSpec::Instance(to) => Target::Instance(side(&to.0)?),
            TargetSpec::Udp(address) => Target::Udp(address.clone()),
        };
        let from = link.from.as_ref().map(|from| side(&from.0)).transpose()?;
        Ok(Route { from, type_name: link.type_name.clone(), to })
    }

    /// The names that one stands for.
    fn names(&self, text: &str) -> Vec<String> {
        match self.counts.get(text) {
            None => vec![text.to_owned()],
            Some(count) => {
                let replica = |index| Replica { set: text.to_owned(), index }.to_string();
                (1..=*count).map(replica).collect()
            }
        }
    }

    /// The links that one from or to a set stands for.
    fn each(&self, link: &LinkSpec) -> Vec<LinkSpec> {
        let senders: Vec<_> = match &link.from {
            None => vec![None],
            Some(from) => self.names(&from.0).into_iter().map(|it| Some(it.into())).collect(),
        };
        let targets: Vec<_> = match &link.to {
            TargetSpec::Instance(to) => {
                let names = self.names(&to.0).into_iter();
                names.map(|name| TargetSpec::Instance(name.into())).collect()
            }
            udp @ TargetSpec::Udp(_) => vec![udp.clone()],
        };
        let pairs = senders.iter().flat_map(|from| targets.iter().map(move |to| (from, to)));
        pairs
            .map(|(from, to)| LinkSpec { from: from.clone(), to: to.clone(), ..link.clone() })
            .collect()
    }

    /// What follows from links of sets that are there and stay.
    fn implied(&self, present: &[PresentSetLink], problems: &mut Vec<String>) -> Vec<Implied> {
        let text = |side: &Side<InstanceId>| match side {
            Side::One(id) => id.to_string(),
            Side::Set(name) => name.clone(),
        };
        let mut implied = Vec::new();
        for link in present {
            let ends = LinkSpec {
                from: link.route.from.as_ref().map(|from| text(from).into()),
                type_name: link.route.type_name.clone(),
                to: match &link.route.to {
                    Target::Instance(to) => TargetSpec::Instance(text(to).into()),
                    Target::Udp(address) => TargetSpec::Udp(address.clone()),
                },
                policy: None,
                capacity: None,
                block_timeout: None,
                history: None,
                transport: None,
                spin_us: None,
            };
            let spec = ends.with_rules(link.rules);
            if implied.len() + self.count(&spec) > MAX_LINKS {
                problems.push(too_many(&spec));
                break;
            }
            let rules = link.rules;
            for link in self.each(&spec) {
                // One that goes away takes its links with it.
                let Ok(route) = links::route(&link, self.known) else { continue };
                let label = |text: &str| {
                    let id = text.parse().ok();
                    id.map_or_else(|| text.to_owned(), |id| self.known.label(id))
                };
                let shown = LinkChange {
                    kind: ChangeKind::Add,
                    id: None,
                    from: link.from.as_ref().map(|from| label(&from.0)),
                    type_name: link.type_name.clone(),
                    to: match &link.to {
                        TargetSpec::Instance(to) => label(&to.0),
                        udp @ TargetSpec::Udp(_) => shown_target(udp),
                    },
                    keys: Vec::new(),
                };
                implied.push(Implied { route, rules, shown });
            }
        }
        implied
    }

    /// How many links one from or to a set stands for.
    fn count(&self, link: &LinkSpec) -> usize {
        let replicas = sides(link).filter_map(|text| self.counts.get(text));
        replicas.fold(1, |all, count| all.saturating_mul(*count as usize))
    }
}

fn too_many(link: &LinkSpec) -> String {
    format!(
        "the link of {:?}: with one for each pair of replicas there would be more than {MAX_LINKS} \
         links",
        link.type_name
    )
}

fn shown_target(to: &TargetSpec) -> String {
    match to {
        TargetSpec::Instance(to) => to.to_string(),
        TargetSpec::Udp(address) => format!("udp:{address}"),
    }
}

/// The same as one that is wanted.
fn as_wanted(route: &Route<Side<InstanceId>>) -> Route<Side<End>> {
    let side = |side: &Side<InstanceId>| match side {
        Side::One(id) => Side::One(End::Present(*id)),
        Side::Set(name) => Side::Set(name.clone()),
    };
    Route {
        from: route.from.as_ref().map(side),
        type_name: route.type_name.clone(),
        to: match &route.to {
            Target::Instance(to) => Target::Instance(side(to)),
            Target::Udp(address) => Target::Udp(address.clone()),
        },
    }
}
