//! A process of an earlier daemon whose holder was killed with it, so that nobody ended it.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::super::procfs::Stat;
use super::super::sys;
use super::Keeper;
use crate::supervise::SIGKILL;

/// How long a process may take to be gone after SIGKILL.
const GONE: Duration = Duration::from_secs(5);

impl Keeper {
    /// Sends SIGKILL to what an earlier daemon left running of an instance: to this main process,
    /// if it is the one that started at `start_ticks` (clock ticks since this boot), and to its
    /// group. Waits until the main process is gone. Answers whether it was there. Must be called
    /// within a tokio runtime.
    ///
    /// If only others of its group are left, they are not found: their number could be anybody's.
    ///
    /// # Errors
    ///
    /// When it may not be signalled, or is not gone after five seconds.
    pub async fn end_leftover(pid: u32, start_ticks: u64) -> io::Result<bool> {
        let Ok(pid) = i32::try_from(pid) else {
            return Ok(false);
        };
        let pidfd = match sys::pidfd_open(pid) {
            Ok(pidfd) => pidfd,
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(false),
            Err(error) => return Err(error),
        };
        // The process with that start had this number before the pidfd was made, and has it now.
        let stat = Stat::of(pid).filter(|stat| stat.started == start_ticks && stat.is_alive());
        if stat.is_none_or(|stat| stat.group != pid) {
            return Ok(false);
        }
        match sys::pidfd_send_signal(pidfd.as_fd(), SIGKILL, sys::PROCESS_GROUP) {
            // Before Linux 6.9: as long as it is stopped, its number is its own.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                sys::pidfd_send_signal(pidfd.as_fd(), Signal::SIGSTOP as i32, 0)?;
                sys::kill_group(pid, SIGKILL)?;
            }
            sent => sent?,
        }
        // A pidfd is readable once its process has ended, collected or not.
        let ended = sys::readable(pidfd)?;
        match tokio::time::timeout(GONE, ended.readable()).await {
            Ok(ready) => ready.map(|_| true),
            Err(_) => Err(io::Error::other("it is not gone five seconds after SIGKILL")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};

    fn nap() -> (Child, u64) {
        let child = Command::new("/bin/sleep").arg("1000").process_group(0).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        (child, Stat::of(pid).unwrap().started)
    }

    #[tokio::test]
    async fn it_is_ended_if_it_is_the_one_that_is_meant() {
        let (mut child, started) = nap();
        assert!(!Keeper::end_leftover(child.id(), started + 1).await.unwrap());
        assert_eq!(child.try_wait().unwrap(), None);
        assert!(Keeper::end_leftover(child.id(), started).await.unwrap());
        assert!(!child.wait().unwrap().success());
        assert!(!Keeper::end_leftover(child.id(), started).await.unwrap());
    }

    #[tokio::test]
    async fn numbers_that_are_nobodys() {
        for pid in [0, u32::MAX, 4_194_305] {
            assert!(!matches!(Keeper::end_leftover(pid, 1).await, Ok(true)));
        }
    }
}
