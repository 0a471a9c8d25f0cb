//! What a scenario is done over: the ends of a link and the way between them.

use orchestrator_proto::control::Transport;
use orchestrator_proto::runtime::{Frame, UNLIMITED};
use serde_json::json;
use tests::Daemon;
use tests::native::Native;
use tests::python::{Peer, python};
use tests::veecle::Veecle;

/// What an end speaks, and who speaks it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dialect {
    /// The native one: the library for Rust, or by hand where the test plays the end.
    Native,
    Veecle,
    /// The native one: the library for Python, also where the test plays the end.
    Python,
}

impl Dialect {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Veecle => "veecle",
            Self::Python => "python",
        }
    }

    /// Whether it is the native dialect, whoever speaks it.
    pub(crate) fn is_native(self) -> bool {
        self != Self::Veecle
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
        self.from.is_native()
    }

    /// Whether both ends take part in what outlives a daemon and a receiver.
    pub(crate) fn acknowledges(self) -> bool {
        self.from.is_native() && self.to.is_native()
    }

    /// Whether it can be done here. If not, it is said.
    pub(crate) fn is_possible(self) -> bool {
        let needs_python = [self.from, self.to].contains(&Dialect::Python);
        !needs_python || python().is_some()
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
            Dialect::Python => {
                let peer = played(daemon, id, &["send"]);
                daemon.declared(id, "n");
                // Before it has heard that, it sends as if there were no limit.
                let mut out = Out::Python { peer, unheard: 0 };
                out.granted();
                out
            }
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
            Dialect::Python => In::Python(played(daemon, id, &["receive"])),
        }
    }
}

fn veecle(daemon: &Daemon, id: &str) -> Veecle {
    let connections = daemon.info(id).connections;
    let veecle = daemon.veecle(id);
    daemon.connections(id, connections + 1);
    veecle
}

/// An end in Python that is told what to do; it is connected when this returns, and has said what it
/// sends or takes.
pub(crate) fn played(daemon: &Daemon, id: &str, args: &[&str]) -> Peer {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/conformance/played.py");
    let mut peer = Peer::start(&daemon.native_socket(id), script.as_ref(), args);
    peer.hears("ready");
    peer
}

/// A sender that the test plays. What it sends is on its way when the call returns.
pub(crate) enum Out {
    Native {
        native: Native,
        granted: u64,
        sent: u64,
    },
    Veecle(Veecle),
    /// It is told what to send, and sends it as soon as it may.
    Python {
        peer: Peer,
        /// How often it will say that it has sent something.
        unheard: u32,
    },
}

impl Out {
    /// Sends these, whatever it was granted. A library always heeds that: it will go on when it may.
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
            Self::Python { peer, unheard } => {
                *unheard += 1;
                peer.say(&format!("SEND {} {}", numbers.start, numbers.end));
            }
        }
    }

    /// Asks the library something, when all is sent that it was to send.
    fn ask(peer: &mut Peer, unheard: &mut u32, question: &str) -> u64 {
        Self::hear_all(peer, unheard);
        peer.ask(question).parse().unwrap()
    }

    fn hear_all(peer: &mut Peer, unheard: &mut u32) {
        for _ in 0..std::mem::take(unheard) {
            let heard = peer.hear().expect("it goes on");
            assert!(heard.starts_with("sent "), "{heard}");
        }
    }

    /// Sends these, and waits where it is held back.
    pub(crate) fn send_as_granted(&mut self, numbers: std::ops::Range<u32>) {
        if let Self::Python { .. } = self {
            self.send(numbers);
            let Self::Python { peer, unheard } = self else { return };
            return Self::hear_all(peer, unheard);
        }
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
        match self {
            Self::Native { native, granted, .. } => {
                *granted = native.granted_by_now(*granted);
                Some(*granted)
            }
            Self::Veecle(_) => None,
            Self::Python { peer, unheard } => Some(Self::ask(peer, unheard, "GRANTED")),
        }
    }

    /// What the library was told is dropped, as far as that has come; none of others.
    pub(crate) fn dropped(&mut self) -> Option<u64> {
        let Self::Python { peer, unheard } = self else { return None };
        Some(Self::ask(peer, unheard, "DROPPED"))
    }
}

/// A receiver that the test plays.
pub(crate) enum In {
    Native(Native),
    Veecle(Veecle),
    /// It takes messages when it is told to; others wait in the library.
    Python(Peer),
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
            Self::Python(_) => Some(self.take(1)[0]),
        }
    }

    /// The next so many numbers.
    #[track_caller]
    pub(crate) fn take(&mut self, count: usize) -> Vec<u32> {
        if let Self::Python(peer) = self {
            peer.say(&format!("TAKE {count}"));
            let mut next = || peer.hear().expect("it goes on");
            let numbers = (0..count).map(|_| next().parse().unwrap()).collect();
            assert_eq!(next(), "done");
            return numbers;
        }
        let numbers = Vec::from_iter(std::iter::from_fn(|| self.next()).take(count));
        assert_eq!(numbers.len(), count, "the connection ended early");
        numbers
    }
}
