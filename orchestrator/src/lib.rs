//! The daemon, as a library with a thin `main.rs`. Its rooms, from the ground up:
//!
//! - [`holder`]: the parent process;
//! - [`supervise`]: what should happen to an instance (pure);
//! - [`plan`]: what differs between what is wanted and what is there (pure);
//! - [`process`]: how it happens, on Linux;
//! - [`listen`]: sockets that listen for instances;
//! - [`route`]: links, mailboxes, policies;
//! - [`runtime`]: the sockets that instances talk over;
//! - [`logs`]: what instances print;
//! - [`health`]: whether they are ready and well, and what they say of that;
//! - [`store`]: what outlives the daemon;
//! - [`events`]: what happened;
//! - [`registry`]: the instances, where these meet;
//! - [`doctor`]: what the machine and the installation allow;
//! - [`control`]: the socket that clients talk over;
//! - [`daemon`]: builds the rooms, connects them, shuts them down in order;
//! - [`log`]: the daemon's own log;
//! - [`options`]: the command line.
//!
//! Arrows point upwards in this list only: a room knows those above it and none below.

pub mod control;
pub mod daemon;
pub mod doctor;
pub mod events;
pub mod health;
pub mod holder;
mod inbox;
pub mod listen;
pub mod log;
pub mod logs;
pub mod options;
pub mod plan;
#[cfg(test)]
mod polled;
mod private_socket;
pub mod process;
pub mod registry;
pub mod route;
pub mod runtime;
mod shown;
pub mod store;
pub mod supervise;
