//! What the frames of lanes speak of: what messages go through, and what passed.

use serde::{Deserialize, Serialize};

/// What the messages of a lane go through.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Medium {
    /// The socket pair.
    Socket,
    /// Memory that both ends share; only to who has said that it takes it.
    Memory {
        /// For how many microseconds an end that waits keeps a processor busy before it sleeps.
        spin_us: u32,
    },
}

/// What passed over a lane, as one of its ends counts it, messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Passed {
    /// That were to go over it. Of a receiver: as `delivered`.
    pub sent: u64,
    /// That the kernel took. Of a receiver: that it read.
    pub delivered: u64,
    /// That had to give way, as the link's policy says.
    pub dropped: u64,
    /// That went back to the daemon, when the lane was left.
    pub returned: u64,
    /// All messages of the output by then, counted from the beginning of the connection to the
    /// daemon, by whichever way they go. Of a receiver: 0.
    pub output: u64,
}

impl Passed {
    /// Messages that wait at the sender.
    #[must_use]
    pub const fn queued(&self) -> u64 {
        let gone = self.delivered.saturating_add(self.dropped).saturating_add(self.returned);
        self.sent.saturating_sub(gone)
    }
}
