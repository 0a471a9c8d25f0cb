//! What an earlier daemon has left with the holder: programs that run, and files.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use orchestrator_proto::InstanceId;
use orchestrator_proto::control::Observed;

use crate::health;
use crate::process::{FIRST_COMMAND, Kernel, Name, Spawned, Survivor, View};
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
pub(super) struct Survivors(HashMap<InstanceId, Spawned>);

impl Survivors {
    /// Of each instance the one that was executed last: of those before, the end was taken note
    /// of before it was. Commands of instances are killed: who waited for their end has gone.
    pub(super) fn new(all: Vec<Survivor>) -> Self {
        let is_command = |survivor: &Survivor| survivor.spawned.run >= FIRST_COMMAND;
        let (commands, mut all): (Vec<_>, Vec<_>) = all.into_iter().partition(is_command);
        for Survivor { instance, spawned } in commands {
            tracing::info!(%instance, pid = spawned.process.pid(), "ending a command of before");
            tokio::spawn(health::end(spawned.process, spawned.exited));
        }
        all.sort_by_key(|survivor| survivor.spawned.run);
        Self(all.into_iter().map(|survivor| (survivor.instance, survivor.spawned)).collect())
    }

    /// That of an instance, and how it is to be shown. None if it has none, or one of whose end
    /// an earlier daemon has taken note.
    pub(super) fn take(&mut self, id: InstanceId, run: &RunRecord) -> Option<(Spawned, View)> {
        let spawned = self.0.remove(&id)?;
        let pid = spawned.process.pid();
        let noted = run.process.as_ref().is_some_and(|process| process.pid == pid);
        if spawned.exited.has_ended() && !noted && !run.active {
            return None;
        }
        let view = running(run, pid);
        Some((spawned, view))
    }

    /// Kills those that belong to no instance: nobody could ever stop them.
    pub(super) async fn kill_the_rest(self) {
        for (id, spawned) in self.0 {
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
    view.observed = if noted.is_none_or(|process| process.ready) {
        Observed::Ready { pid, since_ms }
    } else {
        Observed::Starting { pid: Some(pid), since_ms }
    };
    view
}

pub(super) fn now_ms() -> u64 {
    crate::runtime::now_ns() / 1_000_000
}
