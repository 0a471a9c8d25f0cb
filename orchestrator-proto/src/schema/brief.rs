//! A schema on one short line.

use super::json_text::shorten_to;
use super::{TypeSchema, VariantBody};

/// The longest, characters.
const MAX: usize = 60;

/// The type as Rust would write it, on one line of 60 characters at most: the end of a longer one
/// is left out. Of structs and enums the names of what is in them.
pub(super) fn brief(schema: &TypeSchema) -> String {
    let mut text = String::new();
    write(&mut text, schema);
    shorten_to(&text, MAX)
}

/// Stops when there is enough.
fn write(out: &mut String, schema: &TypeSchema) {
    // Of bytes, of which each character has one at least.
    if out.len() > 8 * MAX {
        return;
    }
    match schema {
        TypeSchema::Option(inner) => wrapped(out, "Option<", [&**inner], ">"),
        TypeSchema::Seq(inner) => wrapped(out, "Vec<", [&**inner], ">"),
        TypeSchema::Map(key, value) => wrapped(out, "Map<", [&**key, &**value], ">"),
        TypeSchema::Tuple(elements) => match elements.as_slice() {
            [first, rest @ ..] if rest.len() >= 2 && rest.iter().all(|it| it == first) => {
                wrapped(out, "[", [first], &format!("; {}]", elements.len()));
            }
            // As in Rust, else `(u8,)` would look like `u8` in parentheses.
            [one] => wrapped(out, "(", [one], ",)"),
            _ => wrapped(out, "(", elements, ")"),
        },
        TypeSchema::Struct(fields) => {
            names(out, "struct", fields.iter().map(|field| (&*field.name, "")));
        }
        TypeSchema::Enum(variants) => {
            let all = variants.iter().map(|variant| match variant.body {
                VariantBody::Unit => (&*variant.name, ""),
                VariantBody::Newtype(_) | VariantBody::Tuple(_) => (&*variant.name, "(…)"),
                VariantBody::Struct(_) => (&*variant.name, " {…}"),
            });
            names(out, "enum", all);
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

fn wrapped<'s>(
    out: &mut String,
    before: &str,
    inner: impl IntoIterator<Item = &'s TypeSchema>,
    after: &str,
) {
    out.push_str(before);
    for (at, schema) in inner.into_iter().enumerate() {
        out.push_str(if at == 0 { "" } else { ", " });
        write(out, schema);
    }
    out.push_str(after);
}

fn names<'s>(out: &mut String, word: &str, all: impl Iterator<Item = (&'s str, &'s str)>) {
    let mut all = all.peekable();
    if all.peek().is_none() {
        return out.push_str(&format!("{word} {{}}"));
    }
    out.push_str(&format!("{word} {{ "));
    for (at, (name, content)) in all.enumerate() {
        out.push_str(if at == 0 { "" } else { ", " });
        let is_plain = name.chars().all(|c| c.is_alphanumeric() || "_-.".contains(c));
        out.push_str(&if is_plain { name.to_owned() } else { format!("{name:?}") });
        out.push_str(content);
        if out.len() > 8 * MAX {
            return;
        }
    }
    out.push_str(" }");
}
