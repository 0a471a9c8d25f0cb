//! What holds for any schema and any value.

use proptest::prelude::*;

use super::super::*;

fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z_]{1,6}", "\\PC{1,3}"]
}

fn unique<T: Clone + std::fmt::Debug + 'static>(
    of: impl Strategy<Value = T> + 'static,
    max: usize,
) -> impl Strategy<Value = Vec<(String, T)>> {
    prop::collection::btree_map(name(), of, 0..max).prop_map(|map| map.into_iter().collect())
}

fn struct_fields(of: BoxedStrategy<TypeSchema>) -> impl Strategy<Value = Vec<Field>> {
    unique(of, 4).prop_map(|fields| {
        let field = |(name, schema)| Field { name, schema };
        fields.into_iter().map(field).collect()
    })
}

fn scalar() -> impl Strategy<Value = TypeSchema> {
    use TypeSchema as T;
    prop::sample::select(vec![
        T::Bool,
        T::U8,
        T::U16,
        T::U32,
        T::U64,
        T::U128,
        T::I8,
        T::I16,
        T::I32,
        T::I64,
        T::I128,
        T::F32,
        T::F64,
        T::Char,
        T::String,
        T::Bytes,
        T::Unit,
    ])
}

pub(super) fn any_schema() -> impl Strategy<Value = TypeSchema> {
    use TypeSchema as T;
    scalar().prop_recursive(4, 40, 4, |inner| {
        let inner = inner.boxed();
        let body = prop_oneof![
            Just(VariantBody::Unit),
            inner.clone().prop_map(VariantBody::Newtype),
            prop::collection::vec(inner.clone(), 2..4).prop_map(VariantBody::Tuple),
            Just(VariantBody::Tuple(vec![])),
            struct_fields(inner.clone()).prop_map(VariantBody::Struct),
        ];
        let variants = unique(body, 4).prop_map(|variants| {
            let variant = |(name, body)| Variant { name, body };
            T::Enum(variants.into_iter().map(variant).collect())
        });
        prop_oneof![
            inner.clone().prop_map(|s| T::Option(Box::new(s))),
            inner.clone().prop_map(|s| T::Seq(Box::new(s))),
            prop::collection::vec(inner.clone(), 1..4).prop_map(T::Tuple),
            (inner.clone(), inner.clone()).prop_map(|(k, v)| T::Map(Box::new(k), Box::new(v))),
            (scalar(), inner.clone()).prop_map(|(k, v)| T::Map(Box::new(k), Box::new(v))),
            struct_fields(inner).prop_map(T::Struct),
            variants,
        ]
    })
}

/// Some payload of the type, made of what the random bytes say.
fn payload(schema: &TypeSchema, random: &mut impl Iterator<Item = u8>, out: &mut Vec<u8>) -> bool {
    use TypeSchema as T;
    let mut next = || random.next().unwrap_or_default();
    let wide = {
        let mut bytes = [0; 16];
        let width = usize::from(next() % 17);
        bytes[..width].fill_with(&mut next);
        u128::from_le_bytes(bytes)
    };
    match schema {
        T::Bool => out.push(next() & 1),
        T::U8 | T::I8 => out.push(next()),
        T::F32 => {
            let value = f32::from_bits(wide as u32);
            out.extend(if value.is_finite() { value } else { 0.1 }.to_le_bytes());
        }
        T::F64 => {
            let value = f64::from_bits(wide as u64);
            out.extend(if value.is_finite() { value } else { 0.1 }.to_le_bytes());
        }
        T::Char | T::String => {
            let c = char::from_u32(wide as u32 & 0x1f_ffff).unwrap_or('"');
            let text = if *schema == T::Char || next() > 40 {
                c.to_string()
            } else {
                format!("{c}\\{}\u{1}é", char::from(next()))
            };
            canonical::varint(out, text.len() as u64);
            out.extend_from_slice(text.as_bytes());
        }
        T::Bytes => {
            let bytes = &wide.to_le_bytes()[..usize::from(next() % 17)];
            canonical::varint(out, bytes.len() as u64);
            out.extend_from_slice(bytes);
        }
        T::Unit => {}
        // What is nullable twice does not come back from JSON, as with serde_json.
        T::Option(inner) if matches!(**inner, T::Option(_) | T::Unit) => out.push(0),
        T::Option(inner) => {
            out.push(next() & 1);
            return *out.last().unwrap() == 0 || payload(inner, random, out);
        }
        T::Seq(inner) => {
            let count = next() % 4;
            out.push(count);
            return (0..count).all(|_| payload(inner, random, out));
        }
        T::Map(key, value) => {
            let count = next() % 4;
            out.push(count);
            return (0..count).all(|_| payload(key, random, out) && payload(value, random, out));
        }
        T::Tuple(elements) => return elements.iter().all(|s| payload(s, random, out)),
        T::Struct(fields) => return fields.iter().all(|f| payload(&f.schema, random, out)),
        T::Enum(variants) if variants.is_empty() => return false,
        T::Enum(variants) => {
            let number = usize::from(next()) % variants.len();
            out.push(number as u8);
            return match &variants[number].body {
                VariantBody::Unit => true,
                VariantBody::Newtype(inner) => payload(inner, random, out),
                VariantBody::Tuple(elements) => elements.iter().all(|s| payload(s, random, out)),
                VariantBody::Struct(f) => f.iter().all(|f| payload(&f.schema, random, out)),
            };
        }
        integer => {
            let (bits, _) = integer.integer_bits().unwrap();
            canonical::varint(out, wide & (u128::MAX >> (128 - bits)));
        }
    }
    true
}

/// Whether a value is valid by a JSON Schema of those keywords that are written.
fn is_valid(schema: &serde_json::Value, value: &serde_json::Value) -> bool {
    use serde_json::Value;
    let is_of = |name: &str| match name {
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64() || value.is_f64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "null" => value.is_null(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other}"),
    };
    let (items, fields) = (value.as_array(), value.as_object());
    schema.as_object().unwrap().iter().all(|(key, rule)| match key.as_str() {
        "$schema" | "title" => true,
        "type" => match rule {
            Value::Array(names) => names.iter().any(|name| is_of(name.as_str().unwrap())),
            name => is_of(name.as_str().unwrap()),
        },
        "const" => rule == value,
        // Each of these is about values of one type alone.
        "minimum" => value.as_f64().is_none_or(|number| number >= rule.as_f64().unwrap()),
        "maximum" => value.as_f64().is_none_or(|number| number <= rule.as_f64().unwrap()),
        "minLength" | "maxLength" => {
            let length = |text: &str| text.chars().count() as u64;
            value.as_str().is_none_or(|text| length(text) == rule.as_u64().unwrap())
        }
        "minItems" => items.is_none_or(|items| items.len() as u64 >= rule.as_u64().unwrap()),
        "maxItems" => items.is_none_or(|items| items.len() as u64 <= rule.as_u64().unwrap()),
        "items" => items.is_none_or(|items| items.iter().all(|item| is_valid(rule, item))),
        "prefixItems" => {
            let rules = rule.as_array().unwrap().iter();
            items.is_none_or(|items| items.iter().zip(rules).all(|(it, rule)| is_valid(rule, it)))
        }
        "anyOf" => rule.as_array().unwrap().iter().any(|rule| is_valid(rule, value)),
        "required" => {
            let mut names = rule.as_array().unwrap().iter();
            fields.is_none_or(|it| names.all(|name| it.contains_key(name.as_str().unwrap())))
        }
        "properties" => fields.is_none_or(|it| {
            it.iter().all(|(name, value)| rule.get(name).is_none_or(|rule| is_valid(rule, value)))
        }),
        "propertyNames" => {
            let names = rule["enum"].as_array().unwrap();
            fields.is_none_or(|it| it.keys().all(|key| names.contains(&key.as_str().into())))
        }
        "additionalProperties" if rule.is_boolean() => {
            let known = schema["properties"].as_object().unwrap();
            fields.is_none_or(|it| it.keys().all(|key| known.contains_key(key)))
        }
        "additionalProperties" => {
            fields.is_none_or(|it| it.values().all(|value| is_valid(rule, value)))
        }
        other => panic!("{other} is not checked"),
    })
}

proptest! {
    #[test]
    fn what_is_shown_as_json_is_valid_by_the_json_schema(
        schema in any_schema(),
        random in prop::collection::vec(any::<u8>(), 64),
    ) {
        let mut bytes = Vec::new();
        if payload(&schema, &mut random.iter().copied().cycle(), &mut bytes)
            && let Ok(json) = schema.to_json(&bytes)
        {
            let value: serde_json::Value = serde_json::from_str(&json).unwrap();
            let of = schema.to_json_schema("T");
            prop_assert!(is_valid(&of, &value), "{of:#}\n{value:#}");
            prop_assert_eq!(&of["title"], "T");
        }
    }

    #[test]
    fn schemas_come_back_from_their_bytes(schema in any_schema()) {
        let bytes = schema.encode();
        let back = TypeSchema::decode(&bytes);
        prop_assert_eq!(back.as_ref(), Ok(&schema));
        prop_assert_eq!(SchemaHash::of(&bytes), schema.hash());
    }

    #[test]
    fn hostile_schemas_never_panic(
        bytes in prop::collection::vec(prop_oneof![0..24_u8, any::<u8>()], 0..200)
    ) {
        if let Ok(schema) = TypeSchema::decode(&bytes) {
            prop_assert_eq!(schema.encode(), bytes);
        }
    }

    #[test]
    fn values_come_back_from_json(
        schema in any_schema(),
        random in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut bytes = Vec::new();
        if payload(&schema, &mut random.into_iter(), &mut bytes) {
            let json = schema.to_json(&bytes).unwrap();
            serde_json::from_str::<Box<serde_json::value::RawValue>>(&json).unwrap();
            prop_assert_eq!(schema.from_json(&json), Ok(bytes), "{}", json);
        }
    }

    /// Bytes from anywhere: what can be shown can be read back, and shows the same, but for what has
    /// no JSON form of its own.
    #[test]
    fn what_is_shown_of_any_bytes_shows_the_same_again(
        schema in any_schema(),
        bytes in prop::collection::vec(prop_oneof![0..4_u8, any::<u8>()], 0..100),
    ) {
        if let Ok(json) = schema.to_json(&bytes) {
            match schema.from_json(&json) {
                Ok(again) => {
                    // As long as it was, unless numbers were not in their shortest form.
                    prop_assert!(again.len() <= bytes.len());
                    prop_assert_eq!(schema.to_json(&again), Ok(json));
                }
                Err(error) => prop_assert!(json.contains("null"), "{} {}", json, error),
            }
        }
    }

    #[test]
    fn hostile_payloads_and_texts_never_panic(
        schema in any_schema(),
        bytes in prop::collection::vec(prop_oneof![0..4_u8, any::<u8>()], 0..100),
        text in "[\\[\\]{}\",:0-9a-ntrue\\\\.eé -]{0,60}",
        other in any_schema(),
    ) {
        let _ = schema.to_json(&bytes);
        let _ = schema.from_json(&text);
        let _ = side_by_side("left", &schema, "right", &other);
    }
}
