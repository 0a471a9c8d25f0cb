//! The state machine itself.

mod end;
mod health;
mod request;
mod rules;
mod schedule;
mod stop;

use std::mem;
use std::time::Duration;

use orchestrator_proto::control::{Desired, Exit, Probe, Readiness, Supervision};

use self::health::more_time;
use self::stop::kill;
use super::backoff::BackOff;
use super::{Action, Cause, End, Event, How, Main, Notice, Phase, Rules, State, Then};

/// What should happen to one instance, as a table of state and event.
///
/// | state | start | restart | stop, kill |
/// | --- | --- | --- | --- |
/// | stopped, completed, failed | → *begin* | as start | answer → stopped |
/// | scheduled | answer | answer | answer → stopped |
/// | waiting | joins | joins | answer → stopped |
/// | executing | joins | joins | → cancelling |
/// | cancelling | then start | then start | then rest |
/// | starting | joins | signal → stopping, then start | signal → stopping |
/// | ready, unhealthy | answer | signal → stopping, then start | signal → stopping |
/// | stopping | then start | then start | then rest; kill: SIGKILL |
/// | back-off | → *begin* | as start | answer → stopped |
///
/// | state | spawned | spawn failed | main exited | tree empty | deadline |
/// | --- | --- | --- | --- | --- | --- |
/// | executing | → starting, or ready | → *judge* | | | |
/// | cancelling | signal → stopping | *finish* | | | |
/// | starting | | | → *judge*, or if some are left: signal → stopping | | signal → stopping, then *judge* |
/// | ready, unhealthy | | | the same | | not said to be alive: the same as starting |
/// | stopping | | | *finish*, or if some are left: watch | *finish* | next signal, then SIGKILL |
/// | back-off | | | | | → *begin* |
///
/// | state | blocked | unblocked | lost one that it needs | ready | probed |
/// | --- | --- | --- | --- | --- | --- |
/// | waiting | waits for that | → executing | stop: → failed | | |
/// | executing | | | → cancelling | | |
/// | starting | | | signal → stopping | → ready | well: → ready |
/// | ready | | | signal → stopping | | not well: signal → stopping, then *judge*; if never started again: → unhealthy |
/// | unhealthy | | | signal → stopping | | well: → ready |
/// | back-off | | | stop: → failed | | |
///
/// A schedule is started and stopped as the first table says, but that a start only leads to
/// scheduled, and leaves alone what is under way; and it is run by these, one as the other but for
/// their answers:
///
/// | state | it is time, or somebody wants it to run now |
/// | --- | --- |
/// | stopped, completed, failed | refused |
/// | scheduled | → *begin* |
/// | any other, then rest | refused |
/// | any other | skip: it is left out; queue: another run follows; replace: signal → stopping, if it runs, then start |
///
/// Who wants it to run now joins a run that is not ready as yet, hurries one in back-off, and gets
/// one after what is being stopped.
///
/// Every other event changes nothing. *Begin* goes to executing, or to waiting while something
/// that it needs is not there. *Finish* does what was to come after the stop: rest in stopped,
/// begin, or judge. *Judge* goes to completed if the end is no failure and the policy is not
/// `always`; to failed if the policy is `never`, if it was started again too often, or if one that
/// it needs was lost; else to back-off. Of a schedule it goes to scheduled instead of completed and
/// failed, or to *begin* if another run follows. What runs to its end and does not do that in time
/// is stopped, and judged as a failure.
///
/// New rules count from when they come: a time that is being waited for is waited for as they say, and
/// what they would not have led to is undone, but for a stop that has begun; see `rules.rs`.
///
/// An instance at rest whose main process is found running, because an earlier daemon had started
/// it, goes to ready, or to starting if it was not ready yet. One of which only what a main process
/// has left behind is found signals that, watches it, and goes to stopping.
#[derive(Clone, Debug)]
pub struct Machine {
    rules: Rules,
    state: State,
    last_exit: Option<Exit>,
    backoff: BackOff,
    /// What it would have to wait for, if it were to be started now.
    blocked: Option<String>,
    /// It has said that it is ready before we were told that it runs.
    early_ready: bool,
    /// Since when it has been ready.
    ready_since: Option<Duration>,
    /// Good answers on end, and bad ones.
    answers: (u32, u32),
    /// The last bad answer.
    problem: Option<String>,
    /// How its main process ended, if that was why it was judged last.
    judged: Option<Exit>,
    /// Another run of the schedule follows the one that is under way.
    queued: bool,
    /// A run of the schedule is under way.
    in_run: bool,
    /// When its main process has to have ended.
    run_by: Option<Duration>,
}

impl Machine {
    /// An instance that was never started. `seed` makes its delays differ from those of others.
    #[must_use]
    pub fn new(rules: impl Into<Rules>, seed: u64) -> Self {
        Self::resume(rules, seed, State::Stopped, None)
    }

    /// An instance of which nothing is left, as another machine left it. `state` is final.
    #[must_use]
    pub fn resume(
        rules: impl Into<Rules>,
        seed: u64,
        state: State,
        last_exit: Option<Exit>,
    ) -> Self {
        Self {
            rules: rules.into(),
            state,
            last_exit,
            backoff: BackOff::new(seed),
            blocked: None,
            early_ready: false,
            ready_since: None,
            answers: (0, 0),
            problem: None,
            judged: None,
            queued: false,
            in_run: false,
            run_by: None,
        }
    }

    /// How it is supervised.
    #[must_use]
    pub fn rules(&self) -> &Supervision {
        &self.rules
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

    /// The question that it is to be asked as long as it is in this state, if any.
    #[must_use]
    pub fn probe(&self) -> Option<&Probe> {
        self.probe_in(&self.state)
    }

    /// How many times on end it has been started again, or will have been by the next time.
    #[must_use]
    pub const fn restarts_on_end(&self) -> u32 {
        self.backoff.attempts()
    }

    /// Whether it should run.
    #[must_use]
    pub const fn desired(&self) -> Desired {
        match self.state {
            State::Stopped
            | State::Cancelling { then: Then::Rest, .. }
            | State::Stopping { then: Then::Rest, .. } => Desired::Stopped,
            _ => Desired::Running,
        }
    }

    /// Whether nothing of it is left and nothing is under way.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self.state, State::Stopped | State::Completed { .. } | State::Failed { .. })
    }

    /// When [`Event::Deadline`] is due, in the time given to [`handle`](Self::handle).
    #[must_use]
    pub const fn next_deadline(&self) -> Option<Duration> {
        match self.state {
            State::Starting { ready_by: at, .. }
            | State::Ready { alive_by: at, .. }
            | State::Unhealthy { alive_by: at, .. } => match (at, self.run_by) {
                (Some(at), Some(run_by)) if at.as_nanos() < run_by.as_nanos() => Some(at),
                (at, None) => at,
                (_, run_by) => run_by,
            },
            State::BackOff { until: at, .. }
            | State::Stopping {
                phase:
                    Phase::Commanded { until: at }
                    | Phase::Asked { until: at, .. }
                    | Phase::Killed { again_at: at },
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
        self.state = match event {
            Event::StartRequested | Event::RestartRequested => {
                self.start_requested(now, state, event == Event::RestartRequested, &mut todo)
            }
            Event::RunRequested => self.run_requested(now, state, &mut todo),
            Event::Due { at_ms } => self.due(now, state, at_ms, &mut todo),
            Event::StopRequested => self.stop_requested(now, state, How::Ask, &mut todo),
            Event::KillRequested => self.stop_requested(now, state, How::Kill, &mut todo),
            Event::Blocked { by } => self.blocked(state, by, &mut todo),
            Event::Unblocked => self.unblocked(state, &mut todo),
            Event::RequirementLost { reason, effect } => {
                self.requirement_lost(now, state, reason, effect, &mut todo)
            }
            Event::SaidReady => match (state, &self.rules.readiness) {
                (State::Starting { pid, .. }, Readiness::Notify | Readiness::Runtime) => {
                    self.ready(now, pid, &mut todo)
                }
                (State::Executing, Readiness::Notify | Readiness::Runtime) => {
                    self.early_ready = true;
                    State::Executing
                }
                (state, _) => state,
            },
            Event::SaidAlive => self.said_alive(now, state),
            Event::SaidUnwell => self.said_unwell(now, state, &mut todo),
            Event::MoreTime(time) => more_time(now, state, time),
            Event::Probed(answer) => self.probed(now, state, answer, &mut todo),
            Event::RulesChanged(rules) => self.rules_changed(now, state, rules, &mut todo),
            Event::Deadline => self.deadline(now, state, &mut todo),
            event => self.process(now, state, event, &mut todo),
        };
        todo
    }

    fn deadline(&mut self, now: Duration, state: State, todo: &mut Vec<Action>) -> State {
        use State as S;
        match state {
            S::BackOff { until, .. } if now >= until => self.begin(todo),
            S::Starting { pid, .. } | S::Ready { pid, .. } | S::Unhealthy { pid, .. }
                if self.run_by.is_some_and(|at| now >= at) =>
            {
                self.took_too_long(now, pid, todo)
            }
            S::Starting { pid, ready_by: Some(at) } if now >= at => {
                let time = self.rules.start_timeout;
                let mut reason = format!("it was not ready within {time}");
                if let Some(problem) = self.problem.take() {
                    reason = format!("{reason}: {problem}");
                }
                let then = Then::Judge(End::Failed(reason));
                self.stop(now, pid, How::Ask, Cause::Failing, then, todo)
            }
            S::Ready { pid, alive_by: Some(at) } | S::Unhealthy { pid, alive_by: Some(at), .. }
                if now >= at =>
            {
                let time = self.rules.watchdog;
                let reason = format!("it did not say within {time} that it is alive");
                self.unwell(now, pid, reason, todo)
            }
            S::Stopping { main, phase, cause, then } => {
                let phase = match phase {
                    Phase::Commanded { until } if now >= until => self.signal(now, 0, todo),
                    Phase::Asked { step, until } if now >= until => {
                        self.signal(now, step + 1, todo)
                    }
                    Phase::Killed { again_at } if now >= again_at => kill(now, todo),
                    early => early,
                };
                S::Stopping { main, phase, cause, then }
            }
            early => early,
        }
    }

    /// What the kernel says.
    fn process(
        &mut self,
        now: Duration,
        state: State,
        event: Event,
        todo: &mut Vec<Action>,
    ) -> State {
        use Event as E;
        use State as S;
        match (state, event) {
            (S::Stopped | S::Completed { .. } | S::Failed { .. }, E::Adopted { pid, ready }) => {
                todo.push(Action::Emit(Notice::Adopted { pid }));
                self.in_run = self.schedule().is_some();
                self.run_by = self.run_by(now);
                self.answers = (0, 0);
                if ready || self.rules.readiness == Readiness::Running {
                    self.ready_since = Some(now);
                    S::Ready { pid, alive_by: self.alive_by(now) }
                } else {
                    self.starting(now, pid)
                }
            }

            (S::Completed { exit } | S::Failed { exit: Some(exit), .. }, E::LeftBehind) => {
                let then = Then::Judge(End::Exited(exit));
                self.left_behind(now, exit, Cause::MainEnded, then, todo)
            }
            (S::Stopped | S::Failed { exit: None, .. }, E::LeftBehind) => {
                let exit = self.last_exit.unwrap_or(Exit::Unknown);
                self.left_behind(now, exit, Cause::Request, Then::Rest, todo)
            }

            (S::Executing, E::Spawned { pid }) => {
                todo.push(Action::Emit(Notice::Started { pid }));
                self.run_by = self.run_by(now);
                self.answers = (0, 0);
                self.problem = None;
                if self.early_ready || self.rules.readiness == Readiness::Running {
                    self.ready(now, pid, todo)
                } else {
                    self.starting(now, pid)
                }
            }
            (S::Cancelling { how, then }, E::Spawned { pid }) => {
                todo.push(Action::Emit(Notice::Started { pid }));
                self.stop(now, pid, how, Cause::Request, then, todo)
            }
            (S::Executing, E::SpawnFailed { error }) => {
                let notice = error.clone();
                todo.push(Action::Emit(Notice::StartFailed { error: notice }));
                self.judge(now, End::Failed(error), todo)
            }
            (S::Cancelling { then, .. }, E::SpawnFailed { error }) => {
                todo.push(Action::Emit(Notice::StartFailed { error }));
                self.finish(now, then, todo)
            }

            (
                S::Starting { .. } | S::Ready { .. } | S::Unhealthy { .. },
                E::MainExited { exit, tree_empty },
            ) => {
                self.exited(exit, false, todo);
                let then = Then::Judge(End::Exited(exit));
                if tree_empty {
                    return self.finish(now, then, todo);
                }
                let phase = self.signal(now, 0, todo);
                todo.push(Action::WatchTree);
                S::Stopping { main: Main::Ended { exit }, phase, cause: Cause::MainEnded, then }
            }
            (
                S::Stopping { main: Main::Alive { .. }, phase, cause, then },
                E::MainExited { exit, tree_empty },
            ) => {
                self.exited(exit, cause != Cause::MainEnded, todo);
                if tree_empty {
                    return self.finish(now, then, todo);
                }
                todo.push(Action::WatchTree);
                S::Stopping { main: Main::Ended { exit }, phase, cause, then }
            }
            (S::Stopping { main: Main::Ended { .. }, then, .. }, E::TreeEmpty) => {
                self.finish(now, then, todo)
            }
            (
                S::Stopping { main, phase: Phase::Commanded { .. }, cause, then },
                E::StopCommandEnded { worked: false },
            ) => {
                let phase = self.signal(now, 0, todo);
                S::Stopping { main, phase, cause, then }
            }

            // Nothing else changes anything: what comes too late, for example.
            (state, _) => state,
        }
    }
}
