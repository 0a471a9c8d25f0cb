//! What is listed is what there is; and in the end there is nothing.

use std::fs;

use orchestrator_proto::control::{Desired, Observed};
use tests::processes;

use super::Evidence;
use crate::account::Worker;
use crate::clients::Expected;
use crate::host::everything;

/// At rest, while everything still runs.
pub(crate) fn check_rest(evidence: &Evidence<'_>) -> Vec<String> {
    let mut violations = Vec::new();
    let alive: Vec<_> = everything()
        .into_iter()
        .filter(|pid| processes::is_alive(*pid))
        .filter_map(|pid| Worker::of(evidence.dir, pid))
        .collect();
    for info in evidence.runtimes {
        let id = info.id.to_string();
        let pids: Vec<_> =
            alive.iter().filter(|worker| worker.instance == id).map(|worker| worker.pid).collect();
        let fits = match (&info.observed, info.desired) {
            (Observed::Ready { pid, .. }, Desired::Running) => pids == [*pid],
            (Observed::Completed { .. } | Observed::Failed { .. }, Desired::Running)
            | (Observed::Stopped { .. }, Desired::Stopped) => pids.is_empty(),
            _ => false,
        };
        if !fits {
            violations.push(format!("at rest {info:?}, and there is {pids:?}"));
        }
    }
    for worker in &alive {
        if !evidence.runtimes.iter().any(|info| info.id.to_string() == worker.instance) {
            violations.push(format!("{worker:?} is alive, and its instance is not listed"));
        }
    }
    for told in evidence.told {
        for owned in &told.owned {
            let info = evidence.runtimes.iter().find(|info| info.id.to_string() == owned.id);
            let desired = info.map(|info| info.desired);
            let fits = match owned.expected {
                Expected::Unknown => desired.is_some(),
                Expected::Running => desired == Some(Desired::Running),
                Expected::Stopped => desired == Some(Desired::Stopped),
            };
            if !fits {
                violations.push(format!("{owned:?} is listed as {info:?}"));
            }
        }
        for id in &told.removed {
            if evidence.runtimes.iter().any(|info| info.id.to_string() == *id) {
                violations.push(format!("{id} was removed, and is listed"));
            }
        }
    }
    violations
}

/// What workers found out themselves.
pub(crate) fn check_marks(evidence: &Evidence<'_>) -> Vec<String> {
    let entries = fs::read_dir(evidence.dir.join("violations")).into_iter().flatten().flatten();
    entries.filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect()
}

/// After the end of everything.
pub(crate) fn check_end(evidence: &Evidence<'_>) -> Vec<String> {
    let mut violations = Vec::new();
    for pid in everything().into_iter().filter(|pid| processes::is_alive(*pid)) {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        violations.push(format!("process {pid} is left: {line}"));
    }
    // Whosever child it may be.
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let marks = environment.split(|byte| *byte == 0);
        let ours = format!("CHAOS_DIR={}", evidence.dir.display());
        if marks.into_iter().any(|mark| mark == ours.as_bytes()) {
            violations.push(format!("{:?} is left and has our environment", entry.path()));
        }
    }
    violations
}
