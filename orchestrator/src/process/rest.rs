//! What is left of a process group whose main process has ended and whose holder was killed: its
//! members go on, as children of whoever takes orphans, and nobody but us can end them.
//!
//! The group's number can't be given to anybody else while a member lives. So whoever is in it is
//! ours for as long as one is in it that is known: by what it was executed with (see
//! [`ENV_INSTANCE`](orchestrator_proto::runtime::ENV_INSTANCE)), or since it was in it together
//! with such a one. Each is signalled by a pidfd.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::unistd::{Pid, getpgid};
use orchestrator_proto::InstanceId;

use super::orphan::mark;
use super::procfs::{Stat, pids};
use super::{Pending, Process, sys};
use crate::supervise::SIGKILL;

/// How often `/proc` is searched for processes that were born during the search before.
const MAX_SEARCHES: usize = 100;

/// When `/proc` could not be searched for a reason that may pass, such as `EMFILE`.
const RETRY: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Rest(Arc<Group>);

#[derive(Debug)]
struct Group {
    instance: InstanceId,
    /// Its number: that of the main process.
    number: i32,
    /// When the main process started, clock ticks since this boot: no member is older.
    since: u64,
    /// Members that were ever seen, by number and start.
    known: Mutex<HashSet<(i32, u64)>>,
}

/// A process of the group, alive when it was looked at.
struct Member {
    pid: i32,
    started: u64,
    pidfd: OwnedFd,
}

impl Rest {
    /// What is left of the group that a main process of this instance led, which had this number
    /// and started at `since` (clock ticks since this boot). None if nothing is.
    ///
    /// # Errors
    ///
    /// When `/proc` can't be read, or there is no file descriptor left.
    pub(super) fn find(instance: InstanceId, leader: u32, since: u64) -> io::Result<Option<Self>> {
        let Ok(number @ 2..) = i32::try_from(leader) else {
            return Ok(None);
        };
        let group = Group { instance, number, since, known: Mutex::default() };
        let is_there = !group.members()?.is_empty();
        Ok(is_there.then(|| Self(Arc::new(group))))
    }

    /// Does this where it holds up nobody: all of `/proc` is searched.
    async fn search<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Group) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let group = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || work(&group)).await.map_err(io::Error::other)?
    }

    /// Whether nothing is left; if not, waits until all that is there now has ended.
    async fn wait(&self) -> io::Result<bool> {
        let members = self.search(Group::members).await?;
        let is_empty = members.is_empty();
        for member in members {
            // A pidfd is readable once its process has ended, collected or not.
            let ended = sys::readable(member.pidfd)?;
            let _ready = ended.readable().await?;
        }
        Ok(is_empty)
    }
}

impl Group {
    fn members(&self) -> io::Result<Vec<Member>> {
        let mut members = Vec::new();
        for pid in pids()? {
            if getpgid(Some(Pid::from_raw(pid))) != Ok(Pid::from_raw(self.number)) {
                continue;
            }
            let Some(before) = self.stat(pid) else { continue };
            let pidfd = match sys::pidfd_open(pid) {
                Ok(pidfd) => pidfd,
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => continue,
                Err(error) => return Err(error),
            };
            // The same process before and after: then the pidfd is its own.
            if self.stat(pid).is_some_and(|after| after.started == before.started) {
                members.push(Member { pid, started: before.started, pidfd });
            }
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let is_ours = |member: &Member| {
            known.contains(&(member.pid, member.started))
                || mark(member.pid).is_some_and(|(instance, _)| instance == self.instance)
        };
        if members.iter().any(is_ours) {
            known.extend(members.iter().map(|member| (member.pid, member.started)));
        } else {
            members.clear();
        }
        Ok(members)
    }

    fn stat(&self, pid: i32) -> Option<Stat> {
        let is_member =
            |it: &Stat| it.group == self.number && it.is_alive() && it.started >= self.since;
        Stat::of(pid).filter(is_member)
    }

    fn signal(&self, signal: i32) -> io::Result<bool> {
        let mut signalled = HashSet::new();
        let mut failed = None;
        // What a process starts when it is asked to end may be what cleans up after it, so it is
        // asked once. SIGKILL goes on until it has caught up with every fork.
        let searches = if signal == SIGKILL { MAX_SEARCHES } else { 1 };
        for _ in 0..searches {
            let mut members = self.members()?;
            members.retain(|member| signalled.insert((member.pid, member.started)));
            if members.is_empty() {
                break;
            }
            for member in members {
                match sys::pidfd_send_signal(member.pidfd.as_fd(), signal, 0) {
                    Err(error) if error.raw_os_error() != Some(libc::ESRCH) => failed = Some(error),
                    _ => {}
                }
            }
        }
        failed.map_or(Ok(!signalled.is_empty()), Err)
    }
}

impl Process for Rest {
    fn pid(&self) -> u32 {
        self.0.number.unsigned_abs()
    }

    fn signal_tree(&self, signal: i32) -> Pending<io::Result<bool>> {
        let rest = self.clone();
        Box::pin(async move { rest.search(move |group| group.signal(signal)).await })
    }

    fn tree_empty(&self) -> Pending<io::Result<bool>> {
        let rest = self.clone();
        Box::pin(async move { rest.search(|group| Ok(group.members()?.is_empty())).await })
    }

    fn tree_gone(&self) -> Pending<()> {
        let rest = self.clone();
        Box::pin(async move {
            loop {
                match rest.wait().await {
                    Ok(true) => return,
                    Ok(false) => {}
                    Err(error) => {
                        let group = rest.0.number;
                        tracing::warn!(group, %error, "cannot see what is left of a group");
                        tokio::time::sleep(RETRY).await;
                    }
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrator_proto::runtime::ENV_INSTANCE;
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use super::super::ENV_RUN;

    /// A group that its main process has left, with the numbers of that and of a member.
    fn left(instance: InstanceId) -> (u32, u64, i32) {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "trap '' TERM; sleep 1000 & sleep 1000 & echo $!; read line"]);
        command.env(ENV_INSTANCE, instance.to_string()).env(ENV_RUN, "1").process_group(0);
        let mut main = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(main.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let started = Stat::of(i32::try_from(main.id()).unwrap()).unwrap().started;
        drop(main.stdin.take());
        main.wait().unwrap();
        (main.id(), started, line.trim().parse().unwrap())
    }

    #[tokio::test]
    async fn what_a_main_process_has_left_is_found_by_its_marks_and_ended_whatever_it_ignores() {
        let instance = InstanceId::generate();
        let (leader, started, member) = left(instance);
        assert!(Rest::find(InstanceId::generate(), leader, started).unwrap().is_none());
        assert!(Rest::find(instance, leader + 1, started).unwrap().is_none());
        assert!(Rest::find(instance, leader, u64::MAX).unwrap().is_none());
        for nobody in [0, 1, u32::MAX] {
            assert!(Rest::find(instance, nobody, 0).unwrap().is_none());
        }
        let rest = Rest::find(instance, leader, started).unwrap().unwrap();
        assert_eq!(rest.pid(), leader);
        assert!(rest.signal_tree(15).await.unwrap());
        assert!(!rest.tree_empty().await.unwrap(), "they do not listen");
        assert!(Stat::of(member).unwrap().is_alive());
        assert!(rest.signal_tree(SIGKILL).await.unwrap());
        rest.tree_gone().await;
        assert!(rest.tree_empty().await.unwrap());
        assert!(Stat::of(member).is_none_or(|stat| !stat.is_alive()));
        assert!(!rest.signal_tree(SIGKILL).await.unwrap(), "nobody is there");
        assert!(Rest::find(instance, leader, started).unwrap().is_none());
    }
}
