//! Two programs of the SDK in the test's own process, and a link between them.

use std::num::NonZeroU32;

use orchestrator_proto::LinkId;
use orchestrator_proto::control::{Policy, Transport, Way};
use orchestrator_proto::sdk::{Input, Message, Output, Runtime, Schema};
use serde::{Deserialize, Serialize};
use tests::{Daemon, SOON, eventually};

#[derive(Serialize, Deserialize, Schema, Message, Clone, Copy, PartialEq, Debug)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
#[message(name = "n")]
pub(super) struct Number(pub(super) u32);

/// The ways that each test goes.
pub(super) const WAYS: [Transport; 3] = [Transport::Routed, Transport::Direct, Transport::Shm];

/// Messages of the link go as they are to when this returns.
#[track_caller]
pub(super) fn goes(daemon: &Daemon, link: LinkId, transport: Transport) {
    let way = match transport {
        Transport::Direct => Way::Direct,
        Transport::Shm => Way::Shm,
        Transport::Auto | Transport::Routed => Way::Routed,
    };
    eventually("messages go this way", || (daemon.link_info(link).way == way).then_some(()));
}

/// A link from `a` to `b`, and what both run on beside the test's blocking calls.
pub(super) struct Stage<T> {
    pub(super) peers: tokio::runtime::Runtime,
    pub(super) daemon: Daemon,
    pub(super) link: LinkId,
    pub(super) a: String,
    pub(super) output: Output<T>,
    pub(super) input: Input<T>,
}

impl<T: Message> Stage<T> {
    /// Messages go this way when this returns.
    pub(super) fn new(transport: Transport, rules: (Policy, u32), window: u32) -> Self {
        let daemon = Daemon::start();
        let (a, b) = (daemon.put("a"), daemon.put("b"));
        let link = daemon.link_by(transport, "a", T::NAME, "b", rules);
        let peers = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let connect = |id: &str| {
            peers.block_on(Runtime::connect_to(daemon.native_socket(id))).expect("welcome")
        };
        let (sender, receiver) = (connect(&a), connect(&b));
        let output = sender.output().unwrap();
        let input = receiver.input_with_window(NonZeroU32::new(window).unwrap()).unwrap();
        let this = Self { peers, daemon, link, a, output, input };
        this.daemon.declared("a", T::NAME);
        this.daemon.declared("b", T::NAME);
        goes(&this.daemon, link, transport);
        this
    }

    #[track_caller]
    pub(super) fn within<R>(&self, future: impl Future<Output = R>) -> R {
        let soon = async { tokio::time::timeout(SOON, future).await };
        self.peers.block_on(soon).expect("it is done soon")
    }

    #[track_caller]
    pub(super) fn send(&self, messages: &[T]) {
        let sent = self.within(self.output.send_many(messages)).unwrap();
        assert_eq!(sent, messages.len() as u64);
    }
}
