//! The children of the holder, and what their daemon has not been told of them.

use std::collections::TryReserveError;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::frame::{How, Name, News};
use super::launch::{Failure, Launched, PLACES};
use super::sys;

/// Children that there can be, alive or ended and not released.
/// Taken in one piece at the start; memory that is never used is never had.
pub(super) const MAX_CHILDREN: usize = 16 << 10;

/// A child, alive or ended.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) program: Launched,
    started_told: bool,
    ended: Option<Ended>,
}

#[derive(Clone, Copy, Debug)]
struct Ended {
    how: How,
    time_ns: u64,
    told: bool,
}

/// All of them.
pub(super) struct Children {
    all: Vec<Child>,
    failed: Vec<Failure>,
    /// Of all these, how much the daemon has not been told.
    untold: usize,
    /// Of all before this one, it has been told everything.
    told: usize,
}

impl Children {
    /// Takes all memory that it will need.
    pub(super) fn new() -> Result<Self, TryReserveError> {
        let (mut all, mut failed) = (Vec::new(), Vec::new());
        all.try_reserve_exact(MAX_CHILDREN)?;
        // No order is taken while something is owed, so one more than are on their way.
        failed.try_reserve_exact(PLACES + 1)?;
        Ok(Self { all, failed, untold: 0, told: 0 })
    }

    /// What there is, and how it ended if it has.
    pub(super) fn each(&self) -> impl Iterator<Item = (&Launched, Option<(How, u64)>)> {
        self.all.iter().map(|child| {
            let ended = child.ended.map(|ended| (ended.how, ended.time_ns));
            (&child.program, ended)
        })
    }

    /// A child of which the daemon was told by the holder before this one.
    pub(super) fn inherit(&mut self, program: Launched) {
        self.all.push(Child { program, started_told: true, ended: None });
    }

    /// The child that was inherited last had ended, and the daemon was told.
    pub(super) fn inherit_end(&mut self, how: How, time_ns: u64) {
        if let Some(child) = self.all.last_mut() {
            child.ended = Some(Ended { how, time_ns, told: true });
        }
    }

    /// Has a pidfd of each child, so that they can be handed over.
    ///
    /// # Errors
    ///
    /// When there is no room for so many files.
    pub(super) fn open_pidfds(&mut self) -> io::Result<()> {
        for child in self.all.iter_mut().filter(|child| child.program.pidfd.is_none()) {
            child.program.pidfd = Some(match child.is_alive() {
                true => sys::pidfd_open(child.program.pid)?,
                // There was no room for it when it ended. Nobody can have it any more.
                false => child.program.stdout.try_clone()?,
            });
        }
        Ok(())
    }

    /// Closes those that can be had again.
    pub(super) fn close_pidfds(&mut self) {
        for child in self.all.iter_mut().filter(|child| child.is_alive() && child.started_told) {
            child.program.pidfd = None;
        }
    }

    /// Whether there is no room for another one.
    pub(super) const fn is_full(&self) -> bool {
        self.all.len() >= MAX_CHILDREN
    }

    pub(super) fn find(&self, name: Name) -> Option<&Child> {
        self.all.iter().find(|child| child.program.child == name)
    }

    /// The reading ends of the output and the errors of a child.
    pub(super) fn output(&self, name: Name) -> Option<[BorrowedFd<'_>; 2]> {
        let program = &self.find(name)?.program;
        Some([program.stdout.as_fd(), program.stderr.as_fd()])
    }

    /// A program runs, or did.
    pub(super) fn started(&mut self, program: Launched) {
        self.untold += 1;
        self.all.push(Child { program, started_told: false, ended: None });
    }

    /// A program could not be executed. What was to become it has ended, or is about to.
    pub(super) fn failed(&mut self, failure: Failure) {
        self.untold += 1;
        self.failed.push(failure);
    }

    /// A process has ended, and is about to be collected. It need not be one of these. From then on
    /// only who has a pidfd of it can signal those that it has left in its group, see
    /// pidfd_send_signal(2).
    pub(super) fn ending(&mut self, pid: i32) {
        if let Some(child) =
            self.all.iter_mut().rev().find(|it| it.program.pid == pid && it.is_alive())
            && child.program.pidfd.is_none()
        {
            child.program.pidfd = sys::pidfd_open(pid).ok();
        }
    }

    /// A process was collected. It need not be one of these.
    pub(super) fn ended(&mut self, pid: i32, how: How, time_ns: u64) {
        let alive = |child: &Child| child.program.pid == pid && child.ended.is_none();
        // The newest is most often the first to end.
        if let Some((at, child)) =
            self.all.iter_mut().enumerate().rev().find(|(_, child)| alive(child))
        {
            child.ended = Some(Ended { how, time_ns, told: false });
            self.untold += 1;
            self.told = self.told.min(at);
        }
    }

    /// Forgets a child that has ended and closes its files. One that lives is not forgotten.
    pub(super) fn release(&mut self, name: Name) {
        let found = self.all.iter().rposition(|child| child.program.child == name);
        if let Some(at) = found
            && self.all[at].ended.is_some()
        {
            let child = self.all.swap_remove(at);
            self.untold -= child.untold();
            self.told = self.told.min(at);
        }
    }

    /// There is a new daemon, which knows of none. Failures concern nobody any more.
    pub(super) fn tell_again(&mut self) {
        self.failed.clear();
        (self.untold, self.told) = (0, 0);
        for child in &mut self.all {
            child.started_told = false;
            if let Some(ended) = &mut child.ended {
                ended.told = false;
            }
            self.untold += child.untold();
        }
    }

    /// The numbers of those that live.
    pub(super) fn alive(&self) -> impl Iterator<Item = i32> {
        self.all.iter().filter(|child| child.is_alive()).map(|child| child.program.pid)
    }

    /// Whether the daemon has not been told something.
    pub(super) const fn owes(&self) -> bool {
        self.untold > 0
    }

    /// Tells what has not been told, in order for each child, as far as `tell` takes it.
    /// False if it did not take all.
    pub(super) fn tell(&mut self, mut tell: impl FnMut(News, &[BorrowedFd<'_>]) -> bool) -> bool {
        if self.untold == 0 {
            return true;
        }
        while let Some(&Failure { child, stage, errno }) = self.failed.last() {
            if !tell(News::NotSpawned { child, stage, errno }, &[]) {
                return false;
            }
            self.failed.pop();
            self.untold -= 1;
        }
        while self.untold > 0
            && let Some(child) = self.all.get_mut(self.told)
        {
            let Launched { child: name, pid, warning, .. } = child.program;
            if !child.started_told {
                if !child
                    .with_files(|files| tell(News::Spawned { child: name, pid, warning }, files))
                {
                    return false;
                }
                child.started_told = true;
                self.untold -= 1;
            }
            if let Some(Ended { how, time_ns, told: false }) = child.ended {
                let news = News::Exited { child: name, pid, how, time_ns };
                if !child.with_files(|files| tell(news, files)) {
                    return false;
                }
                child.ended = Some(Ended { how, time_ns, told: true });
                self.untold -= 1;
            }
            if child.is_alive() {
                child.program.pidfd = None;
            }
            self.told += 1;
        }
        true
    }
}

impl Child {
    fn untold(&self) -> usize {
        usize::from(!self.started_told) + usize::from(self.ended.is_some_and(|ended| !ended.told))
    }

    /// Hands its files on: a pidfd, the reading ends of its output and its errors.
    fn with_files<T>(&self, then: impl FnOnce(&[BorrowedFd<'_>]) -> T) -> T {
        let Launched { pid, pidfd, stdout, stderr, .. } = &self.program;
        let opened: Option<OwnedFd> = match pidfd {
            None if self.is_alive() => sys::pidfd_open(*pid).ok(),
            _ => None,
        };
        // If there is no room for one more file, one in its place that is no pidfd: the daemon then
        // does without.
        let pidfd = pidfd.as_ref().or(opened.as_ref()).unwrap_or(stdout);
        then(&[pidfd.as_fd(), stdout.as_fd(), stderr.as_fd()])
    }

    /// Whether its number is its own.
    pub(super) const fn is_alive(&self) -> bool {
        self.ended.is_none()
    }
}
