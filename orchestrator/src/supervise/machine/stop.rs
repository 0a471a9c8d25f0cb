//! How it is made to stop.

use std::time::Duration;

use orchestrator_proto::control::{Exit, Stop};

use super::super::{Action, Cause, How, Main, Notice, Phase, SIGKILL, State, Then};
use super::Machine;

/// From one SIGKILL to the next, when something of the group is left. One is enough on every
/// path but that of a kernel without a way to signal a whole group whose leader is gone.
const KILL_AGAIN: Duration = Duration::from_secs(1);

impl Machine {
    /// Begins the stop of a main process that runs.
    pub(super) fn stop(
        &self,
        now: Duration,
        pid: u32,
        how: How,
        cause: Cause,
        then: Then,
        todo: &mut Vec<Action>,
    ) -> State {
        State::Stopping { main: Main::Alive { pid }, phase: self.ask(now, how, todo), cause, then }
    }

    /// Begins to end what a main process has left behind.
    pub(super) fn left_behind(
        &self,
        now: Duration,
        exit: Exit,
        cause: Cause,
        then: Then,
        todo: &mut Vec<Action>,
    ) -> State {
        let phase = self.signal(now, 0, todo);
        todo.push(Action::WatchTree);
        State::Stopping { main: Main::Ended { exit }, phase, cause, then }
    }

    /// Has it stop.
    pub(super) fn ask(&self, now: Duration, how: How, todo: &mut Vec<Action>) -> Phase {
        let Stop { command, steps } = &self.rules.stop;
        match how {
            How::Kill => {
                todo.push(Action::Emit(Notice::Stopping { signal: SIGKILL }));
                kill(now, todo)
            }
            How::Ask => match steps.first() {
                Some(first) if !command.is_empty() => {
                    todo.push(Action::StopCommand);
                    Phase::Commanded { until: now.saturating_add(first.wait.duration()) }
                }
                _ => self.signal(now, 0, todo),
            },
        }
    }

    /// Sends the signal of this step, or SIGKILL after the last.
    pub(super) fn signal(&self, now: Duration, step: usize, todo: &mut Vec<Action>) -> Phase {
        match self.rules.stop.steps.get(step) {
            Some(wanted) => {
                let signal = wanted.signal.0;
                todo.push(Action::Emit(Notice::Stopping { signal }));
                todo.push(Action::SignalTree(signal));
                Phase::Asked { step, until: now.saturating_add(wanted.wait.duration()) }
            }
            None => {
                todo.push(Action::Emit(Notice::Killed));
                kill(now, todo)
            }
        }
    }
}

/// The one place that sends SIGKILL.
pub(super) fn kill(now: Duration, todo: &mut Vec<Action>) -> Phase {
    todo.push(Action::KillTree);
    Phase::Killed { again_at: now.saturating_add(KILL_AGAIN) }
}
