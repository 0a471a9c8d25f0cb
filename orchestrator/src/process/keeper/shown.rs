//! The machine's words and the protocol's.

use std::time::Duration;

use orchestrator_proto::control::{EventKind, Exit, Observed};

use super::task::now_ms;
use crate::supervise::{Machine, Main, Notice, Rules, State};

/// The machine's state in the protocol's words; none if `shown` still says so. `exited_ms` is
/// when the last main process ended, `next_ms` when a schedule runs next, and `until_ms` says when a
/// time of the machine is, milliseconds since 1970 (UTC).
pub(super) fn observed(
    machine: &Machine,
    shown: &Observed,
    exited_ms: Option<u64>,
    next_ms: Option<u64>,
    until_ms: impl FnOnce(Duration) -> u64,
) -> Option<Observed> {
    let last_exit = machine.last_exit();
    // Since when the process runs that is shown.
    let since = |pid: u32| match shown {
        Observed::Starting { pid: Some(before), since_ms }
        | Observed::Ready { pid: before, since_ms }
        | Observed::Unhealthy { pid: before, since_ms, .. }
            if *before == pid =>
        {
            *since_ms
        }
        _ => now_ms(),
    };
    let observed = match machine.state() {
        State::Stopped => Observed::Stopped { last_exit, at_ms: exited_ms },
        State::Scheduled => Observed::Scheduled { next_ms },
        State::Waiting { on } => Observed::Waiting {
            on: on.clone(),
            since_ms: match shown {
                Observed::Waiting { since_ms, .. } => *since_ms,
                _ => now_ms(),
            },
        },
        State::Executing | State::Cancelling { .. } => match shown {
            Observed::Starting { pid: None, .. } => return None,
            _ => Observed::Starting { pid: None, since_ms: now_ms() },
        },
        State::Starting { pid, .. } => {
            Observed::Starting { pid: Some(*pid), since_ms: since(*pid) }
        }
        State::Ready { pid, .. } => Observed::Ready { pid: *pid, since_ms: since(*pid) },
        State::Unhealthy { pid, reason, .. } => {
            let reason = reason.clone();
            Observed::Unhealthy { pid: *pid, since_ms: since(*pid), reason }
        }
        State::Stopping { main, .. } => Observed::Stopping {
            pid: match main {
                Main::Alive { pid } => Some(*pid),
                Main::Ended { .. } => None,
            },
            since_ms: match shown {
                Observed::Stopping { since_ms, .. } => *since_ms,
                _ => now_ms(),
            },
        },
        State::BackOff { until, reason, attempt } => match shown {
            Observed::BackOff { attempt: before, .. } if before == attempt => return None,
            _ => Observed::BackOff {
                reason: reason.clone(),
                last_exit,
                until_ms: until_ms(*until),
                attempt: *attempt,
            },
        },
        State::Completed { exit } => {
            Observed::Completed { exit: *exit, at_ms: exited_ms.unwrap_or_else(now_ms) }
        }
        State::Failed { reason, exit } => match shown {
            Observed::Failed { .. } => return None,
            _ => Observed::Failed {
                reason: reason.clone(),
                exit: *exit,
                at_ms: exit.and(exited_ms).unwrap_or_else(now_ms),
            },
        },
    };
    (observed != *shown).then_some(observed)
}

/// The machine of an instance that was left like this, and when its main process ended.
pub(super) fn resume(rules: Rules, seed: u64, observed: Observed) -> (Machine, Option<u64>) {
    let (state, last_exit, exited_ms): (State, Option<Exit>, Option<u64>) = match observed {
        Observed::Stopped { last_exit, at_ms } => (State::Stopped, last_exit, at_ms),
        Observed::Completed { exit, at_ms } => (State::Completed { exit }, Some(exit), Some(at_ms)),
        Observed::Failed { reason, exit, at_ms } => {
            (State::Failed { reason, exit }, exit, exit.map(|_| at_ms))
        }
        Observed::Waiting { .. }
        | Observed::Scheduled { .. }
        | Observed::BackOff { .. }
        | Observed::Starting { .. }
        | Observed::Ready { .. }
        | Observed::Unhealthy { .. }
        | Observed::Stopping { .. } => (State::Stopped, None, None),
    };
    (Machine::resume(rules, seed, state, last_exit), exited_ms)
}

/// None of what is shown but not told.
pub(super) fn in_protocol(notice: Notice) -> Option<EventKind> {
    Some(match notice {
        Notice::RunBegan | Notice::RunEnded(_) => return None,
        Notice::RunSkipped { at_ms, reason } => EventKind::RunSkipped { due_ms: at_ms, reason },
        Notice::Waiting { on } => EventKind::Waiting { on },
        Notice::Started { pid } => EventKind::Started { pid },
        Notice::Adopted { pid } => EventKind::Adopted { pid },
        Notice::StartFailed { error } => EventKind::StartFailed { error },
        Notice::Ready => EventKind::Ready,
        Notice::Unhealthy { reason } => EventKind::Unhealthy { reason },
        Notice::Stopping { signal } => EventKind::Stopping { signal },
        Notice::Killed => EventKind::Killed,
        Notice::Exited { exit, requested } => EventKind::Exited { exit, requested },
        Notice::Stopped => EventKind::Stopped,
        Notice::BackOff { reason, delay, attempt } => {
            let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
            EventKind::BackOff { reason, delay_ms, attempt }
        }
        Notice::Failed { reason } => EventKind::Failed { reason },
    })
}
