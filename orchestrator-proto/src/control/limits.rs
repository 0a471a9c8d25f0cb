//! How much of the machine an instance may use: its memory, its processors, its processes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::rare::Usual;
use crate::size::Size;

/// What all processes of an instance together may use, as the kernel's cgroups enforce it; see
/// <https://docs.kernel.org/admin-guide/cgroup-v2.html>. Nothing is without a limit.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Limits {
    /// The most memory (`memory.max`), [`Limits::MIN_MEMORY`] or more. If it can't be kept, the
    /// kernel kills a process of the instance.
    pub memory_max: Option<Size>,
    /// From so much memory on it is slowed down and has memory taken back (`memory.high`), as much
    /// as [`Limits::MIN_MEMORY`] or more, and not more than `memory_max`.
    pub memory_high: Option<Size>,
    /// The most swap (`memory.swap.max`); 0 is none.
    pub swap_max: Option<Size>,
    /// The most time of processors (`cpu.max`).
    pub cpu: Option<CpuQuota>,
    /// Its share where processors are short (`cpu.weight`), 1 to [`Limits::MAX_WEIGHT`]; others
    /// have 100.
    pub cpu_weight: Option<u32>,
    /// The most processes and threads (`pids.max`), 1 to [`Limits::MAX_PIDS`].
    pub pids_max: Option<u32>,
    /// Its share where disks are slow (`io.weight`), 1 to [`Limits::MAX_WEIGHT`]; others have 100.
    pub io_weight: Option<u32>,
    /// It is not started where not all of these can be in force. Without it a start only warns.
    pub limits_required: bool,
}

impl Usual for Limits {
    const USUAL: &'static Self = &Self {
        memory_max: None,
        memory_high: None,
        swap_max: None,
        cpu: None,
        cpu_weight: None,
        pids_max: None,
        io_weight: None,
        limits_required: false,
    };
}

impl Limits {
    /// The least memory that can be asked for, 1 MiB: with less nothing is executed.
    pub const MIN_MEMORY: Size = Size(1 << 20);
    /// The largest weight.
    pub const MAX_WEIGHT: u32 = 10_000;
    /// The most processes, which is the most that Linux has.
    pub const MAX_PIDS: u32 = 1 << 22;

    /// Whether nothing is limited.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self { limits_required: self.limits_required, ..Self::default() }
    }

    /// Whether all of it makes sense.
    ///
    /// # Errors
    ///
    /// The key of the first that does not, and why.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        for (key, size) in [("memory-max", self.memory_max), ("memory-high", self.memory_high)] {
            if let Some(size) = size.filter(|size| *size < Self::MIN_MEMORY) {
                return Err((key, format!("{size} is less than {}", Self::MIN_MEMORY)));
            }
        }
        if let (Some(high), Some(max)) = (self.memory_high, self.memory_max)
            && high > max
        {
            return Err(("memory-high", format!("{high} is more than memory-max, {max}")));
        }
        for (key, weight) in [("cpu-weight", self.cpu_weight), ("io-weight", self.io_weight)] {
            let most = Self::MAX_WEIGHT;
            if let Some(weight) = weight.filter(|weight| !(1..=most).contains(weight)) {
                return Err((key, format!("{weight} is not 1 to {most}")));
            }
        }
        let most = Self::MAX_PIDS;
        if let Some(pids) = self.pids_max.filter(|pids| !(1..=most).contains(pids)) {
            return Err(("pids-max", format!("{pids} is not 1 to {most}")));
        }
        match self.cpu {
            Some(cpu) if !CpuQuota::RANGE.contains(&cpu.0) => {
                Err(("cpu", format!("{cpu} is not {}", CpuQuota::RANGE_WORDS)))
            }
            _ => Ok(()),
        }
    }
}

/// For people, as in `memory-max 512MiB, cpu 150%`; empty if nothing is limited.
impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        words.extend(self.memory_max.map(|it| format!("memory-max {it}")));
        words.extend(self.memory_high.map(|it| format!("memory-high {it}")));
        words.extend(self.swap_max.map(|it| format!("swap-max {it}")));
        words.extend(self.cpu.map(|it| format!("cpu {it}")));
        words.extend(self.cpu_weight.map(|it| format!("cpu-weight {it}")));
        words.extend(self.pids_max.map(|it| format!("pids-max {it}")));
        words.extend(self.io_weight.map(|it| format!("io-weight {it}")));
        if self.limits_required {
            words.push("required".to_owned());
        }
        f.write_str(&words.join(", "))
    }
}

/// An amount of processor time, in thousandths of one processor. On the wire it is a number; where
/// people read it, such as JSON and TOML, a text: `150%`, which can be written as `1.5` too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CpuQuota(pub u32);

impl CpuQuota {
    /// 1% of a processor, which is what the kernel can do, to as many processors as it can have.
    pub const RANGE: std::ops::RangeInclusive<u32> = 10..=8_192_000;
    const RANGE_WORDS: &str = "1% (0.01 processors) to 819200% (8192 processors)";
}

impl fmt::Display for CpuQuota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 10, self.0 % 10) {
            (percent, 0) => write!(f, "{percent}%"),
            (percent, tenths) => write!(f, "{percent}.{tenths}%"),
        }
    }
}

/// A text that is not an amount of processor time.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotCpuQuota {
    /// It is something else.
    #[error(
        "{0:?} is not an amount of processor time; write 150% or 1.5 for one and a half processors"
    )]
    Form(String),
    /// It is finer than a tenth of a percent.
    #[error("{0:?} is finer than 0.1% of a processor")]
    TooFine(String),
    /// It is less or more than can be.
    #[error("{0:?} is not {range}", range = CpuQuota::RANGE_WORDS)]
    Range(String),
}

impl FromStr for CpuQuota {
    type Err = NotCpuQuota;

    fn from_str(text: &str) -> Result<Self, NotCpuQuota> {
        let form = || NotCpuQuota::Form(text.to_owned());
        let (number, unit, places) = match text.strip_suffix('%') {
            Some(number) => (number, 10, 1),
            None => (text, 1000, 3),
        };
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        let are_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !are_digits(whole) || !are_digits(part) {
            return Err(form());
        }
        let part = part.trim_end_matches('0');
        if part.len() > places {
            return Err(NotCpuQuota::TooFine(text.to_owned()));
        }
        let range = || NotCpuQuota::Range(text.to_owned());
        // Filled up with zeros to so many places, it counts thousandths.
        let part: u32 = format!("{part:0<places$}").parse().map_err(|_| form())?;
        let whole: u32 = whole.parse().map_err(|_| range())?;
        let milli = whole.checked_mul(unit).and_then(|milli| milli.checked_add(part));
        milli.filter(|milli| Self::RANGE.contains(milli)).map(Self).ok_or_else(range)
    }
}

impl Serialize for CpuQuota {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for CpuQuota {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            text.parse().map_err(de::Error::custom)
        } else {
            u32::deserialize(deserializer).map(Self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn amounts_of_processors_as_people_write_them() {
        let milli = |text: &str| text.parse::<CpuQuota>().map(|it| it.0);
        for (text, expected) in [
            ("150%", 1500),
            ("1.5", 1500),
            ("2", 2000),
            ("50%", 500),
            ("0.5", 500),
            ("12.5%", 125),
            ("0.125", 125),
            ("1.500", 1500),
            ("1%", 10),
            ("819200%", 8_192_000),
        ] {
            assert_eq!(milli(text), Ok(expected), "{text}");
        }
        for text in ["", "%", "-1", "1.", ".5", "1,5", "one", "1 %", "+1", "1.5.5", "1e3"] {
            assert!(matches!(milli(text), Err(NotCpuQuota::Form(_))), "{text}");
        }
        for text in ["0", "0%", "0.009", "0.9%", "8193", "99999999999"] {
            assert!(matches!(milli(text), Err(NotCpuQuota::Range(_))), "{text}");
        }
        for text in ["0.0005", "12.55%"] {
            assert!(matches!(milli(text), Err(NotCpuQuota::TooFine(_))), "{text}");
        }
        assert_eq!(CpuQuota(1500).to_string(), "150%");
        assert_eq!(CpuQuota(125).to_string(), "12.5%");
    }

    #[test]
    fn what_makes_no_sense_is_told_by_its_key() {
        let good = Limits {
            memory_max: Some(Size::mib(2)),
            memory_high: Some(Size::mib(2)),
            swap_max: Some(Size(0)),
            cpu: Some(CpuQuota(10)),
            cpu_weight: Some(10_000),
            pids_max: Some(1),
            io_weight: Some(1),
            limits_required: true,
        };
        assert_eq!(good.check(), Ok(()));
        let size = |bytes| Some(Size(bytes));
        let bad = [
            ("memory-max", Limits { memory_max: size(1000), ..good.clone() }),
            ("memory-high", Limits { memory_high: size(0), ..good.clone() }),
            ("memory-high", Limits { memory_high: size(3 << 20), ..good.clone() }),
            ("cpu", Limits { cpu: Some(CpuQuota(1)), ..good.clone() }),
            ("cpu-weight", Limits { cpu_weight: Some(0), ..good.clone() }),
            ("io-weight", Limits { io_weight: Some(10_001), ..good.clone() }),
            ("pids-max", Limits { pids_max: Some(0), ..good }),
        ];
        for (key, limits) in bad {
            assert_eq!(limits.check().unwrap_err().0, key);
        }
    }

    #[test]
    fn in_words() {
        assert_eq!(Limits::default().to_string(), "");
        assert!(Limits { limits_required: true, ..Limits::default() }.is_none());
        let limits = Limits {
            memory_max: Some(Size::mib(512)),
            cpu: Some(CpuQuota(1500)),
            ..Limits::default()
        };
        assert!(!limits.is_none());
        assert_eq!(limits.to_string(), "memory-max 512MiB, cpu 150%");
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_as_the_same(milli in CpuQuota::RANGE) {
            let quota = CpuQuota(milli);
            prop_assert_eq!(quota.to_string().parse(), Ok(quota));
            let processors = format!("{}.{:03}", milli / 1000, milli % 1000);
            prop_assert_eq!(processors.parse(), Ok(quota));
            let json = serde_json::to_string(&quota).unwrap();
            prop_assert_eq!(serde_json::from_str::<CpuQuota>(&json).unwrap(), quota);
            let encoded = postcard::to_stdvec(&quota).unwrap();
            prop_assert_eq!(postcard::from_bytes::<CpuQuota>(&encoded).unwrap(), quota);
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = text.parse::<CpuQuota>();
        }
    }
}
