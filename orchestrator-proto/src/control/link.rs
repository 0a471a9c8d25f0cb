//! What a daemon reports about its links.

use serde::{Deserialize, Serialize};

use super::spec::Policy;
use super::transport::{Transport, Way};
use crate::Millis;
use crate::error::WireError;
use crate::id::{InstanceId, LinkId};

/// One link.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LinkInfo {
    /// Its id.
    pub id: LinkId,
    /// Whose messages; none means anybody's, or, if there is a name, those of a set of replicas.
    pub from: Option<InstanceId>,
    /// The name of the sender, or of the set, if it has one.
    pub from_name: Option<String>,
    /// The type of its messages.
    pub type_name: String,
    /// Who gets them.
    pub to: TargetInfo,
    /// What it does when its queue is full.
    pub policy: Policy,
    /// Messages that may wait. Under `block`: from each sender.
    pub capacity: u32,
    /// Whether messages can pass.
    pub state: LinkState,
    /// What passed.
    pub counters: Counters,
    /// The link from or to a set of replicas that it belongs to, and goes with. What that one shows
    /// is what all of its links show together.
    pub part_of: Option<LinkId>,
    /// How long its senders are held back under `block`; 0 is without end.
    pub block_timeout: Millis,
    /// How many of the last messages a receiver gets that comes later.
    pub history: u32,
    /// Which way its messages are to go.
    pub transport: Transport,
    /// Which way they go now. Of a link from or to a set of replicas: the way that all of its links
    /// share, else through the daemon.
    pub way: Way,
    /// Why they don't go directly, as a sentence; none if they do, or if there is nothing to say.
    pub why: Option<String>,
    /// What became of the calls over it; none if it carries messages.
    pub calls: Option<CallCounters>,
    /// For how many microseconds an end that waits keeps a processor busy before it sleeps, with
    /// [`Transport::Shm`].
    pub spin_us: u32,
    /// How many of the messages sent went directly, so that this and what became of them is as the two
    /// ends say. The others were counted by the daemon.
    pub reported: u64,
}

/// Who gets a link's messages.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetInfo {
    /// An instance.
    Instance {
        /// Its id.
        id: InstanceId,
        /// Its name, if it has one.
        name: Option<String>,
    },
    /// Another orchestrator's datagram socket.
    Udp {
        /// `HOST:PORT`.
        address: String,
    },
    /// Each replica of a set: each gets each message.
    Set {
        /// The name of the set.
        name: String,
    },
}

/// Whether a link carries messages.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkState {
    /// It carries messages as they come.
    Open,
    /// Two ends don't agree on what a message is. Messages of a sender that does not agree with
    /// the receiver are dropped and counted as `untranslatable`.
    Mismatched {
        /// What differs, field by field, and the two schemas side by side.
        error: WireError,
    },
}

/// What passed over a link. `sent = delivered + dropped + queued`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Messages that the senders gave to the link.
    pub sent: u64,
    /// Messages that the kernel took for the receiver, completely.
    pub delivered: u64,
    /// Messages that were given up, whatever the reason.
    pub dropped: u64,
    /// Messages that wait.
    pub queued: u64,
    /// Why messages were dropped.
    pub drops: Drops,
    /// When the last message was sent, milliseconds since 1970 (UTC).
    pub last_ms: Option<u64>,
    /// Messages that were delivered again to a receiver that came later; they count in no other
    /// counter a second time.
    pub replayed: u64,
}

/// What became of the calls over a link. `calls = replies + failed + in_flight`. They are counted
/// from when the link was made, and anew by each daemon.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CallCounters {
    /// Calls that were given to the service over this link, and those that could have been but were
    /// given to nobody; these count on the first of the links that they could have taken.
    pub calls: u64,
    /// Calls with a reply.
    pub replies: u64,
    /// Calls that ended without.
    pub failed: u64,
    /// Calls that the service has not answered.
    pub in_flight: u64,
}

/// Why messages were dropped.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Drops {
    /// There was no room.
    pub full: u64,
    /// Too long for the receiver: 2,048 bytes for an existing Veecle OS runtime or a datagram.
    pub too_long: u64,
    /// They could not be put into the receiver's encoding, or the link was mismatched.
    pub untranslatable: u64,
    /// The network refused them.
    pub failed: u64,
    /// Their sender was held back for as long as it is at most, and there was no room.
    pub timed_out: u64,
    /// They went directly, and no receiver has read them: they were with their sender when it ended,
    /// or it says that it had delivered them and its receiver that it had not.
    pub lost: u64,
}

impl Drops {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.full + self.too_long + self.untranslatable + self.failed + self.timed_out + self.lost
    }
}
