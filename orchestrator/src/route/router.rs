//! The table of links, and everything that changes it. Never on the message path.

mod calls;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use orchestrator_proto::control::LinkRules;
use orchestrator_proto::runtime::{Direction, Sender};
use orchestrator_proto::{ErrorCode, InstanceId, LinkId, WireError};
use thiserror::Error;

use super::calls::Exchange;
use super::interruption::{Interruptions, Loss};
use super::link::{Link, LinkTarget};
use super::mailbox::Mailbox;
use super::message::{Numbering, TypeDecl};
use super::source::{OutputIndex, Source, SourceStats, Upstream};
use super::tap::Taps;
use super::types::{self, TellType, Types};

/// Links of one daemon: a list of them fits a frame.
pub const MAX_LINKS: usize = 16_384;

/// Outputs of one source. For senders that don't declare their types beforehand, this bounds
/// how many names they can make the daemon remember.
pub const MAX_OUTPUTS: usize = 1024;

/// A link to be made, with its ends resolved.
#[derive(Clone, Debug)]
pub struct LinkRequest {
    /// Whose messages; none means anybody's.
    pub from: Option<InstanceId>,
    /// Messages of this type.
    pub type_name: Arc<str>,
    /// Who gets them.
    pub to: LinkTarget,
    /// Its rules.
    pub rules: LinkRules,
}

/// Why the table did not change.
#[derive(Debug, Error)]
pub enum RouteError {
    /// No such instance (any more).
    #[error("there is no instance {0}")]
    NoInstance(InstanceId),
    /// No such link.
    #[error("there is no link {0}")]
    NoLink(LinkId),
    /// The same ends and type, but other rules.
    #[error(
        "link {id} joins the same ends already, with other rules: {rules}; to change these: \
         link set {id}"
    )]
    Differs {
        /// The link that is there.
        id: LinkId,
        /// Its rules.
        rules: LinkRules,
    },
    /// The two ends declare different schemas.
    #[error("{0}")]
    Mismatch(WireError),
    /// [`MAX_LINKS`].
    #[error("there are {MAX_LINKS} links already")]
    TooManyLinks,
    /// Twice the same type from one connection.
    #[error("the output {0} is declared twice")]
    DeclaredTwice(Arc<str>),
    /// [`MAX_OUTPUTS`].
    #[error("more than {MAX_OUTPUTS} message types from one connection")]
    TooManyOutputs,
}

impl From<RouteError> for WireError {
    fn from(error: RouteError) -> Self {
        let code = match &error {
            RouteError::NoInstance(_) | RouteError::NoLink(_) => ErrorCode::NotFound,
            RouteError::Differs { .. } => ErrorCode::AlreadyExists,
            RouteError::Mismatch(error) => return error.clone(),
            RouteError::TooManyLinks | RouteError::TooManyOutputs => ErrorCode::LimitReached,
            RouteError::DeclaredTwice(_) => ErrorCode::Malformed,
        };
        Self::new(code, error.to_string())
    }
}

/// What the router tells and needs from the rest of the daemon.
pub trait Surroundings: Send + Sync {
    /// The two ends of a link turned out not to agree.
    fn link_mismatched(&self, link: LinkId, from: Option<InstanceId>, error: &WireError);
    /// So many messages of this sender were lost on the link, because the daemon before this one
    /// ended.
    fn messages_lost(&self, link: LinkId, from: InstanceId, count: u64);
    /// A first link to this datagram address was made: attach a sink to its mailbox. Called
    /// with the table locked: must not call back.
    fn open_peer(&self, address: &str, mailbox: &Arc<Mailbox>);
    /// The last link to this datagram address is gone. Called with the table locked likewise.
    fn close_peer(&self, address: &str);
    /// A link is new or has other rules.
    fn link_changed(&self, _link: &Arc<Link>) {}
    /// A link is gone. Called with the table locked likewise.
    fn link_removed(&self, _link: LinkId) {}
}

/// All links of a daemon.
pub struct Router {
    state: Mutex<Table>,
    /// Held while a type is declared, until that is told: in the order in which it was, and after
    /// what came of it. Before the table.
    declaring: Mutex<()>,
    taps: Arc<Taps>,
    surroundings: Box<dyn Surroundings>,
}

#[derive(Default)]
struct Table {
    last_id: u64,
    links: BTreeMap<LinkId, Arc<Link>>,
    by_type: HashMap<Arc<str>, Vec<Arc<Link>>>,
    sources: Vec<Weak<Source>>,
    instances: HashMap<InstanceId, Ends>,
    peers: HashMap<Arc<str>, Arc<Mailbox>>,
    interruptions: Interruptions,
    /// Calls by their type, as long as anybody has an end of them.
    exchanges: HashMap<Arc<str>, Weak<Exchange>>,
}

/// What is known of an instance as an end of links.
#[derive(Default)]
struct Ends {
    mailbox: Arc<Mailbox>,
    types: Types,
}

impl Router {
    /// A router without links.
    #[must_use]
    pub fn new(surroundings: Box<dyn Surroundings>) -> Self {
        let declaring = Mutex::default();
        Self { state: Mutex::default(), declaring, taps: Arc::default(), surroundings }
    }

    /// The taps on all messages.
    #[must_use]
    pub fn taps(&self) -> &Arc<Taps> {
        &self.taps
    }

    fn declaring(&self) -> MutexGuard<'_, ()> {
        self.declaring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on links can begin and end at this instance.
    #[must_use]
    pub fn add_instance(&self, instance: InstanceId) -> Arc<Mailbox> {
        self.table().instances.entry(instance).or_default().mailbox.clone()
    }

    /// The instance has declared these types to an earlier daemon. To be called before its links
    /// are made. From now on, each type that it declares is told.
    pub fn keep_types(
        &self,
        instance: InstanceId,
        known: impl IntoIterator<Item = (Direction, TypeDecl)>,
        tell: TellType,
    ) {
        let mut table = self.table();
        if let Some(ends) = table.instances.get_mut(&instance) {
            for (direction, decl) in known {
                ends.types.declare(direction, &Arc::new(decl));
            }
            ends.types.tell(tell);
        }
    }

    /// Ends all links from and to this instance.
    pub fn remove_instance(&self, instance: InstanceId) -> Vec<LinkId> {
        let mut table = self.table();
        let gone: Vec<_> = table
            .links
            .values()
            .filter(|link| link.touches(instance))
            .map(|link| link.id)
            .collect();
        for id in &gone {
            self.unlink(&mut table, *id);
        }
        // Links from anybody may have disagreed with this instance only.
        table.interruptions.forget(instance);
        let types = table.instances.remove(&instance).map(|ends| ends.types).unwrap_or_default();
        let links: Vec<_> =
            types.outputs().filter_map(|name| table.by_type.get(name)).flatten().cloned().collect();
        self.check_links(table, &links);
        gone
    }

    /// A new sender.
    pub fn open_source(
        &self,
        instance: Option<InstanceId>,
        upstream: Option<Weak<dyn Upstream>>,
        stats: Arc<SourceStats>,
    ) -> Arc<Source> {
        let source = Arc::new(Source::new(instance, upstream, stats, self.taps.clone()));
        let mut table = self.table();
        table.sources.retain(|source| source.strong_count() > 0);
        table.sources.push(Arc::downgrade(&source));
        source
    }

    /// The source will send this type, and nothing is declared by that. The answer is the links of
    /// the type as well.
    pub(super) fn enter_feed(
        &self,
        source: &Arc<Source>,
        decl: &Arc<TypeDecl>,
    ) -> (OutputIndex, Vec<Arc<Link>>) {
        let mut table = self.table();
        let links = table.by_type.get(&decl.name).cloned().unwrap_or_default();
        table.sources.retain(|source| source.strong_count() > 0);
        table.sources.push(Arc::downgrade(source));
        (source.add_output(decl.clone(), 0, None, &links), links)
    }

    /// The source will send this type, and number its messages if it says how.
    ///
    /// # Errors
    ///
    /// When it has [`MAX_OUTPUTS`] already, or this one.
    pub fn declare_output(
        &self,
        source: &Source,
        decl: Arc<TypeDecl>,
        channel: u16,
        numbering: Option<Numbering>,
    ) -> Result<OutputIndex, RouteError> {
        self.go_on_with_output(source, decl, channel, numbering, &[])
    }

    /// As [`declare_output`](Self::declare_output), where messages for the links `elsewhere` go by
    /// lanes that are older than this daemon.
    ///
    /// # Errors
    ///
    /// As for that.
    pub fn go_on_with_output(
        &self,
        source: &Source,
        decl: Arc<TypeDecl>,
        channel: u16,
        numbering: Option<Numbering>,
        elsewhere: &[LinkId],
    ) -> Result<OutputIndex, RouteError> {
        let _in_order = self.declaring();
        let mut table = self.table();
        let links = table.by_type.get(&decl.name).cloned().unwrap_or_default();
        if source.has_output(&decl.name) {
            return Err(RouteError::DeclaredTwice(decl.name.clone()));
        }
        if source.output_count() >= MAX_OUTPUTS {
            return Err(RouteError::TooManyOutputs);
        }
        let tell = source.instance.and_then(|id| table.declare(id, Direction::Output, &decl));
        if let (Some(instance), Some(numbering)) = (source.instance, numbering) {
            table.interruptions.begins(instance, &decl.name, numbering, elsewhere);
        }
        let losses = table.interruptions.losses(&links);
        let index = source.add_output(decl.clone(), channel, numbering, &links);
        self.check_links(table, &links);
        if let Some((tell, is_news)) = tell {
            tell(Direction::Output, &decl, is_news);
        }
        self.report(losses);
        Ok(index)
    }

    /// The instance takes this type, in this form.
    pub fn declare_input(&self, instance: InstanceId, decl: Arc<TypeDecl>) {
        let _in_order = self.declaring();
        let mut table = self.table();
        let links = table.by_type.get(&decl.name).cloned().unwrap_or_default();
        let tell = table.declare(instance, Direction::Input, &decl);
        if let Some(ends) = table.instances.get(&instance) {
            ends.mailbox.has_changed();
        }
        self.check_links(table, &links);
        if let Some((tell, is_news)) = tell {
            tell(Direction::Input, &decl, is_news);
        }
    }

    /// The instance has had all messages of this type from this sender below `next`, on
    /// connections to this daemon or to one before it.
    pub fn had(&self, instance: InstanceId, type_name: &Arc<str>, sender: Sender, next: u64) {
        let mut table = self.table();
        let links = table.by_type.get(type_name).cloned().unwrap_or_default();
        table.interruptions.expects(instance, type_name, sender, next);
        let losses = table.interruptions.losses(&links);
        drop(table);
        self.report(losses);
    }

    /// With the table unlocked.
    fn report(&self, losses: Vec<Loss>) {
        for Loss { link, from, count } in losses {
            self.surroundings.messages_lost(link.id, from, count);
        }
    }

    /// Where messages for the instance wait.
    pub(super) fn mailbox(&self, instance: InstanceId) -> Option<Arc<Mailbox>> {
        self.table().instances.get(&instance).map(|ends| ends.mailbox.clone())
    }

    /// How the instance last declared this type as an input.
    #[must_use]
    pub fn input(&self, instance: InstanceId, type_name: &str) -> Option<Arc<TypeDecl>> {
        self.table().instances.get(&instance)?.types.input(type_name).cloned()
    }

    /// Everything that instances last declared, in no order.
    #[must_use]
    pub fn declarations(&self) -> Vec<(InstanceId, Direction, Arc<TypeDecl>)> {
        let table = self.table();
        let of = |(id, ends): (&InstanceId, &Ends)| {
            let id = *id;
            ends.types.all().map(move |(way, decl)| (id, way, decl.clone())).collect::<Vec<_>>()
        };
        table.instances.iter().flat_map(of).collect()
    }

    /// The type names that the instance last declared as outputs and inputs, sorted.
    #[must_use]
    pub fn declared(&self, instance: InstanceId) -> (Vec<String>, Vec<String>) {
        self.table().instances.get(&instance).map(|ends| ends.types.names()).unwrap_or_default()
    }

    /// Makes a link. The same link twice is one link: the answer says whether it is new.
    ///
    /// # Errors
    ///
    /// When an end does not exist, the link is there with other rules, or the
    /// two ends are known to disagree on the schema.
    pub fn add_link(&self, request: &LinkRequest) -> Result<(LinkId, bool), RouteError> {
        self.make_link(request, |mismatch| mismatch.map_or(Ok(None), Err))
    }

    /// Makes a link that was there before. If its two ends disagree it is marked, as it was then,
    /// and nobody is told.
    ///
    /// # Errors
    ///
    /// As [`add_link`](Self::add_link), but for a disagreement.
    pub fn restore_link(&self, request: &LinkRequest) -> Result<(LinkId, bool), RouteError> {
        self.make_link(request, Ok)
    }

    /// `judge` says what a disagreement comes to: a mark, or an error.
    fn make_link(
        &self,
        request: &LinkRequest,
        judge: impl FnOnce(Option<WireError>) -> Result<Option<WireError>, WireError>,
    ) -> Result<(LinkId, bool), RouteError> {
        let mut table = self.table();
        if let Some(from) = request.from
            && !table.instances.contains_key(&from)
        {
            return Err(RouteError::NoInstance(from));
        }
        if let Some(link) = table.find(request) {
            let rules = link.rules();
            return if rules == request.rules {
                Ok((link.id, false))
            } else {
                Err(RouteError::Differs { id: link.id, rules })
            };
        }
        if table.links.len() >= MAX_LINKS {
            return Err(RouteError::TooManyLinks);
        }
        let mailbox = match &request.to {
            LinkTarget::Instance(to) => match table.instances.get(to) {
                Some(ends) => ends.mailbox.clone(),
                None => return Err(RouteError::NoInstance(*to)),
            },
            LinkTarget::Udp(address) => table.peers.get(address).cloned().unwrap_or_default(),
        };
        let id = LinkId(table.last_id + 1);
        let link = Arc::new(Link::new(id, request, mailbox.clone()));
        let mark = judge(table.mismatch(&link)).map_err(RouteError::Mismatch)?;
        *link.mismatch.lock().unwrap_or_else(PoisonError::into_inner) = mark;
        if let LinkTarget::Udp(address) = &request.to
            && !table.peers.contains_key(address)
        {
            self.surroundings.open_peer(address, &mailbox);
            table.peers.insert(address.clone(), mailbox);
        }
        table.last_id = id.0;
        table.links.insert(id, link.clone());
        link.mailbox.enter(&link);
        table.by_type.entry(request.type_name.clone()).or_default().push(link.clone());
        table.refresh(&request.type_name);
        let losses = table.interruptions.losses(std::slice::from_ref(&link));
        drop(table);
        self.report(losses);
        self.surroundings.link_changed(&link);
        Ok((id, true))
    }

    /// The next link gets the id after this one: for links that were made before, each with its
    /// own, and so that no id is used twice.
    pub fn set_last_id(&self, id: LinkId) {
        self.table().last_id = id.0;
    }

    /// An id that no link gets, for what stands for several of them.
    pub fn take_id(&self) -> LinkId {
        let mut table = self.table();
        table.last_id += 1;
        LinkId(table.last_id)
    }

    /// Ends a link. After this returns it takes no message any more. The answer is how many
    /// waited in it and are gone.
    ///
    /// # Errors
    ///
    /// When there is no such link.
    pub fn remove_link(&self, id: LinkId) -> Result<u64, RouteError> {
        self.unlink(&mut self.table(), id).ok_or(RouteError::NoLink(id))
    }

    /// Gives a link other rules, for what waits in it as well: nothing of that is
    /// lost but what these give up. The answer is how much that is.
    ///
    /// # Errors
    ///
    /// When there is no such link.
    pub fn change_link(&self, id: LinkId, rules: LinkRules) -> Result<u64, RouteError> {
        let mut table = self.table();
        let link = table.links.get(&id).cloned().ok_or(RouteError::NoLink(id))?;
        let dropped = link.change(rules);
        table.refresh(&link.type_name);
        drop(table);
        self.surroundings.link_changed(&link);
        Ok(dropped)
    }

    fn unlink(&self, table: &mut Table, id: LinkId) -> Option<u64> {
        let link = table.links.remove(&id)?;
        if let Some(links) = table.by_type.get_mut(&link.type_name) {
            links.retain(|other| other.id != id);
            if links.is_empty() {
                table.by_type.remove(&link.type_name);
            }
        }
        table.refresh(&link.type_name);
        self.surroundings.link_removed(id);
        if let LinkTarget::Udp(address) = &link.to
            && !table.links.values().any(|other| other.to == link.to)
        {
            table.peers.remove(address);
            self.surroundings.close_peer(address);
        }
        Some(link.remove())
    }

    /// Links of this type.
    #[must_use]
    pub fn links_of(&self, type_name: &str) -> Vec<Arc<Link>> {
        self.table().by_type.get(type_name).cloned().unwrap_or_default()
    }

    /// This link.
    #[must_use]
    pub fn link(&self, id: LinkId) -> Option<Arc<Link>> {
        self.table().links.get(&id).cloned()
    }

    /// Links to this instance.
    #[must_use]
    pub fn links_to(&self, instance: InstanceId) -> Vec<Arc<Link>> {
        let table = self.table();
        table.instances.get(&instance).map(|ends| ends.mailbox.links()).unwrap_or_default()
    }

    /// All links, by id.
    #[must_use]
    pub fn links(&self) -> Vec<Arc<Link>> {
        self.table().links.values().cloned().collect()
    }

    /// Marks those of `links` whose two ends disagree, and unmarks those that agree again.
    fn check_links(&self, table: MutexGuard<'_, Table>, links: &[Arc<Link>]) {
        let mut discovered = Vec::new();
        for link in links {
            let found = table.mismatch(link);
            let mut mismatch = link.mismatch.lock().unwrap_or_else(PoisonError::into_inner);
            if *mismatch != found {
                discovered.extend(found.clone().map(|error| (link, error)));
                *mismatch = found;
            }
        }
        drop(table);
        for (link, error) in discovered {
            self.surroundings.link_mismatched(link.id, link.from, &error);
        }
    }
}

impl Table {
    fn declare(
        &mut self,
        instance: InstanceId,
        direction: Direction,
        decl: &Arc<TypeDecl>,
    ) -> Option<(TellType, bool)> {
        self.instances.get_mut(&instance)?.types.declare(direction, decl)
    }

    fn find(&self, request: &LinkRequest) -> Option<&Arc<Link>> {
        let links = self.by_type.get(&request.type_name)?;
        links.iter().find(|link| link.from == request.from && link.to == request.to)
    }

    /// Lets every source know which links there are for this type.
    fn refresh(&mut self, type_name: &Arc<str>) {
        let links = self.by_type.get(type_name).map(Vec::as_slice).unwrap_or_default();
        self.sources.retain(|source| {
            source.upgrade().inspect(|source| source.refresh(type_name, links)).is_some()
        });
        if let Some(exchange) = self.exchanges.get(type_name).and_then(Weak::upgrade) {
            exchange.set_links(links);
        }
    }

    /// How the declared ends of a link disagree, with both schemas.
    fn mismatch(&self, link: &Link) -> Option<WireError> {
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
    fn touches(&self, instance: InstanceId) -> bool {
        self.from == Some(instance) || self.to == LinkTarget::Instance(instance)
    }
}
