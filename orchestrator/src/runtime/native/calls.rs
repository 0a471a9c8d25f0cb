//! Calls of a native instance: its ends of them, and the frames.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use orchestrator_proto::runtime::{
    Answer, CallEnd, CallFailure, CallFrame, DeclareCalls, Frame, MAX_CALL, MAX_CALL_BYTES,
    MAX_CALL_TIMEOUT_MS, MAX_CALLS, MAX_CHANNELS, MAX_FAILURE, schema_of_calls,
};
use orchestrator_proto::{SchemaHash, TypeSchema, WireError};

use super::Connection;
use super::forms::checked;
use super::reader::malformed;
use crate::route::{
    CallPeer, ClientEnd, Duplicate, NotItsCall, Roused, ServiceEnd, Sink, TypeDecl,
};

/// The ends of calls of one connection.
#[derive(Default)]
pub(super) struct Calls {
    ends: HashMap<u16, End>,
    /// Peers that have something to write.
    roused: Roused,
}

enum End {
    Client(ClientEnd),
    Service(ServiceEnd),
}

/// One end, as others reach it.
struct Peer {
    connection: Weak<Connection>,
    channel: u16,
}

impl Calls {
    /// Whether this channel is an end of calls.
    pub(super) fn has(&self, channel: u16) -> bool {
        self.ends.contains_key(&channel)
    }

    /// Lets everybody write who has something to write since the last time.
    pub(super) fn kick(&mut self) {
        self.roused.kick();
    }

    /// Declares an end. Its channel and its name are not taken, as the reader has made sure.
    pub(super) fn declare(
        &mut self,
        connection: &Arc<Connection>,
        declare: &DeclareCalls<'_>,
    ) -> Result<(), WireError> {
        let DeclareCalls { channel, end, name, request, reply, at_once } = *declare;
        if channel >= MAX_CHANNELS {
            return Err(malformed(format!("channel {channel}; channels are below {MAX_CHANNELS}")));
        }
        let (_, request) = checked(name, request, None)?;
        let (_, reply) = checked(name, reply, None)?;
        let both = schema_of_calls((*request).clone(), (*reply).clone()).encode();
        // Each of them may be as large as a schema may be, and both together are not.
        let schema = TypeSchema::decode(&both)
            .map_err(|error| malformed(format!("both schemas of {name}: {error}")))?;
        let schema = Some((SchemaHash::of(&both), Arc::new(schema)));
        let decl = Arc::new(TypeDecl::new(name.into(), schema));
        // As many may be under way, each with a frame that ends it.
        connection.outlet.make_room_for_calls(2 * MAX_CALLS as usize);
        let peer = Arc::new(Peer { connection: Arc::downgrade(connection), channel });
        let endpoint = &connection.endpoint;
        let end = match end {
            CallEnd::Client if at_once == 0 => {
                End::Client(endpoint.router.open_client(endpoint.instance, decl, peer))
            }
            CallEnd::Client => return Err(malformed("a client is given no calls")),
            CallEnd::Service if (1..=MAX_CALLS).contains(&at_once) => {
                let roused = &mut self.roused;
                let (router, instance) = (&endpoint.router, endpoint.instance);
                End::Service(router.open_service(instance, decl, at_once, peer, roused))
            }
            CallEnd::Service => {
                return Err(malformed(format!("a service takes 1 to {MAX_CALLS} calls at once")));
            }
        };
        self.ends.insert(channel, end);
        Ok(())
    }

    /// Carries out what is said of calls. `whole` is the buffer that a large frame has for itself.
    pub(super) fn frame(
        &mut self,
        frame: CallFrame<'_>,
        whole: Option<&Bytes>,
    ) -> Result<(), WireError> {
        let shared = |payload: &[u8]| match whole {
            Some(whole) => whole.slice_ref(payload),
            None => Bytes::copy_from_slice(payload),
        };
        match frame {
            CallFrame::Declare(_) => Err(malformed("a declaration in the wrong place")),
            CallFrame::Call { channel, id, timeout_ms, payload } => {
                let Some(End::Client(client)) = self.ends.get(&channel) else {
                    return Err(malformed(format!("a call on channel {channel}, no client")));
                };
                if !(1..=MAX_CALL_TIMEOUT_MS).contains(&timeout_ms) {
                    return Err(malformed(format!("a call with {timeout_ms} ms of time")));
                }
                check_length(payload)?;
                let timeout = Duration::from_millis(timeout_ms.into());
                let called = client.call(id, timeout, shared(payload), &mut self.roused);
                called.map_err(|Duplicate| malformed(format!("call {id} is under way already")))
            }
            CallFrame::Cancel { channel, id } => {
                let Some(End::Client(client)) = self.ends.get(&channel) else {
                    return Err(malformed(format!("a cancel on channel {channel}, no client")));
                };
                client.cancel(id, &mut self.roused);
                Ok(())
            }
            CallFrame::Answer { channel, id, answer } => {
                let Some(End::Service(service)) = self.ends.get(&channel) else {
                    return Err(malformed(format!("an answer on channel {channel}, no service")));
                };
                let result = match answer {
                    Answer::Reply(payload) => {
                        check_length(payload)?;
                        Ok(shared(payload))
                    }
                    Answer::Failure(failure) => Err(of_service(failure)?),
                };
                let answered = service.answer(id, result, &mut self.roused);
                answered.map_err(|NotItsCall| {
                    malformed(format!("an answer to call {id}, which it was not given"))
                })
            }
        }
    }
}

fn check_length(payload: &[u8]) -> Result<(), WireError> {
    let length = payload.len();
    if length > MAX_CALL {
        return Err(malformed(format!("{length} bytes; a call or a reply has at most {MAX_CALL}")));
    }
    Ok(())
}

/// What a service may say of itself.
fn of_service(failure: CallFailure) -> Result<CallFailure, WireError> {
    match &failure {
        CallFailure::Failed(why) | CallFailure::BadRequest(why) if why.len() <= MAX_FAILURE => {
            Ok(failure)
        }
        CallFailure::Failed(_) | CallFailure::BadRequest(_) => {
            Err(malformed(format!("a failure in more than {MAX_FAILURE} bytes")))
        }
        _ => Err(malformed("a failure that only the daemon tells")),
    }
}

impl Peer {
    fn tell(&self, frame: CallFrame<'_>) {
        if let Some(connection) = self.connection.upgrade() {
            connection.tell_call(&Frame::Calls(frame));
        }
    }
}

impl CallPeer for Peer {
    fn answer(&self, id: u64, result: Result<Bytes, CallFailure>) {
        let Some(connection) = self.connection.upgrade() else { return };
        let channel = self.channel;
        let too_much =
            |reply: &Bytes| connection.outlet.calls_waiting() + reply.len() > MAX_CALL_BYTES;
        let answer = match &result {
            Ok(reply) if connection.outlet.calls_waiting() > 0 && too_much(reply) => {
                Answer::Failure(CallFailure::NotRead)
            }
            Ok(reply) => Answer::Reply(reply),
            Err(failure) => Answer::Failure(failure.clone()),
        };
        self.tell(CallFrame::Answer { channel, id, answer });
    }

    fn give(&self, call: u64, timeout: Duration, payload: &Bytes) {
        let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        let timeout_ms = timeout_ms.clamp(1, MAX_CALL_TIMEOUT_MS);
        self.tell(CallFrame::Call { channel: self.channel, id: call, timeout_ms, payload });
    }

    fn withdraw(&self, call: u64) {
        self.tell(CallFrame::Cancel { channel: self.channel, id: call });
    }

    fn kick(&self) {
        if let Some(connection) = self.connection.upgrade() {
            connection.outlet.kick();
        }
    }

    fn wake(&self) {
        if let Some(connection) = self.connection.upgrade() {
            connection.outlet.wake();
        }
    }
}
