//! Links from and to sets: each stands for links from and to their replicas, which it is made and
//! removed with.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, MutexGuard, PoisonError};

use orchestrator_proto::control::{
    CallCounters, Counters, Drops, EventKind, LinkInfo, LinkSpec, LinkState, RulesSpec, TargetInfo,
    TargetSpec, Transport, WantedSet, Way,
};
use orchestrator_proto::{ErrorCode, InstanceId, LinkId, WireError};

use super::super::apply::one_cause;
use super::super::links::invalid;
use super::super::{Registry, not_stored};
use crate::plan::{LinkStep, PresentSetLink, Route, SetLinkStep, Side, Target};
use crate::route::{Link, LinkTarget};
use crate::store::{Change, LinkEnd, SetLinkEnd, SetLinkRecord};

/// The ends and the type of a link between instances.
pub(in super::super) type Ends = (Option<InstanceId>, Arc<str>, LinkTarget);

impl Registry {
    fn set_links(&self) -> MutexGuard<'_, BTreeMap<LinkId, SetLinkRecord>> {
        self.set_links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on there is this link.
    pub(in super::super) fn enter_set_link(&self, record: SetLinkRecord) {
        self.set_links().insert(record.id, record);
    }

    /// The links from and to a set as a whole.
    pub(super) fn links_of_set(&self, name: &str) -> Vec<LinkId> {
        let links = self.set_links();
        let touching = links.values().filter(|link| touches(link, name));
        touching.map(|link| link.id).collect()
    }

    /// A set is gone.
    pub(super) fn forget_set_links(&self, name: &str) {
        self.set_links().retain(|_, link| !touches(link, name));
    }

    /// These links are gone.
    pub(in super::super) fn drop_set_links(&self, gone: &[LinkId]) {
        self.set_links().retain(|id, _| !gone.contains(id));
    }

    /// All sets are to go. The answer is how many links went with them.
    pub(in super::super) fn forget_all_set_links(&self) -> u64 {
        std::mem::take(&mut *self.set_links()).len() as u64
    }

    /// How many links there are: between instances, and from and to sets.
    #[must_use]
    pub fn count_links(&self) -> u64 {
        (self.router().links().len() + self.set_links().len()) as u64
    }

    /// An instance is gone. The answer is which links to or from sets went with it.
    pub(in super::super) fn forget_links_between(&self, id: InstanceId) -> Vec<LinkId> {
        let end = SetLinkEnd::Single(LinkEnd::Instance(id));
        let mut gone = Vec::new();
        self.set_links().retain(|link, record| {
            let stays = record.to != end && record.from.as_ref() != Some(&end);
            if !stays {
                gone.push(*link);
            }
            stays
        });
        gone
    }

    /// The links from and to sets, for who compares.
    pub(in super::super) fn present_set_links(&self) -> Vec<PresentSetLink> {
        let side = |end: &SetLinkEnd| match end {
            SetLinkEnd::Set(name) => Some(Side::Set(name.clone())),
            SetLinkEnd::Single(LinkEnd::Instance(id)) => Some(Side::One(*id)),
            SetLinkEnd::Single(LinkEnd::Udp(_)) => None,
        };
        let links = self.set_links();
        let links = links.values().map(|link| PresentSetLink {
            id: link.id,
            route: Route {
                from: link.from.as_ref().and_then(side),
                type_name: link.type_name.to_string(),
                to: match (side(&link.to), &link.to) {
                    (Some(side), _) => Target::Instance(side),
                    (None, SetLinkEnd::Single(LinkEnd::Udp(address))) => {
                        Target::Udp(address.to_string())
                    }
                    (None, _) => Target::Udp(String::new()),
                },
            },
            rules: link.rules,
        });
        links.collect()
    }

    /// The links between instances that belong to links from and to sets: which to which, the
    /// oldest if to several.
    pub(in super::super) fn parts(&self) -> HashMap<Ends, LinkId> {
        let links: Vec<_> = self.set_links().values().cloned().collect();
        let mut parts = HashMap::new();
        for link in links {
            for ends in self.ends_of(&link) {
                parts.entry(ends).or_insert(link.id);
            }
        }
        parts
    }

    fn ends_of(&self, link: &SetLinkRecord) -> Vec<Ends> {
        let ids = |set: &str| self.replicas(set).into_iter().map(|it| it.id);
        let senders: Vec<_> = match &link.from {
            None => vec![None],
            Some(SetLinkEnd::Set(name)) => ids(name).map(Some).collect(),
            Some(SetLinkEnd::Single(LinkEnd::Instance(id))) => vec![Some(*id)],
            Some(SetLinkEnd::Single(LinkEnd::Udp(_))) => Vec::new(),
        };
        let targets: Vec<_> = match &link.to {
            SetLinkEnd::Set(name) => ids(name).map(LinkTarget::Instance).collect(),
            SetLinkEnd::Single(LinkEnd::Instance(id)) => vec![LinkTarget::Instance(*id)],
            SetLinkEnd::Single(LinkEnd::Udp(address)) => vec![LinkTarget::Udp(address.clone())],
        };
        let pairs = senders.iter().flat_map(|from| targets.iter().map(move |to| (from, to)));
        pairs.map(|(from, to)| (*from, link.type_name.clone(), to.clone())).collect()
    }

    /// Whether a link that is to be made begins or ends at a set.
    pub(in super::super) fn is_of_set(&self, spec: &LinkSpec) -> bool {
        let to = match &spec.to {
            TargetSpec::Instance(to) => Some(to),
            TargetSpec::Udp(_) => None,
        };
        let instances = self.read();
        spec.from.iter().chain(to).any(|end| instances.sets.by_name.contains_key(&end.0))
    }

    /// Makes a link from or to a set; the answer says whether it is new.
    ///
    /// # Errors
    ///
    /// As [`Registry::add_link`]; then nothing of it was made.
    pub(in super::super) async fn add_set_link(
        self: &Arc<Self>,
        spec: &LinkSpec,
    ) -> Result<(LinkId, bool), WireError> {
        let _one_at_a_time = self.applying.lock().await;
        let mut spec = spec.clone();
        // A plan knows names and whole ids only.
        let to = match &mut spec.to {
            TargetSpec::Instance(to) => Some(to),
            TargetSpec::Udp(_) => None,
        };
        for end in spec.from.iter_mut().chain(to) {
            if let super::Meant::One(instance) = self.meant(end)? {
                end.0 = instance.id.to_string();
            }
        }
        let wanted = WantedSet { instances: Vec::new(), links: vec![spec] };
        let whole = self.differences(&wanted, false).map_err(one_cause)?;
        let taken = whole.all.links.iter().find_map(|step| match step {
            LinkStep::Change { id, .. } => Some(*id),
            _ => None,
        });
        let other = whole.set_links.iter().find_map(|step| match step {
            SetLinkStep::Change { id, .. } => Some(*id),
            _ => None,
        });
        if let Some(id) = other.or(taken) {
            let message = format!(
                "link {id} joins the same ends already, with other rules; \
                 `link set {id}` changes it"
            );
            return Err(WireError::new(ErrorCode::AlreadyExists, message));
        }
        let known = whole.unchanged_set_links.first().copied();
        let done = self.bring_about(&whole).await.map_err(one_cause)?;
        match (done.set_links.first(), known) {
            (Some(id), _) => Ok((*id, true)),
            (None, Some(id)) => Ok((id, false)),
            (None, None) => Err(WireError::new(ErrorCode::Internal, "the link was not made")),
        }
    }

    /// The link of this id, if it is from or to a set.
    pub(in super::super) fn set_link_record(&self, id: LinkId) -> Option<SetLinkRecord> {
        self.set_links().get(&id).cloned()
    }

    /// Refuses what is to be done with a link alone that belongs to one from or to a set.
    fn check_whole(&self, id: LinkId, [verb, does]: [&str; 2]) -> Result<(), WireError> {
        if self.set_links().is_empty() {
            return Ok(());
        }
        let all = self.router().links();
        let ends = all.iter().find(|it| it.id == id).map(|it| ends(it));
        let Some(whole) = ends.and_then(|ends| self.parts().get(&ends).copied()) else {
            return Ok(());
        };
        let message = format!(
            "link {id} is a part of link {whole}, which leads from or to a set of replicas; \
             `link {verb} {whole}` {does} all of it"
        );
        Err(WireError::new(ErrorCode::WrongState, message))
    }

    /// Gives a link from or to a set, and all that belong to it, other rules. None
    /// if it is no such link.
    ///
    /// # Errors
    ///
    /// When it belongs to one, it carries calls, or that can't be stored; then nothing was changed.
    pub(in super::super) async fn change_set_link(
        self: &Arc<Self>,
        id: LinkId,
        wishes: RulesSpec,
    ) -> Result<Option<(bool, u64)>, WireError> {
        if self.set_link_record(id).is_none() {
            return self.check_whole(id, ["set", "changes"]).map(|()| None);
        }
        let _one_at_a_time = self.applying.lock().await;
        // It may have gone meanwhile.
        let Some(record) = self.set_link_record(id) else { return Ok(None) };
        let mine: HashSet<_> = self.ends_of(&record).into_iter().collect();
        let mut parts = self.router().links();
        parts.retain(|link| mine.contains(&ends(link)));
        self.check_no_calls(id, &parts)?;
        let rules = wishes.over(record.rules).map_err(invalid)?;
        let link = self.set_link_spec(&record).with_rules(rules);
        let wanted = WantedSet { instances: Vec::new(), links: vec![link] };
        let whole = self.differences(&wanted, false).map_err(one_cause)?;
        let changed = !whole.set_links.is_empty();
        let done = self.bring_about(&whole).await.map_err(one_cause)?;
        Ok(Some((changed, done.dropped)))
    }

    /// Removes a link from or to a set with all that belong to it; the answer is how many messages
    /// waited in them. None if it is no such link.
    ///
    /// # Errors
    ///
    /// When it belongs to one, or that can't be stored.
    pub(in super::super) async fn remove_set_link(
        &self,
        id: LinkId,
    ) -> Result<Option<u64>, WireError> {
        if self.set_link_record(id).is_none() {
            return self.check_whole(id, ["remove", "removes"]).map(|()| None);
        }
        let _one_at_a_time = self.applying.lock().await;
        let all = self.router().links();
        let record = self.set_links().remove(&id);
        // It may have gone meanwhile.
        let Some(record) = record else { return Ok(None) };
        // Those that belong to another one too stay.
        let others = self.parts();
        let mine: HashSet<_> = self.ends_of(&record).into_iter().collect();
        let gone: Vec<_> = all
            .iter()
            .filter(|it| mine.contains(&ends(it)) && !others.contains_key(&ends(it)))
            .map(|it| it.id)
            .collect();
        let changes = std::iter::once(&id).chain(&gone).map(|id| Change::RemoveLink(*id));
        let stored = self.store.change(Change::All(changes.collect())).await;
        if let Err(error) = stored {
            self.enter_set_link(record);
            return Err(not_stored(format!("link {id} was not removed"), &error));
        }
        let mut discarded = 0;
        for link in std::iter::once(id).chain(gone) {
            discarded += self.router().remove_link(link).unwrap_or(0);
            self.events().record(None, None, EventKind::LinkRemoved { link });
        }
        Ok(Some(discarded))
    }

    /// The links from and to sets, as they are shown; `links` are all others.
    pub(in super::super) fn set_link_infos(&self, links: &[LinkInfo]) -> Vec<LinkInfo> {
        let mut sums: HashMap<LinkId, Sum> = HashMap::new();
        for link in links {
            let Some(whole) = link.part_of else { continue };
            sums.entry(whole).or_default().add(link);
        }
        let records: Vec<_> = self.set_links().values().cloned().collect();
        let info = |record: SetLinkRecord| {
            let Sum { counters, mismatch, way, calls, reported } =
                sums.remove(&record.id).unwrap_or_default();
            let (way, why) = way.unwrap_or_else(|| nowhere(record.rules.transport));
            let instance = |id: InstanceId| TargetInfo::Instance { id, name: self.name_of(id) };
            let (from, from_name) = match record.from {
                None | Some(SetLinkEnd::Single(LinkEnd::Udp(_))) => (None, None),
                Some(SetLinkEnd::Set(name)) => (None, Some(name)),
                Some(SetLinkEnd::Single(LinkEnd::Instance(id))) => (Some(id), self.name_of(id)),
            };
            LinkInfo {
                id: record.id,
                from,
                from_name,
                type_name: record.type_name.to_string(),
                to: match record.to {
                    SetLinkEnd::Set(name) => TargetInfo::Set { name },
                    SetLinkEnd::Single(LinkEnd::Instance(id)) => instance(id),
                    SetLinkEnd::Single(LinkEnd::Udp(address)) => {
                        TargetInfo::Udp { address: address.to_string() }
                    }
                },
                policy: record.rules.policy,
                capacity: record.rules.capacity,
                state: mismatch.unwrap_or(LinkState::Open),
                counters,
                part_of: None,
                block_timeout: record.rules.block_timeout,
                history: record.rules.history,
                transport: record.rules.transport,
                spin_us: record.rules.spin_us,
                way,
                why,
                calls,
                reported,
            }
        };
        records.into_iter().map(info).collect()
    }

    /// All links from and to sets, as somebody would ask for them.
    pub(in super::super) fn export_set_links(&self) -> Vec<LinkSpec> {
        let records: Vec<_> = self.set_links().values().cloned().collect();
        records.iter().map(|record| self.set_link_spec(record)).collect()
    }

    fn set_link_spec(&self, record: &SetLinkRecord) -> LinkSpec {
        let label = |id: InstanceId| self.name_of(id).unwrap_or_else(|| id.to_string());
        let name = |end: &SetLinkEnd| match end {
            SetLinkEnd::Set(name) => name.clone(),
            SetLinkEnd::Single(LinkEnd::Instance(id)) => label(*id),
            SetLinkEnd::Single(LinkEnd::Udp(address)) => format!("udp:{address}"),
        };
        let ends = LinkSpec {
            from: record.from.as_ref().map(|from| name(from).into()),
            type_name: record.type_name.to_string(),
            to: match &record.to {
                SetLinkEnd::Single(LinkEnd::Udp(address)) => TargetSpec::Udp(address.to_string()),
                to => TargetSpec::Instance(name(to).into()),
            },
            policy: None,
            capacity: None,
            block_timeout: None,
            history: None,
            transport: None,
            spin_us: None,
        };
        ends.with_rules(record.rules)
    }
}

fn ends(link: &Link) -> Ends {
    (link.from, link.type_name.clone(), link.to.clone())
}

fn touches(link: &SetLinkRecord, name: &str) -> bool {
    let is_it = |end: &SetLinkEnd| matches!(end, SetLinkEnd::Set(set) if set == name);
    is_it(&link.to) || link.from.as_ref().is_some_and(is_it)
}

/// What the links show together that belong to one from or to a set.
#[derive(Default)]
struct Sum {
    counters: Counters,
    /// Of the first that is mismatched.
    mismatch: Option<LinkState>,
    /// Which way they all go, else that of the first that goes through the daemon, with its reason;
    /// none if there are none.
    way: Option<(Way, Option<String>)>,
    /// None if none of them carries calls.
    calls: Option<CallCounters>,
    reported: u64,
}

impl Sum {
    fn add(&mut self, link: &LinkInfo) {
        add(&mut self.counters, &link.counters);
        if self.mismatch.is_none() && matches!(link.state, LinkState::Mismatched { .. }) {
            self.mismatch = Some(link.state.clone());
        }
        if let Some(more) = &link.calls {
            add_calls(self.calls.get_or_insert_default(), more);
        }
        self.reported += link.reported;
        self.take_way(link.way, link.why.clone());
    }

    fn take_way(&mut self, way: Way, why: Option<String>) {
        if !matches!(self.way, Some((Way::Routed, _))) {
            self.way = Some((way, why));
        }
    }
}

/// The way of a link to which no other belongs.
fn nowhere(wanted: Transport) -> (Way, Option<String>) {
    let why = matches!(wanted, Transport::Direct | Transport::Shm)
        .then(|| "there is no replica for it".to_owned());
    (Way::Routed, why)
}

fn add_calls(sum: &mut CallCounters, more: &CallCounters) {
    sum.calls += more.calls;
    sum.replies += more.replies;
    sum.failed += more.failed;
    sum.in_flight += more.in_flight;
}

fn add(sum: &mut Counters, more: &Counters) {
    sum.sent += more.sent;
    sum.delivered += more.delivered;
    sum.dropped += more.dropped;
    sum.queued += more.queued;
    sum.replayed += more.replayed;
    let Drops { full, too_long, untranslatable, failed, timed_out, lost } = &more.drops;
    sum.drops.full += full;
    sum.drops.too_long += too_long;
    sum.drops.untranslatable += untranslatable;
    sum.drops.failed += failed;
    sum.drops.timed_out += timed_out;
    sum.drops.lost += lost;
    sum.last_ms = sum.last_ms.max(more.last_ms);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(parts: &[(Way, Option<&str>)]) -> Option<(Way, Option<String>)> {
        let mut sum = Sum::default();
        for (way, why) in parts {
            sum.take_way(*way, why.map(str::to_owned));
        }
        sum.way
    }

    #[test]
    fn a_whole_is_direct_if_all_of_it_is_and_else_says_why_the_first_is_not() {
        let (direct, routed) = ((Way::Direct, None), (Way::Routed, Some("a")));
        assert_eq!(way(&[]), None);
        assert_eq!(way(&[direct, direct]), Some((Way::Direct, None)));
        let why = Some((Way::Routed, Some("a".to_owned())));
        assert_eq!(way(&[direct, routed, direct, (Way::Routed, Some("b"))]), why);
        assert_eq!(nowhere(Transport::Auto), (Way::Routed, None));
        assert!(nowhere(Transport::Direct).1.is_some());
    }
}
