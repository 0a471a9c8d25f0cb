//! Files that a daemon has its holder keep, for the daemon after it.

use std::collections::TryReserveError;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::frame::{Name, News};

/// The most files: more than there can be open.
pub(super) const MAX_FILES: usize = 64 << 10;

/// All of them.
pub(super) struct Files {
    all: Vec<Kept>,
    /// How many of them the daemon has not been told of.
    untold: usize,
}

struct Kept {
    name: Name,
    file: OwnedFd,
    told: bool,
}

impl Files {
    /// Takes all memory that it will need.
    pub(super) fn new() -> Result<Self, TryReserveError> {
        let mut all = Vec::new();
        all.try_reserve_exact(MAX_FILES)?;
        Ok(Self { all, untold: 0 })
    }

    /// All of them.
    pub(super) fn each(&self) -> impl Iterator<Item = (Name, BorrowedFd<'_>)> {
        self.all.iter().map(|kept| (kept.name, kept.file.as_fd()))
    }

    /// The file of this name, if there is one.
    pub(super) fn find(&self, name: Name) -> Option<BorrowedFd<'_>> {
        self.all.iter().find(|kept| kept.name == name).map(|kept| kept.file.as_fd())
    }

    /// Keeps a file, instead of another one of that name. False if there is no room.
    pub(super) fn keep(&mut self, name: Name, file: OwnedFd) -> bool {
        self.forget(name);
        if self.all.len() >= MAX_FILES {
            return false;
        }
        self.all.push(Kept { name, file, told: true });
        true
    }

    /// Keeps a file of which the daemon was told by the holder before this one.
    pub(super) fn inherit(&mut self, name: Name, file: OwnedFd) {
        self.all.push(Kept { name, file, told: true });
    }

    /// Closes a file, if there is one of that name.
    pub(super) fn forget(&mut self, name: Name) {
        if let Some(at) = self.all.iter().position(|kept| kept.name == name) {
            self.untold -= usize::from(!self.all[at].told);
            self.all.swap_remove(at);
        }
    }

    /// There is a new daemon, which knows of none.
    pub(super) fn tell_again(&mut self) {
        for kept in &mut self.all {
            kept.told = false;
        }
        self.untold = self.all.len();
    }

    /// Whether the daemon has not been told of some.
    pub(super) const fn owes(&self) -> bool {
        self.untold > 0
    }

    /// Tells of those, as far as `tell` takes it. False if it did not take all.
    pub(super) fn tell(&mut self, mut tell: impl FnMut(News, &[BorrowedFd<'_>]) -> bool) -> bool {
        if self.untold > 0 {
            for kept in self.all.iter_mut().filter(|kept| !kept.told) {
                if !tell(News::Kept { file: kept.name }, &[kept.file.as_fd()]) {
                    return false;
                }
                kept.told = true;
                self.untold -= 1;
            }
        }
        true
    }
}
