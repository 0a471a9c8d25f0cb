//! PURE: the time at which a message was sent, behind its payload: see
//! [`Frame::Stamps`](super::Frame::Stamps).

/// Bytes of a stamp: nanoseconds since 1970 (UTC), little-endian.
pub const STAMP: usize = 8;

/// A payload with a stamp behind it, apart; none if it is too short for one.
#[must_use]
pub fn unstamped(payload: &[u8]) -> Option<(&[u8], u64)> {
    let (value, stamp) = payload.split_last_chunk::<STAMP>()?;
    Some((value, u64::from_le_bytes(*stamp)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_the_last_eight_bytes() {
        let payload = [&b"value"[..], &7_u64.to_le_bytes()].concat();
        assert_eq!(unstamped(&payload), Some((&b"value"[..], 7)));
        assert_eq!(unstamped(&payload[5..]), Some((&b""[..], 7)));
        assert_eq!(unstamped(&payload[6..]), None);
    }
}
