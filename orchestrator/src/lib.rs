//! The daemon's rooms, from the ground up: see each module's first lines.

pub mod logs;
pub mod process;
pub mod supervise;
