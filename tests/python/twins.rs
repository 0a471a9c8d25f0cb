//! A type in Rust and its twin in Python are the same type, with the same payloads.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Stdio;

use orchestrator_proto::Message;
use orchestrator_proto::sdk::Schema;
use serde::{Deserialize, Serialize};
use tests::Said;

use super::{python, script};

#[derive(Serialize, Deserialize, Schema, Message)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
#[message(name = "twins.scalars.v1")]
struct Scalars {
    a: bool,
    b: u8,
    c: u16,
    d: u32,
    e: u64,
    f: u128,
    g: i8,
    h: i16,
    i: i32,
    j: i64,
    k: i128,
    l: f32,
    m: f64,
    n: char,
    o: String,
}

#[derive(Serialize, Deserialize, Schema)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
enum Mode {
    Off,
    StandBy,
}

#[derive(Serialize, Deserialize, Schema)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
struct Celsius(f32);

#[derive(Serialize, Deserialize, Schema)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
struct Pair(u8, i16);

#[derive(Serialize, Deserialize, Schema)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
struct Stop;

#[derive(Serialize, Deserialize, Schema)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
enum Command {
    Off,
    On(f32),
    Move(i16, i64),
    Say { text: String, of: Option<Pair> },
}

#[derive(Serialize, Deserialize, Schema, Message)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
#[message(name = "twins.composed.v1")]
struct Composed {
    #[serde(rename = "type")]
    mode: Mode,
    maybe: Option<Vec<String>>,
    array: [f32; 3],
    bytes: Vec<u8>,
    key: [u8; 4],
    pair: (u8, String),
    map: BTreeMap<String, Pair>,
    by_number: BTreeMap<i32, Vec<Celsius>>,
    commands: Vec<Command>,
    nothing: (),
    stop: Stop,
    one: (u8,),
}

#[derive(Serialize, Deserialize, Schema, Message)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
#[message(name = "twins.number.v1")]
struct Number(i64);

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What is asked about a value, and what the answer has to be.
fn question<T: Message>(value: &T) -> (String, String) {
    let payload = hex(&postcard::to_stdvec(value).unwrap());
    let schema = T::schema();
    let answer = format!("{} {} {payload}", hex(&schema.encode()), schema.hash());
    (format!("{}:{payload}\n", T::NAME), answer)
}

fn scalars(low: bool) -> Scalars {
    let pick = |a: i128, b: i128| if low { a } else { b };
    Scalars {
        a: low,
        b: if low { 0 } else { u8::MAX },
        c: if low { 127 } else { u16::MAX },
        d: if low { 128 } else { u32::MAX },
        e: if low { 16_384 } else { u64::MAX },
        f: if low { 1 } else { u128::MAX },
        g: if low { i8::MIN } else { i8::MAX },
        h: if low { i16::MIN } else { i16::MAX },
        i: if low { i32::MIN } else { i32::MAX },
        j: if low { i64::MIN } else { i64::MAX },
        k: pick(i128::MIN, i128::MAX),
        l: if low { -0.0 } else { f32::MAX },
        m: if low { f64::NEG_INFINITY } else { f64::MIN_POSITIVE },
        n: if low { 'a' } else { '🤖' },
        o: if low { String::new() } else { "ä\0ö".repeat(50) },
    }
}

fn composed() -> Composed {
    Composed {
        mode: Mode::StandBy,
        maybe: Some(vec!["a".into(), String::new()]),
        array: [1.5, -2.0, f32::INFINITY],
        bytes: (0..=255).collect(),
        key: [255, 0, 7, 128],
        pair: (200, "é".into()),
        map: [("x".into(), Pair(1, -1)), ("y".into(), Pair(2, 300))].into(),
        by_number: [(-5, vec![Celsius(0.5)]), (1 << 30, Vec::new())].into(),
        commands: vec![
            Command::Off,
            Command::On(0.25),
            Command::Move(-1, i64::MIN),
            Command::Say { text: "hi".into(), of: None },
            Command::Say { text: "ho".into(), of: Some(Pair(3, 4)) },
        ],
        nothing: (),
        stop: Stop,
        one: (9,),
    }
}

#[test]
fn a_type_and_its_twin_have_the_same_schema_hash_and_payloads() {
    let Some(mut python) = python() else { return };
    let empty = Composed {
        mode: Mode::Off,
        maybe: None,
        bytes: Vec::new(),
        map: BTreeMap::new(),
        by_number: BTreeMap::new(),
        commands: Vec::new(),
        ..composed()
    };
    let all = [
        question(&scalars(true)),
        question(&scalars(false)),
        question(&composed()),
        question(&empty),
        question(&Number(-300)),
    ];
    let mut child = python
        .arg(script("twins.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // They fit the pipe.
    let mut input = child.stdin.take().unwrap();
    for (question, _) in &all {
        input.write_all(question.as_bytes()).unwrap();
    }
    drop(input);
    let said = Said::when_ended(child);
    assert_eq!(said.code, Some(0), "{said:?}");
    let answers: Vec<_> = said.stdout.lines().collect();
    assert_eq!(answers, all.map(|(_, answer)| answer));
}
