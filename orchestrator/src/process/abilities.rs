//! What this kernel can do, found out by asking it for something that changes nothing.

use std::io;
use std::os::fd::AsFd;

use super::sys;

/// Whether a process group can be signalled through a pidfd: Linux 6.9 and later.
///
/// # Errors
///
/// When there is no pidfd to be had.
pub fn signals_groups() -> io::Result<bool> {
    let own = own_pidfd()?;
    match sys::pidfd_send_signal(own.as_fd(), 0, sys::PROCESS_GROUP) {
        Ok(()) => Ok(true),
        // This process leads no group, so there is none with its number; the kernel has looked.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a pidfd tells how its process ended: Linux 6.15 and later.
///
/// # Errors
///
/// When there is no pidfd to be had.
pub fn tells_of_exits() -> io::Result<bool> {
    let own = own_pidfd()?;
    match sys::exit_of(own.as_fd()) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::EINVAL)) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Whether somebody keeps this machine's clock right, see adjtimex(2).
///
/// # Errors
///
/// When the kernel does not say.
pub fn clock_is_synchronised() -> io::Result<bool> {
    sys::clock_is_synchronised()
}

fn own_pidfd() -> io::Result<std::os::fd::OwnedFd> {
    let own = i32::try_from(std::process::id()).map_err(io::Error::other)?;
    sys::pidfd_open(own)
}
