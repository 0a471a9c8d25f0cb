//! The sockets that instances talk over.
//!
//! Each instance has two of them, one for each dialect: `<id>.native` and `<id>.veecle`. Two
//! sockets, and not a look at the first byte, because a Veecle OS runtime that only receives
//! never sends a byte that could be looked at.
//!
//! A connection is a [`Source`](crate::route::Source) and a [`Sink`](crate::route::Sink) of
//! the routing room. Its reader never waits for a receiver; its writer is whoever has something
//! to send, so that a message crosses the daemon within one task.
//!
//! Native peers connect again when a daemon has died. Those of the Veecle dialect can't, so their
//! connections outlive it, see `kept.rs`.
//!
//! Called by the registry of instances. Knows `route/`.

mod batch;
mod ipc;
mod kept;
mod native;
mod outlet;
mod porter;
mod shelf;
mod socket;
mod telemetry;
mod translate;
mod veecle;
mod whole;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};

use orchestrator_proto::control::EventKind;
use orchestrator_proto::runtime::{RuntimeReply, RuntimeRequest};
use orchestrator_proto::{InstanceId, WireError};

use crate::route::{Mailbox, Router, SourceStats};

pub use ipc::{IpcConfig, IpcSocket, Peers};
pub use native::{KeptLane, Lanes};
pub use porter::Porter;
pub use shelf::{LaneShelf, NOTIFY_PLACE, Shelf};
pub use socket::{InstanceSockets, SocketError};
pub use telemetry::{Telemetry, log_line};
pub(crate) use translate::to_json_text;

/// What the sockets of an instance need from the rest of the daemon.
pub trait Host: Send + Sync {
    /// Something happened to a connection of the instance.
    fn event(&self, instance: InstanceId, kind: EventKind);

    /// The instance asks for something. The answer may take as long as a stop takes.
    fn control(
        &self,
        instance: InstanceId,
        request: RuntimeRequest,
    ) -> Pin<Box<dyn Future<Output = Result<RuntimeReply, WireError>> + Send>>;

    /// The instance has said that it is ready. Must not wait.
    fn ready(&self, instance: InstanceId);

    /// The instance sent telemetry: one JSON object, without a newline. Must not wait.
    fn telemetry(&self, instance: InstanceId, object: &[u8]);
}

/// An instance as its sockets see it.
pub struct Endpoint {
    /// Which instance.
    pub instance: InstanceId,
    /// Where messages for it wait.
    pub mailbox: Arc<Mailbox>,
    /// What it sent.
    pub sent: Arc<SourceStats>,
    /// Lines and frames that broke the protocol.
    pub protocol_errors: AtomicU64,
    /// Connections that are open.
    pub connections: AtomicU32,
    /// The links.
    pub router: Arc<Router>,
    /// The rest of the daemon.
    pub host: Arc<dyn Host>,
    /// What outlives the daemon.
    pub shelf: Box<dyn Shelf>,
    /// Who waits for those that connect to it.
    pub porter: Arc<Porter>,
    /// What goes from instance to instance without passing here.
    pub lanes: Arc<Lanes>,
}

/// The time, nanoseconds since 1970.
pub(crate) fn now_ns() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}
