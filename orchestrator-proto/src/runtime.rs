//! The native runtime protocol: an instance and its daemon, over the instance's own socket.
//!
//! The instance begins with [`Frame::Hello`] and is answered by [`Frame::Welcome`] or
//! [`Frame::Refused`]. It need not wait for that answer. It then declares its outputs and
//! inputs, each under a number of its choice, its *channel*; from there on a message carries
//! that number only.
//!
//! Flow control is by cumulative grants in both directions: whoever receives on a channel
//! says how many messages in total it is willing to take on it, counted from the start of
//! the connection. A daemon does so only where a link with the policy `block` needs it; until
//! then an output may send without bound. An instance does so if it declared the input with
//! a window.
//!
//! # Nothing lost across the death of a daemon
//!
//! A daemon's memory dies with it, its instances live on and connect to the next one. Under
//! `block` nothing is lost by that, for instances that want it; both sides of this are optional.
//!
//! | who | keeps what | until |
//! | --- | --- | --- |
//! | an output that declared [`Frame::Keep`] | each message, numbered, while a `block` link takes them | the daemon acknowledged it |
//! | the daemon | each message of a `block` link, for an input that declared [`Frame::Recognise`], also after it was written | the receiver acknowledged it |
//! | such an input | of each sender the number that comes next | it ends |
//!
//! The daemon acknowledges to a sender what *all* its `block` targets have acknowledged (or, for
//! a target that does not acknowledge, what the kernel took), and never before. After a
//! reconnection the sender sends all the rest again, in order, before anything new; the receiver
//! passes over what it has had. So, when a daemon is killed
//!
//! - before it has read a message, after it has, or with the message in its queue: the message
//!   was not acknowledged; it is sent again;
//! - after it was written to the receiver, or after the receiver's acknowledgement was read: it
//!   is sent again, and recognised by its sender, epoch and number. A receiver reads all that
//!   the dead daemon wrote before it connects anew, so that nothing comes after its successor;
//! - after the sender was told: nobody sends it again, and nobody needs to.
//!
//! A receiver that reconnects alone gets again what it had not acknowledged, from the daemon. A
//! receiver that died does so too, in its next process, which may thus see again what its
//! predecessor had begun to work on. A sender that died has a new epoch, whose numbers begin anew.
//!
//! Under the other policies nothing is sent again. What was lost is counted: after the
//! reconnection both ends say how far they had come, and the daemon reports the difference.
//!
//! # Lanes: messages that don't pass the daemon
//!
//! A *lane* is a socket pair that carries the messages of one link from one output to one input.
//! Both ends must have said [`Frame::Lanes`]. With [`Medium::Memory`] a ring of memory comes with it
//! (`RING.md`), and what goes to the receiver goes through that: the same bytes, cut into records of
//! any length, each a message of its own to the ring, with the number 0. The socket pair then carries
//! what goes to the sender, and its end is the end of the lane: the receiver takes what the ring had
//! by then, and nothing after it.
//!
//! The daemon stays in charge of it:
//!
//! | who | says | and then |
//! | --- | --- | --- |
//! | daemon to sender | [`Frame::Lane`] | it fetches its end: [`Frame::Claim`], on a connection of its own |
//! | sender to daemon | [`Frame::Switched`] | what it sends on this connection is not for that link any more |
//! | daemon to receiver | [`Frame::Lane`], behind what it had still to deliver | it fetches its end, and reads |
//! | daemon to sender | [`Frame::Leave`] | it writes nothing more to the lane, and closes it for writing |
//! | sender to daemon | [`Frame::Left`], then [`Frame::Again`] for what did not arrive | what it sends is for that link again |
//! | daemon to receiver | [`Frame::Leave`] | it reads the lane to its end before anything that follows here |
//! | daemon to sender | [`Frame::Gone`] | acknowledgements count for that link again |
//!
//! So the order holds in both directions. On the lane itself go the same frames as here: `Message`,
//! `From` and `Skip` to the receiver, `Grant` and `Acknowledge` to the sender. They count from the
//! beginning of the lane, whose first grant comes from the receiver; channel numbers on it are those
//! of the sender and mean nothing to the receiver. The queue of the link, with its capacity
//! and its policy, is with the sender.
//!
//! A lane does not end with a daemon: to the next one both ends say [`Frame::Uses`].

mod call;
mod lane;
pub(crate) mod message;
mod request;
mod stamp;

pub use call::{
    Answer, CallEnd, CallFailure, CallFrame, DeclareCalls, MAX_CALL, MAX_CALL_BYTES,
    MAX_CALL_TIMEOUT_MS, MAX_CALLS, MAX_FAILURE, parts_of_calls, schema_of_calls,
};
pub use lane::{Medium, Passed};
pub use request::{RuntimeReply, RuntimeRequest};
pub use stamp::{STAMP, unstamped};

use serde::{Deserialize, Serialize};

use crate::control::Policy;
use crate::error::WireError;
use crate::id::{InstanceId, LinkId};

/// The version of this protocol.
pub const PROTOCOL: u32 = 2;

/// The oldest version that a daemon still takes. It has the frames up to [`Frame::Reply`].
pub const OLDEST_PROTOCOL: u32 = 1;

/// Begins the hello, so that a stranger is recognised at once.
pub const MAGIC: [u8; 4] = *b"ORCR";

/// The variable that holds the path of the instance's socket.
pub const ENV_SOCKET: &str = "ORCHESTRATOR_IPC_SOCKET";

/// The variable that holds the instance's id.
pub const ENV_INSTANCE: &str = "ORCHESTRATOR_INSTANCE_ID";

/// The variable that holds the index of the instance, if it is a replica of a set: the first is 1.
/// How many there are is not in a variable, since that changes while they run.
pub const ENV_REPLICA: &str = "ORCHESTRATOR_REPLICA";

/// Channels are below this: at most so many declarations on one connection.
pub const MAX_CHANNELS: u16 = 1024;

/// The most forms that one input takes.
pub const MAX_FORMS: usize = 16;

/// The largest payload of a message, bytes: 64 MiB.
pub const MAX_PAYLOAD: usize = crate::frame::MAX_RUNTIME - 32;

/// The largest payload that a peer of version 1 of this protocol takes.
pub const MAX_PAYLOAD_1: usize = (16 << 20) - 32;

/// A [`Frame::Grant`] of this total ends the limit.
pub const UNLIMITED: u64 = u64::MAX;

/// Everything that crosses an instance's socket, in both directions.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Frame<'a> {
    /// Instance to daemon, first. Its layout is the same in all versions of the protocol.
    Hello {
        /// [`MAGIC`].
        magic: [u8; 4],
        /// [`PROTOCOL`].
        protocol: u32,
        /// The library that speaks, and its version, for the daemon's log.
        sdk: &'a str,
    },
    /// Daemon to instance: the connection is open.
    Welcome {
        /// The version of the hello.
        protocol: u32,
        /// The daemon's version.
        server: &'a str,
        /// The instance that this socket belongs to.
        instance: InstanceId,
    },
    /// Daemon to instance: this connection is closed now, and why.
    Refused(WireError),
    /// Instance to daemon: a channel from now on stands for this type.
    Declare(Declare<'a>),
    /// Either direction: one message.
    Message {
        /// The instance's number for the type.
        channel: u16,
        /// The value in postcard, at most [`MAX_PAYLOAD`] bytes; and a stamp, see
        /// [`Frame::Stamps`].
        #[serde(borrow, with = "serde_bytes")]
        payload: &'a [u8],
    },
    /// Either direction: how many messages in total may have been sent on this channel since
    /// the connection began. The newest one counts. A daemon's may be lower than the one before,
    /// when a further link with the policy `block` came; an instance's never decreases.
    Grant {
        /// The instance's number for the type.
        channel: u16,
        /// The total, or [`UNLIMITED`].
        total: u64,
    },
    /// Instance to daemon, privileged instances only.
    Request {
        /// Chosen by the instance.
        id: u32,
        /// What it asks for.
        request: RuntimeRequest,
    },
    /// Daemon to instance: the answer.
    Reply {
        /// The request's id.
        id: u32,
        /// How it went.
        result: Result<RuntimeReply, WireError>,
    },
    /// Instance to daemon, right before the declaration of an output: it keeps what it sends
    /// until it is acknowledged, as long as its grants are finite. Is answered by a
    /// [`Frame::Grant`] in any case.
    Keep {
        /// The channel of the declaration that follows.
        channel: u16,
        /// A random number that the process chose once: with the instance it says whose the
        /// numbers are.
        epoch: u64,
        /// The number of the first message on this connection. Each further one has the next.
        next: u64,
        /// So many messages, the first ones, were sent on an earlier connection already. They
        /// go to links with the policy `block` only.
        again: u64,
    },
    /// Instance to daemon, right before the declaration of an input: it is told whose messages
    /// it gets and their numbers, passes over those that it has had, and acknowledges.
    Recognise {
        /// The channel of the declaration that follows.
        channel: u16,
    },
    /// Either direction: so many messages on this channel, counted from the beginning of the
    /// connection, are never needed again. To an output that was declared with
    /// [`Frame::Keep`], or for an input that was declared with [`Frame::Recognise`].
    Acknowledge {
        /// The instance's number for the type.
        channel: u16,
        /// The total; never decreases.
        total: u64,
    },
    /// Daemon to instance: the messages that follow on this channel are from this sender, and
    /// numbered from `next` on. Instance to daemon: of this sender it has had all below `next`,
    /// on earlier connections.
    From {
        /// The instance's number for the type.
        channel: u16,
        /// Whose; none for messages without numbers.
        sender: Option<Sender>,
        /// The number of the next message; 0 without a sender.
        next: u64,
        /// Whether the daemon keeps them until they are acknowledged. False from an instance.
        kept: bool,
    },
    /// Daemon to instance: so many numbers of the sender are left out before the next message.
    /// Instance to daemon: so many messages of this output went elsewhere before the next one.
    Skip {
        /// The instance's number for the type.
        channel: u16,
        /// How many.
        count: u64,
    },
    /// Instance to daemon: it is ready. Counts where the instance was added with the readiness
    /// `runtime`, see [`Readiness`](crate::control::Readiness), and is sent again on each later
    /// connection of the same process.
    Ready,
    /// Instance to daemon, after the declaration of an output: it wants to be told by
    /// [`Frame::Dropped`].
    Report {
        /// The output's channel.
        channel: u16,
    },
    /// Daemon to instance, for an output of which it wants to be told: so many of its messages on
    /// this connection were dropped because there was no room for longer than their links hold
    /// their senders back. One that several links dropped counts for each.
    Dropped {
        /// The output's channel.
        channel: u16,
        /// The total; never decreases.
        total: u64,
    },
    /// Either direction: calls. A daemon sends these only to who has declared an end of calls.
    Calls(CallFrame<'a>),
    /// Instance to daemon, before its declarations: it can take lanes.
    Lanes {
        /// Also those through [`Medium::Memory`].
        memory: bool,
    },
    /// Daemon to instance: there is a lane for this channel. See the module.
    Lane {
        /// Of the output or the input.
        channel: u16,
        /// Which lane: a random number.
        lane: u64,
        /// Which link's messages it carries.
        link: LinkId,
        /// The link's policy.
        policy: Policy,
        /// How many messages may wait with the sender.
        capacity: u32,
        /// Whether those of this sender come over the link from anybody.
        anybody: bool,
        /// What the messages go through.
        medium: Medium,
    },
    /// Instance to daemon, instead of [`Frame::Hello`], on a connection of its own: it fetches its
    /// end of a lane.
    Claim {
        /// [`MAGIC`].
        magic: [u8; 4],
        /// [`PROTOCOL`].
        protocol: u32,
        /// Which one.
        lane: u64,
    },
    /// Daemon to instance, the answer: the files come with it (`SCM_RIGHTS`, see unix(7)), and then
    /// the connection is closed. First the end of the socket pair; with [`Medium::Memory`] then the
    /// memory, what wakes the receiver, and what wakes the sender.
    Claimed,
    /// Instance to daemon: from now on the output's messages for the lane's link go over the lane.
    Switched {
        /// The output.
        channel: u16,
        /// Which lane.
        lane: u64,
    },
    /// Daemon to instance: whether it needs the messages of this output itself. Until it says so it
    /// does.
    Wanted {
        /// The output.
        channel: u16,
        /// Whether.
        wanted: bool,
    },
    /// Daemon to instance: this lane is given up. See the module.
    Leave {
        /// Of the output or the input.
        channel: u16,
        /// Which lane.
        lane: u64,
    },
    /// Instance to daemon: it has given this lane up, because it was told to, or because the lane
    /// broke or could not be had.
    Left {
        /// Of the output or the input.
        channel: u16,
        /// Which lane.
        lane: u64,
        /// What passed, as a whole.
        passed: Passed,
    },
    /// Instance to daemon, after [`Frame::Left`]: a message that the receiver has not had from the
    /// lane, or has not acknowledged. For the lane's link only.
    Again {
        /// The output.
        channel: u16,
        /// Which lane.
        lane: u64,
        /// The message's number, as it would be on this connection if it had not gone elsewhere.
        number: u64,
        /// As in [`Frame::Message`].
        #[serde(borrow, with = "serde_bytes")]
        payload: &'a [u8],
    },
    /// Daemon to instance, the answer to [`Frame::Left`] of an output: what it acknowledges from now
    /// on, that link has settled too.
    Gone {
        /// The output.
        channel: u16,
        /// Which lane.
        lane: u64,
    },
    /// Instance to daemon, for an output: what has passed over the lane by now. Said when it is
    /// asked for, and from time to time while messages pass.
    Passed {
        /// The output.
        channel: u16,
        /// Which lane.
        lane: u64,
        /// So much, since the lane began.
        passed: Passed,
    },
    /// Daemon to instance: it wants to know now what has passed over a lane, see [`Frame::Passed`].
    Ask {
        /// The output.
        channel: u16,
        /// Which lane.
        lane: u64,
    },
    /// Instance to daemon, right before a declaration (and what belongs to that) on a later
    /// connection: it goes on with this lane.
    Uses {
        /// The output or the input that will be declared.
        channel: u16,
        /// Which lane.
        lane: u64,
        /// Which link's messages it carries.
        link: LinkId,
        /// Whether its messages go through [`Medium::Memory`].
        memory: bool,
    },
    /// Instance to daemon, before a declaration and what else announces it. An output has each
    /// message in this form too: its payloads are made of parts, one for each form, each a byte
    /// string, that of its declaration first. An input takes
    /// messages that are written in this form too, though it would rather have those of the forms
    /// that it has named before, and at first the one of its declaration. At most [`MAX_FORMS`] with
    /// that one.
    Takes {
        /// The channel of the declaration that follows. Others are not announced in between.
        channel: u16,
        /// The schema in its canonical form, another one than those before.
        #[serde(borrow, with = "serde_bytes")]
        schema: &'a [u8],
        /// BLAKE3 of `schema`, checked if given.
        hash: Option<[u8; 32]>,
    },
    /// Daemon to instance, for an input that takes several forms: the messages that follow on this
    /// channel are written in this one. Until it comes they are in that of the declaration.
    Form {
        /// The input's channel.
        channel: u16,
        /// 0 is the form of the declaration, 1 is the first of [`Frame::Takes`], and so on.
        form: u8,
    },
    /// The time at which each message was sent stands behind its payload: [`STAMP`] bytes that are not
    /// part of its value. Instance to daemon, before a declaration and what announces it: so it is
    /// with the messages of this output, or this input takes such messages. Daemon to instance, for
    /// an input that takes them, and on a lane: so it is with the messages that follow, or not;
    /// until it comes it is not.
    Stamps {
        /// The output's or the input's channel.
        channel: u16,
        /// Whether it is so. An instance does not say that it is not.
        stamped: bool,
    },
    /// Instance to daemon, after [`Frame::Uses`]: what passed over the lane before it counts anew.
    Counted {
        /// The output or the input that will be declared.
        channel: u16,
        /// Which lane.
        lane: u64,
        /// Messages since the lane began that the kernel took. Of an input: that it read.
        count: u64,
    },
}

/// Whose messages are numbered together: those of one epoch of one instance over one link.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Sender {
    /// As in [`Frame::Keep`].
    pub epoch: u64,
    /// The instance that sent them.
    pub instance: InstanceId,
    /// Whether they come over the link from anybody. There may be another one from just this
    /// instance, with the same numbers.
    pub anybody: bool,
}

/// What an instance says about one of its outputs or inputs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Declare<'a> {
    /// A number below [`MAX_CHANNELS`] that was not declared before on this connection.
    pub channel: u16,
    /// Which way messages go.
    pub direction: Direction,
    /// The type's name, 1 to 255 bytes. Once as output and once as input at most.
    pub name: &'a str,
    /// The schema in its canonical form, see [`TypeSchema`](crate::TypeSchema).
    #[serde(borrow, with = "serde_bytes")]
    pub schema: &'a [u8],
    /// BLAKE3 of `schema`, checked if given.
    pub hash: Option<[u8; 32]>,
    /// Inputs: how many messages the daemon may send before the first grant; 0 means that
    /// there is no limit and no grant will come. Outputs: 0.
    pub window: u32,
}

/// Which way messages go.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Instance to daemon.
    Output,
    /// Daemon to instance.
    Input,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_is_a_tag_a_channel_and_a_byte_string() {
        let bytes = postcard::to_stdvec(&Frame::Message { channel: 300, payload: b"ab" }).unwrap();
        assert_eq!(bytes, [4, 0xac, 0x02, 2, b'a', b'b']);
    }

    proptest! {
        #[test]
        fn arbitrary_bodies_never_panic(body in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = postcard::from_bytes::<Frame<'_>>(&body);
        }
    }
}
