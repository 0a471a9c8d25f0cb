//! Errors as they cross the wire: a code for programs, a sentence for people, the causes.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// What went wrong, for programs. The numbers never change their meaning; a number
        /// that this version does not know is kept as [`ErrorCode::Other`].
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $($(#[$doc])* $name,)*
            /// A code of a newer daemon.
            Other(u16),
        }

        impl ErrorCode {
            /// The number on the wire.
            #[must_use]
            pub const fn number(self) -> u16 {
                match self { $(Self::$name => $number,)* Self::Other(number) => number }
            }

            /// The code with this number.
            #[must_use]
            pub const fn from_number(number: u16) -> Self {
                match number { $($number => Self::$name,)* other => Self::Other(other) }
            }

            /// The name used in JSON and in logs.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* Self::Other(_) => "other" }
            }

            /// Every code that this version knows.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
        }
    };
}

error_codes! {
    /// A fault of the daemon itself. Please report it.
    Internal = 1, "internal";
    /// The bytes are not what the protocol says.
    Malformed = 2, "malformed";
    /// A request that this daemon does not know, as from a newer client.
    UnknownRequest = 3, "unknown-request";
    /// The other side speaks another version of the protocol.
    VersionMismatch = 4, "version-mismatch";
    /// No such instance, link or file.
    NotFound = 5, "not-found";
    /// A shortened id that several instances share.
    Ambiguous = 6, "ambiguous";
    /// The id, the name or the link is taken.
    AlreadyExists = 7, "already-exists";
    /// A value that is not allowed: a name, a number, a path.
    InvalidArgument = 8, "invalid-argument";
    /// The instance is not in a state in which this can be done.
    WrongState = 9, "wrong-state";
    /// The caller may not do this.
    NotPermitted = 10, "not-permitted";
    /// The program could not be started; the causes hold the errno in words.
    SpawnFailed = 11, "spawn-failed";
    /// The two ends of a link declare different schemas.
    SchemaMismatch = 12, "schema-mismatch";
    /// A bound was reached: instances, links, requests in flight, bytes.
    LimitReached = 13, "limit-reached";
    /// The daemon is shutting down.
    ShuttingDown = 14, "shutting-down";
    /// A file or a socket failed; the causes hold the errno in words.
    Io = 15, "io";
    /// An upload arrived with another check sum or length than announced.
    ChecksumMismatch = 16, "checksum-mismatch";
    /// The request was cancelled by the client.
    Cancelled = 17, "cancelled";
    /// The other side fell too far behind in reading.
    TooSlow = 18, "too-slow";
    /// Another daemon takes the place of this one: connect again.
    Replaced = 19, "replaced";
    /// It was not done in the time that it was given.
    TimedOut = 20, "timed-out";
    /// A service that was called has failed, or gone away: what was asked may have been done.
    CallFailed = 21, "call-failed";
}

impl Serialize for ErrorCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(self.name())
        } else {
            serializer.serialize_u16(self.number())
        }
    }
}

impl<'de> Deserialize<'de> for ErrorCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let name = String::deserialize(deserializer)?;
            let known = Self::ALL.iter().find(|code| code.name() == name);
            Ok(known.copied().unwrap_or(Self::Other(0)))
        } else {
            u16::deserialize(deserializer).map(Self::from_number)
        }
    }
}

/// A failed request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WireError {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what failed, on what, why, and what to do.
    pub message: String,
    /// What lies behind it, the nearest cause first.
    pub causes: Vec<String>,
}

impl WireError {
    /// An error without deeper causes.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), causes: Vec::new() }
    }

    /// An error with the whole chain of `source` as its causes.
    pub fn caused_by(
        code: ErrorCode,
        message: impl Into<String>,
        source: &(dyn std::error::Error + 'static),
    ) -> Self {
        let causes = std::iter::successors(Some(source), |error| error.source())
            .map(ToString::to_string)
            .collect();
        Self { code, message: message.into(), causes }
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for cause in &self.causes {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl std::error::Error for WireError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_survive_the_wire_even_when_unknown() {
        for code in ErrorCode::ALL.iter().copied().chain([ErrorCode::Other(999)]) {
            let bytes = postcard::to_stdvec(&code).unwrap();
            assert_eq!(postcard::from_bytes::<ErrorCode>(&bytes).unwrap(), code);
        }
    }

    #[test]
    fn numbers_are_unique() {
        let mut numbers: Vec<_> = ErrorCode::ALL.iter().map(|code| code.number()).collect();
        numbers.dedup();
        assert_eq!(numbers.len(), ErrorCode::ALL.len());
    }
}
