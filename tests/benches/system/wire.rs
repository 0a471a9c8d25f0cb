//! Instances by hand: blocking sockets, messages that were encoded beforehand.

use std::fmt;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;

use orchestrator_proto::TypeSchema;
use orchestrator_proto::frame::{self, MAX_RUNTIME};
use orchestrator_proto::runtime::{Direction, Frame};
use orchestrator_proto::sdk::{Message, Schema};
use serde::{Deserialize, Serialize};
use tests::native::Native;
use tests::veecle::Veecle;

/// Types of messages. They have equal lengths, so all frames of a size have.
pub(crate) const PING: &str = "bench.ping";
pub(crate) const PONG: &str = "bench.pong";
pub(crate) const DATA: &str = "bench.data";

/// Bytes of payload in a round trip.
pub(crate) const ROUNDTRIP_SIZE: usize = 32;

/// 32 bytes: what a sensor says.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Schema, Message)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
#[message(name = "bench.ping")]
pub(crate) struct Ping {
    pub(crate) values: [f64; 4],
}

/// The same, back.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Schema, Message)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
#[message(name = "bench.pong")]
pub(crate) struct Pong {
    pub(crate) values: [f64; 4],
}

/// 64 bytes.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Schema, Message)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
#[message(name = "bench.data64")]
pub(crate) struct Data64 {
    pub(crate) values: [f64; 8],
}

/// 1 KiB.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Schema, Message)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
#[message(name = "bench.data1024")]
pub(crate) struct Data1024 {
    pub(crate) values: [[f64; 32]; 4],
}

/// How messages are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dialect {
    Native,
    Veecle,
}

/// What is between the two ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Through {
    Daemon,
    Relay,
}

/// How two instances talk. The bytes of a dialect are the same through daemon and relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Wire {
    pub(crate) dialect: Dialect,
    pub(crate) through: Through,
}

impl Wire {
    pub(crate) const fn new(dialect: Dialect, through: Through) -> Self {
        Self { dialect, through }
    }

    pub(crate) fn named(name: &str) -> Self {
        let dialects = [Dialect::Native, Dialect::Veecle];
        let all = dialects.into_iter().flat_map(|dialect| {
            [Through::Daemon, Through::Relay].map(|through| Self::new(dialect, through))
        });
        let mut named = all.filter(|wire| wire.to_string() == name);
        named.next().expect("an actor is told a wire")
    }
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}-{:?}", self.dialect, self.through)
    }
}

impl Dialect {
    /// A whole message with a payload of this size, as an instance writes it.
    pub(crate) fn message(self, type_name: &str, size: usize, channel: u16) -> Vec<u8> {
        match self {
            Self::Native => {
                let payload = vec![0; size];
                let frame = Frame::Message { channel, payload: &payload };
                frame::encode(&frame, MAX_RUNTIME).unwrap()
            }
            Self::Veecle => {
                let (start, end) = (r#"{\"value\":"#, "}");
                let number = "7".repeat(size - start.len() - end.len());
                format!(
                    "{{\"Storable\":{{\"type_name\":\"{type_name}\",\"value\":\"{start}{number}\
                     {end}\"}}}}\n"
                )
                .into_bytes()
            }
        }
    }
}

/// One end of a wire.
pub(crate) struct Peer {
    /// The socket, with nothing on it but messages, and grants for a sender under `block`.
    pub(crate) stream: UnixStream,
    grants: Option<Native>,
    sent: u64,
    granted: u64,
}

impl Peer {
    /// Connects, and declares what it sends (on channel 0) and takes (on channel 1).
    pub(crate) fn connect(
        wire: Wire,
        path: &Path,
        output: Option<&str>,
        input: Option<&str>,
    ) -> Self {
        let mut peer = match wire {
            Wire { through: Through::Relay, .. } => Self::bare(UnixStream::connect(path).unwrap()),
            Wire { dialect: Dialect::Veecle, .. } => Self::bare(Veecle::connect(path).stream),
            Wire { dialect: Dialect::Native, .. } => Self::greeted(path, output, input),
        };
        // A timer for each read would be measured too.
        peer.stream.set_read_timeout(None).unwrap();
        peer.sent = 0;
        peer
    }

    /// Our end of a socket that nobody stands behind but the other end.
    pub(crate) fn bare(stream: UnixStream) -> Self {
        Self { stream, grants: None, sent: 0, granted: 0 }
    }

    fn greeted(path: &Path, output: Option<&str>, input: Option<&str>) -> Self {
        let schema = TypeSchema::from(<[f64; 4]>::SCHEMA);
        let mut native = Native::connect(path);
        let ends = [(output, Direction::Output), (input, Direction::Input)];
        for (channel, (name, direction)) in (0..).zip(ends) {
            if let Some(name) = name {
                native.declare(channel, direction, name, &schema, 0);
            }
        }
        let welcomed = native.next(|frame| matches!(frame, Frame::Welcome { .. }));
        assert_eq!(welcomed, Some(true), "the daemon welcomes us");
        Self {
            stream: native.stream.try_clone().unwrap(),
            grants: Some(native),
            sent: 0,
            granted: 0,
        }
    }

    /// Sends `count` messages, `burst` of them with each write as far as that is granted.
    /// `messages` are at least `burst` messages of `length` bytes each.
    pub(crate) fn send(&mut self, messages: &[u8], length: usize, count: u64, burst: usize) {
        let mut left = count;
        while left > 0 {
            let now = self.credit().min(left).min(burst as u64);
            let bytes = now as usize * length;
            self.stream.write_all(&messages[..bytes]).unwrap();
            self.sent += now;
            left -= now;
        }
    }

    /// How many messages may be sent; waits until it is at least one.
    fn credit(&mut self) -> u64 {
        let Some(grants) = &mut self.grants else {
            return u64::MAX;
        };
        while self.granted <= self.sent {
            let grant = grants.next(|frame| match frame {
                Frame::Grant { total, .. } => total,
                other => panic!("a grant was expected, not {other:?}"),
            });
            self.granted = grant.expect("the daemon lives");
        }
        self.granted - self.sent
    }
}
