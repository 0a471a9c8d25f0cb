//! A bare socket, with as many bytes in one call as are there.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::pipe::Pipe;

/// Of one call in a burst, at most.
pub(super) const BURST_BYTES: usize = 64 << 10;
/// What is read at once in a burst.
const CHUNK: usize = 256 << 10;

/// To one receiver, or to some: each gets all that is sent, and the first one is heard.
pub(super) struct Streams(pub(super) Vec<UnixStream>);

impl Pipe for Streams {
    fn send(&mut self, bytes: &[u8]) {
        self.0.iter_mut().for_each(|stream| stream.write_all(bytes).unwrap());
    }

    fn receive(&mut self, into: &mut Vec<u8>) {
        self.0[0].read_exact(into).unwrap();
    }

    fn send_many(&mut self, bytes: &[u8], count: usize) {
        for burst in bursts(bytes.len(), count) {
            self.send(&bytes.repeat(burst));
        }
    }

    fn receive_many(&mut self, into: &mut Vec<u8>, count: usize) {
        let mut left = into.len() * count;
        let mut chunk = vec![0; CHUNK];
        while left > 0 {
            let most = left.min(CHUNK);
            match self.0[0].read(&mut chunk[..most]).unwrap() {
                0 => panic!("{left} bytes are missing"),
                read => left -= read,
            }
        }
    }
}

/// How many messages of this size go with each call, until it is `count` of them.
pub(super) fn bursts(size: usize, count: usize) -> impl Iterator<Item = usize> {
    let most = (BURST_BYTES / size).max(1);
    (0..count).step_by(most).map(move |at| most.min(count - at))
}
