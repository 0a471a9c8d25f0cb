//! What happened: a numbered sequence that outlives the daemon and that anybody can read at
//! their own pace.
//!
//! For `registry/` and `daemon/`, which record, and `control/`, which reads. The store keeps
//! the events; see there for what it promises.

use orchestrator_proto::InstanceId;
use orchestrator_proto::control::{EventKind, LinkRules};
use tokio::sync::watch;

use crate::runtime::now_ns;
use crate::store::{Durability, EventBatch, EventQuery, NewEvent, RunRecord, Store, StoreError};

/// The events of a daemon and of those before it. Readers pull: a slow one misses what is no
/// longer kept, learns how much that was, and slows nobody.
pub struct EventLog {
    store: Store,
}

impl EventLog {
    /// The events in this store.
    #[must_use]
    pub const fn new(store: Store) -> Self {
        Self { store }
    }

    /// Adds an event, and writes it to the daemon's own log. Never waits: the event gets its
    /// number, and can be read, when it is committed, a few milliseconds later.
    pub fn record(&self, instance: Option<InstanceId>, name: Option<&str>, kind: EventKind) {
        self.record_at(instance, name, kind, now_ns() / 1_000_000);
    }

    /// The same, of something that happened at this time, milliseconds since 1970 (UTC).
    pub fn record_at(
        &self,
        instance: Option<InstanceId>,
        name: Option<&str>,
        kind: EventKind,
        time_ms: u64,
    ) {
        let name = name.map(str::to_owned);
        self.record_all(None, vec![NewEvent { time_ms, instance, name, kind }]);
    }

    /// The same of several, together with how the instance with that order is from now on: after
    /// any end of the daemon all of it is kept, or nothing.
    pub fn record_all(&self, run: Option<(u64, RunRecord)>, events: Vec<NewEvent>) {
        events.iter().for_each(say);
        if run.is_some() || !events.is_empty() {
            self.store.note(run, events);
        }
    }

    /// Waits until everything that was recorded before can be read. If it can't be committed,
    /// as on a full disk, it will be later; there is nothing to wait for then.
    pub async fn settle(&self) {
        if let Err(error) = self.store.commit(Durability::Logged).await {
            tracing::debug!(%error, "events wait to be written");
        }
    }

    /// The next events, up to `max`.
    ///
    /// # Errors
    ///
    /// When older ones can't be read from the database.
    pub async fn read(&self, query: EventQuery, max: usize) -> Result<EventBatch, StoreError> {
        self.store.read_events(query, max).await
    }

    /// The number of the oldest event that is kept.
    #[must_use]
    pub fn oldest(&self) -> u64 {
        self.store.oldest_event()
    }

    /// A reader has come to the newest event.
    pub fn end_of_history(&self) {
        self.store.end_of_history();
    }

    /// The number of the newest event that can be read, and a way to wait for newer ones.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.store.watch_events()
    }
}

fn say(event: &NewEvent) {
    let instance = match (event.instance, &event.name) {
        (Some(id), Some(name)) => format!("{name} ({id})"),
        (Some(id), None) => id.to_string(),
        (None, _) => String::new(),
    };
    match &event.kind {
        EventKind::DaemonStarted | EventKind::DaemonStopping => {}
        EventKind::DaemonReplaced { successor } => tracing::info!(successor, "letting go"),
        EventKind::Added => tracing::info!(instance, "added"),
        EventKind::Removed { links } => tracing::info!(instance, links, "removed"),
        EventKind::Started { pid } => tracing::info!(instance, pid, "started"),
        EventKind::Adopted { pid } => tracing::info!(instance, pid, "goes on"),
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
        EventKind::Waiting { on } => tracing::info!(instance, on, "waiting"),
        EventKind::Ready => tracing::info!(instance, "ready"),
        EventKind::Unhealthy { reason } => tracing::warn!(instance, reason, "unhealthy"),
        EventKind::BackOff { reason, delay_ms, attempt } => {
            tracing::warn!(instance, reason, delay_ms, attempt, "will be started again");
        }
        EventKind::RunSkipped { due_ms, reason } => {
            tracing::warn!(instance, due_ms, reason, "a run was left out");
        }
        EventKind::Failed { reason } => tracing::warn!(instance, reason, "failed"),
        EventKind::Scaled { from, to } => {
            let set = event.name.as_deref().unwrap_or_default();
            tracing::info!(set, from, to, "scaled");
        }
        EventKind::SetRemoved => {
            let set = event.name.as_deref().unwrap_or_default();
            tracing::info!(set, "removed");
        }
        EventKind::Changed { keys } => tracing::info!(instance, keys, "definition changed"),
        EventKind::LinkAdded { link, description } => {
            tracing::info!(link = link.0, description, "link added");
        }
        EventKind::LinkChanged {
            link,
            policy,
            capacity,
            block_timeout,
            history,
            transport,
            spin_us,
        } => {
            let (policy, capacity) = (*policy, *capacity);
            let (block_timeout, history) = (*block_timeout, *history);
            let (transport, spin_us) = (*transport, *spin_us);
            let rules = LinkRules { policy, capacity, block_timeout, history, transport, spin_us };
            tracing::info!(link = link.0, %rules, "link changed");
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
        EventKind::LinkDiverged { link, delivered, read } => tracing::warn!(
            link = link.0,
            from = instance,
            delivered,
            read,
            "the two ends of a link disagree on what passed between them"
        ),
        EventKind::LaneCut { link, queued } => tracing::warn!(
            link = link.0,
            from = instance,
            queued,
            "messages went directly and were to go another way, which their sender does not heed: \
             it is cut off"
        ),
        EventKind::Connected { dialect } => tracing::debug!(instance, dialect, "connected"),
        EventKind::Disconnected { dialect, error: None } => {
            tracing::debug!(instance, dialect, "disconnected");
        }
        EventKind::Disconnected { dialect, error: Some(error) } => {
            tracing::warn!(instance, dialect, error, "connection closed: protocol error");
        }
        EventKind::ConnectionKept { dialect } => tracing::info!(
            instance,
            dialect,
            "its connection goes on; what the daemon before had read and not passed on is lost"
        ),
        EventKind::MessageCut { dialect } => tracing::warn!(
            instance,
            dialect,
            "a message was lost: the daemon before ended when it had read the first part of it"
        ),
        EventKind::StateSetAside { path, reason } => {
            tracing::error!(
                path,
                reason,
                "the database was corrupt and was moved aside; all instances and links that were \
                 in it are unknown to this daemon"
            );
        }
        EventKind::SchemasForgotten { count } => tracing::info!(count, "schemas are forgotten"),
        // Said by those who lose them.
        EventKind::EventsLost { .. } => {}
    }
}
