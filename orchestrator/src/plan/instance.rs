//! One instance as it is, and as it should be.

use std::collections::BTreeMap;

use orchestrator_proto::OsBytes;
use orchestrator_proto::control::{
    ChangeKind, Desired, Effect, InstanceChange, KeyChange, Listen, Program, Readiness,
    RuntimeSpec, Wanted,
};
use orchestrator_proto::manifest::entries;

use super::{InstanceStep, Present, differing};

/// What differs, if anything does.
pub(super) fn change(wanted: &Wanted, present: &Present) -> Option<(InstanceStep, InstanceChange)> {
    let spec = meant(&wanted.spec, present);
    let is_same = is_same(&spec, &present.spec);
    let runs = wanted.desired == Desired::Running;
    // To one that is not to run it means nothing as yet.
    let priority = wanted.priority.filter(|priority| runs && *priority != present.priority);
    if is_same
        && wanted.desired == present.desired
        && priority.is_none()
        && !(runs && present.is_stale)
    {
        return None;
    }
    let restarts = priority.is_some() || present.is_stale || needs_restart(&present.spec, &spec);
    let effect = match (present.desired, wanted.desired) {
        (Desired::Running, Desired::Running) if restarts => Effect::Restart,
        (Desired::Stopped, Desired::Running) => Effect::Start,
        (Desired::Running, Desired::Stopped) => Effect::Stop,
        _ => Effect::Nothing,
    };
    let shown = InstanceChange {
        kind: ChangeKind::Change,
        id: Some(present.id),
        name: present.spec.name.clone(),
        effect,
        keys: keys(wanted, &spec, present, is_same),
    };
    let step = InstanceStep::Change {
        id: present.id,
        spec: (!is_same).then(|| Box::new(spec)),
        priority: wanted.priority.filter(|_| runs),
        effect,
    };
    Some((step, shown))
}

/// The spec that is wanted for this one: under its name, and with its copy if that is meant.
fn meant(wanted: &RuntimeSpec, present: &Present) -> RuntimeSpec {
    let is_there = matches!(&wanted.program, Program::Path(path) if *path == present.program);
    RuntimeSpec {
        id: present.spec.id,
        name: present.spec.name.clone(),
        program: if is_there { present.spec.program.clone() } else { wanted.program.clone() },
        ..wanted.clone()
    }
}

fn is_same(a: &RuntimeSpec, b: &RuntimeSpec) -> bool {
    same_launch(a, b)
        && a.privileged == b.privileged
        && a.supervision == b.supervision
        && a.limits == b.limits
        && a.listen == b.listen
        && a.log == b.log
        && a.replicas == b.replicas
}

/// What the kernel is told when the program is executed.
fn same_launch(a: &RuntimeSpec, b: &RuntimeSpec) -> bool {
    let cwd = |spec: &RuntimeSpec| spec.cwd.clone().unwrap_or_else(|| "/".into());
    a.program == b.program
        && a.args == b.args
        && (a.env == b.env || variables(a) == variables(b))
        && (a.cwd == b.cwd || cwd(a) == cwd(b))
        && a.execution == b.execution
        && same_sockets(&a.listen, &b.listen)
}

/// Whether the program finds the same. Who may connect to a Unix socket is not its business.
fn same_sockets(a: &[Listen], b: &[Listen]) -> bool {
    let is_same = |(a, b): (&Listen, &Listen)| a.name() == b.name() && a.is_same_socket(b);
    a.len() == b.len() && a.iter().zip(b).all(is_same)
}

/// The last one counts, in any order.
fn variables(spec: &RuntimeSpec) -> BTreeMap<&OsBytes, &OsBytes> {
    spec.env.iter().map(|(name, value)| (name, value)).collect()
}

/// Whether a program that runs as `before` says has to be executed anew to run as `after` says:
/// all that it was told when it was executed. That includes whether and how often it has to say
/// how it is, see sd_notify(3).
#[must_use]
pub fn needs_restart(before: &RuntimeSpec, after: &RuntimeSpec) -> bool {
    let notifies = |spec: &RuntimeSpec| spec.supervision.readiness == Readiness::Notify;
    !same_launch(before, after)
        || before.supervision.watchdog != after.supervision.watchdog
        || notifies(before) != notifies(after)
}

fn keys(wanted: &Wanted, spec: &RuntimeSpec, present: &Present, is_same: bool) -> Vec<KeyChange> {
    let shown = |spec: &RuntimeSpec, program: &OsBytes, desired, priority| {
        let spec = RuntimeSpec { program: Program::Path(program.clone()), ..spec.clone() };
        entries(&Wanted { spec, desired, priority })
    };
    let program = match &spec.program {
        Program::Path(path) => path,
        Program::Upload { .. } => &present.program,
    };
    let priority = wanted.priority.filter(|_| wanted.desired == Desired::Running);
    let before = priority.map(|_| present.priority);
    let mut keys = differing(
        shown(&present.spec, &present.program, present.desired, before),
        shown(spec, program, wanted.desired, priority),
    );
    if keys.is_empty() && !is_same {
        // They differ where they are no text.
        keys.push(KeyChange { key: "program, args, env or cwd".into(), from: None, to: None });
    }
    if present.is_stale {
        let from = Some("as defined before".to_owned());
        keys.push(KeyChange { key: "process".into(), from, to: Some("as defined now".into()) });
    }
    keys
}
