//! Recordings that are played.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use mcap::records::MessageHeader;
use mcap::{WriteOptions, Writer};
use nix::sys::signal::Signal;
use orchestrator_proto::control::{
    Item, Policy, ReplayMessage, ReplaySource, ReplaySpec, Reply, Request, RulesSpec,
};
use orchestrator_proto::runtime::{Direction, MAX_PAYLOAD, schema_of_calls};
use orchestrator_proto::schema::Field;
use orchestrator_proto::{ErrorCode, Millis, TypeSchema};
use serde_json::{Value, json};
use tests::{Daemon, binary, eventually, processes};

/// When recordings begin that are written here.
const BEGIN_NS: u64 = 1_795_175_693_000_000_000;

/// Writes a recording as `link record` does, of numbers that `from` has sent so many microseconds
/// after the beginning.
fn write(daemon: &Daemon, name: &str, from: &str, schema: &TypeSchema, at_us: &[u64]) -> PathBuf {
    let numbers = (0..u32::MAX).map(|number| postcard::to_stdvec(&number).unwrap());
    write_all(daemon, (name, from), schema, numbers.zip(at_us.iter().copied()))
}

/// Likewise, with these payloads.
fn write_all<P: AsRef<[u8]>>(
    daemon: &Daemon,
    (name, from): (&str, &str),
    schema: &TypeSchema,
    messages: impl IntoIterator<Item = (P, u64)>,
) -> PathBuf {
    let path = daemon.dir().join(name);
    let file = fs::File::create(&path).unwrap();
    let mut writer: Writer<_> = WriteOptions::new().chunk_size(Some(1 << 12)).create(file).unwrap();
    let hex: String = schema.encode().iter().map(|byte| format!("{byte:02x}")).collect();
    let entries = [("name", from), ("type", "n"), ("schema", &hex)];
    let metadata = entries.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let canonical = writer.add_schema("n", "orchestrator", &schema.encode()).unwrap();
    let channel = writer.add_channel(canonical, "/a/n", "postcard", &metadata).unwrap();
    for (number, (payload, at_us)) in (0..).zip(messages) {
        let time = BEGIN_NS + at_us * 1000;
        let header = MessageHeader {
            channel_id: channel,
            sequence: number,
            log_time: time,
            publish_time: time,
        };
        writer.write_to_known_channel(&header, payload.as_ref()).unwrap();
    }
    writer.finish().unwrap();
    path
}

fn numbers(daemon: &Daemon, name: &str, at_us: &[u64]) -> PathBuf {
    write(daemon, name, "a", &TypeSchema::U32, at_us)
}

/// Plays to the end; the summary.
#[track_caller]
fn play(daemon: &Daemon, file: &Path, args: &[&str]) -> Value {
    let file = file.to_str().unwrap();
    daemon.json([&["link", "replay", file], args].concat())
}

/// Plays in vain.
#[track_caller]
fn refused(daemon: &Daemon, file: &Path, args: &[&str]) -> String {
    let file = file.to_str().unwrap();
    let said = daemon.cli([&["link", "replay", file], args].concat());
    assert_ne!(said.code, Some(0), "{said:?}");
    said.stderr
}

fn begin(daemon: &Daemon, file: &Path, args: &[&str]) -> Child {
    let mut command = daemon.cli_command(["--json", "link", "replay"]);
    command.arg(file).args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn end(child: Child) -> Value {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn pose() -> TypeSchema {
    let field = |name: &str, schema| Field { name: name.to_owned(), schema };
    TypeSchema::Struct(vec![field("x", TypeSchema::F64), field("id", TypeSchema::U64)])
}

#[test]
fn what_was_recorded_arrives_again_in_the_place_of_its_sender() {
    let daemon = Daemon::start();
    let (a, b, v) = (daemon.put("a"), daemon.put("b"), daemon.put("v"));
    let payload = |id: u64| postcard::to_stdvec(&(1.5, id)).unwrap();
    for encoding in ["json", "postcard"] {
        let file = daemon.dir().join(encoding);
        let mut command = daemon.cli_command(["link", "record", "--encoding", encoding, "-o"]);
        let mut recorder = command.arg(&file).args(["--count", "20"]).spawn().unwrap();
        let mut sender = daemon.native(&a);
        sender.declare(0, Direction::Output, "pose", &pose(), 0);
        let mut veecle = daemon.veecle(&v);
        let mut id = 0;
        eventually("enough is recorded", || {
            id += 1;
            sender.message(0, &payload(id));
            veecle.storable("word", &json!({"of": id}));
            recorder.try_wait().unwrap()
        });
        drop((sender, veecle));
        daemon.connections("a", 0);
        daemon.connections("v", 0);
    }
    let links = [daemon.link("a", "pose", "b"), daemon.link("v", "word", "b")];
    let mut receiver = daemon.native(&b);
    receiver.declare(0, Direction::Input, "pose", &pose(), 0);
    receiver.declare(
        1,
        Direction::Input,
        "word",
        &TypeSchema::Map(Box::new(TypeSchema::String), Box::new(TypeSchema::U64)),
        0,
    );
    for encoding in ["json", "postcard"] {
        let mut tap = daemon.cli_command(["--json", "link", "tap", "--count", "20"]);
        let tap = tap.stdout(Stdio::piped()).spawn().unwrap();
        eventually("the tap is there", || {
            // Besides this one.
            (daemon.json(["daemon", "status"])["queues"]["requests"].as_u64()? > 1).then_some(())
        });
        let summary = play(&daemon, &daemon.dir().join(encoding), &["--rate", "max"]);
        assert_eq!(summary["messages"], json!(20), "{summary}");
        assert_eq!((&summary["unrouted"], &summary["late"]), (&json!(0), &json!(0)), "{summary}");
        let mut poses = Vec::new();
        for _ in 0..20 {
            match receiver.next_message().unwrap() {
                (0, payload) => poses.push(postcard::from_bytes::<(f64, u64)>(&payload).unwrap().1),
                (_, payload) => assert_eq!(payload[..3], [1, 2, b'o']),
            }
        }
        assert!(poses.len() >= 5 && poses.windows(2).all(|two| two[1] == two[0] + 1), "{poses:?}");
        let seen = String::from_utf8(tap.wait_with_output().unwrap().stdout).unwrap();
        for line in seen.lines() {
            let message: Value = serde_json::from_str(line).unwrap();
            let (name, from) = (&message["message"]["type_name"], &message["message"]["from_name"]);
            let expected = if *name == json!("pose") { "a" } else { "v" };
            assert_eq!(*from, json!(expected), "{line}");
        }
    }
    let after: u64 = links.iter().map(|link| daemon.counters(*link).sent).sum();
    assert_eq!(after, 40);
}

#[test]
fn the_times_are_kept_and_none_is_early() {
    let daemon = Daemon::start();
    daemon.put("a");
    let b = daemon.put("b");
    daemon.link("a", "n", "b");
    let mut receiver = daemon.receiver(&b, "n");
    daemon.declared("b", "n");
    // 300 ms, unevenly.
    let at_us: Vec<_> = (0..150).map(|at: u64| at * 2000 + (at * 7919) % 1500).collect();
    let file = numbers(&daemon, "n", &at_us);
    for (rate, times) in [("1", 1.0), ("2", 2.0), ("0.5", 0.5)] {
        let began = Instant::now();
        let child = begin(&daemon, &file, &["--rate", rate]);
        let due = |at: usize| Duration::from_secs_f64(at_us[at] as f64 / 1e6 / times);
        // By how much each is later than if it had set off at the very beginning.
        let after = (0..150_u32).map(|number| {
            assert_eq!(receiver.next_number(), Some(number));
            let after = began.elapsed().checked_sub(due(number as usize));
            after.expect("no message is early")
        });
        let mut after: Vec<_> = after.collect();
        let summary = end(child);
        assert_eq!(summary["messages"], json!(150));
        after.sort_unstable();
        // All that the machine does besides makes some of them late, but not most of them.
        let usual = after[75] - after[0];
        assert!(usual < Duration::from_millis(20), "{usual:?} {summary}");
    }
    let all = play(&daemon, &file, &["--skip", "200ms", "--rate", "max"]);
    let left = at_us.iter().filter(|at| **at >= 200_000).count();
    assert_eq!(all["messages"], json!(left));
}

#[test]
fn links_types_and_receivers_are_chosen() {
    let daemon = Daemon::start();
    daemon.put("a");
    let (b, c) = (daemon.put("b"), daemon.put("c"));
    let file = numbers(&daemon, "n", &[0, 1, 2]);
    // No link takes them.
    assert!(refused(&daemon, &file, &[]).contains("no link takes any"));
    let own = daemon.link("a", "n", "b");
    let other = daemon.link("b", "n", "c");
    let sent = || [own, other].map(|link| daemon.counters(link).sent);
    play(&daemon, &file, &[]);
    assert_eq!(sent(), [3, 0]);
    // Nothing was declared in its place, and it has sent nothing itself.
    let detail = daemon.detail("a");
    assert_eq!((detail.outputs.len(), detail.sent), (0, 0));
    // A link of somebody else, and the links to an instance, whoever they are from.
    play(&daemon, &file, &["--link", &other.to_string()]);
    assert_eq!(sent(), [3, 3]);
    play(&daemon, &file, &["--to", "c", "--type", "n"]);
    assert_eq!(sent(), [3, 6]);
    let both = ["--link", &own.to_string(), "--link", &other.to_string()];
    play(&daemon, &file, &both);
    assert_eq!(sent(), [6, 9]);
    assert!(
        refused(&daemon, &file, &["--to", "c", "--link", &own.to_string()]).contains("no link")
    );
    for (args, said) in [
        (&["--type", "m"][..], "no messages of that kind"),
        (&["--link", "99"], "there is no link 99"),
        (&["--to", "nobody"], "there is no instance"),
        (&["--rate=-1"], "no rate"),
        (&["--skip", "x"], "x"),
    ] {
        let refusal = refused(&daemon, &file, args);
        assert!(refusal.contains(said), "{refusal}");
    }
    assert_eq!(sent(), [6, 9]);
    // A sender that is not there: links from anybody take what is nobody's.
    let stranger = write(&daemon, "s", "stranger", &TypeSchema::U32, &[0, 1]);
    assert!(refused(&daemon, &stranger, &[]).contains("no link takes any"));
    let any = daemon.link("any", "n", "c");
    play(&daemon, &stranger, &[]);
    assert_eq!((daemon.counters(any).sent, sent()), (2, [6, 9]));
    let mut receiver = daemon.receiver(&b, "n");
    assert_eq!(receiver.take_numbers(6), [0, 1, 2, 0, 1, 2]);
    drop(c);
}

#[test]
fn a_form_that_the_receiver_does_not_take_is_refused() {
    let daemon = Daemon::start();
    daemon.put("a");
    let b = daemon.put("b");
    let link = daemon.link("a", "n", "b");
    let mut receiver = daemon.native(&b);
    receiver.declare(0, Direction::Input, "n", &TypeSchema::U64, 0);
    daemon.declared("b", "n");
    let file = numbers(&daemon, "n", &[0, 1, 2]);
    let said = refused(&daemon, &file, &[]);
    assert!(said.contains("u32 for the recording, u64 for the receiver"), "{said}");
    assert_eq!(daemon.counters(link).sent, 0);
    // One that takes several forms.
    drop(receiver);
    let mut receiver = daemon.native(&b);
    let form = TypeSchema::U32.encode();
    let takes = orchestrator_proto::runtime::Frame::Takes { channel: 0, schema: &form, hash: None };
    receiver.send(&takes);
    receiver.declare(0, Direction::Input, "n", &TypeSchema::U64, 0);
    eventually("the form is known", || {
        daemon.cli(["link", "replay", file.to_str().unwrap()]).code.filter(|code| *code == 0)
    });
    assert_eq!(receiver.next_number(), Some(0));
}

#[test]
fn block_holds_it_back_and_a_timeout_lets_it_go() {
    let daemon = Daemon::start();
    daemon.put("a");
    let b = daemon.put("b");
    let link = daemon.link_with("a", "n", "b", Policy::Block, 4);
    let file = numbers(&daemon, "n", &(0..500).collect::<Vec<_>>());
    let child = begin(&daemon, &file, &["--rate", "max"]);
    daemon.given(link, 4);
    let mut receiver = daemon.receiver(&b, "n");
    assert_eq!(receiver.take_numbers(500), Vec::from_iter(0..500));
    assert_eq!(end(child)["messages"], json!(500));
    let counters = daemon.settled(link, 500);
    assert_eq!((counters.delivered, counters.dropped), (500, 0));
    drop(receiver);
    daemon.connections("b", 0);
    // It ends when it is told to, also while it waits.
    let child = begin(&daemon, &file, &[]);
    daemon.given(link, 504);
    processes::signal(child.id(), Signal::SIGINT);
    end(child);
    // With a timeout it is held back once.
    let rules = RulesSpec { block_timeout: Some(Millis(30)), ..RulesSpec::default() };
    daemon.request(Request::LinkSet { link, rules }).unwrap();
    let summary = play(&daemon, &file, &["--rate", "max"]);
    assert_eq!(summary["messages"], json!(500));
    let counters = daemon.counters(link);
    assert_eq!((counters.sent, counters.queued), (1004, 8), "{counters:?}");
    assert_eq!(counters.drops.timed_out, 496, "{counters:?}");
}

/// R6: messages of as many bytes as a link carries, more than may be under way to the daemon.
#[test]
fn the_longest_messages_are_played_whole() {
    let daemon = Daemon::start();
    daemon.put("a");
    let b = daemon.put("b");
    let link = daemon.link_with("a", "n", "b", Policy::Block, 2);
    let lengths = [1, MAX_PAYLOAD - 4, MAX_PAYLOAD - 4, 2, MAX_PAYLOAD - 4, 3];
    let payloads =
        lengths.map(|length| postcard::to_stdvec(vec![7_u8; length].as_slice()).unwrap());
    let file = write_all(&daemon, ("n", "a"), &TypeSchema::Bytes, payloads.iter().zip(0..));
    let child = begin(&daemon, &file, &["--rate", "max"]);
    let mut receiver = daemon.native(&b);
    receiver.declare(0, Direction::Input, "n", &TypeSchema::Bytes, 0);
    for payload in &payloads {
        let (_, got) = receiver.next_message().expect("it comes");
        assert!(got == *payload, "{} bytes, not {}", got.len(), payload.len());
    }
    assert_eq!(end(child)["messages"], json!(lengths.len()));
    assert_eq!(daemon.settled(link, 6).dropped, 0);
}

#[test]
fn it_is_played_again_and_again_until_it_is_told_to_end() {
    let daemon = Daemon::start();
    daemon.put("a");
    let b = daemon.put("b");
    daemon.link("a", "n", "b");
    let mut receiver = daemon.receiver(&b, "n");
    let file = numbers(&daemon, "n", &[0, 1000, 5000]);
    let child = begin(&daemon, &file, &["--loop"]);
    for _ in 0..20 {
        assert_eq!(receiver.take_numbers(3), [0, 1, 2]);
    }
    processes::signal(child.id(), Signal::SIGINT);
    let summary = end(child);
    assert!(summary["rounds"].as_u64().unwrap() >= 19, "{summary}");
}

#[test]
fn what_is_cut_off_is_played_up_to_there_and_what_is_no_recording_is_refused() {
    let daemon = Daemon::start();
    daemon.put("a");
    let b = daemon.put("b");
    daemon.link_with("a", "n", "b", Policy::Block, 1000);
    let mut receiver = daemon.receiver(&b, "n");
    let whole = numbers(&daemon, "n", &(0..2000).collect::<Vec<_>>());
    let bytes = fs::read(&whole).unwrap();
    let cut = daemon.dir().join("cut");
    let mut played = Vec::new();
    for at in [0, 4, 100, bytes.len() / 3, bytes.len() / 2, bytes.len() - 9] {
        fs::write(&cut, &bytes[..at]).unwrap();
        let said = daemon.cli(["--json", "link", "replay", cut.to_str().unwrap(), "--rate", "max"]);
        if said.code != Some(0) {
            assert!(at <= 100, "{said:?}");
            continue;
        }
        let summary: Value = serde_json::from_str(&said.stdout).unwrap();
        let count = summary["messages"].as_u64().unwrap();
        let all = Vec::from_iter(0..u32::try_from(count).unwrap());
        assert_eq!(receiver.take_numbers(all.len()), all);
        if count < 2000 {
            assert!(said.stderr.contains("is not whole"), "{said:?}");
        }
        played.push(count);
    }
    assert_eq!(played.last(), Some(&2000));
    assert!(played[0] > 0 && played.is_sorted(), "{played:?}");
    // A byte that was changed on the way: what comes after it is not played.
    let mut damaged = bytes.clone();
    damaged[bytes.len() / 2] ^= 0xff;
    fs::write(&cut, &damaged).unwrap();
    let summary = play(&daemon, &cut, &["--rate", "max"]);
    let count = usize::try_from(summary["messages"].as_u64().unwrap()).unwrap();
    assert!(count < 2000 && summary["cut"].is_string(), "{summary}");
    assert_eq!(receiver.take_numbers(count), Vec::from_iter(0..count as u32));
    fs::write(&cut, "a text").unwrap();
    assert!(refused(&daemon, &cut, &[]).contains("can't read"));
    assert!(refused(&daemon, Path::new("/nowhere"), &[]).contains("/nowhere"));
}

/// R5.
#[test]
fn calls_are_not_replayed_and_how_many_is_said() {
    const DIVIDE: &str = "examples.divide.v1";
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    daemon.add([binary("divider").to_str().unwrap(), "--name", "divider"]);
    daemon.ok(["runtime", "start", "divider"]);
    let link = daemon.link("a", "n", "b");
    // One that would hold the replay back without end.
    let calls = daemon.link_with("any", DIVIDE, "divider", Policy::Block, 1);
    let (mut sender, mut receiver) = (daemon.sender(&a, "n"), daemon.receiver(&b, "n"));
    for encoding in ["json", "postcard"] {
        let file = daemon.dir().join(encoding);
        let mut command = daemon.cli_command(["link", "record", "--encoding", encoding, "-o"]);
        let mut recorder = command.arg(&file).args(["--count", "9"]).spawn().unwrap();
        eventually("enough is recorded", || {
            sender.number(7);
            assert_eq!(receiver.next_number(), Some(7));
            let request = r#"{"dividend": 7, "divisor": 2}"#;
            daemon.ok(["link", "call", "divider", "--type", DIVIDE, request]);
            recorder.try_wait().unwrap()
        });
        let sent = daemon.counters(link).sent;
        let summary = play(&daemon, &file, &["--rate", "max"]);
        assert_eq!((&summary["messages"], &summary["calls"]), (&json!(3), &json!(3)), "{summary}");
        assert_eq!(receiver.take_numbers(3), [7, 7, 7]);
        assert_eq!(daemon.counters(link).sent, sent + 3);
        // As fast as it is taken: nothing is late then, which would be said.
        let path = file.to_str().unwrap();
        let said = daemon.ok(["link", "replay", path, "--type", "n", "--rate", "max"]);
        assert_eq!(said, "played 3 messages\n");
        let said = daemon.cli(["link", "replay", path]);
        assert!(said.stderr.contains("3 calls are not replayed: "), "{said:?}");
        assert_eq!(receiver.take_numbers(6), [7; 6]);
        // Nothing else is wanted of it.
        let said = refused(&daemon, &file, &["--type", DIVIDE]);
        assert!(said.contains("3 calls and no messages; calls are not replayed: "), "{said}");
    }
    let info = daemon.link_info(calls);
    assert_eq!((info.counters.sent, info.counters.queued), (0, 0), "{info:?}");
    assert!(info.calls.is_some());
    // Messages that have the name of the calls.
    let schema = schema_of_calls(TypeSchema::U8, TypeSchema::U8);
    for schema in [Some(schema.encode()), Some(TypeSchema::U32.encode()), None] {
        let source = ReplaySource { from: None, type_name: DIVIDE.to_owned(), schema };
        let spec = ReplaySpec { sources: vec![source], ..ReplaySpec::default() };
        let refused = tests::block_on(async {
            let client = orchestrator_proto::client::Client::connect(daemon.socket()).await;
            let (mut items, _feeder) = client.unwrap().replay(spec).await.unwrap();
            items.next().await.unwrap().unwrap_err()
        });
        assert!(refused.to_string().contains("calls"), "{refused}");
    }
}

#[test]
fn what_other_clients_send_wrongly_is_refused() {
    let daemon = Daemon::start();
    daemon.put("a");
    daemon.put("b");
    let link = daemon.link("a", "n", "b");
    let source = |name: &str, schema: Option<Vec<u8>>| ReplaySource {
        from: Some("a".into()),
        type_name: name.to_owned(),
        schema,
    };
    let good = source("n", Some(TypeSchema::U32.encode()));
    let of = |sources: Vec<ReplaySource>| ReplaySpec { sources, ..ReplaySpec::default() };
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio.block_on(async {
        let client = orchestrator_proto::client::Client::connect(daemon.socket()).await.unwrap();
        let code = |error| match error {
            orchestrator_proto::client::ClientError::Failed(error) => error.code,
            other => panic!("{other}"),
        };
        for spec in [
            of(vec![]),
            of(vec![good.clone(); ReplaySpec::MAX_SOURCES + 1]),
            of(vec![source("", None)]),
            of(vec![source(&"x".repeat(256), None)]),
            of(vec![source("n", Some(vec![99]))]),
        ] {
            let (mut items, _) = client.replay(spec).await.unwrap();
            let refused = items.next().await.unwrap().unwrap_err();
            assert_eq!(code(refused), ErrorCode::InvalidArgument);
        }
        let (mut items, feeder) = client.replay(of(vec![good.clone()])).await.unwrap();
        let begun = items.next().await.unwrap().unwrap();
        assert!(matches!(begun, Item::Replaying(_)));
        let message = |source| ReplayMessage { source, payload: vec![7] };
        // More than may be under way waits, and is all fed.
        for _ in 0..1000 {
            feeder.feed(vec![message(0), message(0)]).await.unwrap();
        }
        feeder.feed(vec![message(1)]).await.unwrap();
        let mut fed = 0;
        let refused = loop {
            match items.next().await.unwrap() {
                Ok(Item::Fed(told)) => fed = told.messages,
                Ok(other) => panic!("{other:?}"),
                Err(error) => break error,
            }
        };
        assert_eq!(code(refused), ErrorCode::InvalidArgument);
        assert!(fed <= 2000);
        // To a request that takes none.
        let reply = client.request(Request::Status).await.unwrap();
        assert!(matches!(reply, Reply::Status(_)));
    });
    assert_eq!(daemon.counters(link).sent, 2000);
}
