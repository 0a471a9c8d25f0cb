//! What only the whole shows: names that are taken, circles, names that nobody has.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::rc::Rc;

use super::problem::{Collected, Source};
use super::read::did_you_mean;
use super::replicas;
use crate::InstanceId;
use crate::control::{Kind, LinkSpec, Replica, RestartPolicy, TargetSpec, Wanted};

/// The longest name, bytes.
const MAX_NAME: usize = 64;

/// The most instances that one may need or wait for.
const MAX_DEPENDENCIES: usize = 256;

/// Where something is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) file: usize,
    pub(super) at: usize,
}

/// An instance and where it is.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) wanted: Wanted,
    pub(super) place: Place,
}

/// A link and where it is.
#[derive(Debug)]
pub(super) struct FoundLink {
    pub(super) link: LinkSpec,
    pub(super) place: Place,
}

pub(super) fn check_name(source: &Source<'_>, at: usize, name: &str) {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() {
        source.wrong(at, "a name can't be empty");
    } else if !name.chars().all(allowed) {
        let message = format!("the name {name:?} has characters other than A-Z a-z 0-9 . _ -");
        source.wrong(at, message);
    } else if name.len() > MAX_NAME {
        source.wrong(at, format!("a name has {MAX_NAME} characters at most"));
    }
}

struct Whole<'a> {
    texts: &'a [(PathBuf, Rc<str>)],
    collected: &'a Collected,
}

impl Whole<'_> {
    fn source(&self, place: Place) -> Option<Source<'_>> {
        let (path, text) = self.texts.get(place.file)?;
        Some(Source { path, text, collected: self.collected })
    }

    fn wrong(&self, place: Place, message: String) {
        if let Some(source) = self.source(place) {
            source.wrong(place.at, message);
        }
    }

    fn shown(&self, place: Place) -> String {
        self.source(place).map_or_else(String::new, |source| {
            format!("{}:{}", source.path.display(), source.position(place.at))
        })
    }

    fn unique<K: std::hash::Hash + Eq>(
        &self,
        known: &mut HashMap<K, Place>,
        key: K,
        place: Place,
        what: impl FnOnce() -> String,
    ) {
        if let Some(first) = known.get(&key) {
            self.wrong(place, format!("{} twice; first at {}", what(), self.shown(*first)));
        } else {
            known.insert(key, place);
        }
    }
}

pub(super) fn check(
    texts: &[(PathBuf, Rc<str>)],
    instances: &[Found],
    links: &[FoundLink],
    collected: &Collected,
) {
    let whole = Whole { texts, collected };
    let (mut names, mut ids, mut same_links) = (HashMap::new(), HashMap::new(), HashMap::new());
    let mut sockets = HashMap::new();
    for Found { wanted, place } in instances {
        if let Some(name) = &wanted.spec.name {
            whole.unique(&mut names, name.as_str(), *place, || format!("{name} is defined"));
        }
        if let Some(id) = wanted.spec.id {
            whole.unique(&mut ids, id, *place, || format!("the id {id} is given"));
        }
        for listen in &wanted.spec.listen {
            let socket = listen.place();
            whole.unique(&mut sockets, socket.clone(), *place, || format!("{socket} is given"));
        }
        let rules = &wanted.spec.supervision;
        if rules.kind != Kind::Service && rules.restart.policy == RestartPolicy::Always {
            let message = match rules.kind {
                Kind::Schedule(_) => "a schedule runs to its end each time",
                _ => "a task runs to its end once",
            };
            let message = format!("{message}; it can be restarted on-failure or never");
            whole.wrong(*place, message);
        }
        if rules.requires.len() + rules.after.len() > MAX_DEPENDENCIES {
            let message = format!("an instance can need and wait for {MAX_DEPENDENCIES} at most");
            whole.wrong(*place, message);
        }
    }
    for (found, message) in replicas::problems(instances) {
        whole.wrong(found.place, message);
    }
    for FoundLink { link, place } in links {
        let to = match &link.to {
            TargetSpec::Instance(to) => to.to_string(),
            TargetSpec::Udp(address) => format!("udp:{address}"),
        };
        let key = (link.from.as_ref().map(|from| &from.0), &link.type_name, to);
        whole.unique(&mut same_links, key, *place, || "the same link is made".to_owned());
    }
    circles(&whole, instances);
    strangers(&whole, instances, links);
}

fn needed(wanted: &Wanted) -> impl Iterator<Item = &str> {
    let rules = &wanted.spec.supervision;
    let requires = rules.requires.iter().map(|it| it.instance.as_str());
    requires.chain(rules.after.iter().map(|it| it.instance.as_str()))
}

/// Which instance is meant by a name or an id; a set is one, and is meant by the names of its
/// replicas too.
struct Known<'a> {
    sets: HashMap<&'a str, (usize, u32)>,
    by_name: HashMap<&'a str, usize>,
    by_id: HashMap<InstanceId, usize>,
}

impl<'a> Known<'a> {
    fn new(instances: &'a [Found]) -> Self {
        let specs = || instances.iter().map(|found| &found.wanted.spec).enumerate();
        let sets =
            specs().filter_map(|(i, spec)| Some((spec.name.as_deref()?, (i, spec.replicas?.0))));
        Self {
            sets: sets.collect(),
            by_name: specs().filter_map(|(i, spec)| Some((spec.name.as_deref()?, i))).collect(),
            by_id: specs().filter_map(|(i, spec)| Some((spec.id?, i))).collect(),
        }
    }

    fn find(&self, text: &str) -> Option<usize> {
        let by_id = || self.by_id.get(&text.parse().ok()?).copied();
        let of_set = || {
            let Replica { set, index } = Replica::of_name(text)?;
            self.sets.get(set.as_str()).filter(|(_, count)| index <= *count).map(|(i, _)| *i)
        };
        self.by_name.get(text).copied().or_else(by_id).or_else(of_set)
    }
}

/// Those that would have to wait for themselves. Each circle is told of once.
fn circles(whole: &Whole<'_>, instances: &[Found]) {
    let known = Known::new(instances);
    let next = |i: usize| -> Vec<usize> {
        needed(&instances[i].wanted).filter_map(|text| known.find(text)).collect()
    };
    // Depth first, without recursion: a chain may be as long as there are instances.
    let mut done = HashSet::new();
    for start in 0..instances.len() {
        let (mut path, mut on_path) = (Vec::new(), BTreeSet::new());
        let mut todo = vec![(start, false)];
        while let Some((i, left)) = todo.pop() {
            if left {
                path.pop();
                on_path.remove(&i);
                done.insert(i);
            } else if on_path.contains(&i) {
                let from = path.iter().position(|on| *on == i).unwrap_or_default();
                let way = path[from..].iter().chain([&i]);
                let way: Vec<_> = way.map(|i| instances[*i].wanted.label()).collect();
                let message = format!("it would have to wait for itself: {}", way.join(" → "));
                whole.wrong(instances[i].place, message);
            } else if !done.contains(&i) {
                path.push(i);
                on_path.insert(i);
                todo.push((i, true));
                todo.extend(next(i).into_iter().rev().map(|i| (i, false)));
            }
        }
    }
}

/// Names that nobody has here. They may be those of instances that are there already.
fn strangers(whole: &Whole<'_>, instances: &[Found], links: &[FoundLink]) {
    let known = Known::new(instances);
    let warn = |place: Place, text: &str, what: String| {
        if known.find(text).is_none()
            && text.parse::<InstanceId>().is_err()
            && let Some(source) = whole.source(place)
        {
            let help = did_you_mean(text, known.by_name.keys().copied());
            source.warn(place.at, format!("{what} {text:?}, which is not in this manifest"), help);
        }
    };
    for Found { wanted, place } in instances {
        for text in needed(wanted) {
            warn(*place, text, format!("{} needs or waits for", wanted.label()));
        }
    }
    for FoundLink { link, place } in links {
        if let Some(from) = &link.from {
            warn(*place, &from.0, "the link begins at".to_owned());
        }
        if let TargetSpec::Instance(to) = &link.to {
            warn(*place, &to.0, "the link ends at".to_owned());
        }
    }
}
