//! Programs on their way: from an order to execute one until it runs or has failed.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Rlimit;

use super::exec::{Begun, Flight, Landing, Listeners, NotBegun, Place, Wishes};
use super::frame::{Name, Stage};
use super::image::{self, Words};
use super::seats::{SEATED, Seats};

/// Programs that can be on their way at once. It takes a file system that does not answer to
/// need more than one or two.
pub const PLACES: usize = 32;

/// With so many files open, a process is better off without a copy of them all: to be told when it
/// has its own takes as long as to copy that many.
const MANY_FILES: RawFd = 128;

/// How long the last process that was begun may take to leave its seats before others that begin
/// are given copies of all files instead: far longer than it takes, unless it is held up.
const PATIENCE: Duration = Duration::from_millis(10);

/// The largest image: more than execve(2) takes.
const MAX_IMAGE: u64 = 16 << 20;

/// What a pipe should hold, so that a program that prints in bursts does not wait: 256 KiB.
const PIPE_BYTES: usize = 256 << 10;

/// An order to execute a program.
pub(super) struct Launch<'a> {
    pub(super) child: Name,
    /// Its image, if that did not come in a file.
    pub(super) image: &'a [u8],
    /// The file that it came in.
    pub(super) image_file: Option<OwnedFd>,
    /// None is `/dev/null`.
    pub(super) stdin: Option<OwnedFd>,
    /// What it enters before anything else; none is ours.
    pub(super) cgroup: Option<OwnedFd>,
    /// Files that are kept.
    pub(super) listeners: Listeners,
    pub(super) nice: i32,
}

/// A program that runs.
#[derive(Debug)]
pub(super) struct Launched {
    pub(super) child: Name,
    pub(super) pid: i32,
    /// While it lives, only until the daemon has been told: its number is its own until we collect
    /// it, so that another one can be had at any time.
    pub(super) pidfd: Option<OwnedFd>,
    /// The reading ends of what it prints.
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    /// The errno of what is not as wished, or 0.
    pub(super) warning: i32,
}

/// Why a program does not run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Failure {
    pub(super) child: Name,
    pub(super) stage: Stage,
    pub(super) errno: i32,
}

/// A program on its way.
struct Underway {
    program: Launched,
    flight: Flight,
    began: Instant,
    /// Open until it is in it.
    _cgroup: Option<OwnedFd>,
    failed: Option<(Stage, i32)>,
}

/// All of them.
pub(super) struct Launches {
    places: Vec<Place>,
    /// Those that nobody is in.
    seats: Vec<Seats>,
    underway: Vec<Underway>,
    /// `/dev/null`.
    nothing: Arc<File>,
    /// How many files a program may have open.
    files: Rlimit,
    /// Our own nice value.
    nice: i32,
}

impl Launches {
    /// Takes all memory that it will need, but for images that are too long for a datagram.
    pub(super) fn new(files: Rlimit) -> io::Result<Self> {
        let nothing = Arc::new(File::open("/dev/null")?);
        let seats = if Seats::work() { SEATED } else { 0 };
        let seats = (0..seats).map(|_| Seats::reserve(&nothing)).collect::<Result<_, _>>()?;
        Ok(Self {
            places: Place::several(PLACES),
            seats,
            underway: Vec::with_capacity(PLACES),
            nothing,
            files,
            nice: rustix::process::getpriority_process(None)?,
        })
    }

    /// What is readable when there is something to know of a program on its way.
    pub(super) fn status(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.underway.iter().map(|underway| underway.flight.status())
    }

    /// Whether any program is on its way.
    pub(super) const fn is_any_underway(&self) -> bool {
        !self.underway.is_empty()
    }

    /// Whether a program of this name is on its way.
    pub(super) fn is_underway(&self, child: Name) -> bool {
        self.underway.iter().any(|underway| underway.program.child == child)
    }

    /// How long another program had better not be begun: one that has just begun is about to leave
    /// its seats to it. None if there is nothing to wait for.
    pub(super) fn seats_in(&self) -> Option<Duration> {
        if !self.seats.is_empty() {
            return None;
        }
        let seated = self.underway.iter().filter(|it| it.flight.seats().is_some());
        let since = seated.map(|it| it.began.elapsed()).min()?;
        PATIENCE.checked_sub(since).filter(|left| !left.is_zero())
    }

    /// How many files a program may have open.
    pub(super) const fn files(&self) -> Rlimit {
        self.files
    }

    /// `/dev/null`.
    pub(super) fn nothing(&self) -> BorrowedFd<'_> {
        self.nothing.as_fd()
    }

    /// Begins to execute a program.
    pub(super) fn launch(&mut self, launch: Launch<'_>) -> Result<(), Failure> {
        let child = launch.child;
        let failure = |stage, error: &io::Error| {
            let errno = error.raw_os_error().unwrap_or(Errno::INVAL.raw_os_error());
            Failure { child, stage, errno }
        };
        let (stdout, to_stdout) = output().map_err(|error| failure(Stage::Clone, &error))?;
        let (stderr, to_stderr) = output().map_err(|error| failure(Stage::Clone, &error))?;
        let Some(mut place) = self.places.pop() else {
            return Err(failure(Stage::Room, &Errno::AGAIN.into()));
        };
        if let Err(error) = fill(place.image(), launch.image, launch.image_file) {
            self.places.push(place);
            return Err(failure(Stage::Image, &error));
        }
        let mut taken = [None; SEATED];
        let others = self.underway.iter().filter_map(|underway| underway.flight.seats());
        taken.iter_mut().zip(others).for_each(|(seats, numbers)| *seats = Some(numbers));
        let stdin = launch.stdin.as_ref().map_or(self.nothing.as_fd(), AsFd::as_fd);
        let wishes = Wishes {
            streams: [stdin.as_raw_fd(), to_stdout.as_raw_fd(), to_stderr.as_raw_fd()],
            listeners: launch.listeners,
            nice: (launch.nice != self.nice).then_some(launch.nice),
            files: self.files,
            cgroup: launch.cgroup.as_ref().map(AsRawFd::as_raw_fd),
            taken,
        };
        // The lowest number that was free: all below are in use.
        let has_many_files = stdout.as_raw_fd() >= MANY_FILES;
        let seats = match has_many_files && launch.listeners.is_empty() {
            true => self.seats.pop(),
            false => None,
        };
        let began = Instant::now();
        match place.begin(wishes, seats) {
            Ok(Begun { pid, pidfd, flight }) => {
                let pidfd = Some(pidfd);
                let program = Launched { child, pid, pidfd, stdout, stderr, warning: 0 };
                self.underway.push(Underway {
                    program,
                    flight,
                    began,
                    _cgroup: launch.cgroup,
                    failed: None,
                });
                Ok(())
            }
            Err(NotBegun { place, seats, stage, error }) => {
                self.places.push(place);
                self.seats.extend(seats);
                Err(failure(stage, &error))
            }
        }
    }

    /// Gives back the memory of places that are free.
    pub(super) fn rest(&mut self) {
        self.places.iter_mut().for_each(Place::rest);
    }

    /// A process was collected. It need not be one of these.
    pub(super) fn ended(&mut self, pid: i32) {
        if let Some(it) = self.underway.iter_mut().find(|it| it.program.pid == pid) {
            it.flight.ended();
        }
    }

    /// A program that has arrived, one way or the other, if there is one. Never waits.
    pub(super) fn arrived(&mut self) -> Option<Result<Launched, Failure>> {
        let mut at = 0;
        while let Some(underway) = self.underway.get_mut(at) {
            match underway.flight.look() {
                Landing::Underway => at += 1,
                Landing::Apart(seats) => self.seats.push(seats),
                Landing::Warning(errno) => underway.program.warning = errno,
                Landing::Failed(stage, errno) => underway.failed = Some((stage, errno)),
                Landing::Landed(place, seats) => {
                    self.places.push(place);
                    self.seats.extend(seats);
                    let Underway { program, failed, .. } = self.underway.swap_remove(at);
                    let child = program.child;
                    return Some(match failed {
                        Some((stage, errno)) => Err(Failure { child, stage, errno }),
                        None => Ok(program),
                    });
                }
            }
        }
        None
    }
}

/// A pipe for what a program prints. Only the reading end does not wait: a program whose output
/// did not wait would not expect it.
fn output() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, its) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&ours, rustix::fs::OFlags::NONBLOCK)?;
    // Refused to users who have many large pipes; it works with a small one too.
    let _ = rustix::pipe::fcntl_setpipe_size(&ours, PIPE_BYTES);
    Ok((ours, its))
}

/// Puts an image into memory that it can be used in.
pub(super) fn fill(words: &mut Words, bytes: &[u8], file: Option<OwnedFd>) -> io::Result<()> {
    let Some(file) = file else {
        return image::copy(bytes, words).map_err(|_| Errno::NOMEM.into());
    };
    let len = u64::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(u64::MAX);
    if len > MAX_IMAGE {
        return Err(Errno::TOOBIG.into());
    }
    let mut buffer = [0; 4096];
    let mut offset = 0;
    while offset < len {
        // If somebody changes the file meanwhile, this is no image, which will be noticed.
        match rustix::io::pread(&file, &mut buffer, offset)? {
            0 => break,
            count => {
                image::copy(&buffer[..count], words).map_err(|_| Errno::NOMEM)?;
                offset += count as u64;
            }
        }
    }
    Ok(())
}
