//! Asking an instance how it is, and carrying out the commands that belong to it.

use std::time::Duration;

use orchestrator_proto::InstanceId;
use orchestrator_proto::control::Check;

use crate::logs::InstanceLog;
use crate::process::Pending;

/// Whether this can be asked at all.
///
/// # Errors
///
/// Why not, as the end of a sentence.
pub fn check(_check: &Check) -> Result<(), String> {
    Ok(())
}

/// Asks one instance.
#[derive(Debug)]
pub struct Health {
    _id: InstanceId,
    _log: InstanceLog,
}

impl Health {
    /// For the instance with this id, which prints to this log.
    #[must_use]
    pub const fn new(id: InstanceId, log: InstanceLog) -> Self {
        Self { _id: id, _log: log }
    }

    /// See [`Hooks::ask`](crate::process::Hooks::ask).
    pub fn ask(
        &self,
        _check: &Check,
        _timeout: Duration,
        _run: u64,
    ) -> Pending<Result<(), String>> {
        Box::pin(async { Err("not available".to_owned()) })
    }

    /// See [`Hooks::stop_command`](crate::process::Hooks::stop_command).
    pub fn run(&self, _command: &[String], _run: u64) -> Pending<Result<(), String>> {
        Box::pin(async { Err("not available".to_owned()) })
    }
}
