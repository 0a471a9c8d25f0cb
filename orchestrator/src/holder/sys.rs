//! System calls that neither std nor rustix nor nix has in a safe shape.
#![allow(unsafe_code)]

use std::io;
use std::ops::Range;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::process::{Pid, PidfdFlags};
use syscalls::{Sysno, syscall};

/// kill(2) for a whole process group. Its number must be above 1, and ours.
pub(super) fn kill_group(group: i32, signal: i32) -> io::Result<()> {
    if group <= 1 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: takes two integers and touches no memory of ours.
    if unsafe { libc::kill(-group, signal) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The number of a child, ours or adopted, that has ended and was not collected; none if there is
/// none. It is not collected by this, so that the number is its own until that is done.
pub(super) fn ended_child() -> Option<i32> {
    // SAFETY: it is made of integers; the kernel leaves it alone if no child has ended.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    loop {
        // SAFETY: `info` lives until the call returns.
        if unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, flags) } == 0 {
            break;
        }
        if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return None;
        }
    }
    // SAFETY: waitid(2) has filled it, or it is zero as before.
    Some(unsafe { info.si_pid() }).filter(|pid| *pid > 0)
}

/// pidfd_open(2), of a child that was not collected: its number is its own.
pub(super) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// Handles and ignores no signal from now on: what is executed inherits what is ignored.
pub(super) fn default_signals() {
    // The kernel's `struct sigaction` has at most four words; all zeros are SIG_DFL.
    let default = [0_u64; 4];
    for signal in 1..=64 {
        let (action, before) = (default.as_ptr(), 0_usize);
        // SAFETY: the kernel reads the structure and writes nothing, and no code of ours is made
        // to run. Not by the C library, which keeps two signals for itself and may ignore them.
        // It fails for SIGKILL and SIGSTOP, which are as they should be.
        let _ = unsafe { syscall!(Sysno::rt_sigaction, signal, action, before, size_of::<u64>()) };
    }
}

/// Gives back the memory of a mapping that is private, of a file, and was not written to.
pub(super) fn give_back(mapping: Range<usize>) {
    let address = std::ptr::without_provenance_mut::<libc::c_void>(mapping.start);
    // SAFETY: nothing of such a mapping is lost: the kernel reads it from the file again, when it
    // is used again. See madvise(2).
    let _ = unsafe { libc::madvise(address, mapping.len(), libc::MADV_DONTNEED) };
}

/// So many zeros for good and all, from the beginning of a page on; not touched before they are
/// used.
pub(super) fn pages(words: usize) -> &'static mut [u64] {
    let page = rustix::param::page_size();
    let all = Vec::leak(vec![0; words + page / size_of::<u64>()]);
    let first = all.as_ptr().align_offset(page);
    &mut all[first..first + words]
}

/// Gives back the whole pages of this memory. What they hold is lost.
pub(super) fn clear(memory: &mut [u64]) {
    let page = rustix::param::page_size();
    let words = memory.as_mut_ptr_range();
    let (start, end) = (words.start.addr().next_multiple_of(page), words.end.addr() / page * page);
    if start < end {
        let address = words.start.with_addr(start).cast();
        // SAFETY: nobody else has this memory meanwhile, and all of these pages are of it. It is
        // the allocator's, so private and of no file: what is read there next are zeros, which are
        // integers. See madvise(2).
        let _ = unsafe { libc::madvise(address, end - start, libc::MADV_DONTNEED) };
    }
}

/// Gives back what was freed and the allocator still has. Does nothing with one that keeps nothing
/// or can't be asked.
pub(super) fn give_back_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it touches only memory that nobody uses, see malloc_trim(3).
    let _ = unsafe { libc::malloc_trim(0) };
}

/// Closes a file of this process on every exec. By its number, because files that were open when
/// this process started have no owner in Rust.
pub(super) fn close_on_exec(fd: RawFd) -> io::Result<()> {
    // SAFETY: takes integers and touches no memory of ours; the flag harms no owner.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Whether a file of this number is open.
pub(super) fn is_open(fd: RawFd) -> bool {
    // SAFETY: takes integers and touches no memory of ours.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

/// Takes a file that was open when this program was executed, and closes it on every exec from
/// now on. `fd` must have been written down for that by the program before this one: it is then no
/// file that anything in this program has opened.
pub(super) fn inherit(fd: RawFd) -> io::Result<OwnedFd> {
    close_on_exec(fd)?;
    // SAFETY: it is open, and has no owner in this program, see above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
