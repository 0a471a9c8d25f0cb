//! PURE: the calls of one type that are under way. Events and the time in, actions out.
//!
//! Each call is answered exactly once, unless its client goes away. It waits until a service that a
//! link leads to has a free place; then it is given to that one and to no other, since it
//! may have an effect there. Its place there becomes free when the service has answered, also if
//! nobody waits for that any more.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use orchestrator_proto::InstanceId;
use orchestrator_proto::runtime::{CallFailure, MAX_CALL_BYTES, MAX_CALLS};

use super::parts::{
    Action, Call, CallKey, Caller, Client, ClientKey, Duplicate, NotItsCall, Service, ServiceKey,
    State, Way, agree,
};
use crate::route::decl::TypeDecl;
use crate::route::types;

/// See the module.
#[derive(Default)]
pub(super) struct Table {
    last_key: u64,
    clients: BTreeMap<ClientKey, Client>,
    services: BTreeMap<ServiceKey, Service>,
    /// Those of each instance, the newest last.
    of_instances: BTreeMap<InstanceId, Vec<ServiceKey>>,
    /// By both ends.
    ways: HashMap<(Option<InstanceId>, InstanceId), Way>,
    /// Whose calls any way carries.
    callers: HashSet<Option<InstanceId>>,
    calls: HashMap<CallKey, Call>,
    deadlines: BTreeSet<(Instant, CallKey)>,
    /// Clients with calls that wait, each once, in the order in which they are served.
    turns: VecDeque<ClientKey>,
}

impl Table {
    fn key(&mut self) -> u64 {
        self.last_key += 1;
        self.last_key
    }

    /// A client comes.
    pub(super) fn open_client(&mut self, caller: Caller, decl: Arc<TypeDecl>) -> ClientKey {
        let key = ClientKey(self.key());
        let (calls, waiting) = (HashMap::new(), VecDeque::new());
        self.clients.insert(key, Client { caller, decl, calls, waiting, bytes: 0 });
        key
    }

    /// A client is gone: nobody waits for its answers any more.
    pub(super) fn close_client(&mut self, key: ClientKey, out: &mut Vec<Action>) {
        let Some(client) = self.clients.remove(&key) else { return };
        self.turns.retain(|other| *other != key);
        for call in client.calls.into_values() {
            self.forget(call, client.caller, out);
        }
    }

    /// A service comes, and gets what waits for it. Of several of one instance the newest is given
    /// calls.
    pub(super) fn open_service(
        &mut self,
        (instance, decl): (InstanceId, Arc<TypeDecl>),
        at_once: u32,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> ServiceKey {
        let key = ServiceKey(self.key());
        let (given, at_once) = (HashMap::new(), at_once as usize);
        let service = Service { instance, decl, at_once, given, bytes: 0, last: 0 };
        self.services.insert(key, service);
        self.of_instances.entry(instance).or_default().push(key);
        self.refuse_mismatched(out);
        self.fill(key, now, out);
        key
    }

    /// A service is gone, with what it had been given.
    pub(super) fn close_service(&mut self, key: ServiceKey, now: Instant, out: &mut Vec<Action>) {
        let Some(service) = self.services.remove(&key) else { return };
        if let Some(all) = self.of_instances.get_mut(&service.instance) {
            all.retain(|other| *other != key);
            if all.is_empty() {
                self.of_instances.remove(&service.instance);
            }
        }
        let mut given: Vec<_> = service.given.into_keys().collect();
        given.sort_unstable();
        for call in given {
            self.answer(call, Err(CallFailure::ServiceGone), out);
        }
        // The one before it, if there is one, has its turn again.
        if let Some(before) = self.newest(service.instance) {
            self.fill(before, now, out);
        }
    }

    /// These are the links from now on.
    pub(super) fn set_ways(
        &mut self,
        ways: impl Iterator<Item = Way>,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        self.ways = ways.map(|way| ((way.from, way.to), way)).collect();
        self.callers = self.ways.keys().map(|(from, _)| *from).collect();
        let links: HashSet<_> = self.ways.values().map(|way| way.link).collect();
        let mut ended = Vec::new();
        for (key, call) in &self.calls {
            match &call.state {
                State::Given { service, over: Some((link, _)) } if !links.contains(link) => {
                    ended.push((*key, Some(*service), CallFailure::LinkRemoved));
                }
                State::Waiting { .. } if !self.has_way(call.client) => {
                    ended.push((*key, None, CallFailure::NoLink));
                }
                _ => {}
            }
        }
        // In the order in which they were made.
        ended.sort_unstable_by_key(|(key, ..)| *key);
        for (call, service, failure) in ended {
            self.answer(call, Err(failure), out);
            out.extend(service.map(|service| Action::Withdraw { service, call }));
        }
        self.refuse_mismatched(out);
        self.fill_all(now, out);
    }

    /// A client calls.
    ///
    /// # Errors
    ///
    /// When it has a call with this id under way.
    pub(super) fn call(
        &mut self,
        key: ClientKey,
        id: u64,
        timeout: Duration,
        payload: Bytes,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> Result<(), Duplicate> {
        let Some(client) = self.clients.get(&key) else { return Ok(()) };
        if client.calls.contains_key(&id) {
            return Err(Duplicate);
        }
        let is_full = client.calls.len() >= MAX_CALLS as usize
            || (client.bytes > 0 && client.bytes + payload.len() > MAX_CALL_BYTES);
        let refused = if is_full {
            Some(CallFailure::TooMany)
        } else if !self.has_way(key) {
            Some(CallFailure::NoLink)
        } else {
            self.mismatch(key).map(CallFailure::Mismatched)
        };
        if let Some(failure) = refused {
            self.count_unserved(client.caller);
            out.push(Action::Answer { client: key, id, result: Err(failure) });
            return Ok(());
        }
        let call = CallKey(self.key());
        // So far that nobody sees the difference, where there is no such time.
        let deadline = now.checked_add(timeout).unwrap_or(now);
        self.deadlines.insert((deadline, call));
        let size = payload.len();
        let state = State::Waiting { payload };
        self.calls.insert(call, Call { client: key, id, deadline, state });
        let Some(client) = self.clients.get_mut(&key) else { return Ok(()) };
        client.calls.insert(id, call);
        client.bytes += size;
        client.waiting.push_back(call);
        if client.waiting.len() > 1 {
            // Those before it have no place either.
            return Ok(());
        }
        match self.pick(key, size) {
            Some(service) => self.give(key, service, now, out),
            None => self.turns.push_back(key),
        }
        Ok(())
    }

    /// A client does not want a call any more. Nothing happens if it was answered.
    pub(super) fn cancel(&mut self, key: ClientKey, id: u64, now: Instant, out: &mut Vec<Action>) {
        let call = self.clients.get(&key).and_then(|client| client.calls.get(&id).copied());
        if let Some(call) = call {
            self.end(call, CallFailure::Cancelled, out);
            self.fill_all(now, out);
        }
    }

    /// A service answers.
    ///
    /// # Errors
    ///
    /// When it has no such call.
    pub(super) fn answered(
        &mut self,
        key: ServiceKey,
        call: CallKey,
        result: Result<Bytes, CallFailure>,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> Result<(), NotItsCall> {
        let service = self.services.get_mut(&key).ok_or(NotItsCall)?;
        let size = service.given.remove(&call).ok_or(NotItsCall)?;
        service.bytes -= size;
        self.answer(call, result, out);
        self.fill(key, now, out);
        Ok(())
    }

    /// It is that time.
    pub(super) fn tick(&mut self, now: Instant, out: &mut Vec<Action>) {
        while let Some((deadline, call)) = self.deadlines.first().copied()
            && deadline <= now
        {
            let is_given =
                matches!(self.calls.get(&call), Some(Call { state: State::Given { .. }, .. }));
            self.end(call, CallFailure::TimedOut { given: is_given }, out);
            self.deadlines.remove(&(deadline, call));
        }
        self.fill_all(now, out);
    }

    /// When to [tick](Self::tick) next.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Ends a call that is under way: its client is answered, its service told.
    fn end(&mut self, call: CallKey, failure: CallFailure, out: &mut Vec<Action>) {
        let service = match self.calls.get(&call).map(|call| &call.state) {
            Some(State::Given { service, .. }) => Some(*service),
            _ => None,
        };
        self.answer(call, Err(failure), out);
        out.extend(service.map(|service| Action::Withdraw { service, call }));
    }

    /// Answers a call, unless nobody waits for it any more.
    fn answer(&mut self, key: CallKey, result: Result<Bytes, CallFailure>, out: &mut Vec<Action>) {
        let Some(Call { client, id, deadline, state }) = self.calls.remove(&key) else { return };
        self.deadlines.remove(&(deadline, key));
        let caller = self.clients.get_mut(&client).map(|owner| {
            owner.calls.remove(&id);
            if let State::Waiting { payload } = &state {
                owner.waiting.retain(|other| *other != key);
                owner.bytes -= payload.len();
            }
            (owner.caller, owner.waiting.is_empty())
        });
        let Some((caller, waits_no_more)) = caller else { return };
        match &state {
            State::Given { over: Some((_, counts)), .. } => counts.answered(result.is_ok()),
            State::Given { over: None, .. } => {}
            State::Waiting { .. } => {
                self.count_unserved(caller);
                if waits_no_more {
                    self.turns.retain(|other| *other != client);
                }
            }
        }
        out.push(Action::Answer { client, id, result });
    }

    /// The client of this call is gone.
    fn forget(&mut self, key: CallKey, caller: Caller, out: &mut Vec<Action>) {
        let Some(Call { deadline, state, .. }) = self.calls.remove(&key) else { return };
        self.deadlines.remove(&(deadline, key));
        match state {
            State::Waiting { .. } => self.count_unserved(caller),
            State::Given { service, over } => {
                if let Some((_, counts)) = over {
                    counts.answered(false);
                }
                out.push(Action::Withdraw { service, call: key });
            }
        }
    }

    /// A call that was given to nobody counts on the first of the links that it could have taken.
    fn count_unserved(&self, caller: Caller) {
        let Caller::Instance(from) = caller else { return };
        let ways = self.ways.values().filter(|way| way.from.is_none_or(|only| only == from));
        if let Some(way) = ways.min_by_key(|way| way.link) {
            way.counts.unserved();
        }
    }

    fn has_way(&self, client: ClientKey) -> bool {
        match self.clients.get(&client).map(|client| client.caller) {
            Some(Caller::Instance(from)) => {
                self.callers.contains(&Some(from)) || self.callers.contains(&None)
            }
            Some(Caller::Outside { .. }) => true,
            None => false,
        }
    }

    /// The newest service of an instance.
    fn newest(&self, instance: InstanceId) -> Option<ServiceKey> {
        self.of_instances.get(&instance)?.last().copied()
    }

    /// Whether the caller may call this instance, and over which link.
    fn way(&self, caller: Caller, instance: InstanceId) -> Option<Option<&Way>> {
        match caller {
            Caller::Outside { to } => (to == instance).then_some(None),
            Caller::Instance(from) => {
                let own = self.ways.get(&(Some(from), instance));
                own.or_else(|| self.ways.get(&(None, instance))).map(Some)
            }
        }
    }

    /// Services that the client may call.
    fn reachable(&self, client: &Client) -> impl Iterator<Item = (ServiceKey, &Service)> {
        let caller = client.caller;
        let newest = self.of_instances.iter().filter_map(|(of, all)| Some((of, all.last()?)));
        newest
            .filter(move |(of, _)| self.way(caller, **of).is_some())
            .filter_map(|(_, key)| Some((*key, self.services.get(key)?)))
    }

    /// Both schemas, if all services that the client may call declare others.
    fn mismatch(&self, client: ClientKey) -> Option<String> {
        let client = self.clients.get(&client)?;
        let mut found = None;
        for (_, service) in self.reachable(client) {
            if agree(&client.decl, &service.decl) {
                return None;
            }
            found.get_or_insert((service.instance, &service.decl));
        }
        let (instance, decl) = found?;
        let caller = match client.caller {
            Caller::Instance(instance) => instance,
            Caller::Outside { to } => to,
        };
        let error = types::mismatch((&caller, &client.decl), (&instance, decl))?;
        // What differs, and both side by side.
        Some(if error.causes.is_empty() { error.message } else { error.causes.join("\n") })
    }

    /// Answers the calls that wait for services which have turned out to declare other schemas.
    fn refuse_mismatched(&mut self, out: &mut Vec<Action>) {
        for client in self.turns.iter().copied().collect::<Vec<_>>() {
            let Some(schemas) = self.mismatch(client) else { continue };
            let waiting = self.clients.get(&client).map(|client| client.waiting.clone());
            for call in waiting.into_iter().flatten() {
                self.answer(call, Err(CallFailure::Mismatched(schemas.clone())), out);
            }
        }
    }

    /// The service that gets the next call of this client, of so many bytes: of those with room the
    /// one with the fewest, and of these the one that was given none for the longest time.
    fn pick(&self, client: ClientKey, size: usize) -> Option<ServiceKey> {
        let client = self.clients.get(&client)?;
        self.reachable(client)
            .filter(|(_, service)| service.has_room(size) && agree(&client.decl, &service.decl))
            .min_by_key(|(_, service)| (service.given.len(), service.last))
            .map(|(key, _)| key)
    }

    /// The service gets calls that wait, as long as it has room: of each client in its turn.
    fn fill(&mut self, key: ServiceKey, now: Instant, out: &mut Vec<Action>) {
        loop {
            let Some(service) = self.services.get(&key) else { return };
            if self.turns.is_empty()
                || !service.has_room(0)
                || self.newest(service.instance) != Some(key)
            {
                return;
            }
            let may = |client: &&ClientKey| self.may_have(service, **client);
            let Some(client) = self.turns.iter().find(may).copied() else { return };
            self.turns.retain(|other| *other != client);
            self.give(client, key, now, out);
            if self.clients.get(&client).is_some_and(|client| !client.waiting.is_empty()) {
                self.turns.push_back(client);
            }
        }
    }

    /// What waits may have a place now: a call that took none is gone from before it.
    fn fill_all(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.turns.is_empty() {
            return;
        }
        for service in self.services.keys().copied().collect::<Vec<_>>() {
            self.fill(service, now, out);
        }
    }

    /// Whether the service has room for the next call of this client, which may call it.
    fn may_have(&self, service: &Service, client: ClientKey) -> bool {
        let Some(client) = self.clients.get(&client) else { return false };
        let next = client.waiting.front().and_then(|call| self.calls.get(call));
        let Some(Call { state: State::Waiting { payload }, .. }) = next else { return false };
        service.has_room(payload.len())
            && agree(&client.decl, &service.decl)
            && self.way(client.caller, service.instance).is_some()
    }

    /// The service gets the next call of this client.
    fn give(
        &mut self,
        client: ClientKey,
        service: ServiceKey,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let Some(owner) = self.clients.get_mut(&client) else { return };
        let Some(key) = owner.waiting.pop_front() else { return };
        let caller = owner.caller;
        let Some(instance) = self.services.get(&service).map(|it| it.instance) else { return };
        let over = self.way(caller, instance).flatten();
        let over = over.map(|way| (way.link, way.counts.clone()));
        if let Some((_, counts)) = &over {
            counts.given();
        }
        let last = self.key();
        let Some(call) = self.calls.get_mut(&key) else { return };
        let state = std::mem::replace(&mut call.state, State::Given { service, over });
        let State::Waiting { payload } = state else { return };
        let timeout = call.deadline.saturating_duration_since(now);
        if let Some(owner) = self.clients.get_mut(&client) {
            owner.bytes -= payload.len();
        }
        if let Some(it) = self.services.get_mut(&service) {
            it.given.insert(key, payload.len());
            it.bytes += payload.len();
            it.last = last;
        }
        out.push(Action::Give { service, call: key, caller, timeout, payload });
    }
}

#[cfg(test)]
mod tests;
