//! How values of the command line are written.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::str::FromStr;
use std::time::Duration;

use orchestrator_proto::{LinkId, Millis};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// `500ms`, `10s`, `2m`, `1h`, `1d`, `1m30s`; a plain number counts seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    text.parse::<Millis>().map(Millis::duration).map_err(|error| error.to_string())
}

/// A [`duration`] of 100 ms to a day, to look at something again and again.
pub(crate) fn interval(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        time if time > DAY => Err("an interval is one day (1d) at most".into()),
        time if time < Duration::from_millis(100) => Err("an interval is 100ms at least".into()),
        time => Ok(time),
    }
}

/// A [`duration`] of at most a day.
pub(crate) fn stop_timeout(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        time if time <= DAY => Ok(time),
        _ => Err("a stop may take one day (1d) at most".into()),
    }
}

/// `NAME=VALUE`, split at the first `=`.
pub(crate) fn env_pair(text: OsString) -> Result<(OsString, OsString), String> {
    let bytes = text.as_bytes();
    match bytes.iter().position(|byte| *byte == b'=') {
        Some(0) => Err("the variable has no name; write NAME=VALUE".into()),
        Some(at) => {
            let part = |bytes| OsStr::from_bytes(bytes).to_owned();
            Ok((part(&bytes[..at]), part(&bytes[at + 1..])))
        }
        None => Err("there is no `=`; write NAME=VALUE".into()),
    }
}

/// The number of a link.
pub(crate) fn link_id(text: &str) -> Result<LinkId, String> {
    match text.parse() {
        Ok(number) => Ok(LinkId(number)),
        Err(_) => Err(format!("{text:?} is not the number of a link")),
    }
}

/// A point in time, as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    /// This long before now.
    Ago(Duration),
    /// Then; nanoseconds since 1970 (UTC).
    At(u64),
}

impl Since {
    /// Nanoseconds since 1970 (UTC), 0 for all times before that.
    pub(crate) fn ns(self, now_ns: u64) -> u64 {
        match self {
            Self::Ago(ago) => {
                now_ns.saturating_sub(u64::try_from(ago.as_nanos()).unwrap_or(u64::MAX))
            }
            Self::At(ns) => ns,
        }
    }
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(ago) = duration(text) {
            return Ok(Self::Ago(ago));
        }
        match text.parse::<jiff::Timestamp>() {
            Ok(time) => {
                let ns = time.as_nanosecond().max(0);
                Ok(Self::At(u64::try_from(ns).unwrap_or(u64::MAX)))
            }
            Err(_) => Err(format!(
                "{text:?} is neither a time ago, such as 10m, nor a time as in RFC 3339, such as \
                 2026-11-20T08:00:00Z"
            )),
        }
    }
}

/// Where to begin in a sequence of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// With the event of this number.
    Number(u64),
    /// With those of this time.
    Time(Since),
}

impl FromStr for Begin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(number) = text.parse() {
            return Ok(Self::Number(number));
        }
        text.parse().map(Self::Time).map_err(|_| {
            format!(
                "{text:?} is neither the number of an event, nor a time ago with its unit, such as \
                 10m, nor a time as in RFC 3339, such as 2026-11-20T08:00:00Z"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn durations() {
        let cases = [
            ("500ms", 500),
            ("10s", 10_000),
            ("7", 7000),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("1d", 86_400_000),
            ("0", 0),
        ];
        for (text, ms) in cases {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in
            ["", "s", "-1s", "1.5s", "1 s", "1w", "99999999999999999999", "18446744073709551615d"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(stop_timeout("1d").is_ok());
        assert!(stop_timeout("25h").is_err());
    }

    #[test]
    fn a_variable_is_split_at_the_first_sign_and_may_be_any_bytes() {
        let pair = |bytes: &[u8]| env_pair(OsString::from_vec(bytes.to_vec()));
        assert_eq!(pair(b"A=b=c"), Ok(("A".into(), "b=c".into())));
        assert_eq!(pair(b"A="), Ok(("A".into(), "".into())));
        let odd = OsString::from_vec(vec![0xff]);
        assert_eq!(pair(b"A=\xff"), Ok(("A".into(), odd)));
        assert!(pair(b"A").is_err());
        assert!(pair(b"=A").is_err());
    }

    #[test]
    fn since_is_ago_or_then() {
        let parse = |text: &str| text.parse::<Since>();
        assert_eq!(parse("10m"), Ok(Since::Ago(Duration::from_secs(600))));
        assert_eq!(parse("1970-01-01T00:00:01Z"), Ok(Since::At(1_000_000_000)));
        assert_eq!(parse("1970-01-01T01:00:00+01:00"), Ok(Since::At(0)));
        assert_eq!(parse("1969-01-01T00:00:00Z"), Ok(Since::At(0)));
        assert!(parse("yesterday").is_err());
        assert_eq!(Since::Ago(DAY).ns(5), 0);
        assert_eq!(Since::Ago(Duration::from_nanos(2)).ns(5), 3);
    }

    #[test]
    fn a_plain_number_is_that_of_an_event() {
        let parse = |text: &str| text.parse::<Begin>();
        assert_eq!(parse("120"), Ok(Begin::Number(120)));
        assert_eq!(parse("120s"), Ok(Begin::Time(Since::Ago(Duration::from_secs(120)))));
        assert_eq!(parse("1970-01-01T00:00:00Z"), Ok(Begin::Time(Since::At(0))));
        assert!(parse("-1").is_err() && parse("soon").is_err());
    }
}
