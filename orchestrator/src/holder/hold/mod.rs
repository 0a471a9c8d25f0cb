//! The holder's loop: signals, programs on their way, and the lives of daemons.

mod orders;
mod renew;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, WaitOptions, getrlimit, waitpid};

use crate::holder::children::Children;
use crate::holder::daemon::Daemon;
use crate::holder::exec::Place;
use crate::holder::files::Files;
use crate::holder::frame::{FIRST_INHERITED, How, MAX_DATAGRAM, Name, News};
use crate::holder::launch::{Launches, PLACES};
use crate::holder::lives::{Lives, Next};
use crate::holder::notify::Notify;
use crate::holder::succession::{Executable, Succession};
use crate::holder::trim::Rest;
use crate::holder::{say, sys};

/// How long what runs may take to end by itself, when the holder has no daemon and is told to
/// end.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a new daemon may wait to hear what became of programs that were being executed when the
/// one before ended: what it hears of later has no place with it, and is killed.
const LANDING: Duration = Duration::from_millis(100);

/// How long no program was executed when the memory for that is given back.
const QUIET: Duration = Duration::from_secs(1);

/// Everything that the holder has.
pub(in crate::holder) struct Holder {
    began: Instant,
    /// How long there had been another program as the holder by then.
    before: Duration,
    signals: SignalFd,
    hangup_ignored: bool,
    /// None between the end of one and the start of the next.
    daemon: Option<Daemon>,
    /// The one that is to take its place.
    succession: Succession,
    /// What was passed on to the daemon last. If it lets another one take its place all the same,
    /// it did not come to heed that, and the other one has to.
    last_signal: Option<Signal>,
    lives: Lives,
    /// When there will be a daemon again.
    start_at: Option<Duration>,
    /// Told to end while there was no daemon: when what is left is killed.
    end_at: Option<Duration>,
    /// What is executed as the daemon.
    executable: Executable,
    /// What was before that, until the daemon has been at work.
    proven: Option<Executable>,
    /// Whether the daemon has not been told that it has been told everything.
    incomplete: bool,
    /// From when on it is told that, even if programs are still on their way.
    complete_at: Duration,
    children: Children,
    files: Files,
    launches: Launches,
    /// How many files a daemon may have open.
    daemon_files: Rlimit,
    /// What a daemon is started in. None only while that is done.
    spare: Option<Place>,
    rest: Rest,
    /// When there was nothing to do for long enough; none if nothing was done since.
    rest_at: Option<Duration>,
    /// None if nobody wants to be told.
    notify: Option<Notify>,
    datagram: Box<[u8]>,
}

/// What has happened while the holder waited.
#[derive(Clone, Copy, Default, Debug)]
struct Happened {
    signal: bool,
    order: bool,
    order_of_successor: bool,
}

/// How it all ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::holder) struct End {
    /// The last daemon.
    pub(in crate::holder) daemon: i32,
    /// How it ended.
    pub(in crate::holder) how: How,
}

impl Holder {
    /// Takes all memory that the loop needs. `signals` are blocked. Programs may have `files`
    /// open, daemons as many as they may.
    pub(in crate::holder) fn new(
        signals: &SigSet,
        hangup_ignored: bool,
        image: Vec<u8>,
        files: Rlimit,
    ) -> io::Result<Self> {
        Ok(Self {
            began: Instant::now(),
            before: Duration::ZERO,
            signals: SignalFd::with_flags(signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?,
            hangup_ignored,
            daemon: None,
            succession: Succession::new(),
            last_signal: None,
            lives: Lives::default(),
            start_at: None,
            end_at: None,
            executable: Executable { image, program: None },
            proven: None,
            incomplete: false,
            complete_at: Duration::ZERO,
            children: Children::new().map_err(|_| Errno::NOMEM)?,
            files: Files::new().map_err(|_| Errno::NOMEM)?,
            launches: Launches::new(files)?,
            daemon_files: getrlimit(Resource::Nofile),
            spare: Some(Place::new()),
            rest: Rest::look(),
            rest_at: None,
            notify: Notify::from_environment(),
            datagram: vec![0; MAX_DATAGRAM].into(),
        })
    }

    /// Keeps sockets that were there before it, for all daemons.
    pub(in crate::holder) fn keep_inherited(&mut self, sockets: Vec<OwnedFd>) {
        for (socket, place) in sockets.into_iter().zip(FIRST_INHERITED.tag..) {
            self.files.keep(Name { tag: place, ..FIRST_INHERITED }, socket);
        }
    }

    /// Starts the first daemon.
    ///
    /// # Errors
    ///
    /// Why it could not be started.
    pub(in crate::holder) fn start(&mut self) -> io::Result<()> {
        self.daemon =
            Some(Daemon::start(&self.executable.image, self.daemon_files, &mut self.spare)?);
        Ok(())
    }

    /// Holds the daemon, and starts another one whenever it ends, until that is the end of
    /// everything.
    pub(in crate::holder) fn serve(&mut self) -> End {
        self.rest();
        // Who has ended while another program was the holder.
        let mut end = self.collect();
        loop {
            if let Some(end) = end {
                return end;
            }
            end = self.step();
        }
    }

    /// This one is the daemon, though it is none of our children.
    #[cfg(test)]
    pub(in crate::holder) fn take(&mut self, stranger: Daemon) {
        self.daemon = Some(stranger);
    }

    /// Serves such a daemon until it has closed its end.
    #[cfg(test)]
    pub(in crate::holder) fn serve_stranger(&mut self) {
        self.collect();
        while self.daemon.as_ref().is_some_and(|daemon| !daemon.closed) {
            self.step();
        }
    }

    /// Waits until something happens, and does what there is to do then. The answer is the end.
    fn step(&mut self) -> Option<End> {
        let happened = self.wait();
        self.arrivals();
        if happened.signal
            && let Some(end) = self.signals()
        {
            return Some(end);
        }
        if happened.order {
            self.order();
        }
        if happened.order_of_successor {
            self.order_of_successor();
        }
        self.tell();
        self.time()
    }

    fn now(&self) -> Duration {
        self.before.saturating_add(self.began.elapsed())
    }

    /// Whether the daemon has not been told something.
    fn owes(&self) -> bool {
        (self.incomplete && self.is_complete())
            || self.children.owes()
            || self.files.owes()
            || self.succession.owes()
            || self.daemon.as_ref().is_some_and(Daemon::owes)
    }

    /// Whether there is nothing more to come that an earlier daemon has begun.
    fn is_complete(&self) -> bool {
        !self.launches.is_any_underway() || self.complete_at <= self.now()
    }

    fn wait(&self) -> Happened {
        let owes = self.owes();
        let what = if owes { PollFlags::OUT } else { PollFlags::IN };
        let seats_in = if owes { None } else { self.launches.seats_in() };
        let signals = PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN);
        let mut files: [PollFd<'_>; 3 + PLACES] = std::array::from_fn(|_| signals.clone());
        let mut used = 1;
        let mut add = |file| {
            files[used] = file;
            used += 1;
            used - 1
        };
        let open = |daemon: &&Daemon| !daemon.closed;
        let daemon = self.daemon.as_ref().filter(open).filter(|_| seats_in.is_none());
        let daemon = daemon.map(|daemon| add(PollFd::new(&daemon.socket, what)));
        let successor = self.succession.daemon().filter(open);
        let successor = successor.map(|it| add(PollFd::new(&it.socket, PollFlags::IN)));
        for status in self.launches.status() {
            add(PollFd::from_borrowed_fd(status, PollFlags::IN));
        }
        let complete_at = (self.incomplete && !owes).then_some(self.complete_at);
        let due =
            [self.start_at, self.end_at, complete_at, self.rest_at].into_iter().flatten().min();
        let timeout = due.map(|due| due.saturating_sub(self.now()));
        let timeout = timeout.into_iter().chain(seats_in).min();
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let polled = poll(&mut files[..used], timeout.as_ref());
        let ready = |at: Option<usize>| match polled {
            Ok(_) => at.is_some_and(|at| {
                files[at].revents().intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
            }),
            // EINTR, or ENOMEM, which may pass: to look once too often does no harm.
            Err(_) => at.is_some(),
        };
        Happened {
            signal: ready(Some(0)),
            order: ready(daemon),
            order_of_successor: ready(successor),
        }
    }

    /// Programs that run now, or have failed.
    fn arrivals(&mut self) {
        while let Some(arrival) = self.launches.arrived() {
            self.rest_at = Some(self.now().saturating_add(QUIET));
            match arrival {
                Ok(program) => self.children.started(program),
                Err(failure) => self.children.failed(failure),
            }
        }
    }

    /// What has happened to others.
    fn signals(&mut self) -> Option<End> {
        let mut end = None;
        while let Ok(Some(info)) = self.signals.read_signal() {
            match i32::try_from(info.ssi_signo).map(Signal::try_from) {
                Ok(Ok(Signal::SIGCHLD)) => end = end.or(self.collect()),
                // Under nohup(1). A signal that is blocked comes although it is ignored.
                Ok(Ok(Signal::SIGHUP)) if self.hangup_ignored => {}
                Ok(Ok(signal)) => self.pass_on(signal),
                _ => {}
            }
        }
        end
    }

    /// To the daemon; when there is none, SIGHUP and the like start one now, and others end what
    /// there is.
    fn pass_on(&mut self, signal: Signal) {
        match &self.daemon {
            // The number is the daemon's: only we can collect it, and we have not.
            Some(daemon) if daemon.pid > 0 => {
                self.last_signal = Some(signal);
                let _ = kill(Pid::from_raw(daemon.pid), signal);
            }
            Some(_) => {}
            None => match signal {
                Signal::SIGHUP | Signal::SIGUSR1 | Signal::SIGUSR2 => {
                    self.start_at = self.start_at.map(|_| Duration::ZERO);
                }
                _ => {
                    for pid in self.children.alive() {
                        let _ = sys::kill_group(pid, libc::SIGTERM);
                    }
                    // The second time, at once.
                    let now = self.now();
                    self.end_at = Some(self.end_at.map_or(now + PATIENCE, |_| now));
                    self.start_at = None;
                }
            },
        }
    }

    /// Collects every child that has ended, ours and adopted ones, before anybody is told: who
    /// looks at a process group then sees no zombie of ours in it.
    fn collect(&mut self) -> Option<End> {
        let mut end = None;
        while let Some(pid) = sys::ended_child() {
            self.children.ending(pid);
            let Ok(Some((_, status))) =
                waitpid(rustix::process::Pid::from_raw(pid), WaitOptions::NOHANG)
            else {
                break;
            };
            let how = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => How::Code(code),
                (None, Some(signal)) if status.as_raw() & 0x80 != 0 => How::Dumped(signal),
                (None, Some(signal)) => How::Signal(signal),
                (None, None) => continue,
            };
            if self.succession.ended(pid, how) {
                // The daemon is told.
            } else if self.daemon.as_ref().is_some_and(|it| it.pid == pid) {
                // What it said last.
                while self.daemon.as_ref().is_some_and(|it| !it.closed) {
                    self.order();
                }
                end = end.or(self.daemon_ended(pid, how));
            } else {
                // If its program was on its way, the kernel has ended that by now.
                self.launches.ended(pid);
                self.arrivals();
                self.children.ended(pid, how, now_ns());
            }
        }
        end
    }

    fn daemon_ended(&mut self, pid: i32, how: How) -> Option<End> {
        self.daemon = None;
        let last_signal = self.last_signal.take();
        let meant = self.lives.is_end_meant();
        if !meant && let Some(successor) = self.succession.take() {
            let next = successor.daemon.pid;
            self.install(successor.daemon);
            self.lives.replaced();
            let before = std::mem::replace(&mut self.executable, successor.executable);
            // The one that is known to work, if that was not the one before.
            self.proven.get_or_insert(before);
            if let Some(signal) = last_signal {
                let _ = kill(Pid::from_raw(next), signal);
            }
            return None;
        }
        if !meant && let Some(proven) = self.proven.take() {
            self.executable = proven;
            say(format_args!(
                "error: the daemon (process {pid}), which had taken another's place, {how} before \
                 it was at work; the program of the one before is started again"
            ));
        }
        match self.lives.ended(self.now()) {
            Next::End => Some(End { daemon: pid, how }),
            Next::Start { at, hopeless } => {
                say(format_args!(
                    "error: the daemon (process {pid}) {how}; what it started goes on"
                ));
                self.start_later(at, hopeless);
                None
            }
        }
    }

    fn start_later(&mut self, at: Duration, hopeless: bool) {
        self.start_at = Some(at);
        if hopeless {
            let (us, delay) = (std::process::id(), at.saturating_sub(self.now()));
            say(format_args!(
                "error: the daemon does not come to work; the next attempt is in {} s. What it \
                 started goes on. When the reason, see above, is mended: kill -HUP {us}. To end \
                 everything: kill -TERM {us}",
                delay.as_secs()
            ));
        }
    }

    /// Does what is due. The answer is the end.
    fn time(&mut self) -> Option<End> {
        let now = self.now();
        if self.end_at.is_some_and(|at| at <= now || self.children.alive().next().is_none()) {
            return Some(End { daemon: 0, how: How::Signal(libc::SIGTERM) });
        }
        if self.rest_at.is_some_and(|at| at <= now) {
            self.rest();
        }
        if self.start_at.is_some_and(|at| at <= now) {
            self.start_at = None;
            match Daemon::start(&self.executable.image, self.daemon_files, &mut self.spare) {
                Ok(daemon) => self.install(daemon),
                Err(error) => {
                    say(format_args!("error: the daemon can't be started: {error}"));
                    match self.lives.ended(now) {
                        Next::End => return Some(End { daemon: 0, how: How::Code(1) }),
                        Next::Start { at, hopeless } => self.start_later(at, hopeless),
                    }
                }
            }
        }
        None
    }

    /// Gives back the memory that was needed to execute programs.
    fn rest(&mut self) {
        self.rest_at = None;
        self.launches.rest();
        if let Some(spare) = &mut self.spare {
            spare.rest();
        }
        self.rest.begin();
    }

    /// There is a daemon, which is told nothing before it asks.
    fn install(&mut self, daemon: Daemon) {
        // One that was to take another's place has asked already.
        let asked = daemon.able;
        self.daemon = Some(daemon);
        if asked {
            self.tell_everything();
        }
    }

    fn tell_everything(&mut self) {
        self.children.tell_again();
        self.files.tell_again();
        self.incomplete = true;
        self.complete_at = self.now().saturating_add(LANDING);
    }

    /// Tells the daemon what it has not been told, as far as it listens.
    fn tell(&mut self) {
        let is_complete = self.is_complete();
        let Some(daemon) = self.daemon.as_mut().filter(|daemon| !daemon.closed) else {
            return;
        };
        let replied = match daemon.reply() {
            Some(News::Output { child, .. }) => match self.children.output(child) {
                Some(files) => daemon.tell_reply(&files),
                None => daemon.tell_reply(&[]),
            },
            Some(News::Fetched { file, .. }) => match self.files.find(file) {
                Some(file) => daemon.tell_reply(&[file]),
                None => daemon.tell_reply(&[]),
            },
            _ => daemon.tell_reply(&[]),
        };
        if replied
            && self.succession.tell(|news| daemon.tell(news, &[]))
            && self.children.tell(|news, files| daemon.tell(news, files))
            && self.files.tell(|news, files| daemon.tell(news, files))
            && self.incomplete
            && is_complete
            && daemon.tell(News::Complete, &[])
        {
            self.incomplete = false;
        }
    }
}

/// Nanoseconds since 1970 (UTC).
fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
