//! How much the kernel takes at once or not at all.
//!
//! A daemon that is killed can't say how far it has come. If all that it ever gives to the kernel
//! in one call are whole lines, and the kernel takes all of them or none, no peer is left with
//! the beginning of a line whose end nobody has.
//!
//! What is written to a Unix stream socket that does not wait is put into buffers of the
//! kernel's, one after the other, and the call ends early where there is no room for the next
//! one. What fits into one buffer is therefore never divided. That is not in unix(7), but in
//! `unix_stream_sendmsg` of `net/unix/af_unix.c`, since Linux 3.12: a buffer holds what is to be
//! written, up to half of the socket's send buffer without 64 bytes, and up to 32 KiB and what
//! four pages hold beside it.

use std::os::fd::AsFd;

use nix::sys::socket::{getsockopt, sockopt::SndBuf};

/// The most bytes, on any machine: 32 KiB.
const MOST: usize = 32 << 10;

/// How many bytes this Unix stream socket takes whole or not at all, at least `least`. That many
/// are taken so whatever the socket is set to if they are at most 2,240: the kernel does not let
/// a send buffer have less than 4,608 bytes.
pub(super) fn at_once(socket: &impl AsFd, least: usize) -> usize {
    let buffer = getsockopt(socket, SndBuf).unwrap_or_default();
    (buffer / 2).saturating_sub(64).clamp(least, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::setsockopt;
    use proptest::prelude::*;
    use std::io::{ErrorKind, IoSlice, Read, Write};
    use std::os::unix::net::UnixStream;

    proptest! {
        #[test]
        fn the_kernel_takes_all_of_it_or_nothing(
            buffer in prop_oneof![Just(None), (0..300_000_usize).prop_map(Some)],
            sizes in prop::collection::vec((1..=MOST, 0..60_000_usize), 1..200),
        ) {
            let (mut near, mut far) = UnixStream::pair().unwrap();
            near.set_nonblocking(true).unwrap();
            far.set_nonblocking(true).unwrap();
            if let Some(bytes) = buffer {
                setsockopt(&near, SndBuf, &bytes).unwrap();
            }
            let most = at_once(&near, 2049);
            prop_assert!(most >= 2049);
            let (bytes, mut sink) = (vec![b'x'; MOST], vec![0; 60_000]);
            let mut full = 0;
            for (size, read) in sizes {
                let size = size.min(most);
                loop {
                    let (first, second) = bytes[..size].split_at(size / 3);
                    match near.write_vectored(&[IoSlice::new(first), IoSlice::new(second)]) {
                        Ok(taken) => prop_assert_eq!(taken, size),
                        Err(error) => {
                            prop_assert_eq!(error.kind(), ErrorKind::WouldBlock);
                            full += 1;
                            break;
                        }
                    }
                }
                let _ = far.read(&mut sink[..read]);
            }
            prop_assert!(full > 0);
        }
    }
}
