//! Calls: a request to a service, and its reply. What both ends share is here; see [`Client`] and
//! [`Service`].

mod client;
mod error;
mod service;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::link::{Link, Shared};
use super::{DeclareError, Message};
use crate::TypeSchema;
use crate::runtime::{
    Answer, CallEnd, CallFrame, DeclareCalls, Frame, MAX_CHANNELS, schema_of_calls,
};

pub use client::Client;
pub use error::{CallError, ReplyError};
use service::Queue;
pub use service::{Call, Service};

/// What a service replies with. Everything that can be a message is one, and so is a
/// `Result<Reply, Reason>` of two such types, for failures that are more than a text.
pub trait Reply: Serialize + DeserializeOwned + postcard_schema::Schema + Send + 'static {}

impl<T: Serialize + DeserializeOwned + postcard_schema::Schema + Send + 'static> Reply for T {}

/// Where the answer to a call goes.
type Waiting = oneshot::Sender<Result<Bytes, CallError>>;

/// The ends of calls of a runtime, over all its connections. Locked after the link, if both are.
#[derive(Default)]
pub(super) struct Calls(Mutex<Vec<End>>);

struct End {
    name: &'static str,
    request: Vec<u8>,
    reply: Vec<u8>,
    kind: Kind,
}

enum Kind {
    Client(Asked),
    Service(Arc<Queue>),
}

/// Calls of a client that are under way.
#[derive(Default)]
struct Asked {
    last_id: u64,
    waiting: HashMap<u64, Waiting>,
}

impl Kind {
    fn end(&self) -> CallEnd {
        match self {
            Self::Client(_) => CallEnd::Client,
            Self::Service(_) => CallEnd::Service,
        }
    }
}

/// Channels of calls are counted from the last one down, those of messages from the first one up.
fn channel_of(index: usize) -> u16 {
    MAX_CHANNELS.saturating_sub(1).saturating_sub(u16::try_from(index).unwrap_or(u16::MAX))
}

fn index_of(channel: u16) -> usize {
    usize::from(MAX_CHANNELS.saturating_sub(1).saturating_sub(channel))
}

impl Calls {
    fn ends(&self) -> MutexGuard<'_, Vec<End>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.ends().len()
    }

    /// Whether this is the name of a client, or of a service.
    pub(super) fn has(&self, name: &str, is_service: bool) -> bool {
        let ends = self.ends();
        ends.iter().any(|it| it.name == name && matches!(it.kind, Kind::Service(_)) == is_service)
    }

    /// Declares them all, on a new connection.
    pub(super) fn attach(&self, link: &mut Link) {
        for index in 0..self.count() {
            self.declare(index, link);
        }
    }

    fn declare(&self, index: usize, link: &mut Link) {
        let ends = self.ends();
        let Some(End { name, request, reply, kind }) = ends.get(index) else { return };
        let at_once = match kind {
            Kind::Client(_) => 0,
            Kind::Service(queue) => queue.begin(link.connection),
        };
        let (channel, end) = (channel_of(index), kind.end());
        let declare = DeclareCalls { channel, end, name, request, reply, at_once };
        // A name and two schemas within their bounds always fit a frame.
        link.writing.push(&Frame::Calls(CallFrame::Declare(declare)));
    }

    /// The connection is gone: nobody will answer what is under way.
    pub(super) fn detach(&self) {
        for End { kind, .. } in &mut *self.ends() {
            match kind {
                Kind::Client(asked) => {
                    for (_, waiting) in asked.waiting.drain() {
                        // Nobody waits any more: it was cancelled.
                        let _ = waiting.send(Err(CallError::Disconnected));
                    }
                }
                Kind::Service(queue) => queue.end(),
            }
        }
    }

    /// Takes in what the daemon says of calls. An error ends the connection.
    pub(super) fn frame(
        &self,
        shared: &Shared,
        frame: CallFrame<'_>,
        chunk: &Bytes,
    ) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("the daemon broke the protocol: {what}"));
        match frame {
            CallFrame::Declare(_) => wrong("a declaration is not for instances"),
            CallFrame::Call { channel, id, timeout_ms, payload } => {
                let Some(queue) = self.queue(channel) else {
                    return wrong(&format!("a call on {channel}, which is no service"));
                };
                let deadline = Instant::now() + Duration::from_millis(timeout_ms.into());
                match queue.push(id, deadline, chunk.slice_ref(payload)) {
                    Ok(None) => Ok(()),
                    Ok(Some(refused)) => {
                        shared.answer_call(channel, &refused);
                        Ok(())
                    }
                    Err(service::TooMany) => wrong("more calls than the service takes"),
                }
            }
            CallFrame::Cancel { channel, id } => match self.queue(channel) {
                Some(queue) => {
                    queue.cancel(id);
                    Ok(())
                }
                None => wrong(&format!("a cancel on {channel}, which is no service")),
            },
            CallFrame::Answer { channel, id, answer } => {
                let result = match answer {
                    Answer::Reply(payload) => Ok(chunk.slice_ref(payload)),
                    Answer::Failure(failure) => Err(CallError::from(failure)),
                };
                let mut ends = self.ends();
                let Some(Kind::Client(asked)) =
                    ends.get_mut(index_of(channel)).map(|end| &mut end.kind)
                else {
                    return wrong(&format!("an answer on {channel}, which is no client"));
                };
                if let Some(waiting) = asked.waiting.remove(&id) {
                    let _ = waiting.send(result);
                }
                Ok(())
            }
        }
    }

    fn queue(&self, channel: u16) -> Option<Arc<Queue>> {
        match &self.ends().get(index_of(channel))?.kind {
            Kind::Service(queue) => Some(queue.clone()),
            Kind::Client(_) => None,
        }
    }

    /// Enters a call; the answer is its id. None if the client has too many under way.
    fn ask(&self, channel: u16, waiting: Waiting) -> Option<u64> {
        let mut ends = self.ends();
        let Kind::Client(asked) = &mut ends.get_mut(index_of(channel))?.kind else { return None };
        if asked.waiting.len() >= crate::runtime::MAX_CALLS as usize {
            return None;
        }
        asked.last_id += 1;
        asked.waiting.insert(asked.last_id, waiting);
        Some(asked.last_id)
    }

    /// Nobody waits for this call any more. False if it was answered.
    fn give_up(&self, channel: u16, id: u64) -> bool {
        let mut ends = self.ends();
        match ends.get_mut(index_of(channel)).map(|end| &mut end.kind) {
            Some(Kind::Client(asked)) => asked.waiting.remove(&id).is_some(),
            _ => false,
        }
    }
}

impl Shared {
    /// Declares an end of calls; on this connection and on all that follow.
    fn declare_calls(
        &self,
        name: &'static str,
        request: &TypeSchema,
        reply: &TypeSchema,
        queue: Option<Arc<Queue>>,
    ) -> Result<u16, DeclareError> {
        if name.is_empty() || name.len() > 255 {
            return Err(DeclareError::BadName(name.to_owned()));
        }
        // Both together are one schema, with the bounds of one.
        let both = schema_of_calls(request.clone(), reply.clone()).encode();
        TypeSchema::decode(&both)
            .map_err(|source| DeclareError::BadSchema { name: name.to_owned(), source })?;
        let mut link = self.link();
        let is_service = queue.is_some();
        if self.calls.has(name, is_service) || link.is_declared(name, is_service) {
            return Err(DeclareError::Duplicate(name.to_owned()));
        }
        let index = self.calls.count();
        if link.declared_count() + index >= usize::from(MAX_CHANNELS) {
            return Err(DeclareError::TooMany);
        }
        let (request, reply) = (request.encode(), reply.encode());
        let kind = queue.map_or_else(|| Kind::Client(Asked::default()), Kind::Service);
        self.calls.ends().push(End { name, request, reply, kind });
        if link.wants_write().is_some() {
            self.calls.declare(index, &mut link);
            self.flush(&mut link);
        }
        Ok(channel_of(index))
    }

    /// Answers a call at once. The answer is short.
    fn answer_call(&self, channel: u16, refused: &service::Refused) {
        let service::Refused { id, connection, failure } = refused;
        let mut link = self.link();
        if link.wants_write().is_some() && link.connection == *connection {
            let answer = Answer::Failure(failure.clone());
            link.writing.push(&Frame::Calls(CallFrame::Answer { channel, id: *id, answer }));
            self.flush(&mut link);
        }
    }
}

impl super::Runtime {
    /// Declares that this runtime calls services with requests of type `Req`, which they answer
    /// with a `Rep`. A link of this type leads to each service that may be called.
    ///
    /// # Errors
    ///
    /// When the type was declared as a client or an output before, or its name or the two schemas
    /// are out of bounds.
    pub fn client<Req: Message, Rep: Reply>(&self) -> Result<Client<Req, Rep>, DeclareError> {
        let shared = &self.handle.shared;
        let reply = TypeSchema::from(Rep::SCHEMA);
        let channel = shared.declare_calls(Req::NAME, &Req::schema(), &reply, None)?;
        Ok(Client::new(Arc::clone(&self.handle), channel))
    }

    /// Declares that this runtime answers requests of type `Req` with a `Rep`, and may be given
    /// [`Service::AT_ONCE`] of them at once.
    ///
    /// # Errors
    ///
    /// When the type was declared as a service or an input before, or its name or the two schemas
    /// are out of bounds.
    pub fn service<Req: Message, Rep: Reply>(&self) -> Result<Service<Req, Rep>, DeclareError> {
        self.service_at_once(Service::<Req, Rep>::AT_ONCE)
    }

    /// As [`service`](Self::service), with another number of calls that it may be given at once,
    /// at most [`MAX_CALLS`](crate::runtime::MAX_CALLS). What comes on top waits in the daemon, where
    /// other services may take it.
    ///
    /// # Errors
    ///
    /// As for [`service`](Self::service).
    pub fn service_at_once<Req: Message, Rep: Reply>(
        &self,
        at_once: std::num::NonZeroU32,
    ) -> Result<Service<Req, Rep>, DeclareError> {
        let shared = &self.handle.shared;
        let queue = Arc::new(Queue::new(at_once));
        let reply = TypeSchema::from(Rep::SCHEMA);
        let ours = Some(Arc::clone(&queue));
        let channel = shared.declare_calls(Req::NAME, &Req::schema(), &reply, ours)?;
        Ok(Service::new(Arc::clone(&self.handle), channel, queue))
    }
}
