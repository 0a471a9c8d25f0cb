//! One instance, kept: the handle to the task that feeds its state machine.

mod awaited;
mod due;
mod probing;
mod runs;
mod shown;
mod task;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use orchestrator_proto::control::{Check, Desired, EventKind, Health, LastRun, Observed, Priority};
use orchestrator_proto::rare::{Rare, Usual};
use thiserror::Error;
use tokio::sync::oneshot;

use super::{Kernel, Launch, Pending, Process, Spawned};
use crate::inbox::{Sender, inbox};
use crate::shown::{Looker, Shower};
use crate::supervise::{Effect, Rules};

/// Requests to one instance that may be on their way; more wait where they are made.
pub const QUEUE: usize = 32;

/// Requests to one instance that may wait for the same thing; more are refused.
pub const WAITING: usize = 1024;

/// What a keeper needs from the rooms above. Called in the keeper's task, in the order in
/// which things happen, so none of it may block.
pub trait Hooks: Send + Sync + 'static {
    /// What to execute. Asked at each start; the keeper puts in its own priority.
    fn launch(&self) -> Launch;

    /// The reading ends of what a process that was just executed prints; reading does not wait.
    /// Another run has another number. None if an earlier daemon has executed it and they are not
    /// to be had.
    fn output(&self, run: u64, pipes: Option<(OwnedFd, OwnedFd)>);

    /// Asks the instance once; `run` is the number of its last execution. Says what is wrong, if
    /// anything is. Ends by itself within `timeout`, but for [`Check::Output`], which ends when
    /// the line was printed.
    fn ask(&self, check: &Check, timeout: Duration, run: u64) -> Pending<Result<(), String>>;

    /// Executes the command that asks the instance to stop. Ends when that has ended. What it is
    /// when this is dropped is killed.
    fn stop_command(&self, command: &[String], run: u64) -> Pending<Result<(), String>>;

    /// Something happened to the instance: it is shown like this from now on, if `view` says so,
    /// and this tells of it, each with its time, milliseconds since 1970 (UTC). What comes together
    /// is one thing: who keeps only a part of it would tell the rest again, or never. Comes before
    /// the answer to who asked for it; [`Keeper::view`] shows it by then. Must not ask the keeper
    /// anything.
    fn happened(&self, view: Option<&View>, events: Vec<(EventKind, u64)>);
}

/// A handle to one instance. Cheap to clone; all clones are the same instance.
///
/// The instance is stopped when the last of them is dropped without
/// [`retire`](Self::retire), because then nobody could ever stop it.
#[derive(Clone, Debug)]
pub struct Keeper {
    requests: Sender<Request>,
    view: Looker<View>,
}

/// An instance as it is.
#[derive(Clone, PartialEq, Debug)]
pub struct View {
    /// Whether it should run.
    pub desired: Desired,
    /// Whether it does.
    pub observed: Observed,
    /// The priority of its last start.
    pub priority: Priority,
    /// How many times its program was executed.
    pub starts: u64,
    /// How it is, in its own words; empty if it has not said anything since it was executed.
    pub status: String,
    /// How many times it was started again by itself.
    pub restarts: u64,
    /// How many times on end, when it was executed last.
    pub restarts_on_end: u32,
    /// The last answer to a probe since it was executed. Who watches is not told of a new one.
    pub health: Option<Health>,
    /// What it does as a schedule.
    pub runs: Rare<Runs>,
}

impl View {
    /// A new instance.
    #[must_use]
    pub fn never_started() -> Self {
        Self {
            desired: Desired::Stopped,
            observed: Observed::Stopped { last_exit: None, at_ms: None },
            priority: Priority::Normal,
            starts: 0,
            status: String::new(),
            restarts: 0,
            restarts_on_end: 0,
            health: None,
            runs: Rare::default(),
        }
    }
}

/// What a schedule has done, and when it runs next. Times are milliseconds since 1970 (UTC).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Runs {
    /// All times up to this one have been dealt with; none if it is stopped.
    pub seen_ms: Option<u64>,
    /// When the run began that is under way.
    pub began_ms: Option<u64>,
    /// The next time.
    pub next_ms: Option<u64>,
    /// The last run that is over.
    pub last: Option<LastRun>,
    /// How many were left out because the one before was not over.
    pub skipped: u64,
}

impl Usual for Runs {
    const USUAL: &'static Self =
        &Self { seen_ms: None, began_ms: None, next_ms: None, last: None, skipped: 0 };
}

/// A start that went well.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Started {
    /// What follows now.
    pub what: Begun,
    /// False if it ran already when it was asked to; then its priority was not changed.
    pub changed: bool,
    /// What was asked for and could not be had, a sentence each.
    pub warnings: Vec<String>,
}

impl Started {
    /// The main process, if it runs.
    #[must_use]
    pub const fn pid(&self) -> Option<u32> {
        match self.what {
            Begun::Running { pid } => Some(pid),
            Begun::Scheduled | Begun::Queued => None,
        }
    }
}

/// What a start has led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Begun {
    /// It runs.
    Running {
        /// The main process.
        pid: u32,
    },
    /// It runs when it is time.
    Scheduled,
    /// It runs when the run that is under way is over.
    Queued,
}

/// Why an instance does not run although it was asked to.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum StartError {
    /// Its program could not be executed.
    #[error("{error}")]
    Failed {
        /// Why, with the errno in words.
        error: String,
    },
    /// A stop came before the start was done.
    #[error("it was stopped before it started")]
    Cancelled,
    /// [`WAITING`] requests to start it wait.
    #[error("too many requests to start it are waiting; try again later")]
    Busy,
    /// It is no longer kept.
    #[error("it has been removed")]
    Retired,
}

/// Why a stop was not even tried.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum StopError {
    /// [`WAITING`] requests to stop it wait.
    #[error("too many requests to stop it are waiting; try again later")]
    Busy,
    /// It is no longer kept.
    #[error("it has been removed")]
    Retired,
}

/// Why an instance is still kept.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum RetireError {
    /// Something of it is left, or is about to be executed.
    #[error("it is not stopped")]
    Running,
}

type StartAnswer = oneshot::Sender<Result<Started, StartError>>;
type StopAnswer = oneshot::Sender<Result<bool, StopError>>;

/// Small, because many may wait.
#[derive(Debug)]
enum Request {
    Start(Option<Priority>, StartAnswer),
    Restart(StartAnswer),
    Run(StartAnswer),
    Stop(StopAnswer),
    Suspend(StopAnswer),
    Kill(StopAnswer),
    Retire(oneshot::Sender<Result<(), RetireError>>),
    Said(Box<Said>),
    #[expect(clippy::box_collection, reason = "see above")]
    Blocked(Option<Box<String>>),
    RequirementLost(Box<(String, Effect)>),
    Rules(Rules),
}

/// What an instance says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Said {
    /// It is ready.
    Ready,
    /// It is well.
    Alive,
    /// It is not well, and is to be treated as if it had not said in time that it is.
    Unwell,
    /// It needs more time to become ready or to stop: this long from now.
    MoreTime(Duration),
    /// How it is, in its own words.
    Status(String),
}

impl Keeper {
    /// Keeps a new instance, which does not run yet. Must be called within a tokio runtime.
    pub fn spawn(rules: impl Into<Rules>, kernel: Arc<dyn Kernel>, hooks: impl Hooks) -> Self {
        Self::resume(rules, kernel, hooks, View::never_started())
    }

    /// Keeps an instance that another keeper left like this. Nothing of it is left, whatever
    /// `view` says; it is shown as it is there until something happens, desired or not. Must be
    /// called within a tokio runtime.
    pub fn resume(
        rules: impl Into<Rules>,
        kernel: Arc<dyn Kernel>,
        hooks: impl Hooks,
        view: View,
    ) -> Self {
        let (requests, inbox) = inbox(QUEUE);
        let shown = Shower::new(view);
        let view = shown.subscribe();
        let mut task = task::Task::new(rules.into(), kernel, Box::new(hooks), inbox, shown);
        task.interrupted();
        tokio::spawn(async move { task.run().await });
        Self { requests, view }
    }

    /// Keeps an instance whose program an earlier daemon has executed, and which may have ended
    /// since. `view` is how it is to be shown, running. If it is not desired, it is stopped. Must
    /// be called within a tokio runtime.
    pub fn adopt(
        rules: impl Into<Rules>,
        kernel: Arc<dyn Kernel>,
        hooks: impl Hooks,
        view: View,
        spawned: Spawned,
    ) -> Self {
        let (requests, inbox) = inbox(QUEUE);
        let shown = Shower::new(view);
        let view = shown.subscribe();
        let mut task = task::Task::new(rules.into(), kernel, Box::new(hooks), inbox, shown);
        tokio::spawn(async move {
            task.adopt(spawned).await;
            task.run().await;
        });
        Self { requests, view }
    }

    /// Keeps an instance whose main process has ended under an earlier daemon, as `view` says, and
    /// has left this behind: it is ended, as it would have been then. Must be called within a tokio
    /// runtime.
    pub fn clean_up(
        rules: impl Into<Rules>,
        kernel: Arc<dyn Kernel>,
        hooks: impl Hooks,
        view: View,
        rest: Arc<dyn Process>,
    ) -> Self {
        let (requests, inbox) = inbox(QUEUE);
        let shown = Shower::new(view);
        let view = shown.subscribe();
        let mut task = task::Task::new(rules.into(), kernel, Box::new(hooks), inbox, shown);
        task.interrupted();
        tokio::spawn(async move {
            task.clean_up(rest).await;
            task.run().await;
        });
        Self { requests, view }
    }

    /// Starts the instance, unless it runs, and waits until its program was executed. If it is
    /// stopping, it is started once that is done. No priority means that of its last start.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub async fn start(&self, priority: Option<Priority>) -> Result<Started, StartError> {
        self.ask(|answer| Request::Start(priority, answer))
            .await
            .unwrap_or(Err(StartError::Retired))
    }

    /// Stops the instance, if it runs, and starts it.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub async fn restart(&self) -> Result<Started, StartError> {
        self.ask(Request::Restart).await.unwrap_or(Err(StartError::Retired))
    }

    /// Has an instance that has a schedule run now, and waits until its program was executed, or
    /// it is known to be that later.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub async fn run(&self) -> Result<Started, StartError> {
        self.ask(Request::Run).await.unwrap_or(Err(StartError::Retired))
    }

    /// Stops the instance and waits until nothing of it is left. Answers whether there was
    /// anything to stop.
    ///
    /// # Errors
    ///
    /// See [`StopError`].
    pub async fn stop(&self) -> Result<bool, StopError> {
        self.ask(Request::Stop).await.unwrap_or(Err(StopError::Retired))
    }

    /// As [`stop`](Self::stop), because the daemon ends: what is desired stays as it is.
    ///
    /// # Errors
    ///
    /// See [`StopError`].
    pub async fn suspend(&self) -> Result<bool, StopError> {
        self.ask(Request::Suspend).await.unwrap_or(Err(StopError::Retired))
    }

    /// As [`suspend`](Self::suspend), but with SIGKILL at once.
    ///
    /// # Errors
    ///
    /// See [`StopError`].
    pub async fn kill(&self) -> Result<bool, StopError> {
        self.ask(Request::Kill).await.unwrap_or(Err(StopError::Retired))
    }

    /// The instance has said something of itself. In order for each caller.
    pub async fn said(&self, said: Said) {
        let _ = self.requests.send(Request::Said(Box::new(said))).await;
    }

    /// From now on the instance has to wait for this before it can be started; none is nothing.
    pub async fn block(&self, by: Option<String>) {
        let _ = self.requests.send(Request::Blocked(by.map(Box::new))).await;
    }

    /// As [`block`](Self::block), for a keeper that nobody else has asked for anything.
    pub fn block_now(&self, by: Option<String>) {
        if self.requests.try_send(Request::Blocked(by.map(Box::new))).is_err() {
            tracing::error!("a new keeper has no room for its first request");
        }
    }

    /// One that the instance needs has failed or was stopped, and this is what follows.
    pub async fn requirement_lost(&self, reason: String, effect: Effect) {
        let lost = Box::new((reason, effect));
        let _ = self.requests.send(Request::RequirementLost(lost)).await;
    }

    /// From now on the instance is supervised like this; at once, but that a stop that has begun
    /// is carried to its end.
    pub async fn set_rules(&self, rules: impl Into<Rules>) {
        let _ = self.requests.send(Request::Rules(rules.into())).await;
    }

    /// The instance as it is now. Never waits.
    #[must_use]
    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// The same, to wait for changes.
    #[must_use]
    pub(crate) fn watch(&self) -> Looker<View> {
        self.view.clone()
    }

    /// Ends the keeping of an instance of which nothing is left. All later requests, and those
    /// that wait behind this one, are answered with `Retired`. Does nothing the second time.
    ///
    /// # Errors
    ///
    /// See [`RetireError`].
    pub async fn retire(&self) -> Result<(), RetireError> {
        self.ask(Request::Retire).await.unwrap_or(Ok(()))
    }

    /// None if the keeper has gone.
    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(request(answer)).await.ok()?;
        answered.await.ok()
    }
}
