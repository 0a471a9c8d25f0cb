//! When a schedule is due, by the clock on the wall.

use std::future::pending;

use jiff::tz::TimeZone;
use orchestrator_proto::control::Schedule;
use orchestrator_proto::timetable::{NotTimetable, Timetable, zone};

use super::super::alarm::Alarm;
use super::task::now_ms;
use crate::supervise::{Calendar, Look};

/// Nothing is waited for while there is no schedule, or it is stopped. Boxed, because most instances
/// have none.
#[derive(Default)]
pub(super) struct Due(Option<Box<Followed>>);

struct Followed {
    schedule: Schedule,
    /// Or why there is none. That was checked when it was added, but a machine may have lost its
    /// time zones since.
    table: Result<Timetable, NotTimetable>,
    calendar: Calendar,
    next_ms: Option<u64>,
    alarm: Option<Alarm>,
}

/// What has come.
#[derive(Default)]
pub(super) struct Come {
    /// It is to run now, because of this time, milliseconds since 1970 (UTC).
    pub(super) due_ms: Option<u64>,
    /// Since this time it was left out, and why.
    pub(super) skipped: Option<(u64, String)>,
}

impl Due {
    /// From now on the times of this schedule are waited for, all that come after `seen_ms` or,
    /// without it or if it is another one than before, after now; none is nothing.
    pub(super) fn follow(&mut self, schedule: Option<&Schedule>, seen_ms: Option<u64>) {
        let Some(schedule) = schedule else {
            self.0 = None;
            return;
        };
        if self.0.as_ref().is_some_and(|it| it.schedule == *schedule) {
            return;
        }
        let now = now_ms();
        let seen_ms = seen_ms.filter(|_| self.0.is_none()).unwrap_or(now);
        let mut followed = Box::new(Followed {
            schedule: schedule.clone(),
            table: Timetable::parse(&schedule.expression),
            calendar: Calendar::from(seen_ms),
            next_ms: None,
            alarm: None,
        });
        followed.set(now);
        self.0 = Some(followed);
    }

    /// When it runs next, and up to when all times have been dealt with, milliseconds since 1970
    /// (UTC). None while nothing is waited for.
    pub(super) fn times(&self) -> Option<(Option<u64>, u64)> {
        self.0.as_ref().map(|it| (it.next_ms, it.calendar.seen_ms()))
    }

    /// Waits until a time may have come. It can be called again if it was dropped.
    pub(super) async fn comes(&self) {
        match self.0.as_ref().and_then(|it| it.alarm.as_ref()) {
            // It has its room only while it is waited for.
            Some(alarm) => Box::pin(alarm.rung()).await,
            None => pending().await,
        }
    }

    /// What has come by now.
    pub(super) fn look(&mut self, now_ms: u64) -> Come {
        let Some(followed) = &mut self.0 else {
            return Come::default();
        };
        let catch_up = followed.schedule.catch_up;
        let calendar = &mut followed.calendar;
        let look = match (&followed.table, zone_of(&followed.schedule)) {
            (Ok(table), Some(zone)) => calendar.look(table, &zone, now_ms, catch_up),
            _ => Look::default(),
        };
        followed.set(now_ms);
        let skipped = look.missed_ms.map(|at| {
            let reason = "it was missed: the daemon did not run, the machine was asleep, or the \
                clock was set";
            (at, reason.to_owned())
        });
        Come { due_ms: look.due_ms, skipped }
    }
}

impl Followed {
    /// Waits for the next time.
    fn set(&mut self, now_ms: u64) {
        let next = match (&self.table, zone_of(&self.schedule)) {
            (Ok(table), Some(zone)) => self.calendar.next(table, &zone, now_ms),
            _ => None,
        };
        self.next_ms = next;
        self.alarm = next.map(|at| Alarm::at(at, now_ms));
    }
}

/// Asked each time: a machine may have been taken to another place.
fn zone_of(schedule: &Schedule) -> Option<TimeZone> {
    let zone = zone(schedule.time_zone.as_deref());
    if let Err(error) = &zone {
        tracing::error!(%error, "a schedule does not run any more");
    }
    zone.ok()
}
