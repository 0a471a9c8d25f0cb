//! Who sends: outputs and their routes, the grants that hold a sender back.

mod elsewhere;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use orchestrator_proto::control::{LinkRules, Policy};
use orchestrator_proto::runtime::{Sender, UNLIMITED};
use orchestrator_proto::{InstanceId, Millis};

use super::decl::TypeDecl;
use super::feed::Aim;
use super::link::{Link, LinkTarget, Unsettled};
use super::mailbox::Mailbox;
use super::message::{Credit, Numbering, Origin};
use super::tap::Taps;

/// A sender that can be told how much it may send.
pub trait Upstream: Send + Sync {
    /// [`Source::grant`] of this channel may have changed. Must not wait, and must not call
    /// back into the router.
    fn window_moved(&self, channel: u16);

    /// [`Source::settled`] of this channel moved. That is not urgent, but should be told soon.
    /// Must not wait.
    fn settled(&self, _channel: u16) {}

    /// A sender may have to be let go at this time: [`Source::look`] then. Must not wait.
    fn held_back(&self, _channel: u16, _until: Instant) {}

    /// So many messages were dropped because there was no room for too long. Must not wait.
    fn timed_out(&self, _channel: u16, _count: u64) {}
}

/// Stands for one output of a source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutputIndex(usize);

/// What is left to be done when a sender's messages are in their queues.
#[derive(Default)]
pub struct Woken {
    /// Mailboxes that got something, each of them once.
    mailboxes: Vec<Arc<Mailbox>>,
    unsettled: Vec<(Arc<Origin>, Unsettled)>,
}

impl Woken {
    fn add(&mut self, route: &Route, unsettled: Unsettled) {
        let mailbox = &route.link.mailbox;
        if !self.mailboxes.iter().any(|other| Arc::ptr_eq(other, mailbox)) {
            self.mailboxes.push(mailbox.clone());
        }
        if !unsettled.is_nothing() {
            self.unsettled.push((route.origin.clone(), unsettled));
        }
    }

    /// Lets the messages set off, many of them per system call where there are many.
    pub fn kick(&mut self) {
        for mailbox in self.mailboxes.drain(..) {
            mailbox.kick();
        }
        for (origin, unsettled) in self.unsettled.drain(..) {
            if let Some(credit) = &origin.credit {
                credit.tell_refused(unsettled.given_up);
                if unsettled.window_shrank {
                    credit.announce();
                }
                credit.tell_held(unsettled.timed_out, unsettled.held_until);
            }
        }
    }
}

/// What a sender has sent, over all its connections.
#[derive(Default, Debug)]
pub struct SourceStats {
    /// Messages.
    pub sent: AtomicU64,
    /// Messages among them that no link takes.
    pub unrouted: AtomicU64,
    /// Messages among them that have passed here. The others were counted as the sender says.
    pub passed: AtomicU64,
}

/// One connection of an instance, or the datagram socket, as a sender.
pub struct Source {
    /// Whose connection; none for datagrams.
    pub instance: Option<InstanceId>,
    /// Told about grants; none for a sender that can't be made to wait.
    upstream: Option<Weak<dyn Upstream>>,
    outputs: RwLock<Vec<Output>>,
    aim: Aim,
    stats: Arc<SourceStats>,
    taps: Arc<Taps>,
}

struct Output {
    decl: Arc<TypeDecl>,
    channel: u16,
    /// Set if the sender numbers its messages and keeps them.
    numbering: Option<Numbering>,
    /// Messages of this connection.
    received: AtomicU64,
    /// As many of them, or of those that went elsewhere, are counted as sent.
    counted: AtomicU64,
    routes: Vec<Route>,
}

struct Route {
    link: Arc<Link>,
    origin: Arc<Origin>,
    /// Messages for it go over a lane, and don't come here.
    is_diverted: bool,
}

impl Source {
    pub(super) fn new(
        instance: Option<InstanceId>,
        upstream: Option<Weak<dyn Upstream>>,
        stats: Arc<SourceStats>,
        taps: Arc<Taps>,
    ) -> Self {
        Self::aimed(instance, Aim::Own, upstream, stats, taps)
    }

    /// One that sends over other links than those of its instance.
    pub(super) fn aimed(
        instance: Option<InstanceId>,
        aim: Aim,
        upstream: Option<Weak<dyn Upstream>>,
        stats: Arc<SourceStats>,
        taps: Arc<Taps>,
    ) -> Self {
        Self { instance, upstream, outputs: RwLock::default(), aim, stats, taps }
    }

    /// Sends a run of messages of one output, and empties `bodies`. Never waits. They set off
    /// when the caller calls [`Woken::kick`], once for all runs that it read together.
    pub fn send_run(
        &self,
        output: OutputIndex,
        bodies: &mut Vec<Bytes>,
        now_ns: u64,
        woken: &mut Woken,
    ) {
        let outputs = self.outputs.read().unwrap_or_else(PoisonError::into_inner);
        let Some(output) = outputs.get(output.0) else { return };
        let count = bodies.len() as u64;
        let before = output.received.fetch_add(count, Ordering::AcqRel);
        self.count(output, before + count);
        self.stats.passed.fetch_add(count, Ordering::Relaxed);
        if self.taps.any() {
            self.taps.offer(self.instance, &output.decl, output.routes.len(), bodies, now_ns);
        }
        let now_ms = now_ns / 1_000_000;
        let (first, again) = output.numbering.map_or((0, 0), |n| (n.first, n.again));
        if before < again {
            // What comes again is for links that lose nothing. The others had their chance.
            let again = (again - before).min(count) as usize;
            let bodies = bodies.drain(..again).collect::<Vec<_>>();
            self.send_again(output, &bodies, first + before, now_ms, woken);
        }
        let first = first + before + (count - bodies.len() as u64);
        if output.routes.is_empty() {
            self.stats.unrouted.fetch_add(bodies.len() as u64, Ordering::Relaxed);
        }
        let mut routes = output.routed().peekable();
        while let Some(route) = routes.next() {
            let unsettled = match routes.peek() {
                Some(_) => {
                    let bodies = bodies.iter().cloned();
                    route.link.push_run(bodies, first, &route.origin, now_ms)
                }
                None => route.link.push_run(bodies.drain(..), first, &route.origin, now_ms),
            };
            woken.add(route, unsettled);
        }
        bodies.clear();
    }

    fn send_again(
        &self,
        output: &Output,
        bodies: &[Bytes],
        first: u64,
        now_ms: u64,
        woken: &mut Woken,
    ) {
        let mut routed = output.routed().next().is_none() && !output.routes.is_empty();
        for route in output.routed().filter(|route| route.link.rules().policy == Policy::Block) {
            routed = true;
            let bodies = bodies.iter().cloned();
            let unsettled = route.link.push_run(bodies, first, &route.origin, now_ms);
            woken.add(route, unsettled);
        }
        if !routed {
            self.stats.unrouted.fetch_add(bodies.len() as u64, Ordering::Relaxed);
        }
    }

    /// How many messages in total the sender may have sent on this output.
    #[must_use]
    pub fn grant(&self, channel: u16) -> u64 {
        let outputs = self.outputs.read().unwrap_or_else(PoisonError::into_inner);
        outputs.iter().find(|output| output.channel == channel).map_or(UNLIMITED, Output::grant)
    }

    /// How many messages in total the sender need not keep any more; none if it keeps none.
    #[must_use]
    pub fn settled(&self, channel: u16) -> Option<u64> {
        let outputs = self.outputs.read().unwrap_or_else(PoisonError::into_inner);
        let output = outputs.iter().find(|output| output.channel == channel)?;
        output.numbering.map(|_| output.settled())
    }

    /// Lets the sender on this output go where it was held back for too long. The answer is when to
    /// look again.
    #[must_use]
    pub fn look(&self, channel: u16, now: Instant) -> Option<Instant> {
        // Not with the outputs locked: whoever is told looks at them.
        let origins: Vec<_> = {
            let outputs = self.outputs.read().unwrap_or_else(PoisonError::into_inner);
            let output = outputs.iter().find(|output| output.channel == channel)?;
            output.routes.iter().map(|route| route.origin.clone()).collect()
        };
        let credits = origins.iter().filter_map(|origin| origin.credit.as_ref());
        credits.filter_map(|credit| credit.look(now)).min()
    }

    /// So many messages of this output were sent since the connection began, by whichever way.
    pub fn has_sent(&self, channel: u16, total: u64) {
        let outputs = self.outputs.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(output) = outputs.iter().find(|output| output.channel == channel) {
            self.count(output, total);
        }
    }

    fn count(&self, output: &Output, total: u64) {
        let counted = output.counted.fetch_max(total, Ordering::AcqRel);
        self.stats.sent.fetch_add(total.saturating_sub(counted), Ordering::Relaxed);
    }

    /// The output on this channel, and how its messages are numbered.
    #[must_use]
    pub fn output(&self, type_name: &str) -> Option<(u16, Arc<TypeDecl>, Option<Numbering>)> {
        let outputs = self.outputs.read().unwrap_or_else(PoisonError::into_inner);
        let output = outputs.iter().find(|output| &*output.decl.name == type_name)?;
        Some((output.channel, output.decl.clone(), output.numbering))
    }

    pub(super) fn has_output(&self, type_name: &str) -> bool {
        let outputs = self.outputs.read().unwrap_or_else(PoisonError::into_inner);
        outputs.iter().any(|output| &*output.decl.name == type_name)
    }

    pub(super) fn output_count(&self) -> usize {
        self.outputs.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(super) fn add_output(
        &self,
        decl: Arc<TypeDecl>,
        channel: u16,
        numbering: Option<Numbering>,
        links: &[Arc<Link>],
    ) -> OutputIndex {
        let (received, counted) = (AtomicU64::new(0), AtomicU64::new(0));
        let output = Output { decl, channel, numbering, received, counted, routes: Vec::new() };
        let mut outputs = self.outputs.write().unwrap_or_else(PoisonError::into_inner);
        outputs.push(output);
        let index = outputs.len() - 1;
        drop(outputs);
        self.set_routes(index, links);
        OutputIndex(index)
    }

    /// After this returns, messages of this type go to exactly those of `links` that are meant
    /// for this source.
    pub(super) fn refresh(&self, type_name: &str, links: &[Arc<Link>]) {
        let index = {
            let outputs = self.outputs.read().unwrap_or_else(PoisonError::into_inner);
            outputs.iter().position(|output| &*output.decl.name == type_name)
        };
        if let Some(index) = index {
            self.set_routes(index, links);
        }
    }

    fn set_routes(&self, index: usize, links: &[Arc<Link>]) {
        let mut outputs = self.outputs.write().unwrap_or_else(PoisonError::into_inner);
        let Some(output) = outputs.get_mut(index) else {
            return;
        };
        let before = output.grant();
        let mut old = std::mem::take(&mut output.routes);
        for link in links.iter().filter(|link| self.feeds(link)) {
            // A route that stays keeps its credit, unless it needs one that it had not, or had one
            // that it does not need.
            let kept = old.iter().position(|route| {
                Arc::ptr_eq(&route.link, link)
                    && route.origin.credit.is_some() == self.is_granted(link)
            });
            let is_diverted =
                old.iter().any(|route| route.is_diverted && Arc::ptr_eq(&route.link, link));
            let received = output.received.load(Ordering::Acquire);
            let route = match kept {
                Some(at) => old.swap_remove(at),
                None => {
                    let origin = self.origin(output, link, received);
                    Route { link: link.clone(), origin, is_diverted }
                }
            };
            if let Some(credit) = &route.origin.credit {
                let rules = link.rules();
                credit.set_window(u64::from(rules.capacity));
                credit.set_limit(limit(&rules));
            }
            output.routes.push(route);
        }
        let (after, channel) = (output.grant(), output.channel);
        let held = output.credits().filter_map(Credit::is_held).min();
        drop(outputs);
        if before != after {
            self.window_moved(channel);
        }
        if let (Some(until), Some(upstream)) = (held, self.upstream()) {
            upstream.held_back(channel, until);
        }
    }

    /// Whether its messages of the link's type go over it.
    #[must_use]
    pub fn feeds(&self, link: &Link) -> bool {
        if let Aim::Links(links) = &self.aim {
            return links.contains(&link.id);
        }
        match (self.instance, link.from) {
            (Some(instance), Some(from)) => instance == from,
            (None, Some(_)) => false,
            // What came as a datagram is never sent on as one: two daemons that link a type to
            // each other would send it to and fro for ever.
            (None, None) => matches!(link.to, LinkTarget::Instance(_)),
            (Some(_), None) => true,
        }
    }

    /// Whether what this source may send to a link is granted to it.
    fn is_granted(&self, link: &Link) -> bool {
        self.upstream.is_some() && link.rules().policy == Policy::Block
    }

    /// `already` so many messages of the connection need no place in the link.
    fn origin(&self, output: &Output, link: &Link, already: u64) -> Arc<Origin> {
        let credit = match &self.upstream {
            Some(upstream) if self.is_granted(link) => Some(Credit::new(
                already,
                u64::from(link.rules().capacity),
                limit(&link.rules()),
                upstream.clone(),
                output.channel,
                output.numbering.is_some(),
            )),
            _ => None,
        };
        let sender = match (self.instance, output.numbering) {
            (Some(instance), Some(Numbering { epoch, .. })) => {
                Some(Sender { epoch, instance, anybody: link.from.is_none() })
            }
            _ => None,
        };
        let first = output.numbering.map_or(0, |numbering| numbering.first);
        Arc::new(Origin { decl: output.decl.clone(), sender, first, credit, is_replay: false })
    }

    fn upstream(&self) -> Option<Arc<dyn Upstream>> {
        self.upstream.as_ref().and_then(Weak::upgrade)
    }

    fn window_moved(&self, channel: u16) {
        if let Some(upstream) = self.upstream() {
            upstream.window_moved(channel);
        }
    }
}

/// How long a link holds its senders back; none is without end.
fn limit(rules: &LinkRules) -> Option<Duration> {
    (rules.block_timeout > Millis::ZERO).then(|| rules.block_timeout.duration())
}

impl Output {
    /// Routes of messages that come here.
    fn routed(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter().filter(|route| !route.is_diverted)
    }

    fn credits(&self) -> impl Iterator<Item = &Credit> {
        self.routed().filter_map(|route| route.origin.credit.as_ref())
    }

    fn grant(&self) -> u64 {
        self.credits().map(Credit::total).min().unwrap_or(UNLIMITED)
    }

    fn settled(&self) -> u64 {
        let received = self.received.load(Ordering::Acquire);
        self.credits().map(Credit::settled).min().unwrap_or(received)
    }
}
