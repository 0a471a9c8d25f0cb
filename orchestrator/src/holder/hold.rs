//! The holder's loop: orders of the daemon, signals, programs on their way.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Rlimit, WaitOptions, wait};

use super::children::Children;
use super::frame::{How, MAX_DATAGRAM, Name, News, Order, PROTOCOL, SIZE, Stage};
use super::launch::{Failure, Launch, Launches, PLACES};
use super::socket::{self, Files};

/// The daemon, as long as it lives.
pub(super) struct Daemon {
    pub(super) pid: i32,
    pub(super) socket: OwnedFd,
}

/// Everything that the holder has.
pub(super) struct Holder {
    signals: SignalFd,
    hangup_ignored: bool,
    daemon: Daemon,
    children: Children,
    launches: Launches,
    datagram: Box<[u8]>,
    /// An answer that the daemon has had no room for. No order is taken until it has.
    reply: Option<News>,
    /// The daemon has closed its end: it is about to end.
    closed: bool,
    /// The end of this daemon is the end of everything.
    pub(super) meant: bool,
}

impl Holder {
    /// Takes all memory that the loop needs. `signals` are blocked.
    pub(super) fn new(
        signals: &SigSet,
        hangup_ignored: bool,
        daemon: Daemon,
        files: Rlimit,
    ) -> io::Result<Self> {
        Ok(Self {
            signals: SignalFd::with_flags(signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?,
            hangup_ignored,
            daemon,
            children: Children::new(),
            launches: Launches::new(files)?,
            datagram: vec![0; MAX_DATAGRAM].into(),
            reply: None,
            closed: false,
            meant: false,
        })
    }

    /// Serves the daemon until it has ended. The answer is how.
    pub(super) fn serve(&mut self) -> How {
        loop {
            let [signal, order] = self.wait();
            if let Some(how) = self.step(signal, order) {
                return how;
            }
        }
    }

    /// Serves whoever has the other end until it is closed.
    #[cfg(test)]
    pub(super) fn serve_stranger(&mut self) {
        while !self.closed {
            let [signal, order] = self.wait();
            self.step(signal, order);
        }
    }

    /// Does what there is to do. The answer is the end of the daemon, if it has ended.
    fn step(&mut self, signal: bool, order: bool) -> Option<How> {
        self.arrivals();
        if signal && let Some(how) = self.signals() {
            return Some(how);
        }
        if order {
            self.order();
        }
        if !self.closed {
            self.tell();
        }
        None
    }

    /// Waits until something happens. The answer is whether there is a signal, and an order.
    fn wait(&self) -> [bool; 2] {
        let owes = self.reply.is_some() || self.children.owes();
        let order = if owes { PollFlags::OUT } else { PollFlags::IN };
        let signals = PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN);
        let mut files: [PollFd<'_>; 2 + PLACES] = std::array::from_fn(|_| signals.clone());
        let mut used = 1;
        if !self.closed {
            files[used] = PollFd::from_borrowed_fd(self.daemon.socket.as_fd(), order);
            used += 1;
        }
        for status in self.launches.status() {
            files[used] = PollFd::from_borrowed_fd(status, PollFlags::IN);
            used += 1;
        }
        match poll(&mut files[..used], None) {
            Ok(_) => {
                let order = files[1].revents().intersects(PollFlags::IN | PollFlags::HUP);
                [!files[0].revents().is_empty(), !self.closed && order]
            }
            // EINTR, or ENOMEM, which may pass: to look once too often does no harm.
            Err(_) => [true, !self.closed && !owes],
        }
    }

    /// Programs that run now, or have failed.
    fn arrivals(&mut self) {
        while let Some(arrival) = self.launches.arrived() {
            match arrival {
                Ok(program) => self.children.started(program),
                Err(failure) => self.children.failed(failure),
            }
        }
    }

    /// What has happened to others. The answer is the end of the daemon, if it has ended.
    fn signals(&mut self) -> Option<How> {
        let mut end = None;
        while let Ok(Some(info)) = self.signals.read_signal() {
            match i32::try_from(info.ssi_signo).map(Signal::try_from) {
                Ok(Ok(Signal::SIGCHLD)) => end = end.or(self.collect()),
                // Under nohup(1). A signal that is blocked comes although it is ignored.
                Ok(Ok(Signal::SIGHUP)) if self.hangup_ignored => {}
                // The number is the daemon's: only we can collect it, and we have not.
                Ok(Ok(signal)) if end.is_none() => {
                    let _ = kill(Pid::from_raw(self.daemon.pid), signal);
                }
                _ => {}
            }
        }
        end
    }

    /// Collects every child that has ended, ours and adopted ones, before anybody is told: who
    /// looks at a process group then sees no zombie of ours in it.
    fn collect(&mut self) -> Option<How> {
        let mut end = None;
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            let how = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => How::Code(code),
                (None, Some(signal)) if status.as_raw() & 0x80 != 0 => How::Dumped(signal),
                (None, Some(signal)) => How::Signal(signal),
                (None, None) => continue,
            };
            if pid == self.daemon.pid {
                end = Some(how);
                continue;
            }
            // If its program was on its way, the kernel has ended that by now.
            self.arrivals();
            self.children.ended(pid, how, now_ns());
        }
        end
    }

    /// Takes one order.
    fn order(&mut self) {
        let mut datagram = std::mem::take(&mut self.datagram);
        match socket::receive(&self.daemon.socket, &mut datagram) {
            Ok((0, _)) => self.closed = true,
            Ok((len, files)) => self.carry_out(datagram.get(..len).unwrap_or_default(), files),
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                // There is nothing after all, or it is longer than any order.
                Some(Errno::EAGAIN | Errno::EMSGSIZE) => {}
                _ => self.closed = true,
            },
        }
        self.datagram = datagram;
    }

    fn carry_out(&mut self, datagram: &[u8], files: Files) {
        let Some(order) = Order::decode(datagram) else {
            return;
        };
        match order {
            Order::Hello { .. } => self.reply = Some(News::Welcome { protocol: PROTOCOL }),
            Order::Spawn { child, nice, image, stdin } => {
                let [first, second, _] = files;
                let (image_file, stdin) = match (image, stdin) {
                    (true, true) => (first, second),
                    (true, false) => (first, None),
                    (false, true) => (None, first),
                    (false, false) => (None, None),
                };
                let launch = Launch {
                    child,
                    image: datagram.get(SIZE..).unwrap_or_default(),
                    image_file,
                    stdin,
                    nice,
                };
                if let Err(failure) = self.launch(launch) {
                    self.children.failed(failure);
                }
            }
            Order::Release { child } => self.children.release(child),
            Order::Signal { child, signal } => {
                let errno = self.signal(child, signal);
                self.reply = Some(News::Signalled { child, errno });
            }
            Order::Ready => {}
            Order::End => self.meant = true,
        }
    }

    fn launch(&mut self, launch: Launch<'_>) -> Result<(), Failure> {
        let child = launch.child;
        if self.launches.is_underway(child) || self.children.find(child).is_some() {
            return Err(Failure { child, stage: Stage::Room, errno: Errno::EEXIST as i32 });
        }
        if self.children.is_full() {
            return Err(Failure { child, stage: Stage::Room, errno: Errno::EAGAIN as i32 });
        }
        self.launches.launch(launch)
    }

    /// Signals a group by its number, which is its own because we have not collected its leader.
    fn signal(&self, child: Name, signal: i32) -> i32 {
        match self.children.find(child) {
            Some(child) if child.is_alive() => super::sys::kill_group(child.program.pid, signal)
                .err()
                .map_or(0, |error| error.raw_os_error().unwrap_or(Errno::EINVAL as i32)),
            _ => Errno::ECHILD as i32,
        }
    }

    /// Tells the daemon what it has not been told, as far as it listens.
    fn tell(&mut self) {
        let socket = self.daemon.socket.as_fd();
        if let Some(reply) = self.reply {
            if !tell(socket, reply, &[]) {
                return;
            }
            self.reply = None;
        }
        self.children.tell(|news, files| tell(socket, news, files));
    }
}

/// False if the daemon does not listen at the moment.
fn tell(socket: BorrowedFd<'_>, news: News, files: &[BorrowedFd<'_>]) -> bool {
    socket::send(socket, &[io::IoSlice::new(&news.encode())], files).is_ok()
}

/// Nanoseconds since 1970 (UTC).
fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
