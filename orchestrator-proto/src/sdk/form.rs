//! The forms in which a type is written: this program's own, and others that it can read.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Message;
use super::blob::{has_bytes, sharing};
use super::error::DeclareError;
use super::input::Arrived;
use crate::{SchemaHash, TypeSchema};

/// How a payload becomes a `T`.
type Decode<T> = fn(&[u8]) -> Result<T, postcard::Error>;

/// How payloads of one form are read.
pub(super) struct Read<T> {
    decode: Decode<T>,
    /// Whether there may be blobs in it, which share its memory.
    shares: bool,
}

impl<T> Read<T> {
    fn new(schema: &TypeSchema, decode: Decode<T>) -> Self {
        Self { decode, shares: has_bytes(schema) }
    }

    /// Whether it is nothing more than [`decode`].
    pub(super) const fn is_plain(&self) -> bool {
        !self.shares
    }

    pub(super) fn message(&self, arrived: Arrived<'_>) -> Result<T, postcard::Error> {
        match self.shares {
            true => sharing(&arrived.to_bytes(), self.decode),
            false => (self.decode)(arrived.payload),
        }
    }
}

impl<T: Message> Read<T> {
    /// The form of the type itself.
    pub(super) fn own() -> Self {
        Self::new(&T::schema(), decode::<T>)
    }
}

impl<T> Clone for Read<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Read<T> {}

/// A form in which others send messages that an [`Input`](super::Input) makes `T`s of; see
/// [`Message::reads`].
pub struct Form<T> {
    name: &'static str,
    schema: TypeSchema,
    decode: Decode<T>,
}

impl<T> Form<T> {
    /// The form of the type `Old`, which has the same declared name.
    #[must_use]
    pub fn of<Old>() -> Self
    where
        Old: Message,
        T: From<Old>,
    {
        let decode = |payload: &[u8]| decode::<Old>(payload).map(T::from);
        Self { name: Old::NAME, schema: Old::schema(), decode }
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn into_parts(self) -> (TypeSchema, Read<T>) {
        let read = Read::new(&self.schema, self.decode);
        (self.schema, read)
    }
}

impl<T> fmt::Debug for Form<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Form({:?}, {})", self.name, self.schema.hash())
    }
}

/// A form in which an [`Output`](super::Output) of `T` has each message as well; see
/// [`Message::writes`].
pub struct Offer<T> {
    name: &'static str,
    schema: TypeSchema,
    encode: fn(&T, &mut Vec<u8>) -> Result<(), postcard::Error>,
}

impl<T> Offer<T> {
    /// The form of the type `Old`, which has the same declared name.
    #[must_use]
    pub fn of<Old>() -> Self
    where
        Old: Message + for<'a> From<&'a T>,
    {
        let encode = |message: &T, out: &mut Vec<u8>| append(&Old::from(message), out);
        Self { name: Old::NAME, schema: Old::schema(), encode }
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) const fn schema(&self) -> &TypeSchema {
        &self.schema
    }

    pub(super) fn encode(&self, message: &T, out: &mut Vec<u8>) -> Result<(), postcard::Error> {
        (self.encode)(message, out)
    }
}

impl<T> fmt::Debug for Offer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Offer({:?}, {})", self.name, self.schema.hash())
    }
}

/// Writes one value behind what is there.
pub(super) fn append<T: Serialize>(value: &T, out: &mut Vec<u8>) -> Result<(), postcard::Error> {
    let written = postcard::to_extend(value, std::mem::take(out))?;
    *out = written;
    Ok(())
}

/// A payload that is one value and nothing else.
pub(super) fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, postcard::Error> {
    match postcard::take_from_bytes(payload)? {
        (message, []) => Ok(message),
        _ => Err(postcard::Error::DeserializeBadEncoding),
    }
}

/// A schema as it is declared.
pub(super) struct Written {
    pub(super) schema: Vec<u8>,
    pub(super) hash: SchemaHash,
}

impl Written {
    /// Of the type with this name.
    pub(super) fn of(name: &str, schema: &TypeSchema) -> Result<Self, DeclareError> {
        let schema = schema.encode();
        TypeSchema::decode(&schema)
            .map_err(|source| DeclareError::BadSchema { name: name.to_owned(), source })?;
        Ok(Self { hash: SchemaHash::of(&schema), schema })
    }
}
