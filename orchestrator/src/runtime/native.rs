//! The native dialect: frames of [`orchestrator_proto::runtime`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use orchestrator_proto::control::LinkSpec;
use orchestrator_proto::frame::{self, MAX_RUNTIME, PREFIX};
use orchestrator_proto::runtime::{
    Declare, Direction, Frame, MAGIC, MAX_CHANNELS, MAX_PAYLOAD, PROTOCOL, UNLIMITED,
};
use orchestrator_proto::{ErrorCode, SchemaHash, TypeSchema, WireError};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;

use super::outlet::{Body, Dialect, Outlet, Served};
use super::{Endpoint, now_ns, translate};
use crate::route::{DropReason, Entry, Link, OutputIndex, Sink, Source, TypeDecl, Upstream, Woken};

/// How long a connection may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// What a reader asks the kernel for at once, at first and at most.
const READ_MIN: usize = 8 << 10;
const READ_MAX: usize = 256 << 10;
/// Payloads above this keep the buffer they were read into; smaller ones are copied out of it,
/// so that one waiting message never keeps more than itself in memory.
const COPY_BELOW: usize = 16 << 10;
/// Requests of one instance that may be under way.
const MAX_REQUESTS: usize = 16;

/// Serves one connection until it ends. The answer is what the peer did wrong, if that was why.
pub(super) async fn serve(stream: UnixStream, endpoint: Arc<Endpoint>) -> Result<(), WireError> {
    let (reader, writer) = stream.into_split();
    let outlet = Outlet::new(writer, endpoint.mailbox.clone(), Native::default());
    let connection = Arc::new_cyclic(|this: &Weak<Connection>| {
        let upstream: Weak<dyn Upstream> = this.clone();
        let source = endpoint.router.open_source(
            Some(endpoint.instance),
            Some(upstream),
            endpoint.sent.clone(),
        );
        Connection {
            endpoint,
            source,
            outlet,
            requests: AtomicUsize::new(0),
        }
    });
    let _served = Served(connection.outlet.clone());
    tokio::spawn(connection.outlet.clone().run());
    let result = Reader::new(reader, connection.clone()).run().await;
    if let Err(error) = &result {
        connection.tell(&Frame::Refused(error.clone()));
        connection.outlet.kick();
    }
    result
}

/// What both halves of a connection share.
struct Connection {
    endpoint: Arc<Endpoint>,
    source: Arc<Source>,
    outlet: Arc<Outlet<Native>>,
    requests: AtomicUsize,
}

impl Connection {
    /// Queues a frame for the peer; somebody has to kick or wake the outlet.
    fn tell(&self, frame: &Frame<'_>) {
        match frame::encode(frame, MAX_RUNTIME) {
            Ok(frame) => self.outlet.push_control(frame),
            Err(error) => tracing::error!(%error, "a frame could not be encoded"),
        }
    }
}

impl Upstream for Connection {
    fn window_moved(&self, channel: u16) {
        self.tell(&Frame::Grant {
            channel,
            total: self.source.grant(channel),
        });
        // Not written in this call: it may come out of the writing of another connection.
        self.outlet.wake();
    }
}

/// What the instance takes.
#[derive(Default)]
pub(super) struct Native {
    inputs: RwLock<HashMap<Arc<str>, Arc<Input>>>,
}

struct Input {
    channel: u16,
    decl: Arc<TypeDecl>,
    /// Messages that the daemon may have sent in total.
    granted: AtomicU64,
    sent: AtomicU64,
}

impl Native {
    fn input(&self, type_name: &str) -> Option<Arc<Input>> {
        self.inputs
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(type_name)
            .cloned()
    }
}

impl Dialect for Native {
    fn quota(&self, link: &Link) -> usize {
        // Until the instance declares the type, messages wait for it.
        self.input(&link.type_name).map_or(0, |input| {
            let granted = input.granted.load(Ordering::Acquire);
            let left = granted.saturating_sub(input.sent.load(Ordering::Acquire));
            usize::try_from(left).unwrap_or(usize::MAX)
        })
    }

    fn encode(&self, link: &Link, entry: &Entry, head: &mut Vec<u8>) -> Result<Body, DropReason> {
        let input = self
            .input(&link.type_name)
            .ok_or(DropReason::Untranslatable)?;
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
        Ok(Body {
            translated,
            tail: b"",
        })
    }

    fn taken(&self, link: &Link, count: usize) {
        if let Some(input) = self.input(&link.type_name) {
            input.sent.fetch_add(count as u64, Ordering::AcqRel);
        }
    }
}

/// Everything of a [`Frame::Message`] but its payload: prefix, tag, channel, length.
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

/// Reads frames and carries them out.
struct Reader {
    stream: OwnedReadHalf,
    connection: Arc<Connection>,
    buffer: BytesMut,
    read_size: usize,
    greeted: bool,
    channels: Vec<Option<Channel>>,
    /// Consecutive messages of one output, not sent yet.
    run: Vec<Bytes>,
    run_output: Option<OutputIndex>,
    woken: Woken,
    over_full: Option<Arc<Link>>,
    now_ns: u64,
}

#[derive(Clone)]
enum Channel {
    Output(OutputIndex),
    Input(Arc<Input>),
}

fn malformed(message: impl Into<String>) -> WireError {
    WireError::new(ErrorCode::Malformed, message)
}

impl Reader {
    fn new(stream: OwnedReadHalf, connection: Arc<Connection>) -> Self {
        Self {
            stream,
            connection,
            buffer: BytesMut::new(),
            read_size: READ_MIN,
            greeted: false,
            channels: Vec::new(),
            run: Vec::new(),
            run_output: None,
            woken: Woken::default(),
            over_full: None,
            now_ns: 0,
        }
    }

    async fn run(mut self) -> Result<(), WireError> {
        let greeting = async {
            while !self.greeted {
                if !self.read().await? {
                    return Ok(false);
                }
            }
            Ok::<_, WireError>(true)
        };
        let greeted = tokio::time::timeout(HELLO_TIMEOUT, greeting).await;
        match greeted {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(malformed("no hello within ten seconds")),
        }
        while self.read().await? {}
        Ok(())
    }

    /// One read and all frames that are complete after it. False at the end of the stream.
    async fn read(&mut self) -> Result<bool, WireError> {
        self.buffer.reserve(self.read_size);
        // An error on a local socket is an end like any other: the peer is gone.
        let count = self.stream.read_buf(&mut self.buffer).await.unwrap_or(0);
        if count == 0 {
            return Ok(false);
        }
        if count >= self.read_size / 2 {
            self.read_size = (self.read_size * 2).min(READ_MAX);
        }
        self.now_ns = now_ns();
        let frames = self.frames();
        self.send_run();
        self.woken.kick();
        frames?;
        if let Some(link) = self.over_full.take() {
            link.room().await;
        }
        Ok(true)
    }

    fn frames(&mut self) -> Result<(), WireError> {
        let mut at = 0;
        loop {
            let rest = &self.buffer[at..];
            let length = match frame::body_length(rest, MAX_RUNTIME) {
                Ok(Some(length)) if rest.len() >= PREFIX + length => length,
                Ok(Some(length)) => {
                    self.buffer.advance(at);
                    let missing = (PREFIX + length).saturating_sub(self.buffer.len());
                    self.buffer.reserve(missing);
                    return Ok(());
                }
                Ok(None) => {
                    self.buffer.advance(at);
                    return Ok(());
                }
                Err(error) => return Err(malformed(error.to_string())),
            };
            let end = at + PREFIX + length;
            if length > COPY_BELOW && self.greeted {
                self.buffer.advance(at);
                let frame = self.buffer.split_to(PREFIX + length).freeze();
                at = 0;
                self.frame(&frame[PREFIX..], Some(&frame))?;
            } else {
                // The buffer is lent out while the frame is carried out.
                let buffer = std::mem::take(&mut self.buffer);
                let result = self.frame(&buffer[at + PREFIX..end], None);
                self.buffer = buffer;
                result?;
                at = end;
            }
        }
    }

    /// `whole` is the buffer that a large frame has for itself.
    fn frame(&mut self, body: &[u8], whole: Option<&Bytes>) -> Result<(), WireError> {
        const MESSAGE: u8 = 4;
        if body[0] == MESSAGE && self.greeted {
            return match postcard::take_from_bytes::<(u32, u16, &[u8])>(body) {
                Ok(((_, channel, payload), [])) => self.message(channel, payload, whole),
                _ => Err(malformed("a message frame that is cut or wrong")),
            };
        }
        let frame = match postcard::take_from_bytes::<Frame<'_>>(body) {
            Ok((frame, [])) => frame,
            Ok(_) => return Err(malformed("bytes too many at the end of a frame")),
            Err(error) => return Err(malformed(format!("a frame that is cut or wrong: {error}"))),
        };
        match frame {
            Frame::Hello {
                magic,
                protocol,
                sdk,
            } if !self.greeted => self.hello(magic, protocol, sdk),
            _ if !self.greeted => Err(malformed("the first frame must be a hello")),
            Frame::Declare(declare) => self.declare(&declare),
            Frame::Grant { channel, total } => self.grant(channel, total),
            Frame::Request { id, request } => {
                self.request(id, request);
                Ok(())
            }
            Frame::Hello { .. } => Err(malformed("a second hello")),
            Frame::Welcome { .. } | Frame::Refused(_) | Frame::Reply { .. } => {
                Err(malformed("a frame that only the daemon sends"))
            }
            Frame::Message { .. } => Err(malformed("a message frame that is cut or wrong")),
        }
    }

    fn hello(&mut self, magic: [u8; 4], protocol: u32, sdk: &str) -> Result<(), WireError> {
        if magic != MAGIC {
            return Err(malformed(
                "this is the socket of the native runtime protocol",
            ));
        }
        if protocol != PROTOCOL {
            let older = if protocol < PROTOCOL {
                "runtime's library"
            } else {
                "daemon"
            };
            return Err(WireError::new(
                ErrorCode::VersionMismatch,
                format!(
                    "the runtime speaks version {protocol} of the runtime protocol and the \
                     daemon version {PROTOCOL}; upgrade the {older}"
                ),
            ));
        }
        self.greeted = true;
        let sdk: String = sdk.chars().take(100).collect();
        let connection = &self.connection;
        tracing::debug!(instance = %connection.endpoint.instance, sdk, "hello");
        connection.tell(&Frame::Welcome {
            protocol: PROTOCOL,
            server: env!("CARGO_PKG_VERSION"),
            instance: connection.endpoint.instance,
        });
        connection
            .endpoint
            .mailbox
            .attach(connection.outlet.clone());
        connection.outlet.kick();
        Ok(())
    }

    fn declare(&mut self, declare: &Declare<'_>) -> Result<(), WireError> {
        let Declare {
            channel,
            direction,
            name,
            schema,
            hash,
            window,
        } = *declare;
        self.send_run();
        if channel >= MAX_CHANNELS {
            return Err(malformed(format!(
                "channel {channel}; channels are below {MAX_CHANNELS}"
            )));
        }
        let slot = usize::from(channel);
        if self.channels.len() <= slot {
            self.channels.resize(slot + 1, None);
        }
        if self.channels[slot].is_some() {
            return Err(malformed(format!("channel {channel} is declared twice")));
        }
        if name.is_empty() || name.len() > LinkSpec::MAX_TYPE_NAME {
            return Err(malformed("a type name must have 1 to 255 bytes"));
        }
        let decoded = TypeSchema::decode(schema)
            .map_err(|error| malformed(format!("the schema of {name}: {error}")))?;
        let computed = SchemaHash::of(schema);
        if hash.is_some_and(|hash| hash != computed.0) {
            return Err(malformed(format!(
                "the hash of {name} is not that of its schema"
            )));
        }
        let decl = Arc::new(TypeDecl {
            name: name.into(),
            schema: Some((computed, Arc::new(decoded))),
        });
        let connection = &self.connection;
        self.channels[slot] = Some(match direction {
            Direction::Output => {
                let router = &connection.endpoint.router;
                let output = router.declare_output(&connection.source, decl, channel)?;
                Channel::Output(output)
            }
            Direction::Input => {
                let granted = if window == 0 {
                    UNLIMITED
                } else {
                    u64::from(window)
                };
                let input = Arc::new(Input {
                    channel,
                    decl: decl.clone(),
                    granted: AtomicU64::new(granted),
                    sent: AtomicU64::new(0),
                });
                let native = &connection.outlet.dialect;
                let mut inputs = native
                    .inputs
                    .write()
                    .unwrap_or_else(PoisonError::into_inner);
                if inputs.contains_key(name) {
                    return Err(malformed(format!("the input {name} is declared twice")));
                }
                inputs.insert(decl.name.clone(), input.clone());
                drop(inputs);
                connection
                    .endpoint
                    .router
                    .declare_input(connection.endpoint.instance, decl);
                connection.endpoint.mailbox.unpark();
                connection.outlet.kick();
                Channel::Input(input)
            }
        });
        Ok(())
    }

    fn message(
        &mut self,
        channel: u16,
        payload: &[u8],
        whole: Option<&Bytes>,
    ) -> Result<(), WireError> {
        let Some(Some(Channel::Output(output))) = self.channels.get(usize::from(channel)) else {
            return Err(malformed(format!(
                "a message on channel {channel}, which is no output"
            )));
        };
        let output = *output;
        if self.run_output != Some(output) {
            self.send_run();
            self.run_output = Some(output);
        }
        self.run.push(match whole {
            Some(whole) => whole.slice_ref(payload),
            None => Bytes::copy_from_slice(payload),
        });
        Ok(())
    }

    fn send_run(&mut self) {
        if let (Some(output), false) = (self.run_output, self.run.is_empty()) {
            let over_full = self.connection.source.send_run(
                output,
                &mut self.run,
                self.now_ns,
                &mut self.woken,
            );
            self.over_full = over_full.or_else(|| self.over_full.take());
        }
    }

    fn grant(&mut self, channel: u16, total: u64) -> Result<(), WireError> {
        let Some(Some(Channel::Input(input))) = self.channels.get(usize::from(channel)) else {
            return Err(malformed(format!(
                "a grant for channel {channel}, which is no input"
            )));
        };
        input.granted.fetch_max(total, Ordering::AcqRel);
        self.connection.endpoint.mailbox.unpark();
        self.connection.outlet.kick();
        Ok(())
    }

    fn request(&mut self, id: u32, request: orchestrator_proto::runtime::RuntimeRequest) {
        let connection = self.connection.clone();
        if connection.requests.fetch_add(1, Ordering::AcqRel) >= MAX_REQUESTS {
            connection.requests.fetch_sub(1, Ordering::AcqRel);
            let message = format!("{MAX_REQUESTS} requests are under way; wait for a reply");
            let result = Err(WireError::new(ErrorCode::LimitReached, message));
            connection.tell(&Frame::Reply { id, result });
            return connection.outlet.kick();
        }
        tokio::spawn(async move {
            let endpoint = &connection.endpoint;
            let result = endpoint.host.control(endpoint.instance, request).await;
            connection.requests.fetch_sub(1, Ordering::AcqRel);
            connection.tell(&Frame::Reply { id, result });
            connection.outlet.kick();
        });
    }
}
