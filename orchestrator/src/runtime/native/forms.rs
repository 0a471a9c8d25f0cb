//! Forms of a type besides that of its declaration: that an input takes, or in which an output has each
//! message.

use std::collections::HashSet;
use std::sync::Arc;

use orchestrator_proto::control::LinkSpec;
use orchestrator_proto::runtime::{MAX_FORMS, MAX_PAYLOAD, STAMP};
use orchestrator_proto::{SchemaHash, TypeSchema, WireError};

use super::reader::{Reader, malformed};
use crate::route::{Form, TypeDecl};

impl Reader {
    /// What is to be declared next on this channel has this form too.
    pub(super) fn takes(
        &mut self,
        channel: u16,
        canonical: &[u8],
        hash: Option<[u8; 32]>,
    ) -> Result<(), WireError> {
        let form = checked(&format!("channel {channel}"), canonical, hash)?;
        let (of, forms) = self.forms.get_or_insert_with(|| (channel, Vec::new()));
        if *of != channel {
            return Err(malformed(format!("the forms of channel {of} are not yet declared")));
        }
        if forms.len() + 1 >= MAX_FORMS {
            return Err(malformed(format!("channel {channel} has more than {MAX_FORMS} forms")));
        }
        forms.push(form);
        Ok(())
    }

    /// What was said of the channel that is declared now.
    pub(super) fn forms_of(&mut self, channel: u16) -> Result<Vec<Form>, WireError> {
        match self.forms.take() {
            None => Ok(Vec::new()),
            Some((of, forms)) if of == channel => Ok(forms),
            Some((of, _)) => Err(malformed(format!(
                "the declaration of channel {channel} is not that of {of}, whose forms were named"
            ))),
        }
    }
}

/// The declaration, if no form is in it twice.
pub(super) fn all_different(decl: TypeDecl) -> Result<TypeDecl, WireError> {
    let hashes: HashSet<_> = decl.forms().map(|(hash, _)| *hash).collect();
    match hashes.len() == decl.forms().count() {
        true => Ok(decl),
        false => Err(malformed(format!("{} has one form twice", decl.name))),
    }
}

/// The schema that a declaration brings, if everything about it is right.
pub(super) fn checked(
    name: &str,
    canonical: &[u8],
    hash: Option<[u8; 32]>,
) -> Result<(SchemaHash, Arc<TypeSchema>), WireError> {
    if name.is_empty() || name.len() > LinkSpec::MAX_TYPE_NAME {
        return Err(malformed("a type name must have 1 to 255 bytes"));
    }
    let schema = TypeSchema::decode(canonical)
        .map_err(|error| malformed(format!("the schema of {name}: {error}")))?;
    let computed = SchemaHash::of(canonical);
    if hash.is_some_and(|hash| hash != computed.0) {
        return Err(malformed(format!("the hash of {name} is not that of its schema")));
    }
    Ok((computed, Arc::new(schema)))
}

/// Whether a message of an output is made as it was declared.
pub(super) fn check_payload(decl: &TypeDecl, payload: &[u8]) -> Result<(), WireError> {
    let stamp = if decl.is_stamped { STAMP } else { 0 };
    match payload.len().checked_sub(stamp) {
        None => Err(malformed("a message that is shorter than its stamp")),
        Some(length) if length > MAX_PAYLOAD => Err(malformed(format!(
            "a message of {length} bytes; at most {MAX_PAYLOAD} are allowed"
        ))),
        Some(length) if !decl.is_whole(&payload[..length]) => {
            Err(malformed("a message that has not one part for each of its forms"))
        }
        Some(_) => Ok(()),
    }
}
