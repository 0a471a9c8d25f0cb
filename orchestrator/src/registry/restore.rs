//! The instances and links of an earlier daemon.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use orchestrator_proto::LinkId;

use super::add::Plan;
use super::run::{after_end, this_boot};
use super::{Instance, Registry};
use crate::process::Keeper;
use crate::store::Snapshot;

/// Ends all of them, at once.
async fn end_leftovers(snapshot: &Snapshot) {
    let boot = this_boot();
    let mut tasks = tokio::task::JoinSet::new();
    for (record, run) in &snapshot.instances {
        if let Some(process) = &run.process
            && Some(&process.boot_id) == boot.as_ref()
        {
            let (id, process) = (record.id, process.clone());
            tasks.spawn(async move {
                let pid = process.pid;
                match Keeper::end_leftover(pid, process.start_ticks).await {
                    Ok(false) => {}
                    Ok(true) => {
                        tracing::warn!(instance = %id, pid, "ended what a killed daemon left");
                    }
                    Err(error) => tracing::error!(
                        instance = %id, pid, %error, "what a killed daemon left can't be ended"
                    ),
                }
            });
        }
    }
    while tasks.join_next().await.is_some() {}
}

/// What came of it.
#[derive(Default)]
pub struct Restored {
    /// What ran when the earlier daemon ended, or should have. Not started as yet.
    pub to_be_started: Vec<Arc<Instance>>,
    /// What could not be had, a sentence each. It is kept in the database as it is.
    pub failures: Vec<String>,
}

impl Registry {
    /// Takes over what an earlier daemon left. To be called once, before anybody asks for
    /// anything. What is running of it is ended: a holder ends what its daemon leaves behind, but
    /// both may have been killed.
    pub async fn restore(self: &Arc<Self>, snapshot: Snapshot) -> Restored {
        let mut restored = Restored::default();
        end_leftovers(&snapshot).await;
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
            let after = after_end(&run);
            if after != run {
                self.store.note_run(order, after.clone());
            }
            match self.build(Plan { record, run: after }) {
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
        restored
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
