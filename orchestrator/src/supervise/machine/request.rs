//! What somebody asks for, and what others mean for it.

use std::time::Duration;

use orchestrator_proto::control::RunResult;

use super::super::{Action, Cause, Effect, End, How, Notice, Phase, StartAnswer, State, Then};
use super::Machine;

impl Machine {
    pub(super) fn start_requested(
        &mut self,
        now: Duration,
        state: State,
        anew: bool,
        todo: &mut Vec<Action>,
    ) -> State {
        use State as S;
        if self.schedule().is_some() {
            return self.schedule_requested(now, state, anew, todo);
        }
        match state {
            S::Stopped | S::Completed { .. } | S::Failed { .. } | S::BackOff { .. } => {
                self.backoff.reset();
                self.begin(todo)
            }
            S::Starting { pid, .. } | S::Ready { pid, .. } | S::Unhealthy { pid, .. } if anew => {
                self.backoff.reset();
                self.stop(now, pid, How::Ask, Cause::Request, Then::Start, todo)
            }
            S::Ready { pid, .. } | S::Unhealthy { pid, .. } => {
                todo.push(Action::AnswerStart(StartAnswer::Running { pid, changed: false }));
                state
            }
            S::Cancelling { how, .. } => S::Cancelling { how, then: Then::Start },
            S::Stopping { main, phase, cause, .. } => {
                S::Stopping { main, phase, cause, then: Then::Start }
            }
            S::Waiting { .. } | S::Executing | S::Starting { .. } => state,
            // Only of a schedule.
            S::Scheduled => self.begin(todo),
        }
    }

    pub(super) fn stop_requested(
        &mut self,
        now: Duration,
        state: State,
        how: How,
        todo: &mut Vec<Action>,
    ) -> State {
        use State as S;
        self.queued = false;
        match state {
            S::Stopped | S::Completed { .. } | S::Failed { .. } => {
                todo.push(Action::AnswerStop { changed: false });
                S::Stopped
            }
            S::Waiting { .. } | S::BackOff { .. } | S::Scheduled => {
                self.end_run(RunResult::Stopped, todo);
                todo.push(Action::AnswerStart(StartAnswer::Cancelled));
                todo.push(Action::Emit(Notice::Stopped));
                todo.push(Action::AnswerStop { changed: true });
                S::Stopped
            }
            S::Executing => {
                todo.push(Action::AnswerStart(StartAnswer::Cancelled));
                S::Cancelling { how, then: Then::Rest }
            }
            S::Cancelling { how: before, .. } => {
                todo.push(Action::AnswerStart(StartAnswer::Cancelled));
                let how = if before == How::Kill { before } else { how };
                S::Cancelling { how, then: Then::Rest }
            }
            S::Starting { pid, .. } => {
                todo.push(Action::AnswerStart(StartAnswer::Cancelled));
                self.stop(now, pid, how, Cause::Request, Then::Rest, todo)
            }
            S::Ready { pid, .. } | S::Unhealthy { pid, .. } => {
                self.stop(now, pid, how, Cause::Request, Then::Rest, todo)
            }
            S::Stopping { main, phase, .. } => {
                todo.push(Action::AnswerStart(StartAnswer::Cancelled));
                let phase = match (how, phase) {
                    (How::Ask, _) | (_, Phase::Killed { .. }) => phase,
                    (How::Kill, _) => self.ask(now, How::Kill, todo),
                };
                S::Stopping { main, phase, cause: Cause::Request, then: Then::Rest }
            }
        }
    }

    pub(super) fn blocked(&mut self, state: State, by: String, todo: &mut Vec<Action>) -> State {
        let state = match state {
            State::Waiting { on } if on != by => {
                todo.push(Action::Emit(Notice::Waiting { on: by.clone() }));
                State::Waiting { on: by.clone() }
            }
            state => state,
        };
        self.blocked = Some(by);
        state
    }

    pub(super) fn unblocked(&mut self, state: State, todo: &mut Vec<Action>) -> State {
        self.blocked = None;
        match state {
            State::Waiting { .. } => self.begin(todo),
            state => state,
        }
    }

    pub(super) fn requirement_lost(
        &mut self,
        now: Duration,
        state: State,
        reason: String,
        effect: Effect,
        todo: &mut Vec<Action>,
    ) -> State {
        use State as S;
        let then = match effect {
            Effect::Stop => Then::Judge(End::RequirementLost(reason.clone())),
            Effect::Restart => Then::Start,
        };
        match state {
            S::Waiting { .. } | S::BackOff { .. } if effect == Effect::Stop => {
                self.failed(reason, None, todo)
            }
            S::Waiting { .. } => {
                // Whoever asked need not wait for that one to be mended.
                let error = format!("{reason}; it is started when that is back");
                todo.push(Action::AnswerStart(StartAnswer::Failed { error }));
                state
            }
            S::Executing => {
                if effect == Effect::Stop {
                    todo.push(Action::AnswerStart(StartAnswer::Failed { error: reason }));
                }
                S::Cancelling { how: How::Ask, then }
            }
            S::Starting { pid, .. } | S::Ready { pid, .. } | S::Unhealthy { pid, .. } => {
                if effect == Effect::Stop {
                    todo.push(Action::AnswerStart(StartAnswer::Failed { error: reason }));
                }
                self.stop(now, pid, How::Ask, Cause::Failing, then, todo)
            }
            state => state,
        }
    }
}
