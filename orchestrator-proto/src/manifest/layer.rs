//! What one table says of an instance, and several of them together.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::execution::ExecutionLayer;
use super::limits::LimitsLayer;
use super::listen;
use super::log::LogLayer;
use super::read::Table;
use super::replicas;
use super::schedule::KindLayer;
use super::supervision::{self, RestartLayer, StopLayer};
use crate::control::{
    After, Desired, Listen, Priority, Probe, Readiness, Replicas, Requirement, RuntimeSpec,
    Supervision, Wanted,
};
use crate::{InstanceId, Millis};

/// What is said, and nothing else.
#[derive(Clone, Debug, Default)]
pub(super) struct Layer {
    pub(super) program: Option<PathBuf>,
    pub(super) id: Option<InstanceId>,
    listen: Option<Vec<Listen>>,
    replicas: Option<Replicas>,
    args: Option<Vec<String>>,
    env: BTreeMap<String, String>,
    cwd: Option<PathBuf>,
    privileged: Option<bool>,
    priority: Option<Priority>,
    state: Option<Desired>,
    kind: KindLayer,
    restart: RestartLayer,
    readiness: Option<Readiness>,
    start_timeout: Option<Millis>,
    liveness: Option<Probe>,
    watchdog: Option<Millis>,
    requires: Option<Vec<Requirement>>,
    after: Option<Vec<After>>,
    stop: StopLayer,
    execution: ExecutionLayer,
    limits: LimitsLayer,
    log: LogLayer,
}

const STATES: [(&str, Desired); 2] = [("running", Desired::Running), ("stopped", Desired::Stopped)];
const PRIORITIES: [(&str, Priority); 3] =
    [("high", Priority::High), ("normal", Priority::Normal), ("low", Priority::Low)];

impl Layer {
    /// `[defaults]`: everything but what only one instance can have.
    pub(super) fn defaults(table: &Table<'_>) -> Self {
        Self {
            program: None,
            id: None,
            listen: None,
            replicas: None,
            args: table.read("args", |value| value.texts()),
            env: table.read("env", |value| value.variables()).into_iter().flatten().collect(),
            cwd: table.read("cwd", |value| value.path()),
            privileged: table.read("privileged", |value| value.flag()),
            priority: table.read("priority", |value| value.choice(&PRIORITIES)),
            state: table.read("state", |value| value.choice(&STATES)),
            kind: KindLayer::defaults(table),
            restart: RestartLayer::read(table),
            readiness: table.read("readiness", supervision::readiness),
            start_timeout: table.read("start-timeout", supervision::time),
            liveness: table.read("liveness", supervision::liveness),
            watchdog: table.read("watchdog", supervision::time),
            requires: table.read("requires", supervision::requires),
            after: table.read("after", supervision::after),
            stop: StopLayer::read(table),
            execution: ExecutionLayer::read(table),
            limits: LimitsLayer::read(table),
            log: LogLayer::read(table),
        }
    }

    /// An instance.
    pub(super) fn instance(table: &Table<'_>) -> Self {
        let layer = Self::defaults(table);
        Self {
            program: table.read("program", |value| value.path()),
            id: table.read("id", |value| value.parsed()),
            kind: layer.kind.and_schedule(table),
            listen: table.read("listen", listen::all),
            replicas: table.read("replicas", replicas::replicas),
            ..layer
        }
    }

    /// This, with those below for what it does not say.
    pub(super) fn over(self, below: &Self) -> Self {
        let mut env = below.env.clone();
        env.extend(self.env);
        Self {
            program: self.program,
            id: self.id,
            listen: self.listen,
            replicas: self.replicas,
            args: self.args.or_else(|| below.args.clone()),
            env,
            cwd: self.cwd.or_else(|| below.cwd.clone()),
            privileged: self.privileged.or(below.privileged),
            priority: self.priority.or(below.priority),
            state: self.state.or(below.state),
            kind: self.kind.over(&below.kind),
            restart: self.restart.over(&below.restart),
            readiness: self.readiness.or_else(|| below.readiness.clone()),
            start_timeout: self.start_timeout.or(below.start_timeout),
            liveness: self.liveness.or_else(|| below.liveness.clone()),
            watchdog: self.watchdog.or(below.watchdog),
            requires: self.requires.or_else(|| below.requires.clone()),
            after: self.after.or_else(|| below.after.clone()),
            stop: self.stop.over(&below.stop),
            execution: self.execution.over(&below.execution),
            limits: self.limits.over(&below.limits),
            log: self.log.over(&below.log),
        }
    }

    /// Tells what does not go together, of all that holds for the instance of this table.
    pub(super) fn check(&self, table: &Table<'_>) {
        self.kind.check(table);
        replicas::check(table);
    }

    /// The instance that is meant, with defaults for what nobody has said.
    pub(super) fn finish(self, name: Option<String>, program: PathBuf) -> Wanted {
        let (kind, run_timeout) = self.kind.finish();
        let spec = RuntimeSpec {
            id: self.id,
            name,
            args: self.args.into_iter().flatten().map(Into::into).collect(),
            env: self.env.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
            cwd: self.cwd.map(Into::into),
            privileged: self.privileged.unwrap_or_default(),
            supervision: Supervision {
                kind,
                restart: self.restart.finish(),
                readiness: self.readiness.unwrap_or_default(),
                start_timeout: self.start_timeout.unwrap_or_default(),
                liveness: self.liveness,
                watchdog: self.watchdog.unwrap_or_default(),
                requires: self.requires.unwrap_or_default(),
                after: self.after.unwrap_or_default(),
                stop: self.stop.finish(),
                run_timeout,
            },
            execution: self.execution.finish().into(),
            limits: self.limits.finish().into(),
            log: self.log.finish(),
            listen: self.listen.unwrap_or_default(),
            replicas: self.replicas,
            ..RuntimeSpec::new(program)
        };
        Wanted { spec, desired: self.state.unwrap_or(Desired::Running), priority: self.priority }
    }
}
