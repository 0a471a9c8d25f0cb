//! The messages that the examples exchange.
#![forbid(unsafe_code)]

use orchestrator_proto::Message;
use orchestrator_proto::sdk::Schema;
use serde::{Deserialize, Serialize};

/// A question.
#[derive(Serialize, Deserialize, Schema, Message, Clone, Debug, PartialEq)]
#[message(name = "examples.ping.v1")]
pub struct Ping {
    /// Counts up.
    pub value: u32,
}

/// The answer to the [`Ping`] with the same value.
#[derive(Serialize, Deserialize, Schema, Message, Clone, Debug, PartialEq)]
#[message(name = "examples.pong.v1")]
pub struct Pong {
    /// The ping's.
    pub value: u32,
}
