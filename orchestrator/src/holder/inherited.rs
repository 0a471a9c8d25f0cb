//! Sockets that a service manager had opened before it executed the holder, see sd_listen_fds(3).

use std::env;
use std::os::fd::OwnedFd;

use super::frame::MAX_LISTENERS;
use super::sys;

/// The number of the first, `SD_LISTEN_FDS_START`.
const FIRST: i32 = 3;

/// Takes them, if they are meant for this process: more than [`MAX_LISTENERS`] are not taken. Not
/// inherited any further. Must be called before this process opens anything.
pub(super) fn inherited() -> Vec<OwnedFd> {
    let pid = env::var("LISTEN_PID").ok();
    let count = count(pid.as_deref(), env::var("LISTEN_FDS").ok().as_deref(), std::process::id());
    // One that is not open was closed by somebody in between.
    (FIRST..).take(count).filter_map(|number| sys::inherit(number).ok()).collect()
}

fn count(pid: Option<&str>, count: Option<&str>, own: u32) -> usize {
    if pid.and_then(|pid| pid.parse().ok()) != Some(own) {
        return 0;
    }
    count.and_then(|count| count.parse().ok()).unwrap_or(0).min(MAX_LISTENERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_of_another_process_are_not_taken() {
        assert_eq!(count(Some("7"), Some("2"), 7), 2);
        assert_eq!(count(Some("7"), Some("9999"), 7), MAX_LISTENERS);
        for (pid, fds) in [
            (None, Some("1")),
            (Some("8"), Some("1")),
            (Some(""), Some("1")),
            (Some("7"), None),
            (Some("7"), Some("-1")),
            (Some("7"), Some("x")),
        ] {
            assert_eq!(count(pid, fds, 7), 0, "{pid:?} {fds:?}");
        }
    }
}
