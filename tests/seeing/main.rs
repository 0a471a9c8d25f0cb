//! Seeing it: what is listed and shown, completed, checked and watched, against the real daemon,
//! and on a real terminal.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

mod complete;
mod doctor;
mod list;
mod terminal;
mod top;
