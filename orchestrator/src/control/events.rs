//! What happened, as a stream.

use orchestrator_proto::WireError;
use orchestrator_proto::control::{Item, Selector};

use super::connection::Items;
use super::{Daemon, missed};

/// Events that are taken from the log at once.
const BATCH: usize = 64;

impl Daemon {
    pub(super) async fn events(
        &self,
        mut follow: bool,
        after: Option<u64>,
        instance: Option<Selector>,
        items: Items,
    ) -> Result<(), WireError> {
        let instance = match instance {
            Some(selector) => Some(self.registry.find(&selector)?.id),
            None => None,
        };
        let log = self.registry.events();
        let mut newest = log.watch();
        let oldest = log.read(0, 1).events.first().map_or(1, |oldest| oldest.seq);
        let mut seen = match after {
            // Without a number to begin at, those that are no longer kept are not missed.
            None => oldest - 1,
            Some(after) if after > *newest.borrow() => {
                // The numbers of a daemon that is gone: this one began anew.
                let reason = "the daemon was started anew since that event";
                items.send(missed(0, reason)).await?;
                oldest - 1
            }
            Some(after) => after,
        };
        loop {
            let last = *newest.borrow_and_update();
            loop {
                let batch = log.read(seen, BATCH);
                if batch.missed > 0 {
                    items.send(missed(batch.missed, "they are no longer kept")).await?;
                }
                let Some(newest) = batch.events.last() else {
                    break;
                };
                seen = newest.seq;
                let wanted = batch
                    .events
                    .into_iter()
                    .filter(|event| instance.is_none() || event.instance == instance);
                for event in wanted {
                    items.send(Item::Event(event)).await?;
                }
                if !follow && seen >= last {
                    return Ok(());
                }
            }
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
