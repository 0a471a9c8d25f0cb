//! What is kept of one log, in figures.

use orchestrator_proto::control::{Compression, LogRules, WhenFull};
use serde::{Deserialize, Serialize};

use super::CaptureConfig;

/// The least `max_file_bytes`, so that a file has room for some of the longest records.
const MIN_FILE_BYTES: u64 = LogRules::MIN_SIZE.0;

/// See [`LogRules`]; with the daemon's own figures where those of the instance say nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Rules {
    /// The most bytes of one file.
    pub(super) max_file_bytes: u64,
    /// The most files that are kept.
    pub(super) max_files: u32,
    /// How long after its first record a file goes on; 0 is for ever.
    pub(super) max_age_ms: u64,
    pub(super) compress: Compression,
    pub(super) when_full: WhenFull,
}

impl Rules {
    pub(super) fn new(config: CaptureConfig, rules: &LogRules) -> Self {
        Self {
            max_file_bytes: rules.max_size.map_or(config.max_file_bytes, |size| size.0),
            max_files: rules.keep.unwrap_or(config.max_files),
            max_age_ms: rules.max_age.0,
            compress: rules.compress,
            when_full: rules.when_full,
        }
        .bounded()
    }

    /// What is used, whoever said it.
    pub(super) fn bounded(self) -> Self {
        Self {
            max_file_bytes: self.max_file_bytes.clamp(MIN_FILE_BYTES, LogRules::MAX_SIZE.0),
            max_files: self.max_files.clamp(1, LogRules::MAX_KEEP),
            ..self
        }
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self::new(CaptureConfig::default(), &LogRules::default())
    }
}
