//! The native dialect: frames of [`orchestrator_proto::runtime`]. Reading is in `reader.rs`,
//! writing in `inputs.rs`.

mod inputs;
mod reader;

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use orchestrator_proto::frame::{self, MAX_RUNTIME};
use orchestrator_proto::runtime::Frame;
use orchestrator_proto::{ErrorCode, WireError};
use tokio::net::UnixStream;

use super::Endpoint;
use super::outlet::{Outlet, Served};
use crate::route::{Source, Upstream};
use inputs::Inputs;
use reader::Reader;

/// Serves one connection until it ends. The answer is what the peer did wrong, if that was why.
pub(super) async fn serve(stream: UnixStream, endpoint: Arc<Endpoint>) -> Result<(), WireError> {
    let (reader, writer) = stream.into_split();
    let outlet = Outlet::new(writer, endpoint.mailbox.clone(), Inputs::default());
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
            granting: Mutex::default(),
            requests: AtomicUsize::new(0),
        }
    });
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
    /// Held while a grant is computed and queued, so that an older total never follows a newer
    /// one: the sender would stop at it for good.
    granting: Mutex<()>,
    /// Requests under way.
    requests: AtomicUsize,
}

impl Connection {
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
        let granting = self.granting.lock().unwrap_or_else(PoisonError::into_inner);
        self.tell(&Frame::Grant { channel, total: self.source.grant(channel) });
        drop(granting);
        // Not written in this call: it may come out of the writing of another connection.
        self.outlet.wake();
    }
}
