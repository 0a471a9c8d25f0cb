//! The checker: compares what clients were told, what workers know of themselves, what was done
//! to them, the events, the logs and the kernel.

pub(crate) mod events;
pub(crate) mod kernel;
pub(crate) mod logs;
pub(crate) mod messages;

use std::collections::HashMap;
use std::path::Path;

use orchestrator_proto::control::{Event, RuntimeInfo};

use crate::account::Worker;
use crate::clients::Told;
use crate::killer::Deeds;

/// All that is known when everything has come to rest.
pub(crate) struct Evidence<'a> {
    pub(crate) dir: &'a Path,
    /// As a follower saw them, from the first to the last.
    pub(crate) events: &'a [Event],
    /// How they were listed at rest.
    pub(crate) runtimes: &'a [RuntimeInfo],
    pub(crate) told: &'a [Told],
    pub(crate) deeds: &'a Deeds,
    /// When there was no holder, milliseconds since 1970.
    pub(crate) gaps: &'a [(u64, u64)],
    /// Every process that came so far as to have an account, the oldest first.
    pub(crate) workers: &'a [Worker],
}

impl Evidence<'_> {
    /// The workers by instance.
    pub(crate) fn by_instance(&self) -> HashMap<&str, Vec<&Worker>> {
        let mut found: HashMap<&str, Vec<&Worker>> = HashMap::new();
        for worker in self.workers {
            found.entry(&worker.instance).or_default().push(worker);
        }
        found
    }

    /// Whether there was no holder at any time between these two.
    pub(crate) fn had_gap(&self, from_ms: u64, to_ms: u64) -> bool {
        self.gaps.iter().any(|&(began, ended)| began <= to_ms && ended >= from_ms)
    }

    /// Whether a daemon was killed between these two, so that what happened right before may not
    /// be told.
    pub(crate) fn had_kill(&self, from_ms: u64, to_ms: u64) -> bool {
        let kills = self.deeds.daemons.lock().unwrap();
        kills.iter().any(|at| (from_ms.saturating_sub(10)..=to_ms).contains(at))
    }
}
