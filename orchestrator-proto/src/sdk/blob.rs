//! Bytes that are received without being copied.

use std::cell::Cell;
use std::fmt;
use std::ops::Deref;

use bytes::Bytes;
use postcard_schema::Schema;
use postcard_schema::schema::{DataModelType, NamedType};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::TypeSchema;

/// Bytes in a message: a picture, a point cloud, what another protocol carries.
///
/// On the wire and in schemas it is a byte string, as `serde_bytes::ByteBuf` is. When it is received,
/// it shares the memory that its message was read into: nothing is copied. That memory, which is that
/// of the message and of others that came together with it, 64 KiB as a rule, is freed with the last
/// blob in it; so of a short one that is kept for long, keep a copy ([`to_vec`](slice::to_vec)).
///
/// Encoding copies them once, straight into the frame that is given to the kernel. What the kernel does
/// not take at once is copied to where it waits, and so is what may have to be sent again (under the
/// policy `block`). A clone copies nothing.
///
/// ```
/// use orchestrator_proto::Message;
/// use orchestrator_proto::sdk::{Blob, Schema};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, Schema, Message)]
/// # #[postcard(crate = orchestrator_proto::postcard_schema)]
/// #[message(name = "acme.picture.v1")]
/// struct Picture {
///     width: u32,
///     height: u32,
///     grey: Blob,
/// }
///
/// let picture = Picture { width: 2, height: 2, grey: Blob::from(vec![0, 50, 100, 150]) };
/// assert_eq!(picture.grey[3], 150);
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Blob(Bytes);

impl Blob {
    /// The bytes, which share their memory.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Blob {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Bytes> for Blob {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<Blob> for Bytes {
    fn from(blob: Blob) -> Self {
        blob.0
    }
}

/// How many bytes it has: they may be many.
impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.len())
    }
}

impl Schema for Blob {
    const SCHEMA: &'static NamedType = &NamedType { name: "Blob", ty: &DataModelType::ByteArray };
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Blob;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Blob, E> {
        Ok(Blob(shared(bytes).unwrap_or_else(|| Bytes::copy_from_slice(bytes))))
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Blob, E> {
        Ok(Blob(Bytes::copy_from_slice(bytes)))
    }

    fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Blob, E> {
        Ok(Blob(bytes.into()))
    }

    /// As formats for people have bytes, JSON for one.
    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Blob, A::Error> {
        let mut bytes = Vec::new();
        while let Some(byte) = sequence.next_element()? {
            bytes.push(byte);
        }
        Ok(Blob(bytes.into()))
    }
}

thread_local! {
    /// The payload that this thread decodes now, if blobs may share its memory: a `Deserialize` gets
    /// the bytes alone, and not what they are a part of.
    static PAYLOAD: Cell<Option<Bytes>> = const { Cell::new(None) };
}

/// Decodes, so that blobs in it share the memory of `payload`.
pub(super) fn sharing<T>(payload: &Bytes, decode: impl FnOnce(&[u8]) -> T) -> T {
    /// Puts back what was there before, also after a panic.
    struct Before(Option<Bytes>);
    impl Drop for Before {
        fn drop(&mut self) {
            let _ = PAYLOAD.try_with(|cell| cell.set(self.0.take()));
        }
    }
    // Fails where the thread is about to end: then they are copied.
    let _before =
        Before(PAYLOAD.try_with(|cell| cell.replace(Some(payload.clone()))).ok().flatten());
    decode(payload)
}

/// These bytes of the payload that is decoded now; none if they are no part of it.
fn shared(bytes: &[u8]) -> Option<Bytes> {
    let payload = PAYLOAD.try_with(Cell::take).ok().flatten()?;
    let at = bytes.as_ptr().addr().checked_sub(payload.as_ptr().addr());
    let range = at.and_then(|at| Some(at..at.checked_add(bytes.len())?));
    let shared = range.filter(|range| range.end <= payload.len()).map(|range| payload.slice(range));
    let _ = PAYLOAD.try_with(|cell| cell.set(Some(payload)));
    shared
}

/// Whether there are bytes in it that can share memory: else it is not worth offering any.
pub(super) fn has_bytes(schema: &TypeSchema) -> bool {
    use crate::schema::VariantBody;
    match schema {
        TypeSchema::Bytes => true,
        TypeSchema::Option(inner) | TypeSchema::Seq(inner) => has_bytes(inner),
        TypeSchema::Tuple(parts) => parts.iter().any(has_bytes),
        TypeSchema::Map(key, value) => has_bytes(key) || has_bytes(value),
        TypeSchema::Struct(fields) => fields.iter().any(|field| has_bytes(&field.schema)),
        TypeSchema::Enum(variants) => variants.iter().any(|variant| match &variant.body {
            VariantBody::Unit => false,
            VariantBody::Newtype(inner) => has_bytes(inner),
            VariantBody::Tuple(parts) => parts.iter().any(has_bytes),
            VariantBody::Struct(fields) => fields.iter().any(|field| has_bytes(&field.schema)),
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Serialize, Deserialize, Schema, PartialEq, Debug)]
    struct Many {
        number: u32,
        blobs: Vec<Option<Blob>>,
        text: String,
    }

    fn decode(payload: &[u8]) -> Many {
        postcard::from_bytes(payload).unwrap()
    }

    proptest! {
        #[test]
        fn blobs_share_the_payload_that_they_are_in(
            number in any::<u32>(),
            blobs in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..50)), 0..6),
        ) {
            let blobs = blobs.into_iter().map(|blob| blob.map(Blob::from)).collect();
            let many = Many { number, blobs, text: "x".into() };
            let payload = Bytes::from(postcard::to_stdvec(&many).unwrap());
            let got = sharing(&payload, decode);
            prop_assert_eq!(&got, &many);
            for blob in got.blobs.iter().flatten().filter(|blob| !blob.is_empty()) {
                prop_assert!(payload.as_ptr_range().contains(&blob.as_ptr()));
            }
            prop_assert_eq!(PAYLOAD.take(), None);

            // Those of another payload are copied, whatever is decoded now.
            let other = payload.to_vec();
            let inner = sharing(&payload, |_| decode(&other));
            prop_assert_eq!(&inner, &many);
            drop(other);
            prop_assert_eq!(inner, many);
        }
    }

    #[test]
    fn one_within_another_and_a_panic_leave_what_was_there() {
        let (outer, inner) = (Bytes::from(vec![1, 7]), Bytes::from(vec![1, 8]));
        sharing(&outer, |payload| {
            let panicked =
                std::panic::catch_unwind(|| sharing(&inner, |_| panic!("as it happens")));
            assert!(panicked.is_err());
            let blob: Blob = postcard::from_bytes(payload).unwrap();
            assert!(outer.as_ptr_range().contains(&blob.as_ptr()));
        });
        assert_eq!(PAYLOAD.take(), None);
    }

    #[test]
    fn it_is_a_byte_string_whatever_the_format() {
        assert_eq!(TypeSchema::from(Blob::SCHEMA), TypeSchema::Bytes);
        let blob = Blob::from(vec![1, 2, 3]);
        let bytes = postcard::to_stdvec(&blob).unwrap();
        assert_eq!(bytes, postcard::to_stdvec(&serde_bytes::ByteBuf::from([1, 2, 3])).unwrap());
        let json = serde_json::to_string(&blob).unwrap();
        assert_eq!(serde_json::from_str::<Blob>(&json).unwrap(), blob);
        assert_eq!(format!("{blob:?}"), "Blob(3 bytes)");
    }

    #[test]
    fn types_without_bytes_are_known() {
        assert!(has_bytes(&TypeSchema::from(Many::SCHEMA)));
        assert!(has_bytes(&TypeSchema::from(<Option<Result<(u8, Blob), ()>>>::SCHEMA)));
        assert!(!has_bytes(&TypeSchema::from(<Vec<(u8, Option<String>)>>::SCHEMA)));
    }
}
