//! What the processes of an instance use, all together.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::leaf::pids;

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Processor time since the instance was started, also of processes that have ended.
    pub cpu: Duration,
    /// Memory now, with what the kernel has for it, such as pages of files. None where the memory
    /// controller is not there.
    pub memory_bytes: Option<u64>,
    /// Its processes now, also those of commands that belong to it; ascending.
    pub pids: Vec<u32>,
}

/// Of the cgroup of an instance. None if it is not there.
pub(super) fn of(directory: &Path) -> Option<Usage> {
    let stat = fs::read_to_string(directory.join("cpu.stat")).ok()?;
    let used = stat.lines().find_map(|line| line.strip_prefix("usage_usec "));
    let used = used.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let memory = fs::read_to_string(directory.join("memory.current")).ok();
    let pids = pids(directory).ok()?;
    Some(Usage {
        cpu: Duration::from_micros(used),
        memory_bytes: memory.and_then(|text| text.trim().parse().ok()),
        pids: pids.into_iter().filter_map(|pid| u32::try_from(pid).ok()).collect(),
    })
}
