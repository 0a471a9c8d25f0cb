//! What is the same for everybody on this machine. Each check is a pure judgement of what was
//! read.

use std::fs;
use std::path::Path;

use orchestrator_proto::control::Finding;

/// The oldest Linux that this is written for.
const OLDEST: (u32, u32) = (5, 10);

/// Fewer processes than this on the whole machine are few.
const FEW: u64 = 4096;

/// Looks at everything.
pub(super) fn examine() -> Vec<Finding> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cgroup = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    vec![
        kernel(&read("/proc/sys/kernel/osrelease")),
        cgroup_version(cgroup),
        numbers(&read("/proc/sys/kernel/pid_max"), &read("/proc/sys/kernel/threads-max")),
        overcommit(&read("/proc/sys/vm/overcommit_memory")),
        core_pattern(&read("/proc/sys/kernel/core_pattern")),
    ]
}

fn kernel(release: &str) -> Finding {
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) if (major, minor) >= OLDEST => {
            Finding::ok("kernel", format!("Linux {release}"))
        }
        (Some(_), Some(_)) => Finding::problem(
            "kernel",
            format!("Linux {release} is older than {}.{}", OLDEST.0, OLDEST.1),
            "use a newer kernel: this one lacks what the orchestrator is written for",
        ),
        _ => Finding::warning(
            "kernel",
            format!("the version of the kernel can't be read: {release:?}"),
            "see whether /proc is mounted",
        ),
    }
}

fn cgroup_version(is_unified: bool) -> Finding {
    if is_unified {
        return Finding::ok("cgroup", "cgroup v2 is mounted at /sys/fs/cgroup");
    }
    Finding::warning(
        "cgroup",
        "cgroup v2 is not mounted at /sys/fs/cgroup",
        "boot with systemd.unified_cgroup_hierarchy=1, or mount cgroup2 there, to limit what \
         instances use",
    )
}

fn numbers(pids: &str, threads: &str) -> Finding {
    match (pids.parse::<u64>(), threads.parse::<u64>()) {
        (Ok(pids), Ok(threads)) if pids.min(threads) < FEW => Finding::warning(
            "process-numbers",
            format!("this machine can have {} processes at once", pids.min(threads)),
            "raise the sysctls kernel.pid_max and kernel.threads-max",
        ),
        (Ok(pids), Ok(threads)) => {
            let most = pids.min(threads);
            let message = format!("this machine can have {most} processes at once");
            Finding::ok("process-numbers", message)
        }
        _ => Finding::warning(
            "process-numbers",
            "how many processes this machine can have can't be read",
            "see whether /proc is mounted",
        ),
    }
}

fn overcommit(mode: &str) -> Finding {
    match mode {
        "2" => Finding::warning(
            "overcommit",
            "memory is never promised twice (vm.overcommit_memory=2), so starts fail while much \
             is promised, even if little is used",
            "raise vm.overcommit_ratio, or set vm.overcommit_memory to 0",
        ),
        "0" | "1" => {
            let message = format!("memory may be promised twice (vm.overcommit_memory={mode})");
            Finding::ok("overcommit", message)
        }
        _ => Finding::ok("overcommit", "whether memory may be promised twice can't be read"),
    }
}

fn core_pattern(pattern: &str) -> Finding {
    let program = pattern.strip_prefix('|').and_then(|rest| rest.split_whitespace().next());
    match program {
        Some(program) if !Path::new(program).exists() => Finding::warning(
            "core-pattern",
            format!("core dumps are given to {program}, which is not there"),
            "install it, or write them to files: sysctl kernel.core_pattern=core.%p",
        ),
        Some(program) => Finding::ok("core-pattern", format!("core dumps are given to {program}")),
        None if pattern.is_empty() => {
            Finding::ok("core-pattern", "core dumps are not written: kernel.core_pattern is empty")
        }
        None if pattern.starts_with('/') => {
            Finding::ok("core-pattern", format!("core dumps are written to {pattern}"))
        }
        None => Finding::ok(
            "core-pattern",
            format!("core dumps are written as {pattern} into the directory of the instance"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrator_proto::control::Level;

    #[test]
    fn kernels() {
        for (release, level) in [
            ("6.1.0-13-amd64", Level::Ok),
            ("5.10", Level::Ok),
            ("5.4.0", Level::Problem),
            ("4.19-rc1", Level::Problem),
            ("", Level::Warning),
        ] {
            assert_eq!(kernel(release).level, level, "{release}");
        }
    }

    #[test]
    fn numbers_of_processes() {
        assert_eq!(numbers("4194304", "30000").level, Level::Ok);
        assert_eq!(numbers("1024", "30000").level, Level::Warning);
        assert_eq!(numbers("", "").level, Level::Warning);
    }

    #[test]
    fn core_dumps_and_memory() {
        assert_eq!(core_pattern("|/nonexistent/x %p").level, Level::Warning);
        assert_eq!(core_pattern("|/bin/sh %p").level, Level::Ok);
        for pattern in ["core", "/var/core.%p", ""] {
            assert_eq!(core_pattern(pattern).level, Level::Ok);
        }
        assert_eq!(overcommit("2").level, Level::Warning);
        assert_eq!(overcommit("0").level, Level::Ok);
    }

    #[test]
    fn this_machine_is_looked_at() {
        assert_eq!(examine().len(), 5);
    }
}
