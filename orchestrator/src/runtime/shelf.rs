//! Where files outlive the daemon.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::pin::Pin;

use orchestrator_proto::LinkId;

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

    /// Puts a file there that is not needed here before it is [fetched](Self::fetch): nobody need
    /// have it open.
    fn deposit(&self, place: u64, file: OwnedFd);

    /// A file that was [taken](Self::take) from there is still there, as if it had been
    /// [deposited](Self::deposit).
    fn put_back(&self, place: u64, file: OwnedFd);

    /// The file that is there; none if there is none. Does not borrow.
    fn fetch(
        &self,
        place: u64,
    ) -> Pin<Box<dyn Future<Output = io::Result<Option<OwnedFd>>> + Send>>;

    /// Nothing is to be found there any more.
    fn clear(&self, place: u64);
}

/// The place of the daemon's ends of lanes, which the next daemon will find again. Nothing here waits.
pub trait LaneShelf: Send + Sync + 'static {
    /// Keeps the end of this lane, which carries messages of that link.
    fn keep(&self, link: LinkId, lane: u64, end: BorrowedFd<'_>);

    /// It is kept no longer.
    fn forget(&self, link: LinkId, lane: u64);
}
