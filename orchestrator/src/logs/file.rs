//! The files of one log, in a directory of its own.
//!
//! Records go to the newest file. When it is full, or too old, a new one is begun, after the
//! oldest has been deleted if there would be too many. Readers may hold a file open while it is
//! deleted, or replaced by the same compressed.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use orchestrator_proto::control::Compression;
use serde::{Deserialize, Serialize};

use super::names::{self, Form, delete, packed_path, part_path, path_of};
use super::read::read_at;
use super::record::{MAX_RECORD, Record, newline, now_ns};
use super::rules::Rules;
use super::stored::Stored;

/// What the writer asks of the kernel where a disk can fail; tests put faults here.
pub(super) trait Disk: Send {
    /// Creates a file that must not be there yet, mode 0600.
    fn create(&mut self, path: &Path) -> io::Result<File>;
    /// pwrite(2): may write less than it is given.
    fn write_at(&mut self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// ftruncate(2).
    fn truncate(&mut self, file: &File, len: u64) -> io::Result<()>;
}

/// The real one.
pub(super) struct Kernel;

impl Disk for Kernel {
    fn create(&mut self, path: &Path) -> io::Result<File> {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(path)
    }

    fn write_at(&mut self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
        file.write_at(bytes, offset)
    }

    fn truncate(&mut self, file: &File, len: u64) -> io::Result<()> {
        file.set_len(len)
    }
}

/// A place in a log: a file's number and a length in bytes. Files are numbered from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug, Serialize, Deserialize)]
pub(super) struct Position {
    pub(super) number: u64,
    pub(super) offset: u64,
}

/// A batch that was not written as a whole.
#[derive(Debug)]
pub(super) struct WriteFailure {
    /// How many bytes of the batch are in the log: whole records.
    pub(super) written: usize,
    pub(super) source: io::Error,
}

/// Sees to it that a log can be opened in `dir`, which is created (mode 0700) if necessary.
/// Returns where its files end, whoever may be writing to them.
pub(super) fn prepare(dir: &Path) -> io::Result<Position> {
    create_dir(dir)?;
    end_of(dir)
}

/// Where the files of a log end; its beginning if there are none.
pub(super) fn end_of(dir: &Path) -> io::Result<Position> {
    let Some(&number) = names::numbers(dir)?.last() else {
        return Ok(Position::default());
    };
    let offset = Stored::open(dir, number).and_then(|file| {
        let len = file.len()?;
        Ok(match &file {
            // Somebody else's file is read as far as it goes.
            Stored::Plain(file) => end_of_records(file, len).unwrap_or(len),
            Stored::Packed(_) => len,
        })
    });
    match offset {
        Ok(offset) => Ok(Position { number, offset }),
        // Deleted this moment.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Position::default()),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Ok(Position { number, offset: 0 })
        }
        Err(error) => Err(error),
    }
}

fn create_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// The writing end of one log's files. All methods block on the disk.
pub(super) struct LogFiles {
    dir: Arc<Path>,
    rules: Rules,
    disk: Box<dyn Disk>,
    /// The files that are kept.
    kept: BTreeMap<u64, Form>,
    /// The newest file, while records can go on in it.
    file: Option<File>,
    /// The time of its first record; none while it is empty.
    begun_ns: Option<u64>,
    /// Where the log ends.
    end: Position,
}

impl LogFiles {
    /// Opens the log in `dir`, which is created if necessary, and goes on after what is there.
    ///
    /// If the newest file does not end with a newline, the daemon or the machine died while
    /// a record was written: the torn record is cut off. Returns how many bytes that were.
    pub(super) fn open(
        dir: Arc<Path>,
        rules: Rules,
        disk: Box<dyn Disk>,
    ) -> io::Result<(Self, u64)> {
        create_dir(&dir)?;
        // What stays is in nobody's way: of two forms the compressed one counts.
        let _ = names::tidy(&dir);
        let mut files = Self {
            kept: names::files(&dir)?,
            dir,
            rules,
            disk,
            file: None,
            begun_ns: None,
            end: Position::default(),
        };
        let mut cut = 0;
        if let Some((&number, &form)) = files.kept.last_key_value() {
            let path = path_of(&files.dir, number);
            files.end.number = number;
            let resumed = match form {
                Form::Plain => files.resume(&path),
                Form::Packed => Err(io::ErrorKind::InvalidData.into()),
            };
            // What can't be continued is left as it is, and a new file is begun.
            cut = resumed.unwrap_or_else(|_| {
                let len = Stored::open(&files.dir, number).and_then(|file| file.len());
                files.end.offset = len.unwrap_or_default();
                0
            });
        }
        // On failure it is tried again before the next file is begun.
        let _ = files.delete_oldest(files.rules.max_files);
        Ok((files, cut))
    }

    /// Goes on in a file that is there. Returns how many bytes of a torn record were cut off.
    fn resume(&mut self, path: &Path) -> io::Result<u64> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
            .open(path)?;
        let len = file.metadata()?.len();
        let whole = end_of_records(&file, len)?;
        if whole < len {
            self.disk.truncate(&file, whole)?;
        }
        if whole > 0 {
            self.begun_ns = Some(first_time(&file).unwrap_or_else(now_ns));
        }
        self.file = Some(file);
        self.end.offset = whole;
        Ok(len - whole)
    }

    /// Changes the bounds, and deletes the oldest files if there are too many now.
    pub(super) fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
        // On failure it is tried again before the next file is begun.
        let _ = self.delete_oldest(rules.max_files.max(1));
    }

    /// The oldest file that is to be compressed now: one that is complete, but not the newest of
    /// those, which whatever ships logs may still be reading.
    pub(super) fn to_pack(&self) -> Option<u64> {
        if self.rules.compress != Compression::Zstd {
            return None;
        }
        let newest = self.kept.len().saturating_sub(2);
        let mut complete = self.kept.iter().take(newest);
        complete.find(|(_, form)| **form == Form::Plain).map(|(number, _)| *number)
    }

    /// Whether this file is one of those that are kept.
    pub(super) fn keeps(&self, number: u64) -> bool {
        self.kept.contains_key(&number)
    }

    /// Puts a compressed file in the place of the one that it was made of, if that is still kept.
    ///
    /// # Errors
    ///
    /// When that does not work; then the file stays as it was, or is there in both forms.
    pub(super) fn take_packed(&mut self, number: u64) -> io::Result<()> {
        let (plain, part) = (path_of(&self.dir, number), part_path(&self.dir, number));
        if !self.keeps(number) || !plain.exists() {
            return fs::remove_file(&part);
        }
        fs::rename(&part, packed_path(&self.dir, number))?;
        self.kept.insert(number, Form::Packed);
        fs::remove_file(plain)
    }

    /// Where the log ends: all before it are whole records.
    pub(super) fn end(&self) -> Position {
        self.end
    }

    /// Writes whole records. They go to as few files as possible, with one system call each
    /// unless the disk is nearly full.
    pub(super) fn write(&mut self, batch: &[u8]) -> Result<(), WriteFailure> {
        let mut written = 0;
        while written < batch.len() {
            match self.write_some(&batch[written..]) {
                Ok(count) => written += count,
                Err(failure) => {
                    return Err(WriteFailure {
                        written: written + failure.written,
                        source: failure.source,
                    });
                }
            }
        }
        Ok(())
    }

    /// Takes back what was written after `mark`, an earlier [`end`](Self::end), unless a new
    /// file has been begun since.
    pub(super) fn take_back(&mut self, mark: Position) {
        if mark.number == self.end.number && mark.offset < self.end.offset {
            self.cut_to(mark.offset);
        }
    }

    /// Writes those of the records that fit into one file.
    fn write_some(&mut self, batch: &[u8]) -> Result<usize, WriteFailure> {
        let nothing = |source| WriteFailure { written: 0, source };
        self.leave_changed_file().map_err(nothing)?;
        if self.is_too_old() {
            self.file = None;
        }
        let mut fits = self.fits(batch);
        if fits == 0 {
            self.file = None;
            self.begin_file().map_err(nothing)?;
            // `max_file_bytes` is more than any record has.
            fits = self.fits(batch);
        }
        if self.begun_ns.is_none() {
            self.begun_ns = Some(now_ns());
        }
        let Some(file) = &self.file else {
            return Err(nothing(io::ErrorKind::NotFound.into()));
        };
        let (start, records) = (self.end.offset, &batch[..fits]);
        let mut done = 0;
        let source = loop {
            match self.disk.write_at(file, &records[done..], start + done as u64) {
                Ok(0) => break io::ErrorKind::WriteZero.into(),
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break error,
            }
            if done == records.len() {
                self.end.offset = start + done as u64;
                return Ok(done);
            }
        };
        let whole = after_last_newline(&records[..done]);
        if whole < done {
            self.cut_to(start + whole as u64);
        }
        self.end.offset = start + whole as u64;
        Err(WriteFailure { written: whole, source })
    }

    fn is_too_old(&self) -> bool {
        let max_ms = self.rules.max_age_ms;
        let age_ns = || self.begun_ns.map_or(0, |begun| now_ns().saturating_sub(begun));
        max_ms > 0 && self.file.is_some() && age_ns() / 1_000_000 >= max_ms
    }

    /// How many bytes of the batch, in whole records, the newest file takes.
    fn fits(&self, batch: &[u8]) -> usize {
        if self.file.is_none() {
            return 0;
        }
        let max = self.rules.max_file_bytes.max(MAX_RECORD as u64);
        let room = usize::try_from(max.saturating_sub(self.end.offset)).unwrap_or(usize::MAX);
        if batch.len() <= room { batch.len() } else { after_last_newline(&batch[..room]) }
    }

    /// Writing to a deleted file succeeds and helps nobody, and a file that somebody has cut
    /// or lengthened no longer ends where our records end. In both cases a new one is begun.
    fn leave_changed_file(&mut self) -> io::Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let metadata = file.metadata()?;
        if metadata.nlink() == 0 {
            self.file = None;
            self.kept = names::files(&self.dir)?;
        } else if metadata.len() != self.end.offset {
            self.file = None;
        }
        Ok(())
    }

    fn begin_file(&mut self) -> io::Result<()> {
        // A file of the next number may be there, put there by somebody else. It counts as
        // one of ours, so that the bound holds; something that is no file does not matter.
        for _ in 0..16 {
            // First deleted, then created: the bound holds at all times.
            self.delete_oldest(self.rules.max_files.max(1) - 1)?;
            let number = self.end.number + 1;
            let path = path_of(&self.dir, number);
            let file = match self.disk.create(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    create_dir(&self.dir)?;
                    self.disk.create(&path)
                }
                created => created,
            };
            match file {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    self.kept = names::files(&self.dir)?;
                }
                file => {
                    self.file = Some(file?);
                    self.begun_ns = None;
                    self.kept.insert(number, Form::Plain);
                }
            }
            self.end = Position { number, offset: 0 };
            if self.file.is_some() {
                return Ok(());
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn delete_oldest(&mut self, keep: u32) -> io::Result<()> {
        while self.kept.len() > keep as usize {
            if let Some((&oldest, _)) = self.kept.first_key_value() {
                delete(&self.dir, oldest)?;
                self.kept.pop_first();
            }
        }
        Ok(())
    }

    /// Cuts the newest file; if that fails it is left, with a torn record that readers skip.
    fn cut_to(&mut self, len: u64) {
        let cut = self.file.as_ref().map(|file| self.disk.truncate(file, len));
        if !matches!(cut, Some(Ok(()))) {
            self.file = None;
        }
        self.end.offset = len;
    }
}

/// The time of the first record of a file.
fn first_time(file: &File) -> Option<u64> {
    let mut start = vec![0; MAX_RECORD];
    let count = read_at(file, &mut start, 0).ok()?;
    let end = newline(&start[..count])?;
    Some(Record::parse(&start[..end])?.time_ns)
}

fn after_last_newline(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1)
}

/// Where the last whole record of a file of this length ends.
///
/// # Errors
///
/// Also when that is not near the file's end, so that it is no file of ours.
fn end_of_records(file: &File, len: u64) -> io::Result<u64> {
    let start = len.saturating_sub(4 * MAX_RECORD as u64);
    let mut tail = vec![0; usize::try_from(len - start).unwrap_or_default()];
    file.read_exact_at(&mut tail, start)?;
    match after_last_newline(&tail) {
        0 if start > 0 => Err(io::ErrorKind::InvalidData.into()),
        whole => Ok(start + whole as u64),
    }
}
