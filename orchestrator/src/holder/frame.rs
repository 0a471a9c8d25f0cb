//! What the holder and a daemon say to each other: datagrams of one fixed layout over a socket
//! pair of type `SOCK_SEQPACKET`, with files beside them (`SCM_RIGHTS`, unix(7)).
//!
//! A holder lives longer than the daemons that it starts, so it will meet newer ones. What is
//! there is never changed; what is new gets a new number, and whoever reads a number that it
//! does not know says so and goes on.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0 | kind |
//! | 1 | a [`Stage`], or how a process ended |
//! | 2, 3 | zero |
//! | 4 to 7 | a number: protocol, nice value, errno, exit status or signal |
//! | 8 to 11 | a process's number |
//! | 12 to 15 | zero |
//! | 16 to 31 | key |
//! | 32 to 39 | run, or tag |
//! | 40 to 47 | time, nanoseconds since 1970 (UTC) |
//!
//! All integers are little-endian. [`Order::Spawn`] and [`Order::Replace`] are followed by the image
//! of the program, see [`image`](super::image), unless that is too long and comes in a file;
//! [`Order::Notify`] by a text.

/// The version of this protocol.
pub const PROTOCOL: i32 = 1;

/// Bytes of a frame.
pub const SIZE: usize = 48;

/// The most bytes of a datagram: a frame and an image.
pub const MAX_DATAGRAM: usize = 32 << 10;

/// The most bytes of a text behind [`Order::Notify`].
pub const MAX_NOTICE: usize = 512;

/// The most files beside a frame.
pub const MAX_FILES: usize = 3;

/// A child of the holder, or a file that it keeps, under a name of the daemon's choice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Name {
    /// Whose it is: an instance's id.
    pub key: [u8; 16],
    /// Which of them: a child's run, a file's purpose.
    pub tag: u64,
}

/// A daemon to its holder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// First. Answered by [`News::Welcome`]; then by [`News::Spawned`] for every child that was
    /// not released, followed by [`News::Exited`] if it has ended; [`News::Kept`] for every file;
    /// and [`News::Complete`].
    Hello {
        /// [`PROTOCOL`].
        protocol: i32,
    },
    /// Execute a program. With it, in this order: its image if that does not follow the frame,
    /// its standard input if that is not `/dev/null`. Answered by [`News::Spawned`] or
    /// [`News::NotSpawned`].
    Spawn {
        /// What to call it. Nothing that lives may have that name.
        child: Name,
        /// Its nice value.
        nice: i32,
        /// Whether a file with the image is there.
        image: bool,
        /// Whether a file to read from is there.
        stdin: bool,
    },
    /// The end of a child has been taken note of: forget it, and close its files.
    Release {
        /// Which.
        child: Name,
    },
    /// Signal a child's process group, for kernels where a daemon can't do that itself without
    /// risk. Answered by [`News::Signalled`].
    Signal {
        /// Which.
        child: Name,
        /// The signal's number; 0 only asks.
        signal: i32,
    },
    /// Keep the file that comes with this, for the daemon after this one, instead of another one
    /// of that name.
    Keep {
        /// What to call it.
        file: Name,
    },
    /// Close a file that is kept.
    Forget {
        /// Which.
        file: Name,
    },
    /// This daemon is at work. It has been told [`News::Complete`].
    Ready,
    /// Start another daemon, which takes the place of this one when this one has ended, if it was
    /// [`Able`](Order::Able) by then. With it, in this order: its image if that does not follow
    /// the frame; the program, which is then executed instead of what is at the image's path, and
    /// is kept open for the time when it has to be executed again. Answered by
    /// [`News::Successor`], and by [`News::SuccessorEnded`] if it ends before it is the daemon.
    Replace {
        /// Whether a file with the image is there.
        image: bool,
        /// Whether a file with the program is there.
        program: bool,
    },
    /// This daemon could take the place of the one before it. Nothing, if there is none.
    Able,
    /// This daemon lets go: the one that is to take its place may do so when this one has ended.
    Yield,
    /// The end of this daemon is to be the end of everything.
    End,
    /// The one that was to take the place of this one shall not: it is killed.
    Abandon,
    /// Tell the service manager what follows the frame, at most [`MAX_NOTICE`] bytes, see
    /// sd_notify(3). It listens to the process that it has started, which is the holder.
    Notify,
}

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
    /// A child has ended and was collected.
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
    /// A file is kept, and comes with this.
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
}

/// How a process ended, see waitpid(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// By itself, with this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// By this signal, and its memory was written to a file.
    Dumped(i32),
}

impl How {
    const fn parts(self) -> (u8, i32) {
        match self {
            Self::Code(code) => (0, code),
            Self::Signal(signal) => (1, signal),
            Self::Dumped(signal) => (2, signal),
        }
    }

    const fn from_parts(how: u8, number: i32) -> Option<Self> {
        match how {
            0 => Some(Self::Code(number)),
            1 => Some(Self::Signal(number)),
            2 => Some(Self::Dumped(number)),
            _ => None,
        }
    }
}

impl std::fmt::Display for How {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "ended with exit code {code}"),
            Self::Signal(signal) => write!(f, "was ended by signal {signal}"),
            Self::Dumped(signal) => write!(f, "was ended by signal {signal}, core dumped"),
        }
    }
}

/// The steps of executing a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// The image is not one, or is not there.
    Image,
    /// As many children as there can be, or as can be on their way.
    Room,
    /// Pipes, a place in memory, a process.
    Clone,
    /// Its process group, its streams, its bounds.
    Prepare,
    /// Its working directory.
    Cwd,
    /// execve(2).
    Exec,
}

impl Stage {
    const ALL: [Self; 6] =
        [Self::Image, Self::Room, Self::Clone, Self::Prepare, Self::Cwd, Self::Exec];

    pub(super) const fn number(self) -> u8 {
        self as u8
    }

    pub(super) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

const IMAGE: u8 = 1;
const STDIN: u8 = 2;
const PROGRAM: u8 = 2;

/// The fields of the layout, whatever they mean.
#[derive(Default)]
struct Fields {
    kind: u8,
    stage: u8,
    number: i32,
    pid: i32,
    name: Name,
    time_ns: u64,
}

impl Fields {
    fn encode(&self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        bytes[0] = self.kind;
        bytes[1] = self.stage;
        bytes[4..8].copy_from_slice(&self.number.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.pid.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.name.key);
        bytes[32..40].copy_from_slice(&self.name.tag.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.time_ns.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        fn array<const N: usize>(bytes: &[u8; SIZE], from: usize) -> [u8; N] {
            std::array::from_fn(|i| bytes[from + i])
        }
        let bytes: &[u8; SIZE] = bytes.first_chunk()?;
        Some(Self {
            kind: bytes[0],
            stage: bytes[1],
            number: i32::from_le_bytes(array(bytes, 4)),
            pid: i32::from_le_bytes(array(bytes, 8)),
            name: Name { key: array(bytes, 16), tag: u64::from_le_bytes(array(bytes, 32)) },
            time_ns: u64::from_le_bytes(array(bytes, 40)),
        })
    }
}

impl Order {
    /// The frame.
    #[must_use]
    pub fn encode(self) -> [u8; SIZE] {
        let fields = Fields::default();
        match self {
            Self::Hello { protocol } => Fields { kind: 1, number: protocol, ..fields },
            Self::Spawn { child, nice, image, stdin } => {
                let stage = if image { IMAGE } else { 0 } | if stdin { STDIN } else { 0 };
                Fields { kind: 2, stage, number: nice, name: child, ..fields }
            }
            Self::Release { child } => Fields { kind: 3, name: child, ..fields },
            Self::Signal { child, signal } => {
                Fields { kind: 4, number: signal, name: child, ..fields }
            }
            Self::Ready => Fields { kind: 5, ..fields },
            Self::End => Fields { kind: 6, ..fields },
            Self::Keep { file } => Fields { kind: 7, name: file, ..fields },
            Self::Forget { file } => Fields { kind: 8, name: file, ..fields },
            Self::Replace { image, program } => {
                let stage = if image { IMAGE } else { 0 } | if program { PROGRAM } else { 0 };
                Fields { kind: 9, stage, ..fields }
            }
            Self::Able => Fields { kind: 10, ..fields },
            Self::Yield => Fields { kind: 11, ..fields },
            Self::Abandon => Fields { kind: 12, ..fields },
            Self::Notify => Fields { kind: 13, ..fields },
        }
        .encode()
    }

    /// The order at the beginning of a datagram; none if it is too short or unknown.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let fields = Fields::decode(bytes)?;
        Some(match fields.kind {
            1 => Self::Hello { protocol: fields.number },
            2 => Self::Spawn {
                child: fields.name,
                nice: fields.number,
                image: fields.stage & IMAGE != 0,
                stdin: fields.stage & STDIN != 0,
            },
            3 => Self::Release { child: fields.name },
            4 => Self::Signal { child: fields.name, signal: fields.number },
            5 => Self::Ready,
            6 => Self::End,
            7 => Self::Keep { file: fields.name },
            8 => Self::Forget { file: fields.name },
            9 => Self::Replace {
                image: fields.stage & IMAGE != 0,
                program: fields.stage & PROGRAM != 0,
            },
            10 => Self::Able,
            11 => Self::Yield,
            12 => Self::Abandon,
            13 => Self::Notify,
            _ => return None,
        })
    }
}

impl News {
    /// The frame.
    #[must_use]
    pub fn encode(self) -> [u8; SIZE] {
        let fields = Fields::default();
        match self {
            Self::Welcome { protocol, successor } => {
                Fields { kind: 1, stage: successor.into(), number: protocol, ..fields }
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
        }
        .encode()
    }

    /// The news in a datagram; none if it is too short or unknown.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let fields = Fields::decode(bytes)?;
        let (child, number) = (fields.name, fields.number);
        Some(match fields.kind {
            1 => Self::Welcome { protocol: number, successor: fields.stage != 0 },
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
            _ => return None,
        })
    }
}
