//! The keys that say what is kept of what an instance prints.

use super::read::{Table, Value};
use super::supervision::time;
use super::write::{Entries, text};
use crate::control::{Compression, LogRules, WhenFull};
use crate::{Millis, Size};

const COMPRESSIONS: [(&str, Compression); 2] =
    [("none", Compression::None), ("zstd", Compression::Zstd)];
const POLICIES: [(&str, WhenFull); 2] = [("block", WhenFull::Block), ("drop", WhenFull::Drop)];

/// What is said of a log.
#[derive(Clone, Debug, Default)]
pub(super) struct LogLayer {
    max_size: Option<Size>,
    max_age: Option<Millis>,
    keep: Option<u32>,
    compress: Option<Compression>,
    when_full: Option<WhenFull>,
}

impl LogLayer {
    pub(super) fn read(table: &Table<'_>) -> Self {
        let size = |value: Value<'_>| value.amount("a size such as \"64MiB\"");
        let keep = |value: Value<'_>| value.number(1, LogRules::MAX_KEEP);
        let layer = Self {
            max_size: table.read("log-max-size", size),
            max_age: table.read("log-max-age", time),
            keep: table.read("log-keep", keep),
            compress: table.read("log-compress", |value| value.choice(&COMPRESSIONS)),
            when_full: table.read("log-when-full", |value| value.choice(&POLICIES)),
        };
        if let Err((key, why)) = layer.clone().finish().check() {
            table.wrong(table.at(key), format!("{key}: {why}"));
        }
        layer
    }

    /// This, with those below for what it does not say.
    pub(super) fn over(self, below: &Self) -> Self {
        Self {
            max_size: self.max_size.or(below.max_size),
            max_age: self.max_age.or(below.max_age),
            keep: self.keep.or(below.keep),
            compress: self.compress.or(below.compress),
            when_full: self.when_full.or(below.when_full),
        }
    }

    pub(super) fn finish(self) -> LogRules {
        LogRules {
            max_size: self.max_size,
            max_age: self.max_age.unwrap_or_default(),
            keep: self.keep,
            compress: self.compress.unwrap_or_default(),
            when_full: self.when_full.unwrap_or_default(),
        }
    }
}

/// What a manifest says of it; what is as it is by default is left out.
pub(super) fn entries(all: &mut Entries, rules: &LogRules) {
    if let Some(size) = rules.max_size {
        all.add("log-max-size", text(&size.to_string()));
    }
    all.time("log-max-age", rules.max_age, Millis::ZERO);
    if let Some(keep) = rules.keep {
        all.add("log-keep", keep.to_string());
    }
    let compress = rules.compress;
    all.add_if(compress != Compression::default(), "log-compress", text(&compress.to_string()));
    let when_full = rules.when_full;
    all.add_if(when_full != WhenFull::default(), "log-when-full", text(&when_full.to_string()));
}
