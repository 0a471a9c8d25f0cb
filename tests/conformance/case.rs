//! What a scenario is done over: the ends of a link and the way between them.

use orchestrator_proto::control::Transport;
use orchestrator_proto::runtime::{Frame, UNLIMITED};
use serde_json::json;
use tests::Daemon;
use tests::native::Native;
use tests::veecle::Veecle;

/// What an end speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dialect {
    Native,
    Veecle,
}

impl Dialect {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Veecle => "veecle",
        }
    }
}

/// The two ends of a link, and which way its messages go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) from: Dialect,
    pub(crate) to: Dialect,
    pub(crate) transport: Transport,
}

impl Case {
    /// Whether the sender can be made to wait.
    pub(crate) fn can_wait(self) -> bool {
        self.from == Dialect::Native
    }

    /// Whether both ends take part in what outlives a daemon and a receiver.
    pub(crate) fn acknowledges(self) -> bool {
        self.from == Dialect::Native && self.to == Dialect::Native
    }

    /// A sender that the test plays, known to the daemon.
    pub(crate) fn sender(self, daemon: &Daemon, id: &str) -> Out {
        match self.from {
            Dialect::Native => {
                let native = daemon.sender(id, "n");
                daemon.declared(id, "n");
                Out::Native { native, granted: UNLIMITED, sent: 0 }
            }
            Dialect::Veecle => Out::Veecle(veecle(daemon, id)),
        }
    }

    /// A receiver likewise, which takes what comes.
    pub(crate) fn receiver(self, daemon: &Daemon, id: &str) -> In {
        match self.to {
            Dialect::Native => {
                let mut native = daemon.receiver(id, "n");
                // From then on messages go to this connection.
                let welcome = native.next(|frame| matches!(frame, Frame::Welcome { .. }));
                assert_eq!(welcome, Some(true));
                In::Native(native)
            }
            Dialect::Veecle => In::Veecle(veecle(daemon, id)),
        }
    }
}

fn veecle(daemon: &Daemon, id: &str) -> Veecle {
    let connections = daemon.info(id).connections;
    let veecle = daemon.veecle(id);
    daemon.connections(id, connections + 1);
    veecle
}

/// A sender that the test plays. What it sends is on its way when the call returns.
pub(crate) enum Out {
    Native { native: Native, granted: u64, sent: u64 },
    Veecle(Veecle),
}

impl Out {
    /// Sends these, whatever it was granted.
    pub(crate) fn send(&mut self, numbers: std::ops::Range<u32>) {
        match self {
            Self::Native { native, sent, .. } => {
                *sent += u64::from(numbers.end - numbers.start);
                native.numbers(numbers);
            }
            Self::Veecle(veecle) => {
                use std::io::Write;
                let mut lines = String::new();
                for number in numbers {
                    let value = number.to_string();
                    lines += &json!({"Storable": {"type_name": "n", "value": value}}).to_string();
                    lines.push('\n');
                }
                veecle.stream.write_all(lines.as_bytes()).unwrap();
            }
        }
    }

    /// Sends these, and waits where it is held back.
    pub(crate) fn send_as_granted(&mut self, numbers: std::ops::Range<u32>) {
        let mut next = numbers.start;
        while next < numbers.end {
            let mut end = numbers.end;
            if let Self::Native { native, granted, sent } = self {
                *granted = native.granted_by_now(*granted);
                while *granted <= *sent {
                    (_, *granted) = native.next_grant().expect("the daemon grants");
                }
                let room = u32::try_from(*granted - *sent).unwrap_or(u32::MAX);
                end = end.min(next.saturating_add(room));
            }
            self.send(next..end);
            next = end;
        }
    }

    /// What it was granted last, as far as it has come. A Veecle end is granted nothing.
    pub(crate) fn granted(&mut self) -> Option<u64> {
        let Self::Native { native, granted, .. } = self else { return None };
        *granted = native.granted_by_now(*granted);
        Some(*granted)
    }
}

/// A receiver that the test plays.
pub(crate) enum In {
    Native(Native),
    Veecle(Veecle),
}

impl In {
    /// Waits until messages go to this connection, while none is on its way.
    pub(crate) fn is_served(&mut self) {
        // A native one has seen the welcome.
        if let Self::Veecle(veecle) = self {
            veecle.line(r#"{"ControlRequest":{"StopRuntime":{"id":"nobody"}}}"#);
            let answer = veecle.next().expect("an answer");
            assert!(answer.get("ControlResponse").is_some(), "{answer}");
        }
    }

    /// The next number; none at the end of the connection.
    pub(crate) fn next(&mut self) -> Option<u32> {
        match self {
            Self::Native(native) => native.next_number(),
            Self::Veecle(veecle) => {
                let (name, value) = veecle.next_storable()?;
                assert_eq!(name, "n");
                Some(u32::try_from(value.as_u64().expect("a number")).unwrap())
            }
        }
    }

    /// The next so many numbers.
    #[track_caller]
    pub(crate) fn take(&mut self, count: usize) -> Vec<u32> {
        let numbers = Vec::from_iter(std::iter::from_fn(|| self.next()).take(count));
        assert_eq!(numbers.len(), count, "the connection ended early");
        numbers
    }
}
