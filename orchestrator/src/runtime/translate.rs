//! From one dialect's payloads to the other's, through the declared schema.

use std::sync::Arc;

use bytes::Bytes;
use orchestrator_proto::TypeSchema;

use crate::route::{DropReason, Encoding, Entry};

/// The payload as JSON in a JSON string literal, unless it is that already.
pub(super) fn to_json_literal(entry: &Entry) -> Result<Option<Bytes>, DropReason> {
    let Some((_, schema)) = &entry.origin.decl.schema else {
        return Ok(None);
    };
    let json = schema.to_json(&entry.value()).map_err(|_| DropReason::Untranslatable)?;
    let literal = serde_json::to_vec(&json).map_err(|_| DropReason::Untranslatable)?;
    Ok(Some(literal.into()))
}

/// The payload in postcard, for a receiver that declared `schema`, unless it is that already.
pub(super) fn to_postcard(
    entry: &Entry,
    schema: &Arc<TypeSchema>,
) -> Result<Option<Bytes>, DropReason> {
    debug_assert_eq!(entry.origin.decl.encoding(), Encoding::JsonLiteral);
    let json: String =
        serde_json::from_slice(&entry.body).map_err(|_| DropReason::Untranslatable)?;
    let payload = schema.from_json(&json).map_err(|_| DropReason::Untranslatable)?;
    Ok(Some(payload.into()))
}

/// The payload as JSON text, for people.
pub(crate) fn to_json_text(schema: Option<&TypeSchema>, body: &[u8]) -> Result<String, String> {
    match schema {
        Some(schema) => schema.to_json(body).map_err(|error| error.to_string()),
        None => {
            let json: String = serde_json::from_slice(body).map_err(|error| error.to_string())?;
            serde_json::from_str::<&serde_json::value::RawValue>(&json)
                .map(|raw| raw.get().to_owned())
                .map_err(|error| error.to_string())
        }
    }
}
