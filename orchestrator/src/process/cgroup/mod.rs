//! Control groups (version 2): for each execution of an instance one of its own, so that all that
//! it starts is known and can be ended whatever it calls, and limits hold for all of it together.
//! See cgroups(7) and <https://docs.kernel.org/admin-guide/cgroup-v2.html>.
//!
//! Below the cgroup in which the daemon was started, its parent, if it may make some there:
//!
//! ```text
//! orchestrator-ID/            ID: of the state directory, so that two daemons do not meet
//!     daemon/                 the holder, the daemon, the capture process
//!     instances/
//!         INSTANCE/           its limits; there while anything of it runs
//!             run-N/          an execution of its program and all that came of it
//!             command-N/      a command that belongs to it, such as a probe
//! ```
//!
//! It promises that
//!
//! - a cgroup that has no process any more is removed, and one that has is never;
//! - a process of an instance is in its cgroup before its program begins, if the kernel can do so
//!   from its first moment on: by the directory that the order to execute it comes with;
//! - no file is open for a cgroup unless somebody waits for its end;
//! - what can't be had is said, with the reason: nothing that was asked for is silently left out.

mod controllers;
mod find;
mod leaf;
mod limit;
mod place;
mod remnant;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use orchestrator_proto::InstanceId;
use orchestrator_proto::control::Limits;
use rustix::fs::{Mode, OFlags, open};

use super::{FIRST_COMMAND, Part};
use crate::holder::frame::Name;
pub(super) use leaf::Leaf;
use limit::Ooms;
use place::Place;
pub(super) use remnant::Remnant;

/// Where cgroups of instances are made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum CgroupChoice {
    /// Below the one that the daemon was started in.
    #[default]
    Own,
    /// Nowhere: what belongs together is known by process groups and environments.
    Nowhere,
    /// Below this directory of a cgroup file system.
    Below(PathBuf),
}

/// All cgroups of a daemon's instances, and the limits that they were given.
#[derive(Debug)]
pub(super) struct Cgroups {
    /// Where they are; if nowhere, why.
    place: Result<Place, String>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Those that somebody has to do with.
    leaves: HashMap<Arc<Path>, Weak<Leaf>>,
    limits: HashMap<InstanceId, Kept>,
}

/// What there is to hold instances with, for an operator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Instances have no cgroups.
    Nowhere {
        /// The reason, as the end of a sentence.
        why: String,
    },
    /// Instances have cgroups.
    Below {
        /// The cgroup of the orchestrator, in which they are made.
        directory: PathBuf,
        /// Controllers whose limits are in force, such as `memory`.
        in_force: Vec<&'static str>,
        /// Why others are not, as the end of a sentence each.
        missing: Vec<String>,
    },
}

/// The limits of an instance.
#[derive(Clone, Debug, Default)]
struct Kept {
    limits: Limits,
    /// What is not in force of them, a sentence each.
    unmet: Vec<String>,
}

/// A cgroup for a program that is about to be executed.
#[derive(Debug)]
pub(super) struct Entry {
    /// Removes it, if it is dropped before anything is in it.
    pub(super) _leaf: Arc<Leaf>,
    /// Its directory, by which a process can begin in it.
    pub(super) directory: OwnedFd,
}

impl Cgroups {
    /// Those of the daemon with this state directory, this process. `holder` and this process are
    /// moved to a cgroup of their own, where both can be.
    pub(super) fn settle(choice: &CgroupChoice, state: &Path, holder: i32) -> Self {
        let place = match choice {
            CgroupChoice::Nowhere => Err("the daemon was told to make none (--cgroup none)".into()),
            CgroupChoice::Own => {
                find::own().and_then(|own| Place::settle(&own, &place::id_of(state), holder))
            }
            CgroupChoice::Below(directory) => {
                Place::settle(directory, &place::id_of(state), holder)
            }
        };
        match &place {
            Ok(place) => tracing::info!(directory = ?place.directory(), "cgroups of instances"),
            Err(why) => tracing::info!(why, "instances have no cgroups of their own"),
        }
        Self { place, known: Mutex::default() }
    }

    /// Where they are made, and what can be limited there.
    pub(super) fn standing(&self) -> Standing {
        match &self.place {
            Ok(place) => place.standing(),
            Err(why) => Standing::Nowhere { why: why.clone() },
        }
    }

    /// Whether instances have cgroups.
    pub(super) const fn is_anywhere(&self) -> bool {
        self.place.is_ok()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new cgroup for a process of this name. None if there are none here.
    ///
    /// # Errors
    ///
    /// Why it can't be made, as a sentence.
    pub(super) fn enter(self: &Arc<Self>, name: Name) -> Result<Option<Entry>, String> {
        let Ok(place) = &self.place else { return Ok(None) };
        let instance = InstanceId::from_bytes(name.key);
        let directory = place.of_instance(instance).join(leaf_name(name.tag));
        let said = |error: io::Error| format!("the cgroup {directory:?} can't be used: {error}");
        let is_new = self.make(place, instance, &directory).map_err(said)?;
        let before = if is_new {
            self.write_limits(place, instance);
            Ooms::default()
        } else {
            Ooms::of(&place.of_instance(instance)).unwrap_or_default()
        };
        let leaf = self.leaf_since(directory.clone(), before);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = open(&directory, flags, Mode::empty()).map_err(|errno| said(errno.into()))?;
        Ok(Some(Entry { _leaf: leaf, directory: opened }))
    }

    /// Makes a cgroup, and that of the instance if it is not there. The answer is whether that was
    /// so, or limits have to be written for another reason.
    fn make(&self, place: &Place, instance: InstanceId, directory: &Path) -> io::Result<bool> {
        let mut is_new = false;
        // The end of what ran before may remove what is empty, in between.
        for _ in 0..16 {
            match fs::create_dir(place.of_instance(instance)) {
                Ok(()) => is_new = true,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => place.make_again()?,
                Err(error) => return Err(error),
            }
            match fs::create_dir(directory) {
                Ok(()) => return Ok(is_new),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }

    /// The cgroup of a process that runs, or ran, if it has one.
    pub(super) fn find(self: &Arc<Self>, name: Name) -> Option<Arc<Leaf>> {
        let place = self.place.as_ref().ok()?;
        let instance = InstanceId::from_bytes(name.key);
        let directory = place.of_instance(instance).join(leaf_name(name.tag));
        if let Some(leaf) = self.known().leaves.get(&*directory).and_then(Weak::upgrade) {
            return Some(leaf);
        }
        directory.is_dir().then(|| self.leaf(directory))
    }

    /// The cgroup that a process is in, whoever has started it, if that is one of this part of the
    /// instance, of a daemon with the same state directory.
    pub(super) fn of_process(
        self: &Arc<Self>,
        pid: i32,
        instance: InstanceId,
        part: Part,
    ) -> Option<Arc<Leaf>> {
        let place = self.place.as_ref().ok()?;
        let directory = place.of_process(pid, instance, part)?;
        Some(self.leaf(directory))
    }

    /// What is left of the executions of an instance's program that nobody has to do with.
    pub(super) fn rest(self: &Arc<Self>, instance: InstanceId) -> Option<Arc<Leaf>> {
        let place = self.place.as_ref().ok()?;
        let left = fs::read_dir(place.of_instance(instance)).ok()?.flatten().find_map(|entry| {
            run_of(entry.file_name().to_str()?)?;
            let directory = entry.path();
            let is_left = !self.is_held(&directory) && leaf::is_populated(&directory).ok()?;
            is_left.then_some(directory)
        });
        left.map(|directory| self.leaf(directory))
    }

    fn is_held(&self, directory: &Path) -> bool {
        self.known().leaves.get(directory).is_some_and(|leaf| leaf.strong_count() > 0)
    }

    fn leaf(self: &Arc<Self>, directory: PathBuf) -> Arc<Leaf> {
        self.leaf_since(directory, Ooms::default())
    }

    fn leaf_since(self: &Arc<Self>, directory: PathBuf, before: Ooms) -> Arc<Leaf> {
        let directory: Arc<Path> = directory.into();
        let leaf = Arc::new(Leaf::new(Arc::clone(self), directory.clone(), before));
        self.known().leaves.insert(directory, Arc::downgrade(&leaf));
        leaf
    }

    /// Kills what nobody has to do with: what was left by executions of instances that there are
    /// no more, and by commands; and removes what is empty. The answer is what was killed.
    pub(super) fn tidy(self: &Arc<Self>) -> Vec<(InstanceId, Arc<Leaf>)> {
        let Ok(place) = &self.place else { return Vec::new() };
        let mut killed = Vec::new();
        for (instance, directory) in place.instances() {
            let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
            let leaves = entries.filter_map(|entry| {
                tag_of(entry.file_name().to_str()?)?;
                Some(entry.path())
            });
            for path in leaves {
                if self.is_held(&path) {
                    continue;
                }
                let leaf = self.leaf(path);
                if !leaf.is_empty() {
                    leaf.kill();
                    killed.push((instance, leaf));
                }
            }
            // Stays if there is anything in it.
            let _ = fs::remove_dir(directory);
        }
        killed
    }

    /// The end of all instances: removes what is empty.
    pub(super) fn leave(&self, holder: i32) {
        if let Ok(place) = &self.place {
            place.leave(holder);
        }
    }
}

/// The instance in whose cgroup a process is, whoever has started it, if it is one of those that
/// `is_known` says yes to. An orchestrator can be an instance of another one: then the first of
/// them, from the root, counts. None if it is in none of that kind, or has ended.
pub(super) fn instance_of(pid: i32, is_known: impl Fn(InstanceId) -> bool) -> Option<InstanceId> {
    let text = fs::read(format!("/proc/{pid}/cgroup")).ok()?;
    place::instances_in(&find::path_in(&text)?).find(|instance| is_known(*instance))
}

/// The name of a cgroup for an execution.
fn leaf_name(tag: u64) -> String {
    match tag.checked_sub(FIRST_COMMAND) {
        Some(number) => format!("command-{number}"),
        None => format!("run-{tag}"),
    }
}

/// The number of the execution of a program that a cgroup of this name is for.
fn run_of(name: &str) -> Option<u64> {
    name.strip_prefix("run-")?.parse().ok().filter(|tag| *tag < FIRST_COMMAND)
}

/// The number of the execution that a cgroup of this name is for.
fn tag_of(name: &str) -> Option<u64> {
    let command = |name: &str| name.strip_prefix("command-")?.parse::<u64>().ok();
    let tag = |number: u64| number.checked_add(FIRST_COMMAND);
    run_of(name).or_else(|| command(name).and_then(tag))
}
