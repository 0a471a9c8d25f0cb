//! One connection after the other: the greeting, reading, and coming back.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;

use super::ConnectError;
use super::input::{Queue, Span, TooMany, Way, span};
use super::link::Shared;
use crate::InstanceId;
use crate::frame::{self, MAX_RUNTIME, PREFIX};
use crate::runtime::{Frame, MAGIC, PROTOCOL, message};

/// How much is read at once.
const CHUNK: usize = 64 << 10;
/// With less room than this, a new chunk is begun.
const MIN_ROOM: usize = 16 << 10;
/// How long connecting and the greeting may take together.
const GREETING: Duration = Duration::from_secs(10);
/// The first pause before connecting again; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// A connection that lasted for so long ends the series of pauses.
const STABLE: Duration = Duration::from_secs(1);

/// The tag of [`Frame::Leave`].
const LEAVE: u8 = 23;

/// How late an acknowledgement may be: it waits for further ones, or for a grant that it can go
/// with.
const ACKNOWLEDGE: Duration = Duration::from_millis(10);

/// How long the rest of a lane is waited for, when the daemon has said that it is over.
const LANE_END: Duration = Duration::from_secs(10);

/// A connection after the greeting.
pub(super) struct Connection {
    pub(super) reader: OwnedReadHalf,
    pub(super) writer: Arc<OwnedWriteHalf>,
    /// What was read beyond the greeting.
    pub(super) read: BytesMut,
    pub(super) instance: InstanceId,
}

/// Connects and says hello.
pub(super) async fn open(path: &Path) -> Result<Connection, ConnectError> {
    tokio::time::timeout(GREETING, greet(path)).await.map_err(|_| ConnectError::TimedOut)?
}

async fn greet(path: &Path) -> Result<Connection, ConnectError> {
    let io = |source| ConnectError::Io { path: path.to_owned(), source };
    let protocol = |problem: String| ConnectError::Protocol(problem);
    let stream = UnixStream::connect(path).await.map_err(io)?;
    let (mut reader, mut writer) = stream.into_split();
    let hello = Frame::Hello {
        magic: MAGIC,
        protocol: PROTOCOL,
        sdk: concat!("orchestrator-proto ", env!("CARGO_PKG_VERSION")),
    };
    let hello = frame::encode(&hello, MAX_RUNTIME).map_err(|e| protocol(e.to_string()))?;
    // A daemon that refuses at once may close before it has read this; its answer is there
    // to be read all the same.
    let written = writer.write_all(&hello).await;

    let mut read = BytesMut::with_capacity(CHUNK);
    let length = loop {
        let body = frame::first_body(&read, MAX_RUNTIME).map_err(|e| protocol(e.to_string()))?;
        if let Some(body) = body {
            break body.len();
        }
        match reader.read_buf(&mut read).await {
            Ok(0) => {
                written.map_err(io)?;
                return Err(io(io::ErrorKind::UnexpectedEof.into()));
            }
            Ok(_) => {}
            Err(error) => return Err(io(error)),
        }
    };
    let frame = read.split_to(PREFIX + length);
    match parse(&frame[PREFIX..]).map_err(protocol)? {
        Frame::Welcome { protocol: PROTOCOL, instance, .. } => {
            Ok(Connection { reader, writer: Arc::new(writer), read, instance })
        }
        Frame::Welcome { protocol: other, .. } => Err(protocol(format!(
            "the daemon has version {other} of the protocol, this program has {PROTOCOL}"
        ))),
        Frame::Refused(error) => Err(ConnectError::Refused(error)),
        _ => Err(protocol("it did not begin with a greeting".into())),
    }
}

/// Serves one connection after the other, until it is aborted.
pub(super) async fn run(shared: Arc<Shared>, mut connection: Connection) {
    let mut pause = FIRST_PAUSE;
    loop {
        let began = Instant::now();
        let reason = serve(&shared, connection).await;
        shared.detach(reason);
        // A daemon that welcomes us only to throw us out again is not asked at full speed.
        if began.elapsed() >= STABLE {
            pause = FIRST_PAUSE;
        }
        connection = loop {
            tokio::time::sleep(with_jitter(pause)).await;
            pause = (pause * 2).min(LAST_PAUSE);
            match open(&shared.path).await {
                Ok(connection) => break connection,
                Err(error) => shared.link().writing.last_error = Some(error.to_string()),
            }
        };
        shared.attach(Arc::clone(&connection.writer), connection.instance);
    }
}

/// From three quarters to five quarters of the pause, so that not all instances of a daemon
/// that comes back knock at the same moment.
fn with_jitter(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(Instant::now()) % 1024;
    pause * 3 / 4 + pause / 2 * random as u32 / 1024
}

/// Reads and writes until the connection breaks; returns why it did.
async fn serve(shared: &Arc<Shared>, mut connection: Connection) -> String {
    let (mut written, mut problem) = (true, None);
    let mut acknowledging = pin!(tokio::time::sleep(ACKNOWLEDGE));
    // Whether that timer runs.
    let mut later = false;
    loop {
        match split(shared, &mut connection.read) {
            Ok(Split::Everything) => {}
            Ok(Split::ToLeave(None)) => continue,
            Ok(Split::ToLeave(Some(mut over))) => {
                // What follows here was sent after what is still in that lane. The daemon has seen
                // to it that the lane has an end.
                let _ = tokio::time::timeout(LANE_END, over.wait_for(|over| *over)).await;
                continue;
            }
            Err(reason) => return reason,
        }
        // Not in the `match` itself: that would hold the lock to its end.
        let wants_write = shared.link().wants_write();
        let wants_write = match wants_write {
            Some(wants) => wants,
            None => {
                // Writing failed. What the daemon said before it closed may still be there.
                if written {
                    problem = shared.link().writing.last_error.clone();
                    shared.progress.notify_waiters();
                }
                written = false;
                false
            }
        };
        if !later && shared.is_acknowledging_soon() {
            later = true;
            acknowledging.as_mut().reset(tokio::time::Instant::now() + ACKNOWLEDGE);
        }
        make_room(&mut connection.read);
        tokio::select! {
            read = connection.reader.read_buf(&mut connection.read) => match read {
                Ok(0) => return problem.unwrap_or_else(|| "the daemon closed the connection".into()),
                Ok(_) => {}
                Err(error) => return problem.unwrap_or_else(|| format!("reading failed: {error}")),
            },
            ready = connection.writer.writable(), if wants_write => match ready {
                Ok(()) => shared.flush(&mut shared.link()),
                Err(error) => return format!("writing failed: {error}"),
            },
            () = shared.kick.notified() => {}
            () = &mut acknowledging, if later => {
                later = false;
                shared.acknowledge();
            }
            () = tokio::time::sleep(STABLE), if !written => {
                return problem.unwrap_or_default();
            }
        }
    }
}

/// Room for the rest of a frame that has begun, else for a chunk.
pub(super) fn make_room(read: &mut BytesMut) {
    let wanted = match frame::body_length(read, MAX_RUNTIME) {
        Ok(Some(length)) => (PREFIX + length).saturating_sub(read.len()),
        _ => 0,
    };
    if read.capacity() - read.len() < wanted.max(MIN_ROOM) {
        read.reserve(wanted.max(CHUNK));
    }
}

/// How far [`split`] came.
enum Split {
    /// There is no further whole frame.
    Everything,
    /// A lane was given up: before what follows, it may have to be read to its end.
    ToLeave(Option<watch::Receiver<bool>>),
}

/// Takes all whole frames from what was read, up to where a lane is given up. An error ends the
/// connection.
fn split(shared: &Arc<Shared>, read: &mut BytesMut) -> Result<Split, String> {
    let mut end = 0;
    let whole = loop {
        match frame::first_body(&read[end..], MAX_RUNTIME) {
            Ok(Some(body)) => {
                end += PREFIX + body.len();
                if body.first() == Some(&LEAVE) {
                    break Ok(());
                }
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(format!("the daemon broke the protocol: {error}")),
        }
    };
    // The payloads in it share this memory; nothing is copied.
    let chunk = read.split_to(end).freeze();
    let mut arrivals = Arrivals::default();
    let mut came = Split::Everything;
    let mut at = 0;
    while let Ok(Some(body)) = frame::first_body(&chunk[at..], MAX_RUNTIME) {
        let frame = parse(body).map_err(|error| format!("the daemon broke the protocol: {error}"));
        at += PREFIX + body.len();
        match frame? {
            Frame::Leave { channel, lane } => {
                arrivals.deliver(shared, &chunk)?;
                came = Split::ToLeave(shared.leave(channel, lane));
            }
            frame => handle(shared, &chunk, frame, &mut arrivals)?,
        }
    }
    arrivals.deliver(shared, &chunk)?;
    whole.map(|()| came)
}

fn handle(
    shared: &Arc<Shared>,
    chunk: &Bytes,
    frame: Frame<'_>,
    arrivals: &mut Arrivals,
) -> Result<(), String> {
    match frame {
        Frame::Message { channel, payload } => {
            if arrivals.channel != Some(channel) {
                arrivals.turn_to(shared, chunk, channel)?;
            }
            arrivals.payloads.push(span(chunk, payload));
        }
        Frame::Grant { channel, total } => {
            if !shared.granted(channel, total) {
                return Err(format!(
                    "the daemon broke the protocol: a grant for {channel}, which is no output"
                ));
            }
        }
        Frame::Acknowledge { channel, total } => {
            if !shared.acknowledged(channel, total) {
                return Err(format!(
                    "the daemon broke the protocol: it acknowledges on {channel} what it never got"
                ));
            }
        }
        Frame::Dropped { channel, total } => {
            if !shared.lost(channel, total) {
                return Err(format!(
                    "the daemon broke the protocol: it drops on {channel}, which is no output"
                ));
            }
        }
        Frame::From { channel, sender, next, kept } => {
            arrivals.turn_to(shared, chunk, channel)?;
            match &arrivals.queue {
                Some(queue) => queue.run(Way::Daemon, sender, next, kept),
                None => return Err(no_input(channel)),
            }
        }
        Frame::Skip { channel, count } => {
            arrivals.turn_to(shared, chunk, channel)?;
            if !arrivals.queue.as_ref().is_some_and(|queue| queue.skip(Way::Daemon, count)) {
                return Err(format!(
                    "the daemon broke the protocol: it skips numbers on {channel}, which has none"
                ));
            }
        }
        Frame::Lane { .. } => shared.lane(&frame)?,
        Frame::Wanted { channel, wanted } => shared.wanted(channel, wanted),
        Frame::Gone { channel, lane } => shared.gone(channel, lane),
        Frame::Ask { channel, lane } => shared.tell_passed(channel, lane, true),
        Frame::Calls(frame) => shared.calls.frame(shared, frame, chunk)?,
        Frame::Form { channel, form } => {
            arrivals.turn_to(shared, chunk, channel)?;
            match &arrivals.queue {
                Some(queue) => queue.form(form),
                None => return Err(no_input(channel)),
            }
        }
        Frame::Stamps { channel, stamped } => {
            arrivals.turn_to(shared, chunk, channel)?;
            match &arrivals.queue {
                Some(queue) => queue.stamps(Way::Daemon, stamped),
                None => return Err(no_input(channel)),
            }
        }
        Frame::Reply { id, result } => shared.link().replied(id, result),
        Frame::Refused(error) => return Err(format!("the daemon refused: {error}")),
        other => {
            return Err(format!(
                "the daemon broke the protocol: {} is not for instances",
                name(&other)
            ));
        }
    }
    Ok(())
}

/// Consecutive messages for one input.
#[derive(Default)]
struct Arrivals {
    channel: Option<u16>,
    queue: Option<Arc<Queue>>,
    payloads: Vec<Span>,
}

impl Arrivals {
    /// What follows belongs to this channel.
    fn turn_to(&mut self, shared: &Shared, chunk: &Bytes, channel: u16) -> Result<(), String> {
        self.deliver(shared, chunk)?;
        if self.channel != Some(channel) {
            self.queue = shared.link().queue(channel);
            self.channel = Some(channel);
        }
        Ok(())
    }

    fn deliver(&mut self, shared: &Shared, chunk: &Bytes) -> Result<(), String> {
        let (Some(channel), false) = (self.channel, self.payloads.is_empty()) else {
            return Ok(());
        };
        let queue = self.queue.as_ref().ok_or_else(|| no_input(channel))?;
        let due = queue.push(Way::Daemon, (chunk, &mut self.payloads)).map_err(|TooMany| {
            format!("the daemon broke the protocol: more messages on {channel} than granted")
        })?;
        shared.tell(channel, Way::Daemon, due);
        Ok(())
    }
}

fn no_input(channel: u16) -> String {
    format!("the daemon broke the protocol: a message on {channel}, which is no input")
}

pub(super) fn parse(body: &[u8]) -> Result<Frame<'_>, String> {
    if let Some((channel, payload)) = message::parts(body) {
        return Ok(Frame::Message { channel, payload });
    }
    match postcard::take_from_bytes(body) {
        Ok((frame, [])) => Ok(frame),
        Ok((_, rest)) => Err(format!("{} bytes follow a frame's end", rest.len())),
        Err(error) => Err(format!("a frame that can't be decoded: {error}")),
    }
}

fn name(frame: &Frame<'_>) -> &'static str {
    match frame {
        Frame::Hello { .. } => "Hello",
        Frame::Welcome { .. } => "a second Welcome",
        Frame::Declare(_) => "Declare",
        Frame::Request { .. } => "Request",
        _ => "this frame",
    }
}
