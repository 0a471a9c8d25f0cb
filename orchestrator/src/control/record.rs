//! Messages as they pass, for a recording.

use std::collections::HashMap;
use std::sync::Arc;

use orchestrator_proto::control::{Item, RecordFilter, RecordSource, RecordedMessage};
use orchestrator_proto::frame::MAX_CONTROL;
use orchestrator_proto::runtime::MAX_PAYLOAD;
use orchestrator_proto::{ErrorCode, InstanceId, SchemaHash, WireError};

use super::outgoing::Items;
use super::{Daemon, missed};
use crate::route::{TapItem, TypeDecl, Watched};

/// The longest payload fits a frame with what is around it, also the one byte more that says of a call
/// what it is.
const _: () = assert!(MAX_PAYLOAD + 1024 <= MAX_CONTROL);

/// The most sources that are told of. Those that come later are not recorded, and counted.
const MAX_SOURCES: usize = 64 << 10;

impl Daemon {
    pub(super) async fn link_record(
        &self,
        filter: RecordFilter,
        items: Items,
    ) -> Result<(), WireError> {
        let mut tap = self.tap(self.wanted(filter)?).await?;
        let mut sources = Sources::default();
        while let Some(item) = self.next_of(&mut tap, &items).await? {
            let (source, is_new) = match sources.of(&item) {
                Some(found) => found,
                None => {
                    let reason = format!("there are {MAX_SOURCES} sources already");
                    items.send(missed(1, &reason)).await?;
                    continue;
                }
            };
            if is_new {
                items.send(Item::Source(self.described(source, &item))).await?;
            }
            let TapItem { time_ns, body, sent_ns, .. } = item;
            let message = RecordedMessage { source, time_ns, payload: body.to_vec(), sent_ns };
            items.send(Item::Recorded(message)).await?;
        }
        Ok(())
    }

    fn wanted(&self, filter: RecordFilter) -> Result<Vec<Watched>, WireError> {
        let RecordFilter { types, from, links } = filter;
        let most = RecordFilter::MAX;
        if [types.len(), from.len(), links.len()].into_iter().any(|count| count > most) {
            let message = format!("at most {most} types, {most} senders and {most} links");
            return Err(WireError::new(ErrorCode::InvalidArgument, message));
        }
        let is_of_links = !links.is_empty();
        let mut watched = Vec::new();
        for id in links {
            watched.extend(self.registry.carried_by(id)?);
        }
        let is_all_of_links = is_of_links && types.is_empty() && from.is_empty();
        if !is_all_of_links {
            let find = |from| self.registry.find(&from).map(|instance| Some(instance.id));
            let mut from = from.into_iter().map(find).collect::<Result<Vec<_>, _>>()?;
            if from.is_empty() {
                from.push(None);
            }
            let mut types: Vec<_> = types.into_iter().map(|name| Some(Arc::from(name))).collect();
            if types.is_empty() {
                types.push(None);
            }
            for of in types {
                watched.extend(from.iter().map(|from| (of.clone(), *from)));
            }
        }
        Ok(watched)
    }

    fn described(&self, number: u32, item: &TapItem) -> RecordSource {
        RecordSource {
            number,
            from: item.from,
            from_name: item.from.and_then(|from| self.registry.name_of(from)),
            type_name: item.decl.name.to_string(),
            schema: item.decl.schema.as_ref().map(|(_, schema)| schema.encode()),
        }
    }
}

/// The numbers of those that were told of.
#[derive(Default)]
struct Sources(HashMap<Key, u32>);

/// Who sends, what, and by which schema.
type Key = (Option<InstanceId>, Arc<str>, Option<SchemaHash>);

impl Sources {
    /// The number of a message's source, and whether it is new. None if there are too many.
    fn of(&mut self, item: &TapItem) -> Option<(u32, bool)> {
        let TypeDecl { name, schema, .. } = &*item.decl;
        let key = (item.from, name.clone(), schema.as_ref().map(|(hash, _)| *hash));
        if let Some(number) = self.0.get(&key) {
            return Some((*number, false));
        }
        let number = u32::try_from(self.0.len()).ok().filter(|_| self.0.len() < MAX_SOURCES)?;
        self.0.insert(key, number);
        Some((number, true))
    }
}
