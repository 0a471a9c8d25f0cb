//! The process that captures what all instances print.

use std::sync::PoisonError;
use std::time::Duration;

use super::Registry;
use crate::logs::{Capture, LogError};

impl Registry {
    /// Writes out what instances printed and that is not yet in their logs.
    pub async fn flush_logs(&self, deadline: Duration) {
        let capture = self.capture.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(capture) = capture
            && let Err(error) = capture.shutdown(deadline).await
        {
            tracing::warn!(%error, "the logs could not be written to their end");
        }
    }

    /// The capture process, if it is there; and how many logs have something for it that found no
    /// room on the way to it.
    #[must_use]
    pub fn capture(&self) -> (Option<u32>, u64) {
        let capture = self.capture.lock().unwrap_or_else(PoisonError::into_inner);
        let capture = capture.as_ref();
        capture.map_or((None, 0), |capture| (capture.pid(), capture.waiting() as u64))
    }

    /// The version of the capture process's program, if it is known.
    #[must_use]
    pub fn capture_version(&self) -> Option<String> {
        let capture = self.capture.lock().unwrap_or_else(PoisonError::into_inner);
        capture.as_ref().and_then(Capture::version)
    }

    /// Has another capture process go on: see [`Capture::renew`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn renew_capture(&self, limit: Duration) -> Result<(), LogError> {
        let renewed = {
            let capture = self.capture.lock().unwrap_or_else(PoisonError::into_inner);
            capture.as_ref().map(|capture| capture.renew(limit)).ok_or(LogError::Stopped)?
        };
        renewed.await
    }
}
