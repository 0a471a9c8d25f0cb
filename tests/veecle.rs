//! The dialect of existing Veecle OS runtimes: what such a binary relies on.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::io::Write;

use orchestrator_proto::TypeSchema;
use orchestrator_proto::control::{Desired, EventKind, LinkState, Observed, Policy, Priority};
use orchestrator_proto::runtime::Direction;
use orchestrator_proto::schema::Field;
use serde_json::{Value, json};
use tests::veecle::Veecle;
use tests::{Daemon, eventually};

const PING: &str = "examples_common::actors::ping_pong::Ping";

fn ping() -> TypeSchema {
    let value = Field { name: "value".to_owned(), schema: TypeSchema::U32 };
    TypeSchema::Struct(vec![value])
}

/// A receiver that the daemon knows of.
fn receiver(daemon: &Daemon, name: &str, id: &str) -> Veecle {
    let connections = daemon.info(name).connections;
    let veecle = daemon.veecle(id);
    daemon.connections(name, connections + 1);
    veecle
}

#[test]
fn storables_pass_between_runtimes_as_they_are() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link("a", PING, "b");
    let (mut sender, mut receiver) = (daemon.veecle(&a), daemon.veecle(&b));
    let exact = r#"{"Storable":{"type_name":"examples_common::actors::ping_pong::Ping","value":"{\"value\":50}"}}"#;
    sender.line(exact);
    assert_eq!(receiver.next(), Some(serde_json::from_str(exact).unwrap()));
    // What the value holds is not touched: no number loses a digit, no text its escapes.
    for value in [r#""{\"v\":18446744073709551615, \"w\" : 1.10}""#, r#""\"\\u00e4\\n\"""#] {
        let line = format!(r#"{{"Storable":{{"type_name":"{PING}","value":{value}}}}}"#);
        sender.line(&line);
        assert_eq!(receiver.next(), Some(serde_json::from_str(&line).unwrap()));
    }
    assert_eq!(daemon.settled(link, 3).delivered, 3);
    assert_eq!(daemon.detail("a").sent, 3);
}

#[test]
fn a_line_of_more_than_2048_bytes_is_never_sent_but_counted() {
    let daemon = Daemon::start();
    let (a, b, c) = (daemon.put("a"), daemon.put("b"), daemon.put("c"));
    let from_veecle = daemon.link("a", "t", "b");
    let from_native = daemon.link("c", "t", "b");
    let (mut sender, mut receiver) = (daemon.veecle(&a), daemon.veecle(&b));
    let text = |length: usize| json!("x".repeat(length));
    let line = json!({"Storable": {"type_name": "t", "value": text(0).to_string()}});
    let room = 2048 - line.to_string().len();
    sender.storable("t", &text(room + 1));
    sender.storable("t", &text(room));
    sender.storable("t", &text(10_000));
    sender.storable("t", &text(1));
    assert_eq!(receiver.next_storable(), Some(("t".to_owned(), text(room))));
    assert_eq!(receiver.next_storable(), Some(("t".to_owned(), text(1))));
    let counters = daemon.settled(from_veecle, 4);
    assert_eq!((counters.delivered, counters.drops.too_long), (2, 2));
    let mut native = daemon.native(&c);
    native.declare(0, Direction::Output, "t", &TypeSchema::String, 0);
    for length in [room + 1, room] {
        native.message(0, &postcard::to_stdvec(&"y".repeat(length)).unwrap());
    }
    assert_eq!(receiver.next_storable(), Some(("t".to_owned(), json!("y".repeat(room)))));
    let counters = daemon.settled(from_native, 2);
    assert_eq!((counters.delivered, counters.drops.too_long), (1, 1));
}

/// A flood from a runtime whose receiver does not read. Its writes go through, or they would fail
/// at the deadline of the socket.
fn flood(policy: Policy) {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link_with("a", PING, "b", policy, 100);
    let _never_reads = receiver(&daemon, "b", &b);
    let mut sender = daemon.veecle(&a);
    let mut lines = Vec::new();
    for n in 0..100_000 {
        let value = json!({ "value": n }).to_string();
        let line = json!({"Storable": {"type_name": PING, "value": value}});
        writeln!(lines, "{line}").unwrap();
        if lines.len() > 8000 {
            sender.stream.write_all(&lines).unwrap();
            lines.clear();
        }
    }
    sender.stream.write_all(&lines).unwrap();
    let counters = daemon.given(link, 100_000);
    assert!(counters.dropped > 90_000, "{counters:?}");
    assert_eq!(counters.dropped, counters.drops.full);
    // What was never read is not more than the kernel and the link hold.
    assert!(counters.queued <= 100 + 512, "{counters:?}");
}

#[test]
fn a_flood_is_never_held_back_under_drop_oldest() {
    flood(Policy::DropOldest);
}

#[test]
fn a_flood_is_never_held_back_under_drop_newest() {
    flood(Policy::DropNewest);
}

#[test]
fn a_flood_is_never_held_back_under_block() {
    flood(Policy::Block);
}

#[test]
fn block_keeps_the_oldest_of_a_runtime_that_cannot_be_made_to_wait() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link_with("a", "n", "b", Policy::Block, 10);
    let mut sender = daemon.veecle(&a);
    for n in 0..100 {
        sender.storable("n", &json!(n));
    }
    let counters = daemon.given(link, 100);
    assert_eq!((counters.queued, counters.drops.full), (10, 90));
    let mut receiver = daemon.veecle(&b);
    for n in 0..10 {
        assert_eq!(receiver.next_storable(), Some(("n".to_owned(), json!(n))));
    }
}

fn request(veecle: &mut Veecle, request: Value) -> Value {
    veecle.line(&json!({ "ControlRequest": request }).to_string());
    veecle.next().expect("an answer")
}

#[test]
fn control_requests_of_a_privileged_runtime_are_carried_out() {
    let daemon = Daemon::start();
    let boss = daemon.put_with("boss", |spec| spec.privileged = true);
    let id = daemon.add_script("sleeper", "exec sleep 1000");
    let mut veecle = daemon.veecle(&boss);
    let (started, stopped) =
        (json!({"ControlResponse": "Started"}), json!({"ControlResponse": "Stopped"}));
    let start = json!({"StartRuntime": {"id": id, "priority": "low"}});
    assert_eq!(request(&mut veecle, start), started);
    let info = daemon.info("sleeper");
    assert_eq!((info.desired, info.priority), (Desired::Running, Priority::Low));
    let stop = json!({"StopRuntime": {"id": id}});
    assert_eq!(request(&mut veecle, stop.clone()), stopped);
    assert!(matches!(daemon.info("sleeper").observed, Observed::Stopped { .. }));
    for start in [json!({"id": id}), json!({"id": id, "priority": null})] {
        assert_eq!(request(&mut veecle, json!({ "StartRuntime": start })), started);
        assert_eq!(request(&mut veecle, stop.clone()), stopped);
    }
    let nobody = json!({"StopRuntime": {"id": "77accae2-68e4-4366-8c39-c6a8c7319808"}});
    let error = request(&mut veecle, nobody);
    assert!(error["ControlResponse"]["Error"].as_str().unwrap().contains("no instance"));
    for strange in [json!({"PauseRuntime": {"id": id}}), json!(7), json!({"StopRuntime": {}})] {
        let error = request(&mut veecle, strange);
        assert!(error["ControlResponse"]["Error"].is_string(), "{error}");
    }
}

#[test]
fn control_requests_of_another_runtime_are_refused_in_its_own_words() {
    let daemon = Daemon::start();
    let a = daemon.put("a");
    let mut veecle = daemon.veecle(&a);
    let refused = json!({"ControlResponse": {"Error": "no control privileges"}});
    for what in [json!({"StartRuntime": {"id": a}}), json!({"StopRuntime": {"id": a}})] {
        assert_eq!(request(&mut veecle, what), refused);
    }
    assert_eq!(daemon.info("a").starts, 0);
}

#[test]
fn what_a_newer_runtime_adds_is_passed_over() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    daemon.link("a", "n", "b");
    let (mut sender, mut receiver) = (daemon.veecle(&a), daemon.veecle(&b));
    for line in [
        r#"{"Heartbeat":{"at":1}}"#,
        "{}",
        "",
        "   ",
        r#"{"Telemetry":{"thread_id":"a:1","message":{"Metric":{"x":1}},"more":[1,2]}}"#,
        r#"{"Telemetry":{"message":"a text"}}"#,
        r#"{"Telemetry":17}"#,
        r#"{"Telemetry":{"thread_id":"a:1","message":{"Log":{"severity":7}}}}"#,
        r#"{"Telemetry":{"thread_id":"a:1","message":{"TimeSync":{"local_timestamp":0,"since_epoch":0}}}}"#,
        r#"{"Storable":{"type_name":"n","value":"1","priority":"high"},"Trace":{}}"#,
    ] {
        sender.line(line);
    }
    sender.storable("n", &json!(2));
    for n in [1, 2] {
        assert_eq!(receiver.next_storable(), Some(("n".to_owned(), json!(n))));
    }
    assert_eq!(daemon.detail("a").protocol_errors, 0);
}

#[test]
fn log_telemetry_is_shown_in_the_log() {
    let daemon = Daemon::start();
    let a = daemon.put("a");
    let mut veecle = daemon.veecle(&a);
    veecle.line(
        r#"{"Telemetry":{"thread_id":"91ba8cda4d84d5d4c806c301def64e72:0100000000000000","message":{"Log":{"time_unix_nano":1795194387734000000,"severity":"Info","body":"[PING TASK] Sending initial","attributes":[{"key":"ping","value":{"I64":0}},{"key":"who","value":{"String":"me"}}]}}}}"#,
    );
    let logs = eventually("the line is in the log", || {
        let logs = daemon.ok(["runtime", "logs", "a", "--no-follow"]);
        logs.contains("[PING TASK]").then_some(logs)
    });
    assert!(logs.contains("INFO  [PING TASK] Sending initial ping=0 who=me"), "{logs}");
    assert_eq!(daemon.printed("a"), "", "it is no standard output");
}

#[test]
fn a_runtime_finds_its_socket_and_its_id_in_its_environment() {
    let daemon = Daemon::start();
    let script =
        r#"test -S "$VEECLE_IPC_SOCKET" && echo "$VEECLE_IPC_SOCKET"; echo "$VEECLE_RUNTIME_ID""#;
    let id = daemon.add_script("a", script);
    daemon.ok(["runtime", "start", "a"]);
    daemon.exited("a");
    let socket = daemon.veecle_socket(&id);
    daemon.prints("a", socket.to_str().unwrap());
    daemon.prints("a", &id);
}

#[test]
fn a_connection_that_closes_after_its_successor_was_accepted_takes_nothing_along() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link("a", "n", "b");
    let mut sender = daemon.veecle(&a);
    let mut old = receiver(&daemon, "b", &b);
    for round in 0..20 {
        sender.storable("n", &json!(2 * round));
        assert_eq!(old.next_storable(), Some(("n".to_owned(), json!(2 * round))));
        let new = receiver(&daemon, "b", &b);
        drop(std::mem::replace(&mut old, new));
        daemon.connections("b", 1);
        sender.storable("n", &json!(2 * round + 1));
        assert_eq!(old.next_storable(), Some(("n".to_owned(), json!(2 * round + 1))));
    }
    assert_eq!(daemon.settled(link, 40).delivered, 40);
    // The same for a sender: both connections may send for a while.
    let mut newer = receiver(&daemon, "a", &a);
    sender.storable("n", &json!("old"));
    assert_eq!(old.next_storable(), Some(("n".to_owned(), json!("old"))));
    newer.storable("n", &json!("new"));
    assert_eq!(old.next_storable(), Some(("n".to_owned(), json!("new"))));
    drop(sender);
    daemon.connections("a", 1);
    newer.storable("n", &json!("still"));
    assert_eq!(old.next_storable(), Some(("n".to_owned(), json!("still"))));
}

#[test]
fn native_and_veecle_instances_understand_each_other_through_the_schema() {
    let daemon = Daemon::start();
    let (native, veecle) = (daemon.put("native"), daemon.put("veecle"));
    let there = daemon.link("native", "ping", "veecle");
    let back = daemon.link("veecle", "pong", "native");
    let mut ours = daemon.native(&native);
    ours.declare(0, Direction::Output, "ping", &ping(), 0);
    ours.declare(1, Direction::Input, "pong", &ping(), 0);
    daemon.declared("native", "pong");
    let mut theirs = daemon.veecle(&veecle);
    for n in [0, 1, 127, 128, u32::MAX] {
        ours.message(0, &postcard::to_stdvec(&n).unwrap());
        let (name, value) = theirs.next_storable().unwrap();
        assert_eq!((name.as_str(), &value), ("ping", &json!({ "value": n })));
        theirs.storable("pong", &value);
        let payload = postcard::to_stdvec(&n).unwrap();
        assert_eq!(ours.next_message(), Some((1, payload)));
    }
    for link in [there, back] {
        assert_eq!(daemon.settled(link, 5).delivered, 5);
        assert_eq!(daemon.link_info(link).state, LinkState::Open);
    }
}

#[test]
fn what_cannot_be_translated_is_counted_and_ends_nothing() {
    let daemon = Daemon::start();
    let (native, veecle) = (daemon.put("native"), daemon.put("veecle"));
    let there = daemon.link("native", "ping", "veecle");
    let back = daemon.link("veecle", "pong", "native");
    let mut ours = daemon.native(&native);
    ours.declare(0, Direction::Output, "ping", &ping(), 0);
    ours.declare(1, Direction::Input, "pong", &ping(), 0);
    daemon.declared("native", "pong");
    let mut theirs = receiver(&daemon, "veecle", &veecle);
    for wrong in [&[0xff][..], &[], &[1, 2]] {
        ours.message(0, wrong);
    }
    ours.message(0, &[7]);
    assert_eq!(theirs.next_storable(), Some(("ping".to_owned(), json!({"value": 7}))));
    for wrong in [
        json!({"value": "seven"}),
        json!({"value": -1}),
        json!({}),
        json!({"value": 1, "more": 2}),
        json!(null),
    ] {
        theirs.storable("pong", &wrong);
    }
    theirs.line(r#"{"Storable":{"type_name":"pong","value":"no JSON"}}"#);
    theirs.storable("pong", &json!({"value": 8}));
    assert_eq!(ours.next_message(), Some((1, vec![8])));
    let counters = daemon.settled(there, 4);
    assert_eq!((counters.delivered, counters.drops.untranslatable), (1, 3));
    let counters = daemon.settled(back, 7);
    assert_eq!((counters.delivered, counters.drops.untranslatable), (1, 6));
    assert_eq!(daemon.detail("veecle").protocol_errors, 0);
}

#[test]
fn a_bad_line_closes_its_connection_only_and_the_next_one_works() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link("any", "n", "b");
    let mut receiver = receiver(&daemon, "b", &b);
    let too_long = format!(r#"{{"Telemetry":"{}"}}"#, "x".repeat(1 << 20));
    let mistakes: [&[u8]; 8] = [
        b"hello\n",
        b"{\"Storable\"\n",
        b"[1,2]\n",
        b"{\"Storable\":{\"type_name\":\"n\"}}\n",
        b"{\"Storable\":{\"type_name\":\"n\",\"value\":1}}\n",
        b"{\"Storable\":{\"type_name\":\"\",\"value\":\"1\"}}\n",
        b"\xff\xfe\x00\n",
        too_long.as_bytes(),
    ];
    for (at, mistake) in (1_u32..).zip(mistakes) {
        let mut veecle = daemon.veecle(&a);
        veecle.storable("n", &json!("before"));
        // The daemon may close before it has read all of it.
        let _ = veecle.stream.write_all(mistake);
        assert_eq!(veecle.next(), None, "mistake {at} ends the connection");
        eventually("it is counted", || {
            (daemon.detail("a").protocol_errors == u64::from(at)).then_some(())
        });
        let mut next = daemon.veecle(&a);
        next.storable("n", &json!(at));
        assert_eq!(receiver.next_storable().unwrap().1, json!("before"));
        assert_eq!(receiver.next_storable().unwrap().1, json!(at));
    }
    daemon.event("it says what was wrong", |event| match &event.kind {
        EventKind::Disconnected { dialect, error: Some(error) } => {
            assert_eq!(dialect, "veecle");
            assert!(error.contains("hello"), "{error}");
            Some(())
        }
        _ => None,
    });
    assert_eq!(daemon.settled(link, 16).dropped, 0);
}

#[test]
fn lines_of_a_runtime_may_be_longer_than_those_to_it() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link("a", "t", "b");
    let mut input = daemon.native(&b);
    input.declare(0, Direction::Input, "t", &TypeSchema::String, 0);
    let mut sender = daemon.veecle(&a);
    let text = "x".repeat(500_000);
    sender.storable("t", &json!(text));
    let payload = postcard::to_stdvec(&text).unwrap();
    assert_eq!(input.next_message(), Some((0, payload)));
    assert_eq!(daemon.settled(link, 1).delivered, 1);
}

#[test]
fn a_line_that_arrives_in_pieces_is_one_line() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    daemon.link("a", "n", "b");
    let (mut sender, mut receiver) = (daemon.veecle(&a), daemon.veecle(&b));
    let mut lines = String::new();
    for n in 0..20 {
        lines += &format!(r#"{{"Storable":{{"type_name":"n","value":"{n}"}}}}"#);
        lines.push('\n');
    }
    for byte in lines.bytes() {
        sender.stream.write_all(&[byte]).unwrap();
    }
    for n in 0..20 {
        assert_eq!(receiver.next_storable(), Some(("n".to_owned(), json!(n))));
    }
}

#[test]
fn more_type_names_than_the_bound_cost_one_connection() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    daemon.link("b", "n", "b");
    let mut veecle = daemon.veecle(&a);
    let mut lines = Vec::new();
    for n in 0..1025 {
        let value = r#""value":"1""#;
        writeln!(lines, r#"{{"Storable":{{"type_name":"t{n}",{value}}}}}"#).unwrap();
    }
    veecle.stream.write_all(&lines).unwrap();
    assert_eq!(veecle.next(), None);
    let mut other = daemon.veecle(&b);
    other.storable("n", &json!(1));
    assert_eq!(other.next_storable(), Some(("n".to_owned(), json!(1))));
    assert!(daemon.detail("a").outputs.len() <= 1024);
}

#[test]
fn telemetry_does_not_hold_up_storables() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link("a", "n", "b");
    let (mut sender, mut receiver) = (daemon.veecle(&a), daemon.veecle(&b));
    let telemetry = r#"{"Telemetry":{"thread_id":"a:1","message":{"Tracing":{"EnterSpan":{"span_id":"1","time_unix_nano":1}}}}}"#;
    let log = r#"{"Telemetry":{"thread_id":"a:1","message":{"Log":{"severity":"Info","body":"b","attributes":[]}}}}"#;
    let mut lines = Vec::new();
    for n in 0..1000 {
        for _ in 0..32 {
            writeln!(lines, "{telemetry}").unwrap();
        }
        writeln!(lines, "{log}").unwrap();
        writeln!(lines, r#"{{"Storable":{{"type_name":"n","value":"{n}"}}}}"#).unwrap();
    }
    std::thread::scope(|scope| {
        scope.spawn(|| sender.stream.write_all(&lines).unwrap());
        for n in 0..1000 {
            assert_eq!(receiver.next_storable(), Some(("n".to_owned(), json!(n))));
        }
    });
    assert_eq!(daemon.settled(link, 1000).delivered, 1000);
}
