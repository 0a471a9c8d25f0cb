//! Which instance is meant by what is wanted.

use std::collections::{HashMap, HashSet};

use orchestrator_proto::InstanceId;
use orchestrator_proto::control::{Wanted, WantedSet};

use super::{End, Present};

/// Who is there, who is wanted, and which is which.
pub(super) struct Known<'a> {
    /// Those that are to be removed.
    doomed: HashSet<InstanceId>,
    /// The one that is there, for each that is wanted.
    matched: Vec<Option<&'a Present>>,
    wanted_by_name: HashMap<&'a str, usize>,
    wanted_by_id: HashMap<InstanceId, usize>,
    present_by_name: HashMap<&'a str, &'a Present>,
    present_by_id: HashMap<InstanceId, &'a Present>,
    kept: HashSet<InstanceId>,
}

impl<'a> Known<'a> {
    pub(super) fn new(
        wanted: &'a WantedSet,
        present: &'a [Present],
        is_doomed: impl Fn(&Present) -> bool,
        problems: &mut Vec<String>,
    ) -> Self {
        let names = present.iter().filter_map(|it| Some((it.spec.name.as_deref()?, it)));
        let mut known = Self {
            doomed: HashSet::new(),
            matched: Vec::with_capacity(wanted.instances.len()),
            wanted_by_name: HashMap::new(),
            wanted_by_id: HashMap::new(),
            present_by_name: names.collect(),
            present_by_id: present.iter().map(|it| (it.id, it)).collect(),
            kept: HashSet::new(),
        };
        for (place, wanted) in wanted.instances.iter().enumerate() {
            match known.add(place, wanted) {
                Ok(present) => known.matched.push(present),
                Err(problem) => {
                    known.matched.push(None);
                    problems.push(format!("{}: {problem}", wanted.label()));
                }
            }
        }
        let gone = present.iter().filter(|it| !known.kept.contains(&it.id) && is_doomed(it));
        known.doomed = gone.map(|it| it.id).collect();
        known
    }

    fn add(&mut self, place: usize, wanted: &'a Wanted) -> Result<Option<&'a Present>, String> {
        let (name, id) = (wanted.spec.name.as_deref(), wanted.spec.id);
        if let Some(name) = name
            && self.wanted_by_name.insert(name, place).is_some()
        {
            return Err("it is wanted twice".to_owned());
        }
        if let Some(id) = id
            && self.wanted_by_id.insert(id, place).is_some()
        {
            return Err(format!("the id {id} is wanted twice"));
        }
        let by_id = id.and_then(|id| self.present_by_id.get(&id).copied());
        let found = match (name, id) {
            (None, None) => return Err("it has neither a name nor an id".to_owned()),
            (None, Some(_)) => by_id,
            (Some(name), id) => match (self.present_by_name.get(name).copied(), by_id) {
                (Some(found), _) if id.is_some_and(|id| id != found.id) => {
                    return Err(format!(
                        "it has the id {} already, which can't be changed; leave the id out",
                        found.id
                    ));
                }
                (None, Some(other)) => {
                    let owner = other.spec.name.as_deref().unwrap_or("an instance without a name");
                    return Err(format!("its id {} is that of {owner}", other.id));
                }
                (found, _) => found,
            },
        };
        if let Some(found) = found
            && !self.kept.insert(found.id)
        {
            return Err("it is wanted twice, by its name and by its id".to_owned());
        }
        Ok(found)
    }

    /// The one that is there, for the one that is wanted at this place.
    pub(super) fn present(&self, place: usize) -> Option<&'a Present> {
        self.matched.get(place).copied().flatten()
    }

    /// Whether this one is to be removed.
    pub(super) fn is_doomed(&self, id: InstanceId) -> bool {
        self.doomed.contains(&id)
    }

    /// The instance that the end of a link means.
    ///
    /// # Errors
    ///
    /// When there is none, a sentence.
    pub(super) fn end(&self, text: &str) -> Result<End, String> {
        let id = text.parse::<InstanceId>().ok();
        let place = self.wanted_by_name.get(text).copied();
        if let Some(place) = place.or_else(|| self.wanted_by_id.get(&id?).copied()) {
            return Ok(match self.present(place) {
                Some(present) => End::Present(present.id),
                None => End::New(place),
            });
        }
        let present = self.present_by_name.get(text).copied();
        match present.or_else(|| self.present_by_id.get(&id?).copied()) {
            Some(present) if self.is_doomed(present.id) => {
                Err(format!("{text} is not wanted, and would be removed"))
            }
            Some(present) => Ok(End::Present(present.id)),
            None => Err(format!("there is no instance {text:?}, and none is wanted")),
        }
    }

    /// A name, or an id if there is none.
    pub(super) fn label(&self, id: InstanceId) -> String {
        let name = self.present_by_id.get(&id).and_then(|present| present.spec.name.clone());
        name.unwrap_or_else(|| id.to_string())
    }
}
