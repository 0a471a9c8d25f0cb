//! Whether it is ready and well.

use std::time::Duration;

use orchestrator_proto::control::{Probe, Readiness, RestartPolicy};

use super::super::{Action, Cause, End, How, Notice, Phase, StartAnswer, State, Then};
use super::Machine;

impl Machine {
    pub(super) fn said_alive(&self, now: Duration, state: State) -> State {
        let next = self.alive_by(now);
        match state {
            State::Ready { pid, .. } => State::Ready { pid, alive_by: next },
            State::Unhealthy { pid, reason, .. } => {
                State::Unhealthy { pid, alive_by: next, reason }
            }
            state => state,
        }
    }

    pub(super) fn said_unwell(&self, now: Duration, state: State, todo: &mut Vec<Action>) -> State {
        match state {
            State::Starting { pid, .. }
            | State::Ready { pid, .. }
            | State::Unhealthy { pid, .. } => {
                self.unwell(now, pid, "it said that it is not well".to_owned(), todo)
            }
            state => state,
        }
    }

    /// It is stopped, even if it is never started again: it can't be left in that state.
    pub(super) fn unwell(
        &self,
        now: Duration,
        pid: u32,
        reason: String,
        todo: &mut Vec<Action>,
    ) -> State {
        todo.push(Action::Emit(Notice::Unhealthy { reason: reason.clone() }));
        let then = Then::Judge(End::Failed(reason));
        self.stop(now, pid, How::Ask, Cause::Failing, then, todo)
    }

    pub(super) fn probed(
        &mut self,
        now: Duration,
        state: State,
        answer: Result<(), String>,
        todo: &mut Vec<Action>,
    ) -> State {
        let Some(probe) = self.probe_in(&state) else {
            return state;
        };
        let (successes, failures) = (probe.successes, probe.failures);
        let (good, bad) = &mut self.answers;
        let reason = match answer {
            Ok(()) => {
                (*good, *bad) = (good.saturating_add(1), 0);
                None
            }
            Err(reason) => {
                (*good, *bad) = (0, bad.saturating_add(1));
                Some(reason)
            }
        };
        let (is_well, is_ill) = (*good >= successes, *bad >= failures);
        self.problem.clone_from(&reason);
        match (state, reason) {
            (State::Starting { pid, .. }, None) if is_well => self.ready(now, pid, todo),
            (State::Unhealthy { pid, alive_by, .. }, None) if is_well => {
                todo.push(Action::Emit(Notice::Ready));
                State::Ready { pid, alive_by }
            }
            (State::Ready { pid, alive_by }, Some(reason)) if is_ill => {
                let told = reason.clone();
                todo.push(Action::Emit(Notice::Unhealthy { reason: told }));
                if self.rules.restart.policy == RestartPolicy::Never {
                    return State::Unhealthy { pid, alive_by, reason };
                }
                let then = Then::Judge(End::Failed(format!("it was not healthy: {reason}")));
                self.stop(now, pid, How::Ask, Cause::Failing, then, todo)
            }
            (state, _) => state,
        }
    }

    /// As [`probe`](Self::probe), while the state is being worked on.
    pub(super) fn probe_in(&self, state: &State) -> Option<&Probe> {
        match (state, &self.rules.readiness) {
            (State::Starting { .. }, Readiness::Probe(probe)) => Some(probe),
            (State::Ready { .. } | State::Unhealthy { .. }, _) => self.rules.liveness.as_ref(),
            _ => None,
        }
    }

    pub(super) fn starting(&self, now: Duration, pid: u32) -> State {
        let timeout = self.rules.start_timeout.duration();
        let ready_by = (!timeout.is_zero()).then(|| now.saturating_add(timeout));
        State::Starting { pid, ready_by }
    }

    pub(super) fn ready(&mut self, now: Duration, pid: u32, todo: &mut Vec<Action>) -> State {
        if self.rules.readiness != Readiness::Running {
            todo.push(Action::Emit(Notice::Ready));
        }
        todo.push(Action::AnswerStart(StartAnswer::Running { pid, changed: true }));
        self.answers = (0, 0);
        self.ready_since = Some(now);
        State::Ready { pid, alive_by: self.alive_by(now) }
    }

    pub(super) fn alive_by(&self, now: Duration) -> Option<Duration> {
        let time = self.rules.watchdog.duration();
        (!time.is_zero()).then(|| now.saturating_add(time))
    }
}

/// It has asked for more time, and gets it where that is more than it has.
pub(super) fn more_time(now: Duration, state: State, time: Duration) -> State {
    let later = |at: Duration| at.max(now.saturating_add(time));
    match state {
        State::Starting { pid, ready_by } => State::Starting { pid, ready_by: ready_by.map(later) },
        State::Stopping { main, phase, cause, then } => {
            let phase = match phase {
                Phase::Commanded { until } => Phase::Commanded { until: later(until) },
                Phase::Asked { step, until } => Phase::Asked { step, until: later(until) },
                killed @ Phase::Killed { .. } => killed,
            };
            State::Stopping { main, phase, cause, then }
        }
        state => state,
    }
}
