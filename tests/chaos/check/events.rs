//! Each instance's events are a legal word, every process is in it, and each end is told once and
//! as it was.

use std::collections::{HashMap, HashSet};

use orchestrator_proto::control::{Event, EventKind, Exit};

use super::Evidence;
use crate::account::{Slot, Worker};
use crate::killer::{Caused, How};

/// How long a removal may take when nothing of the instance is left, milliseconds.
const REMOVAL_MS: u64 = 2000;

/// What happened is stored within milliseconds, or this long on a machine that has much to do. A
/// daemon that is killed before that has told nobody of it.
const STORED_MS: u64 = 100;

/// A process as the events tell of it.
#[derive(Clone, Debug)]
struct Life {
    pid: u32,
    /// When it was first told of and when its end was, milliseconds since 1970.
    began_ms: u64,
    ended: Option<(Exit, u64)>,
    /// Told to stop, or sent SIGKILL since it did not.
    stopping: bool,
    /// The event of its end.
    seq: u64,
}

/// Where an instance is in its word.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum At {
    #[default]
    Absent,
    Rest,
    Alive,
    Ending,
    Removed,
}

#[derive(Default)]
struct Word {
    at: At,
    lives: Vec<Life>,
    /// When its last event was, of those that are of the word.
    last_ms: u64,
}

pub(crate) fn check(evidence: &Evidence<'_>) -> Vec<String> {
    let mut violations = Vec::new();
    for (at, event) in evidence.events.iter().enumerate() {
        if event.seq != at as u64 + 1 {
            violations.push(format!("event {} is the {}th", event.seq, at + 1));
            break;
        }
        if let EventKind::EventsLost { .. } | EventKind::StateSetAside { .. } = event.kind {
            violations.push(format!("the daemon lost something: {event:?}"));
        }
    }
    let mut words: HashMap<String, Word> = HashMap::new();
    for event in evidence.events {
        if let Some(instance) = event.instance {
            let instance = instance.to_string();
            let word = words.entry(instance).or_default();
            word.pass_over(event, evidence.had_kill(word.last_ms, event.time_ms));
            if is_of_word(&event.kind) {
                word.last_ms = event.time_ms;
            }
            if let Err(why) = word.read(event) {
                violations.push(format!("{why}: {event:?}"));
            }
        }
    }
    for told in evidence.told {
        for (instance, pid) in &told.started {
            let is_told = words
                .get(instance)
                .is_some_and(|word| word.lives.iter().any(|life| life.pid == *pid));
            if !is_told {
                violations.push(format!(
                    "a start of {instance} was answered with process {pid}, and there is no event"
                ));
            }
        }
        for instance in &told.removed {
            // The event is the last step of a removal, and may be missing if the daemon was killed
            // before it came to that.
            let is_untold = words.get(instance).is_some_and(|word| {
                word.at != At::Removed
                    && !evidence.had_kill(word.last_ms, word.last_ms + REMOVAL_MS)
            });
            if is_untold {
                violations.push(format!("{instance} was removed, and there is no event"));
            }
        }
    }
    compare_processes(evidence, &words, &mut violations);
    violations
}

const fn is_of_word(kind: &EventKind) -> bool {
    matches!(
        kind,
        EventKind::Added
            | EventKind::Started { .. }
            | EventKind::Adopted { .. }
            | EventKind::Stopping { .. }
            | EventKind::Killed
            | EventKind::Exited { .. }
            | EventKind::Stopped
            | EventKind::Removed { .. }
    )
}

impl Word {
    /// What happened in the last 5 ms of a daemon that was killed may not be told: that something
    /// was added, or that nothing of it was left. A start is told as an adoption then, and an
    /// end by the next daemon.
    fn pass_over(&mut self, next: &Event, was_killed: bool) {
        let is_new = !matches!(next.kind, EventKind::Added);
        if was_killed && self.at == At::Absent && is_new {
            self.at = At::Rest;
        }
        let goes_on = matches!(
            next.kind,
            EventKind::Started { .. } | EventKind::Adopted { .. } | EventKind::Removed { .. }
        );
        if was_killed && self.at == At::Ending && goes_on {
            self.at = At::Rest;
        }
    }

    /// Takes the next event. When it does not fit, goes on as if it did.
    fn read(&mut self, event: &Event) -> Result<(), String> {
        let at = self.at;
        let wrong = || Err(format!("illegal in the state {at:?}"));
        match event.kind {
            EventKind::Added => {
                self.at = At::Rest;
                if at != At::Absent {
                    return wrong();
                }
            }
            EventKind::Started { pid } => {
                self.begin(pid, event);
                if at != At::Rest {
                    return wrong();
                }
            }
            EventKind::Adopted { pid } => {
                let same = self.lives.last().is_some_and(|life| life.pid == pid);
                let goes_on = at == At::Alive && same;
                if !goes_on {
                    self.begin(pid, event);
                }
                // The event of its start may be missing: what happened in the last 5 ms of a
                // daemon that was killed.
                if !goes_on && at != At::Rest {
                    return wrong();
                }
            }
            EventKind::StartFailed { .. } => return wrong(),
            EventKind::Stopping { .. } | EventKind::Killed => {
                if let Some(life) = self.lives.last_mut() {
                    life.stopping = true;
                }
                if !matches!(at, At::Alive | At::Ending) {
                    return wrong();
                }
            }
            EventKind::Exited { exit, .. } => {
                self.at = At::Ending;
                if at != At::Alive {
                    return wrong();
                }
                if let Some(life) = self.lives.last_mut() {
                    (life.ended, life.seq) = (Some((exit, event.time_ms)), event.seq);
                }
            }
            EventKind::Stopped => {
                self.at = At::Rest;
                if at != At::Ending {
                    return wrong();
                }
            }
            EventKind::Removed { .. } => {
                self.at = At::Removed;
                if at != At::Rest {
                    return wrong();
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn begin(&mut self, pid: u32, event: &Event) {
        self.at = At::Alive;
        let began_ms = event.time_ms;
        let (ended, stopping, seq) = (None, false, event.seq);
        self.lives.push(Life { pid, began_ms, ended, stopping, seq });
    }
}

/// Every process that there was is told of, and so is its end.
fn compare_processes(
    evidence: &Evidence<'_>,
    words: &HashMap<String, Word>,
    violations: &mut Vec<String>,
) {
    let caused = evidence.deeds.caused.lock().unwrap();
    let mut caused_by_worker: HashMap<&Worker, Vec<&Caused>> = HashMap::new();
    for caused in &*caused {
        caused_by_worker.entry(&caused.worker).or_default().push(caused);
    }
    let mut used = HashSet::new();
    for worker in evidence.workers {
        let lives = words.get(&worker.instance).map_or(&[][..], |word| &word.lives);
        let life = lives
            .iter()
            .enumerate()
            .find(|(at, life)| life.pid == worker.pid && !used.contains(&(&worker.instance, *at)));
        let Some((at, life)) = life else {
            // It was executed in the last moment of a daemon and its holder, and ended before
            // the next ones came, who could have found it.
            let began_ms = worker.started_ms();
            if evidence.had_gap(began_ms, began_ms + 50) {
                continue;
            }
            violations.push(format!("there is no event of the start of {worker:?}"));
            continue;
        };
        used.insert((&worker.instance, at));
        let causes = caused_by_worker.get(worker).map_or(&[][..], Vec::as_slice);
        let account = worker.account(evidence.dir);
        let own_code = account.get(Slot::Exit).checked_sub(1);
        match life.ended {
            None => {
                violations.push(format!("the end of {worker:?} was not told: {life:?} {causes:?}"));
            }
            Some((Exit::Unknown, ended_ms)) => {
                if !evidence.had_gap(life.began_ms, ended_ms) {
                    violations
                        .push(format!("how {worker:?} ended is unknown: {life:?} {causes:?}"));
                }
            }
            Some((exit, ended_ms)) => {
                // That may be among the last events of a daemon that was killed.
                let stopping =
                    life.stopping || evidence.had_kill(life.began_ms, ended_ms + STORED_MS);
                let by_cause = causes.iter().any(|caused| match caused.how {
                    How::Signal(signal) => is_signal(exit, signal),
                    How::Code(code) => exit == Exit::Code(code),
                });
                let by_itself = own_code.is_some_and(|code| exit == Exit::Code(code as i32));
                let polite = account.get(Slot::Terminated) == 1 && exit == Exit::Code(40);
                let by_stop = stopping && (is_signal(exit, 15) || is_signal(exit, 9));
                if !(by_cause || by_itself || polite && stopping || by_stop) {
                    violations.push(format!(
                        "{worker:?} is told to have ended with {exit}, {life:?} but {causes:?}, own \
                         code {own_code:?}"
                    ));
                }
            }
        }
    }
}

fn is_signal(exit: Exit, number: i32) -> bool {
    matches!(exit, Exit::Signal { signal, .. } if signal == number)
}
