//! zenoh, between two peers over a Unix socket, without discovery. Compiled with
//! `--features rivals` only.

use std::path::Path;

use tests::eventually;
use zenoh::handlers::FifoChannelHandler;
use zenoh::pubsub::{Publisher, Subscriber};
use zenoh::qos::CongestionControl;
use zenoh::sample::Sample;
use zenoh::{Config, Session, Wait};

use crate::pipe::Pipe;

/// One end.
pub(super) struct Zenoh {
    /// Does not wait for more messages to come.
    at_once: Publisher<'static>,
    /// As it is by default.
    batched: Publisher<'static>,
    subscriber: Subscriber<FifoChannelHandler<Sample>>,
    _session: Session,
}

impl Zenoh {
    /// The end that the others connect to.
    pub(super) fn near(path: &Path) -> Self {
        Self::open("listen", path, ["bench/out", "bench/back"])
    }

    pub(super) fn far(path: &Path) -> Self {
        Self::open("connect", path, ["bench/back", "bench/out"])
    }

    fn open(how: &str, path: &Path, [to, from]: [&'static str; 2]) -> Self {
        let mut config = Config::default();
        let socket = format!("[\"unixsock-stream/{}\"]", path.display());
        let other = if how == "listen" { "connect" } else { "listen" };
        let settings = [
            ("mode", "\"peer\""),
            (&format!("{how}/endpoints"), &socket),
            (&format!("{other}/endpoints"), "[]"),
            ("scouting/multicast/enabled", "false"),
            ("scouting/gossip/enabled", "false"),
        ];
        for (key, value) in settings {
            config.insert_json5(key, value).unwrap();
        }
        let session = zenoh::open(config).wait().unwrap();
        let publisher = |express| {
            let publisher = session.declare_publisher(to).express(express);
            publisher.congestion_control(CongestionControl::Block).wait().unwrap()
        };
        let (at_once, batched) = (publisher(true), publisher(false));
        let subscriber = session.declare_subscriber(from).wait().unwrap();
        Self { at_once, batched, subscriber, _session: session }
    }

    /// Says that this end is there, once that can be heard.
    pub(super) fn say_hello(&self) {
        eventually("zenoh's ends know each other", || {
            self.at_once.matching_status().wait().unwrap().matching().then_some(())
        });
        self.at_once.put("hello").wait().unwrap();
    }

    /// Waits until so many have said so: what they subscribe to they had said before.
    pub(super) fn hear_hello(&self, count: usize) {
        (0..count).for_each(|_| drop(self.subscriber.recv().unwrap()));
    }
}

impl Pipe for Zenoh {
    fn send(&mut self, bytes: &[u8]) {
        self.at_once.put(bytes).wait().unwrap();
    }

    fn receive(&mut self, into: &mut Vec<u8>) {
        let sample = self.subscriber.recv().unwrap();
        let payload = sample.payload().to_bytes();
        assert_eq!(payload.len(), into.len());
        into.copy_from_slice(&payload);
    }

    fn send_many(&mut self, bytes: &[u8], count: usize) {
        (0..count).for_each(|_| self.batched.put(bytes).wait().unwrap());
    }
}
