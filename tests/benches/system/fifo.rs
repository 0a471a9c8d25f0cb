//! FIFOs, by which programs that nobody here is the parent of say what they do, and are told.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use tests::SOON;

/// Both ends of one, so that there is never an end of it.
pub(crate) struct Fifo {
    path: PathBuf,
    file: File,
}

impl Fifo {
    pub(crate) fn new(path: PathBuf) -> Self {
        nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        Self { path, file }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The number of the next process that says one; see [`crate::smallest::announce`].
    pub(crate) fn next(&mut self, what: &str) -> u32 {
        assert!(readable(&self.file, SOON), "waited {SOON:?} in vain until {what}");
        let mut number = [0; 4];
        // Four bytes are written at once (PIPE_BUF), and so there are all of them.
        self.file.read_exact(&mut number).unwrap();
        u32::from_ne_bytes(number)
    }

    /// So many of these.
    pub(crate) fn take(&mut self, count: usize, what: &str) -> Vec<u32> {
        (0..count).map(|at| self.next(&format!("{what} ({at} of {count} have)"))).collect()
    }

    /// Whether somebody has said something.
    pub(crate) fn has_next(&self) -> bool {
        readable(&self.file, std::time::Duration::ZERO)
    }

    /// Tells whoever listens.
    pub(crate) fn tell(&mut self, number: u32) {
        self.file.write_all(&number.to_ne_bytes()).unwrap();
    }
}

/// Whether there is something to read within that time.
pub(crate) fn readable(file: impl AsFd, within: std::time::Duration) -> bool {
    let timeout = PollTimeout::try_from(within).unwrap();
    poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], timeout).unwrap() > 0
}
