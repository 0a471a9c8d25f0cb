//! What the table of calls is made of, and what it says is to be done.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use orchestrator_proto::runtime::{CallFailure, MAX_CALL_BYTES};
use orchestrator_proto::{InstanceId, LinkId};

use super::counts::CallCounts;
use crate::route::decl::TypeDecl;

/// A client's end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct ClientKey(pub(super) u64);

/// A service's end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct ServiceKey(pub(super) u64);

/// A call, as the daemon numbers it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct CallKey(pub(super) u64);

/// Who calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Caller {
    /// An instance, over its links.
    Instance(InstanceId),
    /// Somebody outside, who calls this instance over no link.
    Outside {
        /// Whom.
        to: InstanceId,
    },
}

/// A link over which calls pass.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) link: LinkId,
    /// Whose calls; none means anybody's.
    pub(super) from: Option<InstanceId>,
    /// To whom.
    pub(super) to: InstanceId,
    pub(super) counts: Arc<CallCounts>,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Action {
    /// A service gets a call.
    Give { service: ServiceKey, call: CallKey, caller: Caller, timeout: Duration, payload: Bytes },
    /// A service is told that nobody waits for this answer any more.
    Withdraw { service: ServiceKey, call: CallKey },
    /// A client gets the one answer to its call.
    Answer { client: ClientKey, id: u64, result: Result<Bytes, CallFailure> },
}

/// Its client has a call with this id under way already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Duplicate;

/// The service has no such call, or has answered it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotItsCall;

pub(super) struct Client {
    pub(super) caller: Caller,
    pub(super) decl: Arc<TypeDecl>,
    /// Calls that are not answered, by the client's ids.
    pub(super) calls: HashMap<u64, CallKey>,
    /// Those among them that no service has been given, the oldest first.
    pub(super) waiting: VecDeque<CallKey>,
    /// Bytes of payload in those.
    pub(super) bytes: usize,
}

pub(super) struct Service {
    pub(super) instance: InstanceId,
    pub(super) decl: Arc<TypeDecl>,
    pub(super) at_once: usize,
    /// Calls that it has been given and has not answered, with the bytes of their payloads; also
    /// those for whose answers nobody waits.
    pub(super) given: HashMap<CallKey, usize>,
    pub(super) bytes: usize,
    /// Higher than that of all services that were given one before.
    pub(super) last: u64,
}

impl Service {
    pub(super) fn has_room(&self, size: usize) -> bool {
        self.given.is_empty()
            || (self.given.len() < self.at_once && self.bytes + size <= MAX_CALL_BYTES)
    }
}

pub(super) struct Call {
    pub(super) client: ClientKey,
    /// The client's.
    pub(super) id: u64,
    pub(super) deadline: Instant,
    pub(super) state: State,
}

pub(super) enum State {
    Waiting {
        payload: Bytes,
    },
    Given {
        service: ServiceKey,
        /// Over which link; none for a caller from outside.
        over: Option<(LinkId, Arc<CallCounts>)>,
    },
}

/// Whether two ends have the same schemas.
pub(super) fn agree(client: &TypeDecl, service: &TypeDecl) -> bool {
    let hash = |decl: &TypeDecl| decl.schema.as_ref().map(|(hash, _)| *hash);
    hash(client) == hash(service)
}
