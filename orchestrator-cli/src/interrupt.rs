//! Ctrl-C, and other signals that end this program.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Exit, Failure};

/// Whether Ctrl-C ends the program in the signal's handler.
static ENDS_AT_ONCE: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| Arc::new(AtomicBool::new(true)));

/// From now on Ctrl-C ends the program, in the handler itself, so that it also ends a write to a
/// pipe that nobody reads.
pub(crate) fn end_at_once() {
    // Without it the shell would show the same 130, so a failure here is no reason to stop.
    let _ = signal_hook::flag::register_conditional_shutdown(
        signal_hook::consts::SIGINT,
        Exit::Interrupted as i32,
        ENDS_AT_ONCE.clone(),
    );
}

/// Signals that ask for an end, told instead of obeyed as long as this is there, so that the
/// terminal can be left as it was.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    /// Must be called within a tokio runtime.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::io("signals can't be listened for", &error))
        };
        let signals = Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        };
        ENDS_AT_ONCE.store(false, Ordering::SeqCst);
        Ok(signals)
    }

    /// The next one, as the exit code that it leads to. Can be called again if it was dropped.
    pub(crate) async fn next(&mut self) -> Exit {
        tokio::select! {
            _ = self.interrupt.recv() => Exit::Interrupted,
            _ = self.terminate.recv() => Exit::Terminated,
            _ = self.hangup.recv() => Exit::HungUp,
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        ENDS_AT_ONCE.store(true, Ordering::SeqCst);
    }
}
