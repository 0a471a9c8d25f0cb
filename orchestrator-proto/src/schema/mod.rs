//! What a message is made of: a schema, its canonical bytes and its hash, and payloads as JSON.
//!
//! # The canonical form
//!
//! A schema is written in pre-order. Each node begins with one tag byte; counts and lengths
//! are varints (seven bits in each byte, the lowest first, the top bit set on all bytes but
//! the last, never longer than needed); a name is its length in bytes, then UTF-8.
//!
//! | tag | node | what follows the tag |
//! | --- | --- | --- |
//! | 0 | `bool` | |
//! | 1, 2, 3, 4, 5 | `u8`, `u16`, `u32`, `u64` (and `usize`), `u128` | |
//! | 6, 7, 8, 9, 10 | `i8`, `i16`, `i32`, `i64` (and `isize`), `i128` | |
//! | 11, 12 | `f32`, `f64` | |
//! | 13, 14, 15 | char, string, byte string | |
//! | 16 | unit | |
//! | 17 | option | the node of the value |
//! | 18 | sequence | the node of the elements |
//! | 19 | tuple | how many elements, at least 1; then the node of each |
//! | 20 | map | the node of the keys, the node of the values |
//! | 21 | struct | how many fields; then of each its name and its node |
//! | 22 | enum | how many variants; then of each its name and its body |
//!
//! The body of a variant begins with a tag byte of its own:
//!
//! | tag | body | what follows the tag |
//! | --- | --- | --- |
//! | 0 | nothing | |
//! | 1 | one value | its node |
//! | 2 | several values | how many, not 1; then the node of each |
//! | 3 | named fields | as in a struct |
//!
//! Fields and variants stand in the order of their declaration. Names of types don't appear,
//! and a struct with one unnamed field is what it wraps: both encode alike. A tuple of no
//! elements is unit.
//!
//! Bounds: 65,536 bytes, 4,096 nodes (variants count as nodes), 32 levels, names of 1 to
//! 255 bytes, no two fields of a struct and no two variants of an enum with the same name.
//!
//! The schema's hash is BLAKE3 of these bytes. Examples:
//!
//! - `u32` is `03`;
//! - `struct { value: u32 }` is `15 01 05 76616c7565 03`;
//! - `Option<Vec<(u8, String)>>` is `11 12 13 02 01 0e`;
//! - `enum { Off, On(f32) }` is `16 02 03 4f6666 00 02 4f6e 01 0b`.

mod brief;
mod canonical;
mod diff;
mod from_json;
#[cfg(feature = "sdk")]
mod from_postcard;
mod json_schema;
mod json_text;
mod text;
mod to_json;

#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use canonical::{MAX_BYTES, MAX_DEPTH, MAX_NAME, MAX_NODES, SchemaError};
pub use diff::{Change, Diff, Difference, MAX_DIFFERENCES, Place, Step};
pub use from_json::EncodeJsonError;
pub use text::side_by_side;
pub use to_json::{DecodeError, MAX_JSON, MAX_VALUES};

/// BLAKE3 of a schema's canonical bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SchemaHash(pub [u8; 32]);

impl fmt::Display for SchemaHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SchemaHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SchemaHash {
    type Err = String;

    /// All 64 hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a hash, which has 64 hexadecimal digits");
        let digits: Vec<_> = text.chars().map(|c| c.to_digit(16)).collect();
        let mut hash = [0; 32];
        if digits.len() != 2 * hash.len() {
            return Err(wrong());
        }
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            let [Some(high), Some(low)] = *pair else { return Err(wrong()) };
            *byte = (high << 4 | low) as u8;
        }
        Ok(Self(hash))
    }
}

/// 32 bytes; where people read it, as 64 hexadecimal digits.
impl Serialize for SchemaHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for SchemaHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
        } else {
            <[u8; 32]>::deserialize(deserializer).map(Self)
        }
    }
}

impl SchemaHash {
    /// The hash of a schema that is already in its canonical form.
    #[must_use]
    pub fn of(canonical: &[u8]) -> Self {
        Self(*blake3::hash(canonical).as_bytes())
    }
}

/// The shape of a message: field and variant names count, names of Rust types don't.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TypeSchema {
    /// `bool`
    Bool,
    /// `u8`
    U8,
    /// `u16`
    U16,
    /// `u32`
    U32,
    /// `u64` and `usize`
    U64,
    /// `u128`
    U128,
    /// `i8`
    I8,
    /// `i16`
    I16,
    /// `i32`
    I32,
    /// `i64` and `isize`
    I64,
    /// `i128`
    I128,
    /// `f32`
    F32,
    /// `f64`
    F64,
    /// `char`
    Char,
    /// Text
    String,
    /// A byte string
    Bytes,
    /// `()` and unit structs
    Unit,
    /// A value or nothing
    Option(Box<TypeSchema>),
    /// Any number of values
    Seq(Box<TypeSchema>),
    /// A fixed number of values: tuples, arrays, tuple structs with more than one field
    Tuple(Vec<TypeSchema>),
    /// Keys and values
    Map(Box<TypeSchema>, Box<TypeSchema>),
    /// Named fields
    Struct(Vec<Field>),
    /// One of several variants, numbered from 0
    Enum(Vec<Variant>),
}

/// A named field of a struct or of a struct variant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Its type.
    pub schema: TypeSchema,
}

/// A variant of an enum.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Variant {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub body: VariantBody,
}

/// What a variant holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum VariantBody {
    /// Nothing.
    Unit,
    /// One value.
    Newtype(TypeSchema),
    /// A fixed number of values, not one.
    Tuple(Vec<TypeSchema>),
    /// Named fields.
    Struct(Vec<Field>),
}
