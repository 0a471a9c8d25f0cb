//! The messages that the examples exchange.
#![forbid(unsafe_code)]

/// The programs in the README are compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
mod readme {}

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

/// What a sensor has read.
#[derive(Serialize, Deserialize, Schema, Message, Clone, Copy, Debug, PartialEq)]
#[message(name = "examples.reading.v1")]
pub struct Reading {
    /// Counts up.
    pub number: u32,
    /// Degrees.
    pub celsius: f32,
}

/// How often a sensor is to be read from now on.
#[derive(Serialize, Deserialize, Schema, Message, Clone, Copy, Debug, PartialEq)]
#[message(name = "examples.interval.v1")]
pub struct Interval {
    /// Milliseconds; 0 is 1.
    pub ms: u32,
}

/// How often a number is in another one? Answered by a [`Quotient`].
#[derive(Serialize, Deserialize, Schema, Message, Clone, Copy, PartialEq, Eq, Debug)]
#[message(name = "examples.divide.v1")]
pub struct Divide {
    /// What is divided.
    pub dividend: i64,
    /// By what.
    pub divisor: i64,
}

/// What comes of a division. Only a reply, so it needs no name.
#[derive(Serialize, Deserialize, Schema, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quotient {
    /// How often.
    pub value: i64,
    /// What is left.
    pub rest: i64,
}
