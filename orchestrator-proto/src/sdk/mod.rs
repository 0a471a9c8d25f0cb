//! What a runtime links against: its connection to the daemon that started it.
//!
//! ```no_run
//! use orchestrator_proto::Message;
//! use orchestrator_proto::sdk::{Runtime, Schema};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize, Schema, Message)]
//! #[postcard(crate = orchestrator_proto::postcard_schema)]
//! #[message(name = "acme.wheel.v1")]
//! struct Wheel {
//!     turns_per_s: f32,
//! }
//!
//! #[derive(Serialize, Deserialize, Schema, Message)]
//! #[postcard(crate = orchestrator_proto::postcard_schema)]
//! #[message(name = "acme.speed.v1")]
//! struct Speed {
//!     metres_per_s: f32,
//! }
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let runtime = Runtime::connect().await?;
//!     let mut wheel = runtime.input::<Wheel>()?;
//!     let speed = runtime.output::<Speed>()?;
//!     loop {
//!         let metres_per_s = wheel.recv().await?.turns_per_s * 0.31;
//!         speed.send(&Speed { metres_per_s }).await?;
//!     }
//! }
//! ```
//!
//! The line `#[postcard(crate = …)]` can be left out by a program that depends on
//! `postcard-schema` 0.2 itself. `Schema` heeds `#[serde(rename = "…")]` on fields and
//! variants, and no other serde attribute; types whose `Serialize` is not plainly derived have
//! to describe themselves as what they write.
//!
//! # Calls
//!
//! A message is sent and forgotten; a call is one request to one service, and one reply. The client
//! declares what it asks and what it gets, the service the same, and the operator makes a link of the
//! request's type from one to the other:
//!
//! ```no_run
//! # use orchestrator_proto::Message;
//! # use orchestrator_proto::sdk::{CallError, Runtime, Schema, Service};
//! # use serde::{Deserialize, Serialize};
//! #[derive(Serialize, Deserialize, Schema, Message)]
//! # #[postcard(crate = orchestrator_proto::postcard_schema)]
//! #[message(name = "acme.divide.v1")]
//! struct Divide(i64, i64);
//!
//! # async fn client(runtime: Runtime) -> Result<(), Box<dyn std::error::Error>> {
//! let client = runtime.client::<Divide, i64>()?;
//! let three = client.call(&Divide(7, 2)).await?;
//! # Ok(())
//! # }
//! # async fn service(runtime: Runtime) -> Result<(), Box<dyn std::error::Error>> {
//! let service = runtime.service::<Divide, i64>()?;
//! let never = service.serve(Service::<Divide, i64>::AT_ONCE, |Divide(a, b)| async move {
//!     a.checked_div(b).ok_or("this can't be divided")
//! });
//! # never.await;
//! # Ok(())
//! # }
//! ```
//!
//! Each call has a deadline and is answered once; see [`Client::call`] and [`CallError`].
//!
//! # More than that
//!
//! - An [`Input`] is a [`Stream`](futures_core::Stream), an [`Output`] a [`Sink`](futures_sink::Sink).
//! - An [`Envelope`] tells who sent a message, how many before it were missed, and when it arrived:
//!   [`Input::recv_envelope`].
//! - A [`Blob`] is bytes in a message that are received without being copied; [`Input::recv_raw`] does
//!   not decode at all.
//! - [`blocking`] is for programs without an async runtime.
//!
//! # When the daemon goes away
//!
//! Calls under way end with [`CallError::Disconnected`] and are not sent again; calls that are made
//! meanwhile wait.
//!
//! The runtime stays. A task in the background connects again, after 10 ms at first and
//! every second at last, and declares everything again. Meanwhile receiving waits, and requests
//! under way fail.
//!
//! Where a link with the policy `block` takes an output's messages, none of them is lost, and a
//! receiver that lives on gets each of them once: this runtime keeps them until the
//! receiver has acknowledged them, sends again what was not, and meanwhile sending waits.
//! A receiver acknowledges a message when its program comes back for the next one after it. If
//! the receiver dies, its next process gets what was not acknowledged, so it may see again
//! what its predecessor had begun to work on. This begins when the runtime has heard of the
//! link, right after it was made; and it ends with the runtime: what it sent last before its own
//! end may be lost if the daemon dies as well.
//!
//! Without such a link sending fails with [`SendError::Disconnected`], and messages that the
//! daemon had not delivered are lost. The next daemon reports how many.
//!
//! # Slowness
//!
//! Every queue has a bound: an [`Input`] its window, all outputs together 1 MiB beyond what the
//! kernel holds. What an output keeps for a `block` link is bounded by what may be under way: the
//! link's capacity and the receiver's window. A reader that does not receive loses messages, or holds its senders up, as its
//! links' policies say; other inputs of the same runtime are not affected.

mod blob;
pub mod blocking;
mod call;
mod connection;
mod control;
mod ends;
mod error;
mod form;
mod input;
mod kept;
mod lane;
mod lanes;
mod link;
mod message;
mod output;
mod seen;
#[cfg(test)]
mod tests;
mod writing;

use std::env;
use std::fmt;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;

use crate::InstanceId;
use crate::runtime::{ENV_INSTANCE, ENV_SOCKET, MAX_FORMS};

pub use blob::Blob;
pub use call::{Call, CallError, Client, Reply, ReplyError, Service};
pub use error::{ConnectError, DeclareError, RecvError, RequestError, SendError};
pub use form::{Form, Offer};
pub use input::{Envelope, Input, Raw};
pub use message::Message;
pub use output::Output;

/// Implements the trait [`Message`](trait@Message); see there.
pub use orchestrator_derive::Message;
pub use postcard_schema::Schema;

use input::Queue;
use link::{MAX_REQUESTS, NewEnd, Shared};

/// An instance's connection to its daemon. Clones share it. The background task ends when the
/// last clone and all outputs and inputs are dropped; what the kernel has not taken by then
/// is lost, see [`flush`](Self::flush).
#[derive(Clone)]
pub struct Runtime {
    handle: Arc<Handle>,
}

/// Ends the task when nobody is left.
struct Handle {
    shared: Arc<Shared>,
    task: tokio::task::AbortHandle,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Runtime {
    /// The window of [`input`](Self::input), messages.
    pub const DEFAULT_WINDOW: NonZeroU32 = NonZeroU32::new(1024).unwrap();

    /// Connects to the daemon that started this program, as the environment says. Needs a
    /// tokio runtime with I/O and time.
    ///
    /// Once per program: all messages for an instance go to its newest connection, so that a
    /// second one takes them from the first, also if it declares no input. Clone the `Runtime`
    /// instead.
    ///
    /// # Errors
    ///
    /// When the program was not started by an orchestrator, when the daemon can't be reached,
    /// or with the daemon's reason when it refuses.
    pub async fn connect() -> Result<Self, ConnectError> {
        let path = env::var_os(ENV_SOCKET).ok_or(ConnectError::NotStartedByOrchestrator)?;
        let environment = match env::var(ENV_INSTANCE) {
            Ok(text) => {
                Some(text.parse::<InstanceId>().map_err(|_| ConnectError::BadInstanceId(text))?)
            }
            Err(_) => None,
        };
        let runtime = Self::connect_to(Path::new(&path)).await?;
        match (runtime.instance_id(), environment) {
            (daemon, Some(environment)) if daemon != environment => {
                Err(ConnectError::OtherInstance { daemon, environment })
            }
            _ => Ok(runtime),
        }
    }

    /// Connects to the instance socket at `path`.
    ///
    /// # Errors
    ///
    /// As for [`connect`](Self::connect).
    pub async fn connect_to(path: impl Into<PathBuf>) -> Result<Self, ConnectError> {
        let path = path.into();
        let connection = connection::open(&path).await?;
        let shared = Arc::new(Shared::new(path, connection.instance));
        shared.attach(Arc::clone(&connection.writer), connection.instance);
        let task = tokio::spawn(connection::run(Arc::clone(&shared), connection));
        Ok(Self { handle: Arc::new(Handle { shared, task: task.abort_handle() }) })
    }

    /// The instance that this program is, as the daemon said when it was connected last.
    #[must_use]
    pub fn instance_id(&self) -> InstanceId {
        self.handle.shared.link().instance
    }

    /// Declares that this runtime sends messages of type `T`.
    ///
    /// # Errors
    ///
    /// When the type was declared as output before, or its name or schema is out of bounds.
    pub fn output<T: Message>(&self) -> Result<Output<T>, DeclareError> {
        self.output_of(false)
    }

    /// As [`output`](Self::output), and each message says when it was sent: by
    /// [`Envelope::sent`] and in recordings. That costs it eight bytes and a look at the clock.
    ///
    /// # Errors
    ///
    /// As for [`output`](Self::output).
    pub fn stamped_output<T: Message>(&self) -> Result<Output<T>, DeclareError> {
        self.output_of(true)
    }

    fn output_of<T: Message>(&self, is_stamped: bool) -> Result<Output<T>, DeclareError> {
        let end = NewEnd::Output { is_stamped };
        let offers = T::writes();
        if let Some(other) = offers.iter().find(|other| other.name() != T::NAME) {
            let (name, other) = (T::NAME.to_owned(), other.name().to_owned());
            return Err(DeclareError::OtherName { name, other });
        }
        if offers.len() >= MAX_FORMS {
            return Err(DeclareError::TooManyForms(T::NAME.to_owned()));
        }
        let also: Vec<_> = offers.iter().map(|offer| offer.schema().clone()).collect();
        let channel = self.handle.shared.declare(T::NAME, &T::schema(), &also, end)?;
        Ok(Output::new(Arc::clone(&self.handle), channel, is_stamped, offers))
    }

    /// Declares that this runtime takes messages of type `T`, in its own form and in those that it
    /// [reads](Message::reads), and that
    /// [`DEFAULT_WINDOW`](Self::DEFAULT_WINDOW) of them may wait in it.
    ///
    /// Keep what is returned for as long as the messages are wanted: an input that is dropped
    /// takes no more of them until the program ends, so that under the policy `block` their
    /// senders wait that long.
    ///
    /// # Errors
    ///
    /// When the type was declared as input before, or its name or a schema is out of bounds; when it
    /// reads a type of another name, or more than fifteen.
    pub fn input<T: Message>(&self) -> Result<Input<T>, DeclareError> {
        self.input_with_window(Self::DEFAULT_WINDOW)
    }

    /// As [`input`](Self::input), with another number of messages that may wait in this
    /// runtime. A small one leaves more of them to the daemon and the link's policy.
    ///
    /// # Errors
    ///
    /// As for [`input`](Self::input).
    pub fn input_with_window<T: Message>(
        &self,
        window: NonZeroU32,
    ) -> Result<Input<T>, DeclareError> {
        let queue = Arc::new(Queue::new(window));
        let shared = &self.handle.shared;
        let (mut also, mut reads) = (Vec::new(), vec![form::Read::own()]);
        for other in T::reads() {
            if other.name() != T::NAME {
                let (name, other) = (T::NAME.to_owned(), other.name().to_owned());
                return Err(DeclareError::OtherName { name, other });
            }
            let (schema, of) = other.into_parts();
            also.push(schema);
            reads.push(of);
        }
        if reads.len() > MAX_FORMS {
            return Err(DeclareError::TooManyForms(T::NAME.to_owned()));
        }
        let channel =
            shared.declare(T::NAME, &T::schema(), &also, NewEnd::Input(Arc::clone(&queue)))?;
        Ok(Input::new(Arc::clone(&self.handle), channel, queue, reads))
    }

    /// Says that this program is ready: it has begun, and does what it is for. For instances that
    /// were added with `--ready-runtime`; to others it makes no difference. Never waits; the
    /// second time it does nothing. If there is no connection now, it is said on the next one.
    pub fn ready(&self) {
        self.handle.shared.say_ready();
    }

    /// Waits until there is a connection; returns at once if there is one.
    pub async fn connected(&self) {
        let mut connected = self.handle.shared.connected.subscribe();
        // Can't fail: the sender lives as long as `self`.
        let _ = connected.wait_for(|connected| *connected).await;
    }

    /// Whether there is a connection now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        *self.handle.shared.connected.borrow()
    }

    /// Why the connection was lost, or could not be made again, the last time; none if that
    /// never happened.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        self.handle.shared.link().writing.last_error.clone()
    }

    /// Waits until the kernel has taken everything that was sent. For programs that end after
    /// their last message.
    ///
    /// # Errors
    ///
    /// [`SendError::Disconnected`] if there is no connection, or it breaks.
    pub async fn flush(&self) -> Result<(), SendError> {
        let shared = &self.handle.shared;
        let began = shared.link().connection;
        loop {
            let mut progress = pin!(shared.progress.notified());
            progress.as_mut().enable();
            let (is_unsent, connection) = {
                let link = shared.link();
                (link.is_unsent(), link.connection)
            };
            match is_unsent {
                Some(false) if connection == began => return Ok(()),
                Some(true) if connection == began => progress.await,
                _ => return Err(SendError::Disconnected),
            }
        }
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Runtime({})", self.instance_id())
    }
}
