//! Senders that say when they send.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use orchestrator_proto::Message;
use orchestrator_proto::control::{Policy, Transport, Way};
use orchestrator_proto::runtime::Direction;
use orchestrator_proto::sdk::{Input, Output, Runtime, Schema};
use orchestrator_proto::{LinkId, TypeSchema};
use serde::{Deserialize, Serialize};
use tests::native::Native;
use tests::python::Peer;
use tests::veecle::Veecle;
use tests::{Daemon, SOON, eventually};

use super::case::{Case, Dialect, played};

#[derive(Serialize, Deserialize, Schema, Message)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
#[message(name = "n")]
struct Number(u32);

/// A program with the library for Rust, on threads of its own.
struct Program {
    peers: tokio::runtime::Runtime,
    runtime: Runtime,
}

impl Program {
    fn new(daemon: &Daemon, id: &str) -> Self {
        let mut peers = tokio::runtime::Builder::new_multi_thread();
        let peers = peers.worker_threads(1).enable_all().build().unwrap();
        let runtime = peers.block_on(Runtime::connect_to(daemon.native_socket(id))).unwrap();
        Self { peers, runtime }
    }
}

/// Who says when it sends, where its dialect has a word for that.
enum Sender {
    Rust(Program, Box<Output<Number>>),
    Python(Peer),
    Veecle(Veecle),
}

impl Sender {
    fn new(case: Case, daemon: &Daemon, id: &str) -> Self {
        match case.from {
            Dialect::Native => {
                let program = Program::new(daemon, id);
                let output = program.peers.block_on(async { program.runtime.stamped_output() });
                Self::Rust(program, Box::new(output.unwrap()))
            }
            Dialect::Python => Self::Python(played(daemon, id, &["send-stamped"])),
            Dialect::Veecle => Self::Veecle(daemon.veecle(id)),
        }
    }

    /// Sends it; the answer is between which times that was.
    fn send(&mut self, number: u32) -> [SystemTime; 2] {
        let before = SystemTime::now();
        match self {
            Self::Rust(program, output) => {
                let sending =
                    async { tokio::time::timeout(SOON, output.send(&Number(number))).await };
                program.peers.block_on(sending).expect("it is sent soon").unwrap();
            }
            Self::Python(peer) => {
                let said = peer.ask(&format!("SEND {number} {}", number + 1));
                assert!(said.starts_with("sent "), "{said}");
            }
            Self::Veecle(veecle) => veecle.storable("n", &serde_json::json!(number)),
        }
        [before, SystemTime::now()]
    }
}

/// Who wants to know it, where its dialect has a word for that.
enum Receiver {
    Rust(Program, Box<Input<Number>>),
    Python(Peer),
    Veecle(Veecle),
}

impl Receiver {
    fn new(case: Case, daemon: &Daemon, id: &str) -> Self {
        match case.to {
            Dialect::Native => {
                let program = Program::new(daemon, id);
                let input = program.peers.block_on(async { program.runtime.input() });
                Self::Rust(program, Box::new(input.unwrap()))
            }
            Dialect::Python => Self::Python(played(daemon, id, &["receive-stamped"])),
            Dialect::Veecle => Self::Veecle(daemon.veecle(id)),
        }
    }

    /// The next number, and when it was sent.
    fn next(&mut self) -> (u32, Option<SystemTime>) {
        match self {
            Self::Rust(program, input) => {
                let next = async { tokio::time::timeout(SOON, input.recv_envelope()).await };
                let envelope = program.peers.block_on(next).expect("a message comes").unwrap();
                assert!(envelope.sent.is_none_or(|sent| sent <= envelope.arrived_at));
                (envelope.message.0, envelope.sent)
            }
            Self::Python(peer) => {
                let said = peer.ask("TAKE 1");
                peer.hears("done");
                let (number, sent) = said.split_once(' ').expect("two words");
                let sent = sent.parse().ok().map(|ns| UNIX_EPOCH + Duration::from_nanos(ns));
                (number.parse().unwrap(), sent)
            }
            Self::Veecle(veecle) => {
                let (_, value) = veecle.next_storable().expect("a message comes");
                (u32::try_from(value.as_u64().unwrap()).unwrap(), None)
            }
        }
    }
}

fn goes(daemon: &Daemon, link: LinkId, case: Case) {
    let way = match case.transport {
        Transport::Direct => Way::Direct,
        Transport::Shm => Way::Shm,
        Transport::Auto | Transport::Routed => Way::Routed,
    };
    eventually("messages go this way", || (daemon.link_info(link).way == way).then_some(()));
}

/// L39.
pub(crate) fn the_receiver_is_told_when_each_message_was_sent(case: Case) {
    let daemon = Daemon::start();
    let [a, other, b] = ["a", "other", "b"].map(|name| daemon.put(name));
    let link = daemon.link_by(case.transport, "any", "n", "b", (Policy::Block, 100));
    let mut sender = Sender::new(case, &daemon, &a);
    let mut plain: Native = daemon.native(&other);
    plain.declare(0, Direction::Output, "n", &TypeSchema::U32, 0);
    daemon.declared("other", "n");
    // What waits for a receiver says when it was sent, not when it came.
    let mut times: Vec<_> = (0..3).map(|number| Some(sender.send(number))).collect();
    eventually("they wait", || (daemon.counters(link).sent == 3).then_some(()));
    let mut receiver = Receiver::new(case, &daemon, &b);
    let mut got: Vec<_> = (0..3).map(|_| receiver.next()).collect();
    let knows = case.from.is_native() && case.to.is_native();
    if knows {
        goes(&daemon, link, case);
    }
    // Others say nothing of it.
    for round in 0..5 {
        for number in [2 * round + 3, 2 * round + 4] {
            if number % 2 == 0 {
                plain.number(number);
                times.push(None);
            } else {
                times.push(Some(sender.send(number)));
            }
            got.push(receiver.next());
        }
    }
    for (number, ((got, sent), between)) in (0..).zip(got.iter().zip(&times)) {
        assert_eq!(*got, number, "{case:?}");
        match between.filter(|_| knows) {
            Some([before, after]) => {
                let sent = sent.unwrap_or_else(|| panic!("{case:?}: {number} has no time"));
                assert!(before <= sent && sent <= after, "{case:?}: {before:?} {sent:?} {after:?}");
            }
            None => assert_eq!(*sent, None, "{case:?}: {number}"),
        }
    }
    // Who does not want to know gets the values alone: the newest connection gets the messages.
    if case.to == Dialect::Native {
        let mut by_hand = daemon.receiver(&b, "n");
        eventually("messages go to it", || {
            (daemon.link_info(link).way == Way::Routed).then_some(())
        });
        sender.send(100);
        // What was not acknowledged comes again before it.
        let mut next = || by_hand.next_message().expect("a message comes").1;
        let payload = std::iter::repeat_with(&mut next).find(|payload| payload[0] == 100);
        assert_eq!(payload.as_deref(), Some(&[100][..]), "{case:?}");
    }
}
