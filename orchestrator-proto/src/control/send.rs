//! A message that a client sends to an instance itself.

use serde::{Deserialize, Serialize};

use super::spec::Selector;
use crate::id::InstanceId;
use crate::millis::Millis;

/// A message, or the request of a call, as a person writes it, and who is to get it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SendSpec {
    /// Which instance; not a set of replicas, but one of them.
    pub to: Selector,
    /// The declared name of the message's type, 1 to 255 bytes.
    pub type_name: String,
    /// The message, or the request, as JSON, in the form that `link tap` shows.
    pub payload: String,
    /// How long it may take until the instance has it, or has replied: 1 ms to [`SendSpec::MAX_TIMEOUT`].
    pub timeout: Millis,
}

impl SendSpec {
    /// The longest `timeout`: a day.
    pub const MAX_TIMEOUT: Millis = Millis::secs(86_400);

    /// Messages and calls of clients that may be under way to one instance.
    pub const MAX_UNDER_WAY: u32 = 64;
}

/// A message of a client that was delivered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Sent {
    /// The instance that has it.
    pub id: InstanceId,
    /// Its type.
    pub type_name: String,
    /// Bytes of its payload, in the encoding of the instance.
    pub size: u64,
}

/// The reply to a call of a client.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Called {
    /// The instance that has replied.
    pub id: InstanceId,
    /// The type of the call.
    pub type_name: String,
    /// The reply as JSON.
    pub reply: String,
}
