//! Messages that a person sends to an instance: `link send`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use orchestrator_proto::client::ClientError;
use orchestrator_proto::control::{Reply, Request, SendSpec, Sent};
use orchestrator_proto::runtime::Direction;
use orchestrator_proto::schema::Field;
use orchestrator_proto::{ErrorCode, Millis, TypeSchema, WireError};
use serde_json::{Value, json};
use tests::{Daemon, SOON, binary, eventually};

fn speed() -> TypeSchema {
    let field = |name: &str, schema| Field { name: name.to_owned(), schema };
    TypeSchema::Struct(vec![field("metres_per_s", TypeSchema::F32), field("gear", TypeSchema::U8)])
}

fn spec(to: &str, type_name: &str, payload: &str, timeout: Millis) -> SendSpec {
    let (type_name, payload) = (type_name.to_owned(), payload.to_owned());
    SendSpec { to: to.into(), type_name, payload, timeout }
}

fn send(daemon: &Daemon, spec: SendSpec) -> Result<Sent, WireError> {
    match daemon.request(Request::LinkSend(spec)) {
        Ok(Reply::LinkSent(sent)) => Ok(sent),
        Err(ClientError::Failed(error)) => Err(error),
        other => panic!("{other:?}\n{}", daemon.log()),
    }
}

const LONG: Millis = Millis(60_000);
const SHORT: Millis = Millis(200);

fn cli(daemon: &Daemon, args: &[&str]) -> Output {
    daemon.cli_command(["link", "send"]).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_native_instance_gets_what_was_written_as_json() {
    let daemon = Daemon::start();
    let id = daemon.put("motor");
    let mut motor = daemon.native(&id);
    motor.declare(3, Direction::Input, "speed", &speed(), 0);
    daemon.declared("motor", "speed");
    let output =
        cli(&daemon, &["motor", "--type", "speed", r#"{"gear": 2, "metres_per_s": -1.5}"#]);
    assert!(output.status.success(), "{output:?}");
    let told = format!("sent speed (5 bytes) to instance {id}\n");
    assert_eq!(text(&output.stdout), told);
    let payload = postcard::to_stdvec(&(-1.5_f32, 2_u8)).unwrap();
    assert_eq!(motor.next_message(), Some((3, payload)));
    let json = daemon.ok(["--json", "link", "send", "motor", "--type", "speed", "[0, 1]"]);
    let reply: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(reply, json!({"link-sent": {"id": id, "type_name": "speed", "size": 5}}));
}

#[test]
fn a_veecle_instance_gets_the_json_as_it_is() {
    let daemon = Daemon::start();
    let id = daemon.put("lamp");
    let mut lamp = daemon.veecle(&id);
    daemon.connections("lamp", 1);
    let value = json!({"on": true, "level": [1, null, "é\""]});
    let output = cli(&daemon, &["lamp", "--type", "Light", &value.to_string()]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(lamp.next_storable(), Some(("Light".to_owned(), value)));
    // Such a runtime panics at a longer line.
    let long = format!("{:?}", "x".repeat(2048));
    let error = send(&daemon, spec("lamp", "Light", &long, LONG)).unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidArgument);
    assert!(error.message.contains("2,048 bytes"), "{error}");
    send(&daemon, spec("lamp", "Light", "7", LONG)).unwrap();
    assert_eq!(lamp.next_storable(), Some(("Light".to_owned(), json!(7))));
}

#[test]
fn what_is_no_value_of_the_type_is_refused_with_its_place_and_the_schema() {
    let daemon = Daemon::start();
    let id = daemon.put("motor");
    let mut motor = daemon.native(&id);
    motor.declare(0, Direction::Input, "speed", &speed(), 0);
    daemon.declared("motor", "speed");
    let wrong = [
        (r#"{"metres_per_s": "fast", "gear": 1}"#, ".metres_per_s", "expected f32"),
        (r#"{"metres_per_s": 1, "gear": 256}"#, ".gear", "u8"),
        (r#"{"metres_per_s": 1}"#, "at .", "gear"),
        (r#"{"metres_per_s": 1, "gear": 1, "extra": 1}"#, "at .", "extra"),
        ("null", "at .", "expected an object"),
    ];
    for (json, place, problem) in wrong {
        let output = cli(&daemon, &["motor", "--type", "speed", json]);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{told}");
        for part in [place, problem, "metres_per_s: f32", "gear: u8"] {
            assert!(told.contains(part), "{json}: {part:?} in {told}");
        }
    }
    for no_json in ["", "{", "fast", "1 2", "-"] {
        let error = send(&daemon, spec("motor", "speed", no_json, LONG)).unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidArgument, "{no_json:?}: {error}");
        assert!(error.message.contains("not JSON"), "{error}");
    }
    // Nothing of all that has come, and the connection is as good as before.
    send(&daemon, spec("motor", "speed", "[1, 1]", LONG)).unwrap();
    let payload = postcard::to_stdvec(&(1_f32, 1_u8)).unwrap();
    assert_eq!(motor.next_message(), Some((0, payload)));
}

#[test]
fn what_nobody_takes_is_said_and_what_is_taken_is_named() {
    let daemon = Daemon::start();
    let id = daemon.put("motor");
    let mut motor = daemon.native(&id);
    motor.declare(0, Direction::Input, "speed", &speed(), 0);
    motor.declare(1, Direction::Input, "gear", &TypeSchema::U8, 0);
    motor.declare(2, Direction::Output, "heat", &TypeSchema::U8, 0);
    daemon.declared("motor", "heat");
    let error = send(&daemon, spec("motor", "heat", "1", LONG)).unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidArgument);
    assert!(error.message.contains("takes no messages of type heat"), "{error}");
    assert_eq!(error.causes, ["it takes gear, speed"]);
    let error = send(&daemon, spec("nobody", "heat", "1", LONG)).unwrap_err();
    assert_eq!(error.code, ErrorCode::NotFound);
    assert_eq!(cli(&daemon, &["nobody", "--type", "heat", "1"]).status.code(), Some(3));
    for bad in [spec("motor", "", "1", LONG), spec("motor", "gear", "1", Millis(0))] {
        let error = send(&daemon, bad).unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidArgument, "{error}");
    }
}

#[test]
fn an_instance_that_does_not_run_is_not_waited_for() {
    let daemon = Daemon::start();
    daemon.put("motor");
    let began = Instant::now();
    let output = cli(&daemon, &["motor", "--type", "speed", "--timeout", "1h", "null"]);
    assert!(began.elapsed() < SOON);
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    assert!(told.contains("does not run (stopped)"), "{told}");
    assert!(told.contains("runtime start motor"), "{told}");
}

#[test]
fn a_program_that_has_just_been_started_may_connect_and_declare_later() {
    let daemon = Daemon::start();
    // It runs, and never connects: the test does that for it.
    let id = daemon.add(["/bin/sleep", "--name", "motor", "--", "1000"]);
    daemon.ok(["runtime", "start", "motor"]);
    let error = send(&daemon, spec("motor", "gear", "1", SHORT)).unwrap_err();
    assert_eq!(error.code, ErrorCode::TimedOut);
    assert!(error.message.contains("did not connect"), "{error}");
    let args = ["link", "send", "motor", "--type", "gear", "--timeout", "1m", "3"];
    let mut sending = daemon.cli_command(args).spawn().unwrap();
    let mut motor = daemon.native(&id);
    motor.declare(0, Direction::Input, "gear", &TypeSchema::U8, 0);
    assert_eq!(motor.next_message(), Some((0, vec![3])));
    assert!(sending.wait().unwrap().success());
}

#[test]
fn what_is_not_taken_in_time_is_taken_back() {
    let daemon = Daemon::start();
    let id = daemon.put("motor");
    let mut motor = daemon.native(&id);
    // It takes one.
    motor.declare(0, Direction::Input, "gear", &TypeSchema::U8, 1);
    daemon.declared("motor", "gear");
    send(&daemon, spec("motor", "gear", "1", LONG)).unwrap();
    let output = cli(&daemon, &["motor", "--type", "gear", "--timeout", "200ms", "2"]);
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    let told = text(&output.stderr);
    assert!(told.contains("within 200ms") && told.contains("does not arrive"), "{told}");
    motor.send(&orchestrator_proto::runtime::Frame::Grant { channel: 0, total: 10 });
    send(&daemon, spec("motor", "gear", "3", LONG)).unwrap();
    assert_eq!(motor.next_message(), Some((0, vec![1])));
    assert_eq!(motor.next_message(), Some((0, vec![3])));
}

/// Requests of clients.
fn under_way(daemon: &Daemon) -> u64 {
    match daemon.request(Request::DaemonStatus) {
        Ok(Reply::Daemon(status)) => status.queues.requests,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_client_that_goes_away_takes_its_message_back() {
    let daemon = Daemon::start();
    let id = daemon.put("motor");
    let mut motor = daemon.native(&id);
    motor.declare(0, Direction::Input, "gear", &TypeSchema::U8, 1);
    daemon.declared("motor", "gear");
    send(&daemon, spec("motor", "gear", "1", LONG)).unwrap();
    let args = ["link", "send", "motor", "--type", "gear", "--timeout", "1h", "2"];
    let mut sending = daemon.cli_command(args).spawn().unwrap();
    // The request for the number is one itself.
    eventually("the message waits", || (under_way(&daemon) == 2).then_some(()));
    sending.kill().unwrap();
    sending.wait().unwrap();
    eventually("the client is gone", || (under_way(&daemon) == 1).then_some(()));
    motor.send(&orchestrator_proto::runtime::Frame::Grant { channel: 0, total: 10 });
    send(&daemon, spec("motor", "gear", "3", LONG)).unwrap();
    assert_eq!(motor.next_message(), Some((0, vec![1])));
    assert_eq!(motor.next_message(), Some((0, vec![3])));
}

#[test]
fn lines_of_standard_input_are_sent_in_their_order() {
    let daemon = Daemon::start();
    let id = daemon.put("motor");
    let mut motor = daemon.native(&id);
    motor.declare(0, Direction::Input, "n", &TypeSchema::U32, 0);
    daemon.declared("motor", "n");
    let mut command = daemon.cli_command(["--json", "link", "send", "motor", "--type", "n", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut told = BufReader::new(child.stdout.take().unwrap()).lines();
    // Each as it comes: no end of the input is needed.
    for number in 0..100 {
        writeln!(input, "{number}\n").unwrap();
        let reply: Value = serde_json::from_str(&told.next().unwrap().unwrap()).unwrap();
        assert_eq!(reply["link-sent"]["type_name"], json!("n"));
        assert_eq!(motor.next_number(), Some(number));
    }
    write!(input, "100\nno number\n102").unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error: Value = serde_json::from_str(&text(&output.stderr)).unwrap();
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("line 202: the message is not JSON"), "{message}");
    assert_eq!(motor.next_number(), Some(100));
    assert!(motor.is_silent_for(Duration::from_millis(200)));
}

#[test]
fn a_replica_is_meant_by_its_name_and_the_set_by_none() {
    let daemon = Daemon::start();
    daemon.ok(["runtime", "add", "/bin/sleep", "--name", "worker", "--replicas", "2", "--", "60"]);
    let error = send(&daemon, spec("worker", "n", "1", LONG)).unwrap_err();
    assert!(error.message.contains("set of replicas"), "{error}");
}

#[test]
fn a_real_program_of_the_sdk_gets_it() {
    let daemon = Daemon::start();
    let pong = binary("pong");
    daemon.add([pong.to_str().unwrap(), "--name", "pong"]);
    daemon.ok(["runtime", "start", "pong"]);
    let sent = daemon.ok(["link", "send", "pong", "--type", "examples.ping.v1", r#"{"value":41}"#]);
    assert!(sent.starts_with("sent examples.ping.v1"), "{sent}");
    eventually("pong says so", || daemon.printed("pong").contains("41").then_some(()));
}
