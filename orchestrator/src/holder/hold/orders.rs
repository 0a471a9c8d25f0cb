//! Carrying out what a daemon orders, and what the one that is to take its place says.

use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;

use super::Holder;
use crate::holder::daemon::Daemon;
use crate::holder::exec::Listeners;
use crate::holder::frame::{FIRST_LISTENER, Name, News, Order, PROTOCOL, SIZE, Stage, Version};
use crate::holder::launch::{Failure, Launch};
use crate::holder::{socket, sys};

impl Holder {
    /// Takes one order of the daemon.
    pub(super) fn order(&mut self) {
        let mut datagram = std::mem::take(&mut self.datagram);
        if let Some(daemon) = &mut self.daemon
            && let Some((len, files)) = receive(daemon, &mut datagram)
        {
            self.carry_out(datagram.get(..len).unwrap_or_default(), files);
        }
        self.datagram = datagram;
    }

    fn carry_out(&mut self, datagram: &[u8], files: socket::Files) {
        let Some(order) = Order::decode(datagram) else {
            return;
        };
        let image = datagram.get(SIZE..).unwrap_or_default();
        let [first, second, third] = files;
        match order {
            Order::Hello { .. } => {
                self.answer(News::Welcome {
                    protocol: PROTOCOL,
                    successor: false,
                    version: Version::OWN,
                });
                self.tell_everything();
            }
            Order::Spawn { child, nice, image: in_file, stdin, cgroup, listeners } => {
                let mut files = [first, second, third].into_iter().flatten();
                let mut next = |is_there: bool| is_there.then(|| files.next()).flatten();
                let (image_file, stdin, cgroup) = (next(in_file), next(stdin), next(cgroup));
                let launched = self.listeners(child, listeners).and_then(|listeners| {
                    self.launch(Launch { child, image, image_file, stdin, cgroup, listeners, nice })
                });
                if let Err(failure) = launched {
                    self.children.failed(failure);
                }
            }
            Order::Release { child } => self.children.release(child),
            Order::Signal { child, signal } => {
                let errno = self.signal(child, signal);
                self.answer(News::Signalled { child, errno });
            }
            Order::Keep { file, confirm } => {
                if !first.is_some_and(|kept| self.files.keep(file, kept)) {
                    self.answer(News::NotKept { file });
                } else if confirm {
                    self.answer(News::Kept { file });
                }
            }
            Order::Output { child } => {
                let is_there = self.children.output(child).is_some();
                self.answer(News::Output { child, is_there });
            }
            Order::Fetch { file } => {
                let is_there = self.files.find(file).is_some();
                self.answer(News::Fetched { file, is_there });
            }
            Order::Forget { file } => self.files.forget(file),
            Order::Ready => {
                self.lives.ready(self.now());
                self.proven = None;
            }
            Order::End => self.lives.end_is_meant(),
            Order::Replace { image: in_file, program } => {
                let files = match (in_file, program) {
                    (true, true) => (first, second),
                    (true, false) => (first, None),
                    (false, true) => (None, first),
                    (false, false) => (None, None),
                };
                self.succession.begin(image, files, (self.daemon_files, &mut self.spare));
            }
            Order::Abandon => self.succession.kill(),
            Order::Notify => {
                if let Some(notify) = &self.notify {
                    notify.tell(image);
                }
            }
            Order::Renew { image: in_file, reads } => {
                let (image_file, program) = if in_file { (first, second) } else { (None, first) };
                let failed = self.renew(image, image_file, program, reads);
                let errno = failed.raw_os_error().unwrap_or(libc::EINVAL);
                self.answer(News::NotRenewed { errno });
            }
            // For those that are not daemons yet; and the end says the same.
            Order::Able | Order::Yield => {}
        }
    }

    pub(super) fn answer(&mut self, news: News) {
        if let Some(daemon) = &mut self.daemon {
            daemon.answer(news);
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

    /// The listening sockets that a program is to be given.
    fn listeners(&self, child: Name, count: i32) -> Result<Listeners, Failure> {
        let mut listeners = Listeners::default();
        for (tag, _) in (FIRST_LISTENER..).zip(0..count) {
            let file = self.files.find(Name { tag, ..child });
            if !file.is_some_and(|file| listeners.push(file.as_raw_fd())) {
                return Err(Failure { child, stage: Stage::Listen, errno: Errno::ENOENT as i32 });
            }
        }
        Ok(listeners)
    }

    /// Signals a group by its number, which is its own because we have not collected its leader.
    fn signal(&self, child: Name, signal: i32) -> i32 {
        match self.children.find(child) {
            Some(child) if child.is_alive() => {
                let sent = sys::kill_group(child.program.pid, signal);
                let errno = |error: io::Error| error.raw_os_error().unwrap_or(libc::EINVAL);
                sent.err().map_or(0, errno)
            }
            _ => libc::ECHILD,
        }
    }

    pub(super) fn order_of_successor(&mut self) {
        let mut datagram = std::mem::take(&mut self.datagram);
        if let Some(successor) = self.succession.daemon_mut()
            && let Some((len, _)) = receive(successor, &mut datagram)
        {
            match Order::decode(datagram.get(..len).unwrap_or_default()) {
                Some(Order::Hello { .. }) => {
                    successor.answer(News::Welcome {
                        protocol: PROTOCOL,
                        successor: true,
                        version: Version::OWN,
                    });
                    successor.tell_reply(&[]);
                }
                Some(Order::Able) => self.succession.able(),
                _ => {}
            }
        }
        self.datagram = datagram;
    }
}

/// One datagram, if there is one.
fn receive(daemon: &mut Daemon, datagram: &mut [u8]) -> Option<(usize, socket::Files)> {
    match socket::receive(&daemon.socket, datagram) {
        Ok((0, _)) => daemon.closed = true,
        Ok(received) => return Some(received),
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            // There is nothing after all, or it is longer than any order.
            Some(Errno::EAGAIN | Errno::EMSGSIZE) => {}
            // It has ended without having heard all that it was told. That is said once, and
            // before what it has said itself, which is still there.
            Some(Errno::ECONNRESET) => {}
            _ => daemon.closed = true,
        },
    }
    None
}
