//! Links whose messages go through memory that both ends share: what is different of them from other
//! lanes, which `lanes.rs` and the conformance suite test over both.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::fs;
use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use orchestrator_proto::control::{Policy, Transport, Way};
use orchestrator_proto::frame::{self, MAX_RUNTIME};
use orchestrator_proto::ring::{ByteConsumer, ByteProducer, Files};
use orchestrator_proto::runtime::{Direction, Frame, MAGIC, Medium, PROTOCOL};
use orchestrator_proto::sdk::{Input, Output, Runtime, Schema};
use orchestrator_proto::{LinkId, Message, TypeSchema};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde::{Deserialize, Serialize};
use tests::native::Native;
use tests::{Daemon, SOON, eventually};

#[derive(Serialize, Deserialize, Schema, Message, PartialEq, Debug, Clone)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
#[message(name = "n")]
struct Bulk {
    number: u32,
    bytes: Vec<u8>,
}

fn bulk(number: u32, len: usize) -> Bulk {
    let bytes = (0..len).map(|at| (at as u32).wrapping_mul(31).wrapping_add(number) as u8);
    Bulk { number, bytes: bytes.collect() }
}

fn runtime() -> tokio::runtime::Runtime {
    let builder = tokio::runtime::Builder::new_multi_thread();
    { builder }.worker_threads(2).enable_all().build().unwrap()
}

/// What blocks, beside the programs of the SDK that go on meanwhile.
fn beside<T>(work: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(work)
}

async fn connect(daemon: &Daemon, id: &str) -> Runtime {
    Runtime::connect_to(daemon.native_socket(id)).await.expect("welcome")
}

#[track_caller]
fn goes(daemon: &Daemon, link: LinkId, way: Way) {
    let goes =
        || eventually("they go this way", || (daemon.link_info(link).way == way).then_some(()));
    beside(goes);
}

async fn next(input: &mut Input<Bulk>) -> Bulk {
    let next = tokio::time::timeout(SOON, input.recv()).await;
    next.expect("a message comes").unwrap()
}

/// Memory files that a process has open.
fn memories(pid: u32) -> usize {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let names = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
    names.filter(|name| name.to_string_lossy().contains("memfd:")).count()
}

/// D9: lengths around those of records, of the ring, and of frames.
#[test]
fn messages_of_any_length_pass() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let before = memories(daemon.pid());
    let link = daemon.link_by(Transport::Shm, "a", "n", "b", (Policy::Block, 16));
    runtime().block_on(async {
        let (sender, receiver) = (connect(&daemon, &a).await, connect(&daemon, &b).await);
        let output: Output<Bulk> = sender.output().unwrap();
        let mut input: Input<Bulk> = receiver.input().unwrap();
        goes(&daemon, link, Way::Shm);
        let gone = || (memories(daemon.pid()) == before).then_some(());
        beside(|| eventually("the daemon has closed the memory", gone));
        let lengths = [0, 1, 15, 16, 17, 16_350, 16_384, 65_536, 1 << 20, (1 << 20) + 1, 5 << 20];
        let sending = async {
            for (number, len) in lengths.into_iter().chain([15 << 20, 3]).enumerate() {
                output.send(&bulk(number as u32, len)).await.unwrap();
            }
        };
        let receiving = async {
            for (number, len) in lengths.into_iter().chain([15 << 20, 3]).enumerate() {
                let came = next(&mut input).await;
                assert!(came == bulk(number as u32, len), "{number} of {len} bytes");
            }
        };
        tokio::join!(sending, receiving);
        goes(&daemon, link, Way::Shm);
        let counters = beside(|| daemon.counters(link));
        assert_eq!((counters.sent, counters.delivered), (13, 13));
    });
}

/// A receiver that is slow finds all of it, however often the ring is full in between.
#[test]
fn a_ring_that_is_full_holds_nothing_up_but_its_sender() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link_by(Transport::Shm, "a", "n", "b", (Policy::Block, 200));
    runtime().block_on(async {
        let (sender, receiver) = (connect(&daemon, &a).await, connect(&daemon, &b).await);
        let output: Output<Bulk> = sender.output().unwrap();
        let mut input: Input<Bulk> = receiver.input().unwrap();
        goes(&daemon, link, Way::Shm);
        for round in 0..3 {
            // More than there is room for in the ring: the rest waits with the sender.
            for number in 0..60 {
                output.send(&bulk(round * 60 + number, 100_000)).await.unwrap();
            }
            for number in 0..60 {
                assert!(next(&mut input).await == bulk(round * 60 + number, 100_000));
            }
        }
    });
}

/// D11: the budget for spinning is part of the link: shown, stored, exported, changed under traffic.
#[test]
fn a_spin_is_told_to_both_ends() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let add = ["link", "add", "--from", "a", "--type", "n", "--to", "b", "--policy", "block"];
    daemon.ok([&add[..], &["--transport", "shm", "--spin-us", "200"]].concat());
    let link = daemon.links().remove(0).id;
    runtime().block_on(async {
        let (sender, receiver) = (connect(&daemon, &a).await, connect(&daemon, &b).await);
        let output: Output<Bulk> = sender.output().unwrap();
        let mut input: Input<Bulk> = receiver.input().unwrap();
        goes(&daemon, link, Way::Shm);
        let mut number = 0;
        for spin in ["0", "10000", "50"] {
            beside(|| daemon.ok(["link", "set", &link.to_string(), "--spin-us", spin]));
            goes(&daemon, link, Way::Shm);
            for _ in 0..50 {
                output.send(&bulk(number, 9)).await.unwrap();
                assert_eq!(next(&mut input).await, bulk(number, 9));
                number += 1;
            }
        }
    });
    let json = daemon.json(["link", "list", "--json"]);
    assert_eq!(json["links"][0]["spin_us"], 50, "{json}");
    assert!(daemon.ok(["export"]).contains("spin-us = 50"));
    assert!(daemon.ok(["events"]).contains("transport shm, spin-us 50"));
    daemon.replace_killed();
    assert_eq!(daemon.links()[0].spin_us, 50);
    for args in
        [&["link", "set", "1", "--spin-us", "10001"][..], &["link", "set", "1", "--spin-us", "-1"]]
    {
        assert_eq!(daemon.cli(args).code, Some(2), "{args:?}");
    }
    let refused = daemon.cli([&add[..], &["--spin-us", "5"]].concat());
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("for the transport shm"), "{refused:?}");
    daemon.ok(["link", "set", "1", "--transport", "direct"]);
    assert_eq!(daemon.links()[0].spin_us, 0);
}

/// An end that a test plays, which knows of no memory unless it says so.
fn played(daemon: &Daemon, id: &str, direction: Direction, memory: bool) -> Native {
    let mut native = daemon.native(id);
    native.send(&Frame::Lanes { memory });
    let input = direction == Direction::Input;
    native.send(&match input {
        true => Frame::Recognise { channel: 0 },
        false => Frame::Keep { channel: 0, epoch: 9, next: 0, again: 0 },
    });
    let schema = TypeSchema::from(<Bulk as Schema>::SCHEMA);
    native.declare(0, direction, "n", &schema, if input { 64 } else { 0 });
    native
}

/// What it is told of a lane.
fn lane_of(native: &mut Native) -> (u64, Medium) {
    loop {
        let lane = native.next(|frame| match frame {
            Frame::Lane { lane, medium, .. } => Some((lane, medium)),
            _ => None,
        });
        if let Some(lane) = lane.expect("the connection lives") {
            return lane;
        }
    }
}

/// Its end of it.
fn claim(daemon: &Daemon, id: &str, lane: u64) -> (UnixStream, Files) {
    let mut stream = UnixStream::connect(daemon.native_socket(id)).unwrap();
    let claim = Frame::Claim { magic: MAGIC, protocol: PROTOCOL, lane };
    stream.write_all(&frame::encode(&claim, MAX_RUNTIME).unwrap()).unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut answer = [0; 64];
    let flags = RecvFlags::CMSG_CLOEXEC;
    recvmsg(&stream, &mut [IoSliceMut::new(&mut answer)], &mut ancillary, flags).unwrap();
    let files = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    let files: Vec<OwnedFd> = files.flatten().collect();
    let [socket, memory, data, room] = files.try_into().expect("four files");
    (socket.into(), Files::from_fds([memory, data, room]))
}

/// D9: where an end does not take memory, messages go directly, and the list says why.
#[test]
fn a_library_that_takes_no_memory_is_served_directly() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link_by(Transport::Shm, "a", "n", "b", (Policy::Block, 16));
    for (takes, whose) in [((false, true), "sender's"), ((true, false), "receiver's")] {
        let _receiver = played(&daemon, &b, Direction::Input, takes.1);
        daemon.declared(&b, "n");
        let mut sender = played(&daemon, &a, Direction::Output, takes.0);
        let (lane, medium) = lane_of(&mut sender);
        assert_eq!(medium, Medium::Socket);
        sender.send(&Frame::Switched { channel: 0, lane });
        goes(&daemon, link, Way::Direct);
        let why = daemon.link_info(link).why.unwrap();
        assert_eq!(why, format!("the {whose} library does not take memory"));
        let list = daemon.ok(["link", "list"]);
        assert!(list.contains(&format!("link {link} is direct, not shm: {why}")), "{list}");
        drop((sender, _receiver));
        daemon.connections("a", 0);
        daemon.connections("b", 0);
    }
}

/// D1: who is connected and has not declared an input of the type is told apart from who takes no lanes.
#[test]
fn a_receiver_that_has_not_declared_the_type_is_told() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link_by(Transport::Shm, "a", "n", "b", (Policy::Block, 16));
    runtime().block_on(async {
        let (sender, _receiver) = (connect(&daemon, &a).await, connect(&daemon, &b).await);
        let _output: Output<Bulk> = sender.output().unwrap();
        beside(|| {
            eventually("it is told", || {
                let why = daemon.link_info(link).why?;
                why.contains("has declared no input of this type").then_some(())
            });
        });
    });
}

/// D10: a sender whose bytes are no frames, or whose ring is none, ends its own lane: the receiver lives,
/// and gets the messages of others.
#[test]
fn a_sender_that_scribbles_harms_its_own_messages_alone() {
    let daemon = Daemon::start();
    let (a, b, c) = (daemon.put("a"), daemon.put("b"), daemon.put("c"));
    let bad = daemon.link_by(Transport::Shm, "a", "n", "b", (Policy::Block, 16));
    let good = daemon.link_by(Transport::Shm, "c", "n", "b", (Policy::Block, 16));
    runtime().block_on(async {
        let (other, receiver) = (connect(&daemon, &c).await, connect(&daemon, &b).await);
        let output: Output<Bulk> = other.output().unwrap();
        let mut input: Input<Bulk> = receiver.input().unwrap();
        goes(&daemon, good, Way::Shm);
        let frames = [
            frame::encode(&Frame::Ready, MAX_RUNTIME).unwrap(),
            vec![0xff; 3000],
            vec![4, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
        ];
        for (number, wrong) in frames.iter().enumerate() {
            let mut sender = played(&daemon, &a, Direction::Output, true);
            let (lane, medium) = lane_of(&mut sender);
            assert_eq!(medium, Medium::Memory { spin_us: 0 });
            let (stream, files) = claim(&daemon, &a, lane);
            sender.send(&Frame::Switched { channel: 0, lane });
            let mut producer = ByteProducer::open(files).unwrap();
            assert_eq!(producer.try_write(wrong).unwrap(), wrong.len());
            // The receiver has seen it, and left: the daemon has both ends closed then.
            let leave = loop {
                let leave = sender.next(|frame| matches!(frame, Frame::Leave { .. }));
                if leave.is_none_or(|it| it) {
                    break leave;
                }
            };
            assert_eq!(leave, Some(true));
            drop((stream, sender));
            beside(|| daemon.connections("a", 0));
            let number = number as u32;
            output.send(&bulk(number, 100)).await.unwrap();
            assert_eq!(next(&mut input).await, bulk(number, 100));
        }
        let [good, bad] = beside(|| [good, bad].map(|link| daemon.counters(link)));
        assert_eq!((good.sent, good.delivered, bad.delivered), (3, 3, 0));
    });
}

/// D10: a receiver that gives back what it never had ends its lane; the sender's messages go to the next
/// process of the receiver.
#[test]
fn a_receiver_that_scribbles_costs_no_message() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link_by(Transport::Shm, "a", "n", "b", (Policy::Block, 64));
    runtime().block_on(async {
        let sender = connect(&daemon, &a).await;
        let output: Output<Bulk> = sender.output().unwrap();
        let mut liar = played(&daemon, &b, Direction::Input, true);
        let (lane, _) = lane_of(&mut liar);
        let (mut stream, files) = claim(&daemon, &b, lane);
        let memory = files.as_fds()[0].try_clone_to_owned().unwrap();
        let _consumer = ByteConsumer::open(files).unwrap();
        let grant = Frame::Grant { channel: 0, total: 1000 };
        stream.write_all(&frame::encode(&grant, MAX_RUNTIME).unwrap()).unwrap();
        goes(&daemon, link, Way::Shm);
        // The tail, see RING.md.
        rustix::io::pwrite(&memory, &u64::MAX.to_ne_bytes(), 256).unwrap();
        for number in 0..40 {
            output.send(&bulk(number, 100_000)).await.unwrap();
        }
        let receiver = connect(&daemon, &b).await;
        let mut input: Input<Bulk> = receiver.input().unwrap();
        for number in 0..40 {
            assert!(next(&mut input).await == bulk(number, 100_000), "{number}");
        }
        goes(&daemon, link, Way::Shm);
        drop(liar);
    });
}
