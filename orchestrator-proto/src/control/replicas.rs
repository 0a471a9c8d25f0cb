//! Sets of replicas: several instances of one program under one name.
//!
//! A set is a definition and a number. Its replicas are instances like any other, with the names
//! `NAME.1`, `NAME.2` and so on up to that number, and no other instance can have such a name. So
//! a name says whose replica it is, and nothing else has to.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::apply::Wanted;
use super::info::RuntimeInfo;
use super::spec::{Desired, RuntimeSpec};
use crate::error::WireError;
use crate::id::{InstanceId, LinkId};

/// How many replicas a set has: 0 to [`Replicas::MAX`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Replicas(pub u32);

impl Replicas {
    /// The most of one set: as many as logs can be read at once
    /// ([`LogQuery::MAX_INSTANCES`](super::LogQuery::MAX_INSTANCES)), and far fewer than the
    /// instances that a daemon has room for, so that a slip of the finger does not fill it.
    pub const MAX: u32 = 256;

    /// The longest name of a set, bytes: a replica's name, with the point and its index, is as
    /// long as any instance's.
    pub const MAX_NAME: usize = 60;

    /// Whether a set can have so many.
    ///
    /// # Errors
    ///
    /// A sentence.
    pub fn check(self) -> Result<(), String> {
        let most = Self::MAX;
        if self.0 <= most {
            return Ok(());
        }
        Err(format!("a set can have {most} replicas at most, not {}", self.0))
    }
}

impl fmt::Display for Replicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Replicas {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let most = Self::MAX;
        let number = text.parse().map(Self);
        let number = number.map_err(|_| format!("{text:?} is not a number from 0 to {most}"))?;
        number.check().map(|()| number)
    }
}

/// Which replica of which set.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Replica {
    /// The name of the set.
    pub set: String,
    /// Its index: the first is 1.
    pub index: u32,
}

impl Replica {
    /// The replica that has this name, if there is such a set.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        let (set, index) = name.rsplit_once('.')?;
        let is_plain = !index.starts_with('0') && index.bytes().all(|byte| byte.is_ascii_digit());
        let index = index.parse().ok().filter(|it| is_plain && (1..=Replicas::MAX).contains(it))?;
        (!set.is_empty()).then(|| Self { set: set.to_owned(), index })
    }
}

impl fmt::Display for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.set, self.index)
    }
}

impl Wanted {
    /// What is wanted of each replica, the first one first, if this is a set that has a name.
    #[must_use]
    pub fn replicas(&self) -> Option<Vec<Self>> {
        let (Replicas(count), set) = (self.spec.replicas?, self.spec.name.as_ref()?);
        let replica = |index| {
            let name = Some(Replica { set: set.clone(), index }.to_string());
            let spec = RuntimeSpec { name, replicas: None, ..self.spec.clone() };
            Self { spec, ..self.clone() }
        };
        Some((1..=count.min(Replicas::MAX)).map(replica).collect())
    }
}

/// A set of replicas, in brief.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReplicaSetInfo {
    /// Its name.
    pub name: String,
    /// How many replicas it is to have. Those that are being removed do not count.
    pub replicas: Replicas,
    /// Whether new replicas run.
    pub desired: Desired,
}

/// A set of replicas, in full.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ReplicaSetDetail {
    /// How each replica is to be run, under the name of the set; and whether new ones run.
    pub set: Wanted,
    /// Links from and to the set as a whole.
    pub links: Vec<LinkId>,
    /// Its replicas, the first one first, and those that are being removed.
    pub instances: Vec<RuntimeInfo>,
}

/// An instance by both its names.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Named {
    /// Its id.
    pub id: InstanceId,
    /// Its name.
    pub name: String,
}

/// What became of a set that was added or scaled.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Scaled {
    /// The name of the set.
    pub set: String,
    /// How many replicas it has now.
    pub replicas: Replicas,
    /// New ones, the first one first. They are started if the set is to run.
    pub added: Vec<Named>,
    /// Those that are removed, the last one first: each is asked to stop, and removed when nothing
    /// of it is left.
    pub removed: Vec<Named>,
    /// What will be in the way later, as sentences: for example a path that does not exist yet.
    pub warnings: Vec<String>,
}

/// What came of a request for one replica of a set.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ReplicaOutcome {
    /// The replica's id.
    pub id: InstanceId,
    /// Its name.
    pub name: String,
    /// What came of it.
    pub outcome: Outcome,
}

/// See [`ReplicaOutcome`]. As the [`Reply`](super::Reply) of that name to the same request for one
/// instance.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Its program has been executed.
    Started {
        /// Its process.
        pid: u32,
        /// Whether this request started it; else it ran already.
        changed: bool,
        /// What could not be had, as sentences: for example a priority.
        warnings: Vec<String>,
    },
    /// It is a schedule, and runs when it is time.
    Scheduled {
        /// When, milliseconds since 1970 (UTC); none if there is no such time.
        next_ms: Option<u64>,
        /// Whether this request started it; else it was started already.
        changed: bool,
    },
    /// A run is under way, and another one follows it.
    Queued,
    /// Nothing of it runs.
    Stopped {
        /// Whether this request stopped it; else it did not run.
        changed: bool,
    },
    /// It failed for this one. Others are done all the same.
    Failed(WireError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_says_whose_replica_it_is() {
        let replica = |set: &str, index| Some(Replica { set: set.to_owned(), index });
        assert_eq!(Replica::of_name("worker.1"), replica("worker", 1));
        assert_eq!(Replica::of_name("a.b.256"), replica("a.b", 256));
        for name in ["worker", "worker.", ".1", "worker.0", "worker.01", "worker.+1", "w.257"] {
            assert_eq!(Replica::of_name(name), None, "{name}");
        }
    }

    #[test]
    fn a_number_is_within_its_bounds() {
        assert_eq!("0".parse(), Ok(Replicas(0)));
        assert_eq!("256".parse(), Ok(Replicas(256)));
        for text in ["257", "-1", "many", "", "4294967296"] {
            assert!(text.parse::<Replicas>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn replicas_are_named_by_their_set(set in "[a-z.0-9]{1,60}", count in 0..=Replicas::MAX) {
            let replicas = Some(Replicas(count));
            let spec = RuntimeSpec { name: Some(set.clone()), replicas, ..RuntimeSpec::new("/p") };
            let all = Wanted::running(spec).replicas().unwrap();
            prop_assert_eq!(all.len() as u32, count);
            for (wanted, index) in all.iter().zip(1..) {
                let name = wanted.spec.name.as_deref().unwrap();
                prop_assert!(name.len() <= 64 && wanted.spec.replicas.is_none());
                prop_assert_eq!(Replica::of_name(name), Some(Replica { set: set.clone(), index }));
            }
        }
    }
}
