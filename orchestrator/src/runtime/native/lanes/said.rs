//! What the ends of lanes say, and what they are told.

use std::sync::{Arc, MutexGuard, PoisonError};

use bytes::Bytes;
use orchestrator_proto::InstanceId;
use orchestrator_proto::frame::{self, MAX_RUNTIME};
use orchestrator_proto::ring::Files;
use orchestrator_proto::runtime::{Frame, Passed};

use super::super::super::now_ns;
use super::super::Connection;
use super::ended::Before;
use super::frames::Used;
use super::table::{Claimed, End, Lane, Stage, Table};
use super::{Lanes, ended};
use crate::route::{Divergence, Link, LinkTarget};

/// Lanes of earlier daemons that are taken up: as many as one can have made.
const MAX_KNOWN: usize = 4096;

impl Lanes {
    /// An instance fetches its end of a lane. None if it has none.
    pub(super) fn claim(&self, instance: InstanceId, id: u64) -> Option<Claimed> {
        let mut table = self.table();
        let (sender, receiver) = {
            let lane = table.lanes.get(&id)?;
            (lane.sender, lane.receiver)
        };
        let is_of = |end: Option<End>| {
            let connection = end.and_then(|end| table.connection(end.connection));
            connection.is_some_and(|connection| connection.endpoint.instance == instance)
        };
        // A lane from an instance to itself: the sender comes first.
        let is_sender = is_of(sender);
        let is_receiver = is_of(receiver);
        let lane = table.lanes.get_mut(&id)?;
        if is_sender && lane.stage == Stage::Offered {
            let stream = lane.file.as_ref()?.duplicate().ok()?;
            let ring = lane.ring.as_ref().map(Files::try_clone).transpose().ok()?;
            return Some(Claimed { stream, ring });
        }
        // Not before the sender uses it: the receiver was not told of it then.
        if !is_receiver || !lane.is_used {
            return None;
        }
        let stream = lane.other.take()?;
        // From now on it outlives this daemon.
        if let Some(end) = &mut lane.file {
            end.keep(&self.shelf, lane.link.id, id);
        }
        Some(Claimed { stream, ring: lane.ring.take() })
    }

    /// A sender uses its end from now on: the receiver is told when it has got what was sent before.
    pub(in super::super) fn switched(&self, connection: &Connection, channel: u16, id: u64) {
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
        link.lanes.begin(id, lane.way);
        if lane.is_cut {
            link.lanes.cut(id);
        }
        connection.source.divert(channel, &link);
        if let (Some((receiver, channel)), Stage::Used) = (receiver, lane.stage) {
            let lane = Frame::Lane {
                channel,
                lane: id,
                link: link.id,
                policy: lane.rules.policy,
                capacity: lane.rules.capacity,
                anybody: link.from.is_none(),
                medium: lane.medium(),
            };
            if let Ok(frame) = frame::encode(&lane, MAX_RUNTIME) {
                link.hand_over(id, receiver.number, frame);
            }
        }
        self.changes.send_replace(());
        drop(table);
        connection.tell_wanted(channel);
    }

    /// A sender has passed so much over a lane by now.
    pub(in super::super) fn passed(
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
    pub(in super::super) fn left(
        &self,
        connection: &Connection,
        (channel, id): (u16, u64),
        passed: Passed,
    ) -> Option<Arc<Link>> {
        let end = End { connection: connection.number, channel };
        let router = &connection.endpoint.router;
        let mut table = self.table();
        let Some(lane) = table.lanes.get_mut(&id) else {
            let diverged = table.receiver_left(end, id, passed.delivered);
            drop(table);
            diverged.into_iter().for_each(|divergence| router.diverged(divergence));
            return None;
        };
        let end = Some(end);
        if lane.receiver == end && lane.sender != end {
            let diverged = self.read_to_the_end(table, id, passed);
            diverged.into_iter().for_each(|divergence| router.diverged(divergence));
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
        // Of a receiver that is gone nobody will ask again.
        if !was_asked
            && let Some(receiver) =
                receiver.filter(|end| table.connection(end.connection).is_some())
        {
            table.failed.insert((connection.number, receiver.connection, link.id));
        }
        link.lanes.end(id);
        // Its receiver, if it has it, says how much it read.
        let lane = table.lanes.remove(&id).filter(|_| was_used && !not_told);
        let from = connection.source.instance;
        let diverged = lane.and_then(|lane| table.sender_left(id, &lane, from, passed));
        self.changes.send_replace(());
        drop(table);
        diverged.into_iter().for_each(|divergence| router.diverged(divergence));
        Some(link)
    }

    /// A receiver has read a lane to its end.
    fn read_to_the_end(
        &self,
        mut table: MutexGuard<'_, Table>,
        id: u64,
        passed: Passed,
    ) -> Option<Divergence> {
        let lane = table.lanes.get_mut(&id)?;
        if lane.sender.is_some() {
            // It reads no more, whatever the sender sends.
            lane.shut();
            lane.read = Some(passed.delivered);
            if lane.is_cut {
                ended::before_sender(id, lane, passed.delivered);
            }
            table.leave(id);
            drop(table);
            self.cut_later(vec![id]);
            return None;
        }
        // Of one whose sender ended before it knew of this daemon nothing was counted here.
        lane.link.lanes.begin(id, lane.way);
        let lane = table.lanes.remove(&id)?;
        self.changes.send_replace(());
        ended::without_sender(id, &lane, passed.delivered)
    }

    /// An end that an earlier daemon knew of goes on with its lane.
    pub(in super::super) fn uses(
        &self,
        connection: &Connection,
        Used { channel, lane: id, link, way, before }: Used,
        is_sender: bool,
    ) {
        let end = End { connection: connection.number, channel };
        let router = &connection.endpoint.router;
        // It has a say in links of its own only.
        let link = router.link(link).filter(|link| match is_sender {
            true => {
                let output = connection.source.output(&link.type_name);
                connection.source.feeds(link) && output.is_some_and(|it| it.0 == channel)
            }
            false => {
                let input = connection.outlet.dialect.input(&link.type_name);
                link.to == LinkTarget::Instance(connection.endpoint.instance)
                    && input.is_some_and(|input| input.channel() == channel)
            }
        });
        let mut table = self.table();
        // One whose connection broke comes back with a lane that was shut: it will see that, and
        // leave it as any other.
        if is_sender && let Some(lane) = table.lanes.get(&id).filter(|lane| lane.is_left_behind()) {
            lane.link.lanes.end(id);
            table.lanes.remove(&id);
        }
        // And of each lane there are two ends.
        let is_free = table.lanes.get(&id).is_none_or(|lane| {
            let end = if is_sender { lane.sender } else { lane.receiver };
            end.is_none() && link.as_ref().is_some_and(|link| link.id == lane.link.id)
        });
        let has_place = table.lanes.contains_key(&id) || table.lanes.len() < MAX_KNOWN;
        let Some(link) = link.filter(|_| is_free && has_place) else {
            if is_sender {
                connection.tell(&Frame::Leave { channel, lane: id });
                connection.outlet.wake();
            }
            return;
        };
        let file = table.claimed(id, link.id);
        let lane = table.lanes.entry(id).or_insert_with(|| Lane {
            link: link.clone(),
            rules: link.rules(),
            sender: None,
            receiver: None,
            file,
            other: None,
            ring: None,
            way,
            stage: Stage::Used,
            read: None,
            is_used: false,
            is_own: false,
            before: Before::default(),
            source: None,
            is_asked: false,
            is_cut: false,
        });
        match is_sender {
            true => (lane.sender, lane.before.sender) = (Some(end), before),
            false => (lane.receiver, lane.before.receiver) = (Some(end), before),
        }
        if is_sender {
            if lane.stage == Stage::Leaving {
                // What its receiver said, or a change of the link, came before it.
                connection.tell(&Frame::Leave { channel, lane: id });
                connection.outlet.wake();
            }
            lane.is_used = true;
            link.lanes.begin(id, way);
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

impl Connection {
    /// Tells the peer whether this output's messages are needed here, if it does not know.
    pub(super) fn tell_wanted(&self, channel: u16) {
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
    pub(in super::super) fn take_note(&self, channel: u16, lane: u64) {
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

    /// A message that went over a lane and did not arrive, for this link only. False if it was never
    /// sent.
    pub(in super::super) fn again(
        &self,
        channel: u16,
        link: &Arc<Link>,
        number: u64,
        payload: &[u8],
    ) -> bool {
        self.source.again(channel, link, number, Bytes::copy_from_slice(payload), now_ns())
    }
}
