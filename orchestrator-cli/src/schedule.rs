//! When a schedule runs and ran, in words.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use orchestrator_proto::control::{
    Exit, LastRun, RunResult, RuntimeInfo, Schedule, ScheduleInfo, Supervision,
};
use orchestrator_proto::timetable::zone;

use crate::format;

/// `30 3 * * *, Europe/Berlin`, and what is not as by default.
pub(crate) fn when(rules: &Supervision) -> String {
    let Some(Schedule { expression, time_zone, overlap, catch_up }) = rules.kind.schedule() else {
        return String::new();
    };
    let mut words = vec![expression.clone()];
    words.extend(time_zone.clone());
    words.push(format!("{overlap} if the run before is not over"));
    if *catch_up {
        words.push("catch up after missed runs".to_owned());
    }
    words.join(", ")
}

/// When it runs next, as a clock in its time zone shows it.
pub(crate) fn next(info: &RuntimeInfo, now_ms: u64) -> String {
    match &info.schedule {
        None => String::new(),
        Some(schedule) => match schedule.next_ms {
            None => "none".to_owned(),
            Some(at) => {
                let left = format::ago(now_ms, at);
                format!("{} (in {left})", in_zone(&schedule.schedule, at))
            }
        },
    }
}

/// When it ran last, and how that ended.
pub(crate) fn last(info: &RuntimeInfo, now_ms: u64) -> String {
    match &info.schedule {
        None => String::new(),
        Some(ScheduleInfo { last: None, .. }) => "none".to_owned(),
        Some(ScheduleInfo { last: Some(run), schedule, .. }) => {
            let LastRun { began_ms, ended_ms, result } = run;
            let took = format::ago(*began_ms, *ended_ms);
            let ago = format::ago(*ended_ms, now_ms);
            let began = in_zone(schedule, *began_ms);
            format!("{began}, took {took}, {result} ({ago} ago)")
        }
    }
}

/// When its last run ended, and how.
pub(crate) fn ended(info: &RuntimeInfo) -> (Option<u64>, Option<Exit>) {
    let last = info.schedule.as_ref().and_then(|schedule| schedule.last.as_ref());
    let exit = last.and_then(|run| match run.result {
        RunResult::Completed { exit } => Some(exit),
        RunResult::Failed { exit, .. } => exit,
        RunResult::Stopped => None,
    });
    (last.map(|run| run.ended_ms), exit)
}

/// Both, below a list.
pub(crate) fn sentence(info: &RuntimeInfo, now_ms: u64) -> Option<String> {
    let name = info.name.clone().unwrap_or_else(|| info.id.to_string());
    Some(format!("{name} {}", both(info, now_ms)?))
}

/// Both, to stand behind its name.
pub(crate) fn both(info: &RuntimeInfo, now_ms: u64) -> Option<String> {
    let schedule = info.schedule.as_ref()?;
    let next = match schedule.next_ms {
        Some(_) => format!("runs next at {}", next(info, now_ms)),
        None => "is not run".to_owned(),
    };
    let text = match &schedule.last {
        None => next,
        Some(_) => format!("{next}; last run: {}", last(info, now_ms)),
    };
    Some(format::lines(&text).into_owned())
}

/// `2026-11-22 03:30:00 +01:00 Europe/Berlin`; a zone that this machine does not know is UTC.
fn in_zone(schedule: &Schedule, at_ms: u64) -> String {
    let zone = zone(schedule.time_zone.as_deref()).unwrap_or(TimeZone::UTC);
    let at = i64::try_from(at_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    match at {
        Some(at) => at.to_zoned(zone).strftime("%F %T %:z").to_string(),
        None => format::time_ms(at_ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_in_its_zone() {
        let berlin =
            Schedule { time_zone: Some("Europe/Berlin".into()), ..Schedule::new("30 3 * * *") };
        assert_eq!(in_zone(&berlin, 1_795_314_600_000), "2026-11-22 03:30:00 +01:00");
        let nowhere = Schedule { time_zone: Some("Nowhere".into()), ..berlin };
        assert_eq!(in_zone(&nowhere, 0), "1970-01-01 00:00:00 +00:00");
        assert_eq!(in_zone(&nowhere, u64::MAX), format::time_ms(u64::MAX));
    }
}
