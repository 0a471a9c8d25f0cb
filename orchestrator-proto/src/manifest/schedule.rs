//! The keys that say when an instance runs.

use super::read::{Table, Value};
use super::supervision::time;
use crate::Millis;
use crate::control::{Kind, Overlap, Schedule};
use crate::timetable::{Timetable, check_zone_name};

/// What an instance is for, in a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Word {
    Service,
    Task,
    Schedule,
}

const KINDS: [(&str, Word); 3] =
    [("service", Word::Service), ("task", Word::Task), ("schedule", Word::Schedule)];
const OVERLAPS: [(&str, Overlap); 3] =
    [("skip", Overlap::Skip), ("queue", Overlap::Queue), ("replace", Overlap::Replace)];

/// What is said of `kind`, `schedule` and what goes with them.
#[derive(Clone, Debug, Default)]
pub(super) struct KindLayer {
    word: Option<Word>,
    expression: Option<String>,
    time_zone: Option<String>,
    overlap: Option<Overlap>,
    catch_up: Option<bool>,
    run_timeout: Option<Millis>,
}

impl KindLayer {
    /// Of `[defaults]`, where there is no `schedule`.
    pub(super) fn defaults(table: &Table<'_>) -> Self {
        Self {
            word: table.read("kind", |value| value.choice(&KINDS)),
            expression: None,
            time_zone: table.read("time-zone", time_zone),
            overlap: table.read("overlap", |value| value.choice(&OVERLAPS)),
            catch_up: table.read("catch-up", Value::flag),
            run_timeout: table.read("run-timeout", time),
        }
    }

    /// The same with what only an instance can have.
    pub(super) fn and_schedule(self, table: &Table<'_>) -> Self {
        Self { expression: table.read("schedule", expression), ..self }
    }

    pub(super) fn over(self, below: &Self) -> Self {
        // Who has a schedule is one, whatever the others are.
        let inherited = below.word.filter(|_| self.expression.is_none());
        Self {
            word: self.word.or(inherited),
            expression: self.expression,
            time_zone: self.time_zone.or_else(|| below.time_zone.clone()),
            overlap: self.overlap.or(below.overlap),
            catch_up: self.catch_up.or(below.catch_up),
            run_timeout: self.run_timeout.or(below.run_timeout),
        }
    }

    /// Tells what does not go together, of all that holds for the instance of this table.
    pub(super) fn check(&self, table: &Table<'_>) {
        let has_schedule = table.get("schedule").is_some();
        match self.word {
            Some(Word::Schedule) if !has_schedule => {
                let message = "`schedule` is missing: when it runs, as in \"30 3 * * *\"";
                table.wrong(table.at("kind"), message);
            }
            Some(Word::Service | Word::Task) if has_schedule => {
                table.wrong(table.at("schedule"), "what has a schedule is of the kind schedule");
            }
            _ => {}
        }
        if has_schedule {
            return;
        }
        for key in ["time-zone", "overlap", "catch-up"] {
            if table.get(key).is_some() {
                table.wrong(table.at(key), format!("`{key}` is for what has a `schedule`"));
            }
        }
        let is_service = matches!(self.word, None | Some(Word::Service));
        if is_service && table.get("run-timeout").is_some() {
            let message = "a service runs for ever; `run-timeout` is for tasks and schedules";
            table.wrong(table.at("run-timeout"), message);
        }
    }

    /// What it is for, and how long each execution of it may take.
    pub(super) fn finish(self) -> (Kind, Millis) {
        let run_timeout = self.run_timeout.unwrap_or_default();
        match (self.expression, self.word) {
            (Some(expression), _) => {
                let schedule = Schedule {
                    expression,
                    time_zone: self.time_zone,
                    overlap: self.overlap.unwrap_or_default(),
                    catch_up: self.catch_up.unwrap_or_default(),
                };
                (Kind::Schedule(schedule), run_timeout)
            }
            (None, Some(Word::Task)) => (Kind::Task, run_timeout),
            (None, _) => (Kind::Service, Millis::ZERO),
        }
    }
}

fn expression(value: Value<'_>) -> Option<String> {
    let text = value.text()?;
    match Timetable::parse(&text) {
        Ok(_) => Some(text),
        Err(error) => value.wrong(error.to_string()),
    }
}

/// Whether it is known is for the machine to say on which it is used.
fn time_zone(value: Value<'_>) -> Option<String> {
    let text = value.text()?;
    match check_zone_name(&text) {
        Ok(()) => Some(text),
        Err(error) => value.wrong(error.to_string()),
    }
}
