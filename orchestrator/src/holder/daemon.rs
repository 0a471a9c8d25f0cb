//! A daemon, as its holder sees it: a process and a socket.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Rlimit;

use super::exec::{Begun, Landing, Listeners, NotBegun, Place, Wishes};
use super::frame::News;
use super::seats::SEATED;
use super::{AGAIN, DAEMON, ENV_ROLE, HOLDER, image, socket};

/// A daemon that has not ended.
pub(super) struct Daemon {
    pub(super) pid: i32,
    pub(super) socket: OwnedFd,
    /// An answer that it has had no room for. No order is taken until it has.
    reply: Option<News>,
    /// It has closed its end: it is about to end itself.
    pub(super) closed: bool,
    /// It has said that it can do what a daemon has to.
    pub(super) able: bool,
}

impl Daemon {
    /// Whoever has the other end.
    pub(super) const fn new(pid: i32, socket: OwnedFd) -> Self {
        Self { pid, socket, reply: None, closed: false, able: false }
    }

    /// Executes a daemon. It may have so many files open. Waits until it is executed, which is a
    /// program on the file system that this process came from. The memory for that is taken from
    /// `spare`, and is there again.
    ///
    /// # Errors
    ///
    /// Why it could not be executed.
    pub(super) fn start(
        image: &[u8],
        files: Rlimit,
        spare: &mut Option<Place>,
    ) -> io::Result<Self> {
        let (ours, its) = socket::pair()?;
        let mut place = spare.take().unwrap_or_else(Place::new);
        if image::copy(image, place.image()).is_err() {
            *spare = Some(place);
            return Err(rustix::io::Errno::NOMEM.into());
        }
        let streams = [its.as_raw_fd(), 1, 2];
        let listeners = Listeners::default();
        // Nobody can be held up by it who is not held up by us meanwhile.
        let taken = [None; SEATED];
        let wishes = Wishes { streams, listeners, nice: None, files, cgroup: None, taken };
        let Begun { pid, mut flight, .. } = match place.begin(wishes, None) {
            Ok(begun) => begun,
            Err(NotBegun { place, error, .. }) => {
                *spare = Some(place);
                return Err(error);
            }
        };
        let mut failed = None;
        loop {
            let _ = poll(&mut [PollFd::from_borrowed_fd(flight.status(), PollFlags::IN)], None);
            match flight.look() {
                Landing::Underway | Landing::Apart(_) | Landing::Warning(_) => {}
                Landing::Failed(_, errno) => failed = Some(errno),
                Landing::Landed(place, _) => {
                    *spare = Some(place);
                    break;
                }
            }
        }
        match failed {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Ok(Self::new(pid, ours)),
        }
    }

    /// Answers it, now or when it listens.
    pub(super) fn answer(&mut self, news: News) {
        self.reply = Some(news);
    }

    /// An answer that it has had no room for.
    pub(super) const fn reply(&self) -> Option<News> {
        self.reply
    }

    /// Whether there is an answer that it has had no room for.
    pub(super) const fn owes(&self) -> bool {
        self.reply.is_some()
    }

    /// Tells it something. False if it does not listen at the moment.
    pub(super) fn tell(&mut self, news: News, files: &[BorrowedFd<'_>]) -> bool {
        let frame = news.encode();
        match socket::send(self.socket.as_fd(), &[io::IoSlice::new(&frame)], files) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            // Too many files are on their way, to somebody who does not take them.
            Err(error) if error.raw_os_error() == Some(libc::ETOOMANYREFS) => false,
            // It has ended. What it said last may still be there, and is read first.
            Err(_) => false,
        }
    }

    /// Tells it what it is owed, with `files`. False if it does not listen at the moment.
    pub(super) fn tell_reply(&mut self, files: &[BorrowedFd<'_>]) -> bool {
        if let Some(reply) = self.reply {
            if !self.tell(reply, files) {
                return false;
            }
            self.reply = None;
        }
        true
    }
}

/// The image of the daemon: this program, even if its file was replaced in the meantime, with the
/// arguments and the environment of this process.
pub(super) fn own_image() -> io::Result<Vec<u8>> {
    image(OsStr::new("/proc/self/exe"), &image::own_environment(&[(ENV_ROLE, DAEMON)]))
}

/// The image of a daemon that is to take this one's place: the program at this path, with the
/// arguments and the environment of this process.
///
/// # Errors
///
/// When the path has a zero byte.
pub fn successor_image(path: &OsStr) -> io::Result<Vec<u8>> {
    image(path, &image::own_environment(&[(ENV_ROLE, DAEMON)]))
}

/// The image of a holder that is to be executed in place of the one that runs, with the arguments
/// and the environment of this process.
///
/// # Errors
///
/// None but those of images: see [`image::Program::image`].
pub fn holder_image() -> io::Result<Vec<u8>> {
    image(OsStr::new("/proc/self/exe"), &image::own_environment(&[(ENV_ROLE, HOLDER)]))
}

/// The image of the holder before this one, which is to go on.
pub(super) fn image_of_before(path: &OsStr) -> io::Result<Vec<u8>> {
    image(path, &image::own_environment(&[(ENV_ROLE, AGAIN)]))
}

fn image(path: &OsStr, env: &[Vec<u8>]) -> io::Result<Vec<u8>> {
    let args: Vec<OsString> = std::env::args_os().collect();
    let args: Vec<&OsStr> = args.iter().map(OsString::as_os_str).collect();
    let cwd = std::env::current_dir().unwrap_or_else(|_| "/".into());
    let program = image::Program { path, cwd: cwd.as_os_str(), args: &args, env, attributes: None };
    program.image().map_err(io::Error::other)
}
