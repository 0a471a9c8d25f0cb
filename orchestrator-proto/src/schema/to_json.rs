//! A payload as JSON, in the form that `serde_json` gives to the same value.

use std::io::Write;

use serde::Serialize;
use thiserror::Error;

use super::{Field, TypeSchema, Variant, VariantBody};

/// How many values of a payload are decoded, each element and each field counting as one.
pub const MAX_VALUES: usize = 1_000_000;

/// The longest JSON text that is made of a payload: 64 MiB.
pub const MAX_JSON: usize = 64 << 20;

/// Why a payload can't be shown as JSON.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// It ends in the middle of a value.
    #[error("the payload ends in the middle of a value")]
    Truncated,
    /// It goes on after its value.
    #[error("{0} bytes follow the end of the value")]
    Trailing(usize),
    /// A varint that does not fit its type.
    #[error("a number in the payload does not fit its type")]
    BadNumber,
    /// A `bool` that is neither 0 nor 1.
    #[error("{0} is not a bool; it has to be 0 or 1")]
    BadBool(u8),
    /// An option that begins with neither 0 nor 1.
    #[error("{0} does not begin an option; it has to be 0 or 1")]
    BadOption(u8),
    /// A `char` that is not exactly one character.
    #[error("a char in the payload is not exactly one character")]
    BadChar,
    /// Text that is not UTF-8.
    #[error("a text in the payload is not UTF-8")]
    BadUtf8,
    /// The number of a variant that does not exist.
    #[error("the payload names variant {number}; the enum has {count}")]
    BadVariant {
        /// What the payload says.
        number: u128,
        /// How many variants there are.
        count: usize,
    },
    /// More than [`MAX_VALUES`].
    #[error("the payload has more than {MAX_VALUES} values")]
    TooManyValues,
    /// More than [`MAX_JSON`].
    #[error("the payload needs more than {MAX_JSON} bytes of JSON")]
    TooLong,
}

impl TypeSchema {
    /// The payload as JSON text on one line, as `serde_json` would write the same value:
    /// enums tagged from the outside, nothing and floats that are not finite as `null`,
    /// bytes as an array of numbers. A map is an object if its keys are texts, chars,
    /// integers, bools or variants without content, else an array of pairs.
    ///
    /// # Errors
    ///
    /// When the payload is not exactly one value of this type, has more than [`MAX_VALUES`]
    /// values or needs more than [`MAX_JSON`] bytes of text.
    pub fn to_json(&self, payload: &[u8]) -> Result<String, DecodeError> {
        let mut decoder = Decoder {
            bytes: payload,
            values: 0,
            out: Vec::with_capacity(payload.len().saturating_mul(3).clamp(16, 64 << 10)),
        };
        decoder.value(self)?;
        match decoder.bytes.len() {
            0 => String::from_utf8(decoder.out).map_err(|_| DecodeError::BadUtf8),
            rest => Err(DecodeError::Trailing(rest)),
        }
    }

    /// Whether a map with such keys is a JSON object.
    pub(super) fn is_object_key(&self) -> bool {
        match self {
            Self::Enum(variants) => variants.iter().all(|v| v.body == VariantBody::Unit),
            Self::Bool | Self::Char | Self::String => true,
            other => other.integer_bits().is_some(),
        }
    }

    /// Size and signedness, if this is an integer.
    pub(super) const fn integer_bits(&self) -> Option<(u32, bool)> {
        Some(match self {
            Self::U8 => (8, false),
            Self::U16 => (16, false),
            Self::U32 => (32, false),
            Self::U64 => (64, false),
            Self::U128 => (128, false),
            Self::I8 => (8, true),
            Self::I16 => (16, true),
            Self::I32 => (32, true),
            Self::I64 => (64, true),
            Self::I128 => (128, true),
            _ => return None,
        })
    }
}

/// What is left of the payload, and the text so far.
struct Decoder<'a> {
    bytes: &'a [u8],
    values: usize,
    out: Vec<u8>,
}

impl<'a> Decoder<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.bytes.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.bytes.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.bytes = rest;
        Ok(*taken)
    }

    /// A varint of a type with so many bits.
    fn varint(&mut self, bits: u32) -> Result<u128, DecodeError> {
        let mut number = 0;
        for shift in (0..bits).step_by(7) {
            let [byte] = self.array()?;
            let part = u128::from(byte & 0x7f);
            if bits - shift < 7 && part >> (bits - shift) != 0 {
                return Err(DecodeError::BadNumber);
            }
            number |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(DecodeError::BadNumber)
    }

    fn length(&mut self) -> Result<u64, DecodeError> {
        // Cannot be cut: `varint` has checked that it fits 64 bits.
        self.varint(64).map(|length| length as u64)
    }

    fn byte_string(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.length()?;
        self.take(usize::try_from(length).map_err(|_| DecodeError::Truncated)?)
    }

    fn text(&mut self) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.byte_string()?).map_err(|_| DecodeError::BadUtf8)
    }

    fn json<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), DecodeError> {
        // Can't fail: scalars and texts into memory.
        serde_json::to_writer(&mut self.out, value).map_err(|_| DecodeError::TooLong)
    }

    fn integer(&mut self, bits: u32, signed: bool) -> Result<(), DecodeError> {
        let value = match (bits, signed) {
            (8, false) => u128::from(u8::from_le_bytes(self.array()?)),
            (8, true) => i128::from(i8::from_le_bytes(self.array()?)) as u128,
            (_, false) => self.varint(bits)?,
            (_, true) => {
                let zigzag = self.varint(bits)?;
                (zigzag >> 1) ^ (zigzag & 1).wrapping_neg()
            }
        };
        let written = if signed {
            write!(self.out, "{}", value as i128)
        } else {
            write!(self.out, "{value}")
        };
        written.map_err(|_| DecodeError::TooLong)
    }

    fn value(&mut self, schema: &TypeSchema) -> Result<(), DecodeError> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(DecodeError::TooManyValues);
        }
        match schema {
            TypeSchema::Bool => match self.array()? {
                [0] => self.out.extend_from_slice(b"false"),
                [1] => self.out.extend_from_slice(b"true"),
                [other] => return Err(DecodeError::BadBool(other)),
            },
            TypeSchema::F32 => {
                let value = f32::from_le_bytes(self.array()?);
                self.json(&value)?;
            }
            TypeSchema::F64 => {
                let value = f64::from_le_bytes(self.array()?);
                self.json(&value)?;
            }
            TypeSchema::Char => {
                let text = self.text()?;
                if text.chars().count() != 1 {
                    return Err(DecodeError::BadChar);
                }
                self.json(text)?;
            }
            TypeSchema::String => {
                let text = self.text()?;
                self.json(text)?;
            }
            TypeSchema::Bytes => {
                let bytes = self.byte_string()?;
                self.json(bytes)?;
            }
            TypeSchema::Unit => self.out.extend_from_slice(b"null"),
            TypeSchema::Option(inner) => match self.array()? {
                [0] => self.out.extend_from_slice(b"null"),
                [1] => self.value(inner)?,
                [other] => return Err(DecodeError::BadOption(other)),
            },
            TypeSchema::Seq(inner) => {
                let length = self.length()?;
                self.list((0..length).map(|_| &**inner))?;
            }
            TypeSchema::Tuple(elements) if elements.is_empty() => {
                self.out.extend_from_slice(b"null");
            }
            TypeSchema::Tuple(elements) => self.list(elements)?,
            TypeSchema::Map(key, value) => self.map(key, value)?,
            TypeSchema::Struct(fields) => self.fields(fields)?,
            TypeSchema::Enum(variants) => self.variant(variants)?,
            other => {
                let (bits, signed) = other.integer_bits().ok_or(DecodeError::BadNumber)?;
                self.integer(bits, signed)?;
            }
        }
        if self.out.len() > MAX_JSON {
            return Err(DecodeError::TooLong);
        }
        Ok(())
    }

    fn list<'s>(
        &mut self,
        elements: impl IntoIterator<Item = &'s TypeSchema>,
    ) -> Result<(), DecodeError> {
        self.out.push(b'[');
        for (i, element) in elements.into_iter().enumerate() {
            if i > 0 {
                self.out.push(b',');
            }
            self.value(element)?;
        }
        self.out.push(b']');
        Ok(())
    }

    fn fields(&mut self, fields: &[Field]) -> Result<(), DecodeError> {
        self.out.push(b'{');
        for (i, Field { name, schema }) in fields.iter().enumerate() {
            if i > 0 {
                self.out.push(b',');
            }
            self.json(name)?;
            self.out.push(b':');
            self.value(schema)?;
        }
        self.out.push(b'}');
        Ok(())
    }

    fn map(&mut self, key: &TypeSchema, value: &TypeSchema) -> Result<(), DecodeError> {
        let length = self.length()?;
        let object = key.is_object_key();
        self.out.push(if object { b'{' } else { b'[' });
        for i in 0..length {
            if i > 0 {
                self.out.push(b',');
            }
            if object {
                self.object_key(key)?;
                self.out.push(b':');
                self.value(value)?;
            } else {
                self.list([key, value])?;
            }
        }
        self.out.push(if object { b'}' } else { b']' });
        Ok(())
    }

    fn object_key(&mut self, key: &TypeSchema) -> Result<(), DecodeError> {
        let quoted = matches!(key, TypeSchema::String | TypeSchema::Char | TypeSchema::Enum(_));
        if quoted {
            return self.value(key);
        }
        self.out.push(b'"');
        self.value(key)?;
        self.out.push(b'"');
        Ok(())
    }

    fn variant(&mut self, variants: &[Variant]) -> Result<(), DecodeError> {
        let number = self.varint(32)?;
        let Variant { name, body } = usize::try_from(number)
            .ok()
            .and_then(|number| variants.get(number))
            .ok_or(DecodeError::BadVariant { number, count: variants.len() })?;
        if *body == VariantBody::Unit {
            return self.json(name);
        }
        self.out.push(b'{');
        self.json(name)?;
        self.out.push(b':');
        match body {
            VariantBody::Unit => {}
            VariantBody::Newtype(inner) => self.value(inner)?,
            VariantBody::Tuple(one) if one.len() == 1 => self.value(&one[0])?,
            VariantBody::Tuple(elements) => self.list(elements)?,
            VariantBody::Struct(fields) => self.fields(fields)?,
        }
        self.out.push(b'}');
        Ok(())
    }
}
