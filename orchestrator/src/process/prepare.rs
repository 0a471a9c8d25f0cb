//! What a program is given at its start, found out when it is started: who its user is by now, what
//! is in its files of variables.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::Uid;
use orchestrator_proto::control::{Capability, Execution, IoClass, Realtime, Resource, Stdin};
use thiserror::Error;

use super::Launch;
use super::account::{self, AccountError, Identity, Person};
use super::env_file::{self, EnvFileError};
use super::environment::{self, Variables, Who, inherited};
use super::listen::with_listeners;
use crate::holder::attributes::Attributes;
use crate::holder::image;

/// Why a program is not even tried.
#[derive(Debug, Error)]
pub enum PrepareError {
    /// It is about its user or its groups.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// It is about a file of variables.
    #[error(transparent)]
    EnvFile(#[from] EnvFileError),
    /// Its sockets are not its own.
    #[error("its socket {path:?} can't be given to its user: {source}")]
    Socket {
        /// Which.
        path: std::path::PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What a program is given.
#[derive(Debug)]
pub(super) struct Prepared {
    /// `NAME=VALUE`
    pub(super) env: Vec<Vec<u8>>,
    /// None if it is as the holder is.
    pub(super) attributes: Option<Attributes>,
    /// What will be in its way, a sentence each.
    pub(super) warnings: Vec<String>,
}

/// What holds for all programs: what the daemon has.
#[derive(Debug)]
pub(super) struct Surroundings {
    environment: Variables,
    /// Who the daemon runs as.
    own: std::sync::OnceLock<Option<Person>>,
}

impl Surroundings {
    /// Those of this process.
    pub(super) fn own() -> Self {
        Self { environment: environment::of_daemon(), own: std::sync::OnceLock::new() }
    }

    /// Whether to prepare this may take long.
    pub(super) fn may_block(&self, launch: &Launch) -> bool {
        let Execution { user, group, groups, env_file, .. } = &*launch.execution;
        self.own.get().is_none()
            || user.is_some()
            || group.is_some()
            || groups.is_some()
            || !env_file.is_empty()
    }

    /// What a program is given.
    ///
    /// # Errors
    ///
    /// When it can't be executed as is wanted.
    pub(super) fn prepare(&self, launch: &Launch) -> Result<Prepared, PrepareError> {
        let execution = &*launch.execution;
        let identity = Identity::of(execution)?;
        let own = self.own.get_or_init(account::own);
        let who = match (identity.uid, &identity.person) {
            (None, None) => Who::Own(own.as_ref()),
            (None, person) => Who::Own(person.as_ref()),
            (Some(uid), person) if uid == Uid::effective().as_raw() => Who::Own(person.as_ref()),
            (Some(_), person) => Who::Other(person.as_ref()),
        };
        let mut variables = inherited(&execution.inherit_env, &self.environment, who);
        for file in &execution.env_file {
            variables.extend(env_file::read(file)?);
        }
        // The last one counts.
        variables.extend(with_listeners(launch).env.iter().cloned());
        let env = variables.iter().map(|(name, value)| image::variable(name, value)).collect();
        give_sockets(launch, &identity)?;
        let warnings = unreachable_sockets(launch, &identity);
        let attributes = attributes(execution, &identity, launch);
        let attributes = (attributes != Attributes::default()).then_some(attributes);
        Ok(Prepared { env, attributes, warnings })
    }
}

fn attributes(execution: &Execution, identity: &Identity, launch: &Launch) -> Attributes {
    let bits = |caps: &Vec<Capability>| Capability::bits(caps);
    let keep = execution.keep_caps.as_ref().map(bits);
    let drop = Some(bits(&execution.drop_caps)).filter(|drop| *drop != 0);
    Attributes {
        limits: {
            let bound = |bound: Option<u64>| bound.unwrap_or(u64::MAX);
            let limits = execution.rlimit.iter();
            limits.map(|it| (number(it.resource), bound(it.soft), bound(it.hard))).collect()
        },
        nice: execution.nice.map(|_| execution.nice_at(launch.priority)),
        cpus: execution.cpus.as_ref().map(|cpus| cpus.0.clone()).unwrap_or_default(),
        io_priority: execution.io_class.map(|class| {
            // See ioprio_set(2): the class, and 13 bits of its level.
            let (class, level) = match class {
                IoClass::Realtime(level) => (1, level),
                IoClass::BestEffort(level) => (2, level),
                IoClass::Idle => (3, 0),
            };
            class << 13 | u32::from(level)
        }),
        realtime: execution.realtime.map(|policy| {
            let number = match policy {
                Realtime::Fifo(_) => libc::SCHED_FIFO,
                Realtime::Rr(_) => libc::SCHED_RR,
            };
            (number.cast_unsigned(), policy.priority().into())
        }),
        umask: execution.umask.map(|mask| mask.0),
        groups: identity.groups.clone(),
        gid: identity.gid,
        uid: identity.uid,
        bounding: keep.or(drop.map(|drop| !drop)),
        ambient: bits(&execution.ambient_caps),
        no_new_privs: execution.no_new_privs,
        stdin: match &execution.stdin {
            Stdin::Null => None,
            Stdin::File(path) => Some(path.into()),
        },
    }
}

/// As the holder counts them.
const fn number(resource: Resource) -> u32 {
    resource as u32
}

/// Gives the sockets of a program that runs already to its user. Looks that up, which may take
/// long.
///
/// # Errors
///
/// When that is not possible.
pub fn give_sockets_again(launch: &Launch) -> Result<(), PrepareError> {
    if launch.execution.user.is_none() {
        return Ok(());
    }
    give_sockets(launch, &Identity::of(&launch.execution)?)
}

/// Only it can connect to its sockets, and it can.
fn give_sockets(launch: &Launch, identity: &Identity) -> Result<(), PrepareError> {
    if identity.uid.is_none() {
        return Ok(());
    }
    for path in &launch.sockets {
        // In a directory that only the daemon can write to.
        std::os::unix::fs::lchown(path, identity.uid, identity.gid)
            .map_err(|source| PrepareError::Socket { path: path.clone(), source })?;
    }
    Ok(())
}

/// What is in the way of a user to its sockets.
fn unreachable_sockets(launch: &Launch, identity: &Identity) -> Vec<String> {
    let (Some(uid), Some(socket)) = (identity.uid.filter(|uid| *uid != 0), launch.sockets.first())
    else {
        return Vec::new();
    };
    let closed = |dir: &&Path| {
        let Ok(metadata) = fs::metadata(dir) else { return false };
        let groups = identity.groups.iter().flatten().chain(&identity.gid);
        let bit = if metadata.uid() == uid {
            0o100
        } else if groups.into_iter().any(|gid| *gid == metadata.gid()) {
            0o010
        } else {
            0o001
        };
        metadata.mode() & bit == 0
    };
    let Some(dir) = socket.ancestors().skip(1).find(closed) else { return Vec::new() };
    let user = launch.execution.user.as_deref().unwrap_or_default();
    vec![format!(
        "the user {user} can't get to its runtime sockets: the directory {dir:?} is closed to it; \
         try chmod o+x"
    )]
}
