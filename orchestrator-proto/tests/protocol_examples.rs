//! PROTOCOL.md says what the code does: its examples are what the code encodes, and its tables
//! of types, read by a small decoder, make of the code's bytes what the code put in.

mod page;

use std::fmt::Write as _;

use orchestrator_proto::control::*;
use orchestrator_proto::frame::{self, MAX_CONTROL, MAX_RUNTIME, PREFIX};
use orchestrator_proto::runtime::{
    self, Declare, Direction, Frame, MAX_CHANNELS, MAX_PAYLOAD, RuntimeReply, RuntimeRequest,
    UNLIMITED,
};
use orchestrator_proto::schema::{MAX_BYTES, MAX_DEPTH, MAX_JSON, MAX_NODES, MAX_VALUES};
use orchestrator_proto::{ErrorCode, InstanceId, LinkId, OsBytes, TypeSchema, WireError};
use page::Page;
use serde::Serialize;
use serde_json::Value;

const CAMERA: &str = "0197c5e4-7a10-7cc3-98c4-dc0c0c07398f";
const NOON_MS: u64 = 1_795_175_693_000;

fn camera() -> InstanceId {
    CAMERA.parse().unwrap()
}

/// A value of the code, as bytes and as what they should be read as.
struct Sample {
    type_name: &'static str,
    bytes: Vec<u8>,
    expected: Value,
}

fn sample<T: Serialize>(type_name: &'static str, value: &T) -> Sample {
    Sample {
        type_name,
        bytes: postcard::to_stdvec(value).unwrap(),
        expected: serde_json::to_value(value).unwrap(),
    }
}

/// One sample of each variant. Does not compile while a variant is missing.
macro_rules! variants {
    ($name:ident: $($pattern:pat => $value:expr),* $(,)?) => {{
        #[allow(dead_code, clippy::match_same_arms)]
        fn complete(value: &$name) { match value { $($pattern => {})* } }
        (stringify!($name), vec![$(sample(stringify!($name), &$value)),*])
    }};
}

fn error() -> WireError {
    WireError {
        code: ErrorCode::SpawnFailed,
        message: format!("instance camera ({CAMERA}) was not started"),
        causes: vec!["cannot execute \"/opt/robot/bin/camera\": not found".into()],
    }
}

fn spec() -> RuntimeSpec {
    RuntimeSpec {
        id: Some(camera()),
        name: Some("camera".into()),
        args: vec!["--rate".into(), "30".into()],
        env: vec![("LEVEL".into(), "debug".into())],
        cwd: Some("/tmp".into()),
        privileged: true,
        stop_signal: 2,
        stop_timeout_ms: 500,
        ..RuntimeSpec::new("/opt/robot/bin/camera")
    }
}

fn info() -> RuntimeInfo {
    RuntimeInfo {
        id: camera(),
        name: Some("camera".into()),
        program: "/opt/robot/bin/camera".into(),
        desired: Desired::Running,
        observed: Observed::Running {
            pid: 4711,
            since_ms: NOON_MS,
        },
        priority: Priority::Low,
        privileged: true,
        starts: 300,
        connections: 2,
    }
}

fn detail() -> RuntimeDetail {
    RuntimeDetail {
        info: info(),
        args: vec!["--rate".into()],
        env: vec![("LEVEL".into(), "debug".into())],
        cwd: "/tmp".into(),
        copied: true,
        stop_signal: 15,
        stop_timeout_ms: 10_000,
        added_ms: NOON_MS,
        outputs: vec!["acme.image.v1".into()],
        inputs: vec!["acme.trigger.v1".into(), "acme.zoom.v1".into()],
        sent: 1000,
        unrouted: 1001,
        protocol_errors: 1002,
        log_bytes_lost: 1003,
        log_dir: "/var/lib/orchestrator/logs".into(),
        links: vec![LinkId(1), LinkId(200)],
    }
}

fn link_info() -> LinkInfo {
    LinkInfo {
        id: LinkId(200),
        from: Some(camera()),
        from_name: Some("camera".into()),
        type_name: "acme.image.v1".into(),
        to: TargetInfo::Instance {
            id: camera(),
            name: None,
        },
        policy: Policy::Latest,
        capacity: 1,
        state: LinkState::Mismatched { error: error() },
        counters: Counters {
            sent: 1000,
            delivered: 990,
            dropped: 7,
            queued: 3,
            drops: Drops {
                full: 1,
                too_long: 2,
                untranslatable: 3,
                failed: 4,
            },
            last_ms: Some(NOON_MS),
        },
    }
}

fn status() -> Status {
    Status {
        version: "0.1.0".into(),
        protocol: 1,
        pid: 1201,
        holder_pid: 1200,
        started_ms: NOON_MS,
        socket: "/run/orchestrator/orchestrator.socket".into(),
        state_dir: "/var/lib/orchestrator".into(),
        runtimes: 3,
        running: 2,
        links: 300,
        ipc: None,
        telemetry: Some(TelemetryStatus {
            address: "10.0.0.7:9100".into(),
            connected: true,
            sent: 300,
            dropped: 7,
        }),
    }
}

fn log_line() -> LogLine {
    LogLine {
        time_ns: NOON_MS * 1_000_000,
        stream: LogStream::Stderr,
        complete: true,
        text: "no camera".into(),
    }
}

fn event() -> Event {
    Event {
        seq: 300,
        time_ms: NOON_MS,
        instance: Some(camera()),
        name: Some("camera".into()),
        kind: EventKind::Exited {
            exit: Exit::Signal {
                signal: 11,
                core_dumped: true,
            },
            requested: false,
        },
    }
}

fn link_spec() -> LinkSpec {
    LinkSpec {
        from: None,
        type_name: "acme.image.v1".into(),
        to: TargetSpec::Instance("recorder".into()),
        policy: Some(Policy::Block),
        capacity: Some(32),
    }
}

fn log_query() -> LogQuery {
    LogQuery {
        instance: "camera".into(),
        stream: None,
        tail: Some(10),
        since_ns: None,
        follow: true,
    }
}

fn tap_message(payload: Result<String, String>) -> TapMessage {
    TapMessage {
        time_ns: NOON_MS * 1_000_000,
        from: Some(camera()),
        from_name: None,
        type_name: "acme.image.v1".into(),
        links: 2,
        size: 4096,
        payload,
    }
}

fn value_schema() -> Vec<u8> {
    TypeSchema::decode(&[21, 1, 5, b'v', b'a', b'l', b'u', b'e', 3])
        .unwrap()
        .encode()
}

fn declare(schema: &[u8]) -> Declare<'_> {
    Declare {
        channel: 0,
        direction: Direction::Output,
        name: "acme.count.v1",
        schema,
        hash: Some(TypeSchema::decode(schema).unwrap().hash().0),
        window: 0,
    }
}

fn start(instance: &str, priority: Option<Priority>) -> RuntimeRequest {
    RuntimeRequest::Start {
        instance: instance.into(),
        priority,
    }
}

/// Each enum of the page, with one sample of each variant.
#[rustfmt::skip]
fn enums() -> Vec<(&'static str, Vec<Sample>)> {
    let (id, instance) = (camera(), || Selector::from("camera"));
    let schema = value_schema();
    type FrameOf = Frame<'static>;
    let frames = variants!(FrameOf:
        Frame::Hello { .. } => Frame::Hello { magic: runtime::MAGIC, protocol: 1, sdk: "demo" },
        Frame::Welcome { .. } => Frame::Welcome { protocol: 1, server: "0.1.0", instance: id },
        Frame::Refused(_) => Frame::Refused(error()),
        Frame::Declare(_) => Frame::Declare(declare(&schema)),
        Frame::Message { .. } => Frame::Message { channel: 300, payload: b"\xff\x00" },
        Frame::Grant { .. } => Frame::Grant { channel: 300, total: UNLIMITED },
        Frame::Request { .. } => Frame::Request { id: 300, request: start("a", Some(Priority::High)) },
        Frame::Reply { .. } => Frame::Reply { id: 300, result: Err(error()) },
    );
    vec![
        ("Frame", frames.1.into_iter().map(|frame| Sample { type_name: "Frame", ..frame }).collect()),
        variants!(Direction:
            Direction::Output => Direction::Output, Direction::Input => Direction::Input),
        variants!(RuntimeRequest:
            RuntimeRequest::Start { .. } => start("camera", None),
            RuntimeRequest::Stop { .. } => RuntimeRequest::Stop { instance: "camera".into() },
            RuntimeRequest::List => RuntimeRequest::List),
        variants!(RuntimeReply:
            RuntimeReply::Started { .. } => RuntimeReply::Started { id },
            RuntimeReply::Stopped { .. } => RuntimeReply::Stopped { id },
            RuntimeReply::List(_) => RuntimeReply::List(vec![info()])),
        variants!(ClientBody:
            ClientBody::Request(_) => ClientBody::Request(Request::RuntimeList),
            ClientBody::Cancel => ClientBody::Cancel,
            ClientBody::Chunk(_) => ClientBody::Chunk(vec![1, 2, 255]),
            ClientBody::ChunksEnd { .. } => ClientBody::ChunksEnd { sha256: [7; 32] }),
        variants!(ServerBody:
            ServerBody::Reply(_) => ServerBody::Reply(Reply::Links(vec![link_info()])),
            ServerBody::Error(_) => ServerBody::Error(error()),
            ServerBody::Item(_) => ServerBody::Item(Item::Event(event())),
            ServerBody::End => ServerBody::End),
        variants!(Request:
            Request::Status => Request::Status,
            Request::RuntimeAdd(_) => Request::RuntimeAdd(spec()),
            Request::RuntimeStart { .. } => Request::RuntimeStart { instance: instance(), priority: Some(Priority::Low) },
            Request::RuntimeStop { .. } => Request::RuntimeStop { instance: instance() },
            Request::RuntimeRestart { .. } => Request::RuntimeRestart { instance: instance() },
            Request::RuntimeRemove { .. } => Request::RuntimeRemove { instance: instance(), force: true },
            Request::RuntimeList => Request::RuntimeList,
            Request::RuntimeShow { .. } => Request::RuntimeShow { instance: instance() },
            Request::Logs(_) => Request::Logs(LogQuery {
                stream: Some(LogStream::Orchestrator), since_ns: Some(NOON_MS), ..log_query() }),
            Request::LinkAdd(_) => Request::LinkAdd(LinkSpec { from: Some(instance()), ..link_spec() }),
            Request::LinkRemove { .. } => Request::LinkRemove { link: LinkId(300) },
            Request::LinkList => Request::LinkList,
            Request::LinkTap(_) => Request::LinkTap(TapFilter { type_name: Some("a".into()), from: Some(instance()) }),
            Request::Clear { .. } => Request::Clear { force: true },
            Request::Events { .. } => Request::Events { follow: true, after: Some(300), instance: Some(instance()) }),
        variants!(Reply:
            Reply::Status(_) => Reply::Status(status()),
            Reply::Added { .. } => Reply::Added { id, warnings: vec!["it is a directory".into()] },
            Reply::Started { .. } => Reply::Started { id, pid: 4711, changed: true, warnings: vec!["a".into()] },
            Reply::Stopped { .. } => Reply::Stopped { id, changed: true },
            Reply::Removed { .. } => Reply::Removed { id, links: vec![LinkId(300)] },
            Reply::Runtimes(_) => Reply::Runtimes(vec![info(), info()]),
            Reply::Runtime(_) => Reply::Runtime(Box::new(detail())),
            Reply::LinkAdded { .. } => Reply::LinkAdded { id: LinkId(300), created: true },
            Reply::LinkRemoved { .. } => Reply::LinkRemoved { id: LinkId(300), discarded: 7 },
            Reply::Links(_) => Reply::Links(vec![link_info()]),
            Reply::Cleared { .. } => Reply::Cleared { runtimes: 300, links: 7 }),
        variants!(Item:
            Item::Log(_) => Item::Log(log_line()),
            Item::Message(_) => Item::Message(tap_message(Ok("{}".into()))),
            Item::Event(_) => Item::Event(event()),
            Item::Missed { .. } => Item::Missed { count: 300, reason: "too slow".into() }),
        variants!(Program:
            Program::Path(_) => Program::Path("/bin/true".into()),
            Program::Upload { .. } => Program::Upload { file_name: "camera".into(), size: 300 }),
        variants!(Priority:
            Priority::High => Priority::High, Priority::Normal => Priority::Normal, Priority::Low => Priority::Low),
        variants!(LogStream:
            LogStream::Stdout => LogStream::Stdout, LogStream::Stderr => LogStream::Stderr,
            LogStream::Telemetry => LogStream::Telemetry, LogStream::Orchestrator => LogStream::Orchestrator),
        variants!(TargetSpec:
            TargetSpec::Instance(_) => TargetSpec::Instance(instance()),
            TargetSpec::Udp(_) => TargetSpec::Udp("10.0.0.7:9000".into())),
        variants!(Policy:
            Policy::Block => Policy::Block, Policy::DropNewest => Policy::DropNewest,
            Policy::DropOldest => Policy::DropOldest, Policy::Latest => Policy::Latest),
        variants!(Desired:
            Desired::Stopped => Desired::Stopped, Desired::Running => Desired::Running),
        variants!(Observed:
            Observed::Stopped { .. } => Observed::Stopped { last_exit: Some(Exit::Code(300)), at_ms: Some(NOON_MS) },
            Observed::Starting => Observed::Starting,
            Observed::Running { .. } => Observed::Running { pid: 300, since_ms: NOON_MS },
            Observed::Stopping { .. } => Observed::Stopping { pid: Some(300), since_ms: NOON_MS },
            Observed::Exited { .. } => Observed::Exited { exit: Exit::Code(-1), at_ms: NOON_MS },
            Observed::Failed { .. } => Observed::Failed { error: "no".into(), at_ms: NOON_MS }),
        variants!(Exit:
            Exit::Code(_) => Exit::Code(255),
            Exit::Signal { .. } => Exit::Signal { signal: 64, core_dumped: true }),
        variants!(TargetInfo:
            TargetInfo::Instance { .. } => TargetInfo::Instance { id, name: Some("camera".into()) },
            TargetInfo::Udp { .. } => TargetInfo::Udp { address: "10.0.0.7:9000".into() }),
        variants!(LinkState:
            LinkState::Open => LinkState::Open,
            LinkState::Mismatched { .. } => LinkState::Mismatched { error: error() }),
        variants!(EventKind:
            EventKind::DaemonStarted => EventKind::DaemonStarted,
            EventKind::DaemonStopping => EventKind::DaemonStopping,
            EventKind::Added => EventKind::Added,
            EventKind::Removed { .. } => EventKind::Removed { links: 300 },
            EventKind::Started { .. } => EventKind::Started { pid: 300 },
            EventKind::StartFailed { .. } => EventKind::StartFailed { error: "no".into() },
            EventKind::Stopping { .. } => EventKind::Stopping { signal: 15 },
            EventKind::Killed => EventKind::Killed,
            EventKind::Exited { .. } => EventKind::Exited { exit: Exit::Code(1), requested: true },
            EventKind::Stopped => EventKind::Stopped,
            EventKind::LinkAdded { .. } => EventKind::LinkAdded { link: LinkId(300), description: "a".into() },
            EventKind::LinkRemoved { .. } => EventKind::LinkRemoved { link: LinkId(300) },
            EventKind::LinkMismatched { .. } => EventKind::LinkMismatched { link: LinkId(300), error: "no".into() },
            EventKind::Connected { .. } => EventKind::Connected { dialect: "native".into() },
            EventKind::Disconnected { .. } => EventKind::Disconnected { dialect: "veecle".into(), error: Some("no".into()) }),
    ]
}

/// The structs that no variant above holds with all its options set.
fn structs() -> Vec<Sample> {
    let ipc = IpcStatus {
        address: "127.0.0.1:9000".into(),
        received: 300,
        unrouted: 7,
        malformed: 8,
        refused: 9,
    };
    let full = Status {
        ipc: Some(ipc),
        ..status()
    };
    let reply = ServerFrame {
        id: 300,
        body: ServerBody::End,
    };
    let refused = ServerHello {
        refused: Some("no".into()),
        ..server_hello()
    };
    let schema = value_schema();
    vec![
        sample("Status", &full),
        sample("ServerHello", &refused),
        sample("ClientHello", &client_hello()),
        sample("ServerFrame", &reply),
        sample("ClientFrame", &request(300, Request::Status)),
        sample("Declare", &declare(&schema)),
        sample("TapMessage", &tap_message(Err("cut".into()))),
        sample("TapFilter", &TapFilter::default()),
    ]
}

#[test]
fn the_tables_of_types_are_those_of_the_code() {
    let page = Page::load();
    for (name, samples) in enums() {
        assert_eq!(page.variant_count(name), samples.len(), "variants of {name}");
        samples.iter().for_each(|sample| check(&page, sample));
    }
    structs().iter().for_each(|sample| check(&page, sample));
    assert_eq!(page.unread(), Vec::<String>::new(), "tables without a sample");
}

fn check(page: &Page, sample: &Sample) {
    let read = page.read(sample.type_name, &sample.bytes);
    assert!(
        page::same(&read.value, &sample.expected),
        "{}\nby the page: {}\nby the code: {}",
        sample.type_name,
        read.value,
        sample.expected,
    );
}

#[test]
fn the_error_codes_are_those_of_the_code() {
    let codes = Page::load().error_codes();
    let expected: Vec<_> = ErrorCode::ALL
        .iter()
        .map(|code| (u64::from(code.number()), code.name().to_owned()))
        .collect();
    assert_eq!(codes, expected);
}

#[test]
fn the_bounds_are_those_of_the_code() {
    let text = Page::load().text;
    let bounds = [
        MAX_CONTROL,
        MAX_RUNTIME,
        MAX_PAYLOAD,
        MAX_CHUNK,
        MAX_BYTES,
        MAX_NODES,
        MAX_VALUES,
        usize::from(MAX_CHANNELS) - 1,
        LinkSpec::MAX_CAPACITY as usize,
        LinkSpec::DEFAULT_CAPACITY as usize,
    ];
    for bound in bounds {
        let shown = with_commas(bound);
        assert!(text.contains(&shown), "{shown}");
    }
    assert!(text.contains(&format!("{MAX_DEPTH} levels")));
    assert!(text.contains(&format!("{} MiB of text", MAX_JSON >> 20)));
}

fn with_commas(number: usize) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[test]
fn the_test_vectors_hold() {
    let page = Page::load();
    let vectors = page.rows("| schema | canonical form | BLAKE3 |");
    assert!(!vectors.is_empty());
    for row in vectors {
        let schema = TypeSchema::decode(&page::bytes_of(&row[1])).unwrap();
        assert_eq!(page::bytes_of(&row[1]), schema.encode(), "{}", row[0]);
        assert_eq!(row[2].trim_matches('`'), schema.hash().to_string());
    }
    let payloads = page.rows("| canonical form | payload | JSON |");
    assert!(!payloads.is_empty());
    for row in payloads {
        let schema = TypeSchema::decode(&page::bytes_of(&row[0])).unwrap();
        let (payload, json) = (page::bytes_of(&row[1]), row[2].trim_matches('`'));
        assert_eq!(schema.to_json(&payload).unwrap(), json);
        assert_eq!(schema.from_json(json).unwrap(), payload);
    }
}

fn client_hello() -> ClientHello {
    ClientHello {
        magic: MAGIC,
        protocol: PROTOCOL,
        client: "demo 1.0".into(),
    }
}

fn server_hello() -> ServerHello {
    ServerHello {
        magic: MAGIC,
        protocol: PROTOCOL,
        server: "0.1.0".into(),
        refused: None,
    }
}

fn request(id: u64, request: Request) -> ClientFrame {
    client(id, ClientBody::Request(request))
}

fn client(id: u64, body: ClientBody) -> ClientFrame {
    ClientFrame { id, body }
}

fn server(id: u64, body: ServerBody) -> ServerFrame {
    ServerFrame { id, body }
}

fn failed(id: u64, code: ErrorCode, message: &str) -> ServerFrame {
    server(id, ServerBody::Error(WireError::new(code, message)))
}

fn framed<T: Serialize>(type_name: &'static str, value: &T) -> (&'static str, Vec<u8>) {
    let max = if type_name == "Frame" {
        MAX_RUNTIME
    } else {
        MAX_CONTROL
    };
    (type_name, frame::encode(value, max).unwrap())
}

#[rustfmt::skip]
fn examples() -> Vec<(&'static str, (&'static str, Vec<u8>))> {
    let (id, native) = (camera(), |frame: Frame<'_>| framed("Frame", &frame));
    let added = RuntimeSpec { name: Some("camera".into()), ..RuntimeSpec::new("/opt/robot/bin/camera") };
    let refused = ServerHello { refused: Some("upgrade the daemon".into()), ..server_hello() };
    let schema = value_schema();
    let unknown = ("ClientFrame", vec![3, 0, 0, 0, 7, 0, 99]);
    vec![
        ("control-client-hello", framed("ClientHello", &client_hello())),
        ("control-server-hello", framed("ServerHello", &server_hello())),
        ("control-server-hello-refused", framed("ServerHello", &refused)),
        ("control-status", framed("ClientFrame", &request(1, Request::Status))),
        ("control-add", framed("ClientFrame", &request(2, Request::RuntimeAdd(added)))),
        ("control-status-reply", framed("ServerFrame", &server(1, ServerBody::Reply(Reply::Status(status()))))),
        ("control-added", framed("ServerFrame", &server(2, ServerBody::Reply(Reply::Added { id, warnings: vec![] })))),
        ("control-start", framed("ClientFrame", &request(3, Request::RuntimeStart {
            instance: "camera".into(), priority: Some(Priority::Low) }))),
        ("control-start-error", framed("ServerFrame", &server(3, ServerBody::Error(error())))),
        ("control-logs", framed("ClientFrame", &request(4, Request::Logs(log_query())))),
        ("control-log-item", framed("ServerFrame", &server(4, ServerBody::Item(Item::Log(log_line()))))),
        ("control-cancel", framed("ClientFrame", &client(4, ClientBody::Cancel))),
        ("control-cancelled", framed("ServerFrame", &failed(4, ErrorCode::Cancelled, "cancelled by the client"))),
        ("control-link-add", framed("ClientFrame", &request(5, Request::LinkAdd(link_spec())))),
        ("control-link-added", framed("ServerFrame", &server(5, ServerBody::Reply(Reply::LinkAdded {
            id: LinkId(1), created: true })))),
        ("control-chunk", framed("ClientFrame", &client(6, ClientBody::Chunk(b"hi".to_vec())))),
        ("control-chunks-end", framed("ClientFrame", &client(6, ClientBody::ChunksEnd { sha256: HI }))),
        ("control-unknown", unknown),
        ("control-unknown-error", framed("ServerFrame", &unknown_answer())),
        ("runtime-hello", native(Frame::Hello { magic: runtime::MAGIC, protocol: runtime::PROTOCOL, sdk: "demo 1.0" })),
        ("runtime-declare-output", native(Frame::Declare(declare(&schema)))),
        ("runtime-declare-input", native(Frame::Declare(Declare {
            channel: 1, direction: Direction::Input, name: "acme.limit.v1", hash: None, window: 64, ..declare(&schema) }))),
        ("runtime-welcome", native(Frame::Welcome { protocol: runtime::PROTOCOL, server: "0.1.0", instance: id })),
        ("runtime-grant-32", native(Frame::Grant { channel: 0, total: 32 })),
        ("runtime-message", native(Frame::Message { channel: 0, payload: &[0xac, 2] })),
        ("runtime-message-in", native(Frame::Message { channel: 1, payload: &[7] })),
        ("runtime-grant-96", native(Frame::Grant { channel: 1, total: 96 })),
        ("runtime-grant-unlimited", native(Frame::Grant { channel: 0, total: UNLIMITED })),
        ("runtime-request", native(Frame::Request { id: 0, request: start("recorder", None) })),
        ("runtime-reply", native(Frame::Reply { id: 0, result: Err(WireError::new(ErrorCode::NotPermitted, "not privileged")) })),
        ("runtime-refused", native(Frame::Refused(WireError::new(
            ErrorCode::Malformed, "a message on channel 7, which is no output")))),
    ]
}

/// SHA-256 of "hi".
const HI: [u8; 32] = [
    0x8f, 0x43, 0x43, 0x46, 0x64, 0x8f, 0x6b, 0x96, 0xdf, 0x89, 0xdd, 0xa9, 0x01, 0xc5, 0x17, 0x6b,
    0x10, 0xa6, 0xd8, 0x39, 0x61, 0xdd, 0x3c, 0x1a, 0xc8, 0x8b, 0x59, 0xb2, 0xdc, 0x32, 0x7a, 0xa4,
];

/// What the code makes of the unknown request.
fn unknown_answer() -> ServerFrame {
    let (id, error) = decode_client_frame(&[7, 0, 99]).unwrap_err();
    server(id.unwrap(), ServerBody::Error(error))
}

#[test]
fn the_examples_are_what_the_code_encodes() {
    let page = Page::load();
    let (mut blocks, mut wrong) = (page.blocks(), String::new());
    for (label, (type_name, bytes)) in examples() {
        if blocks.remove(label).as_ref() != Some(&bytes) {
            let body = &bytes[PREFIX..];
            let explained = match label {
                // No page says what this is.
                "control-unknown" => page.hex(body) + "\n",
                _ => page.read(type_name, body).explained,
            };
            let _ = writeln!(
                wrong,
                "```hex {label}\n{:<34} # {} bytes\n{explained}```\n",
                page.hex(&bytes[..PREFIX]),
                body.len()
            );
        }
    }
    assert!(wrong.is_empty(), "these blocks should read:\n{wrong}");
    assert!(blocks.is_empty(), "blocks that nothing checks: {blocks:?}");
    let _: OsBytes = OsBytes::default();
}
