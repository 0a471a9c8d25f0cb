//! The runs of a schedule: when they are due, and what has become of them.

use orchestrator_proto::control::{Desired, EventKind, Exit, LastRun, Observed, RunResult};

use super::Runs;
use super::task::{Task, now_ms};
use crate::supervise::{Action, Event, Notice};

impl Task {
    /// What the run of a schedule has come to that was under way under an earlier daemon, and of
    /// which nothing is found. To be called once, before [`run`](Self::run).
    pub(super) fn interrupted(&self) {
        self.view.send_modify(|view| {
            let Some(began_ms) = view.runs.began_ms else {
                return;
            };
            view.runs.began_ms = None;
            let (exit, ended_ms) = match view.observed {
                Observed::Stopped { last_exit: Some(exit), at_ms } => (exit, at_ms),
                _ => (Exit::Unknown, None),
            };
            let result = if self.machine.rules().restart.is_success(exit) {
                RunResult::Completed { exit }
            } else {
                RunResult::Failed { reason: exit.to_string(), exit: Some(exit) }
            };
            let ended_ms = ended_ms.filter(|at| *at >= began_ms).unwrap_or_else(now_ms);
            view.runs.last = Some(LastRun { began_ms, ended_ms, result });
        });
    }

    /// The time of a schedule has come, or the clock was set.
    pub(super) async fn look(&mut self) {
        let look = self.due.look(now_ms());
        let mut events = Vec::new();
        if let Some((due_ms, reason)) = look.skipped {
            events.push((EventKind::RunSkipped { due_ms, reason }, now_ms()));
        }
        match look.due_ms {
            Some(at_ms) => {
                if !events.is_empty() {
                    self.show(events, false);
                }
                self.feed(Event::Due { at_ms }).await;
            }
            None => self.show(events, false),
        }
    }

    /// Notes which runs begin and end, and which are left out. Of those of one run only the first is
    /// told. The answer is whether there are any.
    pub(super) fn note_runs(&mut self, actions: &mut Vec<Action>) -> bool {
        let mut is_new = false;
        actions.retain(|action| {
            let Action::Emit(
                notice @ (Notice::RunBegan | Notice::RunEnded(_) | Notice::RunSkipped { .. }),
            ) = action
            else {
                return true;
            };
            is_new = true;
            // What is executed now is the first attempt of a run, whatever came before.
            self.by_itself &= !matches!(notice, Notice::RunBegan);
            self.view.send_modify(|view| note(&mut view.runs, notice, now_ms()));
            let is_skipped = matches!(notice, Notice::RunSkipped { .. });
            let was_told = std::mem::replace(&mut self.skip_is_told, is_skipped);
            is_skipped && !was_told
        });
        is_new
    }

    /// Waits for the times of its schedule, as long as it has one and should run.
    pub(super) fn follow_schedule(&mut self) {
        let schedule = self.machine.schedule();
        let is_started = self.machine.desired() == Desired::Running;
        self.due.follow(schedule.filter(|_| is_started), self.view.borrow().runs.seen_ms);
    }
}

fn note(runs: &mut Runs, notice: &Notice, now_ms: u64) {
    match notice {
        Notice::RunBegan => runs.began_ms = Some(now_ms),
        Notice::RunEnded(result) => {
            let began_ms = runs.began_ms.take().unwrap_or(now_ms);
            runs.last = Some(LastRun { began_ms, ended_ms: now_ms, result: result.clone() });
        }
        Notice::RunSkipped { .. } => runs.skipped = runs.skipped.saturating_add(1),
        _ => {}
    }
}
