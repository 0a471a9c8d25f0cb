//! What instances printed, as a stream.

use std::sync::Arc;
use std::time::Duration;

use orchestrator_proto::control::{Item, LogQuery};
use orchestrator_proto::{ErrorCode, WireError};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::Daemon;
use super::outgoing::Items;
use crate::logs::{Grep, InstanceLog, LogReader, MergedLogs, ReadItem, ReadQuery};
use crate::registry::Instance;
use crate::runtime::now_ns;

/// The largest `tail`, lines.
const MAX_TAIL: u64 = 1_000_000;
/// From so many instances on, less is read of each at once.
const MANY: usize = 8;
/// How long after `until` a line of that time may come: it is captured and written by then.
const LATE: Duration = Duration::from_millis(500);

/// Whose lines these are.
struct Whose {
    label: String,
    name: Option<String>,
}

impl Daemon {
    pub(super) async fn logs(&self, query: LogQuery, items: Items) -> Result<(), WireError> {
        let end = query.until_ns.filter(|_| query.follow).map(instant);
        let (logs, query) = self.logs_of(query).await?;
        let many = logs.len() > MANY;
        let mut whose = Vec::new();
        let readers: Vec<_> = logs
            .into_iter()
            .map(|(log, who)| {
                whose.push(who);
                let reader = LogReader::open(&log, query.clone());
                if many { reader.frugal() } else { reader }
            })
            .collect();
        let mut merged = MergedLogs::new(readers);
        let until = async {
            match end {
                Some(end) => sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(until);
        loop {
            let batch = tokio::select! {
                batch = merged.next() => batch,
                () = &mut until => return Ok(()),
            };
            let batch = batch.map_err(|(number, error)| {
                let label = whose.get(number).map_or("", |who| &who.label);
                let message = format!("the log of instance {label} can't be read");
                WireError::caused_by(ErrorCode::Io, message, &error)
            })?;
            let Some(batch) = batch else { return Ok(()) };
            for (number, item) in batch {
                let who = whose.get(number);
                let item = match item {
                    ReadItem::Line(mut line) => {
                        line.name = who.and_then(|who| who.name.clone());
                        Item::Log(line)
                    }
                    ReadItem::Missed { count, reason } => {
                        let label = who.filter(|_| whose.len() > 1).map(|who| &who.label);
                        let reason = match label {
                            Some(label) => format!("{label}: {reason}"),
                            None => reason,
                        };
                        Item::Missed { count, reason }
                    }
                };
                items.send(item).await?;
            }
        }
    }

    /// The logs that are meant, and what of each is to be read.
    async fn logs_of(
        &self,
        query: LogQuery,
    ) -> Result<(Vec<(InstanceLog, Whose)>, ReadQuery), WireError> {
        let LogQuery { instances, stream, tail, since_ns, until_ns, grep, follow } = query;
        let invalid = |message: String| WireError::new(ErrorCode::InvalidArgument, message);
        if tail.is_some_and(|tail| tail > MAX_TAIL) {
            return Err(invalid(format!("at most {MAX_TAIL} of the last lines can be asked for")));
        }
        let grep = grep.map(|pattern| Grep::new(&pattern)).transpose().map_err(invalid)?;
        let mut found: Vec<Arc<Instance>> = match instances.is_empty() {
            true => self.registry.all(),
            false => {
                let found = instances.iter().map(|instance| self.registry.find_all(instance));
                found.collect::<Result<Vec<_>, _>>()?.concat()
            }
        };
        let mut seen = std::collections::HashSet::new();
        found.retain(|instance| seen.insert(instance.id));
        if found.len() > LogQuery::MAX_INSTANCES {
            let most = LogQuery::MAX_INSTANCES;
            let message = format!("the logs of at most {most} instances can be read at once");
            return Err(WireError::new(ErrorCode::LimitReached, message));
        }
        // All at once: the last words of each may have to be waited for. They are let go of after
        // that, so that an instance that is removed meanwhile is not kept by its reader.
        let mut logs = JoinSet::new();
        for (number, instance) in found.into_iter().enumerate() {
            logs.spawn(async move {
                let log = instance.log().await.clone();
                (number, log, Whose { label: instance.label(), name: instance.name.clone() })
            });
        }
        let mut logs = logs.join_all().await;
        logs.sort_by_key(|(number, ..)| *number);
        let logs = logs.into_iter().map(|(_, log, whose)| (log, whose)).collect();
        Ok((logs, ReadQuery { stream, tail, since_ns, until_ns, grep, follow }))
    }
}

/// When all lines of a time have come that will.
fn instant(until_ns: u64) -> Instant {
    let left = Duration::from_nanos(until_ns.saturating_sub(now_ns()));
    let now = Instant::now();
    // A time that is too far away for the clock never comes.
    now.checked_add(left + LATE).unwrap_or_else(|| now + Duration::from_secs(100 * 365 * 86_400))
}
