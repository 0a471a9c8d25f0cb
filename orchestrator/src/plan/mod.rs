//! PURE. What differs between what is wanted and what is there, and what follows.
//!
//! For `registry/`, which knows what is there and carries it out. No lock, no clock, no process.
//!
//! It promises that
//!
//! - what is as wanted is not among the differences;
//! - when the differences are carried out, nothing differs any more;
//! - a program is restarted only for what it was told when it was executed.

mod ends;
mod instance;
mod links;
mod sets;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use orchestrator_proto::control::{
    ChangeKind, Desired, Effect, InstanceChange, KeyChange, LinkChange, LinkRules, Priority,
    RuntimeSpec, Wanted, WantedSet,
};
use orchestrator_proto::{InstanceId, LinkId, OsBytes};

pub use instance::needs_restart;
pub use sets::{PresentSetLink, SetLinkStep, SetStep, Side, There, Whole, diff_all};

/// The longest value that is shown, characters.
const MAX_SHOWN: usize = 120;
/// The most keys that are shown of one instance.
const MAX_KEYS: usize = 64;
/// The most keys that are shown in all: more would not fit a frame.
const MAX_ALL_KEYS: usize = 10_000;
/// The most problems that are told.
const MAX_PROBLEMS: usize = 100;

/// An instance that is there.
#[derive(Clone, PartialEq, Debug)]
pub struct Present {
    /// Its id.
    pub id: InstanceId,
    /// How it is to be run, with its name.
    pub spec: RuntimeSpec,
    /// What it executes, wherever that is.
    pub program: OsBytes,
    /// Whether it should run.
    pub desired: Desired,
    /// The priority of its last start.
    pub priority: Priority,
    /// Its program was executed as an earlier definition says, and is not being restarted.
    pub is_stale: bool,
}

/// A link that is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PresentLink {
    /// Its id.
    pub id: LinkId,
    /// Its ends and its type.
    pub route: Route<InstanceId>,
    /// Its rules.
    pub rules: LinkRules,
}

/// From where to where a link leads.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Route<I> {
    /// Whose messages; none means anybody's.
    pub from: Option<I>,
    /// Messages of this type.
    pub type_name: String,
    /// Who gets them.
    pub to: Target<I>,
}

/// Who gets a link's messages.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Target<I> {
    /// An instance.
    Instance(I),
    /// Another orchestrator's datagram socket, `HOST:PORT`.
    Udp(String),
}

/// An instance as the end of a link.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum End {
    /// One that is there.
    Present(InstanceId),
    /// The one that is wanted at this place of the set, and not there as yet.
    New(usize),
}

/// What is to be done.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Differences {
    /// With instances.
    pub instances: Vec<InstanceStep>,
    /// With links.
    pub links: Vec<LinkStep>,
    /// Instances that were named and do not differ.
    pub unchanged_instances: u64,
    /// Links that were named and do not differ.
    pub unchanged_links: u64,
    /// How the instances differ, for people; one for each step.
    pub shown_instances: Vec<InstanceChange>,
    /// How the links differ, for people; one for each step.
    pub shown_links: Vec<LinkChange>,
}

/// Something to be done with an instance.
#[derive(Clone, PartialEq, Debug)]
pub enum InstanceStep {
    /// Remove it, whatever it does.
    Remove(InstanceId),
    /// Add the one that is wanted at this place of the set; start it if it should run.
    Add(usize),
    /// Change it.
    Change {
        /// Which.
        id: InstanceId,
        /// How it is to be run from now on, if that differs.
        spec: Option<Box<RuntimeSpec>>,
        /// The priority to start it with; none is that of its last start.
        priority: Option<Priority>,
        /// What happens to its process.
        effect: Effect,
    },
}

/// Something to be done with a link.
#[derive(Clone, PartialEq, Debug)]
pub enum LinkStep {
    /// Remove it.
    Remove(LinkId),
    /// Make it.
    Make {
        /// Its ends and its type.
        route: Route<End>,
        /// Its rules.
        rules: LinkRules,
    },
    /// Change it, with what waits in it.
    Change {
        /// The one that joins the same ends.
        id: LinkId,
        /// Its rules.
        rules: LinkRules,
    },
}

/// What is to be done so that everything is as wanted; `prune` removes what is not.
///
/// # Errors
///
/// All that is wrong with what is wanted, a sentence each.
pub fn diff(
    wanted: &WantedSet,
    present: &[Present],
    links: &[PresentLink],
    prune: bool,
) -> Result<Differences, Vec<String>> {
    let mut problems = Vec::new();
    let known = ends::Known::new(wanted, present, |_| prune, &mut problems);
    diff_among(wanted, (present, links, &[]), &known, prune, problems)
}

fn diff_among(
    wanted: &WantedSet,
    (present, links, implied): (&[Present], &[PresentLink], &[links::Implied]),
    known: &ends::Known<'_>,
    prune: bool,
    mut problems: Vec<String>,
) -> Result<Differences, Vec<String>> {
    let mut all = Differences::default();
    for gone in present.iter().filter(|it| known.is_doomed(it.id)) {
        all.instances.push(InstanceStep::Remove(gone.id));
        all.shown_instances.push(InstanceChange {
            kind: ChangeKind::Remove,
            id: Some(gone.id),
            name: gone.spec.name.clone(),
            effect: match gone.desired {
                Desired::Running => Effect::Stop,
                Desired::Stopped => Effect::Nothing,
            },
            keys: Vec::new(),
        });
    }
    for (place, wanted) in wanted.instances.iter().enumerate() {
        match known.present(place) {
            None => add(&mut all, place, wanted),
            Some(present) => match instance::change(wanted, present) {
                None => all.unchanged_instances += 1,
                Some((step, shown)) => {
                    all.instances.push(step);
                    all.shown_instances.push(shown);
                }
            },
        }
    }
    links::diff(&mut all, wanted, (links, implied), known, prune, &mut problems);
    bound(&mut all);
    if problems.is_empty() { Ok(all) } else { Err(some(problems)) }
}

fn add(all: &mut Differences, place: usize, wanted: &Wanted) {
    all.instances.push(InstanceStep::Add(place));
    all.shown_instances.push(InstanceChange {
        kind: ChangeKind::Add,
        id: wanted.spec.id,
        name: wanted.spec.name.clone(),
        effect: match wanted.desired {
            Desired::Running => Effect::Start,
            Desired::Stopped => Effect::Nothing,
        },
        keys: Vec::new(),
    });
}

/// As many as anybody reads.
fn some(mut problems: Vec<String>) -> Vec<String> {
    let more = problems.len().saturating_sub(MAX_PROBLEMS);
    if more > 0 {
        problems.truncate(MAX_PROBLEMS);
        problems.push(format!("and {more} more"));
    }
    problems
}

fn bound(all: &mut Differences) {
    let mut left = MAX_ALL_KEYS;
    for keys in all.shown_instances.iter_mut().map(|shown| &mut shown.keys) {
        keys.truncate(MAX_KEYS.min(left));
        left -= keys.len();
    }
}

/// Keys that differ, in the order in which a manifest has them.
fn differing(from: Vec<(String, String)>, to: Vec<(String, String)>) -> Vec<KeyChange> {
    let before: HashMap<_, _> = from.iter().cloned().collect();
    let after: HashSet<_> = to.iter().map(|(key, _)| key.clone()).collect();
    let gone = from.into_iter().filter(|(key, _)| !after.contains(key));
    let gone = gone.map(|(key, value)| KeyChange { key, from: Some(cut(value)), to: None });
    let gone: Vec<_> = gone.collect();
    let new = to.into_iter().filter_map(|(key, value)| {
        let from = before.get(&key).cloned();
        let differs = from.as_ref() != Some(&value);
        differs.then(|| KeyChange { key, from: from.map(cut), to: Some(cut(value)) })
    });
    new.chain(gone).collect()
}

fn cut(value: String) -> String {
    if value.chars().nth(MAX_SHOWN).is_none() {
        return value;
    }
    value.chars().take(MAX_SHOWN - 1).chain(['…']).collect()
}
