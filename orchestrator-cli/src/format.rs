//! How times, exits and other people's text are shown.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;
use orchestrator_proto::control::Exit;
use orchestrator_proto::signal;

/// Nanoseconds since 1970 (UTC), as this machine's clock says.
pub(crate) fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let ns = since.map_or(0, |time| time.as_nanos());
    u64::try_from(ns).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970 (UTC), as this machine's clock says.
pub(crate) fn now_ms() -> u64 {
    now_ns() / 1_000_000
}

/// RFC 3339 in UTC with milliseconds: `2026-11-20T18:46:58.123Z`.
pub(crate) fn time_ms(ms: u64) -> String {
    const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(3));
    let time = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    match time {
        Some(time) => PRINTER.timestamp_to_string(&time),
        None => format!("{ms} ms after 1970"),
    }
}

/// As [`time_ms`].
pub(crate) fn time_ns(ns: u64) -> String {
    time_ms(ns / 1_000_000)
}

/// How long ago, in two units at most: `7s`, `3m12s`, `5h03m`, `2d05h`. A time that is still
/// to come, as with clocks that differ, is `0s`.
pub(crate) fn ago(at_ms: u64, now_ms: u64) -> String {
    let seconds = now_ms.saturating_sub(at_ms) / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// A time both ways: `2026-11-20T18:46:58.123Z (3m12s ago)`.
pub(crate) fn time_and_ago(at_ms: u64, now_ms: u64) -> String {
    format!("{} ({} ago)", time_ms(at_ms), ago(at_ms, now_ms))
}

/// Milliseconds as a time: `500ms`, `10s`.
pub(crate) fn span_ms(ms: u64) -> String {
    if ms.is_multiple_of(1000) { format!("{}s", ms / 1000) } else { format!("{ms}ms") }
}

/// How long something ran: with milliseconds below a minute, as [`ago`] above that.
pub(crate) fn run_ms(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms}ms"),
        1000..60_000 => format!("{}.{}s", ms / 1000, ms % 1000 / 100),
        _ => ago(0, ms),
    }
}

/// Hundredths of a percent with one digit behind the point: `12.5`; from 100 on with none.
pub(crate) fn percent(hundredths: u32) -> String {
    match hundredths {
        0..10_000 => format!("{}.{}", hundredths / 100, hundredths % 100 / 10),
        _ => (hundredths / 100).to_string(),
    }
}

/// Bytes in three digits and a unit of 1024: `512B`, `1.5K`, `23M`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "K", "M", "G", "T", "P", "E"];
    let mut unit = 0;
    let mut tenths = u128::from(bytes) * 10;
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    match tenths {
        0..100 if unit > 0 => format!("{}.{}{}", tenths / 10, tenths % 10, UNITS[unit]),
        _ => format!("{}{}", tenths / 10, UNITS[unit]),
    }
}

/// An exit in one word: `0`, `SIGKILL`, `SIGSEGV+core`.
pub(crate) fn exit_word(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => code.to_string(),
        Exit::Signal { signal, core_dumped } => {
            let core = if core_dumped { "+core" } else { "" };
            match signal::name(signal) {
                Some(name) => format!("{name}{core}"),
                None => format!("signal-{signal}{core}"),
            }
        }
        Exit::Unknown => "unknown".to_owned(),
        Exit::OutOfMemory { .. } => "out-of-memory".to_owned(),
    }
}

/// A count and its noun: `1 link`, `2 links`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{s}")
}

/// Other people's text on one line. Control characters are escaped: a path must not be able
/// to steer a terminal.
pub(crate) fn line(text: &str) -> Cow<'_, str> {
    escape(text, char::is_control)
}

/// As [`line()`], but over several lines.
pub(crate) fn lines(text: &str) -> Cow<'_, str> {
    escape(text, |c| c.is_control() && c != '\n' && c != '\t')
}

fn escape(text: &str, bad: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&bad) {
        return text.into();
    }
    let escaped = text.chars().flat_map(|c| {
        let (escaped, kept) =
            if bad(c) { (Some(c.escape_default()), None) } else { (None, Some(c)) };
        escaped.into_iter().flatten().chain(kept)
    });
    escaped.collect::<String>().into()
}

/// A word that a shell reads as it is, quoted if it must be.
pub(crate) fn shell_word(word: &OsStr) -> String {
    let text = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.into_owned();
    }
    format!("'{}'", line(&text).replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_ago_have_two_units() {
        let cases = [
            (0, "0s"),
            (59_999, "59s"),
            (192_000, "3m12s"),
            (3_600_000 + 180_000, "1h03m"),
            (86_400_000 * 2 + 3_600_000 * 5, "2d05h"),
        ];
        for (ms, text) in cases {
            assert_eq!(ago(1000, 1000 + ms), text);
        }
        assert_eq!(ago(5000, 1000), "0s");
    }

    #[test]
    fn bytes_are_short() {
        let cases = [
            (0, "0B"),
            (999, "999B"),
            (1000, "0.9K"),
            (1536, "1.5K"),
            (20 << 10, "20K"),
            (1023 << 10, "0.9M"),
            (3_400 << 20, "3.3G"),
        ];
        for (number, text) in cases {
            assert_eq!(bytes(number), text);
        }
        assert!(bytes(u64::MAX).len() <= 5, "{}", bytes(u64::MAX));
    }

    #[test]
    fn percents_and_runs() {
        let cases = [(0, "0.0"), (1250, "12.5"), (9999, "99.9"), (10_000, "100"), (40_060, "400")];
        for (number, text) in cases {
            assert_eq!(percent(number), text);
        }
        for (ms, text) in [(7, "7ms"), (1234, "1.2s"), (61_000, "1m01s")] {
            assert_eq!(run_ms(ms), text);
        }
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(time_ms(1_500), "1970-01-01T00:00:01.500Z");
        assert_eq!(time_ms(u64::MAX), "18446744073709551615 ms after 1970");
    }

    #[test]
    fn exits_are_one_word() {
        let signal = |signal, core_dumped| Exit::Signal { signal, core_dumped };
        assert_eq!(exit_word(Exit::Code(3)), "3");
        assert_eq!(exit_word(signal(9, false)), "SIGKILL");
        assert_eq!(exit_word(signal(11, true)), "SIGSEGV+core");
        assert_eq!(exit_word(signal(40, false)), "signal-40");
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(line("a\u{1b}[31m\nb ü"), "a\\u{1b}[31m\\nb ü");
        assert_eq!(lines("a\n\tb\r"), "a\n\tb\\r");
    }

    #[test]
    fn shell_words() {
        assert_eq!(shell_word(OsStr::new("/run/a.b-c")), "/run/a.b-c");
        assert_eq!(shell_word(OsStr::new("a b")), "'a b'");
        assert_eq!(shell_word(OsStr::new("it's")), r"'it'\''s'");
        assert_eq!(shell_word(OsStr::new("")), "''");
    }
}
