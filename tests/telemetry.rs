//! Telemetry of Veecle OS runtimes on its way to a server.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};

use orchestrator_proto::control::TelemetryStatus;
use serde_json::json;
use tests::veecle::Veecle;
use tests::{Daemon, SOON, eventually};

/// Lines that may wait for the server.
const MAX_LINES: u64 = 16_384;

/// An address that no other test has, for as long as this process lives, though nobody listens
/// on it: a port that the kernel chooses would be given to another one meanwhile. It is none that
/// the kernel chooses for those who connect.
fn away() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let port = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("127.{}.{b}.{c}:{port}", a | 0x80)
}

fn server() -> (TcpListener, String) {
    let address = away();
    (TcpListener::bind(&address).unwrap(), address)
}

fn accept(listener: &TcpListener) -> BufReader<TcpStream> {
    listener.set_nonblocking(true).unwrap();
    let (stream, _) = eventually("the daemon connects", || listener.accept().ok());
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    BufReader::new(stream)
}

fn line(reader: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).expect("a line");
    line.trim_end_matches('\n').to_owned()
}

fn object(n: u64) -> String {
    format!(
        r#"{{"thread_id":"91ba8cda4d84d5d4c806c301def64e72:1","message":{{"Tracing":{{"EnterSpan":{{"span_id":"{n:016}","time_unix_nano":1795194387734000000}}}}}}}}"#
    )
}

fn send(veecle: &mut Veecle, numbers: std::ops::Range<u64>) {
    let mut lines = Vec::new();
    for n in numbers {
        writeln!(lines, r#"{{"Telemetry":{}}}"#, object(n)).unwrap();
    }
    veecle.stream.write_all(&lines).unwrap();
}

fn telemetry(daemon: &Daemon) -> TelemetryStatus {
    daemon.status().telemetry.expect("a server is set")
}

#[test]
fn each_object_is_a_line_as_it_is_and_in_order() {
    let (listener, address) = server();
    let daemon = Daemon::start_with(&["--telemetry", &address]);
    let a = daemon.put("a");
    let mut veecle = daemon.veecle(&a);
    let mut server = accept(&listener);
    send(&mut veecle, 0..1000);
    // Nothing about it is changed: no spaces, no order of keys, no digit.
    let odd = r#"{"new":[1.10, 18446744073709551616],"message" :{"Log":{"severity":"Warn","body":"b\u00e4"}}}"#;
    veecle.line(&format!(r#"{{"Telemetry":{odd}}}"#));
    for n in 0..1000 {
        assert_eq!(line(&mut server), object(n));
    }
    assert_eq!(line(&mut server), odd);
    eventually("all are counted", || {
        let expected =
            TelemetryStatus { address: address.clone(), connected: true, sent: 1001, dropped: 0 };
        (telemetry(&daemon) == expected).then_some(())
    });
    let status = daemon.ok(["status"]);
    assert!(status.contains("(connected): 1001 sent, 0 dropped"), "{status}");
}

#[test]
fn runtimes_share_the_server_and_no_line_is_torn() {
    let (listener, address) = server();
    let daemon = Daemon::start_with(&["--telemetry", &address]);
    let mut server = accept(&listener);
    let senders: Vec<_> = (0..4).map(|n| daemon.veecle(&daemon.put(&format!("s{n}")))).collect();
    std::thread::scope(|scope| {
        for (n, mut sender) in (0..).zip(senders) {
            scope.spawn(move || send(&mut sender, n * 1000..n * 1000 + 500));
        }
        let mut next = [0, 1000, 2000, 3000];
        for _ in 0..2000 {
            let line = line(&mut server);
            let of = next.iter_mut().find(|n| line == object(**n));
            *of.expect("the next of one of them") += 1;
        }
    });
}

#[test]
fn the_daemon_connects_again_and_sends_what_waited() {
    let (listener, address) = server();
    let daemon = Daemon::start_with(&["--telemetry", &address]);
    let a = daemon.put("a");
    let mut veecle = daemon.veecle(&a);
    let mut server = accept(&listener);
    send(&mut veecle, 0..10);
    for n in 0..10 {
        assert_eq!(line(&mut server), object(n));
    }
    drop((server, listener));
    eventually("the daemon knows", || (!telemetry(&daemon).connected).then_some(()));
    send(&mut veecle, 10..20);
    let listener = TcpListener::bind(&address).unwrap();
    let mut server = accept(&listener);
    for n in 10..20 {
        assert_eq!(line(&mut server), object(n));
    }
    eventually("all are counted", || {
        let status = telemetry(&daemon);
        (status.connected && status.sent == 20 && status.dropped == 0).then_some(())
    });
}

fn memory_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn while_the_server_is_away_memory_is_bounded_and_drops_are_counted() {
    let address = away();
    let daemon = Daemon::start_with(&["--telemetry", &address]);
    let a = daemon.put("a");
    let mut veecle = daemon.veecle(&a);
    let total = 200_000;
    send(&mut veecle, 0..1000);
    let before = memory_kib(daemon.pid());
    for start in (1000..total).step_by(1000) {
        send(&mut veecle, start..start + 1000);
    }
    // Whatever is not waiting was dropped, and is counted.
    eventually("the drops are counted", || {
        let status = telemetry(&daemon);
        (status.dropped >= total - MAX_LINES).then_some(())
    });
    let grown = memory_kib(daemon.pid()).saturating_sub(before);
    assert!(grown < 32 << 10, "{grown} KiB more than before");
    let listener = TcpListener::bind(&address).unwrap();
    let mut server = accept(&listener);
    // The oldest were kept, in order.
    for n in 0..5000 {
        assert_eq!(line(&mut server), object(n));
    }
    std::thread::spawn(move || std::io::copy(&mut server, &mut std::io::sink()));
    eventually("each line was sent or dropped", || {
        let status = telemetry(&daemon);
        (status.sent + status.dropped == total).then_some(())
    });
}

#[test]
fn a_server_that_does_not_read_delays_no_storable() {
    let (listener, address) = server();
    let daemon = Daemon::start_with(&["--telemetry", &address]);
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link("a", "n", "b");
    let (mut sender, mut receiver) = (daemon.veecle(&a), daemon.veecle(&b));
    let _never_reads = accept(&listener);
    for round in 0..200 {
        send(&mut sender, round * 1000..round * 1000 + 1000);
        sender.storable("n", &json!(round));
        assert_eq!(receiver.next_storable(), Some(("n".to_owned(), json!(round))));
    }
    let status = telemetry(&daemon);
    assert!(status.connected && status.dropped > 0, "{status:?}");
    assert_eq!(daemon.settled(link, 200).delivered, 200);
    daemon.ok(["runtime", "list"]);
}

#[test]
fn a_server_that_cannot_be_found_is_no_reason_not_to_work() {
    let daemon = Daemon::start_with(&["--telemetry", "nowhere.invalid:4000"]);
    let a = daemon.put("a");
    let mut veecle = daemon.veecle(&a);
    daemon.link("a", "n", "a");
    send(&mut veecle, 0..10);
    veecle.storable("n", &json!(1));
    assert_eq!(veecle.next_storable(), Some(("n".to_owned(), json!(1))));
    let status = telemetry(&daemon);
    assert!(!status.connected && status.sent == 0, "{status:?}");
}

#[test]
fn a_server_that_talks_back_is_ignored() {
    let (listener, address) = server();
    let daemon = Daemon::start_with(&["--telemetry", &address]);
    let a = daemon.put("a");
    let mut veecle = daemon.veecle(&a);
    let mut server = accept(&listener);
    for n in 0..50 {
        server.get_mut().write_all(&[b'x'; 10_000]).unwrap();
        send(&mut veecle, n..n + 1);
        assert_eq!(line(&mut server), object(n));
    }
}
