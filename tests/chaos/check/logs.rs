//! Every line that a worker knows it wrote is in its log once and in order. Of what was printed
//! just before capture was killed, 64 KiB of each pipe may be missing, and a remark says so; and
//! so may what nobody could keep: the holder was killed while there was no capture.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use orchestrator_proto::control::{EventKind, RuntimeInfo};

use super::Evidence;
use crate::account::{Slot, Worker, line};

/// What may be missing of each pipe when capture is killed, bytes.
const LOSS: u64 = 64 << 10;

/// How long before the end of the holder something may have happened of which the capture process
/// has not been told: it was killed, or a program was executed.
const BLIND_MS: u64 = 1500;

/// What was found out besides violations.
#[derive(Default, Debug)]
pub(crate) struct Counts {
    pub(crate) lines: u64,
    /// Streams with a hole after a kill of capture, and the bytes that are missing in them.
    pub(crate) holes: u64,
    pub(crate) missing_bytes: u64,
    /// Streams of which something may be missing because nobody could keep it.
    pub(crate) unkept: u64,
}

/// Why lines may be missing.
enum Excuse {
    Unkept,
    CaptureKilled { missing_bytes: u64 },
}

impl Counts {
    fn add(&mut self, excuse: &Excuse) {
        match excuse {
            Excuse::Unkept => self.unkept += 1,
            Excuse::CaptureKilled { missing_bytes } => {
                self.holes += 1;
                self.missing_bytes += missing_bytes;
            }
        }
    }
}

/// One log as it was read.
#[derive(Default)]
struct Log {
    /// Per stream, the lines in order.
    lines: HashMap<String, Vec<Vec<u8>>>,
    remarks: Vec<String>,
}

pub(crate) fn check(evidence: &Evidence<'_>, counts: &mut Counts) -> Vec<String> {
    let mut violations = Vec::new();
    let by_instance = evidence.by_instance();
    for info in evidence.runtimes {
        let workers = by_instance.get(info.id.to_string().as_str());
        check_instance(evidence, info, workers.map_or(&[], Vec::as_slice), counts, &mut violations);
    }
    violations
}

fn check_instance(
    evidence: &Evidence<'_>,
    info: &RuntimeInfo,
    workers: &[&Worker],
    counts: &mut Counts,
    violations: &mut Vec<String>,
) {
    let dir = evidence.dir.join("state/logs").join(info.id.to_string());
    let log = match read(&dir) {
        Ok(log) => log,
        Err(why) => {
            violations.push(format!("the log in {} can't be read: {why}", dir.display()));
            return;
        }
    };
    for (stream, written, broken) in
        [("stdout", Slot::Stdout, Slot::StdoutBroken), ("stderr", Slot::Stderr, Slot::StderrBroken)]
    {
        let mut found: HashMap<u64, Vec<u64>> = HashMap::new();
        let mut odd = Vec::new();
        for text in log.lines.get(stream).map_or(&[][..], Vec::as_slice) {
            match parse(text, stream) {
                Some((run, number)) => found.entry(run).or_default().push(number),
                None => odd.push(text),
            }
        }
        for worker in workers {
            let numbers = found.remove(&worker.run).unwrap_or_default();
            counts.lines += numbers.len() as u64;
            let account = worker.account(evidence.dir);
            let (written, broken) = (account.get(written), account.get(broken));
            let whole = numbers.iter().copied().eq(1..=numbers.len() as u64);
            let (last, fits) = (numbers.last().copied().unwrap_or(0), written..=written + 1);
            if whole && fits.contains(&last) && broken == 0 {
                continue;
            }
            let what = format!(
                "{stream} of {worker:?} in {}: {} lines of {written} are there, {}, broken \
                 {broken}, remarks {:?}",
                dir.display(),
                numbers.len(),
                holes(&numbers, written),
                log.remarks
            );
            let is_ascending = numbers.windows(2).all(|pair| pair[0] < pair[1]);
            match excuse(evidence, worker, stream, &numbers, written, &log) {
                Ok(excuse) if is_ascending && last <= written + 1 => counts.add(&excuse),
                Ok(_) => violations.push(format!("out of order, or more than once: {what}")),
                Err(why) => violations.push(format!("{why}: {what}")),
            }
        }
        for run in found.keys() {
            violations.push(format!("{}: lines of the unknown run {run:x}", dir.display()));
        }
        check_odd(evidence, &dir, workers, (stream, written), &odd, violations);
    }
}

/// Text that is no line as it was written: the beginning of one in whose midst its writer ended,
/// or what is left around a hole.
fn check_odd(
    evidence: &Evidence<'_>,
    dir: &Path,
    workers: &[&Worker],
    (stream, written): (&str, Slot),
    odd: &[&Vec<u8>],
    violations: &mut Vec<String>,
) {
    for text in odd {
        let is_beginning = workers.iter().any(|worker| {
            let number = worker.account(evidence.dir).get(written) + 1;
            line(worker.run, stream, number).starts_with(text)
        });
        let has_hole = !evidence.deeds.captures.lock().unwrap().is_empty();
        if !is_beginning && !has_hole {
            let start = String::from_utf8_lossy(&text[..text.len().min(80)]).into_owned();
            violations.push(format!("{}: nobody wrote this on {stream}: {start:?}", dir.display()));
        }
    }
}

/// Whether lines may be missing.
fn excuse(
    evidence: &Evidence<'_>,
    worker: &Worker,
    stream: &str,
    numbers: &[u64],
    written: u64,
    log: &Log,
) -> Result<Excuse, String> {
    let (began, ended) = life(evidence, worker);
    let kills = evidence.deeds.captures.lock().unwrap();
    let kills: Vec<u64> =
        kills.iter().copied().filter(|at| (began..=ended + 1000).contains(at)).collect();
    let is_blind = evidence.gaps.iter().any(|&(gap, back)| {
        let lost_capture =
            kills.iter().any(|at| (gap.saturating_sub(BLIND_MS)..=back).contains(at));
        let unheard_of = (gap.saturating_sub(BLIND_MS)..=back).contains(&began);
        lost_capture || unheard_of
    });
    if is_blind {
        return Ok(Excuse::Unkept);
    }
    if kills.is_empty() {
        return Err("lines are missing".to_owned());
    }
    if log.remarks.is_empty() {
        return Err("lines are missing, and there is no remark".to_owned());
    }
    let missing = (1..=written).filter(|number| numbers.binary_search(number).is_err());
    let missing_bytes: u64 = missing.map(|n| line(worker.run, stream, n).len() as u64 + 1).sum();
    // Around each hole, what is left of two lines that were cut.
    let most = kills.len() as u64 * (LOSS + 2 * 40_100);
    if missing_bytes > most {
        return Err(format!(
            "{missing_bytes} bytes are missing after {} kills of capture",
            kills.len()
        ));
    }
    Ok(Excuse::CaptureKilled { missing_bytes })
}

/// When a worker lived, as the events tell, milliseconds since 1970.
fn life(evidence: &Evidence<'_>, worker: &Worker) -> (u64, u64) {
    let mut own = evidence
        .events
        .iter()
        .filter(|event| event.instance.is_some_and(|id| id.to_string() == worker.instance));
    let began = own.by_ref().find(|event| match event.kind {
        EventKind::Started { pid } | EventKind::Adopted { pid } => pid == worker.pid,
        _ => false,
    });
    let ended = own.find(|event| matches!(event.kind, EventKind::Exited { .. }));
    let time = |event: Option<&orchestrator_proto::control::Event>| event.map(|it| it.time_ms);
    (time(began).unwrap_or(0), time(ended).unwrap_or(u64::MAX - 10_000))
}

/// The run and number of a line, if it is exactly as it was written.
fn parse(text: &[u8], stream: &str) -> Option<(u64, u64)> {
    let head = String::from_utf8_lossy(&text[..text.len().min(64)]).into_owned();
    let mut fields = head.split(' ');
    let run = u64::from_str_radix(fields.next()?, 16).ok()?;
    let number = fields.nth(1)?.parse().ok()?;
    (line(run, stream, number) == text).then_some((run, number))
}

fn read(dir: &Path) -> Result<Log, String> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .map_err(|error| error.to_string())?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|it| it == "log"))
        .collect();
    files.sort();
    let mut log = Log::default();
    let mut open: HashMap<String, Vec<u8>> = HashMap::new();
    for file in files {
        let bytes = fs::read(&file).map_err(|error| error.to_string())?;
        for record in bytes.split(|byte| *byte == b'\n').filter(|record| !record.is_empty()) {
            let mut fields = record.splitn(4, |byte| *byte == b' ');
            let (_, stream, tag) = (fields.next(), fields.next(), fields.next());
            let (Some(stream), Some(tag), Some(text)) = (stream, tag, fields.next()) else {
                return Err(format!("no record: {:?}", String::from_utf8_lossy(record)));
            };
            let stream = String::from_utf8_lossy(stream).into_owned();
            if stream == "orchestrator" {
                log.remarks.push(String::from_utf8_lossy(text).into_owned());
                continue;
            }
            let line = open.entry(stream.clone()).or_default();
            line.extend_from_slice(text);
            if tag == b"F" {
                log.lines.entry(stream).or_default().push(std::mem::take(line));
            }
        }
    }
    for (stream, rest) in open.into_iter().filter(|(_, rest)| !rest.is_empty()) {
        log.lines.entry(stream).or_default().push(rest);
    }
    Ok(log)
}

/// Which are missing, in few words.
fn holes(numbers: &[u64], written: u64) -> String {
    let missing: Vec<_> = (1..=written).filter(|number| !numbers.contains(number)).collect();
    match (missing.first(), missing.last()) {
        (Some(first), Some(last)) => format!("{} of {first}..={last} are missing", missing.len()),
        _ => format!("the last is {:?}", numbers.last()),
    }
}
