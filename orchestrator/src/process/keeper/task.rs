//! The task behind a [`Keeper`](super::Keeper): it feeds the machine and carries out what the
//! machine says.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use orchestrator_proto::control::{Desired, EventKind, Health, Observed, Priority};
use orchestrator_proto::rare::Rare;
use tokio::time::Instant;

use super::super::{ENV_RUN, Ended, Kernel, Pending, Process, Spawned};
use super::awaited::{Awaited, Outcome, command, signal_tree, tree_empty, until};
use super::due::Due;
use super::probing::Probing;
use super::shown::{in_protocol, observed, resume};
use super::{
    Begun, Hooks, Request, Runs, Said, StartAnswer, StartError, Started, StopAnswer, StopError,
    View, WAITING,
};
use crate::inbox::Inbox;
use crate::shown::Shower;
use crate::supervise::{self, Action, Event, Machine, Notice, Rules, SIGKILL, State};

pub(super) struct Task {
    pub(super) machine: Machine,
    kernel: Arc<dyn Kernel>,
    hooks: Box<dyn Hooks>,
    inbox: Inbox<Request>,
    pub(super) view: Shower<View>,
    /// The epoch of the machine's time.
    epoch: Instant,
    awaited: Awaited,
    process: Option<Arc<dyn Process>>,
    probing: Probing,
    /// When it runs next, if it has a schedule and is started.
    pub(super) due: Due,
    /// That times are left out is told, of the run that is under way.
    pub(super) skip_is_told: bool,
    /// The command that asks it to stop, while that runs.
    stop_command: Option<Pending<Result<(), String>>>,
    warnings: Vec<String>,
    /// Nobody has asked for anything since the daemon began, or it ends: what is desired is what
    /// is shown, not what the machine does.
    suspended: bool,
    /// When the last main process ended.
    exited_ms: Option<u64>,
    /// The priority of the next execution.
    priority: Priority,
    /// Nobody has asked for the next execution.
    pub(super) by_itself: bool,
    starts_waiting: Vec<StartAnswer>,
    stops_waiting: Vec<StopAnswer>,
}

impl Task {
    pub(super) fn new(
        rules: Rules,
        kernel: Arc<dyn Kernel>,
        hooks: Box<dyn Hooks>,
        inbox: Inbox<Request>,
        view: Shower<View>,
    ) -> Self {
        let View { observed, priority, .. } = view.borrow().clone();
        let (machine, exited_ms) = resume(rules, seed(), observed);
        Self {
            machine,
            kernel,
            hooks,
            inbox,
            view,
            epoch: Instant::now(),
            awaited: Awaited::Nothing,
            process: None,
            probing: Probing::default(),
            due: Due::default(),
            skip_is_told: false,
            stop_command: None,
            warnings: Vec::new(),
            suspended: true,
            exited_ms,
            priority,
            by_itself: false,
            starts_waiting: Vec::new(),
            stops_waiting: Vec::new(),
        }
    }

    /// To the end of its keeping; to be called once. By reference, because a future that is given
    /// what it works on has room for it twice; and what is done when something happens has its room
    /// only then, because most of the time nothing does.
    pub(super) async fn run(&mut self) {
        let mut abandoned = false;
        while !(abandoned && self.machine.is_final()) {
            let deadline = self.deadline();
            let run = self.view.borrow().starts;
            tokio::select! {
                request = self.inbox.recv(), if !abandoned => match request {
                    Some(Request::Retire(answer)) => {
                        if self.machine.is_final() {
                            // Closed first: nobody may be told so and then find it open. What
                            // waits in it ends with the task.
                            self.inbox.close();
                            let _ = answer.send(Ok(()));
                            return;
                        }
                        let _ = answer.send(Err(super::RetireError::Running));
                    }
                    Some(request) => Box::pin(self.request(request)).await,
                    None => {
                        abandoned = true;
                        self.suspended = true;
                        Box::pin(self.feed(Event::StopRequested)).await;
                    }
                },
                outcome = self.awaited.wait() => Box::pin(self.outcome(outcome)).await,
                answer = self.probing.answer(&*self.hooks, run) => {
                    self.answered(&answer);
                    Box::pin(self.feed(Event::Probed(answer))).await;
                }
                ended = command(&mut self.stop_command) => {
                    self.stop_command = None;
                    let worked = ended.is_ok();
                    if let Err(error) = ended {
                        tracing::warn!(%error, "the stop command of an instance has failed");
                    }
                    Box::pin(self.feed(Event::StopCommandEnded { worked })).await;
                }
                () = self.due.comes() => Box::pin(self.look()).await,
                () = until(deadline) => Box::pin(self.feed(Event::Deadline)).await,
            }
        }
    }

    /// Takes over a process of an earlier daemon. To be called once, before [`run`](Self::run).
    pub(super) async fn adopt(&mut self, spawned: Spawned) {
        let pid = spawned.process.pid();
        self.process = Some(spawned.process);
        self.awaited = Awaited::Exit(spawned.exited);
        self.hooks.output(spawned.run, spawned.output);
        let View { desired, observed, .. } = self.view.borrow().clone();
        let ready = matches!(observed, Observed::Ready { .. } | Observed::Unhealthy { .. });
        self.feed(Event::Adopted { pid, ready }).await;
        if desired == Desired::Stopped {
            // Somebody had asked for that, and nobody has waited for the end of it.
            self.suspended = false;
            self.feed(Event::StopRequested).await;
        }
    }

    /// Ends what the main process of an earlier daemon has left behind. To be called once, before
    /// [`run`](Self::run).
    pub(super) async fn clean_up(&mut self, rest: Arc<dyn Process>) {
        self.process = Some(rest);
        self.feed(Event::LeftBehind).await;
    }

    /// When the machine wants to be woken. Not at all, if that is beyond the clock's reach.
    fn deadline(&self) -> Option<Instant> {
        self.epoch.checked_add(self.machine.next_deadline()?)
    }

    async fn request(&mut self, request: Request) {
        let suspends = matches!(request, Request::Suspend(_) | Request::Kill(_));
        let event = match request {
            Request::Start(_, answer) | Request::Restart(answer) | Request::Run(answer)
                if self.starts_waiting.len() >= WAITING =>
            {
                let _ = answer.send(Err(StartError::Busy));
                return;
            }
            Request::Stop(answer) | Request::Suspend(answer) | Request::Kill(answer)
                if self.stops_waiting.len() >= WAITING =>
            {
                let _ = answer.send(Err(StopError::Busy));
                return;
            }
            Request::Start(priority, answer) => {
                if let Some(priority) = priority
                    && !matches!(
                        self.machine.state(),
                        State::Executing
                            | State::Starting { .. }
                            | State::Ready { .. }
                            | State::Unhealthy { .. }
                    )
                {
                    self.priority = priority;
                }
                self.starts_waiting.push(answer);
                Event::StartRequested
            }
            Request::Restart(answer) => {
                self.starts_waiting.push(answer);
                Event::RestartRequested
            }
            Request::Run(answer) => {
                self.starts_waiting.push(answer);
                Event::RunRequested
            }
            Request::Stop(answer) | Request::Suspend(answer) => {
                self.stops_waiting.push(answer);
                Event::StopRequested
            }
            Request::Kill(answer) => {
                self.stops_waiting.push(answer);
                Event::KillRequested
            }
            Request::Said(said) => return self.said(*said).await,
            Request::Blocked(by) => {
                let event = by.map_or(Event::Unblocked, |by| Event::Blocked { by: *by });
                return self.feed(event).await;
            }
            Request::RequirementLost(lost) => {
                let (reason, effect) = *lost;
                return self.feed(Event::RequirementLost { reason, effect }).await;
            }
            Request::Rules(rules) => return self.feed(Event::RulesChanged(rules)).await,
            // Answered by the caller, which alone can end the task.
            Request::Retire(_) => return,
        };
        self.suspended = suspends;
        self.by_itself = false;
        self.feed(event).await;
    }

    /// Notes an answer to a probe. Nobody is told: there are many, and most are no news.
    fn answered(&self, answer: &Result<(), String>) {
        let health = Health { at_ms: now_ms(), problem: answer.clone().err() };
        self.view.send_if_modified(|view| {
            view.health = Some(health);
            false
        });
    }

    async fn said(&mut self, said: Said) {
        match said {
            Said::Ready => self.feed(Event::SaidReady).await,
            Said::Alive => self.feed(Event::SaidAlive).await,
            Said::Unwell => self.feed(Event::SaidUnwell).await,
            Said::MoreTime(time) => self.feed(Event::MoreTime(time)).await,
            Said::Status(status) => {
                self.view.send_modify(|view| view.status = status);
                self.hooks.happened(Some(&self.view.borrow()), Vec::new());
            }
        }
    }

    async fn outcome(&mut self, outcome: Outcome) {
        self.awaited = Awaited::Nothing;
        let event = match outcome {
            Outcome::Spawn(Ok(spawned)) => {
                let pid = spawned.process.pid();
                self.process = Some(spawned.process);
                self.warnings = spawned.warnings;
                self.awaited = Awaited::Exit(spawned.exited);
                let by_itself = std::mem::take(&mut self.by_itself);
                let on_end = if by_itself { self.machine.restarts_on_end() } else { 0 };
                self.view.send_modify(|view| {
                    view.starts += 1;
                    view.restarts += u64::from(by_itself);
                    view.restarts_on_end = on_end;
                });
                self.hooks.output(spawned.run, spawned.output);
                Event::Spawned { pid }
            }
            Outcome::Spawn(Err(error)) => {
                let error = error.to_string();
                Event::SpawnFailed { error }
            }
            Outcome::Exit(Ended { exit, time_ms }) => {
                self.exited_ms = Some(time_ms);
                let process = self.process.clone();
                let exit = process.as_ref().map_or(exit, |process| process.explain(exit));
                let tree_empty = tree_empty(process.clone()).await;
                self.feed(Event::MainExited { exit, tree_empty }).await;
                if let Some(process) = process {
                    process.end_is_noted();
                }
                return;
            }
            Outcome::TreeGone => Event::TreeEmpty,
        };
        self.feed(event).await;
    }

    pub(super) async fn feed(&mut self, event: Event) {
        let mut actions = self.machine.handle(self.epoch.elapsed(), event);
        let runs_changed = self.note_runs(&mut actions);
        self.by_itself |= matches!(self.machine.state(), State::BackOff { .. });
        self.follow_schedule();
        let mut actions = actions.into_iter().peekable();
        let mut events = Vec::new();
        while let Some(Action::Emit(notice)) =
            actions.next_if(|action| matches!(action, Action::Emit(_)))
        {
            events.extend(self.told(notice));
        }
        // Before anybody is answered anything.
        self.show(events, runs_changed);
        let run = self.view.borrow().starts;
        self.probing.set(self.machine.probe(), &*self.hooks, run);
        for action in actions {
            self.carry_out(action).await;
        }
        if !matches!(self.machine.state(), State::Stopping { .. }) {
            // It has done what it was for, or is of no use any more.
            self.stop_command = None;
        }
        if self.machine.is_final() {
            self.process = None;
        }
    }

    async fn carry_out(&mut self, action: Action) {
        match action {
            Action::Spawn => {
                let mut launch = self.hooks.launch();
                launch.priority = self.priority;
                let run = self.view.borrow().starts + 1;
                launch.env.push((ENV_RUN.into(), run.to_string().into()));
                self.view.send_modify(|view| {
                    view.priority = self.priority;
                    view.status.clear();
                    view.health = None;
                });
                self.awaited = Awaited::Spawn(self.kernel.spawn(launch));
            }
            Action::StopCommand => {
                let run = self.view.borrow().starts;
                let command = &self.machine.rules().stop.command;
                self.stop_command = Some(self.hooks.stop_command(command, run));
            }
            Action::SignalTree(signal) => signal_tree(self.process.clone(), signal).await,
            Action::KillTree => signal_tree(self.process.clone(), SIGKILL).await,
            Action::WatchTree => {
                if let Some(process) = &self.process {
                    self.awaited = Awaited::TreeGone(process.tree_gone());
                }
            }
            Action::Emit(notice) => {
                if let Some(told) = self.told(notice) {
                    self.hooks.happened(None, vec![told]);
                }
            }
            Action::AnswerThisStart(answer) => {
                let answer = self.answer(answer);
                if let Some(this) = self.starts_waiting.pop() {
                    let _ = this.send(answer);
                }
            }
            Action::AnswerStart(answer) => {
                let answer = self.answer(answer);
                for waiting in self.starts_waiting.drain(..) {
                    // Whoever asked may have gone; the start is done all the same.
                    let _ = waiting.send(answer.clone());
                }
            }
            Action::AnswerStop { changed } => {
                for waiting in self.stops_waiting.drain(..) {
                    let _ = waiting.send(Ok(changed));
                }
            }
        }
    }

    fn answer(&mut self, answer: supervise::StartAnswer) -> Result<Started, StartError> {
        use supervise::StartAnswer as Answer;
        let (what, changed) = match answer {
            Answer::Running { pid, changed } => (Begun::Running { pid }, changed),
            Answer::Scheduled { changed } => (Begun::Scheduled, changed),
            Answer::Queued => (Begun::Queued, true),
            Answer::Failed { error } => return Err(StartError::Failed { error }),
            Answer::Cancelled => return Err(StartError::Cancelled),
        };
        let is_new = changed && matches!(what, Begun::Running { .. });
        let warnings = if is_new { std::mem::take(&mut self.warnings) } else { Vec::new() };
        Ok(Started { what, changed, warnings })
    }

    /// A notice in the protocol's words, and its time.
    fn told(&self, notice: Notice) -> Option<(EventKind, u64)> {
        let time_ms = match notice {
            Notice::Exited { .. } => self.exited_ms.unwrap_or_else(now_ms),
            _ => now_ms(),
        };
        Some((in_protocol(notice)?, time_ms))
    }

    /// Shows the machine's state to others, if that or `runs_changed` is new, and tells of this.
    pub(super) fn show(&self, events: Vec<(EventKind, u64)>, runs_changed: bool) {
        let changed = self.view.send_if_modified(|view| {
            let desired = if self.suspended { view.desired } else { self.machine.desired() };
            let until_ms = |at: Duration| {
                let from_now = at.saturating_sub(self.epoch.elapsed());
                let ms = u64::try_from(from_now.as_millis()).unwrap_or(u64::MAX);
                now_ms().saturating_add(ms)
            };
            let (next_ms, seen_ms) = match self.due.times() {
                Some((next_ms, seen_ms)) => (next_ms, Some(seen_ms)),
                // The next daemon goes on from there.
                None if self.suspended => (None, view.runs.seen_ms),
                None => (None, None),
            };
            let shown = &view.observed;
            let observed = observed(&self.machine, shown, self.exited_ms, next_ms, until_ms);
            let runs = Rare::from(Runs { next_ms, seen_ms, ..(*view.runs).clone() });
            let changed =
                view.desired != desired || observed.is_some() || view.runs != runs || runs_changed;
            view.desired = desired;
            view.runs = runs;
            view.observed = observed.unwrap_or_else(|| view.observed.clone());
            changed
        });
        if changed || !events.is_empty() {
            let view = self.view.borrow();
            self.hooks.happened(changed.then_some(&*view), events);
        }
    }
}

/// Differs from one instance to the next, so that what failed together does not come back
/// together.
fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(())
}

/// Milliseconds since 1970 (UTC).
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since: Duration| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
