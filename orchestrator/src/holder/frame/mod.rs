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
//! | 8 to 11 | a process's number, or how many listeners |
//! | 12 to 15 | zero |
//! | 16 to 31 | key, or a version as text |
//! | 32 to 39 | run, or tag |
//! | 40 to 47 | time, nanoseconds since 1970 (UTC) |
//!
//! All integers are little-endian. [`Order::Spawn`], [`Order::Replace`] and [`Order::Renew`] are followed
//! by the image of the program, see [`image`](super::image), unless that is too long and comes in a
//! file; [`Order::Notify`] by a text.

mod news;
mod order;

pub use news::{News, Version};
pub use order::Order;

/// The version of this protocol.
///
/// | version | what changed |
/// | --- | --- |
/// | 1 | the first |
/// | 2 | [`Order::Spawn`] with a cgroup and with listeners; steps in images; the stages of all these |
/// | 3 | [`News::Exited`] with files; [`Order::Output`], [`Order::Fetch`] and their answers; [`Order::Keep`] answered when that is wanted |
pub const PROTOCOL: i32 = 3;

/// The first version with cgroups.
pub const WITH_CGROUPS: i32 = 2;

/// The first version with listeners.
pub const WITH_LISTENERS: i32 = 2;

/// The first version with which a daemon need not have open what the holder has.
pub const WITH_FETCHING: i32 = 3;

/// The most listening sockets that a program is given.
pub const MAX_LISTENERS: usize = 16;

/// The tag of the first listening socket of an instance that is kept; the next ones follow.
pub const FIRST_LISTENER: u64 = 1 << 32;

/// Bytes of a frame.
pub const SIZE: usize = 48;

/// The most bytes of a datagram: a frame and an image.
pub const MAX_DATAGRAM: usize = 32 << 10;

/// The most bytes of a text behind [`Order::Notify`].
pub const MAX_NOTICE: usize = 512;

/// The most files beside a frame.
pub const MAX_FILES: usize = 3;

/// A child of the holder, or a file that it keeps, under a name of the daemon's choice. The holder
/// reads a name only where it says so: [`FIRST_LISTENER`], [`FIRST_INHERITED`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Name {
    /// Whose it is: an instance's id.
    pub key: [u8; 16],
    /// Which of them: a child's run, a file's purpose.
    pub tag: u64,
}

/// What the first of the sockets is called that the holder was started with, see sd_listen_fds(3);
/// the tags of the next ones follow. No instance has this key.
pub const FIRST_INHERITED: Name = Name { key: [0; 16], tag: 1 << 32 };

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
    pub(in crate::holder) const fn parts(self) -> (u8, i32) {
        match self {
            Self::Code(code) => (0, code),
            Self::Signal(signal) => (1, signal),
            Self::Dumped(signal) => (2, signal),
        }
    }

    pub(in crate::holder) const fn from_parts(how: u8, number: i32) -> Option<Self> {
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
    /// Its bounds, see setrlimit(2).
    Limits,
    /// The nice value that it has to get.
    Nice,
    /// The processors that it may run on.
    Cpus,
    /// The order of its reading and writing.
    IoClass,
    /// Its real-time policy.
    Realtime,
    /// To whom its output and its errors belong.
    Streams,
    /// Its supplementary groups.
    Groups,
    /// Its group.
    Group,
    /// Its user.
    User,
    /// Its bounding set.
    Bounding,
    /// Its permitted, effective and inheritable capabilities.
    Capabilities,
    /// Its ambient capabilities.
    Ambient,
    /// That it gets no more rights.
    NoNewPrivs,
    /// What it reads from.
    Stdin,
    /// Its cgroup.
    Cgroup,
    /// A listening socket is not there, or can't be given to it.
    Listen,
}

impl Stage {
    const ALL: [Self; 22] = [
        Self::Image,
        Self::Room,
        Self::Clone,
        Self::Prepare,
        Self::Cwd,
        Self::Exec,
        Self::Limits,
        Self::Nice,
        Self::Cpus,
        Self::IoClass,
        Self::Realtime,
        Self::Streams,
        Self::Groups,
        Self::Group,
        Self::User,
        Self::Bounding,
        Self::Capabilities,
        Self::Ambient,
        Self::NoNewPrivs,
        Self::Stdin,
        Self::Cgroup,
        Self::Listen,
    ];

    pub(in crate::holder) const fn number(self) -> u8 {
        self as u8
    }

    pub(in crate::holder) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// The fields of the layout, whatever they mean.
#[derive(Default)]
pub(in crate::holder) struct Fields {
    pub(in crate::holder) kind: u8,
    pub(in crate::holder) stage: u8,
    pub(in crate::holder) number: i32,
    pub(in crate::holder) pid: i32,
    pub(in crate::holder) name: Name,
    pub(in crate::holder) time_ns: u64,
}

impl Fields {
    pub(in crate::holder) fn encode(&self) -> [u8; SIZE] {
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

    pub(in crate::holder) fn decode(bytes: &[u8]) -> Option<Self> {
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
