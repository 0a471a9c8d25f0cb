//! A process group, known by its leader: who is in it, and how to signal them all; and with it
//! those that have left it, known by their cgroup, or by their [`Lineage`] where there is none.
//!
//! Since Linux 6.9 the kernel does both through the leader's pidfd, also when the leader has
//! been collected and only others are left, see [`Leader`]. On older kernels the holder, which collects the
//! leader, uses the group's number until then, when nobody else can have it; and after that
//! `/proc` is searched for members below the holder, each of which is signalled by a pidfd.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::unistd::{Pid, getpgid};
use orchestrator_proto::InstanceId;
use orchestrator_proto::control::Exit;

use super::cgroup::Leaf;
use super::leader::Leader;
use super::lineage::Lineage;
use super::link::Link;
use super::procfs::{self, Stat};
use super::{Pending, Process, sys};
use crate::holder::frame::Name;
use crate::supervise::SIGKILL;

/// How often `/proc` is searched for processes that were born during the search before.
const MAX_SEARCHES: usize = 100;

/// When `/proc` could not be searched for a reason that may pass, such as `EMFILE`.
const RETRY: Duration = Duration::from_secs(1);

/// Which calls the kernel has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Calls {
    /// All, until it says otherwise.
    Current,
    /// Those before Linux 6.9.
    #[cfg(test)]
    Before6_9,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Group {
    leader: Leader,
    calls: Calls,
    /// What the holder calls the leader.
    name: Name,
    holder: Arc<Link>,
    /// The leader's number has been given to another process, so the group has no member.
    reused: AtomicBool,
    /// How those are known that have left it. Found when it is known where cgroups are, which a
    /// daemon that takes over learns after it was told of what runs.
    others: OnceLock<Others>,
    /// Whether we have sent SIGKILL.
    killed: AtomicBool,
}

/// How those of an execution are known that have left its process group.
#[derive(Debug)]
pub(super) enum Others {
    /// They are in the same cgroup.
    InCgroup(Arc<Leaf>),
    /// By their parents, and their environment.
    ByLineage {
        /// See [`Lineage::is_command`].
        is_command: bool,
        /// See [`Lineage::everywhere`].
        everywhere: bool,
    },
}

/// A process of a group, alive when it was looked at.
#[derive(Debug)]
struct Member {
    pid: i32,
    started: u64,
    pidfd: OwnedFd,
}

impl Group {
    pub(super) fn new(
        leader: Leader,
        calls: Calls,
        name: Name,
        holder: Arc<Link>,
        others: Option<Others>,
    ) -> Self {
        let (reused, killed) = (AtomicBool::new(false), AtomicBool::new(false));
        let others = others.map_or_else(OnceLock::new, OnceLock::from);
        Self { leader, calls, name, holder, reused, others, killed }
    }

    /// How those are known that have left it.
    pub(super) fn others(&self) -> &Others {
        self.others.get_or_init(|| self.holder.others(self.name))
    }

    fn lineage(&self, is_command: bool, everywhere: bool) -> Lineage {
        let instance = InstanceId::from_bytes(self.name.key);
        Lineage { leader: self.leader(), name: self.name, instance, is_command, everywhere }
    }

    /// Signals those that have left the group; SIGKILL all of them. The answer is whether there was
    /// any, in the group or not.
    async fn signal_others(self: &Arc<Self>, signal: i32) -> io::Result<bool> {
        match self.others() {
            Others::InCgroup(leaf) => leaf.signal(signal, Some(self.leader())),
            Others::ByLineage { is_command, everywhere } => {
                let lineage = self.lineage(*is_command, *everywhere);
                search(Arc::clone(self), move |it| lineage.signal(&it.holder, signal)).await
            }
        }
    }

    /// Whether nobody is left that has left the group.
    async fn others_gone(self: &Arc<Self>) -> io::Result<bool> {
        match self.others() {
            Others::InCgroup(leaf) => Ok(leaf.is_empty()),
            Others::ByLineage { .. } => Ok(!self.signal_others(0).await?),
        }
    }

    /// Waits until all that have left the group, as far as they are known now, have ended.
    async fn wait_for_others(self: &Arc<Self>) -> io::Result<()> {
        match self.others() {
            Others::InCgroup(leaf) => leaf.emptied().await,
            Others::ByLineage { is_command, everywhere } => {
                let lineage = self.lineage(*is_command, *everywhere);
                let relatives =
                    search(Arc::clone(self), move |it| lineage.relatives(&it.holder)).await?;
                for relative in relatives {
                    let ended = sys::readable(relative.pidfd)?;
                    let _ready = ended.readable().await?;
                }
                Ok(())
            }
        }
    }

    pub(super) const fn leader(&self) -> i32 {
        self.leader.pid()
    }

    /// What the holder calls its leader.
    pub(super) const fn name(&self) -> Name {
        self.name
    }

    /// Its leader was collected; see [`Leader::collected`].
    pub(super) fn leader_collected(&self, pidfd: OwnedFd) {
        self.leader.collected(pidfd);
    }

    /// Which of its instance's processes it is.
    pub(super) const fn run(&self) -> u64 {
        self.name.tag
    }

    /// Another process was given the leader's number.
    pub(super) fn number_is_reused(&self) {
        self.reused.store(true, Ordering::Release);
    }

    /// Signals the group with one system call, if the kernel has one for that.
    fn signal_at_once(&self, signal: i32) -> Option<io::Result<bool>> {
        if self.calls == Calls::Current
            && let Some(sent) = self.leader.signal_group(signal)
        {
            return Some(was_there(sent));
        }
        self.reused.load(Ordering::Acquire).then_some(Ok(false))
    }

    /// Signals the group without waiting and without hearing whether it worked.
    pub(super) fn signal_unheard(&self, signal: i32) {
        if let Others::InCgroup(leaf) = self.others() {
            let _ = leaf.signal(signal, Some(self.leader()));
        }
        if self.signal_at_once(signal).is_none() {
            self.holder.signal_unheard(self.name, signal);
        }
    }

    /// Signals the members one by one.
    fn signal_by_search(&self, signal: i32) -> io::Result<bool> {
        let mut signalled = HashSet::new();
        let mut failed = None;
        // What a process starts when it is asked to end may be what cleans up after it, so
        // it is asked once. SIGKILL goes on until it has caught up with every fork.
        let searches = if signal == SIGKILL { MAX_SEARCHES } else { 1 };
        for _ in 0..searches {
            let mut members = self.members()?;
            members.retain(|member| !signalled.contains(&(member.pid, member.started)));
            if members.is_empty() {
                break;
            }
            for member in members {
                match was_there(sys::pidfd_send_signal(member.pidfd.as_fd(), signal, 0)) {
                    Ok(_) => {}
                    Err(error) => failed = Some(error),
                }
                signalled.insert((member.pid, member.started));
            }
        }
        failed.map_or(Ok(!signalled.is_empty()), Err)
    }

    /// Whether nothing is left, if one system call can tell.
    pub(super) fn empty_at_once(&self) -> Option<bool> {
        match self.signal_at_once(0) {
            Some(Ok(true) | Err(_)) => None,
            Some(Ok(false)) => Some(true),
            // If no group at all has that number, ours hasn't.
            None => (!sys::group_is_there(self.leader())).then_some(true),
        }
    }

    /// Whether nothing but zombies is left. The kernel counts those as members until their
    /// parent, which may be slow or stopped, has collected them.
    fn empty_by_search(&self) -> io::Result<bool> {
        // Twice, because a member may be born behind the search and its parent gone before it.
        for _ in 0..2 {
            if !self.members()?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The members that are alive. To be used once the leader has been collected.
    fn members(&self) -> io::Result<Vec<Member>> {
        let mut members = Vec::new();
        for pid in procfs::pids()? {
            if getpgid(Some(Pid::from_raw(pid))) != Ok(Pid::from_raw(self.leader())) {
                continue;
            }
            let Some(before) = self.stat_of_member(pid) else {
                continue;
            };
            let pidfd = match sys::pidfd_open(pid) {
                Ok(pidfd) => pidfd,
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => continue,
                Err(error) => return Err(error),
            };
            // The same process before and after: then the pidfd is its own.
            let after = self.stat_of_member(pid);
            if after.is_some_and(|after| after.started == before.started) {
                members.push(Member { pid, started: before.started, pidfd });
            }
        }
        self.keep_ours(&mut members);
        Ok(members)
    }

    fn stat_of_member(&self, pid: i32) -> Option<Stat> {
        Stat::of(pid).filter(|stat| stat.group == self.leader() && stat.is_alive())
    }

    /// Forgets members of another group that has been given the same number.
    fn keep_ours(&self, members: &mut Vec<Member>) {
        match self.signal_at_once(0) {
            // It was there before and is there now, so its number was its own all the time.
            Some(Ok(true) | Err(_)) => {}
            Some(Ok(false)) => members.clear(),
            None => members.retain(|member| is_below(self.holder.holder, member.pid)),
        }
    }
}

/// A call to a process: whether it was there.
fn was_there(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a process descends from another one, such as the holder, which adopts the orphans
/// below it.
pub(super) fn is_below(ancestor: i32, pid: i32) -> bool {
    let mut parent = Stat::of(pid).map(|stat| stat.parent);
    // The chain can't be longer than there are processes; a bound all the same, because it
    // may change while we walk along it.
    for _ in 0..4096 {
        match parent {
            Some(pid) if pid == ancestor => return true,
            Some(pid) if pid > 1 => parent = Stat::of(pid).map(|stat| stat.parent),
            _ => return false,
        }
    }
    false
}

/// Runs a search of `/proc` where it holds up nobody.
async fn search<T: Send + 'static>(
    group: Arc<Group>,
    work: impl FnOnce(&Group) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(move || work(&group)).await.map_err(io::Error::other)?
}

/// The kernel's [`Process`].
#[derive(Debug)]
pub(super) struct LinuxProcess(pub(super) Arc<Group>);

impl Process for LinuxProcess {
    fn pid(&self) -> u32 {
        self.0.leader().unsigned_abs()
    }

    fn end_is_noted(&self) {
        self.0.holder.end_is_noted(self.0.name);
    }

    fn signal_tree(&self, signal: i32) -> Pending<io::Result<bool>> {
        let group = Arc::clone(&self.0);
        group.killed.fetch_or(signal == SIGKILL, Ordering::AcqRel);
        Box::pin(async move {
            // First, because the end of a parent moves its children; but not before those of the
            // group are dead, which might go on to fork.
            let before = if signal == SIGKILL && matches!(group.others(), Others::ByLineage { .. })
            {
                signal_group(Arc::clone(&group), signal).await
            } else {
                Ok(false)
            };
            let others = group.signal_others(signal).await;
            let members = signal_group(group, signal).await;
            Ok(before? | others? | members?)
        })
    }

    fn explain(&self, exit: Exit) -> Exit {
        match self.0.others() {
            Others::InCgroup(leaf)
                if matches!(exit, Exit::Signal { signal: SIGKILL, .. })
                    && !self.0.killed.load(Ordering::Acquire) =>
            {
                leaf.explain(exit)
            }
            _ => exit,
        }
    }

    fn tree_empty(&self) -> Pending<io::Result<bool>> {
        Box::pin(tree_empty(Arc::clone(&self.0)))
    }

    fn tree_gone(&self) -> Pending<()> {
        let group = Arc::clone(&self.0);
        Box::pin(async move {
            loop {
                match wait_for_members(Arc::clone(&group)).await {
                    Ok(true) => return,
                    Ok(false) => {}
                    Err(error) => {
                        let leader = group.leader();
                        tracing::warn!(leader, %error, "cannot see what is left of a group");
                        tokio::time::sleep(RETRY).await;
                    }
                }
            }
        })
    }
}

/// Signals those that are in the group.
async fn signal_group(group: Arc<Group>, signal: i32) -> io::Result<bool> {
    match group.signal_at_once(signal) {
        Some(sent) => sent,
        None => match group.holder.signal(group.name, signal).await {
            // Its leader has been collected, so that only others can be left.
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => {
                search(group, move |group| group.signal_by_search(signal)).await
            }
            sent => was_there(sent),
        },
    }
}

async fn tree_empty(group: Arc<Group>) -> io::Result<bool> {
    let empty = match group.empty_at_once() {
        Some(empty) => empty,
        None => search(Arc::clone(&group), Group::empty_by_search).await?,
    };
    Ok(empty && group.others_gone().await?)
}

/// Whether the group is empty; if not, waits until all that are in it now have ended.
async fn wait_for_members(group: Arc<Group>) -> io::Result<bool> {
    if tree_empty(Arc::clone(&group)).await? {
        return Ok(true);
    }
    for member in search(Arc::clone(&group), Group::members).await? {
        // A pidfd is readable once its process has ended, collected or not.
        let ended = sys::readable(member.pidfd)?;
        let _ready = ended.readable().await?;
    }
    group.wait_for_others().await?;
    Ok(false)
}
