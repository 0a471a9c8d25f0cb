//! The pure halves by themselves, and both ends on real memory.
//!
//! The models of loom are tests like the others, since the halves take their memory as a parameter;
//! `LOOM_MAX_PREEMPTIONS=3` lets them try more. For Miri, with a nightly toolchain that has it:
//!
//! ```text
//! cargo +nightly miri test -p orchestrator-proto --features ring --lib ring::
//! ```

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
#[cfg(all(feature = "sdk", not(miri)))]
mod stream;
