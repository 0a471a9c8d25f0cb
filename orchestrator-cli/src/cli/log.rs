//! What is kept of what an instance prints, as options of `runtime add`.

use clap::Args;
use orchestrator_proto::control::{Compression, LogRules, WhenFull};
use orchestrator_proto::{Millis, Size};

#[derive(Args, Debug)]
#[command(next_help_heading = "Log")]
pub(crate) struct LogRulesArgs {
    /// Begin a new log file when one has so many bytes; without it as the daemon was told, 8MiB
    /// if it was not. Example: --log-max-size 64MiB
    #[arg(long, value_name = "SIZE")]
    log_max_size: Option<Size>,

    /// Begin a new log file with the first line that comes so long after the first one of the
    /// file; 0 is never. Example: --log-max-age 1d
    #[arg(long, value_name = "TIME", default_value = "0")]
    log_max_age: Millis,

    /// Keep so many log files, the one that is written included; without it as the daemon was
    /// told, 4 if it was not. Example: --log-keep 10
    #[arg(long, value_name = "N")]
    log_keep: Option<u32>,

    /// How log files are kept that are complete, but for the newest of those: none or zstd.
    /// Example: --log-compress zstd
    #[arg(long, value_name = "HOW", default_value_t)]
    log_compress: Compression,

    /// If the disk is full, or it prints faster than can be written: block, so that it waits,
    /// or drop, so that output is lost, counted and marked in the log.
    /// Example: --log-when-full drop
    #[arg(long, value_name = "POLICY", default_value_t)]
    log_when_full: WhenFull,
}

impl LogRulesArgs {
    pub(crate) fn into_rules(self) -> LogRules {
        LogRules {
            max_size: self.log_max_size,
            max_age: self.log_max_age,
            keep: self.log_keep,
            compress: self.log_compress,
            when_full: self.log_when_full,
        }
    }
}
