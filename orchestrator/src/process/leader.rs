//! The main process of an execution, which leads its process group: who it is, and how to signal
//! that group through it.
//!
//! That is done by a pidfd. It is not kept open as long as the process has not been collected:
//! another one can be had by its number, and the kernel tells whether that is still its own, by the
//! inode of the pidfd, of which no two are the same as long as the machine runs (pidfs, Linux 6.9).
//! When the process has been collected, and only others are left in its group, there is none to be
//! had any more; so the holder, which collects it, opens one before that and sends it with the news.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;

use super::sys;

/// See the module.
#[derive(Debug)]
pub(super) struct Leader {
    pid: i32,
    /// None if the kernel does not say; then the pidfd is kept open from the beginning.
    inode: Option<u64>,
    pidfd: OnceLock<OwnedFd>,
}

impl Leader {
    /// The process of this pidfd. It is closed, if that can be and another one
    /// [comes](Self::collected) when the process is collected.
    pub(super) fn new(pid: i32, pidfd: OwnedFd, another_comes: bool) -> Self {
        let inode = sys::pidfs_inode(pidfd.as_fd()).filter(|_| another_comes);
        let kept = if inode.is_none() { OnceLock::from(pidfd) } else { OnceLock::new() };
        Self { pid, inode, pidfd: kept }
    }

    pub(super) const fn pid(&self) -> i32 {
        self.pid
    }

    /// It was collected, and its number may be another's from now on. This is a pidfd that was
    /// opened before, unless there was no room for one and it is something else.
    pub(super) fn collected(&self, pidfd: OwnedFd) {
        if self.inode.is_some() && sys::pidfs_inode(pidfd.as_fd()) == self.inode {
            let _ = self.pidfd.set(pidfd);
        }
    }

    /// Signals its group; 0 only asks. None if that can't be known here: the kernel does not do
    /// that, or the process was collected and [nothing](Self::collected) came of it so far.
    ///
    /// # Errors
    ///
    /// `ESRCH` if nobody is left in the group; see pidfd_send_signal(2).
    pub(super) fn signal_group(&self, signal: i32) -> Option<io::Result<()>> {
        let opened;
        let pidfd = match (self.pidfd.get(), self.inode) {
            (Some(pidfd), _) => pidfd,
            (None, Some(inode)) => {
                opened = sys::pidfd_open(self.pid).ok()?;
                (sys::pidfs_inode(opened.as_fd()) == Some(inode)).then_some(&opened)?
            }
            (None, None) => return None,
        };
        match sys::pidfd_send_signal(pidfd.as_fd(), signal, sys::PROCESS_GROUP) {
            // The kernel doesn't know the flag; or the signal, which whoever is asked then says
            // again. Or it is no pidfd.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EBADF)) => None,
            sent => Some(sent),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};

    fn sleep() -> (Child, i32) {
        let child = Command::new("/bin/sleep").arg("1000").process_group(0).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        (child, pid)
    }

    fn is_gone(asked: Option<io::Result<()>>) -> bool {
        asked.unwrap().unwrap_err().raw_os_error() == Some(libc::ESRCH)
    }

    #[test]
    fn it_is_signalled_before_and_after_it_was_collected() {
        if !super::super::abilities::signals_groups().unwrap() {
            eprintln!("skipped: this kernel can't signal a group by a pidfd");
            return;
        }
        for another_comes in [false, true] {
            let (mut child, pid) = sleep();
            let leader = Leader::new(pid, sys::pidfd_open(pid).unwrap(), another_comes);
            assert_eq!(leader.pidfd.get().is_none(), another_comes);
            leader.signal_group(0).unwrap().unwrap();
            leader.signal_group(libc::SIGKILL).unwrap().unwrap();
            // It has ended, and was not collected.
            nix::sys::wait::waitid(
                nix::sys::wait::Id::Pid(nix::unistd::Pid::from_raw(pid)),
                nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT,
            )
            .unwrap();
            let last = sys::pidfd_open(pid).unwrap();
            child.wait().unwrap();
            if another_comes {
                assert!(leader.signal_group(0).is_none(), "nothing is known any more");
                leader.collected(File::open("/dev/null").unwrap().into());
                assert!(leader.signal_group(0).is_none(), "that was no pidfd");
            }
            leader.collected(last);
            assert!(is_gone(leader.signal_group(0)));
        }
    }

    #[test]
    fn another_process_of_its_number_is_not_signalled() {
        if !super::super::abilities::signals_groups().unwrap() {
            eprintln!("skipped: this kernel can't signal a group by a pidfd");
            return;
        }
        let (mut child, pid) = sleep();
        let (mut other, other_pid) = sleep();
        // As if the number had been given to the other one.
        let leader = Leader::new(other_pid, sys::pidfd_open(pid).unwrap(), true);
        assert!(leader.signal_group(libc::SIGKILL).is_none());
        assert_eq!(other.try_wait().unwrap(), None);
        for child in [&mut child, &mut other] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
