//! What differs, as a diff.

use clap::builder::styling::AnsiColor;
use orchestrator_proto::control::{
    ChangeKind, Effect, InstanceChange, KeyChange, LinkChange, Plan, SetChange, WantedSet,
};
use orchestrator_proto::manifest::entries;

use crate::failure::Failure;
use crate::format;
use crate::output::Output;

/// Prints the plan; what is added with all that `wanted` says of it.
pub(crate) fn show(out: &mut Output, plan: &Plan, wanted: &WantedSet) -> Result<(), Failure> {
    for change in &plan.sets {
        set(out, change, wanted)?;
    }
    for change in &plan.instances {
        instance(out, change, wanted)?;
    }
    for change in &plan.links {
        link(out, change)?;
    }
    out.line(&summary(plan))
}

const fn mark(kind: ChangeKind) -> (&'static str, AnsiColor) {
    match kind {
        ChangeKind::Add => ("+", AnsiColor::Green),
        ChangeKind::Change => ("~", AnsiColor::Yellow),
        ChangeKind::Remove => ("-", AnsiColor::Red),
    }
}

fn set(out: &mut Output, change: &SetChange, wanted: &WantedSet) -> Result<(), Failure> {
    let (mark, color) = mark(change.kind);
    let line = out.paint(color, &format!("{mark} set {}", format::line(&change.name)));
    out.line(&line)?;
    if change.kind == ChangeKind::Add {
        all_keys(out, &change.name, wanted)?;
    }
    keys(out, &change.keys)
}

/// All that is said of one that is added.
fn all_keys(out: &mut Output, label: &str, wanted: &WantedSet) -> Result<(), Failure> {
    let (mark, color) = mark(ChangeKind::Add);
    let wanted = wanted.instances.iter().find(|it| it.label() == label);
    for (key, value) in wanted.map(entries).unwrap_or_default() {
        let line = out.paint(color, &format!("{mark}     {key} = {}", format::line(&value)));
        out.line(&line)?;
    }
    Ok(())
}

fn instance(out: &mut Output, change: &InstanceChange, wanted: &WantedSet) -> Result<(), Failure> {
    let (mark, color) = mark(change.kind);
    let id = || change.id.map_or_else(String::new, |id| id.to_string());
    let name = change.name.clone().unwrap_or_else(id);
    let effect = match change.effect {
        Effect::Nothing => String::new(),
        effect => format!(" ({effect})"),
    };
    let line = out.paint(color, &format!("{mark} instance {}{effect}", format::line(&name)));
    out.line(&line)?;
    if change.kind == ChangeKind::Add {
        all_keys(out, &name, wanted)?;
    }
    keys(out, &change.keys)
}

fn link(out: &mut Output, change: &LinkChange) -> Result<(), Failure> {
    let (mark, color) = mark(change.kind);
    let from = change.from.as_deref().unwrap_or("anybody");
    let text = format!("{mark} link {} from {from} to {}", change.type_name, change.to);
    let line = out.paint(color, &format::line(&text));
    out.line(&line)?;
    keys(out, &change.keys)
}

fn keys(out: &mut Output, keys: &[KeyChange]) -> Result<(), Failure> {
    for KeyChange { key, from, to } in keys {
        for (kind, value) in [(ChangeKind::Remove, from), (ChangeKind::Add, to)] {
            if let Some(value) = value {
                let (mark, color) = mark(kind);
                let text = format!("{mark}     {key} = {value}");
                let line = out.paint(color, &format::line(&text));
                out.line(&line)?;
            }
        }
    }
    Ok(())
}

fn summary(plan: &Plan) -> String {
    let unchanged = format!(
        "{} and {} as wanted",
        format::count(plan.unchanged_instances, "instance"),
        format::count(plan.unchanged_links, "link")
    );
    if plan.is_empty() {
        return format!("nothing differs: {unchanged}");
    }
    let sets = plan.sets.iter().map(|it| it.kind);
    let kinds = plan.instances.iter().map(|it| it.kind).chain(plan.links.iter().map(|it| it.kind));
    let kinds = kinds.chain(sets);
    let count = |kind| kinds.clone().filter(|it| *it == kind).count();
    let words = if plan.applied {
        ["added", "changed", "removed"]
    } else {
        ["to add", "to change", "to remove"]
    };
    format!(
        "{} {}, {} {}, {} {}; {unchanged}",
        count(ChangeKind::Add),
        words[0],
        count(ChangeKind::Change),
        words[1],
        count(ChangeKind::Remove),
        words[2],
    )
}
