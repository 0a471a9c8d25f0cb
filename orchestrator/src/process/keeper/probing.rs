//! Asking an instance how it is, one question at a time, as long as the machine wants to know.

use std::future::pending;

use orchestrator_proto::control::Probe;
use tokio::time::{Instant, sleep_until};

use super::super::Pending;
use super::Hooks;

/// Nothing is asked, or is waited for, when there is no probe; most instances have none.
#[derive(Default)]
pub(super) struct Probing(Option<Box<Asking>>);

struct Asking {
    probe: Probe,
    question: Option<Pending<Result<(), String>>>,
    /// When the next one is asked.
    next: Option<Instant>,
}

impl Probing {
    /// From now on this is asked, about this execution; none is nothing.
    pub(super) fn set(&mut self, probe: Option<&Probe>, hooks: &dyn Hooks, run: u64) {
        if self.0.as_ref().map(|it| &it.probe) == probe {
            return;
        }
        self.0 = probe.map(|probe| {
            let mut asking = Box::new(Asking { probe: probe.clone(), question: None, next: None });
            asking.ask(hooks, run);
            asking
        });
    }

    /// The next answer. Waits without giving up its place: it can be called again if it was
    /// dropped.
    pub(super) async fn answer(&mut self, hooks: &dyn Hooks, run: u64) -> Result<(), String> {
        match &mut self.0 {
            // It has its room only while there is something to be asked.
            Some(asking) => Box::pin(asking.answer(hooks, run)).await,
            None => pending().await,
        }
    }
}

impl Asking {
    fn ask(&mut self, hooks: &dyn Hooks, run: u64) {
        self.next = None;
        let question = hooks.ask(&self.probe.check, self.probe.timeout.duration(), run);
        self.question = Some(question);
    }

    async fn answer(&mut self, hooks: &dyn Hooks, run: u64) -> Result<(), String> {
        let interval = self.probe.interval.duration();
        if self.question.is_none() {
            match self.next {
                Some(next) => sleep_until(next).await,
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
