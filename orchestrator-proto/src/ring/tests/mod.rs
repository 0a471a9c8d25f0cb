//! The pure halves by themselves, and both ends on real memory.

#[cfg(not(miri))]
mod adversary;
#[cfg(all(feature = "sdk", not(miri)))]
mod awaiting;
mod heap;
#[cfg(not(miri))]
mod kernel;
#[cfg(not(miri))]
mod loom;
mod model;
#[cfg(not(miri))]
mod processes;
