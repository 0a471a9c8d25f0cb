//! The canonical form, described in the parent module: to bytes and back.

use thiserror::Error;

use super::{Field, SchemaHash, TypeSchema, Variant, VariantBody};

/// The longest canonical form, bytes.
pub const MAX_BYTES: usize = 65_536;
/// How many levels a schema may have; a scalar has one.
pub const MAX_DEPTH: usize = 32;
/// How many nodes a schema may have; each type and each variant is one.
pub const MAX_NODES: usize = 4_096;
/// The longest name of a field or of a variant, bytes.
pub const MAX_NAME: usize = 255;

/// Why bytes are not a schema in its canonical form.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// More than [`MAX_BYTES`].
    #[error("the schema has {0} bytes; at most {MAX_BYTES} are allowed")]
    TooLong(usize),
    /// They end in the middle.
    #[error("the schema ends in the middle")]
    Truncated,
    /// They go on after the end.
    #[error("{0} bytes follow the end of the schema")]
    Trailing(usize),
    /// A tag that this version does not know.
    #[error("the schema has a node of kind {0}, which does not exist")]
    UnknownTag(u8),
    /// A number that does not fit, or that is written with more bytes than needed.
    #[error("a number in the schema is not in its shortest form")]
    BadNumber,
    /// Nested more deeply than [`MAX_DEPTH`].
    #[error("the schema has more than {MAX_DEPTH} levels")]
    TooDeep,
    /// More than [`MAX_NODES`].
    #[error("the schema has more than {MAX_NODES} nodes")]
    TooManyNodes,
    /// A name that is empty, too long, or not UTF-8.
    #[error("a name in the schema is not 1 to {MAX_NAME} bytes of UTF-8")]
    BadName,
    /// Two fields or two variants with this name.
    #[error("the schema has the name {0:?} twice in one place")]
    DuplicateName(String),
    /// A tuple of no elements (that is unit), or a tuple variant of one (that is a newtype).
    #[error("a tuple in the schema has {0} elements, which has to be written in another way")]
    BadTuple(usize),
}

impl TypeSchema {
    /// The canonical form, as the [module documentation](super) describes it.
    ///
    /// A schema out of bounds is written too; [`decode`](Self::decode) then refuses the bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        write_type(&mut out, self);
        out
    }

    /// The schema with this canonical form.
    ///
    /// # Errors
    ///
    /// When the bytes are anything else, or beyond the bounds in the
    /// [module documentation](super). What is decoded encodes to the same bytes again.
    pub fn decode(canonical: &[u8]) -> Result<Self, SchemaError> {
        if canonical.len() > MAX_BYTES {
            return Err(SchemaError::TooLong(canonical.len()));
        }
        let mut reader = Reader { bytes: canonical, nodes: 0 };
        let schema = reader.node(1)?;
        match reader.bytes.len() {
            0 => Ok(schema),
            rest => Err(SchemaError::Trailing(rest)),
        }
    }

    /// BLAKE3 of the canonical form.
    #[must_use]
    pub fn hash(&self) -> SchemaHash {
        SchemaHash::of(&self.encode())
    }
}

fn write_type(out: &mut Vec<u8>, schema: &TypeSchema) {
    match schema {
        TypeSchema::Option(inner) => {
            out.push(17);
            write_type(out, inner);
        }
        TypeSchema::Seq(inner) => {
            out.push(18);
            write_type(out, inner);
        }
        // One meaning has one form.
        TypeSchema::Tuple(elements) if elements.is_empty() => out.push(16),
        TypeSchema::Tuple(elements) => {
            out.push(19);
            write_types(out, elements);
        }
        TypeSchema::Map(key, value) => {
            out.push(20);
            write_type(out, key);
            write_type(out, value);
        }
        TypeSchema::Struct(fields) => {
            out.push(21);
            write_fields(out, fields);
        }
        TypeSchema::Enum(variants) => {
            out.push(22);
            varint(out, variants.len() as u64);
            for Variant { name, body } in variants {
                write_name(out, name);
                write_body(out, body);
            }
        }
        scalar => {
            let tag = SCALARS.iter().position(|known| known == scalar);
            // All that is not a scalar has an arm above.
            out.push(tag.unwrap_or_default() as u8);
        }
    }
}

/// The scalars, each at the index that is its tag.
const SCALARS: [TypeSchema; 17] = [
    TypeSchema::Bool,
    TypeSchema::U8,
    TypeSchema::U16,
    TypeSchema::U32,
    TypeSchema::U64,
    TypeSchema::U128,
    TypeSchema::I8,
    TypeSchema::I16,
    TypeSchema::I32,
    TypeSchema::I64,
    TypeSchema::I128,
    TypeSchema::F32,
    TypeSchema::F64,
    TypeSchema::Char,
    TypeSchema::String,
    TypeSchema::Bytes,
    TypeSchema::Unit,
];

fn write_body(out: &mut Vec<u8>, body: &VariantBody) {
    match body {
        VariantBody::Unit => out.push(0),
        VariantBody::Newtype(inner) => {
            out.push(1);
            write_type(out, inner);
        }
        VariantBody::Tuple(elements) => {
            // One meaning has one form.
            if let [only] = elements.as_slice() {
                out.push(1);
                write_type(out, only);
            } else {
                out.push(2);
                write_types(out, elements);
            }
        }
        VariantBody::Struct(fields) => {
            out.push(3);
            write_fields(out, fields);
        }
    }
}

fn write_types(out: &mut Vec<u8>, types: &[TypeSchema]) {
    varint(out, types.len() as u64);
    for inner in types {
        write_type(out, inner);
    }
}

fn write_fields(out: &mut Vec<u8>, fields: &[Field]) {
    varint(out, fields.len() as u64);
    for Field { name, schema } in fields {
        write_name(out, name);
        write_type(out, schema);
    }
}

fn write_name(out: &mut Vec<u8>, name: &str) {
    varint(out, name.len() as u64);
    out.extend_from_slice(name.as_bytes());
}

/// Appends a number, seven bits in each byte, the lowest first.
pub(super) fn varint(out: &mut Vec<u8>, number: impl Into<u128>) {
    let mut number = number.into();
    while number > 0x7f {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// What is left of the bytes, and how many nodes were read.
struct Reader<'a> {
    bytes: &'a [u8],
    nodes: usize,
}

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, SchemaError> {
        let (first, rest) = self.bytes.split_first().ok_or(SchemaError::Truncated)?;
        self.bytes = rest;
        Ok(*first)
    }

    /// A count or a length: at most three bytes, since nothing counts beyond [`MAX_BYTES`].
    fn number(&mut self) -> Result<usize, SchemaError> {
        let mut number = 0;
        for shift in [0, 7, 14] {
            let byte = self.byte()?;
            number |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let shortest = shift == 0 || byte != 0;
                return shortest.then_some(number).ok_or(SchemaError::BadNumber);
            }
        }
        Err(SchemaError::BadNumber)
    }

    fn name(&mut self) -> Result<&'a str, SchemaError> {
        let length = self.number()?;
        if !(1..=MAX_NAME).contains(&length) {
            return Err(SchemaError::BadName);
        }
        let (name, rest) = self.bytes.split_at_checked(length).ok_or(SchemaError::Truncated)?;
        self.bytes = rest;
        std::str::from_utf8(name).map_err(|_| SchemaError::BadName)
    }

    fn count_node(&mut self) -> Result<(), SchemaError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(SchemaError::TooManyNodes);
        }
        Ok(())
    }

    fn node(&mut self, depth: usize) -> Result<TypeSchema, SchemaError> {
        if depth > MAX_DEPTH {
            return Err(SchemaError::TooDeep);
        }
        self.count_node()?;
        let tag = self.byte()?;
        if let Some(scalar) = SCALARS.get(usize::from(tag)) {
            return Ok(scalar.clone());
        }
        let below = depth + 1;
        Ok(match tag {
            17 => TypeSchema::Option(Box::new(self.node(below)?)),
            18 => TypeSchema::Seq(Box::new(self.node(below)?)),
            19 => match self.nodes(below)? {
                none if none.is_empty() => return Err(SchemaError::BadTuple(0)),
                elements => TypeSchema::Tuple(elements),
            },
            20 => TypeSchema::Map(Box::new(self.node(below)?), Box::new(self.node(below)?)),
            21 => TypeSchema::Struct(self.fields(below)?),
            22 => TypeSchema::Enum(self.variants(below)?),
            unknown => return Err(SchemaError::UnknownTag(unknown)),
        })
    }

    /// Grows as nodes are read: what the bytes claim to hold is not allocated in advance.
    fn nodes(&mut self, depth: usize) -> Result<Vec<TypeSchema>, SchemaError> {
        let count = self.number()?;
        (0..count).map(|_| self.node(depth)).collect()
    }

    fn fields(&mut self, depth: usize) -> Result<Vec<Field>, SchemaError> {
        let count = self.number()?;
        let mut seen = std::collections::HashSet::new();
        let mut fields = Vec::new();
        for _ in 0..count {
            let name = self.name()?;
            if !seen.insert(name) {
                return Err(SchemaError::DuplicateName(name.to_owned()));
            }
            fields.push(Field { name: name.to_owned(), schema: self.node(depth)? });
        }
        Ok(fields)
    }

    fn variants(&mut self, depth: usize) -> Result<Vec<Variant>, SchemaError> {
        let count = self.number()?;
        let mut seen = std::collections::HashSet::new();
        let mut variants = Vec::new();
        for _ in 0..count {
            self.count_node()?;
            let name = self.name()?;
            if !seen.insert(name) {
                return Err(SchemaError::DuplicateName(name.to_owned()));
            }
            let body = match self.byte()? {
                0 => VariantBody::Unit,
                1 => VariantBody::Newtype(self.node(depth)?),
                2 => match self.nodes(depth)? {
                    one if one.len() == 1 => return Err(SchemaError::BadTuple(1)),
                    elements => VariantBody::Tuple(elements),
                },
                3 => VariantBody::Struct(self.fields(depth)?),
                unknown => return Err(SchemaError::UnknownTag(unknown)),
            };
            variants.push(Variant { name: name.to_owned(), body });
        }
        Ok(variants)
    }
}
