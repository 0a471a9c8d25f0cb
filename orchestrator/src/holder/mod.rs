//! The parent process: starts the daemon proper, passes signals on to it, and when it has
//! ended, however it did, ends everything that is left below it.
//!
//! For `main.rs` alone: `if !attach() { return run(); }` is the first thing it does. No
//! policy, no thread, no async; it knows no other room.
//!
//! It promises that
//!
//! - nothing that the daemon started outlives it, not even after `kill -9` of the daemon, and
//!   not by setsid(2): the kernel gives the holder every orphan (`PR_SET_CHILD_SUBREAPER`);
//! - a signal, such as a terminal's Ctrl-C, reaches the daemon exactly as often as the holder
//!   got it;
//! - if the holder itself is killed, the daemon is asked to end (`PR_SET_PDEATHSIG`), and ends
//!   what is left in the holder's place;
//! - its exit code is the daemon's, or 128 and the number of the signal that ended the daemon.
//!
//! It is here that instances will be spawned, and the daemon restarted.

use std::collections::HashSet;
use std::env;
use std::fs;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio, exit};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, getppid};

/// Tells the daemon that it is the daemon, and who holds it. Set by the holder, for itself.
pub const ENV_HOLDER: &str = "ORCHESTRATOR_HOLDER_PID";

/// What is passed on. Not SIGTSTP and its like, which are about the holder's own terminal.
const PASSED_ON: [Signal; 6] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// Whether this process is the daemon proper; if not, it is to become the holder.
///
/// From then on the daemon gets SIGTERM when its holder ends. If it has ended already, so
/// does this process, with exit code 1: nobody is left to clean up after it. Must be called
/// before this process has a second thread.
#[must_use]
pub fn attach() -> bool {
    let Some(holder) = env::var_os(ENV_HOLDER) else {
        return false;
    };
    let armed = prctl::set_pdeathsig(Signal::SIGTERM);
    // Asked after that, so that there is no moment at which its end would go unnoticed.
    let held = holder.to_str() == Some(getppid().to_string().as_str());
    if armed.is_err() || !held {
        eprintln!("error: the holder has ended (or {ENV_HOLDER} was set by somebody else)");
        exit(1);
    }
    // What the holder waits for is blocked in it, and so in us as yet.
    if let Err(error) = SigSet::empty().thread_set_mask() {
        eprintln!("error: cannot unblock signals: {error}");
        exit(1);
    }
    // The kernel named us after the link that we were executed by.
    let _ = prctl::set_name(c"orchestrator");
    true
}

/// For the daemon, as the last thing it does: if the holder was killed, its work is done here.
pub fn leave() {
    let held = env::var_os(ENV_HOLDER);
    if held.is_some_and(|holder| holder.to_str() != Some(getppid().to_string().as_str()))
        && let Err(error) = end_all_below()
    {
        eprintln!("error: cannot end what is left: {error}");
    }
}

/// Holds the daemon until it ends. Must be called before this process has a second thread.
#[must_use]
pub fn run() -> ExitCode {
    match hold() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: cannot hold a daemon: {error}");
            ExitCode::FAILURE
        }
    }
}

fn hold() -> io::Result<ExitCode> {
    prctl::set_child_subreaper(true)?;
    let mut signals: SigSet = PASSED_ON.into_iter().collect();
    signals.add(Signal::SIGCHLD);
    // The daemon inherits that, and undoes it in `attach`.
    signals.thread_block()?;
    let mut signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?;
    let hangup_ignored = is_ignored(Signal::SIGHUP);
    let mut daemon = start()?;
    let ended = pass_on_signals(&mut daemon, &mut signals, hangup_ignored)?;
    let left = end_all_below()?;
    Ok(report(daemon.id(), ended, left))
}

/// The same program with the same arguments, even if its file was replaced in the meantime.
fn start() -> io::Result<Child> {
    let mut args = env::args_os();
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    command
        .args(args)
        .env(ENV_HOLDER, Pid::this().to_string())
        // A terminal's Ctrl-C goes to a whole process group; the daemon gets ours instead.
        .process_group(0)
        .stdin(Stdio::null())
        .spawn()
}

/// Waits for the daemon's end. Until then every orphan goes to the daemon, which is nearer.
fn pass_on_signals(
    daemon: &mut Child,
    signals: &mut SignalFd,
    hangup_ignored: bool,
) -> io::Result<ExitStatus> {
    let pid = Pid::from_raw(daemon.id().cast_signed());
    loop {
        if let Some(status) = daemon.try_wait()? {
            return Ok(status);
        }
        let info = match signals.read_signal() {
            Ok(Some(info)) => info,
            Ok(None) | Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let signal = i32::try_from(info.ssi_signo).map(Signal::try_from);
        match signal {
            Ok(Ok(Signal::SIGCHLD)) => {}
            // Under nohup(1). A signal that is blocked comes although it is ignored.
            Ok(Ok(Signal::SIGHUP)) if hangup_ignored => {}
            // The number is the daemon's: only we can collect it, and we have not.
            Ok(Ok(signal)) => kill(pid, signal)?,
            _ => {}
        }
    }
}

/// Sends SIGKILL to every process below us until none is left. Answers how many there were.
///
/// What a process that is killed had started becomes our child before that process can be
/// collected, so each round sees it. By number, because a child's is its own until we, and
/// only we, collect it.
fn end_all_below() -> io::Result<usize> {
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

/// Whether this process was started with a signal ignored.
fn is_ignored(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & (1 << (signal as i32 - 1)) != 0)
}

/// Says what an operator would not expect.
fn report(daemon: u32, ended: ExitStatus, left: usize) -> ExitCode {
    let left = match left {
        0 => String::new(),
        1 => "; 1 process that was left below it was killed".to_owned(),
        n => format!("; {n} processes that were left below it were killed"),
    };
    if let Some(number) = ended.signal() {
        let name = Signal::try_from(number).map_or("no name", Signal::as_str);
        let core = if ended.core_dumped() { ", core dumped" } else { "" };
        eprintln!(
            "error: the daemon (process {daemon}) was ended by signal {number} ({name}{core}){left}"
        );
        return ExitCode::from(u8::try_from(128 + number).unwrap_or(u8::MAX));
    }
    let code = ended.code().unwrap_or(1);
    if !left.is_empty() {
        eprintln!("the daemon (process {daemon}) has ended{left}");
    }
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}
