//! The system calls that neither std nor nix has, each in a safe shape. The only unsafe code
//! of this room.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
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

/// kill(2) for a whole process group. Its number must be above 1 and must be ours, unless the
/// signal is 0, which only asks.
pub(super) fn kill_group(group: i32, signal: i32) -> io::Result<()> {
    if group <= 1 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: takes two integers and touches no memory of ours.
    check(unsafe { libc::kill(-group, signal) }.into())?;
    Ok(())
}

/// The nice value of a process, getpriority(2).
pub(super) fn nice(pid: i32) -> io::Result<i32> {
    // SAFETY: takes two integers and touches no memory of ours.
    let raw = check(unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, pid) })?;
    // The kernel answers 40 to 1, so that no answer looks like an error.
    Ok(20 - i32::try_from(raw).map_err(io::Error::other)?)
}

/// setpriority(2) for one process.
pub(super) fn set_nice(pid: i32, nice: i32) -> io::Result<()> {
    // SAFETY: takes three integers and touches no memory of ours.
    check(unsafe { libc::syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, pid, nice) })?;
    Ok(())
}

/// prlimit(2) for the open files of one process.
pub(super) fn set_file_limit(pid: i32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the kernel reads `limit`, which lives until the call returns; null asks for no
    // answer.
    let result = unsafe { libc::prlimit64(pid, libc::RLIMIT_NOFILE, &limit, std::ptr::null_mut()) };
    check(result.into())?;
    Ok(())
}

/// A child that has ended and is still a zombie, if there is one: waitid(2), without waiting
/// and without collecting it. Not by nix, which can't express the end by a real-time signal.
pub(super) fn ended_child() -> io::Result<Option<(i32, Exit)>> {
    wait(libc::P_ALL, 0, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT)
}

/// Collects a child that has ended, so that its number is free.
pub(super) fn collect(pid: i32) -> io::Result<()> {
    let id = libc::id_t::try_from(pid).map_err(io::Error::other)?;
    wait(libc::P_PID, id, libc::WEXITED | libc::WNOHANG)?;
    Ok(())
}

fn wait(kind: libc::idtype_t, id: libc::id_t, flags: i32) -> io::Result<Option<(i32, Exit)>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    loop {
        // SAFETY: `info` is ours and large enough; the kernel only writes to it.
        match check(unsafe { libc::waitid(kind, id, info.as_mut_ptr(), flags) }.into()) {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    // SAFETY: all zeros is a valid siginfo_t, and the kernel has filled in what it knows.
    let info = unsafe { info.assume_init() };
    // SAFETY: waitid(2) fills in these fields, or leaves them zero when no child has ended.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let exit = match info.si_code {
        libc::CLD_EXITED => Exit::Code(status),
        code => Exit::Signal { signal: status, core_dumped: code == libc::CLD_DUMPED },
    };
    Ok(Some((pid, exit)))
}

/// Closes a descriptor of this process on every exec. By its number, because files that were
/// open when the daemon started have no owner in Rust.
pub(super) fn close_on_exec(fd: RawFd) -> io::Result<()> {
    // SAFETY: takes integers and touches no memory of ours; the flag harms no owner.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) }.into())?;
    Ok(())
}

/// A descriptor that a task can wait on until it is readable. Within a tokio runtime.
pub(super) fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open and the same for as long as it lives, and nobody takes it out.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
