//! The parent process: starts the daemon proper and, for it, every program; collects their ends
//! and reports them; keeps files for the next daemon; passes signals on to the daemon.
//!
//! `main.rs` asks it for this process's [`role`], first of all; `process/` speaks with it, by
//! [`frame`]s over a [`socket`]. No policy, no thread, no async; it knows no other room.
//!
//! It promises that
//!
//! - a daemon that ends without having said that it means it is started again, and told of every
//!   program that runs, of every end since, and of every file that it has had kept;
//! - a daemon can start another one in its place, which takes over when it has said that it can
//!   and the first one has ended, and is told everything; if it ends before it was at work, the
//!   program of the one before is executed again;
//! - one that does mean it takes everything with it, even what has called setsid(2): the kernel
//!   gives the holder every orphan (`PR_SET_CHILD_SUBREAPER`);
//! - it waits for nobody: not for a program on a file system that does not answer, not for a
//!   daemon that does not listen, which is told the same later;
//! - once it runs, it takes no memory but for the image of a daemon and for images of programs that
//!   are longer than a datagram; if there is none for these, it says so and goes on;
//! - sockets that a service manager has opened for it are there for every daemon;
//! - a signal, such as a terminal's Ctrl-C, reaches the daemon exactly as often as the holder
//!   got it;
//! - its own program can be replaced too: it executes the next one in its own process, with all its
//!   children and files, and what happens meanwhile is told afterwards; if that one can't read what
//!   is handed over, the one before is executed again;
//! - if the holder itself is killed, so is the daemon (`PR_SET_PDEATHSIG`);
//! - its exit code is the daemon's, or 128 and the number of the signal that ended the daemon.

pub mod attributes;
mod below;
mod children;
mod daemon;
mod exec;
mod files;
pub mod frame;
pub mod handover;
mod hold;
pub mod image;
mod inherited;
mod launch;
mod lives;
mod notify;
mod seats;
pub mod socket;
mod succession;
mod sys;
mod trim;

pub use trim::give_back;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::start_holder;

use std::env;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{ExitCode, exit};

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::getppid;
use rustix::process::Rlimit;

pub use daemon::{holder_image, successor_image};
use frame::How;
use hold::Holder;
pub use launch::PLACES;

/// Tells a process of this program what it is. Set by the holder, for what it starts.
pub const ENV_ROLE: &str = "ORCHESTRATOR_ROLE";

/// The value of [`ENV_ROLE`] for the daemon.
const DAEMON: &str = "daemon";

/// The value of [`ENV_ROLE`] for a holder that goes on where another program in the same process
/// was, which has handed over what there is as its standard input.
const HOLDER: &str = "holder";

/// The same for that other program, when the one that was to go on could not.
const AGAIN: &str = "holder again";

/// What is passed on. Not SIGTSTP and its like, which are about the holder's own terminal.
const PASSED_ON: [Signal; 6] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// What is not blocked.
const STOPPING: [Signal; 4] = [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU, Signal::SIGCONT];

/// What this process is.
#[derive(Debug)]
pub enum Role {
    /// The holder: it is to [`run`].
    Holder,
    /// The daemon, with its connection to the holder.
    Daemon(OwnedFd),
}

/// What this process is. A daemon is killed when its holder ends, from now on; if that has ended
/// already, so does this process, with exit code 1. Must be called before this process has a
/// second thread.
#[must_use]
pub fn role() -> Role {
    if env::var_os(ENV_ROLE).is_none_or(|role| role != DAEMON) {
        return Role::Holder;
    }
    match attach() {
        Ok(socket) => Role::Daemon(socket),
        Err(error) => {
            eprintln!(
                "error: the holder of this daemon has ended, or somebody else has set {ENV_ROLE}: \
                 {error}"
            );
            exit(1);
        }
    }
}

fn attach() -> io::Result<OwnedFd> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    // Asked after that, so that there is no moment at which its end would go unnoticed.
    let holder = getsockopt(&socket, PeerCredentials)?.pid();
    if holder != getppid().as_raw() {
        return Err(io::Error::other("its parent is another process"));
    }
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    // The kernel named us after the link that we were executed by.
    let _ = prctl::set_name(c"orchestrator");
    Ok(socket)
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
    let mut signals: SigSet = PASSED_ON.into_iter().collect();
    signals.add(Signal::SIGCHLD);
    let mut holder = match env::var_os(ENV_ROLE) {
        Some(role) if role == HOLDER => resume(&signals, false)?,
        Some(role) if role == AGAIN => resume(&signals, true)?,
        _ => {
            let inherited = inherited::inherited();
            let hangup_ignored = is_ignored(Signal::SIGHUP);
            let image = daemon::own_image()?;
            prepare()?;
            pass_on_no_files()?;
            let mut holder = Holder::new(&signals, hangup_ignored, image, more_files()?)?;
            holder.keep_inherited(inherited);
            holder.start()?;
            holder
        }
    };
    let ended = holder.serve();
    drop(holder);
    let left = below::end_all_below()?;
    Ok(report(ended.daemon, ended.how, left))
}

/// Goes on where another program in this process was. If that can't be, that one is executed again;
/// `again` if this is that one.
fn resume(signals: &SigSet, again: bool) -> io::Result<Holder> {
    let foreign = |error: io::Error| {
        let what = "there is nothing to go on with on standard input";
        io::Error::other(format!("{what}, or somebody else has set {ENV_ROLE}: {error}"))
    };
    let bytes = read_all(io::stdin()).map_err(foreign)?;
    let (pid, before) = handover::head(&bytes).map_err(io::Error::other).map_err(foreign)?;
    if pid.cast_unsigned() != std::process::id() {
        return Err(foreign(io::Error::other("it was for another process")));
    }
    let resumed = prepare().and_then(|()| Holder::resume(signals, &bytes));
    let mut holder = match resumed {
        Ok(holder) => holder,
        Err(error) if again => return Err(error),
        Err(error) => {
            say(format_args!(
                "error: the holder (version {}) can't go on with what it was handed over: {error}; \
                 the program before it is executed again",
                env!("CARGO_PKG_VERSION")
            ));
            return Err(go_back(before));
        }
    };
    holder.tell_renewed(!again);
    Ok(holder)
}

/// Executes the program that was there before this one, with what it has handed over. Comes back
/// only if that fails.
fn go_back(before: handover::Number) -> io::Error {
    let path = image::FileName::of_number(before);
    let path = std::os::unix::ffi::OsStrExt::from_bytes(path.path().to_bytes());
    let mut words = image::Words::new();
    let filled = daemon::image_of_before(path)
        .and_then(|image| image::copy(&image, &mut words).map_err(io::Error::other));
    match filled {
        Ok(()) => exec::execute(&mut words),
        Err(error) => error,
    }
}

/// All that is in a file, whatever its offset.
fn read_all(file: impl AsFd) -> io::Result<Vec<u8>> {
    let size = rustix::fs::fstat(&file)?.st_size;
    let mut bytes = Vec::new();
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    bytes.try_reserve_exact(size).map_err(|_| rustix::io::Errno::NOMEM)?;
    bytes.resize(size, 0);
    let mut read = 0;
    while read < size {
        match rustix::io::pread(&file, &mut bytes[read..], read as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => read += count,
        }
    }
    Ok(bytes)
}

/// Makes this process what a holder has to be.
fn prepare() -> io::Result<()> {
    prctl::set_child_subreaper(true)?;
    let mut blocked = SigSet::all();
    for signal in STOPPING {
        blocked.remove(signal);
    }
    blocked.thread_set_mask()?;
    sys::default_signals();
    Ok(())
}

/// Open files that are enough for as many instances as a daemon takes, with connections and sockets
/// of their own.
const FILES: u64 = 64 << 10;

/// Each instance costs us several files, and the daemon those that it talks over. The answer is how many this process could
/// have open, which is what programs get.
fn more_files() -> io::Result<Rlimit> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // More than the bound is for root alone, and no more than the kernel's own (`fs.nr_open`).
    let more = FILES.max(hard);
    setrlimit(Resource::RLIMIT_NOFILE, more, more)
        .or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, hard, hard))?;
    Ok(Rlimit { current: Some(soft), maximum: Some(hard) })
}

/// Files that were open when we were started, by somebody who forgot about them.
fn pass_on_no_files() -> io::Result<()> {
    for entry in fs::read_dir("/proc/self/fd")? {
        if let Some(fd) = entry?.file_name().to_str().and_then(|name| name.parse().ok())
            && fd > 2
        {
            // It fails for the one that lists the directory, closed by now.
            let _ = sys::close_on_exec(fd);
        }
    }
    Ok(())
}

/// Whether this process was started with a signal ignored.
fn is_ignored(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & (1 << (signal as i32 - 1)) != 0)
}

/// Says something on standard error, unless nobody listens there: to wait for that could be
/// for ever.
fn say(what: std::fmt::Arguments<'_>) {
    use std::io::Write;
    let mut text = [0; 512];
    let mut rest = &mut text[..];
    // What is longer is cut.
    let _ = writeln!(rest, "{what}");
    let unused = rest.len();
    let len = text.len() - unused;
    let stderr = io::stderr();
    let mut ready = [rustix::event::PollFd::new(&stderr, rustix::event::PollFlags::OUT)];
    let now = rustix::event::Timespec::default();
    if rustix::event::poll(&mut ready, Some(&now)).is_ok_and(|ready| ready > 0) {
        let _ = rustix::io::write(&stderr, &text[..len]);
    }
}

/// Says what an operator would not expect.
fn report(daemon: i32, ended: How, left: usize) -> ExitCode {
    let left = Left(left);
    let (number, core) = match ended {
        How::Code(code) => {
            if left.0 > 0 {
                say(format_args!("the daemon (process {daemon}) has ended{left}"));
            }
            return ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX));
        }
        How::Signal(number) => (number, ""),
        How::Dumped(number) => (number, ", core dumped"),
    };
    let name = Signal::try_from(number).map_or("no name", Signal::as_str);
    say(format_args!(
        "error: the daemon (process {daemon}) was ended by signal {number} ({name}{core}){left}"
    ));
    ExitCode::from(u8::try_from(128 + number).unwrap_or(u8::MAX))
}

/// How many processes were killed at the end, as the end of a sentence.
struct Left(usize);

impl std::fmt::Display for Left {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            0 => Ok(()),
            1 => write!(f, "; 1 process that was left below it was killed"),
            n => write!(f, "; {n} processes that were left below it were killed"),
        }
    }
}
