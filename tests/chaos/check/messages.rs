//! Messages arrive in order and at most once; over a `block` link that stays, exactly once.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use orchestrator_proto::control::LinkInfo;

use super::Evidence;
use crate::account::{Slot, Worker};

/// What one receiver noted of one sender: the numbers in order.
type Noted = HashMap<u64, Vec<u64>>;

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
            for (run, numbers) in noted {
                *count += numbers.len() as u64;
                if let Some(pair) = numbers.windows(2).find(|pair| pair[0] >= pair[1]) {
                    let sender = evidence.workers.iter().find(|worker| worker.run == run);
                    violations.push(format!(
                        "{worker:?} received {kind} {} after {} of {sender:?}",
                        pair[1], pair[0]
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
            let Some(numbers) = noted.get(&sender.run) else { continue };
            let (first, last) = (numbers[0], numbers[numbers.len() - 1]);
            if let Some(pair) = numbers.windows(2).find(|pair| pair[0] + 1 != pair[1]) {
                violations.push(format!(
                    "{receiver:?} received {} after {} over the block link from {sender:?}",
                    pair[1], pair[0]
                ));
            }
            // It may see again what its predecessor had begun to work on.
            if first > next {
                violations.push(format!(
                    "{receiver:?} received {first} first over the block link from {sender:?}, and \
                     {next} was to come"
                ));
            }
            if last + 1 < next {
                violations.push(format!(
                    "{receiver:?} received no more than {last} over the block link from \
                     {sender:?}, and those before it {}",
                    next - 1
                ));
            }
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
            let last = noted.get(&sender.run).and_then(|numbers| numbers.last()).copied();
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
        .filter_map(|other| noted(dir, other, "chaos.block").get(&sender.run)?.last().copied())
        .max()
        .unwrap_or(0)
        >= sent
}

pub(crate) fn check_counters(links: &[LinkInfo]) -> Vec<String> {
    let mut violations = Vec::new();
    for link in links {
        let counters = &link.counters;
        let drops = &counters.drops;
        let reasons = drops.full + drops.too_long + drops.untranslatable + drops.failed;
        let adds_up = counters.sent == counters.delivered + counters.dropped + counters.queued
            && counters.dropped == reasons;
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
    for record in bytes.chunks_exact(16) {
        let (run, number) = record.split_at(8);
        let number_of = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().expect("8 bytes"));
        noted.entry(number_of(run)).or_default().push(number_of(number));
    }
    noted
}
