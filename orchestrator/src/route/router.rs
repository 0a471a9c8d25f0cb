//! The table of links, and everything that changes it. Never on the message path.

mod calls;
mod request;
mod table;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use orchestrator_proto::control::LinkRules;
use orchestrator_proto::runtime::{Direction, Sender};
use orchestrator_proto::{InstanceId, LinkId, WireError};

use super::beside::{Cut, Divergence};
use super::decl::TypeDecl;
use super::interruption::Loss;
use super::link::{Link, LinkTarget};
use super::mailbox::Mailbox;
use super::message::Numbering;
use super::source::{OutputIndex, Source, SourceStats, Upstream};
use super::tap::Taps;
use super::types::TellType;

pub use request::{LinkRequest, MAX_LINKS, MAX_OUTPUTS, RouteError, Surroundings};
use table::{Ends, Table};

/// All links of a daemon.
pub struct Router {
    state: Mutex<Table>,
    /// Held while a type is declared, until that is told: in the order in which it was, and after
    /// what came of it. Before the table.
    declaring: Mutex<()>,
    taps: Arc<Taps>,
    surroundings: Box<dyn Surroundings>,
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

    /// What the two ends of a lane say of it can't both be true.
    pub fn diverged(&self, divergence: Divergence) {
        self.surroundings.link_diverged(divergence);
    }

    /// A lane was ended that its sender did not leave.
    pub fn cut(&self, cut: Cut) {
        self.surroundings.lane_cut(cut);
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
