//! Programs whose holder was killed: they go on, as children of whoever takes orphans. The next
//! daemon finds them by number, start and instance, and supervises them as any other; only their
//! end is learned from the kernel by pidfd.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use orchestrator_proto::InstanceId;
use orchestrator_proto::control::Exit;
use orchestrator_proto::runtime::ENV_INSTANCE;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use super::group::{Group, LinuxProcess, Others};
use super::leader::Leader;
use super::linux::Linux;
use super::procfs::{Stat, pids};
use super::{ENV_RUN, Ended, Exited, Part, Spawned, Stray, sys};
use crate::holder::frame::Name;

impl Linux {
    /// Takes over this part of an instance from an earlier daemon and an earlier holder:
    /// the one with this number that started at `start_ticks` (clock ticks since this boot) and
    /// has the instance's id in its environment. None if it is not there any more. Must be called
    /// within a tokio runtime.
    ///
    /// # Errors
    ///
    /// When it is there but can't be had: no file is left, or `/proc` is closed to us.
    pub fn adopt(
        &self,
        instance: InstanceId,
        part: Part,
        pid: u32,
        start_ticks: u64,
    ) -> io::Result<Option<Spawned>> {
        let Ok(pid) = i32::try_from(pid) else {
            return Ok(None);
        };
        let pidfd = match sys::pidfd_open(pid) {
            Ok(pidfd) => pidfd,
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            // No main process, but a thread; or no number at all.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(None),
            Err(error) => return Err(error),
        };
        // The process with that start had this number before the pidfd was made, and has it now.
        let is_meant = |stat: &Stat| stat.started == start_ticks && stat.group == pid;
        if Stat::of(pid).filter(is_meant).is_none() {
            return Ok(None);
        }
        let link = self.link();
        let leaf = link.cgroups().and_then(|cgroups| cgroups.of_process(pid, instance, part));
        let has_cgroups = link.cgroups().is_some_and(|cgroups| cgroups.is_anywhere());
        let is_ours = match belongs_to(pid, instance)? {
            Some(belongs) => belongs,
            // The same start is a tick of 10 ms: another one may have got the number within it.
            None => leaf.is_some() || !has_cgroups,
        };
        if !is_ours {
            return Ok(None);
        }
        let (tell, end) = oneshot::channel();
        let watched = sys::readable(pidfd.try_clone()?)?;
        tokio::spawn(watch(pid, start_ticks, watched, tell));
        // No number that the holder knows.
        let name = Name { key: *instance.as_bytes(), tag: self.next_run() };
        let others = match leaf {
            Some(leaf) => Others::InCgroup(leaf),
            None => Others::ByLineage { is_command: part == Part::Command, everywhere: true },
        };
        // No holder tells of its end.
        let leader = Leader::new(pid, pidfd, false);
        let group = Group::new(leader, self.calls(), name, link, Some(others));
        Ok(Some(Spawned {
            run: name.tag,
            process: Arc::new(LinuxProcess(Arc::new(group))),
            output: None,
            exited: Exited::new(end),
            warnings: Vec::new(),
        }))
    }
}

/// All main processes of instances that are nobody's: neither `holder`'s, which tells of its own,
/// nor below another process of their instance. What can't be read is none of ours.
pub(super) fn strays(holder: i32) -> Vec<Stray> {
    let pids = pids().unwrap_or_else(|error| {
        tracing::error!(%error, "what runs without a holder can't be found");
        Vec::new()
    });
    pids.into_iter().filter_map(|pid| stray(pid, holder)).collect()
}

fn stray(pid: i32, holder: i32) -> Option<Stray> {
    let leads = |stat: &Stat| stat.group == pid && stat.parent != holder && stat.is_alive();
    let stat = Stat::of(pid).filter(leads)?;
    let (instance, run) = mark(pid)?;
    let of_parent = mark(stat.parent).is_some_and(|(parent, _)| parent == instance);
    // If the number was given to another one meanwhile, it is not adopted: its start differs.
    (!of_parent).then_some(Stray {
        instance,
        run,
        pid: pid.unsigned_abs(),
        start_ticks: stat.started,
    })
}

/// Of which instance a process is, and of which execution.
pub(super) fn mark(pid: i32) -> Option<(InstanceId, u64)> {
    mark_in(&fs::read(format!("/proc/{pid}/environ")).ok()?)
}

/// The same for what is in its environment.
pub(super) fn mark_in(environment: &[u8]) -> Option<(InstanceId, u64)> {
    let value = |name: &str| {
        let mut variables = environment.split(|byte| *byte == 0);
        let value =
            variables.find_map(|it| it.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
        std::str::from_utf8(value).ok()
    };
    Some((value(ENV_INSTANCE)?.parse().ok()?, value(ENV_RUN)?.parse().ok()?))
}

/// Whether a process was executed for this instance, by its environment. One that has ended can't
/// say so; its start is its own all the same. None if it has another environment than any instance,
/// or has written over it.
fn belongs_to(pid: i32, instance: InstanceId) -> io::Result<Option<bool>> {
    let environment = match fs::read(format!("/proc/{pid}/environ")) {
        Ok(environment) => environment,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
        Err(_) => return Ok(Some(true)),
    };
    if environment.is_empty() {
        return Ok(Some(true));
    }
    let prefix = format!("{ENV_INSTANCE}=");
    let mut variables = environment.split(|byte| *byte == 0);
    let id = variables.find_map(|variable| variable.strip_prefix(prefix.as_bytes()));
    Ok(id.map(|id| id == instance.to_string().as_bytes()))
}

/// Waits for the end of a process that is nobody's child here.
async fn watch(pid: i32, started: u64, pidfd: AsyncFd<OwnedFd>, tell: oneshot::Sender<Ended>) {
    if pidfd.readable().await.is_err() {
        return;
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let time_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let exit = exit_of(pid, started, pidfd.as_fd()).unwrap_or(Exit::Unknown);
    let _ = tell.send(Ended { exit, time_ms });
}

/// How it ended: before it is collected, `/proc` knows; after that its pidfd, since Linux 6.15.
fn exit_of(pid: i32, started: u64, pidfd: BorrowedFd<'_>) -> Option<Exit> {
    let zombie = Stat::of(pid).filter(|stat| stat.started == started && stat.state == b'Z');
    match zombie {
        Some(stat) => Some(sys::exit(stat.exit_code)),
        None => sys::exit_of(pidfd).ok().flatten(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::holder::start_holder;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Child, Command};

    fn nap(instance: InstanceId) -> (Child, u64) {
        let mut command = Command::new("/bin/sleep");
        command.arg("1000").process_group(0).env(ENV_INSTANCE, instance.to_string());
        let child = shown(command.spawn().unwrap());
        let pid = i32::try_from(child.id()).unwrap();
        (child, Stat::of(pid).unwrap().started)
    }

    /// Waits until its environment can be read: a moment after it is executed.
    fn shown(child: Child) -> Child {
        let path = format!("/proc/{}/environ", child.id());
        while fs::read(&path).unwrap().is_empty() {
            std::thread::yield_now();
        }
        child
    }

    #[test]
    fn who_is_nobodys_is_found_by_its_marks() {
        let instance = InstanceId::generate();
        let nap = |run: &str, group: Option<i32>| {
            let mut command = Command::new("/bin/sleep");
            command.arg("1000").env(ENV_INSTANCE, instance.to_string()).env(ENV_RUN, run);
            group.map(|group| command.process_group(group));
            shown(command.spawn().unwrap())
        };
        let mut children = [nap("3", Some(0)), nap("3", None), nap("three", Some(0))];
        let ours = i32::try_from(std::process::id()).unwrap();
        let found = |holder| {
            let mut strays = strays(holder);
            strays.retain(|stray| stray.instance == instance);
            strays
        };
        let leader = children[0].id();
        let start_ticks = Stat::of(i32::try_from(leader).unwrap()).unwrap().started;
        assert_eq!(found(1), [Stray { instance, run: 3, pid: leader, start_ticks }]);
        assert!(found(ours).is_empty(), "the holder tells of its own");
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(found(1).is_empty());
    }

    #[tokio::test]
    async fn only_the_one_that_is_meant_is_taken_over() {
        let linux = Linux::attach(start_holder()).unwrap();
        let instance = InstanceId::generate();
        let (mut child, started) = nap(instance);
        let pid = child.id();
        assert!(linux.adopt(instance, Part::Main, pid, started + 1).unwrap().is_none());
        assert!(linux.adopt(InstanceId::generate(), Part::Main, pid, started).unwrap().is_none());
        for nobody in [0, u32::MAX, 4_194_305] {
            assert!(linux.adopt(instance, Part::Main, nobody, started).unwrap().is_none());
        }
        let spawned = linux.adopt(instance, Part::Main, pid, started).unwrap().unwrap();
        assert_eq!(spawned.process.pid(), pid);
        assert!(spawned.process.signal_tree(15).await.unwrap());
        assert_eq!(child.wait().unwrap().signal(), Some(15));
        let ended = spawned.exited.await.unwrap();
        // Collected before or after it was looked at: known in both cases, since Linux 6.15.
        let known = Exit::Signal { signal: 15, core_dumped: false };
        assert!(ended.exit == known || ended.exit == Exit::Unknown, "{ended:?}");
        assert!(linux.adopt(instance, Part::Main, pid, started).unwrap().is_none());
    }
}
