//! The two kinds of ends that a channel can have on this side.

use std::sync::Arc;

use super::input::Queue;
use super::kept::{Demand, Kept};
use super::lane::{Incoming, Outgoing};

/// An output: what was sent, what may be, and by which ways it goes.
pub(super) struct Sending {
    pub(super) kept: Kept,
    pub(super) lanes: Vec<Outgoing>,
    /// Lanes whose ends are being fetched.
    pub(super) claiming: Vec<u64>,
    /// Lanes that were left, until the daemon has taken note; with the number of the first message
    /// that it answers for then.
    returning: Vec<(u64, u64)>,
    /// Whether the daemon gets the messages too.
    pub(super) is_wanted: bool,
    /// Whether the time of sending stands behind each message.
    pub(super) is_stamped: bool,
}

/// What became of messages that were offered to an output.
pub(super) struct Taken {
    pub(super) bytes: usize,
    pub(super) messages: u64,
}

impl Sending {
    pub(super) fn new(is_stamped: bool) -> Self {
        Self {
            kept: Kept::default(),
            lanes: Vec::new(),
            claiming: Vec::new(),
            returning: Vec::new(),
            is_wanted: true,
            is_stamped,
        }
    }

    /// The number of the first message that some lane may need again.
    pub(super) fn lanes_need(&self) -> Option<u64> {
        let returning = self.returning.iter().map(|(_, from)| *from);
        self.lanes.iter().filter_map(Outgoing::needs).chain(returning).min()
    }

    /// Takes as many of these new messages as all have room for, and sends them over the lanes. What
    /// the daemon gets is left to the caller.
    pub(super) fn take(&mut self, frames: &[u8], messages: u64) -> Taken {
        let next = self.kept.next();
        let room = self.lanes.iter().map(|lane| lane.room(next)).min().unwrap_or(u64::MAX);
        let demand = Demand { daemon: self.is_wanted, room, lanes: self.lanes_need() };
        let (bytes, messages) = self.kept.take(frames, messages, demand);
        if messages > 0 {
            for lane in &mut self.lanes {
                lane.send(&self.kept, &frames[..bytes], next, messages);
            }
        }
        Taken { bytes, messages }
    }

    /// A lane needs less than before.
    pub(super) fn settle(&mut self) {
        let need = self.lanes_need();
        self.kept.settle(need);
    }

    /// The daemon sets the limit.
    pub(super) fn granted(&mut self, total: u64) {
        let need = self.lanes_need();
        self.kept.granted(total, need);
    }

    /// The daemon acknowledges so many. False if they were never sent.
    pub(super) fn acknowledged(&mut self, total: u64) -> bool {
        let need = self.lanes_need();
        self.kept.acknowledged(total, need)
    }

    /// So many were sent again.
    pub(super) fn wrote(&mut self, count: u64) {
        let need = self.lanes_need();
        self.kept.wrote(count, need);
    }

    /// A lane of this output.
    pub(super) fn lane(&mut self, lane: u64) -> Option<(&mut Outgoing, &Kept)> {
        let outgoing = self.lanes.iter_mut().find(|outgoing| outgoing.lane() == lane)?;
        Some((outgoing, &self.kept))
    }

    /// Takes a lane out of use. The daemon answers for what it may need again, as soon as it has
    /// taken note.
    pub(super) fn take_out(&mut self, lane: u64) -> Option<Outgoing> {
        let at = self.lanes.iter().position(|outgoing| outgoing.lane() == lane)?;
        let outgoing = self.lanes.remove(at);
        if let Some(from) = outgoing.needs() {
            self.returning.push((lane, from));
        }
        Some(outgoing)
    }

    /// The daemon has taken note that the lane was left.
    pub(super) fn gone(&mut self, lane: u64) {
        let Some(at) = self.returning.iter().position(|(id, _)| *id == lane) else { return };
        let (_, from) = self.returning.remove(at);
        self.kept.take_over(from);
    }

    /// The connection is over, and with it what the daemon would have taken note of: the next one
    /// gets what it did not acknowledge.
    pub(super) fn detached(&mut self) {
        self.claiming.clear();
        for (_, from) in std::mem::take(&mut self.returning) {
            self.kept.take_over(from);
        }
    }
}

/// An input: where its messages go, and what feeds it beside the daemon.
pub(super) struct Receiving {
    pub(super) queue: Arc<Queue>,
    pub(super) lanes: Vec<Incoming>,
    /// Lanes whose ends are being fetched.
    pub(super) claiming: Vec<u64>,
}

impl Receiving {
    pub(super) fn new(queue: Arc<Queue>) -> Self {
        Self { queue, lanes: Vec::new(), claiming: Vec::new() }
    }
}
