//! Which way the messages of a link go: what an operator asks for, and what is in use.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Which way the messages of a link are to go.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// From instance to instance where that is possible, else through the daemon.
    #[default]
    Auto,
    /// Through the daemon, always.
    Routed,
    /// As [`Auto`](Self::Auto), but where it is not possible a list of links says why.
    Direct,
    /// From instance to instance through memory that they share; where that is not possible, as
    /// [`Direct`](Self::Direct).
    Shm,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Routed => "routed",
            Self::Direct => "direct",
            Self::Shm => "shm",
        })
    }
}

impl FromStr for Transport {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "routed" => Ok(Self::Routed),
            "direct" => Ok(Self::Direct),
            "shm" => Ok(Self::Shm),
            other => Err(format!("{other:?} is not a transport; use auto, routed, direct or shm")),
        }
    }
}

/// Which way the messages of a link go now.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Through the daemon.
    #[default]
    Routed,
    /// From instance to instance, over a socket pair that the daemon has given them.
    Direct,
    /// From instance to instance, through memory that the daemon has given them.
    Shm,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Routed => "routed",
            Self::Direct => "direct",
            Self::Shm => "shm",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transport_is_one_word_everywhere() {
        use Transport::{Auto, Direct, Routed, Shm};
        for transport in [Auto, Routed, Direct, Shm] {
            let word = transport.to_string();
            assert_eq!(word.parse(), Ok(transport));
            assert_eq!(serde_json::to_value(transport).unwrap(), word);
        }
        for way in [Way::Routed, Way::Direct, Way::Shm] {
            assert_eq!(serde_json::to_value(way).unwrap(), way.to_string());
        }
    }

    #[test]
    fn what_is_none_is_told_with_those_that_are() {
        for word in ["", "Direct", "memory", "direct "] {
            let why = word.parse::<Transport>().unwrap_err();
            assert!(why.ends_with("is not a transport; use auto, routed, direct or shm"), "{why}");
        }
    }
}
