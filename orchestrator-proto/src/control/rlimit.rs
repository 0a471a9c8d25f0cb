//! How much of the machine a process may use, see setrlimit(2).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The bounds of one resource. Nothing is without a bound.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Rlimit {
    /// Which.
    pub resource: Resource,
    /// What holds.
    pub soft: Option<u64>,
    /// The most that a process can set `soft` to, at least `soft`.
    pub hard: Option<u64>,
}

impl Rlimit {
    /// The bounds alone: one number, or two with a colon between them.
    #[must_use]
    pub fn bounds(&self) -> String {
        let word = |bound: Option<u64>| bound.map_or("infinity".to_owned(), |it| it.to_string());
        match (word(self.soft), word(self.hard)) {
            (soft, hard) if soft == hard => soft,
            (soft, hard) => format!("{soft}:{hard}"),
        }
    }

    /// The bounds of a resource as in `1024:4096`, `infinity`, or one number for both.
    ///
    /// # Errors
    ///
    /// A sentence, if they are none.
    pub fn parse(resource: Resource, text: &str) -> Result<Self, String> {
        let number = |text: &str| match text {
            "infinity" => Ok(None),
            // The kernel's word for infinity.
            _ => match text.parse() {
                Ok(number) if number < u64::MAX && !text.starts_with('+') => Ok(Some(number)),
                _ => Err(format!(
                    "{text:?} is no limit; write a number or infinity, or two with a colon between \
                     them, as 1024:4096"
                )),
            },
        };
        let (soft, hard) = text.split_once(':').unwrap_or((text, text));
        let limit = Self { resource, soft: number(soft)?, hard: number(hard)? };
        if !limit.is_ordered() {
            let message = "the first, which holds, is more than the second, which is the most";
            return Err(format!("{text:?} is no limit: {message}"));
        }
        Ok(limit)
    }

    /// Whether what holds is not more than the most.
    #[must_use]
    pub const fn is_ordered(&self) -> bool {
        match (self.soft, self.hard) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(soft), Some(hard)) => soft <= hard,
        }
    }
}

impl fmt::Display for Rlimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.resource, self.bounds())
    }
}

impl FromStr for Rlimit {
    type Err = String;

    /// `nofile=1024:4096`
    fn from_str(text: &str) -> Result<Self, String> {
        let Some((name, bounds)) = text.split_once('=') else {
            return Err(format!("{text:?} is no limit; write RESOURCE=SOFT:HARD, as nofile=1024"));
        };
        Self::parse(name.parse()?, bounds)
    }
}

/// What there can be bounds of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resource {
    /// Processor time, seconds.
    Cpu,
    /// The largest file that it writes, bytes.
    Fsize,
    /// Its data, bytes.
    Data,
    /// Its stack, bytes.
    Stack,
    /// The file that its memory is written to when it crashes, bytes.
    Core,
    /// Without an effect since Linux 2.4.30.
    Rss,
    /// Processes and threads of its user.
    Nproc,
    /// Open files.
    Nofile,
    /// Memory that can't be swapped out, bytes.
    Memlock,
    /// Its address space, bytes.
    As,
    /// Without an effect since Linux 2.4.25.
    Locks,
    /// Signals that wait, of its user.
    Sigpending,
    /// Memory for POSIX message queues of its user, bytes.
    Msgqueue,
    /// How far it can lower its nice value: to 20 less this.
    Nice,
    /// The highest real-time priority that it can give itself.
    Rtprio,
    /// Time on the processor without a pause with a real-time policy, microseconds.
    Rttime,
}

impl Resource {
    /// All, each with its name.
    pub const ALL: [(Self, &str); 16] = [
        (Self::Cpu, "cpu"),
        (Self::Fsize, "fsize"),
        (Self::Data, "data"),
        (Self::Stack, "stack"),
        (Self::Core, "core"),
        (Self::Rss, "rss"),
        (Self::Nproc, "nproc"),
        (Self::Nofile, "nofile"),
        (Self::Memlock, "memlock"),
        (Self::As, "as"),
        (Self::Locks, "locks"),
        (Self::Sigpending, "sigpending"),
        (Self::Msgqueue, "msgqueue"),
        (Self::Nice, "nice"),
        (Self::Rtprio, "rtprio"),
        (Self::Rttime, "rttime"),
    ];

    /// Its name, as in setrlimit(2) without `RLIMIT_`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        // They are in the order of their variants.
        Self::ALL[self as usize].1
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Resource {
    type Err = String;

    /// Its name, in any case, with or without `RLIMIT_`.
    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        let wanted = lower.strip_prefix("rlimit_").unwrap_or(&lower);
        let found = Self::ALL.iter().find(|(_, name)| *name == wanted);
        found.map(|(resource, _)| *resource).ok_or_else(|| {
            let names = Self::ALL.map(|(_, name)| name).join(", ");
            format!("{text:?} has no limit; there are {names}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_people_write() {
        let limit = |resource, soft, hard| Ok(Rlimit { resource, soft, hard });
        assert_eq!("nofile=1024:4096".parse(), limit(Resource::Nofile, Some(1024), Some(4096)));
        assert_eq!("CORE=0".parse(), limit(Resource::Core, Some(0), Some(0)));
        assert_eq!("RLIMIT_AS=infinity".parse(), limit(Resource::As, None, None));
        assert_eq!("stack=8:infinity".parse(), limit(Resource::Stack, Some(8), None));
        for bad in [
            "",
            "nofile",
            "nofile=",
            "nofile=a",
            "nofile=1:",
            "nofile=-1",
            "nofile=+1",
            "nofile=2:1",
            "nofile=infinity:1",
            "nofile=1:2:3",
            "nofile=18446744073709551615",
            "files=1",
        ] {
            assert!(bad.parse::<Rlimit>().is_err(), "{bad}");
        }
        for (at, (resource, name)) in Resource::ALL.into_iter().enumerate() {
            assert_eq!((resource as usize, resource.name()), (at, name));
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_as_the_same(
            which in 0_usize..16, soft in prop::option::of(0..u64::MAX), more in any::<u64>(),
            bounded in any::<bool>(),
        ) {
            let hard = soft.map(|soft| soft.saturating_add(more).min(u64::MAX - 1));
            let hard = hard.filter(|_| bounded);
            let limit = Rlimit { resource: Resource::ALL[which].0, soft, hard };
            prop_assert_eq!(limit.to_string().parse(), Ok(limit));
        }
    }
}
