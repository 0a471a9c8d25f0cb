//! Adding an instance: what is allowed, and building it.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use orchestrator_proto::control::{EventKind, Program, RuntimeSpec};
use orchestrator_proto::{ErrorCode, InstanceId, OsBytes, WireError};

use super::host::RegistryHost;
use super::instance::{Instance, InstanceHooks, OWN_VARIABLES, Sockets, launching};
use super::left::InstanceShelf;
use super::run::{RunNotes, end_was_told, view_of};
use super::{
    Instances, MAX_INSTANCES, MAX_PATH, Registry, execution, listen, not_stored, replicas, shorten,
    supervision,
};
use crate::health::{Health, NotifySocket};
use crate::listen::Listeners;
use crate::process::{Keeper, Process, Spawned, View, give_sockets_again};
use crate::runtime::{Endpoint, InstanceSockets, now_ns};
use crate::store::{Change, InstanceRecord, RunRecord, TypeRecord};
use crate::supervise::Rules;

/// The longest name, bytes.
const MAX_NAME: usize = 64;
/// Arguments and environment together, bytes: the kernel takes not much more, see execve(2).
const MAX_ARGUMENTS: usize = 1 << 20;

/// The reading ends of a process's standard output and standard error.
pub(super) type Pipes = (OwnedFd, OwnedFd);

/// An instance to be built: a new one, or one of before.
pub(super) struct Plan {
    pub(super) record: InstanceRecord,
    pub(super) run: RunRecord,
    /// What it has declared to an earlier daemon.
    pub(super) types: Vec<TypeRecord>,
    /// What runs of it already, and how it is to be shown.
    pub(super) survivor: Option<(Spawned, View)>,
    /// What its main process has left behind, if that does not run.
    pub(super) rest: Option<Arc<dyn Process>>,
    /// What printed into these pipes has ended; nobody may have read all of it.
    pub(super) outputs: Vec<(u64, Pipes)>,
    /// Sockets that listen for it, if it is new.
    pub(super) listeners: Option<Listeners>,
    /// What stays of it when its keeper is replaced.
    pub(super) before: Option<Arc<Instance>>,
}

impl Plan {
    /// One that is new.
    pub(super) fn new(record: InstanceRecord) -> Self {
        Self {
            record,
            run: RunRecord::default(),
            types: Vec::new(),
            survivor: None,
            rest: None,
            outputs: Vec::new(),
            listeners: None,
            before: None,
        }
    }
}

/// An id and a name that nobody else can take until this is dropped.
pub(super) struct Reserved {
    registry: Arc<Registry>,
    id: InstanceId,
    name: Option<String>,
}

impl Reserved {
    pub(super) const fn id(&self) -> InstanceId {
        self.id
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut instances = self.registry.write();
        instances.reserved_ids.remove(&self.id);
        if let Some(name) = &self.name {
            instances.reserved_names.remove(name);
        }
    }
}

impl Registry {
    /// Adds an instance. `copy` is the program that a client sent for it, in a directory of its
    /// own below that of programs, which the instance owns from now on if this succeeds. It is
    /// on the disk when this is answered. The answer is what will be in the way of a start. To
    /// be carried to its end once it is begun.
    ///
    /// # Errors
    ///
    /// When anything in `spec` is not allowed, or the id or the name is taken, or it can't be
    /// stored.
    pub async fn add(
        self: &Arc<Self>,
        spec: RuntimeSpec,
        copy: Option<PathBuf>,
    ) -> Result<(InstanceId, Vec<String>), WireError> {
        self.check_open()?;
        check(&spec)?;
        self.dependencies.check(&spec)?;
        let copy = match (&spec.program, copy) {
            (Program::Path(_), _) => None,
            (Program::Upload { .. }, Some(file)) => {
                let below = file.strip_prefix(&self.directories.programs).map(Path::to_owned);
                Some(below.map_err(|_| {
                    WireError::new(ErrorCode::Internal, "the upload is not where programs are")
                })?)
            }
            (Program::Upload { .. }, None) => {
                return Err(WireError::new(ErrorCode::Internal, "the upload is missing"));
            }
        };
        let reserved = self.reserve(&spec, false)?;
        let record = InstanceRecord {
            order: self.last_order.fetch_add(1, Ordering::Relaxed) + 1,
            id: reserved.id,
            spec,
            copy,
            added_ms: now_ns() / 1_000_000,
            from_start: 1,
        };
        let plan = Plan::new(record.clone());
        // Looks at paths that a client chose, which may be on a disk that does not answer.
        let registry = self.clone();
        let building = tokio::task::spawn_blocking(move || registry.build_listening(plan));
        let instance = building.await.unwrap_or_else(|panic| {
            let message = format!("adding the instance failed: {panic}");
            Err(WireError::new(ErrorCode::Internal, message))
        })?;
        let looking = tokio::task::spawn_blocking({
            let (program, spec) = (instance.program.clone(), instance.spec.clone());
            move || {
                let user = crate::process::obstacle(&spec.execution);
                obstacles(&program).into_iter().chain(user).collect()
            }
        });
        let warnings = looking.await.unwrap_or_default();
        let stored = self.store.change(Change::AddInstance(Box::new(record))).await;
        if let Err(error) = stored {
            self.router.remove_instance(instance.id);
            instance.abandon().await;
            return Err(not_stored(format!("instance {} was not added", instance.label()), &error));
        }
        let (id, name) = (instance.id, instance.name.clone());
        self.enter(instance);
        drop(reserved);
        self.events.record(Some(id), name.as_deref(), EventKind::Added);
        Ok((id, warnings))
    }

    /// Whether everything in `spec` is allowed and free, before anything is sent for it.
    ///
    /// # Errors
    ///
    /// As [`Registry::add`].
    pub fn check(&self, spec: &RuntimeSpec) -> Result<(), WireError> {
        self.check_open()?;
        check(spec)?;
        self.dependencies.check(spec)?;
        self.check_sockets(spec, None)?;
        check_free(&self.read(), spec, false)
    }

    /// Keeps an id and a name for one that is new; the name of a replica if that is planned.
    pub(super) fn reserve(
        self: &Arc<Self>,
        spec: &RuntimeSpec,
        is_planned: bool,
    ) -> Result<Reserved, WireError> {
        let mut instances = self.write();
        check_free(&instances, spec, is_planned)?;
        let id = spec.id.unwrap_or_else(InstanceId::generate);
        instances.reserved_ids.insert(id);
        if let Some(name) = &spec.name {
            instances.reserved_names.insert(name.clone());
        }
        Ok(Reserved { registry: self.clone(), id, name: spec.name.clone() })
    }

    /// From now on it can be found.
    pub(super) fn enter(&self, instance: Instance) -> Arc<Instance> {
        let instance = Arc::new(instance);
        self.dependencies.insert(&instance);
        let mut instances = self.write();
        if let Some(name) = &instance.name {
            instances.by_name.insert(name.clone(), instance.id);
        }
        instances.by_id.insert(instance.id, instance.clone());
        instance
    }

    pub(super) fn build(self: &Arc<Self>, plan: Plan) -> Result<Instance, WireError> {
        let Plan { record, run, types, survivor, rest, outputs, listeners, before } = plan;
        let InstanceRecord { order, id, spec, copy, added_ms, from_start } = record;
        let spec = Arc::new(spec);
        let program = match (&spec.program, &copy) {
            (Program::Path(path), _) => path.as_path().to_owned(),
            (Program::Upload { .. }, Some(copy)) => self.directories.programs.join(copy),
            (Program::Upload { .. }, None) => {
                return Err(WireError::new(ErrorCode::Internal, "the upload is missing"));
            }
        };
        let copy = copy.and(program.parent().map(Path::to_owned));
        let log = match &before {
            Some(before) => before.log.clone(),
            None => self.open_log(id, &spec.log)?,
        };
        let endpoint = before.as_ref().map(|before| before.endpoint.clone());
        let endpoint = endpoint.unwrap_or_else(|| {
            let mailbox = self.router.add_instance(id);
            self.keep_types(id, order, types);
            Arc::new(Endpoint {
                instance: id,
                mailbox,
                sent: Arc::default(),
                protocol_errors: AtomicU64::new(0),
                connections: AtomicU32::new(0),
                router: self.router.clone(),
                host: Arc::new(RegistryHost {
                    registry: Arc::downgrade(self),
                    name: spec.name.clone(),
                    log: log.clone(),
                }),
                shelf: Box::new(InstanceShelf {
                    id,
                    left: self.left.clone(),
                    kernel: self.kernel.clone(),
                }),
                porter: self.porter.clone(),
                lanes: self.lanes.clone(),
            })
        });
        let sockets = InstanceSockets::open(&self.directories.sockets, &endpoint);
        let unmade = |error: &(dyn std::error::Error + 'static)| {
            if before.is_none() {
                self.router.remove_instance(id);
            }
            if before.is_none() && run.starts == 0 {
                let log = log.clone();
                tokio::spawn(async move { log.remove().await });
            }
            WireError::caused_by(ErrorCode::Io, "cannot make the sockets of the instance", error)
        };
        let sockets = sockets.map_err(|error| unmade(&error))?;
        let rules = Rules::from(spec.clone());
        let notify = NotifySocket::open(&self.directories.sockets, &endpoint, &rules);
        let notify = notify.map_err(|error| unmade(&error))?;
        self.kernel.limit(id, &spec.limits);
        let listeners = self.listeners(id, &spec, listeners, before.as_deref());
        let view = view_of(&run);
        let replica = self.replica_of(spec.name.as_deref());
        let index = replica.as_ref().map(|replica| replica.index);
        let launching = launching(id, &spec, &program, (&sockets, notify.as_ref()), index);
        if survivor.is_some()
            && let Err(error) = give_sockets_again(&launching())
        {
            // It goes on, and can't connect again.
            tracing::error!(instance = %id, %error, "it can't get at its sockets");
        }
        let kernel = self.kernel.clone();
        let health = Arc::new(Health::new(id, launching.clone(), log.clone(), kernel));
        health.changed(survivor.as_ref().map_or(&view, |(_, view)| view));
        let end_is_told =
            survivor.as_ref().is_some_and(|(it, _)| end_was_told(&run, it.process.pid()));
        let notes = RunNotes::new(self.closing.clone(), rules.clone(), run);
        let notes = Arc::new(notes);
        let hooks = InstanceHooks {
            id,
            name: spec.name.clone(),
            launching,
            health: health.clone(),
            dependencies: self.dependencies.clone(),
            listeners: listeners.clone(),
            log: log.clone(),
            events: self.events.clone(),
            end_is_told: AtomicBool::new(end_is_told),
            order,
            run: notes.clone(),
        };
        for (number, (stdout, stderr)) in outputs {
            if let Err(error) = log.attach(number, stdout, stderr) {
                tracing::error!(instance = %id, %error, "what it printed last is lost");
            }
        }
        let kernel = self.kernel.clone();
        let keeper = match (survivor, rest) {
            (Some((spawned, view)), _) => {
                Keeper::adopt(rules.clone(), kernel, hooks, view, spawned)
            }
            (None, Some(rest)) => Keeper::clean_up(rules.clone(), kernel, hooks, view, rest),
            (None, None) => Keeper::resume(rules.clone(), kernel, hooks, view),
        };
        let notify =
            notify.map(|socket| socket.listen(&health, keeper.clone(), log.clone(), &rules));
        let sockets = Sockets { _dialects: sockets, _notify: notify };
        Ok(Instance {
            id,
            name: spec.name.clone(),
            replica,
            program,
            copy,
            order,
            added_ms,
            keeper,
            log,
            endpoint,
            listeners,
            sockets: Arc::new(Mutex::new(Some(sockets))),
            launches: spec.clone(),
            from_start,
            run: notes,
            turns: before.as_ref().map_or_else(Arc::default, |it| it.turns.clone()),
            store: self.store.clone(),
            durability: self.durability,
            spec,
        })
    }
}

fn check_free(
    instances: &Instances,
    spec: &RuntimeSpec,
    is_planned: bool,
) -> Result<(), WireError> {
    if instances.by_id.len() + instances.reserved_ids.len() >= MAX_INSTANCES {
        let message = format!("there are {MAX_INSTANCES} instances already");
        return Err(WireError::new(ErrorCode::LimitReached, message));
    }
    if let Some(id) = &spec.id
        && (instances.by_id.contains_key(id) || instances.reserved_ids.contains(id))
    {
        let message = format!("the id {id} is taken; leave --id out for a new one");
        return Err(WireError::new(ErrorCode::AlreadyExists, message));
    }
    if let Some(name) = spec.name.as_ref().filter(|_| !is_planned) {
        instances.sets.check_free(name)?;
    }
    if let Some(name) = &spec.name
        && let Some(owner) = instances.by_name.get(name)
    {
        let leaving = |it: &Arc<Instance>| it.turns.leaving.load(Ordering::Acquire);
        let message = match instances.by_id.get(owner).is_some_and(leaving) {
            true => format!("the name {name:?} is that of an instance that is being removed"),
            false => format!("the name {name:?} is taken by instance {owner}"),
        };
        return Err(WireError::new(ErrorCode::AlreadyExists, message));
    }
    if let Some(name) = &spec.name
        && instances.reserved_names.contains(name)
    {
        let message = format!("the name {name:?} is being taken by somebody else");
        return Err(WireError::new(ErrorCode::AlreadyExists, message));
    }
    Ok(())
}

pub(super) fn invalid(message: String) -> WireError {
    WireError::new(ErrorCode::InvalidArgument, message)
}

/// Whether everything in `spec` is allowed, before anything is built, or uploaded, for it.
///
/// # Errors
///
/// The first thing that is not.
pub(super) fn check(spec: &RuntimeSpec) -> Result<(), WireError> {
    if let Some(name) = &spec.name {
        check_name(name)?;
    }
    if let Some(count) = spec.replicas {
        replicas::check(spec, count)?;
    }
    match &spec.program {
        Program::Path(path) => check_path("the program", path)?,
        Program::Upload { file_name, .. } => check_file_name(file_name)?,
    }
    if let Some(cwd) = &spec.cwd {
        check_path("the working directory", cwd)?;
    }
    for (key, value) in &spec.env {
        check_variable(key, value)?;
    }
    if let Some(arg) = spec.args.iter().find(|arg| arg.0.contains(&0)) {
        return Err(invalid(format!("the argument {} has a zero byte", shorten(&arg.to_string()))));
    }
    let size = spec.args.iter().map(|arg| arg.0.len() + 1).sum::<usize>()
        + spec.env.iter().map(|(key, value)| key.0.len() + value.0.len() + 2).sum::<usize>();
    if size > MAX_ARGUMENTS {
        return Err(invalid(format!(
            "arguments and environment have {size} bytes; at most {MAX_ARGUMENTS} are allowed"
        )));
    }
    listen::check(spec)?;
    spec.log.check().map_err(|(key, why)| invalid(format!("{key}: {why}")))?;
    execution::check(&spec.execution)?;
    spec.limits.check().map_err(|(key, why)| invalid(format!("{key}: {why}")))?;
    supervision::check(&spec.supervision)
}

fn check_name(name: &str) -> Result<(), WireError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() {
        Err(invalid("a name must not be empty".to_owned()))
    } else if name.len() > MAX_NAME {
        Err(invalid(format!(
            "a name has at most {MAX_NAME} characters; {} has more",
            shorten(name)
        )))
    } else if !name.chars().all(allowed) {
        Err(invalid(format!("the name {name:?} has characters other than A-Z a-z 0-9 . _ -")))
    } else if name.parse::<InstanceId>().is_ok() {
        Err(invalid(format!("the name {name:?} looks like an id")))
    } else {
        Ok(())
    }
}

fn check_path(what: &str, path: &OsBytes) -> Result<(), WireError> {
    let shown = || shorten(&path.to_string());
    if !path.as_path().is_absolute() {
        Err(invalid(format!("the path of {what} is not absolute: {}", shown())))
    } else if path.0.contains(&0) {
        Err(invalid(format!("the path of {what} has a zero byte: {}", shown())))
    } else if path.0.len() > MAX_PATH {
        Err(invalid(format!("the path of {what} has more than {MAX_PATH} bytes: {}", shown())))
    } else {
        Ok(())
    }
}

/// A single component, so that an upload stays where it belongs.
fn check_file_name(name: &OsBytes) -> Result<(), WireError> {
    let bad = matches!(&name.0[..], b"" | b"." | b"..")
        || name.0.len() > 255
        || name.0.iter().any(|byte| matches!(byte, 0 | b'/'));
    if bad {
        Err(invalid(format!("{} is not the name of a file", shorten(&name.to_string()))))
    } else {
        Ok(())
    }
}

fn check_variable(key: &OsBytes, value: &OsBytes) -> Result<(), WireError> {
    let shown = shorten(&key.to_string());
    if key.0.is_empty() || key.0.iter().any(|byte| matches!(byte, 0 | b'=')) {
        Err(invalid(format!("{shown} is not the name of a variable")))
    } else if value.0.contains(&0) {
        Err(invalid(format!("the value of the variable {shown} has a zero byte")))
    } else if OWN_VARIABLES.iter().any(|own| own.as_bytes() == key.0) {
        Err(invalid(format!("the variable {shown} is set by the daemon itself")))
    } else {
        Ok(())
    }
}

/// What would be in the way if it were started now. It may be gone by then, so these are no
/// errors.
pub(super) fn obstacles(program: &Path) -> Vec<String> {
    let obstacle = match fs::metadata(program) {
        Err(error) => error.to_string(),
        Ok(metadata) if metadata.is_dir() => "it is a directory".to_owned(),
        Ok(metadata) if metadata.permissions().mode() & 0o111 == 0 => {
            "it is not executable".to_owned()
        }
        Ok(_) => return Vec::new(),
    };
    vec![format!("{program:?} can't be started as it is now: {obstacle}")]
}
