//! What a native instance takes, and how messages are written for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use orchestrator_proto::frame::{self, MAX_RUNTIME, PREFIX};
use orchestrator_proto::runtime::{Frame, MAX_PAYLOAD, MAX_PAYLOAD_1, STAMP, Sender, UNLIMITED};

use super::super::batch::{Body, Written};
use super::super::outlet::Dialect;
use super::super::translate;
use super::ledger::{Acknowledged, Ledger};
use crate::route::{DropReason, Encoding, Entry, Link, TypeDecl};

/// The inputs that were declared on one connection, by type name.
pub(super) struct Inputs {
    by_type: RwLock<HashMap<Arc<str>, Arc<Input>>>,
    /// The number of the connection.
    sink: u64,
    /// The largest payload that the peer takes, bytes.
    longest: AtomicUsize,
}

/// One of them.
pub(super) struct Input {
    channel: u16,
    pub(super) decl: Arc<TypeDecl>,
    /// Messages that the daemon may have sent in total.
    granted: AtomicU64,
    sent: AtomicU64,
    /// The number of the form that the peer expects next, or [`UNTOLD`].
    form: AtomicU8,
    /// Whether the peer expects what comes next to have a stamp, 0 or 1, or [`UNTOLD`].
    stamped: AtomicU8,
    /// Set if it acknowledges, and is told whose messages it gets.
    recognising: Option<Recognising>,
}

#[derive(Default)]
struct Recognising {
    /// Where the numbers stand that the peer was told.
    run: Mutex<Run>,
    ledger: Mutex<Ledger>,
}

/// Whose messages the peer expects next, whether they are kept, and the number of the next one;
/// none for messages without numbers.
type Run = Option<(Sender, bool, u64)>;

/// An input, while messages for it are collected.
pub(super) struct Way {
    input: Arc<Input>,
    run: Run,
    form: u8,
    stamped: u8,
}

/// The peer may expect any form, and a stamp or none: it has to be told.
const UNTOLD: u8 = u8::MAX;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// With the ledger locked: what was acknowledged is not to be given back meanwhile.
fn settle(acknowledged: Vec<Acknowledged>) {
    for (last, count) in acknowledged {
        last.origin.acknowledged(&last, count);
    }
}

impl Inputs {
    /// None as yet, on the connection with this number.
    pub(super) fn new(sink: u64) -> Self {
        Self { by_type: RwLock::default(), sink, longest: AtomicUsize::new(MAX_PAYLOAD) }
    }

    /// The peer speaks this version of the protocol.
    pub(super) fn speaks(&self, protocol: u32) {
        let longest = if protocol < 2 { MAX_PAYLOAD_1 } else { MAX_PAYLOAD };
        self.longest.store(longest, Ordering::Release);
    }

    /// The input of this type.
    pub(super) fn input(&self, type_name: &str) -> Option<Arc<Input>> {
        let inputs = self.by_type.read().unwrap_or_else(PoisonError::into_inner);
        inputs.get(type_name).cloned()
    }

    /// Adds an input; none if its type is declared already. A window of 0 is no limit.
    pub(super) fn declare(
        &self,
        channel: u16,
        decl: &Arc<TypeDecl>,
        window: u32,
        recognises: bool,
    ) -> Option<Arc<Input>> {
        let mut inputs = self.by_type.write().unwrap_or_else(PoisonError::into_inner);
        if inputs.contains_key(&decl.name) {
            return None;
        }
        let granted = if window == 0 { UNLIMITED } else { u64::from(window) };
        let input = Arc::new(Input {
            channel,
            decl: decl.clone(),
            granted: AtomicU64::new(granted),
            sent: AtomicU64::new(0),
            form: AtomicU8::new(0),
            stamped: AtomicU8::new(0),
            recognising: recognises.then(Recognising::default),
        });
        inputs.insert(decl.name.clone(), input.clone());
        Some(input)
    }

    fn get(&self, link: &Link) -> Option<Arc<Input>> {
        self.input(&link.type_name)
    }
}

impl Input {
    /// The instance takes so many messages in total. A lower number than before changes
    /// nothing.
    pub(super) fn grant(&self, total: u64) {
        self.granted.fetch_max(total, Ordering::AcqRel);
    }

    /// The instance's number for it.
    pub(super) const fn channel(&self) -> u16 {
        self.channel
    }

    /// Whether it was declared as one that acknowledges.
    pub(super) fn recognises(&self) -> bool {
        self.recognising.is_some()
    }

    /// The instance acknowledges so many messages in total. False if that is more than it got.
    pub(super) fn acknowledge(&self, total: u64) -> bool {
        let Some(recognising) = &self.recognising else { return false };
        if total > self.sent.load(Ordering::Acquire) {
            return false;
        }
        let mut ledger = lock(&recognising.ledger);
        settle(ledger.acknowledge(total));
        true
    }
}

impl Dialect for Inputs {
    type Way = Way;

    const ENCODING: Encoding = Encoding::Postcard;

    fn way(&self, link: &Link) -> Option<(Way, usize)> {
        // Until the instance declares the type, messages wait for it.
        let input = self.get(link)?;
        let granted = input.granted.load(Ordering::Acquire);
        let left = granted.saturating_sub(input.sent.load(Ordering::Acquire));
        let mut run = None;
        if let Some(recognising) = &input.recognising {
            if lock(&recognising.ledger).is_full() {
                return None;
            }
            run = *lock(&recognising.run);
        }
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let form = input.form.load(Ordering::Acquire);
        let stamped = input.stamped.load(Ordering::Acquire);
        (left > 0).then_some((Way { input, run, form, stamped }, left))
    }

    fn encode(
        &self,
        _link: &Link,
        Way { input, run, form, stamped }: &mut Way,
        entry: &Entry,
        head: &mut Vec<u8>,
    ) -> Result<Body, DropReason> {
        let has_stamp = entry.origin.decl.is_stamped;
        let (written, translated) = match &entry.origin.decl.schema {
            Some(_) if !entry.origin.decl.also.is_empty() => {
                // Of the forms that both have, the best one of the receiver.
                let decl = &entry.origin.decl;
                let mut forms = input.decl.forms().enumerate();
                let both = forms.find_map(|(at, (hash, _))| Some((at, decl.form_of(*hash)?)));
                let (at, form) = both.ok_or(DropReason::Untranslatable)?;
                let value = decl.value_in(&entry.body, form, input.decl.is_stamped);
                (Some(at), Some(value.ok_or(DropReason::Untranslatable)?))
            }
            Some((sent, _)) => {
                let value = (has_stamp && !input.decl.is_stamped).then(|| entry.value());
                (input.decl.form_of(*sent), value)
            }
            None => {
                // In the best form that there is one in.
                let forms = input.decl.forms().enumerate();
                let mut each = forms.map(|(at, (_, schema))| {
                    translate::to_postcard(entry, schema).map(|body| (at, body))
                });
                let (at, body) = each.find_map(Result::ok).ok_or(DropReason::Untranslatable)?;
                (Some(at), body)
            }
        };
        // Of at most `MAX_FORMS`.
        let written = written.ok_or(DropReason::Untranslatable)? as u8;
        let length = translated.as_ref().unwrap_or(&entry.body).len();
        let around = if has_stamp { STAMP } else { 0 };
        if length > self.longest.load(Ordering::Acquire) + around {
            return Err(DropReason::TooLong);
        }
        let kept = input.recognises() && entry.origin.is_kept();
        if input.recognises() {
            number_head(input.channel, run, entry, head);
        }
        if *form != written {
            *form = written;
            append(&Frame::Form { channel: input.channel, form: written }, head);
        }
        if input.decl.is_stamped && *stamped != u8::from(has_stamp) {
            *stamped = u8::from(has_stamp);
            append(&Frame::Stamps { channel: input.channel, stamped: has_stamp }, head);
        }
        message_head(input.channel, length, head);
        Ok(Body { translated, tail: b"", kept })
    }

    fn taken(&self, Way { input, run, form, stamped }: Way, count: usize) {
        input.form.store(form, Ordering::Release);
        input.stamped.store(stamped, Ordering::Release);
        if let Some(recognising) = &input.recognising {
            *lock(&recognising.run) = run;
        }
        input.sent.fetch_add(count as u64, Ordering::AcqRel);
    }

    fn returned(&self, link: &Link) {
        if let Some(input) = self.get(link) {
            input.sent.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn written(&self, written: Written<'_>) {
        let (Written::Kept(link, _) | Written::Others(link, _)) = &written;
        let Some(input) = self.get(link) else { return };
        let Some(recognising) = &input.recognising else { return };
        let mut ledger = lock(&recognising.ledger);
        settle(match written {
            Written::Kept(link, entries) => ledger.keep(link, entries),
            Written::Others(_, count) => ledger.pass(count),
        });
    }

    fn sink(&self) -> u64 {
        self.sink
    }

    fn hand_over(&self) {
        let inputs = self.by_type.read().unwrap_or_else(PoisonError::into_inner);
        // What told the peer of these may have gone back unwritten.
        for input in inputs.values().filter(|input| !input.decl.also.is_empty()) {
            input.form.store(UNTOLD, Ordering::Release);
        }
        for input in inputs.values().filter(|input| input.decl.is_stamped) {
            input.stamped.store(UNTOLD, Ordering::Release);
        }
        for recognising in inputs.values().filter_map(|input| input.recognising.as_ref()) {
            lock(&recognising.ledger).take_back();
            // What told the peer of these numbers may have gone back unwritten.
            *lock(&recognising.run) = None;
        }
    }
}

/// What the peer must be told about the numbers before this message: nothing, as a rule.
fn number_head(channel: u16, run: &mut Run, entry: &Entry, head: &mut Vec<u8>) {
    let (origin, number) = (&entry.origin, entry.number);
    let frame = match (origin.sender, *run) {
        (None, None) => return,
        (None, Some(_)) => Frame::From { channel, sender: None, next: 0, kept: false },
        (Some(sender), Some((last, kept, next)))
            if next <= number && kept == origin.is_kept() && sender == last =>
        {
            *run = Some((sender, kept, number + 1));
            if next == number {
                return;
            }
            return append(&Frame::Skip { channel, count: number - next }, head);
        }
        (Some(sender), _) => {
            let kept = origin.is_kept();
            Frame::From { channel, sender: Some(sender), next: number, kept }
        }
    };
    *run = origin.sender.map(|sender| (sender, origin.is_kept(), number + 1));
    append(&frame, head);
}

fn append(frame: &Frame<'_>, head: &mut Vec<u8>) {
    // Numbers and an id: it fits.
    let _ = frame::append(head, frame, MAX_RUNTIME);
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
