//! What a worker knows of itself, in files that outlive it: the checker believes these, the log
//! and the kernel, and compares.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Numbers that a worker keeps, each written over in one piece.
#[derive(Clone, Copy)]
pub(crate) enum Slot {
    /// Lines of standard output whose write was completed.
    Stdout,
    /// The same of standard error.
    Stderr,
    /// 1 and the errno, once standard output could not be written to.
    StdoutBroken,
    /// The same of standard error.
    StderrBroken,
    /// Messages for `block` links of which the SDK said that they are sent.
    Block,
    /// Messages for other links of which it said so.
    Lossy,
    /// 1 and the code with which it is about to exit by itself.
    Exit,
    /// 1 once it was asked to stop.
    Terminated,
    /// 1 once it sends and prints nothing more.
    Resting,
}

const SLOTS: usize = 9;

/// The numbers of one worker.
pub(crate) struct Account {
    file: File,
}

/// What does not change.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Worker {
    /// The process.
    pub(crate) pid: u32,
    /// When it started, clock ticks since boot: with `pid`, its name for ever.
    pub(crate) ticks: u64,
    /// The instance that it is, by id.
    pub(crate) instance: String,
    /// That instance's name.
    pub(crate) name: String,
    /// A number of its own, which its messages and lines bear.
    pub(crate) run: u64,
}

impl Worker {
    /// The name of its files.
    pub(crate) fn key(&self) -> String {
        format!("{}-{}", self.pid, self.ticks)
    }

    /// When it started, milliseconds since 1970, to within a clock tick of 10 ms.
    pub(crate) fn started_ms(&self) -> u64 {
        let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
        let uptime: f64 = uptime.split(' ').next().and_then(|it| it.parse().ok()).unwrap_or(0.0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let age_ms = (uptime * 1000.0) as u64 - (self.ticks * 10).min((uptime * 1000.0) as u64);
        (now.as_millis() as u64).saturating_sub(age_ms)
    }

    /// All of them that came so far that they had an account.
    pub(crate) fn all(dir: &Path) -> Vec<Self> {
        let entries = fs::read_dir(dir.join("accounts")).into_iter().flatten().flatten();
        let mut workers: Vec<_> = entries
            .filter(|entry| entry.path().extension().is_some_and(|it| it == "txt"))
            .filter_map(|entry| Self::parse(&fs::read_to_string(entry.path()).ok()?))
            .collect();
        workers.sort_by_key(|worker| (worker.ticks, worker.pid));
        workers
    }

    /// The one with this process, if it came so far.
    pub(crate) fn of(dir: &Path, pid: u32) -> Option<Self> {
        let ticks = started(pid)?;
        let path = dir.join("accounts").join(format!("{pid}-{ticks}.txt"));
        Self::parse(&fs::read_to_string(path).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split_whitespace();
        Some(Self {
            pid: fields.next()?.parse().ok()?,
            ticks: fields.next()?.parse().ok()?,
            instance: fields.next()?.to_owned(),
            name: fields.next()?.to_owned(),
            run: fields.next()?.parse().ok()?,
        })
    }

    /// Its numbers.
    pub(crate) fn account(&self, dir: &Path) -> Account {
        let path = dir.join("accounts").join(self.key()).with_extension("bin");
        Account { file: File::open(path).expect("each worker has its numbers before its name") }
    }

    /// Opens an account, all zero, and only then makes it known.
    pub(crate) fn open(&self, dir: &Path) -> io::Result<Account> {
        let path = dir.join("accounts").join(self.key());
        let mut options = OpenOptions::new();
        let file =
            options.read(true).write(true).create_new(true).open(path.with_extension("bin"))?;
        file.write_all_at(&[0; SLOTS * 8], 0)?;
        let Self { pid, ticks, instance, name, run } = self;
        fs::write(path.with_extension("new"), format!("{pid} {ticks} {instance} {name} {run}\n"))?;
        fs::rename(path.with_extension("new"), path.with_extension("txt"))?;
        Ok(Account { file })
    }

    /// Where a receiver notes each message of this kind before it asks for the next one: 24 bytes
    /// each, the sender's run, the message's number, and when, milliseconds since 1970.
    pub(crate) fn received(&self, dir: &Path, kind: &str) -> PathBuf {
        dir.join("received").join(format!("{}.{kind}", self.key()))
    }
}

impl Account {
    /// Sets a number.
    pub(crate) fn set(&self, slot: Slot, value: u64) {
        let _ = self.file.write_all_at(&value.to_ne_bytes(), slot as u64 * 8);
    }

    /// A number.
    pub(crate) fn get(&self, slot: Slot) -> u64 {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, slot as u64 * 8).expect("all numbers are there");
        u64::from_ne_bytes(bytes)
    }
}

/// When a process started, clock ticks since boot; see proc(5).
pub(crate) fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// A line of a worker, without its newline: most are short, a few longer than what a pipe takes
/// in one piece, and fewer longer than what the log keeps in one part.
pub(crate) fn line(run: u64, stream: &str, number: u64) -> Vec<u8> {
    let length = match number {
        n if n % 499 == 7 => 40_000,
        n if n % 97 == 5 => 6_000,
        n => (n.wrapping_mul(run | 1) >> 7) % 120,
    };
    let mut line = format!("{run:016x} {stream} {number} ").into_bytes();
    let letter = b'a' + (number % 26) as u8;
    line.resize(line.len() + length as usize, letter);
    line
}
