//! Collects what is found in the files of a log.

use std::io;

use orchestrator_proto::control::LogLine;
use orchestrator_proto::{InstanceId, OsBytes};

use super::read::{ReadItem, Step};
use super::record::Record;

/// Collects what a step finds.
#[derive(Default)]
pub(super) struct Findings {
    items: Vec<ReadItem>,
    /// Records in between that were none.
    pub(super) malformed: u64,
}

impl Findings {
    pub(super) fn line(&mut self, instance: InstanceId, record: &Record<'_>) {
        self.tell_malformed();
        self.items.push(ReadItem::Line(LogLine {
            instance,
            name: None,
            time_ns: record.time_ns,
            stream: record.stream,
            complete: record.complete,
            text: OsBytes(record.text.to_vec()),
        }));
    }

    fn tell_malformed(&mut self) {
        let count = std::mem::take(&mut self.malformed);
        if count > 0 {
            self.missed(count, "what stands there is not a log record".to_owned());
        }
    }

    pub(super) fn deleted(&mut self, first: u64, last: u64) {
        let reason = if first == last {
            format!("log file {first} was deleted before it could be read")
        } else {
            format!("log files {first} to {last} were deleted before they could be read")
        };
        self.missed(0, reason);
    }

    pub(super) fn damaged(&mut self, number: u64, error: &io::Error) {
        self.missed(0, format!("log file {number} can't be read: {error}"));
    }

    pub(super) fn missed(&mut self, count: u64, reason: String) {
        self.items.push(ReadItem::Missed { count, reason });
    }

    pub(super) fn items(mut self) -> Vec<ReadItem> {
        self.tell_malformed();
        self.items
    }

    pub(super) fn end(self) -> Step {
        let items = self.items();
        if items.is_empty() { Step::End } else { Step::Items(items) }
    }
}
