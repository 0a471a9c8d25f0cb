//! What is kept of an instance's run: from what its keeper shows and tells.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use orchestrator_proto::control::{Desired, EventKind, Exit, Observed};
use orchestrator_proto::rare::Rare;

use crate::process::{Runs, View};
use crate::store::{ProcessRecord, Rest, RunRecord, ScheduleRecord};
use crate::supervise::Rules;

/// Finds out what is to be stored of one instance's runs.
pub(super) struct RunNotes {
    /// Set when the daemon ends. What ends by itself then was most likely asked to by who asked
    /// the daemon, such as an init that signals everybody at once.
    ending: Arc<AtomicBool>,
    /// As it is now.
    rules: Mutex<Rules>,
    /// Only the keeper's task comes here, so nobody waits for this.
    run: Mutex<RunRecord>,
    /// When the main process was started that runs or ended last, milliseconds since 1970 (UTC).
    /// Known of each, also of one that had ended before it could be identified.
    started_ms: Mutex<Option<u64>>,
}

impl RunNotes {
    pub(super) fn new(ending: Arc<AtomicBool>, rules: impl Into<Rules>, run: RunRecord) -> Self {
        let started_ms = run.process.as_ref().map(|process| process.started_ms);
        Self {
            ending,
            rules: Mutex::new(rules.into()),
            run: Mutex::new(run),
            started_ms: Mutex::new(started_ms),
        }
    }

    /// From now on its end is judged by this.
    pub(super) fn set_rules(&self, rules: Rules) {
        *self.rules.lock().unwrap_or_else(PoisonError::into_inner) = rules;
    }

    /// What is noted.
    pub(super) fn record(&self) -> RunRecord {
        self.run.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A process was executed, or taken over, that the holder has under this number. What happens
    /// to it comes next.
    pub(super) fn executed(&self, number: u64) {
        self.run.lock().unwrap_or_else(PoisonError::into_inner).start_noted = Some(number);
    }

    /// It is shown like this now, if that has changed, and this happened to it. The answer is what
    /// is to be stored, if that is something else than before.
    pub(super) fn happened(
        &self,
        view: Option<&View>,
        events: &[(EventKind, u64)],
    ) -> Option<RunRecord> {
        let mut run = self.run.lock().unwrap_or_else(PoisonError::into_inner);
        let before = run.clone();
        let mut started_ms = self.started_ms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(view) = view {
            match view.observed {
                Observed::Starting { pid: None, .. } => *started_ms = None,
                Observed::Starting { since_ms, .. }
                | Observed::Ready { since_ms, .. }
                | Observed::Unhealthy { since_ms, .. } => *started_ms = Some(since_ms),
                _ => {}
            }
            let before = (run.active, run.rest.clone());
            shown(&mut run, view, identify);
            self.interrupt(&mut run, before);
        }
        for (kind, time_ms) in events {
            if let EventKind::Exited { exit, requested } = *kind {
                run.end_noted = run.start_noted;
                run.note_exit(exit, *time_ms, *started_ms, requested);
                // Else nothing of it is left, and what that means has been shown.
                if run.process.is_some() {
                    let before = (run.active, run.rest.clone());
                    run.active = false;
                    run.rest = self.ended(exit, requested, *time_ms);
                    self.interrupt(&mut run, before);
                }
            }
        }
        (*run != before).then(|| run.clone())
    }

    /// What the end of its main process means, while something else of it is left.
    fn ended(&self, exit: Exit, requested: bool, at_ms: u64) -> Rest {
        let rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let is_success = rules.restart.is_success(exit);
        if requested || rules.restart.is_after(is_success) || rules.kind.schedule().is_some() {
            // It will be started, if it is desired.
            Rest::Stopped { last_exit: Some(exit), at_ms: Some(at_ms) }
        } else if is_success {
            Rest::Completed { exit, at_ms }
        } else {
            Rest::Failed { reason: exit.to_string(), exit: Some(exit), at_ms }
        }
    }

    /// What has just ended although it should run is stopped, if the daemon ends.
    fn interrupt(&self, run: &mut RunRecord, before: (bool, Rest)) {
        if let Rest::Completed { exit, at_ms } | Rest::Failed { exit: Some(exit), at_ms, .. } =
            run.rest
            && before != (run.active, run.rest.clone())
            && self.ending.load(Ordering::Acquire)
        {
            run.rest = Rest::Stopped { last_exit: Some(exit), at_ms: Some(at_ms) };
        }
    }
}

/// How an instance is to be shown that nobody runs any more.
pub(super) fn view_of(run: &RunRecord) -> View {
    View {
        desired: run.desired,
        observed: match run.rest.clone() {
            Rest::Stopped { last_exit, at_ms } => Observed::Stopped { last_exit, at_ms },
            Rest::Completed { exit, at_ms } => Observed::Completed { exit, at_ms },
            Rest::Failed { reason, exit, at_ms } => Observed::Failed { reason, exit, at_ms },
        },
        priority: run.priority,
        starts: run.starts,
        restarts: run.restarts,
        runs: Rare::from(Runs {
            seen_ms: run.schedule.seen_ms,
            began_ms: run.schedule.began_ms,
            next_ms: None,
            last: run.schedule.last.clone(),
            skipped: run.schedule.skipped,
        }),
        ..View::never_started()
    }
}

/// Whether a process was running when the daemon that kept it ended. If nothing is found of that,
/// it has ended, and nobody has heard how.
pub(super) const fn was_running(run: &RunRecord) -> bool {
    run.active && run.process.is_some()
}

/// Whether the end of this process was told, and something that it left behind was being stopped.
pub(super) fn end_was_told(run: &RunRecord, pid: u32) -> bool {
    !run.active && run.process.as_ref().is_some_and(|process| process.pid == pid)
}

/// How it is when this is found of it, running, which was not noted.
pub(super) fn found(run: &RunRecord, view: &View) -> RunRecord {
    let mut run = run.clone();
    shown(&mut run, view, identify);
    run
}

/// How it is after the end of the daemon that kept it: nothing of it runs. This is found out at
/// `now_ms`, milliseconds since 1970 (UTC).
pub(super) fn after_end(run: &RunRecord, now_ms: u64) -> RunRecord {
    let mut run = run.clone();
    if was_running(&run) {
        run.end_noted = run.start_noted;
        let started_ms = run.process.as_ref().map(|process| process.started_ms);
        run.note_exit(Exit::Unknown, now_ms, started_ms, run.desired == Desired::Stopped);
        run.rest = Rest::Stopped { last_exit: Some(Exit::Unknown), at_ms: Some(now_ms) };
    } else if run.is_to_be_started() {
        // Until it is started it is shown as stopped, not as what it was before its last start.
        let (last_exit, at_ms) = last_end(&run.rest);
        run.rest = Rest::Stopped { last_exit, at_ms };
    }
    run.active = false;
    run.process = None;
    run
}

/// Notes what `view` shows.
fn shown(run: &mut RunRecord, view: &View, identify: impl FnOnce(u32) -> Option<Identity>) {
    run.desired = view.desired;
    run.priority = view.priority;
    run.starts = view.starts;
    run.restarts = view.restarts;
    run.schedule = Rare::from(ScheduleRecord {
        seen_ms: view.runs.seen_ms,
        began_ms: view.runs.began_ms,
        last: view.runs.last.clone(),
        skipped: view.runs.skipped,
    });
    match &view.observed {
        Observed::Starting { pid: None, .. } => {
            run.active = true;
            run.process = None;
        }
        Observed::Starting { pid: Some(pid), since_ms }
        | Observed::Ready { pid, since_ms }
        | Observed::Unhealthy { pid, since_ms, .. } => {
            run.active = true;
            if run.process.as_ref().is_none_or(|process| process.run != view.starts) {
                run.process = identify(*pid).map(|identity| ProcessRecord {
                    pid: *pid,
                    start_ticks: identity.start_ticks,
                    boot_id: identity.boot_id,
                    started_ms: *since_ms,
                    run: view.starts,
                    ready: false,
                });
            }
            if let Some(process) = &mut run.process {
                process.ready = !matches!(view.observed, Observed::Starting { .. });
            }
        }
        // Some of its processes are left. Whether it is active: as before, or as its end says.
        Observed::Stopping { .. } => {}
        Observed::Stopped { last_exit, at_ms } => {
            // A main process that ended by itself has done so, even if the daemon ends while
            // what it left behind is being stopped.
            let ended_by_itself = !run.active && !matches!(run.rest, Rest::Stopped { .. });
            if !(ended_by_itself && view.desired == Desired::Running) {
                run.rest = Rest::Stopped { last_exit: *last_exit, at_ms: *at_ms };
            }
            run.active = false;
            run.process = None;
        }
        // It is at rest, until it is started by itself, or by the next daemon.
        Observed::Waiting { .. } | Observed::Scheduled { .. } => {
            let (last_exit, at_ms) = last_end(&run.rest);
            rest(run, Rest::Stopped { last_exit, at_ms });
        }
        Observed::BackOff { last_exit, .. } => {
            let (_, at_ms) = last_end(&run.rest);
            rest(run, Rest::Stopped { last_exit: *last_exit, at_ms });
        }
        Observed::Completed { exit, at_ms } => {
            rest(run, Rest::Completed { exit: *exit, at_ms: *at_ms });
        }
        Observed::Failed { reason, exit, at_ms } => {
            rest(run, Rest::Failed { reason: reason.clone(), exit: *exit, at_ms: *at_ms });
        }
    }
}

/// Nothing of it is left.
fn rest(run: &mut RunRecord, rest: Rest) {
    run.rest = rest;
    run.active = false;
    run.process = None;
}

/// How its main process last ended, and when.
fn last_end(rest: &Rest) -> (Option<Exit>, Option<u64>) {
    match *rest {
        Rest::Stopped { last_exit, at_ms } => (last_exit, at_ms),
        Rest::Completed { exit, at_ms } => (Some(exit), Some(at_ms)),
        Rest::Failed { exit, at_ms, .. } => (exit, exit.map(|_| at_ms)),
    }
}

/// What names a process for ever, besides its number.
struct Identity {
    start_ticks: u64,
    boot_id: Arc<str>,
}

/// The id of this boot, if `/proc` says it.
pub(super) fn this_boot() -> Option<Arc<str>> {
    static BOOT: LazyLock<Option<Arc<str>>> = LazyLock::new(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(text.trim().into())
    });
    BOOT.clone()
}

/// None if it is gone already, or `/proc` does not say.
fn identify(pid: u32) -> Option<Identity> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, parentheses and newlines too; the last one ends it. The start
    // is field 22, and the name is the second; see proc(5).
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let group: u32 = fields.nth(2)?.parse().ok()?;
    let start_ticks = fields.nth(16)?.parse().ok()?;
    // Each main process leads a group of its own; another that got its number need not.
    (group == pid).then_some(())?;
    Some(Identity { start_ticks, boot_id: this_boot()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrator_proto::control::{Priority, Supervision};
    use std::os::unix::process::CommandExt;

    const EXIT: Exit = Exit::Code(3);

    fn view(desired: Desired, observed: Observed) -> View {
        View { desired, observed, priority: Priority::Low, starts: 1, ..View::never_started() }
    }

    fn known(_: u32) -> Option<Identity> {
        Some(Identity { start_ticks: 77, boot_id: "boot".into() })
    }

    fn running() -> RunRecord {
        let mut run = RunRecord::default();
        let desired = Desired::Running;
        shown(&mut run, &view(desired, Observed::Starting { pid: None, since_ms: 5 }), known);
        shown(&mut run, &view(desired, Observed::Ready { pid: 5, since_ms: 6 }), known);
        run
    }

    #[test]
    fn what_runs_is_started_again_and_what_was_stopped_is_not() {
        let run = running();
        let process = run.process.clone().unwrap();
        assert_eq!((process.pid, process.start_ticks, process.run), (5, 77, 1));
        assert!(run.is_to_be_started());
        let stopping = Observed::Stopping { pid: Some(5), since_ms: 7 };
        let stopped = Observed::Stopped { last_exit: Some(EXIT), at_ms: Some(8) };
        for desired in [Desired::Running, Desired::Stopped] {
            let mut run = running();
            shown(&mut run, &view(desired, stopping.clone()), known);
            assert_eq!(run.process, Some(process.clone()));
            assert_eq!(run.is_to_be_started(), desired == Desired::Running);
            shown(&mut run, &view(desired, stopped.clone()), known);
            assert_eq!((run.active, &run.process), (false, &None));
            assert_eq!(run.is_to_be_started(), desired == Desired::Running);
            assert_eq!(view_of(&run).observed, stopped);
        }
    }

    #[test]
    fn what_ended_by_itself_is_not_started_again_even_if_it_left_something_behind() {
        let notes_exit = |run: &mut RunRecord| {
            run.active = false;
            run.rest = Rest::Failed { reason: EXIT.to_string(), exit: Some(EXIT), at_ms: 8 };
        };
        let desired = Desired::Running;
        let left = Observed::Stopping { pid: None, since_ms: 8 };
        let mut run = running();
        shown(&mut run, &view(desired, left), known);
        notes_exit(&mut run);
        // A power cut now.
        assert!(!run.is_to_be_started());
        assert!(run.process.is_some());
        // Or an end of the daemon.
        let stopped = Observed::Stopped { last_exit: Some(EXIT), at_ms: Some(8) };
        shown(&mut run, &view(desired, stopped), known);
        assert!(!run.is_to_be_started());
        assert_eq!(
            view_of(&run).observed,
            Observed::Failed { reason: EXIT.to_string(), exit: Some(EXIT), at_ms: 8 }
        );
        // Once it is started it is like any other.
        shown(&mut run, &view(desired, Observed::Starting { pid: None, since_ms: 5 }), known);
        assert!(run.is_to_be_started());
    }

    #[test]
    fn what_is_not_found_running_any_more_has_ended_and_nobody_knows_how() {
        let ended = Observed::Stopped { last_exit: Some(Exit::Unknown), at_ms: Some(10) };
        for desired in [Desired::Running, Desired::Stopped] {
            let mut run = running();
            shown(
                &mut run,
                &view(desired, Observed::Stopping { pid: Some(5), since_ms: 7 }),
                known,
            );
            assert!(was_running(&run));
            let after = after_end(&run, 10);
            assert!(!was_running(&after), "it is found out once");
            assert_eq!(after.is_to_be_started(), desired == Desired::Running);
            assert_eq!(view_of(&after).observed, ended);
        }
    }

    #[test]
    fn an_end_is_kept_from_the_moment_when_it_is_told() {
        for requested in [false, true] {
            let notes = RunNotes::new(Arc::default(), Supervision::default(), running());
            let event = (EventKind::Exited { exit: EXIT, requested }, 8);
            let run = notes.happened(None, std::slice::from_ref(&event)).unwrap();
            assert_eq!(notes.happened(None, &[event]), None, "nothing new");
            assert!(end_was_told(&run, 5) && !end_was_told(&run, 6) && !was_running(&run));
            let observed = if requested {
                Observed::Stopped { last_exit: Some(EXIT), at_ms: Some(8) }
            } else {
                Observed::Failed { reason: EXIT.to_string(), exit: Some(EXIT), at_ms: 8 }
            };
            assert_eq!(view_of(&run).observed, observed);
            assert_eq!(run.is_to_be_started(), requested, "as after a restart");
        }
    }

    #[test]
    fn what_could_not_be_executed_is_tried_again() {
        let mut run = running();
        let failed = Observed::Failed { reason: "no".into(), exit: None, at_ms: 9 };
        shown(&mut run, &view(Desired::Running, failed), known);
        assert!(run.is_to_be_started());
        let after = after_end(&run, 10);
        assert!(after.is_to_be_started());
        assert_eq!(view_of(&after).observed.word(), "stopped");
    }

    #[test]
    fn what_ends_by_itself_while_the_daemon_ends_is_started_again() {
        let ending = Arc::new(AtomicBool::new(false));
        let left = Observed::Stopping { pid: None, since_ms: 8 };
        let exited = Observed::Failed { reason: EXIT.to_string(), exit: Some(EXIT), at_ms: 8 };
        let stopped = Observed::Stopped { last_exit: Some(EXIT), at_ms: Some(8) };
        let event = EventKind::Exited { exit: EXIT, requested: false };
        for end in [false, true] {
            for views in [vec![exited.clone()], vec![left.clone(), stopped.clone()]] {
                let notes = RunNotes::new(ending.clone(), Supervision::default(), running());
                ending.store(end, Ordering::Release);
                let mut views = views.into_iter();
                let first = view(Desired::Running, views.next().unwrap());
                notes.happened(Some(&first), &[(event.clone(), 8)]);
                // If it exited before, the end of the daemon does not change that.
                ending.store(true, Ordering::Release);
                for observed in views.chain([stopped.clone()]) {
                    notes.happened(Some(&view(Desired::Running, observed)), &[]);
                }
                assert_eq!(notes.run.lock().unwrap().is_to_be_started(), end);
                ending.store(false, Ordering::Release);
            }
        }
    }

    #[test]
    fn a_process_is_identified_by_its_start() {
        let mut child =
            std::process::Command::new("/bin/sleep").arg("1000").process_group(0).spawn().unwrap();
        let first = identify(child.id()).unwrap();
        assert!(first.start_ticks > 0 && first.boot_id.len() == 36);
        assert_eq!(identify(child.id()).unwrap().start_ticks, first.start_ticks);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(identify(child.id()).is_none());
    }
}
