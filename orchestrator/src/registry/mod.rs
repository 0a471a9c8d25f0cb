//! The instances of this daemon: where the rooms below meet.
//!
//! An [`Instance`] holds its keeper (`process/`), its log (`logs/`), its mailbox (`route/`) and
//! its sockets (`runtime/`). The [`Registry`] knows them all and carries out what clients
//! (`control/`) and privileged instances ask for. Each instance is worked on by itself: a slow
//! stop of one delays nothing of another.

mod add;
mod apply;
mod capture;
mod execution;
mod export;
mod host;
mod instance;
mod left;
mod links;
mod listen;
mod near;
mod needs;
mod remove;
mod renew;
mod replicas;
mod restore;
mod run;
mod schedule;
mod supervision;
mod types;
mod way;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use orchestrator_proto::control::{LogRules, Priority, Reply, RuntimeInfo, Selector};
use orchestrator_proto::{ErrorCode, InstanceId, LinkId, WireError};
use tokio::sync::watch;

use crate::events::EventLog;
use crate::logs::{Capture, InstanceLog};
use crate::process::Kernel;
use crate::route::Router;
use crate::runtime::{Lanes, Peers, Porter, Telemetry};
use crate::store::{Durability, SetLinkRecord, Store, StoreError};

pub use instance::Instance;
use left::LeftFiles;
use needs::Dependencies;
pub use replicas::Meant;
pub use restore::Restored;

/// Instances of one daemon.
pub const MAX_INSTANCES: usize = 4096;

/// The longest path, bytes (PATH_MAX without the final zero).
const MAX_PATH: usize = 4095;

/// How long who reads a log waits for the last output of a process that has ended.
const LAST_OUTPUT: Duration = Duration::from_millis(500);

/// Where things are kept.
#[derive(Clone, Debug)]
pub struct Directories {
    /// Sockets of instances. Private, and as short-lived as the daemon.
    pub sockets: Arc<Path>,
    /// One directory of log files for each instance.
    pub logs: PathBuf,
    /// Programs that clients sent, in one directory for each instance.
    pub programs: PathBuf,
}

/// All instances of a daemon.
pub struct Registry {
    instances: RwLock<Instances>,
    closing: Arc<AtomicBool>,
    kernel: Arc<dyn Kernel>,
    /// None once the daemon ends.
    capture: Mutex<Option<Capture>>,
    router: Arc<Router>,
    events: Arc<EventLog>,
    telemetry: Option<Telemetry>,
    directories: Directories,
    /// Files that an earlier daemon has left, until the instance is built whose they are.
    left: LeftFiles,
    /// Who waits for those that connect to instances.
    porter: Arc<Porter>,
    /// What goes from instance to instance.
    lanes: Arc<Lanes>,
    store: Store,
    /// What a start and a stop wait for before they are answered.
    durability: Durability,
    /// The order of the instance that was added last.
    last_order: AtomicU64,
    /// Who needs whom.
    dependencies: Arc<Dependencies>,
    /// Held while links are made, or can't be any more, and that is put on its way to the disk.
    link_changes: Mutex<()>,
    /// Held while what is wanted is applied.
    applying: tokio::sync::Mutex<()>,
    /// Links from and to sets of replicas.
    set_links: Mutex<BTreeMap<LinkId, SetLinkRecord>>,
    /// How many removals of instances and sets have come to an end, whatever came of them.
    removals: watch::Sender<u64>,
}

#[derive(Default)]
struct Instances {
    by_id: BTreeMap<InstanceId, Arc<Instance>>,
    by_name: HashMap<String, InstanceId>,
    /// Of instances that are being added: they are on their way to the disk.
    reserved_ids: HashSet<InstanceId>,
    reserved_names: HashSet<String>,
    sets: replicas::Sets,
}

impl Registry {
    /// A registry without instances. What changes is kept in the store; starts and stops are
    /// answered when they are kept as well as `durability` says.
    #[must_use]
    pub fn new(
        kernel: Arc<dyn Kernel>,
        capture: Capture,
        events: Arc<EventLog>,
        (telemetry, porter): (Option<Telemetry>, Arc<Porter>),
        directories: Directories,
        (store, durability): (Store, Durability),
    ) -> Arc<Self> {
        let lanes = Lanes::new(Arc::new(left::LaneEnds(kernel.clone())));
        let registry = Arc::new_cyclic(|this| Self {
            lanes: lanes.clone(),
            instances: RwLock::default(),
            closing: Arc::default(),
            kernel,
            capture: Mutex::new(Some(capture)),
            router: Arc::new(Router::new(Box::new(links::Around::new(
                this.clone(),
                events.clone(),
                Peers::default(),
                lanes.clone(),
            )))),
            events,
            telemetry,
            directories,
            left: LeftFiles::default(),
            porter,
            store,
            durability,
            last_order: AtomicU64::new(0),
            dependencies: {
                let dependencies = Arc::new(Dependencies::default());
                tokio::spawn(dependencies.clone().bring(this.clone()));
                dependencies
            },
            link_changes: Mutex::default(),
            applying: tokio::sync::Mutex::default(),
            set_links: Mutex::default(),
            removals: watch::Sender::new(0),
        });
        let (router, lanes) = (Arc::downgrade(&registry.router), Arc::downgrade(&registry.lanes));
        registry.router.taps().on_end(move || {
            if let (Some(router), Some(lanes)) = (router.upgrade(), lanes.upgrade()) {
                lanes.consider_all(&router);
            }
        });
        registry
    }

    fn read(&self) -> RwLockReadGuard<'_, Instances> {
        self.instances.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Instances> {
        self.instances.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// What outlives the daemon.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// The links.
    #[must_use]
    pub fn router(&self) -> &Arc<Router> {
        &self.router
    }

    /// What happened.
    #[must_use]
    pub fn events(&self) -> &Arc<EventLog> {
        &self.events
    }

    /// Where telemetry goes, if anywhere.
    #[must_use]
    pub fn telemetry(&self) -> Option<&Telemetry> {
        self.telemetry.as_ref()
    }

    /// The directories.
    #[must_use]
    pub fn directories(&self) -> &Directories {
        &self.directories
    }

    /// The name of an instance, if it exists and has one.
    #[must_use]
    pub fn name_of(&self, id: InstanceId) -> Option<String> {
        self.read().by_id.get(&id)?.name.clone()
    }

    /// The instance that is meant.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::NotFound`], or [`ErrorCode::Ambiguous`] for a prefix of several ids.
    pub fn find(&self, selector: &Selector) -> Result<Arc<Instance>, WireError> {
        let text = selector.0.as_str();
        let instances = self.read();
        let exact = match text.parse::<InstanceId>() {
            Ok(id) => Some(id),
            Err(_) => instances.by_name.get(text).copied(),
        };
        if let Some(instance) = exact.and_then(|id| instances.by_id.get(&id)) {
            return Ok(instance.clone());
        }
        if instances.sets.is_there(text) {
            let message =
                format!("{text} is a set of replicas; give one of them here, such as {text}.1");
            return Err(WireError::new(ErrorCode::InvalidArgument, message));
        }
        let prefix = text.to_ascii_lowercase();
        let mut matches = instances
            .by_id
            .iter()
            .filter(|(id, _)| !prefix.is_empty() && id.to_string().starts_with(&prefix));
        match (matches.next(), matches.count()) {
            (Some((_, instance)), 0) => Ok(instance.clone()),
            (Some(_), more) => Err(WireError::new(
                ErrorCode::Ambiguous,
                format!(
                    "{} instances have an id that begins with {text:?}; give more of it",
                    more + 1
                ),
            )),
            (None, _) => Err(WireError::new(
                ErrorCode::NotFound,
                format!(
                    "there is no instance {}; `runtime list` shows those there are",
                    shorten(text)
                ),
            )),
        }
    }

    /// All instances, the oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Instance>> {
        let mut all: Vec<_> = self.read().by_id.values().cloned().collect();
        all.sort_by_key(|instance| instance.order);
        all
    }

    /// Which limits of an instance are not in force, or would not be if it were started now, and
    /// why: a sentence each.
    #[must_use]
    pub fn limits_unmet(&self, instance: &Instance) -> Vec<String> {
        self.kernel.unmet(instance.id, instance.is_active())
    }

    /// All instances in brief, the oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<RuntimeInfo> {
        self.all().iter().map(|instance| instance.info()).collect()
    }

    /// Starts an instance.
    ///
    /// # Errors
    ///
    /// With the errno in words when its program can't be executed.
    pub async fn start(
        &self,
        instance: &Instance,
        priority: Option<Priority>,
    ) -> Result<Reply, WireError> {
        self.check_open()?;
        check_staying(instance)?;
        self.start_required(instance);
        let id = instance.id;
        self.with_newest(id, |instance| async move {
            let reply = instance.start(priority).await?;
            self.undo_if_closing(&instance).await?;
            Ok(reply)
        })
        .await
    }

    /// Stops an instance, after those that need it. The answer is whether anything of it ran.
    ///
    /// # Errors
    ///
    /// As [`Instance::stop`].
    pub async fn stop(self: &Arc<Self>, instance: &Instance) -> Result<bool, WireError> {
        self.stop_requirers(instance.id, instance.short()).await;
        let id = instance.id;
        let stopped = self.with_newest(id, |it| async move { it.stop().await }).await;
        if stopped.is_err() {
            self.dependencies.stay(instance.id);
        }
        stopped
    }

    /// A start that crossed the beginning of the end must not outlive it.
    async fn undo_if_closing(&self, instance: &Instance) -> Result<(), WireError> {
        let closing = self.check_open();
        if closing.is_err() {
            instance.suspend().await?;
        }
        closing
    }

    /// Stops an instance, then starts it.
    ///
    /// # Errors
    ///
    /// As [`Registry::start`].
    pub async fn restart(self: &Arc<Self>, instance: &Instance) -> Result<Reply, WireError> {
        self.check_open()?;
        check_staying(instance)?;
        self.stop_requirers(instance.id, instance.short()).await;
        self.start_required(instance);
        let id = instance.id;
        let reply = self.with_newest(id, |instance| async move {
            let reply = instance.restart().await?;
            self.undo_if_closing(&instance).await?;
            Ok(reply)
        });
        let reply = reply.await;
        if reply.is_err() {
            self.dependencies.stay(id);
        }
        reply
    }

    /// Accepts no further instances and starts.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// Whether it accepts none.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    fn check_open(&self) -> Result<(), WireError> {
        if self.closing.load(Ordering::Acquire) { Err(shutting_down()) } else { Ok(()) }
    }

    /// Stops everything that runs, each with its own sequence and all at once, but for those that
    /// others need, which come after them; the next daemon starts it again.
    /// [`Registry::flush_logs`] brings their last output into the logs.
    pub async fn stop_all(self: &Arc<Self>) {
        let registry = self;
        self.for_all(|instance| {
            let registry = registry.clone();
            async move {
                registry.dependents_gone(instance.id).await;
                if let Err(error) = instance.suspend().await {
                    tracing::error!(instance = instance.label(), %error, "stop failed");
                }
            }
        })
        .await;
    }

    /// Sends SIGKILL to everything that runs.
    pub async fn kill_all(&self) {
        self.for_all(|instance| async move { instance.kill().await }).await;
    }

    async fn for_all<F>(&self, each: impl Fn(Arc<Instance>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut tasks = tokio::task::JoinSet::new();
        for instance in self.all() {
            tasks.spawn(each(instance));
        }
        while tasks.join_next().await.is_some() {}
    }

    fn open_log(&self, id: InstanceId, rules: &LogRules) -> Result<InstanceLog, WireError> {
        let dir = self.directories.logs.join(id.to_string());
        let capture = self.capture.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(capture) = capture.as_ref() else {
            return Err(shutting_down());
        };
        capture.open_with(id, dir.clone(), rules).map_err(|error| {
            let message = format!("cannot open the log of the instance in {dir:?}");
            WireError::caused_by(ErrorCode::Io, message, &error)
        })
    }
}

fn shutting_down() -> WireError {
    WireError::new(ErrorCode::ShuttingDown, "the daemon is shutting down")
}

fn being_removed(instance: &Instance) -> WireError {
    let message = format!("instance {} is being removed by somebody else", instance.label());
    WireError::new(ErrorCode::NotFound, message)
}

fn check_staying(instance: &Instance) -> Result<(), WireError> {
    if instance.turns.leaving.load(Ordering::Acquire) {
        Err(being_removed(instance))
    } else {
        Ok(())
    }
}

/// `message` says what was not done, or what was done although.
fn not_stored(message: String, error: &StoreError) -> WireError {
    let code = match error {
        StoreError::Conflict(_) => ErrorCode::AlreadyExists,
        StoreError::Busy => ErrorCode::LimitReached,
        StoreError::Closed => ErrorCode::ShuttingDown,
        _ => ErrorCode::Io,
    };
    WireError::caused_by(code, message, error)
}

/// A text of a client, in quotes, cut where it is too long to be repeated.
fn shorten(text: &str) -> String {
    if text.len() <= 80 {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(60).collect();
    format!("{start:?}… ({} bytes)", text.len())
}
