//! The system calls that neither std nor nix has, each in a safe shape. The only unsafe code
//! of this room.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use orchestrator_proto::control::Exit;
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

/// How a process ended, by its pidfd: `PIDFD_GET_INFO` of ioctl_pidfd(2), Linux 6.15 and later.
/// None as long as it was not collected.
pub(super) fn exit_of(pidfd: BorrowedFd<'_>) -> io::Result<Option<Exit>> {
    /// The first version of `struct pidfd_info`.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        mask: u64,
        cgroup: u64,
        ids: [u32; 11],
        exit_code: i32,
    }
    const EXIT: u64 = 1 << 3;
    const SIZE: libc::Ioctl = size_of::<Info>() as libc::Ioctl;
    // _IOWR(0xff, 11, struct pidfd_info)
    const GET_INFO: libc::Ioctl = (3 << 30) | (SIZE << 16) | (0xff << 8) | 11;

    let mut info = Info { mask: EXIT, ..Info::default() };
    // SAFETY: `info` is as large as the request's number says, and lives until the call returns.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO, &raw mut info) };
    match check(result.into()) {
        // It has been collected by now, on a kernel that does not tell of the end.
        Err(error) if error.raw_os_error() != Some(libc::EINTR) => return Err(error),
        _ if info.mask & EXIT == 0 => return Ok(None),
        _ => {}
    }
    Ok(Some(exit(info.exit_code)))
}

/// A status as waitpid(2) gives it.
pub(super) const fn exit(status: i32) -> Exit {
    match status & 0x7f {
        0 => Exit::Code((status >> 8) & 0xff),
        signal => Exit::Signal { signal, core_dumped: status & 0x80 != 0 },
    }
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
