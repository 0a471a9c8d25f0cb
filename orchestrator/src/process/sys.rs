//! The system calls that neither std nor nix has, each in a safe shape. The only unsafe code
//! of this room.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `PIDFD_SIGNAL_PROCESS_GROUP` of pidfd_send_signal(2), Linux 6.9 and later.
pub(super) const PROCESS_GROUP: libc::c_uint = 1 << 2;

/// pidfd_open(2). Close-on-exec, as the kernel makes it.
pub(super) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers and touches no memory of ours.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// pidfd_send_signal(2), as kill(2) would send it. Signal 0 only asks.
pub(super) fn pidfd_send_signal(
    pidfd: BorrowedFd<'_>,
    signal: i32,
    flags: libc::c_uint,
) -> io::Result<()> {
    let info: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: the descriptor is open; a null `info` is allowed and means "as kill(2)".
    check(unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, flags)
    })?;
    Ok(())
}

/// Whether there is a process group with this number.
pub(super) fn group_is_there(group: i32) -> bool {
    // SAFETY: takes two integers and touches no memory of ours; signal 0 only asks.
    let asked = check(unsafe { libc::kill(-group, 0) }.into());
    asked.map_or_else(|error| error.raw_os_error() != Some(libc::ESRCH), |_| true)
}

/// A descriptor that a task can wait on until it is readable. Within a tokio runtime.
pub(super) fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open and the same for as long as it lives, and nobody takes it out.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// A descriptor that a task can wait on until it is writable. Within a tokio runtime.
pub(super) fn writable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: as above.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::WRITABLE) }?)
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
