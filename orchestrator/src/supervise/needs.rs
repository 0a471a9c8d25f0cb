//! Who needs whom: what an instance has to wait for, and what follows when one that is needed is
//! lost.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use orchestrator_proto::InstanceId;
use orchestrator_proto::control::{After, Condition, OnFailure, Replica, Requirement, Supervision};

use super::Effect;

/// How far an instance is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Nothing of it runs, and it has not come to an end by itself.
    Off,
    /// Its program runs, and it is not ready, or not well.
    Started,
    /// It is ready.
    Ready,
    /// It has run to its end without a failure.
    Completed,
    /// It has failed, and is not started again by itself.
    Failed,
}

impl Standing {
    const fn fulfils(self, condition: Condition) -> bool {
        match condition {
            Condition::Started => matches!(self, Self::Started | Self::Ready | Self::Completed),
            Condition::Ready => matches!(self, Self::Ready),
            Condition::Completed => matches!(self, Self::Completed),
        }
    }
}

/// What an instance is to be told, because another one has changed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Consequence {
    /// What it has to wait for now, if that has changed; nothing is nothing.
    pub block: Option<Option<String>>,
    /// One that it needs was lost.
    pub lost: Option<(String, Effect)>,
}

impl Consequence {
    /// What comes of both, if nobody was told of the first one.
    #[must_use]
    pub fn then(self, next: Self) -> Self {
        Self {
            block: next.block.or(self.block),
            lost: match (self.lost, next.lost) {
                (Some(stop @ (_, Effect::Stop)), _) => Some(stop),
                (before, next) => next.or(before),
            },
        }
    }
}

#[derive(Debug)]
struct Node {
    name: Option<String>,
    /// The set of which it is a replica.
    set: Option<String>,
    requires: Vec<Requirement>,
    after: Vec<After>,
    standing: Standing,
    /// It should run.
    wanted: bool,
    /// It is about to be stopped, so nobody is to rely on it.
    held: bool,
    /// What it was last told to wait for.
    blocked: Option<String>,
}

/// All instances, by who needs whom. Others are named by their names or their ids, and need not
/// be there.
#[derive(Debug, Default)]
pub struct Needs {
    nodes: BTreeMap<InstanceId, Node>,
    names: HashMap<String, InstanceId>,
    /// Sets of replicas: who needs one needs each of them. Of one without replicas nothing is
    /// needed.
    sets: HashMap<String, BTreeSet<InstanceId>>,
    /// Those that name this one, by what they call it.
    dependents: HashMap<String, BTreeSet<InstanceId>>,
}

impl Needs {
    /// Whether an instance with this name, id and rules would need itself.
    ///
    /// # Errors
    ///
    /// The way from it to itself.
    pub fn check(
        &self,
        id: Option<InstanceId>,
        name: Option<&str>,
        rules: &Supervision,
    ) -> Result<(), String> {
        let set = name.and_then(|name| self.set_of(name));
        let is_it = |text: &str| {
            Some(text) == name
                || Some(text) == set.as_deref()
                || id.is_some_and(|id| text.parse::<InstanceId>() == Ok(id))
        };
        let label = name.map_or_else(|| "it".to_owned(), str::to_owned);
        // Depth first, each node once; the path is kept beside it.
        let mut todo: Vec<(String, Vec<String>)> =
            named(rules).map(|text| (text.to_owned(), vec![label.clone()])).collect();
        let mut seen = BTreeSet::new();
        while let Some((text, mut path)) = todo.pop() {
            path.push(text.clone());
            if is_it(&text) {
                return Err(path.join(" → "));
            }
            for id in self.resolve(&text).unwrap_or_default() {
                if seen.insert(id)
                    && let Some(node) = self.nodes.get(&id)
                {
                    todo.extend(node.named().map(|text| (text.to_owned(), path.clone())));
                }
            }
        }
        Ok(())
    }

    /// There is a set of replicas of this name: those instances that have its name and an index,
    /// once they are added. The answer is what others are to be told.
    pub fn add_set(&mut self, name: &str) -> Vec<(InstanceId, Consequence)> {
        self.sets.entry(name.to_owned()).or_default();
        self.reblock_those_that_name(name)
    }

    /// There is no such set any more. The answer is what others are to be told.
    pub fn remove_set(&mut self, name: &str) -> Vec<(InstanceId, Consequence)> {
        for id in self.sets.remove(name).unwrap_or_default() {
            if let Some(node) = self.nodes.get_mut(&id) {
                node.set = None;
            }
        }
        self.reblock_those_that_name(name)
    }

    /// An instance is to go, and its set stays: who needs that does not need this one any more.
    /// The answer is what others are to be told.
    pub fn part(&mut self, id: InstanceId) -> Vec<(InstanceId, Consequence)> {
        let Some(set) = self.nodes.get_mut(&id).and_then(|node| node.set.take()) else {
            return Vec::new();
        };
        if let Some(members) = self.sets.get_mut(&set) {
            members.remove(&id);
        }
        self.reblock_those_that_name(&set)
    }

    fn reblock_those_that_name(&mut self, text: &str) -> Vec<(InstanceId, Consequence)> {
        let all = self.dependents.get(text).cloned().unwrap_or_default();
        all.into_iter().filter_map(|other| Some((other, self.reblock(other)?))).collect()
    }

    /// The set, if there is it, whose replica has this name.
    fn set_of(&self, name: &str) -> Option<String> {
        Replica::of_name(name).map(|it| it.set).filter(|set| self.sets.contains_key(set))
    }

    /// Adds an instance that is off. The answer is what it has to wait for, and what others are
    /// to be told.
    pub fn insert(
        &mut self,
        id: InstanceId,
        name: Option<&str>,
        rules: &Supervision,
    ) -> (Option<String>, Vec<(InstanceId, Consequence)>) {
        for text in named(rules) {
            self.dependents.entry(text.to_owned()).or_default().insert(id);
        }
        if let Some(name) = name {
            self.names.insert(name.to_owned(), id);
        }
        let set = name.and_then(|name| self.set_of(name));
        if let Some(members) = set.as_ref().and_then(|set| self.sets.get_mut(set)) {
            members.insert(id);
        }
        let node = Node {
            name: name.map(Into::into),
            set,
            requires: rules.requires.clone(),
            after: rules.after.clone(),
            standing: Standing::Off,
            wanted: false,
            held: false,
            blocked: None,
        };
        self.nodes.insert(id, node);
        let blocked = self.blocked(id);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.blocked.clone_from(&blocked);
        }
        (blocked, self.consequences(id, None))
    }

    /// An instance that is there needs these from now on. The answer is what it is to be told, if
    /// that has changed.
    pub fn set_rules(&mut self, id: InstanceId, rules: &Supervision) -> Option<Consequence> {
        let node = self.nodes.get_mut(&id)?;
        let requires = std::mem::replace(&mut node.requires, rules.requires.clone());
        let after = std::mem::replace(&mut node.after, rules.after.clone());
        let before = requires.iter().map(|it| &it.instance);
        for text in before.chain(after.iter().map(|it| &it.instance)) {
            if let Some(all) = self.dependents.get_mut(text) {
                all.remove(&id);
                if all.is_empty() {
                    self.dependents.remove(text);
                }
            }
        }
        for text in named(rules) {
            self.dependents.entry(text.to_owned()).or_default().insert(id);
        }
        self.reblock(id)
    }

    /// Removes an instance. The answer is what others are to be told.
    pub fn remove(&mut self, id: InstanceId) -> Vec<(InstanceId, Consequence)> {
        let dependents = self.dependents_of(id);
        let Some(node) = self.nodes.remove(&id) else {
            return Vec::new();
        };
        for text in node.named() {
            if let Some(all) = self.dependents.get_mut(text) {
                all.remove(&id);
                if all.is_empty() {
                    self.dependents.remove(text);
                }
            }
        }
        if let Some(name) = &node.name {
            self.names.remove(name);
        }
        if let Some(members) = node.set.as_ref().and_then(|set| self.sets.get_mut(set)) {
            members.remove(&id);
        }
        let others = dependents.into_iter().filter(|other| *other != id);
        others.filter_map(|other| Some((other, self.reblock(other)?))).collect()
    }

    /// An instance is this far, and should run or not. The answer is what others are to be told.
    pub fn set(
        &mut self,
        id: InstanceId,
        standing: Standing,
        wanted: bool,
    ) -> Vec<(InstanceId, Consequence)> {
        let Some(node) = self.nodes.get_mut(&id) else {
            return Vec::new();
        };
        if (node.standing, node.wanted) == (standing, wanted) {
            return Vec::new();
        }
        let before = std::mem::replace(&mut node.standing, standing);
        node.wanted = wanted;
        node.held &= standing != Standing::Off;
        self.consequences(id, Some(before))
    }

    /// An instance is about to be stopped, or, if it is not held any more, is not after all. The
    /// answer is what others are to be told. Ends by itself when it is off.
    pub fn hold(&mut self, id: InstanceId, held: bool) -> Vec<(InstanceId, Consequence)> {
        match self.nodes.get_mut(&id) {
            Some(node) => node.held = held && node.standing != Standing::Off,
            None => return Vec::new(),
        }
        self.consequences(id, None)
    }

    /// What follows for others when one was in this standing before.
    fn consequences(
        &mut self,
        id: InstanceId,
        before: Option<Standing>,
    ) -> Vec<(InstanceId, Consequence)> {
        let mut all = Vec::new();
        for other in self.dependents_of(id) {
            let lost = before.and_then(|before| self.lost(other, id, before));
            let consequence = self.reblock(other).unwrap_or_default();
            let consequence = Consequence { lost, ..consequence };
            if consequence != Consequence::default() {
                all.push((other, consequence));
            }
        }
        all
    }

    /// What an instance has to wait for, if that is not what it was told last.
    fn reblock(&mut self, id: InstanceId) -> Option<Consequence> {
        let blocked = self.blocked(id);
        let node = self.nodes.get_mut(&id)?;
        if node.blocked == blocked {
            return None;
        }
        node.blocked.clone_from(&blocked);
        Some(Consequence { block: Some(blocked), lost: None })
    }

    /// What this one loses with that one.
    fn lost(
        &self,
        id: InstanceId,
        needed: InstanceId,
        before: Standing,
    ) -> Option<(String, Effect)> {
        let now = self.nodes.get(&needed)?.standing;
        let node = self.nodes.get(&id)?;
        let effects = node.requires.iter().filter_map(|requirement| {
            if !self.means(&requirement.instance, needed) {
                return None;
            }
            let had = before.fulfils(requirement.condition);
            let gone = match now {
                Standing::Off | Standing::Completed => had && !now.fulfils(requirement.condition),
                Standing::Failed => before != Standing::Failed,
                Standing::Started | Standing::Ready => false,
            };
            let what = if now == Standing::Failed { "has failed" } else { "was stopped" };
            let reason = format!("{} {what}", self.label(&requirement.instance, needed));
            match requirement.on_failure {
                _ if !gone => None,
                OnFailure::Stop => Some((reason, Effect::Stop)),
                OnFailure::Restart => Some((reason, Effect::Restart)),
                OnFailure::Ignore => None,
            }
        });
        effects.fold(None, |before: Option<(String, Effect)>, next| match before {
            Some((_, Effect::Stop)) => before,
            _ => Some(next),
        })
    }

    /// What an instance has to wait for before it can be started; nothing is nothing.
    #[must_use]
    pub fn blocked(&self, id: InstanceId) -> Option<String> {
        let node = self.nodes.get(&id)?;
        let missing = node.requires.iter().find_map(|requirement| {
            let Some(needed) = self.resolve(&requirement.instance) else {
                return Some(format!("{} to be added", requirement.instance));
            };
            needed.into_iter().find_map(|id| {
                let is_there = self.nodes.get(&id)?.fulfils(requirement.condition);
                let label = self.label(&requirement.instance, id);
                (!is_there).then(|| wanted(&label, requirement.condition))
            })
        });
        missing.or_else(|| {
            node.after.iter().find_map(|after| {
                self.resolve(&after.instance)?.into_iter().find_map(|id| {
                    let earlier = self.nodes.get(&id)?;
                    let comes = earlier.wanted
                        && !earlier.fulfils(after.condition)
                        && !matches!(earlier.standing, Standing::Completed | Standing::Failed);
                    comes.then(|| wanted(&self.label(&after.instance, id), after.condition))
                })
            })
        })
    }

    /// Those that an instance needs, as far as they are there.
    #[must_use]
    pub fn required(&self, id: InstanceId) -> Vec<InstanceId> {
        let node = self.nodes.get(&id);
        let requires = node.into_iter().flat_map(|node| &node.requires);
        let all = requires.filter_map(|requirement| self.resolve(&requirement.instance));
        all.flatten().collect()
    }

    /// Those that lose something when an instance is stopped, and what follows for them.
    #[must_use]
    pub fn requirers(&self, id: InstanceId) -> Vec<(InstanceId, Effect)> {
        let effect = |other: InstanceId| {
            let requires = &self.nodes.get(&other)?.requires;
            let mine = requires.iter().filter(|requirement| {
                // What it has waited for to complete is not lost.
                requirement.condition != Condition::Completed
                    && self.means(&requirement.instance, id)
            });
            mine.filter_map(|requirement| match requirement.on_failure {
                OnFailure::Stop => Some(Effect::Stop),
                OnFailure::Restart => Some(Effect::Restart),
                OnFailure::Ignore => None,
            })
            .reduce(|a, b| if a == Effect::Stop { a } else { b })
        };
        let all = self.dependents_of(id).into_iter();
        all.filter_map(|other| Some((other, effect(other)?))).collect()
    }

    /// Those that need an instance or come after it.
    #[must_use]
    pub fn dependents_of(&self, id: InstanceId) -> BTreeSet<InstanceId> {
        if self.dependents.is_empty() {
            return BTreeSet::new();
        }
        let node = self.nodes.get(&id);
        let names = node.into_iter().flat_map(|node| node.name.iter().chain(&node.set));
        let by_name = names.filter_map(|name| self.dependents.get(name));
        let by_id = self.dependents.get(&id.to_string());
        by_name.chain(by_id).flatten().copied().collect()
    }

    /// Those that are called this: one, or all of a set; none if there is neither.
    fn resolve(&self, text: &str) -> Option<Vec<InstanceId>> {
        if let Some(members) = self.sets.get(text) {
            return Some(members.iter().copied().collect());
        }
        let by_name = self.names.get(text).copied();
        let found = by_name.or_else(|| text.parse().ok().filter(|id| self.nodes.contains_key(id)));
        found.map(|id| vec![id])
    }

    fn means(&self, text: &str, id: InstanceId) -> bool {
        match self.sets.get(text) {
            Some(members) => members.contains(&id),
            None => self.resolve(text).is_some_and(|all| all.contains(&id)),
        }
    }

    /// What to call one that is meant by this: of a set, the replica.
    fn label(&self, text: &str, id: InstanceId) -> String {
        let name = self.nodes.get(&id).and_then(|node| node.name.as_ref());
        let of_set = name.filter(|_| self.sets.contains_key(text));
        of_set.map_or_else(|| text.to_owned(), Clone::clone)
    }
}

impl Node {
    const fn fulfils(&self, condition: Condition) -> bool {
        // What has completed stays so.
        (!self.held || matches!(condition, Condition::Completed))
            && self.standing.fulfils(condition)
    }

    fn named(&self) -> impl Iterator<Item = &str> {
        let requires = self.requires.iter().map(|it| it.instance.as_str());
        requires.chain(self.after.iter().map(|it| it.instance.as_str()))
    }
}

fn named(rules: &Supervision) -> impl Iterator<Item = &str> {
    let requires = rules.requires.iter().map(|it| it.instance.as_str());
    requires.chain(rules.after.iter().map(|it| it.instance.as_str()))
}

fn wanted(instance: &str, condition: Condition) -> String {
    let how = match condition {
        Condition::Started => "started",
        Condition::Ready => "ready",
        Condition::Completed => "completed",
    };
    format!("{instance} to be {how}")
}

#[cfg(test)]
mod tests;
