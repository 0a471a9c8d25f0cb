//! What happened, as a stream.

use orchestrator_proto::control::{Event, Item, Replica, Selector};
use orchestrator_proto::{ErrorCode, WireError};

use super::outgoing::Items;
use super::{Daemon, missed};
use crate::registry::Meant;
use crate::store::EventQuery;

/// Events that are taken from the log at once.
const BATCH: usize = 64;

/// What a client asked for.
pub(super) struct Wanted {
    pub(super) follow: bool,
    pub(super) after: Option<u64>,
    pub(super) since_ms: Option<u64>,
    pub(super) instance: Option<Selector>,
}

impl Daemon {
    pub(super) async fn events(&self, wanted: Wanted, items: Items) -> Result<(), WireError> {
        let Wanted { mut follow, after, since_ms, instance } = wanted;
        let (instance, set) = match instance.map(|it| self.registry.meant(&it)).transpose()? {
            Some(Meant::One(instance)) => (Some(instance.id), None),
            Some(Meant::Set(set)) => (None, Some(set)),
            None => (None, None),
        };
        let log = self.registry.events();
        // Before anything is awaited: from here on new events are written at once.
        let mut newest = log.watch();
        log.settle().await;
        let oldest = log.oldest();
        let seen = match after {
            // Without a number to begin at, those that are no longer kept are not missed.
            None => oldest - 1,
            Some(after) if after > *newest.borrow() => {
                // The numbers of a database that is gone: this one began anew.
                let reason = "the daemon's events were begun anew since that event";
                items.send(missed(0, reason)).await?;
                oldest - 1
            }
            Some(after) => after,
        };
        let mut query = EventQuery { after: seen, since_ms, instance };
        loop {
            let last = *newest.borrow_and_update();
            while query.after < last {
                let batch = log.read(query, BATCH).await.map_err(|error| {
                    let message = "events of before can't be read";
                    WireError::caused_by(ErrorCode::Io, message, &error)
                })?;
                if batch.missed > 0 {
                    items.send(missed(batch.missed, "they are no longer kept")).await?;
                }
                if batch.unreadable > 0 {
                    let reason = "their rows in the database can't be read";
                    items.send(missed(batch.unreadable, reason)).await?;
                }
                query.after = batch.seen;
                for event in batch.events {
                    if set.as_ref().is_some_and(|set| !is_of_set(&event, set)) {
                        continue;
                    }
                    items.send(Item::Event(event)).await?;
                }
            }
            log.end_of_history();
            if !follow {
                return Ok(());
            }
            tokio::select! {
                // Nothing happens after this; what happened before is still told.
                () = self.ended() => follow = false,
                changed = newest.changed() => if changed.is_err() { return Ok(()) },
            }
        }
    }
}

/// Whether an event is about a set or one of its replicas, those that were removed too.
fn is_of_set(event: &Event, set: &str) -> bool {
    let name = event.name.as_deref();
    let replica = name.and_then(Replica::of_name);
    name == Some(set) || replica.is_some_and(|replica| replica.set == set)
}
