//! The processor time that processes take.

use std::fs;

use nix::sys::resource::{UsageWho, getrusage};

/// Seconds that this process and these have used until now, in all their threads that live.
///
/// Exact for a thread that waits at the moment; of others the kernel may not have counted the last
/// tick. Those who carry messages have ended no thread meanwhile.
pub(super) fn seconds(others: &[u32]) -> f64 {
    let own = getrusage(UsageWho::RUSAGE_SELF).expect("the kernel tells our times");
    let own = [own.user_time(), own.system_time()];
    let own: f64 = own.iter().map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6).sum();
    own + others.iter().map(|pid| of_threads(*pid)).sum::<f64>()
}

/// See "schedstat" in the kernel's `Documentation/scheduler/sched-stats.rst`: the first figure is the
/// time on a processor, nanoseconds.
fn of_threads(pid: u32) -> f64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("who takes part is there");
    let of_one = |thread: fs::DirEntry| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    };
    threads.flatten().filter_map(of_one).sum::<f64>() / 1e9
}
