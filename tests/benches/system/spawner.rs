//! The processes that execute programs, as fast as they can: a small one, and one that is a
//! daemon to a holder and as large as the real daemon.
//!
//! The holder is the real one, from the library: this program, in the part of a holder, executes
//! itself in the part of the daemon, which speaks with it by its frames.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::{CommandExt, parent_id};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use orchestrator::holder::frame::{self, How, Name, News, Order};
use orchestrator::holder::image::{Program, variable};
use orchestrator::holder::socket::{self, Files};
use orchestrator::holder::{self, Role};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit};
use serde::{Deserialize, Serialize};
use tests::processes;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::actor;

/// The part of a small process.
pub(crate) const BARE: &str = "spawn-bare";
/// The part of a holder, and of the daemon below it.
pub(crate) const HELD: &str = "spawn-held";

/// What a pipe should hold that a program prints into, as the holder wishes it.
const PIPE_BYTES: usize = 256 << 10;
/// Memory is taken in pieces of this size, which are parts of the heap.
const PIECE: usize = 64 << 10;

/// How a daemon executes a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Way {
    /// Has its holder do it.
    Holder,
    /// By posix_spawn(3).
    Spawn,
    /// By fork(2), which copies the tables of its memory.
    Fork,
}

/// An order to a daemon.
#[derive(Serialize, Deserialize)]
pub(crate) struct Round {
    pub(crate) way: Way,
    /// How many programs, one after the other.
    pub(crate) count: usize,
    /// A program that ends at once.
    pub(crate) program: PathBuf,
}

/// How large a daemon and its holder are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Size {
    /// Programs that run.
    pub(crate) instances: usize,
    pub(crate) resident_kib: u64,
    pub(crate) mapped_kib: u64,
    pub(crate) files: usize,
    pub(crate) threads: u32,
    /// Files that the holder has open.
    pub(crate) holder_files: usize,
}

/// What a daemon is told when it is started.
#[derive(Serialize, Deserialize)]
pub(crate) struct Part {
    /// How large it and its holder make themselves.
    pub(crate) size: Size,
    /// A program that waits, and its arguments.
    pub(crate) pause: (PathBuf, Vec<String>),
}

/// Executes a program and waits for its end, so often: the least that can be done.
pub(crate) fn play_bare(program: &Path) {
    actor::say_ready();
    for count in actor::orders() {
        for _ in 0..count {
            let mut command = Command::new(program);
            command.stdin(Stdio::null()).stdout(Stdio::null());
            assert!(command.spawn().unwrap().wait().unwrap().success());
        }
        actor::say_done();
    }
}

/// Is a holder, or a daemon to one. Ends with all that it has executed when it gets no more
/// orders.
pub(crate) fn play_held(part: &str) {
    match holder::role() {
        Role::Holder => {
            let _ = holder::run();
        }
        Role::Daemon(holder) => be_daemon(holder, serde_json::from_str(part).unwrap()),
    }
}

fn be_daemon(holder: OwnedFd, part: Part) {
    // The holder has the orders at its standard input, and leaves them there.
    let orders = File::open(format!("/proc/{}/fd/0", parent_id())).unwrap();
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let daemon = tokio.block_on(async {
        let mut daemon = Daemon::new(holder, part);
        daemon.begin().await;
        daemon
    });
    let daemon = Arc::new(tokio::sync::Mutex::new(daemon));
    actor::say_ready();
    for line in BufReader::new(orders).lines() {
        let round: Round = serde_json::from_str(&line.unwrap()).unwrap();
        let daemon = Arc::clone(&daemon);
        // On a worker, as whatever a daemon does.
        let done = tokio.spawn(async move { daemon.lock().await.round(round).await });
        tokio.block_on(done).unwrap();
        actor::say_done();
    }
}

struct Daemon {
    holder: AsyncFd<OwnedFd>,
    part: Part,
    environment: Vec<Vec<u8>>,
    nice: i32,
    last_run: u64,
    /// Files that are only there to be open.
    ballast: Vec<OwnedFd>,
}

impl Daemon {
    fn new(holder: OwnedFd, part: Part) -> Self {
        let environment = std::env::vars_os().map(|(name, value)| variable(&name, &value));
        Self {
            holder: readable(holder),
            part,
            environment: environment.collect(),
            nice: rustix::process::getpriority_process(None).unwrap(),
            last_run: 0,
            ballast: Vec::new(),
        }
    }

    /// Executes what is to run, and becomes as large as it is to be.
    async fn begin(&mut self) {
        self.order(Order::Hello { protocol: frame::PROTOCOL }, &[], &[]).await;
        while self.hear().await.0 != News::Complete {}
        self.order(Order::Ready, &[], &[]).await;
        // Whatever happens to this process, the holder ends with it.
        self.order(Order::End, &[], &[]).await;
        let (pause, args) = self.part.pause.clone();
        for _ in 0..self.part.size.instances {
            // The daemon has none of its files open.
            let _ = self.spawn(&pause, &args).await;
        }
        let size = self.part.size.clone();
        // Each of its own, since that is what it costs to pass them on to a process.
        let socket = || OwnedFd::from(UnixDatagram::unbound().unwrap());
        for tag in processes::open_files(parent_id())..size.holder_files {
            let (file, kept) = (Name { key: [0; 16], tag: tag as u64 }, socket());
            self.order(Order::Keep { file, confirm: false }, &[], &[kept.as_fd()]).await;
        }
        // A daemon that executes programs itself has no holder: what that keeps of them, the
        // pipes and the sockets, would be its own to keep open.
        let files = size.files + size.holder_files;
        for _ in processes::open_files(std::process::id())..files {
            self.ballast.push(socket());
        }
        grow(&size);
    }

    async fn round(&mut self, round: Round) {
        for _ in 0..round.count {
            match round.way {
                Way::Holder => self.through_holder(&round.program).await,
                Way::Spawn => by_itself(&round.program, false).await,
                Way::Fork => by_itself(&round.program, true).await,
            }
        }
    }

    async fn through_holder(&mut self, program: &Path) {
        let (name, files) = self.spawn(program, &[]).await;
        match self.hear().await.0 {
            News::Exited { child, how: How::Code(0), .. } if child == name => drop(files),
            other => panic!("{other:?}"),
        }
        self.order(Order::Release { child: name }, &[], &[]).await;
    }

    /// What runs, its pidfd, and the reading ends of its output and its errors.
    async fn spawn(&mut self, program: &Path, args: &[String]) -> (Name, Files) {
        self.last_run += 1;
        let name = Name { key: [1; 16], tag: self.last_run };
        let args = std::iter::once(program.as_os_str()).chain(args.iter().map(OsStr::new));
        let image = Program {
            path: program.as_os_str(),
            cwd: OsStr::new("/"),
            args: &args.collect::<Vec<_>>(),
            env: &self.environment,
            attributes: None,
        };
        let image = image.image().unwrap();
        let order = Order::Spawn {
            child: name,
            nice: self.nice,
            image: false,
            stdin: false,
            cgroup: false,
            listeners: 0,
        };
        self.order(order, &image, &[]).await;
        match self.hear().await {
            (News::Spawned { child, .. }, files) if child == name => {
                assert!(files.iter().all(Option::is_some), "files are missing");
                (name, files)
            }
            other => panic!("{other:?}"),
        }
    }

    async fn order(&self, order: Order, image: &[u8], files: &[BorrowedFd<'_>]) {
        let frame = order.encode();
        let parts = [IoSlice::new(&frame), IoSlice::new(image)];
        loop {
            match socket::send(self.holder.get_ref(), &parts, files) {
                Ok(()) => return,
                // Only at the beginning are there many at once.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    tokio::task::yield_now().await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn hear(&self) -> (News, Files) {
        loop {
            let mut ready = self.holder.readable().await.unwrap();
            let mut bytes = [0; frame::SIZE];
            match ready.try_io(|holder| socket::receive(holder, &mut bytes)) {
                Err(_would_block) => {}
                Ok(received) => {
                    let (len, files) = received.unwrap();
                    return (News::decode(&bytes[..len]).expect("news"), files);
                }
            }
        }
    }
}

/// Executes a program, with all that the holder gives to one, and waits for its end.
async fn by_itself(program: &Path, fork: bool) {
    let mut command = Command::new(program);
    command.current_dir("/").process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if fork {
        // What it is already; but std can do that by fork only, as whatever else posix_spawn(3)
        // does not know.
        command.uid(rustix::process::getuid().as_raw());
    }
    let mut child = command.spawn().unwrap();
    let pid = Pid::from_child(&child);
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let Rlimit { maximum, .. } = rustix::process::getrlimit(Resource::Nofile);
    let files = Rlimit { current: maximum, maximum };
    // It may have ended.
    let _ = rustix::process::prlimit(Some(pid), Resource::Nofile, files);
    let output: [OwnedFd; 2] =
        [child.stdout.take().unwrap().into(), child.stderr.take().unwrap().into()];
    for pipe in &output {
        rustix::fs::fcntl_setfl(pipe, rustix::fs::OFlags::NONBLOCK).unwrap();
        let _ = rustix::pipe::fcntl_setpipe_size(pipe, PIPE_BYTES);
    }
    let pidfd = readable(pidfd);
    let _ended = pidfd.readable().await.unwrap();
    assert!(child.try_wait().unwrap().expect("it has ended").success());
}

/// Waited for to be readable only: to be told each time that it is writable costs wake-ups.
fn readable(file: OwnedFd) -> AsyncFd<OwnedFd> {
    #[allow(
        deprecated,
        reason = "sound for an OwnedFd, which stays the same file; the other way \
                                  to say it is unsafe"
    )]
    AsyncFd::with_interest(file, Interest::READABLE).unwrap()
}

/// Makes this process as large, where it is smaller.
fn grow(size: &Size) {
    let us = std::process::id();
    for _ in processes::threads(us)..size.threads {
        std::thread::spawn(|| {
            loop {
                std::thread::park();
            }
        });
    }
    let missing = |size: u64, now: u64| usize::try_from(size.saturating_sub(now) << 10).unwrap();
    let resident = missing(size.resident_kib, processes::resident_kib(us));
    // Written to, so that it is there.
    let pieces: Vec<_> = (0..resident / PIECE).map(|_| vec![1_u8; PIECE]).collect();
    std::mem::forget(pieces);
    // Not written to.
    let mapped = missing(size.mapped_kib, processes::mapped_kib(us));
    std::mem::forget(Vec::<u8>::with_capacity(mapped));
}
