//! The frames of a connection that are about lanes.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use orchestrator_proto::control::Way;
use orchestrator_proto::frame::{self, MAX_RUNTIME};
use orchestrator_proto::ring::Files;
use orchestrator_proto::runtime::{Frame, MAGIC, PROTOCOL, Passed};
use orchestrator_proto::{LinkId, WireError};

use super::super::reader::{Channel, Reader, malformed};
use super::table::Claimed;
use crate::route::OutputIndex;

/// Lanes of one channel that are older than the connection.
const MAX_USES: usize = 4096;

/// The most messages that an end may say it has counted: far from where numbers end, so that no sum
/// of them does.
const MAX_COUNTED: u64 = 1 << 60;

/// A lane that an end goes on with, which an earlier daemon knew.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Used {
    pub(in super::super) channel: u16,
    pub(in super::super) lane: u64,
    pub(in super::super) link: LinkId,
    pub(in super::super) way: Way,
    /// How many messages it had counted by then, if it says so.
    pub(in super::super) before: Option<u64>,
}

/// Over a lane of this medium.
const fn way_of(memory: bool) -> Way {
    if memory { Way::Shm } else { Way::Direct }
}

/// Refuses what nobody can have counted.
fn checked(passed: Passed) -> Result<Passed, WireError> {
    let Passed { sent, delivered, dropped, returned, output } = passed;
    match [sent, delivered, dropped, returned, output].into_iter().max() {
        Some(most) if most > MAX_COUNTED => {
            Err(malformed(format!("{most} messages are beyond what can be counted")))
        }
        _ => Ok(passed),
    }
}

impl Reader {
    /// Carries out such a frame.
    pub(in super::super) fn lane_frame(&mut self, frame: Frame<'_>) -> Result<(), WireError> {
        match frame {
            Frame::Lanes { memory } => {
                self.connection.takes_memory.store(memory, Ordering::Relaxed);
                self.connection.endpoint.lanes.join(&self.connection);
                Ok(())
            }
            Frame::Skip { channel, count } => {
                self.send_run();
                match self.connection.source.skip(self.output(channel)?, count, MAX_COUNTED) {
                    true => Ok(()),
                    false => Err(malformed(format!(
                        "{count} messages more are beyond what can be counted"
                    ))),
                }
            }
            Frame::Switched { channel, lane } => {
                self.output(channel)?;
                self.send_run();
                self.connection.endpoint.lanes.switched(&self.connection, channel, lane);
                Ok(())
            }
            Frame::Passed { channel, lane, passed } => {
                self.output(channel)?;
                let lanes = &self.connection.endpoint.lanes;
                lanes.passed(&self.connection, (channel, lane), checked(passed)?);
                Ok(())
            }
            Frame::Left { channel, lane, passed } => self.left(channel, lane, checked(passed)?),
            Frame::Again { channel, lane, number, payload } => {
                self.output(channel)?;
                // With a link that was removed goes what was on its way over it.
                if let Some((of, link)) = &self.left
                    && *of == lane
                    && !self.connection.again(channel, link, number, payload)
                {
                    return Err(malformed(format!("message {number} was never sent before")));
                }
                Ok(())
            }
            Frame::Uses { channel, lane, link, memory } => {
                if self.uses.len() >= MAX_USES {
                    return Err(malformed(format!("more than {MAX_USES} lanes of one channel")));
                }
                self.uses.push(Used { channel, lane, link, way: way_of(memory), before: None });
                Ok(())
            }
            Frame::Counted { channel, lane, count } => {
                let of = |used: &&mut Used| used.channel == channel && used.lane == lane;
                match self.uses.iter_mut().find(of) {
                    Some(used) if count <= MAX_COUNTED => used.before = Some(count),
                    Some(_) => {
                        return Err(malformed(format!(
                            "{count} messages are beyond what can be counted"
                        )));
                    }
                    None => return Err(malformed("a lane that it does not go on with")),
                }
                Ok(())
            }
            _ => Err(malformed("a frame that only the daemon sends")),
        }
    }

    /// Hands over an end of a lane, for which the peer has connected.
    pub(in super::super) fn claim(
        &mut self,
        magic: [u8; 4],
        protocol: u32,
        lane: u64,
    ) -> Result<(), WireError> {
        if magic != MAGIC || protocol != PROTOCOL {
            return Err(malformed("this is another version of the native runtime protocol"));
        }
        self.is_over = true;
        let endpoint = &self.connection.endpoint;
        // Who comes too late, or is no end of it, sees the connection close.
        if let Some(Claimed { stream, ring }) = endpoint.lanes.claim(endpoint.instance, lane)
            && let Ok(frame) = frame::encode(&Frame::Claimed, MAX_RUNTIME)
            && let files = [stream.as_fd()].into_iter().chain(ring.iter().flat_map(Files::as_fds))
            && let files = files.collect::<Vec<_>>()
            && let Err(error) = self.connection.outlet.send_files(&frame, &files)
        {
            tracing::warn!(instance = %endpoint.instance, %error, "a lane could not be handed over");
        }
        Ok(())
    }

    fn left(&mut self, channel: u16, lane: u64, passed: Passed) -> Result<(), WireError> {
        self.send_run();
        let connection = self.connection.clone();
        let lanes = &connection.endpoint.lanes;
        match self.channels.get(usize::from(channel)) {
            Some(Some(Channel::Input(_))) => {
                lanes.left(&connection, (channel, lane), passed);
            }
            Some(Some(Channel::Output(..))) => {
                let link = lanes.left(&connection, (channel, lane), passed);
                connection.take_note(channel, lane);
                self.left = link.clone().map(|link| (lane, link));
                if let Some(link) = link {
                    lanes.consider(&link, connection.endpoint.router.taps());
                }
            }
            _ => return Err(malformed(format!("channel {channel} is not declared"))),
        }
        Ok(())
    }

    fn output(&self, channel: u16) -> Result<OutputIndex, WireError> {
        match self.channels.get(usize::from(channel)) {
            Some(Some(Channel::Output(output, _))) => Ok(*output),
            _ => Err(malformed(format!("channel {channel} is no output"))),
        }
    }
}
