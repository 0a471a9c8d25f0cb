//! Lengths of time, as people write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Units, the longest first, in milliseconds.
const UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// A length of time in milliseconds. On the wire it is a number; where people read it, such as
/// JSON and TOML, a text: `500ms`, `10s`, `1m30s`, `1h`, `2d`. Without a unit it counts seconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Millis(pub u64);

impl Millis {
    /// No time.
    pub const ZERO: Self = Self(0);

    /// So many seconds.
    #[must_use]
    pub const fn secs(seconds: u64) -> Self {
        Self(seconds * 1000)
    }

    /// As the standard library has it.
    #[must_use]
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl From<Duration> for Millis {
    /// What is shorter than a millisecond is cut; what is too long is as long as can be.
    fn from(duration: Duration) -> Self {
        Self(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.0;
        for (unit, ms) in UNITS {
            let count = rest / ms;
            rest %= ms;
            if count > 0 {
                write!(f, "{count}{unit}")?;
            }
        }
        Ok(())
    }
}

/// A text that is not a length of time.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotMillis {
    /// It is something else.
    #[error("{0:?} is not a time; write 500ms, 10s, 2m, 1h, 1d, 1m30s, or a number of seconds")]
    Form(String),
    /// It is more than there is room for.
    #[error("{0:?} is too long a time")]
    TooLong(String),
}

impl FromStr for Millis {
    type Err = NotMillis;

    fn from_str(text: &str) -> Result<Self, NotMillis> {
        let no_time = || NotMillis::Form(text.to_owned());
        let too_long = || NotMillis::TooLong(text.to_owned());
        let mut rest = text;
        let mut sum = 0_u64;
        let mut last_unit = u64::MAX;
        while !rest.is_empty() {
            let (number, after) = split(rest, |c| c.is_ascii_digit());
            let (unit, after) = split(after, |c| !c.is_ascii_digit());
            let unit_ms = match UNITS.iter().find(|(name, _)| *name == unit) {
                Some((_, ms)) => *ms,
                None if unit.is_empty() && rest.len() == text.len() => 1000,
                None => return Err(no_time()),
            };
            if number.is_empty() || unit_ms >= last_unit {
                return Err(no_time());
            }
            let part = number.parse::<u64>().ok().and_then(|it| it.checked_mul(unit_ms));
            sum = part.and_then(|part| sum.checked_add(part)).ok_or_else(too_long)?;
            (rest, last_unit) = (after, unit_ms);
        }
        if text.is_empty() { Err(no_time()) } else { Ok(Self(sum)) }
    }
}

fn split(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Millis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Readable;
        impl de::Visitor<'_> for Readable {
            type Value = Millis;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time such as \"10s\", or a number of seconds")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Millis, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Millis, E> {
                let too_long = || E::custom(format_args!("{seconds} seconds are too long a time"));
                seconds.checked_mul(1000).map(Millis).ok_or_else(too_long)
            }
            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Millis, E> {
                match u64::try_from(seconds) {
                    Ok(seconds) => self.visit_u64(seconds),
                    Err(_) => Err(E::custom(format_args!("{seconds} is not a time"))),
                }
            }
        }
        if deserializer.is_human_readable() {
            deserializer.deserialize_any(Readable)
        } else {
            u64::deserialize(deserializer).map(Self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_people_write() {
        let ms = |text: &str| text.parse::<Millis>().map(|it| it.0);
        assert_eq!(ms("500ms"), Ok(500));
        assert_eq!(ms("10"), Ok(10_000));
        assert_eq!(ms("10s"), Ok(10_000));
        assert_eq!(ms("2m"), Ok(120_000));
        assert_eq!(ms("1h"), Ok(3_600_000));
        assert_eq!(ms("1d"), Ok(86_400_000));
        assert_eq!(ms("1m30s"), Ok(90_000));
        assert_eq!(ms("0"), Ok(0));
        for bad in ["", "s", "1.5s", "-1s", "10 s", "5x", "1s1m", "1s1s", "1m30", "١s"] {
            assert!(matches!(ms(bad), Err(NotMillis::Form(_))), "{bad}");
        }
        assert!(matches!(ms("99999999999999999999s"), Err(NotMillis::TooLong(_))));
        assert!(matches!(ms("18446744073709551615d"), Err(NotMillis::TooLong(_))));
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_as_the_same(ms in any::<u64>()) {
            let shown = Millis(ms).to_string();
            prop_assert_eq!(shown.parse(), Ok(Millis(ms)));
            let json = serde_json::to_string(&Millis(ms)).unwrap();
            prop_assert_eq!(serde_json::from_str::<Millis>(&json).unwrap(), Millis(ms));
            let bytes = postcard::to_stdvec(&Millis(ms)).unwrap();
            prop_assert_eq!(&bytes, &postcard::to_stdvec(&ms).unwrap());
            prop_assert_eq!(postcard::from_bytes::<Millis>(&bytes).unwrap(), Millis(ms));
        }
    }
}
