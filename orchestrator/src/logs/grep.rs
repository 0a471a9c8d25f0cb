//! What lines are searched for.

use orchestrator_proto::control::LogQuery;
use regex::bytes::{Regex, RegexBuilder};

/// The most memory of a compiled pattern: 1 MiB, and as much again while it is at work.
const MAX_COMPILED: usize = 1 << 20;

/// A regular expression that is looked for in each line, or part of a line. The time that it
/// takes is linear in the text, whatever the pattern.
#[derive(Clone, Debug)]
pub struct Grep(Regex);

impl Grep {
    /// # Errors
    ///
    /// A sentence, when it is none, or one that is too large.
    pub fn new(pattern: &str) -> Result<Self, String> {
        if pattern.len() > LogQuery::MAX_GREP {
            let most = LogQuery::MAX_GREP;
            return Err(format!("the regular expression has more than {most} bytes"));
        }
        let mut builder = RegexBuilder::new(pattern);
        builder.size_limit(MAX_COMPILED).dfa_size_limit(MAX_COMPILED);
        let compiled = builder.build();
        compiled.map(Self).map_err(|error| format!("not a regular expression: {error}"))
    }

    pub(super) fn is_in(&self, text: &[u8]) -> bool {
        self.0.is_match(text)
    }
}

impl PartialEq for Grep {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Grep {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_are_searched_and_what_is_too_much_is_refused() {
        let grep = Grep::new("err(or)?: .*$").unwrap();
        assert!(grep.is_in(b"\xff err: \0x") && grep.is_in(b"error: ") && !grep.is_in(b"eror: "));
        assert!(Grep::new("(").unwrap_err().starts_with("not a regular expression"));
        assert!(Grep::new(&"x".repeat(LogQuery::MAX_GREP + 1)).is_err());
        assert!(Grep::new(r"(\w{200}){200}").is_err());
    }
}
