//! A kernel without processes, for tests of what is above it. The test decides what happens.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use orchestrator_proto::control::Exit;
use tokio::sync::{oneshot, watch};

use super::{Ended, Exited, Kernel, Launch, Pending, Process, SpawnError, Spawned};
use crate::supervise::SIGKILL;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct FakeKernel(Arc<watch::Sender<State>>);

#[derive(Debug, Default)]
struct State {
    /// Spawns are answered one by one, by [`FakeKernel::answer`].
    held: bool,
    orders: VecDeque<(Launch, oneshot::Sender<Result<Spawned, SpawnError>>)>,
    processes: Vec<FakeProcess>,
    launches: Vec<Launch>,
}

/// A process of it.
#[derive(Clone, Debug)]
pub(crate) struct FakeProcess {
    pid: u32,
    /// Members of the group besides the main process.
    others: Arc<watch::Sender<u32>>,
    signals: Arc<watch::Sender<Vec<i32>>>,
    exit: Arc<Mutex<Option<oneshot::Sender<Ended>>>>,
}

impl FakeKernel {
    /// Every spawn works at once.
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(State::default())))
    }

    /// Every spawn waits for [`answer`](Self::answer).
    pub(crate) fn holding() -> Self {
        let kernel = Self::new();
        kernel.0.send_modify(|state| state.held = true);
        kernel
    }

    /// Waits for a spawn that is held, and lets it work or fail.
    pub(crate) async fn answer(&self, works: bool) {
        let mut state = self.0.subscribe();
        let _ = state.wait_for(|state| !state.orders.is_empty()).await;
        let mut order = None;
        self.0.send_modify(|state| order = state.orders.pop_front());
        if let Some((launch, answer)) = order {
            let _ = answer.send(self.born(&launch, works));
        }
    }

    /// Every launch so far.
    pub(crate) fn launches(&self) -> Vec<Launch> {
        self.0.borrow().launches.clone()
    }

    /// The process that was spawned last.
    pub(crate) fn last(&self) -> FakeProcess {
        self.0.borrow().processes.last().cloned().expect("a process")
    }

    fn born(&self, launch: &Launch, works: bool) -> Result<Spawned, SpawnError> {
        if !works {
            return Err(SpawnError::Program {
                program: launch.program.clone(),
                source: Errno::ENOENT.into(),
                hint: String::new(),
            });
        }
        let (exit, exited) = oneshot::channel();
        let number = self.0.borrow().processes.len();
        let process = FakeProcess {
            pid: 1000 + u32::try_from(number).expect("few"),
            others: Arc::new(watch::Sender::new(0)),
            signals: Arc::new(watch::Sender::new(Vec::new())),
            exit: Arc::new(Mutex::new(Some(exit))),
        };
        let alive = |p: &FakeProcess| p.exit().is_some() || *p.others.borrow() > 0;
        assert!(!self.0.borrow().processes.iter().any(alive), "two at once");
        self.0.send_modify(|state| state.processes.push(process.clone()));
        Ok(Spawned {
            run: number as u64,
            process: Arc::new(process),
            output: Some((nothing(), nothing())),
            exited: Exited::new(exited),
            warnings: Vec::new(),
        })
    }
}

fn nothing() -> OwnedFd {
    File::open("/dev/null").expect("/dev/null").into()
}

impl Kernel for FakeKernel {
    fn spawn(&self, launch: Launch) -> Pending<Result<Spawned, SpawnError>> {
        self.0.send_modify(|state| state.launches.push(launch.clone()));
        let (answer, answered) = oneshot::channel();
        if self.0.borrow().held {
            self.0.send_modify(|state| state.orders.push_back((launch, answer)));
        } else {
            let _ = answer.send(self.born(&launch, true));
        }
        Box::pin(async move { answered.await.expect("an answer") })
    }
}

impl FakeProcess {
    fn exit(&self) -> MutexGuard<'_, Option<oneshot::Sender<Ended>>> {
        self.exit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The main process ends.
    pub(crate) fn ends(&self, exit: Exit) {
        if let Some(tell) = self.exit().take() {
            let _ = tell.send(Ended { exit, time_ms: 1 });
        }
    }

    /// Sets how many other members the group has.
    pub(crate) fn others(&self, number: u32) {
        self.others.send_replace(number);
    }

    /// Waits until it has got this signal.
    pub(crate) async fn signalled(&self, signal: i32) {
        let mut signals = self.signals.subscribe();
        let _ = signals.wait_for(|all| all.contains(&signal)).await;
    }
}

impl Process for FakeProcess {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn signal_tree(&self, signal: i32) -> Pending<io::Result<bool>> {
        self.signals.send_modify(|all| all.push(signal));
        if signal == SIGKILL {
            self.others(0);
            self.ends(Exit::Signal { signal, core_dumped: false });
        }
        Box::pin(async { Ok(true) })
    }

    fn tree_empty(&self) -> Pending<io::Result<bool>> {
        let empty = *self.others.borrow() == 0;
        Box::pin(async move { Ok(empty) })
    }

    fn tree_gone(&self) -> Pending<()> {
        let mut others = self.others.subscribe();
        Box::pin(async move {
            let _ = others.wait_for(|number| *number == 0).await;
        })
    }
}
