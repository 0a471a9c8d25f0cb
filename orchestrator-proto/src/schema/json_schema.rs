//! A schema as JSON Schema, of the JSON form that its payloads have.

use serde_json::{Map, Value, json};

use super::{Field, TypeSchema, Variant, VariantBody};

/// The dialect that is written, <https://json-schema.org/draft/2020-12>.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

impl TypeSchema {
    /// The JSON Schema (2020-12) of what [`to_json`](Self::to_json) makes of payloads of this type,
    /// under this title. Whatever it makes is valid by it; not all that is valid can be read back:
    /// numbers of more than 53 bits, for example, have bounds that few programs can check.
    #[must_use]
    pub fn to_json_schema(&self, title: &str) -> Value {
        let mut schema = self.described();
        if let Some(schema) = schema.as_object_mut() {
            schema.insert("$schema".to_owned(), DIALECT.into());
            schema.insert("title".to_owned(), title.into());
        }
        schema
    }

    fn described(&self) -> Value {
        match self {
            Self::Bool => json!({"type": "boolean"}),
            // NaN and the infinities are null.
            Self::F32 | Self::F64 => json!({"type": ["number", "null"]}),
            Self::Char => json!({"type": "string", "minLength": 1, "maxLength": 1}),
            Self::String => json!({"type": "string"}),
            Self::Bytes => json!({"type": "array", "items": Self::U8.described()}),
            Self::Unit => json!({"type": "null"}),
            Self::Option(inner) => json!({"anyOf": [{"type": "null"}, inner.described()]}),
            Self::Seq(inner) => json!({"type": "array", "items": inner.described()}),
            Self::Tuple(elements) => tuple(elements),
            Self::Map(key, value) if key.is_object_key() => {
                let mut map = json!({"type": "object", "additionalProperties": value.described()});
                if let Self::Enum(variants) = &**key {
                    let names: Vec<_> = variants.iter().map(|it| it.name.as_str()).collect();
                    map["propertyNames"] = json!({"enum": names});
                }
                map
            }
            Self::Map(key, value) => {
                let pair = tuple(&[(**key).clone(), (**value).clone()]);
                json!({"type": "array", "items": pair})
            }
            Self::Struct(fields) => object(fields),
            Self::Enum(variants) => one_of(variants),
            integer => integer_schema(integer.integer_bits().unwrap_or((64, true))),
        }
    }
}

fn integer_schema((bits, signed): (u32, bool)) -> Value {
    let mut schema = json!({"type": "integer"});
    // As exact as JSON numbers are for everybody.
    if bits <= 32 {
        let bits = if signed { bits - 1 } else { bits };
        let most = (1_i64 << bits) - 1;
        schema["maximum"] = most.into();
        schema["minimum"] = if signed { (-most - 1).into() } else { 0.into() };
    } else if !signed {
        schema["minimum"] = 0.into();
    }
    schema
}

/// A fixed number of values; none of them is null.
fn tuple(elements: &[TypeSchema]) -> Value {
    if elements.is_empty() {
        return json!({"type": "null"});
    }
    let each: Vec<_> = elements.iter().map(TypeSchema::described).collect();
    let count = each.len();
    json!({"type": "array", "prefixItems": each, "minItems": count, "maxItems": count})
}

fn object(fields: &[Field]) -> Value {
    let properties: Map<_, _> =
        fields.iter().map(|Field { name, schema }| (name.clone(), schema.described())).collect();
    let names: Vec<_> = fields.iter().map(|field| field.name.as_str()).collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": names,
        "additionalProperties": false,
    })
}

/// The name of a variant, or an object that has it as its one key.
fn one_of(variants: &[Variant]) -> Value {
    let all: Vec<_> = variants
        .iter()
        .map(|Variant { name, body }| {
            let content = match body {
                VariantBody::Unit => return json!({"const": name}),
                VariantBody::Newtype(inner) => inner.described(),
                VariantBody::Tuple(one) if one.len() == 1 => one[0].described(),
                VariantBody::Tuple(elements) if elements.is_empty() => {
                    json!({"type": "array", "maxItems": 0})
                }
                VariantBody::Tuple(elements) => tuple(elements),
                VariantBody::Struct(fields) => object(fields),
            };
            json!({
                "type": "object",
                "properties": {name: content},
                "required": [name],
                "additionalProperties": false,
            })
        })
        .collect();
    json!({"anyOf": all})
}
