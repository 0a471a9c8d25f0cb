//! What the SDK gives beyond sending and receiving, against a real daemon: what is known of a
//! message, large ones, and programs without tokio.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

mod blocking;
mod envelopes;
mod large;
mod stage;
