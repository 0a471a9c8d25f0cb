//! When and where a process runs: processors, real-time policies, and the order of its reading and
//! writing.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Processors, by their numbers from 0 on, each once and in order. At least one, and none from
/// [`Cpus::MAX`] on. As a text: `0,2-3`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cpus(pub Vec<u32>);

impl Cpus {
    /// More than the number of any processor: the kernel is built for so many at most.
    pub const MAX: u32 = 8192;

    /// Whether they are as they should be.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.0.last().is_some_and(|last| *last < Self::MAX)
            && self.0.windows(2).all(|pair| pair[0] < pair[1])
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_slice();
        let mut comma = "";
        while let Some(&first) = rest.first() {
            let run = rest.iter().zip(first..).take_while(|(cpu, next)| *cpu == next).count();
            match run {
                1 => write!(f, "{comma}{first}")?,
                _ => write!(f, "{comma}{first}-{}", rest[run - 1])?,
            }
            rest = &rest[run..];
            comma = ",";
        }
        Ok(())
    }
}

impl FromStr for Cpus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} are no processors; write their numbers, as 0,2-3");
        let number = |text: &str| match text.trim().parse::<u32>() {
            Ok(cpu) if cpu >= Self::MAX => {
                Err(format!("there is no processor {cpu}; the kernel has {} at most", Self::MAX))
            }
            Ok(cpu) if !text.contains('+') => Ok(cpu),
            _ => Err(wrong()),
        };
        // However often each of them is named.
        let mut named = vec![false; Self::MAX as usize];
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(wrong());
            }
            named[first as usize..=last as usize].fill(true);
        }
        Ok(Self((0..).zip(named).filter(|(_, named)| *named).map(|(cpu, _)| cpu).collect()))
    }
}

/// Whose reading and writing of disks comes first, see ioprio_set(2). Levels are 0, the first, to
/// 7.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IoClass {
    /// Before all others.
    Realtime(u8),
    /// As usual.
    BestEffort(u8),
    /// When nobody else wants to.
    Idle,
}

impl IoClass {
    /// The last level.
    pub const MAX_LEVEL: u8 = 7;
    /// The level of `realtime` and `best-effort` alone.
    pub const LEVEL: u8 = 4;

    /// Its level, if it has one.
    #[must_use]
    pub const fn level(self) -> Option<u8> {
        match self {
            Self::Realtime(level) | Self::BestEffort(level) => Some(level),
            Self::Idle => None,
        }
    }
}

impl fmt::Display for IoClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Realtime(level) => write!(f, "realtime:{level}"),
            Self::BestEffort(level) => write!(f, "best-effort:{level}"),
            Self::Idle => f.pad("idle"),
        }
    }
}

impl FromStr for IoClass {
    type Err = String;

    /// `realtime`, `best-effort`, each with a level after a colon or not, or `idle`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is not a class; use realtime, best-effort or idle, the first two with a \
                 level from 0 to 7 after a colon if you like, as best-effort:2"
            )
        };
        let (class, level) = match text.split_once(':') {
            None => (text, None),
            Some((class, level)) => {
                (class, Some(small(level, 0, Self::MAX_LEVEL).ok_or_else(wrong)?))
            }
        };
        match (class, level) {
            ("realtime", level) => Ok(Self::Realtime(level.unwrap_or(Self::LEVEL))),
            ("best-effort", level) => Ok(Self::BestEffort(level.unwrap_or(Self::LEVEL))),
            ("idle", None) => Ok(Self::Idle),
            _ => Err(wrong()),
        }
    }
}

/// A real-time policy with its priority, 1 to 99, the highest; see sched(7).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Realtime {
    /// It runs until it waits or one of a higher priority wants to (`SCHED_FIFO`).
    Fifo(u8),
    /// The same, in turns with others of its priority (`SCHED_RR`).
    Rr(u8),
}

impl Realtime {
    /// The highest priority.
    pub const MAX_PRIORITY: u8 = 99;

    /// Its priority.
    #[must_use]
    pub const fn priority(self) -> u8 {
        match self {
            Self::Fifo(priority) | Self::Rr(priority) => priority,
        }
    }
}

impl fmt::Display for Realtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fifo(priority) => write!(f, "fifo:{priority}"),
            Self::Rr(priority) => write!(f, "rr:{priority}"),
        }
    }
}

impl FromStr for Realtime {
    type Err = String;

    /// `fifo:50`, `rr:10`
    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once(':');
        let parts = parts.and_then(|(policy, text)| Some((policy, small(text, 1, 99)?)));
        match parts {
            Some(("fifo", priority)) => Ok(Self::Fifo(priority)),
            Some(("rr", priority)) => Ok(Self::Rr(priority)),
            _ => Err(format!(
                "{text:?} is not a real-time policy; use fifo or rr with a priority from 1 to 99, \
                 as fifo:50"
            )),
        }
    }
}

/// A number of this range, in digits alone.
fn small(text: &str, least: u8, most: u8) -> Option<u8> {
    let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| is_digits && (least..=most).contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_people_write() {
        assert_eq!("0,2-3".parse(), Ok(Cpus(vec![0, 2, 3])));
        assert_eq!("3, 1-2,2".parse(), Ok(Cpus(vec![1, 2, 3])));
        for bad in ["", "a", "-1", "1-", "3-1", "0,,1", "8192", "0-8192", "+1", "1-2-3"] {
            assert!(bad.parse::<Cpus>().is_err(), "{bad}");
        }
        assert_eq!("realtime".parse(), Ok(IoClass::Realtime(4)));
        assert_eq!("best-effort:0".parse(), Ok(IoClass::BestEffort(0)));
        assert_eq!("idle".parse(), Ok(IoClass::Idle));
        for bad in ["", "idle:1", "best-effort:8", "realtime:", "none", "realtime:+1"] {
            assert!(bad.parse::<IoClass>().is_err(), "{bad}");
        }
        assert_eq!("fifo:99".parse(), Ok(Realtime::Fifo(99)));
        assert_eq!("rr:1".parse(), Ok(Realtime::Rr(1)));
        for bad in ["", "fifo", "fifo:0", "rr:100", "other:1", "fifo:-1", "deadline:1"] {
            assert!(bad.parse::<Realtime>().is_err(), "{bad}");
        }
        for cpus in [vec![], vec![8192], vec![1, 1], vec![2, 1]] {
            assert!(!Cpus(cpus).is_good());
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_as_the_same(
            cpus in prop::collection::btree_set(0..Cpus::MAX, 1..20),
            level in 0_u8..8, priority in 1_u8..100,
        ) {
            let cpus = Cpus(cpus.into_iter().collect());
            prop_assert!(cpus.is_good());
            prop_assert_eq!(cpus.to_string().parse(), Ok(cpus));
            for class in [IoClass::Realtime(level), IoClass::BestEffort(level), IoClass::Idle] {
                prop_assert_eq!(class.to_string().parse(), Ok(class));
            }
            for policy in [Realtime::Fifo(priority), Realtime::Rr(priority)] {
                prop_assert_eq!(policy.to_string().parse(), Ok(policy));
            }
        }
    }
}
