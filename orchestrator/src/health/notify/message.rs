//! What a program says to its supervisor, see sd_notify(3): lines of the form `NAME=value`.

use std::time::Duration;

use nix::errno::Errno;
use orchestrator_proto::control::RuntimeInfo;

/// The longest time that can be asked for: a year.
const MAX_TIME: Duration = Duration::from_secs(365 * 86_400);

/// A message that was understood, as far as it was.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Message {
    /// `READY=1`
    pub(super) ready: bool,
    /// `RELOADING=1`
    pub(super) reloading: bool,
    /// `STOPPING=1`
    pub(super) stopping: bool,
    /// `STATUS=…`, one line without control characters of at most [`RuntimeInfo::MAX_STATUS`] bytes.
    pub(super) status: Option<String>,
    /// `ERRNO=…`
    pub(super) errno: Option<i32>,
    /// `WATCHDOG=1`
    pub(super) alive: bool,
    /// `WATCHDOG=trigger`
    pub(super) unwell: bool,
    /// `EXTEND_TIMEOUT_USEC=…`
    pub(super) more_time: Option<Duration>,
    /// Names that are known to others and mean nothing here.
    pub(super) unheeded: Vec<&'static str>,
}

/// What sd_notify(3) has and nobody acts on here.
const UNHEEDED: [&str; 12] = [
    "MAINPID",
    "MAINPIDFDID",
    "BUSERROR",
    "VARLINKERROR",
    "EXIT_STATUS",
    "NOTIFYACCESS",
    "WATCHDOG_USEC",
    "FDSTORE",
    "FDSTOREREMOVE",
    "FDNAME",
    "FDPOLL",
    "RESTART_RESET",
];

impl Message {
    /// Understands what can be understood of any bytes. Of several lines with one name the last one
    /// counts, values that are none are passed over, and so are names that nobody knows, as sd_notify(3)
    /// wants it. `BARRIER=1` needs no answer but the end of the file that comes with it, and
    /// `MONOTONIC_USEC` is of no use without a reload that is waited for.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let mut message = Self::default();
        for line in bytes.split(|byte| *byte == b'\n') {
            let Some(at) = line.iter().position(|byte| *byte == b'=') else {
                continue;
            };
            let (name, value) = (&line[..at], &line[at + 1..]);
            match name {
                b"READY" => message.ready |= value == b"1",
                b"RELOADING" => message.reloading |= value == b"1",
                b"STOPPING" => message.stopping |= value == b"1",
                b"STATUS" => message.status = Some(status(value)),
                b"ERRNO" => message.errno = number(value).or(message.errno),
                b"WATCHDOG" => match value {
                    b"1" => message.alive = true,
                    b"trigger" => message.unwell = true,
                    _ => {}
                },
                b"EXTEND_TIMEOUT_USEC" => {
                    let time = number(value).map(Duration::from_micros);
                    message.more_time = time.map(|it| it.min(MAX_TIME)).or(message.more_time);
                }
                name => {
                    let known = UNHEEDED.into_iter().find(|known| known.as_bytes() == name);
                    if let Some(known) = known
                        && !message.unheeded.contains(&known)
                    {
                        message.unheeded.push(known);
                    }
                }
            }
        }
        message
    }

    /// How it is, in its own words or those that it stands for; none if it did not say. Words that
    /// are not its own give way to nothing when it is ready (again).
    pub(super) fn words(&self) -> Words {
        let error = self.errno.filter(|errno| *errno != 0).map(|errno| {
            let known = Errno::from_raw(errno);
            match known {
                Errno::UnknownErrno => format!("errno {errno}"),
                known => format!("{} ({known:?})", known.desc()),
            }
        });
        match (&self.status, error) {
            (Some(status), Some(error)) if !status.is_empty() => {
                Words::Own(cut(format!("{status}: {error}")))
            }
            (_, Some(error)) => Words::Own(cut(error)),
            (Some(status), None) => Words::Own(status.clone()),
            (None, None) if self.stopping => Words::Ours("stopping"),
            (None, None) if self.reloading => Words::Ours("reloading"),
            (None, None) if self.ready => Words::Ours(""),
            (None, None) => Words::None,
        }
    }
}

/// A status.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Words {
    None,
    Own(String),
    /// What is shown of one that has no words of its own.
    Ours(&'static str),
}

fn number<T: std::str::FromStr>(value: &[u8]) -> Option<T> {
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

fn status(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    cut(clean.collect::<String>().trim().to_owned())
}

fn cut(mut text: String) -> String {
    let mut end = text.len().min(RuntimeInfo::MAX_STATUS);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_programs_say() {
        let message = Message::parse(b"READY=1\nSTATUS=Serving 3 clients\nMAINPID=77\nX-FOO=1\n");
        assert!(message.ready && !message.stopping && !message.alive);
        assert_eq!(message.words(), Words::Own("Serving 3 clients".into()));
        assert_eq!(message.unheeded, ["MAINPID"]);
        let message = Message::parse(b"WATCHDOG=1\nEXTEND_TIMEOUT_USEC=1500000");
        assert_eq!(message.more_time, Some(Duration::from_millis(1500)));
        assert!(message.alive && !message.unwell);
        assert!(Message::parse(b"WATCHDOG=trigger").unwell);
        assert_eq!(
            Message::parse(b"RELOADING=1\nMONOTONIC_USEC=5").words(),
            Words::Ours("reloading")
        );
        assert_eq!(Message::parse(b"STOPPING=1").words(), Words::Ours("stopping"));
        assert_eq!(Message::parse(b"READY=1").words(), Words::Ours(""));
        assert_eq!(Message::parse(b"STOPPING=1\nSTATUS=bye").words(), Words::Own("bye".into()));
        let message = Message::parse(b"STATUS=no disk\nERRNO=28");
        assert_eq!(message.words(), Words::Own("no disk: No space left on device (ENOSPC)".into()));
        assert_eq!(Message::parse(b"ERRNO=99999").words(), Words::Own("errno 99999".into()));
    }

    #[test]
    fn what_is_not_meant_so_is_passed_over() {
        for nothing in [
            &b""[..],
            b"\n\n=\n",
            b"READY",
            b"READY=",
            b"READY=0",
            b"READY=2",
            b" READY=1",
            b"ready=1",
            b"READY=1\0",
            b"WATCHDOG=yes",
            b"EXTEND_TIMEOUT_USEC=-1",
            b"ERRNO=ENOENT",
            b"BARRIER=1",
        ] {
            assert_eq!(Message::parse(nothing), Message::default(), "{nothing:?}");
        }
        let long = Message::parse(b"EXTEND_TIMEOUT_USEC=18446744073709551615");
        assert_eq!(long.more_time, Some(MAX_TIME));
        let text = Message::parse(b"STATUS= a\tb\x1b[0m\xff\r").status.unwrap();
        assert_eq!(text, "a b [0m\u{fffd}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_understood_or_passed_over(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
            let message = Message::parse(&bytes);
            if let Words::Own(words) = message.words() {
                prop_assert!(words.len() <= RuntimeInfo::MAX_STATUS);
            }
        }

        #[test]
        fn names_with_any_values_are_understood_or_passed_over(
            lines in prop::collection::vec(
                (
                    prop::sample::select(vec![
                        "READY", "RELOADING", "STOPPING", "STATUS", "ERRNO", "WATCHDOG",
                        "EXTEND_TIMEOUT_USEC", "MAINPID", "FDSTORE", "BARRIER", "NEW",
                    ]),
                    "\\PC*|-?[0-9]{0,20}|1|trigger",
                ),
                0..40,
            ),
        ) {
            let text: String = lines.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
            let message = Message::parse(text.as_bytes());
            prop_assert_eq!(message.ready, lines.contains(&("READY", "1".to_owned())));
            prop_assert_eq!(message.alive, lines.contains(&("WATCHDOG", "1".to_owned())));
            prop_assert!(message.more_time.is_none_or(|time| time <= MAX_TIME));
            prop_assert!(message.unheeded.len() <= UNHEEDED.len());
            if let Some(status) = &message.status {
                prop_assert!(status.len() <= RuntimeInfo::MAX_STATUS);
                prop_assert!(!status.contains(char::is_control));
            }
        }
    }
}
