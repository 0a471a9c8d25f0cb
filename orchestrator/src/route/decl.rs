//! What is known of a message type: how one side declared it, and how its payloads are written.

use std::sync::Arc;

use bytes::Bytes;
use orchestrator_proto::runtime::unstamped;
use orchestrator_proto::{SchemaHash, TypeSchema};

/// How a payload is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encoding {
    /// As native runtimes do; its schema is known.
    Postcard,
    /// A JSON string literal, quotes included, whose content is JSON: the `value` of an
    /// existing Veecle OS storable.
    JsonLiteral,
}

/// A schema with its hash.
pub type Form = (SchemaHash, Arc<TypeSchema>);

/// A type as one side declared it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TypeDecl {
    /// The name that links refer to.
    pub name: Arc<str>,
    /// Its schema with the hash, if the side has one: Veecle OS runtimes have none.
    pub schema: Option<Form>,
    /// Other forms, best first: that an input takes as well, or in which an output has each message as
    /// well. Then its payloads are made of parts, one for each form.
    pub also: Vec<Form>,
    /// Of an output: whether the time of sending stands behind each payload. Of an input: whether it
    /// takes such messages.
    pub is_stamped: bool,
}

impl TypeDecl {
    /// A type in one form, or, from a Veecle OS runtime, in none.
    #[must_use]
    pub fn new(name: Arc<str>, schema: Option<Form>) -> Self {
        Self { name, schema, also: Vec::new(), is_stamped: false }
    }

    /// All forms, best first.
    pub fn forms(&self) -> impl Iterator<Item = &Form> {
        self.schema.iter().chain(&self.also)
    }

    /// Which of them has this hash.
    #[must_use]
    pub fn form_of(&self, hash: SchemaHash) -> Option<usize> {
        self.forms().position(|(known, _)| *known == hash)
    }

    /// A message of this output in the form of its declaration, without its stamp, and its stamp.
    #[must_use]
    pub fn value(&self, body: &Bytes) -> (Bytes, Option<u64>) {
        let (parts, stamp) = self.unstamped(body);
        let value = if self.also.is_empty() { Some(parts) } else { part(parts, 0) };
        (body.slice_ref(value.unwrap_or_default()), stamp)
    }

    /// A message of this output in that form of it, with its stamp behind it if that is wanted. None if
    /// there is no such part, which the reader has seen to.
    #[must_use]
    pub fn value_in(&self, body: &Bytes, form: usize, stamped: bool) -> Option<Bytes> {
        let (parts, stamp) = self.unstamped(body);
        let value = if self.also.is_empty() { parts } else { part(parts, form)? };
        Some(match stamp.filter(|_| stamped) {
            Some(stamp) => [value, &stamp.to_le_bytes()].concat().into(),
            None => body.slice_ref(value),
        })
    }

    /// Whether a payload of this output, without its stamp, has one part for each form and nothing
    /// else.
    #[must_use]
    pub fn is_whole(&self, payload: &[u8]) -> bool {
        if self.also.is_empty() {
            return true;
        }
        let mut rest = payload;
        let is_there = |_| first_part(rest).map(|(_, after)| rest = after).is_some();
        self.forms().all(is_there) && rest.is_empty()
    }

    fn unstamped<'b>(&self, body: &'b [u8]) -> (&'b [u8], Option<u64>) {
        match unstamped(body).filter(|_| self.is_stamped) {
            Some((value, stamp)) => (value, Some(stamp)),
            None => (body, None),
        }
    }

    /// How this side writes payloads.
    #[must_use]
    pub fn encoding(&self) -> Encoding {
        if self.schema.is_some() { Encoding::Postcard } else { Encoding::JsonLiteral }
    }
}

/// The first part of a payload that has several, and what follows it.
fn first_part(payload: &[u8]) -> Option<(&[u8], &[u8])> {
    postcard::take_from_bytes(payload).ok()
}

/// The part for this form.
fn part(payload: &[u8], form: usize) -> Option<&[u8]> {
    let mut rest = payload;
    for _ in 0..form {
        rest = first_part(rest)?.1;
    }
    first_part(rest).map(|(part, _)| part)
}
