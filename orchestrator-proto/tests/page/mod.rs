//! PROTOCOL.md as a reader without the code understands it: its tables of types, its blocks of
//! hexadecimal bytes, and a decoder that knows nothing but those.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use orchestrator_proto::control::{Capability, CpuQuota, Signal, Umask};
use orchestrator_proto::{Millis, Size};
use serde_json::{Map, Value, json};

/// Where the text begins in an explained block.
const COLUMN: usize = 3 * BYTES_IN_LINE - 1;
const BYTES_IN_LINE: usize = 12;

pub(crate) struct Page {
    pub(crate) text: String,
    types: BTreeMap<String, Table>,
    read: RefCell<BTreeSet<String>>,
}

enum Table {
    /// Fields: name and type.
    Struct(Vec<(String, String)>),
    /// Variants: name and what it holds.
    Enum(Vec<(String, String)>),
}

/// Bytes as the page explains them.
pub(crate) struct Read {
    pub(crate) value: Value,
    /// One line for each part: its bytes, and what it is.
    pub(crate) explained: String,
}

impl Page {
    pub(crate) fn load() -> Self {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/PROTOCOL.md"));
        let text = text.unwrap();
        let mut types = BTreeMap::new();
        for section in text.split("\n#### `").skip(1) {
            let (name, rest) = section.split_once('`').unwrap();
            let enumeration = "| number | variant | holds | meaning |";
            let table = if rest.contains(enumeration) {
                let rows = rows_below(rest, enumeration);
                for (number, row) in rows.iter().enumerate() {
                    assert_eq!(row[0], number.to_string(), "numbers of {name}");
                }
                Table::Enum(rows.iter().map(|row| (code(&row[1]), code(&row[2]))).collect())
            } else {
                let rows = rows_below(rest, "| field | type | meaning |");
                Table::Struct(rows.iter().map(|row| (code(&row[0]), code(&row[1]))).collect())
            };
            assert!(types.insert(name.to_owned(), table).is_none(), "{name}");
        }
        Self { text, types, read: RefCell::default() }
    }

    /// The rows of the table with this head.
    pub(crate) fn rows(&self, head: &str) -> Vec<Vec<String>> {
        rows_below(&self.text, head)
    }

    pub(crate) fn error_codes(&self) -> Vec<(u64, String)> {
        let rows = self.rows("| code | name | meaning |");
        rows.iter().map(|row| (row[0].parse().unwrap(), code(&row[1]))).collect()
    }

    pub(crate) fn variant_count(&self, name: &str) -> usize {
        match self.types.get(name) {
            Some(Table::Enum(variants)) => variants.len(),
            _ => panic!("the page has no enum {name}"),
        }
    }

    /// Types that were never read.
    pub(crate) fn unread(&self) -> Vec<String> {
        let read = self.read.borrow();
        let names = self.types.keys();
        names.filter(|name| !read.contains(*name)).cloned().collect()
    }

    /// The blocks of hexadecimal bytes, by their labels. What follows a # is for people.
    pub(crate) fn blocks(&self) -> BTreeMap<String, Vec<u8>> {
        let blocks = self.text.split("\n```hex ").skip(1).map(|block| {
            let (label, rest) = block.split_once('\n').unwrap();
            let (body, _) = rest.split_once("```").unwrap();
            let bytes = body
                .lines()
                .flat_map(|line| line.split('#').next().unwrap_or_default().split_whitespace())
                .map(|byte| u8::from_str_radix(byte, 16).unwrap())
                .collect();
            (label.to_owned(), bytes)
        });
        blocks.collect()
    }

    /// Reads exactly one value of a type.
    pub(crate) fn read(&self, type_name: &str, bytes: &[u8]) -> Read {
        let mut reader = Reader { page: self, bytes, at: 0, parts: Vec::new() };
        let value = reader.value(type_name, "");
        assert_eq!(reader.at, bytes.len(), "bytes left over after a {type_name}");
        let (mut explained, mut at) = (String::new(), 0);
        for (end, text) in reader.parts {
            explained += &explain(&bytes[at..end], text.trim());
            at = end;
        }
        Read { value, explained }
    }
}

fn hex(bytes: &[u8]) -> String {
    let bytes: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(" ")
}

/// Lines of a block: bytes, and what they are.
pub(crate) fn explain(bytes: &[u8], text: &str) -> String {
    let (mut out, mut text) = (String::new(), text);
    for line in bytes.chunks(BYTES_IN_LINE) {
        let comment = if text.is_empty() { "" } else { " # " };
        let line = format!("{:<COLUMN$}{comment}{text}", hex(line));
        out += line.trim_end();
        out.push('\n');
        text = "";
    }
    out
}

/// The cells of the rows of the first table with this head.
fn rows_below(text: &str, head: &str) -> Vec<Vec<String>> {
    let (_, rest) = text.split_once(head).unwrap_or_else(|| panic!("no table {head}"));
    rest.lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells = line.trim_matches('|').split(" |");
            cells.map(|cell| cell.trim().to_owned()).collect()
        })
        .collect()
}

fn code(cell: &str) -> String {
    cell.trim_matches('`').to_owned()
}

/// The bytes of a cell such as `15010576`.
pub(crate) fn bytes_of(cell: &str) -> Vec<u8> {
    let digits = code(cell);
    let digits = digits.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// Splits at commas that are not within brackets.
fn split(list: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (i, c) in list.char_indices() {
        match c {
            '(' | '[' | '<' => depth += 1,
            ')' | ']' | '>' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(list[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(list[start..].trim());
    parts
}

struct Reader<'a> {
    page: &'a Page,
    bytes: &'a [u8],
    at: usize,
    /// Where each part ends, and what it is.
    parts: Vec<(usize, String)>,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        self.at += count;
        &self.bytes[self.at - count..self.at]
    }

    fn varint(&mut self) -> u64 {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = self.take(1)[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return number;
            }
            shift += 7;
        }
    }

    fn byte_string(&mut self) -> &'a [u8] {
        let length = self.varint();
        self.take(usize::try_from(length).unwrap())
    }

    /// Notes what the bytes since the last part are.
    fn part(&mut self, path: &str, what: impl std::fmt::Display) {
        self.parts.push((self.at, format!("{path} {what}")));
    }

    fn list(&mut self, types: &[&str], path: &str) -> Value {
        types.iter().map(|name| self.value(name, path)).collect()
    }

    fn value(&mut self, name: &str, path: &str) -> Value {
        if let Some(inner) = name.strip_suffix('?') {
            return self.option(inner, path);
        }
        if let Some(types) = name.strip_prefix('(') {
            return self.list(&split(types.strip_suffix(')').unwrap()), path);
        }
        if let Some(types) = name.strip_prefix("Result<") {
            let types = split(types.strip_suffix('>').unwrap());
            let number = self.varint() as usize;
            let outcome = ["Ok", "Err"][number];
            self.part(path, outcome);
            return json!({ outcome: self.value(types[number], path) });
        }
        if let Some(length) = name.strip_prefix("[u8; ") {
            let length = length.strip_suffix(']').unwrap().parse().unwrap();
            let bytes = self.take(length);
            self.part(path, "");
            return bytes.into();
        }
        if let Some(inner) = name.strip_prefix('[') {
            let count = self.varint() as usize;
            self.part(path, format!("{count} of them"));
            let inner = inner.strip_suffix(']').unwrap();
            return self.list(&vec![inner; count], path);
        }
        if let Some(table) = self.page.types.get(name) {
            self.page.read.borrow_mut().insert(name.to_owned());
            return self.table(table, path);
        }
        let value = self.scalar(name);
        let shown = match (name, &value) {
            ("bytes", Value::Array(_)) => String::new(),
            _ => value.to_string(),
        };
        self.part(path, shown);
        value
    }

    fn scalar(&mut self, name: &str) -> Value {
        match name {
            "bool" => match self.take(1)[0] {
                0 => json!(false),
                1 => json!(true),
                other => panic!("{other} is no bool"),
            },
            "u16" | "u32" | "u64" | "LinkId" => json!(self.varint()),
            "u8" => json!(self.take(1)[0]),
            "Millis" => json!(Millis(self.varint()).to_string()),
            "Size" => json!(Size(self.varint()).to_string()),
            "CpuQuota" => json!(CpuQuota(self.varint() as u32).to_string()),
            "i32" => json!(self.signed()),
            "Signal" => json!(Signal(self.signed() as i32).to_string()),
            "Capability" => json!(Capability(self.take(1)[0]).to_string()),
            "Umask" => json!(Umask(self.varint() as u32).to_string()),
            "SchemaHash" => json!(hex(self.take(32)).replace(' ', "")),
            "str" | "Selector" => json!(std::str::from_utf8(self.byte_string()).unwrap()),
            "bytes" => {
                let bytes = self.byte_string();
                match std::str::from_utf8(bytes) {
                    Ok(text) if !text.contains(char::is_control) => json!(text),
                    _ => bytes.into(),
                }
            }
            "ErrorCode" => {
                let number = self.varint();
                let codes = self.page.error_codes();
                let code = codes.iter().find(|(known, _)| *known == number);
                json!(code.unwrap().1)
            }
            "InstanceId" => {
                let hex = hex(self.byte_string()).replace(' ', "");
                assert_eq!(hex.len(), 32);
                let cuts = [0..8, 8..12, 12..16, 16..20, 20..32];
                json!(cuts.map(|cut| &hex[cut]).join("-"))
            }
            other => panic!("the page does not say what {other} is"),
        }
    }

    fn signed(&mut self) -> i64 {
        let zigzag = self.varint();
        (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64)
    }

    fn option(&mut self, inner: &str, path: &str) -> Value {
        match self.take(1)[0] {
            0 => {
                self.part(path, "nothing");
                Value::Null
            }
            1 => {
                // The first part of the value begins one byte earlier, with this one.
                self.value(inner, path)
            }
            other => panic!("{other} begins no option"),
        }
    }

    fn table(&mut self, table: &Table, path: &str) -> Value {
        let below = |name: &str| match path {
            "" => name.to_owned(),
            _ => format!("{path}.{name}"),
        };
        match table {
            Table::Struct(fields) => {
                let fields = fields.iter();
                let read = fields.map(|(name, of)| (name.clone(), self.value(of, &below(name))));
                Value::Object(read.collect::<Map<_, _>>())
            }
            Table::Enum(variants) => {
                let number = self.varint() as usize;
                let (name, holds) = &variants[number];
                self.part(path, name);
                if holds.is_empty() {
                    return json!(name);
                }
                let first = split(holds)[0];
                let value = if first.contains(": ") {
                    let fields = split(holds).into_iter().map(|field| {
                        let (name, of) = field.split_once(": ").unwrap();
                        (name.to_owned(), of.to_owned())
                    });
                    self.table(&Table::Struct(fields.collect()), path)
                } else {
                    self.value(holds, path)
                };
                json!({ name.as_str(): value })
            }
        }
    }
}

/// Whether a value read by the page is what the code's JSON says. The code's names of variants
/// differ in case and hyphens; byte strings are text or numbers.
pub(crate) fn same(read: &Value, expected: &Value) -> bool {
    let fold = |name: &str| name.replace('-', "").to_lowercase();
    match (read, expected) {
        (Value::String(a), Value::String(b)) => fold(a) == fold(b),
        (Value::String(text), Value::Array(_)) => Value::from(text.as_bytes()) == *expected,
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter().all(|(name, value)| {
                    let found = b.iter().find(|(other, _)| fold(other) == fold(name));
                    found.is_some_and(|(_, other)| same(value, other))
                })
        }
        _ => read == expected,
    }
}
