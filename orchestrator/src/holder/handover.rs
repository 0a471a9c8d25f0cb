//! What one holder hands over to the next: the program that is executed in its place, in the same
//! process. Pure: bytes in, bytes out.
//!
//! It is a file of records of `SIZE` bytes: a [`frame`], with other kinds, and the
//! numbers of four files, -1 for none. Records come in the order of `Record`, those of a kind
//! together; each of the first six kinds and the last one once, `Record::Ended` behind its
//! child. A program reads every form up to its own, and hands over in that. If it can't read what
//! it is given, it executes the one before again: so in no form a `Record::Head` is ever changed.

use std::time::Duration;

use nix::sys::signal::Signal;
use rustix::process::Rlimit;

use super::children::MAX_CHILDREN;
use super::files::MAX_FILES;
use super::frame::{self, Fields, How, Name};
use super::lives::Lives;

/// The form that this program hands over, and the newest that it reads.
pub const FORM: i32 = 1;

/// Bytes of a record.
pub(super) const SIZE: usize = frame::SIZE + FILES * size_of::<Number>();

/// Files of a record, at most.
const FILES: usize = 4;

/// In the head, so that something else is not taken for it.
const MAGIC: [u8; 16] = *b"holder's handing";

/// The number of an open file.
pub(super) type Number = i32;

/// A piece of what is handed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Record {
    /// First.
    Head {
        /// [`FORM`].
        form: i32,
        /// The holder's process.
        pid: i32,
        /// The program that hands over.
        before: Number,
    },
    /// The process itself.
    Holder {
        /// Its name, see `PR_SET_NAME` in prctl(2); ends with a zero.
        name: [u8; 16],
        /// How long there has been a holder.
        age: Duration,
        /// Whether it was started with SIGHUP ignored.
        hangup_ignored: bool,
        /// What was passed on to the daemon last.
        last_signal: Option<Signal>,
    },
    /// How many files the first holder could have open.
    Limits(Rlimit),
    /// The daemons so far.
    Lives(Lives),
    /// The one that lives.
    Daemon {
        /// Its number; 0 if it is none of our children.
        pid: i32,
        /// It has said that it can do what a daemon has to.
        able: bool,
        /// Our end of the connection.
        socket: Number,
    },
    /// What is executed as the daemon.
    Executable {
        /// A file with the image.
        image: Number,
        /// The program, if it is not at the image's path.
        program: Option<Number>,
    },
    /// A child that was not released.
    Child {
        /// What it is called.
        child: Name,
        /// Its number.
        pid: i32,
        /// The errno of what is not as wished, or 0.
        warning: i32,
        /// A pidfd, the reading ends of its output and its errors.
        files: [Number; 3],
    },
    /// The child before this has ended.
    Ended {
        /// What it is called.
        child: Name,
        /// How.
        how: How,
        /// When, nanoseconds since 1970 (UTC).
        time_ns: u64,
    },
    /// A file that is kept.
    Kept {
        /// What it is called.
        name: Name,
        /// It.
        file: Number,
    },
    /// Last: so many records are before this.
    End(u64),
}

/// Why there is nothing to go on with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Unreadable {
    /// It does not begin as it has to.
    #[error("it was not written by a holder")]
    Foreign,
    /// It is of a newer form.
    #[error("it has form {0}, and this program reads {FORM} at most")]
    Form(i32),
    /// It ends too early.
    #[error("it is cut off")]
    Cut,
    /// This record, counted from 0, is none, or not in its place.
    #[error("record {0} of it is wrong")]
    Wrong(usize),
    /// Two of the files have the same number, or one is none that can be handed over.
    #[error("file {0} of it is wrong")]
    File(Number),
    /// There is no memory.
    #[error("there is no memory to read it")]
    NoMemory,
}

const ABLE: u8 = 1;
const HANGUP_IGNORED: u8 = 1;
const READY: u8 = 1;
const EVER_READY: u8 = 2;
const MEANT: u8 = 4;

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Record {
    /// Where its kind comes, and its number.
    const fn kind(&self) -> u8 {
        match self {
            Self::Head { .. } => 1,
            Self::Holder { .. } => 2,
            Self::Limits(_) => 3,
            Self::Lives(_) => 4,
            Self::Daemon { .. } => 5,
            Self::Executable { .. } => 6,
            Self::Child { .. } => 7,
            Self::Ended { .. } => 8,
            Self::Kept { .. } => 9,
            Self::End(_) => 10,
        }
    }

    /// Its files; -1 for none.
    const fn files(&self) -> [Number; FILES] {
        match *self {
            Self::Head { before, .. } => [before, -1, -1, -1],
            Self::Daemon { socket, .. } => [socket, -1, -1, -1],
            Self::Executable { image, program: Some(program) } => [image, program, -1, -1],
            Self::Executable { image, program: None } => [image, -1, -1, -1],
            Self::Child { files: [pidfd, stdout, stderr], .. } => [pidfd, stdout, stderr, -1],
            Self::Kept { file, .. } => [file, -1, -1, -1],
            _ => [-1; FILES],
        }
    }

    fn fields(&self) -> Fields {
        let fields = Fields { kind: self.kind(), ..Fields::default() };
        match *self {
            Self::Head { form, pid, .. } => {
                Fields { number: form, pid, name: Name { key: MAGIC, tag: 0 }, ..fields }
            }
            Self::Holder { name, age, hangup_ignored, last_signal } => Fields {
                stage: if hangup_ignored { HANGUP_IGNORED } else { 0 },
                number: last_signal.map_or(0, |signal| signal as i32),
                name: Name { key: name, tag: nanoseconds(age) },
                ..fields
            },
            Self::Limits(Rlimit { current, maximum }) => Fields {
                name: Name { key: [0; 16], tag: current.unwrap_or(u64::MAX) },
                time_ns: maximum.unwrap_or(u64::MAX),
                ..fields
            },
            Self::Lives(Lives { ready, ever_ready, meant, short, failures }) => Fields {
                stage: if ready.is_some() { READY } else { 0 }
                    | if ever_ready { EVER_READY } else { 0 }
                    | if meant { MEANT } else { 0 },
                number: short.cast_signed(),
                pid: failures.cast_signed(),
                name: Name { key: [0; 16], tag: ready.map_or(0, nanoseconds) },
                ..fields
            },
            Self::Daemon { pid, able, .. } => {
                Fields { stage: if able { ABLE } else { 0 }, pid, ..fields }
            }
            Self::Executable { .. } => fields,
            Self::Child { child, pid, warning, .. } => {
                Fields { name: child, pid, number: warning, ..fields }
            }
            Self::Ended { child, how, time_ns } => {
                let (stage, number) = how.parts();
                Fields { stage, number, name: child, time_ns, ..fields }
            }
            Self::Kept { name, .. } => Fields { name, ..fields },
            Self::End(count) => Fields { name: Name { key: [0; 16], tag: count }, ..fields },
        }
    }

    pub(super) fn encode(&self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        let (frame, files) = bytes.split_at_mut(frame::SIZE);
        frame.copy_from_slice(&self.fields().encode());
        for (place, file) in files.chunks_exact_mut(size_of::<Number>()).zip(self.files()) {
            place.copy_from_slice(&file.to_le_bytes());
        }
        bytes
    }

    /// None if there are too few bytes, or they are none.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; SIZE] = bytes.first_chunk()?;
        let Fields { kind, stage, number, pid, name, time_ns } = Fields::decode(bytes)?;
        let file = |at: usize| {
            let at = frame::SIZE + at * size_of::<Number>();
            Number::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
        };
        let (tag, key) = (name.tag, name.key);
        let limit = |limit: u64| Some(limit).filter(|limit| *limit != u64::MAX);
        Some(match kind {
            1 if key == MAGIC => Self::Head { form: number, pid, before: file(0) },
            2 => Self::Holder {
                name: key,
                age: Duration::from_nanos(tag),
                hangup_ignored: stage & HANGUP_IGNORED != 0,
                last_signal: match number {
                    0 => None,
                    number => Some(Signal::try_from(number).ok()?),
                },
            },
            3 => Self::Limits(Rlimit { current: limit(tag), maximum: limit(time_ns) }),
            4 => Self::Lives(Lives {
                ready: (stage & READY != 0).then(|| Duration::from_nanos(tag)),
                ever_ready: stage & EVER_READY != 0,
                meant: stage & MEANT != 0,
                short: number.cast_unsigned(),
                failures: pid.cast_unsigned(),
            }),
            5 => Self::Daemon { pid, able: stage & ABLE != 0, socket: file(0) },
            6 => Self::Executable {
                image: file(0),
                program: Some(file(1)).filter(|&program| program != -1),
            },
            7 => Self::Child {
                child: name,
                pid,
                warning: number,
                files: [file(0), file(1), file(2)],
            },
            8 => Self::Ended { child: name, how: How::from_parts(stage, number)?, time_ns },
            9 => Self::Kept { name, file: file(0) },
            10 => Self::End(tag),
            _ => return None,
        })
    }
}

/// The process that wrote this, and the program that can go on with it: of every form.
///
/// # Errors
///
/// [`Unreadable::Foreign`]
pub(super) fn head(bytes: &[u8]) -> Result<(i32, Number), Unreadable> {
    match Record::decode(bytes) {
        Some(Record::Head { pid, before, .. }) => Ok((pid, before)),
        _ => Err(Unreadable::Foreign),
    }
}

/// Looks whether all is there and in its place. The answer is all the records.
///
/// # Errors
///
/// See [`Unreadable`].
pub(super) fn read(bytes: &[u8]) -> Result<impl Iterator<Item = Record> + Clone, Unreadable> {
    match Record::decode(bytes) {
        Some(Record::Head { form: 1..=FORM, .. }) => {}
        Some(Record::Head { form, .. }) => return Err(Unreadable::Form(form)),
        _ => return Err(Unreadable::Foreign),
    }
    let mut files = Vec::new();
    let (mut before, mut last_child) = (0, None);
    let (mut children, mut kept) = (0, 0);
    let mut whole = false;
    let (pieces, rest) = bytes.as_chunks::<SIZE>();
    for (at, bytes) in pieces.iter().enumerate() {
        let wrong = Unreadable::Wrong(at);
        let record = Record::decode(bytes).filter(|_| !whole).ok_or(wrong)?;
        let kind = record.kind();
        let in_place = match record {
            Record::Child { child, .. } => {
                children += 1;
                last_child = Some(child);
                matches!(before, 6..=8) && children <= MAX_CHILDREN
            }
            Record::Ended { child, .. } => last_child.take() == Some(child) && before == 7,
            Record::Kept { .. } => {
                kept += 1;
                matches!(before, 6..=9) && kept <= MAX_FILES
            }
            Record::End(count) => {
                whole = count == at as u64;
                before >= 6 && whole
            }
            _ => kind == before + 1,
        };
        if !in_place {
            return Err(wrong);
        }
        before = kind;
        let open = record.files().into_iter().filter(|&file| file != -1);
        files.try_reserve(FILES).map_err(|_| Unreadable::NoMemory)?;
        files.extend(open);
    }
    if !whole || !rest.is_empty() {
        return Err(Unreadable::Cut);
    }
    files.sort_unstable();
    if let Some(&low) = files.first().filter(|&&file| file <= 2) {
        return Err(Unreadable::File(low));
    }
    if let Some(twice) = files.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Unreadable::File(twice[0]));
    }
    Ok(pieces.iter().filter_map(|bytes| Record::decode(bytes)))
}

/// The numbers of all files in these records.
pub(super) fn files(records: impl Iterator<Item = Record>) -> impl Iterator<Item = Number> {
    records.flat_map(|record| record.files()).filter(|&file| file != -1)
}
