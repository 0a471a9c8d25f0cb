//! The instances and links of an earlier daemon.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use orchestrator_proto::control::{Desired, EventKind, Exit, RestartPolicy};
use orchestrator_proto::{InstanceId, LinkId};

use super::add::Plan;
use super::left::{Found, Survivors, now_ms, running, take_lanes};
use super::run::{after_end, found, this_boot, was_running};
use super::{Instance, Registry};
use crate::health;
use crate::listen;
use crate::process::{FIRST_COMMAND, FIRST_LISTENER, Left, Part, Process, Spawned, Stray, View};
use crate::store::{InstanceRecord, NewEvent, ProcessRecord, Rest, RunRecord, Snapshot};
use crate::supervise::SIGKILL;

/// Of so many processes of an instance that have ended, the last ones, the output is looked for
/// once more: a daemon that is killed within moments of their ends may not have passed on their
/// pipes. Fewer than a log reads at once.
const LAST_OUTPUTS: usize = 16;

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
    pub async fn restore(self: &Arc<Self>, mut snapshot: Snapshot, mut left: Left) -> Restored {
        // A holder of before has files of ours, if there are instances; and knows their processes.
        let is_new = left.survivors.is_empty() && left.files.is_empty();
        let strays = if is_new { self.kernel.strays() } else { Vec::new() };
        let (commands, strays): (Vec<_>, Vec<_>) =
            strays.into_iter().partition(|stray| stray.run >= FIRST_COMMAND);
        self.end_commands(&commands, &snapshot.ids);
        let runs = left.survivors.iter().map(|survivor| survivor.spawned.run);
        let runs = runs.filter(|run| *run < FIRST_COMMAND);
        let noted = snapshot.instances.iter().filter_map(|(_, run)| run.start_noted);
        self.kernel.number_beyond(runs.chain(noted).max().unwrap_or(0));
        let mut survivors = Survivors::new(left.survivors);
        let lanes = take_lanes(&mut left.files);
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) =
            left.files.into_iter().collect();
        let (mut restored, mut surplus) = (Restored::default(), Vec::new());
        self.last_order.store(snapshot.last_order, Ordering::Relaxed);
        for unreadable in snapshot.unreadable {
            restored.failures.push(format!("the database can't be read as to {unreadable}"));
        }
        // An instance is a replica if there is its set.
        for record in snapshot.sets {
            self.enter_set(record);
        }
        for (record, noted) in snapshot.instances {
            let (id, order) = (record.id, record.order);
            if let Some(name) = &record.spec.name
                && self.read().by_name.contains_key(name)
            {
                let failure = format!("instance {id} has the name {name}, which is taken");
                restored.failures.push(failure);
                continue;
            }
            let types = snapshot.types.remove(&order).unwrap_or_default();
            let Found { mut told, untold, last } = survivors.take(id, &noted);
            let (mut run, mut events) = (noted.clone(), Vec::new());
            for mut spawned in untold {
                events.extend(passed_away(&record, &mut run, &mut spawned).await);
                told.push(spawned);
            }
            let start = run.is_to_be_started();
            let survivor = last.map(|spawned| {
                let view = running(&run, &spawned);
                (spawned, view)
            });
            let survivor = survivor.or_else(|| self.orphan(id, &run, &strays));
            let start = start && survivor.is_none();
            // What is found may have been executed after that.
            let pid = survivor.as_ref().map(|(spawned, _)| spawned.process.pid());
            let known = run.process.as_ref().map(|process| process.pid);
            let rest = if survivor.is_none() { self.rest(id, &run) } else { None };
            if was_running(&run) && pid != known {
                let [exited, stopped] = end(&record, (Exit::Unknown, now_ms()), run.desired);
                events.push(exited);
                // Its keeper tells when nothing is left.
                events.extend(Some(stopped).filter(|_| rest.is_none()));
            }
            let after = match (&survivor, &rest) {
                // Noted now: it may have been found by its marks, and the holder is a new one, so
                // that the next daemon would not look for it.
                (Some((_, view)), _) if pid != known => found(&run, view),
                (Some(_), _) => run,
                // To be found by that, if this daemon and the holder are killed before all is gone.
                (None, Some(_)) => {
                    RunRecord { process: run.process.clone(), ..after_end(&run, now_ms()) }
                }
                (None, None) => after_end(&run, now_ms()),
            };
            let changed = (after != noted).then(|| (order, after.clone()));
            self.events.record_all(changed, events);
            let old = told.len().saturating_sub(LAST_OUTPUTS);
            let mut outputs = Vec::new();
            for (spawned, at) in told.into_iter().zip(0..) {
                // The holder can forget them: all of it is on its way to be stored.
                spawned.process.end_is_noted();
                let last = spawned.output.filter(|_| at >= old);
                outputs.extend(last.map(|pipes| (spawned.run, pipes)));
            }
            let plan = Plan { run: after, types, survivor, rest, outputs, ..Plan::new(record) };
            match self.build(plan) {
                Ok(instance) => {
                    let instance = self.enter(instance);
                    if self.is_surplus(&instance) {
                        surplus.push(instance);
                    } else if start {
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
        for record in snapshot.set_links {
            self.enter_set_link(record);
        }
        self.router.set_last_id(LinkId(snapshot.last_link));
        survivors.kill_the_rest().await;
        self.kernel.tidy();
        self.forget_the_rest(&snapshot.ids);
        self.lanes.take_up(lanes, &self.router);
        self.porter.begin();
        self.finish_scaling(surplus);
        restored
    }

    /// Closes files that belong to no instance that there is: its removal was the last that an
    /// earlier daemon did. Those of instances that can't be had stay with the holder.
    fn forget_the_rest(&self, known: &HashSet<String>) {
        let left = std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner));
        let mut sockets: HashMap<InstanceId, Vec<_>> = HashMap::new();
        for (name, file) in left {
            let id = InstanceId::from_bytes(name.key);
            if !known.contains(&id.to_string()) {
                self.kernel.forget(name);
                if let Some(place) = name.tag.checked_sub(FIRST_LISTENER) {
                    sockets.entry(id).or_default().push((place, file));
                }
            }
        }
        sockets.into_values().for_each(listen::remove_left);
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
            match self.kernel.adopt(id, Part::Main, pid, start_ticks) {
                Ok(spawned) => {
                    let spawned = spawned?;
                    let view = running(run, &spawned);
                    Some((spawned, view))
                }
                Err(error) => {
                    tracing::error!(instance = %id, pid, %error, "what runs of it can't be kept");
                    None
                }
            }
        })
    }

    /// What the noted main process of an instance has left behind, if that has ended although the
    /// holder has been killed too.
    fn rest(&self, id: InstanceId, run: &RunRecord) -> Option<Arc<dyn Process>> {
        let noted = run.process.as_ref().filter(|it| Some(&it.boot_id) == this_boot().as_ref())?;
        let pid = noted.pid;
        let found = self.kernel.rest(id, pid, noted.start_ticks).unwrap_or_else(|error| {
            tracing::error!(instance = %id, pid, %error, "what is left of it can't be looked for");
            None
        });
        found.inspect(|_| tracing::warn!(instance = %id, pid, "ending what it has left behind"))
    }

    /// Kills commands of our instances whose holder was killed: who waited for their end has gone
    /// too. There may be other daemons on this machine, whose commands these are not.
    fn end_commands(&self, commands: &[Stray], known: &HashSet<String>) {
        let ours = commands.iter().filter(|it| known.contains(&it.instance.to_string()));
        for Stray { instance, pid, start_ticks, .. } in ours {
            match self.kernel.adopt(*instance, Part::Command, *pid, *start_ticks) {
                Ok(Some(spawned)) => {
                    tokio::spawn(health::end(spawned.process, spawned.exited));
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(%instance, pid, %error, "a command of it can't be ended");
                }
            }
        }
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

/// Notes the end of a process, other than the last, of which no daemon has taken note; the answer
/// is what tells of it.
async fn passed_away(
    record: &InstanceRecord,
    run: &mut RunRecord,
    spawned: &mut Spawned,
) -> Vec<NewEvent> {
    let pid = spawned.process.pid();
    if !spawned.exited.has_ended() {
        // There are never two processes of one instance.
        tracing::error!(instance = %record.id, pid, "killed what should have ended before");
        let _ = spawned.process.signal_tree(SIGKILL).await;
        return Vec::new();
    }
    let ended = (&mut spawned.exited).await;
    let (exit, at_ms) = ended.map_or((Exit::Unknown, now_ms()), |it| (it.exit, it.time_ms));
    let mut events = Vec::new();
    if run.start_noted < Some(spawned.run) {
        run.starts += 1;
        events.push(event(record, EventKind::Adopted { pid }, at_ms));
    }
    // Another one was executed in its place. Unless it is started again by itself, that was asked
    // for.
    let is_asked_for = record.spec.supervision.restart.policy == RestartPolicy::Never;
    let desired = if is_asked_for { Desired::Stopped } else { run.desired };
    events.extend(end(record, (exit, at_ms), desired));
    let noted = run.process.take().filter(|process| process.pid == pid);
    let started_ms = noted.map(|process| process.started_ms);
    run.note_exit(exit, at_ms, started_ms, desired == Desired::Stopped);
    run.start_noted = run.start_noted.max(Some(spawned.run));
    run.end_noted = Some(spawned.run);
    run.active = false;
    run.rest = Rest::Stopped { last_exit: Some(exit), at_ms: Some(at_ms) };
    events
}

fn event(record: &InstanceRecord, kind: EventKind, time_ms: u64) -> NewEvent {
    NewEvent { time_ms, instance: Some(record.id), name: record.spec.name.clone(), kind }
}

/// What tells of the end of a process that no daemon has seen.
fn end(record: &InstanceRecord, (exit, at_ms): (Exit, u64), desired: Desired) -> [NewEvent; 2] {
    let requested = desired == Desired::Stopped;
    [EventKind::Exited { exit, requested }, EventKind::Stopped]
        .map(|kind| event(record, kind, at_ms))
}
