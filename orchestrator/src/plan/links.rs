//! Links as they are, and as they should be.

use std::collections::{HashMap, HashSet};

use orchestrator_proto::InstanceId;
use orchestrator_proto::control::{
    ChangeKind, LinkChange, LinkRules, LinkSpec, TargetSpec, WantedSet,
};
use orchestrator_proto::manifest::link_entries;

use super::ends::Known;
use super::{Differences, End, LinkStep, PresentLink, Route, Target, differing};

pub(super) fn diff(
    all: &mut Differences,
    wanted: &WantedSet,
    (present, implied): (&[PresentLink], &[Implied]),
    known: &Known<'_>,
    prune: bool,
    problems: &mut Vec<String>,
) {
    let there: HashMap<_, _> = present.iter().map(|link| (&link.route, link)).collect();
    let (mut seen, mut kept) = (HashSet::new(), HashSet::new());
    let mut made = Vec::new();
    for link in &wanted.links {
        let route = match route(link, known) {
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
        let before = as_present(&route).and_then(|route| there.get(&route).copied());
        let rules = rules(link);
        if let Some(before) = before {
            kept.insert(before.id);
            if before.rules == rules {
                all.unchanged_links += 1;
                continue;
            }
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
            to: match &link.to {
                TargetSpec::Instance(to) => to.to_string(),
                TargetSpec::Udp(address) => format!("udp:{address}"),
            },
            keys: keys.unwrap_or_default(),
        };
        let step = match before {
            Some(before) => LinkStep::Change { id: before.id, rules },
            None => LinkStep::Make { route, rules },
        };
        made.push((step, shown));
    }
    for Implied { route, rules, shown } in implied {
        if !seen.insert(route.clone()) {
            continue;
        }
        if let Some(before) = as_present(route).and_then(|route| there.get(&route).copied()) {
            kept.insert(before.id);
            continue;
        }
        let route = route.clone();
        let step = LinkStep::Make { route, rules: *rules };
        made.push((step, shown.clone()));
    }
    if prune {
        for gone in present.iter().filter(|link| !kept.contains(&link.id)) {
            all.links.push(LinkStep::Remove(gone.id));
            all.shown_links.push(LinkChange {
                kind: ChangeKind::Remove,
                id: Some(gone.id),
                from: gone.route.from.map(|from| known.label(from)),
                type_name: gone.route.type_name.clone(),
                to: match &gone.route.to {
                    Target::Instance(to) => known.label(*to),
                    Target::Udp(address) => format!("udp:{address}"),
                },
                keys: Vec::new(),
            });
        }
    }
    for (step, shown) in made {
        all.links.push(step);
        all.shown_links.push(shown);
    }
}

/// A link that there has to be because of another one.
pub(super) struct Implied {
    pub(super) route: Route<End>,
    pub(super) rules: LinkRules,
    pub(super) shown: LinkChange,
}

/// Its rules, which were [checked](check).
pub(super) fn rules(link: &LinkSpec) -> LinkRules {
    link.rules().unwrap_or_default()
}

pub(super) fn route(link: &LinkSpec, known: &Known<'_>) -> Result<Route<End>, String> {
    check(link)?;
    let to = match &link.to {
        TargetSpec::Instance(to) => Target::Instance(known.end(&to.0)?),
        TargetSpec::Udp(address) => Target::Udp(address.clone()),
    };
    let from = link.from.as_ref().map(|from| known.end(&from.0)).transpose()?;
    Ok(Route { from, type_name: link.type_name.clone(), to })
}

/// Whether all but its ends is allowed.
pub(super) fn check(link: &LinkSpec) -> Result<(), String> {
    let most = LinkSpec::MAX_TYPE_NAME;
    if !(1..=most).contains(&link.type_name.len()) {
        return Err(format!("a type name has 1 to {most} bytes"));
    }
    link.rules()?;
    if let TargetSpec::Udp(address) = &link.to {
        format!("udp:{address}").parse::<TargetSpec>()?;
    }
    Ok(())
}

/// The same between instances that are there, if they are.
fn as_present(route: &Route<End>) -> Option<Route<InstanceId>> {
    let present = |end: &End| match end {
        End::Present(id) => Some(*id),
        End::New(_) => None,
    };
    let from = match &route.from {
        Some(from) => Some(present(from)?),
        None => None,
    };
    let to = match &route.to {
        Target::Instance(to) => Target::Instance(present(to)?),
        Target::Udp(address) => Target::Udp(address.clone()),
    };
    Some(Route { from, type_name: route.type_name.clone(), to })
}
