//! Requests about links.

use std::sync::Arc;
use std::time::Duration;

use orchestrator_proto::control::{Item, LinkSpec, Reply, RulesSpec, TapFilter, TapMessage};
use orchestrator_proto::{ErrorCode, LinkId, WireError};

use super::outgoing::Items;
use super::{Daemon, missed, to_its_end};
use crate::route::{MAX_TAPS, Tap, TapItem, Watched};
use crate::runtime::to_json_text;

/// How long a watcher may go without being told what it missed.
const TELL_MISSED: Duration = Duration::from_secs(1);

/// The longest JSON of a payload that is shown, bytes: 8 MiB, which nobody reads.
const MAX_SHOWN: usize = 8 << 20;

impl Daemon {
    pub(super) async fn link_add(&self, spec: LinkSpec) -> Result<Reply, WireError> {
        let registry = self.registry.clone();
        let (id, created) = to_its_end(async move { registry.add_link(&spec).await }).await?;
        Ok(Reply::LinkAdded { id, created })
    }

    pub(super) async fn link_set(
        &self,
        link: LinkId,
        rules: RulesSpec,
    ) -> Result<Reply, WireError> {
        let registry = self.registry.clone();
        let set = async move { registry.set_link(link, rules).await };
        let (changed, dropped) = to_its_end(set).await?;
        Ok(Reply::LinkSet { id: link, changed, dropped })
    }

    pub(super) async fn link_remove(&self, link: LinkId) -> Result<Reply, WireError> {
        let registry = self.registry.clone();
        let discarded = to_its_end(async move { registry.remove_link(link).await }).await?;
        Ok(Reply::LinkRemoved { id: link, discarded })
    }

    pub(super) async fn link_tap(&self, filter: TapFilter, items: Items) -> Result<(), WireError> {
        let from = filter.from.map(|from| self.registry.find(&from)).transpose()?;
        let mut tap =
            self.tap(vec![(filter.type_name.map(Arc::from), from.map(|from| from.id))]).await?;
        while let Some(item) = self.next_of(&mut tap, &items).await? {
            items.send(Item::Message(self.shown(&item))).await?;
        }
        Ok(())
    }

    /// Begins to watch any of these.
    pub(super) async fn tap(&self, watched: Vec<Watched>) -> Result<Tap, WireError> {
        let tap = self.registry.router().taps().open(watched).ok_or_else(|| {
            let message = format!("{MAX_TAPS} taps are open already; end one of them");
            WireError::new(ErrorCode::LimitReached, message)
        })?;
        self.registry.watched().await;
        Ok(tap)
    }

    /// The next message, after what was missed before it. None at the end of this daemon.
    pub(super) async fn next_of(
        &self,
        tap: &mut Tap,
        items: &Items,
    ) -> Result<Option<TapItem>, WireError> {
        loop {
            // What was missed came before what waits now, or in between: told as soon as known.
            let next = tokio::select! {
                next = tokio::time::timeout(TELL_MISSED, tap.next()) => next,
                () = self.ended() => return Ok(None),
            };
            let count = tap.take_missed();
            if count > 0 {
                items.send(missed(count, "the watcher was too slow")).await?;
            }
            if let Ok(next) = next {
                return Ok(next);
            }
        }
    }

    /// Decoded here, in the watcher's own task.
    fn shown(&self, item: &TapItem) -> TapMessage {
        let schema = item.decl.schema.as_ref().map(|(_, schema)| &**schema);
        TapMessage {
            time_ns: item.time_ns,
            from: item.from,
            from_name: item.from.and_then(|from| self.registry.name_of(from)),
            type_name: item.decl.name.to_string(),
            links: u32::try_from(item.links).unwrap_or(u32::MAX),
            size: item.body.len() as u64,
            payload: to_json_text(schema, &item.body).and_then(short_enough),
        }
    }
}

fn short_enough(json: String) -> Result<String, String> {
    if json.len() > MAX_SHOWN {
        let length = json.len();
        return Err(format!("{length} bytes of JSON; at most {MAX_SHOWN} are shown"));
    }
    Ok(json)
}
