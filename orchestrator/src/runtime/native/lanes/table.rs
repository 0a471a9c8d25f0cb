//! The table of lanes: which there are, and who can have one.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Instant;

use orchestrator_proto::control::{LinkRules, Transport, Way};
use orchestrator_proto::ring::Files;
use orchestrator_proto::runtime::{Frame, Medium};
use orchestrator_proto::{InstanceId, LinkId, Millis};

use super::super::{Connection, Input};
use super::ended::{Before, EndedLanes};
use super::kept::OurEnd;
use crate::route::{Link, LinkTarget, Source, Taps};

/// Lanes of one daemon.
const MAX_LANES: usize = 1024;

/// Bytes of memory that a lane's messages go through, where they do: what stays in the caches of
/// processors, and has room for what a receiver falls behind in some tens of microseconds. Longer
/// messages go through it in parts.
const RING: usize = 1 << 20;

/// As many as there are to be: each is an open file, and two until both ends are fetched, of which
/// most are for what can't be done without.
fn most() -> usize {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let files = files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
    MAX_LANES.min(files / 8)
}

#[derive(Default)]
pub(super) struct Table {
    /// Connections that can take lanes, by the number of the connection.
    pub(super) connections: HashMap<u64, Weak<Connection>>,
    pub(super) by_instance: HashMap<InstanceId, Vec<u64>>,
    /// Connections that are declaring something. What lanes it has from before is not known until
    /// that is done.
    pub(super) declaring: HashSet<u64>,
    pub(super) lanes: HashMap<u64, Lane>,
    /// What an earlier daemon has had kept, with the link, until an end of the lane comes.
    pub(super) unclaimed: HashMap<u64, (LinkId, OurEnd)>,
    /// What their senders said of lanes whose receivers are still to say it.
    pub(super) ended: EndedLanes,
    /// Sender, receiver and link between which a lane failed: there is no second try.
    pub(super) failed: HashSet<(u64, u64, LinkId)>,
}

/// One of them.
pub(super) struct Lane {
    pub(super) link: Arc<Link>,
    pub(super) rules: LinkRules,
    pub(super) sender: Option<End>,
    pub(super) receiver: Option<End>,
    /// The sender's end, to end the lane by dropping it; none if that was done, or an earlier daemon
    /// made the lane and its end could not be kept.
    pub(super) file: Option<OurEnd>,
    /// The receiver's end, until the receiver has it.
    pub(super) other: Option<OwnedFd>,
    /// The memory that the messages go through, until the receiver has it.
    pub(super) ring: Option<Files>,
    /// Which way messages go over it.
    pub(super) way: Way,
    pub(super) stage: Stage,
    /// Whether the sender has begun to use it.
    pub(super) is_used: bool,
    /// Whether the sender was asked how much has passed, and has not answered.
    pub(super) is_asked: bool,
    /// Whether it was ended because the sender did not leave it in time.
    pub(super) is_cut: bool,
    /// Whether this daemon made it.
    pub(super) is_own: bool,
    /// What its ends had counted when they came to this daemon.
    pub(super) before: Before,
    /// How many messages its receiver has read, which reads no more.
    pub(super) read: Option<u64>,
    /// The sender that is gone, to count what it sent at last.
    pub(super) source: Option<(Arc<Source>, u16)>,
}

/// What an end of a lane is given.
pub(super) struct Claimed {
    pub(super) stream: OwnedFd,
    pub(super) ring: Option<Files>,
}

/// One side of a lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct End {
    pub(super) connection: u64,
    pub(super) channel: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
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
pub(super) struct Peer {
    pub(super) connection: Arc<Connection>,
    pub(super) channel: u16,
}

impl Lane {
    /// Whoever reads from it comes to an end, and nobody can write to it.
    pub(super) fn shut(&mut self) {
        self.file = None;
    }

    /// Whether its sender is gone, and only its receiver is still to say how much it has read.
    pub(super) fn is_left_behind(&self) -> bool {
        self.stage == Stage::Left && self.sender.is_none()
    }

    /// What its ends are told that it goes through.
    pub(super) const fn medium(&self) -> Medium {
        match self.way {
            Way::Shm => Medium::Memory { spin_us: self.rules.spin_us },
            Way::Direct | Way::Routed => Medium::Socket,
        }
    }

    /// Whether messages may go over it. Of one of before the sender may be still to come.
    pub(super) fn is_in_use(&self) -> bool {
        let may_be_used = self.is_used || !self.is_own;
        may_be_used && self.stage != Stage::Left && !self.is_cut
    }
}

impl Table {
    pub(super) fn connection(&self, number: u64) -> Option<Arc<Connection>> {
        self.connections.get(&number).and_then(Weak::upgrade)
    }

    pub(super) fn of(&self, instance: InstanceId) -> Vec<Arc<Connection>> {
        let numbers = self.by_instance.get(&instance).map(Vec::as_slice).unwrap_or_default();
        numbers.iter().filter_map(|number| self.connection(*number)).collect()
    }

    /// Who gets the link's messages now, or why there can be no lane to it.
    pub(super) fn receiver(&self, link: &Link) -> Result<(Peer, Arc<Input>), &'static str> {
        let LinkTarget::Instance(to) = &link.to else {
            return Err("its target is a datagram socket");
        };
        let mut is_there = false;
        for connection in self.of(*to) {
            if !connection.endpoint.mailbox.serves(&*connection.outlet) {
                continue;
            }
            is_there = true;
            let Some(input) = connection.outlet.dialect.input(&link.type_name) else { continue };
            if !input.recognises() {
                return Err("the receiver does not recognise duplicates");
            }
            let channel = input.channel();
            return Ok((Peer { connection, channel }, input));
        }
        Err(match is_there {
            true => "the receiver has declared no input of this type",
            false => "the receiver is not connected by a library that takes lanes",
        })
    }

    /// Who feeds the link now.
    pub(super) fn senders(&self, link: &Link) -> Vec<Peer> {
        let connections = match link.from {
            Some(from) => self.of(from),
            None => self.connections.values().filter_map(Weak::upgrade).collect(),
        };
        let feeds = connections.into_iter().filter(|connection| {
            connection.source.feeds(link) && !self.declaring.contains(&connection.number)
        });
        let with_output = feeds.filter_map(|connection| {
            let (channel, _, numbering) = connection.source.output(&link.type_name)?;
            numbering.is_some().then_some(Peer { connection, channel })
        });
        with_output.collect()
    }

    /// Why nobody feeds it, as far as that is known here.
    pub(super) fn no_sender(&self, link: &Link) -> &'static str {
        let Some(from) = link.from else {
            return "no sender is connected by a library that takes lanes";
        };
        let connections = self.of(from);
        let has_output = |it: &Arc<Connection>| it.source.output(&link.type_name).is_some();
        if connections.is_empty() {
            "the sender is not connected by a library that takes lanes"
        } else if connections.iter().any(has_output) {
            "the sender does not number its messages"
        } else {
            "the sender has declared no output of this type"
        }
    }
}

/// Why a link has no lane whoever its ends are.
pub(super) fn obstacle(link: &Link, rules: &LinkRules, taps: &Taps) -> Option<&'static str> {
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

impl Table {
    /// Offers a lane to this sender, if it has none over this link. The answer is why it is not as
    /// somebody wished; none if it is. Fails with why there is none.
    pub(super) fn offer(
        &mut self,
        link: &Arc<Link>,
        rules: LinkRules,
        sender: &Peer,
        (receiver, input): (&Peer, &Input),
    ) -> Result<Option<String>, String> {
        let (from, to) = (&sender.connection, &receiver.connection);
        let has_one = self.lanes.values().any(|lane| {
            lane.link.id == link.id
                && lane.stage != Stage::Left
                && lane.sender.is_some_and(|end| end.connection == from.number)
        });
        let (way, mut why) = match rules.transport {
            Transport::Shm if !from.takes_memory.load(Ordering::Relaxed) => {
                (Way::Direct, Some("the sender's library does not take memory".to_owned()))
            }
            Transport::Shm if !to.takes_memory.load(Ordering::Relaxed) => {
                (Way::Direct, Some("the receiver's library does not take memory".to_owned()))
            }
            Transport::Shm => (Way::Shm, None),
            _ => (Way::Direct, None),
        };
        if has_one {
            return Ok(why);
        }
        if from.user.is_none() || from.user != to.user {
            return Err("its ends run as different users".to_owned());
        }
        let output = from.source.output(&link.type_name).map(|(_, decl, _)| decl);
        if output.as_ref().is_some_and(|decl| decl.is_stamped) && !input.decl.is_stamped {
            return Err("the receiver's library does not take times of sending".to_owned());
        }
        if output.as_ref().is_some_and(|decl| !decl.also.is_empty()) {
            return Err("the sender has several forms, of which the daemon picks one".to_owned());
        }
        let sent = output.and_then(|decl| decl.schema.clone());
        let wanted = input.decl.schema.as_ref();
        if sent.as_ref().map(|(hash, _)| hash) != wanted.map(|(hash, _)| hash) {
            // Over a lane there is the form of the receiver's declaration alone.
            let is_taken = sent.is_some_and(|(hash, _)| input.decl.form_of(hash).is_some());
            return Err(match is_taken {
                true => "the receiver has to be told in which form its messages are".to_owned(),
                false => "its two ends disagree".to_owned(),
            });
        }
        if self.failed.contains(&(from.number, to.number, link.id)) {
            return Err("a lane between its ends was tried, and failed".to_owned());
        }
        let most = most();
        if self.lanes.len() + self.unclaimed.len() >= most {
            return Err(format!("there are {most} lanes already"));
        }
        let pair = || -> io::Result<(OwnedFd, OwnedFd)> {
            let (ours, theirs) = StdStream::pair()?;
            Ok((ours.into(), theirs.into()))
        };
        let (file, other) = pair().map_err(|error| format!("no socket pair: {error}"))?;
        let (way, ring) = match way {
            Way::Shm => match Files::ring(RING) {
                Ok(files) => (Way::Shm, Some(files)),
                Err(error) => {
                    why = Some(format!("no memory to share: {error}"));
                    (Way::Direct, None)
                }
            },
            other => (other, None),
        };
        let id = self.new_id();
        let lane = Lane {
            link: link.clone(),
            rules,
            sender: Some(End { connection: from.number, channel: sender.channel }),
            receiver: Some(End { connection: to.number, channel: receiver.channel }),
            file: Some(OurEnd::new(file)),
            other: Some(other),
            ring,
            way,
            stage: Stage::Offered,
            read: None,
            is_used: false,
            is_own: true,
            before: Before::BEGINNING,
            source: None,
            is_asked: false,
            is_cut: false,
        };
        from.tell(&Frame::Lane {
            channel: sender.channel,
            lane: id,
            link: link.id,
            policy: rules.policy,
            capacity: rules.capacity,
            anybody: link.from.is_none(),
            medium: lane.medium(),
        });
        self.lanes.insert(id, lane);
        from.outlet.wake();
        Ok(why)
    }

    /// Has the sender leave a lane.
    pub(super) fn leave(&mut self, id: u64) {
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
    pub(super) fn new_id(&self) -> u64 {
        loop {
            let id = RandomState::new().hash_one(Instant::now());
            if !self.lanes.contains_key(&id) {
                return id;
            }
        }
    }
}
