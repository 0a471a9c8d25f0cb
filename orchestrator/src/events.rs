//! What happened: a numbered, bounded sequence that anybody can read at their own pace.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use orchestrator_proto::InstanceId;
use orchestrator_proto::control::{Event, EventKind};
use tokio::sync::watch;

use crate::runtime::now_ns;

/// Events that are kept.
pub const KEPT: usize = 8192;

/// The events of a daemon. Readers pull: a slow one misses what is no longer kept, learns how
/// much that was, and slows nobody.
pub struct EventLog {
    kept: Mutex<VecDeque<Event>>,
    last: watch::Sender<u64>,
}

/// What a reader gets.
#[derive(Debug, Default)]
pub struct EventBatch {
    /// Events that were asked for and are no longer kept.
    pub missed: u64,
    /// The next ones, in order.
    pub events: Vec<Event>,
}

impl Default for EventLog {
    fn default() -> Self {
        Self { kept: Mutex::default(), last: watch::Sender::new(0) }
    }
}

impl EventLog {
    fn kept(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event and writes it to the daemon's own log.
    pub fn record(&self, instance: Option<InstanceId>, name: Option<&str>, kind: EventKind) {
        let mut kept = self.kept();
        let seq = *self.last.borrow() + 1;
        let event = Event {
            seq,
            time_ms: now_ns() / 1_000_000,
            instance,
            name: name.map(str::to_owned),
            kind,
        };
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(event.clone());
        self.last.send_replace(seq);
        drop(kept);
        say(&event);
    }

    /// Up to `max` events with numbers above `after`.
    #[must_use]
    pub fn read(&self, after: u64, max: usize) -> EventBatch {
        let kept = self.kept();
        let next = after.saturating_add(1);
        let oldest = kept.front().map_or(next, |event| event.seq);
        let missed = oldest.saturating_sub(next);
        let skip = usize::try_from(next.saturating_sub(oldest)).unwrap_or(usize::MAX);
        EventBatch { missed, events: kept.iter().skip(skip).take(max).cloned().collect() }
    }

    /// The number of the newest event, and a way to wait for newer ones.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }
}

fn say(event: &Event) {
    let instance = match (event.instance, &event.name) {
        (Some(id), Some(name)) => format!("{name} ({id})"),
        (Some(id), None) => id.to_string(),
        (None, _) => String::new(),
    };
    match &event.kind {
        EventKind::DaemonStarted | EventKind::DaemonStopping => {}
        EventKind::Added => tracing::info!(instance, "added"),
        EventKind::Removed { links } => tracing::info!(instance, links, "removed"),
        EventKind::Started { pid } => tracing::info!(instance, pid, "started"),
        EventKind::StartFailed { error } => tracing::warn!(instance, error, "start failed"),
        EventKind::Stopping { signal } => tracing::info!(instance, signal, "stopping"),
        EventKind::Killed => tracing::warn!(instance, "did not stop in time and was killed"),
        EventKind::Exited { exit, requested: true } => tracing::info!(instance, %exit, "exited"),
        EventKind::Exited { exit, requested: false } if exit.is_success() => {
            tracing::info!(instance, %exit, "exited by itself");
        }
        EventKind::Exited { exit, requested: false } => {
            tracing::warn!(instance, %exit, "exited by itself");
        }
        EventKind::Stopped => tracing::debug!(instance, "stopped"),
        EventKind::LinkAdded { link, description } => {
            tracing::info!(link = link.0, description, "link added");
        }
        EventKind::LinkRemoved { link } => tracing::info!(link = link.0, "link removed"),
        EventKind::LinkMismatched { link, error } => {
            tracing::warn!(link = link.0, error, "link carries nothing");
        }
        EventKind::MessagesLost { link, count } => {
            tracing::warn!(
                link = link.0,
                from = instance,
                count,
                "messages were lost when the daemon before this one ended"
            );
        }
        EventKind::Connected { dialect } => tracing::debug!(instance, dialect, "connected"),
        EventKind::Disconnected { dialect, error: None } => {
            tracing::debug!(instance, dialect, "disconnected");
        }
        EventKind::Disconnected { dialect, error: Some(error) } => {
            tracing::warn!(instance, dialect, error, "connection closed: protocol error");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_no_gaps_and_what_is_gone_is_counted() {
        let log = EventLog::default();
        for _ in 0..KEPT + 10 {
            log.record(None, None, EventKind::DaemonStarted);
        }
        let batch = log.read(0, 3);
        assert_eq!(batch.missed, 10);
        let numbers: Vec<u64> = batch.events.iter().map(|event| event.seq).collect();
        assert_eq!(numbers, [11, 12, 13]);
        let end = log.read((KEPT + 10) as u64, 3);
        assert_eq!((end.missed, end.events.len()), (0, 0));
    }
}
