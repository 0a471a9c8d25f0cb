//! Messages as they pass, whole and as their senders wrote them, to be kept.

use serde::{Deserialize, Serialize};

use super::spec::Selector;
use crate::id::{InstanceId, LinkId};

/// Which messages are recorded: those over any of `links`, and those of any of `types` from any of
/// `from`. Without any of all three, each.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct RecordFilter {
    /// Of these types; of any if there are none. At most [`RecordFilter::MAX`].
    pub types: Vec<String>,
    /// From these instances; from anybody if there are none. At most [`RecordFilter::MAX`].
    pub from: Vec<Selector>,
    /// Over these links. At most [`RecordFilter::MAX`].
    pub links: Vec<LinkId>,
}

impl RecordFilter {
    /// The most of each.
    pub const MAX: usize = 256;
}

/// One sender's messages of one type, in a recording.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RecordSource {
    /// What its messages refer to it by: 0 for the first of a recording, then 1 and so on.
    pub number: u32,
    /// Who sends them; none when they come from another daemon.
    pub from: Option<InstanceId>,
    /// The sender's name, if it has one.
    pub from_name: Option<String>,
    /// The declared name of their type.
    pub type_name: String,
    /// The canonical form of the schema by which they are written, see
    /// [`TypeSchema::decode`](crate::TypeSchema::decode); none from a Veecle OS runtime, whose
    /// payloads are JSON in a JSON string.
    #[serde(with = "serde_bytes")]
    pub schema: Option<Vec<u8>>,
}

/// A message in a recording.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RecordedMessage {
    /// Of which [`RecordSource`], which came before it.
    pub source: u32,
    /// When it passed, nanoseconds since 1970 (UTC).
    pub time_ns: u64,
    /// The payload, as its sender wrote it.
    #[serde(with = "serde_bytes")]
    pub payload: Vec<u8>,
    /// When it was sent, nanoseconds since 1970 (UTC) by its sender's clock, if its sender says so.
    pub sent_ns: Option<u64>,
}
