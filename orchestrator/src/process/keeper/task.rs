//! The task behind a [`Keeper`](super::Keeper): it feeds the machine and carries out what the
//! machine says.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use orchestrator_proto::control::{EventKind, Exit, Observed, Priority};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::super::{Kernel, Pending, Process, SpawnError, Spawned};
use super::{
    Hooks, Request, StartAnswer, StartError, Started, StopAnswer, StopError, View, WAITING,
};
use crate::supervise::{self, Action, Config, Event, Machine, Main, Notice, SIGKILL, State};

/// What the task waits for besides requests. At most one of these at a time is not `Nothing`:
/// a spawn, then the exit, then the rest of the group.
enum Awaited {
    Nothing,
    Spawn(Pending<Result<Spawned, SpawnError>>),
    Exit(oneshot::Receiver<Exit>),
    TreeGone(Pending<()>),
}

/// What came of it.
enum Outcome {
    Spawn(Result<Spawned, SpawnError>),
    Exit(Exit),
    TreeGone,
}

pub(super) struct Task {
    machine: Machine,
    kernel: Arc<dyn Kernel>,
    hooks: Box<dyn Hooks>,
    inbox: mpsc::Receiver<Request>,
    view: watch::Sender<View>,
    /// The epoch of the machine's time.
    epoch: Instant,
    awaited: Awaited,
    process: Option<Arc<dyn Process>>,
    warnings: Vec<String>,
    /// When the last main process ended.
    exited_ms: Option<u64>,
    /// The priority of the next execution.
    priority: Priority,
    starts_waiting: Vec<StartAnswer>,
    stops_waiting: Vec<StopAnswer>,
}

impl Task {
    pub(super) fn new(
        config: Config,
        kernel: Arc<dyn Kernel>,
        hooks: Box<dyn Hooks>,
        inbox: mpsc::Receiver<Request>,
        view: watch::Sender<View>,
    ) -> Self {
        Self {
            machine: Machine::new(config),
            kernel,
            hooks,
            inbox,
            view,
            epoch: Instant::now(),
            awaited: Awaited::Nothing,
            process: None,
            warnings: Vec::new(),
            exited_ms: None,
            priority: Priority::default(),
            starts_waiting: Vec::new(),
            stops_waiting: Vec::new(),
        }
    }

    pub(super) async fn run(mut self) {
        let mut abandoned = false;
        while !(abandoned && self.machine.is_final()) {
            let deadline = self.deadline();
            tokio::select! {
                request = self.inbox.recv(), if !abandoned => match request {
                    Some(Request::Retire(answer)) => {
                        if self.machine.is_final() {
                            // Closed first: nobody may be told so and then find it open.
                            drop(self.inbox);
                            let _ = answer.send(Ok(()));
                            return;
                        }
                        let _ = answer.send(Err(super::RetireError::Running));
                    }
                    Some(request) => self.request(request).await,
                    None => {
                        abandoned = true;
                        self.feed(Event::StopRequested).await;
                    }
                },
                outcome = self.awaited.wait() => self.outcome(outcome).await,
                () = until(deadline) => self.feed(Event::Deadline).await,
            }
        }
    }

    /// When the machine wants to be woken. Not at all, if that is beyond the clock's reach.
    fn deadline(&self) -> Option<Instant> {
        self.epoch.checked_add(self.machine.next_deadline()?)
    }

    async fn request(&mut self, request: Request) {
        let event = match request {
            Request::Start(_, answer) | Request::Restart(answer)
                if self.starts_waiting.len() >= WAITING =>
            {
                let _ = answer.send(Err(StartError::Busy));
                return;
            }
            Request::Stop(answer) | Request::Kill(answer)
                if self.stops_waiting.len() >= WAITING =>
            {
                let _ = answer.send(Err(StopError::Busy));
                return;
            }
            Request::Start(priority, answer) => {
                if let Some(priority) = priority
                    && !matches!(self.machine.state(), State::Starting | State::Running { .. })
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
            Request::Stop(answer) => {
                self.stops_waiting.push(answer);
                Event::StopRequested
            }
            Request::Kill(answer) => {
                self.stops_waiting.push(answer);
                Event::KillRequested
            }
            // Answered by the caller, which alone can end the task.
            Request::Retire(_) => return,
        };
        self.feed(event).await;
    }

    async fn outcome(&mut self, outcome: Outcome) {
        self.awaited = Awaited::Nothing;
        let event = match outcome {
            Outcome::Spawn(Ok(spawned)) => {
                let pid = spawned.process.pid();
                self.process = Some(spawned.process);
                self.warnings = spawned.warnings;
                self.awaited = Awaited::Exit(spawned.exited);
                self.view.send_modify(|view| view.starts += 1);
                self.hooks.output(spawned.stdout, spawned.stderr);
                Event::Spawned { pid }
            }
            Outcome::Spawn(Err(error)) => {
                let error = error.to_string();
                Event::SpawnFailed { error }
            }
            Outcome::Exit(exit) => {
                self.exited_ms = Some(now_ms());
                let tree_empty = tree_empty(self.process.clone()).await;
                Event::MainExited { exit, tree_empty }
            }
            Outcome::TreeGone => Event::TreeEmpty,
        };
        self.feed(event).await;
    }

    async fn feed(&mut self, event: Event) {
        let actions = self.machine.handle(self.epoch.elapsed(), event);
        // Before anybody is told anything.
        self.show();
        for action in actions {
            self.carry_out(action).await;
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
                self.view.send_modify(|view| view.priority = self.priority);
                self.awaited = Awaited::Spawn(self.kernel.spawn(launch));
            }
            Action::SignalTree(signal) => signal_tree(self.process.clone(), signal).await,
            Action::KillTree => signal_tree(self.process.clone(), SIGKILL).await,
            Action::WatchTree => {
                if let Some(process) = &self.process {
                    self.awaited = Awaited::TreeGone(process.tree_gone());
                }
            }
            Action::Emit(notice) => self.hooks.event(in_protocol(notice)),
            Action::AnswerStart(answer) => {
                let answer = match answer {
                    supervise::StartAnswer::Running { pid, changed } => Ok(Started {
                        pid,
                        changed,
                        warnings: if changed {
                            std::mem::take(&mut self.warnings)
                        } else {
                            Vec::new()
                        },
                    }),
                    supervise::StartAnswer::Failed { error } => Err(StartError::Failed { error }),
                    supervise::StartAnswer::Cancelled => Err(StartError::Cancelled),
                };
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

    /// Shows the machine's state to others.
    fn show(&self) {
        let desired = self.machine.desired();
        self.view.send_if_modified(|view| {
            let observed = self.observed(&view.observed);
            let changed = view.desired != desired || observed.is_some();
            view.desired = desired;
            view.observed = observed.unwrap_or_else(|| view.observed.clone());
            changed
        });
    }

    /// The machine's state in the protocol's words; none if `shown` still says so.
    fn observed(&self, shown: &Observed) -> Option<Observed> {
        let exited_ms = || self.exited_ms.unwrap_or_else(now_ms);
        let observed = match self.machine.state() {
            State::Stopped => {
                Observed::Stopped { last_exit: self.machine.last_exit(), at_ms: self.exited_ms }
            }
            State::Starting | State::Cancelling { .. } => Observed::Starting,
            State::Running { pid } => match shown {
                Observed::Running { pid: shown, .. } if shown == pid => return None,
                _ => Observed::Running { pid: *pid, since_ms: now_ms() },
            },
            State::Stopping { main, .. } => Observed::Stopping {
                pid: match main {
                    Main::Alive { pid } => Some(*pid),
                    Main::Ended { .. } => None,
                },
                since_ms: match shown {
                    Observed::Stopping { since_ms, .. } => *since_ms,
                    _ => now_ms(),
                },
            },
            State::Exited { exit } => Observed::Exited { exit: *exit, at_ms: exited_ms() },
            State::Failed { error } => match shown {
                Observed::Failed { .. } => return None,
                _ => Observed::Failed { error: error.clone(), at_ms: now_ms() },
            },
        };
        (observed != *shown).then_some(observed)
    }
}

impl Awaited {
    /// Waits without giving up its place: it can be called again if it was dropped.
    async fn wait(&mut self) -> Outcome {
        match self {
            Self::Nothing => pending().await,
            Self::Spawn(spawn) => Outcome::Spawn(spawn.await),
            Self::Exit(exited) => match exited.await {
                Ok(exit) => Outcome::Exit(exit),
                // A kernel reports every exit or ends the daemon; nothing true can be said.
                Err(_) => pending().await,
            },
            Self::TreeGone(gone) => {
                gone.await;
                Outcome::TreeGone
            }
        }
    }
}

async fn tree_empty(process: Option<Arc<dyn Process>>) -> bool {
    let Some(process) = process else {
        return true;
    };
    process.tree_empty().await.unwrap_or_else(|error| {
        let pid = process.pid();
        tracing::warn!(pid, %error, "cannot see what is left of a process group");
        false
    })
}

async fn signal_tree(process: Option<Arc<dyn Process>>, signal: i32) {
    if let Some(process) = process
        && let Err(error) = process.signal_tree(signal).await
    {
        let pid = process.pid();
        tracing::warn!(pid, signal, %error, "a process group can't be signalled");
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

fn in_protocol(notice: Notice) -> EventKind {
    match notice {
        Notice::Started { pid } => EventKind::Started { pid },
        Notice::StartFailed { error } => EventKind::StartFailed { error },
        Notice::Stopping { signal } => EventKind::Stopping { signal },
        Notice::Killed => EventKind::Killed,
        Notice::Exited { exit, requested } => EventKind::Exited { exit, requested },
        Notice::Stopped => EventKind::Stopped,
    }
}

/// Milliseconds since 1970 (UTC).
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since: Duration| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
