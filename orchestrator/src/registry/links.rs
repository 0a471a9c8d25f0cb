//! Links as clients speak of them.

use std::sync::{Arc, Weak};

use orchestrator_proto::control::{
    EventKind, LinkInfo, LinkSpec, LinkState, TargetInfo, TargetSpec,
};
use orchestrator_proto::{ErrorCode, InstanceId, LinkId, WireError};

use super::{Registry, shorten};
use crate::events::EventLog;
use crate::route::{Link, LinkRequest, LinkTarget, Mailbox, Surroundings};
use crate::runtime::Peers;

/// Mismatched links that are listed with their schemas side by side, so that a list fits a
/// frame.
const MAX_WITH_SCHEMAS: usize = 100;

/// What the router tells and needs.
pub(super) struct Around {
    registry: Weak<Registry>,
    events: Arc<EventLog>,
    peers: Peers,
}

impl Around {
    pub(super) fn new(registry: Weak<Registry>, events: Arc<EventLog>, peers: Peers) -> Self {
        Self { registry, events, peers }
    }
}

impl Surroundings for Around {
    fn link_mismatched(&self, link: LinkId, from: Option<InstanceId>, error: &WireError) {
        let registry = self.registry.upgrade();
        let name = from.and_then(|from| registry.and_then(|registry| registry.name_of(from)));
        let kind = EventKind::LinkMismatched { link, error: error.to_string() };
        self.events.record(from, name.as_deref(), kind);
    }

    fn messages_lost(&self, link: LinkId, from: InstanceId, count: u64) {
        let name = self.registry.upgrade().and_then(|registry| registry.name_of(from));
        let kind = EventKind::MessagesLost { link, count };
        self.events.record(Some(from), name.as_deref(), kind);
    }

    fn open_peer(&self, address: &str, mailbox: &Arc<Mailbox>) {
        self.peers.open(address, mailbox);
    }

    fn close_peer(&self, address: &str) {
        self.peers.close(address);
    }
}

impl Registry {
    /// Makes a link; the answer says whether it is new.
    ///
    /// # Errors
    ///
    /// When an end does not exist, a value is out of bounds, or the two ends disagree.
    pub fn add_link(&self, spec: &LinkSpec) -> Result<(LinkId, bool), WireError> {
        self.check_open()?;
        let invalid = |message| WireError::new(ErrorCode::InvalidArgument, message);
        if spec.type_name.is_empty() || spec.type_name.len() > LinkSpec::MAX_TYPE_NAME {
            return Err(invalid(format!(
                "a type name has 1 to {} bytes; {} has not",
                LinkSpec::MAX_TYPE_NAME,
                shorten(&spec.type_name)
            )));
        }
        let capacity = spec.capacity.unwrap_or(LinkSpec::DEFAULT_CAPACITY);
        if !(1..=LinkSpec::MAX_CAPACITY).contains(&capacity) {
            return Err(invalid(format!(
                "a capacity of {capacity}; it must be 1 to {}",
                LinkSpec::MAX_CAPACITY
            )));
        }
        let from = spec.from.as_ref().map(|from| self.find(from)).transpose()?;
        let to = match &spec.to {
            TargetSpec::Instance(to) => LinkTarget::Instance(self.find(to)?.id),
            TargetSpec::Udp(address) => {
                format!("udp:{address}").parse::<TargetSpec>().map_err(invalid)?;
                LinkTarget::Udp(address.as_str().into())
            }
        };
        let request = LinkRequest {
            from: from.as_ref().map(|from| from.id),
            type_name: spec.type_name.as_str().into(),
            to,
            policy: spec.policy.unwrap_or_default(),
            capacity,
        };
        let (link, created) = self.router.add_link(&request)?;
        if created {
            let sender = from.as_ref().map_or("anybody".to_owned(), |from| from.label());
            let description =
                format!("{} from {sender} to {}", spec.type_name, self.target_label(&request.to));
            let kind = EventKind::LinkAdded { link, description };
            let name = from.as_ref().and_then(|from| from.name.as_deref());
            self.events.record(request.from, name, kind);
        }
        Ok((link, created))
    }

    /// Removes a link; the answer is how many messages waited in it.
    ///
    /// # Errors
    ///
    /// When there is no such link.
    pub fn remove_link(&self, link: LinkId) -> Result<u64, WireError> {
        let discarded = self.router.remove_link(link)?;
        self.events.record(None, None, EventKind::LinkRemoved { link });
        Ok(discarded)
    }

    /// All links, by id.
    #[must_use]
    pub fn list_links(&self) -> Vec<LinkInfo> {
        let mut with_schemas = MAX_WITH_SCHEMAS;
        let links = self.router.links();
        let infos = links.iter().map(|link| {
            let mut info = self.link_info(link);
            if let LinkState::Mismatched { error } = &mut info.state {
                if with_schemas == 0 {
                    error.causes.clear();
                }
                with_schemas = with_schemas.saturating_sub(1);
            }
            info
        });
        infos.collect()
    }

    fn link_info(&self, link: &Link) -> LinkInfo {
        LinkInfo {
            id: link.id,
            from: link.from,
            from_name: link.from.and_then(|from| self.name_of(from)),
            type_name: link.type_name.to_string(),
            to: match &link.to {
                LinkTarget::Instance(id) => {
                    TargetInfo::Instance { id: *id, name: self.name_of(*id) }
                }
                LinkTarget::Udp(address) => TargetInfo::Udp { address: address.to_string() },
            },
            policy: link.policy,
            capacity: link.capacity,
            state: match link.mismatch() {
                None => LinkState::Open,
                Some(error) => LinkState::Mismatched { error },
            },
            counters: link.counters(),
        }
    }

    fn target_label(&self, target: &LinkTarget) -> String {
        match target {
            LinkTarget::Instance(id) => match self.name_of(*id) {
                Some(name) => format!("{name} ({id})"),
                None => id.to_string(),
            },
            LinkTarget::Udp(address) => format!("udp:{address}"),
        }
    }
}
