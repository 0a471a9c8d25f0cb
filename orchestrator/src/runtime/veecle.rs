//! The dialect of existing Veecle OS runtimes: JSON, one object a line.
//!
//! Such a runtime panics when its queue of outgoing messages is full, so its socket is read
//! without ever waiting for anything: receivers, the telemetry server, control requests.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf, Bytes, BytesMut};
use orchestrator_proto::control::{EventKind, LinkSpec, Priority};
use orchestrator_proto::runtime::{RuntimeReply, RuntimeRequest};
use orchestrator_proto::{ErrorCode, WireError};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;

use super::batch::Body;
use super::outlet::{Dialect, Outlet, Served};
use super::{Endpoint, now_ns, translate, whole};
use crate::route::{DropReason, Encoding, Entry, Link, OutputIndex, Sink, Source, TypeDecl, Woken};

/// What this dialect is called.
pub(super) const DIALECT: &str = "veecle";
/// A longer line, without its newline, kills the reader of such a runtime.
pub(super) const MAX_SENT_LINE: usize = 2048;
/// The longest line that is taken from one: 1 MiB.
const MAX_LINE: usize = 1 << 20;
/// What a reader asks the kernel for at once, at first and at most.
const READ_MIN: usize = 8 << 10;
const READ_MAX: usize = 128 << 10;
/// Requests of one instance that may be under way.
const MAX_REQUESTS: usize = 16;

/// How a connection comes to this daemon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Beginning {
    /// It was accepted.
    New,
    /// The daemon before this one served it, and may have read the beginning of a line.
    Within,
}

/// Begins to serve a connection: from now on messages go to it, and to none before it. Served
/// until the answer is dropped, or ends, which says what the peer did wrong, if that was why.
pub(super) fn serve(
    stream: UnixStream,
    endpoint: Arc<Endpoint>,
    beginning: Beginning,
) -> impl Future<Output = Result<(), WireError>> + Send + use<> {
    let at_once = whole::at_once(&stream, MAX_SENT_LINE + 1);
    let (stream, writer) = stream.into_split();
    let outlet = Outlet::new(writer, endpoint.mailbox.clone(), Veecle { at_once });
    let source = endpoint.router.open_source(Some(endpoint.instance), None, endpoint.sent.clone());
    let served = Served(outlet.clone());
    endpoint.mailbox.attach(outlet.clone());
    tokio::spawn(outlet.clone().run());
    let reader = Reader {
        stream,
        endpoint,
        outlet,
        source,
        buffer: BytesMut::new(),
        may_be_cut: beginning == Beginning::Within,
        outputs: HashMap::new(),
        requests: Arc::default(),
        run: Vec::new(),
        run_output: None,
        woken: Woken::default(),
        now_ns: 0,
    };
    async move {
        let _served = served;
        reader.run().await
    }
}

/// How messages are written for such a runtime: only whole lines, see [`whole`].
pub(super) struct Veecle {
    at_once: usize,
}

impl Dialect for Veecle {
    type Way = ();

    const ENCODING: Encoding = Encoding::JsonLiteral;

    fn way(&self, _link: &Link) -> Option<((), usize)> {
        Some(((), usize::MAX))
    }

    fn encode(
        &self,
        link: &Link,
        (): &mut (),
        entry: &Entry,
        head: &mut Vec<u8>,
    ) -> Result<Body, DropReason> {
        const TAIL: &[u8] = b"}}\n";
        let translated = translate::to_json_literal(entry)?;
        let start = head.len();
        head.extend_from_slice(br#"{"Storable":{"type_name":"#);
        serde_json::to_writer(&mut *head, &*link.type_name)
            .map_err(|_| DropReason::Untranslatable)?;
        head.extend_from_slice(br#","value":"#);
        let value = translated.as_ref().unwrap_or(&entry.body);
        if head.len() - start + value.len() + TAIL.len() - 1 > MAX_SENT_LINE {
            return Err(DropReason::TooLong);
        }
        Ok(Body { translated, tail: TAIL, kept: false })
    }

    fn taken(&self, (): (), _count: usize) {}

    fn returned(&self, _link: &Link) {}

    fn at_once(&self) -> usize {
        self.at_once
    }
}

/// One line. Other keys are for other versions and are passed over.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow, rename = "Storable")]
    storable: Option<Storable<'a>>,
    #[serde(borrow, rename = "ControlRequest")]
    control: Option<&'a RawValue>,
    #[serde(borrow, rename = "Telemetry")]
    telemetry: Option<&'a RawValue>,
}

/// A message, as on the runtime's socket and in a datagram of another orchestrator.
#[derive(Deserialize)]
pub(super) struct Storable<'a> {
    #[serde(borrow)]
    pub(super) type_name: Cow<'a, str>,
    /// A JSON string that holds JSON.
    #[serde(borrow)]
    value: &'a RawValue,
}

impl<'a> Storable<'a> {
    /// The string literal, quotes included, if it is one.
    pub(super) fn literal(&self) -> Result<&'a str, &'static str> {
        let value = self.value.get();
        if self.type_name.is_empty() || self.type_name.len() > LinkSpec::MAX_TYPE_NAME {
            Err("a type name must have 1 to 255 bytes")
        } else if value.starts_with('"') {
            Ok(value)
        } else {
            Err("the value of a storable must be a string that holds JSON")
        }
    }
}

#[derive(Deserialize)]
enum ControlRequest {
    StartRuntime { id: String, priority: Option<Priority> },
    StopRuntime { id: String },
}

#[derive(Serialize)]
enum ToRuntime {
    ControlResponse(ControlResponse),
}

#[derive(Serialize)]
enum ControlResponse {
    Started,
    Stopped,
    Error(String),
}

struct Reader {
    stream: OwnedReadHalf,
    endpoint: Arc<Endpoint>,
    outlet: Arc<Outlet<Veecle>>,
    source: Arc<Source>,
    buffer: BytesMut,
    /// Whether what comes next may be the rest of a line.
    may_be_cut: bool,
    /// Types that were seen on this connection.
    outputs: HashMap<Box<str>, OutputIndex>,
    requests: Arc<AtomicUsize>,
    /// Consecutive messages of one type, not sent yet.
    run: Vec<Bytes>,
    run_output: Option<OutputIndex>,
    woken: Woken,
    now_ns: u64,
}

fn malformed(message: impl Into<String>) -> WireError {
    WireError::new(ErrorCode::Malformed, message)
}

impl Reader {
    async fn run(mut self) -> Result<(), WireError> {
        let mut read_size = READ_MIN;
        // Bytes at the beginning of the buffer that are known to hold no newline.
        let mut searched = 0;
        loop {
            self.buffer.reserve(read_size);
            // An error on a local socket is an end like any other: the peer is gone.
            let count = self.stream.read_buf(&mut self.buffer).await.unwrap_or(0);
            if count == 0 {
                return Ok(());
            }
            if count >= read_size / 2 {
                read_size = (read_size * 2).min(READ_MAX);
            }
            self.now_ns = now_ns();
            let lines = self.lines(&mut searched);
            self.send_run();
            self.woken.kick();
            lines?;
        }
    }

    fn lines(&mut self, searched: &mut usize) -> Result<(), WireError> {
        // The buffer is lent out while its lines are carried out.
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut at = 0;
        let result = loop {
            let from = at.max(*searched);
            let Some(length) = memchr::memchr(b'\n', &buffer[from..]) else {
                *searched = buffer.len() - at;
                break if *searched > MAX_LINE {
                    Err(malformed(format!("a line of more than {MAX_LINE} bytes")))
                } else {
                    Ok(())
                };
            };
            let end = from + length;
            if let Err(error) = self.first_or_other_line(&buffer[at..end]) {
                break Err(error);
            }
            at = end + 1;
            *searched = 0;
        };
        buffer.advance(at);
        self.buffer = buffer;
        result
    }

    /// What the daemon before this one read of a line ended with it. The rest of the line is no
    /// mistake of the peer's.
    fn first_or_other_line(&mut self, line: &[u8]) -> Result<(), WireError> {
        if !std::mem::take(&mut self.may_be_cut) || is_whole(line) {
            return self.line(line);
        }
        let kind = EventKind::MessageCut { dialect: DIALECT.to_owned() };
        self.endpoint.host.event(self.endpoint.instance, kind);
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> Result<(), WireError> {
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(());
        }
        let line: Line<'_> = serde_json::from_slice(line).map_err(|error| {
            let shown: String = String::from_utf8_lossy(line).chars().take(80).collect();
            malformed(format!("a line that is not a runtime's message ({error}): {shown}"))
        })?;
        if let Some(object) = line.telemetry {
            self.endpoint.host.telemetry(self.endpoint.instance, object.get().as_bytes());
        }
        if let Some(storable) = line.storable {
            self.storable(&storable)?;
        }
        if let Some(request) = line.control {
            self.control(request.get());
        }
        Ok(())
    }

    fn storable(&mut self, storable: &Storable<'_>) -> Result<(), WireError> {
        let literal = storable.literal().map_err(malformed)?;
        let output = match self.outputs.get(&*storable.type_name) {
            Some(output) => *output,
            None => {
                let name: Arc<str> = Arc::from(&*storable.type_name);
                let decl = Arc::new(TypeDecl::new(name, None));
                let output = self.endpoint.router.declare_output(&self.source, decl, 0, None)?;
                self.outputs.insert(Box::from(&*storable.type_name), output);
                output
            }
        };
        if self.run_output != Some(output) {
            self.send_run();
            self.run_output = Some(output);
        }
        self.run.push(Bytes::copy_from_slice(literal.as_bytes()));
        Ok(())
    }

    fn send_run(&mut self) {
        if let (Some(output), false) = (self.run_output, self.run.is_empty()) {
            // Nothing here makes the runtime wait: it has no upstream, so `block` drops.
            self.source.send_run(output, &mut self.run, self.now_ns, &mut self.woken);
        }
    }

    fn control(&self, request: &str) {
        let request = match serde_json::from_str(request) {
            Ok(ControlRequest::StartRuntime { id, priority }) => {
                RuntimeRequest::Start { instance: id, priority }
            }
            Ok(ControlRequest::StopRuntime { id }) => RuntimeRequest::Stop { instance: id },
            Err(error) => {
                return respond(
                    &self.outlet,
                    ControlResponse::Error(format!("unknown control request: {error}")),
                );
            }
        };
        if self.requests.fetch_add(1, Ordering::AcqRel) >= MAX_REQUESTS {
            self.requests.fetch_sub(1, Ordering::AcqRel);
            let message = format!("{MAX_REQUESTS} requests are under way; wait for a reply");
            return respond(&self.outlet, ControlResponse::Error(message));
        }
        let (outlet, endpoint, requests) =
            (self.outlet.clone(), self.endpoint.clone(), self.requests.clone());
        tokio::spawn(async move {
            let response = match endpoint.host.control(endpoint.instance, request).await {
                Ok(RuntimeReply::Started { .. }) => ControlResponse::Started,
                Ok(RuntimeReply::Stopped { .. }) => ControlResponse::Stopped,
                Ok(RuntimeReply::List(_)) => ControlResponse::Error("no such request".to_owned()),
                Err(error) if error.code == ErrorCode::NotPermitted => {
                    ControlResponse::Error("no control privileges".to_owned())
                }
                Err(error) => ControlResponse::Error(error.to_string()),
            };
            requests.fetch_sub(1, Ordering::AcqRel);
            respond(&outlet, response);
        });
    }
}

/// Whether this is a line, and not what is left of one: that is never a JSON object, as the line
/// is. If it begins outside of the line's strings, it closes more braces than it opens. If it
/// begins within one, every string of the line's is outside of one here, and the other way round:
/// it has an odd number of quotes, none of which is escaped, because a backslash is allowed in
/// strings alone.
fn is_whole(line: &[u8]) -> bool {
    serde_json::from_slice::<HashMap<Cow<'_, str>, &RawValue>>(line).is_ok()
}

fn respond(outlet: &Arc<Outlet<Veecle>>, mut response: ControlResponse) {
    if let ControlResponse::Error(message) = &mut response {
        // With its quotes and escapes it must stay below the longest line.
        *message = message.chars().take(300).collect();
    }
    if let Ok(mut line) = serde_json::to_vec(&ToRuntime::ControlResponse(response)) {
        line.push(b'\n');
        outlet.push_control(line);
        outlet.kick();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn text() -> impl Strategy<Value = String> {
        // Whatever might make a rest look like a whole.
        prop::collection::vec(
            prop::sample::select(vec![
                "{", "}", "\"", "\\", ":", ",", "1", " ", "a", "ä", "\n", "{}",
            ]),
            0..8,
        )
        .prop_map(|parts| parts.concat())
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![text().prop_map(Value::from), any::<i32>().prop_map(Value::from)];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((text(), inner), 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_left_of_a_line_is_no_line(
            key in text(),
            value in value(),
            inner in any::<bool>(),
            space in " {0,2}",
        ) {
            let value = if inner { Value::from(value.to_string()) } else { value };
            let line = format!("{}{space}", json!({ key: value }));
            prop_assert!(is_whole(line.as_bytes()));
            for cut in 1..=line.len() {
                prop_assert!(!is_whole(&line.as_bytes()[cut..]), "{cut} of {line}");
            }
        }
    }
}
