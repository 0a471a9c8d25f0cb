//! Sets of replicas: `runtime scale`, and what other commands say of them.

use orchestrator_proto::client::Client;
use orchestrator_proto::control::{
    ChangeKind, Desired, Effect, InstanceChange, Named, Outcome, Plan, Program, ReplicaOutcome,
    ReplicaSetDetail, ReplicaSetInfo, Reply, Request, RuntimeDetail, Scaled, Selector, Wanted,
    WantedSet,
};
use orchestrator_proto::manifest::entries;

use crate::cli::ScaleArgs;
use crate::failure::{Exit, Failure, Report};
use crate::output::Output;
use crate::{action, format, runtime, settle, table};

/// `runtime scale`
pub(crate) async fn scale(
    client: &Client,
    out: &mut Output,
    args: ScaleArgs,
) -> Result<Exit, Failure> {
    let ScaleArgs { set, replicas, wait, timeout } = args;
    let before = if wait { settle::list(client).await? } else { Vec::new() };
    let request = Request::RuntimeScale { set: set.clone().into(), replicas };
    let reply = client.request(request).await?;
    let exit = action::tell(out, &reply, false)?;
    // What was done is seen at once, even when it takes long to settle.
    out.flush()?;
    if wait {
        let Reply::Scaled(scaled) = &reply else {
            return Err(Failure::unexpected_reply());
        };
        let Reply::ReplicaSet(detail) =
            client.request(Request::RuntimeShow { instance: set.into() }).await?
        else {
            return Err(Failure::unexpected_reply());
        };
        let (wanted, plan) = goal(scaled, &detail.set);
        settle::wait(client, &wanted, &plan, &before, timeout).await?;
    }
    Ok(exit)
}

/// What there is to be waited for: those that were added, and the end of those that were removed.
fn goal(scaled: &Scaled, set: &Wanted) -> (WantedSet, Plan) {
    let is_new =
        |wanted: &Wanted| scaled.added.iter().any(|it| wanted.spec.name.as_ref() == Some(&it.name));
    let mut instances = set.replicas().unwrap_or_default();
    instances.retain(is_new);
    let change = |kind, effect| {
        move |it: &Named| InstanceChange {
            kind,
            id: Some(it.id),
            name: Some(it.name.clone()),
            effect,
            keys: Vec::new(),
        }
    };
    let effect = if set.desired == Desired::Running { Effect::Start } else { Effect::Nothing };
    let added = scaled.added.iter().map(change(ChangeKind::Add, effect));
    let removed = scaled.removed.iter().map(change(ChangeKind::Remove, Effect::Stop));
    let plan = Plan { instances: added.chain(removed).collect(), ..Plan::default() };
    (WantedSet { instances, links: Vec::new() }, plan)
}

/// What became of a set, in a sentence for each replica.
pub(crate) fn scaled(scaled: &Scaled) -> Vec<String> {
    let count = format::count(scaled.replicas.0.into(), "replica");
    let mut lines = vec![match (scaled.added.len(), scaled.removed.len()) {
        (0, 0) => format!("set {} has {count} already", scaled.set),
        _ => format!("set {} has {count}", scaled.set),
    }];
    lines.extend(scaled.added.iter().map(|it| format!("added {} ({})", it.name, it.id)));
    lines.extend(scaled.removed.iter().map(|it| format!("removing {} ({})", it.name, it.id)));
    lines
}

/// Prints what came of a request for each replica of a set.
pub(crate) fn each(
    out: &mut Output,
    set: &str,
    outcomes: &[ReplicaOutcome],
    restart: bool,
) -> Result<Exit, Failure> {
    if outcomes.is_empty() {
        out.line(&format!("set {set} has no replicas"))?;
    }
    let mut exit = Exit::Ok;
    for ReplicaOutcome { id, name, outcome } in outcomes {
        let who = format!("{name} ({id})");
        let (sentence, warnings) = match outcome {
            Outcome::Started { changed, warnings, .. } => {
                (action::started(&who, *changed, restart), &warnings[..])
            }
            Outcome::Scheduled { changed, .. } => (action::scheduled(&who, *changed), &[][..]),
            Outcome::Queued => (action::queued(&who), &[][..]),
            Outcome::Stopped { changed } => (action::stopped(&who, *changed), &[][..]),
            Outcome::Failed(error) => {
                let report = Report::from(error.clone());
                out.report(&report);
                if exit == Exit::Ok {
                    exit = report.exit;
                }
                continue;
            }
        };
        out.line(&sentence)?;
        for warning in warnings {
            out.warning(warning);
        }
    }
    Ok(exit)
}

/// All sets.
pub(crate) async fn sets(client: &Client) -> Result<Vec<ReplicaSetInfo>, Failure> {
    match client.request(Request::ReplicaSets).await? {
        Reply::ReplicaSets(sets) => Ok(sets),
        _ => Err(Failure::unexpected_reply()),
    }
}

/// A sentence for each set that no table shows.
pub(crate) fn empty(sets: &[ReplicaSetInfo]) -> Vec<String> {
    let empty = sets.iter().filter(|set| set.replicas.0 == 0);
    empty
        .map(|set| {
            let name = &set.name;
            format!("{name} is a set without replicas; `runtime scale {name} 1` gives it one")
        })
        .collect()
}

/// An instance, or a set.
pub(crate) enum Shown {
    Instance(Box<RuntimeDetail>),
    Set(Box<ReplicaSetDetail>),
}

/// What a name or an id means.
pub(crate) async fn show(client: &Client, instance: Selector) -> Result<Shown, Failure> {
    match client.request(Request::RuntimeShow { instance }).await? {
        Reply::Runtime(detail) => Ok(Shown::Instance(detail)),
        Reply::ReplicaSet(detail) => Ok(Shown::Set(detail)),
        _ => Err(Failure::unexpected_reply()),
    }
}

/// A set in full.
pub(crate) fn facts(detail: &ReplicaSetDetail, now_ms: u64) -> Vec<(String, String)> {
    let ReplicaSetDetail { set, links, instances } = detail;
    let count = set.spec.replicas.map_or(0, |it| it.0);
    let text = |text: &str| text.to_owned();
    let mut all = vec![
        (text("set"), set.spec.name.clone().unwrap_or_default()),
        (text("replicas"), count.to_string()),
        (text("wanted"), text(if set.desired == Desired::Running { "running" } else { "stopped" })),
        (text("links"), links.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    ];
    if let Program::Path(program) = &set.spec.program {
        all.push((text("program"), program.to_string()));
    }
    // As a manifest says it.
    let known = ["program", "replicas", "state"];
    all.extend(entries(set).into_iter().filter(|(key, _)| !known.contains(&key.as_str())));
    for info in instances {
        let name = info.name.clone().unwrap_or_else(|| info.id.to_string());
        all.push((name, format!("{}, id {}", runtime::state(&info.observed, now_ms), info.id)));
    }
    all
}

/// `runtime show` of a set
pub(crate) fn print(out: &mut Output, detail: Box<ReplicaSetDetail>) -> Result<Exit, Failure> {
    if out.is_json() {
        out.json(&Reply::ReplicaSet(detail))?;
        return Ok(Exit::Ok);
    }
    let facts = facts(&detail, format::now_ms());
    let facts: Vec<_> = facts.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    out.line(&table::facts(&facts))?;
    Ok(Exit::Ok)
}
