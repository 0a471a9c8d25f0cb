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

/// What tells the process of a pidfd from every other one since the machine was started: its inode.
/// None if the kernel does not have that (before Linux 6.9), or it is no pidfd.
pub(super) fn pidfs_inode(pidfd: BorrowedFd<'_>) -> Option<u64> {
    /// `PID_FS_MAGIC`
    const PIDFS: u64 = 0x5049_4446;
    let is_there = rustix::fs::fstatfs(pidfd).is_ok_and(|it| u64::try_from(it.f_type) == Ok(PIDFS));
    is_there.then(|| rustix::fs::fstat(pidfd).ok()).flatten().map(|stat| stat.st_ino)
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

/// adjtimex(2), which only asks: whether the clock is synchronised.
pub(super) fn clock_is_synchronised() -> io::Result<bool> {
    // SAFETY: it is made of integers; no mode means that nothing is set.
    let mut time: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: `time` lives until the call returns.
    let state = check(unsafe { libc::adjtimex(&raw mut time) }.into())?;
    Ok(state != libc::c_long::from(libc::TIME_ERROR))
}

/// Whether this thread is scheduled as most are (`SCHED_OTHER`, see sched(7)).
pub(super) fn is_ordinary() -> bool {
    // SAFETY: takes an integer and touches no memory of ours.
    unsafe { libc::sched_getscheduler(0) == libc::SCHED_OTHER }
}

/// sched_setscheduler(2) for this thread: `SCHED_FIFO` with this priority, `SCHED_OTHER` if there
/// is none.
pub(super) fn set_realtime(priority: Option<i32>) -> io::Result<()> {
    let policy = priority.map_or(libc::SCHED_OTHER, |_| libc::SCHED_FIFO);
    let param = libc::sched_param { sched_priority: priority.unwrap_or(0) };
    // SAFETY: `param` lives until the call returns.
    check(unsafe { libc::sched_setscheduler(0, policy, &raw const param) }.into())?;
    Ok(())
}

/// A status as waitpid(2) gives it.
pub(super) const fn exit(status: i32) -> Exit {
    match status & 0x7f {
        0 => Exit::Code((status >> 8) & 0xff),
        signal => Exit::Signal { signal, core_dumped: status & 0x80 != 0 },
    }
}

/// A datagram, and what came with it.
#[derive(Debug, Default)]
pub(crate) struct Received {
    /// Its length, bytes.
    pub(crate) len: usize,
    /// Whether it was longer than there was room for.
    pub(crate) cut: bool,
    /// Who sent it, as the kernel says (`SCM_CREDENTIALS`, unix(7)); none if that is not known
    /// here, as with a sender in another namespace.
    pub(crate) sender: Option<u32>,
    /// Files that it brought. More than [`MAX_FILES`] are closed by the kernel.
    pub(crate) files: Vec<OwnedFd>,
}

/// The most files that are taken with one datagram.
const MAX_FILES: usize = 8;

/// Receives a datagram of a socket with `SO_PASSCRED`. Never waits.
///
/// rustix takes the number of a process for one that can't be 0, which this one can, and nix
/// loses files when some of them find no room.
pub(crate) fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<Received> {
    /// More than the headers and the contents of both need.
    const SPACE: usize = 256;
    #[repr(C, align(16))]
    struct Space([u8; SPACE]);
    // What the kernel puts into it: credentials first, then files.
    const { assert!(SPACE >= 3 * 16 + size_of::<libc::ucred>() + MAX_FILES * size_of::<RawFd>()) };

    let mut space = Space([0; SPACE]);
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: it is made of integers and pointers; zeros are no address, no part, no room.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut space).cast();
    // SAFETY: it only computes.
    let room = unsafe {
        libc::CMSG_SPACE(size_of::<libc::ucred>() as u32)
            + libc::CMSG_SPACE((MAX_FILES * size_of::<RawFd>()) as u32)
    };
    header.msg_controllen = (room as usize).min(SPACE) as _;
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: the header names `bytes` and `space` with at most their sizes, and both live on.
    let len = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
    let mut received = Received {
        len: usize::try_from(len).map_err(|_| io::Error::last_os_error())?,
        cut: header.msg_flags & libc::MSG_TRUNC != 0,
        ..Received::default()
    };
    // SAFETY: the kernel has filled the header and what it names.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !at.is_null() {
        // SAFETY: `at` is a whole message within `space`, whose alignment is that of a header.
        let (head, content) = unsafe { (at.read(), libc::CMSG_DATA(at)) };
        #[allow(clippy::unnecessary_cast, reason = "it is an u32 in musl's headers")]
        // SAFETY: it only computes.
        let len = (head.cmsg_len as usize).saturating_sub(unsafe { libc::CMSG_LEN(0) } as usize);
        match (head.cmsg_level, head.cmsg_type) {
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if len >= size_of::<libc::ucred>() => {
                // SAFETY: so many bytes are there, and any are a value of it.
                let who = unsafe { content.cast::<libc::ucred>().read_unaligned() };
                received.sender = u32::try_from(who.pid).ok().filter(|pid| *pid > 0);
            }
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                for i in 0..len / size_of::<RawFd>() {
                    // SAFETY: so many of them are there. The kernel has just made each of them
                    // for us; nobody else knows it.
                    received.files.push(unsafe {
                        OwnedFd::from_raw_fd(content.cast::<RawFd>().add(i).read_unaligned())
                    });
                }
            }
            _ => {}
        }
        // SAFETY: both are as the kernel has left them.
        at = unsafe { libc::CMSG_NXTHDR(&raw const header, at) };
    }
    Ok(received)
}

/// A descriptor that a task can wait on until it is readable. Within a tokio runtime.
pub(crate) fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open and the same for as long as it lives, and nobody takes it out.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// A descriptor that a task can wait on until it is writable. Within a tokio runtime.
pub(super) fn writable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: as above.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::WRITABLE) }?)
}

/// A descriptor that a task can wait on until an exceptional condition, see poll(2). Within a tokio
/// runtime.
pub(super) fn exceptional(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: as above.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::PRIORITY) }?)
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
    use std::io::IoSlice;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn a_datagram_comes_with_its_sender_and_a_few_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let socket = UnixDatagram::bind(&path).unwrap();
        rustix::net::sockopt::set_socket_passcred(&socket, true).unwrap();
        let to = UnixAddr::new(&path).unwrap();
        let (pipe, held) = nix::unistd::pipe().unwrap();
        for (text, files) in
            [(&b"hello"[..], 0), (b"", 1), (b"x", 8), (b"y", 200), (&[b'z'; 100], 2)]
        {
            let held = vec![held.as_raw_fd(); files];
            let rights = [ControlMessage::ScmRights(&held)];
            let rights = if files == 0 { &rights[..0] } else { &rights[..] };
            let from = UnixDatagram::unbound().unwrap();
            let parts = [IoSlice::new(text)];
            sendmsg(from.as_raw_fd(), &parts, rights, MsgFlags::empty(), Some(&to)).unwrap();
            let mut bytes = [0; 50];
            let received = receive(socket.as_fd(), &mut bytes).unwrap();
            assert_eq!(received.len, text.len().min(50));
            assert_eq!(
                (received.cut, received.sender),
                (text.len() > 50, Some(std::process::id()))
            );
            assert_eq!(received.files.len(), files.min(MAX_FILES));
            assert_eq!(&bytes[..received.len], &text[..received.len]);
        }
        // All that came is closed.
        drop(held);
        assert_eq!(nix::unistd::read(&pipe, &mut [0]).unwrap(), 0);
        let nothing = receive(socket.as_fd(), &mut [0; 8]).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    }
}
