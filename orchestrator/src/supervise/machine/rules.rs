//! New rules for an instance that may be anywhere.

use std::time::Duration;

use orchestrator_proto::Millis;
use orchestrator_proto::control::{Kind, Readiness, RestartPolicy};

use super::super::{Action, Cause, End, How, Notice, Rules, State, Then};
use super::Machine;

impl Machine {
    /// From now on it is supervised like this. Where a state is one that these rules would not
    /// have led to, the state that they lead to follows; a stop that has begun is carried to its
    /// end.
    pub(super) fn rules_changed(
        &mut self,
        now: Duration,
        state: State,
        rules: Rules,
        todo: &mut Vec<Action>,
    ) -> State {
        let before = std::mem::replace(&mut self.rules, rules);
        let state = self.kind_changed(&before, state, todo);
        self.run_by = match self.rules.run_timeout {
            new if self.rules.kind == Kind::Service || new == Millis::ZERO => None,
            new => moved(now, self.run_by, before.run_timeout, new),
        };
        let rules = &*self.rules;
        if before.readiness != rules.readiness || before.liveness != rules.liveness {
            self.answers = (0, 0);
        }
        match state {
            State::Starting { pid, .. } if rules.readiness == Readiness::Running => {
                self.ready(now, pid, todo)
            }
            State::Starting { pid, ready_by } => {
                let (old, new) = (before.start_timeout, rules.start_timeout);
                State::Starting { pid, ready_by: moved(now, ready_by, old, new) }
            }
            State::Ready { pid, alive_by } => {
                let (old, new) = (before.watchdog, rules.watchdog);
                State::Ready { pid, alive_by: moved(now, alive_by, old, new) }
            }
            State::Unhealthy { pid, .. } if rules.liveness.is_none() => {
                todo.push(Action::Emit(Notice::Ready));
                State::Ready { pid, alive_by: self.alive_by(now) }
            }
            State::Unhealthy { pid, reason, .. }
                if rules.restart.policy != RestartPolicy::Never =>
            {
                let then = Then::Judge(End::Failed(format!("it was not healthy: {reason}")));
                self.stop(now, pid, How::Ask, Cause::Failing, then, todo)
            }
            State::Unhealthy { pid, alive_by, reason } => {
                let (old, new) = (before.watchdog, rules.watchdog);
                State::Unhealthy { pid, alive_by: moved(now, alive_by, old, new), reason }
            }
            State::BackOff { until, reason, attempt } => {
                let is_success = self.judged.is_some_and(|exit| rules.restart.is_success(exit));
                if rules.restart.is_after(is_success) {
                    let latest = now.saturating_add(rules.restart.max_delay.duration());
                    return State::BackOff { until: until.min(latest), reason, attempt };
                }
                match self.judged.filter(|_| is_success) {
                    Some(exit) => self.completed(exit, todo),
                    None => self.failed(reason, self.judged, todo),
                }
            }
            state => state,
        }
    }
}

/// A time that is waited for, `old` after something, as it is when that is `new`; 0 is for ever.
/// What was not waited for begins now.
fn moved(now: Duration, at: Option<Duration>, old: Millis, new: Millis) -> Option<Duration> {
    match at {
        _ if new == Millis::ZERO => None,
        at if old == new => at,
        // More time that it has asked for stays with it.
        Some(at) => Some(at.saturating_sub(old.duration()).saturating_add(new.duration())),
        None => Some(now.saturating_add(new.duration())),
    }
}
