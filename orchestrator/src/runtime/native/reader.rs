//! The reading half of a native connection.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use orchestrator_proto::frame::{self, MAX_RUNTIME, PREFIX};
use orchestrator_proto::runtime::{
    CallEnd, CallFrame, Declare, DeclareCalls, Direction, Frame, MAGIC, MAX_CHANNELS,
    OLDEST_PROTOCOL, PROTOCOL, RuntimeRequest, Sender,
};
use orchestrator_proto::{ErrorCode, WireError};
use tokio::io::AsyncReadExt;
use tokio::net::unix::OwnedReadHalf;

use super::super::now_ns;
use super::calls::Calls;
use super::forms::{all_different, check_payload, checked};
use super::inputs::Input;
use super::lanes::Used;
use super::{Connection, connected};
use crate::route::{Form, Link, Numbering, OutputIndex, Sink, TypeDecl, Upstream, Woken};

/// How long a connection may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// What a reader asks the kernel for at once, at first and at most.
const READ_MIN: usize = 8 << 10;
const READ_MAX: usize = 256 << 10;
/// Frames above this keep the buffer that they were read into, if they fill at least half of
/// it; others are copied out of it, so that a waiting message never keeps much more than itself
/// in memory.
const COPY_BELOW: usize = 16 << 10;
/// Requests of one instance that may be under way.
const MAX_REQUESTS: usize = 16;

/// Reads frames and carries them out.
pub(super) struct Reader {
    pub(super) stream: OwnedReadHalf,
    pub(super) connection: Arc<Connection>,
    pub(super) buffer: BytesMut,
    pub(super) read_size: usize,
    pub(super) greeted: bool,
    /// Whether it has said that it is ready: once is enough.
    pub(super) ready: bool,
    pub(super) channels: Vec<Option<Channel>>,
    /// Its ends of calls.
    pub(super) calls: Calls,
    /// What it has declared as outputs or clients, and as inputs or services.
    pub(super) names: HashSet<(Direction, Arc<str>)>,
    /// What was said of the channel that is to be declared next.
    pub(super) announced: Option<(u16, Announced)>,
    /// Forms that the input takes that is to be declared next.
    pub(super) forms: Option<(u16, Vec<Form>)>,
    /// The channel that is to be declared next has stamps, or takes them.
    pub(super) stamps: Option<u16>,
    /// Consecutive messages of one output, not sent yet.
    pub(super) run: Vec<Bytes>,
    pub(super) run_output: Option<OutputIndex>,
    pub(super) woken: Woken,
    pub(super) now_ns: u64,
    /// Lanes that the channel has which is to be declared next: its number, the lane, the link.
    pub(super) uses: Vec<Used>,
    /// The lane that was left last, and its link.
    pub(super) left: Option<(u64, Arc<Link>)>,
    /// It fetched its end of a lane, and has nothing more to say.
    pub(super) is_over: bool,
}

/// How a channel takes part in what is sent again.
#[derive(Clone, Copy)]
pub(super) enum Announced {
    Keep(Numbering),
    Recognise,
}

#[derive(Clone)]
pub(super) enum Channel {
    Output(OutputIndex, Arc<TypeDecl>),
    Input(Arc<Input>),
}

pub(super) fn malformed(message: impl Into<String>) -> WireError {
    WireError::new(ErrorCode::Malformed, message)
}

impl Reader {
    pub(super) fn new(stream: OwnedReadHalf, connection: Arc<Connection>) -> Self {
        Self {
            stream,
            connection,
            buffer: BytesMut::new(),
            read_size: READ_MIN,
            greeted: false,
            ready: false,
            channels: Vec::new(),
            calls: Calls::default(),
            names: HashSet::new(),
            announced: None,
            forms: None,
            stamps: None,
            run: Vec::new(),
            run_output: None,
            woken: Woken::default(),
            now_ns: 0,
            uses: Vec::new(),
            left: None,
            is_over: false,
        }
    }

    pub(super) async fn run(mut self) -> Result<(), WireError> {
        let greeting = async {
            while !self.greeted {
                if !self.read().await? || self.is_over {
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
        self.calls.kick();
        frames?;
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
            if length > COPY_BELOW && 2 * length >= self.buffer.capacity() && self.greeted {
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
        let is_announced = self.announced.is_some() || self.forms.is_some();
        if body[0] == MESSAGE && self.greeted && !is_announced {
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
            Frame::Hello { magic, protocol, sdk } if !self.greeted => {
                self.hello(magic, protocol, sdk)
            }
            Frame::Claim { magic, protocol, lane } if !self.greeted => {
                self.claim(magic, protocol, lane)
            }
            _ if !self.greeted => Err(malformed("the first frame must be a hello")),
            Frame::Declare(declare) => self.declare(&declare),
            _ if self.announced.is_some() => Err(malformed(
                "a channel that keeps or recognises must be declared right after that was said",
            )),
            Frame::Takes { channel, schema, hash } => self.takes(channel, schema, hash),
            Frame::Recognise { channel } => {
                self.announced = Some((channel, Announced::Recognise));
                Ok(())
            }
            Frame::Keep { channel, epoch, next, again } => {
                // Far from where numbers end.
                if next.saturating_add(again) > u64::MAX / 2 {
                    return Err(malformed(format!("message {next} is beyond what can be counted")));
                }
                let numbering = Numbering { epoch, first: next, again };
                self.announced = Some((channel, Announced::Keep(numbering)));
                Ok(())
            }
            _ if self.forms.is_some() => Err(malformed(
                "what has several forms must be declared right after they were named",
            )),
            Frame::Stamps { channel, stamped } => {
                self.stamps = Some(channel).filter(|_| stamped);
                Ok(())
            }
            Frame::Acknowledge { channel, total } => self.acknowledge(channel, total),
            Frame::From { channel, sender, next, .. } => self.had(channel, sender, next),
            Frame::Grant { channel, total } => self.grant(channel, total),
            Frame::Request { id, request } => {
                self.request(id, request);
                Ok(())
            }
            Frame::Calls(CallFrame::Declare(declare)) => self.declare_calls(&declare),
            Frame::Calls(frame) => self.calls.frame(frame, whole),
            Frame::Report { channel } => self.report(channel),
            Frame::Ready => {
                if !std::mem::replace(&mut self.ready, true) {
                    let endpoint = &self.connection.endpoint;
                    endpoint.host.ready(endpoint.instance);
                }
                Ok(())
            }
            Frame::Hello { .. } | Frame::Claim { .. } => Err(malformed("a second hello")),
            Frame::Welcome { .. }
            | Frame::Refused(_)
            | Frame::Reply { .. }
            | Frame::Dropped { .. }
            | Frame::Form { .. } => Err(malformed("a frame that only the daemon sends")),
            Frame::Message { .. } => Err(malformed("a message frame that is cut or wrong")),
            of_lanes => self.lane_frame(of_lanes),
        }
    }

    fn hello(&mut self, magic: [u8; 4], protocol: u32, sdk: &str) -> Result<(), WireError> {
        if magic != MAGIC {
            return Err(malformed("this is the socket of the native runtime protocol"));
        }
        if !(OLDEST_PROTOCOL..=PROTOCOL).contains(&protocol) {
            let older = if protocol < PROTOCOL { "runtime's library" } else { "daemon" };
            return Err(WireError::new(
                ErrorCode::VersionMismatch,
                format!(
                    "the runtime speaks version {protocol} of the runtime protocol and the \
                     daemon version {PROTOCOL}; upgrade the {older}"
                ),
            ));
        }
        self.greeted = true;
        self.connection.greeted.store(true, Ordering::Release);
        let endpoint = &self.connection.endpoint;
        endpoint.host.event(endpoint.instance, connected());
        let sdk: String = sdk.chars().take(100).collect();
        let connection = &self.connection;
        connection.outlet.dialect.speaks(protocol);
        tracing::debug!(instance = %connection.endpoint.instance, sdk, "hello");
        connection.tell(&Frame::Welcome {
            protocol,
            server: env!("CARGO_PKG_VERSION"),
            instance: connection.endpoint.instance,
        });
        connection.endpoint.mailbox.attach(connection.outlet.clone());
        connection.outlet.kick();
        Ok(())
    }

    fn declare(&mut self, declare: &Declare<'_>) -> Result<(), WireError> {
        let Declare { channel, direction, name, schema, hash, window } = *declare;
        self.send_run();
        if channel >= MAX_CHANNELS {
            return Err(malformed(format!("channel {channel}; channels are below {MAX_CHANNELS}")));
        }
        let slot = usize::from(channel);
        if self.channels.len() <= slot {
            self.channels.resize(slot + 1, None);
        }
        if self.channels[slot].is_some() || self.calls.has(channel) {
            return Err(malformed(format!("channel {channel} is declared twice")));
        }
        let also = self.forms_of(channel)?;
        let stamps = self.stamps.take();
        if stamps.is_some_and(|of| of != channel) {
            return Err(malformed("stamps must be announced right before their channel"));
        }
        let is_stamped = stamps.is_some();
        let schema = Some(checked(name, schema, hash)?);
        let decl = TypeDecl { name: name.into(), schema, also, is_stamped };
        let decl = Arc::new(all_different(decl)?);
        self.take_name(direction, &decl.name)?;
        let (numbering, recognises) = match (self.announced.take(), direction) {
            (None, _) => (None, false),
            (Some((of, Announced::Keep(numbering))), Direction::Output) if of == channel => {
                (Some(numbering), false)
            }
            (Some((of, Announced::Recognise)), Direction::Input) if of == channel => (None, true),
            _ => {
                return Err(malformed(format!(
                    "the declaration of channel {channel} is not the one that was announced"
                )));
            }
        };
        let uses = std::mem::take(&mut self.uses);
        if uses.iter().any(|used| used.channel != channel) {
            return Err(malformed("a lane that is used must be named right before its channel"));
        }
        let connection = self.connection.clone();
        let Connection { endpoint, source, outlet, .. } = &*connection;
        endpoint.lanes.declares(&connection);
        let declared = decl.clone();
        self.channels[slot] = Some(match direction {
            Direction::Output => {
                let router = &endpoint.router;
                let elsewhere: Vec<_> = uses.iter().map(|used| used.link).collect();
                let output =
                    router.go_on_with_output(source, decl, channel, numbering, &elsewhere)?;
                if numbering.is_some() {
                    // It waits for an answer, also if there is no limit.
                    self.connection.window_moved(channel);
                    outlet.kick();
                }
                Channel::Output(output, declared)
            }
            Direction::Input => {
                let input = outlet.dialect.declare(channel, &decl, window, recognises);
                let input = input
                    .ok_or_else(|| malformed(format!("the input {name} is declared twice")))?;
                endpoint.router.declare_input(endpoint.instance, decl);
                endpoint.mailbox.unpark();
                outlet.kick();
                Channel::Input(input)
            }
        });
        for used in uses {
            endpoint.lanes.uses(&connection, used, direction == Direction::Output);
        }
        endpoint.lanes.declared(&connection, name);
        Ok(())
    }

    fn declare_calls(&mut self, declare: &DeclareCalls<'_>) -> Result<(), WireError> {
        let channel = declare.channel;
        let is_taken = matches!(self.channels.get(usize::from(channel)), Some(Some(_)));
        if is_taken || self.calls.has(channel) {
            return Err(malformed(format!("channel {channel} is declared twice")));
        }
        let direction = match declare.end {
            CallEnd::Client => Direction::Output,
            CallEnd::Service => Direction::Input,
        };
        self.take_name(direction, &declare.name.into())?;
        self.calls.declare(&self.connection, declare)
    }

    /// Each name once, as an output or a client, and once as an input or a service.
    fn take_name(&mut self, direction: Direction, name: &Arc<str>) -> Result<(), WireError> {
        if self.names.insert((direction, name.clone())) {
            return Ok(());
        }
        let end = match direction {
            Direction::Output => "output",
            Direction::Input => "input",
        };
        Err(malformed(format!("the {end} {name} is declared twice")))
    }

    fn message(
        &mut self,
        channel: u16,
        payload: &[u8],
        whole: Option<&Bytes>,
    ) -> Result<(), WireError> {
        let Some(Some(Channel::Output(output, decl))) = self.channels.get(usize::from(channel))
        else {
            return Err(malformed(format!("a message on channel {channel}, which is no output")));
        };
        let output = *output;
        check_payload(decl, payload)?;
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

    pub(super) fn send_run(&mut self) {
        if let (Some(output), false) = (self.run_output, self.run.is_empty()) {
            let source = &self.connection.source;
            source.send_run(output, &mut self.run, self.now_ns, &mut self.woken);
        }
    }

    fn grant(&mut self, channel: u16, total: u64) -> Result<(), WireError> {
        let Some(Some(Channel::Input(input))) = self.channels.get(usize::from(channel)) else {
            return Err(malformed(format!("a grant for channel {channel}, which is no input")));
        };
        input.grant(total);
        self.connection.endpoint.mailbox.unpark();
        self.connection.outlet.kick();
        Ok(())
    }

    fn acknowledge(&mut self, channel: u16, total: u64) -> Result<(), WireError> {
        let input = self.recognising(channel)?;
        if !input.acknowledge(total) {
            return Err(malformed(format!(
                "channel {channel} acknowledges {total} messages, more than it got"
            )));
        }
        // There may be room for more with it.
        self.connection.endpoint.mailbox.unpark();
        self.connection.outlet.kick();
        Ok(())
    }

    fn had(&mut self, channel: u16, sender: Option<Sender>, next: u64) -> Result<(), WireError> {
        let input = self.recognising(channel)?;
        let sender = sender.ok_or_else(|| malformed("nothing is known without a sender"))?;
        let endpoint = &self.connection.endpoint;
        endpoint.router.had(endpoint.instance, &input.decl.name, sender, next);
        Ok(())
    }

    fn report(&self, channel: u16) -> Result<(), WireError> {
        match self.channels.get(usize::from(channel)) {
            Some(Some(Channel::Output(..))) => {
                self.connection.held.report(channel);
                Ok(())
            }
            _ => Err(malformed(format!("a report on channel {channel}, which is no output"))),
        }
    }

    fn recognising(&self, channel: u16) -> Result<&Arc<Input>, WireError> {
        match self.channels.get(usize::from(channel)) {
            Some(Some(Channel::Input(input))) if input.recognises() => Ok(input),
            _ => Err(malformed(format!("channel {channel} is no input that recognises messages"))),
        }
    }

    fn request(&mut self, id: u32, request: RuntimeRequest) {
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
