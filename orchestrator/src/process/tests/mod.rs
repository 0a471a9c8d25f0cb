//! Against the real kernel, with real programs.

mod held;
mod launch;
mod listen;
mod tree;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use orchestrator_proto::control::{Check, EventKind, Exit, Observed, Supervision};
use tokio::sync::{mpsc, watch};

use super::procfs::Stat;
use super::*;
use crate::holder::start_holder;

const TERM: i32 = 15;
const KILL: i32 = 9;

/// No test takes this long; it is there to end one that hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// A stop timeout that no test waits for.
const LONG: Duration = Duration::from_secs(3600);

/// A stop timeout that a test does wait for.
const SHORT: Duration = Duration::from_millis(100);

struct Probe {
    launch: Launch,
    lines: mpsc::Sender<String>,
    events: watch::Sender<Vec<EventKind>>,
}

impl Hooks for Probe {
    fn launch(&self) -> Launch {
        self.launch.clone()
    }

    fn output(&self, _run: u64, pipes: Option<(OwnedFd, OwnedFd)>) {
        let (stdout, stderr) = pipes.unwrap();
        for pipe in [stdout, stderr] {
            let lines = self.lines.clone();
            rustix::fs::fcntl_setfl(&pipe, rustix::fs::OFlags::empty()).unwrap();
            std::thread::spawn(move || {
                for line in BufReader::new(File::from(pipe)).lines() {
                    let _ = lines.blocking_send(line.unwrap());
                }
            });
        }
    }

    fn ask(&self, _: &Check, _: Duration, _: u64) -> Pending<Result<(), String>> {
        Box::pin(std::future::pending())
    }

    fn stop_command(&self, _: &[String], _: u64) -> Pending<Result<(), String>> {
        Box::pin(std::future::pending())
    }

    fn happened(&self, _view: Option<&View>, news: Vec<(EventKind, u64)>) {
        self.events.send_modify(|events| events.extend(news.into_iter().map(|(event, _)| event)));
    }
}

/// A keeper and what its instance says and does.
struct Kept {
    keeper: Keeper,
    lines: mpsc::Receiver<String>,
    events: watch::Receiver<Vec<EventKind>>,
}

impl Kept {
    fn new(kernel: Linux, launch: Launch, stop_timeout: Duration) -> Self {
        let (lines, printed) = mpsc::channel(1000);
        let (events, happened) = watch::channel(Vec::new());
        let mut config = Supervision::default();
        config.stop.steps[0].wait = stop_timeout.into();
        let probe = Probe { launch, lines, events };
        Self {
            keeper: Keeper::spawn(config, Arc::new(kernel), probe),
            lines: printed,
            events: happened,
        }
    }

    fn shell(script: &str, stop_timeout: Duration) -> Self {
        Self::new(linux(), sh(script), stop_timeout)
    }

    async fn line(&mut self) -> String {
        let line = within(self.lines.recv()).await;
        line.expect("a line")
    }

    /// A line that is a number.
    async fn number(&mut self) -> i32 {
        self.line().await.trim().parse().unwrap()
    }

    async fn start(&self) -> i32 {
        let started = within(self.keeper.start(None)).await.unwrap();
        assert_eq!(started.warnings, Vec::<String>::new());
        i32::try_from(started.pid().unwrap()).unwrap()
    }

    async fn stop(&self) -> bool {
        within(self.keeper.stop()).await.unwrap()
    }

    /// Waits until it has ended by itself.
    async fn exited(&self) -> Exit {
        let mut views = self.keeper.watch();
        let view = within(views.wait_for(|view| view.observed.ended().is_some())).await;
        view.unwrap().observed.ended().unwrap()
    }

    fn last_exit(&self) -> Exit {
        match self.keeper.view().observed {
            Observed::Stopped { last_exit: Some(exit), .. } => exit,
            other => panic!("{other:?}"),
        }
    }

    fn happened(&self, event: &EventKind) -> bool {
        self.events.borrow().contains(event)
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("in time")
}

fn sh(script: &str) -> Launch {
    Launch { args: vec!["-c".into(), script.into()], ..program("/bin/sh") }
}

/// A program of an instance of its own.
fn program(path: impl Into<PathBuf>) -> Launch {
    Launch::new(InstanceId::generate(), path)
}

/// A holder for this test alone.
fn linux() -> Linux {
    Linux::attach(start_holder()).unwrap()
}

const fn signal(signal: i32) -> Exit {
    Exit::Signal { signal, core_dumped: false }
}

/// Whether a process is there and is not a zombie.
fn is_alive(pid: i32) -> bool {
    Stat::of(pid).is_some_and(|stat| stat.is_alive())
}

/// Both ways to reach a group: this kernel's, and the older one.
fn kernels() -> [Linux; 2] {
    [linux(), Linux::attach_before_6_9(start_holder()).unwrap()]
}

fn kill(pid: i32) {
    let pid = nix::unistd::Pid::from_raw(pid);
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
}

/// A test that failed leaves nothing behind.
impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(pid) = self.keeper.view().observed.pid() {
            kill(-pid.cast_signed());
        }
    }
}
