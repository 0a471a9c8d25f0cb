//! Which links carry calls, and where the calls of each type meet.

use std::sync::{Arc, Weak};

use orchestrator_proto::InstanceId;
use orchestrator_proto::runtime::Direction;

use super::Router;
use crate::route::calls::{Exchange, parts_of_calls};
use crate::route::decl::TypeDecl;
use crate::route::link::{Link, LinkTarget};

impl Router {
    /// The instance declares an end of calls. The answer is where they meet.
    pub(in crate::route) fn declare_calls(
        &self,
        instance: InstanceId,
        direction: Direction,
        decl: &Arc<TypeDecl>,
    ) -> Arc<Exchange> {
        let _in_order = self.declaring();
        let mut table = self.table();
        let links = table.by_type.get(&decl.name).cloned().unwrap_or_default();
        let tell = table.declare(instance, direction, decl);
        if let Some(ends) = table.instances.get(&instance) {
            ends.mailbox.has_changed();
        }
        self.check_links(table, &links);
        if let Some((tell, is_news)) = tell {
            tell(direction, decl, is_news);
        }
        self.exchange(&decl.name)
    }

    /// Where calls of this type meet.
    pub(in crate::route) fn exchange(&self, type_name: &Arc<str>) -> Arc<Exchange> {
        let mut table = self.table();
        if let Some(exchange) = table.exchanges.get(type_name).and_then(Weak::upgrade) {
            return exchange;
        }
        table.exchanges.retain(|_, exchange| exchange.strong_count() > 0);
        let links = table.by_type.get(type_name).map(Vec::as_slice).unwrap_or_default();
        let exchange = Exchange::new(links, self.taps.clone());
        table.exchanges.insert(type_name.clone(), Arc::downgrade(&exchange));
        exchange
    }

    /// Whether a link carries calls, as far as its ends have declared.
    #[must_use]
    pub fn carries_calls(&self, link: &Link) -> bool {
        let table = self.table();
        let types = |id: &InstanceId| table.instances.get(id).map(|ends| &ends.types);
        let of_sender = link.from.as_ref().and_then(types);
        let sent = of_sender.and_then(|types| types.output(&link.type_name));
        let taken = match &link.to {
            LinkTarget::Instance(to) => types(to).and_then(|types| types.input(&link.type_name)),
            LinkTarget::Udp(_) => None,
        };
        sent.or(taken).is_some_and(|decl| parts_of_calls(decl).is_some())
    }
}
