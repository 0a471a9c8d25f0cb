//! Where files outlive the daemon.

use std::os::fd::{BorrowedFd, OwnedFd};

/// The place of the socket on which an instance says how it is. The listeners of its two dialects
/// have those before it, its connections those from 16 on.
pub const NOTIFY_PLACE: u64 = 3;

/// The place of one instance's files that the next daemon will find again.
pub trait Shelf: Send + Sync + 'static {
    /// Takes what an earlier daemon has put there. Once.
    fn take(&self, place: u64) -> Option<OwnedFd>;

    /// Takes what an earlier daemon has put in this place and those after it, in their order, but
    /// for the sockets that listen for the instance's program.
    fn take_from(&self, first: u64) -> Vec<(u64, OwnedFd)>;

    /// Puts a file there, instead of another one in that place.
    fn put(&self, place: u64, file: BorrowedFd<'_>);

    /// Nothing is to be found there any more.
    fn clear(&self, place: u64);
}

/// A shelf that keeps nothing.
impl Shelf for () {
    fn take(&self, _: u64) -> Option<OwnedFd> {
        None
    }

    fn take_from(&self, _: u64) -> Vec<(u64, OwnedFd)> {
        Vec::new()
    }

    fn put(&self, _: u64, _: BorrowedFd<'_>) {}

    fn clear(&self, _: u64) {}
}
