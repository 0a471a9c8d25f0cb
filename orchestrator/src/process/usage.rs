//! What instances use: CPU time and memory of whole trees, as `/proc` says, see proc(5).
//!
//! Nothing is read until somebody asks. Then it is one pass over all processes of the machine,
//! however many instances there are, on a thread that may wait; and whoever asks within
//! [`FRESH`] after that shares what it has found.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use orchestrator_proto::InstanceId;
use orchestrator_proto::control::Usage;
use tokio::sync::Mutex;

use super::cgroup::instance_of;
use super::orphan::mark;
use super::procfs::{Stat, pids};

/// How long what was read is good for.
const FRESH: Duration = Duration::from_millis(500);

/// CPU is averaged over at least this long: `/proc` counts in steps of 10 ms.
const SPAN: Duration = Duration::from_millis(400);

/// Clock ticks of `/proc` are hundredths of a second on every architecture (`USER_HZ`).
const TICK_MS: u64 = 10;

/// Threads that read at the same time, at most.
const THREADS: usize = 4;

/// Processes that each of them reads, at least.
const SHARE: usize = 512;

/// The longest line of `/proc/PID/stat`: 52 numbers of up to 20 digits, and a name.
const MAX_LINE: usize = 2048;

/// An instance that runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Main {
    /// Which.
    pub instance: InstanceId,
    /// Its main process, the leader of its process group; none if only others are left of it.
    pub pid: Option<u32>,
}

/// What the instances of a daemon use.
pub type Usages = HashMap<InstanceId, Usage>;

/// Reads it, when asked.
#[derive(Debug)]
pub struct Meter {
    /// The parent of main processes, and of those whose parents have ended.
    holder: i32,
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    at: Option<Instant>,
    usages: Arc<Usages>,
    /// From when on CPU time is averaged.
    from: HashMap<InstanceId, From>,
}

#[derive(Clone, Copy, Debug)]
struct From {
    at: Instant,
    reading: Reading,
}

/// What the processes of an instance have in sum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Reading {
    /// The process by which it is known that it is still the same execution, and when that was
    /// started, clock ticks since boot.
    leader: (i32, u64),
    cpu_ticks: u64,
    memory_bytes: u64,
    processes: u32,
}

impl Meter {
    /// For the instances below this holder.
    #[must_use]
    pub fn new(holder: i32) -> Self {
        Self { holder, last: Mutex::default() }
    }

    /// What these instances use, and others. One of which nothing runs is not there. `all` that
    /// run are asked for if `/proc` is to be read. At most one pass is under way; others wait for
    /// it. If `/proc` can't be read, nothing is there, and the daemon's log says why.
    pub async fn usages(&self, wanted: &[Main], all: impl FnOnce() -> Vec<Main>) -> Arc<Usages> {
        let mut last = self.last.lock().await;
        let is_fresh = last.at.is_some_and(|at| at.elapsed() < FRESH);
        if is_fresh && wanted.iter().all(|main| last.usages.contains_key(&main.instance)) {
            return last.usages.clone();
        }
        let mains = all();
        let holder = self.holder;
        let read = tokio::task::spawn_blocking(move || read(holder, &mains)).await;
        let (readings, now_ticks) = match read {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => {
                tracing::warn!(%error, "what instances use can't be read from /proc");
                return Arc::default();
            }
            // It panicked, or the daemon ends.
            Err(_) => return Arc::default(),
        };
        let at = Instant::now();
        let from = std::mem::take(&mut last.from);
        let mut usages = Usages::with_capacity(readings.len());
        for (instance, reading) in readings {
            let before = from.get(&instance).filter(|it| it.reading.leader == reading.leader);
            usages.insert(instance, usage(reading, before, at, now_ticks));
            let is_recent = |from: &&From| at.duration_since(from.at) < SPAN;
            let next = before.copied().as_ref().filter(is_recent).copied();
            last.from.insert(instance, next.unwrap_or(From { at, reading }));
        }
        last.at = Some(at);
        last.usages = Arc::new(usages);
        last.usages.clone()
    }
}

fn usage(reading: Reading, before: Option<&From>, at: Instant, now_ticks: u64) -> Usage {
    let (ticks, over_ms) = match before {
        Some(from) => {
            let over = at.duration_since(from.at).as_millis();
            // Less than before if a child has ended of which nobody wanted to know.
            let ticks = reading.cpu_ticks.saturating_sub(from.reading.cpu_ticks);
            (ticks, u64::try_from(over).unwrap_or(u64::MAX))
        }
        None => {
            let age = now_ticks.saturating_sub(reading.leader.1).saturating_mul(TICK_MS);
            (reading.cpu_ticks, age)
        }
    };
    let over_ms = over_ms.max(TICK_MS);
    let share = u128::from(ticks) * u128::from(TICK_MS) * 10_000 / u128::from(over_ms);
    Usage {
        cpu_percent_100: u32::try_from(share).unwrap_or(u32::MAX),
        cpu_over_ms: over_ms,
        cpu_ms: reading.cpu_ticks.saturating_mul(TICK_MS),
        memory_bytes: reading.memory_bytes,
        processes: reading.processes,
    }
}

/// Where the figures come from: what each instance has now, and the time in clock ticks since
/// boot.
fn read(holder: i32, mains: &[Main]) -> io::Result<(HashMap<InstanceId, Reading>, u64)> {
    let all = processes(&pids()?);
    let uptime = std::fs::read_to_string("/proc/uptime")?;
    let seconds = uptime.split_whitespace().next().and_then(|text| text.parse::<f64>().ok());
    let now_ticks = (seconds.unwrap_or(0.0) * 100.0) as u64;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    let page = page.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(4096);
    let known: HashSet<InstanceId> = mains.iter().map(|main| main.instance).collect();
    Ok((sum(&all, holder, mains, page, |pid| owner(pid, &known)), now_ticks))
}

/// Whose a process is, among these, that whoever takes in orphans has taken in. It has no say in
/// which cgroup it is in; where there are none, its environment may tell.
fn owner(pid: i32, known: &HashSet<InstanceId>) -> Option<InstanceId> {
    let marked = || mark(pid).map(|(instance, _)| instance).filter(|it| known.contains(it));
    instance_of(pid, |it| known.contains(&it)).or_else(marked)
}

/// Those that are still there. Nearly all of the time is the kernel's, about 10 µs for each, so
/// where there are many they are shared out among some threads.
fn processes(pids: &[i32]) -> Vec<Now> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS);
    let share = pids.len().div_ceil(threads).max(SHARE);
    let read = |pids: &[i32]| {
        let (mut path, mut line) = (String::new(), [0; MAX_LINE]);
        pids.iter().filter_map(|pid| process(*pid, &mut path, &mut line)).collect::<Vec<_>>()
    };
    let mut shares = pids.chunks(share);
    let own = shares.next().unwrap_or_default();
    std::thread::scope(|scope| {
        let others: Vec<_> = shares
            .map(|share| {
                let named = std::thread::Builder::new().name("usage".to_owned());
                (share, named.spawn_scoped(scope, move || read(share)))
            })
            .collect();
        let mut all = read(own);
        for (share, other) in others {
            match other.map(std::thread::ScopedJoinHandle::join) {
                Ok(Ok(read)) => all.extend(read),
                // There is no thread to be had.
                _ => all.extend(read(share)),
            }
        }
        all
    })
}

/// A process as it is now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Now {
    pid: i32,
    stat: Stat,
    cpu_ticks: u64,
    resident_pages: u64,
}

/// One read is one look: the kernel writes the line as a whole.
fn process(pid: i32, path: &mut String, line: &mut [u8; MAX_LINE]) -> Option<Now> {
    use std::fmt::Write as _;
    path.clear();
    write!(path, "/proc/{pid}/stat").ok()?;
    let length = File::open(&*path).ok()?.read(line).ok()?;
    parse(pid, line.get(..length)?)
}

fn parse(pid: i32, line: &[u8]) -> Option<Now> {
    let stat = Stat::parse(line)?;
    let end = line.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(line.get(end + 1..)?).ok()?;
    // The first of these is field 3.
    let mut fields = rest.split_ascii_whitespace().skip(14 - 3);
    let mut number = || fields.next()?.parse::<i64>().ok().map(i64::unsigned_abs);
    // utime and stime; cutime and cstime of children that have ended and were waited for.
    let times = [number()?, number()?, number()?, number()?];
    let resident = fields.nth(24 - 18)?.parse::<i64>().ok()?;
    Some(Now {
        pid,
        stat,
        cpu_ticks: times.into_iter().fold(0, u64::saturating_add),
        resident_pages: u64::try_from(resident).unwrap_or(0),
    })
}

/// Whose each process is. Its own are all of the main process's group, all that one of its own has
/// started, and those that `owner` knows among the ones that were taken in: by the holder, and by
/// whoever is the parent of main processes that an earlier holder has left.
fn sum(
    all: &[Now],
    holder: i32,
    mains: &[Main],
    page: u64,
    owner: impl Fn(i32) -> Option<InstanceId>,
) -> HashMap<InstanceId, Reading> {
    let leaders: HashMap<i32, InstanceId> = mains
        .iter()
        .filter_map(|main| Some((i32::try_from(main.pid?).ok()?, main.instance)))
        .collect();
    let known: HashMap<InstanceId, Option<u32>> =
        mains.iter().map(|main| (main.instance, main.pid)).collect();
    let parents: HashMap<i32, &Now> = all.iter().map(|now| (now.pid, now)).collect();
    let left = |leader| parents.get(leader).map(|now: &&Now| now.stat.parent);
    let takers: HashSet<i32> = leaders.keys().filter_map(left).chain([holder]).collect();
    let mut owners: HashMap<i32, Option<InstanceId>> = HashMap::with_capacity(all.len());
    let mut way = Vec::new();
    let mut readings: HashMap<InstanceId, Reading> = HashMap::with_capacity(mains.len());
    for now in all {
        // Up, until one is reached of which it is known.
        let mut at = now;
        let owner = loop {
            if let Some(owner) = owners.get(&at.pid) {
                break *owner;
            }
            way.push(at.pid);
            if let Some(owner) = leaders.get(&at.stat.group) {
                break Some(*owner);
            }
            if takers.contains(&at.stat.parent) {
                break owner(at.pid).filter(|owner| known.contains_key(owner));
            }
            match parents.get(&at.stat.parent) {
                // Not a cycle, as can be seen when numbers are given anew while this is read.
                Some(parent) if way.len() <= all.len() => at = parent,
                _ => break None,
            }
        };
        owners.extend(way.drain(..).map(|pid| (pid, owner)));
        let Some(owner) = owner else { continue };
        let reading = readings.entry(owner).or_default();
        reading.cpu_ticks = reading.cpu_ticks.saturating_add(now.cpu_ticks);
        reading.memory_bytes =
            reading.memory_bytes.saturating_add(now.resident_pages.saturating_mul(page));
        reading.processes += u32::from(now.stat.is_alive());
        let is_main = known.get(&owner).copied().flatten() == u32::try_from(now.pid).ok();
        let is_older = reading.leader == (0, 0) || now.stat.started < reading.leader.1;
        if is_main || is_older && !is_known(reading.leader.0, known.get(&owner)) {
            reading.leader = (now.pid, now.stat.started);
        }
    }
    // What nobody has collected yet runs no more.
    readings.retain(|_, reading| reading.processes > 0);
    readings
}

fn is_known(pid: i32, main: Option<&Option<u32>>) -> bool {
    main.copied().flatten().is_some_and(|main| u32::try_from(pid) == Ok(main))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    fn id(number: u8) -> InstanceId {
        InstanceId::from_bytes([number; 16])
    }

    fn line(parent: i32, group: i32, cpu: u64, started: u64, pages: u64) -> Vec<u8> {
        format!(
            "1 (a ) b) S {parent} {group} 0 0 -1 0 1 2 3 4 {cpu} 1 2 3 20 0 1 0 {started} 9 \
             {pages} 5 6"
        )
        .into_bytes()
    }

    fn now(pid: i32, parent: i32, group: i32) -> Now {
        parse(pid, &line(parent, group, 10, 100, 7)).unwrap()
    }

    #[test]
    fn a_line_has_the_time_of_its_children_too() {
        let now = now(5, 4, 3);
        assert_eq!((now.stat.parent, now.stat.group, now.stat.started), (4, 3, 100));
        assert_eq!((now.cpu_ticks, now.resident_pages), (16, 7));
        assert_eq!(parse(5, b"1 (a) S 1 1 0"), None);
    }

    #[test]
    fn whoever_is_asked_for_is_read_whether_by_one_thread_or_by_some() {
        let own = i32::try_from(std::process::id()).unwrap();
        for count in [0, 1, SHARE - 1, SHARE, 3 * SHARE + 1, 20 * SHARE] {
            let all = processes(&vec![own; count]);
            assert_eq!(all.len(), count);
            assert!(all.iter().all(|now| now.pid == own && now.stat.is_alive()));
        }
        assert!(processes(&[-1, i32::MAX]).is_empty());
    }

    #[test]
    fn a_tree_is_its_group_what_it_started_and_what_it_left_behind() {
        let all = [
            now(1, 0, 1),    // init
            now(10, 1, 10),  // the holder
            now(11, 10, 10), // the daemon
            now(20, 10, 20), // the first instance,
            now(21, 20, 20), // its child,
            now(22, 21, 22), // one that has left the group,
            now(23, 22, 22), // and what that has started;
            now(24, 10, 24), // one that the holder has taken in,
            now(25, 24, 24), // with a child.
            now(30, 10, 30), // The second instance.
            now(40, 10, 40), // One of an instance that is not ours.
        ];
        let mains =
            [Main { instance: id(1), pid: Some(20) }, Main { instance: id(2), pid: Some(30) }];
        let mark = |pid| match pid {
            24 => Some(id(1)),
            40 => Some(id(9)),
            _ => None,
        };
        let readings = sum(&all, 10, &mains, 4096, mark);
        assert_eq!(readings.len(), 2);
        assert_eq!((readings[&id(1)].processes, readings[&id(2)].processes), (6, 1));
        assert_eq!(readings[&id(1)].memory_bytes, 6 * 7 * 4096);
        assert_eq!(readings[&id(1)].leader, (20, 100));
    }

    #[test]
    fn what_was_taken_in_by_another_one_than_the_holder_is_found_too() {
        let all = [
            now(1, 0, 1),    // init,
            now(5, 1, 5),    // something of its own,
            now(10, 1, 10),  // the holder, the second one;
            now(20, 1, 20),  // an instance that the first one has left,
            now(24, 1, 24),  // and what that had started.
            now(30, 10, 30), // Another instance.
        ];
        let mains =
            [Main { instance: id(1), pid: Some(20) }, Main { instance: id(2), pid: Some(30) }];
        let readings = sum(&all, 10, &mains, 1, |pid| (pid == 24).then_some(id(1)));
        assert_eq!((readings[&id(1)].processes, readings[&id(2)].processes), (2, 1));
    }

    #[test]
    fn what_a_main_process_has_left_behind_is_found_without_it() {
        let mains = [Main { instance: id(1), pid: None }];
        let readings = sum(&[now(24, 10, 20)], 10, &mains, 1, |_| Some(id(1)));
        assert_eq!(readings[&id(1)].processes, 1);
    }

    #[test]
    fn cpu_is_averaged_since_the_start_and_then_since_the_look_before() {
        let at = Instant::now();
        let reading = Reading { leader: (5, 1000), cpu_ticks: 50, ..Reading::default() };
        let first = usage(reading, None, at, 1100);
        assert_eq!((first.cpu_percent_100, first.cpu_over_ms, first.cpu_ms), (5000, 1000, 500));
        let later = at + Duration::from_secs(2);
        let from = From { at, reading };
        let reading = Reading { cpu_ticks: 450, ..reading };
        let second = usage(reading, Some(&from), later, 0);
        assert_eq!((second.cpu_percent_100, second.cpu_over_ms), (20_000, 2000));
        let less = usage(Reading { cpu_ticks: 1, ..reading }, Some(&from), later, 0);
        assert_eq!(less.cpu_percent_100, 0);
    }

    #[tokio::test]
    async fn a_real_tree_is_measured_and_who_asks_again_at_once_shares_that() {
        let mut child = Command::new("/bin/sh");
        let child = child.args(["-c", "sleep 1000 & echo; wait"]).process_group(0);
        let mut child = child.stdout(std::process::Stdio::piped()).spawn().unwrap();
        child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        let meter = Meter::new(i32::try_from(std::process::id()).unwrap());
        let mains = vec![Main { instance: id(1), pid: Some(child.id()) }];
        let usages = meter.usages(&mains, || mains.clone()).await;
        let usage = usages[&id(1)];
        assert_eq!(usage.processes, 2);
        assert!(usage.memory_bytes > 100_000, "{usage:?}");
        assert!(Arc::ptr_eq(&usages, &meter.usages(&mains, Vec::new).await));
        let group = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL).unwrap();
        child.wait().unwrap();
    }

    proptest! {
        #[test]
        fn any_tree_is_summed_and_nothing_is_counted_twice(
            links in prop::collection::vec((0..40_i32, 0..40_i32), 1..40),
            mains in prop::collection::btree_set(0..40_u32, 0..8),
        ) {
            let all: Vec<_> = links
                .iter()
                .zip(0..)
                .map(|((parent, group), pid)| now(pid, *parent, *group))
                .collect();
            let mains: Vec<_> = mains
                .iter()
                .zip(0..)
                .map(|(pid, number)| Main { instance: id(number), pid: Some(*pid) })
                .collect();
            let readings = sum(&all, 39, &mains, 1, |_| None);
            let counted: u32 = readings.values().map(|reading| reading.processes).sum();
            prop_assert!(counted as usize <= all.len());
            for main in &mains {
                let group = i32::try_from(main.pid.unwrap()).unwrap();
                let of_group = all.iter().filter(|now| now.stat.group == group).count();
                let counted = readings.get(&main.instance).map_or(0, |it| it.processes);
                prop_assert!(counted as usize >= of_group);
            }
        }

        #[test]
        fn no_line_is_too_strange(line in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(1, &line);
        }
    }
}
