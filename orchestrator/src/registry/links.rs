//! Links as clients speak of them.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};

use orchestrator_proto::control::{
    EventKind, LinkInfo, LinkRules, LinkSpec, LinkState, RulesSpec, TargetInfo, TargetSpec,
};
use orchestrator_proto::{ErrorCode, InstanceId, LinkId, WireError};

use super::replicas::Ends;
use super::{Instance, Registry, being_removed, not_stored, shorten};
use crate::events::EventLog;
use crate::route::{
    Cut, Divergence, Link, LinkRequest, LinkTarget, Mailbox, RouteError, Surroundings, TellType,
    TypeDecl, Watched,
};
use crate::runtime::{Lanes, Peers};
use crate::store::{
    Change, Durability, LinkEnd, LinkRecord, SetLinkEnd, SetLinkRecord, StoreError, TypeRecord,
};

/// Mismatched links that are listed with their schemas side by side, so that a list fits a
/// frame.
const MAX_WITH_SCHEMAS: usize = 100;

/// What the router tells and needs.
pub(super) struct Around {
    registry: Weak<Registry>,
    events: Arc<EventLog>,
    peers: Peers,
    lanes: Arc<Lanes>,
}

impl Around {
    pub(super) fn new(
        registry: Weak<Registry>,
        events: Arc<EventLog>,
        peers: Peers,
        lanes: Arc<Lanes>,
    ) -> Self {
        Self { registry, events, peers, lanes }
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

    fn link_diverged(&self, divergence: Divergence) {
        let Divergence { link, from, delivered, read } = divergence;
        let registry = self.registry.upgrade();
        let name = from.and_then(|from| registry.and_then(|registry| registry.name_of(from)));
        let kind = EventKind::LinkDiverged { link, delivered, read };
        self.events.record(from, name.as_deref(), kind);
    }

    fn lane_cut(&self, cut: Cut) {
        let Cut { link, from, queued } = cut;
        let registry = self.registry.upgrade();
        let name = from.and_then(|from| registry.and_then(|registry| registry.name_of(from)));
        self.events.record(from, name.as_deref(), EventKind::LaneCut { link, queued });
    }

    fn open_peer(&self, address: &str, mailbox: &Arc<Mailbox>) {
        self.peers.open(address, mailbox);
    }

    fn close_peer(&self, address: &str) {
        self.peers.close(address);
    }

    fn link_changed(&self, link: &Arc<Link>) {
        if let Some(registry) = self.registry.upgrade() {
            self.lanes.consider(link, registry.router.taps());
        }
    }

    fn link_removed(&self, link: LinkId) {
        self.lanes.link_removed(link);
    }
}

/// When a change is stored, or could not be.
type Stored = Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>;

/// A link as it is.
pub(super) fn kept(link: &Link) -> LinkRecord {
    let request = LinkRequest {
        from: link.from,
        type_name: link.type_name.clone(),
        to: link.to.clone(),
        rules: link.rules(),
    };
    record(link.id, &request)
}

pub(super) fn record(id: LinkId, request: &LinkRequest) -> LinkRecord {
    let LinkRequest { from, type_name, to, rules } = request.clone();
    let to = match to {
        LinkTarget::Instance(id) => LinkEnd::Instance(id),
        LinkTarget::Udp(address) => LinkEnd::Udp(address),
    };
    LinkRecord { id, from, type_name, to, rules }
}

/// A link has these rules now.
pub(super) fn changed_link(link: LinkId, rules: LinkRules) -> EventKind {
    let LinkRules { policy, capacity, block_timeout, history, transport, spin_us } = rules;
    EventKind::LinkChanged { link, policy, capacity, block_timeout, history, transport, spin_us }
}

/// Somebody asks for what is not allowed.
pub(super) fn invalid(message: impl Into<String>) -> WireError {
    WireError::new(ErrorCode::InvalidArgument, message)
}

impl Registry {
    /// Waits until what passed over links is known as it is now, as far as those who send take part
    /// in that.
    pub async fn count_lanes(&self) {
        self.lanes.refresh().await;
    }

    /// Somebody has begun to watch: waits until all that is to be seen passes here, as far as
    /// those that send it take part in that.
    pub async fn watched(&self) {
        self.lanes.watched(&self.router).await;
    }

    /// What an instance has declared to an earlier daemon is known, and what it declares from now
    /// on is stored if it is something else. Each schema that it ever declares is kept.
    pub(super) fn keep_types(&self, id: InstanceId, order: u64, known: Vec<TypeRecord>) {
        let known = known.into_iter().map(|TypeRecord { direction, name, hash, schema, also }| {
            (direction, TypeDecl { also, ..TypeDecl::new(name, Some((hash, schema))) })
        });
        let store = self.store.clone();
        let tell: TellType = Arc::new(move |direction, decl, is_news| {
            if is_news {
                let forms = decl.forms().map(|(_, schema)| &**schema);
                store.note_type(order, direction, &decl.name, forms);
            }
            for (hash, schema) in decl.forms() {
                store.note_schema(&decl.name, *hash, schema);
            }
        });
        self.router.keep_types(id, known, tell);
    }

    /// Makes a link that was there before, under its id.
    pub(super) fn restore_link(&self, record: LinkRecord) -> Result<(), RouteError> {
        let LinkRecord { id, from, type_name, to, rules } = record;
        let to = match to {
            LinkEnd::Instance(id) => LinkTarget::Instance(id),
            LinkEnd::Udp(address) => LinkTarget::Udp(address),
        };
        self.router.set_last_id(LinkId(id.0.saturating_sub(1)));
        let request = LinkRequest { from, type_name, to, rules };
        self.router.restore_link(&request).map(|_| ())
    }

    /// Makes a link; the answer says whether it is new. It is on the disk when this is answered.
    /// To be carried to its end once it is begun.
    ///
    /// # Errors
    ///
    /// When an end does not exist, a value is out of bounds, the two ends disagree, or it can't
    /// be stored.
    pub async fn add_link(self: &Arc<Self>, spec: &LinkSpec) -> Result<(LinkId, bool), WireError> {
        self.check_open()?;
        if self.is_of_set(spec) {
            return self.add_set_link(spec).await;
        }
        if spec.type_name.is_empty() || spec.type_name.len() > LinkSpec::MAX_TYPE_NAME {
            return Err(invalid(format!(
                "a type name has 1 to {} bytes; {} has not",
                LinkSpec::MAX_TYPE_NAME,
                shorten(&spec.type_name)
            )));
        }
        let rules = spec.rules().map_err(invalid)?;
        let from = spec.from.as_ref().map(|from| self.find(from)).transpose()?;
        let (to, receiver) = match &spec.to {
            TargetSpec::Instance(to) => {
                let receiver = self.find(to)?;
                (LinkTarget::Instance(receiver.id), Some(receiver))
            }
            TargetSpec::Udp(address) => {
                format!("udp:{address}").parse::<TargetSpec>().map_err(invalid)?;
                (LinkTarget::Udp(address.as_str().into()), None)
            }
        };
        let request = LinkRequest {
            from: from.as_ref().map(|from| from.id),
            type_name: spec.type_name.as_str().into(),
            to,
            rules,
        };
        let ends = from.iter().chain(receiver.iter());
        let (link, created, stored) = self.begin_link(&request, ends)?;
        if let Err(error) = stored.await {
            if created {
                let _ = self.router.remove_link(link);
            }
            return Err(not_stored("the link was not made".to_owned(), &error));
        }
        if created {
            self.tell_link(&record(link, &request));
        }
        Ok((link, created))
    }

    /// Tells of a link from or to a set that was made.
    pub(super) fn tell_set_link(&self, made: &SetLinkRecord) {
        let label = |end: &SetLinkEnd| match end {
            SetLinkEnd::Set(name) => format!("each replica of {name}"),
            SetLinkEnd::Single(end) => self.label_of(end),
        };
        let sender = made.from.as_ref().map_or_else(|| "anybody".to_owned(), label);
        let description = format!("{} from {sender} to {}", made.type_name, label(&made.to));
        self.events.record(None, None, EventKind::LinkAdded { link: made.id, description });
    }

    fn label_of(&self, end: &LinkEnd) -> String {
        match end {
            LinkEnd::Instance(id) => match self.name_of(*id) {
                Some(name) => format!("{name} ({id})"),
                None => id.to_string(),
            },
            LinkEnd::Udp(address) => format!("udp:{address}"),
        }
    }

    /// Tells of a link that was made.
    pub(super) fn tell_link(&self, made: &LinkRecord) {
        let to = self.label_of(&made.to);
        let sender = made.from.map(|from| self.label_of(&LinkEnd::Instance(from)));
        let sender = sender.unwrap_or_else(|| "anybody".to_owned());
        let description = format!("{} from {sender} to {to}", made.type_name);
        let kind = EventKind::LinkAdded { link: made.id, description };
        let name = made.from.and_then(|from| self.name_of(from));
        self.events.record(made.from, name.as_deref(), kind);
    }

    /// Makes a link and has it stored, in one step: the database sees links that are made and
    /// instances that are removed in the order in which the router does.
    fn begin_link<'a>(
        &self,
        request: &LinkRequest,
        mut ends: impl Iterator<Item = &'a Arc<Instance>>,
    ) -> Result<(LinkId, bool, Stored), WireError> {
        let _in_order = self.link_changes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(end) = ends.find(|end| end.turns.leaving.load(Ordering::Acquire)) {
            return Err(being_removed(end));
        }
        let (link, created) = self.router.add_link(request)?;
        let stored: Stored = if created {
            Box::pin(self.store.change(Change::AddLink(record(link, request))))
        } else {
            // It may be so new that it is not on the disk as yet.
            Box::pin(self.store.commit(Durability::Synced))
        };
        Ok((link, created, stored))
    }

    /// Gives a link other rules while messages pass over it. The
    /// answer is whether anything is different, and how many messages that waited had to give way.
    /// It is on the disk when this is answered. To be carried to its end once it is begun.
    ///
    /// # Errors
    ///
    /// When there is no such link, it carries calls, nothing to change is given, something is out of
    /// bounds, or it can't be stored.
    pub async fn set_link(
        self: &Arc<Self>,
        link: LinkId,
        wishes: RulesSpec,
    ) -> Result<(bool, u64), WireError> {
        self.check_open()?;
        if wishes.is_nothing() {
            return Err(invalid("nothing is given that is to be different"));
        }
        if let Some(done) = self.change_set_link(link, wishes).await? {
            return Ok(done);
        }
        let (before, after, dropped, stored) = self.begin_set(link, wishes)?;
        if let Err(error) = stored.await {
            let _ = self.router.change_link(link, before.rules);
            return Err(not_stored(format!("link {link} was not changed"), &error));
        }
        let changed = before != after;
        if changed {
            self.tell_changed_link(&after);
        }
        Ok((changed, dropped))
    }

    /// As [`begin_link`](Self::begin_link): the link before and after, and how many messages gave
    /// way.
    fn begin_set(
        &self,
        id: LinkId,
        wishes: RulesSpec,
    ) -> Result<(LinkRecord, LinkRecord, u64, Stored), WireError> {
        let _in_order = self.link_changes.lock().unwrap_or_else(PoisonError::into_inner);
        let links = self.router.links();
        let link = links.iter().find(|link| link.id == id).ok_or(RouteError::NoLink(id))?;
        self.check_no_calls(id, std::slice::from_ref(link))?;
        let before = kept(link);
        let rules = wishes.over(before.rules).map_err(invalid)?;
        rules.check_target(matches!(before.to, LinkEnd::Udp(_))).map_err(invalid)?;
        let after = LinkRecord { rules, ..before.clone() };
        if after == before {
            let stored = Box::pin(self.store.commit(Durability::Synced));
            return Ok((before, after, 0, stored));
        }
        let dropped = self.router.change_link(id, rules)?;
        let stored = Box::pin(self.store.change(Change::ChangeLink(after.clone())));
        Ok((before, after, dropped, stored))
    }

    /// Refuses rules for a link that consists of these, if one of them carries calls: nobody would
    /// keep to them.
    pub(super) fn check_no_calls(&self, id: LinkId, parts: &[Arc<Link>]) -> Result<(), WireError> {
        if !parts.iter().any(|link| self.router.carries_calls(link)) {
            return Ok(());
        }
        let message = format!(
            "link {id} carries calls, which wait for a service until their deadlines, and have neither \
             policy nor capacity nor another way than through the daemon; give the client another \
             deadline, or have the service take more calls at once"
        );
        Err(WireError::new(ErrorCode::WrongState, message))
    }

    /// Tells of a link that was changed.
    pub(super) fn tell_changed_link(&self, changed: &LinkRecord) {
        self.events.record(None, None, changed_link(changed.id, changed.rules));
    }

    /// Removes a link; the answer is how many messages waited in it. It is gone from the disk
    /// when this is answered. To be carried to its end once it is begun.
    ///
    /// # Errors
    ///
    /// When there is no such link, or that can't be stored.
    pub async fn remove_link(&self, link: LinkId) -> Result<u64, WireError> {
        if let Some(discarded) = self.remove_set_link(link).await? {
            return Ok(discarded);
        }
        if !self.router.links().iter().any(|known| known.id == link) {
            return Err(RouteError::NoLink(link).into());
        }
        let stored = self.store.change(Change::RemoveLink(link)).await;
        stored.map_err(|error| not_stored(format!("link {link} was not removed"), &error))?;
        let discarded = self.router.remove_link(link)?;
        self.events.record(None, None, EventKind::LinkRemoved { link });
        Ok(discarded)
    }

    /// All links, by id.
    #[must_use]
    pub fn list_links(&self) -> Vec<LinkInfo> {
        let mut with_schemas = MAX_WITH_SCHEMAS;
        let links = self.router.links();
        let parts = self.parts();
        let infos = links.iter().map(|link| {
            let mut info = self.link_info(link, &parts);
            if let LinkState::Mismatched { error } = &mut info.state {
                if with_schemas == 0 {
                    error.causes.clear();
                }
                with_schemas = with_schemas.saturating_sub(1);
            }
            info
        });
        let mut infos: Vec<_> = infos.collect();
        infos.extend(self.set_link_infos(&infos));
        infos.sort_by_key(|info| info.id);
        infos
    }

    /// Whose messages of which type pass over a link; of one between sets of replicas, over all
    /// of its parts.
    ///
    /// # Errors
    ///
    /// When there is no such link.
    pub fn carried_by(&self, link: LinkId) -> Result<Vec<Watched>, WireError> {
        let infos = self.list_links();
        let watched = |info: &LinkInfo| (Some(Arc::from(info.type_name.as_str())), info.from);
        let parts: Vec<_> =
            infos.iter().filter(|it| it.part_of == Some(link)).map(watched).collect();
        let itself = infos.iter().find(|info| info.id == link);
        let itself = itself.ok_or(RouteError::NoLink(link))?;
        Ok(match itself.from_name.is_some() && itself.from.is_none() || !parts.is_empty() {
            true => parts,
            false => vec![watched(itself)],
        })
    }

    /// The links that a link consists of: of one between sets of replicas its parts, else itself.
    ///
    /// # Errors
    ///
    /// When there is no such link.
    pub fn parts_of(&self, link: LinkId) -> Result<Vec<LinkId>, WireError> {
        let infos = self.list_links();
        let parts = infos.iter().filter(|info| info.part_of == Some(link)).map(|info| info.id);
        let parts: Vec<_> = parts.collect();
        match parts.is_empty() {
            false => Ok(parts),
            true if infos.iter().any(|info| info.id == link) => Ok(vec![link]),
            true => Err(RouteError::NoLink(link).into()),
        }
    }

    fn link_info(&self, link: &Link, parts: &HashMap<Ends, LinkId>) -> LinkInfo {
        let part_of = match parts.is_empty() {
            true => None,
            false => parts.get(&(link.from, link.type_name.clone(), link.to.clone())).copied(),
        };
        let LinkRules { policy, capacity, block_timeout, history, transport, spin_us } =
            link.rules();
        let carries_calls = self.router.carries_calls(link);
        let (way, why) = self.way(link, carries_calls);
        LinkInfo {
            part_of,
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
            policy,
            capacity,
            block_timeout,
            history,
            transport,
            spin_us,
            way,
            why,
            state: match link.mismatch() {
                None => LinkState::Open,
                Some(error) => LinkState::Mismatched { error },
            },
            counters: link.counters(),
            calls: carries_calls.then(|| link.call_counters()),
            reported: link.lanes.reported(),
        }
    }
}
