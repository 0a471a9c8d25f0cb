//! A log file that is read, whatever its form.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use super::names::{packed_path, path_of};
use super::packed::Packed;
use super::read::read_at;

#[derive(Debug)]
pub(super) enum Stored {
    Plain(File),
    Packed(Box<Packed>),
}

impl Stored {
    /// Opens a file for reading. Whatever else has its name does not block.
    ///
    /// # Errors
    ///
    /// Those of open(2); [`io::ErrorKind::InvalidData`] if it is compressed and damaged.
    pub(super) fn open(dir: &Path, number: u64) -> io::Result<Self> {
        match open(&path_of(dir, number)) {
            // It is compressed, or was this moment.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Self::Packed(Box::new(Packed::open(open(&packed_path(dir, number))?)?)))
            }
            file => file.map(Self::Plain),
        }
    }

    /// How many bytes of records it has.
    pub(super) fn len(&self) -> io::Result<u64> {
        match self {
            Self::Plain(file) => Ok(file.metadata()?.len()),
            Self::Packed(file) => Ok(file.len()),
        }
    }

    /// Reads until the buffer is full or the file is at its end.
    pub(super) fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Self::Plain(file) => read_at(file, buffer, offset),
            Self::Packed(file) => file.read_at(buffer, offset),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}
