//! What a message is made of: a schema, its canonical bytes and its hash, and payloads as JSON.

use std::fmt;

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
