//! Length-prefixed framing, used by both protocols: a `u32`, little-endian, that counts the
//! bytes of the body, then the body.
//!
//! The bound is checked on the prefix alone, before anything is allocated for the body.

use serde::Serialize;
use thiserror::Error;

/// Bytes of the length prefix.
pub const PREFIX: usize = 4;

/// The largest body on an instance's socket and on a lane, in either direction: 64 MiB, and what a
/// message of so much payload has around it.
pub const MAX_RUNTIME: usize = (64 << 20) + 32;

/// The largest body on the control socket, in either direction: 64 MiB, and what a message of so much
/// payload has around it there.
pub const MAX_CONTROL: usize = (64 << 20) + (4 << 10);

/// Why bytes are not a frame. The connection can't be read any further after this: where the
/// next frame begins is unknown.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FrameError {
    /// No message has an empty body.
    #[error("a frame of length 0")]
    Empty,
    /// The prefix promises more than the bound.
    #[error("a frame of {length} bytes; at most {max} are allowed")]
    TooLong {
        /// What the prefix says.
        length: usize,
        /// The bound.
        max: usize,
    },
}

/// The body's length if `bytes` begin with a whole prefix, whether or not the body is there yet.
///
/// # Errors
///
/// When the length is 0 or above `max`.
pub fn body_length(bytes: &[u8], max: usize) -> Result<Option<usize>, FrameError> {
    let Some(prefix) = bytes.first_chunk::<PREFIX>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*prefix) as usize;
    if length == 0 {
        Err(FrameError::Empty)
    } else if length > max {
        Err(FrameError::TooLong { length, max })
    } else {
        Ok(Some(length))
    }
}

/// The first body in `bytes`, if it is there completely. It is followed by
/// `bytes[PREFIX + body.len()..]`.
///
/// # Errors
///
/// As [`body_length`].
pub fn first_body(bytes: &[u8], max: usize) -> Result<Option<&[u8]>, FrameError> {
    let length = body_length(bytes, max)?;
    Ok(length.and_then(|length| bytes.get(PREFIX..PREFIX + length)))
}

/// Appends `value` to `out` as one frame.
///
/// # Errors
///
/// When the encoded value is longer than `max`; `out` is then as it was.
pub fn append<T: Serialize + ?Sized>(
    out: &mut Vec<u8>,
    value: &T,
    max: usize,
) -> Result<(), EncodeError> {
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX]);
    let encoded = postcard::to_extend(value, Appender(out));
    let result = match encoded {
        Ok(_) => Ok(out.len() - start - PREFIX),
        Err(error) => Err(EncodeError::Postcard(error)),
    };
    match result {
        Ok(length) if (1..=max).contains(&length) => {
            // `length` is at most `max`, and both bounds of this crate fit 32 bits.
            out[start..start + PREFIX].copy_from_slice(&(length as u32).to_le_bytes());
            Ok(())
        }
        Ok(length) => {
            out.truncate(start);
            Err(EncodeError::TooLong { length, max })
        }
        Err(error) => {
            out.truncate(start);
            Err(error)
        }
    }
}

/// `value` as one frame.
///
/// # Errors
///
/// As [`append`].
pub fn encode<T: Serialize + ?Sized>(value: &T, max: usize) -> Result<Vec<u8>, EncodeError> {
    let mut out = Vec::with_capacity(64);
    append(&mut out, value, max)?;
    Ok(out)
}

/// Why a value can't be sent.
#[derive(Debug, Error)]
pub enum EncodeError {
    /// It would not fit a frame.
    #[error("the message has {length} bytes; at most {max} fit a frame")]
    TooLong {
        /// Its encoded length.
        length: usize,
        /// The bound.
        max: usize,
    },
    /// Its `Serialize` implementation failed.
    #[error("the message can't be encoded: {0}")]
    Postcard(postcard::Error),
}

/// Lets postcard append to a borrowed vector.
struct Appender<'a>(&'a mut Vec<u8>);

impl Extend<u8> for Appender<'_> {
    fn extend<I: IntoIterator<Item = u8>>(&mut self, bytes: I) {
        self.0.extend(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_bound_is_checked_on_the_prefix_alone() {
        let four_gib = u32::MAX.to_le_bytes();
        assert_eq!(
            body_length(&four_gib, 100),
            Err(FrameError::TooLong { length: u32::MAX as usize, max: 100 })
        );
        assert_eq!(body_length(&[0; 4], 100), Err(FrameError::Empty));
        assert_eq!(body_length(&[1, 0, 0], 100), Ok(None));
    }

    #[test]
    fn what_does_not_fit_leaves_the_buffer_as_it_was() {
        let mut out = vec![7];
        assert!(append(&mut out, &vec![0_u8; 100], 50).is_err());
        assert_eq!(out, [7]);
    }

    proptest! {
        #[test]
        fn frames_come_back_wherever_the_stream_is_cut(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut stream = Vec::new();
            for body in &bodies {
                append(&mut stream, body, 1000).unwrap();
            }
            let cut = cut.index(stream.len() + 1);
            let (mut seen, mut at) = (Vec::new(), 0);
            for end in [cut, stream.len()] {
                while let Some(body) = first_body(&stream[at..end], 1000).unwrap() {
                    at += PREFIX + body.len();
                    seen.push(postcard::from_bytes::<Vec<u8>>(body).unwrap());
                }
            }
            prop_assert_eq!(at, stream.len());
            prop_assert_eq!(seen, bodies);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = first_body(&bytes, 32);
        }
    }
}
