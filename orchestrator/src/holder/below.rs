//! Ending everything that is left below this process.

use std::collections::HashSet;
use std::fs;
use std::io;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

/// Sends SIGKILL to every process below us until none is left. Answers how many there were.
///
/// What a process that is killed had started becomes our child before that process can be
/// collected, so each round sees it. By number, because a child's is its own until we, and
/// only we, collect it.
pub(super) fn end_all_below() -> io::Result<usize> {
    let mut killed = HashSet::new();
    loop {
        let mut reachable = 0;
        let children = children()?;
        for child in &children {
            if kill(child.pid, Signal::SIGKILL).is_ok() {
                reachable += 1;
                if !child.zombie {
                    killed.insert(child.pid);
                }
            }
        }
        if !children.is_empty() && reachable == 0 {
            eprintln!("error: processes of another user are left, see ps --ppid 1");
            return Ok(killed.len());
        }
        match waitpid(None, None) {
            Err(Errno::ECHILD) => return Ok(killed.len()),
            // EINVAL: one was collected that a signal without a name had ended.
            Ok(_) | Err(Errno::EINTR | Errno::EINVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

struct Below {
    pid: Pid,
    zombie: bool,
}

/// Our children, from `/proc/PID/stat`; `/proc/PID/task/PID/children` is not on every kernel.
fn children() -> io::Result<Vec<Below>> {
    let us = Pid::this().to_string();
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let stat = fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
        let stat = String::from_utf8_lossy(&stat);
        // The name in parentheses may hold anything; state and parent follow it.
        let mut fields = stat.rsplit(')').next().unwrap_or("").split_whitespace();
        let state = fields.next();
        if fields.next() == Some(us.as_str()) {
            let pid = Pid::from_raw(pid);
            let zombie = state == Some("Z");
            children.push(Below { pid, zombie });
        }
    }
    Ok(children)
}
