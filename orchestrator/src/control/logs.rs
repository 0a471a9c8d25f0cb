//! What instances printed, as a stream.

use orchestrator_proto::control::{Item, LogQuery};
use orchestrator_proto::{ErrorCode, WireError};

use super::Daemon;
use super::connection::Items;
use crate::logs::{LogReader, ReadItem, ReadQuery};

/// The largest `tail`, lines.
const MAX_TAIL: u64 = 1_000_000;

impl Daemon {
    pub(super) async fn logs(&self, query: LogQuery, items: Items) -> Result<(), WireError> {
        let LogQuery { instance, stream, tail, since_ns, follow } = query;
        if tail.is_some_and(|tail| tail > MAX_TAIL) {
            let message = format!("at most {MAX_TAIL} of the last lines can be asked for");
            return Err(WireError::new(ErrorCode::InvalidArgument, message));
        }
        let instance = self.registry.find(&instance)?;
        let query = ReadQuery { stream, tail, since_ns, follow };
        let mut reader = LogReader::open(instance.log().await, query);
        let label = instance.label();
        // Let go, so that an instance that is removed meanwhile is not kept by its reader.
        drop(instance);
        loop {
            let batch = reader.next_batch().await.map_err(|error| {
                let message = format!("the log of instance {label} can't be read");
                WireError::caused_by(ErrorCode::Io, message, &error)
            })?;
            let Some(batch) = batch else { return Ok(()) };
            for item in batch {
                let item = match item {
                    ReadItem::Line(line) => Item::Log(line),
                    ReadItem::Missed { count, reason } => Item::Missed { count, reason },
                };
                items.send(item).await?;
            }
        }
    }
}
