//! What crosses a process boundary.
//!
//! Two protocols are defined here, without a socket or a clock in their types:
//!
//! - [`control`]: a client (the command line, a program) drives a daemon;
//! - [`runtime`]: an instance exchanges typed messages through its daemon.
//!
//! Both are frames ([`frame`]) with a [postcard](https://postcard.jamesmunns.com/wire-format)
//! body. `PROTOCOL.md` beside this crate describes them byte by byte.
//!
//! Features: `client` is an async client of the control socket, `sdk` is what a runtime
//! links against, `manifest` reads and writes `orchestrator.toml`, `timetable` says when a
//! schedule runs, `ring` passes messages through memory that two programs share; `sdk` has it too.

// `#[derive(Message)]` names this crate from outside, in tests too.
#[cfg(all(test, feature = "sdk"))]
extern crate self as orchestrator_proto;

pub mod control;
pub mod error;
pub mod frame;
pub mod id;
pub mod millis;
pub mod os;
pub mod paths;
pub mod rare;
pub mod runtime;
pub mod schema;
pub mod signal;
pub mod size;

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "manifest")]
pub mod manifest;
#[cfg(feature = "ring")]
pub mod ring;
#[cfg(feature = "sdk")]
pub mod sdk;
#[cfg(feature = "timetable")]
pub mod timetable;

pub use error::{ErrorCode, WireError};
pub use id::{InstanceId, LinkId};
pub use millis::Millis;
pub use os::OsBytes;
pub use schema::{SchemaHash, TypeSchema};
pub use size::Size;

#[cfg(feature = "sdk")]
pub use postcard_schema;
#[cfg(feature = "sdk")]
pub use sdk::Message;
