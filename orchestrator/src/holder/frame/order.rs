//! What a daemon says.

use super::{Fields, Name, SIZE};
#[cfg(doc)]
use super::{MAX_NOTICE, News, PROTOCOL};

const IMAGE: u8 = 1;
const STDIN: u8 = 2;
const PROGRAM: u8 = 2;
const CGROUP: u8 = 4;
const CONFIRM: u8 = 1;

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
    /// its standard input if that is not `/dev/null`; the directory of the cgroup that it
    /// is to be in. Answered by [`News::Spawned`] or
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
        /// Whether the directory of a cgroup is there; only for holders that speak
        /// [`WITH_CGROUPS`](super::WITH_CGROUPS) or more.
        cgroup: bool,
        /// How many listening sockets it is given, at most [`MAX_LISTENERS`](super::MAX_LISTENERS):
        /// those that are kept under the key of its name, from the tag
        /// [`FIRST_LISTENER`](super::FIRST_LISTENER) on. An image with one has
        /// [`ROOM_FOR_PID`](crate::holder::image::ROOM_FOR_PID).
        listeners: i32,
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
    /// of that name. Answered by [`News::NotKept`] if that can't be.
    Keep {
        /// What to call it.
        file: Name,
        /// Whether [`News::Kept`] is to answer if it can: without the file, which who sent it has.
        /// Not understood by holders that speak less than
        /// [`WITH_FETCHING`](super::WITH_FETCHING).
        confirm: bool,
    },
    /// Close a file that is kept.
    Forget {
        /// Which.
        file: Name,
    },
    /// Say what a child prints into. Answered by [`News::Output`]. Only for holders that speak
    /// [`WITH_FETCHING`](super::WITH_FETCHING) or more.
    Output {
        /// Which.
        child: Name,
    },
    /// Give a file that is kept. Answered by [`News::Fetched`]. Only for holders that speak
    /// [`WITH_FETCHING`](super::WITH_FETCHING) or more.
    Fetch {
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
    /// Execute this program as the holder: in place of the one that runs, in the same process, with
    /// all that there is. With it, in this order: its image if that does not follow the frame; the
    /// program. Answered by [`News::Renewed`], by the new one; or by [`News::NotRenewed`], and
    /// then nothing has changed.
    Renew {
        /// Whether a file with the image is there.
        image: bool,
        /// The newest form of what one holder hands over to the next that the program reads: it
        /// reads all before that.
        reads: i32,
    },
}

impl Order {
    /// The frame.
    #[must_use]
    pub fn encode(self) -> [u8; SIZE] {
        let fields = Fields::default();
        match self {
            Self::Hello { protocol } => Fields { kind: 1, number: protocol, ..fields },
            Self::Spawn { child, nice, image, stdin, cgroup, listeners } => {
                let stage = if image { IMAGE } else { 0 }
                    | if stdin { STDIN } else { 0 }
                    | if cgroup { CGROUP } else { 0 };
                Fields { kind: 2, stage, number: nice, pid: listeners, name: child, ..fields }
            }
            Self::Release { child } => Fields { kind: 3, name: child, ..fields },
            Self::Signal { child, signal } => {
                Fields { kind: 4, number: signal, name: child, ..fields }
            }
            Self::Ready => Fields { kind: 5, ..fields },
            Self::End => Fields { kind: 6, ..fields },
            Self::Keep { file, confirm } => {
                let stage = if confirm { CONFIRM } else { 0 };
                Fields { kind: 7, stage, name: file, ..fields }
            }
            Self::Forget { file } => Fields { kind: 8, name: file, ..fields },
            Self::Replace { image, program } => {
                let stage = if image { IMAGE } else { 0 } | if program { PROGRAM } else { 0 };
                Fields { kind: 9, stage, ..fields }
            }
            Self::Able => Fields { kind: 10, ..fields },
            Self::Yield => Fields { kind: 11, ..fields },
            Self::Abandon => Fields { kind: 12, ..fields },
            Self::Notify => Fields { kind: 13, ..fields },
            Self::Renew { image, reads } => {
                let stage = if image { IMAGE } else { 0 };
                Fields { kind: 14, stage, number: reads, ..fields }
            }
            Self::Output { child } => Fields { kind: 15, name: child, ..fields },
            Self::Fetch { file } => Fields { kind: 16, name: file, ..fields },
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
                cgroup: fields.stage & CGROUP != 0,
                listeners: fields.pid,
            },
            3 => Self::Release { child: fields.name },
            4 => Self::Signal { child: fields.name, signal: fields.number },
            5 => Self::Ready,
            6 => Self::End,
            7 => Self::Keep { file: fields.name, confirm: fields.stage & CONFIRM != 0 },
            8 => Self::Forget { file: fields.name },
            9 => Self::Replace {
                image: fields.stage & IMAGE != 0,
                program: fields.stage & PROGRAM != 0,
            },
            10 => Self::Able,
            11 => Self::Yield,
            12 => Self::Abandon,
            13 => Self::Notify,
            14 => Self::Renew { image: fields.stage & IMAGE != 0, reads: fields.number },
            15 => Self::Output { child: fields.name },
            16 => Self::Fetch { file: fields.name },
            _ => return None,
        })
    }
}
