//! When each message is due. A thread of its own waits for that: a timer of the async runtime is good to
//! a millisecond only, and this to some hundredths of one.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use mcap::McapError;
use orchestrator_proto::control::ReplayMessage;
use tokio::sync::mpsc;

use super::file::{self, Contents, Of, Played};

/// Messages that are due are fed together up to so many.
const MAX_MESSAGES: usize = 64;

/// And up to so many bytes, if they are more than one.
const MAX_BYTES: usize = 64 << 10;

/// How fast a recording is played.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Rate {
    /// So many times as fast as it was recorded.
    Times(f64),
    /// As fast as it is taken.
    Max,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<f64>() {
            _ if text == "max" => Ok(Self::Max),
            Ok(0.0) => Ok(Self::Max),
            Ok(times) if (0.001..=1000.0).contains(&times) => Ok(Self::Times(times)),
            _ => Err(format!("{text:?} is no rate, which is 0.001 to 1000, or max")),
        }
    }
}

impl Rate {
    /// How long after the beginning something is due that was sent so long after the beginning.
    pub(super) fn after(self, ns: u64) -> Duration {
        match self {
            Self::Max => Duration::ZERO,
            Self::Times(times) => {
                // No longer than half a thousand years, whatever the clocks said.
                Duration::from_secs_f64((ns as f64 / 1e9 / times).min(1.6e10))
            }
        }
    }
}

/// Messages that are due together.
pub(super) struct Batch {
    pub(super) messages: Vec<ReplayMessage>,
    /// When the first of them was due; none if as fast as possible.
    pub(super) due: Option<Instant>,
    /// Messages before these that could not be made of what stands in the file.
    pub(super) unplayable: u64,
}

impl Batch {
    pub(super) fn size(&self) -> usize {
        self.messages.iter().map(|it| it.payload.len() + 64).sum()
    }
}

/// What comes of a recording.
pub(super) enum Came {
    Batch(Batch),
    /// It is over, and begins again if it is to.
    Round,
    Failed(McapError),
}

/// How a recording is played.
pub(super) struct Player {
    pub(super) path: PathBuf,
    pub(super) contents: Contents,
    pub(super) rate: Rate,
    pub(super) skip: Duration,
    pub(super) again: bool,
}

impl Player {
    /// Plays to the end, or for ever, or until nobody takes it any more. Blocks.
    pub(super) fn play(self, out: &mpsc::Sender<Came>) {
        let skip_ns = u64::try_from(self.skip.as_nanos()).unwrap_or(u64::MAX);
        let begin_ns = self.contents.first_ns.saturating_add(skip_ns);
        let length = self.rate.after(self.contents.last_ns.saturating_sub(begin_ns));
        let mut start = Instant::now();
        loop {
            let mut round = Round { player: &self, start, begin_ns, batch: None, out };
            let read = file::each(&self.path, |of| round.take(of));
            let flow = match read {
                // Where it is cut off was said already.
                Ok(_) if round.flush().is_break() => return,
                Ok(_) => send(out, Came::Round),
                Err(error) => {
                    let _ = send(out, Came::Failed(error));
                    return;
                }
            };
            if flow.is_break() || !self.again {
                return;
            }
            start += length;
        }
    }
}

/// Goes on unless nobody takes it.
fn send(out: &mpsc::Sender<Came>, came: Came) -> ControlFlow<()> {
    match out.blocking_send(came) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}

/// Once through the recording.
struct Round<'a> {
    player: &'a Player,
    /// When its beginning is due.
    start: Instant,
    begin_ns: u64,
    batch: Option<Batch>,
    out: &'a mpsc::Sender<Came>,
}

impl Round<'_> {
    fn take(&mut self, of: Of<'_>) -> ControlFlow<()> {
        let Of::Message(header, data) = of else { return ControlFlow::Continue(()) };
        let Some(played) = self.player.contents.channels.get(&header.channel_id) else {
            return ControlFlow::Continue(());
        };
        let Some(ns) = header.log_time.checked_sub(self.begin_ns) else {
            return ControlFlow::Continue(());
        };
        let due = match self.player.rate {
            Rate::Max => None,
            rate => self.start.checked_add(rate.after(ns)),
        };
        let message = message(played, data);
        if due.is_some_and(|due| due > Instant::now()) {
            // What is due is not to wait for what is not.
            if self.flush().is_break() {
                return ControlFlow::Break(());
            }
            wait_until(due);
        }
        let batch =
            self.batch.get_or_insert_with(|| Batch { messages: Vec::new(), due, unplayable: 0 });
        match message {
            Some(message) => batch.messages.push(message),
            None => batch.unplayable += 1,
        }
        let is_full = batch.messages.len() >= MAX_MESSAGES || batch.size() >= MAX_BYTES;
        // Where time is kept, each sets off when it is due.
        if is_full || due.is_some() { self.flush() } else { ControlFlow::Continue(()) }
    }

    fn flush(&mut self) -> ControlFlow<()> {
        match self.batch.take() {
            None => ControlFlow::Continue(()),
            Some(batch) => send(self.out, Came::Batch(batch)),
        }
    }
}

fn message(played: &Played, data: &[u8]) -> Option<ReplayMessage> {
    Some(ReplayMessage { source: played.source, payload: played.payload(data)? })
}

#[allow(clippy::disallowed_methods, reason = "what is waited for is a time, and nothing else")]
fn wait_until(due: Option<Instant>) {
    while let Some(rest) = due.and_then(|due| due.checked_duration_since(Instant::now()))
        && rest > Duration::ZERO
    {
        std::thread::sleep(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rates() {
        for (text, rate) in [
            ("1", Rate::Times(1.0)),
            ("0.25", Rate::Times(0.25)),
            ("0", Rate::Max),
            ("max", Rate::Max),
        ] {
            assert_eq!(text.parse(), Ok(rate));
        }
        for bad in ["", "-1", "1001", "0.0001", "nan", "inf", "fast"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_was_sent_later_is_due_later(a in any::<u64>(), b in any::<u64>(), times in 0.001..1000.0) {
            let rate = Rate::Times(times);
            prop_assert_eq!(rate.after(a.min(b)).min(rate.after(a.max(b))), rate.after(a.min(b)));
            prop_assert_eq!(Rate::Max.after(a), Duration::ZERO);
        }

        #[test]
        fn at_the_rate_of_one_no_microsecond_is_lost(ns in 0..100_000_000_000_000_u64) {
            let after = Rate::Times(1.0).after(ns);
            prop_assert!(after.abs_diff(Duration::from_nanos(ns)) < Duration::from_micros(1));
        }
    }
}
