//! Messages arrive in order and at most once; over a `block` link that stays, exactly once.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use orchestrator_proto::control::LinkInfo;

use super::Evidence;
use crate::account::{Slot, Worker};

/// What one receiver noted, by sender: the numbers in order, and when each came.
type Noted = HashMap<u64, Received>;

#[derive(Default)]
struct Received {
    numbers: Vec<u64>,
    times_ms: Vec<u64>,
}

impl Received {
    /// The first two in a row that do not follow each other like this, and when the second came.
    fn find(&self, wrong: impl Fn(u64, u64) -> bool) -> Option<(u64, u64, u64)> {
        let mut pairs = self.numbers.windows(2).zip(&self.times_ms[1..]);
        let found = pairs.find(|(pair, _)| wrong(pair[0], pair[1]));
        found.map(|(pair, time_ms)| (pair[0], pair[1], *time_ms))
    }
}

/// What was found out besides violations.
#[derive(Default, Debug)]
pub(crate) struct Counts {
    pub(crate) block: u64,
    pub(crate) lossy: u64,
}

/// A `block` link that was made before anything was sent, and stays: from one instance to another,
/// by name.
pub(crate) type Lasting = (String, String);

pub(crate) fn check(
    evidence: &Evidence<'_>,
    lasting: &[Lasting],
    counts: &mut Counts,
) -> Vec<String> {
    let mut violations = Vec::new();
    for worker in evidence.workers {
        for (kind, count) in
            [("chaos.block", &mut counts.block), ("chaos.lossy", &mut counts.lossy)]
        {
            let noted = noted(evidence.dir, worker, kind);
            for (run, received) in noted {
                *count += received.numbers.len() as u64;
                if let Some((last, next, at)) = received.find(|last, next| last >= next) {
                    let sender = evidence.workers.iter().find(|worker| worker.run == run);
                    violations.push(format!(
                        "{worker:?} received {kind} {next} after {last} at {at} of {sender:?}"
                    ));
                }
            }
        }
    }
    for link in lasting {
        check_lasting(evidence, link, &mut violations);
    }
    violations
}

fn check_lasting(evidence: &Evidence<'_>, (from, to): &Lasting, violations: &mut Vec<String>) {
    let of = |name: &str| -> Vec<&Worker> {
        evidence.workers.iter().filter(|worker| worker.name == name).collect()
    };
    let receivers: Vec<_> = of(to)
        .into_iter()
        .map(|worker| (worker, noted(evidence.dir, worker, "chaos.block")))
        .collect();
    for sender in of(from) {
        let sent = sender.account(evidence.dir).get(Slot::Block);
        let mut next = 1;
        for (receiver, noted) in &receivers {
            let Some(received) = noted.get(&sender.run) else { continue };
            let numbers = &received.numbers;
            let (first, last) = (numbers[0], numbers[numbers.len() - 1]);
            if let Some((last, next, at)) = received.find(|last, next| last + 1 != next) {
                violations.push(format!(
                    "{receiver:?} received {next} after {last} at {at} over the block link from \
                     {sender:?}"
                ));
            }
            // It may see again what its predecessor had begun to work on.
            if first > next {
                violations.push(format!(
                    "{receiver:?} received {first} first, at {}, over the block link from \
                     {sender:?}, and {next} was to come",
                    received.times_ms[0]
                ));
            }
            // One that was ended while it got again what its predecessor had begun to work on has
            // got less than that. Whether one that lives gets everything is seen at rest.
            next = next.max(last + 1);
        }
        // If it was sent, and not noted because its sender was killed between the two.
        if next > sent + 2 {
            violations.push(format!("{sender:?} has sent {sent}, and {} arrived", next - 1));
        }
    }
}

/// Of each lasting link whose ends are both alive: whether everything has arrived, and if not,
/// what is missing.
pub(crate) fn missing(dir: &Path, alive: &[Worker], lasting: &[Lasting]) -> Vec<String> {
    let mut missing = Vec::new();
    for (from, to) in lasting {
        let find = |name: &str| alive.iter().find(|worker| worker.name == name);
        if let (Some(sender), Some(receiver)) = (find(from), find(to)) {
            let sent = sender.account(dir).get(Slot::Block);
            let noted = noted(dir, receiver, "chaos.block");
            let last = noted.get(&sender.run).and_then(|it| it.numbers.last()).copied();
            // A receiver that came after everything had arrived gets nothing.
            if last != Some(sent)
                && !(last.is_none() && arrived_before(dir, receiver, sender, sent))
            {
                missing.push(format!(
                    "{sender:?} has sent {sent}, and {receiver:?} received up to {last:?}"
                ));
            }
        }
    }
    missing
}

fn arrived_before(dir: &Path, receiver: &Worker, sender: &Worker, sent: u64) -> bool {
    Worker::all(dir)
        .iter()
        .filter(|other| other.instance == receiver.instance)
        .filter_map(|other| {
            noted(dir, other, "chaos.block").get(&sender.run)?.numbers.last().copied()
        })
        .max()
        .unwrap_or(0)
        >= sent
}

pub(crate) fn check_counters(links: &[LinkInfo]) -> Vec<String> {
    let mut violations = Vec::new();
    for link in links {
        let counters = &link.counters;
        let adds_up = counters.sent == counters.delivered + counters.dropped + counters.queued
            && counters.dropped == counters.drops.total();
        if !adds_up {
            violations.push(format!("the counters do not add up: {link:?}"));
        }
        if link.policy == orchestrator_proto::control::Policy::Block && counters.dropped > 0 {
            violations.push(format!("a block link has dropped something: {link:?}"));
        }
    }
    violations
}

fn noted(dir: &Path, worker: &Worker, kind: &str) -> Noted {
    let bytes = fs::read(worker.received(dir, kind)).unwrap_or_default();
    let mut noted = Noted::new();
    for record in bytes.chunks_exact(24) {
        let number =
            |at: usize| u64::from_ne_bytes(record[at..at + 8].try_into().expect("it has 24 bytes"));
        let received = noted.entry(number(0)).or_default();
        received.numbers.push(number(8));
        received.times_ms.push(number(16));
    }
    noted
}
