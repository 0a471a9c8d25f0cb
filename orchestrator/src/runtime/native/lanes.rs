//! Lanes: the messages of a link that go from instance to instance, without passing the daemon. What
//! is said of them is in [`orchestrator_proto::runtime`].
//!
//! For each link, and each connection that feeds it, [`Lanes::consider`] looks whether there can be a
//! lane, and brings about what is not so yet. It is called whenever something of that may be
//! different. Nothing here waits, and nothing of it is on the message path.
//!
//! Locks: the table of lanes is locked before what belongs to a single source or link, and after
//! the router's table. So with it locked the router is not asked anything.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use orchestrator_proto::control::{LinkRules, Transport};
use orchestrator_proto::frame::{self, MAX_RUNTIME};
use orchestrator_proto::runtime::{Frame, Passed};
use orchestrator_proto::{InstanceId, LinkId, Millis};
use tokio::sync::watch;

use super::super::now_ns;
use super::{Connection, Input};
use crate::route::{Link, LinkTarget, Router, Source, Taps};

/// Lanes of one daemon: each is an open file here.
const MAX_LANES: usize = 1024;

/// All lanes.
#[derive(Default)]
pub struct Lanes {
    table: Mutex<Table>,
    /// Told when one is in use, or not any more, or its sender has answered.
    changes: watch::Sender<()>,
}

#[derive(Default)]
struct Table {
    /// Connections that can take lanes, by the number of the connection.
    connections: HashMap<u64, Weak<Connection>>,
    by_instance: HashMap<InstanceId, Vec<u64>>,
    lanes: HashMap<u64, Lane>,
    /// Sender, receiver and link between which a lane failed: there is no second try.
    failed: HashSet<(u64, u64, LinkId)>,
}

/// One of them.
struct Lane {
    link: Arc<Link>,
    rules: LinkRules,
    sender: Option<End>,
    receiver: Option<End>,
    /// The sender's end, to shut it down; none if an earlier daemon made it.
    file: Option<OwnedFd>,
    /// The receiver's end, until the receiver has it.
    other: Option<OwnedFd>,
    stage: Stage,
    /// Whether the sender has begun to use it.
    is_used: bool,
    /// Whether the sender was asked how much has passed, and has not answered.
    is_asked: bool,
    /// The sender that is gone, to count what it sent at last.
    source: Option<(Arc<Source>, u16)>,
}

/// One side of a lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct End {
    connection: u64,
    channel: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// The sender was told to fetch its end.
    Offered,
    /// The sender uses it.
    Used,
    /// The sender was told to leave it.
    Leaving,
    /// The sender has left it; the receiver may have something of it to read.
    Left,
}

/// What can feed a lane, or be fed by it.
struct Peer {
    connection: Arc<Connection>,
    channel: u16,
}

impl Lane {
    /// Whoever reads from it comes to an end, and nobody can write to it.
    fn shut(&self) {
        if let Some(file) = &self.file {
            let _ = rustix::net::shutdown(file, rustix::net::Shutdown::Both);
        }
    }

    fn is_in_use(&self) -> bool {
        self.is_used && self.stage != Stage::Left
    }
}

impl Table {
    fn connection(&self, number: u64) -> Option<Arc<Connection>> {
        self.connections.get(&number).and_then(Weak::upgrade)
    }

    fn of(&self, instance: InstanceId) -> Vec<Arc<Connection>> {
        let numbers = self.by_instance.get(&instance).map(Vec::as_slice).unwrap_or_default();
        numbers.iter().filter_map(|number| self.connection(*number)).collect()
    }

    /// Who gets the link's messages now, or why there can be no lane to it.
    fn receiver(&self, link: &Link) -> Result<(Peer, Arc<Input>), &'static str> {
        let LinkTarget::Instance(to) = &link.to else {
            return Err("its target is a datagram socket");
        };
        for connection in self.of(*to) {
            if !connection.endpoint.mailbox.serves(&*connection.outlet) {
                continue;
            }
            let Some(input) = connection.outlet.dialect.input(&link.type_name) else { continue };
            if !input.recognises() {
                return Err("the receiver does not recognise duplicates");
            }
            let channel = input.channel();
            return Ok((Peer { connection, channel }, input));
        }
        Err("the receiver is not connected by a library that takes lanes")
    }

    /// Who feeds the link now.
    fn senders(&self, link: &Link) -> Vec<Peer> {
        let connections = match link.from {
            Some(from) => self.of(from),
            None => self.connections.values().filter_map(Weak::upgrade).collect(),
        };
        let feeds = connections.into_iter().filter(|connection| connection.source.feeds(link));
        let with_output = feeds.filter_map(|connection| {
            let (channel, _, numbering) = connection.source.output(&link.type_name)?;
            numbering.is_some().then_some(Peer { connection, channel })
        });
        with_output.collect()
    }
}

/// Why a link has no lane whoever its ends are.
fn obstacle(link: &Link, rules: &LinkRules, taps: &Taps) -> Option<&'static str> {
    if rules.transport == Transport::Routed {
        Some("it is to be routed")
    } else if rules.history > 0 {
        Some("it has a history, which is kept by the daemon")
    } else if rules.block_timeout > Millis::ZERO {
        Some("it has a block-timeout, which is kept by the daemon")
    } else if taps.watches(&link.type_name) {
        Some("somebody watches its messages")
    } else if link.mismatch().is_some() {
        Some("its two ends disagree")
    } else {
        None
    }
}

impl Lanes {
    /// None as yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This connection can take lanes.
    pub(super) fn join(&self, connection: &Arc<Connection>) {
        let mut table = self.table();
        let number = connection.number;
        table.connections.insert(number, Arc::downgrade(connection));
        let instance = connection.endpoint.instance;
        let numbers = table.by_instance.entry(instance).or_default();
        if !numbers.contains(&number) {
            numbers.push(number);
        }
    }

    /// A connection declared an output or an input of this type.
    pub(super) fn declared(&self, connection: &Connection, type_name: &str) {
        let router = &connection.endpoint.router;
        let instance = connection.endpoint.instance;
        for link in router.links_of(type_name) {
            if connection.source.feeds(&link) || link.to == LinkTarget::Instance(instance) {
                self.consider(&link, router.taps());
            }
        }
    }

    /// Looks at all links. For when somebody begins or ceases to watch.
    pub fn consider_all(&self, router: &Router) {
        for link in router.links() {
            self.consider(&link, router.taps());
        }
    }

    /// Waits until no lane is in use whose messages somebody wants to watch; not for long.
    pub async fn watched(&self, router: &Router) {
        self.consider_all(router);
        // Who stands still is not waited for. What such a one sends later goes over the lane until
        // it goes on.
        self.until(WATCHED, |table| {
            let mut in_use = table.lanes.values().filter(|lane| lane.is_in_use());
            !in_use.any(|lane| router.taps().watches(&lane.link.type_name))
        })
        .await;
    }

    /// Waits until this is so, no longer than so.
    async fn until(&self, most: Duration, is_so: impl Fn(&Table) -> bool) {
        let mut changes = self.changes.subscribe();
        let waiting = async {
            // Not within `wait_for`, which holds what whoever tells of a change waits for.
            while !is_so(&self.table()) && changes.changed().await.is_ok() {}
        };
        let _ = tokio::time::timeout(most, waiting).await;
    }

    /// Brings about the lanes that this link can have, and ends those that it can't have any more.
    pub fn consider(&self, link: &Arc<Link>, taps: &Taps) {
        let rules = link.rules();
        let mut table = self.table();
        let obstacle = obstacle(link, &rules, taps);
        let receiver = obstacle.map_or_else(|| table.receiver(link), Err);
        let leaving: Vec<u64> = table
            .lanes
            .iter()
            .filter(|(_, lane)| lane.link.id == link.id)
            .filter(|(_, lane)| matches!(lane.stage, Stage::Offered | Stage::Used))
            .filter(|(_, lane)| match (&receiver, &lane.receiver) {
                // Its receiver has not come to this daemon as yet.
                (Err(_), None) => obstacle.is_some(),
                (Ok(_), None) => false,
                (Err(_), Some(_)) => true,
                (Ok((peer, _)), Some(end)) => {
                    end.connection != peer.connection.number || lane.rules != rules
                }
            })
            .map(|(id, _)| *id)
            .collect();
        for id in leaving {
            table.leave(id);
        }
        let senders = table.senders(link);
        let mut why = receiver.as_ref().err().map(|why| (*why).to_owned());
        if let Ok((receiver, input)) = &receiver {
            for sender in &senders {
                if let Err(problem) = table.offer(link, rules, sender, (receiver, input)) {
                    why = Some(problem);
                }
            }
            if senders.is_empty() {
                why = Some("no sender is connected by a library that takes lanes".to_owned());
            }
        }
        link.lanes.set_why(why.filter(|_| rules.transport != Transport::Routed));
        drop(table);
        for sender in senders {
            sender.connection.tell_wanted(sender.channel);
        }
    }

    /// A link is gone, and what its lanes carry.
    pub fn link_removed(&self, link: LinkId) {
        let mut table = self.table();
        let lanes: Vec<u64> = table
            .lanes
            .iter()
            .filter(|(_, lane)| lane.link.id == link)
            .map(|(id, _)| *id)
            .collect();
        for id in lanes {
            table.leave(id);
            if let Some(lane) = table.lanes.remove(&id) {
                lane.shut();
            }
        }
        table.failed.retain(|(_, _, other)| *other != link);
        self.changes.send_replace(());
    }

    /// A connection is over, and the lanes that it fed.
    pub(super) fn gone(&self, connection: &Connection) {
        let number = connection.number;
        let mut table = self.table();
        if table.connections.remove(&number).is_none() {
            return;
        }
        let instance = connection.endpoint.instance;
        if let Some(numbers) = table.by_instance.get_mut(&instance) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                table.by_instance.remove(&instance);
            }
        }
        table.failed.retain(|(sender, receiver, _)| *sender != number && *receiver != number);
        let is_it = |end: &Option<End>| end.is_some_and(|end| end.connection == number);
        let fed: Vec<u64> =
            table.lanes.iter().filter(|(_, lane)| is_it(&lane.sender)).map(|(id, _)| *id).collect();
        for id in fed {
            // Its receiver reads what is in it. How much of that there is, it says at the end.
            if let Some(lane) = table.lanes.get_mut(&id) {
                lane.shut();
                lane.source = lane.sender.map(|end| (connection.source.clone(), end.channel));
                lane.sender = None;
                lane.is_asked = false;
                lane.link.lanes.cancel(id);
                if lane.stage == Stage::Offered || lane.receiver.is_none() {
                    lane.link.lanes.end(id);
                    table.lanes.remove(&id);
                } else {
                    lane.stage = Stage::Left;
                }
            }
        }
        let left: Vec<u64> = table
            .lanes
            .iter()
            .filter(|(_, lane)| is_it(&lane.receiver) && lane.stage == Stage::Left)
            .map(|(id, _)| *id)
            .collect();
        for id in left {
            if let Some(lane) = table.lanes.remove(&id) {
                lane.link.lanes.end(id);
            }
        }
        self.changes.send_replace(());
        drop(table);
        let router = &connection.endpoint.router;
        for link in router.links_to(instance) {
            self.consider(&link, router.taps());
        }
    }

    /// An instance fetches its end of a lane. None if it has none.
    pub(super) fn claim(&self, instance: InstanceId, lane: u64) -> Option<OwnedFd> {
        let mut table = self.table();
        let (sender, receiver) = {
            let lane = table.lanes.get(&lane)?;
            (lane.sender, lane.receiver)
        };
        let is_of = |end: Option<End>| {
            let connection = end.and_then(|end| table.connection(end.connection));
            connection.is_some_and(|connection| connection.endpoint.instance == instance)
        };
        // A lane from an instance to itself: the sender comes first.
        let is_sender = is_of(sender);
        let is_receiver = is_of(receiver);
        let lane = table.lanes.get_mut(&lane)?;
        if is_sender && lane.stage == Stage::Offered {
            return lane.file.as_ref()?.as_fd().try_clone_to_owned().ok();
        }
        if is_receiver { lane.other.take() } else { None }
    }

    /// A sender uses its end from now on: the receiver is told when it has got what was sent before.
    pub(super) fn switched(&self, connection: &Connection, channel: u16, id: u64) {
        let mut table = self.table();
        let end = End { connection: connection.number, channel };
        let receiver = table
            .lanes
            .get(&id)
            .filter(|lane| lane.sender == Some(end))
            .and_then(|lane| lane.receiver)
            .and_then(|end| Some((table.connection(end.connection)?, end.channel)));
        let Some(lane) = table.lanes.get_mut(&id) else { return };
        if lane.sender != Some(end) {
            return;
        }
        let link = lane.link.clone();
        if lane.stage == Stage::Offered {
            lane.stage = Stage::Used;
        }
        lane.is_used = true;
        link.lanes.begin(id);
        connection.source.divert(channel, &link);
        if let (Some((receiver, channel)), Stage::Used) = (receiver, lane.stage) {
            let lane = Frame::Lane {
                channel,
                lane: id,
                link: link.id,
                policy: lane.rules.policy,
                capacity: lane.rules.capacity,
                anybody: link.from.is_none(),
            };
            if let Ok(frame) = frame::encode(&lane, MAX_RUNTIME) {
                link.hand_over(id, receiver.number, frame);
            }
        }
        self.changes.send_replace(());
        drop(table);
        connection.tell_wanted(channel);
    }

    /// Waits until what passed over lanes is known as it is now; not for long: of a sender that
    /// stands still it is known as it was.
    pub async fn refresh(&self) {
        {
            let mut table = self.table();
            let in_use: Vec<_> = table
                .lanes
                .iter()
                .filter(|(_, lane)| lane.is_in_use())
                .filter_map(|(id, lane)| Some((*id, lane.sender?)))
                .collect();
            for (id, end) in in_use {
                let Some(connection) = table.connection(end.connection) else { continue };
                connection.tell(&Frame::Ask { channel: end.channel, lane: id });
                connection.outlet.wake();
                table.lanes.entry(id).and_modify(|lane| lane.is_asked = true);
            }
        }
        self.until(ANSWERED, |table| !table.lanes.values().any(|lane| lane.is_asked)).await;
    }

    /// A sender has passed so much over a lane by now.
    pub(super) fn passed(
        &self,
        connection: &Connection,
        (channel, id): (u16, u64),
        passed: Passed,
    ) {
        let mut table = self.table();
        let end = Some(End { connection: connection.number, channel });
        let lane = table.lanes.get_mut(&id).filter(|lane| lane.sender == end);
        let Some(lane) = lane else { return };
        let was_asked = std::mem::take(&mut lane.is_asked);
        lane.link.lanes.passed(id, passed, now_ns() / 1_000_000);
        connection.source.has_sent(channel, passed.output);
        drop(table);
        if was_asked {
            self.changes.send_replace(());
        }
    }

    /// An end has left its lane. Of a sender: what it sends from now on is for the link again. The
    /// answer is the link, for [`Connection::again`].
    pub(super) fn left(
        &self,
        connection: &Connection,
        (channel, id): (u16, u64),
        passed: Passed,
    ) -> Option<Arc<Link>> {
        let end = Some(End { connection: connection.number, channel });
        let mut table = self.table();
        let lane = table.lanes.get_mut(&id)?;
        if lane.receiver == end && lane.sender != end {
            self.read_to_the_end(table, id, passed);
            return None;
        }
        if lane.sender != end {
            return None;
        }
        let link = lane.link.clone();
        let was_used = lane.is_used;
        let was_asked = lane.stage == Stage::Leaving;
        let receiver = lane.receiver;
        lane.stage = Stage::Left;
        lane.shut();
        let not_told = link.lanes.cancel(id);
        if was_used {
            link.lanes.passed(id, passed, now_ns() / 1_000_000);
            connection.source.has_sent(channel, passed.output);
            // Before anything that is for the link again.
            let reader = receiver.and_then(|end| Some((table.connection(end.connection)?, end)));
            if let (Some((reader, end)), false) = (reader, not_told) {
                reader.tell(&Frame::Leave { channel: end.channel, lane: id });
                reader.outlet.wake();
            }
            connection.source.resume(channel, &link, passed.returned);
        }
        if !was_asked && let Some(receiver) = receiver {
            table.failed.insert((connection.number, receiver.connection, link.id));
        }
        link.lanes.end(id);
        // Its receiver, if it has it, says how much it read.
        table.lanes.remove(&id);
        self.changes.send_replace(());
        Some(link)
    }

    /// A receiver has read a lane to its end.
    fn read_to_the_end(&self, mut table: MutexGuard<'_, Table>, id: u64, passed: Passed) {
        let Some(lane) = table.lanes.get_mut(&id) else { return };
        if lane.stage == Stage::Left {
            // Its sender is gone: what the receiver has is what was delivered.
            let known = lane.link.lanes.known(id);
            if let Some((source, channel)) = &lane.source {
                let more = passed.sent.saturating_sub(known.sent);
                source.has_sent(*channel, known.output + more);
            }
            let all = Passed { sent: known.sent.max(passed.sent), ..known };
            let all = Passed { delivered: all.delivered.max(passed.delivered), ..all };
            lane.link.lanes.passed(id, all, now_ns() / 1_000_000);
            lane.link.lanes.end(id);
            table.lanes.remove(&id);
            self.changes.send_replace(());
        } else {
            // It reads no more, whatever the sender sends.
            lane.shut();
            table.leave(id);
        }
    }

    /// An end that an earlier daemon knew of goes on with its lane.
    pub(super) fn uses(
        &self,
        connection: &Connection,
        (channel, id): (u16, u64),
        link: LinkId,
        is_sender: bool,
    ) {
        let end = End { connection: connection.number, channel };
        let router = &connection.endpoint.router;
        let Some(link) = router.link(link) else {
            if is_sender {
                connection.tell(&Frame::Leave { channel, lane: id });
                connection.outlet.wake();
            }
            return;
        };
        let mut table = self.table();
        let lane = table.lanes.entry(id).or_insert_with(|| Lane {
            link: link.clone(),
            rules: link.rules(),
            sender: None,
            receiver: None,
            file: None,
            other: None,
            stage: Stage::Used,
            is_used: false,
            source: None,
            is_asked: false,
        });
        match is_sender {
            true => lane.sender = Some(end),
            false => lane.receiver = Some(end),
        }
        if is_sender {
            lane.is_used = true;
            link.lanes.begin(id);
            connection.source.divert(channel, &link);
            connection.wanted.lock().unwrap_or_else(PoisonError::into_inner).remove(&channel);
        }
        self.changes.send_replace(());
        drop(table);
        self.consider(&link, router.taps());
        if is_sender {
            connection.tell_wanted(channel);
        }
    }
}

/// How long a watcher waits for lanes to be left.
const WATCHED: Duration = Duration::from_secs(1);

/// How long somebody waits who wants to know what has passed.
const ANSWERED: Duration = Duration::from_millis(100);

impl Table {
    /// Offers a lane to this sender, if it has none over this link.
    fn offer(
        &mut self,
        link: &Arc<Link>,
        rules: LinkRules,
        sender: &Peer,
        (receiver, input): (&Peer, &Input),
    ) -> Result<(), String> {
        let (from, to) = (&sender.connection, &receiver.connection);
        let has_one = self.lanes.values().any(|lane| {
            lane.link.id == link.id
                && lane.stage != Stage::Left
                && lane.sender.is_some_and(|end| end.connection == from.number)
        });
        if has_one {
            return Ok(());
        }
        if from.user.is_none() || from.user != to.user {
            return Err("its ends run as different users".to_owned());
        }
        let sent = from.source.output(&link.type_name).and_then(|(_, decl, _)| decl.schema.clone());
        let wanted = input.decl.schema.as_ref();
        if sent.as_ref().map(|(hash, _)| hash) != wanted.map(|(hash, _)| hash) {
            return Err("its two ends disagree".to_owned());
        }
        if self.failed.contains(&(from.number, to.number, link.id)) {
            return Err("a lane between its ends was tried, and failed".to_owned());
        }
        if self.lanes.len() >= MAX_LANES {
            return Err(format!("{MAX_LANES} links have a lane already"));
        }
        let pair = || -> io::Result<(OwnedFd, OwnedFd)> {
            let (ours, theirs) = StdStream::pair()?;
            Ok((ours.into(), theirs.into()))
        };
        let (file, other) = pair().map_err(|error| format!("no socket pair: {error}"))?;
        let id = self.new_id();
        self.lanes.insert(
            id,
            Lane {
                link: link.clone(),
                rules,
                sender: Some(End { connection: from.number, channel: sender.channel }),
                receiver: Some(End { connection: to.number, channel: receiver.channel }),
                file: Some(file),
                other: Some(other),
                stage: Stage::Offered,
                is_used: false,
                source: None,
                is_asked: false,
            },
        );
        from.tell(&Frame::Lane {
            channel: sender.channel,
            lane: id,
            link: link.id,
            policy: rules.policy,
            capacity: rules.capacity,
            anybody: link.from.is_none(),
        });
        from.outlet.wake();
        Ok(())
    }

    /// Has the sender leave a lane.
    fn leave(&mut self, id: u64) {
        let sender = self.lanes.get(&id).and_then(|lane| lane.sender);
        let connection = sender.and_then(|end| Some((self.connection(end.connection)?, end)));
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        if !matches!(lane.stage, Stage::Offered | Stage::Used) {
            return;
        }
        // It may begin to use it before it hears of that.
        lane.stage = Stage::Leaving;
        if let Some((connection, end)) = connection {
            connection.tell(&Frame::Leave { channel: end.channel, lane: id });
            connection.outlet.wake();
        }
    }

    /// A random number that no lane has.
    fn new_id(&self) -> u64 {
        loop {
            let id = RandomState::new().hash_one(Instant::now());
            if !self.lanes.contains_key(&id) {
                return id;
            }
        }
    }
}

impl Connection {
    /// Tells the peer whether this output's messages are needed here, if it does not know.
    fn tell_wanted(&self, channel: u16) {
        let mut told = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = self.source.is_wanted(channel);
        if told.insert(channel, wanted) == Some(wanted) {
            return;
        }
        self.tell(&Frame::Wanted { channel, wanted });
        drop(told);
        self.outlet.wake();
    }

    /// The peer has left a lane of this output: it gets the whole truth about what it may send
    /// now.
    pub(super) fn take_note(&self, channel: u16, lane: u64) {
        // It sends here again until it is told otherwise.
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).insert(channel, true);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = (self.source.grant(channel), self.source.settled(channel).unwrap_or_default());
        told.insert(channel, now);
        self.tell(&Frame::Gone { channel, lane });
        self.tell(&Frame::Grant { channel, total: now.0 });
        drop(told);
        self.outlet.wake();
    }

    /// A message that went over a lane and did not arrive, for this link only.
    pub(super) fn again(&self, channel: u16, link: &Arc<Link>, number: u64, payload: &[u8]) {
        self.source.again(channel, link, number, Bytes::copy_from_slice(payload), now_ns());
    }
}
