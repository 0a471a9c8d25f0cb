//! A sender of long texts, of type "text".

use orchestrator_proto::TypeSchema;
use orchestrator_proto::runtime::Direction;
use serde_json::json;
use tests::Daemon;
use tests::native::Native;
use tests::python::Peer;
use tests::veecle::Veecle;

use super::case::{Case, Dialect, played};

/// How long each of them is, bytes.
pub(crate) const LENGTH: usize = 1_000_000;

pub(crate) enum Texts {
    Native(Native),
    Veecle(Veecle),
    Python(Peer),
}

impl Texts {
    /// One that the test plays.
    pub(crate) fn new(case: Case, daemon: &Daemon, id: &str) -> Self {
        match case.from {
            Dialect::Native => {
                let mut native = daemon.native(id);
                native.declare(0, Direction::Output, "text", &TypeSchema::String, 0);
                Self::Native(native)
            }
            Dialect::Veecle => Self::Veecle(daemon.veecle(id)),
            Dialect::Python => {
                Self::Python(played(daemon, id, &["send-text", &LENGTH.to_string()]))
            }
        }
    }

    /// Sends so many.
    pub(crate) fn send(&mut self, count: usize) {
        let text = "x".repeat(LENGTH);
        match self {
            Self::Native(native) => {
                let payload = postcard::to_stdvec(&text).unwrap();
                (0..count).for_each(|_| native.message(0, &payload));
            }
            Self::Veecle(veecle) => {
                (0..count).for_each(|_| veecle.storable("text", &json!(text)));
            }
            Self::Python(peer) => {
                assert_eq!(peer.ask(&format!("SEND 0 {count}")), format!("sent {count}"));
            }
        }
    }
}
