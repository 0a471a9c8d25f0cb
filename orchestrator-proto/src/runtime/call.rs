//! Calls: a request from one instance, and one reply from another.
//!
//! A *client* and a *service* declare the same name and two schemas each, of the request and of the
//! reply. A link of that name from the client to the service lets calls pass. The daemon gives each
//! call to one service, and answers it exactly once.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::schema::{TypeSchema, Variant, VariantBody};

/// The largest payload of a call or of a reply, bytes: 64 MiB, as of a message.
pub const MAX_CALL: usize = super::MAX_PAYLOAD;

/// Calls of one client, on one connection, that may be under way; and calls that one service
/// may be given at once.
pub const MAX_CALLS: u32 = 1024;

/// Bytes of payload of a client's calls that may wait, and of calls that a service may be given at
/// once: 64 MiB. A call that is alone may have more.
pub const MAX_CALL_BYTES: usize = 64 << 20;

/// The longest time that a call may be given, milliseconds: a day.
pub const MAX_CALL_TIMEOUT_MS: u32 = 86_400_000;

/// The longest text with which a service says that it failed, bytes.
pub const MAX_FAILURE: usize = 4096;

/// What is said about calls, in both directions.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum CallFrame<'a> {
    /// Instance to daemon: a channel from now on stands for this end.
    Declare(#[serde(borrow)] DeclareCalls<'a>),
    /// Client to daemon, then daemon to service: one call.
    Call {
        /// The instance's number for its end.
        channel: u16,
        /// To the daemon: chosen by the client, another one than those of its calls under way. To
        /// the service: chosen by the daemon.
        id: u64,
        /// How long it may take from now, milliseconds: 1 to [`MAX_CALL_TIMEOUT_MS`].
        timeout_ms: u32,
        /// The request in postcard, at most [`MAX_CALL`] bytes.
        #[serde(borrow, with = "serde_bytes")]
        payload: &'a [u8],
    },
    /// Client to daemon: the call is not wanted any more. Daemon to service: nobody waits for this
    /// answer any more. A service answers all the same, so that its place becomes free.
    Cancel {
        /// The instance's number for its end.
        channel: u16,
        /// As in the call.
        id: u64,
    },
    /// Service to daemon, and daemon to client: the one answer to a call.
    Answer {
        /// The instance's number for its end.
        channel: u16,
        /// As in the call.
        id: u64,
        /// How it went.
        #[serde(borrow)]
        answer: Answer<'a>,
    },
}

/// What an instance says about one of its ends of calls.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DeclareCalls<'a> {
    /// A number below [`MAX_CHANNELS`](super::MAX_CHANNELS) that was not declared before on this
    /// connection, neither here nor by a [`Declare`](super::Declare).
    pub channel: u16,
    /// Which end it is.
    pub end: CallEnd,
    /// The name, 1 to 255 bytes: that of the request's type. A client has it besides outputs, a
    /// service besides inputs, each name at most once.
    pub name: &'a str,
    /// The schema of the request in its canonical form.
    #[serde(borrow, with = "serde_bytes")]
    pub request: &'a [u8],
    /// The schema of the reply likewise.
    #[serde(borrow, with = "serde_bytes")]
    pub reply: &'a [u8],
    /// Services: how many calls it may be given at once, 1 to [`MAX_CALLS`]. Clients: 0.
    pub at_once: u32,
}

/// Which end of calls.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CallEnd {
    /// It calls.
    Client,
    /// It answers.
    Service,
}

/// How a call went.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Answer<'a> {
    /// The reply in postcard, at most [`MAX_CALL`] bytes.
    Reply(#[serde(borrow, with = "serde_bytes")] &'a [u8]),
    /// There is none. From a service: [`CallFailure::Failed`] or [`CallFailure::BadRequest`].
    Failure(CallFailure),
}

/// Why a call has no reply.
#[derive(Clone, PartialEq, Eq, Debug, Error, Serialize, Deserialize)]
pub enum CallFailure {
    /// No link of this name leads from the client to an instance.
    #[error("no link leads to a service; make one with `link add`")]
    NoLink,
    /// The services that links lead to, and that are connected, declare other schemas: both, side
    /// by side.
    #[error("the service declares other schemas:\n{0}")]
    Mismatched(String),
    /// Its time was over.
    #[error("{}", if *given { "the service took too long" } else { "no service was there in time" })]
    TimedOut {
        /// Whether a service had been given it by then. If not, it has had no effect.
        given: bool,
    },
    /// The client has cancelled it.
    #[error("the call was cancelled")]
    Cancelled,
    /// The connection of the service that had been given it has ended. It may have had an effect.
    #[error("the service went away with the call; whether it did anything is unknown")]
    ServiceGone,
    /// The link over which it was given has been removed. It may have had an effect.
    #[error("the link was removed; whether the service did anything is unknown")]
    LinkRemoved,
    /// The service says that it failed: at most [`MAX_FAILURE`] bytes.
    #[error("the service failed: {0}")]
    Failed(String),
    /// The service says that the payload is no request: at most [`MAX_FAILURE`] bytes.
    #[error("the service can't read the request: {0}")]
    BadRequest(String),
    /// [`MAX_CALLS`] or [`MAX_CALL_BYTES`] of this client are under way.
    #[error("too many calls are under way")]
    TooMany,
    /// There was a reply, and the client did not read: more than [`MAX_CALL_BYTES`] of replies
    /// wait for it.
    #[error("the reply was dropped: the caller does not read")]
    NotRead,
}

impl CallFailure {
    /// Whether the call may have had an effect. If not, it was given to no service, or the service
    /// says that it could not read it: it can be made again.
    #[must_use]
    pub const fn may_have_had_effect(&self) -> bool {
        match self {
            Self::NoLink | Self::Mismatched(_) | Self::BadRequest(_) | Self::TooMany => false,
            Self::TimedOut { given } => *given,
            Self::Cancelled
            | Self::ServiceGone
            | Self::LinkRemoved
            | Self::Failed(_)
            | Self::NotRead => true,
        }
    }
}

/// The variants of [`schema_of_calls`].
const CALL: &str = "call";
const REPLY: &str = "reply";
const FAILED: &str = "failed";

/// What crosses a link that carries calls, as one type: `enum { call(REQUEST), reply(REPLY),
/// failed(String) }`. Two ends of calls agree if these have the same canonical bytes, and what a
/// tap sees of calls are values of it.
#[must_use]
pub fn schema_of_calls(request: TypeSchema, reply: TypeSchema) -> TypeSchema {
    let variant =
        |name: &str, schema| Variant { name: name.to_owned(), body: VariantBody::Newtype(schema) };
    TypeSchema::Enum(vec![
        variant(CALL, request),
        variant(REPLY, reply),
        variant(FAILED, TypeSchema::String),
    ])
}

/// The schemas of the request and of the reply, if this is one of [`schema_of_calls`].
#[must_use]
pub fn parts_of_calls(schema: &TypeSchema) -> Option<(&TypeSchema, &TypeSchema)> {
    let TypeSchema::Enum(variants) = schema else { return None };
    let [call, reply, failed] = &variants[..] else { return None };
    match (&call.body, &reply.body, &failed.body) {
        (
            VariantBody::Newtype(request),
            VariantBody::Newtype(answer),
            VariantBody::Newtype(TypeSchema::String),
        ) if [&call.name, &reply.name, &failed.name] == [CALL, REPLY, FAILED] => {
            Some((request, answer))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Frame;

    #[test]
    fn the_schema_of_calls_has_both_parts() {
        let schema = schema_of_calls(TypeSchema::U8, TypeSchema::Bool);
        assert_eq!(parts_of_calls(&schema), Some((&TypeSchema::U8, &TypeSchema::Bool)));
        assert_eq!(parts_of_calls(&TypeSchema::U8), None);
        assert_eq!(schema.to_json(&[0, 7]).unwrap(), r#"{"call":7}"#);
        assert_eq!(schema.to_json(&[1, 1]).unwrap(), r#"{"reply":true}"#);
        assert_eq!(schema.to_json(&[2, 1, b'x']).unwrap(), r#"{"failed":"x"}"#);
    }

    #[test]
    fn the_largest_call_fits_a_frame() {
        let payload = vec![0; MAX_CALL];
        let (channel, id, timeout_ms) = (u16::MAX, u64::MAX, u32::MAX);
        let call = CallFrame::Call { channel, id, timeout_ms, payload: &payload };
        let answer = CallFrame::Answer { channel, id, answer: Answer::Reply(&payload) };
        for frame in [call, answer] {
            crate::frame::encode(&Frame::Calls(frame), crate::frame::MAX_RUNTIME).unwrap();
        }
    }
}
