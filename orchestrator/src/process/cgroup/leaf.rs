//! The cgroup of one execution: who is in it, ending them all, and waiting until nobody is.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::Interest;

use super::super::procfs::Stat;
use super::super::sys;
use super::Cgroups;
use super::limit::Ooms;
use crate::supervise::SIGKILL;

/// How often the members are looked for again, where the kernel can't kill them all at once.
const MAX_SEARCHES: usize = 100;

/// How deep below a cgroup others are looked for, such as those of a container.
const MAX_DEPTH: usize = 16;

/// Removes the cgroup when it is dropped, and that of its instance, if nothing is in them.
#[derive(Debug)]
pub(in super::super) struct Leaf {
    cgroups: Arc<Cgroups>,
    directory: Arc<Path>,
    /// What the kernel had killed of the instance before.
    before: Ooms,
}

/// A process that was alive when it was looked at.
struct Member {
    pid: i32,
    pidfd: OwnedFd,
}

impl Leaf {
    pub(super) const fn new(cgroups: Arc<Cgroups>, directory: Arc<Path>, before: Ooms) -> Self {
        Self { cgroups, directory, before }
    }

    pub(super) const fn before(&self) -> Ooms {
        self.before
    }

    pub(super) fn of_instance(&self) -> Option<&Path> {
        self.directory.parent()
    }

    /// Whether no process is in it. What can't be read has been removed, which only an empty one
    /// can be.
    pub(in super::super) fn is_empty(&self) -> bool {
        !is_populated(&self.directory).unwrap_or(false)
    }

    /// Sends a signal to all members, once each, but for those of the process group `but`. The
    /// answer is whether there was any.
    ///
    /// # Errors
    ///
    /// When they can't be found, or one may not be signalled by us.
    pub(in super::super) fn signal(&self, signal: i32, but: Option<i32>) -> io::Result<bool> {
        if signal == SIGKILL {
            let was_empty = self.is_empty();
            self.kill();
            return Ok(!was_empty);
        }
        let mut failed = None;
        let (members, mut there) = self.members(but)?;
        for member in members {
            there = true;
            match sys::pidfd_send_signal(member.pidfd.as_fd(), signal, 0) {
                Err(error) if error.raw_os_error() != Some(libc::ESRCH) => failed = Some(error),
                _ => {}
            }
        }
        failed.map_or(Ok(there), Err)
    }

    /// Kills all that are in it, and what they fork meanwhile. The kernel does that at once since
    /// Linux 5.14; before, as often as it takes to catch up with them.
    pub(in super::super) fn kill(&self) {
        if fs::write(self.directory.join("cgroup.kill"), "1").is_ok() {
            return;
        }
        for _ in 0..MAX_SEARCHES {
            let Ok((members, _)) = self.members(None) else { return };
            if members.is_empty() {
                return;
            }
            for member in members {
                let _ = sys::pidfd_send_signal(member.pidfd.as_fd(), SIGKILL, 0);
            }
        }
    }

    /// Those that are alive, also in cgroups below, without those of the process group `but`; and
    /// whether there is any of those.
    fn members(&self, but: Option<i32>) -> io::Result<(Vec<Member>, bool)> {
        let (mut members, mut others) = (Vec::new(), false);
        for pid in pids(&self.directory)? {
            // First, because most often it is the only one, and all else takes much longer.
            if but.is_some()
                && Stat::of(pid).is_some_and(|stat| stat.is_alive() && Some(stat.group) == but)
            {
                others = true;
                continue;
            }
            let pidfd = match sys::pidfd_open(pid) {
                Ok(pidfd) => pidfd,
                // It has ended; or it is of another PID namespace, and has the number 0 here.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EINVAL)) => {
                    continue;
                }
                Err(error) => return Err(error),
            };
            // If it is here after that, the pidfd is that of one that is: nobody else could have
            // got its number in between and be here too, unless it was born here.
            if Stat::of(pid).is_some_and(|stat| stat.is_alive()) && self.has(pid) {
                members.push(Member { pid, pidfd });
            }
        }
        members.dedup_by_key(|member| member.pid);
        Ok((members, others))
    }

    fn has(&self, pid: i32) -> bool {
        super::find::of(&pid.to_string()).is_ok_and(|path| path.starts_with(&self.directory))
    }

    /// Waits until no process is in it.
    ///
    /// # Errors
    ///
    /// When no file is left.
    pub(in super::super) async fn emptied(&self) -> io::Result<()> {
        let events = match File::open(self.directory.join("cgroup.events")) {
            Ok(events) => events,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        // A change is an exceptional condition, see poll(2).
        let events = sys::exceptional(events.into())?;
        loop {
            // The next change is told of from here on.
            if !is_populated_in(events.get_ref()).unwrap_or(false) {
                return Ok(());
            }
            events.ready(Interest::PRIORITY).await?.clear_ready();
        }
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        remove(&self.directory, MAX_DEPTH);
        if let Some(instance) = self.of_instance() {
            // Stays if anything is in it.
            let _ = fs::remove_dir(instance);
        }
        let mut known = self.cgroups.known();
        if known.leaves.get(&self.directory).is_some_and(|leaf| leaf.strong_count() == 0) {
            known.leaves.remove(&self.directory);
        }
    }
}

/// Removes a cgroup and those below it, as far as they are empty.
fn remove(directory: &Path, depth: usize) {
    if fs::remove_dir(directory).is_ok() || depth == 0 {
        return;
    }
    for below in below(directory) {
        remove(&below, depth - 1);
    }
    let _ = fs::remove_dir(directory);
}

/// The cgroups right below one.
fn below(directory: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|it| it.is_dir()));
    directories.map(|entry| entry.path())
}

/// The numbers of all processes in a cgroup and below.
///
/// # Errors
///
/// When it can't be read; not when it is not there.
pub(super) fn pids(directory: &Path) -> io::Result<Vec<i32>> {
    let mut pids = Vec::new();
    collect(directory, MAX_DEPTH, &mut pids)?;
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

fn collect(directory: &Path, depth: usize, pids: &mut Vec<i32>) -> io::Result<()> {
    match fs::read_to_string(directory.join("cgroup.procs")) {
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
        // Removed meanwhile; or it is part of one that has threads apart.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP)
            ) =>
        {
            return Ok(());
        }
        Err(error) => return Err(error),
    }
    if depth > 0 {
        for below in below(directory) {
            collect(&below, depth - 1, pids)?;
        }
    }
    Ok(())
}

/// Whether any process is in a cgroup or below.
pub(super) fn is_populated(directory: &Path) -> io::Result<bool> {
    is_populated_in(File::open(directory.join("cgroup.events"))?)
}

pub(super) fn is_populated_in(events: impl AsFd) -> io::Result<bool> {
    let mut text = [0; 256];
    let len = rustix::io::pread(events, &mut text, 0)?;
    Ok(text[..len].split(|byte| *byte == b'\n').any(|line| line == b"populated 1"))
}
