//! From what a clock shows to when that is, where the clock is put forward and back.
//!
//! Between two changes of the clock a time zone is an offset. Each search goes from one change to
//! the next.

use cronexpr::Crontab;
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp};

use super::{civil_after, civil_from};

/// The most changes of the clock that are walked through: two in each of 32 years.
const CHANGES: usize = 64;

/// Where a search is.
#[derive(Clone, Copy)]
struct Place {
    at: Timestamp,
    /// That time itself is meant too.
    included: bool,
}

impl Place {
    /// What the fields mean from here on, as if the clock were never changed.
    fn search(self, fields: &Crontab, offset: Offset) -> Option<Timestamp> {
        let civil = offset.to_datetime(self.at);
        let found =
            if self.included { civil_from(fields, civil) } else { civil_after(fields, civil) };
        offset.to_timestamp(found?).ok()
    }
}

/// The next change of the clock after this time.
fn change_after(zone: &TimeZone, at: Timestamp) -> Option<Timestamp> {
    zone.following(at).next().map(|change| change.timestamp())
}

/// How far the clock is put forward at this change; less than nothing if it is put back.
fn jump(zone: &TimeZone, change: Timestamp) -> SignedDuration {
    let before = change.checked_sub(SignedDuration::from_nanos(1)).unwrap_or(change);
    let seconds = |at| i64::from(zone.to_offset(at).seconds());
    SignedDuration::from_secs(seconds(change) - seconds(before))
}

/// The next time at which the clock shows what the fields mean.
pub(super) fn next_as_shown(
    fields: &Crontab,
    after: Timestamp,
    zone: &TimeZone,
) -> Option<Timestamp> {
    let mut place = Place { at: after, included: false };
    for _ in 0..CHANGES {
        let found = place.search(fields, zone.to_offset(place.at));
        match change_after(zone, place.at) {
            Some(change) if found.is_none_or(|found| found >= change) => {
                place = Place { at: change, included: true };
            }
            _ => return found,
        }
    }
    None
}

/// The next time of what is done once on each day, whatever the clock does.
pub(super) fn next_once_a_day(
    fields: &Crontab,
    after: Timestamp,
    zone: &TimeZone,
) -> Option<Timestamp> {
    let mut place = Place { at: after, included: false };
    let just_after = after.checked_add(SignedDuration::from_nanos(1)).ok()?;
    if let Some(last) = zone.preceding(just_after).next() {
        place = beyond_what_comes_twice(place, last.timestamp(), zone);
    }
    for _ in 0..CHANGES {
        let found = place.search(fields, zone.to_offset(place.at));
        let change = match change_after(zone, place.at) {
            Some(change) if found.is_none_or(|found| found >= change) => change,
            _ => return found,
        };
        let left_out = jump(zone, change);
        // As the clock showed it before, what is left out begins at the change.
        if let Some(found) = found
            && found.duration_since(change) < left_out
        {
            return Some(change);
        }
        place = Place { at: change, included: true };
        place = beyond_what_comes_twice(place, change, zone);
    }
    None
}

/// Moves a place out of the hour that comes for the second time after this change.
fn beyond_what_comes_twice(place: Place, change: Timestamp, zone: &TimeZone) -> Place {
    let twice = -jump(zone, change);
    match change.checked_add(twice) {
        Ok(end) if twice.is_positive() && place.at < end => Place { at: end, included: true },
        _ => place,
    }
}
