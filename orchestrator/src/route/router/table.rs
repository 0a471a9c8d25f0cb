//! What the router knows: the links, and what is known of their ends.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use orchestrator_proto::runtime::Direction;
use orchestrator_proto::{InstanceId, LinkId, WireError};

use super::LinkRequest;
use crate::route::calls::Exchange;
use crate::route::decl::TypeDecl;
use crate::route::interruption::Interruptions;
use crate::route::link::{Link, LinkTarget};
use crate::route::mailbox::Mailbox;
use crate::route::source::Source;
use crate::route::types::{self, TellType, Types};

#[derive(Default)]
pub(super) struct Table {
    pub(super) last_id: u64,
    pub(super) links: BTreeMap<LinkId, Arc<Link>>,
    pub(super) by_type: HashMap<Arc<str>, Vec<Arc<Link>>>,
    pub(super) sources: Vec<Weak<Source>>,
    pub(super) instances: HashMap<InstanceId, Ends>,
    pub(super) peers: HashMap<Arc<str>, Arc<Mailbox>>,
    pub(super) interruptions: Interruptions,
    /// Calls by their type, as long as anybody has an end of them.
    pub(super) exchanges: HashMap<Arc<str>, Weak<Exchange>>,
}

/// What is known of an instance as an end of links.
#[derive(Default)]
pub(super) struct Ends {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) types: Types,
}

impl Table {
    pub(super) fn declare(
        &mut self,
        instance: InstanceId,
        direction: Direction,
        decl: &Arc<TypeDecl>,
    ) -> Option<(TellType, bool)> {
        self.instances.get_mut(&instance)?.types.declare(direction, decl)
    }

    pub(super) fn find(&self, request: &LinkRequest) -> Option<&Arc<Link>> {
        let links = self.by_type.get(&request.type_name)?;
        links.iter().find(|link| link.from == request.from && link.to == request.to)
    }

    /// Lets every source know which links there are for this type.
    pub(super) fn refresh(&mut self, type_name: &Arc<str>) {
        let links = self.by_type.get(type_name).map(Vec::as_slice).unwrap_or_default();
        self.sources.retain(|source| {
            source.upgrade().inspect(|source| source.refresh(type_name, links)).is_some()
        });
        if let Some(exchange) = self.exchanges.get(type_name).and_then(Weak::upgrade) {
            exchange.set_links(links);
        }
    }

    /// How the declared ends of a link disagree, with both schemas.
    pub(super) fn mismatch(&self, link: &Link) -> Option<WireError> {
        let LinkTarget::Instance(to) = &link.to else {
            return None;
        };
        let input = self.instances.get(to)?.types.input(&link.type_name)?;
        let senders: Box<dyn Iterator<Item = (&InstanceId, &Ends)>> = match &link.from {
            Some(from) => Box::new(self.instances.get_key_value(from).into_iter()),
            None => Box::new(self.instances.iter()),
        };
        senders
            .filter_map(|(id, ends)| Some((id, &**ends.types.output(&link.type_name)?)))
            .find_map(|output| types::mismatch(output, (to, input)))
    }
}

impl Link {
    pub(super) fn touches(&self, instance: InstanceId) -> bool {
        self.from == Some(instance) || self.to == LinkTarget::Instance(instance)
    }
}
