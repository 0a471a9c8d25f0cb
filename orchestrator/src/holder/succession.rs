//! The daemon that is to take another's place, until it does.

use std::io;
use std::os::fd::OwnedFd;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::io::Errno;
use rustix::process::Rlimit;

use super::daemon::Daemon;
use super::exec::Place;
use super::frame::{How, News};
use super::image::{self, FileName};
use super::launch;

/// News of one successor: that it was started, that it is able, that it has ended.
const MAX_NEWS: usize = 3;

/// What is executed as a daemon.
pub(super) struct Executable {
    pub(super) image: Vec<u8>,
    /// The program, which is there for as long as this is, whatever becomes of its name.
    pub(super) program: Option<OwnedFd>,
}

/// A daemon that is not one yet.
pub(super) struct Successor {
    pub(super) daemon: Daemon,
    pub(super) executable: Executable,
}

/// At most one successor, and what the daemon has not been told of it.
pub(super) struct Succession {
    successor: Option<Successor>,
    news: Vec<News>,
}

impl Succession {
    pub(super) fn new() -> Self {
        Self { successor: None, news: Vec::with_capacity(MAX_NEWS + 1) }
    }

    /// Starts one. Its image is in `bytes`, or in a file.
    pub(super) fn begin(
        &mut self,
        bytes: &[u8],
        (file, program): (Option<OwnedFd>, Option<OwnedFd>),
        (files, spare): (Rlimit, &mut Option<Place>),
    ) {
        let begun = self.start(bytes, (file, program), (files, spare));
        let (errno, pid) = match begun {
            Ok(pid) => (0, pid),
            Err(error) => (error.raw_os_error().unwrap_or(libc::EINVAL), 0),
        };
        self.tell_later(News::Successor { able: false, errno, pid });
    }

    fn start(
        &mut self,
        bytes: &[u8],
        (file, program): (Option<OwnedFd>, Option<OwnedFd>),
        (files, spare): (Rlimit, &mut Option<Place>),
    ) -> io::Result<i32> {
        if self.successor.is_some() {
            return Err(Errno::BUSY.into());
        }
        let place = spare.get_or_insert_with(Place::new);
        let words = place.image();
        launch::fill(words, bytes, file)?;
        if let Some(program) = &program
            && !image::name_program(words, FileName::of(program).path())
                .map_err(|_| Errno::NOMEM)?
        {
            return Err(Errno::INVAL.into());
        }
        let words = words.image();
        let mut image = Vec::new();
        image.try_reserve_exact(size_of_val(words)).map_err(|_| Errno::NOMEM)?;
        words.iter().for_each(|word| image.extend_from_slice(&word.to_ne_bytes()));
        let daemon = Daemon::start(&image, files, spare)?;
        let pid = daemon.pid;
        let executable = Executable { image, program };
        self.successor = Some(Successor { daemon, executable });
        Ok(pid)
    }

    pub(super) const fn daemon(&self) -> Option<&Daemon> {
        match &self.successor {
            Some(successor) => Some(&successor.daemon),
            None => None,
        }
    }

    pub(super) fn daemon_mut(&mut self) -> Option<&mut Daemon> {
        self.successor.as_mut().map(|successor| &mut successor.daemon)
    }

    /// It has said so.
    pub(super) fn able(&mut self) {
        if let Some(daemon) = self.daemon_mut()
            && !std::mem::replace(&mut daemon.able, true)
        {
            let pid = daemon.pid;
            self.tell_later(News::Successor { able: true, errno: 0, pid });
        }
    }

    /// Whether that was it. It has been collected.
    pub(super) fn ended(&mut self, pid: i32, how: How) -> bool {
        let was_it = self.successor.take_if(|it| it.daemon.pid == pid).is_some();
        if was_it {
            self.tell_later(News::SuccessorEnded { pid, how });
        }
        was_it
    }

    /// Kills it. Its end will be told of.
    pub(super) fn kill(&self) {
        if let Some(daemon) = self.daemon() {
            // The number is its own: only we can collect it, and we have not.
            let _ = kill(Pid::from_raw(daemon.pid), Signal::SIGKILL);
        }
    }

    /// The daemon has ended, with all that it was not told: this one's turn, if it is able; else
    /// it is not known what it is good for, and it is killed.
    pub(super) fn take(&mut self) -> Option<Successor> {
        self.news.clear();
        let able = self.successor.take_if(|it| it.daemon.able);
        if able.is_none() {
            self.kill();
            self.successor = None;
        }
        able
    }

    fn tell_later(&mut self, news: News) {
        self.news.push(news);
    }

    /// Whether the daemon has not been told something.
    pub(super) const fn owes(&self) -> bool {
        !self.news.is_empty()
    }

    /// Tells it, as far as `tell` takes it. False if it did not take all.
    pub(super) fn tell(&mut self, mut tell: impl FnMut(News) -> bool) -> bool {
        while let Some(&news) = self.news.first() {
            if !tell(news) {
                return false;
            }
            self.news.remove(0);
        }
        true
    }
}
