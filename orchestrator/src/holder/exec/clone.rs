//! clone3(2), for what clone(2) can't do: a process that is in another cgroup from its first moment.
//!
//! One that is there later, by its number in `cgroup.procs`, has to be moved, for which the kernel
//! holds up whatever is forked or ended on the machine until all processors have noticed: 12 ms
//! where one start follows another after a while, and 0.1 ms here.
//!
//! No library calls it with a stack for the new process, which has nothing to return to on the one
//! that it came from. So it is called, as clone(2) is in the C library, by a few instructions for
//! each architecture. On others, and where the kernel has no clone3 or a filter of system calls
//! hides it, a process moves itself.

use std::ffi::{c_int, c_void};
use std::os::fd::RawFd;

use rustix::io::Errno;

/// What runs in the new process, and its exit status.
pub(super) type Child = extern "C" fn(*mut c_void) -> c_int;

/// As clone3(2) takes it, in the form with a cgroup (`CLONE_ARGS_SIZE_VER2`).
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Args {
    pub(super) flags: u64,
    /// Where the number of a file goes, with `CLONE_PIDFD`.
    pub(super) pidfd: u64,
    pub(super) child_tid: u64,
    pub(super) parent_tid: u64,
    pub(super) exit_signal: u64,
    /// The lowest address of the stack.
    pub(super) stack: u64,
    pub(super) stack_size: u64,
    pub(super) tls: u64,
    pub(super) set_tid: u64,
    pub(super) set_tid_size: u64,
    /// A directory, with [`INTO_CGROUP`].
    pub(super) cgroup: u64,
}

/// `CLONE_INTO_CGROUP`, since Linux 5.7.
pub(super) const INTO_CGROUP: u64 = 1 << 33;

/// Begins a process, which runs `child` with this argument on the stack of `args`, and answers its
/// number.
///
/// # Errors
///
/// Those of clone3(2), and `ENOSYS` on architectures that are not known here.
///
/// # Safety
///
/// The stack in `args` is memory that is the process's alone, aligned to 16 bytes, until it has
/// memory of its own or has ended; `child` is sound with this argument on it; what else is in `args`
/// is as clone3(2) wants it.
pub(super) unsafe fn clone3(
    args: &Args,
    child: Child,
    argument: *mut c_void,
) -> Result<RawFd, Errno> {
    // SAFETY: by our caller's promise.
    let answer = unsafe { call(args, child, argument) };
    match i32::try_from(answer) {
        Ok(pid @ 1..) => Ok(pid),
        Ok(errno @ -4095..=-1) => Err(Errno::from_raw_os_error(-errno)),
        _ => Err(Errno::NOSYS),
    }
}

/// # Safety
///
/// See [`clone3`].
#[cfg(target_arch = "x86_64")]
unsafe fn call(args: &Args, child: Child, argument: *mut c_void) -> isize {
    let answer;
    // SAFETY: one system call, which keeps all registers but rax, rcx and r11. The process that
    // called it goes on behind it. The new one, for which rax is 0, has the same registers and the top
    // of its own stack, which is aligned as a call wants it; it never leaves these lines, and so
    // touches nothing of what the compiler has on the stack of the other.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            // The end of all frames, for who looks at the stack.
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "mov edi, eax",
            "mov eax, {exit}",
            "syscall",
            "ud2",
            "2:",
            exit = const libc::SYS_exit_group,
            inlateout("rax") libc::SYS_clone3 => answer,
            in("rdi") std::ptr::from_ref(args),
            in("rsi") size_of::<Args>(),
            in("r12") argument,
            in("r13") child,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    answer
}

/// # Safety
///
/// See [`clone3`].
#[cfg(target_arch = "aarch64")]
unsafe fn call(args: &Args, child: Child, argument: *mut c_void) -> isize {
    let answer;
    // SAFETY: one system call, which keeps all registers but x0. For the rest see the other
    // architecture.
    unsafe {
        std::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, x20",
            "blr x21",
            "mov x8, {exit}",
            "svc #0",
            "brk #1",
            "2:",
            exit = const libc::SYS_exit_group,
            in("x8") libc::SYS_clone3,
            inlateout("x0") std::ptr::from_ref(args) => answer,
            in("x1") size_of::<Args>(),
            in("x20") argument,
            in("x21") child,
        );
    }
    answer
}

/// # Safety
///
/// None.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn call(_: &Args, _: Child, _: *mut c_void) -> isize {
    -(libc::ENOSYS as isize)
}
