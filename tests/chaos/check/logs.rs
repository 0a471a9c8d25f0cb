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

/// How far apart a kill and what it caused may seem.
const SLACK_MS: u64 = 150;

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
    /// Per stream, the lines in order, and when the end of each was read, milliseconds since 1970.
    lines: HashMap<String, Vec<(Vec<u8>, u64)>>,
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
        let mut found: HashMap<u64, (Vec<u64>, Vec<u64>)> = HashMap::new();
        let mut odd = Vec::new();
        for (text, time_ms) in log.lines.get(stream).map_or(&[][..], Vec::as_slice) {
            match parse(text, stream) {
                Some((run, number)) => {
                    let (numbers, times_ms) = found.entry(run).or_default();
                    numbers.push(number);
                    times_ms.push(*time_ms);
                }
                None => odd.push(text),
            }
        }
        for worker in workers {
            let (numbers, times_ms) = found.remove(&worker.run).unwrap_or_default();
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
            match excuse(evidence, worker, stream, (&numbers, &times_ms), written, &log) {
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
    (numbers, times_ms): (&[u64], &[u64]),
    written: u64,
    log: &Log,
) -> Result<Excuse, String> {
    let (began, ended) = life(evidence, worker);
    let kills = evidence.deeds.captures.lock().unwrap();
    let kills: Vec<u64> =
        kills.iter().copied().filter(|at| (began..=ended + 1000).contains(at)).collect();
    // Each hole has a cause of its own, at its time.
    let mut causes = kills.clone();
    causes.extend(evidence.gaps.iter().map(|(gap, _)| *gap));
    let (mut next, mut from_ms) = (1, began);
    let end = (written + 1, ended);
    for (number, to_ms) in numbers.iter().copied().zip(times_ms.iter().copied()).chain([end]) {
        let around = from_ms.saturating_sub(SLACK_MS)..=to_ms + SLACK_MS;
        if number > next && !causes.iter().any(|at| around.contains(at)) {
            return Err(format!("{next}..{number} are missing, and nothing was killed then"));
        }
        (next, from_ms) = (number + 1, to_ms);
    }
    let is_blind = evidence.gaps.iter().any(|&(gap, back)| {
        let lost_capture =
            kills.iter().any(|at| (gap.saturating_sub(BLIND_MS)..=back).contains(at));
        let unheard_of = (gap.saturating_sub(BLIND_MS)..=back).contains(&began);
        lost_capture || unheard_of
    });
    // Of a program that outlived its holder only the capture process from then has the pipes: one that
    // goes on in its place finds none.
    let renewals = evidence.deeds.renewals.lock().unwrap();
    let lost_pipes = evidence.gaps.iter().any(|&(gap, _)| {
        (began..=ended).contains(&gap)
            && renewals.iter().any(|at| (gap.saturating_sub(SLACK_MS)..=ended).contains(at))
    });
    if is_blind || lost_pipes {
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
    // It is told of by the next daemon, if the one that had it executed was killed right then.
    let began = time(began).unwrap_or(0).min(worker.started_ms());
    (began, time(ended).unwrap_or(u64::MAX - 10_000))
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
            let (time, stream, tag) = (fields.next(), fields.next(), fields.next());
            // No output of a program has a time that is written so.
            let is_remark = time.is_some_and(|time| time.ends_with(b"+00:00"));
            let time_ms = time.and_then(time_ms);
            let (Some(time_ms), Some(stream), Some(tag), Some(text)) =
                (time_ms, stream, tag, fields.next())
            else {
                return Err(format!("no record: {:?}", String::from_utf8_lossy(record)));
            };
            let stream = String::from_utf8_lossy(stream).into_owned();
            if is_remark {
                let text = text.strip_prefix(b"orchestrator: ").unwrap_or(text);
                log.remarks.push(String::from_utf8_lossy(text).into_owned());
                continue;
            }
            let line = open.entry(stream.clone()).or_default();
            line.extend_from_slice(text);
            if tag == b"F" {
                log.lines.entry(stream).or_default().push((std::mem::take(line), time_ms));
            }
        }
    }
    for (stream, rest) in open.into_iter().filter(|(_, rest)| !rest.is_empty()) {
        log.lines.entry(stream).or_default().push((rest, u64::MAX - 10_000));
    }
    Ok(log)
}

/// A time like `2026-11-20T18:24:53.123456789Z`, as milliseconds since 1970.
fn time_ms(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    // Years that begin in March: the leap day is the last one.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    let days = 365 * year + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468;
    let seconds = (days * 24 + number(11, 13)?) * 60 + number(14, 16)?;
    Some((seconds * 60 + number(17, 19)?) * 1000 + number(20, 23)?)
}

#[test]
fn times_are_as_they_are_written() {
    assert_eq!(time_ms(b"2026-11-20T18:24:53.123456789Z"), Some(1_795_199_093_123));
    assert_eq!(time_ms(b"1970-01-01T00:00:00.000000000Z"), Some(0));
}

/// Which are missing, in few words.
fn holes(numbers: &[u64], written: u64) -> String {
    let missing: Vec<_> = (1..=written).filter(|number| !numbers.contains(number)).collect();
    match (missing.first(), missing.last()) {
        (Some(first), Some(last)) => format!("{} of {first}..={last} are missing", missing.len()),
        _ => format!("the last is {:?}", numbers.last()),
    }
}
