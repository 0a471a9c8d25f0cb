//! Looking at processes as the kernel shows them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::io::ioctl_fionread;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// Sends a signal to a process that this test started.
pub fn signal(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal);
}

/// The state letter of a process (proc(5)); none if there is no such process.
pub fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// Whether a process runs; a zombie does not, unless it has threads that still do: those keep
/// its files open.
pub fn is_alive(pid: u32) -> bool {
    match state(pid) {
        Some('Z') => threads(pid) > 1,
        Some(state) => state != 'X',
        None => false,
    }
}

/// When a process has started, clock ticks since the machine did (proc_pid_stat(5)).
pub fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// How many threads a process has, the first included even if it has ended.
pub fn threads(pid: u32) -> u32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    fields.split_whitespace().nth(17).and_then(|threads| threads.parse().ok()).unwrap_or(0)
}

/// The nice value of a process.
pub fn nice(pid: u32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(16)?.parse().ok()
}

/// Zombies among the children of a process.
pub fn zombies(parent: u32) -> Vec<u32> {
    children(parent).into_iter().filter(|pid| state(*pid) == Some('Z')).collect()
}

/// The children of a process, of all its threads.
pub fn children(parent: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{parent}/task")) else {
        return Vec::new();
    };
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// All processes below a process, as the kernel knows them now.
pub fn descendants(ancestor: u32) -> Vec<u32> {
    let mut found = children(ancestor);
    let mut at = 0;
    while let Some(&pid) = found.get(at) {
        found.extend(children(pid));
        at += 1;
    }
    found
}

/// Whether it is the process that captures output.
fn captures(pid: u32) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.starts_with(b"orchestrator-capture\0")
}

/// The capture process below a daemon, if there is one now.
pub fn capture(ancestor: u32) -> Option<u32> {
    descendants(ancestor).into_iter().find(|pid| captures(*pid) && is_alive(*pid))
}

/// Processes below a holder that are not its daemon's or the one that captures: those of
/// instances.
pub fn of_instances(holder: u32, daemon: u32) -> Vec<u32> {
    let ours = |pid: &u32| *pid == daemon || captures(*pid);
    descendants(holder).into_iter().filter(|pid| !ours(pid)).collect()
}

/// What a process has open, by number; nothing if it has ended.
pub fn files(pid: u32) -> BTreeMap<String, String> {
    let name = |path: PathBuf| path.to_string_lossy().into_owned();
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return BTreeMap::new() };
    entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            Some((name(path.file_name()?.into()), name(fs::read_link(path).ok()?)))
        })
        .collect()
}

/// The sockets of instances that listen below a directory, as [`files`] names them; see proc_net(5).
pub fn instance_sockets(dir: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let socket = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        // `__SO_ACCEPTCON`.
        let [_, _, _, "00010000", _, _, inode, path] = fields[..] else { return None };
        let path = Path::new(path);
        let is_dialect = path.extension().is_some_and(|it| it == "native" || it == "veecle");
        (is_dialect && path.starts_with(dir)).then(|| format!("socket:[{inode}]"))
    };
    table.lines().filter_map(socket).collect()
}

/// Whether something waits in a socket of a process; none if that can't be seen. Whoever looks has
/// to be its parent, or root, see ptrace_scope of Linux's Yama.
pub fn is_told(pid: u32) -> Option<bool> {
    let process = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?;
    let process = pidfd_open(process, PidfdFlags::empty()).ok()?;
    let unread = |number: i32| {
        let copy = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).ok()?;
        Some(ioctl_fionread(&copy).unwrap_or(0))
    };
    let sockets = files(pid).into_iter().filter(|(_, file)| file.starts_with("socket:"));
    sockets
        .map(|(number, _)| Some(unread(number.parse().ok()?)? > 0))
        .reduce(|one, other| Some(one? || other?))
        .flatten()
}

/// How many files a process has open.
pub fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// The memory of a process that is in use now, KiB.
pub fn resident_kib(pid: u32) -> u64 {
    memory(pid, "VmRSS:")
}

/// The addresses of a process that mean something, KiB.
pub fn mapped_kib(pid: u32) -> u64 {
    memory(pid, "VmSize:")
}

/// The most memory that a process ever used, KiB.
pub fn peak_kib(pid: u32) -> u64 {
    memory(pid, "VmHWM:")
}

fn memory(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// Waits until a file holds the number of a process, and a newline.
#[track_caller]
pub fn pid_in(path: &std::path::Path) -> u32 {
    crate::eventually(&format!("{} holds a pid", path.display()), || {
        fs::read_to_string(path).ok()?.strip_suffix('\n')?.trim().parse().ok()
    })
}

/// Suspends a process, and waits until each of its threads stands still.
#[track_caller]
pub fn suspend(pid: u32) {
    signal(pid, Signal::SIGSTOP);
    crate::eventually(&format!("process {pid} is suspended"), || {
        let mut threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        threads
            .all(|thread| {
                let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
                stat.rsplit_once(')').is_none_or(|(_, rest)| rest.starts_with(" T"))
            })
            .then_some(())
    });
}

/// Waits until a process has ended.
#[track_caller]
pub fn gone(pid: u32) {
    crate::eventually(&format!("process {pid} has ended"), || (!is_alive(pid)).then_some(()));
}
