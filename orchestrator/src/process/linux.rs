//! The real kernel: programs are executed by the holder, which also collects their ends and
//! tells of them. What is said to it goes over a [`Link`].

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use orchestrator_proto::InstanceId;
use orchestrator_proto::control::Limits;
use tokio::sync::{Notify, Semaphore, oneshot};

use super::cgroup::{CgroupChoice, Cgroups, Remnant, Standing};
use super::group::{Calls, LinuxProcess};
use super::keeping::{Keeping, Wish};
use super::link::{Link, Refusal, SERVICES, read};
use super::prepare::Surroundings;
use super::rest::Rest;
use super::{Exited, Kernel, Launch, Part, Pending, Process, SpawnError, Spawned, Stray, sys};
use crate::holder::PLACES;
use crate::holder::frame::{self, Name, Order, Stage};
use crate::holder::image::{self, Program};

/// This machine's kernel, reached through the holder. Clones are the same.
#[derive(Clone, Debug)]
pub struct Linux(Arc<Link>);

/// What the holder says first.
#[derive(Debug)]
pub struct Greeting {
    /// Whether there is a daemon, whose place this one is to take. Then nothing is told of what
    /// there is until [`Linux::able`] was said, and the other daemon has ended.
    pub successor: bool,
    left: oneshot::Receiver<Left>,
}

impl Greeting {
    /// Waits for what an earlier daemon has left.
    ///
    /// # Errors
    ///
    /// When the holder has gone, or speaks another language.
    pub async fn left(self) -> io::Result<Left> {
        self.left.await.map_err(|_| not_understood())
    }
}

fn not_understood() -> io::Error {
    io::Error::other("it has ended, or speaks another language")
}

/// What an earlier daemon has left.
#[derive(Debug, Default)]
pub struct Left {
    /// Programs that it had executed and of whose end it had not taken note.
    pub survivors: Vec<Survivor>,
    /// Files that it had had kept.
    pub files: HashMap<Name, OwnedFd>,
}

/// A program that an earlier daemon had executed.
#[derive(Debug)]
pub struct Survivor {
    /// Whose program.
    pub instance: InstanceId,
    /// The same as if it had been executed now. It may have ended since.
    pub spawned: Spawned,
}

impl Linux {
    /// Takes up the connection to the holder, the other end of which is `socket`. Must be called
    /// within a tokio runtime.
    ///
    /// # Errors
    ///
    /// When it is no connection of that kind, or the runtime has no room for it.
    pub fn attach(socket: OwnedFd) -> io::Result<Self> {
        Self::attach_with(socket, Calls::Current)
    }

    /// The same, but with only the calls of a kernel before Linux 6.9.
    #[cfg(test)]
    pub(super) fn attach_before_6_9(socket: OwnedFd) -> io::Result<Self> {
        Self::attach_with(socket, Calls::Before6_9)
    }

    fn attach_with(socket: OwnedFd, calls: Calls) -> io::Result<Self> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let link = Arc::new(Link {
            holder: getsockopt(&socket, PeerCredentials)?.pid(),
            socket: sys::readable(socket)?,
            table: Mutex::default(),
            keeping: Keeping::default(),
            ended_some: Notify::new(),
            surroundings: Arc::new(Surroundings::own()),
            places: Semaphore::new(PLACES),
            arrived: AtomicU64::new(0),
            nice: rustix::process::getpriority_process(None)?,
            // No number of an earlier daemon's.
            next_run: AtomicU64::new(u64::try_from(since.as_nanos()).unwrap_or(0)),
            calls,
            cgroups: OnceLock::new(),
            noted: OnceLock::new(),
        });
        tokio::spawn(read(Arc::clone(&link)));
        Ok(Self(link))
    }

    /// Makes the cgroups of instances, where the daemon with this state directory may, and moves it
    /// and its holder to their own. To be called once, before anything is spawned. Without it there
    /// are none.
    pub fn settle(&self, choice: &CgroupChoice, state: &Path) {
        let cgroups = Cgroups::settle(choice, state, self.0.holder);
        let _ = self.0.cgroups.set(Arc::new(cgroups));
        // What runs already is where it is: nobody else is to end it.
        let groups: Vec<_> = self.0.table().groups.values().filter_map(Weak::upgrade).collect();
        for group in groups {
            group.others();
        }
    }

    /// Where cgroups of instances are made and what can be limited there, or why that is nowhere.
    #[must_use]
    pub fn cgroups(&self) -> Standing {
        self.0.cgroups().map_or_else(
            || Standing::Nowhere { why: "the daemon has not looked for a place yet".into() },
            |cgroups| cgroups.standing(),
        )
    }

    /// Everything has ended: the daemon and its holder go back to the cgroup in which they were
    /// started, and leave none behind.
    pub fn leave_cgroups(&self) {
        if let Some(cgroups) = self.0.cgroups() {
            cgroups.leave(self.0.holder);
        }
    }

    /// Says hello to the holder, and asks it for what an earlier daemon has left. To be called
    /// once, before anything is spawned.
    ///
    /// # Errors
    ///
    /// When the holder has gone, or speaks another language.
    pub async fn greet(&self) -> io::Result<Greeting> {
        let (welcome, welcomed) = oneshot::channel();
        let (answer, left) = oneshot::channel();
        {
            let mut table = self.0.table();
            table.welcome = Some(welcome);
            table.left = Some((Left::default(), answer));
        }
        self.0.order(Order::Hello { protocol: frame::PROTOCOL }, &[], &[]).await?;
        let successor = welcomed.await.map_err(|_| not_understood())?;
        Ok(Greeting { successor, left })
    }

    /// Executes this program, even if its file was replaced in the meantime, as something that
    /// serves this daemon and those after it: with this variable set and no other, this as its
    /// standard input, and nobody who reads its output. Does not wait for anything.
    ///
    /// # Errors
    ///
    /// When the holder does not keep up, or has gone.
    pub fn serve(&self, variable: (&str, &str), stdin: &OwnedFd) -> io::Result<()> {
        let link = &self.0;
        let program = Program {
            path: OsStr::new("/proc/self/exe"),
            cwd: OsStr::new("/"),
            args: &[OsStr::new("orchestrator-capture")],
            env: &[image::variable(OsStr::new(variable.0), OsStr::new(variable.1))],
            attributes: None,
        };
        let image = program.image().map_err(io::Error::other)?;
        let tag = link.next_run.fetch_add(1, Ordering::Relaxed);
        let child = Name { key: SERVICES, tag };
        let order = Order::Spawn {
            child,
            nice: link.nice,
            image: false,
            stdin: true,
            cgroup: false,
            listeners: 0,
        };
        link.try_order(order, &image, &[stdin.as_fd()])
    }

    /// What is asked before the holder is told that it can forget ends that were passed on:
    /// whether they are kept. To be called once; until then the holder remembers them all.
    pub fn forget_when(&self, noted: impl Fn() -> Pending<bool> + Send + Sync + 'static) {
        let _ = self.0.noted.set(Box::new(noted));
    }

    /// Tells the holder that this daemon is at work, so that it is started again when it ends
    /// without having meant it.
    ///
    /// # Errors
    ///
    /// When the holder has gone.
    pub async fn ready(&self) -> io::Result<()> {
        self.0.order(Order::Ready, &[], &[]).await
    }

    /// Tells the holder that the end of this daemon is to be the end of everything.
    ///
    /// # Errors
    ///
    /// When the holder has gone.
    pub async fn end(&self) -> io::Result<()> {
        self.0.order(Order::End, &[], &[]).await
    }

    pub(super) fn next_run(&self) -> u64 {
        self.0.next_run.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn calls(&self) -> Calls {
        self.0.calls
    }

    pub(super) fn link(&self) -> Arc<Link> {
        Arc::clone(&self.0)
    }

    /// The holder's process number.
    #[must_use]
    pub fn holder(&self) -> i32 {
        self.0.holder
    }
}

/// Whether the holder was not there any more to take an order.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

impl Kernel for Linux {
    fn spawn(&self, launch: Launch) -> Pending<Result<Spawned, SpawnError>> {
        let link = Arc::clone(&self.0);
        Box::pin(async move {
            if !launch.program.is_absolute() {
                return Err(SpawnError::NotAbsolute { program: launch.program });
            }
            if let Err(reason) = &launch.listeners {
                let reason = reason.clone();
                return Err(SpawnError::Listen { program: launch.program, reason });
            }
            let surroundings = Arc::clone(&link.surroundings);
            let (launch, prepared) = if surroundings.may_block(&launch) {
                let program = launch.program.clone();
                let preparing = move || {
                    let prepared = surroundings.prepare(&launch);
                    (launch, prepared)
                };
                let prepared = tokio::task::spawn_blocking(preparing).await;
                prepared.map_err(|_| SpawnError::Ending { program })?
            } else {
                let prepared = surroundings.prepare(&launch);
                (launch, prepared)
            };
            let prepared = match prepared {
                Ok(prepared) => prepared,
                Err(source) => {
                    return Err(SpawnError::NotPrepared { program: launch.program, source });
                }
            };
            if let Some(unmet) = link.refusal(&launch) {
                return Err(SpawnError::Limits { program: launch.program, unmet });
            }
            match link.spawn(&launch, &prepared).await {
                Ok(mut born) => match born.claim.0.take() {
                    Some(group) => Ok(Spawned {
                        run: group.run(),
                        process: Arc::new(LinuxProcess(group)),
                        output: Some((born.stdout, born.stderr)),
                        exited: Exited::new(born.exited),
                        warnings: {
                            let priority = link.warning(launch.priority, born.warning);
                            let unmet = link.unmet(launch.instance, true);
                            prepared.warnings.into_iter().chain(priority).chain(unmet).collect()
                        },
                    }),
                    None => Err(SpawnError::Ending { program: launch.program }),
                },
                // So is this daemon about to, and whether the program was executed is not known.
                Err(None) => std::future::pending().await,
                Err(Some(Refusal { stage: Stage::Image, error })) if is_gone(&error) => {
                    std::future::pending().await
                }
                Err(Some(Refusal { stage, error })) => {
                    let program = launch.program.clone();
                    let look = move || SpawnError::diagnose(&launch, stage, error);
                    let found = tokio::task::spawn_blocking(look).await;
                    Err(found.unwrap_or(SpawnError::Ending { program }))
                }
            }
        })
    }

    fn adopt(
        &self,
        instance: InstanceId,
        part: Part,
        pid: u32,
        start_ticks: u64,
    ) -> io::Result<Option<Spawned>> {
        Self::adopt(self, instance, part, pid, start_ticks)
    }

    fn rest(
        &self,
        instance: InstanceId,
        pid: u32,
        start_ticks: u64,
    ) -> io::Result<Option<Arc<dyn Process>>> {
        if let Some(leaf) = self.0.cgroups().and_then(|cgroups| cgroups.rest(instance)) {
            return Ok(Some(Arc::new(Remnant::new(leaf, pid))));
        }
        let found = Rest::find(instance, pid, start_ticks)?;
        Ok(found.map(|rest| Arc::new(rest) as Arc<dyn Process>))
    }

    fn limit(&self, instance: InstanceId, limits: &Limits) {
        if let Some(cgroups) = self.0.cgroups() {
            cgroups.limit(instance, limits);
        }
    }

    fn unlimit(&self, instance: InstanceId) {
        if let Some(cgroups) = self.0.cgroups() {
            cgroups.forget(instance);
        }
    }

    fn unmet(&self, instance: InstanceId, runs: bool) -> Vec<String> {
        self.0.unmet(instance, runs)
    }

    fn tidy(&self) {
        let Some(cgroups) = self.0.cgroups() else { return };
        for (instance, leaf) in cgroups.tidy() {
            tracing::warn!(%instance, "killed what was left of an earlier execution");
            // Dropped when nobody is in it any more, so that it is removed.
            tokio::spawn(async move { leaf.emptied().await });
        }
    }

    fn number_beyond(&self, run: u64) {
        self.0.next_run.fetch_max(run.saturating_add(1), Ordering::Relaxed);
    }

    fn strays(&self) -> Vec<Stray> {
        super::orphan::strays(self.0.holder)
    }

    fn keep(&self, name: Name, file: OwnedFd) {
        self.0.keep(name, Wish::Keep(file));
    }

    fn forget(&self, name: Name) {
        self.0.table().deposits.forget(name);
        self.0.keep(name, Wish::Forget);
    }

    fn deposit(&self, name: Name, file: OwnedFd) {
        self.0.deposit(name, file);
    }

    fn is_deposited(&self, name: Name, file: OwnedFd) {
        self.0.is_deposited(name, file);
    }

    fn fetch(&self, name: Name) -> Pending<io::Result<Option<OwnedFd>>> {
        let link = Arc::clone(&self.0);
        Box::pin(async move { link.fetch(name).await })
    }
}
