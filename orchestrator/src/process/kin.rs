//! Whether a process is one of an instance's, for who hears from a process by its number.

use std::io;

use orchestrator_proto::InstanceId;

use super::group::is_below;
use super::orphan::mark;
use super::procfs::Stat;

/// What a process is to an instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kin {
    /// Its main process, or one that this has started, directly or not.
    Own,
    /// None of these.
    Stranger,
    /// It has ended and was collected, so that nobody can know any more.
    Gone,
}

/// What the process `pid` is to an instance whose main process is `main`, as the execution `run`
/// of its program. That one is its own even if it has ended.
///
/// Its own are all of the main process's group, all below the main process, and those that have
/// left both (as setsid(2) and the end of their parent make them) if their environment says so.
/// Reads a few files of `/proc`, which does not wait for a disk.
#[must_use]
pub fn kin(pid: u32, main: u32, instance: InstanceId, run: u64) -> Kin {
    if pid == main {
        return Kin::Own;
    }
    let (Ok(pid), Ok(main)) = (i32::try_from(pid), i32::try_from(main)) else {
        return Kin::Stranger;
    };
    match Stat::of(pid) {
        None => Kin::Gone,
        Some(stat) if stat.group == main => Kin::Own,
        Some(_) if is_below(main, pid) || mark(pid) == Some((instance, run)) => Kin::Own,
        Some(_) => Kin::Stranger,
    }
}

/// When a process was started, nanoseconds since 1970 (UTC), or a little before that: the kernel
/// counts it in hundredths of a second.
///
/// # Errors
///
/// When there is no such process.
pub fn began_ns(pid: u32) -> io::Result<u64> {
    let facts = super::Facts::of(pid).ok_or(io::ErrorKind::NotFound)?;
    Ok(facts.started_ms.saturating_sub(30).saturating_mul(1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::ENV_RUN;
    use orchestrator_proto::runtime::ENV_INSTANCE;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};
    use std::time::{SystemTime, UNIX_EPOCH};

    fn nap(instance: Option<InstanceId>, run: &str, group: i32) -> Child {
        let mut command = Command::new("/bin/sleep");
        command.arg("1000").process_group(group).env(ENV_RUN, run);
        if let Some(instance) = instance {
            command.env(ENV_INSTANCE, instance.to_string());
        }
        let child = command.spawn().unwrap();
        // Until it is executed it has the environment of this process.
        let environ = format!("/proc/{}/environ", child.id());
        while !std::fs::read(&environ).unwrap().windows(7).any(|word| word == b"ATOR_RU") {
            std::thread::yield_now();
        }
        child
    }

    #[test]
    fn who_is_one_of_an_instance_and_who_is_not() {
        let instance = InstanceId::generate();
        let mut main = nap(Some(instance), "3", 0);
        let group = i32::try_from(main.id()).unwrap();
        let mut of_group = nap(None, "x", group);
        let mut left = nap(Some(instance), "3", 0);
        let mut of_before = nap(Some(instance), "2", 0);
        let mut command = nap(Some(instance), "9223372036854775811", 0);
        let mut other = nap(Some(InstanceId::generate()), "3", 0);
        let of = |child: &Child| kin(child.id(), main.id(), instance, 3);
        assert_eq!(of(&main), Kin::Own);
        assert_eq!(of(&of_group), Kin::Own);
        assert_eq!(of(&left), Kin::Own);
        assert_eq!(of(&of_before), Kin::Stranger);
        assert_eq!(of(&command), Kin::Stranger);
        assert_eq!(of(&other), Kin::Stranger);
        // These are below this test.
        assert_eq!(kin(main.id(), std::process::id(), instance, 1), Kin::Own);
        assert_eq!(kin(1, main.id(), instance, 3), Kin::Stranger);
        assert_eq!(kin(u32::MAX, main.id(), instance, 3), Kin::Stranger);
        for child in [&mut of_group, &mut left, &mut of_before, &mut command, &mut other] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(of(&of_group), Kin::Gone);
        main.kill().unwrap();
        main.wait().unwrap();
        assert_eq!(kin(main.id(), main.id(), instance, 3), Kin::Own);
    }

    #[test]
    fn when_a_process_began_is_not_after_it_did() {
        let child = nap(None, "1", 0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        let began = u128::from(began_ns(child.id()).unwrap());
        assert!(began <= now && now - began < 60_000_000_000, "{began} {now}");
        let mut child = child;
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(began_ns(child.id()).is_err());
    }
}
