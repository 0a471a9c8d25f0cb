//! Listening sockets for a program, as sd_listen_fds(3) has them: its files from 3 on, with its own
//! number in its environment. All of it is done in the new process, because that number is not
//! known before.

use std::os::fd::{BorrowedFd, IntoRawFd, RawFd};

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use syscalls::{Sysno, syscall};

use super::in_rustix;
use crate::holder::frame::MAX_LISTENERS;
use crate::holder::image::PID_DIGITS;

/// The number of the first, `SD_LISTEN_FDS_START`.
const FIRST: RawFd = 3;

/// Files of ours that a program is given from [`FIRST`] on, in this order.
#[derive(Clone, Copy, Default, Debug)]
pub(in crate::holder) struct Listeners {
    files: [RawFd; MAX_LISTENERS],
    count: usize,
}

impl Listeners {
    /// One more. False if there are as many as there can be.
    pub(in crate::holder) fn push(&mut self, file: RawFd) -> bool {
        let Some(place) = self.files.get_mut(self.count) else { return false };
        *place = file;
        self.count += 1;
        true
    }

    /// Whether there is none.
    pub(in crate::holder) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn each(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.files.iter().copied().take(self.count)
    }
}

/// Gives them their numbers, in a process that has a table of files of its own, after it has got
/// its three streams. What is at these numbers is closed; `status` gets another number if it is
/// one of these. They wait, whatever the program before did with them.
pub(super) fn pass_on(listeners: &Listeners, status: &mut RawFd) -> Result<(), Errno> {
    let beyond = FIRST.saturating_add_unsigned(listeners.count as u32);
    let mut sources = *listeners;
    for file in sources.files.iter_mut().take(listeners.count).chain([status]) {
        if *file < beyond {
            // SAFETY: open in us, as a copy of what our caller has.
            let here = unsafe { BorrowedFd::borrow_raw(*file) };
            *file = fcntl_dupfd_cloexec(here, beyond)?.into_raw_fd();
        }
    }
    for (file, number) in sources.each().zip(FIRST..) {
        // SAFETY: open in us, see above.
        fcntl_setfl(unsafe { BorrowedFd::borrow_raw(file) }, OFlags::empty())?;
        // SAFETY: three numbers; nobody in this process owns a file at the second, which is below
        // those that it needs.
        unsafe { syscall!(Sysno::dup3, file, number, 0) }.map_err(in_rustix)?;
    }
    Ok(())
}

/// Writes our number as a text that ends with a zero.
///
/// # Safety
///
/// There are [`PID_DIGITS`] bytes at this address, and one more, that nobody else uses.
pub(super) unsafe fn write_pid(at: *mut u8) {
    let mut rest = rustix::process::getpid().as_raw_nonzero().get().unsigned_abs();
    let mut digits = [0_u8; PID_DIGITS];
    let mut count = 0;
    for digit in digits.iter_mut().rev() {
        // A remainder of ten is a byte.
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
        count += 1;
        if rest == 0 {
            break;
        }
    }
    for (place, digit) in digits.iter().skip(PID_DIGITS - count).chain([&0]).enumerate() {
        // SAFETY: no number has more digits, so this is one of those bytes, by our caller's
        // promise.
        unsafe { at.wrapping_add(place).write(*digit) };
    }
}
