//! An async client of the control socket.
