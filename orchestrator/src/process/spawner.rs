//! The thread that executes programs and collects their exits.
//!
//! Both in one thread, so that a process is known before its exit can be collected. This is
//! the seam at which the holder will take over: it will answer the same two messages over a
//! socket.

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::prctl;
use nix::sys::signal::SigSet;
use orchestrator_proto::control::{Exit, Priority};
use signal_hook::consts::{FORBIDDEN, SIGCHLD, SIGPIPE};
use tokio::sync::{mpsc, oneshot};

use super::group::{Calls, Group, LinuxProcess, Number};
use super::{Kernel, Launch, NOT_INHERITED, Pending, SpawnError, Spawned, files, procfs, sys};
use crate::supervise::SIGKILL;

/// Programs that may wait to be executed. More wait where they are asked for.
const QUEUE: usize = 64;

/// The real [`Kernel`]: this machine's.
#[derive(Clone, Debug)]
pub struct Linux {
    orders: mpsc::Sender<Order>,
    wake: Arc<EventFd>,
    calls: Calls,
}

#[derive(Debug)]
struct Order {
    launch: Launch,
    calls: Calls,
    answer: oneshot::Sender<io::Result<Born>>,
}

#[derive(Debug)]
struct Born {
    claim: Claim,
    stdout: OwnedFd,
    stderr: OwnedFd,
    exited: oneshot::Receiver<Exit>,
    warnings: Vec<String>,
}

/// A group that its asker has not taken. If that never happens, because the asker has gone,
/// nobody else could ever stop it.
#[derive(Debug)]
struct Claim(Option<Arc<Group>>);

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(group) = &self.0 {
            let _ = group.signal_at_once(SIGKILL);
        }
    }
}

impl Linux {
    /// Starts the thread; from the second time on, answers with the first one, because
    /// children belong to the whole process.
    ///
    /// From then on this process adopts the orphans below it (`PR_SET_CHILD_SUBREAPER`),
    /// collects every child's exit (so that `std::process::Child::wait` fails), and passes on
    /// no open file and no ignored signal to a program that it executes.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a thread, a file descriptor or a signal handler.
    pub fn start() -> io::Result<Self> {
        static FIRST: Mutex<Option<Linux>> = Mutex::new(None);
        let mut first = FIRST.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(linux) = &*first {
            return Ok(linux.clone());
        }
        let linux = Self::start_first()?;
        *first = Some(linux.clone());
        Ok(linux)
    }

    fn start_first() -> io::Result<Self> {
        prctl::set_child_subreaper(true)?;
        pass_on_no_files()?;
        pass_on_no_ignored_signals()?;
        let (sigchld, writer) = UnixStream::pair()?;
        sigchld.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(SIGCHLD, writer)?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = Arc::new(EventFd::from_flags(flags)?);
        let (orders, inbox) = mpsc::channel(QUEUE);
        let spawner = Spawner {
            inbox,
            wake: Arc::clone(&wake),
            sigchld,
            children: HashMap::new(),
            groups: HashMap::new(),
        };
        thread::Builder::new().name("spawner".into()).spawn(move || spawner.run())?;
        Ok(Self { orders, wake, calls: Calls::Current })
    }

    /// The same, but with only the calls of a kernel before Linux 6.9.
    #[cfg(test)]
    pub(super) fn before_6_9(mut self) -> Self {
        self.calls = Calls::Before6_9;
        self
    }
}

impl Kernel for Linux {
    fn spawn(&self, launch: Launch) -> Pending<Result<Spawned, SpawnError>> {
        let this = self.clone();
        Box::pin(async move {
            let program = launch.program.clone();
            if !program.is_absolute() {
                return Err(SpawnError::NotAbsolute { program });
            }
            let (answer, born) = oneshot::channel();
            let calls = this.calls;
            let kept = launch.clone();
            let order = Order { launch, calls, answer };
            if this.orders.send(order).await.is_err() || this.wake.write(1).is_err() {
                return Err(SpawnError::Ending { program });
            }
            match born.await {
                Ok(Ok(mut born)) => match born.claim.0.take() {
                    Some(group) => Ok(Spawned {
                        process: Arc::new(LinuxProcess(group)),
                        stdout: born.stdout,
                        stderr: born.stderr,
                        exited: born.exited,
                        warnings: born.warnings,
                    }),
                    None => Err(SpawnError::Ending { program }),
                },
                Ok(Err(error)) => {
                    let look = move || SpawnError::diagnose(&kept, error);
                    let found = tokio::task::spawn_blocking(look).await;
                    Err(found.unwrap_or(SpawnError::Ending { program }))
                }
                Err(_) => Err(SpawnError::Ending { program }),
            }
        })
    }
}

/// A child that has not been collected.
struct Child {
    group: Arc<Group>,
    exited: oneshot::Sender<Exit>,
}

struct Spawner {
    inbox: mpsc::Receiver<Order>,
    wake: Arc<EventFd>,
    sigchld: UnixStream,
    children: HashMap<i32, Child>,
    /// Groups that somebody still cares for, by number, to tell them when it is reused.
    groups: HashMap<i32, Weak<Group>>,
}

/// Without this thread no exit would ever be known again, and the daemon's word would be
/// worth nothing; so the daemon ends, and the holder with everything else.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

impl Spawner {
    fn run(mut self) {
        let _guard = AbortOnPanic;
        // Every program inherits this thread's mask.
        if let Err(error) = SigSet::empty().thread_set_mask() {
            tracing::error!(%error, "cannot unblock signals");
        }
        loop {
            self.wait();
            self.collect();
            loop {
                match self.inbox.try_recv() {
                    Ok(order) => self.carry_out(order),
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    Err(mpsc::error::TryRecvError::Disconnected) => return,
                }
                // A long queue of programs must not delay the news of an exit.
                self.collect();
            }
        }
    }

    /// Waits for an order or a SIGCHLD.
    fn wait(&mut self) {
        let mut files = [
            PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.sigchld.as_fd(), PollFlags::POLLIN),
        ];
        // An error can only be EINTR or ENOMEM; to look once too often does no harm.
        let _ = poll(&mut files, PollTimeout::NONE);
        let _ = self.wake.read();
        let mut bytes = [0; 256];
        while self.sigchld.read(&mut bytes).is_ok_and(|n| n == bytes.len()) {}
    }

    /// Collects every child that has ended, ours and adopted ones. The news goes out when all
    /// are collected, so that who looks at a group then sees no zombie of ours in it.
    fn collect(&mut self) {
        let mut news = Vec::new();
        loop {
            let (pid, exit) = match sys::ended_child() {
                Ok(Some(ended)) => ended,
                Ok(None) => break,
                Err(error) => {
                    tracing::error!(%error, "waitid failed");
                    break;
                }
            };
            let child = self.children.remove(&pid);
            match &child {
                Some(child) => {
                    let mut number = child.group.number();
                    collect_one(pid);
                    *number = Number::OfGroup;
                }
                None => collect_one(pid),
            }
            news.extend(child.map(|child| (child.exited, exit)));
        }
        for (exited, exit) in news {
            // Nobody has to care.
            let _ = exited.send(exit);
        }
    }

    fn carry_out(&mut self, order: Order) {
        let born = self.spawn(&order.launch, order.calls);
        // If the asker has gone, the claim is dropped here.
        let _ = order.answer.send(born);
    }

    fn spawn(&mut self, launch: &Launch, calls: Calls) -> io::Result<Born> {
        let mut child = command(launch).spawn()?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (Some(stdout), Some(stderr)) = (stdout, stderr) else {
            return Err(io::Error::other("a child without pipes"));
        };
        let pidfd = match sys::pidfd_open(pid) {
            Ok(pidfd) => pidfd,
            Err(error) => {
                // Ours alone to collect, so the number is its own. Its end is collected as an
                // orphan's.
                let _ = sys::kill_group(pid, SIGKILL);
                return Err(error);
            }
        };
        files::lower_file_limit(pid);
        let warnings = set_priority(pid, launch.priority).into_iter().collect();
        let group = Arc::new(Group::new(pid, pidfd, calls));
        let (exited, receiver) = oneshot::channel();
        self.remember(pid, &group);
        let child = Child { group: Arc::clone(&group), exited };
        self.children.insert(pid, child);
        Ok(Born {
            claim: Claim(Some(group)),
            stdout: stdout.into(),
            stderr: stderr.into(),
            exited: receiver,
            warnings,
        })
    }

    fn remember(&mut self, pid: i32, group: &Arc<Group>) {
        if self.groups.len() > 2 * self.children.len() + 64 {
            self.groups.retain(|_, group| group.strong_count() > 0);
        }
        let before = self.groups.insert(pid, Arc::downgrade(group));
        if let Some(before) = before.and_then(|before| before.upgrade()) {
            *before.number() = Number::Reused;
        }
    }
}

fn collect_one(pid: i32) {
    if let Err(error) = sys::collect(pid) {
        tracing::error!(pid, %error, "waitid failed");
    }
}

/// No `pre_exec`: then std uses posix_spawn(3), which does not copy our page tables, and
/// resets SIGPIPE. The signal mask is the thread's.
fn command(launch: &Launch) -> Command {
    let mut command = Command::new(&launch.program);
    command
        .args(&launch.args)
        .current_dir(launch.cwd.as_deref().unwrap_or(Path::new("/")))
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for name in NOT_INHERITED {
        command.env_remove(name);
    }
    for (name, value) in &launch.env {
        command.env(name, value);
    }
    command
}

/// From outside, because only pre_exec could do it from inside. A failure is a warning: the
/// program does run.
fn set_priority(pid: i32, priority: Priority) -> Option<String> {
    let wanted = priority.nice();
    let current = sys::nice(pid);
    if current.as_ref().is_ok_and(|nice| *nice == wanted) {
        return None;
    }
    let error = sys::set_nice(pid, wanted).err()?;
    let keeps =
        current.map_or_else(|_| String::new(), |nice| format!("; it runs with nice {nice}"));
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            " (the daemon would need CAP_SYS_NICE or a higher RLIMIT_NICE)"
        }
        _ => "",
    };
    Some(format!("priority {priority} (nice {wanted}) could not be set: {error}{hint}{keeps}"))
}

/// Files that were open when the daemon started; std opens its own close-on-exec.
fn pass_on_no_files() -> io::Result<()> {
    for fd in procfs::open_files()? {
        if fd > 2 {
            // It fails for the descriptor that listed the directory, closed by now.
            let _ = sys::close_on_exec(fd);
        }
    }
    Ok(())
}

/// A signal that is ignored stays so over an exec, one with a handler does not. So what this
/// process ignores (SIGINT when a script put it into the background, SIGHUP under nohup) gets
/// a handler that does nothing.
fn pass_on_no_ignored_signals() -> io::Result<()> {
    for signal in procfs::ignored_signals()? {
        // std resets SIGPIPE, and this process relies on it being ignored. The C library keeps
        // 32 and 33 for itself, and ignores them in whatever it executes by posix_spawn(3).
        if signal != SIGPIPE && !matches!(signal, 32 | 33) && !FORBIDDEN.contains(&signal) {
            signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
        }
    }
    Ok(())
}
