//! What follows its end, and the next beginning.

use std::time::Duration;

use orchestrator_proto::control::{Exit, RunResult};

use super::super::{Action, End, Notice, StartAnswer, State, Then};
use super::Machine;

impl Machine {
    /// It is to be started, and nothing of it is left.
    pub(super) fn begin(&mut self, todo: &mut Vec<Action>) -> State {
        self.ready_since = None;
        self.early_ready = false;
        match &self.blocked {
            Some(on) => {
                todo.push(Action::Emit(Notice::Waiting { on: on.clone() }));
                State::Waiting { on: on.clone() }
            }
            None => {
                todo.push(Action::Spawn);
                State::Executing
            }
        }
    }

    /// Notes the end of the main process.
    pub(super) fn exited(&mut self, exit: Exit, requested: bool, todo: &mut Vec<Action>) {
        self.last_exit = Some(exit);
        todo.push(Action::Emit(Notice::Exited { exit, requested }));
    }

    /// Nothing of the instance is left.
    pub(super) fn finish(&mut self, now: Duration, then: Then, todo: &mut Vec<Action>) -> State {
        todo.push(Action::Emit(Notice::Stopped));
        todo.push(Action::AnswerStop { changed: true });
        if !matches!(then, Then::Judge(_)) {
            self.end_run(RunResult::Stopped, todo);
        }
        match then {
            Then::Rest => State::Stopped,
            Then::Start if self.schedule().is_some() => self.begin_run(todo),
            Then::Start => self.begin(todo),
            Then::Schedule => State::Scheduled,
            Then::Judge(end) => self.judge(now, end, todo),
        }
    }

    /// It has ended, and nobody had asked for that.
    pub(super) fn judge(&mut self, now: Duration, end: End, todo: &mut Vec<Action>) -> State {
        let rules = &self.rules.restart;
        if let Some(since) = self.ready_since.take()
            && now.saturating_sub(since) >= rules.reset_after.duration()
        {
            self.backoff.was_well();
        }
        let (reason, exit, is_success) = match end {
            End::RequirementLost(reason) => return self.failed(reason, None, todo),
            End::Failed(reason) => (reason, None, false),
            End::Exited(exit) => (exit.to_string(), Some(exit), rules.is_success(exit)),
        };
        self.judged = exit;
        if !rules.is_after(is_success) || self.gives_way() {
            return match exit.filter(|_| is_success) {
                Some(exit) => {
                    // Whoever waits for it to be ready.
                    let error = format!("it ended with {exit} before it was ready");
                    todo.push(Action::AnswerStart(StartAnswer::Failed { error }));
                    self.completed(exit, todo)
                }
                None => self.failed(reason, exit, todo),
            };
        }
        let Some(delay) = self.backoff.next(&self.rules.restart, now) else {
            let rules = &self.rules.restart;
            let (burst, within) = (rules.burst, rules.burst_within);
            let reason =
                format!("{reason}; it was started again {burst} times within {within} already");
            return self.failed(reason, exit, todo);
        };
        let attempt = self.backoff.attempts();
        let error = format!("{reason}; it will be started again");
        todo.push(Action::AnswerStart(StartAnswer::Failed { error }));
        todo.push(Action::Emit(Notice::BackOff { reason: reason.clone(), delay, attempt }));
        State::BackOff { until: now.saturating_add(delay), reason, attempt }
    }

    /// It has run to its end.
    pub(super) fn completed(&mut self, exit: Exit, todo: &mut Vec<Action>) -> State {
        if self.schedule().is_none() {
            return State::Completed { exit };
        }
        self.end_run(RunResult::Completed { exit }, todo);
        self.after_run(todo)
    }

    /// It is not started again by itself, but for the next run of a schedule.
    pub(super) fn failed(
        &mut self,
        reason: String,
        exit: Option<Exit>,
        todo: &mut Vec<Action>,
    ) -> State {
        let error = reason.clone();
        todo.push(Action::AnswerStart(StartAnswer::Failed { error }));
        todo.push(Action::Emit(Notice::Failed { reason: reason.clone() }));
        if self.schedule().is_none() {
            return State::Failed { reason, exit };
        }
        self.end_run(RunResult::Failed { reason, exit }, todo);
        self.after_run(todo)
    }
}
