//! The key that makes a set of replicas of an instance, and the names that such a set takes.

use std::collections::HashSet;

use super::check::Found;
use super::read::{Table, Value};
use crate::control::{Replica, Replicas};

pub(super) fn replicas(value: Value<'_>) -> Option<Replicas> {
    value.number(0, Replicas::MAX).map(Replicas)
}

/// Tells what a set can't have: what only one instance can.
pub(super) fn check(table: &Table<'_>) {
    if table.get("replicas").is_none() {
        return;
    }
    for (key, why) in [
        ("id", "each replica has an id of its own, which the daemon chooses"),
        ("listen", "a socket can listen for one instance only, not for each replica of a set"),
    ] {
        if table.get(key).is_some() {
            table.wrong(table.at(key), why);
        }
    }
}

/// What is wrong with the names of sets among these, each at its place.
pub(super) fn problems(instances: &[Found]) -> impl Iterator<Item = (&Found, String)> {
    let specs = instances.iter().map(|found| &found.wanted.spec);
    let sets = specs.filter(|spec| spec.replicas.is_some());
    let sets: HashSet<_> = sets.filter_map(|spec| spec.name.as_deref()).collect();
    instances.iter().filter_map(move |found| {
        let spec = &found.wanted.spec;
        let Some(name) = &spec.name else {
            let message = "a set of replicas has a name, from which theirs are made".to_owned();
            return spec.replicas.map(|_| (found, message));
        };
        let most = Replicas::MAX_NAME;
        if spec.replicas.is_some() && name.len() > most {
            return Some((found, format!("the name of a set has {most} characters at most")));
        }
        let Replica { set, .. } =
            Replica::of_name(name).filter(|it| sets.contains(it.set.as_str()))?;
        Some((found, format!("{name} is the name of a replica of {set}; choose another one")))
    })
}
