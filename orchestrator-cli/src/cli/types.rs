//! `type …`

use std::str::FromStr;

use clap::{Args, Subcommand};

use crate::complete;

#[derive(Debug, Subcommand)]
pub(crate) enum TypeCommand {
    /// List all message types, who declares them, and the links that carry them.
    ///
    /// A type has a line for each schema under which an instance ever declared it: those that
    /// instances declare now first. What Veecle OS runtimes send has no schema.
    #[command(after_help = "Examples:
  orchestrator-cli type list
  orchestrator-cli type list 'acme.*' --json")]
    List(TypeListArgs),

    /// Show what a message is made of.
    ///
    /// Without a hash and without --all, the schemas that instances declare, or, if none does, the
    /// one that was declared last.
    #[command(after_help = "Examples:
  orchestrator-cli type show acme.imu.v1
  orchestrator-cli type show acme.imu.v1@39c577b1 --json-schema > imu.schema.json
  orchestrator-cli type show acme.imu.v1 --all")]
    Show(TypeShowArgs),
}

#[derive(Args, Debug)]
pub(crate) struct TypeListArgs {
    /// Only those whose name is like one of these: `*` is any text, `?` one character.
    /// Example: type list 'acme.*'
    #[arg(value_name = "PATTERN", add = complete::types())]
    pub(crate) patterns: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct TypeShowArgs {
    /// The declared name; with @ and the beginning of a hash, just that schema.
    /// Example: type show acme.imu.v1@39c577b1
    #[arg(value_name = "NAME[@HASH]", add = complete::types())]
    pub(crate) name: TypeName,

    /// All schemas under which it was ever declared, and how each differs from the one before it.
    /// Example: type show acme.imu.v1 --all
    #[arg(long)]
    pub(crate) all: bool,

    /// The JSON Schema (2020-12) of its messages as JSON, as `link tap` shows them.
    /// Example: type show acme.imu.v1 --json-schema
    #[arg(long, conflicts_with = "all")]
    pub(crate) json_schema: bool,
}

/// A type's name, and the beginning of a hash.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct TypeName {
    pub(crate) name: String,
    pub(crate) hash: Option<String>,
}

impl FromStr for TypeName {
    type Err = String;

    /// A name may have an @ in it: a hash is what follows the last one, if these are digits.
    fn from_str(text: &str) -> Result<Self, String> {
        let is_hash = |it: &str| {
            (1..=64).contains(&it.len()) && it.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        let parts = text.rsplit_once('@').filter(|(_, hash)| is_hash(hash));
        let (name, hash) = parts.map_or((text, None), |(name, hash)| (name, Some(hash)));
        if name.is_empty() {
            return Err("a type has a name, such as acme.imu.v1".to_owned());
        }
        Ok(Self { name: name.to_owned(), hash: hash.map(str::to_owned) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_follows_the_last_at() {
        let parsed = |text: &str| {
            let TypeName { name, hash } = text.parse().unwrap();
            (name, hash)
        };
        let plain = |name: &str| (name.to_owned(), None);
        assert_eq!(parsed("a.b"), plain("a.b"));
        assert_eq!(parsed("a@b.c"), plain("a@b.c"));
        assert_eq!(parsed("a@"), plain("a@"));
        assert_eq!(parsed("a@x@39C5"), ("a@x".to_owned(), Some("39C5".to_owned())));
        let all = "0".repeat(65);
        assert_eq!(parsed(&format!("a@{all}")), plain(&format!("a@{all}")));
        assert!("".parse::<TypeName>().is_err() && "@39".parse::<TypeName>().is_err());
    }
}
