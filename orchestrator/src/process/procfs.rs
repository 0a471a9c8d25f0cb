//! What `/proc` says, see proc(5).

use std::fs::{self, File};
use std::io::{self, Read};

/// More bytes than `/proc/PID/stat` has: 52 numbers of at most 20 digits, and a name of at most 64
/// bytes.
const MAX_STAT: usize = 2048;

/// Part of `/proc/PID/stat`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stat {
    pub(super) state: u8,
    pub(super) parent: i32,
    pub(super) group: i32,
    pub(super) threads: i64,
    /// Clock ticks since boot. With the number, it names one process for ever.
    pub(super) started: u64,
    /// Where its environment begins, also if that is empty. 0 while it is being executed, when it is
    /// about to end or has ended, and if it is none of our business.
    pub(super) environment: u64,
    /// Of a zombie: its status as waitpid(2) would give it. 0 for others, and if it is none of
    /// our business.
    pub(super) exit_code: i32,
}

impl Stat {
    /// Of a process, if there is one with this number.
    pub(super) fn of(pid: i32) -> Option<Self> {
        let mut text = [0; MAX_STAT];
        // The kernel writes it anew for each first read, and gives all of it if there is room.
        let len = File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut text).ok()?;
        Self::parse(text.get(..len)?)
    }

    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        // The name may hold anything, parentheses and newlines too; the last one ends it.
        let end = text.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(text.get(end + 1..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        Some(Self {
            state: *fields.next()?.as_bytes().first()?,
            parent: fields.next()?.parse().ok()?,
            group: fields.next()?.parse().ok()?,
            threads: fields.nth(14)?.parse().ok()?,
            started: fields.nth(1)?.parse().ok()?,
            environment: fields.nth(27).and_then(|field| field.parse().ok()).unwrap_or(0),
            exit_code: fields.nth(1).and_then(|field| field.parse().ok()).unwrap_or(0),
        })
    }

    /// Whether it can still do anything. A process whose first thread has ended looks like a
    /// zombie while its other threads go on.
    pub(super) const fn is_alive(&self) -> bool {
        match self.state {
            b'X' | b'x' => false,
            b'Z' => self.threads > 1,
            _ => true,
        }
    }
}

/// What an operator may want to know of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Facts {
    /// When it was started, milliseconds since 1970 (UTC), to about 10 ms.
    pub started_ms: u64,
    /// Memory that is resident (`VmRSS`), bytes.
    pub resident_bytes: u64,
    /// Files that it has open.
    pub open_files: u64,
}

impl Facts {
    /// Of a process, as far as we may know. None if there is no such process. Reads files of
    /// `/proc`, which does not wait for a disk.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let stat = Stat::of(i32::try_from(pid).ok()?)?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = resident.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        let files = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        Some(Self {
            started_ms: now_ms().saturating_sub(age_ms(stat.started)),
            resident_bytes: kib.unwrap_or(0).saturating_mul(1024),
            open_files: files as u64,
        })
    }
}

/// How long ago a time was that is counted in clock ticks since boot. `/proc` counts 100 of them
/// in a second on every architecture (`USER_HZ`).
fn age_ms(ticks: u64) -> u64 {
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = uptime.split_whitespace().next().and_then(|text| text.parse::<f64>().ok());
    let uptime_ms = (seconds.unwrap_or(0.0) * 1000.0) as u64;
    uptime_ms.saturating_sub(ticks.saturating_mul(10))
}

/// Milliseconds since 1970 (UTC).
fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The numbers of all processes that we can see.
pub(super) fn pids() -> io::Result<Vec<i32>> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        if let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
            pids.push(pid);
        }
    }
    Ok(pids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_look_like_fields() {
        let line = b"42 (a) R 1 (b)\n) S 7 8 9 0 -1 4194304 1 2 3 4 5 6 7 8 20 -5 3 0 777 \
        23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 9\n";
        let stat = Stat::parse(line).unwrap();
        assert_eq!((stat.state, stat.parent, stat.group), (b'S', 7, 8));
        assert_eq!((stat.threads, stat.started), (3, 777));
        assert_eq!((stat.environment, stat.exit_code), (50, 9));
    }

    #[test]
    fn ourselves() {
        let stat = Stat::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(stat.is_alive() && stat.started > 0 && stat.threads >= 1);
        assert!(stat.environment > 0);
        assert!(Stat::of(0).is_none());
    }
}
