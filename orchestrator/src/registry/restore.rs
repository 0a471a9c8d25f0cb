//! The instances and links of an earlier daemon.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use orchestrator_proto::control::{Desired, EventKind, Exit};
use orchestrator_proto::{InstanceId, LinkId};

use super::add::Plan;
use super::left::{Survivors, now_ms, running};
use super::run::{after_end, this_boot, was_running};
use super::{Instance, Registry};
use crate::process::{Left, Spawned, Stray, View};
use crate::store::{InstanceRecord, ProcessRecord, RunRecord, Snapshot};

/// What came of it.
#[derive(Default)]
pub struct Restored {
    /// What ran when the earlier daemon ended, or should have. Not started as yet.
    pub to_be_started: Vec<Arc<Instance>>,
    /// What could not be had, a sentence each. It is kept in the database as it is.
    pub failures: Vec<String>,
}

impl Registry {
    /// Takes over what an earlier daemon left: what it has stored, and what the holder has of it.
    /// To be called once, before anybody asks for anything.
    pub async fn restore(self: &Arc<Self>, snapshot: Snapshot, left: Left) -> Restored {
        // A holder of before has files of ours, if there are instances; and knows their processes.
        let is_new = left.survivors.is_empty() && left.files.is_empty();
        let strays = if is_new { self.kernel.strays() } else { Vec::new() };
        let mut survivors = Survivors::new(left.survivors);
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) =
            left.files.into_iter().collect();
        let mut restored = Restored::default();
        self.last_order.store(snapshot.last_order, Ordering::Relaxed);
        for unreadable in snapshot.unreadable {
            restored.failures.push(format!("the database can't be read as to {unreadable}"));
        }
        for (record, run) in snapshot.instances {
            let (id, order, start) = (record.id, record.order, run.is_to_be_started());
            if let Some(name) = &record.spec.name
                && self.read().by_name.contains_key(name)
            {
                let failure = format!("instance {id} has the name {name}, which is taken");
                restored.failures.push(failure);
                continue;
            }
            let survivor = survivors.take(id, &run);
            let survivor = survivor.or_else(|| self.orphan(id, &run, &strays));
            let start = start && survivor.is_none();
            // What is found may have been executed after that.
            let pid = survivor.as_ref().map(|(spawned, _)| spawned.process.pid());
            let noted = run.process.as_ref().map(|process| process.pid);
            let lost = was_running(&run) && pid != noted;
            let after = if survivor.is_some() { run.clone() } else { after_end(&run, now_ms()) };
            if after != run {
                self.store.note_run(order, after.clone());
            }
            if lost {
                self.tell_end(&record, run.desired == Desired::Stopped);
            }
            match self.build(Plan { run: after, survivor, ..Plan::new(record) }) {
                Ok(instance) => {
                    let instance = self.enter(instance);
                    if start {
                        restored.to_be_started.push(instance);
                    }
                }
                Err(error) => {
                    restored.failures.push(format!("instance {id} can't be had: {error}"));
                }
            }
        }
        for record in snapshot.links {
            let id = record.id;
            if let Err(error) = self.restore_link(record) {
                restored.failures.push(format!("link {id} can't be had: {error}"));
            }
        }
        self.router.set_last_id(LinkId(snapshot.last_link));
        survivors.kill_the_rest().await;
        self.forget_the_rest(&snapshot.ids);
        self.begun.send_replace(true);
        restored
    }

    /// Closes files that belong to no instance that there is: its removal was the last that an
    /// earlier daemon did. Those of instances that can't be had stay with the holder.
    fn forget_the_rest(&self, known: &HashSet<String>) {
        let left = std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner));
        for name in left.into_keys() {
            if !known.contains(&InstanceId::from_bytes(name.key).to_string()) {
                self.kernel.forget(name);
            }
        }
    }

    /// Tells of the end of a process while there was no holder, or of the whole machine.
    fn tell_end(&self, record: &InstanceRecord, requested: bool) {
        let exit = Exit::Unknown;
        for kind in [EventKind::Exited { exit, requested }, EventKind::Stopped] {
            self.events.record(Some(record.id), record.spec.name.as_deref(), kind);
        }
    }

    /// What runs of an instance although the holder has been killed too: what was noted, or what
    /// was executed after that.
    fn orphan(&self, id: InstanceId, run: &RunRecord, strays: &[Stray]) -> Option<(Spawned, View)> {
        let of_this_boot =
            |process: &&ProcessRecord| Some(&process.boot_id) == this_boot().as_ref();
        let noted = run.process.as_ref().filter(of_this_boot);
        let noted = noted.map(|process| (process.pid, process.start_ticks));
        let later = strays.iter().filter(|stray| stray.instance == id && stray.run > run.starts);
        let later = later.map(|stray| (stray.pid, stray.start_ticks));
        noted.into_iter().chain(later).find_map(|(pid, start_ticks)| {
            match self.kernel.adopt(id, pid, start_ticks) {
                Ok(spawned) => Some((spawned?, running(run, pid))),
                Err(error) => {
                    tracing::error!(instance = %id, pid, %error, "what runs of it can't be kept");
                    None
                }
            }
        })
    }

    /// Starts what is to be started, all at once. Answers when each was tried, or the daemon
    /// ends.
    pub async fn start_again(self: Arc<Self>, instances: Vec<Arc<Instance>>) {
        let mut tasks = tokio::task::JoinSet::new();
        for instance in instances {
            let registry = self.clone();
            tasks.spawn(async move {
                if registry.check_open().is_ok() {
                    instance.start_again().await;
                    let _ = registry.undo_if_closing(&instance).await;
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    }
}
