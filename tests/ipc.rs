//! Other orchestrators: datagrams in and out.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::net::UdpSocket;
use std::time::Duration;

use orchestrator_proto::TypeSchema;
use orchestrator_proto::control::{IpcStatus, Policy, TargetInfo};
use orchestrator_proto::runtime::Direction;
use orchestrator_proto::schema::Field;
use serde_json::{Value, json};
use tests::{Daemon, SOON, binary, eventually};

const PING: &str = "examples.ping.v1";
const PONG: &str = "examples.pong.v1";

fn listening(more: &[&str]) -> Daemon {
    let mut args = vec!["--ipc-socket", "127.0.0.1:0"];
    args.extend(more);
    Daemon::start_with(&args)
}

/// Where it listens, as the command line says it.
fn address(daemon: &Daemon) -> String {
    let status = daemon.json(["status"]);
    let address = status["status"]["ipc"]["address"].as_str();
    address.expect("it listens").to_owned()
}

fn ipc(daemon: &Daemon) -> IpcStatus {
    daemon.status().ipc.expect("it listens")
}

/// Waits for these counts: received, unrouted, malformed, refused.
#[track_caller]
fn counts(daemon: &Daemon, expected: [u64; 4]) {
    let mut last = [0; 4];
    let deadline = std::time::Instant::now() + SOON;
    while last != expected {
        let ipc = ipc(daemon);
        last = [ipc.received, ipc.unrouted, ipc.malformed, ipc.refused];
        assert!(std::time::Instant::now() < deadline, "{last:?}, not {expected:?}");
        std::thread::yield_now();
    }
}

fn storable(type_name: &str, value: &Value) -> String {
    json!({"type_name": type_name, "value": value.to_string()}).to_string()
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> String {
    let mut buffer = [0; 65536];
    let (length, _) = socket.recv_from(&mut buffer).expect("a datagram");
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

fn ping() -> TypeSchema {
    let value = Field { name: "value".to_owned(), schema: TypeSchema::U32 };
    TypeSchema::Struct(vec![value])
}

#[test]
fn datagrams_reach_native_and_veecle_instances() {
    let daemon = listening(&[]);
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let (to_native, to_veecle) = (daemon.link("any", "n", "a"), daemon.link("any", "n", "b"));
    let mut native = daemon.native(&a);
    native.declare(3, Direction::Input, "n", &ping(), 0);
    let mut veecle = daemon.veecle(&b);
    let socket = socket();
    let address = address(&daemon);
    for n in 0..10 {
        let value = json!({ "value": n });
        let datagram = storable("n", &value);
        socket.send_to(datagram.as_bytes(), &address).unwrap();
        assert_eq!(native.next_message(), Some((3, vec![n])));
        assert_eq!(veecle.next_storable(), Some(("n".to_owned(), value)));
    }
    for link in [to_native, to_veecle] {
        assert_eq!(daemon.settled(link, 10).delivered, 10);
    }
    socket.send_to(storable("other", &json!(1)).as_bytes(), &address).unwrap();
    counts(&daemon, [11, 1, 0, 0]);
}

#[test]
fn what_is_no_storable_or_too_long_is_counted_and_ignored() {
    let daemon = listening(&[]);
    let a = daemon.put("a");
    let link = daemon.link("any", "n", "a");
    let mut receiver = daemon.native(&a);
    receiver.declare(0, Direction::Input, "n", &TypeSchema::String, 0);
    let (socket, address) = (socket(), address(&daemon));
    let room = 2048 - storable("n", &json!("")).len();
    let (longest, too_long) =
        (storable("n", &json!("x".repeat(room))), storable("n", &json!("x".repeat(room + 1))));
    assert_eq!((longest.len(), too_long.len()), (2048, 2049));
    let bad: [&[u8]; 9] = [
        b"",
        b"hello",
        b"{}",
        b"[]",
        b"{\"type_name\":\"n\"}",
        b"{\"type_name\":\"n\",\"value\":1}",
        b"{\"type_name\":\"\",\"value\":\"1\"}",
        b"\xff\xfe",
        too_long.as_bytes(),
    ];
    for (count, datagram) in (1..).zip(bad) {
        socket.send_to(datagram, &address).unwrap();
        counts(&daemon, [0, 0, count, 0]);
    }
    socket.send_to(&[b' '; 60_000], &address).unwrap();
    counts(&daemon, [0, 0, 10, 0]);
    socket.send_to(longest.as_bytes(), &address).unwrap();
    let payload = postcard::to_stdvec(&"x".repeat(room)).unwrap();
    assert_eq!(receiver.next_message(), Some((0, payload)));
    counts(&daemon, [1, 0, 10, 0]);
    assert_eq!(daemon.settled(link, 1).delivered, 1);
}

#[test]
fn only_allowed_addresses_are_listened_to() {
    let daemon = listening(&["--ipc-allow", "127.0.0.1", "--ipc-allow", "10.0.0.0/8"]);
    let a = daemon.put("a");
    daemon.link("any", "n", "a");
    let mut receiver = daemon.veecle(&a);
    let (allowed, address) = (socket(), address(&daemon));
    let stranger = UdpSocket::bind("127.0.0.2:0").unwrap();
    for n in 1..=5 {
        stranger.send_to(storable("n", &json!("no")).as_bytes(), &address).unwrap();
        counts(&daemon, [n - 1, 0, 0, n]);
        allowed.send_to(storable("n", &json!(n)).as_bytes(), &address).unwrap();
        assert_eq!(receiver.next_storable(), Some(("n".to_owned(), json!(n))));
        counts(&daemon, [n, 0, 0, n]);
    }
}

#[test]
fn all_of_loopback_is_allowed_unless_said_otherwise() {
    let daemon = listening(&[]);
    let address = address(&daemon);
    let other = UdpSocket::bind("127.0.0.2:0").unwrap();
    other.send_to(storable("n", &json!(1)).as_bytes(), &address).unwrap();
    counts(&daemon, [1, 1, 0, 0]);
}

#[test]
fn an_address_that_cannot_be_had_is_refused_at_the_start() {
    let taken = socket();
    let daemon = Daemon::start();
    let mut command = std::process::Command::new(binary("orchestrator"));
    command.arg("--socket").arg(daemon.dir().join("p.sock"));
    command.arg("--state-dir").arg(daemon.dir().join("other"));
    command.arg("--ipc-socket").arg(taken.local_addr().unwrap().to_string());
    let said = tests::Said::of(command);
    assert!(said.code.is_some_and(|code| code != 0), "{said:?}");
    assert!(said.stderr.contains("cannot listen for datagrams"), "{said:?}");
}

#[test]
fn links_to_an_address_send_the_existing_format() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let other = socket();
    let target = format!("udp:{}", other.local_addr().unwrap());
    let added = daemon.ok(["link", "add", "--type", "n", "--to", &target]);
    assert_eq!(added, "added link 1\n");
    let link = daemon.links()[0].clone();
    assert!(matches!(&link.to, TargetInfo::Udp { address } if target.ends_with(address)));
    let mut veecle = daemon.veecle(&a);
    veecle.line(r#"{"Storable":{"type_name":"n","value":"{\"value\":18446744073709551615}"}}"#);
    let exact = r#"{"type_name":"n","value":"{\"value\":18446744073709551615}"}"#;
    assert_eq!(receive(&other), exact);
    let mut native = daemon.native(&b);
    native.declare(0, Direction::Output, "n", &ping(), 0);
    native.message(0, &[77]);
    assert_eq!(receive(&other), r#"{"type_name":"n","value":"{\"value\":77}"}"#);
    // The longest datagram goes, a longer one does not.
    let room = 2048 - storable("n", &json!("")).len();
    veecle.storable("n", &json!("x".repeat(room + 1)));
    veecle.storable("n", &json!("x".repeat(room)));
    assert_eq!(receive(&other).len(), 2048);
    native.message(0, b"");
    let counters = daemon.settled(link.id, 5);
    assert_eq!(counters.delivered, 3);
    assert_eq!((counters.drops.too_long, counters.drops.untranslatable), (1, 1));
    // Two links to one address are two links.
    daemon.link("a", "m", &target);
    daemon.ok(["link", "remove", "1"]);
    veecle.storable("n", &json!("not any more"));
    veecle.storable("m", &json!(1));
    assert_eq!(receive(&other), storable("m", &json!(1)));
}

#[test]
fn an_address_that_takes_nothing_harms_no_other_link() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let nowhere = daemon.link("a", "n", "udp:nowhere.invalid:9000");
    // Nobody listens on it: the kernel says so to the sender now and then.
    // No other test listens on this address either, whatever port it is given.
    let refused = daemon.link("a", "n", "udp:127.0.0.77:9");
    let good = daemon.link_with("a", "n", "b", Policy::Block, 64);
    let mut receiver = daemon.receiver(&b, "n");
    let mut sender = daemon.sender(&a, "n");
    std::thread::scope(|scope| {
        scope.spawn(|| sender.numbers(0..2000));
        assert_eq!(receiver.take_numbers(2000), Vec::from_iter(0..2000));
    });
    assert_eq!(daemon.settled(good, 2000).dropped, 0);
    let counters = daemon.settled(nowhere, 2000);
    assert_eq!(counters.delivered, 0);
    assert!(counters.drops.failed > 0, "{counters:?}");
    daemon.settled(refused, 2000);
    daemon.ok(["link", "remove", "1", "2"]);
}

#[test]
fn two_daemons_that_send_a_type_to_each_other_do_not_loop() {
    let daemons = [listening(&[]), listening(&[])];
    let addresses = [address(&daemons[0]), address(&daemons[1])];
    let mut receivers = Vec::new();
    for (n, daemon) in daemons.iter().enumerate() {
        let id = daemon.put("receiver");
        daemon.link("any", "n", &format!("udp:{}", addresses[1 - n]));
        daemon.link("any", "n", "receiver");
        receivers.push(daemon.veecle(&id));
    }
    let id = daemons[0].put("sender");
    let mut sender = daemons[0].veecle(&id);
    for n in 0..20 {
        sender.storable("n", &json!(n));
        for receiver in &mut receivers {
            assert_eq!(receiver.next_storable(), Some(("n".to_owned(), json!(n))));
        }
    }
    counts(&daemons[1], [20, 0, 0, 0]);
    let (first, second) = (daemons[0].links(), daemons[1].links());
    assert_eq!((first[0].counters.sent, first[1].counters.sent), (20, 20));
    assert_eq!((second[0].counters.sent, second[1].counters.sent), (0, 20));
    counts(&daemons[0], [0, 0, 0, 0]);
    let silent = receivers[0].stream.set_read_timeout(Some(Duration::from_millis(50)));
    silent.unwrap();
    let read = std::io::Read::read(&mut receivers[0].stream, &mut [0]);
    assert!(read.is_err(), "nothing comes back");
}

#[test]
fn ping_on_one_daemon_and_pong_on_another_exchange_messages() {
    let (first, second) = (listening(&[]), listening(&[]));
    let (ping, pong) = (binary("ping"), binary("pong"));
    first.add([ping.to_str().unwrap(), "--name", "ping", "--", "--interval-ms", "5"]);
    second.add([pong.to_str().unwrap(), "--name", "pong"]);
    first.link("ping", PING, &format!("udp:{}", address(&second)));
    first.link("any", PONG, "ping");
    second.link("pong", PONG, &format!("udp:{}", address(&first)));
    second.link("any", PING, "pong");
    second.ok(["runtime", "start", "pong"]);
    second.declared("pong", PING);
    first.ok(["runtime", "start", "ping"]);
    first.prints("ping", "received pong 50");
    second.prints("pong", "received ping 50");
    eventually("both count the same", || {
        let (first, second) = (first.status().ipc?, second.status().ipc?);
        (first.received >= 50 && second.received >= 50).then_some(())
    });
}
