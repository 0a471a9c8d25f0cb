//! Who is of an execution although it has left its process group, where there is no cgroup to tell:
//! what is below the main process, and orphans that the holder was given (see
//! `PR_SET_CHILD_SUBREAPER`) and whose environment says whose they are. What has cleared its
//! environment and lost its parent is not found: it is ended when the holder ends.
//!
//! Before they are killed they are stopped, until no new one is found: what is stopped does not
//! fork, and keeps its place among as many processes as its user may have.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use orchestrator_proto::InstanceId;

use super::link::Link;
use super::orphan::mark_in;
use super::procfs::{Stat, pids};
use super::{FIRST_COMMAND, sys};
use crate::holder::frame::Name;
use crate::supervise::SIGKILL;

const SIGSTOP: i32 = libc::SIGSTOP;

/// Goes before all that is not real-time, and after all that is.
const LOWEST_REALTIME: i32 = 1;

/// How long a signal follows what forks.
const CHASE: Duration = Duration::from_secs(2);

/// How often in a row nobody must be found until nobody is there.
const LOOKS: usize = 3;

/// How long between two looks if the first has left doubts: they end when others get on, who may
/// have to wait for a processor.
const PAUSE: Duration = Duration::from_micros(200);

/// How many processes of one execution are looked at.
const MAX_MEMBERS: usize = 1 << 16;

/// How an execution is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lineage {
    /// The main process and leader of the group.
    pub(super) leader: i32,
    /// What the holder calls it.
    pub(super) name: Name,
    pub(super) instance: InstanceId,
    /// It is a command: what has left it can't be told from what has left another one, so only
    /// what is below it counts.
    pub(super) is_command: bool,
    /// It was executed under an earlier holder: its orphans may be anybody's children.
    pub(super) everywhere: bool,
}

/// A process outside of the group, alive when it was looked at.
pub(super) struct Relative {
    pub(super) pid: i32,
    started: u64,
    pub(super) pidfd: OwnedFd,
}

/// What was found at one time.
#[derive(Default)]
struct Look {
    relatives: Vec<Relative>,
    /// Orphans that have ended and were not collected, by number and start.
    dead: Vec<(i32, u64)>,
    /// Somebody began or ended meanwhile, and may have left others behind who were not seen.
    is_doubtful: bool,
}

/// What was seen in one look after the other.
struct Looks {
    /// Of the last ones, those that have found nobody and leave no doubt.
    quiet: usize,
    dead: HashSet<(i32, u64)>,
    until: Instant,
}

impl Looks {
    fn new() -> Self {
        Self { quiet: 0, dead: HashSet::new(), until: Instant::now() + CHASE }
    }

    fn found_somebody(&mut self) {
        self.quiet = 0;
    }

    /// Takes note of a look that has found nobody new. The answer is whether nobody is left.
    fn found_nobody(&mut self, look: &Look) -> bool {
        let mut is_doubtful = look.is_doubtful;
        for dead in &look.dead {
            // Who had ended by an earlier look had left its children to the holder by then, among
            // whose children this one has seen them.
            is_doubtful |= self.dead.insert(*dead);
        }
        self.quiet = if is_doubtful { 0 } else { self.quiet + 1 };
        if is_doubtful {
            pause();
        }
        self.quiet == LOOKS
    }

    fn is_over(&self) -> bool {
        Instant::now() > self.until
    }
}

/// What the environment of an orphan says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Says {
    Ours,
    Others,
    /// Nothing, because it has ended. It was started then, clock ticks since boot.
    Dead(u64),
    /// Nothing yet, or not any more: it is being executed, or about to end.
    Nothing,
}

impl Lineage {
    /// Those outside of the group.
    ///
    /// # Errors
    ///
    /// When `/proc` can't be read, or there is no file descriptor left.
    pub(super) fn relatives(&self, link: &Link) -> io::Result<Vec<Relative>> {
        Ok(self.look(link, &HashSet::new())?.relatives)
    }

    /// Those who are not known by number and start.
    fn look(&self, link: &Link, known: &HashSet<(i32, u64)>) -> io::Result<Look> {
        let mut look = Look::default();
        let mut found = HashSet::new();
        if link.is_alive(self.name) {
            let mut below = HashSet::new();
            look.is_doubtful |= !descend(self.leader, &mut below);
            // Its number was its own all the time, if it is now.
            if link.is_alive(self.name) {
                found = below;
            }
        }
        let orphans = if self.is_command { Vec::new() } else { self.orphans(link, &mut look)? };
        for pid in orphans {
            if found.insert(pid) {
                look.is_doubtful |= !descend(pid, &mut found);
            }
        }
        for pid in found {
            let Some(before) = self.stat(pid) else {
                look.is_doubtful |= !Stat::of(pid).is_some_and(|stat| stat.is_alive());
                continue;
            };
            if known.contains(&(pid, before.started)) {
                continue;
            }
            let pidfd = match sys::pidfd_open(pid) {
                Ok(pidfd) => pidfd,
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
                    look.is_doubtful = true;
                    continue;
                }
                Err(error) => return Err(error),
            };
            // The same process before and after: then the pidfd is its own.
            if self.stat(pid).is_some_and(|after| after.started == before.started) {
                look.relatives.push(Relative { pid, started: before.started, pidfd });
            }
        }
        Ok(look)
    }

    fn stat(&self, pid: i32) -> Option<Stat> {
        Stat::of(pid).filter(|stat| stat.is_alive() && stat.group != self.leader)
    }

    /// Those that have lost their parents.
    fn orphans(&self, link: &Link, look: &mut Look) -> io::Result<Vec<i32>> {
        let candidates = if self.everywhere {
            pids()?
        } else {
            let children = match children(link.holder) {
                Some(children) => {
                    look.is_doubtful |= !children.is_settled;
                    children.pids
                }
                None => children_by_search(link.holder)?,
            };
            let known = link.numbers();
            children.into_iter().filter(|pid| !known.contains(pid)).collect()
        };
        let mut orphans = Vec::new();
        for pid in candidates.into_iter().filter(|pid| *pid != self.leader) {
            match self.says(pid) {
                Says::Ours => orphans.push(pid),
                Says::Others => {}
                // Everywhere there are many that say nothing, such as the kernel's own.
                _ if self.everywhere => {}
                Says::Dead(started) => look.dead.push((pid, started)),
                Says::Nothing => look.is_doubtful = true,
            }
        }
        Ok(orphans)
    }

    fn says(&self, pid: i32) -> Says {
        let environment = || fs::read(format!("/proc/{pid}/environ"));
        match environment() {
            Ok(first) if !first.is_empty() => return self.reads(&first),
            // Such as one with the rights of somebody else, which we could not end either.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Says::Others,
            _ => {}
        }
        match Stat::of(pid) {
            Some(stat) if !stat.is_alive() => Says::Dead(stat.started),
            // It has one, which may be there only since then.
            Some(stat) if stat.environment != 0 => match environment() {
                Ok(second) => self.reads(&second),
                Err(_) => Says::Nothing,
            },
            _ => Says::Nothing,
        }
    }

    fn reads(&self, environment: &[u8]) -> Says {
        match mark_in(environment) {
            Some((instance, run)) if instance == self.instance && run < FIRST_COMMAND => Says::Ours,
            _ => Says::Others,
        }
    }

    /// Sends them a signal, once each; SIGKILL until there is none any more. The answer is whether
    /// there was any; with signal 0, which is not sent, whether there may be any.
    ///
    /// # Errors
    ///
    /// As [`relatives`](Self::relatives); when one may not be signalled by us.
    pub(super) fn signal(&self, link: &Link, signal: i32) -> io::Result<bool> {
        if signal == 0 {
            return self.may_be_there(link);
        }
        let _first = First::be();
        // What a process starts when it is asked to end may be what cleans up after it, so it is
        // asked once.
        if signal != SIGKILL {
            let mut signalled = HashSet::new();
            self.signal_new(link, signal, &mut signalled)?.1?;
            return Ok(!signalled.is_empty());
        }
        // Who forks as fast as it can takes the place of each that is killed; of those that stand
        // still there are no more. If one may not be stopped, it may not be killed either.
        let _ = self.chase(link, SIGSTOP);
        self.chase(link, SIGKILL)
    }

    fn may_be_there(&self, link: &Link) -> io::Result<bool> {
        let mut looks = Looks::new();
        while !looks.is_over() {
            let look = self.look(link, &HashSet::new())?;
            if !look.relatives.is_empty() {
                return Ok(true);
            }
            if looks.found_nobody(&look) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sends a signal to all, and to those that are born meanwhile, until there is nobody new. The
    /// answer is whether there was any.
    fn chase(&self, link: &Link, signal: i32) -> io::Result<bool> {
        let mut looks = Looks::new();
        let mut signalled = HashSet::new();
        let mut all_sent = Ok(());
        loop {
            let known = signalled.len();
            let (look, sent) = self.signal_new(link, signal, &mut signalled)?;
            all_sent = all_sent.and(sent);
            if signalled.len() > known {
                looks.found_somebody();
            } else if looks.found_nobody(&look) {
                break;
            }
            if looks.is_over() {
                break;
            }
        }
        all_sent.map(|()| !signalled.is_empty())
    }

    /// Sends a signal to those who have not had it. The answer is what was seen, and whether it
    /// could be sent to all.
    fn signal_new(
        &self,
        link: &Link,
        signal: i32,
        signalled: &mut HashSet<(i32, u64)>,
    ) -> io::Result<(Look, io::Result<()>)> {
        let look = self.look(link, signalled)?;
        let mut sent = Ok(());
        for relative in &look.relatives {
            signalled.insert((relative.pid, relative.started));
            match sys::pidfd_send_signal(relative.pidfd.as_fd(), signal, 0) {
                Err(error) if error.raw_os_error() != Some(libc::ESRCH) => sent = Err(error),
                _ => {}
            }
        }
        Ok((look, sent))
    }
}

#[expect(clippy::disallowed_methods, reason = "nobody tells when a process is executed or ended")]
fn pause() {
    std::thread::sleep(PAUSE);
}

/// While it is there, this thread goes before others, if it may: who forks as fast as it can has
/// all processors otherwise. A nice value would not do where each session has its own share of a
/// processor (`sched_autogroup_enabled`, see sched(7)).
struct First(bool);

impl First {
    fn be() -> Self {
        Self(sys::is_ordinary() && sys::set_realtime(Some(LOWEST_REALTIME)).is_ok())
    }
}

impl Drop for First {
    fn drop(&mut self) {
        if self.0 {
            let _ = sys::set_realtime(None);
        }
    }
}

/// All below a process, as far as they can be seen. The answer is whether all were.
fn descend(ancestor: i32, found: &mut HashSet<i32>) -> bool {
    let mut are_all = true;
    let mut parents = vec![ancestor];
    while let Some(parent) = parents.pop() {
        // One that is not there any more is missed when it is looked at itself.
        let Some(children) = children(parent) else { continue };
        are_all &= children.is_settled;
        for child in children.pids {
            if found.len() < MAX_MEMBERS && found.insert(child) {
                parents.push(child);
            }
        }
    }
    are_all
}

/// The children of a process.
struct Children {
    pids: Vec<i32>,
    /// None of them has gone while they were read. While they are, the kernel skips some if others
    /// go that it has told already; see `/proc/PID/task/TID/children` in proc(5).
    is_settled: bool,
}

/// The children of all threads of a process. None if it is not there, or the kernel does not say
/// (`CONFIG_PROC_CHILDREN`).
fn children(parent: i32) -> Option<Children> {
    let first = children_now(parent)?;
    let second: HashSet<i32> = children_now(parent).unwrap_or_default().into_iter().collect();
    let is_settled = first.iter().all(|pid| second.contains(pid));
    Some(Children { pids: first, is_settled })
}

fn children_now(parent: i32) -> Option<Vec<i32>> {
    let mut children = Vec::new();
    let mut is_told = false;
    for thread in fs::read_dir(format!("/proc/{parent}/task")).ok()?.flatten() {
        if let Ok(text) = fs::read_to_string(thread.path().join("children")) {
            is_told = true;
            children.extend(text.split_ascii_whitespace().filter_map(|it| it.parse::<i32>().ok()));
        }
    }
    is_told.then_some(children)
}

fn children_by_search(parent: i32) -> io::Result<Vec<i32>> {
    let is_child = |pid: &i32| Stat::of(*pid).is_some_and(|stat| stat.parent == parent);
    Ok(pids()?.into_iter().filter(is_child).collect())
}
