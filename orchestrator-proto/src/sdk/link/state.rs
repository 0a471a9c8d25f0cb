//! What is declared, and how it is declared anew: all that the lock of [`Shared`](super::Shared)
//! guards.

use std::sync::Arc;

use super::{Declared, End, Link};
use crate::WireError;
use crate::runtime::{Declare, Direction, Frame, RuntimeReply};
use crate::sdk::ends::{Receiving, Sending};
use crate::sdk::input::Queue;
use crate::sdk::kept::Beginning;
use crate::sdk::lane::Outgoing;

impl Link {
    /// Whether something waits for the kernel or must be sent again; none if there is no
    /// connection any more.
    pub(in super::super) fn is_unsent(&self) -> Option<bool> {
        let behind = |declared: &Declared| match &declared.end {
            End::Output(sending) => {
                (sending.is_wanted && sending.kept.is_behind())
                    || sending.lanes.iter().any(Outgoing::is_unsent)
            }
            End::Input(_) => false,
        };
        Some(self.wants_write()? || self.declared.iter().any(behind))
    }

    /// Whether this is the name of an output, or of an input.
    pub(in super::super) fn is_declared(&self, name: &str, is_input: bool) -> bool {
        let is_it = |it: &Declared| it.name == name && matches!(it.end, End::Input(_)) == is_input;
        self.declared.iter().any(is_it)
    }

    /// How many outputs and inputs there are.
    pub(in super::super) fn declared_count(&self) -> usize {
        self.declared.len()
    }

    /// Whether bytes wait for the kernel; none if there is no connection any more.
    pub(in super::super) fn wants_write(&self) -> Option<bool> {
        self.writing.is_open().then(|| !self.writing.is_idle())
    }

    /// The queue of an input.
    pub(in super::super) fn queue(&self, channel: u16) -> Option<Arc<Queue>> {
        match &self.declared.get(usize::from(channel))?.end {
            End::Input(receiving) => Some(Arc::clone(&receiving.queue)),
            End::Output(_) => None,
        }
    }

    pub(in super::super) fn output(&mut self, channel: u16) -> Option<&mut Sending> {
        match &mut self.declared.get_mut(usize::from(channel))?.end {
            End::Output(sending) => Some(sending),
            End::Input(_) => None,
        }
    }

    /// An input.
    pub(in super::super) fn input(&mut self, channel: u16) -> Option<&mut Receiving> {
        match &mut self.declared.get_mut(usize::from(channel))?.end {
            End::Input(receiving) => Some(receiving),
            End::Output(_) => None,
        }
    }

    /// The daemon answers a request.
    pub(in super::super) fn replied(&mut self, id: u32, result: Result<RuntimeReply, WireError>) {
        if let Some(waiting) = self.requests.remove(&id) {
            // Nobody waits any more: the answer is not wanted.
            let _ = waiting.send(result);
        }
    }

    /// Writes what has to be sent again, as far as it may be now.
    pub(in super::super) fn send_again(&mut self) {
        let mut declared = std::mem::take(&mut self.declared);
        for Declared { end, .. } in &mut declared {
            let End::Output(sending) = end else { continue };
            while !self.writing.is_full()
                && self.writing.is_open()
                && let Some((frames, count)) = sending.kept.again()
            {
                self.writing.write(frames);
                sending.wrote(count);
            }
        }
        self.declared = declared;
    }

    pub(in super::super) fn push_declare(&mut self, channel: u16) {
        let (epoch, connection) = (self.epoch, self.connection);
        let Some(declared) = self.declared.get_mut(usize::from(channel)) else {
            return;
        };
        // What comes first, and what follows the declaration.
        let (mut first, mut then) = (Vec::new(), Vec::new());
        let (before, direction, window) = match &mut declared.end {
            End::Output(sending) => {
                let Beginning { next, again, skip } = sending.kept.begin();
                declared.dropped.here = 0;
                then.push(Frame::Report { channel });
                if sending.is_stamped {
                    first.push(Frame::Stamps { channel, stamped: true });
                }
                first.extend(sending.lanes.iter_mut().flat_map(|lane| lane.uses(channel)));
                if skip > 0 {
                    then.push(Frame::Skip { channel, count: skip });
                }
                (Frame::Keep { channel, epoch, next, again }, Direction::Output, 0)
            }
            End::Input(receiving) => {
                let Some(window) = receiving.queue.begin(connection) else { return };
                first.push(Frame::Stamps { channel, stamped: true });
                then.extend(receiving.queue.places().into_iter().map(|(sender, next)| {
                    Frame::From { channel, sender: Some(sender), next, kept: false }
                }));
                for lane in &receiving.lanes {
                    let count = receiving.queue.count_lane_anew(lane.lane);
                    first.extend(lane.uses(channel, count));
                }
                (Frame::Recognise { channel }, Direction::Input, window)
            }
        };
        let declare = Frame::Declare(Declare {
            channel,
            direction,
            name: declared.name,
            schema: &declared.form.schema,
            hash: Some(declared.form.hash.0),
            window,
        });
        let takes = declared.also.iter().map(|form| Frame::Takes {
            channel,
            schema: &form.schema,
            hash: Some(form.hash.0),
        });
        // A name and a schema within their bounds always fit a frame; the others are short.
        for frame in first.into_iter().chain(takes).chain([before, declare]).chain(then) {
            self.writing.push(&frame);
        }
    }
}
