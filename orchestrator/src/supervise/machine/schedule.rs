//! Runs of a schedule, and how long a run may take.

use std::time::Duration;

use orchestrator_proto::Millis;
use orchestrator_proto::control::{Kind, Overlap, RunResult, Schedule, Supervision};

use super::super::{Action, Cause, End, How, Notice, StartAnswer, State, Then};
use super::Machine;

const STOPPED: &str = "it is stopped, so it can't be run; start it first";

/// Whether a run follows that was asked for, or is left out.
enum Wanted {
    /// Somebody asked for it.
    Now,
    /// It was due then, milliseconds since 1970 (UTC).
    Due(u64),
}

impl Machine {
    /// Its schedule, if it has one.
    #[must_use]
    pub fn schedule(&self) -> Option<&Schedule> {
        self.rules.kind.schedule()
    }

    fn overlap(&self) -> Overlap {
        self.schedule().map(|schedule| schedule.overlap).unwrap_or_default()
    }

    /// A start or a restart of a schedule. What is under way goes on, unless it is to be restarted.
    pub(super) fn schedule_requested(
        &mut self,
        now: Duration,
        state: State,
        anew: bool,
        todo: &mut Vec<Action>,
    ) -> State {
        use State as S;
        let state = match state {
            S::Starting { pid, .. } | S::Ready { pid, .. } | S::Unhealthy { pid, .. } if anew => {
                self.backoff.reset();
                return self.stop(now, pid, How::Ask, Cause::Request, Then::Start, todo);
            }
            S::Stopped | S::Completed { .. } | S::Failed { .. } => Ok(S::Scheduled),
            S::Cancelling { how, then: Then::Rest } => {
                Ok(S::Cancelling { how, then: Then::Schedule })
            }
            S::Stopping { main, phase, cause, then: Then::Rest } => {
                Ok(S::Stopping { main, phase, cause, then: Then::Schedule })
            }
            state => Err(state),
        };
        let changed = state.is_ok();
        todo.push(Action::AnswerThisStart(StartAnswer::Scheduled { changed }));
        state.unwrap_or_else(|same| same)
    }

    /// Somebody wants it to run now.
    pub(super) fn run_requested(
        &mut self,
        now: Duration,
        state: State,
        todo: &mut Vec<Action>,
    ) -> State {
        use State as S;
        match state {
            S::Stopped
            | S::Completed { .. }
            | S::Failed { .. }
            | S::Cancelling { then: Then::Rest, .. }
            | S::Stopping { then: Then::Rest, .. } => {
                let error = STOPPED.to_owned();
                todo.push(Action::AnswerThisStart(StartAnswer::Failed { error }));
                state
            }
            _ if self.schedule().is_none() => self.start_requested(now, state, false, todo),
            S::BackOff { .. } => {
                self.backoff.reset();
                self.begin(todo)
            }
            S::Ready { pid, .. } | S::Unhealthy { pid, .. } if self.overlap() == Overlap::Skip => {
                todo.push(Action::AnswerThisStart(StartAnswer::Running { pid, changed: false }));
                state
            }
            // It is about to run.
            S::Waiting { .. }
            | S::Executing
            | S::Starting { .. }
            | S::Cancelling { then: Then::Start, .. }
            | S::Stopping { then: Then::Start, .. } => state,
            S::Stopping { then: Then::Judge(_), .. }
            | S::Cancelling { then: Then::Judge(_), .. } => {
                self.queue(&Wanted::Now, todo);
                state
            }
            state => self.run(now, state, &Wanted::Now, todo),
        }
    }

    /// It is time.
    pub(super) fn due(
        &mut self,
        now: Duration,
        state: State,
        at_ms: u64,
        todo: &mut Vec<Action>,
    ) -> State {
        use State as S;
        match state {
            S::Stopped
            | S::Completed { .. }
            | S::Failed { .. }
            | S::Cancelling { then: Then::Rest, .. }
            | S::Stopping { then: Then::Rest, .. } => state,
            _ if self.schedule().is_none() => state,
            S::Scheduled => self.run(now, state, &Wanted::Due(at_ms), todo),
            state => match self.overlap() {
                Overlap::Skip => {
                    self.skip(at_ms, "the run before it is not over", todo);
                    state
                }
                Overlap::Queue => {
                    self.queue(&Wanted::Due(at_ms), todo);
                    state
                }
                Overlap::Replace => self.run(now, state, &Wanted::Due(at_ms), todo),
            },
        }
    }

    /// A run begins now, or follows what has to come before.
    fn run(
        &mut self,
        now: Duration,
        state: State,
        wanted: &Wanted,
        todo: &mut Vec<Action>,
    ) -> State {
        use State as S;
        match state {
            S::Scheduled => self.begin_run(todo),
            S::Ready { .. } | S::Unhealthy { .. } if self.overlap() == Overlap::Queue => {
                self.queue(wanted, todo);
                state
            }
            S::Starting { pid, .. } | S::Ready { pid, .. } | S::Unhealthy { pid, .. } => {
                self.stop(now, pid, How::Ask, Cause::Request, Then::Start, todo)
            }
            S::Executing => S::Cancelling { how: How::Ask, then: Then::Start },
            S::BackOff { reason, .. } => {
                self.end_run(RunResult::Failed { reason, exit: self.judged }, todo);
                self.begin_run(todo)
            }
            S::Cancelling { how, then: Then::Schedule } => S::Cancelling { how, then: Then::Start },
            S::Stopping { main, phase, cause, then: Then::Schedule } => {
                S::Stopping { main, phase, cause, then: Then::Start }
            }
            // How it has ended counts, and another run follows.
            S::Cancelling { then: Then::Judge(_), .. }
            | S::Stopping { then: Then::Judge(_), .. } => {
                self.queue(wanted, todo);
                state
            }
            // One is about to begin.
            state => state,
        }
    }

    fn queue(&mut self, wanted: &Wanted, todo: &mut Vec<Action>) {
        match wanted {
            Wanted::Now => todo.push(Action::AnswerThisStart(StartAnswer::Queued)),
            Wanted::Due(at_ms) if self.queued && self.overlap() == Overlap::Queue => {
                self.skip(*at_ms, "another one waits for the run before it already", todo);
            }
            Wanted::Due(_) => {}
        }
        self.queued = true;
    }

    fn skip(&self, at_ms: u64, reason: &str, todo: &mut Vec<Action>) {
        let reason = reason.to_owned();
        todo.push(Action::Emit(Notice::RunSkipped { at_ms, reason }));
    }

    /// Another run begins; nothing of the one before is left.
    pub(super) fn begin_run(&mut self, todo: &mut Vec<Action>) -> State {
        self.backoff.reset();
        self.queued = false;
        self.in_run = true;
        todo.push(Action::Emit(Notice::RunBegan));
        self.begin(todo)
    }

    /// The run that is under way is over, if there is one.
    pub(super) fn end_run(&mut self, result: RunResult, todo: &mut Vec<Action>) {
        if std::mem::take(&mut self.in_run) {
            todo.push(Action::Emit(Notice::RunEnded(result)));
        }
    }

    /// What comes after a run that has come to its end.
    pub(super) fn after_run(&mut self, todo: &mut Vec<Action>) -> State {
        if self.queued { self.begin_run(todo) } else { State::Scheduled }
    }

    /// Whether a run that waits does not wait for further attempts of this one.
    pub(super) fn gives_way(&self) -> bool {
        self.queued && self.overlap() == Overlap::Replace
    }

    /// It has got a schedule, or has it no more.
    pub(super) fn kind_changed(
        &mut self,
        before: &Supervision,
        state: State,
        todo: &mut Vec<Action>,
    ) -> State {
        use State as S;
        match (before.kind.schedule().is_some(), self.schedule().is_some()) {
            (true, false) => {
                self.queued = false;
                self.end_run(RunResult::Stopped, todo);
                match state {
                    S::Scheduled => self.begin(todo),
                    S::Cancelling { how, then: Then::Schedule } => {
                        S::Cancelling { how, then: Then::Start }
                    }
                    S::Stopping { main, phase, cause, then: Then::Schedule } => {
                        S::Stopping { main, phase, cause, then: Then::Start }
                    }
                    state => state,
                }
            }
            (false, true) => match state {
                S::Completed { .. } | S::Failed { .. } => S::Scheduled,
                S::Stopped => S::Stopped,
                state => {
                    self.in_run = true;
                    todo.push(Action::Emit(Notice::RunBegan));
                    state
                }
            },
            _ => state,
        }
    }

    /// When a main process that is executed now has to have ended.
    pub(super) fn run_by(&self, now: Duration) -> Option<Duration> {
        let time = self.rules.run_timeout;
        let ends = self.rules.kind != Kind::Service && time != Millis::ZERO;
        ends.then(|| now.saturating_add(time.duration()))
    }

    pub(super) fn took_too_long(&self, now: Duration, pid: u32, todo: &mut Vec<Action>) -> State {
        let reason = format!("it did not end within {}", self.rules.run_timeout);
        let then = Then::Judge(End::Failed(reason));
        self.stop(now, pid, How::Ask, Cause::Failing, then, todo)
    }
}
