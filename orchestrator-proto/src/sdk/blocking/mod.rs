//! The SDK for programs without an async runtime: plain threads that send, receive and call, and wait
//! where they have to.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use orchestrator_proto::Message;
//! use orchestrator_proto::sdk::Schema;
//! use orchestrator_proto::sdk::blocking::Runtime;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize, Schema, Message)]
//! # #[postcard(crate = orchestrator_proto::postcard_schema)]
//! #[message(name = "acme.temperature.v1")]
//! struct Temperature {
//!     celsius: f32,
//! }
//!
//! #[derive(Serialize, Deserialize, Schema, Message)]
//! # #[postcard(crate = orchestrator_proto::postcard_schema)]
//! #[message(name = "acme.interval.v1")]
//! struct Interval {
//!     ms: u64,
//! }
//!
//! # fn read_sensor() -> f32 { 20.0 }
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let runtime = Runtime::connect()?;
//!     let temperatures = runtime.output::<Temperature>()?;
//!     let intervals = runtime.input::<Interval>()?;
//!
//!     std::thread::spawn(move || {
//!         for interval in intervals.flatten() {
//!             println!("from now on every {} ms", interval.ms);
//!         }
//!     });
//!     loop {
//!         temperatures.send(&Temperature { celsius: read_sensor() })?;
//!         std::thread::sleep(Duration::from_millis(100));
//!     }
//! }
//! ```
//!
//! All of [`sdk`] holds here too, what is said of daemons that go away above all. One
//! thread in the background, with the name `orchestrator`, keeps the connection: it reads, connects
//! again, and writes what the kernel did not take at once. What a thread sends it writes itself, without
//! that one. A thread that waits sleeps until it is woken: nothing here looks again and again. The
//! handles can be moved to other threads and used by several.
//!
//! What may wait comes in two kinds: one that waits for as long as it takes, and one with a timeout, of
//! which nothing is lost when its time is over. [`Runtime::close`] ends all waits in all threads, for a
//! program that is to end.
//!
//! The thread in the background ends with the last handle; whoever drops that one waits for it, for a
//! moment. A `Runtime` may be dropped before the outputs and inputs that were made of it; they go on.
//!
//! In a task of an async runtime use [`sdk`] itself: to wait here holds up the thread, and with it other
//! tasks.

mod background;
mod call;
mod error;
mod input;
mod output;

use std::fmt;
use std::future::Future;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{ConnectError, DeclareError, Message, Reply, RequestError, SendError};
use crate::InstanceId;
use crate::control::{Priority, RuntimeInfo};
use crate::sdk;

pub use call::{Call, Client, Service};
pub use error::Error;
pub use input::Input;
pub use output::Output;

use background::{Background, after};
use error::flatten;

/// An instance's connection to its daemon: [`sdk::Runtime`], for threads that wait. Clones share it.
#[derive(Clone)]
pub struct Runtime {
    inner: sdk::Runtime,
    // Behind what runs on it.
    background: Arc<Background>,
}

impl Runtime {
    /// Connects to the daemon that started this program, as the environment says. Once per program,
    /// see [`sdk::Runtime::connect`].
    ///
    /// # Errors
    ///
    /// As for [`sdk::Runtime::connect`], and [`ConnectError::Thread`].
    pub fn connect() -> Result<Self, ConnectError> {
        Self::begin(sdk::Runtime::connect())
    }

    /// Connects to the instance socket at `path`.
    ///
    /// # Errors
    ///
    /// As for [`connect`](Self::connect).
    pub fn connect_to(path: impl Into<PathBuf>) -> Result<Self, ConnectError> {
        Self::begin(sdk::Runtime::connect_to(path))
    }

    fn begin(
        connecting: impl Future<Output = Result<sdk::Runtime, ConnectError>>,
    ) -> Result<Self, ConnectError> {
        let background = Arc::new(Background::start().map_err(ConnectError::Thread)?);
        // Without an end of its own: connecting has one. And nobody can close it as yet.
        let inner = background.block_on(None, connecting).map_err(|_| ConnectError::TimedOut)??;
        Ok(Self { inner, background })
    }

    /// The instance that this program is, as the daemon said when it was connected last.
    #[must_use]
    pub fn instance_id(&self) -> InstanceId {
        self.inner.instance_id()
    }

    /// Declares that this runtime sends messages of type `T`.
    ///
    /// # Errors
    ///
    /// As for [`sdk::Runtime::output`].
    pub fn output<T: Message>(&self) -> Result<Output<T>, DeclareError> {
        Ok(Output::new(self.inner.output()?, Arc::clone(&self.background)))
    }

    /// As [`output`](Self::output), and each message says when it was sent; see
    /// [`sdk::Runtime::stamped_output`].
    ///
    /// # Errors
    ///
    /// As for [`output`](Self::output).
    pub fn stamped_output<T: Message>(&self) -> Result<Output<T>, DeclareError> {
        Ok(Output::new(self.inner.stamped_output()?, Arc::clone(&self.background)))
    }

    /// Declares that this runtime takes messages of type `T`, of which
    /// [`sdk::Runtime::DEFAULT_WINDOW`] may wait in it.
    ///
    /// # Errors
    ///
    /// As for [`sdk::Runtime::input`].
    pub fn input<T: Message>(&self) -> Result<Input<T>, DeclareError> {
        self.input_with_window(sdk::Runtime::DEFAULT_WINDOW)
    }

    /// As [`input`](Self::input), with another number of messages that may wait in this runtime.
    ///
    /// # Errors
    ///
    /// As for [`input`](Self::input).
    pub fn input_with_window<T: Message>(
        &self,
        window: NonZeroU32,
    ) -> Result<Input<T>, DeclareError> {
        Ok(Input::new(self.inner.input_with_window(window)?, Arc::clone(&self.background)))
    }

    /// Declares that this runtime calls services with requests of type `Req`, which they answer with
    /// a `Rep`.
    ///
    /// # Errors
    ///
    /// As for [`sdk::Runtime::client`].
    pub fn client<Req: Message, Rep: Reply>(&self) -> Result<Client<Req, Rep>, DeclareError> {
        Ok(Client::new(self.inner.client()?, Arc::clone(&self.background)))
    }

    /// Declares that this runtime answers requests of type `Req` with a `Rep`, and may be given
    /// [`sdk::Service::AT_ONCE`] of them at once.
    ///
    /// # Errors
    ///
    /// As for [`sdk::Runtime::service`].
    pub fn service<Req: Message, Rep: Reply>(&self) -> Result<Service<Req, Rep>, DeclareError> {
        self.service_at_once(sdk::Service::<Req, Rep>::AT_ONCE)
    }

    /// As [`service`](Self::service), with another number of calls that it may be given at once.
    ///
    /// # Errors
    ///
    /// As for [`sdk::Runtime::service_at_once`].
    pub fn service_at_once<Req: Message, Rep: Reply>(
        &self,
        at_once: NonZeroU32,
    ) -> Result<Service<Req, Rep>, DeclareError> {
        Ok(Service::new(self.inner.service_at_once(at_once)?, Arc::clone(&self.background)))
    }

    /// Says that this program is ready, see [`sdk::Runtime::ready`]. Never waits.
    pub fn ready(&self) {
        self.inner.ready();
    }

    /// Waits until there is a connection, no longer than so. Whether there is one.
    #[must_use]
    pub fn connected_timeout(&self, timeout: Duration) -> bool {
        self.background.block_on(after(timeout), self.inner.connected()).is_ok()
    }

    /// Whether there is a connection now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.inner.is_connected()
    }

    /// Why the connection was lost, or could not be made again, the last time.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        self.inner.last_error()
    }

    /// Waits until the kernel has taken everything that was sent, no longer than so. For programs that
    /// end after their last message.
    ///
    /// # Errors
    ///
    /// [`SendError::Disconnected`] if there is no connection, or it breaks; [`Error::TimedOut`], and
    /// [`Error::Closed`] if it would have to wait and the runtime is closed.
    pub fn flush_timeout(&self, timeout: Duration) -> Result<(), Error<SendError>> {
        flatten(self.background.block_on(after(timeout), self.inner.flush()))
    }

    /// Ends all waits in all threads, for good: of what this runtime, its clones and its handles wait
    /// for, everything returns at once with [`Error::Closed`], and iterators over inputs end. What can be
    /// done without waiting is still done: sending, as long as there is room, and
    /// [`Input::try_recv`] for what has arrived. For a program that is to end, from a thread that
    /// waits for its signals for example. Never waits.
    pub fn close(&self) {
        self.background.close();
    }

    /// Whether that was done.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.background.is_closed()
    }

    /// Starts an instance, see [`sdk::Runtime::start`].
    ///
    /// # Errors
    ///
    /// As for that, and [`Error::Closed`].
    pub fn start(
        &self,
        instance: impl Into<String>,
        priority: Option<Priority>,
    ) -> Result<InstanceId, Error<RequestError>> {
        flatten(self.background.block_on(None, self.inner.start(instance, priority)))
    }

    /// Stops an instance and waits until it has stopped, see [`sdk::Runtime::stop`].
    ///
    /// # Errors
    ///
    /// As for that, and [`Error::Closed`].
    pub fn stop(&self, instance: impl Into<String>) -> Result<InstanceId, Error<RequestError>> {
        flatten(self.background.block_on(None, self.inner.stop(instance)))
    }

    /// All instances, the oldest first, see [`sdk::Runtime::list`].
    ///
    /// # Errors
    ///
    /// As for that, and [`Error::Closed`].
    pub fn list(&self) -> Result<Vec<RuntimeInfo>, Error<RequestError>> {
        flatten(self.background.block_on(None, self.inner.list()))
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}
