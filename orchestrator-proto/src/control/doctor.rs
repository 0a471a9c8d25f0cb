//! What a machine and an installation allow.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What was found out about one thing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Finding {
    /// The thing, in words that stay the same: `open-files`.
    pub check: String,
    /// Whether it is as it should be.
    pub level: Level,
    /// How it is, a sentence.
    pub message: String,
    /// What to do about it; empty if there is nothing to do.
    pub advice: String,
}

impl Finding {
    /// All is well.
    pub fn ok(check: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            check: check.into(),
            level: Level::Ok,
            message: message.into(),
            advice: String::new(),
        }
    }

    /// Something that some need and others don't, or that may become a problem.
    pub fn warning(
        check: impl Into<String>,
        message: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { level: Level::Warning, advice: advice.into(), ..Self::ok(check, message) }
    }

    /// Something that does not work.
    pub fn problem(
        check: impl Into<String>,
        message: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { level: Level::Problem, advice: advice.into(), ..Self::ok(check, message) }
    }
}

/// See [`Finding`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Something that some need is not there, or something may become a problem.
    Warning,
    /// Something does not work.
    Problem,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        })
    }
}
