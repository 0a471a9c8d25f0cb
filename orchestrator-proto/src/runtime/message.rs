//! PURE: the frames that nearly all are, put together and taken apart without a serializer: what stands
//! before the payload of a [`Frame::Message`](super::Frame::Message).

use crate::frame::PREFIX;

/// Its number on the wire.
const TAG: u8 = 4;

/// The longest head, bytes: the prefix, the tag, and two numbers in base 128 of at most 32 bits, of
/// which the first has at most 16.
const MAX_HEAD: usize = PREFIX + 1 + 3 + 5;

/// What stands before a payload of this length, as a frame: the prefix, the tag, the channel, the
/// length. And how many bytes that is.
pub(crate) fn head(channel: u16, payload: usize) -> ([u8; MAX_HEAD], usize) {
    let mut head = [0; MAX_HEAD];
    let mut end = PREFIX;
    head[end] = TAG;
    end += 1;
    for mut number in [u32::from(channel), payload as u32] {
        while number > 0x7f {
            head[end] = number as u8 | 0x80;
            number >>= 7;
            end += 1;
        }
        head[end] = number as u8;
        end += 1;
    }
    let body = (end - PREFIX + payload) as u32;
    head[..PREFIX].copy_from_slice(&body.to_le_bytes());
    (head, end)
}

/// The channel and the payload of a frame, without its prefix, if it is a message, written as [`head`]
/// does. None does not mean that it is none.
pub(crate) fn parts(body: &[u8]) -> Option<(u16, &[u8])> {
    let (&TAG, rest) = body.split_first()? else { return None };
    let (channel, rest) = number(rest)?;
    let (length, payload) = number(rest)?;
    (payload.len() == length as usize).then_some((u16::try_from(channel).ok()?, payload))
}

/// A number of at most 28 bits, in base 128, and what follows it.
fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let mut number = 0;
    for (at, byte) in bytes.iter().take(4).enumerate() {
        number |= u32::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((number, &bytes[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{self, MAX_RUNTIME};
    use crate::runtime::Frame;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_message_is_written_and_read_as_all_frames_are(
            channel in any::<u16>(),
            payload in prop_oneof![0..300_usize, 16_000..17_000_usize]
                .prop_map(|length| vec![7; length]),
        ) {
            let message = Frame::Message { channel, payload: &payload };
            let frame = frame::encode(&message, MAX_RUNTIME).unwrap();
            let (head, length) = head(channel, payload.len());
            prop_assert_eq!(&frame[..length], &head[..length]);
            prop_assert_eq!(parts(&frame[PREFIX..]), Some((channel, &payload[..])));
        }

        #[test]
        fn whatever_is_read_as_a_message_is_that_message(
            body in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..20),
                prop::collection::vec(any::<u8>(), 0..20).prop_map(|rest| [vec![TAG], rest].concat()),
            ],
        ) {
            if let Some((channel, payload)) = parts(&body) {
                prop_assert_eq!(
                    postcard::take_from_bytes::<Frame<'_>>(&body).unwrap(),
                    (Frame::Message { channel, payload }, &[][..])
                );
            }
        }
    }
}
