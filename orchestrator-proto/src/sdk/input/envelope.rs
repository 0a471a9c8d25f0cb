//! A message with what is known about it.

use std::fmt;
use std::time::{Instant, SystemTime};

use super::arrivals::{From, Known};
use crate::InstanceId;

/// A message, and what is known about it beside its content: from
/// [`Input::recv_envelope`](super::Input::recv_envelope).
///
/// When it was *sent* is known if its sender says so, see
/// [`Runtime::stamped_output`](crate::sdk::Runtime::stamped_output).
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Envelope<T> {
    /// What was sent.
    pub message: T,
    /// The instance that sent it. None if its sender does not number its messages: those of the
    /// Veecle dialect and datagrams, of clients (`link send`), and of replayed recordings.
    pub sender: Option<InstanceId>,
    /// Counted by the sender's process, over all messages of this type that it sends, from 0 on. None
    /// where [`sender`](Self::sender) is.
    pub number: Option<u64>,
    /// How many messages of this sender's process, right before this one, never come: they were
    /// dropped as the link's policy says (also because they could not be put into a form that this
    /// input takes), lost with a daemon, or sent while the link was removed.
    ///
    /// None where it can't be known: for the first message from a process of a sender over a link
    /// (of 4,096 senders the one that was silent for longest is forgotten), and where
    /// [`sender`](Self::sender) is. What is dropped *after* the last message that comes is not seen
    /// here; `link list` tells of it.
    pub missed: Option<u64>,
    /// When it arrived, by the monotonic clock (`CLOCK_MONOTONIC`): for how long it has waited in this
    /// program. It is stamped by the connection's task, which takes in many messages with one read;
    /// these have one stamp. A task that has to wait for its turn, since others keep the runtime's
    /// threads busy, is late with it.
    pub arrived: Instant,
    /// The same moment by the clock on the wall (`CLOCK_REALTIME`): for logs, and to compare with
    /// others. It jumps when that clock is set.
    pub arrived_at: SystemTime,
    /// When it was sent, by the sender's clock on the wall: when the program called what sends it, also if it
    /// then had to wait. None if its sender does not say.
    pub sent: Option<SystemTime>,
}

impl<T> Envelope<T> {
    pub(super) fn new(message: T, known: Known) -> Self {
        let Known { from, stamp, sent } = known;
        Self {
            message,
            sender: from.map(|from| from.sender),
            number: from.map(|from| from.number),
            missed: from.and_then(|From { missed, .. }| missed),
            arrived: stamp.instant,
            arrived_at: stamp.time,
            sent,
        }
    }

    /// The same envelope around something else.
    pub fn map<U>(self, then: impl FnOnce(T) -> U) -> Envelope<U> {
        let Self { message, sender, number, missed, arrived, arrived_at, sent } = self;
        Envelope { message: then(message), sender, number, missed, arrived, arrived_at, sent }
    }
}

impl<T: fmt::Debug> fmt::Debug for Envelope<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope")
            .field("message", &self.message)
            .field("sender", &self.sender)
            .field("number", &self.number)
            .field("missed", &self.missed)
            .field("arrived_at", &self.arrived_at)
            .field("sent", &self.sent)
            .finish_non_exhaustive()
    }
}
