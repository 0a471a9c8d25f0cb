//! What serde_json says about real types.

use std::collections::BTreeMap;

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

use super::super::*;
use super::field;

#[derive(Serialize, Deserialize, Schema, Debug, PartialEq)]
struct Everything {
    flag: bool,
    small: (u8, i8),
    wide: (u16, i16, u32, i32, u64, i64),
    widest: (u128, i128),
    floats: (f32, f64),
    letter: char,
    text: String,
    nothing: (),
    none: Option<u8>,
    some: Option<String>,
    list: Vec<Wrapper>,
    array: [f32; 3],
    one: (u8,),
    by_name: BTreeMap<String, i32>,
    by_number: BTreeMap<i64, bool>,
    by_char: BTreeMap<char, u8>,
    by_flag: BTreeMap<bool, u8>,
    by_kind: BTreeMap<Kind, u8>,
    shapes: Vec<Shape>,
    result: Result<u8, String>,
    unit: Marker,
    pair: Pair,
    empty: Empty,
    #[serde(rename = "other name")]
    renamed: u8,
    time: std::time::Duration,
}

#[derive(Serialize, Deserialize, Schema, Debug, PartialEq)]
struct Wrapper(u32);
#[derive(Serialize, Deserialize, Schema, Debug, PartialEq)]
struct Pair(u32, String);
#[derive(Serialize, Deserialize, Schema, Debug, PartialEq)]
struct Marker;
#[derive(Serialize, Deserialize, Schema, Debug, PartialEq)]
struct Empty {}

#[derive(Serialize, Deserialize, Schema, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Cold,
    Hot,
}

#[derive(Serialize, Deserialize, Schema, Debug, PartialEq)]
enum Shape {
    Nothing,
    Circle(f32),
    Box(f64, f64),
    Named { name: String, inner: Option<Wrapper> },
    Parentheses(),
}

fn everything() -> Everything {
    Everything {
        flag: true,
        small: (255, -128),
        wide: (u16::MAX, i16::MIN, u32::MAX, i32::MIN, u64::MAX, i64::MIN),
        widest: (u128::MAX, i128::MIN),
        floats: (0.1, 1e-300),
        letter: '"',
        text: "a\u{7f}\u{1}\\ \"é\u{1f600}\n".into(),
        nothing: (),
        none: None,
        some: Some("x".into()),
        list: vec![Wrapper(1), Wrapper(300)],
        array: [1.0, f32::MIN_POSITIVE, 16_777_216.0],
        one: (7,),
        by_name: [("a".into(), 1), ("b\"".into(), -1)].into(),
        by_number: [(-5, true), (1 << 40, false)].into(),
        by_char: [('é', 1)].into(),
        by_flag: [(true, 1), (false, 0)].into(),
        by_kind: [(Kind::Hot, 1), (Kind::Cold, 0)].into(),
        shapes: vec![
            Shape::Nothing,
            Shape::Circle(1.5),
            Shape::Box(1.0, 2.0),
            Shape::Named { name: "n".into(), inner: Some(Wrapper(2)) },
            Shape::Parentheses(),
        ],
        result: Err("no".into()),
        unit: Marker,
        pair: Pair(1, "p".into()),
        empty: Empty {},
        renamed: 9,
        time: std::time::Duration::from_millis(1500),
    }
}

#[test]
fn json_is_what_serde_json_writes() {
    let schema = TypeSchema::from(Everything::SCHEMA);
    assert_eq!(TypeSchema::decode(&schema.encode()), Ok(schema.clone()));
    let value = everything();
    let payload = postcard::to_stdvec(&value).unwrap();
    let json = schema.to_json(&payload).unwrap();
    assert_eq!(json, serde_json::to_string(&value).unwrap());
    assert_eq!(schema.from_json(&json), Ok(payload));
}

#[test]
fn json_is_read_as_serde_json_reads_it() {
    #[derive(Serialize, Deserialize, Schema, Debug, PartialEq)]
    struct Small {
        a: u8,
        b: Option<f64>,
        c: Kind,
    }
    let schema = TypeSchema::from(Small::SCHEMA);
    for json in [
        r#" { "c" : "Hot" , "a" : 1 , "b" : 2 } "#,
        r#"{"a":1,"c":"Cold"}"#,
        r#"{"c":{"Hot":null},"b":null,"a":0}"#,
        r#"[1, null, "Hot"]"#,
        r#"{"a":1,"c":"H\u006ft"}"#,
        r#"{"a":-1,"c":"Hot"}"#,
        r#"{"a":1.0,"c":"Hot"}"#,
        r#"{"c":"Hot"}"#,
        r#"{"a":1,"c":"Warm"}"#,
        r#"{"a":1,"c":"Hot",}"#,
        r#"{"a":1 "c":"Hot"}"#,
        r#"[1, null]"#,
        r#"[1, null, "Hot", 2]"#,
        r#"{"a":1,"c":"Hot"} x"#,
    ] {
        let expected = serde_json::from_str::<Small>(json).ok();
        let ours = schema.from_json(json).ok();
        let ours = ours.map(|bytes| postcard::from_bytes::<Small>(&bytes).unwrap());
        assert_eq!(ours, expected, "{json}");
    }
}

#[test]
fn floats_that_are_not_finite_are_null() {
    let payload = postcard::to_stdvec(&(f32::NAN, f64::INFINITY)).unwrap();
    let schema = TypeSchema::from(<(f32, f64)>::SCHEMA);
    assert_eq!(schema.to_json(&payload).unwrap(), "[null,null]");
}

#[test]
fn names_of_types_do_not_count() {
    #[derive(Schema)]
    #[allow(dead_code)]
    struct Renamed(Inner);
    #[derive(Schema)]
    #[allow(dead_code)]
    struct Inner {
        value: u32,
    }
    assert_eq!(
        TypeSchema::from(Renamed::SCHEMA),
        TypeSchema::Struct(vec![field("value", TypeSchema::U32)])
    );
}
