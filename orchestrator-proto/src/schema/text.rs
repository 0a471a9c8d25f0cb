//! Schemas for people to read.

use std::fmt::{self, Write as _};

use super::{Field, TypeSchema, Variant, VariantBody};

/// How many rows [`side_by_side`] shows at most.
const MAX_ROWS: usize = 100;
/// How wide a column of [`side_by_side`] is at most, characters.
const MAX_WIDTH: usize = 56;
/// How many equal rows are shown around differing ones.
const CONTEXT: usize = 3;
/// Above this product of lengths, two texts are compared row by row instead of aligned.
const MAX_ALIGNED: usize = 1 << 20;

/// Much as Rust would write the type, without the names of types; several lines for structs
/// and enums.
impl fmt::Display for TypeSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_type(f, self, 0)
    }
}

fn write_type(f: &mut fmt::Formatter<'_>, schema: &TypeSchema, indent: usize) -> fmt::Result {
    match schema {
        TypeSchema::Bool => f.write_str("bool"),
        TypeSchema::U8 => f.write_str("u8"),
        TypeSchema::U16 => f.write_str("u16"),
        TypeSchema::U32 => f.write_str("u32"),
        TypeSchema::U64 => f.write_str("u64"),
        TypeSchema::U128 => f.write_str("u128"),
        TypeSchema::I8 => f.write_str("i8"),
        TypeSchema::I16 => f.write_str("i16"),
        TypeSchema::I32 => f.write_str("i32"),
        TypeSchema::I64 => f.write_str("i64"),
        TypeSchema::I128 => f.write_str("i128"),
        TypeSchema::F32 => f.write_str("f32"),
        TypeSchema::F64 => f.write_str("f64"),
        TypeSchema::Char => f.write_str("char"),
        TypeSchema::String => f.write_str("String"),
        TypeSchema::Bytes => f.write_str("Bytes"),
        TypeSchema::Unit => f.write_str("()"),
        TypeSchema::Option(inner) => wrapped(f, "Option<", inner, indent, ">"),
        TypeSchema::Seq(inner) => wrapped(f, "Vec<", inner, indent, ">"),
        TypeSchema::Tuple(elements) => write_tuple(f, elements, indent),
        TypeSchema::Map(key, value) => {
            wrapped(f, "Map<", key, indent, ", ")?;
            wrapped(f, "", value, indent, ">")
        }
        TypeSchema::Struct(fields) => {
            f.write_str("struct ")?;
            write_fields(f, fields, indent)
        }
        TypeSchema::Enum(variants) => write_enum(f, variants, indent),
    }
}

fn wrapped(
    f: &mut fmt::Formatter<'_>,
    before: &str,
    schema: &TypeSchema,
    indent: usize,
    after: &str,
) -> fmt::Result {
    f.write_str(before)?;
    write_type(f, schema, indent)?;
    f.write_str(after)
}

fn write_tuple(f: &mut fmt::Formatter<'_>, elements: &[TypeSchema], indent: usize) -> fmt::Result {
    if let [first, rest @ ..] = elements
        && rest.len() >= 4
        && rest.iter().all(|element| element == first)
    {
        wrapped(f, "[", first, indent, "; ")?;
        return write!(f, "{}]", elements.len());
    }
    f.write_char('(')?;
    for (i, element) in elements.iter().enumerate() {
        wrapped(f, if i == 0 { "" } else { ", " }, element, indent, "")?;
    }
    // As in Rust, else `(u8,)` would look like `u8` in parentheses.
    f.write_str(if elements.len() == 1 { ",)" } else { ")" })
}

fn write_fields(f: &mut fmt::Formatter<'_>, fields: &[Field], indent: usize) -> fmt::Result {
    if fields.is_empty() {
        return f.write_str("{}");
    }
    f.write_str("{\n")?;
    for Field { name, schema } in fields {
        write_name(f, name, indent + 1)?;
        wrapped(f, ": ", schema, indent + 1, ",\n")?;
    }
    write!(f, "{:1$}}}", "", indent * 4)
}

fn write_enum(f: &mut fmt::Formatter<'_>, variants: &[Variant], indent: usize) -> fmt::Result {
    if variants.is_empty() {
        return f.write_str("enum {}");
    }
    f.write_str("enum {\n")?;
    for Variant { name, body } in variants {
        write_name(f, name, indent + 1)?;
        match body {
            VariantBody::Unit => {}
            VariantBody::Newtype(inner) => wrapped(f, "(", inner, indent + 1, ")")?,
            VariantBody::Tuple(elements) => {
                f.write_char('(')?;
                for (i, element) in elements.iter().enumerate() {
                    wrapped(f, if i == 0 { "" } else { ", " }, element, indent + 1, "")?;
                }
                f.write_char(')')?;
            }
            VariantBody::Struct(fields) => {
                f.write_char(' ')?;
                write_fields(f, fields, indent + 1)?;
            }
        }
        f.write_str(",\n")?;
    }
    write!(f, "{:1$}}}", "", indent * 4)
}

/// Names come from another process: nothing that acts on a terminal gets through.
fn write_name(f: &mut fmt::Formatter<'_>, name: &str, indent: usize) -> fmt::Result {
    write!(f, "{:1$}", "", indent * 4)?;
    if name.chars().all(|c| c.is_alphanumeric() || "_-.".contains(c)) {
        f.write_str(name)
    } else {
        write!(f, "{name:?}")
    }
}

/// Two schemas in two columns, for an error message. Lines that differ begin with `!`;
/// longer stretches without a difference are left out, and so is what exceeds 100 lines.
#[must_use]
pub fn side_by_side(
    left_title: &str,
    left: &TypeSchema,
    right_title: &str,
    right: &TypeSchema,
) -> String {
    let (left, right) = (left.to_string(), right.to_string());
    let left: Vec<&str> = left.lines().collect();
    let right: Vec<&str> = right.lines().collect();
    let rows = visible(&align(&left, &right));

    let shown = || rows.iter().take(MAX_ROWS);
    let width = shown()
        .filter_map(|row| row.as_ref())
        .filter_map(|row| row.left)
        .chain([left_title])
        .map(|text| text.chars().count())
        .max()
        .unwrap_or_default()
        .min(MAX_WIDTH);

    let mut out = String::new();
    line(&mut out, ' ', width, left_title, right_title);
    let dashes = "-".repeat(width);
    line(&mut out, ' ', width, &dashes, &dashes);
    for row in shown() {
        match row {
            None => line(&mut out, ' ', width, "...", "..."),
            Some(row) => {
                let mark = if row.left == row.right { ' ' } else { '!' };
                line(
                    &mut out,
                    mark,
                    width,
                    row.left.unwrap_or_default(),
                    row.right.unwrap_or_default(),
                );
            }
        }
    }
    if rows.len() > MAX_ROWS {
        // Writing to a string can't fail.
        let _ = writeln!(out, "  and {} more lines", rows.len() - MAX_ROWS);
    }
    out.truncate(out.trim_end().len());
    out
}

fn line(out: &mut String, mark: char, width: usize, left: &str, right: &str) {
    let text = format!("{mark} {:width$} | {}", cut(left), cut(right));
    out.push_str(text.trim_end());
    out.push('\n');
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_WIDTH) {
        Some(_) => text.chars().take(MAX_WIDTH - 1).chain(['…']).collect(),
        None => text.to_owned(),
    }
}

/// A line of the left text, a line of the right one, or both.
#[derive(Clone, Copy)]
struct Row<'t> {
    left: Option<&'t str>,
    right: Option<&'t str>,
}

/// Puts equal lines beside each other (longest common subsequence), and differing ones
/// that stand at the same place.
fn align<'t>(left: &[&'t str], right: &[&'t str]) -> Vec<Row<'t>> {
    let (mut rows, mut removed, mut added) = (Vec::new(), Vec::new(), Vec::new());
    let lengths = common_lengths(left, right);
    let (mut i, mut j) = (0, 0);
    while i < left.len() || j < right.len() {
        let equal = i < left.len() && j < right.len() && left[i] == right[j];
        if equal {
            pair(&mut rows, &mut removed, &mut added);
            rows.push(Row { left: Some(left[i]), right: Some(right[j]) });
            (i, j) = (i + 1, j + 1);
        } else if j == right.len() || (i < left.len() && lengths(i + 1, j) >= lengths(i, j + 1)) {
            removed.push(left[i]);
            i += 1;
        } else {
            added.push(right[j]);
            j += 1;
        }
    }
    pair(&mut rows, &mut removed, &mut added);
    rows
}

/// The length of the longest common subsequence of the texts from two lines on.
fn common_lengths(left: &[&str], right: &[&str]) -> impl Fn(usize, usize) -> usize {
    let width = right.len() + 1;
    let aligned = left.len().saturating_mul(right.len()) <= MAX_ALIGNED;
    let mut table = vec![0; if aligned { (left.len() + 1) * width } else { 0 }];
    if aligned {
        for i in (0..left.len()).rev() {
            for j in (0..right.len()).rev() {
                table[i * width + j] = if left[i] == right[j] {
                    table[(i + 1) * width + j + 1] + 1
                } else {
                    table[(i + 1) * width + j].max(table[i * width + j + 1])
                };
            }
        }
    }
    // Without a table both sides advance in turn.
    move |i, j| {
        if aligned { table[i * width + j] } else { usize::from(i <= j + 1) }
    }
}

fn pair<'t>(rows: &mut Vec<Row<'t>>, removed: &mut Vec<&'t str>, added: &mut Vec<&'t str>) {
    let count = removed.len().max(added.len());
    let (mut removed, mut added) = (removed.drain(..), added.drain(..));
    rows.extend((0..count).map(|_| Row { left: removed.next(), right: added.next() }));
}

/// The rows near a difference; none stands for rows left out.
fn visible<'t>(rows: &[Row<'t>]) -> Vec<Option<Row<'t>>> {
    let differs = |row: &Row<'_>| row.left != row.right;
    let mut shown: Vec<Option<Row<'t>>> = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        let near = &rows[i.saturating_sub(CONTEXT)..rows.len().min(i + CONTEXT + 1)];
        if near.iter().any(differs) || rows.len() <= 2 * CONTEXT || i == 0 {
            shown.push(Some(*row));
        } else if shown.last().is_some_and(Option::is_some) {
            shown.push(None);
        }
    }
    shown
}
