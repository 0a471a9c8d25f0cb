//! Lanes: the messages of a link that go from instance to instance, without passing the daemon. What
//! is said of them is in [`orchestrator_proto::runtime`].
//!
//! For each link, and each connection that feeds it, [`Lanes::consider`] looks whether there can be a
//! lane, and brings about what is not so yet. It is called whenever something of that may be
//! different. Nothing here waits, and nothing of it is on the message path.
//!
//! Locks: the table of lanes is locked before what belongs to a single source or link, and after
//! the router's table. So with it locked the router is not asked anything.

mod ended;
mod force;
mod frames;
mod kept;
mod said;
mod table;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use orchestrator_proto::LinkId;
use orchestrator_proto::control::Transport;
use orchestrator_proto::runtime::Frame;
use tokio::sync::watch;

use super::Connection;
use crate::route::{Link, LinkTarget, Router, Taps};
use crate::runtime::LaneShelf;
pub(super) use frames::Used;
pub use kept::KeptLane;
use table::{End, Stage, Table};

/// All lanes.
pub struct Lanes {
    table: Mutex<Table>,
    /// Told when one is in use, or not any more, or its sender has answered.
    changes: watch::Sender<()>,
    /// Where our ends outlive this daemon.
    shelf: Arc<dyn LaneShelf>,
    this: Weak<Self>,
}

impl Lanes {
    /// None as yet.
    #[must_use]
    pub fn new(shelf: Arc<dyn LaneShelf>) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            table: Mutex::default(),
            changes: watch::Sender::default(),
            shelf,
            this: this.clone(),
        })
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
        drop(table);
        // Why there is no lane is another reason now.
        let router = &connection.endpoint.router;
        for link in router.links_to(instance) {
            self.consider(&link, router.taps());
        }
    }

    /// A connection begins to declare an output or an input. It gets no new lane until that is
    /// [done](Self::declared): it may have one from before.
    pub(super) fn declares(&self, connection: &Connection) {
        self.table().declaring.insert(connection.number);
    }

    /// A connection declared an output or an input of this type, and said which lanes it uses.
    pub(super) fn declared(&self, connection: &Connection, type_name: &str) {
        self.table().declaring.remove(&connection.number);
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

    /// Waits until no lane is in use whose messages somebody wants to watch; not for long: who does
    /// not leave one by then is shut out.
    pub async fn watched(&self, router: &Router) {
        self.consider_all(router);
        let watched = |link: &Link| router.taps().watches(&link.type_name);
        let links = router.links();
        let links: HashSet<_> =
            links.iter().filter(|link| watched(link)).map(|link| link.id).collect();
        let in_use = |table: &Table| -> Vec<u64> {
            let lanes = table.lanes.iter();
            let in_use = lanes.filter(|(_, lane)| lane.is_in_use() && watched(&lane.link));
            // And those whose ends have not come to this daemon yet.
            let unclaimed = table.unclaimed.iter().filter(|(_, it)| links.contains(&it.0));
            in_use.map(|(id, _)| *id).chain(unclaimed.map(|(id, _)| *id)).collect()
        };
        self.until(LEAVING, |table| in_use(table).is_empty()).await;
        let in_use = in_use(&self.table());
        self.cut(&in_use);
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
        let obstacle = table::obstacle(link, &rules, taps);
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
        for id in &leaving {
            table.leave(*id);
        }
        let ending = match obstacle {
            Some(_) => leaving.into_iter().chain(table.unclaimed_of(link.id)).collect(),
            None => leaving,
        };
        let senders = table.senders(link);
        let mut why = receiver.as_ref().err().map(|why| (*why).to_owned());
        if let Ok((receiver, input)) = &receiver {
            for sender in &senders {
                let offered = table.offer(link, rules, sender, (receiver, input));
                why = offered.unwrap_or_else(Some).or(why);
            }
            if senders.is_empty() {
                why = Some(table.no_sender(link).to_owned());
            }
        }
        link.lanes.set_why(why.filter(|_| rules.transport != Transport::Routed));
        drop(table);
        self.cut_later(ending);
        for sender in senders {
            sender.connection.tell_wanted(sender.channel);
        }
    }

    /// Why a link has no lane whoever its ends are, a sentence.
    #[must_use]
    pub fn obstacle(&self, link: &Link, taps: &Taps) -> Option<&'static str> {
        table::obstacle(link, &link.rules(), taps)
    }

    /// What its ends lack for a lane, as they are connected now, a sentence.
    #[must_use]
    pub fn lacks(&self, link: &Link) -> Option<&'static str> {
        let table = self.table();
        match table.receiver(link) {
            Err(why) => Some(why),
            Ok(_) => table.senders(link).is_empty().then(|| table.no_sender(link)),
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
            table.lanes.remove(&id);
        }
        // Whether their ends have come back to this daemon or not.
        table.unclaimed.retain(|_, (of, _)| *of != link);
        table.failed.retain(|(_, _, other)| *other != link);
        self.changes.send_replace(());
    }

    /// A connection is over, and the lanes that it fed.
    pub(super) fn gone(&self, connection: &Connection) {
        let number = connection.number;
        let mut table = self.table();
        table.declaring.remove(&number);
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
        table.ended.gone(number);
        let mut diverged = Vec::new();
        let fed: Vec<u64> =
            table.lanes.iter().filter(|(_, lane)| is_it(&lane.sender)).map(|(id, _)| *id).collect();
        for id in fed {
            // Its receiver reads what is in it. How much of that there is, it says at the end.
            if let Some(lane) = table.lanes.get_mut(&id) {
                lane.shut();
                lane.source = lane.sender.map(|end| (connection.source.clone(), end.channel));
                lane.sender = None;
                lane.is_asked = false;
                // Nor does a receiver say anything that was not told of it.
                let is_told = !lane.link.lanes.cancel(id) && lane.is_used;
                if let Some(read) = lane.read {
                    diverged.extend(ended::without_sender(id, lane, read));
                    table.lanes.remove(&id);
                } else if !is_told || lane.receiver.is_none() {
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
            .filter(|(_, lane)| is_it(&lane.receiver) && lane.sender.is_none())
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
        diverged.into_iter().for_each(|divergence| router.diverged(divergence));
        for link in router.links_to(instance) {
            self.consider(&link, router.taps());
        }
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
}

/// How long a sender may take to leave a lane: it does so within moments, unless it hangs.
const LEAVING: Duration = Duration::from_secs(1);

/// How long somebody waits who wants to know what has passed.
const ANSWERED: Duration = Duration::from_millis(100);
