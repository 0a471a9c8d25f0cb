//! What the daemon and the capture process say to each other.
//!
//! A connection is a `SOCK_SEQPACKET` socket. Each side begins with a [`Hello`], whose form
//! never changes; the two then speak the newest version that both know. Everything after that
//! is one postcard value for each datagram, of at most [`MAX_DATAGRAM`] bytes: an [`Order`]
//! in one direction, a [`Report`] in the other. Whoever receives what is none of these closes
//! the connection, and nothing else.
//!
//! The capture process outlives the daemon, so that an old one meets a newer daemon: within a
//! version nothing is changed, not even added to.

use orchestrator_proto::control::LogStream;
use orchestrator_proto::{InstanceId, OsBytes};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::file::Position;
use super::rules::Rules;
use super::{LogStats, MAX_TEXT};

/// The most bytes of one datagram: 64 KiB.
pub(super) const MAX_DATAGRAM: usize = 64 << 10;
/// The most bytes of texts that are put into one [`Order::Append`], with [`TEXT_COST`] for each.
pub(super) const MAX_APPEND: usize = 56 << 10;
/// What a text takes besides its bytes, at most.
pub(super) const TEXT_COST: usize = 16;
/// The most bytes of a path or of an error in words; the rest is cut off.
pub(super) const MAX_WORDS: usize = 4096;
/// The most runs of one instance whose pipes are read at once: 32. Only instances that leave
/// processes behind have more than one.
pub(super) const MAX_RUNS: usize = 32;

/// The oldest and the newest version that this program speaks.
pub(super) const VERSIONS: (u16, u16) = (2, 2);

const HELLO: &[u8; 8] = b"orch-cap";
const REFUSAL: &[u8; 8] = b"orch-no!";

/// The first datagram of each side: eight bytes `orch-cap`, then little-endian the oldest and
/// the newest version (u16), the process id (u32) and when the process began (u64, nanoseconds
/// since 1970), the version of its program (its length in a byte, and UTF-8). More may follow one
/// day, and is ignored. Instead the capture process may answer `orch-no!` and why, in UTF-8.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Hello {
    /// The versions that this side speaks.
    pub(super) versions: (u16, u16),
    pub(super) process: ProcessId,
    /// The version of its program; none if it does not say.
    pub(super) program: Option<String>,
}

/// The version of this program.
pub(super) fn program() -> Option<String> {
    Some(env!("CARGO_PKG_VERSION").to_owned())
}

/// Tells one capture process from every other.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct ProcessId {
    pub(super) pid: u32,
    pub(super) began_ns: u64,
}

impl Hello {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = HELLO.to_vec();
        bytes.extend(self.versions.0.to_le_bytes());
        bytes.extend(self.versions.1.to_le_bytes());
        bytes.extend(self.process.pid.to_le_bytes());
        bytes.extend(self.process.began_ns.to_le_bytes());
        let program = self.program.as_deref().unwrap_or_default().as_bytes();
        let len = u8::try_from(program.len()).unwrap_or(u8::MAX);
        bytes.push(len);
        bytes.extend(&program[..usize::from(len)]);
        bytes
    }

    /// # Errors
    ///
    /// A sentence: what the other side said instead.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        if let Some(why) = bytes.strip_prefix(REFUSAL) {
            return Err(String::from_utf8_lossy(cut(why)).into_owned());
        }
        let parts = bytes.strip_prefix(HELLO).and_then(|rest| {
            let (oldest, rest) = rest.split_first_chunk()?;
            let (newest, rest) = rest.split_first_chunk()?;
            let (pid, rest) = rest.split_first_chunk()?;
            let (began, rest) = rest.split_first_chunk()?;
            let program = rest
                .split_first()
                .and_then(|(len, rest)| std::str::from_utf8(rest.get(..usize::from(*len))?).ok());
            let program = program.filter(|text| !text.is_empty()).map(str::to_owned);
            let versions = (u16::from_le_bytes(*oldest), u16::from_le_bytes(*newest));
            let process =
                ProcessId { pid: u32::from_le_bytes(*pid), began_ns: u64::from_le_bytes(*began) };
            Some(Self { versions, process, program })
        });
        parts.ok_or_else(|| "it does not speak the protocol of capture".to_owned())
    }

    /// The version to be spoken.
    ///
    /// # Errors
    ///
    /// A sentence, when there is none that both sides know.
    pub(super) fn agree(ours: (u16, u16), theirs: (u16, u16)) -> Result<u16, String> {
        let version = ours.1.min(theirs.1);
        if version >= ours.0 && version >= theirs.0 {
            return Ok(version);
        }
        Err(format!(
            "the capture process and the daemon are too far apart in age: versions {} to {} of \
             their protocol are spoken here, {} to {} there",
            ours.0, ours.1, theirs.0, theirs.1
        ))
    }
}

/// Says no to a hello.
pub(super) fn refusal(why: &str) -> Vec<u8> {
    [REFUSAL, cut(why.as_bytes())].concat()
}

/// What the daemon wants. All about one log is carried out in its order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Opens a log, or joins one that is open already, whose rules are these from then on.
    /// Answered by [`Report::Opened`] or [`Report::Failed`].
    Open { instance: InstanceId, dir: OsBytes, rules: Rules },
    /// Reads two pipes to their ends: the files of this datagram are the reading ends of the
    /// standard output and the standard error of one run of an instance. A run that this
    /// process has, or has had, is not attached again. Answered by [`Report::Refused`] if it
    /// can't be done, else not.
    Attach {
        instance: InstanceId,
        run: u64,
        /// Another process may have read from these pipes; the log is to say so.
        again: bool,
    },
    /// Adds lines, and counts some as lost.
    Append { instance: InstanceId, texts: Vec<Text>, dropped: Vec<Dropped> },
    /// One [`Report::Progress`] is wanted when the log ends beyond this. Replaces the one before.
    Watch { instance: InstanceId, beyond: Position },
    /// One [`Report::Progress`] with at least this number in it is wanted, as soon as all that is
    /// in the log's pipes now has been read (at most 1 MiB of each) or nothing can be written.
    Look { instance: InstanceId, number: u64 },
    /// Closes a log: what is in its pipes is written, what comes later is not read. Answered by
    /// [`Report::Closed`], to all that have it open.
    Close { instance: InstanceId },
    /// The logs that are open, with ids above this one. Answered by [`Report::Inventory`].
    Inventory { after: Option<InstanceId> },
    /// Closes all logs, and ends.
    Shutdown,
}

/// What the capture process has to say.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// The log is open.
    Opened { instance: InstanceId, state: State },
    /// It is not; the order may be repeated later.
    Failed { instance: InstanceId, error: String },
    /// How a log stands. Also when the pipes of a run have ended, when writing begins or
    /// ceases to fail, and while it fails.
    Progress { instance: InstanceId, state: State },
    /// The pipes of a run are not read.
    Refused {
        instance: InstanceId,
        run: u64,
        error: String,
        /// Whether it may go well later.
        passing: bool,
    },
    /// Nothing will be written to this log any more.
    Closed { instance: InstanceId, state: State },
    /// Some of the open logs, by ascending id.
    Inventory { logs: Vec<OpenLog>, more: bool },
    /// Something that the daemon's log should say.
    Notice { text: String },
}

/// How a log stands.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub(super) struct State {
    /// Where it ends: all before it are whole records.
    pub(super) end: Position,
    /// The runs whose pipes are being read, at most [`MAX_RUNS`].
    pub(super) runs: Vec<u64>,
    /// How many orders to attach to this log came over this connection.
    pub(super) attached: u64,
    /// The number of the last [`Order::Look`] that came over this connection.
    pub(super) looked: u64,
    pub(super) stats: LogStats,
}

/// A log in an inventory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct OpenLog {
    pub(super) instance: InstanceId,
    pub(super) dir: OsBytes,
    pub(super) end: Position,
    /// The pipes that are being read.
    pub(super) pipes: Vec<(u64, LogStream)>,
}

/// A line or a part of one: at most [`MAX_TEXT`] bytes without a newline.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Text {
    pub(super) time_ns: u64,
    pub(super) stream: LogStream,
    /// Whether it ends a line.
    pub(super) complete: bool,
    pub(super) text: OsBytes,
}

impl Text {
    pub(super) fn is_valid(&self) -> bool {
        self.text.0.len() <= MAX_TEXT && !self.text.0.contains(&b'\n')
    }
}

/// Lines of one stream that found no place where they were to wait.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Dropped {
    pub(super) stream: LogStream,
    pub(super) bytes: u64,
    pub(super) from_ns: u64,
    pub(super) to_ns: u64,
}

/// The datagram for a value.
///
/// # Errors
///
/// When it would be too long; whoever puts values together sees to it that it is not.
pub(super) fn encode(value: &impl Serialize) -> Result<Vec<u8>, postcard::Error> {
    let bytes = postcard::to_stdvec(value)?;
    if bytes.len() > MAX_DATAGRAM {
        return Err(postcard::Error::SerializeBufferFull);
    }
    Ok(bytes)
}

/// The value of a datagram, which must be nothing more.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Some(value),
        _ => None,
    }
}

/// An error with its causes, as one sentence of bounded length.
pub(super) fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some errors repeat their cause.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    while text.len() > MAX_WORDS {
        text.pop();
    }
    text
}

fn cut(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(MAX_WORDS)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_hello_is_as_documented() {
        let process = ProcessId { pid: 0x0403_0201, began_ns: 5 };
        let program = Some("1.2".to_owned());
        let hello = Hello { versions: (1, 0x0203), process, program };
        let bytes = hello.encode();
        let expected = b"orch-cap\x01\x00\x03\x02\x01\x02\x03\x04\x05\0\0\0\0\0\0\0\x031.2";
        assert_eq!(bytes, expected);
        assert_eq!(Hello::decode(&bytes).as_ref(), Ok(&hello));
        assert_eq!(Hello::decode(&[&bytes[..], b"more"].concat()).as_ref(), Ok(&hello));
        for cut in 24..bytes.len() {
            let silent = Hello { program: None, ..hello.clone() };
            assert_eq!(Hello::decode(&bytes[..cut]), Ok(silent));
        }
        assert!(Hello::decode(&bytes[..23]).is_err());
        assert_eq!(Hello::decode(&refusal("too old")), Err("too old".to_owned()));
    }

    #[test]
    fn the_newest_version_that_both_know_is_spoken() {
        assert_eq!(Hello::agree((1, 3), (2, 5)), Ok(3));
        assert_eq!(Hello::agree((2, 5), (1, 3)), Ok(3));
        assert_eq!(Hello::agree((1, 1), (1, 1)), Ok(1));
        let refused = Hello::agree((4, 5), (1, 3)).unwrap_err();
        assert!(refused.contains("4 to 5") && refused.contains("1 to 3"), "{refused}");
        assert!(Hello::agree((1, 3), (4, 5)).is_err());
        // Nonsense is no agreement.
        assert!(Hello::agree((1, 1), (3, 1)).is_err());
    }

    #[test]
    fn the_largest_of_each_kind_fits() {
        let instance = InstanceId::generate();
        let full = Text {
            time_ns: u64::MAX,
            stream: LogStream::Orchestrator,
            complete: true,
            text: OsBytes(vec![b'x'; MAX_TEXT]),
        };
        let empty = Text { text: OsBytes(Vec::new()), ..full.clone() };
        let dropped = Dropped {
            stream: LogStream::Telemetry,
            bytes: u64::MAX,
            from_ns: u64::MAX,
            to_ns: u64::MAX,
        };
        let each = |text: &Text| text.text.0.len() + TEXT_COST;
        for text in [full, empty] {
            let texts = vec![text.clone(); MAX_APPEND / each(&text)];
            let dropped = vec![dropped.clone(); 4];
            assert!(encode(&Order::Append { instance, texts, dropped }).is_ok());
        }
        let stats = LogStats {
            bytes_written: u64::MAX,
            bytes_lost: u64::MAX,
            failing: true,
            blocked: true,
            last_error: Some(crate::logs::WriteError {
                time_ns: u64::MAX,
                message: "x".repeat(MAX_WORDS),
            }),
        };
        let state = State {
            end: Position { number: u64::MAX, offset: u64::MAX },
            runs: vec![u64::MAX; MAX_RUNS],
            attached: u64::MAX,
            looked: u64::MAX,
            stats,
        };
        assert!(encode(&Report::Closed { instance, state }).is_ok());
    }

    proptest! {
        #[test]
        fn arbitrary_datagrams_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Hello::decode(&bytes);
            let _ = decode::<Order>(&bytes);
            let _ = decode::<Report>(&bytes);
        }

        #[test]
        fn a_datagram_is_all_of_a_value(number: u64, more in prop::collection::vec(any::<u8>(), 1..9)) {
            let order = Order::Look { instance: InstanceId::from_bytes([7; 16]), number };
            let mut bytes = encode(&order).unwrap();
            prop_assert_eq!(decode::<Order>(&bytes), Some(order));
            prop_assert_eq!(decode::<Order>(&bytes[..bytes.len() - 1]), None);
            bytes.extend(more);
            prop_assert_eq!(decode::<Order>(&bytes), None);
        }
    }
}
