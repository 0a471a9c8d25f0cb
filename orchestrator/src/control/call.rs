//! Calls that a client makes itself.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use orchestrator_proto::control::{Called, Reply, SendSpec};
use orchestrator_proto::runtime::CallFailure;
use orchestrator_proto::{ErrorCode, WireError};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Daemon;
use super::send::{Ready, invalid, payload};
use crate::registry::Instance;
use crate::route::{CallPeer, Roused, parts_of_calls};

/// The only call of a caller.
const ID: u64 = 1;

/// Whoever waits for the answer.
struct Caller(Mutex<Option<oneshot::Sender<Result<Bytes, CallFailure>>>>);

impl CallPeer for Caller {
    fn answer(&self, _id: u64, result: Result<Bytes, CallFailure>) {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waiting) = waiting {
            // The client may have gone meanwhile.
            let _ = waiting.send(result);
        }
    }

    fn give(&self, _call: u64, _timeout: Duration, _payload: &Bytes) {}

    fn withdraw(&self, _call: u64) {}

    fn kick(&self) {}

    fn wake(&self) {}
}

impl Daemon {
    pub(super) async fn link_call(&self, spec: SendSpec) -> Result<Reply, WireError> {
        let Ready { instance, postbox: _place, decl, deadline } = self.ready_for(&spec).await?;
        let Some((request, reply)) = parts_of_calls(&decl) else {
            let (label, name) = (instance.label(), &decl.name);
            return Err(invalid(format!(
                "{label} answers no calls of type {name}; to send it a message, see `link send`"
            )));
        };
        let what = ("request", &*decl.name);
        let body = payload(&instance, what, Some(request), &spec.payload)?;
        let (waiting, answer) = oneshot::channel();
        let peer = Arc::new(Caller(Mutex::new(Some(waiting))));
        let client = self.registry.router().call_from_outside(instance.id, decl.clone(), peer);
        let mut roused = Roused::default();
        let left = deadline.saturating_duration_since(Instant::now());
        // It is the only one, so that its id is free.
        let _ = client.call(ID, left, body, &mut roused);
        roused.kick();
        // Answered in any case, and in time. If the client goes away this ends, and with it the call.
        let answer = answer.await;
        drop(client);
        let bytes = match answer {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(failure)) => return Err(failed(&instance, &spec, failure)),
            Err(_) => {
                return Err(WireError::new(ErrorCode::Internal, "a call was not answered"));
            }
        };
        let reply = reply.to_json(&bytes).map_err(|error| {
            let message = format!(
                "{} has replied with something that is no reply of type {}",
                instance.label(),
                spec.type_name
            );
            WireError::caused_by(ErrorCode::CallFailed, message, &error)
        })?;
        Ok(Reply::LinkCalled(Called { id: instance.id, type_name: spec.type_name, reply }))
    }
}

fn failed(instance: &Instance, spec: &SendSpec, failure: CallFailure) -> WireError {
    let (label, within) = (instance.label(), spec.timeout);
    let unknown = "whether it did anything is unknown";
    let (code, message) = match failure {
        CallFailure::TimedOut { given: true } => {
            (ErrorCode::TimedOut, format!("{label} did not reply within {within}; {unknown}"))
        }
        CallFailure::TimedOut { given: false } => (
            ErrorCode::TimedOut,
            format!("{label} took no further call within {within}; it has not got this one"),
        ),
        CallFailure::Failed(why) => (ErrorCode::CallFailed, format!("{label} failed: {why}")),
        CallFailure::BadRequest(why) => {
            (ErrorCode::CallFailed, format!("{label} can't read the request: {why}"))
        }
        CallFailure::ServiceGone => {
            (ErrorCode::CallFailed, format!("{label} went away with the call; {unknown}"))
        }
        CallFailure::Mismatched(schemas) => {
            let message = format!("{label} has just declared {} anew; call again", spec.type_name);
            let causes = vec![schemas];
            return WireError { causes, ..WireError::new(ErrorCode::SchemaMismatch, message) };
        }
        CallFailure::TooMany => (ErrorCode::LimitReached, failure.to_string()),
        CallFailure::NoLink
        | CallFailure::LinkRemoved
        | CallFailure::Cancelled
        | CallFailure::NotRead => (ErrorCode::CallFailed, failure.to_string()),
    };
    WireError::new(code, message)
}
