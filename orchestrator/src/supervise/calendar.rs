//! Which times of a schedule have come, as the clock on the wall goes: it stands still while the
//! machine is off, and is set forward and back.

use jiff::tz::TimeZone;
use orchestrator_proto::timetable::Timetable;

/// What comes no later than this is in time, milliseconds: a daemon that is started anew, or a
/// machine that is busy, leaves nothing out.
const IN_TIME: u64 = 60_000;

/// A clock that is put back by less than this, milliseconds, shows times for the second time, and
/// what was done at them is not done again; one that is put back further was wrong before. Three
/// hours as in cron(8) of Debian.
const PUT_BACK: u64 = 3 * 3_600_000;

/// What a schedule has dealt with. Times are milliseconds since 1970 (UTC).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Calendar {
    seen_ms: u64,
}

/// What has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Look {
    /// It is to run now, because of this time.
    pub due_ms: Option<u64>,
    /// The first time, of one or more, that has been missed, and is left out.
    pub missed_ms: Option<u64>,
}

impl Calendar {
    /// All times up to this one have been dealt with.
    #[must_use]
    pub const fn from(seen_ms: u64) -> Self {
        Self { seen_ms }
    }

    /// The time up to which all have been dealt with.
    #[must_use]
    pub const fn seen_ms(&self) -> u64 {
        self.seen_ms
    }

    /// The next time that has not been dealt with, in the past too; none if there is none.
    pub fn next(&mut self, table: &Timetable, zone: &TimeZone, now_ms: u64) -> Option<u64> {
        let back = self.seen_ms.saturating_sub(now_ms);
        // What runs every hour would not run for so long.
        if back > 0 && (table.is_hourly() || back >= PUT_BACK) {
            self.seen_ms = now_ms;
        }
        table.next(self.seen_ms, zone)
    }

    /// Deals with all times up to now. Several that have come together are one run. What has been
    /// missed is made up for by one run, if it is to `catch_up`.
    #[must_use = "it is to run, or something was missed"]
    pub fn look(
        &mut self,
        table: &Timetable,
        zone: &TimeZone,
        now_ms: u64,
        catch_up: bool,
    ) -> Look {
        let come = |at: &u64| *at <= now_ms;
        let Some(first) = self.next(table, zone, now_ms).filter(come) else {
            return Look::default();
        };
        let recently = self.seen_ms.max(now_ms.saturating_sub(IN_TIME + 1));
        let recent = table.next(recently, zone).filter(come);
        self.seen_ms = now_ms;
        let is_late = now_ms - first > IN_TIME;
        match recent {
            Some(at) => {
                Look { due_ms: Some(at), missed_ms: (is_late && !catch_up).then_some(first) }
            }
            None if catch_up => Look { due_ms: Some(first), missed_ms: None },
            None => Look { due_ms: None, missed_ms: Some(first) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: u64 = 3_600_000;
    const DAY: u64 = 24 * HOUR;
    /// A midnight of 2026, UTC.
    const MIDNIGHT: u64 = 20_600 * DAY;

    fn daily() -> Timetable {
        Timetable::parse("30 3 * * *").unwrap()
    }

    fn hourly() -> Timetable {
        Timetable::parse("@hourly").unwrap()
    }

    const DUE: u64 = MIDNIGHT + 3 * HOUR + HOUR / 2;

    fn look(calendar: &mut Calendar, table: &Timetable, now: u64, catch_up: bool) -> Look {
        calendar.look(table, &TimeZone::UTC, now, catch_up)
    }

    #[test]
    fn in_time_and_late() {
        for (late, is_run) in [(0, true), (IN_TIME, true), (IN_TIME + 1, false), (HOUR, false)] {
            let mut calendar = Calendar::from(MIDNIGHT);
            let found = look(&mut calendar, &daily(), DUE + late, false);
            let expected = if is_run { (Some(DUE), None) } else { (None, Some(DUE)) };
            assert_eq!((found.due_ms, found.missed_ms), expected, "{late}");
            let again = look(&mut calendar, &daily(), DUE + late, false);
            assert_eq!(again, Look::default(), "once");
            let mut calendar = Calendar::from(MIDNIGHT);
            let found = look(&mut calendar, &daily(), DUE + late, true);
            assert_eq!((found.due_ms, found.missed_ms), (Some(DUE), None), "caught up");
        }
    }

    #[test]
    fn days_that_were_missed_and_one_that_is_in_time() {
        let mut calendar = Calendar::from(MIDNIGHT);
        let found = look(&mut calendar, &daily(), DUE + 3 * DAY + 20_000, false);
        assert_eq!((found.due_ms, found.missed_ms), (Some(DUE + 3 * DAY), Some(DUE)));
        let mut calendar = Calendar::from(MIDNIGHT);
        let found = look(&mut calendar, &daily(), DUE + 3 * DAY + 20_000, true);
        assert_eq!((found.due_ms, found.missed_ms), (Some(DUE + 3 * DAY), None), "one is enough");
    }

    #[test]
    fn a_clock_that_is_put_back() {
        let zone = TimeZone::UTC;
        let mut calendar = Calendar::from(MIDNIGHT);
        assert_eq!(look(&mut calendar, &daily(), DUE, false).due_ms, Some(DUE));
        let next = calendar.next(&daily(), &zone, DUE - 5000);
        assert_eq!(next, Some(DUE + DAY), "it is not done twice");
        let next = calendar.next(&daily(), &zone, DUE - 3 * HOUR);
        assert_eq!(next, Some(DUE), "it was wrong before");
        let mut calendar = Calendar::from(DUE);
        let next = calendar.next(&hourly(), &zone, DUE - 2 * HOUR);
        assert_eq!(next, Some(DUE - 2 * HOUR + HOUR / 2), "it would stand still for hours");
    }

    #[test]
    fn a_clock_that_is_put_forward_by_years() {
        let mut calendar = Calendar::from(0);
        let found = look(&mut calendar, &daily(), MIDNIGHT, false);
        assert_eq!((found.due_ms, found.missed_ms), (None, Some(3 * HOUR + HOUR / 2)));
        assert_eq!(calendar.next(&daily(), &TimeZone::UTC, MIDNIGHT), Some(DUE));
    }

    proptest! {
        /// However often one looks while the clock goes forward without a gap of more than a
        /// minute, each time runs once and none is missed.
        #[test]
        fn each_time_once(steps in prop::collection::vec(0..=IN_TIME, 0..300), minutes in 2..60_u64) {
            let table = Timetable::parse(&format!("every {minutes}m")).unwrap();
            let mut calendar = Calendar::from(MIDNIGHT);
            let (mut now, mut runs) = (MIDNIGHT, Vec::new());
            for step in steps {
                now += step;
                let found = look(&mut calendar, &table, now, false);
                prop_assert_eq!(found.missed_ms, None);
                runs.extend(found.due_ms);
            }
            let mut expected = Vec::new();
            let mut at = table.next(MIDNIGHT, &TimeZone::UTC).unwrap();
            while at <= now {
                expected.push(at);
                at = table.next(at, &TimeZone::UTC).unwrap();
            }
            prop_assert_eq!(runs, expected);
        }

        /// Whatever the clock does, no time is told twice while it goes forward, and the next time
        /// is never in the past of what was dealt with.
        #[test]
        fn whatever_the_clock_does(
            jumps in prop::collection::vec((any::<bool>(), 0..5 * DAY), 0..40),
            hourly in any::<bool>(), catch_up in any::<bool>(),
        ) {
            let table = if hourly { self::hourly() } else { daily() };
            let mut calendar = Calendar::from(MIDNIGHT);
            let mut now = MIDNIGHT;
            for (back, by) in jumps {
                now = if back { now - by.min(4 * HOUR) } else { now + by };
                let found = look(&mut calendar, &table, now, catch_up);
                prop_assert!(found.due_ms.is_none_or(|at| at <= now));
                prop_assert!(found.missed_ms.is_none_or(|at| at + IN_TIME < now && !catch_up));
                prop_assert_eq!(look(&mut calendar, &table, now, catch_up), Look::default());
                let next = calendar.next(&table, &TimeZone::UTC, now).unwrap();
                prop_assert!(next > now && next > calendar.seen_ms());
            }
        }
    }
}
