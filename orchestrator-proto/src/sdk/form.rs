//! The forms in which a type is written: this program's own, and others that it can read.

use std::fmt;

use super::Message;
use super::error::DeclareError;
use crate::{SchemaHash, TypeSchema};

/// How a payload becomes a `T`.
pub(super) type Decode<T> = fn(&[u8]) -> Result<T, postcard::Error>;

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

    pub(super) fn into_parts(self) -> (TypeSchema, Decode<T>) {
        (self.schema, self.decode)
    }
}

impl<T> fmt::Debug for Form<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Form({:?}, {})", self.name, self.schema.hash())
    }
}

/// A payload that is one value and nothing else.
pub(super) fn decode<T: Message>(payload: &[u8]) -> Result<T, postcard::Error> {
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
