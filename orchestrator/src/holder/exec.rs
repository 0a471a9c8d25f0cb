//! Executing a program without waiting for it: the part that runs in the new process.
//!
//! It shares our memory until execve(2) gives it its own (`CLONE_VM`, see clone(2)), as the
//! child of posix_spawn(3) does, so that nothing has to be copied. But we do not wait for that
//! meanwhile: a program on a file system that does not answer holds up nobody.
//!
//! This is what makes that sound, besides what is said at each unsafe block:
//!
//! - it has a stack of its own, and what it reads (a [`Job`], an image) stays where it is, and
//!   unchanged, until the end of its writing end of the status pipe tells that it has gone: the
//!   kernel closes that after it has given the process its own memory, or has taken it away; or
//!   until it was collected;
//! - it makes system calls and nothing else, by rustix, and syscalls, which call the kernel
//!   themselves: nothing in it allocates, locks, panics, or touches `errno`, which it shares with
//!   us;
//! - if it has seats, it shares our table of files too, see [`super::seats`], and does nothing to
//!   it: it takes one of its own first of all;
//! - all signals are blocked in us and so in it, until just before the program begins; and we
//!   handle none, so that nothing has to be set back.
#![allow(unsafe_code)]

mod clone;
mod listen;

use std::ffi::{CStr, c_int, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Resource, Rlimit};
use syscalls::{Sysno, syscall};

use super::attributes;
use super::frame::Stage;
use super::image::{self, Located, Words};
use super::seats::{Numbers, SEATED, Seats};
use super::sys;
pub(super) use listen::Listeners;

/// Words of the stack of a process that has not been given its own memory. It needs a few hundred
/// bytes.
const STACK: usize = (16 << 10) / size_of::<u64>();

/// Bytes of what it reports, if it has anything to report: a stage or [`WARNING`], three
/// zeros, the errno.
const REPORT: usize = 8;

/// In the place of a stage: it goes on, but its nice value is not what it should be.
const WARNING: u8 = 255;

/// In the place of a stage: it has files of its own.
const APART: u8 = 254;

/// What the new process has to do.
#[derive(Debug)]
struct Job {
    image: Located,
    wishes: Wishes,
    /// None if it begins with a copy of all our files.
    seats: Option<Numbers>,
    /// It is not in its cgroup yet.
    is_to_move: bool,
    /// Where its number goes in the image; null if it is not wanted there.
    pid_at: *mut u8,
    /// Where it reports to. Closed by execve(2), as all our files are but those it is given.
    status: RawFd,
}

/// What a program is given, besides its image.
#[derive(Clone, Debug)]
pub(super) struct Wishes {
    /// Files of ours that become its first three. Each either is that number or above them.
    pub(super) streams: [RawFd; 3],
    /// Files of ours that become those after them. With any, it begins with a copy of all our
    /// files.
    pub(super) listeners: Listeners,
    /// None if it is to have ours.
    pub(super) nice: Option<i32>,
    /// How many files it may have open.
    pub(super) files: Rlimit,
    /// The directory of the cgroup that it is to be in; none is ours. Stays open until it has
    /// landed.
    pub(super) cgroup: Option<RawFd>,
    /// Where others have their seats at the moment. With copies of what is there, it would let
    /// nobody see for as long as it is on its way that they have landed, or that their output has
    /// ended.
    pub(super) taken: [Option<Numbers>; SEATED],
}

/// A stack; it ends where a page could begin, which is as the processor wants it.
type Stack = [u64];

/// The memory that a process needs until it has its own.
pub(super) struct Place {
    image: Words,
    job: Box<Option<Job>>,
    stack: &'static mut Stack,
    /// Its processes have to move themselves to their cgroup, as one has found out.
    moves: bool,
}

/// A process that may not have its own memory yet.
pub(super) struct Flight {
    /// None when it has landed.
    place: Option<Place>,
    /// None if its process began with a copy of all our files, or has its own.
    seats: Option<Seats>,
    status: OwnedFd,
    /// The process was collected. It needs nothing any more, whoever may have a copy of its end of
    /// the pipe.
    has_ended: bool,
}

/// A process that was begun.
pub(super) struct Begun {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    pub(super) flight: Flight,
}

/// A process that was not begun.
pub(super) struct NotBegun {
    /// Free again.
    pub(super) place: Place,
    /// Nobody is in them.
    pub(super) seats: Option<Seats>,
    pub(super) stage: Stage,
    pub(super) error: io::Error,
}

/// What there is to know of a flight.
pub(super) enum Landing {
    /// Nothing new.
    Underway,
    /// It has files of its own, and has left these seats.
    Apart(Seats),
    /// It goes on, but something is not as wished.
    Warning(i32),
    /// It will end without having become the program.
    Failed(Stage, i32),
    /// It has become the program, or has ended. The place is free, and its seats if it had them.
    Landed(Place, Option<Seats>),
}

impl Place {
    /// One for good and all: its memory stays where it is.
    pub(super) fn new() -> Self {
        Self::several(1).remove(0)
    }

    /// So many, in one piece of memory, which is not touched before it is used.
    pub(super) fn several(count: usize) -> Vec<Self> {
        let stacks = sys::pages(count * STACK);
        let place = |(stack, image)| Self { image, job: Box::new(None), stack, moves: false };
        stacks.chunks_exact_mut(STACK).zip(Words::several(count)).map(place).collect()
    }

    /// As without clone3(2).
    #[cfg(test)]
    pub(super) fn without_clone3(&mut self) {
        self.moves = true;
    }

    /// Gives back its memory until it is used again.
    pub(super) fn rest(&mut self) {
        self.image.rest();
        sys::clear(self.stack);
    }

    /// Where the image goes, whatever was there before.
    pub(super) fn image(&mut self) -> &mut Words {
        self.image.clear();
        &mut self.image
    }

    /// Begins a process that becomes the program of the image, in these seats, or without any with
    /// a copy of all our files. None of `wishes.streams` is needed any more when this returns.
    /// Whoever is given listeners has no seats.
    ///
    /// # Errors
    ///
    /// When the image is none, or when there is no process or no file left.
    pub(super) fn begin(
        mut self,
        wishes: Wishes,
        mut seats: Option<Seats>,
    ) -> Result<Begun, NotBegun> {
        match self.try_begin(wishes, seats.as_mut()) {
            Ok((pid, pidfd, status)) => {
                let flight = Flight { place: Some(self), seats, status, has_ended: false };
                Ok(Begun { pid, pidfd, flight })
            }
            Err((stage, error)) => {
                seats.iter_mut().for_each(Seats::vacate);
                Err(NotBegun { place: self, seats, stage, error })
            }
        }
    }

    fn try_begin(
        &mut self,
        wishes: Wishes,
        seats: Option<&mut Seats>,
    ) -> Result<(i32, OwnedFd, OwnedFd), (Stage, io::Error)> {
        let pid_at = match wishes.listeners.is_empty() {
            true => None,
            false => image::place_for_pid(self.image.image()),
        };
        let Some(image) = image::locate(self.image.image()) else {
            return Err((Stage::Image, io::ErrorKind::InvalidData.into()));
        };
        let pipe = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK);
        let (ours, its) = pipe.map_err(|errno| (Stage::Clone, errno.into()))?;
        let pid_at = pid_at.map_or(std::ptr::null_mut(), |offset| image.byte(offset));
        let seats = seats.map(|seats| wishes.fill(seats, its.as_fd())).transpose();
        let seats = seats.map_err(|error| (Stage::Clone, error))?;
        let status = seats.map_or(its.as_raw_fd(), Numbers::status);
        let job = Job { image, wishes, seats, is_to_move: self.moves, pid_at, status };
        let job = self.job.insert(job);
        // SAFETY: all three stay where they are with what they hold, since nobody else gets at
        // them: the flight gives the place back when the process was collected or the last writing
        // end of the pipe is closed (ours is at the end of this function and, in a seat, when the
        // process has its own files or has ended; the other one is the process's), and never if it
        // is dropped before.
        let begun = unsafe { begin(job, self.stack) };
        self.moves = self.job.as_ref().as_ref().is_some_and(|job| job.is_to_move);
        let (pid, pidfd) = begun.map_err(|(stage, errno)| (stage, errno.into()))?;
        Ok((pid, pidfd, ours))
    }
}

impl Wishes {
    fn fill(&self, seats: &mut Seats, status: BorrowedFd<'_>) -> io::Result<Numbers> {
        let [stdin, stdout, stderr] = self.streams.map(open);
        seats.fill([stdin, stdout, stderr, status])
    }
}

impl Flight {
    /// Readable when there is something to know.
    pub(super) fn status(&self) -> BorrowedFd<'_> {
        self.status.as_fd()
    }

    /// What has happened. Never waits.
    pub(super) fn look(&mut self) -> Landing {
        let mut report = [0; REPORT];
        loop {
            return match rustix::io::read(&self.status, &mut report) {
                Ok(REPORT) if report[0] == APART => match self.leave_seats() {
                    Some(seats) => Landing::Apart(seats),
                    None => continue,
                },
                // It comes in one piece.
                Ok(REPORT) => {
                    let errno = i32::from_le_bytes([report[4], report[5], report[6], report[7]]);
                    match Stage::from_number(report[0]) {
                        Some(stage) => Landing::Failed(stage, errno),
                        None => Landing::Warning(errno),
                    }
                }
                Ok(0) => self.land(),
                Ok(_) | Err(_) if self.has_ended => self.land(),
                Ok(_) | Err(_) => Landing::Underway,
            };
        }
    }

    fn land(&mut self) -> Landing {
        let seats = self.leave_seats();
        self.place.take().map_or(Landing::Underway, |place| Landing::Landed(place, seats))
    }

    fn leave_seats(&mut self) -> Option<Seats> {
        let mut seats = self.seats.take()?;
        seats.vacate();
        Some(seats)
    }

    /// The process has ended, and was collected: perhaps before it had files of its own.
    pub(super) fn ended(&mut self) {
        self.has_ended = true;
    }

    /// Where its process has its seats, while it has any.
    pub(super) fn seats(&self) -> Option<Numbers> {
        self.seats.as_ref().map(Seats::numbers)
    }

    /// A copy of its end of the pipe, as another new process may have one for a while.
    #[cfg(test)]
    pub(super) fn copy_of_its_end(&self) -> OwnedFd {
        let number = self.seats().unwrap().status();
        open(number).try_clone_to_owned().unwrap()
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        // They may be in use.
        std::mem::forget((self.place.take(), self.seats.take()));
    }
}

/// # Safety
///
/// Until the last copy of `job.status` is closed, or the process was collected, `job`, its image
/// and `stack` stay where they are, unchanged, and are used for nothing else.
unsafe fn begin(job: *mut Job, stack: *mut Stack) -> Result<(i32, OwnedFd), (Stage, Errno)> {
    // SAFETY: by our caller's promise, and there is no process yet.
    let (shares_files, cgroup, moves) =
        unsafe { ((*job).seats.is_some(), (*job).wishes.cgroup, (*job).is_to_move) };
    let mut pidfd: RawFd = -1;
    let files = if shares_files { libc::CLONE_FILES } else { 0 };
    let flags = libc::CLONE_VM | libc::CLONE_PIDFD | files;
    if let Some(cgroup) = cgroup
        && !moves
    {
        let args = clone::Args {
            flags: u64::from(flags.cast_unsigned()) | clone::INTO_CGROUP,
            pidfd: &raw mut pidfd as u64,
            exit_signal: libc::SIGCHLD as u64,
            stack: stack.cast::<u64>() as u64,
            stack_size: (stack.len() * size_of::<u64>()) as u64,
            cgroup: u64::from(cgroup.cast_unsigned()),
            ..clone::Args::default()
        };
        // SAFETY: as below.
        match unsafe { clone::clone3(&args, child, job.cast()) } {
            // SAFETY: as below.
            Ok(pid) => return Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) })),
            // It is not there, or not in this form.
            Err(Errno::NOSYS | Errno::TOOBIG | Errno::INVAL) => {}
            Err(errno @ (Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE)) => {
                return Err((Stage::Clone, errno));
            }
            Err(errno) => return Err((Stage::Cgroup, errno)),
        }
        // SAFETY: there is no process yet.
        unsafe { (*job).is_to_move = true };
    }
    // SAFETY: `child` is given a stack that is its own (it grows down from the end) and a job
    // that outlives it, both by our caller's promise. `CLONE_PIDFD` makes the kernel write a
    // file's number to `pidfd`, which lives until the call returns. The flags that are not set
    // give it a copy of everything else: files, unless they are shared, signal handlers, working
    // directory.
    let pid = unsafe {
        let top = stack.cast::<u64>().add(stack.len()).cast::<c_void>();
        libc::clone(child, top, flags | libc::SIGCHLD, job.cast(), &raw mut pidfd)
    };
    if pid < 0 {
        let error = io::Error::last_os_error();
        return Err((Stage::Clone, Errno::from_io_error(&error).unwrap_or(Errno::INVAL)));
    }
    // SAFETY: the kernel has just made this file for us; nobody else knows it.
    Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// Runs in the new process. What it answers is its exit status.
extern "C" fn child(job: *mut c_void) -> c_int {
    // SAFETY: `begin` passes on a job that stays as it is until we have gone.
    let job = unsafe { &*job.cast::<Job>() };
    let mut status = job.status;
    let Err((stage, errno)) = become_program(job, &mut status);
    report(status, stage.number(), errno.raw_os_error());
    127
}

enum Never {}

fn become_program(job: &Job, status: &mut RawFd) -> Result<Never, (Stage, Errno)> {
    let prepare = |errno| (Stage::Prepare, errno);
    if let Some(cgroup) = job.wishes.cgroup
        && job.is_to_move
    {
        move_to(open(cgroup)).map_err(|errno| (Stage::Cgroup, errno))?;
    }
    match job.seats {
        Some(seats) => {
            seats.keep_only().map_err(prepare)?;
            report(*status, APART, 0);
        }
        None => job.wishes.taken.iter().flatten().for_each(|seats| seats.close()),
    }
    rustix::process::setpgid(None, None).map_err(prepare)?;
    let [stdin, stdout, stderr] = job.seats.map_or(job.wishes.streams, Numbers::streams);
    if stdin != 0 {
        rustix::stdio::dup2_stdin(open(stdin)).map_err(prepare)?;
    }
    if stdout != 1 {
        rustix::stdio::dup2_stdout(open(stdout)).map_err(prepare)?;
    }
    if stderr != 2 {
        rustix::stdio::dup2_stderr(open(stderr)).map_err(prepare)?;
    }
    if !job.wishes.listeners.is_empty() {
        listen::pass_on(&job.wishes.listeners, status).map_err(|errno| (Stage::Listen, errno))?;
    }
    if !job.pid_at.is_null() {
        // SAFETY: it is in the image, which is ours alone for as long as we use it.
        unsafe { listen::write_pid(job.pid_at) };
    }
    rustix::process::setrlimit(Resource::Nofile, job.wishes.files).map_err(prepare)?;
    if let Some(nice) = job.wishes.nice
        && let Err(errno) = rustix::process::setpriority_process(None, nice)
    {
        report(*status, WARNING, errno.raw_os_error());
    }
    let (steps, count) = job.image.steps;
    // SAFETY: so many words, located, in an image that stays as it is.
    unsafe { attributes::take(std::slice::from_raw_parts(steps, count)) }?;
    // SAFETY: the address of a string with a final zero, in an image that stays as it is.
    let cwd = unsafe { CStr::from_ptr(job.image.cwd) };
    rustix::process::chdir(cwd).map_err(|errno| (Stage::Cwd, errno))?;
    let nothing = [0_u64; 1];
    // SAFETY: the kernel reads a set of 64 signals, which is empty, and writes nothing. From here
    // on a signal may end us, as it should; it can't run any code of ours.
    let unblocked = unsafe {
        let (nothing, none) = (nothing.as_ptr(), 0_usize);
        syscall!(Sysno::rt_sigprocmask, libc::SIG_SETMASK, nothing, none, size_of::<u64>())
    };
    unblocked.map_err(|errno| (Stage::Prepare, in_rustix(errno)))?;
    // SAFETY: the image stays as it is.
    Err((Stage::Exec, unsafe { execve(&job.image) }))
}

/// Has this process be in the cgroup of this directory.
fn move_to(cgroup: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    // Closed before anybody can miss it: we may share this table of files.
    let members = openat(cgroup, c"cgroup.procs", flags, Mode::empty())?;
    rustix::io::write(members, b"0").map(drop)
}

/// Executes the program of an image in this process, which keeps its number, its children, the
/// signals that are blocked and those that wait, its working directory, and all files that are not
/// to be closed. Comes back only if that fails: then nothing has changed, and this is why.
pub(super) fn execute(image: &mut Words) -> io::Error {
    let Some(image) = image::locate(image.image()) else {
        return io::ErrorKind::InvalidData.into();
    };
    // SAFETY: nobody else has the image before this returns.
    unsafe { execve(&image) }.into()
}

/// # Safety
///
/// The image in which this was located stays where it is, unchanged.
unsafe fn execve(image: &Located) -> Errno {
    // SAFETY: the path and, in both lists, each address is that of a string with a final zero;
    // each list is ended by a null.
    let executed = unsafe { syscall!(Sysno::execve, image.path, image.args, image.env) };
    executed.map_or_else(in_rustix, |_| Errno::INVAL)
}

/// close_range(2), for [`super::seats`].
pub(super) fn close_range(first: u32, last: u32, flags: u32) -> Result<(), Errno> {
    // SAFETY: takes numbers only. What has these numbers is nobody else's: in us there is none,
    // and in the new process nobody but us.
    let closed = unsafe { syscall!(Sysno::close_range, first, last, flags) };
    closed.map(drop).map_err(in_rustix)
}

fn in_rustix(errno: syscalls::Errno) -> Errno {
    Errno::from_raw_os_error(errno.into_raw())
}

fn report(status: RawFd, stage: u8, errno: i32) {
    let mut bytes = [0; REPORT];
    bytes[0] = stage;
    bytes[4..].copy_from_slice(&errno.to_le_bytes());
    // So few bytes are written at once or, if nobody reads them any more, need not be.
    let _ = rustix::io::write(open(status), &bytes);
}

/// One of the files that a process is begun with, under the number that [`Place::begin`] knows it by.
fn open<'a>(number: RawFd) -> BorrowedFd<'a> {
    // SAFETY: they are open until it has begun, and it has copies of them; or it shares them with
    // us, and they stay open until it has said that it has copies.
    unsafe { BorrowedFd::borrow_raw(number) }
}
