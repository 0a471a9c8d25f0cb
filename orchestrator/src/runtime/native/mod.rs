//! The native dialect: frames of [`orchestrator_proto::runtime`]. Reading is in `reader.rs`,
//! writing in `inputs.rs`.

mod calls;
mod forms;
mod held;
mod inputs;
mod lanes;
mod ledger;
mod reader;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use orchestrator_proto::control::EventKind;
use orchestrator_proto::frame::{self, MAX_RUNTIME};
use orchestrator_proto::runtime::Frame;
use orchestrator_proto::{ErrorCode, WireError};
use tokio::net::UnixStream;

use super::Endpoint;
use super::outlet::{Outlet, Served};
use crate::route::{Source, Upstream};
use held::Held;
use inputs::{Input, Inputs};
pub use lanes::{KeptLane, Lanes};
use reader::Reader;

/// How late a sender may be told of what is settled, if nothing else is to be told.
const SETTLING: Duration = Duration::from_millis(10);

/// The name of the dialect.
pub(super) const DIALECT: &str = "native";

/// A connection begins.
pub(super) fn connected() -> EventKind {
    EventKind::Connected { dialect: DIALECT.to_owned() }
}

/// The connections of a daemon, counted.
static CONNECTIONS: AtomicU64 = AtomicU64::new(1);

/// Ends the lanes of a connection when it is served no longer.
struct Joined(Arc<Connection>);

impl Drop for Joined {
    fn drop(&mut self) {
        self.0.endpoint.lanes.gone(&self.0);
    }
}

/// Serves one connection until it ends. The answer is what the peer did wrong, if that was why.
pub(super) async fn serve(
    stream: UnixStream,
    endpoint: Arc<Endpoint>,
    greeted: Arc<AtomicBool>,
) -> Result<(), WireError> {
    let user = stream.peer_cred().ok().map(|peer| peer.uid());
    let (reader, writer) = stream.into_split();
    let number = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
    let outlet = Outlet::new(writer, endpoint.mailbox.clone(), Inputs::new(number));
    let connection = Arc::new_cyclic(|this: &Weak<Connection>| {
        let upstream: Weak<dyn Upstream> = this.clone();
        let source = endpoint.router.open_source(
            Some(endpoint.instance),
            Some(upstream),
            endpoint.sent.clone(),
        );
        Connection {
            endpoint,
            source,
            outlet,
            told: Mutex::default(),
            settling: Mutex::default(),
            held: Held::default(),
            requests: AtomicUsize::new(0),
            this: this.clone(),
            number,
            user,
            wanted: Mutex::default(),
            takes_memory: AtomicBool::new(false),
            greeted,
        }
    });
    let _joined = Joined(connection.clone());
    let _served = Served(connection.outlet.clone());
    tokio::spawn(connection.outlet.clone().run());
    let result = Reader::new(reader, connection.clone()).run().await;
    if let Err(error) = &result {
        connection.tell(&Frame::Refused(error.clone()));
        connection.outlet.last_words();
    }
    result
}

/// What both halves of a connection share.
struct Connection {
    endpoint: Arc<Endpoint>,
    source: Arc<Source>,
    outlet: Arc<Outlet<Inputs>>,
    /// What each output was told last: its grant and what it need not keep. Held while a grant is
    /// computed and queued, so that an older total never follows a newer one: the sender
    /// would stop at it for good.
    told: Mutex<HashMap<u16, (u64, u64)>>,
    /// Outputs that are to be told in a moment of what is settled.
    settling: Mutex<Vec<u16>>,
    /// Outputs that may have to be let go, and what they are told of that.
    held: Held,
    /// Requests under way.
    requests: AtomicUsize,
    this: Weak<Connection>,
    /// No other connection has it.
    number: u64,
    /// Whose process the peer is, see `SO_PEERCRED` in unix(7).
    user: Option<u32>,
    /// What each output was told last of whether it is wanted.
    wanted: Mutex<HashMap<u16, bool>>,
    /// Whether it takes lanes through memory.
    takes_memory: AtomicBool,
    /// Whether it is one on which messages go.
    greeted: Arc<AtomicBool>,
}

impl Connection {
    /// Queues a frame of a call likewise.
    fn tell_call(&self, frame: &Frame<'_>) {
        match frame::encode(frame, MAX_RUNTIME) {
            Ok(frame) => self.outlet.push_call(frame),
            // What came in a frame fits one, with shorter numbers in it.
            Err(error) => tracing::error!(%error, "a frame of a call could not be encoded"),
        }
    }

    /// Queues a frame for the peer; somebody has to kick or wake the outlet.
    fn tell(&self, frame: &Frame<'_>) {
        match frame::encode(frame, MAX_RUNTIME) {
            Ok(frame) => self.outlet.push_control(frame),
            Err(error) => {
                tracing::error!(%error, "a frame could not be encoded");
                if let Frame::Reply { id, .. } = frame {
                    let message = format!("the reply can't be sent: {error}");
                    let result = Err(WireError::new(ErrorCode::LimitReached, message));
                    self.tell(&Frame::Reply { id: *id, result });
                }
            }
        }
    }
}

impl Upstream for Connection {
    fn window_moved(&self, channel: u16) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let last = told.get(&channel).copied();
        let settled = self.source.settled(channel);
        let now = (self.source.grant(channel), settled.unwrap_or_default());
        if last == Some(now) {
            return;
        }
        told.insert(channel, now);
        if settled.is_some_and(|settled| settled > last.map_or(0, |last| last.1)) {
            self.tell(&Frame::Acknowledge { channel, total: now.1 });
        }
        if last.is_none_or(|last| last.0 != now.0) {
            self.tell(&Frame::Grant { channel, total: now.0 });
        }
        drop(told);
        // Not written in this call: it may come out of the writing of another connection.
        self.outlet.wake();
    }

    fn settled(&self, channel: u16) {
        let mut settling = self.settling.lock().unwrap_or_else(PoisonError::into_inner);
        if settling.contains(&channel) {
            return;
        }
        settling.push(channel);
        if settling.len() > 1 {
            return;
        }
        drop(settling);
        let this = self.this.clone();
        tokio::spawn(async move {
            tokio::time::sleep(SETTLING).await;
            let Some(this) = this.upgrade() else { return };
            let settling =
                std::mem::take(&mut *this.settling.lock().unwrap_or_else(PoisonError::into_inner));
            for channel in settling {
                this.window_moved(channel);
            }
        });
    }

    fn held_back(&self, channel: u16, until: Instant) {
        if !self.held.is_new(channel, until) {
            return;
        }
        let this = self.this.clone();
        tokio::spawn(async move {
            let mut until = until;
            loop {
                tokio::time::sleep_until(until.into()).await;
                let Some(this) = this.upgrade() else { return };
                let look = || this.source.look(channel, Instant::now());
                match this.held.look(channel, until, look) {
                    Some(next) => until = next,
                    None => return,
                }
            }
        });
    }

    fn timed_out(&self, channel: u16, count: u64) {
        if let Some(total) = self.held.timed_out(channel, count) {
            self.tell(&Frame::Dropped { channel, total });
            self.outlet.wake();
        }
    }
}
