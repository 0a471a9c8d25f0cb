//! What an earlier daemon has left with the holder: programs that run, and files.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use orchestrator_proto::InstanceId;
use orchestrator_proto::control::Observed;

use crate::process::{Ended, Kernel, Name, Spawned, Survivor, View};
use crate::runtime::Shelf;
use crate::store::RunRecord;

use super::run::view_of;

/// Files of all instances, as far as nobody has taken them.
pub(super) type LeftFiles = Arc<Mutex<BTreeMap<Name, OwnedFd>>>;

/// The files of one instance.
pub(super) struct InstanceShelf {
    pub(super) id: InstanceId,
    pub(super) left: LeftFiles,
    pub(super) kernel: Arc<dyn Kernel>,
}

impl InstanceShelf {
    const fn name(&self, place: u64) -> Name {
        Name { key: *self.id.as_bytes(), tag: place }
    }
}

impl Shelf for InstanceShelf {
    fn take(&self, place: u64) -> Option<OwnedFd> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.remove(&self.name(place))
    }

    fn take_from(&self, first: u64) -> Vec<(u64, OwnedFd)> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let names = left.range(self.name(first)..=self.name(u64::MAX)).map(|(name, _)| *name);
        let names: Vec<_> = names.collect();
        let files = names.into_iter().filter_map(|name| Some((name.tag, left.remove(&name)?)));
        files.collect()
    }

    fn put(&self, place: u64, file: BorrowedFd<'_>) {
        match file.try_clone_to_owned() {
            Ok(file) => self.kernel.keep(self.name(place), file),
            Err(error) => {
                tracing::error!(instance = %self.id, %error, "a file can't be kept");
            }
        }
    }

    fn clear(&self, place: u64) {
        self.kernel.forget(self.name(place));
    }
}

/// Programs that run, or did, by instance.
#[derive(Default)]
pub(super) struct Survivors {
    /// Of each instance the one that was executed last.
    last: HashMap<InstanceId, Spawned>,
    /// Those before, which have ended. The daemon that executed another one in the place of one
    /// of these may have been killed before it had noted that.
    before: Vec<(InstanceId, Spawned)>,
}

impl Survivors {
    pub(super) fn new(mut all: Vec<Survivor>) -> Self {
        all.sort_by_key(|survivor| survivor.spawned.run);
        let mut this = Self::default();
        for Survivor { instance, spawned } in all {
            let before = this.last.insert(instance, spawned);
            this.before.extend(before.map(|before| (instance, before)));
        }
        this
    }

    /// How a process of an instance ended that is not its last one, if the holder knows.
    pub(super) fn end_before(&mut self, id: InstanceId, pid: u32) -> Option<Ended> {
        let mut before = self.before.iter_mut();
        let (_, spawned) =
            before.find(|(of, spawned)| *of == id && spawned.process.pid() == pid)?;
        spawned.exited.by_now()
    }

    /// Everything that ended before the last of each instance has been told.
    pub(super) fn ends_before_are_noted(&mut self) {
        for (_, spawned) in self.before.drain(..).filter(|(_, it)| it.exited.has_ended()) {
            spawned.process.end_is_noted();
        }
    }

    /// That of an instance, and how it is to be shown. None if it has none, or one of whose end
    /// an earlier daemon has taken note.
    pub(super) fn take(&mut self, id: InstanceId, run: &RunRecord) -> Option<(Spawned, View)> {
        let spawned = self.last.remove(&id)?;
        let pid = spawned.process.pid();
        let noted = run.process.as_ref().is_some_and(|process| process.pid == pid);
        if spawned.exited.has_ended() && !noted && !run.active {
            spawned.process.end_is_noted();
            return None;
        }
        let view = running(run, pid);
        Some((spawned, view))
    }

    /// Kills those that belong to no instance: nobody could ever stop them.
    pub(super) async fn kill_the_rest(self) {
        for (id, spawned) in self.last {
            let pid = spawned.process.pid();
            if let Ok(true) = spawned.process.signal_tree(crate::supervise::SIGKILL).await {
                tracing::error!(instance = %id, pid, "killed a program of an unknown instance");
            }
        }
    }
}

/// How an instance is to be shown of which this is found running.
pub(super) fn running(run: &RunRecord, pid: u32) -> View {
    let noted = run.process.as_ref().filter(|process| process.pid == pid);
    let mut view = view_of(run);
    // If it was executed just before the daemon ended, that was not noted.
    view.starts = noted.map_or(run.starts + 1, |_| run.starts);
    let since_ms = noted.map_or_else(now_ms, |process| process.started_ms);
    view.observed = Observed::Running { pid, since_ms };
    view
}

pub(super) fn now_ms() -> u64 {
    crate::runtime::now_ns() / 1_000_000
}
