//! The native runtime protocol from the daemon's side: what it refuses, schemas, bounds, and
//! the requests of privileged instances.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::io::Write;
use std::time::Duration;

use orchestrator_proto::control::{EventKind, LinkState, Observed, Policy};
use orchestrator_proto::frame::MAX_RUNTIME;
use orchestrator_proto::runtime::{
    Declare, Direction, Frame, MAGIC, MAX_CHANNELS, MAX_PAYLOAD, MAX_PAYLOAD_1, OLDEST_PROTOCOL,
    PROTOCOL, Passed, RuntimeReply, RuntimeRequest,
};
use orchestrator_proto::schema::Field;
use orchestrator_proto::sdk::{Runtime, Schema, SendError};
use orchestrator_proto::{ErrorCode, LinkId, Message, TypeSchema, WireError};
use serde::{Deserialize, Serialize};
use tests::native::Native;
use tests::{Daemon, SOON, binary, block_on, eventually, processes};

/// What a peer can do wrong after a good hello (or instead of it).
type Wrong = fn(&mut Native);

fn raw(native: &mut Native, bytes: &[u8]) {
    native.stream.write_all(bytes).unwrap();
}

fn body(native: &mut Native, body: &[u8]) {
    let length = u32::try_from(body.len()).unwrap();
    raw(native, &length.to_le_bytes());
    raw(native, body);
}

fn declare(name: &str, schema: &[u8], hash: Option<[u8; 32]>, channel: u16) -> Vec<u8> {
    let declare = Declare { channel, direction: Direction::Output, name, schema, hash, window: 0 };
    postcard::to_stdvec(&Frame::Declare(declare)).unwrap()
}

fn number(native: &mut Native, direction: Direction, channel: u16, name: &str) {
    native.declare(channel, direction, name, &TypeSchema::U32, 0);
}

const AFTER_HELLO: &[(&str, Wrong)] = &[
    ("length 0", |n| raw(n, &[0; 4])),
    ("at most 67108896", |n| {
        raw(n, &(MAX_RUNTIME as u32 + 1).to_le_bytes());
    }),
    ("at most 67108896", |n| raw(n, b"GET / HTTP/1.1\r\n\r\n")),
    ("cut or wrong", |n| body(n, &[99])),
    ("cut or wrong", |n| body(n, &[0xff; 40])),
    ("cut or wrong", |n| body(n, &[3])),
    ("message frame", |n| body(n, &[4])),
    ("message frame", |n| body(n, &[4, 0, 5, 1, 2])),
    ("message frame", |n| body(n, &[4, 0, 1, 1, 2])),
    ("too many", |n| {
        let mut grant = postcard::to_stdvec(&Frame::Grant { channel: 0, total: 1 }).unwrap();
        grant.push(0);
        body(n, &grant);
    }),
    ("second hello", |n| {
        n.send(&Frame::Hello { magic: MAGIC, protocol: PROTOCOL, sdk: "again" });
    }),
    ("only the daemon", |n| {
        let instance = orchestrator_proto::InstanceId::generate();
        n.send(&Frame::Welcome { protocol: PROTOCOL, server: "me", instance });
    }),
    ("only the daemon", |n| {
        n.send(&Frame::Refused(WireError::new(ErrorCode::Internal, "no")));
    }),
    ("only the daemon", |n| {
        let result = Ok(RuntimeReply::List(Vec::new()));
        n.send(&Frame::Reply { id: 1, result });
    }),
    ("channel 1024", |n| {
        number(n, Direction::Output, MAX_CHANNELS, "n");
    }),
    ("channel 5 is declared twice", |n| {
        number(n, Direction::Output, 5, "n");
        number(n, Direction::Input, 5, "m");
    }),
    ("declared twice", |n| {
        number(n, Direction::Input, 0, "n");
        number(n, Direction::Input, 1, "n");
    }),
    ("declared twice", |n| {
        number(n, Direction::Output, 0, "n");
        number(n, Direction::Output, 1, "n");
    }),
    ("1 to 255 bytes", |n| body(n, &declare("", &[3], None, 0))),
    ("1 to 255 bytes", |n| {
        body(n, &declare(&"x".repeat(256), &[3], None, 0));
    }),
    ("schema of n", |n| body(n, &declare("n", &[], None, 0))),
    ("schema of n", |n| body(n, &declare("n", &[99], None, 0))),
    ("schema of n", |n| body(n, &declare("n", &[3, 3], None, 0))),
    ("hash of n", |n| {
        body(n, &declare("n", &[3], Some([7; 32]), 0));
    }),
    ("channel 9, which is no output", |n| n.message(9, &[1])),
    ("channel 0, which is no output", |n| {
        number(n, Direction::Input, 0, "n");
        n.message(0, &[1]);
    }),
    ("right after", |n| {
        n.send(&Frame::Recognise { channel: 0 });
        n.message(0, &[1]);
    }),
    ("not the one that was announced", |n| {
        n.send(&Frame::Recognise { channel: 0 });
        number(n, Direction::Output, 0, "n");
    }),
    ("not the one that was announced", |n| {
        n.send(&Frame::Keep { channel: 1, epoch: 1, next: 0, again: 0 });
        number(n, Direction::Output, 0, "n");
    }),
    ("beyond what can be counted", |n| {
        n.send(&Frame::Keep { channel: 1, epoch: 1, next: u64::MAX, again: 1 });
    }),
    ("no input that recognises", |n| {
        number(n, Direction::Input, 0, "n");
        n.send(&Frame::Acknowledge { channel: 0, total: 0 });
    }),
    ("more than it got", |n| {
        n.send(&Frame::Recognise { channel: 0 });
        number(n, Direction::Input, 0, "n");
        n.send(&Frame::Acknowledge { channel: 0, total: 1 });
    }),
    ("without a sender", |n| {
        n.send(&Frame::Recognise { channel: 0 });
        number(n, Direction::Input, 0, "n");
        n.send(&Frame::From { channel: 0, sender: None, next: 1, kept: false });
    }),
    ("channel 0 is no output", |n| n.send(&Frame::Skip { channel: 0, count: 1 })),
    ("channel 0 is no output", |n| n.send(&Frame::Switched { channel: 0, lane: 1 })),
    ("channel 0 is no output", |n| {
        n.send(&Frame::Again { channel: 0, lane: 1, number: 1, payload: &[1] });
    }),
    ("channel 0 is no output", |n| {
        n.send(&Frame::Passed { channel: 0, lane: 1, passed: Passed::default() });
    }),
    ("channel 0 is not declared", |n| {
        n.send(&Frame::Left { channel: 0, lane: 1, passed: Passed::default() });
    }),
    ("right before its channel", |n| {
        n.send(&Frame::Uses { channel: 3, lane: 1, link: LinkId(1), memory: false });
        number(n, Direction::Output, 0, "n");
    }),
    ("only the daemon", |n| n.send(&Frame::Ask { channel: 0, lane: 1 })),
    ("a second hello", |n| n.send(&Frame::Claim { magic: MAGIC, protocol: PROTOCOL, lane: 1 })),
    ("only the daemon", |n| n.send(&Frame::Wanted { channel: 0, wanted: true })),
    ("only the daemon", |n| n.send(&Frame::Leave { channel: 0, lane: 1 })),
    ("only the daemon", |n| n.send(&Frame::Gone { channel: 0, lane: 1 })),
    ("only the daemon", |n| n.send(&Frame::Claimed)),
    ("only the daemon", |n| n.send(&Frame::Dropped { channel: 0, total: 1 })),
    ("report on channel 3, which is no output", |n| n.send(&Frame::Report { channel: 3 })),
    ("report on channel 0, which is no output", |n| {
        number(n, Direction::Input, 0, "n");
        n.send(&Frame::Report { channel: 0 });
    }),
    ("channel 3, which is no input", |n| {
        n.send(&Frame::Grant { channel: 3, total: 1 });
    }),
    ("channel 0, which is no input", |n| {
        number(n, Direction::Output, 0, "n");
        n.send(&Frame::Grant { channel: 0, total: 1 });
    }),
];

#[test]
fn a_malformed_frame_closes_its_connection_and_nothing_else() {
    let daemon = Daemon::start();
    let (a, b, c) = (daemon.put("a"), daemon.put("b"), daemon.put("c"));
    let link = daemon.link("b", "steady", "c");
    let mut steady = daemon.sender(&b, "steady");
    let mut steady_receiver = daemon.receiver(&c, "steady");
    for (at, (expected, wrong)) in (1..).zip(AFTER_HELLO) {
        let mut native = daemon.native(&a);
        wrong(&mut native);
        let error = native.refusal();
        assert_eq!(error.code, ErrorCode::Malformed, "{at}: {error}");
        assert!(error.message.contains(expected), "{expected}: {error}");
        eventually("the error is counted", || {
            (daemon.detail("a").protocol_errors == at).then_some(())
        });
        steady.number(at as u32);
        assert_eq!(steady_receiver.next_number(), Some(at as u32));
        // The next connection of the same instance works.
        let mut next = daemon.native(&a);
        assert_eq!(next.next(|frame| matches!(frame, Frame::Welcome { .. })), Some(true));
    }
    assert!(daemon.counters(link).sent >= AFTER_HELLO.len() as u64);
    let mut events = 0;
    daemon.event("all of them are events", |event| {
        if let EventKind::Disconnected { dialect, error: Some(error) } = &event.kind {
            assert_eq!((dialect.as_str(), event.name.as_deref()), ("native", Some("a")));
            assert!(error.contains(AFTER_HELLO[events].0), "{error}");
            events += 1;
        }
        (events == AFTER_HELLO.len()).then_some(())
    });
}

#[test]
fn what_does_not_begin_with_a_hello_of_this_protocol_is_refused() {
    let daemon = Daemon::start();
    let a = daemon.put("a");
    let connect = || {
        let stream = std::os::unix::net::UnixStream::connect(daemon.native_socket(&a)).unwrap();
        let mut native = daemon.native(&a);
        native.stream = stream;
        native.stream.set_read_timeout(Some(SOON)).unwrap();
        native
    };
    let hello = |magic, protocol| Frame::Hello { magic, protocol, sdk: "x" };
    let mut strangers = [
        (hello(*b"HTTP", PROTOCOL), ErrorCode::Malformed, "native"),
        (hello(MAGIC, 99), ErrorCode::VersionMismatch, "upgrade the daemon"),
        (hello(MAGIC, 0), ErrorCode::VersionMismatch, "library"),
        (Frame::Message { channel: 0, payload: &[] }, ErrorCode::Malformed, "first frame"),
    ];
    for (frame, code, expected) in &mut strangers {
        let mut native = connect();
        native.send(frame);
        let error = native.refusal();
        assert_eq!(error.code, *code, "{error}");
        assert!(error.message.contains(*expected), "{error}");
    }
    let mut older = connect();
    older.send(&hello(MAGIC, OLDEST_PROTOCOL));
    let welcomed = older.next(|frame| match frame {
        Frame::Welcome { protocol, .. } => Some(protocol),
        _ => None,
    });
    assert_eq!(welcomed, Some(Some(OLDEST_PROTOCOL)), "it is answered in its version");
    let mut garbage = connect();
    raw(&mut garbage, &[0xff; 64]);
    assert_eq!(garbage.refusal().code, ErrorCode::Malformed);
    // One that says nothing harms nobody; one that leaves in the middle of a frame neither.
    let _silent = connect();
    let mut cut = connect();
    raw(&mut cut, &[50, 0, 0, 0, 0]);
    drop(cut);
    let mut good = daemon.native(&a);
    assert_eq!(good.next(|frame| matches!(frame, Frame::Welcome { .. })), Some(true));
}

fn point(height: TypeSchema) -> TypeSchema {
    let field = |name: &str, schema| Field { name: name.to_owned(), schema };
    TypeSchema::Struct(vec![field("height", height), field("last", TypeSchema::Bool)])
}

#[test]
fn a_mismatch_that_is_known_is_refused_with_both_schemas() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let (mut sender, mut receiver) = (daemon.native(&a), daemon.native(&b));
    sender.declare(0, Direction::Output, "p", &point(TypeSchema::F32), 0);
    receiver.declare(0, Direction::Input, "p", &point(TypeSchema::U64), 0);
    daemon.declared("a", "p");
    daemon.declared("b", "p");
    for from in [&["--from", "a"][..], &[]] {
        let mut add = vec!["link", "add", "--type", "p", "--to", "b"];
        add.extend(from);
        let said = daemon.cli(add);
        assert_eq!(said.code, Some(1), "{said:?}");
        let differs = "height: f32 for the sender, u64 for the receiver\n";
        for part in ["different schemas", differs, "height: f32", "height: u64", "last: bool"] {
            assert!(said.stderr.contains(part), "{part}: {}", said.stderr);
        }
    }
    let error = daemon.try_link("a", "p", "b", Policy::Block, 1).unwrap_err();
    assert_eq!(error.code, ErrorCode::SchemaMismatch);
    assert!(daemon.links().is_empty());
    // The same type in the other direction is another matter.
    daemon.link("a", "p", "a");
}

#[test]
fn a_mismatch_that_is_discovered_later_is_told_and_ends_when_the_types_agree() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link("a", "p", "b");
    let mut sender = daemon.native(&a);
    sender.declare(0, Direction::Output, "p", &point(TypeSchema::F32), 0);
    daemon.declared("a", "p");
    let mut receiver = daemon.native(&b);
    receiver.declare(0, Direction::Input, "p", &point(TypeSchema::U64), 0);
    let told = daemon.event("mismatched", |event| match &event.kind {
        EventKind::LinkMismatched { link, error } => Some((*link, error.clone())),
        _ => None,
    });
    assert_eq!(told.0, link);
    assert!(told.1.contains("height: f32") && told.1.contains("height: u64"));
    let LinkState::Mismatched { error } = daemon.link_info(link).state else {
        panic!("the link is mismatched");
    };
    assert_eq!(error.code, ErrorCode::SchemaMismatch);
    let list = daemon.ok(["link", "list"]);
    let differs = "height: f32 for the sender, u64 for the receiver";
    for part in ["mismatched", differs, "height: f32", "height: u64"] {
        assert!(list.contains(part), "{part}: {list}");
    }
    for _ in 0..5 {
        sender.message(0, &[0, 0, 128, 63, 1]);
    }
    let counters = daemon.settled(link, 5);
    assert_eq!((counters.delivered, counters.drops.untranslatable), (0, 5));
    // Rebuilt and connected anew, the receiver agrees.
    drop(receiver);
    let mut receiver = daemon.native(&b);
    receiver.declare(0, Direction::Input, "p", &point(TypeSchema::F32), 0);
    eventually("the link is open again", || {
        (daemon.link_info(link).state == LinkState::Open).then_some(())
    });
    sender.message(0, &[0, 0, 128, 63, 0]);
    assert_eq!(receiver.next_message(), Some((0, vec![0, 0, 128, 63, 0])));
    let counters = daemon.settled(link, 6);
    assert_eq!((counters.delivered, counters.dropped), (1, 5));
}

#[test]
fn large_messages_arrive_up_to_the_bound() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link_with("a", "blob", "b", Policy::Block, 4);
    let (mut sender, mut receiver) = (daemon.native(&a), daemon.native(&b));
    sender.declare(0, Direction::Output, "blob", &TypeSchema::Bytes, 0);
    receiver.declare(0, Direction::Input, "blob", &TypeSchema::Bytes, 0);
    let sizes = [0, 1, 20_000, 1 << 20, MAX_PAYLOAD - 1, MAX_PAYLOAD];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for (n, size) in (0..).zip(sizes) {
                sender.message(0, &vec![n; size]);
            }
        });
        for (n, size) in (0..).zip(sizes) {
            let (_, payload) = receiver.next_message().unwrap();
            assert_eq!(payload.len(), size);
            assert!(payload.iter().all(|byte| *byte == n));
        }
    });
    assert_eq!(daemon.settled(link, 6).dropped, 0);
    // A little more fits a frame, but would not fit under every channel number.
    let mut other = daemon.native(&a);
    other.declare(0, Direction::Output, "blob", &TypeSchema::Bytes, 0);
    other.message(0, &vec![0; MAX_PAYLOAD + 1]);
    assert_eq!(other.refusal().code, ErrorCode::Malformed);
    // More than a frame ends the connection, before anything is kept of it.
    raw(&mut sender, &(MAX_RUNTIME as u32 + 1).to_le_bytes());
    assert_eq!(sender.refusal().code, ErrorCode::Malformed);
    let mut next = daemon.native(&a);
    next.declare(3, Direction::Output, "blob", &TypeSchema::Bytes, 0);
    next.message(3, b"good");
    assert_eq!(receiver.next_message(), Some((0, b"good".to_vec())));
}

#[test]
fn a_peer_of_version_1_gets_no_message_that_it_would_not_take() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link_with("a", "blob", "b", Policy::DropOldest, 8);
    let mut older = daemon.native(&b);
    older.stream = std::os::unix::net::UnixStream::connect(daemon.native_socket(&b)).unwrap();
    older.stream.set_read_timeout(Some(SOON)).unwrap();
    older.send(&Frame::Hello { magic: MAGIC, protocol: OLDEST_PROTOCOL, sdk: "x" });
    older.declare(0, Direction::Input, "blob", &TypeSchema::Bytes, 0);
    daemon.declared("b", "blob");
    let mut sender = daemon.native(&a);
    sender.declare(0, Direction::Output, "blob", &TypeSchema::Bytes, 0);
    let sizes =
        [(MAX_PAYLOAD_1 + 1, false), (MAX_PAYLOAD_1, true), (MAX_PAYLOAD, false), (3, true)];
    for (n, (size, arrives)) in (1..).zip(sizes) {
        sender.message(0, &vec![7; size]);
        if arrives {
            assert!(older.next_message() == Some((0, vec![7; size])), "{size} bytes");
        }
        daemon.settled(link, n);
    }
    let counters = daemon.settled(link, 4);
    assert_eq!((counters.delivered, counters.drops.too_long), (2, 2));
}

#[test]
fn frames_that_arrive_byte_by_byte_are_whole_in_the_end() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    daemon.link("a", "n", "b");
    let mut receiver = daemon.receiver(&b, "n");
    let mut sender = daemon.sender(&a, "n");
    let mut bytes = Vec::new();
    for n in 0..50_u8 {
        let frame = Frame::Message { channel: 0, payload: &[n] };
        orchestrator_proto::frame::append(&mut bytes, &frame, 100).unwrap();
    }
    for byte in bytes {
        raw(&mut sender, &[byte]);
    }
    assert_eq!(receiver.take_numbers(50), Vec::from_iter(0..50));
}

fn ask(native: &mut Native, id: u32, request: RuntimeRequest) -> Result<RuntimeReply, WireError> {
    native.send(&Frame::Request { id, request });
    loop {
        let reply = native.next(|frame| match frame {
            Frame::Reply { id, result } => Some((id, result)),
            _ => None,
        });
        if let Some((answered, result)) = reply.expect("an answer") {
            assert_eq!(answered, id);
            return result;
        }
    }
}

#[test]
fn a_privileged_instance_starts_stops_and_lists_others() {
    let daemon = Daemon::start();
    let boss = daemon.put_with("boss", |spec| spec.privileged = true);
    let id = daemon.add_script("sleeper", "exec sleep 1000");
    let mut native = daemon.native(&boss);
    let start = RuntimeRequest::Start { instance: "sleeper".into(), priority: None };
    let started = ask(&mut native, 7, start).unwrap();
    assert!(matches!(started, RuntimeReply::Started { id: it } if it.to_string() == id));
    let RuntimeReply::List(list) = ask(&mut native, 8, RuntimeRequest::List).unwrap() else {
        panic!("a list");
    };
    let names: Vec<_> = list.iter().filter_map(|info| info.name.clone()).collect();
    assert_eq!(names, ["boss", "sleeper"]);
    assert!(matches!(list[1].observed, Observed::Ready { .. }));
    let stop = |instance: &str| RuntimeRequest::Stop { instance: instance.to_owned() };
    let stopped = ask(&mut native, 9, stop(&id)).unwrap();
    assert!(matches!(stopped, RuntimeReply::Stopped { id: it } if it.to_string() == id));
    assert!(matches!(daemon.info("sleeper").observed, Observed::Stopped { .. }));
    let nobody = ask(&mut native, 10, stop("nobody")).unwrap_err();
    assert_eq!(nobody.code, ErrorCode::NotFound);
}

#[test]
fn an_instance_without_privileges_controls_nothing() {
    let daemon = Daemon::start();
    let a = daemon.put("a");
    let mut native = daemon.native(&a);
    let requests = [
        RuntimeRequest::Start { instance: "a".into(), priority: None },
        RuntimeRequest::Stop { instance: "a".into() },
        RuntimeRequest::List,
    ];
    for (id, request) in (1..).zip(requests) {
        let error = ask(&mut native, id, request).unwrap_err();
        assert_eq!(error.code, ErrorCode::NotPermitted);
        assert!(error.message.contains("--privileged"), "{error}");
    }
    assert_eq!(daemon.info("a").starts, 0);
}

#[test]
fn the_useless_machine_turns_itself_off_if_it_may() {
    let daemon = Daemon::start();
    let machine = binary("useless-machine");
    let machine = machine.to_str().unwrap();
    daemon.add([machine, "--name", "may", "--privileged"]);
    daemon.add([machine, "--name", "may-not"]);
    daemon.ok(["runtime", "start", "may", "may-not"]);
    daemon.event("it stopped itself", |event| {
        let mine = event.name.as_deref() == Some("may");
        (mine && event.kind == EventKind::Stopped).then_some(())
    });
    assert_eq!(daemon.exited("may-not"), orchestrator_proto::control::Exit::Code(3));
    // A program that ends by itself may be ahead of what it printed.
    eventually("it says why", || daemon.printed("may-not").contains("--privileged").then_some(()));
}

#[test]
fn requests_beyond_their_bound_are_refused_one_by_one() {
    let daemon = Daemon::start();
    let boss = daemon.put_with("boss", |spec| spec.privileged = true);
    daemon.add([
        "/bin/sh",
        "--name",
        "slow",
        "--stop-timeout",
        "1h",
        "--",
        "-c",
        "trap '' TERM; echo ready; exec sleep 1000",
    ]);
    daemon.ok(["runtime", "start", "slow"]);
    daemon.prints("slow", "ready");
    let pid = daemon.info("slow").observed.pid().unwrap();
    let mut native = daemon.native(&boss);
    for id in 0..20 {
        let instance = "slow".to_owned();
        let request = RuntimeRequest::Stop { instance };
        native.send(&Frame::Request { id, request });
    }
    let mut answers = Vec::new();
    while answers.len() < 20 {
        let reply = native.next(|frame| match frame {
            Frame::Reply { result, .. } => Some(result.map_err(|error| error.code)),
            _ => None,
        });
        answers.extend(reply.expect("an answer"));
        // Those that are too many are answered at once, the others when it has ended.
        if answers.len() == 4 {
            processes::signal(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
    let refused = answers.iter().filter(|a| **a == Err(ErrorCode::LimitReached));
    assert_eq!(refused.count(), 4, "{answers:?}");
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 16);
}

#[derive(Serialize, Deserialize, Schema, Message, PartialEq, Debug)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
#[message(name = "n")]
struct Number(u32);

#[test]
fn an_sdk_peer_is_told_when_the_daemon_goes_and_does_not_panic() {
    let mut daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    daemon.link("a", "n", "b");
    let (a, b) = (daemon.native_socket(&a), daemon.native_socket(&b));
    block_on(async {
        let (sending, receiving) =
            (Runtime::connect_to(a).await.unwrap(), Runtime::connect_to(b).await.unwrap());
        let output = sending.output::<Number>().unwrap();
        let mut input = receiving.input::<Number>().unwrap();
        output.send(&Number(1)).await.unwrap();
        assert_eq!(input.recv().await, Ok(Number(1)));
        daemon.terminate();
        let told = tokio::time::timeout(SOON, async {
            loop {
                match output.send(&Number(2)).await {
                    Ok(()) => tokio::task::yield_now().await,
                    Err(error) => return error,
                }
            }
        });
        assert!(matches!(told.await, Ok(SendError::Disconnected)));
        let waiting = tokio::time::timeout(Duration::from_millis(100), input.recv());
        assert!(waiting.await.is_err(), "receiving waits");
        assert!(!sending.is_connected() && !receiving.is_connected());
        assert!(sending.last_error().is_some());
        let refused = sending.stop("a").await;
        assert!(refused.is_err());
    });
}

#[test]
fn an_sdk_sender_waits_under_block_while_its_receiver_does_not_read() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link_with("a", "n", "b", Policy::Block, 4);
    let mut receiver = daemon.receiver_with_window(&b, "n", 1);
    let path = daemon.native_socket(&a);
    let sent = block_on(async {
        let runtime = Runtime::connect_to(path).await.unwrap();
        let output = runtime.output::<Number>().unwrap();
        // It does not know of its limit before the daemon has answered the declaration.
        let held_back = async {
            for n in 0.. {
                let number = Number(n);
                let sent = output.send(&number);
                match tokio::time::timeout(Duration::from_millis(300), sent).await {
                    Ok(sent) => sent.unwrap(),
                    Err(_) => return n,
                }
            }
            unreachable!("it is held back");
        };
        let sent = tokio::time::timeout(SOON, held_back).await.unwrap();
        receiver.send(&Frame::Grant { channel: 0, total: u64::MAX });
        tokio::time::timeout(SOON, output.send(&Number(sent))).await.unwrap().unwrap();
        runtime.flush().await.unwrap();
        sent + 1
    });
    let count = usize::try_from(sent).unwrap();
    assert_eq!(receiver.take_numbers(count), Vec::from_iter(0..sent));
    assert_eq!(daemon.settled(link, sent.into()).dropped, 0);
}
