//! What the kernel allows the daemon and the holder, see getrlimit(2) and capabilities(7).

use std::fs;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use orchestrator_proto::control::Finding;

use crate::process::Facts;

/// Files that an instance costs the daemon and the holder at most, each: pipes, a pidfd, sockets.
const FILES_PER_INSTANCE: u64 = 8;

/// `CAP_SYS_NICE`.
const SYS_NICE: u32 = 23;

/// Open files of a process against its limit.
pub(super) fn open_files(whose: &str, pid: u32, instances: u64) -> Finding {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    match (hard_limit(&limits, "Max open files"), Facts::of(pid)) {
        (Some(limit), Some(facts)) => files(whose, facts.open_files, limit, instances),
        _ => Finding::warning(
            "open-files",
            format!("what {whose} may open can't be read from /proc/{pid}/limits"),
            "see whether /proc is mounted without hidepid",
        ),
    }
}

fn files(whose: &str, used: u64, limit: u64, instances: u64) -> Finding {
    let message = format!("{whose} has {used} files open of {limit} that it may");
    let advice = "raise LimitNOFILE= of its systemd unit, or `ulimit -Hn` before it is started, \
                  and start the orchestrator again";
    let left = limit.saturating_sub(used);
    if left < limit / 20 {
        Finding::problem("open-files", message, advice)
    } else if left < limit / 5 || limit < instances.saturating_mul(FILES_PER_INSTANCE) {
        Finding::warning("open-files", message, advice)
    } else {
        Finding::ok("open-files", message)
    }
}

/// The second number of a line of `/proc/PID/limits`.
fn hard_limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_whitespace().nth(1)? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// How many processes its user may have. Root may have as many as it likes.
pub(super) fn processes() -> Finding {
    if nix::unistd::geteuid().is_root() {
        return Finding::ok(
            "processes",
            "the daemon runs as root, whose processes are not counted",
        );
    }
    let limit = getrlimit(Resource::RLIMIT_NPROC).map_or(RLIM_INFINITY, |(soft, _)| soft);
    let message = |text: &str| format!("the user of the daemon may have {text} processes");
    match limit {
        RLIM_INFINITY => Finding::ok("processes", message("any number of")),
        limit if limit < 1024 => Finding::warning(
            "processes",
            message(&limit.to_string()),
            "raise LimitNPROC= of its systemd unit, or `ulimit -u` before it is started",
        ),
        limit => Finding::ok("processes", message(&limit.to_string())),
    }
}

/// Whether a crash leaves something to look at.
pub(super) fn core_size() -> Finding {
    match getrlimit(Resource::RLIMIT_CORE) {
        Ok((_, 0)) => Finding::warning(
            "core-dumps",
            "instances that crash leave no core dump: the hard limit is 0",
            "set LimitCORE=infinity in its systemd unit, or `ulimit -Hc` before it is started",
        ),
        Ok((0, _)) => Finding::ok(
            "core-dumps",
            "instances leave no core dump unless they ask for it (setrlimit, ulimit -c)",
        ),
        _ => Finding::ok("core-dumps", "instances that crash leave a core dump"),
    }
}

/// Whether `--priority high` can be had.
pub(super) fn priority() -> Finding {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let nice = getrlimit(Resource::RLIMIT_NICE).map_or(0, |(_, hard)| hard);
    // A limit of 20 allows the nice value 0, 40 allows -20; see getrlimit(2).
    if has_capability(&status, SYS_NICE) || nice > 20 {
        return Finding::ok("priority", "instances can have the priority high");
    }
    Finding::warning(
        "priority",
        "instances can't have the priority high; they get the normal one",
        "give the daemon CAP_SYS_NICE (AmbientCapabilities= of its systemd unit), or a higher \
         LimitNICE=",
    )
}

fn has_capability(status: &str, number: u32) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    bits.is_some_and(|bits| bits & (1 << number) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrator_proto::control::Level;

    #[test]
    fn files_that_are_left() {
        let level = |used, limit, instances| files("x", used, limit, instances).level;
        assert_eq!(level(10, 1024, 10), Level::Ok);
        assert_eq!(level(900, 1024, 10), Level::Warning);
        assert_eq!(level(1020, 1024, 10), Level::Problem);
        assert_eq!(level(10, 1024, 1000), Level::Warning);
        assert_eq!(open_files("x", std::process::id(), 1).check, "open-files");
        assert_eq!(open_files("x", 0, 1).level, Level::Warning);
    }

    #[test]
    fn limits_are_read() {
        let text = "Limit                     Soft Limit           Hard Limit           Units\n\
                    Max processes             1                    unlimited            processes\n\
                    Max open files            1024                 4096                 files\n";
        assert_eq!(hard_limit(text, "Max open files"), Some(4096));
        assert_eq!(hard_limit(text, "Max processes"), Some(u64::MAX));
        assert_eq!(hard_limit("", "Max open files"), None);
    }

    #[test]
    fn capabilities_are_read() {
        assert!(has_capability("Name:\ta\nCapEff:\t0000000000800000\n", SYS_NICE));
        assert!(!has_capability("CapEff:\t0000000000400000\n", SYS_NICE));
        assert!(!has_capability("", SYS_NICE));
    }
}
