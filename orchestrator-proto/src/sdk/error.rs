//! What can go wrong in a runtime's dealings with its daemon.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::WireError;
use crate::frame::EncodeError;
use crate::runtime::{ENV_SOCKET, MAX_CHANNELS, MAX_FORMS, MAX_PAYLOAD};
use crate::schema::SchemaError;

/// Why there is no connection to the daemon.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The program was not started by an orchestrator.
    #[error("{ENV_SOCKET} is not set; this program has to be started by an orchestrator")]
    NotStartedByOrchestrator,
    /// The variable with the instance's id holds something else.
    #[error("{0:?} is not the id of an instance")]
    BadInstanceId(String),
    /// The socket can't be reached.
    #[error("can't connect to {}: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The daemon refused, and says why.
    #[error("the daemon refused: {0}")]
    Refused(WireError),
    /// Whoever listens there does not speak this protocol, or another version of it.
    #[error("what listens there does not speak this protocol: {0}")]
    Protocol(String),
    /// Only from [`blocking`](super::blocking): the thread in the background can't be begun.
    #[error("can't begin the thread that keeps the connection: {0}")]
    Thread(io::Error),
    /// No answer within ten seconds.
    #[error("no answer within ten seconds")]
    TimedOut,
    /// The daemon knows this instance by another id than the environment.
    #[error("the daemon says this is instance {daemon}, the environment says {environment}")]
    OtherInstance {
        /// What the daemon says.
        daemon: crate::InstanceId,
        /// What the environment says.
        environment: crate::InstanceId,
    },
}

/// Why a type can't be declared.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum DeclareError {
    /// The name is taken in this direction, even if the earlier handle is gone.
    #[error("{0:?} is declared already in this direction; clone or share the first handle")]
    Duplicate(String),
    /// The name has no or more than 255 bytes.
    #[error("{0:?} is not a name; it needs 1 to 255 bytes")]
    BadName(String),
    /// The type is beyond what a schema may be.
    #[error("the type {name:?} can't be a message: {source}")]
    BadSchema {
        /// The type's name.
        name: String,
        /// Which bound it breaks.
        source: SchemaError,
    },
    /// It reads or writes a type that has another name: only forms of one name come over one link.
    #[error("the type {name:?} has a form {other:?}, which has another name")]
    OtherName {
        /// The type's name.
        name: String,
        /// The name of that type.
        other: String,
    },
    /// It has more forms than [`MAX_FORMS`].
    #[error("the type {0:?} has more than {MAX_FORMS} forms")]
    TooManyForms(String),
    /// [`MAX_CHANNELS`] are declared.
    #[error("more than {MAX_CHANNELS} outputs and inputs")]
    TooMany,
}

/// Why a message was not sent.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SendError {
    /// There is no connection to the daemon now. It is being re-established; see
    /// [`Runtime::connected`](super::Runtime::connected).
    #[error("not connected to the daemon")]
    Disconnected,
    /// Only from `try_send`: the receiver takes no more for now, or the socket is full.
    #[error("there is no room for the message now")]
    Full,
    /// Its payload would have more than [`MAX_PAYLOAD`] bytes.
    #[error("the message has more than {MAX_PAYLOAD} bytes")]
    TooLong,
    /// Its `Serialize` implementation failed.
    #[error("the message can't be encoded: {0}")]
    Encode(postcard::Error),
}

impl From<EncodeError> for SendError {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::TooLong { .. } => Self::TooLong,
            EncodeError::Postcard(error) => Self::Encode(error),
        }
    }
}

/// Why a message was not received. Only that one is lost; the input goes on.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum RecvError {
    /// Its payload is not a value of the type.
    #[error("a message of type {name:?} can't be decoded: {source}")]
    BadPayload {
        /// The type's name.
        name: &'static str,
        /// What postcard says.
        source: postcard::Error,
    },
}

/// Why a request failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The daemon refused or failed, and says why.
    #[error("{0}")]
    Refused(WireError),
    /// There is no connection to the daemon, or it broke before the answer; whether the
    /// request was carried out is unknown then.
    #[error("not connected to the daemon")]
    Disconnected,
    /// Too many requests wait for their answers.
    #[error("more than {} requests at a time", super::MAX_REQUESTS)]
    TooMany,
    /// The request does not fit a frame.
    #[error("the request is too long")]
    TooLong,
    /// The answer belongs to another kind of request.
    #[error("the daemon gave an answer of the wrong kind")]
    UnexpectedReply,
}
