//! The socket that clients talk over.
//!
//! [`serve`] accepts connections; `connection.rs` reads requests and writes replies, and each
//! other file carries out one group of requests. Every request is a task of its own, so none
//! waits for another; every connection has its bounds, so a client that floods or stalls
//! harms itself only.
//!
//! Called by `daemon.rs`. Knows `registry/` and the rooms below it.

mod apply;
mod call;
mod connection;
mod daemon;
mod doctor;
mod events;
mod link;
mod logs;
mod outgoing;
mod record;
mod replay;
mod runtime;
mod send;
mod status;
mod upload;
mod vitals;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use orchestrator_proto::control::{Item, Reply, Request};
use orchestrator_proto::{ErrorCode, OsBytes, WireError};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tracing::Instrument;

use crate::process::{Linux, Meter};
use crate::registry::Registry;
use crate::runtime::IpcSocket;
use events::Wanted;
use outgoing::Items;
use upload::Chunks;

/// Connections at once.
pub const MAX_CONNECTIONS: usize = 2048;

/// Connections beyond that which are told so at the same time; others are just closed.
const REFUSED_AT_ONCE: usize = 64;

/// What requests are carried out on.
pub struct Daemon {
    /// The instances.
    pub registry: Arc<Registry>,
    /// The datagram socket, if there is one.
    pub ipc: Option<IpcSocket>,
    /// The control socket.
    pub socket: OsBytes,
    /// The state directory.
    pub state_dir: OsBytes,
    /// When the daemon started, milliseconds since 1970.
    pub started_ms: u64,
    /// How long a client may not read what it is told before it is dropped.
    pub client_timeout: Duration,
    /// What an operator should know and what does not change: how the daemon began.
    pub warnings: Vec<String>,
    /// The largest program that a client may send, bytes.
    pub max_upload: u64,
    /// Set when nothing will happen any more: streams end, and then connections.
    pub ending: watch::Sender<bool>,
    /// The processes.
    pub kernel: Linux,
    /// What instances use.
    pub meter: Meter,
    /// Held while another daemon is being started, or the holder's program replaced.
    pub replacing: tokio::sync::Mutex<()>,
    /// Set, to its process, when another daemon takes over as soon as this one has ended: nothing
    /// new is begun, what ends soon is finished, and clients are told to connect again.
    pub letting_go: watch::Sender<Option<u32>>,
    /// Clients that are connected.
    pub clients: AtomicU64,
    /// Their requests that are under way.
    pub requests: AtomicU64,
    /// Why the manifest of the command line was not applied last time.
    pub manifest_failure: Mutex<Option<String>>,
}

/// Accepts clients until the daemon ends or lets go, and then returns when each of them has been told
/// what it is still to be told. If the task is aborted, their connections end at once.
pub async fn serve(listener: UnixListener, daemon: Arc<Daemon>) {
    let mut number = 0_u64;
    let mut connections = tokio::task::JoinSet::new();
    let mut pause = Duration::from_millis(5);
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = daemon.ended() => break,
            // Who connects from now on waits for the next daemon, in the backlog.
            () = daemon.lets_go() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                pause = Duration::from_millis(5);
                number += 1;
                let span = tracing::info_span!("client", number);
                if connections.len() >= MAX_CONNECTIONS + REFUSED_AT_ONCE {
                    tracing::warn!("a client is turned away: too many are connected");
                    continue;
                }
                let has_place = connections.len() < MAX_CONNECTIONS;
                let served = connection::serve(stream, daemon.clone(), has_place);
                connections.spawn(served.instrument(span));
            }
            Err(error) => {
                // Out of files, most likely: new clients wait in the backlog meanwhile.
                tracing::warn!(%error, "accept failed on the control socket");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

impl Daemon {
    /// Has `status` warn of this from now on.
    pub fn set_manifest_failure(&self, failure: Option<String>) {
        *self.manifest_failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    /// Resolves when nothing will happen any more.
    async fn ended(&self) {
        // Fails only without a sender, and that is part of `self`.
        let _ = self.ending.subscribe().wait_for(|ending| *ending).await;
    }

    /// Resolves when another daemon takes over.
    async fn lets_go(&self) {
        let _ = self.letting_go.subscribe().wait_for(Option::is_some).await;
    }

    /// Carries out one request. `items` takes the items of a stream, `chunks` brings an upload.
    /// No reply means that all items of a stream were sent.
    async fn carry_out(
        self: &Arc<Self>,
        request: Request,
        items: Items,
        chunks: Chunks,
    ) -> Result<Option<Reply>, WireError> {
        // Each with the room that it needs, not with that of the largest: many may be under way.
        let reply = match request {
            Request::Status => self.status(),
            Request::RuntimeAdd(spec) => Box::pin(self.runtime_add(spec, chunks)).await?,
            Request::RuntimeStart { instance, priority } => {
                Box::pin(self.runtime_start(&instance, priority)).await?
            }
            Request::RuntimeStop { instance } => Box::pin(self.runtime_stop(&instance)).await?,
            Request::RuntimeRestart { instance } => {
                Box::pin(self.runtime_restart(&instance)).await?
            }
            Request::RuntimeRemove { instance, force } => {
                Box::pin(self.runtime_remove(&instance, force)).await?
            }
            Request::RuntimeList => Reply::Runtimes(self.registry.list()),
            Request::RuntimeShow { instance } => {
                self.registry.count_lanes().await;
                self.runtime_show(&instance)?
            }
            Request::LinkAdd(spec) => Box::pin(self.link_add(spec)).await?,
            Request::LinkSet { link, rules } => Box::pin(self.link_set(link, rules)).await?,
            Request::LinkRemove { link } => Box::pin(self.link_remove(link)).await?,
            Request::LinkSend(spec) => Box::pin(self.link_send(spec)).await?,
            Request::LinkCall(spec) => Box::pin(self.link_call(spec)).await?,
            Request::LinkList => {
                self.registry.count_lanes().await;
                Reply::Links(self.registry.list_links())
            }
            Request::Clear { force } => Box::pin(self.clear(force)).await?,
            Request::DaemonStatus => self.daemon_status()?,
            Request::DaemonReplace { successor, timeout_ms } => {
                Box::pin(self.daemon_replace(successor, timeout_ms)).await?
            }
            Request::HolderRenew { timeout_ms } => Box::pin(self.holder_renew(timeout_ms)).await?,
            Request::CaptureRenew { timeout_ms } => {
                Box::pin(self.capture_renew(timeout_ms)).await?
            }
            Request::Apply { set, prune, dry_run } => {
                Box::pin(self.apply(set, prune, dry_run)).await?
            }
            Request::Export => self.export(),
            Request::RuntimeVitals { instances } => {
                Box::pin(self.runtime_vitals(&instances)).await?
            }
            Request::Doctor => Box::pin(self.doctor()).await?,
            Request::RuntimeRun { instance } => Box::pin(self.runtime_run(&instance)).await?,
            Request::RuntimeScale { set, replicas } => {
                Box::pin(self.runtime_scale(&set, replicas)).await?
            }
            Request::ReplicaSets => Reply::ReplicaSets(self.registry.list_sets()),
            Request::TypeList => Reply::Types(self.registry.list_types()),
            Request::TypeShow { name, hash } => {
                Reply::Type(Box::pin(self.registry.show_type(&name, hash.as_deref())).await?)
            }
            Request::Logs(query) => {
                Box::pin(self.logs(query, items)).await?;
                return Ok(None);
            }
            Request::LinkTap(filter) => {
                Box::pin(self.link_tap(filter, items)).await?;
                return Ok(None);
            }
            Request::LinkRecord(filter) => {
                Box::pin(self.link_record(filter, items)).await?;
                return Ok(None);
            }
            Request::LinkReplay(spec) => {
                Box::pin(self.link_replay(spec, items, chunks)).await?;
                return Ok(None);
            }
            Request::Events { follow, after, since_ms, instance } => {
                Box::pin(self.events(Wanted { follow, after, since_ms, instance }, items)).await?;
                return Ok(None);
            }
        };
        Ok(Some(reply))
    }
}

/// Carries out a change to its end, also when nobody waits for the answer any more.
async fn to_its_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, WireError>> + Send + 'static,
) -> Result<T, WireError> {
    let done = tokio::spawn(change.in_current_span());
    done.await.unwrap_or_else(|panic| {
        Err(WireError::new(ErrorCode::Internal, format!("the request failed: {panic}")))
    })
}

/// The client is gone: whatever was being done for it may stop.
fn client_gone() -> WireError {
    WireError::new(ErrorCode::Cancelled, "the client went away")
}

/// Said to whoever is asked to connect again.
fn replaced(what: &str) -> WireError {
    WireError::new(ErrorCode::Replaced, format!("another daemon takes over: {what}"))
}

fn missed(count: u64, reason: &str) -> Item {
    Item::Missed { count, reason: reason.to_owned() }
}
