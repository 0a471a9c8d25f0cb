//! The links of what is wanted.

use orchestrator_proto::control::EventKind;
use orchestrator_proto::{ErrorCode, InstanceId, LinkId, WireError};

use super::super::Registry;
use super::super::links::{changed_link, kept, record};
use super::Built;
use crate::plan::{End, LinkStep, Route, SetLinkStep, Side, Target};
use crate::route::{LinkRequest, LinkTarget, RouteError};
use crate::store::{Change, LinkEnd, LinkRecord, SetLinkEnd, SetLinkRecord};

/// What is to be done with links from and to sets of replicas, once it is stored.
#[derive(Default)]
pub(super) struct SetLinked {
    pub(super) made: Vec<SetLinkRecord>,
    changed: Vec<SetLinkRecord>,
    removed: Vec<LinkId>,
}

/// What was done with links, so that it can be undone or told.
#[derive(Default)]
pub(super) struct Linked {
    made: Vec<LinkRecord>,
    /// Each as it was, and as it is.
    changed: Vec<(LinkRecord, LinkRecord)>,
    removed: Vec<LinkRecord>,
    /// Messages that waited in links that were changed, and had to give way.
    pub(super) dropped: u64,
}

impl Registry {
    /// Makes and removes links, and notes what is to be stored. To be called with the links
    /// locked.
    ///
    /// # Errors
    ///
    /// Why one of them can't be: then `linked` has what was done before.
    pub(super) fn link_all(
        &self,
        steps: &[LinkStep],
        built: &[Built],
        changes: &mut Vec<Change>,
        linked: &mut Linked,
    ) -> Result<(), WireError> {
        // Last of all those after which messages are lost, which can't be undone.
        let is_last = |step: &&LinkStep| !matches!(step, LinkStep::Make { .. });
        let first = steps.iter().filter(|step| !is_last(step));
        for step in first.chain(steps.iter().filter(is_last)) {
            self.link_one(step, built, changes, linked)?;
        }
        Ok(())
    }

    fn link_one(
        &self,
        step: &LinkStep,
        built: &[Built],
        changes: &mut Vec<Change>,
        linked: &mut Linked,
    ) -> Result<(), WireError> {
        match step {
            LinkStep::Make { route, rules } => {
                let (from, type_name, to) = resolve(route, built)?;
                let request = LinkRequest { from, type_name, to, rules: *rules };
                self.check_ends(&request)?;
                let (id, created) = self.router().add_link(&request)?;
                if created {
                    let record = record(id, &request);
                    changes.push(Change::AddLink(record.clone()));
                    linked.made.push(record);
                }
            }
            LinkStep::Change { id, rules } => {
                let links = self.router().links();
                let link = links.iter().find(|link| link.id == *id);
                let before = kept(link.ok_or(RouteError::NoLink(*id))?);
                linked.dropped += self.router().change_link(*id, *rules)?;
                let after = LinkRecord { rules: *rules, ..before.clone() };
                changes.push(Change::ChangeLink(after.clone()));
                linked.changed.push((before, after));
            }
            LinkStep::Remove(id) => {
                let links = self.router().links();
                // If it is gone already, that is as well.
                if let Some(link) = links.iter().find(|link| link.id == *id)
                    && self.router().remove_link(*id).is_ok()
                {
                    changes.push(Change::RemoveLink(*id));
                    linked.removed.push(kept(link));
                }
            }
        }
        Ok(())
    }

    /// What becomes of links from and to sets, which is noted as what is to be stored. To be called
    /// with the links locked.
    ///
    /// # Errors
    ///
    /// When an end is about to be removed.
    pub(super) fn link_sets(
        &self,
        steps: &[SetLinkStep],
        built: &[Built],
        changes: &mut Vec<Change>,
    ) -> Result<SetLinked, WireError> {
        let mut linked = SetLinked::default();
        for step in steps {
            match step {
                SetLinkStep::Remove(id) => {
                    changes.push(Change::RemoveLink(*id));
                    linked.removed.push(*id);
                }
                SetLinkStep::Change { id, rules } => {
                    let before = self.set_link_record(*id).ok_or(RouteError::NoLink(*id))?;
                    let after = SetLinkRecord { rules: *rules, ..before };
                    changes.push(Change::ChangeSetLink(after.clone()));
                    linked.changed.push(after);
                }
                SetLinkStep::Make { route, rules } => {
                    let side = |side: &Side<End>| match side {
                        Side::Set(name) => Ok::<_, WireError>(SetLinkEnd::Set(name.clone())),
                        Side::One(end) => {
                            let id = resolve_end(end, built)?;
                            self.check_end(id)?;
                            Ok(SetLinkEnd::Single(LinkEnd::Instance(id)))
                        }
                    };
                    let record = SetLinkRecord {
                        id: self.router().take_id(),
                        from: route.from.as_ref().map(side).transpose()?,
                        type_name: route.type_name.as_str().into(),
                        to: match &route.to {
                            Target::Instance(to) => side(to)?,
                            Target::Udp(address) => {
                                SetLinkEnd::Single(LinkEnd::Udp(address.as_str().into()))
                            }
                        },
                        rules: *rules,
                    };
                    changes.push(Change::AddSetLink(record.clone()));
                    linked.made.push(record);
                }
            }
        }
        Ok(linked)
    }

    fn check_end(&self, id: InstanceId) -> Result<(), WireError> {
        match self.newest(id) {
            Ok(end) => super::super::check_staying(&end),
            // It is new, and nobody can find it as yet.
            Err(_) => Ok(()),
        }
    }

    /// An end may be about to be removed.
    fn check_ends(&self, request: &LinkRequest) -> Result<(), WireError> {
        let to = match &request.to {
            LinkTarget::Instance(to) => Some(*to),
            LinkTarget::Udp(_) => None,
        };
        request.from.into_iter().chain(to).try_for_each(|id| self.check_end(id))
    }

    /// As it was before. What waited in links that were removed is lost, and so is what others gave
    /// up.
    pub(super) fn unlink_all(&self, linked: Linked) {
        let Linked { made, changed, removed, .. } = linked;
        for (LinkRecord { id, rules, .. }, _) in changed {
            if let Err(error) = self.router().change_link(id, rules) {
                tracing::error!(%id, %error, "a link could not be changed back");
            }
        }
        if made.is_empty() && removed.is_empty() {
            return;
        }
        let newest = self.router().links().iter().map(|link| link.id).max();
        for link in made {
            let _ = self.router().remove_link(link.id);
        }
        for link in removed {
            let id = link.id;
            if let Err(error) = self.restore_link(link) {
                tracing::error!(%id, %error, "a link could not be restored");
            }
        }
        if let Some(newest) = newest {
            let there = self.router().links().iter().map(|link| link.id).max();
            self.router().set_last_id(there.unwrap_or(newest).max(newest));
        }
    }

    /// From now on there are these links from and to sets; tells of them.
    pub(super) fn enter_set_links(&self, linked: SetLinked) {
        self.drop_set_links(&linked.removed);
        for link in linked.removed {
            self.events().record(None, None, EventKind::LinkRemoved { link });
        }
        for record in linked.changed {
            self.events().record(None, None, changed_link(record.id, record.rules));
            self.enter_set_link(record);
        }
        for record in linked.made {
            self.tell_set_link(&record);
            self.enter_set_link(record);
        }
    }

    /// Tells what was done.
    pub(super) fn tell_links(&self, linked: &Linked) {
        for link in &linked.removed {
            self.events().record(None, None, EventKind::LinkRemoved { link: link.id });
        }
        for (_, link) in &linked.changed {
            self.tell_changed_link(link);
        }
        for link in &linked.made {
            self.tell_link(link);
        }
    }
}

fn resolve(
    route: &Route<End>,
    built: &[Built],
) -> Result<(Option<InstanceId>, std::sync::Arc<str>, LinkTarget), WireError> {
    let id = |end: &End| resolve_end(end, built);
    let to = match &route.to {
        Target::Instance(to) => LinkTarget::Instance(id(to)?),
        Target::Udp(address) => LinkTarget::Udp(address.as_str().into()),
    };
    let from = route.from.as_ref().map(id).transpose()?;
    Ok((from, route.type_name.as_str().into(), to))
}

fn resolve_end(end: &End, built: &[Built]) -> Result<InstanceId, WireError> {
    match end {
        End::Present(id) => Ok(*id),
        End::New(place) => {
            let found = built.iter().find(|it| it.place == *place).map(|it| it.instance.id);
            let message = "a link ends at an instance that was not built";
            found.ok_or_else(|| WireError::new(ErrorCode::Internal, message))
        }
    }
}
