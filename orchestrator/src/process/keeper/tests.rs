//! The keeper above a kernel without processes.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use orchestrator_proto::control::{Exit, Supervision};
use orchestrator_proto::{InstanceId, Millis};

use super::super::fake::FakeKernel;
use super::*;

const TERM: i32 = 15;

fn rules() -> Supervision {
    let mut rules = Supervision::default();
    // Nobody waits for that.
    rules.stop.steps[0].wait = Millis::secs(3600);
    rules
}

const EXIT: Exit = Exit::Code(0);

#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<EventKind>>>);

impl Hooks for Recorder {
    fn launch(&self) -> Launch {
        Launch::new(InstanceId::from_bytes([1; 16]), "/bin/fake")
    }

    fn output(&self, _run: u64, _pipes: Option<(OwnedFd, OwnedFd)>) {}

    fn ask(&self, _: &Check, _: Duration, _: u64) -> Pending<Result<(), String>> {
        Box::pin(std::future::pending())
    }

    fn stop_command(&self, _: &[String], _: u64) -> Pending<Result<(), String>> {
        Box::pin(std::future::pending())
    }

    fn happened(&self, _view: Option<&View>, events: Vec<(EventKind, u64)>) {
        self.0.lock().unwrap().extend(events.into_iter().map(|(event, _)| event));
    }
}

fn keep(kernel: &FakeKernel) -> (Keeper, Recorder) {
    let recorder = Recorder::default();
    let keeper = Keeper::spawn(rules(), Arc::new(kernel.clone()), recorder.clone());
    (keeper, recorder)
}

/// A request that is on its way when this returns.
async fn under_way<T: Send + 'static>(
    request: impl Future<Output = T> + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    let handle = tokio::spawn(request);
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
    handle
}

macro_rules! ask {
    ($keeper:ident.$method:ident($($arg:expr),*)) => {{
        let keeper = $keeper.clone();
        under_way(async move { keeper.$method($($arg),*).await }).await
    }};
}

#[tokio::test]
async fn start_stop_and_what_is_seen_and_told() {
    let kernel = FakeKernel::new();
    let (keeper, recorder) = keep(&kernel);
    assert_eq!(keeper.view().observed.word(), "stopped");
    assert_eq!(keeper.stop().await, Ok(false));

    let started = keeper.start(Some(Priority::Low)).await.unwrap();
    assert!(started.changed);
    let view = keeper.view();
    assert_eq!(view.observed.pid(), started.pid());
    assert_eq!((view.desired, view.starts), (Desired::Running, 1));
    assert_eq!(kernel.launches()[0].priority, Priority::Low);
    let again = keeper.start(Some(Priority::High)).await.unwrap();
    assert!(!again.changed);
    assert_eq!(keeper.view().priority, Priority::Low);

    let stop = ask!(keeper.stop());
    let process = kernel.last();
    process.signalled(TERM).await;
    assert_eq!(keeper.view().observed.word(), "stopping");
    assert_eq!(keeper.view().desired, Desired::Stopped);
    assert_eq!(keeper.retire().await, Err(RetireError::Running));
    process.ends(EXIT);
    assert_eq!(stop.await.unwrap(), Ok(true));
    let Observed::Stopped { last_exit, at_ms } = keeper.view().observed else {
        panic!("{:?}", keeper.view());
    };
    assert_eq!((last_exit, at_ms.is_some()), (Some(EXIT), true));
    let events = recorder.0.lock().unwrap().clone();
    let pid = started.pid().unwrap();
    let requested = true;
    assert_eq!(
        events,
        [
            EventKind::Started { pid },
            EventKind::Stopping { signal: TERM },
            EventKind::Exited { exit: EXIT, requested },
            EventKind::Stopped
        ]
    );
    assert_eq!(keeper.retire().await, Ok(()));
    assert_eq!(keeper.retire().await, Ok(()));
    assert_eq!(keeper.start(None).await, Err(StartError::Retired));
    assert_eq!(keeper.stop().await, Err(StopError::Retired));
}

#[tokio::test]
async fn who_does_not_listen_is_killed_in_time() {
    let kernel = FakeKernel::new();
    let recorder = Recorder::default();
    let mut rules = rules();
    rules.stop.steps[0].wait = Millis(50);
    let keeper = Keeper::spawn(rules, Arc::new(kernel.clone()), recorder.clone());
    keeper.start(None).await.unwrap();
    let before = Instant::now();
    assert_eq!(keeper.stop().await, Ok(true));
    assert!(before.elapsed() >= Duration::from_millis(50));
    assert!(recorder.0.lock().unwrap().contains(&EventKind::Killed));

    let (keeper, recorder) = keep(&kernel);
    keeper.start(None).await.unwrap();
    // Nobody waits for its stop timeout.
    assert_eq!(keeper.kill().await, Ok(true));
    assert!(!recorder.0.lock().unwrap().contains(&EventKind::Killed));
}

#[tokio::test]
async fn a_stop_while_a_start_waits() {
    let kernel = FakeKernel::holding();
    let (keeper, _) = keep(&kernel);
    let first = ask!(keeper.start(None));
    let second = ask!(keeper.start(None));
    assert_eq!(keeper.view().observed.word(), "starting");
    let stop = ask!(keeper.stop());
    assert_eq!(first.await.unwrap(), Err(StartError::Cancelled));
    assert_eq!(second.await.unwrap(), Err(StartError::Cancelled));
    assert!(!stop.is_finished());
    kernel.answer(true).await;
    let mut view = keeper.watch();
    view.wait_for(|view| view.starts == 1).await.unwrap();
    kernel.last().signalled(TERM).await;
    kernel.last().ends(EXIT);
    assert_eq!(stop.await.unwrap(), Ok(true));
}

#[tokio::test]
async fn a_start_that_fails_says_why() {
    let kernel = FakeKernel::holding();
    let (keeper, recorder) = keep(&kernel);
    let start = ask!(keeper.start(None));
    kernel.answer(false).await;
    let error = r#"cannot execute "/bin/fake": No such file or directory (ENOENT)"#.to_owned();
    let failed = StartError::Failed { error: error.clone() };
    assert_eq!(start.await.unwrap(), Err(failed));
    assert_eq!(keeper.view().observed.word(), "failed");
    let events = recorder.0.lock().unwrap().clone();
    let reason = error.clone();
    assert_eq!(events, [EventKind::StartFailed { error }, EventKind::Failed { reason }]);
    assert_eq!(keeper.stop().await, Ok(false));
    assert_eq!(keeper.view().observed.word(), "stopped");
}

#[tokio::test]
async fn a_restart_and_a_start_while_stopping_make_a_new_process() {
    let kernel = FakeKernel::new();
    let (keeper, _) = keep(&kernel);
    let first = keeper.start(None).await.unwrap().pid();
    let restart = ask!(keeper.restart());
    kernel.last().ends(EXIT);
    let second = restart.await.unwrap().unwrap();
    assert!(second.changed && second.pid() != first);

    let stop = ask!(keeper.stop());
    let start = ask!(keeper.start(Some(Priority::Low)));
    assert!(!stop.is_finished() && !start.is_finished());
    kernel.last().ends(EXIT);
    assert_eq!(stop.await.unwrap(), Ok(true));
    assert_ne!(start.await.unwrap().unwrap().pid(), second.pid());
    assert_eq!(keeper.view().starts, 3);
    assert_eq!(kernel.launches()[2].priority, Priority::Low);
}

#[tokio::test]
async fn what_the_main_process_leaves_behind() {
    let kernel = FakeKernel::new();
    let (keeper, _) = keep(&kernel);
    keeper.start(None).await.unwrap();
    kernel.last().others(2);
    kernel.last().ends(Exit::Code(3));
    kernel.last().signalled(TERM).await;
    let view = keeper.view();
    assert_eq!((view.observed.word(), view.observed.pid()), ("stopping", None));
    assert_eq!(view.desired, Desired::Running);
    kernel.last().others(0);
    let mut views = keeper.watch();
    let view = views.wait_for(|view| view.observed.word() == "failed").await;
    assert_eq!(view.unwrap().observed.ended(), Some(Exit::Code(3)));
}

#[tokio::test]
async fn waiting_is_bounded() {
    let kernel = FakeKernel::holding();
    let (keeper, _) = keep(&kernel);
    let mut waiting = Vec::new();
    for _ in 0..=WAITING {
        waiting.push(ask!(keeper.start(None)));
    }
    let last = waiting.pop().unwrap();
    assert_eq!(last.await.unwrap(), Err(StartError::Busy));
    kernel.answer(true).await;
    for start in waiting {
        assert!(start.await.unwrap().unwrap().changed);
    }
}

#[tokio::test]
async fn an_abandoned_instance_is_stopped() {
    let kernel = FakeKernel::new();
    let (keeper, _) = keep(&kernel);
    keeper.start(None).await.unwrap();
    let mut view = keeper.watch();
    drop(keeper);
    kernel.last().signalled(TERM).await;
    kernel.last().ends(EXIT);
    while view.changed().await.is_ok() {}
    assert_eq!(view.borrow().observed.word(), "stopped");
}

#[tokio::test]
async fn an_end_of_the_daemon_changes_nothing_that_is_desired() {
    for kill in [false, true] {
        let kernel = FakeKernel::new();
        let (keeper, _) = keep(&kernel);
        keeper.start(None).await.unwrap();
        let suspend = match kill {
            true => ask!(keeper.kill()),
            false => ask!(keeper.suspend()),
        };
        kernel.last().ends(EXIT);
        assert_eq!(suspend.await.unwrap(), Ok(true));
        let view = keeper.view();
        assert_eq!((view.desired, view.observed.word()), (Desired::Running, "stopped"));
        // Unless somebody says so meanwhile.
        assert_eq!(keeper.stop().await, Ok(false));
        assert_eq!(keeper.view().desired, Desired::Stopped);
    }
}

#[tokio::test]
async fn an_instance_goes_on_as_another_keeper_left_it() {
    let kernel = FakeKernel::new();
    let (exit, at_ms) = (Exit::Code(3), 7);
    let left = [
        (Desired::Running, Observed::Stopped { last_exit: Some(exit), at_ms: Some(at_ms) }),
        (Desired::Running, Observed::Completed { exit, at_ms }),
        (Desired::Running, Observed::Failed { reason: "no".into(), exit: None, at_ms }),
        (Desired::Stopped, Observed::Stopped { last_exit: None, at_ms: None }),
    ];
    for (desired, observed) in left {
        let view =
            View { desired, observed, priority: Priority::Low, starts: 8, ..View::never_started() };
        let recorder = Recorder::default();
        let keeper =
            Keeper::resume(rules(), Arc::new(kernel.clone()), recorder.clone(), view.clone());
        assert_eq!(keeper.view(), view);
        keeper.start(None).await.unwrap();
        assert_eq!((keeper.view().starts, keeper.view().priority), (9, Priority::Low));
        kernel.last().ends(EXIT);
        let mut views = keeper.watch();
        views.wait_for(|view| view.observed.word() == "completed").await.unwrap();
        // A stop now says so, and knows how it ended.
        assert_eq!(keeper.stop().await, Ok(false));
        let Observed::Stopped { last_exit, .. } = keeper.view().observed else {
            panic!("{:?}", keeper.view());
        };
        assert_eq!((last_exit, keeper.view().desired), (Some(EXIT), Desired::Stopped));
    }
}
