//! The control protocol: a client drives a daemon over its Unix socket.
//!
//! A connection begins with a [`ClientHello`] and is answered by a [`ServerHello`]. After that
//! the client sends [`ClientFrame`]s and the daemon [`ServerFrame`]s. Many requests can be
//! under way at once; each has an id that the client chose, and whatever belongs to it
//! carries that id. Replies come in any order.
//!
//! Enums grow at their end only, and never change what is there: the position of a variant
//! is its number on the wire.

mod apply;
mod capability;
mod daemon;
mod doctor;
mod event;
mod execution;
mod info;
mod limits;
mod link;
mod listen;
mod log;
mod record;
mod replay;
mod replicas;
mod reply;
mod request;
mod rlimit;
mod rules;
mod schedule;
mod scheduling;
mod send;
mod spec;
mod supervision;
mod transport;
mod types;
mod vitals;

pub use apply::{
    ChangeKind, Effect, Exported, InstanceChange, KeyChange, LinkChange, Plan, SetChange, Wanted,
    WantedSet,
};
pub use capability::Capability;
pub use daemon::{DaemonStatus, ProcessStatus, Queues, SuccessorSpec};
pub use doctor::{Finding, Level};
pub use event::{Event, EventKind};
pub use execution::{EnvFile, Execution, InheritEnv, Stdin, Umask};
pub use info::{Exit, IpcStatus, Observed, RuntimeDetail, RuntimeInfo, Status, TelemetryStatus};
pub use limits::{CpuQuota, Limits, NotCpuQuota};
pub use link::{CallCounters, Counters, Drops, LinkInfo, LinkState, TargetInfo};
pub use listen::{Listen, ListenAddress, ListenInfo, ListenMode, ListenSocket};
pub use log::{Compression, LogLine, LogQuery, LogRules, LogStream, WhenFull};
pub use record::{RecordFilter, RecordSource, RecordedMessage};
pub use replay::{Fed, ReplayMessage, ReplayRoute, ReplaySource, ReplaySpec};
pub use replicas::{
    Named, Outcome, Replica, ReplicaOutcome, ReplicaSetDetail, ReplicaSetInfo, Replicas, Scaled,
};
pub use reply::{Item, Reply, TapMessage};
pub use request::Request;
pub use rlimit::{Resource, Rlimit};
pub use rules::{LinkRules, RulesSpec};
pub use schedule::{LastRun, Overlap, RunResult, Schedule, ScheduleInfo};
pub use scheduling::{Cpus, IoClass, Realtime};
pub use send::{Called, SendSpec, Sent};
pub use spec::{
    Desired, LinkSpec, Policy, Priority, Program, RuntimeSpec, Selector, TapFilter, TargetSpec,
};
pub use supervision::{
    After, Check, Condition, Kind, OnFailure, Probe, Readiness, Requirement, Restart,
    RestartPolicy, Signal, Stop, StopStep, Supervision,
};
pub use transport::{Transport, Way};
pub use types::{Declarer, Declarers, TypeForm, TypeForms, TypeInfo, TypeList};
pub use vitals::{Health, PastExit, RuntimeVitals, Usage, Vitals};

use serde::{Deserialize, Serialize};

use crate::error::{ErrorCode, WireError};

/// The version of this protocol. Both sides must have the same.
pub const PROTOCOL: u32 = 2;

/// Begins every hello, so that a stranger is recognised at once.
pub const MAGIC: [u8; 4] = *b"ORCC";

/// The most bytes of one [`ClientBody::Chunk`]: 256 KiB.
pub const MAX_CHUNK: usize = 256 << 10;

/// The first frame of a client. Its layout is the same in all versions of the protocol.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClientHello {
    /// [`MAGIC`].
    pub magic: [u8; 4],
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The client's name and version, for the daemon's log.
    pub client: String,
}

/// The first frame of a daemon. Its layout is the same in all versions of the protocol.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServerHello {
    /// [`MAGIC`].
    pub magic: [u8; 4],
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The daemon's version.
    pub server: String,
    /// Why the daemon will close this connection now, as a sentence; none when it is open.
    pub refused: Option<String>,
}

/// Client to daemon.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ClientFrame {
    /// Chosen by the client; unique among its requests under way.
    pub id: u64,
    /// What it says.
    pub body: ClientBody,
}

/// See [`ClientFrame`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant, reason = "one is read at a time, and moved once")]
pub enum ClientBody {
    /// Begins a request. `id` must not be under way.
    Request(Request),
    /// Ends the request: a stream ends with [`ServerBody::End`], another request with an
    /// [`ErrorCode::Cancelled`] unless it was already done. Unknown ids are ignored.
    Cancel,
    /// The next bytes of an upload, at most [`MAX_CHUNK`].
    Chunk(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The upload is complete.
    ChunksEnd {
        /// SHA-256 of all of it.
        sha256: [u8; 32],
    },
    /// Messages that are to be fed into links now, to [`Request::LinkReplay`]. Answered by
    /// [`Item::Fed`].
    Feed(Vec<ReplayMessage>),
    /// No more messages come: once those before it are fed, the stream ends.
    FeedEnd,
}

/// Daemon to client.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ServerFrame {
    /// The request that this belongs to.
    pub id: u64,
    /// What it says.
    pub body: ServerBody,
}

/// See [`ServerFrame`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum ServerBody {
    /// The request is done.
    Reply(Reply),
    /// The request failed and is done.
    Error(WireError),
    /// The next item of a stream.
    Item(Item),
    /// The stream is done.
    End,
}

/// Reads a client's frame in two steps, so that the sender of a request that this version
/// does not know gets an answer under its own id.
///
/// # Errors
///
/// The id if it could be read, and what is wrong: [`ErrorCode::UnknownRequest`] or
/// [`ErrorCode::Malformed`].
pub fn decode_client_frame(body: &[u8]) -> Result<ClientFrame, (Option<u64>, WireError)> {
    let malformed = |message: String| WireError::new(ErrorCode::Malformed, message);
    let (id, rest) = postcard::take_from_bytes::<u64>(body)
        .map_err(|error| (None, malformed(format!("the frame has no request id: {error}"))))?;
    match postcard::take_from_bytes::<ClientBody>(rest) {
        Ok((body, [])) => Ok(ClientFrame { id, body }),
        Ok((_, extra)) => {
            let message = format!("{} bytes too many at the end of the frame", extra.len());
            Err((Some(id), malformed(message)))
        }
        Err(error) => Err((Some(id), unknown_or_malformed(rest, error))),
    }
}

fn unknown_or_malformed(body: &[u8], error: postcard::Error) -> WireError {
    let unknown = |what: &str, number: u32| {
        WireError::new(
            ErrorCode::UnknownRequest,
            format!("this daemon does not know {what} {number}; upgrade it to use this client"),
        )
    };
    match postcard::take_from_bytes::<u32>(body) {
        Ok((0, request)) => match postcard::take_from_bytes::<u32>(request) {
            Ok((number, _)) if number >= Request::COUNT => unknown("request", number),
            _ => WireError::new(
                ErrorCode::Malformed,
                format!("the request is cut or wrong: {error}"),
            ),
        },
        Ok((number, _)) if number > 5 => unknown("the kind of frame", number),
        _ => WireError::new(ErrorCode::Malformed, format!("the frame is cut or wrong: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_count_of_requests_is_right() {
        let last = Request::LinkReplay(ReplaySpec::default());
        let number = u32::from(postcard::to_stdvec(&last).unwrap()[0]);
        assert_eq!(number + 1, Request::COUNT);
    }

    #[test]
    fn an_unknown_request_is_answered_under_its_id() {
        let mut body = postcard::to_stdvec(&7_u64).unwrap();
        body.extend([0, 99]);
        let (id, error) = decode_client_frame(&body).unwrap_err();
        assert_eq!((id, error.code), (Some(7), ErrorCode::UnknownRequest));
    }

    #[test]
    fn a_cut_request_is_malformed_not_unknown() {
        let (id, error) = decode_client_frame(&[7, 0, 4, 200]).unwrap_err();
        assert_eq!((id, error.code), (Some(7), ErrorCode::Malformed));
    }

    proptest! {
        #[test]
        fn arbitrary_bodies_never_panic(body in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = decode_client_frame(&body);
        }
    }
}
