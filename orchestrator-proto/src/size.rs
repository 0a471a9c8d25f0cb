//! Amounts of bytes, as people write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Units that are shown, the largest first.
const SHOWN: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
/// Those that are read as well.
const READ: [(&str, u64); 7] = [
    ("B", 1),
    ("kB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    // As the kernel and systemd read them.
    ("K", 1 << 10),
    ("M", 1 << 20),
    ("G", 1 << 30),
];

/// An amount of bytes. On the wire it is a number; where people read it, such as JSON and TOML,
/// a text: `64KiB`, `8MiB`, `1GB`; `64K`, `8M` and `1G` mean KiB, MiB and GiB. Without a unit it
/// counts bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Size(pub u64);

impl Size {
    /// So many MiB.
    #[must_use]
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, unit): &(&str, u64)| self.0 >= *unit && self.0.is_multiple_of(*unit);
        match SHOWN.iter().find(|unit| fits(unit)) {
            Some((name, unit)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// A text that is not an amount of bytes.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotSize {
    /// It is something else.
    #[error("{0:?} is not a size; write 64KiB, 8MiB, 1GiB, 500kB, 10MB, or a number of bytes")]
    Form(String),
    /// It is more than there is room for.
    #[error("{0:?} is too large a size")]
    TooLarge(String),
}

impl FromStr for Size {
    type Err = NotSize;

    fn from_str(text: &str) -> Result<Self, NotSize> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let known = SHOWN.iter().chain(&READ).find(|(name, _)| *name == unit);
        let unit = match known {
            Some((_, unit)) if !number.is_empty() => *unit,
            None if unit.is_empty() && !number.is_empty() => 1,
            _ => return Err(NotSize::Form(text.to_owned())),
        };
        let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
        bytes.map(Self).ok_or_else(|| NotSize::TooLarge(text.to_owned()))
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Readable;
        impl de::Visitor<'_> for Readable {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"8MiB\", or a number of bytes")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
                Ok(Size(bytes))
            }
            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
                let negative = |_| E::custom(format_args!("{bytes} is not a size"));
                u64::try_from(bytes).map(Size).map_err(negative)
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
        let bytes = |text: &str| text.parse::<Size>().map(|it| it.0);
        assert_eq!(bytes("0"), Ok(0));
        assert_eq!(bytes("65536"), Ok(65_536));
        assert_eq!(bytes("64KiB"), Ok(65_536));
        assert_eq!(bytes("8MiB"), Ok(8 << 20));
        assert_eq!(bytes("1GB"), Ok(1_000_000_000));
        assert_eq!(bytes("512M"), Ok(512 << 20));
        for bad in ["", "MiB", "-1", "1.5MiB", "1 MiB", "1m", "1MiB1", "١MB"] {
            assert!(matches!(bytes(bad), Err(NotSize::Form(_))), "{bad}");
        }
        assert!(matches!(bytes("99999999999999999999"), Err(NotSize::TooLarge(_))));
        assert!(matches!(bytes("18446744073709551615kB"), Err(NotSize::TooLarge(_))));
        assert_eq!(Size::mib(8).to_string(), "8MiB");
        assert_eq!(Size(1_000_000).to_string(), "1000000B");
        assert_eq!(serde_json::from_str::<Size>("4096").unwrap(), Size(4096));
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_as_the_same(bytes in any::<u64>(), shift in 0_u32..64) {
            let size = Size(bytes >> shift << (shift / 2));
            prop_assert_eq!(size.to_string().parse(), Ok(size));
            let json = serde_json::to_string(&size).unwrap();
            prop_assert_eq!(serde_json::from_str::<Size>(&json).unwrap(), size);
            let encoded = postcard::to_stdvec(&size).unwrap();
            prop_assert_eq!(&encoded, &postcard::to_stdvec(&size.0).unwrap());
            prop_assert_eq!(postcard::from_bytes::<Size>(&encoded).unwrap(), size);
        }
    }
}
