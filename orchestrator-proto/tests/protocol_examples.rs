//! PROTOCOL.md says what the code does: its examples are what the code encodes, and its tables
//! of types, read by a small decoder, make of the code's bytes what the code put in.
// A test fails by panicking.
#![allow(clippy::unwrap_used)]

mod page;
mod samples;

use std::fmt::Write as _;

use orchestrator_proto::control::*;
use orchestrator_proto::frame::{self, MAX_CONTROL, MAX_RUNTIME, PREFIX};
use orchestrator_proto::runtime::{
    self, Answer, CallEnd, CallFailure, CallFrame, Declare, DeclareCalls, Direction, Frame,
    MAX_CHANNELS, MAX_PAYLOAD, UNLIMITED,
};
use orchestrator_proto::schema::{MAX_BYTES, MAX_DEPTH, MAX_JSON, MAX_NODES, MAX_VALUES};
use orchestrator_proto::{ErrorCode, LinkId, TypeSchema, WireError};
use page::Page;
use samples::*;
use serde::Serialize;

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
    ClientHello { magic: MAGIC, protocol: PROTOCOL, client: "demo 1.0".into() }
}

fn server_hello() -> ServerHello {
    ServerHello { magic: MAGIC, protocol: PROTOCOL, server: "0.1.0".into(), refused: None }
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

fn framed<T: Serialize>(type_name: &'static str, value: &T) -> (&'static str, Vec<u8>) {
    let max = if type_name == "Frame" { MAX_RUNTIME } else { MAX_CONTROL };
    (type_name, frame::encode(value, max).unwrap())
}

#[rustfmt::skip]
fn examples() -> Vec<(&'static str, (&'static str, Vec<u8>))> {
    let (id, native) = (camera(), |frame: Frame<'_>| framed("Frame", &frame));
    let added = RuntimeSpec { name: Some("camera".into()), ..RuntimeSpec::new("/opt/camera") };
    let refused = ServerHello { refused: Some("upgrade the daemon".into()), ..server_hello() };
    let schema = value_schema();
    let unknown = ("ClientFrame", vec![3, 0, 0, 0, 7, 0, 99]);
    vec![
        ("control-client-hello", framed("ClientHello", &client_hello())),
        ("control-server-hello", framed("ServerHello", &server_hello())),
        ("control-server-hello-refused", framed("ServerHello", &refused)),
        ("control-status", framed("ClientFrame", &request(1, Request::Status))),
        ("control-add", framed("ClientFrame", &request(2, Request::RuntimeAdd(added)))),
        ("control-status-reply", framed("ServerFrame", &server(1, ServerBody::Reply(Reply::Status(Box::new(status())))))),
        ("control-added", framed("ServerFrame", &server(2, ServerBody::Reply(Reply::Added { id, warnings: vec![] })))),
        ("control-start", framed("ClientFrame", &request(3, Request::RuntimeStart {
            instance: "camera".into(), priority: Some(Priority::Low) }))),
        ("control-start-error", framed("ServerFrame", &server(3, ServerBody::Error(error())))),
        ("control-logs", framed("ClientFrame", &request(4, Request::Logs(log_query())))),
        ("control-log-item", framed("ServerFrame", &server(4, ServerBody::Item(Item::Log(log_line()))))),
        ("control-cancel", framed("ClientFrame", &client(4, ClientBody::Cancel))),
        ("control-ended", framed("ServerFrame", &server(4, ServerBody::End))),
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
        ("runtime-keep", native(Frame::Keep { channel: 0, epoch: 300, next: 0, again: 0 })),
        ("runtime-acknowledge-out", native(Frame::Acknowledge { channel: 0, total: 29 })),
        ("runtime-keep-again", native(Frame::Keep { channel: 0, epoch: 300, next: 29, again: 11 })),
        ("runtime-recognise", native(Frame::Recognise { channel: 1 })),
        ("runtime-from", native(Frame::From { channel: 1, sender: Some(sender()), next: 29, kept: true })),
        ("runtime-skip", native(Frame::Skip { channel: 1, count: 2 })),
        ("runtime-acknowledge-in", native(Frame::Acknowledge { channel: 1, total: 12 })),
        ("runtime-grant-unlimited", native(Frame::Grant { channel: 0, total: UNLIMITED })),
        ("runtime-request", native(Frame::Request { id: 0, request: start("recorder", None) })),
        ("runtime-reply", native(Frame::Reply { id: 0, result: Err(WireError::new(ErrorCode::NotPermitted, "not privileged")) })),
        ("runtime-calls-client", native(Frame::Calls(CallFrame::Declare(DeclareCalls {
            channel: 2, end: CallEnd::Client, name: "acme.count.v1", request: &schema, reply: &[1], at_once: 0 })))),
        ("runtime-calls-service", native(Frame::Calls(CallFrame::Declare(DeclareCalls {
            channel: 2, end: CallEnd::Service, name: "acme.count.v1", request: &schema, reply: &[1], at_once: 64 })))),
        ("runtime-call", native(Frame::Calls(CallFrame::Call { channel: 2, id: 1, timeout_ms: 10_000, payload: &[7] }))),
        ("runtime-call-given", native(Frame::Calls(CallFrame::Call { channel: 2, id: 300, timeout_ms: 9_999, payload: &[7] }))),
        ("runtime-call-reply", native(Frame::Calls(CallFrame::Answer { channel: 2, id: 300, answer: Answer::Reply(&[49]) }))),
        ("runtime-call-answer", native(Frame::Calls(CallFrame::Answer { channel: 2, id: 1, answer: Answer::Reply(&[49]) }))),
        ("runtime-call-failure", native(Frame::Calls(CallFrame::Answer {
            channel: 2, id: 2, answer: Answer::Failure(CallFailure::TimedOut { given: false }) }))),
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
                "control-unknown" => page::explain(body, "id 7, a request, number 99"),
                _ => page.read(type_name, body).explained,
            };
            let _ = writeln!(
                wrong,
                "```hex {label}\n{}{explained}```\n",
                page::explain(&bytes[..PREFIX], &format!("{} bytes", body.len()))
            );
        }
    }
    assert!(wrong.is_empty(), "these blocks should read:\n{wrong}");
    assert!(blocks.is_empty(), "blocks that nothing checks: {blocks:?}");
}
