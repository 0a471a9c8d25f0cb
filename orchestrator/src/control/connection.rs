//! One client: hello, then requests in and replies out, many at once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use orchestrator_proto::control::{
    ClientBody, ClientHello, MAGIC, PROTOCOL, Reply, Request, ServerBody, ServerHello,
    decode_client_frame,
};
use orchestrator_proto::frame::{self, MAX_CONTROL, PREFIX};
use orchestrator_proto::{ErrorCode, WireError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, mpsc};

use super::outgoing::{self, Frames, Items, Outgoing};
use super::upload::{self, ChunkSender};
use super::{Daemon, replaced};

/// How long a client may take to say hello, and to send the next byte of a frame that it began.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
const FRAME_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client whose connection ends may take to read why.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long requests may take to be finished when another daemon takes over.
const FINISH: Duration = Duration::from_secs(1);
/// How long those that are cut then may take to say so, and a client to read it.
const FAREWELL: Duration = Duration::from_millis(250);
/// Bad frames of one client that are written to the daemon's log; more would only fill it.
const BAD_FRAMES_SAID: u64 = 10;
/// Requests of one client that may be under way.
const MAX_REQUESTS: usize = 256;
pub(super) async fn serve(stream: UnixStream, daemon: Arc<Daemon>, has_place: bool) {
    let peer = stream.peer_cred().ok();
    let (pid, uid) = (peer.and_then(|peer| peer.pid()), peer.map(|peer| peer.uid()));
    let (reader, mut writer) = stream.into_split();
    let mut reader = FrameReader { stream: reader, buffer: BytesMut::new() };

    let _counted = Counted::new(&daemon.clients);
    let hello = tokio::select! {
        biased;
        hello = tokio::time::timeout(HELLO_TIMEOUT, reader.next()) => hello,
        // It has asked for nothing; if its hello is on its way, it will connect again.
        () = async { daemon.lets_go().await; tokio::time::sleep(FAREWELL).await } => {
            return tracing::debug!(pid, uid, "closed: another daemon takes over");
        }
    };
    let refused = match hello {
        Err(_) => return tracing::info!(pid, uid, "closed: no hello within ten seconds"),
        Ok(Ok(None)) => return tracing::debug!(pid, uid, "left without a hello"),
        Ok(Err(error)) => Some(error.message),
        Ok(Ok(Some(hello))) => match check_hello(&hello) {
            Ok(_) if !has_place => Some("too many clients are connected; try again".to_owned()),
            Ok(client) => {
                tracing::info!(client, pid, uid, "connected");
                None
            }
            Err(refusal) => Some(refusal),
        },
    };
    let closing = refused.is_some();
    if let Some(reason) = &refused {
        tracing::info!(pid, uid, reason, "refused");
    }
    let answer = ServerHello {
        magic: MAGIC,
        protocol: PROTOCOL,
        server: env!("CARGO_PKG_VERSION").to_owned(),
        refused,
    };
    let Ok(answer) = frame::encode(&answer, MAX_CONTROL) else {
        return;
    };
    let written = tokio::time::timeout(HELLO_TIMEOUT, writer.write_all(&answer)).await;
    if closing || !matches!(written, Ok(Ok(()))) {
        return;
    }

    let (outgoing, frames) = outgoing::channel();
    let (alive, mut ended) = mpsc::channel(1);
    let client = Client { daemon: daemon.clone(), outgoing, requests: Requests::default(), alive };
    let requests = client.requests.clone();
    let writing = write(writer, frames, daemon.client_timeout);
    tokio::pin!(writing);
    // Whichever ends first ends the other: a client that is gone, or does not read.
    let reason = tokio::select! {
        reason = client.read(reader) => {
            requests.cancel_all();
            drop(client);
            // What it was told last, such as why its frame was bad.
            let _ = tokio::time::timeout(LAST_WORDS, &mut writing).await;
            reason
        }
        () = daemon.ended() => {
            drop(client);
            // Streams end by themselves now; the writer ends after the last of them.
            let _ = tokio::time::timeout(LAST_WORDS, &mut writing).await;
            "the daemon ends".to_owned()
        }
        () = daemon.lets_go() => {
            let outgoing = client.outgoing.clone();
            drop(client);
            let farewell = async {
                requests.cancel_streams();
                if tokio::time::timeout(FINISH, ended.recv()).await.is_err() {
                    requests.cancel_all();
                    let _ = tokio::time::timeout(FAREWELL, ended.recv()).await;
                }
                // After all answers: what was not answered when this comes was not begun.
                let goodbye = replaced("connect again; what was not answered was not begun");
                let _ = outgoing.send(0, ServerBody::Error(goodbye)).await;
                drop(outgoing);
            };
            let all = async { tokio::join!(farewell, &mut writing) };
            let _ = tokio::time::timeout(FINISH + 2 * FAREWELL, all).await;
            "another daemon takes over".to_owned()
        }
        reason = &mut writing => reason,
    };
    requests.cancel_all();
    tracing::info!(reason, "disconnected");
}

fn check_hello(body: &[u8]) -> Result<String, String> {
    let hello: ClientHello =
        postcard::from_bytes(body).ok().filter(|hello: &ClientHello| hello.magic == MAGIC).ok_or(
            "this is the control socket of an orchestrator; the hello is not one of its clients'",
        )?;
    if hello.protocol != PROTOCOL {
        let older = if hello.protocol < PROTOCOL { "client" } else { "daemon" };
        return Err(format!(
            "the client speaks version {} of the control protocol and the daemon version \
             {PROTOCOL}; upgrade the {older}",
            hello.protocol
        ));
    }
    Ok(hello.client.chars().take(100).collect())
}

struct FrameReader {
    stream: OwnedReadHalf,
    buffer: BytesMut,
}

impl FrameReader {
    /// The next body; none at the end of the stream.
    async fn next(&mut self) -> Result<Option<BytesMut>, WireError> {
        let malformed = |message: String| WireError::new(ErrorCode::Malformed, message);
        loop {
            match frame::body_length(&self.buffer, MAX_CONTROL) {
                Ok(Some(length)) if self.buffer.len() >= PREFIX + length => {
                    self.buffer.advance(PREFIX);
                    return Ok(Some(self.buffer.split_to(length)));
                }
                Ok(_) => {}
                Err(error) => return Err(malformed(error.to_string())),
            }
            self.buffer.reserve(4096);
            let in_frame = !self.buffer.is_empty();
            let read = self.stream.read_buf(&mut self.buffer);
            let count = if in_frame {
                tokio::time::timeout(FRAME_TIMEOUT, read).await.map_err(|_| {
                    malformed("a frame was begun and not continued for a minute".to_owned())
                })?
            } else {
                read.await
            };
            // An error on a local socket is an end like any other: the peer is gone.
            if count.unwrap_or(0) == 0 {
                return Ok(None);
            }
        }
    }
}

struct Client {
    daemon: Arc<Daemon>,
    outgoing: Outgoing,
    requests: Requests,
    /// Each request that is under way has one too.
    alive: mpsc::Sender<()>,
}

/// One more, for as long as this is there.
struct Counted<'a>(&'a AtomicU64);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The requests of a client that are under way.
#[derive(Clone, Default)]
struct Requests(Arc<Mutex<HashMap<u64, UnderWay>>>);

struct UnderWay {
    is_stream: bool,
    cancel: Arc<Notify>,
    chunks: Option<ChunkSender>,
}

impl Requests {
    fn with<T>(&self, work: impl FnOnce(&mut HashMap<u64, UnderWay>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn cancel_streams(&self) {
        self.with(|requests| {
            let streams = requests.values().filter(|request| request.is_stream);
            streams.for_each(|request| request.cancel.notify_one());
        });
    }

    fn cancel_all(&self) {
        self.with(|requests| requests.drain().for_each(|(_, request)| request.cancel.notify_one()));
    }
}

impl Client {
    /// Takes in requests until the client goes away; the answer says why it ended.
    async fn read(&self, mut reader: FrameReader) -> String {
        let mut bad_frames = 0_u64;
        loop {
            let body = match reader.next().await {
                Ok(Some(body)) => body,
                Ok(None) => return "closed by the client".to_owned(),
                Err(error) => {
                    let text = error.to_string();
                    let _ = self.outgoing.send(0, ServerBody::Error(error)).await;
                    return text;
                }
            };
            let frame = match decode_client_frame(&body) {
                Ok(frame) => frame,
                Err((id, error)) => {
                    bad_frames += 1;
                    if bad_frames <= BAD_FRAMES_SAID {
                        tracing::warn!(request.id = id, %error, "a frame is not understood");
                    }
                    // The frame's end is known, so the connection is still good.
                    if self.outgoing.send(id.unwrap_or(0), ServerBody::Error(error)).await.is_err()
                    {
                        return "the client does not read".to_owned();
                    }
                    continue;
                }
            };
            let refused = match frame.body {
                ClientBody::Request(request) => self.begin(frame.id, request),
                ClientBody::Cancel => {
                    self.requests.with(|requests| {
                        if let Some(request) = requests.get(&frame.id) {
                            request.cancel.notify_one();
                        }
                    });
                    Ok(())
                }
                ClientBody::Chunk(bytes) => self.chunk(frame.id, upload::Chunk::Bytes(bytes)).await,
                ClientBody::ChunksEnd { sha256 } => {
                    self.chunk(frame.id, upload::Chunk::End { sha256 }).await
                }
                ClientBody::Feed(messages) => {
                    self.chunk(frame.id, upload::Chunk::Feed(messages)).await
                }
                ClientBody::FeedEnd => self.chunk(frame.id, upload::Chunk::FeedEnd).await,
            };
            if let Err(error) = refused
                && self.outgoing.send(frame.id, ServerBody::Error(error)).await.is_err()
            {
                return "the client does not read".to_owned();
            }
        }
    }

    fn begin(&self, id: u64, request: Request) -> Result<(), WireError> {
        let (chunk_sender, chunks) = upload::channel(&request);
        let cancel = Arc::new(Notify::new());
        self.requests.with(|requests| {
            if id == 0 {
                let message = "the request id 0 stands for the connection itself";
                return Err(WireError::new(ErrorCode::InvalidArgument, message));
            }
            if requests.contains_key(&id) {
                let message = format!("the request id {id} is under way");
                return Err(WireError::new(ErrorCode::InvalidArgument, message));
            }
            if requests.len() >= MAX_REQUESTS {
                let message = format!("{MAX_REQUESTS} requests are under way; wait for a reply");
                return Err(WireError::new(ErrorCode::LimitReached, message));
            }
            let is_stream = request.is_stream();
            let under_way = UnderWay { is_stream, cancel: cancel.clone(), chunks: chunk_sender };
            requests.insert(id, under_way);
            Ok(())
        })?;
        let (daemon, outgoing, requests) =
            (self.daemon.clone(), self.outgoing.clone(), self.requests.clone());
        let items = Items::new(id, outgoing.clone());
        let alive = self.alive.clone();
        let task = async move {
            let _alive = alive;
            let counter = daemon.clone();
            let _counted = Counted::new(&counter.requests);
            let (name, began) = (request.name(), Instant::now());
            let is_glance = request.is_glance();
            let is_stream = request.is_stream();
            let result = tokio::select! {
                result = daemon.carry_out(request, items, chunks) => result,
                () = cancel.notified() => match (counter.letting_go.borrow().is_some(), is_stream) {
                    (true, true) => Err(replaced("ask it for the rest of this stream")),
                    (true, false) => Err(replaced(
                        "this was begun and not finished; see what became of it",
                    )),
                    (false, true) => Ok(None),
                    (false, false) => Err(cancelled()),
                },
            };
            say((name, is_glance), began.elapsed(), &result);
            let body = match result {
                Ok(Some(reply)) => ServerBody::Reply(reply),
                Ok(None) => ServerBody::End,
                Err(error) => ServerBody::Error(error),
            };
            // Under way until there is room for its answer, so that the answers to a client that
            // does not read are bounded too; and no longer when that client can see it.
            outgoing.last(id, body, || requests.with(|requests| drop(requests.remove(&id)))).await;
        };
        tokio::spawn(tracing::Instrument::in_current_span(task));
        Ok(())
    }

    /// Passes on a part of an upload; waits while the disk is slow, which harms this client only.
    async fn chunk(&self, id: u64, chunk: upload::Chunk) -> Result<(), WireError> {
        let sender = self.requests.with(|requests| Some(requests.get(&id)?.chunks.clone()));
        match sender {
            // It was already answered with an error that the client has not seen yet.
            None => Ok(()),
            Some(Some(sender)) => {
                sender.send(chunk).await;
                Ok(())
            }
            Some(None) => Err(WireError::new(
                ErrorCode::InvalidArgument,
                format!("request {id} takes no upload and no messages"),
            )),
        }
    }
}

fn cancelled() -> WireError {
    WireError::new(ErrorCode::Cancelled, "cancelled by the client")
}

/// Writes to the daemon's own log how a request ended; of a glance only what is wrong.
fn say((name, is_glance): (&str, bool), took: Duration, result: &Result<Option<Reply>, WireError>) {
    let took = format!("{:.3} ms", took.as_secs_f64() * 1000.0);
    match result {
        Ok(_) if is_glance => tracing::debug!(request = name, took, "done"),
        Ok(_) => tracing::info!(request = name, took, "done"),
        Err(error) if matches!(error.code, ErrorCode::Cancelled | ErrorCode::Replaced) => {
            tracing::info!(request = name, took, "cancelled");
        }
        Err(error) => tracing::warn!(request = name, took, %error, "failed"),
    }
}

/// Writes frames until the client goes away or does not read for too long.
async fn write(mut writer: OwnedWriteHalf, mut frames: Frames, timeout: Duration) -> String {
    let mut bytes = Vec::new();
    while let Some(room) = frames.next(&mut bytes).await {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match tokio::time::timeout(timeout, writer.write(rest)).await {
                Ok(Ok(count)) => rest = &rest[count..],
                Ok(Err(error)) => return error.to_string(),
                Err(_) => return format!("dropped: it did not read for {timeout:?}"),
            }
        }
        drop(room);
        bytes.clear();
        bytes.shrink_to(64 << 10);
    }
    "closed".to_owned()
}
