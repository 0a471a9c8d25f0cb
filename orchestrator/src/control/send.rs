//! Messages that a client sends itself.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use orchestrator_proto::control::{LinkSpec, Observed, Reply, SendSpec, Sent};
use orchestrator_proto::{ErrorCode, Millis, TypeSchema, WireError};
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout_at};

use super::Daemon;
use crate::registry::Instance;
use crate::route::{DropReason, Encoding, Fate, Post, Postbox, TooMany, TypeDecl, parts_of_calls};
use crate::runtime::now_ns;

/// How long an instance that is connected may take to declare what it takes: it does so after its
/// hello, one type after the other.
const DECLARING: Duration = Duration::from_secs(1);

/// Inputs that are named to who asks for another one.
const SHOWN: usize = 20;

/// An instance that can be sent what is asked.
pub(super) struct Ready {
    pub(super) instance: Arc<Instance>,
    /// Its place among what is under way to that instance.
    pub(super) postbox: Postbox,
    /// How the instance takes it.
    pub(super) decl: Arc<TypeDecl>,
    pub(super) deadline: Instant,
}

/// Why a message can't be sent now.
enum Missing {
    /// Nobody is connected, and that can change.
    Connection,
    /// Who is connected has not declared the type.
    Declaration,
}

impl Daemon {
    pub(super) async fn link_send(&self, spec: SendSpec) -> Result<Reply, WireError> {
        let Ready { instance, postbox, decl, deadline } = self.ready_for(&spec).await?;
        if parts_of_calls(&decl).is_some() {
            let (label, name) = (instance.label(), &decl.name);
            return Err(invalid(format!(
                "{label} answers calls of type {name}, and takes no messages of it: see `link call`"
            )));
        }
        let schema = decl.schema.as_ref().map(|(_, schema)| &**schema);
        let body = payload(&instance, ("message", &decl.name), schema, &spec.payload)?;
        let size = body.len() as u64;
        let post = self.registry.router().post(&postbox, decl, body, now_ns());
        let fate = match timeout_at(deadline, post.settled()).await {
            Ok(fate) => fate,
            Err(_) => self.late(&instance, &spec, &post)?,
        };
        match fate {
            Fate::Delivered => {
                Ok(Reply::LinkSent(Sent { id: instance.id, type_name: spec.type_name, size }))
            }
            Fate::Dropped(reason) => Err(dropped(&instance, &spec.type_name, size, reason)),
            Fate::Waits => Err(WireError::new(ErrorCode::Internal, "the message is still waiting")),
        }
    }

    /// Waits until the instance can be sent what is asked.
    pub(super) async fn ready_for(&self, spec: &SendSpec) -> Result<Ready, WireError> {
        check(spec)?;
        let instance = self.registry.find(&spec.to)?;
        let deadline = Instant::now() + spec.timeout.duration();
        let postbox = match self.registry.router().postbox(instance.id) {
            Some(postbox) => postbox.map_err(|TooMany| too_many(&instance))?,
            None => return Err(gone(&instance)),
        };
        let decl = self.receiver(&instance, &postbox, spec, deadline).await?;
        Ok(Ready { instance, postbox, decl, deadline })
    }

    /// How the instance takes messages of this type. Waits until somebody is connected who does.
    async fn receiver(
        &self,
        instance: &Instance,
        postbox: &Postbox,
        spec: &SendSpec,
        deadline: Instant,
    ) -> Result<Arc<TypeDecl>, WireError> {
        let began = Instant::now();
        loop {
            let mut changed = pin!(postbox.changes());
            changed.as_mut().enable();
            let missing = match postbox.encoding() {
                Some(Encoding::JsonLiteral) => {
                    let name = spec.type_name.as_str().into();
                    return Ok(Arc::new(TypeDecl::new(name, None)));
                }
                Some(Encoding::Postcard) => {
                    match self.registry.router().input(instance.id, &spec.type_name) {
                        Some(decl) => return Ok(decl),
                        None => Missing::Declaration,
                    }
                }
                None => match instance.observed() {
                    state if is_coming(&state) => Missing::Connection,
                    state => return Err(not_running(instance, &state)),
                },
            };
            let until = match missing {
                Missing::Connection => deadline,
                Missing::Declaration => deadline.min(began + DECLARING),
            };
            if timeout_at(until, changed).await.is_err() {
                return Err(match missing {
                    Missing::Connection => not_connected(instance, spec.timeout),
                    Missing::Declaration => self.not_declared(instance, &spec.type_name),
                });
            }
        }
    }

    /// The time is over: the message is taken back, unless it has just been delivered.
    fn late(&self, instance: &Instance, spec: &SendSpec, post: &Post) -> Result<Fate, WireError> {
        let is_back = post.take_back();
        match post.fate() {
            Fate::Waits => {}
            fate => return Ok(fate),
        }
        let (label, within) = (instance.label(), spec.timeout);
        let message = if is_back {
            format!(
                "{label} did not take the message within {within}, so it was taken back: it does \
                 not arrive"
            )
        } else {
            format!(
                "{label} did not take the message within {within}; it is being written, and may \
                 still arrive"
            )
        };
        let is_declared = self.registry.router().input(instance.id, &spec.type_name).is_some();
        let mut error = WireError::new(ErrorCode::TimedOut, message);
        error.causes.push(if is_declared {
            "the program is not connected, or does not read, or takes no more of this type for now"
                .to_owned()
        } else {
            "the program is not connected, or does not read".to_owned()
        });
        Err(error)
    }

    fn not_declared(&self, instance: &Instance, type_name: &str) -> WireError {
        let (_, inputs) = self.registry.router().declared(instance.id);
        let label = instance.label();
        let mut error = WireError::new(
            ErrorCode::InvalidArgument,
            format!("{label} takes no messages of type {type_name}"),
        );
        error.causes.push(match inputs.len() {
            0 => "it has declared no input".to_owned(),
            count => {
                let shown = inputs.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>();
                let more = if count > SHOWN { ", …" } else { "" };
                format!("it takes {}{more}", shown.join(", "))
            }
        });
        error
    }
}

pub(super) fn invalid(message: impl Into<String>) -> WireError {
    WireError::new(ErrorCode::InvalidArgument, message)
}

fn check(spec: &SendSpec) -> Result<(), WireError> {
    if spec.type_name.is_empty() || spec.type_name.len() > LinkSpec::MAX_TYPE_NAME {
        return Err(invalid(format!("a type name has 1 to {} bytes", LinkSpec::MAX_TYPE_NAME)));
    }
    if !(Millis(1)..=SendSpec::MAX_TIMEOUT).contains(&spec.timeout) {
        let most = SendSpec::MAX_TIMEOUT;
        return Err(invalid(format!("a timeout is 1ms to {most}; {} is not", spec.timeout)));
    }
    serde_json::from_str::<&RawValue>(&spec.payload)
        .map_err(|error| invalid(format!("the message is not JSON: {error}")))?;
    Ok(())
}

/// The payload by this schema; without one, in the encoding of a Veecle OS runtime.
pub(super) fn payload(
    instance: &Instance,
    (what, name): (&str, &str),
    schema: Option<&TypeSchema>,
    json: &str,
) -> Result<Bytes, WireError> {
    let Some(schema) = schema else {
        let literal = serde_json::to_vec(json.trim());
        return literal.map(Bytes::from).map_err(|error| invalid(error.to_string()));
    };
    schema.from_json(json).map(Bytes::from).map_err(|error| {
        let label = instance.label();
        let message = format!("the {what} is no {name} as {label} takes it: {error}");
        WireError { causes: vec![format!("it takes {schema}")], ..invalid(message) }
    })
}

/// Whether a program that is not connected may be soon.
fn is_coming(state: &Observed) -> bool {
    match state {
        Observed::Waiting { .. }
        | Observed::Starting { .. }
        | Observed::Ready { .. }
        | Observed::Unhealthy { .. }
        | Observed::BackOff { .. } => true,
        Observed::Stopped { .. }
        | Observed::Stopping { .. }
        | Observed::Completed { .. }
        | Observed::Failed { .. }
        | Observed::Scheduled { .. } => false,
    }
}

fn not_running(instance: &Instance, state: &Observed) -> WireError {
    let (label, word) = (instance.label(), state.word());
    let name = instance.name.clone().unwrap_or_else(|| instance.id.to_string());
    WireError::new(
        ErrorCode::WrongState,
        format!("{label} does not run ({word}); start it with `runtime start {name}`"),
    )
}

fn not_connected(instance: &Instance, within: Millis) -> WireError {
    WireError::new(
        ErrorCode::TimedOut,
        format!(
            "{} did not connect to its socket within {within}; nothing was sent",
            instance.label()
        ),
    )
}

fn gone(instance: &Instance) -> WireError {
    WireError::new(ErrorCode::NotFound, format!("{} is being removed", instance.label()))
}

fn too_many(instance: &Instance) -> WireError {
    WireError::new(
        ErrorCode::LimitReached,
        format!(
            "{} messages of clients are on their way to {} already; try again",
            SendSpec::MAX_UNDER_WAY,
            instance.label()
        ),
    )
}

fn dropped(instance: &Instance, type_name: &str, size: u64, reason: DropReason) -> WireError {
    let label = instance.label();
    match reason {
        DropReason::TooLong => invalid(format!(
            "the message has {size} bytes, which is too long for {label}: a runtime of the Veecle \
             dialect takes lines of at most 2,048 bytes"
        )),
        DropReason::Untranslatable => WireError::new(
            ErrorCode::SchemaMismatch,
            format!("{label} has just declared {type_name} in another form; send it again"),
        ),
        DropReason::Full | DropReason::Failed => WireError::new(
            ErrorCode::WrongState,
            format!("the message could not be delivered to {label}: it has just been removed"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> SendSpec {
        let (to, type_name, payload) = ("a".into(), "t".into(), "1".into());
        SendSpec { to, type_name, payload, timeout: Millis(1) }
    }

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        assert!(check(&spec()).is_ok());
        let wrong = [
            SendSpec { type_name: String::new(), ..spec() },
            SendSpec { type_name: "x".repeat(256), ..spec() },
            SendSpec { timeout: Millis::ZERO, ..spec() },
            SendSpec { timeout: Millis(SendSpec::MAX_TIMEOUT.0 + 1), ..spec() },
            SendSpec { payload: String::new(), ..spec() },
            SendSpec { payload: "{".into(), ..spec() },
            SendSpec { payload: "1 2".into(), ..spec() },
        ];
        for spec in wrong {
            let error = check(&spec).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidArgument, "{spec:?}");
        }
    }
}
