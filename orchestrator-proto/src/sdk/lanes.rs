//! What the connection to the daemon has to do with lanes.

use std::sync::Arc;

use bytes::Bytes;
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::input::When;
use super::kept::Kept;
use super::lane::{self, Incoming, Inlet, Outgoing, Terms};
use super::link::{Link, Shared};
use crate::frame::PREFIX;
use crate::id::LinkId;
use crate::runtime::{Frame, Passed, Sender};

impl Shared {
    /// The daemon has a lane for this channel.
    pub(super) fn lane(self: &Arc<Self>, frame: &Frame<'_>) -> Result<(), String> {
        let &Frame::Lane { channel, lane, link, policy, capacity, anybody, medium } = frame else {
            return Ok(());
        };
        let weak = Arc::downgrade(self);
        let mut state = self.link();
        let sender = Sender { epoch: state.epoch, instance: state.instance, anybody };
        if let Some(sending) = state.output(channel) {
            sending.claiming.push(lane);
            let is_stamped = sending.is_stamped;
            let terms = Terms { lane, link, policy, capacity, sender, is_stamped };
            tokio::spawn(lane::take_out(weak, channel, terms));
        } else if let Some(receiving) = state.input(channel) {
            receiving.claiming.push(lane);
            tokio::spawn(lane::take_in(weak, channel, (lane, link), medium));
        } else {
            return Err(format!("the daemon broke the protocol: a lane for {channel}"));
        }
        Ok(())
    }

    /// The daemon wants an output's messages, or does not need them.
    pub(super) fn wanted(&self, channel: u16, wanted: bool) {
        let mut link = self.link();
        link.want(channel, wanted);
        self.flush(&mut link);
    }

    /// The daemon has taken note that an output has left a lane.
    pub(super) fn gone(&self, channel: u16, lane: u64) {
        if let Some(sending) = self.link().output(channel) {
            sending.gone(lane);
        }
    }

    /// The daemon gives a lane up. Of an input: what to wait for, before anything else that the
    /// daemon says is heeded.
    pub(super) fn leave(&self, channel: u16, lane: u64) -> Option<watch::Receiver<bool>> {
        let mut link = self.link();
        if let Some(sending) = link.output(channel) {
            sending.claiming.retain(|other| *other != lane);
            link.leave(channel, lane);
            self.flush(&mut link);
            return None;
        }
        let receiving = link.input(channel)?;
        if let Some(open) = receiving.lanes.iter().find(|incoming| incoming.lane == lane) {
            return Some(open.over());
        }
        if receiving.claiming.contains(&lane) {
            // The sender was granted nothing on it.
            receiving.claiming.retain(|other| *other != lane);
            link.left(channel, lane, Passed::default());
            self.flush(&mut link);
        }
        None
    }

    /// An end could not be had.
    pub(super) fn lane_failed(&self, channel: u16, lane: u64) {
        let mut link = self.link();
        if link.claimed(channel, lane) {
            link.left(channel, lane, Passed::default());
            self.flush(&mut link);
        }
    }

    /// An output has its end, and uses it from now on. False if that has to wait until the daemon has
    /// got again what it is to get.
    pub(super) fn lane_begins(
        &self,
        channel: u16,
        lane: u64,
        new: impl FnOnce(u64) -> Option<Outgoing>,
    ) -> bool {
        let mut link = self.link();
        let Some(sending) = link.output(channel) else { return true };
        if sending.is_wanted && sending.kept.is_behind() && sending.claiming.contains(&lane) {
            return false;
        }
        if !link.claimed(channel, lane) {
            return true;
        }
        let Some(sending) = link.output(channel) else { return true };
        let Some(outgoing) = new(sending.kept.next()) else { return true };
        sending.lanes.push(outgoing);
        link.writing.push(&Frame::Switched { channel, lane });
        self.flush(&mut link);
        true
    }

    /// An input has its end, and reads it from now on.
    pub(super) fn lane_opens(
        self: &Arc<Self>,
        channel: u16,
        (lane, link_id): (u64, LinkId),
        opened: (Inlet, Arc<UnixStream>),
    ) {
        let mut link = self.link();
        if !link.claimed(channel, lane) {
            return;
        }
        let Some(receiving) = link.input(channel) else { return };
        let (weak, queue) = (Arc::downgrade(self), receiving.queue.clone());
        receiving.lanes.push(Incoming::open(weak, channel, (lane, link_id), opened, queue));
    }

    /// An input has read a lane to its end.
    pub(super) fn lane_ended(&self, channel: u16, lane: u64) {
        let mut link = self.link();
        let Some(receiving) = link.input(channel) else { return };
        let Some(at) = receiving.lanes.iter().position(|incoming| incoming.lane == lane) else {
            return;
        };
        let delivered = receiving.queue.end_lane(lane);
        receiving.lanes.remove(at);
        let passed = Passed { sent: delivered, delivered, ..Passed::default() };
        link.left(channel, lane, passed);
        self.flush(&mut link);
    }

    /// Something happens to an output's end of a lane; none if it has none.
    pub(super) fn with_outgoing<T>(
        &self,
        channel: u16,
        lane: u64,
        then: impl FnOnce(&mut Outgoing, &Kept) -> T,
    ) -> Option<T> {
        let mut link = self.link();
        let (outgoing, kept) = link.output(channel)?.lane(lane)?;
        Some(then(outgoing, kept))
    }

    /// Whether an output's end can't be written to any more.
    pub(super) fn is_lane_broken(&self, channel: u16, lane: u64) -> bool {
        self.with_outgoing(channel, lane, |outgoing, _| outgoing.is_broken()).unwrap_or_default()
    }

    /// The receiver acknowledges messages of a lane. False if it never got them.
    pub(super) fn lane_acknowledged(&self, channel: u16, lane: u64, total: u64) -> bool {
        let mut link = self.link();
        let Some(sending) = link.output(channel) else { return false };
        let known = sending.lane(lane).is_some_and(|(outgoing, _)| outgoing.acknowledged(total));
        sending.settle();
        known
    }

    /// The other end of an output's lane is gone.
    pub(super) fn lane_broke(&self, channel: u16, lane: u64) {
        let mut link = self.link();
        link.leave(channel, lane);
        self.flush(&mut link);
    }

    /// Tells the daemon what passed over a lane, if it does not know it or has asked.
    pub(super) fn tell_passed(&self, channel: u16, lane: u64, asked: bool) {
        let mut link = self.link();
        let told = link.output(channel).and_then(|sending| sending.lane(lane));
        let Some((passed, is_new)) = told.map(|(outgoing, kept)| outgoing.tell(kept)) else {
            return;
        };
        if !asked && !is_new {
            return;
        }
        if link.writing.is_open() {
            link.writing.push(&Frame::Passed { channel, lane, passed });
            self.flush(&mut link);
        }
    }

    /// Tells the sender's end of a lane about an input.
    pub(super) fn tell_lane(&self, channel: u16, lane: u64, when: When) {
        let mut link = self.link();
        let Some(receiving) = link.input(channel) else { return };
        if let Some(incoming) = receiving.lanes.iter().find(|incoming| incoming.lane == lane) {
            incoming.tell(when);
        }
    }
}

impl Link {
    /// Whether this lane was to be fetched; now it is not any more.
    fn claimed(&mut self, channel: u16, lane: u64) -> bool {
        let claiming = if let Some(sending) = self.output(channel) {
            &mut sending.claiming
        } else if let Some(receiving) = self.input(channel) {
            &mut receiving.claiming
        } else {
            return false;
        };
        let before = claiming.len();
        claiming.retain(|other| *other != lane);
        claiming.len() < before
    }

    fn left(&mut self, channel: u16, lane: u64, passed: Passed) {
        if self.writing.is_open() {
            self.writing.push(&Frame::Left { channel, lane, passed });
        }
    }

    /// From now on the daemon gets an output's messages, or does not. It is told how many it did
    /// not get.
    fn want(&mut self, channel: u16, wanted: bool) {
        let Some(sending) = self.output(channel) else { return };
        // With no lane nobody else would get them.
        let wanted = wanted || sending.lanes.is_empty();
        if std::mem::replace(&mut sending.is_wanted, wanted) || !wanted {
            return;
        }
        let count = sending.kept.resume();
        if count > 0 && self.writing.is_open() {
            self.writing.push(&Frame::Skip { channel, count });
        }
    }

    /// An output uses this lane no longer. What its receiver may not have had goes to the daemon.
    fn leave(&mut self, channel: u16, lane: u64) {
        let is_open = self.writing.is_open();
        let Some(sending) = self.output(channel) else { return };
        let Some(mut outgoing) = sending.take_out(lane) else {
            // It never began, or is left already.
            return self.left(channel, lane, Passed::default());
        };
        let mut back = Vec::new();
        let passed = outgoing.leave(&sending.kept, |number, frame| {
            if is_open {
                back.push((number, Bytes::copy_from_slice(frame)));
            }
        });
        drop(outgoing);
        if !is_open {
            // The next connection begins with what was not acknowledged.
            sending.detached();
            sending.is_wanted = true;
            return;
        }
        self.want(channel, true);
        self.left(channel, lane, passed);
        for (number, frame) in back {
            if let Ok(Frame::Message { payload, .. }) = postcard::from_bytes(&frame[PREFIX..]) {
                self.writing.push(&Frame::Again { channel, lane, number, payload });
            }
        }
    }
}
