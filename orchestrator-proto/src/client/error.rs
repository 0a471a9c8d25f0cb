//! What can go wrong between a client and a daemon.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::error::{ErrorCode, WireError};
use crate::frame::EncodeError;

/// Why a connection could not be made or a request not be answered.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nothing accepts connections at the path.
    #[error("no orchestrator can be reached at {}", path.display())]
    NotReachable {
        /// The path that was tried.
        path: PathBuf,
        /// Why: not there, nobody listens, no permission, or too late.
        source: io::Error,
    },
    /// The daemon does not want this connection; its own sentence.
    #[error("the orchestrator refused the connection: {0}")]
    Refused(String),
    /// The daemon speaks another version of the protocol.
    #[error("{sentence}")]
    VersionMismatch {
        /// What differs and which side to upgrade.
        sentence: String,
    },
    /// The other side does not keep to the protocol.
    #[error("not what the control protocol says: {0}")]
    Protocol(String),
    /// The connection ended; whether the request was carried out is unknown.
    #[error("the connection to the orchestrator was lost: {0}")]
    Lost(String),
    /// Another daemon takes over. The request was not begun, or the stream is cut: ask again.
    #[error("another daemon took over")]
    Replaced,
    /// The daemon's answer is an error.
    #[error(transparent)]
    Failed(WireError),
    /// The request does not fit a frame.
    #[error("the request is too long")]
    TooLong(#[source] EncodeError),
    /// The program to upload can't be read.
    #[error("the program can't be read")]
    Upload(#[source] io::Error),
}

impl ClientError {
    /// The daemon's code, if the error is the daemon's answer.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Failed(error) => Some(error.code),
            _ => None,
        }
    }

    /// The sentence for a daemon that speaks the protocol version `theirs`.
    pub(super) fn version_mismatch(server: &str, theirs: u32) -> Self {
        let ours = crate::control::PROTOCOL;
        let upgrade = if theirs > ours { "this client" } else { "the orchestrator" };
        Self::VersionMismatch {
            sentence: format!(
                "the orchestrator (version {server}) speaks version {theirs} of the control \
                 protocol and this client speaks version {ours}; upgrade {upgrade}"
            ),
        }
    }
}
