//! What a client says about instances and links.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::execution::Execution;
use super::limits::Limits;
use super::listen::Listen;
use super::log::LogRules;
use super::replicas::Replicas;
use super::supervision::Supervision;
use super::transport::Transport;
use crate::Millis;
use crate::id::InstanceId;
use crate::os::OsBytes;
use crate::rare::Rare;

/// Which instance: its id, a unique prefix of its id, or its name; or which set of replicas: its
/// name. The daemon resolves it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Selector(pub String);

impl<T: Into<String>> From<T> for Selector {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A runtime: a program and how it is to be run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RuntimeSpec {
    /// The id to use; none lets the daemon choose.
    pub id: Option<InstanceId>,
    /// A unique name: 1 to 64 of `A-Z a-z 0-9 . _ -`, not shaped like an id.
    pub name: Option<String>,
    /// What to execute.
    pub program: Program,
    /// Its arguments, without the program itself.
    pub args: Vec<OsBytes>,
    /// Variables set on top of those that it inherits, see [`Execution::inherit_env`], and of those
    /// from files.
    pub env: Vec<(OsBytes, OsBytes)>,
    /// Its working directory; none is `/`.
    pub cwd: Option<OsBytes>,
    /// Whether it may start and stop instances itself.
    pub privileged: bool,
    /// How it is supervised.
    pub supervision: Supervision,
    /// What is kept of what it prints.
    pub log: LogRules,
    /// As whom, with which rights and bounds, and in which surroundings it is executed.
    pub execution: Rare<Execution>,
    /// How much of the machine it may use.
    pub limits: Rare<Limits>,
    /// Sockets that listen for it, in the order in which it is given them: at most
    /// [`Listen::MAX`], each once.
    pub listen: Vec<Listen>,
    /// How many replicas: then this is a set of them, which has a name and no id, and each has
    /// the rest. None is one instance.
    pub replicas: Option<Replicas>,
}

impl RuntimeSpec {
    /// The program at this absolute path, everything else as it is by default.
    pub fn new(path: impl Into<OsBytes>) -> Self {
        Self {
            id: None,
            name: None,
            program: Program::Path(path.into()),
            args: Vec::new(),
            env: Vec::new(),
            cwd: None,
            privileged: false,
            supervision: Supervision::default(),
            log: LogRules::default(),
            execution: Rare::default(),
            limits: Rare::default(),
            listen: Vec::new(),
            replicas: None,
        }
    }
}

/// What to execute.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Program {
    /// A file that the daemon can see, by its absolute path.
    Path(OsBytes),
    /// A file that the client sends; see [`Request::RuntimeAdd`](super::Request::RuntimeAdd).
    Upload {
        /// The last component of its path, kept for people to recognise it.
        file_name: OsBytes,
        /// Its bytes.
        size: u64,
    },
}

/// Whether an instance should run. Not whether it does: see
/// [`Observed`](super::Observed).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Desired {
    /// It should not run.
    Stopped,
    /// It should run.
    Running,
}

/// How favourably an instance is scheduled (`nice`, see setpriority(2)).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Priority {
    /// Nice −10.
    High,
    /// Nice 0.
    #[default]
    Normal,
    /// Nice 10.
    Low,
}

impl Priority {
    /// The nice value.
    #[must_use]
    pub const fn nice(self) -> i32 {
        match self {
            Self::High => -10,
            Self::Normal => 0,
            Self::Low => 10,
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        })
    }
}

impl FromStr for Priority {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "high" => Ok(Self::High),
            "normal" => Ok(Self::Normal),
            "low" => Ok(Self::Low),
            other => Err(format!("{other:?} is not a priority; use high, normal or low")),
        }
    }
}

/// A link to be made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LinkSpec {
    /// Whose messages; none means anybody's.
    pub from: Option<Selector>,
    /// Messages of this type, by its declared name, 1 to 255 bytes.
    pub type_name: String,
    /// Who gets them.
    pub to: TargetSpec,
    /// What happens when there is no room; none is [`Policy::DropOldest`].
    pub policy: Option<Policy>,
    /// Messages that may wait, 1 to 1,048,576; none is [`LinkSpec::DEFAULT_CAPACITY`].
    pub capacity: Option<u32>,
    /// How long a sender is held back under [`Policy::Block`], at most
    /// [`LinkSpec::MAX_BLOCK_TIMEOUT`]; none, and 0, is without end.
    pub block_timeout: Option<Millis>,
    /// How many of the last messages a receiver gets that comes later, up to
    /// [`LinkSpec::MAX_HISTORY`]; none is 0. Not for datagrams.
    pub history: Option<u32>,
    /// Which way its messages are to go; none is [`Transport::Auto`].
    pub transport: Option<Transport>,
    /// For how many microseconds an end that waits keeps a processor busy before it sleeps, with
    /// [`Transport::Shm`]; at most [`LinkSpec::MAX_SPIN_US`]. None is 0.
    pub spin_us: Option<u32>,
}

impl LinkSpec {
    /// The default of `capacity`.
    pub const DEFAULT_CAPACITY: u32 = 1024;
    /// The largest `capacity`.
    pub const MAX_CAPACITY: u32 = 1 << 20;
    /// The longest `block_timeout`: a day.
    pub const MAX_BLOCK_TIMEOUT: Millis = Millis::secs(86_400);
    /// The largest `history`.
    pub const MAX_HISTORY: u32 = 65_536;
    /// The largest `spin_us`: 10 ms.
    pub const MAX_SPIN_US: u32 = 10_000;
    /// The longest `type_name`, bytes.
    pub const MAX_TYPE_NAME: usize = 255;
}

/// Who gets a link's messages.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetSpec {
    /// An instance of this daemon.
    Instance(Selector),
    /// Another orchestrator's datagram socket, `HOST:PORT`. Unauthenticated and lossy.
    Udp(String),
}

impl FromStr for TargetSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("udp:") {
            None if text.is_empty() => {
                Err("an empty target; give an instance or udp:HOST:PORT".into())
            }
            None => Ok(Self::Instance(text.into())),
            Some(address) => match address.rsplit_once(':') {
                Some((host, port))
                    if !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0) =>
                {
                    Ok(Self::Udp(address.to_owned()))
                }
                _ => Err(format!("{text:?} is not a target; write udp:HOST:PORT")),
            },
        }
    }
}

/// What a link does with a message when its queue is full.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// The sender waits; nothing is dropped. A sender that can't be made to wait (an existing
    /// Veecle OS runtime, a datagram) is served as under `drop-newest`.
    Block,
    /// The new message is dropped.
    DropNewest,
    /// The message that waited longest is dropped.
    #[default]
    DropOldest,
    /// Only the newest message is kept: a capacity of one.
    Latest,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Block => "block",
            Self::DropNewest => "drop-newest",
            Self::DropOldest => "drop-oldest",
            Self::Latest => "latest",
        })
    }
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "block" => Ok(Self::Block),
            "drop-newest" => Ok(Self::DropNewest),
            "drop-oldest" => Ok(Self::DropOldest),
            "latest" => Ok(Self::Latest),
            other => Err(format!(
                "{other:?} is not a policy; use block, drop-newest, drop-oldest or latest"
            )),
        }
    }
}

/// Which messages to watch.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TapFilter {
    /// Only this type.
    pub type_name: Option<String>,
    /// Only from this instance.
    pub from: Option<Selector>,
}
