//! PURE: what was lost in the death of a former daemon.
//!
//! Senders that number their messages and receivers that recognise them outlive a daemon. When
//! both have come to the next one, the sender says with which number it goes on, and the receiver
//! which number it expects: what lies between was sent and never arrived. That is known once for
//! each link and process of the sender, whichever of the two comes first.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use orchestrator_proto::control::Policy;
use orchestrator_proto::runtime::Sender;
use orchestrator_proto::{InstanceId, LinkId};

use super::link::{Link, LinkTarget};
use super::message::Numbering;

/// Outputs of which it is remembered how they began here. The oldest make room.
const MAX_BEGINNINGS: usize = 4096;
/// What receivers said and could not be compared yet. What comes beyond that is not compared.
const MAX_EXPECTED: usize = 16_384;

/// How each output began with this daemon, and what receivers expect.
#[derive(Default)]
pub(super) struct Interruptions {
    begun: VecDeque<Beginning>,
    expected: HashMap<Expecting, u64>,
}

/// The first connection of an output with this daemon. Later ones are no sign of anything.
struct Beginning {
    from: InstanceId,
    type_name: Arc<str>,
    numbering: Numbering,
    /// Links whose messages go elsewhere, and did while there was no daemon.
    elsewhere: Vec<LinkId>,
    /// The links for which it was compared.
    compared: Vec<Arc<Link>>,
}

/// What a receiver has had of whom.
#[derive(PartialEq, Eq, Hash)]
struct Expecting {
    to: InstanceId,
    type_name: Arc<str>,
    sender: Sender,
}

/// Messages of a link that were lost.
#[must_use]
pub(super) struct Loss {
    pub(super) link: Arc<Link>,
    pub(super) from: InstanceId,
    pub(super) count: u64,
}

impl Interruptions {
    /// An output begins. Of the links whose messages go elsewhere nothing can be lost here.
    pub(super) fn begins(
        &mut self,
        from: InstanceId,
        type_name: &Arc<str>,
        numbering: Numbering,
        elsewhere: &[LinkId],
    ) {
        let known = self.begun.iter().any(|beginning| {
            beginning.from == from
                && beginning.numbering.epoch == numbering.epoch
                && beginning.type_name == *type_name
        });
        if known {
            return;
        }
        if self.begun.len() >= MAX_BEGINNINGS {
            self.begun.pop_front();
        }
        let (type_name, compared) = (type_name.clone(), Vec::new());
        let elsewhere = elsewhere.to_vec();
        self.begun.push_back(Beginning { from, type_name, numbering, elsewhere, compared });
    }

    /// A receiver has had all messages of this sender below `next`.
    pub(super) fn expects(
        &mut self,
        to: InstanceId,
        type_name: &Arc<str>,
        sender: Sender,
        next: u64,
    ) {
        let expecting = Expecting { to, type_name: type_name.clone(), sender };
        if self.expected.len() < MAX_EXPECTED || self.expected.contains_key(&expecting) {
            self.expected.insert(expecting, next);
        }
    }

    /// An instance is gone for good.
    pub(super) fn forget(&mut self, instance: InstanceId) {
        self.begun.retain(|beginning| beginning.from != instance);
        self.expected.retain(|expecting, _| {
            expecting.to != instance && expecting.sender.instance != instance
        });
    }

    /// Compares what is known for these links.
    pub(super) fn losses(&mut self, links: &[Arc<Link>]) -> Vec<Loss> {
        if self.expected.is_empty() {
            return Vec::new();
        }
        let mut losses = Vec::new();
        for link in links {
            let LinkTarget::Instance(to) = link.to else { continue };
            for beginning in &mut self.begun {
                let Beginning { from, type_name, numbering, elsewhere, compared } = beginning;
                let is_theirs = *type_name == link.type_name
                    && link.from.is_none_or(|only| only == *from)
                    && !compared.iter().any(|other| Arc::ptr_eq(other, link));
                if !is_theirs {
                    continue;
                }
                let sender = Sender {
                    epoch: numbering.epoch,
                    instance: *from,
                    anybody: link.from.is_none(),
                };
                let expecting = Expecting { to, type_name: type_name.clone(), sender };
                let Some(expected) = self.expected.remove(&expecting) else { continue };
                compared.push(link.clone());
                if elsewhere.contains(&link.id) {
                    continue;
                }
                let again = if link.rules().policy == Policy::Block { 0 } else { numbering.again };
                let count = (numbering.first + again).saturating_sub(expected);
                if count > 0 {
                    losses.push(Loss { link: link.clone(), from: *from, count });
                }
            }
        }
        losses
    }
}
