//! When a schedule runs. Pure: the time comes in as an argument, and of the machine only the time
//! zone database is read.
//!
//! An expression is one of
//!
//! - five fields, as in crontab(5): minute, hour, day of the month, month, day of the week, where 0
//!   and 7 are Sunday. `*`, `1-5`, `*/15`, `mon,wed`; and `L`, `15W`, `5L` and `5#3` for the last
//!   day, the nearest weekday, the last and the third Friday of the month. If both days are
//!   restricted, either will do;
//! - `@hourly`, `@daily` or `@midnight`, `@weekly` (Sunday), `@monthly`, `@yearly` or `@annually`;
//! - `every TIME`, as in `every 10s`: from a second to a year, counted from 1970 (UTC), so that
//!   neither a restart nor a time zone moves it.
//!
//! Where a clock is put forward or back, as for summer time, what names hours is done once on each
//! of its days (as cron(8) of Debian does): what falls into the hour that is left out is done right
//! after it, and what falls into the hour that comes twice is done in the first one. What runs in
//! every hour of the day goes on as the clock shows it: nothing in the hour that is left out, and
//! both times in the hour that comes twice.

mod change;
#[cfg(test)]
mod tests;

use cronexpr::{Crontab, FallbackTimezoneOption, MakeTimestamp, ParseOptions, parse_crontab_with};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::Millis;
use crate::control::Schedule;

/// The shortest time of `every`.
const SHORTEST: Millis = Millis::secs(1);
/// The longest.
const LONGEST: Millis = Millis(365 * 86_400_000);
/// The last year that is looked at: adding to what comes later could leave the calendar.
const LAST_YEAR: i16 = 9900;
/// How often four years without a match are looked at, until there is none: 40 years have all
/// combinations of a day of the week and the 29 February.
const WINDOWS: usize = 10;

const WORDS: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

const FIELDS: [&str; 5] = ["minute", "hour", "day of the month", "month", "day of the week"];

/// What is no expression, or no time zone.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotTimetable {
    /// It is too long to be looked at.
    #[error("a schedule has {} bytes at most, as in \"30 3 * * *\"", Schedule::MAX_EXPRESSION)]
    TooLong,
    /// It has another form.
    #[error(
        "{0:?} is not a schedule; write five fields (minute, hour, day of the month, month, day \
         of the week) as in \"30 3 * * *\", a word such as @daily, or \"every 10s\""
    )]
    Form(String),
    /// A word that is none of those there are.
    #[error(
        "{0:?} is not a schedule; there are @hourly, @daily, @midnight, @weekly, @monthly, \
         @yearly and @annually"
    )]
    Word(String),
    /// A field is wrong.
    #[error("{text:?} is not a schedule: {field} {value:?}: {reason}")]
    Field {
        /// All of it.
        text: String,
        /// Which field.
        field: &'static str,
        /// What it says.
        value: String,
        /// What is wrong.
        reason: String,
    },
    /// The time of `every` is wrong.
    #[error("{text:?} is not a schedule: {reason}")]
    Interval {
        /// All of it.
        text: String,
        /// What is wrong.
        reason: String,
    },
    /// There is no such day.
    #[error("{0:?} never comes: there is no such day in any year")]
    Never(String),
    /// A time zone that this machine does not know.
    #[error(
        "{0:?} is not a time zone that this machine knows; write a name such as Europe/Berlin or \
         UTC, which are in /usr/share/zoneinfo"
    )]
    Zone(String),
}

/// When a schedule runs.
#[derive(Clone, Debug)]
pub struct Timetable(Form);

#[derive(Clone, Debug)]
enum Form {
    Every(Millis),
    Fields {
        fields: Box<Crontab>,
        /// It runs in each hour of its days.
        is_hourly: bool,
    },
}

impl Timetable {
    /// Reads an expression.
    ///
    /// # Errors
    ///
    /// When it is none, or a day that never comes.
    pub fn parse(expression: &str) -> Result<Self, NotTimetable> {
        if expression.len() > Schedule::MAX_EXPRESSION {
            return Err(NotTimetable::TooLong);
        }
        let text = || expression.to_owned();
        let words: Vec<_> = expression.split_ascii_whitespace().collect();
        match words.as_slice() {
            ["every", time @ ..] => every(expression, &time.concat()),
            [word] if word.starts_with('@') => {
                let known = WORDS.iter().find(|(known, _)| known == word);
                let (_, fields) = known.ok_or_else(|| NotTimetable::Word(text()))?;
                Self::fields(expression, fields)
            }
            [_, _, _, _, _] => Self::fields(expression, &words.join(" ")),
            _ => Err(NotTimetable::Form(text())),
        }
    }

    fn fields(expression: &str, fields: &str) -> Result<Self, NotTimetable> {
        if !fields.is_ascii() {
            return Err(NotTimetable::Form(expression.to_owned()));
        }
        let mut options = ParseOptions::default();
        options.fallback_timezone_option = FallbackTimezoneOption::UTC;
        let wrong = |error| wrong_field(expression, fields, &error);
        let fields = Box::new(parse_crontab_with(fields, options).map_err(wrong)?);
        let first = civil_from(&fields, jiff::civil::datetime(2000, 1, 1, 0, 0, 0, 0));
        let first = first.ok_or_else(|| NotTimetable::Never(expression.to_owned()))?;
        let is_hourly = (0..24).all(|hour| {
            let from = first.date().at(hour, 0, 0, 0);
            let found = civil_from(&fields, from);
            found.is_some_and(|at| at.date() == first.date() && at.hour() == hour)
        });
        Ok(Self(Form::Fields { fields, is_hourly }))
    }

    /// Whether it runs in each hour of its days: a clock that is put back does not keep it from
    /// running.
    #[must_use]
    pub const fn is_hourly(&self) -> bool {
        matches!(self.0, Form::Every(_) | Form::Fields { is_hourly: true, .. })
    }

    /// The first time after this one; both are milliseconds since 1970 (UTC). None if there is none
    /// before the end of the calendar.
    #[must_use]
    pub fn next(&self, after_ms: u64, zone: &TimeZone) -> Option<u64> {
        match &self.0 {
            Form::Every(time) => (after_ms / time.0).checked_add(1)?.checked_mul(time.0),
            Form::Fields { fields, is_hourly } => {
                let after = Timestamp::from_millisecond(i64::try_from(after_ms).ok()?).ok()?;
                let next = if *is_hourly {
                    change::next_as_shown(fields, after, zone)
                } else {
                    change::next_once_a_day(fields, after, zone)
                };
                u64::try_from(next?.as_millisecond()).ok()
            }
        }
    }
}

/// The time zone of this name; none is that of this machine.
///
/// # Errors
///
/// When this machine does not know it.
pub fn zone(name: Option<&str>) -> Result<TimeZone, NotTimetable> {
    let Some(name) = name else {
        return Ok(TimeZone::system());
    };
    check_zone_name(name)?;
    TimeZone::get(name).map_err(|_| NotTimetable::Zone(name.to_owned()))
}

/// Whether this can be the name of a time zone, wherever it is known.
///
/// # Errors
///
/// When it can't.
pub fn check_zone_name(name: &str) -> Result<(), NotTimetable> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+' | '/');
    let is_good = !name.is_empty()
        && name.len() <= Schedule::MAX_TIME_ZONE
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(allowed);
    let shown = || name.chars().take(Schedule::MAX_TIME_ZONE).collect();
    if is_good { Ok(()) } else { Err(NotTimetable::Zone(shown())) }
}

fn every(text: &str, time: &str) -> Result<Timetable, NotTimetable> {
    let wrong = |reason: String| NotTimetable::Interval { text: text.to_owned(), reason };
    if time.is_empty() {
        return Err(wrong("write a time, as in \"every 10s\"".to_owned()));
    }
    let time: Millis = time.parse().map_err(|error| wrong(format!("{error}")))?;
    if !(SHORTEST..=LONGEST).contains(&time) {
        return Err(wrong(format!("{time} is not a time from {SHORTEST} to {LONGEST}")));
    }
    Ok(Timetable(Form::Every(time)))
}

/// The first time that the fields mean, this one or a later one, as a clock without time zones shows
/// it.
fn civil_from(fields: &Crontab, from: DateTime) -> Option<DateTime> {
    // What is asked for comes after that minute.
    let before = from.checked_sub(jiff::Span::new().nanoseconds(1)).ok()?;
    civil_after(fields, before)
}

/// The first time that the fields mean and that comes after this one.
fn civil_after(fields: &Crontab, after: DateTime) -> Option<DateTime> {
    let mut from = after.to_zoned(TimeZone::UTC).ok()?;
    for _ in 0..WINDOWS {
        if from.year() > LAST_YEAR {
            return None;
        }
        if let Ok(found) = fields.find_next(MakeTimestamp(from.timestamp())) {
            return Some(found.datetime());
        }
        from = from.checked_add(jiff::Span::new().years(4)).ok()?;
    }
    None
}

/// Which field is wrong, and how. The parser's words have the fields on a line of their own, and
/// after that a caret below the place.
fn wrong_field(text: &str, fields: &str, error: &cronexpr::Error) -> NotTimetable {
    let message = error.to_string();
    let last = message.lines().next_back().unwrap_or_default();
    let (blank, reason) = last.split_once('^').unwrap_or(("", last));
    let at = blank.len().min(fields.len());
    let place = fields.bytes().take(at).filter(|byte| *byte == b' ').count();
    NotTimetable::Field {
        text: text.to_owned(),
        field: FIELDS.get(place).copied().unwrap_or("the end"),
        value: fields.split(' ').nth(place).unwrap_or_default().to_owned(),
        reason: reason.trim().to_owned(),
    }
}
