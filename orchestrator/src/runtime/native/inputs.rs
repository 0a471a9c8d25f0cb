//! What a native instance takes, and how messages are written for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use orchestrator_proto::frame::PREFIX;
use orchestrator_proto::runtime::{MAX_PAYLOAD, UNLIMITED};

use super::super::batch::Body;
use super::super::outlet::Dialect;
use super::super::translate;
use crate::route::{DropReason, Entry, Link, TypeDecl};

/// The inputs that were declared on one connection, by type name.
#[derive(Default)]
pub(super) struct Inputs(RwLock<HashMap<Arc<str>, Arc<Input>>>);

/// One of them.
pub(super) struct Input {
    channel: u16,
    decl: Arc<TypeDecl>,
    /// Messages that the daemon may have sent in total.
    granted: AtomicU64,
    sent: AtomicU64,
}

impl Inputs {
    /// Adds an input; none if its type is declared already. A window of 0 is no limit.
    pub(super) fn declare(
        &self,
        channel: u16,
        decl: &Arc<TypeDecl>,
        window: u32,
    ) -> Option<Arc<Input>> {
        let mut inputs = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if inputs.contains_key(&decl.name) {
            return None;
        }
        let granted = if window == 0 { UNLIMITED } else { u64::from(window) };
        let input = Arc::new(Input {
            channel,
            decl: decl.clone(),
            granted: AtomicU64::new(granted),
            sent: AtomicU64::new(0),
        });
        inputs.insert(decl.name.clone(), input.clone());
        Some(input)
    }
}

impl Input {
    /// The instance takes so many messages in total. A lower number than before changes
    /// nothing.
    pub(super) fn grant(&self, total: u64) {
        self.granted.fetch_max(total, Ordering::AcqRel);
    }
}

impl Dialect for Inputs {
    type Way = Arc<Input>;

    fn way(&self, link: &Link) -> Option<(Arc<Input>, usize)> {
        // Until the instance declares the type, messages wait for it.
        let inputs = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let input = inputs.get(&link.type_name)?;
        let granted = input.granted.load(Ordering::Acquire);
        let left = granted.saturating_sub(input.sent.load(Ordering::Acquire));
        (left > 0).then(|| (input.clone(), usize::try_from(left).unwrap_or(usize::MAX)))
    }

    fn encode(
        &self,
        _link: &Link,
        input: &Arc<Input>,
        entry: &Entry,
        head: &mut Vec<u8>,
    ) -> Result<Body, DropReason> {
        let Some((wanted, schema)) = &input.decl.schema else {
            return Err(DropReason::Untranslatable);
        };
        let translated = match &entry.origin.decl.schema {
            Some((sent, _)) if sent == wanted => None,
            Some(_) => return Err(DropReason::Untranslatable),
            None => translate::to_postcard(entry, schema)?,
        };
        let length = translated.as_ref().unwrap_or(&entry.body).len();
        if length > MAX_PAYLOAD {
            return Err(DropReason::TooLong);
        }
        message_head(input.channel, length, head);
        Ok(Body { translated, tail: b"" })
    }

    fn taken(&self, input: &Arc<Input>, count: usize) {
        input.sent.fetch_add(count as u64, Ordering::AcqRel);
    }

    fn returned(&self, link: &Link) {
        let inputs = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(input) = inputs.get(&link.type_name) {
            input.sent.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// Everything of a `Frame::Message` but its payload: prefix, tag, channel, length.
fn message_head(channel: u16, length: usize, head: &mut Vec<u8>) {
    const TAG: u8 = 4;
    let start = head.len();
    head.extend_from_slice(&[0, 0, 0, 0, TAG]);
    varint(u64::from(channel), head);
    varint(length as u64, head);
    let body = head.len() - start - PREFIX + length;
    // `length` is at most MAX_PAYLOAD.
    head[start..start + PREFIX].copy_from_slice(&(body as u32).to_le_bytes());
}

/// As postcard writes integers: seven bits a byte, the lowest first.
fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
