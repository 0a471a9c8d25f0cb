//! An end of a lane by hand: what a library does with the daemon to get it, and then whatever the
//! test likes.

use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;

use orchestrator_proto::frame::{self, MAX_RUNTIME};
use orchestrator_proto::runtime::{Direction, Frame, MAGIC, PROTOCOL, Passed};
use orchestrator_proto::sdk::{Input, Message};
use orchestrator_proto::{LinkId, TypeSchema};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::native::Native;
use crate::{Daemon, SOON};

/// An end that takes lanes for numbers of this type, on channel 0, and goes on with this one.
pub fn end_of(
    daemon: &Daemon,
    id: &str,
    (direction, type_name): (Direction, &str),
    uses: Option<(u64, LinkId)>,
) -> Native {
    end_that_counted(daemon, id, (direction, type_name), uses, None)
}

/// Likewise, and it has counted so many messages of the lane by now.
pub fn end_that_counted(
    daemon: &Daemon,
    id: &str,
    (direction, type_name): (Direction, &str),
    uses: Option<(u64, LinkId)>,
    counted: Option<u64>,
) -> Native {
    let mut native = daemon.native(id);
    native.send(&Frame::Lanes { memory: false });
    if let Some((lane, link)) = uses {
        native.send(&Frame::Uses { channel: 0, lane, link, memory: false });
        if let Some(count) = counted {
            native.send(&Frame::Counted { channel: 0, lane, count });
        }
    }
    native.send(&match direction {
        Direction::Output => Frame::Keep { channel: 0, epoch: 1, next: 0, again: 0 },
        Direction::Input => Frame::Recognise { channel: 0 },
    });
    native.declare(0, direction, type_name, &TypeSchema::U32, 0);
    native
}

impl Native {
    /// The lane that it is told of.
    pub fn lane(&mut self) -> u64 {
        self.until(|frame| match frame {
            Frame::Lane { lane, .. } => Some(lane),
            _ => None,
        })
    }

    /// Waits until it is told to leave this lane.
    pub fn told_to_leave(&mut self, id: u64) {
        self.until(|frame| match frame {
            Frame::Leave { lane, .. } => (lane == id).then_some(()),
            _ => None,
        });
    }

    fn until<T>(&mut self, wanted: impl Fn(Frame<'_>) -> Option<T>) -> T {
        loop {
            if let Some(found) = self.next(&wanted).expect("the connection lives") {
                return found;
            }
        }
    }
}

/// Both ends of a lane that goes from one instance to the other, each with its connection.
pub struct Lane {
    /// Its number.
    pub id: u64,
    /// The connection of the sender.
    pub sender: Native,
    /// The connection of the receiver.
    pub receiver: Native,
    /// The sender's end.
    pub from: UnixStream,
    /// The receiver's end.
    pub to: UnixStream,
}

impl Lane {
    /// Connects both, and does what makes the daemon give them a lane. There is a link of the type
    /// between them, and nobody else at its ends.
    pub fn open(daemon: &Daemon, (from, to): (&str, &str), type_name: &str) -> Self {
        let mut receiver = end_of(daemon, to, (Direction::Input, type_name), None);
        let mut sender = end_of(daemon, from, (Direction::Output, type_name), None);
        let id = sender.lane();
        let from = claim(daemon, from, id).expect("the sender gets its end");
        sender.send(&Frame::Switched { channel: 0, lane: id });
        assert_eq!(receiver.lane(), id);
        let to = claim(daemon, to, id).expect("the receiver gets its end");
        Self { id, sender, receiver, from, to }
    }

    /// Sends a number over it. False if it is over.
    pub fn send(&mut self, number: u32) -> bool {
        let payload = postcard::to_stdvec(&number).unwrap();
        let message = Frame::Message { channel: 0, payload: &payload };
        self.from.write_all(&frame::encode(&message, MAX_RUNTIME).unwrap()).is_ok()
    }
}

/// The last word of an end: of a sender that so many were to go, were delivered, gave way, and went
/// back; of a receiver, with twice the same and nothing else, that it has read so many.
pub fn left(lane: u64, passed: Passed) -> Frame<'static> {
    Frame::Left { channel: 0, lane, passed }
}

/// The bytes that come from the other end until the lane is over.
pub fn rest(mut end: &UnixStream) -> Vec<u8> {
    end.set_read_timeout(Some(SOON)).unwrap();
    let mut rest = Vec::new();
    end.read_to_end(&mut rest).expect("it comes to an end soon");
    rest
}

/// An end of this lane, as the daemon gives it to the instance; none if it does not.
pub fn claim(daemon: &Daemon, id: &str, lane: u64) -> Option<UnixStream> {
    let mut stream = UnixStream::connect(daemon.native_socket(id)).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let claim = Frame::Claim { magic: MAGIC, protocol: PROTOCOL, lane };
    stream.write_all(&frame::encode(&claim, MAX_RUNTIME).unwrap()).unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let mut answer = [0; 256];
    let parts = &mut [IoSliceMut::new(&mut answer)];
    recvmsg(&stream, parts, &mut beside, RecvFlags::CMSG_CLOEXEC).expect("an answer");
    let file = beside.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    file.map(UnixStream::from)
}

/// The next so many messages, each of which comes soon.
pub async fn received<T: Message>(input: &mut Input<T>, count: usize) -> Vec<T> {
    let mut messages = Vec::new();
    while messages.len() < count {
        let next = tokio::time::timeout(SOON, input.recv()).await;
        messages.push(next.expect("a message comes").unwrap());
    }
    messages
}
