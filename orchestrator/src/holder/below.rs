//! Ending everything that is left below this process.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::{CWD, Mode, OFlags, RawDir, openat};
use rustix::io::Errno;
use rustix::process::{WaitOptions, wait};

/// Bytes of the names in a directory that are looked at at once.
const NAMES: usize = 4096;

/// As much of `/proc/PID/stat` as has to be seen: a number, a name of at most 64 bytes, a state,
/// the parent's number.
const STAT: usize = 256;

/// Sends SIGKILL to every process below us until none is left. Answers how many ended by it.
///
/// What a process that is killed had started becomes our child before that process can be
/// collected, so each round sees it. By number, because a child's is its own until we, and
/// only we, collect it. Takes no memory.
pub(super) fn end_all_below() -> io::Result<usize> {
    // They had ended before.
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
    let mut killed = 0;
    loop {
        let (mut there, mut reachable) = (false, false);
        each_child(|child| {
            there = true;
            reachable |= kill(child, Signal::SIGKILL).is_ok();
        })?;
        if there && !reachable {
            eprintln!("error: processes of another user are left, see ps --ppid 1");
            return Ok(killed);
        }
        match wait(WaitOptions::empty()) {
            Err(Errno::CHILD) => return Ok(killed),
            Ok(Some((_, status))) => {
                killed += usize::from(status.terminating_signal() == Some(libc::SIGKILL));
            }
            Ok(None) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Our children, from `/proc/PID/stat`; `/proc/PID/task/PID/children` is not on every kernel.
fn each_child(mut tell: impl FnMut(Pid)) -> io::Result<()> {
    let us = std::process::id();
    let proc = open(CWD, c"/proc", OFlags::DIRECTORY)?;
    let mut names = [MaybeUninit::uninit(); NAMES];
    let mut entries = RawDir::new(&proc, &mut names);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if let Some(pid) = number(name.to_bytes())
            && parent(&proc, name.to_bytes()) == Some(us)
            && let Ok(pid) = i32::try_from(pid)
        {
            tell(Pid::from_raw(pid));
        }
    }
    Ok(())
}

fn open(at: impl AsFd, path: &std::ffi::CStr, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    openat(at, path, flags | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// The parent of the process with this number, if it is there.
fn parent(proc: &OwnedFd, pid: &[u8]) -> Option<u32> {
    let mut path = [0; 32];
    let (name, rest) = path.split_at_mut_checked(pid.len())?;
    name.copy_from_slice(pid);
    rest.get_mut(..5)?.copy_from_slice(b"/stat");
    let file = open(proc, std::ffi::CStr::from_bytes_until_nul(&path).ok()?, OFlags::empty());
    let mut stat = [0; STAT];
    let len = rustix::io::read(file.ok()?, &mut stat).ok()?;
    parent_in(&stat[..len])
}

/// The parent in the beginning of a text of proc_pid_stat(5).
fn parent_in(stat: &[u8]) -> Option<u32> {
    // The name in parentheses may hold anything; state and parent follow it.
    let name_end = stat.iter().rposition(|&byte| byte == b')')?;
    let mut fields = stat[name_end + 1..].split(|&byte| byte == b' ').filter(|it| !it.is_empty());
    number(fields.nth(1)?)
}

fn number(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_found_whatever_the_name_is() {
        assert_eq!(parent_in(b"12 (cat) S 11 12 12 0 -1"), Some(11));
        assert_eq!(parent_in(b"12 (a) S 4 (b) R 4294967295 1"), Some(u32::MAX));
        for none in [&b""[..], b"12 (cat", b"12 (cat) S", b"12 (cat) S x 1"] {
            assert_eq!(parent_in(none), None);
        }
    }

    #[test]
    fn children_are_found() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let mut found = false;
        each_child(|pid| found |= pid.as_raw().unsigned_abs() == child.id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found);
    }
}
