use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use proptest::prelude::*;

use super::{NotTimetable, Timetable, check_zone_name, zone};

fn berlin() -> TimeZone {
    TimeZone::get("Europe/Berlin").unwrap()
}

/// The next times, as the clock of the zone shows them.
fn times(expression: &str, after: &str, zone: &TimeZone, count: usize) -> Vec<String> {
    let table = Timetable::parse(expression).unwrap();
    let mut at = ms(after);
    let mut all = Vec::new();
    for _ in 0..count {
        at = table.next(at, zone).unwrap();
        all.push(shown(at, zone));
    }
    all
}

fn ms(text: &str) -> u64 {
    let zoned: Zoned = text.parse().unwrap();
    u64::try_from(zoned.timestamp().as_millisecond()).unwrap()
}

fn shown(at: u64, zone: &TimeZone) -> String {
    let at = Timestamp::from_millisecond(i64::try_from(at).unwrap()).unwrap();
    at.to_zoned(zone.clone()).strftime("%F %R %z").to_string()
}

#[test]
fn fields_words_and_intervals() {
    let after = "2026-11-21T12:00:30.5[UTC]";
    let utc = TimeZone::UTC;
    let next = |expression| times(expression, after, &utc, 1).remove(0);
    assert_eq!(next("30 3 * * *"), "2026-11-22 03:30 +0000");
    assert_eq!(next("*/15 * * * *"), "2026-11-21 12:15 +0000");
    assert_eq!(next("  0\t12  * * *  "), "2026-11-22 12:00 +0000");
    // A Saturday.
    assert_eq!(next("0 12 * * sun"), "2026-11-22 12:00 +0000");
    assert_eq!(next("0 12 * * 7"), next("0 12 * * 0"));
    assert_eq!(next("0 0 L * *"), "2026-11-30 00:00 +0000");
    assert_eq!(next("0 0 * * 5#3"), "2026-12-18 00:00 +0000");
    // Either day, as in crontab(5).
    assert_eq!(next("0 0 1 * mon"), "2026-11-23 00:00 +0000");
    assert_eq!(next("0 0 29 2 *"), "2028-02-29 00:00 +0000");
    assert_eq!(next("@hourly"), "2026-11-21 13:00 +0000");
    assert_eq!(next("@daily"), next("@midnight"));
    assert_eq!(next("@weekly"), "2026-11-22 00:00 +0000");
    assert_eq!(next("@monthly"), "2026-12-01 00:00 +0000");
    assert_eq!(next("@yearly"), next("@annually"));
    let every = Timetable::parse("every 10s").unwrap();
    assert_eq!(every.next(ms(after), &utc), Some(ms("2026-11-21T12:00:40[UTC]")));
    assert_eq!(every.next(ms("2026-11-21T12:00:40[UTC]"), &utc).unwrap() % 10_000, 0);
    assert_eq!(next("every 1h 30m"), "2026-11-21 13:30 +0000");
}

#[test]
fn a_leap_day_across_a_year_that_has_none() {
    let next = times("0 0 29 2 *", "2096-03-01T00:00[UTC]", &TimeZone::UTC, 1);
    assert_eq!(next, ["2104-02-29 00:00 +0000"]);
}

#[test]
fn what_is_wrong_is_said() {
    let wrong = |text: &str| Timetable::parse(text).unwrap_err().to_string();
    for text in ["", "* * * *", "* * * * * *", "* * * * * UTC", "3:30", "daily", "ü * * * *"] {
        assert!(wrong(text).contains("write five fields"), "{}", wrong(text));
    }
    assert_eq!(
        wrong("61 3 * * *"),
        "\"61 3 * * *\" is not a schedule: minute \"61\": value must be in range 0..=59; found 61"
    );
    let field = |text: &str| match Timetable::parse(text) {
        Err(NotTimetable::Field { field, value, .. }) => (field, value),
        other => panic!("{text}: {other:?}"),
    };
    assert_eq!(field("0 24 * * *"), ("hour", "24".to_owned()));
    assert_eq!(field("0 0 32 * *"), ("day of the month", "32".to_owned()));
    assert_eq!(field("0 0 * juli *"), ("month", "juli".to_owned()));
    assert_eq!(field("0 0 * * 8"), ("day of the week", "8".to_owned()));
    assert_eq!(field("*/0 0 * * 1"), ("minute", "*/0".to_owned()));
    assert!(wrong("@reboot").contains("@yearly"));
    assert!(wrong("every").contains("write a time"));
    assert!(wrong("every 10x").contains("is not a time"));
    assert!(wrong("every 500ms").contains("from 1s to"));
    assert!(wrong("every 366d").contains("from 1s to 365d"));
    assert!(wrong("0 0 30 2 *").contains("never comes"));
    assert!(wrong(&"1,".repeat(200)).contains("256 bytes"));
}

#[test]
fn time_zones_by_name() {
    assert!(zone(Some("Europe/Berlin")).is_ok());
    assert!(zone(None).is_ok());
    for bad in ["Europe/Nowhere", "", "../etc/passwd", "/etc/passwd", "a b", &"a".repeat(65)] {
        let error = zone(Some(bad)).unwrap_err().to_string();
        assert!(error.contains("is not a time zone"), "{error}");
    }
    assert!(check_zone_name("Mars/Olympus_Mons").is_ok(), "it may be known elsewhere");
    assert!(check_zone_name("Etc/GMT+3").is_ok());
}

/// On 29 March 2026 at 2:00 the clocks of Berlin are put forward to 3:00.
#[test]
fn an_hour_that_is_left_out() {
    let berlin = berlin();
    let from = "2026-03-28T12:00[Europe/Berlin]";
    assert_eq!(
        times("30 2 * * *", from, &berlin, 2),
        ["2026-03-29 03:00 +0200", "2026-03-30 02:30 +0200"],
        "right after it"
    );
    assert_eq!(
        times("*/20 2,3 * * *", from, &berlin, 4),
        [
            "2026-03-29 03:00 +0200",
            "2026-03-29 03:20 +0200",
            "2026-03-29 03:40 +0200",
            "2026-03-30 02:00 +0200"
        ],
        "what falls together is one run"
    );
    assert_eq!(
        times("30 * * * *", "2026-03-29T01:00[Europe/Berlin]", &berlin, 2),
        ["2026-03-29 01:30 +0100", "2026-03-29 03:30 +0200"],
        "what runs in every hour"
    );
}

/// On 25 October 2026 at 3:00 the clocks of Berlin are put back to 2:00.
#[test]
fn an_hour_that_comes_twice() {
    let berlin = berlin();
    let from = "2026-10-24T12:00[Europe/Berlin]";
    assert_eq!(
        times("30 2 * * *", from, &berlin, 2),
        ["2026-10-25 02:30 +0200", "2026-10-26 02:30 +0100"],
        "in the first one"
    );
    assert_eq!(
        times("0 2,3 * * *", from, &berlin, 3),
        ["2026-10-25 02:00 +0200", "2026-10-25 03:00 +0100", "2026-10-26 02:00 +0100"]
    );
    // Asked while it comes for the second time.
    let table = Timetable::parse("30 2 * * *").unwrap();
    let second = ms("2026-10-25T02:10+01:00[Europe/Berlin]");
    assert_eq!(shown(table.next(second, &berlin).unwrap(), &berlin), "2026-10-26 02:30 +0100");
    assert_eq!(
        times("30 * * * *", "2026-10-25T02:00+02:00[Europe/Berlin]", &berlin, 3),
        ["2026-10-25 02:30 +0200", "2026-10-25 02:30 +0100", "2026-10-25 03:30 +0100"],
        "what runs in every hour"
    );
}

/// Samoa had no 30 December 2011.
#[test]
fn a_day_that_is_left_out() {
    let apia = TimeZone::get("Pacific/Apia").unwrap();
    assert_eq!(
        times("0 12 * * *", "2011-12-29T00:00[Pacific/Apia]", &apia, 3),
        ["2011-12-29 12:00 -1000", "2011-12-31 00:00 +1400", "2011-12-31 12:00 +1400"]
    );
}

fn expression() -> impl Strategy<Value = String> {
    let number = |least: u32, most: u32| {
        prop_oneof![
            2 => Just("*".to_owned()),
            3 => (least..=most).prop_map(|it| it.to_string()),
            1 => (least..=most, least..=most)
                .prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
            1 => (1..=most).prop_map(|step| format!("*/{step}")),
        ]
    };
    (number(0, 59), number(0, 23), number(1, 28), number(1, 12), number(0, 6))
        .prop_map(|(a, b, c, d, e)| format!("{a} {b} {c} {d} {e}"))
}

fn zones() -> impl Strategy<Value = TimeZone> {
    const NAMES: [&str; 5] =
        ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"];
    prop::sample::select(NAMES.as_slice()).prop_map(|name| TimeZone::get(name).unwrap())
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,40}") {
        let _ = Timetable::parse(&text);
        let _ = check_zone_name(&text);
    }

    #[test]
    fn nothing_like_a_field_makes_it_panic(
        text in prop::collection::vec("[0-9*/,LW#HA-Za-z?-]{1,6}", 5),
        after in any::<u64>(),
    ) {
        if let Ok(table) = Timetable::parse(&text.join(" ")) {
            let _ = table.next(after, &berlin());
        }
    }

    /// Whatever comes between two times has the same next time: it does not matter how often one
    /// looks.
    #[test]
    fn times_go_forward_and_none_is_left_out(
        expression in expression(), zone in zones(),
        after in 1_700_000_000_000..2_000_000_000_000_u64, part in 0.0..1.0_f64,
    ) {
        let table = Timetable::parse(&expression).unwrap();
        if let Some(next) = table.next(after, &zone) {
            prop_assert!(next > after);
            prop_assert_eq!(next % 1000, 0);
            let between = after + ((next - after - 1) as f64 * part) as u64;
            prop_assert_eq!(table.next(between, &zone), Some(next));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// What names hours runs once on each day on which its time is, whatever the clocks do.
    #[test]
    fn once_on_each_day(hour in 0..24_u32, minute in 0..60_u32, zone in zones()) {
        let table = Timetable::parse(&format!("{minute} {hour} * * *")).unwrap();
        let mut at = ms("2026-01-01T12:00[UTC]");
        let mut days = Vec::new();
        for _ in 0..366 {
            at = table.next(at, &zone).unwrap();
            days.push(shown(at, &zone)[..10].to_owned());
        }
        let mut once = days.clone();
        once.dedup();
        prop_assert_eq!(days, once);
        prop_assert!(at < ms("2027-01-04T00:00[UTC]"));
    }
}
