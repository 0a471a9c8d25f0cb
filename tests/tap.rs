//! Watching messages as they pass.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::process::Stdio;
use std::time::Duration;

use orchestrator_proto::TypeSchema;
use orchestrator_proto::client::Client;
use orchestrator_proto::control::{Item, Policy, Request, TapFilter};
use orchestrator_proto::runtime::Direction;
use orchestrator_proto::schema::Field;
use serde_json::{Value, json};
use tests::{Daemon, SOON, block_on, eventually};

/// Runs `link tap` with these arguments and lets `send` send, again and again, until it ends.
fn tapped(daemon: &Daemon, args: &[&str], mut send: impl FnMut()) -> String {
    let mut command = daemon.cli_command(["--json", "link", "tap"]);
    let mut child = command.args(args).stdout(Stdio::piped()).spawn().unwrap();
    eventually("the tap has seen enough", || {
        send();
        child.try_wait().unwrap()
    });
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

fn messages(text: &str) -> Vec<Value> {
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter_map(|line| line.get("message").cloned()).collect()
}

fn pose() -> TypeSchema {
    let field = |name: &str, schema| Field { name: name.to_owned(), schema };
    TypeSchema::Struct(vec![
        field("x", TypeSchema::F64),
        field("name", TypeSchema::String),
        field("id", TypeSchema::U64),
    ])
}

#[test]
fn native_messages_are_shown_decoded() {
    let daemon = Daemon::start();
    let a = daemon.put("a");
    daemon.put("b");
    daemon.link("a", "pose", "b");
    let mut sender = daemon.native(&a);
    sender.declare(0, Direction::Output, "pose", &pose(), 0);
    let payload = postcard::to_stdvec(&(1.5, "lamp", u64::MAX)).unwrap();
    let text = tapped(&daemon, &["--count", "3"], || sender.message(0, &payload));
    // Every digit of a large number is there.
    assert!(text.contains(r#"{"x":1.5,"name":"lamp","id":18446744073709551615}"#), "{text}");
    let messages = messages(&text);
    assert_eq!(messages.len(), 3);
    for message in messages {
        assert_eq!(message["from"], json!(a));
        assert_eq!(message["from_name"], json!("a"));
        assert_eq!(message["type_name"], json!("pose"));
        assert_eq!((&message["links"], &message["size"]), (&json!(1), &json!(payload.len())));
    }
}

#[test]
fn veecle_messages_are_shown_as_they_are() {
    let daemon = Daemon::start();
    let a = daemon.put("a");
    let mut sender = daemon.veecle(&a);
    let value = json!({"value": [1, null, "x"]});
    let text = tapped(&daemon, &["--count", "2"], || sender.storable("v", &value));
    for message in messages(&text) {
        assert_eq!(message["payload"], value);
        assert_eq!(message["links"], json!(0));
    }
}

#[test]
fn a_payload_that_is_not_what_its_schema_says_is_shown_as_such() {
    let daemon = Daemon::start();
    let a = daemon.put("a");
    let mut sender = daemon.native(&a);
    sender.declare(0, Direction::Output, "pose", &pose(), 0);
    let text = tapped(&daemon, &["--count", "1"], || sender.message(0, b"?"));
    let message = &messages(&text)[0];
    assert_eq!(message["payload"], Value::Null);
    assert!(message["payload_error"].as_str().unwrap().contains("ends"), "{message}");
    let mut veecle = daemon.veecle(&a);
    let text = tapped(&daemon, &["--count", "1", "--type", "v"], || {
        veecle.line(r#"{"Storable":{"type_name":"v","value":"not JSON"}}"#);
    });
    assert!(messages(&text)[0]["payload_error"].is_string());
}

#[test]
fn filters_by_type_and_by_sender() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let (mut first, mut second) = (daemon.sender(&a, "n"), daemon.sender(&b, "n"));
    first.declare(1, Direction::Output, "m", &TypeSchema::U32, 0);
    let mut seen = |args: &[&str]| {
        let text = tapped(&daemon, args, || {
            first.number(1);
            first.message(1, &[2]);
            second.number(3);
        });
        let mut seen: Vec<_> =
            messages(&text).iter().map(|message| message["payload"].as_u64().unwrap()).collect();
        seen.sort_unstable();
        seen.dedup();
        seen
    };
    assert_eq!(seen(&["--count", "30"]), [1, 2, 3]);
    assert_eq!(seen(&["--count", "30", "--type", "n"]), [1, 3]);
    assert_eq!(seen(&["--count", "30", "--from", "a"]), [1, 2]);
    assert_eq!(seen(&["--count", "9", "--from", "a", "--type", "m"]), [2]);
    let nobody = daemon.cli(["link", "tap", "--from", "nobody"]);
    assert_eq!(nobody.code, Some(3), "{nobody:?}");
}

#[test]
fn a_tap_for_people_is_one_line_for_each_message() {
    let daemon = Daemon::start();
    let a = daemon.put("a");
    let mut sender = daemon.sender(&a, "n");
    let mut command = daemon.cli_command(["link", "tap", "--count", "2"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    eventually("the tap has seen enough", || {
        sender.number(77);
        child.try_wait().unwrap()
    });
    let text = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(text.lines().count(), 2);
    assert!(text.lines().all(|line| line.ends_with(" a n to no link: 77")), "{text}");
}

/// A tap whose first message has come, so that it sees all that follow.
async fn open(client: &Client, mut send: impl FnMut()) -> orchestrator_proto::client::ItemStream {
    let filter = TapFilter::default();
    let mut items = client.stream(Request::LinkTap(filter)).await.unwrap();
    loop {
        send();
        let next = tokio::time::timeout(Duration::from_millis(20), items.next());
        if let Ok(item) = next.await {
            assert!(matches!(item, Some(Ok(Item::Message(_)))), "{item:?}");
            return items;
        }
    }
}

#[test]
fn a_slow_watcher_misses_counted_messages_and_slows_nobody() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link_with("a", "n", "b", Policy::Block, 64);
    let mut receiver = daemon.receiver(&b, "n");
    let mut sender = daemon.sender(&a, "n");
    let total = 100_000;
    let (mut seen, mut missed) = (0, 0);
    block_on(async {
        let client = daemon.client().await;
        let mut probes = 0;
        let mut items = open(&client, || {
            sender.number(u32::MAX);
            probes += 1;
        })
        .await;
        receiver.take_numbers(probes);
        // Nobody reads the tap meanwhile: this thread does not run its client.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for start in (0..total).step_by(1000) {
                    sender.numbers(start..start + 1000);
                }
            });
            let numbers = receiver.take_numbers(total as usize);
            assert_eq!(numbers, Vec::from_iter(0..total));
        });
        let reading = async {
            while seen + missed < u64::from(total) {
                match items.next().await.unwrap().unwrap() {
                    Item::Message(message) if message.payload == Ok(u32::MAX.to_string()) => {}
                    Item::Message(_) => seen += 1,
                    Item::Missed { count, reason } => {
                        assert!(reason.contains("slow"), "{reason}");
                        missed += count;
                    }
                    other => panic!("{other:?}"),
                }
            }
        };
        tokio::time::timeout(SOON, reading).await.unwrap();
    });
    assert_eq!(seen + missed, u64::from(total), "none uncounted");
    assert!(missed > 0 && seen > 0, "{seen} seen, {missed} missed");
    let sent = daemon.link_info(link).counters.sent;
    assert_eq!(daemon.settled(link, sent).dropped, 0);
}

#[test]
fn a_message_too_large_for_the_control_socket_does_not_end_the_tap() {
    let daemon = Daemon::start();
    let a = daemon.put("a");
    let mut sender = daemon.native(&a);
    sender.declare(0, Direction::Output, "text", &TypeSchema::String, 0);
    // Escaped, each character is six bytes of JSON.
    let text = |length: usize| postcard::to_stdvec(&"\u{1}".repeat(length)).unwrap();
    let (large, small) = (text(5 << 20), text(1));
    block_on(async {
        let client = daemon.client().await;
        let mut items = open(&client, || sender.message(0, &small)).await;
        sender.message(0, &large);
        sender.message(0, &text(2));
        let (mut told, mut after) = (false, false);
        while !after {
            let next = tokio::time::timeout(SOON, items.next()).await.unwrap();
            match next.expect("the tap goes on").expect("without an error") {
                Item::Message(message) => {
                    after = message.size == 3;
                    if message.size > 1000 {
                        told = true;
                        assert_eq!(message.size, large.len() as u64);
                        assert!(message.payload.is_err(), "it says why it is not shown");
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(told);
    });
}
