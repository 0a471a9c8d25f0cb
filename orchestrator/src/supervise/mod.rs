//! What should happen to an instance: the state machine of one instance, and who needs whom.
//!
//! For `process/`, whose keeper feeds a [`Machine`] with what happened and carries out what
//! it answers. Pure: no clock, no file, no process, no async. The time comes in as an
//! argument, so that every path can be tested without waiting.
//!
//! It promises that
//!
//! - there are never two processes of one instance: each [`Action::Spawn`] comes after the
//!   end of everything that the one before started;
//! - a stop is final: an instance that should be stopped ends in [`State::Stopped`], and if
//!   it does not go by itself, it is sent SIGKILL;
//! - every request is answered, and truly;
//! - it waits for no time in a state where nothing is due, so an idle instance costs nothing.

mod action;
mod backoff;
mod calendar;
mod event;
mod machine;
mod needs;
mod rules;
mod state;

#[cfg(test)]
mod tests;

pub use action::{Action, Notice, StartAnswer};
pub use calendar::{Calendar, Look};
pub use event::{Effect, Event};
pub use machine::Machine;
pub use needs::{Consequence, Needs, Standing};
pub use rules::Rules;
pub use state::{Cause, End, How, Main, Phase, State, Then};

/// SIGKILL, see signal(7).
pub(crate) const SIGKILL: i32 = 9;
