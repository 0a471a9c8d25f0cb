//! The state machine itself.

use std::mem;
use std::time::Duration;

use orchestrator_proto::control::{Desired, Exit};

use super::{
    Action, Cause, Config, Event, How, Main, Notice, Phase, SIGKILL, StartAnswer, State, Then,
};

/// From one SIGKILL to the next, when something of the group is left. One is enough on every
/// path but that of a kernel without a way to signal a whole group whose leader is gone.
const KILL_AGAIN: Duration = Duration::from_secs(1);

/// What should happen to one instance, as a table of state and event.
///
/// | state | start | restart | stop | kill |
/// | --- | --- | --- | --- | --- |
/// | stopped | → starting | as start | answer | answer |
/// | starting | joins | joins | → cancelling (ask) | → cancelling (kill) |
/// | cancelling | then start | then start | then rest | kill, then rest |
/// | running | answer | signal → stopping, then start | signal → stopping | kill → stopping |
/// | stopping | then start | then start | then rest | kill, then rest |
/// | exited, failed | → starting | as start | → stopped | → stopped |
///
/// A machine of an instance at rest whose main process is found running, because an earlier
/// daemon had started it, goes to running. One of which only what a main process has left behind is
/// found signals that, watches it, and goes to stopping.
///
/// | state | spawned | spawn failed | main exited | tree empty | deadline |
/// | --- | --- | --- | --- | --- | --- |
/// | starting | → running | → failed | | | |
/// | cancelling | signal or kill → stopping | finish | | | |
/// | running | | | → exited, or if some are left: signal, watch → stopping | | |
/// | stopping | | | finish, or if some are left: watch | finish | kill |
///
/// Every other event changes nothing. *Finish* goes to starting if a start is to follow, else
/// to exited if the main process ended by itself and nobody asked for a stop, else to stopped.
///
/// A restart policy will hang on `running` × main exited and `starting` × spawn failed (a
/// state between `exited` and `starting`, with a deadline); readiness between `starting` and
/// `running`; dependencies before `starting`.
#[derive(Clone, Debug)]
pub struct Machine {
    config: Config,
    state: State,
    last_exit: Option<Exit>,
}

impl Machine {
    /// An instance that was never started.
    #[must_use]
    pub const fn new(config: Config) -> Self {
        Self { config, state: State::Stopped, last_exit: None }
    }

    /// An instance of which nothing is left, as another machine left it. `state` is final.
    #[must_use]
    pub const fn resume(config: Config, state: State, last_exit: Option<Exit>) -> Self {
        Self { config, state, last_exit }
    }

    /// What it does.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// How its main process last ended; none if none ever did.
    #[must_use]
    pub const fn last_exit(&self) -> Option<Exit> {
        self.last_exit
    }

    /// Whether it should run.
    #[must_use]
    pub const fn desired(&self) -> Desired {
        match self.state {
            State::Stopped
            | State::Cancelling { then: Then::Rest, .. }
            | State::Stopping { cause: Cause::Request, then: Then::Rest, .. } => Desired::Stopped,
            State::Starting
            | State::Cancelling { then: Then::Start, .. }
            | State::Running { .. }
            | State::Stopping { .. }
            | State::Exited { .. }
            | State::Failed { .. } => Desired::Running,
        }
    }

    /// Whether nothing of it is left and nothing is under way.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self.state, State::Stopped | State::Exited { .. } | State::Failed { .. })
    }

    /// When [`Event::Deadline`] is due, in the time given to [`handle`](Self::handle).
    #[must_use]
    pub const fn next_deadline(&self) -> Option<Duration> {
        match self.state {
            State::Stopping {
                phase: Phase::Asked { kill_at: at } | Phase::Killed { again_at: at },
                ..
            } => Some(at),
            _ => None,
        }
    }

    /// Takes an event that happened at `now`, which is a time since an epoch of the caller's
    /// choice that does not go back. Answers with what is to be done, in that order.
    #[must_use = "the actions are to be carried out"]
    pub fn handle(&mut self, now: Duration, event: Event) -> Vec<Action> {
        let mut todo = Vec::new();
        let state = mem::replace(&mut self.state, State::Stopped);
        self.state = self.next(now, state, event, &mut todo);
        todo
    }

    /// The table.
    fn next(&mut self, now: Duration, state: State, event: Event, todo: &mut Vec<Action>) -> State {
        use Event as E;
        use State as S;
        match (state, event) {
            // Requests to start.
            (
                S::Stopped | S::Exited { .. } | S::Failed { .. },
                E::StartRequested | E::RestartRequested,
            ) => {
                todo.push(Action::Spawn);
                S::Starting
            }
            (S::Starting, E::StartRequested | E::RestartRequested) => S::Starting,
            (S::Running { pid }, E::StartRequested) => {
                let changed = false;
                todo.push(Action::AnswerStart(StartAnswer::Running { pid, changed }));
                S::Running { pid }
            }
            (S::Running { pid }, E::RestartRequested) => {
                self.stop(now, pid, How::Ask, Then::Start, todo)
            }
            (S::Cancelling { how, .. }, E::StartRequested | E::RestartRequested) => {
                let then = Then::Start;
                S::Cancelling { how, then }
            }
            (S::Stopping { main, phase, cause, .. }, E::StartRequested | E::RestartRequested) => {
                S::Stopping { main, phase, cause, then: Then::Start }
            }

            // Requests to stop.
            (
                S::Stopped | S::Exited { .. } | S::Failed { .. },
                E::StopRequested | E::KillRequested,
            ) => {
                todo.push(Action::AnswerStop { changed: false });
                S::Stopped
            }
            (S::Starting, E::StopRequested) => cancel(How::Ask, Then::Start, todo),
            (S::Starting, E::KillRequested) => cancel(How::Kill, Then::Start, todo),
            (S::Cancelling { how, then }, E::StopRequested) => cancel(how, then, todo),
            (S::Cancelling { then, .. }, E::KillRequested) => cancel(How::Kill, then, todo),
            (S::Running { pid }, E::StopRequested) => {
                self.stop(now, pid, How::Ask, Then::Rest, todo)
            }
            (S::Running { pid }, E::KillRequested) => {
                self.stop(now, pid, How::Kill, Then::Rest, todo)
            }
            (S::Stopping { main, phase, then, .. }, E::StopRequested) => {
                answer_cancelled(then, todo);
                S::Stopping { main, phase, cause: Cause::Request, then: Then::Rest }
            }
            (S::Stopping { main, phase, then, .. }, E::KillRequested) => {
                answer_cancelled(then, todo);
                S::Stopping {
                    main,
                    phase: match phase {
                        Phase::Asked { .. } => self.signal(now, How::Kill, todo),
                        Phase::Killed { .. } => phase,
                    },
                    cause: Cause::Request,
                    then: Then::Rest,
                }
            }

            // What an earlier machine left.
            (S::Stopped | S::Exited { .. } | S::Failed { .. }, E::Adopted { pid }) => {
                todo.push(Action::Emit(Notice::Adopted { pid }));
                S::Running { pid }
            }

            (S::Exited { exit }, E::LeftBehind) => {
                self.left_behind(now, exit, Cause::MainEnded, todo)
            }
            (S::Stopped | S::Failed { .. }, E::LeftBehind) => {
                let exit = self.last_exit.unwrap_or(Exit::Unknown);
                self.left_behind(now, exit, Cause::Request, todo)
            }

            // What became of a spawn.
            (S::Starting, E::Spawned { pid }) => {
                let changed = true;
                todo.push(Action::Emit(Notice::Started { pid }));
                todo.push(Action::AnswerStart(StartAnswer::Running { pid, changed }));
                S::Running { pid }
            }
            (S::Cancelling { how, then }, E::Spawned { pid }) => {
                todo.push(Action::Emit(Notice::Started { pid }));
                self.stop(now, pid, how, then, todo)
            }
            (S::Starting, E::SpawnFailed { error }) => {
                let (notice, answer) = (error.clone(), error.clone());
                todo.push(Action::Emit(Notice::StartFailed { error: notice }));
                todo.push(Action::AnswerStart(StartAnswer::Failed { error: answer }));
                S::Failed { error }
            }
            (S::Cancelling { then, .. }, E::SpawnFailed { error }) => {
                todo.push(Action::Emit(Notice::StartFailed { error }));
                finish(then, S::Stopped, todo)
            }

            // How it ends.
            (S::Running { pid: _ }, E::MainExited { exit, tree_empty }) => {
                self.exited(exit, false, todo);
                if tree_empty {
                    return finish(Then::Rest, S::Exited { exit }, todo);
                }
                let phase = self.signal(now, How::Ask, todo);
                todo.push(Action::WatchTree);
                S::Stopping {
                    main: Main::Ended { exit },
                    phase,
                    cause: Cause::MainEnded,
                    then: Then::Rest,
                }
            }
            (
                S::Stopping { main: Main::Alive { .. }, phase, cause, then },
                E::MainExited { exit, tree_empty },
            ) => {
                self.exited(exit, cause == Cause::Request, todo);
                if tree_empty {
                    return finish(then, after(cause, exit), todo);
                }
                todo.push(Action::WatchTree);
                let main = Main::Ended { exit };
                S::Stopping { main, phase, cause, then }
            }
            (S::Stopping { main: Main::Ended { exit }, cause, then, .. }, E::TreeEmpty) => {
                finish(then, after(cause, exit), todo)
            }
            (S::Stopping { main, phase, cause, then }, E::Deadline) => {
                let phase = self.deadline(now, phase, todo);
                S::Stopping { main, phase, cause, then }
            }

            // Nothing else changes anything: a deadline that no longer stands, for example.
            (
                state,
                E::Adopted { .. }
                | E::LeftBehind
                | E::Spawned { .. }
                | E::SpawnFailed { .. }
                | E::MainExited { .. }
                | E::TreeEmpty
                | E::Deadline,
            ) => state,
        }
    }

    /// Begins the stop of a main process that runs.
    fn stop(&self, now: Duration, pid: u32, how: How, then: Then, todo: &mut Vec<Action>) -> State {
        State::Stopping {
            main: Main::Alive { pid },
            phase: self.signal(now, how, todo),
            cause: Cause::Request,
            then,
        }
    }

    /// Begins to end what a main process has left behind.
    fn left_behind(
        &self,
        now: Duration,
        exit: Exit,
        cause: Cause,
        todo: &mut Vec<Action>,
    ) -> State {
        let phase = self.signal(now, How::Ask, todo);
        todo.push(Action::WatchTree);
        State::Stopping { main: Main::Ended { exit }, phase, cause, then: Then::Rest }
    }

    /// Signals the tree and says so.
    fn signal(&self, now: Duration, how: How, todo: &mut Vec<Action>) -> Phase {
        match how {
            How::Ask => {
                let signal = self.config.stop_signal;
                todo.push(Action::Emit(Notice::Stopping { signal }));
                todo.push(Action::SignalTree(signal));
                Phase::Asked { kill_at: now.saturating_add(self.config.stop_timeout) }
            }
            How::Kill => {
                todo.push(Action::Emit(Notice::Stopping { signal: SIGKILL }));
                kill(now, todo)
            }
        }
    }

    /// Sends SIGKILL if it is time.
    fn deadline(&self, now: Duration, phase: Phase, todo: &mut Vec<Action>) -> Phase {
        match phase {
            Phase::Asked { kill_at } if now >= kill_at => {
                todo.push(Action::Emit(Notice::Killed));
                kill(now, todo)
            }
            Phase::Killed { again_at } if now >= again_at => kill(now, todo),
            early => early,
        }
    }

    /// Notes the end of the main process.
    fn exited(&mut self, exit: Exit, requested: bool, todo: &mut Vec<Action>) {
        self.last_exit = Some(exit);
        todo.push(Action::Emit(Notice::Exited { exit, requested }));
    }
}

/// A stop while the program is being executed; `then` is what was to come until now.
fn cancel(how: How, then: Then, todo: &mut Vec<Action>) -> State {
    answer_cancelled(then, todo);
    let then = Then::Rest;
    State::Cancelling { how, then }
}

/// Whoever waits for a start learns that there will be none.
fn answer_cancelled(then: Then, todo: &mut Vec<Action>) {
    if then == Then::Start {
        todo.push(Action::AnswerStart(StartAnswer::Cancelled));
    }
}

/// The one place that sends SIGKILL.
fn kill(now: Duration, todo: &mut Vec<Action>) -> Phase {
    todo.push(Action::KillTree);
    Phase::Killed { again_at: now.saturating_add(KILL_AGAIN) }
}

/// The final state after a stop without a start.
const fn after(cause: Cause, exit: Exit) -> State {
    match cause {
        Cause::Request => State::Stopped,
        Cause::MainEnded => State::Exited { exit },
    }
}

/// Nothing of the instance is left.
fn finish(then: Then, rest: State, todo: &mut Vec<Action>) -> State {
    todo.push(Action::Emit(Notice::Stopped));
    todo.push(Action::AnswerStop { changed: true });
    match then {
        Then::Rest => rest,
        Then::Start => {
            todo.push(Action::Spawn);
            State::Starting
        }
    }
}
