//! Tests of the whole of `schema`.

#[cfg(feature = "sdk")]
mod derived;
mod diff;
mod properties;

use super::*;

fn field(name: &str, schema: TypeSchema) -> Field {
    Field { name: name.into(), schema }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The same vectors stand in PROTOCOL.md.
#[test]
fn test_vectors() {
    use TypeSchema as T;
    let variant = |name: &str, body| Variant { name: name.into(), body };
    let vectors = [
        (T::U32, "03", "e1e0e81d6ea39b0cf8b86ffd440921011f57400cbc3f76a8a171906a9b8d7505"),
        (
            T::Struct(vec![field("value", T::U32)]),
            "15010576616c756503",
            "39c577b1a9c2cb724996f2bbc0426567d0345db94db19f2edc541837df228f58",
        ),
        (
            T::Option(Box::new(T::Seq(Box::new(T::Tuple(vec![T::U8, T::String]))))),
            "11121302010e",
            "e60383f74bbd292846c0300302b562901ee31848b5c97be36f48085254254275",
        ),
        (
            T::Map(Box::new(T::String), Box::new(T::Bytes)),
            "140e0f",
            "98bc2c71536df577ae80303c4ee496354f63f6370b81fc70b73526737f7d0c21",
        ),
        (
            T::Enum(vec![
                variant("Off", VariantBody::Unit),
                variant("On", VariantBody::Newtype(T::F32)),
                variant("Move", VariantBody::Tuple(vec![T::I16, T::I64])),
                variant("Say", VariantBody::Struct(vec![field("text", T::String)])),
            ]),
            "1604034f666600024f6e010b044d6f76650202070903536179030104746578740e",
            "3bac912dc2041f6870e9df09dc14ef39ff870b08043528be5284f3de547cce8e",
        ),
    ];
    for (schema, canonical, hash) in vectors {
        assert_eq!(hex(&schema.encode()), canonical, "{schema}");
        assert_eq!(schema.hash().to_string(), hash, "{schema}");
        assert_eq!(T::decode(&schema.encode()), Ok(schema));
    }
}

#[test]
fn one_meaning_has_one_form() {
    use TypeSchema as T;
    assert_eq!(T::Tuple(vec![]).encode(), T::Unit.encode());
    let one = |body| T::Enum(vec![Variant { name: "V".into(), body }]);
    assert_eq!(
        one(VariantBody::Tuple(vec![T::U8])).encode(),
        one(VariantBody::Newtype(T::U8)).encode()
    );
    assert_eq!(T::decode(&[19, 0]), Err(SchemaError::BadTuple(0)));
    assert_eq!(T::decode(&[22, 1, 1, b'V', 2, 1, 1]), Err(SchemaError::BadTuple(1)));
    // The count 1 in two bytes.
    assert_eq!(T::decode(&[19, 0x81, 0, 1]), Err(SchemaError::BadNumber));
}

#[test]
fn bounds_are_kept() {
    use TypeSchema as T;
    let nested = |levels: usize| [vec![17; levels - 1], vec![0]].concat();
    assert!(T::decode(&nested(MAX_DEPTH)).is_ok());
    assert_eq!(T::decode(&nested(MAX_DEPTH + 1)), Err(SchemaError::TooDeep));
    assert_eq!(T::decode(&nested(60_000)), Err(SchemaError::TooDeep));
    assert_eq!(T::decode(&nested(70_000)), Err(SchemaError::TooLong(70_000)));
    assert!(T::decode(&T::Tuple(vec![T::U8; MAX_NODES - 1]).encode()).is_ok());
    assert_eq!(
        T::decode(&T::Tuple(vec![T::U8; MAX_NODES]).encode()),
        Err(SchemaError::TooManyNodes)
    );
    assert_eq!(T::decode(&[]), Err(SchemaError::Truncated));
    assert_eq!(T::decode(&[0, 0]), Err(SchemaError::Trailing(1)));
    assert_eq!(T::decode(&[23]), Err(SchemaError::UnknownTag(23)));
    assert_eq!(T::decode(&[21, 1, 0, 1]), Err(SchemaError::BadName));
    let twice = T::Struct(vec![field("a", T::U8), field("a", T::U8)]);
    assert_eq!(T::decode(&twice.encode()), Err(SchemaError::DuplicateName("a".into())));
    let long = T::Struct(vec![field(&"a".repeat(256), T::U8)]);
    assert_eq!(T::decode(&long.encode()), Err(SchemaError::BadName));
}

#[test]
fn a_payload_that_claims_too_much_fails_at_once() {
    let mut payload = Vec::new();
    canonical::varint(&mut payload, 1_u64 << 60);
    let units = TypeSchema::Seq(Box::new(TypeSchema::Unit));
    assert_eq!(units.to_json(&payload), Err(DecodeError::TooManyValues));
    let maps = TypeSchema::Map(Box::new(TypeSchema::Unit), Box::new(TypeSchema::Unit));
    assert_eq!(maps.to_json(&payload), Err(DecodeError::TooManyValues));
    assert_eq!(TypeSchema::String.to_json(&payload), Err(DecodeError::Truncated));
    let name = "n".repeat(255);
    let wide = TypeSchema::Seq(Box::new(TypeSchema::Struct(vec![field(&name, TypeSchema::Unit)])));
    assert_eq!(wide.to_json(&payload), Err(DecodeError::TooLong));
}

/// A schema with as many levels as there can be, of each kind that has levels, and a payload.
fn deepest() -> Vec<(TypeSchema, Vec<u8>)> {
    use TypeSchema as T;
    let nested = |wrap: &dyn Fn(T) -> T| (1..MAX_DEPTH).fold(T::U8, |inner, _| wrap(inner));
    type Wrap<'a> = &'a dyn Fn(T) -> T;
    let kinds: [(Wrap<'_>, &[u8]); 6] = [
        (&|inner| T::Option(Box::new(inner)), &[1]),
        (&|inner| T::Seq(Box::new(inner)), &[1]),
        (&|inner| T::Tuple(vec![inner]), &[]),
        (&|inner| T::Map(Box::new(T::U8), Box::new(inner)), &[1, 5]),
        (&|inner| T::Struct(vec![field("a", inner)]), &[]),
        (
            &|inner| {
                let body = VariantBody::Newtype(inner);
                T::Enum(vec![Variant { name: "A".into(), body }])
            },
            &[0],
        ),
    ];
    let of = |(wrap, prefix): (Wrap<'_>, &[u8])| {
        (nested(wrap), [prefix.repeat(MAX_DEPTH - 1), vec![7]].concat())
    };
    kinds.into_iter().map(of).collect()
}

/// Recursion is bounded by the levels of the schema, whatever the text has: a quarter of the stack
/// of a worker thread is enough.
#[test]
fn what_is_deeply_nested_needs_little_stack() {
    let work = || {
        for (schema, payload) in deepest() {
            let schema = TypeSchema::decode(&schema.encode()).unwrap();
            let json = schema.to_json(&payload).unwrap();
            assert_eq!(schema.from_json(&json), Ok(payload), "{json}");
            for open in ["[", "{\"a\":", "[[5,", "{\"A\":", "{\"5\":"] {
                assert!(schema.from_json(&open.repeat(1_000_000)).is_err());
            }
            assert!(schema.diff(&TypeSchema::U8).differences.len() == 1);
            assert!(!schema.to_json_schema("T").to_string().is_empty());
        }
    };
    std::thread::Builder::new().stack_size(512 << 10).spawn(work).unwrap().join().unwrap();
}

#[test]
fn a_text_makes_no_payload_beyond_the_bound() {
    use TypeSchema as T;
    let option = || T::Option(Box::new(T::U8));
    let wide = T::Struct((0..2000).map(|at| field(&format!("f{at}"), option())).collect());
    // Three characters for two thousand bytes.
    let json = format!("[{}{{}}]", "{},".repeat(100_000));
    let refused = T::Seq(Box::new(wide)).from_json(&json).unwrap_err();
    assert!(refused.problem.contains("exceeds"), "{refused}");
}

#[test]
fn payloads_are_checked_as_postcard_checks_them() {
    use TypeSchema as T;
    let wrong: [(T, &[u8], DecodeError); 9] = [
        (T::Bool, &[2], DecodeError::BadBool(2)),
        (T::Option(Box::new(T::U8)), &[2, 0], DecodeError::BadOption(2)),
        (T::U16, &[0xff, 0xff, 0x04], DecodeError::BadNumber),
        (T::U16, &[0x80, 0x80, 0x80, 0], DecodeError::BadNumber),
        (T::Char, &[2, b'a', b'b'], DecodeError::BadChar),
        (T::String, &[1, 0xff], DecodeError::BadUtf8),
        (T::U8, &[1, 2], DecodeError::Trailing(1)),
        (T::F32, &[1, 2], DecodeError::Truncated),
        (T::Enum(vec![]), &[0], DecodeError::BadVariant { number: 0, count: 0 }),
    ];
    for (schema, payload, error) in wrong {
        assert_eq!(schema.to_json(payload), Err(error), "{schema}");
    }
    assert_eq!(T::U16.to_json(&[0xff, 0xff, 0x03]).unwrap(), "65535");
    assert_eq!(T::I8.to_json(&[0xff]).unwrap(), "-1");
    assert_eq!(T::I64.to_json(&[3]).unwrap(), "-2");
}

#[test]
fn errors_name_the_place() {
    use TypeSchema as T;
    let pose = T::Struct(vec![field("x", T::F32), field("n", T::U8)]);
    let schema = T::Struct(vec![field("pose", pose), field("axes", T::Seq(Box::new(T::I8)))]);
    let complaint = |json| schema.from_json(json).unwrap_err().to_string();
    for (json, text) in [
        (r#"{"pose":{"x":"abc"}}"#, r#"at .pose.x: expected f32, found "abc""#),
        (r#"{"pose":{"x":1,"n":300}}"#, "at .pose.n: 300 is out of range of u8"),
        (r#"{"pose":{"x":1e39}}"#, "at .pose.x: 1e39 is out of range of f32"),
        (
            r#"{"pose":{"x":null}}"#,
            "at .pose.x: expected f32, found null (NaN and the infinities have no JSON form)",
        ),
        (r#"{"axes":[1,2.5]}"#, "at .axes[1]: expected i8, found 2.5"),
        (r#"{"axes":[]}"#, r#"at .: the field "pose" is missing"#),
        (r#"{"axis":[]}"#, "at .: there is no field axis; there is pose, axes"),
        ("", "at .: expected an object, found the end"),
        (r#"{"axes":[],"axes":[]}"#, r#"at .: the field "axes" is there twice"#),
    ] {
        assert_eq!(complaint(json), text);
    }
    assert_eq!(
        T::U8.from_json("1 2").unwrap_err().to_string(),
        "at .: unexpected 2 after the value"
    );
    for json in ["01", "+1", "1.", "0x1", "1e2", "--1", "-", "1_0"] {
        assert!(T::I32.from_json(json).is_err(), "{json}");
    }
    for json in ["\"a", "\"\\\"", "\"\\x\"", "\"\n\"", "é", "\"é"] {
        assert!(T::String.from_json(json).is_err(), "{json}");
    }
}

#[test]
fn two_columns_mark_what_differs() {
    use TypeSchema as T;
    let schema = |y| {
        T::Struct(vec![
            field("x", T::Option(Box::new(T::F32))),
            field("y", y),
            field("tags", T::Seq(Box::new(T::String))),
        ])
    };
    let text = side_by_side("sender", &schema(T::U32), "receiver", &schema(T::U64));
    let expected = "  sender                 | receiver
  ---------------------- | ----------------------
  struct {               | struct {
      x: Option<f32>,    |     x: Option<f32>,
!     y: u32,            |     y: u64,
      tags: Vec<String>, |     tags: Vec<String>,
  }                      | }";
    assert_eq!(text, expected);
}

#[test]
fn names_from_elsewhere_do_not_reach_the_terminal_raw() {
    let schema = TypeSchema::Struct(vec![field("\x1b[2J", TypeSchema::U8)]);
    assert!(!schema.to_string().contains('\x1b'));
}
