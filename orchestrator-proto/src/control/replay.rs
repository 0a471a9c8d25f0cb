//! Messages of a recording, fed into links in the place of those who sent them.

use serde::{Deserialize, Serialize};

use super::spec::Selector;
use crate::id::{InstanceId, LinkId};

/// Whose messages of which types are to be fed, and over which links they go.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct ReplaySpec {
    /// One for each sender and type, 1 to [`ReplaySpec::MAX_SOURCES`]. A message names it by its
    /// place, from 0.
    pub sources: Vec<ReplaySource>,
    /// Only over these links, whoever they are from. At most [`ReplaySpec::MAX_LINKS`].
    pub links: Vec<LinkId>,
    /// Only over links to this instance, whoever they are from.
    pub to: Option<Selector>,
}

impl ReplaySpec {
    /// The most sources.
    pub const MAX_SOURCES: usize = 256;

    /// The most links that can be named.
    pub const MAX_LINKS: usize = 256;

    /// Feeds of one client that may be under way: not yet answered by [`Fed`]. What exceeds that
    /// waits, and with it everything else of its connection.
    pub const WINDOW: usize = 64;
}

/// One sender's messages of one type.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReplaySource {
    /// In whose place: its id or its name. If there is no such instance, or none is given, they are
    /// nobody's, as those that come from another daemon.
    pub from: Option<Selector>,
    /// The declared name of their type.
    pub type_name: String,
    /// The canonical form of the schema by which they are written; none for JSON in a JSON string.
    #[serde(with = "serde_bytes")]
    pub schema: Option<Vec<u8>>,
}

/// A message to be fed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReplayMessage {
    /// Which [`ReplaySource`].
    pub source: u32,
    /// The payload, as its schema says.
    #[serde(with = "serde_bytes")]
    pub payload: Vec<u8>,
}

/// Where the messages of one source go.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReplayRoute {
    /// In whose place they are sent; none if they are nobody's.
    pub from: Option<InstanceId>,
    /// To how many links. Links that are made later come in addition, unless links were named.
    pub links: u32,
    /// Whether that instance is connected: it may send as well.
    pub is_connected: bool,
}

/// What became of what was fed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Fed {
    /// Feeds that were taken, in all.
    pub feeds: u64,
    /// Messages of them, in all. They are in the queues of their links; what becomes of them there is
    /// in the counters of these.
    pub messages: u64,
    /// Messages among those that no link takes.
    pub unrouted: u64,
}
