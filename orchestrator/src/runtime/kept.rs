//! Connections of peers that can't connect anew: they outlive the daemon.
//!
//! Each is on the shelf for as long as it is served. The daemon that is killed has closed
//! nothing then, and its peer sees nothing of it; the next daemon takes the connection up.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::sync::Arc;

use tokio::net::UnixStream;

use super::Endpoint;

/// The first place of a connection. Those below it are for what there is once.
const FIRST: u64 = 16;

/// The places of an instance's connections. They are numbered in the order in which these were
/// accepted, and no number is used twice, so that the next daemon knows which is the newest: that
/// is the one that messages go to.
pub(super) struct Places {
    endpoint: Arc<Endpoint>,
    next: u64,
}

/// A connection's place. Whoever drops it has closed the connection, or is about to.
pub(super) struct Kept {
    endpoint: Arc<Endpoint>,
    place: u64,
}

impl Places {
    /// The connections that an earlier daemon served, in the order in which they were accepted,
    /// and places for more of them.
    pub(super) fn take(endpoint: &Arc<Endpoint>) -> (Vec<(UnixStream, Kept)>, Self) {
        let mut places = Self { endpoint: endpoint.clone(), next: FIRST };
        let mut streams = Vec::new();
        for (place, file) in endpoint.shelf.take_from(FIRST) {
            places.next = place + 1;
            let kept = Kept { endpoint: endpoint.clone(), place };
            match connection(file) {
                Ok(stream) => streams.push((stream, kept)),
                Err(error) => {
                    let instance = endpoint.instance;
                    tracing::error!(%instance, %error, "a connection can't be taken up");
                }
            }
        }
        (streams, places)
    }

    /// Keeps a connection from now on.
    pub(super) fn keep(&mut self, stream: &UnixStream) -> Kept {
        let place = self.next;
        self.next += 1;
        self.endpoint.shelf.put(place, stream.as_fd());
        Kept { endpoint: self.endpoint.clone(), place }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.endpoint.shelf.clear(self.place);
    }
}

fn connection(file: OwnedFd) -> io::Result<UnixStream> {
    let stream = StdStream::from(file);
    // As it is already: the flag belongs to the connection, not to who has it.
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}
