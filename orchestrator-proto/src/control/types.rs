//! Message types, and the forms in which they were ever declared.

use serde::{Deserialize, Serialize};

use crate::id::{InstanceId, LinkId};
use crate::schema::SchemaHash;

/// A form of a message type: a name, and the schema under which it was declared.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TypeInfo {
    /// The declared name.
    pub name: String,
    /// The hash of the schema; none for what a Veecle OS runtime sends, which declares none.
    pub hash: Option<SchemaHash>,
    /// Instances that declare it as an output.
    pub outputs: Declarers,
    /// Instances that declare it as an input.
    pub inputs: Declarers,
    /// Links of this type that begin or end at one of those, by their ids.
    pub links: Vec<LinkId>,
    /// When it was declared first, milliseconds since 1970 (UTC); none if that is not kept, as
    /// where there is no schema.
    pub first_seen_ms: Option<u64>,
    /// When it was declared last, likewise; up to an hour earlier than that after the end of a
    /// daemon. An instance declares when it connects.
    pub last_seen_ms: Option<u64>,
}

/// Instances that declare a form now, or did when they ran last.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Declarers {
    /// How many they are.
    pub count: u64,
    /// The first of them by their ids, at most [`Declarers::LISTED`].
    pub listed: Vec<Declarer>,
}

impl Declarers {
    /// The most that are listed.
    pub const LISTED: usize = 32;
}

/// An instance that declares a form.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Declarer {
    /// Its id.
    pub id: InstanceId,
    /// Its name, if it has one.
    pub name: Option<String>,
}

/// A form with its schema.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TypeForm {
    /// What is known of it.
    pub info: TypeInfo,
    /// The schema in its canonical form, see [`TypeSchema::decode`](crate::TypeSchema::decode).
    #[serde(with = "serde_bytes")]
    pub schema: Option<Vec<u8>>,
}

/// Forms of all names.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TypeList {
    /// By their names; of each name those first that instances declare, and then those that were
    /// declared the last. As many as fit a frame.
    pub types: Vec<TypeInfo>,
    /// How many more there are, which come after these: ask for them by their names.
    pub more: u64,
}

/// Forms of one name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TypeForms {
    /// Those that instances declare first, and then those that were declared the last. As many as
    /// fit a frame, at most [`TypeForms::LISTED`].
    pub forms: Vec<TypeForm>,
    /// How many more there are: ask for them by their hashes.
    pub more: u64,
}

impl TypeForms {
    /// The most forms that are told at once.
    pub const LISTED: usize = 100;
}
