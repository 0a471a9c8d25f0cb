//! Calls: one request to one service, and one reply.
//!
//! All calls of one type meet in an [`Exchange`]: clients, services, and the links between them.
//! What becomes of each call is decided by the pure table behind its lock; frames are queued under
//! that lock, in the order of what was decided, and written after it. Nothing here waits.
//!
//! Exchanges share nothing: calls of one type never wait for those of another.

mod counts;
mod parts;
mod table;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use orchestrator_proto::runtime::{CallFailure, Direction};
use orchestrator_proto::{InstanceId, TypeSchema};
use tokio::sync::Notify;

pub(super) use counts::CallCounts;
use parts::{Action, CallKey, Caller, ClientKey, ServiceKey, Way};
pub use parts::{Duplicate, NotItsCall};
use table::Table;

use super::decl::TypeDecl;
use super::link::{Link, LinkTarget};
use super::router::Router;
use super::tap::Taps;

/// What a tap sees comes first: which variant of
/// [`schema_of_calls`](orchestrator_proto::runtime::schema_of_calls) it is.
const CALL: u8 = 0;
const REPLY: u8 = 1;
const FAILED: u8 = 2;

/// Whoever has an end of calls. None of this may wait, or call back.
pub trait CallPeer: Send + Sync {
    /// For a client: the one answer to its call. To be queued, not written.
    fn answer(&self, id: u64, result: Result<Bytes, CallFailure>);

    /// For a service: a call. To be queued, not written.
    fn give(&self, call: u64, timeout: Duration, payload: &Bytes);

    /// For a service: nobody waits for this answer any more. To be queued, not written.
    fn withdraw(&self, call: u64);

    /// Writes what was queued.
    fn kick(&self);

    /// Has somebody else write what was queued.
    fn wake(&self);
}

/// Peers that have something queued, each once: to be [kicked](Roused::kick) when no lock is held.
#[derive(Default)]
pub struct Roused(Vec<Arc<dyn CallPeer>>);

impl Roused {
    fn add(&mut self, peer: &Arc<dyn CallPeer>) {
        if !self.0.iter().any(|other| Arc::ptr_eq(other, peer)) {
            self.0.push(peer.clone());
        }
    }

    /// Lets them write, many frames per system call where there are many.
    pub fn kick(&mut self) {
        self.0.drain(..).for_each(|peer| peer.kick());
    }

    fn wake(&mut self) {
        self.0.drain(..).for_each(|peer| peer.wake());
    }
}

/// The calls of one type.
pub(super) struct Exchange {
    state: Mutex<State>,
    taps: Arc<Taps>,
    /// The next deadline is earlier than it was, or the exchange is gone.
    sooner: Arc<Notify>,
}

#[derive(Default)]
struct State {
    table: Table,
    clients: HashMap<ClientKey, End>,
    services: HashMap<ServiceKey, End>,
    /// When the timer rings.
    rings: Option<Instant>,
}

struct End {
    peer: Arc<dyn CallPeer>,
    instance: Option<InstanceId>,
    decl: Arc<TypeDecl>,
}

impl Exchange {
    pub(super) fn new(links: &[Arc<Link>], taps: Arc<Taps>) -> Arc<Self> {
        let sooner = Arc::<Notify>::default();
        let this = Arc::new(Self { state: Mutex::default(), taps, sooner: sooner.clone() });
        this.set_links(links);
        tokio::spawn(time(Arc::downgrade(&this), sooner));
        this
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code that holds this lock can panic half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These are the links of the type from now on. Called with the table of links locked.
    pub(super) fn set_links(&self, links: &[Arc<Link>]) {
        let ways = links.iter().filter_map(|link| match link.to {
            LinkTarget::Instance(to) => {
                let (link, from, counts) = (link.id, link.from, link.calls.clone());
                Some(Way { link, from, to, counts })
            }
            LinkTarget::Udp(_) => None,
        });
        let mut roused = Roused::default();
        self.with(&mut roused, |state, out| {
            state.table.set_ways(ways, Instant::now(), out);
        });
        roused.wake();
    }

    /// Changes the table, and queues what follows from that.
    fn with<T>(
        &self,
        roused: &mut Roused,
        change: impl FnOnce(&mut State, &mut Vec<Action>) -> T,
    ) -> T {
        let mut out = Vec::new();
        let mut state = self.state();
        let done = change(&mut state, &mut out);
        for action in out {
            self.carry_out(&state, action, roused);
        }
        if let Some(next) = state.table.next_deadline()
            && state.rings.is_none_or(|rings| next < rings)
        {
            state.rings = Some(next);
            self.sooner.notify_one();
        }
        done
    }

    fn carry_out(&self, state: &State, action: Action, roused: &mut Roused) {
        match action {
            Action::Give { service, call, caller, timeout, payload } => {
                let Some(end) = state.services.get(&service) else { return };
                let from = match caller {
                    Caller::Instance(instance) => Some(instance),
                    Caller::Outside { .. } => None,
                };
                self.show(from, end, CALL, &payload);
                end.peer.give(call.0, timeout, &payload);
                roused.add(&end.peer);
            }
            Action::Withdraw { service, call } => {
                let Some(end) = state.services.get(&service) else { return };
                end.peer.withdraw(call.0);
                roused.add(&end.peer);
            }
            Action::Answer { client, id, result } => {
                let Some(end) = state.clients.get(&client) else { return };
                end.peer.answer(id, result);
                roused.add(&end.peer);
            }
        }
    }

    /// Shows taps what passes.
    fn show(&self, from: Option<InstanceId>, end: &End, what: u8, payload: &[u8]) {
        if self.taps.any() {
            let body = Bytes::from([&[what], payload].concat());
            self.taps.offer(from, &end.decl, 1, &[body], crate::runtime::now_ns());
        }
    }

    /// Shows taps how a service has answered.
    fn show_answer(&self, end: &End, result: &Result<Bytes, CallFailure>) {
        match result {
            Ok(reply) => self.show(end.instance, end, REPLY, reply),
            Err(failure) if self.taps.any() => {
                let text = postcard::to_stdvec(&failure.to_string()).unwrap_or_default();
                self.show(end.instance, end, FAILED, &text);
            }
            Err(_) => {}
        }
    }

    fn open_client(
        self: &Arc<Self>,
        caller: Caller,
        decl: Arc<TypeDecl>,
        peer: Arc<dyn CallPeer>,
    ) -> ClientEnd {
        let instance = match caller {
            Caller::Instance(instance) => Some(instance),
            Caller::Outside { .. } => None,
        };
        let mut state = self.state();
        let key = state.table.open_client(caller, decl.clone());
        state.clients.insert(key, End { peer, instance, decl });
        drop(state);
        ClientEnd { exchange: self.clone(), key }
    }

    fn open_service(
        self: &Arc<Self>,
        instance: InstanceId,
        decl: Arc<TypeDecl>,
        at_once: u32,
        peer: Arc<dyn CallPeer>,
        roused: &mut Roused,
    ) -> ServiceEnd {
        let end = End { peer, instance: Some(instance), decl: decl.clone() };
        let key = self.with(roused, |state, out| {
            let now = Instant::now();
            // What it is given at once must find it.
            let key = state.table.open_service((instance, decl), at_once, now, out);
            state.services.insert(key, end);
            key
        });
        ServiceEnd { exchange: self.clone(), key }
    }

    fn tick(&self) -> Option<Instant> {
        let mut roused = Roused::default();
        let next = self.with(&mut roused, |state, out| {
            state.table.tick(Instant::now(), out);
            state.rings = state.table.next_deadline();
            state.rings
        });
        roused.kick();
        next
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.sooner.notify_one();
    }
}

/// Ends calls when their time is over, for as long as there is the exchange. Without calls it does
/// not wake up.
async fn time(exchange: Weak<Exchange>, sooner: Arc<Notify>) {
    loop {
        let Some(next) = exchange.upgrade().map(|exchange| exchange.tick()) else { return };
        match next {
            None => sooner.notified().await,
            Some(next) => {
                tokio::select! {
                    () = tokio::time::sleep_until(next.into()) => {}
                    () = sooner.notified() => {}
                }
            }
        }
    }
}

/// A client's end. It is closed, and its calls with it, when this is dropped.
pub struct ClientEnd {
    exchange: Arc<Exchange>,
    key: ClientKey,
}

impl ClientEnd {
    /// Calls. It is answered once, unless this is dropped before.
    ///
    /// # Errors
    ///
    /// When it has a call with this id under way.
    pub fn call(
        &self,
        id: u64,
        timeout: Duration,
        payload: Bytes,
        roused: &mut Roused,
    ) -> Result<(), Duplicate> {
        self.exchange.with(roused, |state, out| {
            state.table.call(self.key, id, timeout, payload, Instant::now(), out)
        })
    }

    /// Does not want a call any more. Nothing happens if it was answered.
    pub fn cancel(&self, id: u64, roused: &mut Roused) {
        self.exchange.with(roused, |state, out| {
            state.table.cancel(self.key, id, Instant::now(), out);
        });
    }
}

impl Drop for ClientEnd {
    fn drop(&mut self) {
        let mut roused = Roused::default();
        self.exchange.with(&mut roused, |state, out| {
            state.table.close_client(self.key, out);
            state.clients.remove(&self.key);
        });
        roused.wake();
    }
}

/// A service's end. It is closed, and what it was given ends, when this is dropped.
pub struct ServiceEnd {
    exchange: Arc<Exchange>,
    key: ServiceKey,
}

impl ServiceEnd {
    /// Answers a call.
    ///
    /// # Errors
    ///
    /// When it was not given this call, or has answered it.
    pub fn answer(
        &self,
        call: u64,
        result: Result<Bytes, CallFailure>,
        roused: &mut Roused,
    ) -> Result<(), NotItsCall> {
        self.exchange.with(roused, |state, out| {
            let shown = self.exchange.taps.any().then(|| result.clone());
            let now = Instant::now();
            state.table.answered(self.key, CallKey(call), result, now, out)?;
            if let (Some(shown), Some(end)) = (shown, state.services.get(&self.key)) {
                self.exchange.show_answer(end, &shown);
            }
            Ok(())
        })
    }
}

impl Drop for ServiceEnd {
    fn drop(&mut self) {
        let mut roused = Roused::default();
        self.exchange.with(&mut roused, |state, out| {
            state.table.close_service(self.key, Instant::now(), out);
            state.services.remove(&self.key);
        });
        roused.wake();
    }
}

impl Router {
    /// An instance calls. `decl` has the schema of both the request and the reply.
    pub fn open_client(
        &self,
        instance: InstanceId,
        decl: Arc<TypeDecl>,
        peer: Arc<dyn CallPeer>,
    ) -> ClientEnd {
        let exchange = self.declare_calls(instance, Direction::Output, &decl);
        exchange.open_client(Caller::Instance(instance), decl, peer)
    }

    /// An instance answers calls, so many at once. `decl` as for a client.
    pub fn open_service(
        &self,
        instance: InstanceId,
        decl: Arc<TypeDecl>,
        at_once: u32,
        peer: Arc<dyn CallPeer>,
        roused: &mut Roused,
    ) -> ServiceEnd {
        let exchange = self.declare_calls(instance, Direction::Input, &decl);
        exchange.open_service(instance, decl, at_once, peer, roused)
    }

    /// Somebody outside calls this instance, over no link. `decl` is how the instance declares it.
    pub fn call_from_outside(
        &self,
        to: InstanceId,
        decl: Arc<TypeDecl>,
        peer: Arc<dyn CallPeer>,
    ) -> ClientEnd {
        let exchange = self.exchange(&decl.name);
        exchange.open_client(Caller::Outside { to }, decl, peer)
    }
}

/// The schemas of the request and the reply, of an end of calls.
#[must_use]
pub fn parts_of_calls(decl: &TypeDecl) -> Option<(&TypeSchema, &TypeSchema)> {
    let (_, schema) = decl.schema.as_ref()?;
    orchestrator_proto::runtime::parts_of_calls(schema)
}
