//! What a holder says.

use super::{Fields, How, Name, SIZE, Stage};
#[cfg(doc)]
use super::{Order, PROTOCOL};

/// A holder to its daemon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum News {
    /// The holder is there.
    Welcome {
        /// [`PROTOCOL`] of the holder.
        protocol: i32,
        /// Whether there is a daemon, whose place this one is to take when it has said
        /// [`Order::Able`]: nothing else is told before.
        successor: bool,
        /// Of the holder's program.
        version: Version,
    },
    /// A program was executed. With it: a pidfd, the reading ends of its output and its errors.
    Spawned {
        /// What it is called.
        child: Name,
        /// Its number.
        pid: i32,
        /// The errno of what was tried and is not as was asked for: its nice value; or 0.
        warning: i32,
    },
    /// A program was not executed, and nothing is left of it.
    NotSpawned {
        /// What it would have been called.
        child: Name,
        /// What did not work.
        stage: Stage,
        /// Why.
        errno: i32,
    },
    /// A child has ended and was collected. With it, from a holder that speaks
    /// [`WITH_FETCHING`](super::WITH_FETCHING) or more: what came with [`News::Spawned`].
    Exited {
        /// What it is called.
        child: Name,
        /// Its number, which may be another process's by now.
        pid: i32,
        /// How.
        how: How,
        /// When, nanoseconds since 1970 (UTC).
        time_ns: u64,
    },
    /// What became of [`Order::Signal`].
    Signalled {
        /// Which child.
        child: Name,
        /// The errno, or 0. `ECHILD` if the child has ended, so that its number is no longer its
        /// own.
        errno: i32,
    },
    /// A file is kept, and comes with this; or, without it, what became of [`Order::Keep`].
    Kept {
        /// What it is called.
        file: Name,
    },
    /// That was all that an earlier daemon has left. It is this daemon's from now on.
    Complete,
    /// What became of the daemon that is to take the place of this one.
    Successor {
        /// Whether it could, now; else it was started, if there is no errno.
        able: bool,
        /// Why it was not even started; or 0.
        errno: i32,
        /// Its number.
        pid: i32,
    },
    /// A file could not be kept: there are too many.
    NotKept {
        /// What it would have been called.
        file: Name,
    },
    /// The daemon that was to take the place of this one has ended.
    SuccessorEnded {
        /// Its number, which may be another process's by now.
        pid: i32,
        /// How.
        how: How,
    },
    /// Another program is the holder now, see [`Order::Renew`].
    Renewed {
        /// Of that program.
        version: Version,
    },
    /// With it: the reading ends of the output and the errors of a child.
    Output {
        /// What it is called.
        child: Name,
        /// False if there is no such child, which may have ended and been released; then nothing is
        /// with it.
        is_there: bool,
    },
    /// With it: a file that is kept.
    Fetched {
        /// What it is called.
        file: Name,
        /// False if there is no such file.
        is_there: bool,
    },
    /// The program that was to be the holder is not.
    NotRenewed {
        /// Why: `EBUSY` if it may go well another time, since something is under way; `EPROTO` if
        /// the program can't read, or could not, what is handed over.
        errno: i32,
    },
}

/// The version of a program as text, at most 16 bytes; more is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Version([u8; 16]);

impl Version {
    /// That of this program.
    pub const OWN: Self = Self::cut(env!("CARGO_PKG_VERSION"));

    const fn cut(text: &str) -> Self {
        let (text, mut bytes, mut at) = (text.as_bytes(), [0; 16], 0);
        while at < text.len() && at < bytes.len() {
            bytes[at] = text[at];
            at += 1;
        }
        Self(bytes)
    }

    /// None if it is not known.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        let text = self.0.split(|byte| *byte == 0).next()?;
        std::str::from_utf8(text).ok().filter(|text| !text.is_empty())
    }
}

impl News {
    /// The frame.
    #[must_use]
    pub fn encode(self) -> [u8; SIZE] {
        let fields = Fields::default();
        match self {
            Self::Welcome { protocol, successor, version } => {
                let name = Name { key: version.0, tag: 0 };
                Fields { kind: 1, stage: successor.into(), number: protocol, name, ..fields }
            }
            Self::Spawned { child, pid, warning } => {
                Fields { kind: 2, number: warning, pid, name: child, ..fields }
            }
            Self::NotSpawned { child, stage, errno } => {
                Fields { kind: 3, stage: stage.number(), number: errno, name: child, ..fields }
            }
            Self::Exited { child, pid, how, time_ns } => {
                let (stage, number) = how.parts();
                Fields { kind: 4, stage, number, pid, name: child, time_ns }
            }
            Self::Signalled { child, errno } => {
                Fields { kind: 5, number: errno, name: child, ..fields }
            }
            Self::Kept { file } => Fields { kind: 6, name: file, ..fields },
            Self::Complete => Fields { kind: 7, ..fields },
            Self::NotKept { file } => Fields { kind: 8, name: file, ..fields },
            Self::Successor { able, errno, pid } => {
                Fields { kind: 9, stage: able.into(), number: errno, pid, ..fields }
            }
            Self::SuccessorEnded { pid, how } => {
                let (stage, number) = how.parts();
                Fields { kind: 10, stage, number, pid, ..fields }
            }
            Self::Renewed { version } => {
                Fields { kind: 11, name: Name { key: version.0, tag: 0 }, ..fields }
            }
            Self::NotRenewed { errno } => Fields { kind: 12, number: errno, ..fields },
            Self::Output { child, is_there } => {
                Fields { kind: 13, stage: is_there.into(), name: child, ..fields }
            }
            Self::Fetched { file, is_there } => {
                Fields { kind: 14, stage: is_there.into(), name: file, ..fields }
            }
        }
        .encode()
    }

    /// The news in a datagram; none if it is too short or unknown.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let fields = Fields::decode(bytes)?;
        let (child, number) = (fields.name, fields.number);
        Some(match fields.kind {
            1 => Self::Welcome {
                protocol: number,
                successor: fields.stage != 0,
                version: Version(child.key),
            },
            2 => Self::Spawned { child, pid: fields.pid, warning: number },
            3 => {
                Self::NotSpawned { child, stage: Stage::from_number(fields.stage)?, errno: number }
            }
            4 => Self::Exited {
                child,
                pid: fields.pid,
                how: How::from_parts(fields.stage, number)?,
                time_ns: fields.time_ns,
            },
            5 => Self::Signalled { child, errno: number },
            6 => Self::Kept { file: child },
            7 => Self::Complete,
            8 => Self::NotKept { file: child },
            9 => Self::Successor { able: fields.stage != 0, errno: number, pid: fields.pid },
            10 => Self::SuccessorEnded {
                pid: fields.pid,
                how: How::from_parts(fields.stage, number)?,
            },
            11 => Self::Renewed { version: Version(child.key) },
            12 => Self::NotRenewed { errno: number },
            13 => Self::Output { child, is_there: fields.stage != 0 },
            14 => Self::Fetched { file: child, is_there: fields.stage != 0 },
            _ => return None,
        })
    }
}
