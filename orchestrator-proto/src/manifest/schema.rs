//! The form for editors: a JSON Schema, see <https://json-schema.org/draft-07>.

use serde_json::{Value, json};

use super::keys::{FILE, Key, Shape, required};

/// The JSON Schema (draft 07) of `orchestrator.toml`: with it an editor completes and checks it.
/// What only the daemon can know, such as whether a name is taken, is not in it.
#[must_use]
pub fn json_schema() -> Value {
    let mut schema = table(FILE);
    if let Value::Object(fields) = &mut schema {
        let mut add = |name: &str, value: &str| {
            fields.insert(name.to_owned(), json!(value));
        };
        add("$schema", "http://json-schema.org/draft-07/schema#");
        add("title", "orchestrator.toml");
        add("description", "Instances and links of an orchestrator.");
    }
    schema
}

fn table(keys: &'static [Key]) -> Value {
    let properties = keys.iter().map(|key| {
        let mut schema = shape(&key.shape);
        if let Value::Object(fields) = &mut schema {
            fields.insert("description".into(), json!(key.doc));
        }
        (key.name.to_owned(), schema)
    });
    let properties: serde_json::Map<_, _> = properties.collect();
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
        "required": required(keys),
    })
}

fn shape(of: &'static Shape) -> Value {
    match of {
        Shape::Text => json!({"type": "string"}),
        Shape::Flag => json!({"type": "boolean"}),
        Shape::Number { least, most } => {
            json!({"type": "integer", "minimum": least, "maximum": most})
        }
        Shape::Signed { least, most } => {
            json!({"type": "integer", "minimum": least, "maximum": most})
        }
        Shape::Time => json!({"type": ["string", "integer"], "minimum": 0}),
        Shape::Size => json!({"type": ["string", "integer"], "minimum": 0}),
        Shape::Cpu => json!({"type": ["string", "number"], "minimum": 0.01}),
        Shape::Signal => json!({"type": ["string", "integer"], "minimum": 1, "maximum": 64}),
        // A variable may stand for one of them.
        Shape::Choice(words) => {
            json!({"anyOf": [{"enum": words}, {"type": "string", "pattern": "\\$\\{"}]})
        }
        Shape::List(item) => json!({"type": "array", "items": shape(item)}),
        Shape::OneOf(shapes) => {
            json!({"anyOf": shapes.iter().map(shape).collect::<Vec<_>>()})
        }
        Shape::Table(keys) => table(keys),
        Shape::Named(value) => json!({"type": "object", "additionalProperties": shape(value)}),
    }
}
