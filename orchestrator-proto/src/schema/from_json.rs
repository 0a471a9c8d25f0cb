//! JSON text as a payload: the inverse of `to_json`.
//!
//! The text is read by a small parser of its own, led by the schema, since no number may
//! pass through an `f64` on its way and each error has to name its place.

use std::fmt::Write as _;

use thiserror::Error;

use super::canonical::varint;
use super::json_text::{Text, number_end, shorten, shorten_to};
use super::{Field, TypeSchema, Variant, VariantBody};
use crate::runtime::MAX_PAYLOAD;

/// Why a JSON text is not a value of the type.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("at {path}: {problem}")]
pub struct EncodeJsonError {
    /// Where in the value, such as `.pose.x` or `.axes[2]`; a dot for the whole.
    pub path: String,
    /// What is wrong there.
    pub problem: String,
}

impl TypeSchema {
    /// The payload for a value given as JSON text, in the form that
    /// [`to_json`](Self::to_json) writes.
    ///
    /// As with `serde_json`: a field that is an option may be left out, fields may stand in
    /// any order or as an array without names, a byte string may be given as text. Other
    /// than with `serde_json`: a field that the type does not have is refused, and so is a
    /// float beyond the range of its type. `null` is no float: NaN and the infinities have no
    /// JSON form.
    ///
    /// # Errors
    ///
    /// When the text is not JSON or not a value of this type, with the place in the value;
    /// or when the payload would exceed [`MAX_PAYLOAD`].
    pub fn from_json(&self, json: &str) -> Result<Vec<u8>, EncodeJsonError> {
        let mut parser = Parser { text: Text(json), path: Vec::new(), out: Vec::new() };
        let parsed = parser.value(self).and_then(|()| match parser.text.peek() {
            None => Ok(()),
            Some(_) => Err(format!("unexpected {} after the value", parser.text.found())),
        });
        match parsed {
            Ok(()) => Ok(parser.out),
            Err(problem) => Err(EncodeJsonError { path: parser.path_text(), problem }),
        }
    }

    /// What the type is called in an error.
    fn expectation(&self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::U8 => "u8",
            Self::U16 => "u16",
            Self::U32 => "u32",
            Self::U64 => "u64",
            Self::U128 => "u128",
            Self::I8 => "i8",
            Self::I16 => "i16",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::I128 => "i128",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Char => "one character",
            Self::String => "a string",
            Self::Bytes => "an array of bytes",
            Self::Unit => "null",
            Self::Option(inner) => inner.expectation(),
            Self::Seq(_) | Self::Tuple(_) => "an array",
            Self::Map(key, _) if !key.is_object_key() => "an array of pairs",
            Self::Map(..) | Self::Struct(_) => "an object",
            Self::Enum(_) => "the name of a variant, or an object with that one key",
        }
    }
}

/// A step into a value.
enum Step {
    Name(String),
    Index(usize),
}

struct Parser<'j> {
    text: Text<'j>,
    /// Where the parser is; left as it is by an error.
    path: Vec<Step>,
    out: Vec<u8>,
}

/// Either done or a sentence, without its place.
type Parsed<T = ()> = Result<T, String>;

impl Parser<'_> {
    fn path_text(&self) -> String {
        let mut text = String::new();
        for step in &self.path {
            // Writing to a string can't fail.
            let _ = match step {
                Step::Name(name) => write!(text, ".{name}"),
                Step::Index(index) => write!(text, "[{index}]"),
            };
        }
        if text.is_empty() { ".".into() } else { text }
    }

    fn at(&mut self, step: Step, parse: impl FnOnce(&mut Self) -> Parsed) -> Parsed {
        self.path.push(step);
        parse(self)?;
        self.path.pop();
        Ok(())
    }

    fn mismatch(&mut self, schema: &TypeSchema) -> String {
        let found = self.text.found();
        format!("expected {}, found {found}", schema.expectation())
    }

    fn value(&mut self, schema: &TypeSchema) -> Parsed {
        let before = self.text.0;
        match schema {
            TypeSchema::Bool => {
                let value = self.text.word("true");
                if !value && !self.text.word("false") {
                    return Err(self.mismatch(schema));
                }
                self.out.push(u8::from(value));
            }
            TypeSchema::F32 | TypeSchema::F64 => {
                let Some(number) = self.text.number() else {
                    let hint = match self.text.peek() {
                        Some('n') => " (NaN and the infinities have no JSON form)",
                        _ => "",
                    };
                    return Err(self.mismatch(schema) + hint);
                };
                let finite = self.float(schema, number);
                if !finite {
                    let name = schema.expectation();
                    return Err(format!("{} is out of range of {name}", shorten(number)));
                }
            }
            TypeSchema::Char | TypeSchema::String => match self.text.string()? {
                Some(text) if *schema == TypeSchema::String || text.chars().count() == 1 => {
                    self.byte_string(text.as_bytes());
                }
                _ => {
                    self.text.0 = before;
                    return Err(self.mismatch(schema));
                }
            },
            TypeSchema::Bytes => match self.text.string()? {
                Some(text) => self.byte_string(text.as_bytes()),
                None => self.counted(schema, |this| this.value(&TypeSchema::U8))?,
            },
            TypeSchema::Unit => {
                if !self.text.word("null") {
                    return Err(self.mismatch(schema));
                }
            }
            TypeSchema::Option(inner) => {
                if self.text.word("null") {
                    self.out.push(0);
                } else {
                    self.out.push(1);
                    self.value(inner)?;
                }
            }
            TypeSchema::Seq(inner) => self.counted(schema, |this| this.value(inner))?,
            TypeSchema::Tuple(elements) if elements.is_empty() => {
                return self.value(&TypeSchema::Unit);
            }
            TypeSchema::Tuple(elements) => self.tuple(elements.iter())?,
            TypeSchema::Map(key, value) if key.is_object_key() => self.object(key, value)?,
            TypeSchema::Map(key, value) => {
                self.counted(schema, |this| this.tuple([&**key, &**value].into_iter()))?;
            }
            TypeSchema::Struct(fields) => self.fields(fields)?,
            TypeSchema::Enum(variants) => self.variant(schema, variants)?,
            integer => {
                let Some(number) = self.text.number() else {
                    return Err(self.mismatch(schema));
                };
                self.integer(integer, number)?;
            }
        }
        if self.out.len() > MAX_PAYLOAD {
            return Err(format!("the payload exceeds {MAX_PAYLOAD} bytes here"));
        }
        Ok(())
    }

    /// Whether the number is within the type's range.
    fn float(&mut self, schema: &TypeSchema, number: &str) -> bool {
        if *schema == TypeSchema::F32 {
            let value: f32 = number.parse().unwrap_or(f32::INFINITY);
            self.out.extend_from_slice(&value.to_le_bytes());
            value.is_finite()
        } else {
            let value: f64 = number.parse().unwrap_or(f64::INFINITY);
            self.out.extend_from_slice(&value.to_le_bytes());
            value.is_finite()
        }
    }

    fn integer(&mut self, schema: &TypeSchema, number: &str) -> Parsed {
        let name = schema.expectation();
        let digits = number.strip_prefix('-').unwrap_or(number);
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("expected {name}, found {}", shorten(number)));
        }
        let out_of_range = || format!("{} is out of range of {name}", shorten(number));
        let (bits, signed) = schema.integer_bits().ok_or_else(out_of_range)?;
        if signed {
            let value: i128 = number.parse().map_err(|_| out_of_range())?;
            if value >> (bits - 1) != 0 && value >> (bits - 1) != -1 {
                return Err(out_of_range());
            }
            match bits {
                8 => self.out.push(value as u8),
                _ => varint(&mut self.out, ((value << 1) ^ (value >> 127)) as u128),
            }
        } else {
            let value: u128 = match number.parse() {
                _ if number == "-0" => 0,
                Ok(value) => value,
                Err(_) => return Err(out_of_range()),
            };
            if bits < 128 && value >> bits != 0 {
                return Err(out_of_range());
            }
            match bits {
                8 => self.out.push(value as u8),
                _ => varint(&mut self.out, value),
            }
        }
        Ok(())
    }

    fn byte_string(&mut self, bytes: &[u8]) {
        varint(&mut self.out, bytes.len() as u64);
        self.out.extend_from_slice(bytes);
    }

    /// Parses elements until `close`; the opening character is already behind.
    fn elements(
        &mut self,
        close: char,
        mut element: impl FnMut(&mut Self, usize) -> Parsed,
    ) -> Parsed {
        if self.text.eat(close) {
            return Ok(());
        }
        for index in 0.. {
            element(self, index)?;
            if self.text.eat(close) {
                return Ok(());
            }
            self.text.expect(',')?;
        }
        Ok(())
    }

    /// Writes the number of elements before what `parse` writes; it returns that number.
    fn prefixed(&mut self, parse: impl FnOnce(&mut Self) -> Parsed<u64>) -> Parsed {
        let start = self.out.len();
        let count = parse(self)?;
        let mut prefix = Vec::with_capacity(4);
        varint(&mut prefix, count);
        self.out.splice(start..start, prefix);
        Ok(())
    }

    fn counted(
        &mut self,
        schema: &TypeSchema,
        mut element: impl FnMut(&mut Self) -> Parsed,
    ) -> Parsed {
        if !self.text.eat('[') {
            return Err(self.mismatch(schema));
        }
        self.prefixed(|this| {
            let mut count = 0;
            this.elements(']', |this, index| {
                count += 1;
                this.at(Step::Index(index), &mut element)
            })?;
            Ok(count)
        })
    }

    fn tuple<'s>(&mut self, mut elements: impl ExactSizeIterator<Item = &'s TypeSchema>) -> Parsed {
        let expected = elements.len();
        if !self.text.eat('[') {
            let found = self.text.found();
            return Err(format!("expected an array of {expected}, found {found}"));
        }
        self.elements(']', |this, index| match elements.next() {
            Some(element) => this.at(Step::Index(index), |this| this.value(element)),
            None => Err(format!("expected an array of {expected}, found more")),
        })?;
        match elements.len() {
            0 => Ok(()),
            missing => {
                Err(format!("expected an array of {expected}, found {}", expected - missing))
            }
        }
    }

    fn object(&mut self, key: &TypeSchema, value: &TypeSchema) -> Parsed {
        if !self.text.eat('{') {
            let found = self.text.found();
            return Err(format!("expected an object, found {found}"));
        }
        self.prefixed(|this| {
            let mut count = 0;
            this.elements('}', |this, _| {
                count += 1;
                let name = this.key()?;
                this.at(Step::Name(name.clone()), |this| {
                    this.object_key(key, name)?;
                    this.text.expect(':')?;
                    this.value(value)
                })
            })?;
            Ok(count)
        })
    }

    /// The key of an object.
    fn key(&mut self) -> Parsed<String> {
        match self.text.string()? {
            Some(key) => Ok(key),
            None => Err(format!("expected a key in quotes, found {}", self.text.found())),
        }
    }

    fn object_key(&mut self, schema: &TypeSchema, key: String) -> Parsed {
        let wrong =
            format!("expected {} as the key, found {}", schema.expectation(), shorten(&key));
        match schema {
            TypeSchema::String => self.byte_string(key.as_bytes()),
            TypeSchema::Char if key.chars().count() == 1 => self.byte_string(key.as_bytes()),
            TypeSchema::Bool if key == "true" || key == "false" => {
                self.out.push(u8::from(key == "true"));
            }
            TypeSchema::Enum(variants) => {
                let number = variants.iter().position(|variant| variant.name == key);
                varint(&mut self.out, number.ok_or(wrong)? as u64);
            }
            integer if integer.integer_bits().is_some() => {
                if number_end(&key) != Some(key.len()) {
                    return Err(wrong);
                }
                self.integer(integer, &key)?;
            }
            _ => return Err(wrong),
        }
        Ok(())
    }

    fn fields(&mut self, fields: &[Field]) -> Parsed {
        if self.text.peek() == Some('[') {
            return self.tuple(fields.iter().map(|field| &field.schema));
        }
        if !self.text.eat('{') {
            let found = self.text.found();
            return Err(format!("expected an object, found {found}"));
        }
        // Fields come in any order and go in the order of the schema.
        let mut parts: Vec<Option<Vec<u8>>> = vec![None; fields.len()];
        let outer = std::mem::take(&mut self.out);
        let mut size = outer.len();
        self.elements('}', |this, _| {
            let name = this.key()?;
            let Some(index) = fields.iter().position(|field| field.name == name) else {
                return Err(unknown("field", &name, fields.iter().map(|f| &*f.name)));
            };
            this.text.expect(':')?;
            this.at(Step::Name(name), |this| this.value(&fields[index].schema))?;
            let part = std::mem::take(&mut this.out);
            size += part.len();
            if parts[index].is_some() {
                return Err(format!("the field {:?} is there twice", fields[index].name));
            }
            if size > MAX_PAYLOAD {
                return Err(format!("the payload exceeds {MAX_PAYLOAD} bytes here"));
            }
            parts[index] = Some(part);
            Ok(())
        })?;
        self.out = outer;
        for (part, field) in parts.into_iter().zip(fields) {
            match (part, &field.schema) {
                (Some(part), _) => self.out.extend_from_slice(&part),
                (None, TypeSchema::Option(_)) => self.out.push(0),
                (None, _) => return Err(format!("the field {:?} is missing", field.name)),
            }
        }
        Ok(())
    }

    fn variant(&mut self, schema: &TypeSchema, variants: &[Variant]) -> Parsed {
        let bare = self.text.peek() == Some('"');
        if !bare && !self.text.eat('{') {
            return Err(self.mismatch(schema));
        }
        let name = self.key()?;
        let Some(number) = variants.iter().position(|variant| variant.name == name) else {
            return Err(unknown("variant", &name, variants.iter().map(|v| &*v.name)));
        };
        varint(&mut self.out, number as u64);
        let body = &variants[number].body;
        if bare {
            return match body {
                VariantBody::Unit => Ok(()),
                _ => Err(format!("the variant {name:?} has content; write {{{name:?}: …}}")),
            };
        }
        self.text.expect(':')?;
        self.at(Step::Name(name), |this| match body {
            VariantBody::Unit => this.value(&TypeSchema::Unit),
            VariantBody::Newtype(inner) => this.value(inner),
            VariantBody::Tuple(one) if one.len() == 1 => this.value(&one[0]),
            VariantBody::Tuple(elements) => this.tuple(elements.iter()),
            VariantBody::Struct(fields) => this.fields(fields),
        })?;
        self.text.expect('}')
    }
}

fn unknown<'n>(what: &str, name: &str, known: impl Iterator<Item = &'n str>) -> String {
    let known: Vec<&str> = known.take(20).collect();
    format!("there is no {what} {}; there is {}", shorten(name), shorten_to(&known.join(", "), 300))
}
