//! One instance: its parts, and what is told of it.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use orchestrator_proto::control::{
    Check, EventKind, LogStream, Observed, Priority, Replica, Reply, RuntimeDetail, RuntimeInfo,
    RuntimeSpec, Vitals,
};
use orchestrator_proto::runtime::{ENV_INSTANCE, ENV_REPLICA, ENV_SOCKET};
use orchestrator_proto::{ErrorCode, InstanceId, OsBytes, WireError};

use super::needs::Dependencies;
use super::run::RunNotes;
use super::{LAST_OUTPUT, Registry, not_stored};
use crate::events::EventLog;
use crate::health::{Health, Launching, Notify, NotifySocket};
use crate::listen::Listeners;
use crate::logs::InstanceLog;
use crate::process::{Begun, ENV_RUN, Hooks, Keeper, Launch, Pending, StartError, Started, View};
use crate::route::LinkTarget;
use crate::runtime::{Endpoint, InstanceSockets, now_ns};
use crate::store::{Durability, NewEvent, Store, StoreError};

/// How existing Veecle OS runtimes find their socket and their id.
const VEECLE_SOCKET: &str = "VEECLE_IPC_SOCKET";
const VEECLE_ID: &str = "VEECLE_RUNTIME_ID";

/// Variables that the daemon sets for an instance; a client can't.
pub(super) const OWN_VARIABLES: [&str; 6] =
    [ENV_SOCKET, ENV_INSTANCE, ENV_REPLICA, ENV_RUN, VEECLE_SOCKET, VEECLE_ID];

/// An instance of this daemon, as it is defined. When that changes, another value with the same
/// parts takes its place in the registry.
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Which replica of which set it is, if it is one.
    pub replica: Option<Replica>,
    /// How it is to be run.
    pub spec: Arc<RuntimeSpec>,
    /// What it executes: in place, or the copy that a client sent.
    pub program: PathBuf,
    /// The directory of that copy.
    pub(super) copy: Option<PathBuf>,
    /// Higher than that of all that were added before.
    pub(super) order: u64,
    pub(super) added_ms: u64,
    pub(super) keeper: Keeper,
    pub(super) log: InstanceLog,
    pub(super) endpoint: Arc<Endpoint>,
    /// Sockets that listen for it.
    pub(super) listeners: Arc<Listeners>,
    /// None once the instance is removed.
    pub(super) sockets: Arc<Mutex<Option<Sockets>>>,
    /// How its keeper executes it: as `spec`, unless that has changed and it still runs.
    pub(super) launches: Arc<RuntimeSpec>,
    /// See [`InstanceRecord::from_start`](crate::store::InstanceRecord::from_start).
    pub(super) from_start: u64,
    /// What is kept of its run; its keeper's.
    pub(super) run: Arc<RunNotes>,
    /// Whose turn it is, however it is defined.
    pub(super) turns: Arc<Turns>,
    pub(super) store: Store,
    /// What a start and a stop wait for before they are answered.
    pub(super) durability: Durability,
}

/// Who does something with an instance that others have to know of, or wait for.
#[derive(Default)]
pub(super) struct Turns {
    /// Somebody removes it.
    pub(super) leaving: AtomicBool,
    /// Held from when it is stopped to be executed as it is defined now, until that is asked for.
    pub(super) acting: tokio::sync::Mutex<()>,
    /// Held while its keeper is replaced.
    pub(super) renewing: tokio::sync::Mutex<()>,
    /// So many are about to restart it as it is defined now.
    pub(super) restarting: AtomicU32,
}

/// Its sockets. They exist for as long as this value.
pub(super) struct Sockets {
    pub(super) _dialects: InstanceSockets,
    /// Where it says how it is, if it was asked to.
    pub(super) _notify: Option<Notify>,
}

impl Instance {
    /// Its id with its name, for people.
    #[must_use]
    pub fn label(&self) -> String {
        match &self.name {
            Some(name) => format!("{name} ({})", self.id),
            None => self.id.to_string(),
        }
    }

    /// Its name, or its id if it has none.
    pub(super) fn short(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.id.to_string())
    }

    /// What it printed. If it does not run any more, its last words are in it.
    pub async fn log(&self) -> &InstanceLog {
        if !self.is_active() {
            // A process that it left behind may keep the pipe open.
            let _ = tokio::time::timeout(LAST_OUTPUT, self.log.drained()).await;
        }
        &self.log
    }

    /// Whether any process of it may be alive.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.observed().is_active()
    }

    /// Starts it; see [`Registry::start`].
    pub(super) async fn start(&self, priority: Option<Priority>) -> Result<Reply, WireError> {
        let failed = || format!("instance {} was not started", self.label());
        self.check_store().await.map_err(|error| not_stored(failed(), &error))?;
        let before = self.keeper.view();
        let started = self.keeper.start(priority).await;
        let stored = self.store.commit(self.durability).await;
        let started = match started {
            Ok(started) => started,
            Err(error) => return Err(Box::pin(self.start_failed(failed(), &error, &before)).await),
        };
        if let Err(error) = stored {
            // So that what runs after the next start of the daemon is what was answered.
            if started.changed {
                let _ = self.keeper.stop().await;
            }
            return Err(not_stored(failed(), &error));
        }
        Ok(self.started(started))
    }

    pub(super) fn started(&self, started: Started) -> Reply {
        let Started { what, changed, warnings } = started;
        let id = self.id;
        match what {
            Begun::Running { pid } => Reply::Started { id, pid, changed, warnings },
            Begun::Scheduled => {
                Reply::Scheduled { id, next_ms: self.keeper.view().runs.next_ms, changed }
            }
            Begun::Queued => Reply::Queued { id },
        }
    }

    /// Why it was not started: with the last that it printed, if its program was executed.
    pub(super) async fn start_failed(
        &self,
        message: String,
        error: &StartError,
        before: &View,
    ) -> WireError {
        let run_ns = self.log.last_run_ns();
        let mut told = WireError::caused_by(ErrorCode::SpawnFailed, message, error);
        let joined = matches!(before.observed, Observed::Starting { pid: Some(_), .. });
        let was_executed = joined || self.keeper.view().starts > before.starts;
        if matches!(error, StartError::Failed { .. }) && was_executed {
            let lines = self.log.last_lines(run_ns).await;
            if !lines.is_empty() {
                told.causes.push(format!("its output ended with:\n    {}", lines.join("\n    ")));
            }
        }
        told
    }

    /// While nothing can be stored, nothing is begun.
    pub(super) async fn check_store(&self) -> Result<(), StoreError> {
        match self.store.failing() {
            None => Ok(()),
            Some(_) => self.store.commit(self.durability).await,
        }
    }

    /// Starts it, because it ran when an earlier daemon ended, or should have. Nobody waits for
    /// that, so it is done on a full disk too.
    pub(super) async fn start_again(&self) {
        // The keeper tells of a failure as an event.
        let _ = self.keeper.start(None).await;
    }

    /// Stops it. The answer is whether anything ran.
    ///
    /// # Errors
    ///
    /// When its keeper is gone: it was removed. When it is stopped, and that could not be stored.
    pub async fn stop(&self) -> Result<bool, WireError> {
        let changed = self.keeper.stop().await.map_err(|error| self.gone(&error))?;
        self.store.commit(self.durability).await.map_err(|error| {
            let message = format!(
                "instance {} is stopped, but that could not be stored: it will be started again \
                 if the daemon ends before that works",
                self.label()
            );
            not_stored(message, &error)
        })?;
        Ok(changed)
    }

    /// Stops it because the daemon ends: the next daemon starts it again.
    pub(super) async fn suspend(&self) -> Result<bool, WireError> {
        self.keeper.suspend().await.map_err(|error| self.gone(&error))
    }

    /// Stops it, then starts it; see [`Registry::restart`].
    pub(super) async fn restart(&self) -> Result<Reply, WireError> {
        let failed = || format!("instance {} was not restarted", self.label());
        self.check_store().await.map_err(|error| not_stored(failed(), &error))?;
        let before = self.keeper.view();
        let started = self.keeper.restart().await;
        let stored = self.store.commit(self.durability).await;
        let started = match started {
            Ok(started) => started,
            Err(error) => return Err(Box::pin(self.start_failed(failed(), &error, &before)).await),
        };
        stored.map_err(|error| {
            let message =
                format!("instance {} was restarted, but that could not be stored", self.label());
            not_stored(message, &error)
        })?;
        Ok(self.started(started))
    }

    /// Sends SIGKILL to all of it, and waits until it is gone.
    pub(super) async fn kill(&self) {
        if let Err(error) = self.keeper.kill().await {
            tracing::error!(instance = self.label(), %error, "kill failed");
        }
    }

    fn gone(&self, error: &(dyn std::error::Error + 'static)) -> WireError {
        let message = format!("instance {} could not be stopped", self.label());
        WireError::caused_by(ErrorCode::Internal, message, error)
    }

    /// Stops it for good: it can't be started any more.
    pub(super) async fn leave(&self) -> Result<(), WireError> {
        loop {
            self.keeper.stop().await.map_err(|error| self.gone(&error))?;
            // Fails if a start came in between.
            if self.keeper.retire().await.is_ok() {
                return Ok(());
            }
        }
    }

    /// Ends what belongs to a new instance that could not be added, but for its program.
    pub(super) async fn abandon(&self) {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.listeners.close();
        let _ = self.keeper.retire().await;
        if let Err(error) = self.log.remove().await {
            tracing::warn!(instance = self.label(), %error, "the log could not be removed");
        }
    }

    /// Ends what belongs to an instance that has left.
    pub(super) async fn discard(&self) {
        self.listeners.close();
        // Whoever is still connected sees the end.
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Err(error) = self.log.remove().await {
            tracing::warn!(instance = self.label(), %error, "the log could not be removed");
        }
        if let Some(copy) = self.copy.clone() {
            let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(copy)).await;
            if let Ok(Err(error)) = removed {
                tracing::warn!(instance = self.label(), %error, "the copy could not be removed");
            }
        }
    }

    /// What it is seen to do.
    #[must_use]
    pub fn observed(&self) -> Observed {
        self.keeper.watch().borrow().observed.clone()
    }

    /// How it fares, but for what it uses.
    #[must_use]
    pub fn vitals(&self) -> Vitals {
        let view = self.keeper.view();
        let well_after = self.spec.supervision.restart.reset_after.0;
        let is_well = match view.observed {
            // The machine forgets only when it has to know.
            Observed::Ready { since_ms, .. } => {
                now_ns() / 1_000_000 >= since_ms.saturating_add(well_after)
            }
            // What comes next is another run, with all its attempts.
            Observed::Scheduled { .. } => true,
            _ => false,
        };
        Vitals {
            restarts: view.restarts,
            restarts_on_end: if is_well { 0 } else { view.restarts_on_end },
            health: view.health,
            usage: None,
        }
    }

    /// In brief.
    #[must_use]
    pub fn info(&self) -> RuntimeInfo {
        let view = self.keeper.view();
        RuntimeInfo {
            id: self.id,
            name: self.name.clone(),
            program: self.program.as_os_str().into(),
            desired: view.desired,
            observed: view.observed,
            priority: view.priority,
            privileged: self.spec.privileged,
            starts: view.starts,
            connections: self.endpoint.connections.load(Ordering::Acquire),
            status: view.status,
            schedule: self.schedule_info(&view.runs),
            replica: self.replica.clone(),
        }
    }

    /// In full.
    #[must_use]
    pub fn detail(&self, registry: &Registry) -> RuntimeDetail {
        let (outputs, inputs) = registry.router().declared(self.id);
        let links = registry.router().links();
        let mine = links
            .iter()
            .filter(|link| link.from == Some(self.id) || link.to == LinkTarget::Instance(self.id));
        let log = self.log.stats();
        let sent = self.endpoint.sent.sent.load(Ordering::Relaxed);
        let passed = self.endpoint.sent.passed.load(Ordering::Relaxed);
        RuntimeDetail {
            info: self.info(),
            args: self.spec.args.clone(),
            env: self.spec.env.clone(),
            cwd: self.spec.cwd.clone().unwrap_or_else(|| "/".into()),
            copied: self.copy.is_some(),
            supervision: self.spec.supervision.clone(),
            added_ms: self.added_ms,
            outputs,
            inputs,
            sent,
            unrouted: self.endpoint.sent.unrouted.load(Ordering::Relaxed),
            protocol_errors: self.endpoint.protocol_errors.load(Ordering::Relaxed),
            log: self.spec.log.clone(),
            log_bytes_lost: log.bytes_lost,
            log_blocked: log.blocked.then(|| {
                log.last_error.map_or_else(|| "it can't be written".into(), |error| error.message)
            }),
            log_dir: self.log.dir().as_os_str().into(),
            links: mine.map(|link| link.id).collect(),
            execution: (*self.spec.execution).clone(),
            limits: (*self.spec.limits).clone(),
            limits_unmet: registry.limits_unmet(self),
            vitals: self.vitals(),
            exits: self.run.record().exits.into_iter().rev().collect(),
            listen: self.listeners.info(&self.spec.listen),
            reported: sent.saturating_sub(passed),
        }
    }
}

/// What the keeper of an instance needs of its surroundings.
pub(super) struct InstanceHooks {
    pub(super) id: InstanceId,
    pub(super) name: Option<String>,
    pub(super) launching: Launching,
    pub(super) log: InstanceLog,
    pub(super) events: Arc<EventLog>,
    /// See [`InstanceRecord::order`](crate::store::InstanceRecord::order).
    pub(super) order: u64,
    pub(super) run: Arc<RunNotes>,
    pub(super) health: Arc<Health>,
    pub(super) dependencies: Arc<Dependencies>,
    pub(super) listeners: Arc<Listeners>,
    /// An earlier daemon has told of the end of its process, and was killed before nothing was
    /// left of it: to take over the rest is no news, and the end is not told again.
    pub(super) end_is_told: AtomicBool,
}

/// What the log of a program says that has lost its holder.
const LOST_TOUCH: &[u8] = b"the holder was killed, and the program goes on: what it prints is \
    captured only as far as the capture process from before is still there";

impl Hooks for InstanceHooks {
    fn launch(&self) -> Launch {
        self.health.launching();
        Launch { listeners: self.listeners.at_start(), ..(self.launching)() }
    }

    fn output(&self, run: u64, pipes: Option<(OwnedFd, OwnedFd)>) {
        self.run.executed(run);
        let Some((stdout, stderr)) = pipes else {
            self.log.append(LogStream::Orchestrator, LOST_TOUCH);
            return;
        };
        if let Err(error) = self.log.attach(run, stdout, stderr) {
            tracing::error!(instance = %self.id, %error, "output can't be captured");
        }
    }

    fn ask(&self, check: &Check, timeout: Duration, run: u64) -> Pending<Result<(), String>> {
        self.health.ask(check, timeout, run)
    }

    fn stop_command(&self, command: &[String], run: u64) -> Pending<Result<(), String>> {
        self.health.run(command, run)
    }

    fn happened(&self, view: Option<&View>, mut events: Vec<(EventKind, u64)>) {
        events.retain(|(kind, _)| {
            let is_end = matches!(kind, EventKind::Exited { .. });
            let is_told = is_end || matches!(kind, EventKind::Adopted { .. });
            if is_told && self.end_is_told.load(Ordering::Relaxed) {
                self.end_is_told.store(!is_end, Ordering::Relaxed);
                return false;
            }
            true
        });
        if let Some(view) = view {
            self.health.changed(view);
            self.dependencies.changed(self.id, view);
        }
        // Until then it is not stored as running again: its end would be told once more by the
        // next daemon, if this one were killed now.
        let is_told = self.end_is_told.load(Ordering::Relaxed);
        let view = view.filter(|view| !(is_told && view.observed.has_process()));
        let run = self.run.happened(view, &events).map(|run| (self.order, run));
        let event = |(kind, time_ms)| NewEvent {
            time_ms,
            instance: Some(self.id),
            name: self.name.clone(),
            kind,
        };
        self.events.record_all(run, events.into_iter().map(event).collect());
    }
}

/// How the program is to be executed. Found out when it is: what is told then is needed at no other
/// time.
pub(super) fn launching(
    id: InstanceId,
    spec: &Arc<RuntimeSpec>,
    program: &Path,
    (sockets, notify): (&InstanceSockets, Option<&NotifySocket>),
    replica: Option<u32>,
) -> Launching {
    let (spec, program, place) = (spec.clone(), program.to_owned(), sockets.place());
    let notify =
        notify.map(|notify| (notify.path().to_owned(), notify.variables(&spec.supervision)));
    Arc::new(move || {
        let [native, veecle] = place.paths();
        let notify = notify.as_ref();
        let sockets = [&native, &veecle].into_iter().chain(notify.map(|(path, _)| path));
        let sockets = sockets.cloned().collect();
        let own = [
            (ENV_SOCKET, native.into_os_string()),
            (VEECLE_SOCKET, veecle.into_os_string()),
            (ENV_INSTANCE, OsString::from(id.to_string())),
            (VEECLE_ID, OsString::from(id.to_string())),
        ];
        let replica = replica.map(|index| (ENV_REPLICA, OsString::from(index.to_string())));
        let own = own.into_iter().chain(replica);
        let own = own.chain(notify.into_iter().flat_map(|(_, vars)| vars.clone()));
        let os = |bytes: &OsBytes| bytes.as_os_str().to_owned();
        Launch {
            args: spec.args.iter().map(os).collect(),
            env: spec
                .env
                .iter()
                .map(|(key, value)| (os(key), os(value)))
                .chain(own.map(|(key, value)| (key.into(), value)))
                .collect(),
            cwd: spec.cwd.as_ref().map(|cwd| cwd.as_path().to_owned()),
            execution: Arc::new((*spec.execution).clone()),
            sockets,
            ..Launch::new(id, &program)
        }
    })
}
