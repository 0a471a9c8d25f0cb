//! Asking an instance how it is, one question at a time, as long as the machine wants to know.

use std::future::pending;

use orchestrator_proto::control::Probe;
use tokio::time::{Instant, sleep_until};

use super::super::Pending;
use super::Hooks;

/// Nothing is asked, or is waited for, when there is no probe.
#[derive(Default)]
pub(super) struct Probing {
    probe: Option<Probe>,
    question: Option<Pending<Result<(), String>>>,
    /// When the next one is asked.
    next: Option<Instant>,
}

impl Probing {
    /// From now on this is asked, about this execution; none is nothing.
    pub(super) fn set(&mut self, probe: Option<&Probe>, hooks: &dyn Hooks, run: u64) {
        if self.probe.as_ref() == probe {
            return;
        }
        *self = Self { probe: probe.cloned(), question: None, next: None };
        self.ask(hooks, run);
    }

    fn ask(&mut self, hooks: &dyn Hooks, run: u64) {
        if let Some(probe) = &self.probe {
            self.next = None;
            self.question = Some(hooks.ask(&probe.check, probe.timeout.duration(), run));
        }
    }

    /// The next answer. Waits without giving up its place: it can be called again if it was
    /// dropped.
    pub(super) async fn answer(&mut self, hooks: &dyn Hooks, run: u64) -> Result<(), String> {
        let Some(probe) = &self.probe else {
            return pending().await;
        };
        let interval = probe.interval.duration();
        if self.question.is_none() {
            match self.next {
                // A timer has its room only while it runs.
                Some(next) => Box::pin(sleep_until(next)).await,
                None => return pending().await,
            }
            self.ask(hooks, run);
        }
        let answer = match &mut self.question {
            Some(question) => question.await,
            None => return pending().await,
        };
        self.question = None;
        self.next = Instant::now().checked_add(interval);
        answer
    }
}
