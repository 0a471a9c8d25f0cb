//! The files of a new process, at low numbers that are kept free for them.
//!
//! A copy of all our files for each new process would cost more than all the rest of executing a
//! program when there are thousands: it is nearly all of the time that clone(2) takes then. So it
//! begins with ours (`CLONE_FILES`), and takes a copy of those below a number itself, by
//! close_range(2) with `CLOSE_RANGE_UNSHARE`, which does not look at those above. What it needs
//! is put below that number before.
//!
//! From the clone until it has done so, we must not touch what is in its seats; and for as long as
//! its status is in ours, its end can't be told by the end of that pipe. So it says when it has.
//!
//! Meanwhile others that begin get copies of what is there, and have them for a moment, or for as
//! long as somebody stops them in that moment. So the end of a process that was collected is known
//! without that pipe, and who has begun with a copy of everything closes the seats of others first.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use rustix::io::{DupFlags, Errno, dup3, fcntl_dupfd_cloexec};

use super::exec::close_range;

/// Its standard input, output and errors, and where it reports to.
pub(super) const SEATS: usize = 4;

/// Processes that can have seats at once. A process leaves them with its first system call, so that
/// more would be of no use where there are not far more processors; and each costs as many files
/// that a process without seats has copies of.
pub(super) const SEATED: usize = 4;

/// The first number that no program finds in use.
const FIRST: RawFd = 3;

/// `CLOSE_RANGE_UNSHARE` of close_range(2).
const UNSHARE: u32 = 1 << 1;

/// Numbers of files, in ascending order, for one process after the other.
pub(super) struct Seats {
    files: [OwnedFd; SEATS],
    /// What is there when nobody is: `/dev/null`.
    nothing: Arc<File>,
}

impl Seats {
    /// The lowest numbers that are free.
    ///
    /// # Errors
    ///
    /// When there are no more files.
    pub(super) fn reserve(nothing: &Arc<File>) -> io::Result<Self> {
        let seat = || fcntl_dupfd_cloexec(nothing, FIRST);
        let files = [seat()?, seat()?, seat()?, seat()?];
        Ok(Self { files, nothing: Arc::clone(nothing) })
    }

    /// Whether a process can take a copy of some of its files alone: since Linux 5.9, if no filter
    /// of system calls forbids it.
    pub(super) fn work() -> bool {
        // Closes nothing: there is no such number.
        close_range(u32::MAX, u32::MAX, 0).is_ok()
    }

    /// Puts files there.
    ///
    /// # Errors
    ///
    /// None that is known: the numbers are in use already.
    pub(super) fn fill(&mut self, files: [BorrowedFd<'_>; SEATS]) -> io::Result<Numbers> {
        for (seat, file) in self.files.iter_mut().zip(files) {
            dup3(file, seat, DupFlags::CLOEXEC)?;
        }
        Ok(self.numbers())
    }

    pub(super) fn numbers(&self) -> Numbers {
        Numbers(self.files.each_ref().map(AsRawFd::as_raw_fd))
    }

    /// Closes what is there.
    pub(super) fn vacate(&mut self) {
        for seat in &mut self.files {
            // It can't fail, see above; if it did, what is there is closed by the next fill.
            let _ = dup3(self.nothing.as_fd(), seat, DupFlags::CLOEXEC);
        }
    }
}

/// The numbers of seats.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers([RawFd; SEATS]);

impl Numbers {
    pub(super) const fn streams(self) -> [RawFd; 3] {
        let [stdin, stdout, stderr, _] = self.0;
        [stdin, stdout, stderr]
    }

    pub(super) const fn status(self) -> RawFd {
        self.0[SEATS - 1]
    }

    /// Closes a copy of what is in the seats of others. In the new process: nothing but system
    /// calls.
    pub(super) fn close(self) {
        for seat in self.0 {
            let seat = seat.cast_unsigned();
            // It can't fail.
            let _ = close_range(seat, seat, 0);
        }
    }

    /// Gives this process files of its own, which are the first three and those in its seats. In
    /// the new process: nothing but system calls.
    ///
    /// Not those in others' seats: they would not be closed before this process has executed its
    /// program, which may take for ever.
    ///
    /// # Errors
    ///
    /// When there is no memory; then it has ours still.
    pub(super) fn keep_only(self) -> Result<(), Errno> {
        let mut above = u32::MAX;
        let mut flags = UNSHARE;
        for seat in self.0.into_iter().rev().chain([FIRST - 1]) {
            let seat = seat.cast_unsigned();
            if seat < above {
                close_range(seat + 1, above, flags)?;
            }
            flags = 0;
            above = seat.saturating_sub(1);
        }
        Ok(())
    }
}
