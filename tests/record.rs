//! Recordings of messages, read by the library of those who defined their format.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use mcap::read::Options;
use mcap::records::Record;
use nix::sys::signal::Signal;
use orchestrator_proto::TypeSchema;
use orchestrator_proto::runtime::{Direction, Frame, MAX_PAYLOAD};
use orchestrator_proto::schema::Field;
use serde_json::{Value, json};
use tests::{Daemon, eventually, processes};

/// A message of a file.
#[derive(Clone, PartialEq, Debug)]
struct Message {
    topic: String,
    encoding: String,
    /// Its name, its encoding, and what it says.
    schema: Option<(String, String, Vec<u8>)>,
    metadata: BTreeMap<String, String>,
    sequence: u32,
    time_ns: u64,
    sent_ns: u64,
    data: Vec<u8>,
}

impl Message {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.data).unwrap()
    }
}

/// All messages of a file, which may have been cut off.
fn read(path: &Path) -> Vec<Message> {
    let bytes = fs::read(path).unwrap();
    let stream =
        mcap::MessageStream::new_with_options(&bytes, Options::IgnoreEndMagic.into()).unwrap();
    let whole = stream.map_while(Result::ok);
    let message = |it: mcap::Message<'_>| Message {
        topic: it.channel.topic.clone(),
        encoding: it.channel.message_encoding.clone(),
        schema: it
            .channel
            .schema
            .as_ref()
            .map(|schema| (schema.name.clone(), schema.encoding.clone(), schema.data.to_vec())),
        metadata: it.channel.metadata.clone(),
        sequence: it.sequence,
        time_ns: it.log_time,
        sent_ns: it.publish_time,
        data: it.data.to_vec(),
    };
    whole.map(message).collect()
}

/// What a file says is missing.
fn missing(path: &Path) -> Vec<BTreeMap<String, String>> {
    let bytes = fs::read(path).unwrap();
    let records = mcap::read::LinearReader::new(&bytes).unwrap();
    let metadata = records.filter_map(|record| match record.unwrap() {
        Record::Metadata(metadata) if metadata.name == "missed" => Some(metadata.metadata),
        _ => None,
    });
    metadata.collect()
}

struct Recorder {
    child: Child,
    file: PathBuf,
}

/// Begins to record with these arguments.
fn begin(daemon: &Daemon, file: &str, args: &[&str]) -> Recorder {
    let file = daemon.dir().join(file);
    let mut command = daemon.cli_command(["--json", "link", "record", "-o"]);
    command.arg(&file).args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    Recorder { child: command.spawn().unwrap(), file }
}

impl Recorder {
    /// Lets `send` send, again and again, until it ends by itself.
    fn until_it_ends(mut self, mut send: impl FnMut()) -> (Vec<Message>, Value) {
        eventually("enough is recorded", || {
            send();
            self.child.try_wait().unwrap()
        });
        self.end()
    }

    fn interrupt(self) -> (Vec<Message>, Value) {
        processes::signal(self.child.id(), Signal::SIGINT);
        self.end()
    }

    fn end(self) -> (Vec<Message>, Value) {
        let output = self.child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let summary = serde_json::from_slice::<Value>(&output.stdout).unwrap();
        let messages = read(&self.file);
        assert_eq!(summary["messages"], json!(messages.len()));
        assert_eq!(summary["bytes"], json!(fs::metadata(&self.file).unwrap().len()));
        (messages, summary)
    }
}

fn pose() -> TypeSchema {
    let field = |name: &str, schema| Field { name: name.to_owned(), schema };
    TypeSchema::Struct(vec![field("x", TypeSchema::F64), field("id", TypeSchema::U64)])
}

#[test]
fn what_passes_is_there_with_its_schema_and_its_sender() {
    let daemon = Daemon::start();
    let a = daemon.put("a");
    daemon.put("b");
    daemon.link("a", "pose", "b");
    let mut sender = daemon.native(&a);
    sender.declare(0, Direction::Output, "pose", &pose(), 0);
    let payload = |id: u64| postcard::to_stdvec(&(1.5, id)).unwrap();
    for encoding in ["json", "postcard"] {
        let args = ["--count", "5", "--encoding", encoding];
        let mut id = 0;
        let recorder = begin(&daemon, encoding, &args);
        let (messages, _) = recorder.until_it_ends(|| {
            id += 1;
            sender.message(0, &payload(id));
        });
        assert_eq!(messages.len(), 5);
        for pair in messages.windows(2) {
            assert_eq!(pair[1].sequence, pair[0].sequence + 1);
            assert!(pair[1].time_ns >= pair[0].time_ns);
        }
        let message = &messages[0];
        assert_eq!((message.topic.as_str(), message.encoding.as_str()), ("/a/pose", encoding));
        assert_eq!(message.metadata["instance"], a);
        assert_eq!(message.metadata["type"], "pose");
        assert_eq!(message.metadata["hash"], pose().hash().to_string());
        let (name, of, schema) = message.schema.clone().unwrap();
        assert_eq!(name, "pose");
        let first = if encoding == "json" {
            assert_eq!(of, "jsonschema");
            let schema: Value = serde_json::from_slice(&schema).unwrap();
            assert_eq!(schema["properties"]["x"], json!({"type": ["number", "null"]}));
            assert_eq!(message.json()["x"], json!(1.5));
            message.json()["id"].as_u64().unwrap()
        } else {
            assert_eq!((of.as_str(), schema), ("orchestrator", pose().encode()));
            postcard::from_bytes::<(f64, u64)>(&message.data).unwrap().1
        };
        // None is left out in between.
        for (message, id) in messages.iter().zip(first..) {
            let expected = match encoding {
                "json" => json!({"x": 1.5, "id": id}).to_string().into_bytes(),
                _ => payload(id),
            };
            let same = message.data == expected
                || (encoding == "json" && message.json() == json!({"x": 1.5, "id": id}));
            assert!(same, "{message:?} is not number {id}");
        }
    }
}

#[test]
fn a_veecle_runtime_has_no_schema_and_what_is_no_json_is_missing() {
    let daemon = Daemon::start();
    let a = daemon.put("a");
    let mut sender = daemon.veecle(&a);
    let value = json!({"value": [1, null, "x"]});
    let recorder = begin(&daemon, "v", &["--count", "2"]);
    let file = recorder.file.clone();
    let (messages, summary) = recorder.until_it_ends(|| {
        sender.line(r#"{"Storable":{"type_name":"v","value":"not JSON"}}"#);
        sender.storable("v", &value);
    });
    for message in &messages {
        assert_eq!((message.json(), message.schema.is_none()), (value.clone(), true));
        assert_eq!((message.topic.as_str(), message.encoding.as_str()), ("/a/v", "json"));
    }
    let missing = missing(&file);
    assert!(!missing.is_empty() && summary["missed"] == json!(missing.len()), "{summary}");
    assert!(missing[0]["reason"].contains("JSON"), "{missing:?}");
}

#[test]
fn types_senders_and_links_are_chosen() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link("b", "n", "a").to_string();
    let (mut first, mut second) = (daemon.sender(&a, "n"), daemon.sender(&b, "n"));
    first.declare(1, Direction::Output, "m", &TypeSchema::U32, 0);
    let mut files = 0;
    let mut seen = |args: &[&str]| {
        files += 1;
        let args = [&["--count", "30"], args].concat();
        let (messages, _) = begin(&daemon, &format!("{files}"), &args).until_it_ends(|| {
            first.number(1);
            first.message(1, &[2]);
            second.number(3);
        });
        let mut seen: Vec<_> = messages.iter().map(|it| it.json().as_u64().unwrap()).collect();
        seen.sort_unstable();
        seen.dedup();
        seen
    };
    assert_eq!(seen(&[]), [1, 2, 3]);
    assert_eq!(seen(&["--type", "n"]), [1, 3]);
    assert_eq!(seen(&["--type", "n", "--type", "m"]), [1, 2, 3]);
    assert_eq!(seen(&["--from", "a"]), [1, 2]);
    assert_eq!(seen(&["--link", &link]), [3]);
    assert_eq!(seen(&["--link", &link, "--type", "m"]), [2, 3]);
}

#[test]
fn it_ends_well_when_it_is_told_to_and_after_its_time() {
    let daemon = Daemon::start();
    let mut sender = daemon.sender(&daemon.put("a"), "n");
    let recorder = begin(&daemon, "one", &[]);
    // What can be read without an end is on the disk already.
    eventually("something is on the disk", || {
        sender.number(1);
        (recorder.file.exists() && !read(&recorder.file).is_empty()).then_some(())
    });
    let file = recorder.file.clone();
    let (messages, summary) = recorder.interrupt();
    assert!(!messages.is_empty());
    assert_eq!(summary["missed"], json!(0));
    assert_eq!(missing(&file), []);
    let (messages, _) = begin(&daemon, "two", &["--duration", "10ms"]).end();
    assert!(messages.is_empty());
}

#[test]
fn what_was_recorded_is_there_although_the_recorder_is_killed() {
    let daemon = Daemon::start();
    let mut sender = daemon.sender(&daemon.put("a"), "n");
    let mut recorder = begin(&daemon, "one", &[]);
    let mut count = 0;
    let before = eventually("something is on the disk", || {
        count += 1;
        sender.number(count);
        let there = if recorder.file.exists() { read(&recorder.file) } else { Vec::new() };
        (there.len() > 10).then_some(there)
    });
    processes::signal(recorder.child.id(), Signal::SIGKILL);
    recorder.child.wait().unwrap();
    let after = read(&recorder.file);
    assert_eq!(after[..before.len()], before);
    let numbers: Vec<_> = after.iter().map(|message| message.json().as_u64().unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
}

#[test]
fn what_was_recorded_is_told_although_the_daemon_is_killed() {
    let daemon = Daemon::start();
    let a = daemon.put("a");
    let mut sender = daemon.sender(&a, "n");
    let mut plain = daemon.cli_command(["link", "record", "-o"]);
    let path = daemon.dir().join("plain");
    plain.arg(&path).stdout(Stdio::piped()).stderr(Stdio::piped());
    let plain = Recorder { child: plain.spawn().unwrap(), file: path };
    let recorders = [begin(&daemon, "json", &[]), plain];
    eventually("something is on the disk", || {
        sender.number(7);
        let is_there = |it: &Recorder| it.file.exists() && !read(&it.file).is_empty();
        recorders.iter().all(is_there).then_some(())
    });
    drop(sender);
    daemon.replace_killed();
    let [json, plain] = recorders.map(|it| {
        let output = it.child.wait_with_output().unwrap();
        assert!(!output.status.success(), "{output:?}");
        assert!(!output.stderr.is_empty(), "{output:?}");
        (String::from_utf8(output.stdout).unwrap(), it.file)
    });
    let summary: Value = serde_json::from_str(&json.0).unwrap();
    assert_eq!(summary["messages"], json!(read(&json.1).len()), "{summary}");
    let (count, bytes) = (read(&plain.1).len(), fs::metadata(&plain.1).unwrap().len());
    let said = format!("{count} messages in {}, {bytes} bytes\n", plain.1.display());
    assert_eq!(plain.0, said);
}

#[test]
fn a_recorder_that_is_too_slow_misses_messages_and_holds_up_nobody() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    daemon.link("a", "n", "b");
    let mut sender = daemon.sender(&a, "n");
    let mut receiver = daemon.receiver(&b, "n");
    let recorder = begin(&daemon, "one", &[]);
    eventually("it records", || {
        sender.number(0);
        (recorder.file.exists() && !read(&recorder.file).is_empty()).then_some(())
    });
    processes::suspend(recorder.child.id());
    let payload = 10_000_000;
    for number in 0..30_000 {
        sender.number(payload + number);
        // They arrive while nobody takes what is to be recorded.
        while number % 500 == 499 && receiver.next_number() != Some(payload + number) {}
    }
    processes::signal(recorder.child.id(), Signal::SIGCONT);
    let file = recorder.file.clone();
    eventually("it has come to the end", || {
        sender.number(1);
        let there = read(&file);
        there.iter().any(|message| message.json() == json!(1)).then_some(())
    });
    let (messages, summary) = recorder.interrupt();
    let missed: u64 =
        missing(&file).iter().map(|metadata| metadata["count"].parse::<u64>().unwrap()).sum();
    assert_eq!(summary["missed"], json!(missed));
    let kept = messages.iter().filter(|it| it.json().as_u64() >= Some(u64::from(payload))).count();
    assert!(missed > 0 && kept as u64 + missed >= 30_000, "{kept} {missed}");
}

/// R6: a message of as many bytes as a link carries.
#[test]
fn the_longest_messages_are_recorded_whole() {
    let daemon = Daemon::start();
    let mut sender = daemon.native(&daemon.put("a"));
    sender.declare(0, Direction::Output, "n", &TypeSchema::Bytes, 0);
    let recorder = begin(&daemon, "one", &["--type", "n", "--encoding", "postcard"]);
    let short = postcard::to_stdvec(&[1_u8].as_slice()).unwrap();
    eventually("it records", || {
        sender.message(0, &short);
        (recorder.file.exists() && !read(&recorder.file).is_empty()).then_some(())
    });
    // Its length takes four bytes.
    let mut long = vec![0xff, 0xff, 0xff, 0x1f];
    long.resize(MAX_PAYLOAD, 7);
    long[MAX_PAYLOAD - 1] = 8;
    let file = recorder.file.clone();
    for count in 1..=2 {
        sender.message(0, &long);
        eventually("it is recorded", || {
            let there = read(&file).iter().filter(|it| it.data == long).count();
            (there == count).then_some(())
        });
    }
    let (messages, summary) = recorder.interrupt();
    assert_eq!(summary["missed"], json!(0));
    assert_eq!(messages.iter().filter(|it| it.data == long).count(), 2);
}

/// L39: the time of publishing is that of sending, where the sender says it; and it is no part of the value.
#[test]
fn it_is_known_when_a_message_was_sent() {
    let daemon = Daemon::start();
    let mut sender = daemon.native(&daemon.put("a"));
    sender.send(&Frame::Stamps { channel: 0, stamped: true });
    sender.declare(0, Direction::Output, "n", &TypeSchema::U32, 0);
    sender.declare(1, Direction::Output, "m", &TypeSchema::U32, 0);
    for encoding in ["json", "postcard"] {
        let recorder = begin(&daemon, encoding, &["--count", "20", "--encoding", encoding]);
        let (messages, _) = recorder.until_it_ends(|| {
            let stamped = [&[7][..], &1234_u64.to_le_bytes()].concat();
            sender.message(0, &stamped);
            sender.message(1, &[7]);
        });
        let schema = |message: &Message| message.metadata["type"].clone();
        for message in messages {
            let value = if encoding == "json" { b"7"[0] } else { 7 };
            assert_eq!(message.data, [value]);
            let is_stamped = schema(&message) == "n";
            assert_eq!(message.sent_ns, if is_stamped { 1234 } else { message.time_ns });
        }
    }
}

#[test]
fn what_can_not_be_is_refused_and_leaves_no_file() {
    let daemon = Daemon::start();
    let file = |name: &str| daemon.dir().join(name).to_string_lossy().into_owned();
    let refused = |args: &[&str]| {
        let said = daemon.cli([&["link", "record"], args].concat());
        assert_ne!(said.code, Some(0), "{said:?}");
        said.stderr
    };
    for args in [["--link", "9"], ["--from", "nobody"]] {
        refused(&[&["-o", &file("none")], &args[..]].concat());
        assert!(!daemon.dir().join("none").exists());
    }
    fs::write(file("there"), "mine").unwrap();
    assert!(refused(&["-o", &file("there")]).contains("--force"));
    assert_eq!(fs::read_to_string(file("there")).unwrap(), "mine");
    let (there, _) = begin(&daemon, "there", &["--force", "--duration", "1ms"]).end();
    assert!(there.is_empty());
    assert!(refused(&["-o", &file("no/where")]).contains("can't write"));
    let many: Vec<_> = (0..257).flat_map(|_| ["--type", "T"]).collect();
    assert!(refused(&[&["-o", &file("many")], &many[..]].concat()).contains("256"));
}
