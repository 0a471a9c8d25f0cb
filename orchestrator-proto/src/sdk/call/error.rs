//! Why a call has no reply, and why a reply was not sent.

use thiserror::Error;

use crate::runtime::{CallFailure, MAX_CALL};

/// Why a call has no reply.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum CallError {
    /// The daemon or the service says why.
    #[error("{0}")]
    Failed(CallFailure),
    /// The connection broke while the call was under way. It may have had an effect, and is not
    /// sent again.
    #[error("the connection to the daemon broke; whether the service did anything is unknown")]
    Disconnected,
    /// There was no connection until its time was over: it was not sent.
    #[error("there was no connection to the daemon in time; nothing was sent")]
    NotConnected,
    /// The daemon did not say in time how it went, as when it stands still. It may have had an
    /// effect.
    #[error("no answer in time; whether the service did anything is unknown")]
    NoAnswer,
    /// Too many calls of this client are under way; nothing was sent.
    #[error("too many calls are under way; nothing was sent")]
    TooMany,
    /// The request would have more than [`MAX_CALL`] bytes.
    #[error("the request has more than {MAX_CALL} bytes")]
    TooLong,
    /// Its `Serialize` implementation failed.
    #[error("the request can't be encoded: {0}")]
    Encode(postcard::Error),
    /// The reply is no value of its type. The call has had its effect.
    #[error("the reply can't be decoded: {0}")]
    BadReply(postcard::Error),
}

impl From<CallFailure> for CallError {
    fn from(failure: CallFailure) -> Self {
        Self::Failed(failure)
    }
}

impl CallError {
    /// Whether the call may have had an effect. If not, it can be made again without harm.
    #[must_use]
    pub const fn may_have_had_effect(&self) -> bool {
        match self {
            Self::Failed(failure) => failure.may_have_had_effect(),
            Self::Disconnected | Self::NoAnswer | Self::BadReply(_) => true,
            Self::NotConnected | Self::TooMany | Self::TooLong | Self::Encode(_) => false,
        }
    }
}

/// Why a reply was not sent. Whoever has called is told that the service failed, if there is a
/// connection.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum ReplyError {
    /// The connection over which the call came is gone, and with it whoever waits for the reply.
    #[error("the connection to the daemon broke")]
    Disconnected,
    /// The reply would have more than [`MAX_CALL`] bytes.
    #[error("the reply has more than {MAX_CALL} bytes")]
    TooLong,
    /// Its `Serialize` implementation failed.
    #[error("the reply can't be encoded: {0}")]
    Encode(postcard::Error),
}
