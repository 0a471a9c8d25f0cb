//! One connection: a task that reads, a task that writes, and the calls between them.
//!
//! Frames are written by a task and not by whoever calls, so that a call whose future is
//! dropped never leaves half a frame on the wire.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::{CONNECT_DEADLINE, ClientError};
use crate::control::{
    ClientBody, ClientFrame, ClientHello, MAGIC, PROTOCOL, ServerBody, ServerHello,
};
use crate::error::ErrorCode;
use crate::frame;

/// Frames that wait to be written. With chunks of 256 KiB, at most 4 MiB. Whoever feeds longer ones
/// bounds what is under way.
const WRITE_QUEUE: usize = 16;

/// Bytes of answers that wait for one call, or of one that has more: 64 MiB.
const MAX_ANSWERS: usize = 64 << 20;

/// Bytes of a buffer that is kept for the next frame.
const MAX_KEPT: usize = 1 << 20;

/// How long to wait before asking a listener with a full backlog again.
const BACKLOG_RETRY: Duration = Duration::from_millis(5);

/// How often a connection that ended before the hello is made again.
const HELLO_TRIES: u32 = 5;

/// No call has this id, so an error under it is about the connection itself.
const CONNECTION: u64 = 0;

/// Keeps the tasks alive; the connection closes when it is dropped.
#[derive(Debug)]
pub(super) struct Connection {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Vec<u8>>,
    reader: AbortHandle,
    next_id: AtomicU64,
    server_version: String,
}

impl Connection {
    pub(super) async fn open(path: &Path) -> Result<Self, ClientError> {
        let unreachable = |source| ClientError::NotReachable { path: path.to_owned(), source };
        let opened = timeout(CONNECT_DEADLINE, async {
            let mut tries = 0;
            loop {
                let stream = connect(path).await.map_err(unreachable)?;
                match hello(stream).await {
                    // A daemon that lets go: the next one takes over. Nothing was asked for yet.
                    Err(ClientError::Lost(_) | ClientError::Replaced) if tries < HELLO_TRIES => {
                        tries += 1;
                        sleep(BACKLOG_RETRY).await;
                    }
                    result => return result,
                }
            }
        });
        match opened.await {
            Ok(result) => result,
            Err(_) => {
                let message = format!("no answer within {} s", CONNECT_DEADLINE.as_secs());
                Err(unreachable(io::Error::new(io::ErrorKind::TimedOut, message)))
            }
        }
    }

    pub(super) fn server_version(&self) -> &str {
        &self.server_version
    }

    /// A new call, whose answers wait in a queue of this length.
    pub(super) fn call(&self, queue: usize) -> Result<Call, ClientError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (answers, receiver) = mpsc::channel(queue);
        let sender = Answers { answers, room: Arc::new(Semaphore::new(MAX_ANSWERS)) };
        let mut state = self.shared.state();
        if let Some(end) = &state.end {
            return Err(end.error());
        }
        state.calls.insert(id, sender);
        drop(state);
        Ok(Call { id, shared: Arc::clone(&self.shared), answers: receiver, done: false })
    }

    /// Puts a frame into the queue, when there is room. False when the writer has ended.
    pub(super) async fn send(&self, frame: Vec<u8>) -> bool {
        self.queue.send(frame).await.is_ok()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Connects. A listener whose backlog is full is asked again: it is busy, not absent.
async fn connect(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(BACKLOG_RETRY).await,
            result => return result,
        }
    }
}

async fn hello(stream: UnixStream) -> Result<Connection, ClientError> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::with_capacity(64 << 10, reader);
    let hello = encode(&ClientHello {
        magic: MAGIC,
        protocol: PROTOCOL,
        client: concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).into(),
    })?;
    // A daemon that is full may have refused and closed already: what it says is worth more
    // than the error of this write.
    let written = writer.write_all(&hello).await;
    let mut body = Vec::new();
    match read_body(&mut reader, &mut body).await {
        Ok(true) => {}
        Ok(false) => return Err(ClientError::Lost("it ended before the hello".into())),
        Err(End::Lost(reason)) => return Err(ClientError::Lost(reason)),
        Err(End::Protocol(reason)) => return Err(no_orchestrator(&reason)),
        Err(End::Replaced) => return Err(ClientError::Replaced),
    }
    let answer: ServerHello = decode(&body).map_err(|reason| no_orchestrator(&reason))?;
    if answer.magic != MAGIC {
        return Err(no_orchestrator("its hello begins with other bytes"));
    }
    if answer.protocol != PROTOCOL {
        let mismatch = ClientError::version_mismatch(&answer.server, answer.protocol);
        return Err(mismatch);
    }
    if let Some(sentence) = answer.refused {
        return Err(ClientError::Refused(sentence));
    }
    written.map_err(|error| ClientError::Lost(error.to_string()))?;

    let shared = Arc::new(Shared::default());
    let (queue, frames) = mpsc::channel(WRITE_QUEUE);
    let task = tokio::spawn(read(reader, body, Arc::clone(&shared)));
    tokio::spawn(write(writer, frames, Arc::clone(&shared)));
    Ok(Connection {
        shared,
        queue,
        reader: task.abort_handle(),
        next_id: AtomicU64::new(CONNECTION + 1),
        server_version: answer.server,
    })
}

fn no_orchestrator(reason: &str) -> ClientError {
    ClientError::Protocol(format!(
        "what listens there is no orchestrator's control socket: {reason}"
    ))
}

/// What the tasks and the calls have in common.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Tells the writer that `cancels` has something in it.
    cancelled: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Where the answers of the calls under way go.
    calls: HashMap<u64, Answers>,
    /// Calls that were dropped before they were done; at most one entry for each of them.
    cancels: Vec<u64>,
    /// Why the connection is over.
    end: Option<End>,
}

/// What a daemon says on a call, or why that can't be understood.
type Answer = Result<ServerBody, String>;

/// Where the answers of a call go.
#[derive(Clone, Debug)]
struct Answers {
    answers: mpsc::Sender<(Answer, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
}

impl Answers {
    /// Waits until there is room for an answer of so many bytes, or nobody wants it any more.
    async fn send(&self, answer: Answer, size: usize) {
        let size = u32::try_from(size.min(MAX_ANSWERS)).unwrap_or(u32::MAX);
        tokio::select! {
            // The semaphore is never closed.
            Ok(room) = self.room.clone().acquire_many_owned(size) => {
                let _ = self.answers.send((answer, room)).await;
            }
            () = self.answers.closed() => {}
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock, and each change is complete in itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all calls. The first reason is kept.
    fn end(&self, end: End) {
        let mut state = self.state();
        state.end.get_or_insert(end);
        state.calls.clear();
    }

    fn reason(&self) -> ClientError {
        match &self.state().end {
            Some(end) => end.error(),
            None => ClientError::Lost("it was closed".into()),
        }
    }
}

/// Why a connection is over.
#[derive(Clone, Debug)]
enum End {
    Lost(String),
    Protocol(String),
    Replaced,
}

impl End {
    fn error(&self) -> ClientError {
        match self {
            Self::Lost(reason) => ClientError::Lost(reason.clone()),
            Self::Protocol(reason) => ClientError::Protocol(reason.clone()),
            Self::Replaced => ClientError::Replaced,
        }
    }
}

/// One request and what is said about it. Dropped before it is done, it is cancelled.
#[derive(Debug)]
pub(super) struct Call {
    id: u64,
    shared: Arc<Shared>,
    answers: mpsc::Receiver<(Answer, OwnedSemaphorePermit)>,
    done: bool,
}

/// This body as a frame of the call with this id.
pub(super) fn frame(id: u64, body: ClientBody) -> Result<Vec<u8>, ClientError> {
    encode(&ClientFrame { id, body })
}

impl Call {
    /// What the daemon knows it by.
    pub(super) const fn id(&self) -> u64 {
        self.id
    }

    /// This body as a frame of this call.
    pub(super) fn frame(&self, body: ClientBody) -> Result<Vec<u8>, ClientError> {
        frame(self.id, body)
    }

    /// What the daemon says next.
    pub(super) async fn next(&mut self) -> Result<ServerBody, ClientError> {
        match self.answers.recv().await {
            Some((Ok(body), _)) => {
                self.done = is_last(&body);
                Ok(body)
            }
            Some((Err(reason), _)) => Err(ClientError::Protocol(reason)),
            None => {
                self.done = true;
                Err(self.shared.reason())
            }
        }
    }

    /// What the daemon said before the writer failed. Bounded in time: the daemon might have
    /// closed only its own reading half.
    pub(super) async fn last(&mut self) -> Result<ServerBody, ClientError> {
        match timeout(CONNECT_DEADLINE, self.next()).await {
            Ok(answer) => answer,
            Err(_) => Err(self.shared.reason()),
        }
    }

    /// Why nothing can be sent.
    pub(super) async fn lost(mut self) -> ClientError {
        match self.last().await {
            Err(error) => error,
            Ok(ServerBody::Error(error)) => ClientError::Failed(error),
            Ok(_) => self.shared.reason(),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let mut state = self.shared.state();
        state.calls.remove(&self.id);
        if state.end.is_none() {
            state.cancels.push(self.id);
            drop(state);
            self.shared.cancelled.notify_one();
        }
    }
}

const fn is_last(body: &ServerBody) -> bool {
    !matches!(body, ServerBody::Item(_))
}

/// The reading task: hands each answer to its call, and waits when that call's queue is full.
async fn read(mut reader: BufReader<OwnedReadHalf>, mut body: Vec<u8>, shared: Arc<Shared>) {
    let end = loop {
        match read_body(&mut reader, &mut body).await {
            Ok(true) => {}
            Ok(false) => break End::Lost("the daemon closed it".into()),
            Err(end) => break end,
        }
        body.shrink_to(MAX_KEPT.max(body.len()));
        let (id, answer) = match split(&body) {
            Ok(parts) => parts,
            Err(reason) => break End::Protocol(reason),
        };
        if let (CONNECTION, Ok(ServerBody::Error(error))) = (id, &answer) {
            break match error.code {
                ErrorCode::Replaced => End::Replaced,
                _ => End::Lost(error.to_string()),
            };
        }
        let call = {
            let mut state = shared.state();
            if answer.as_ref().is_ok_and(is_last) {
                state.calls.remove(&id)
            } else {
                state.calls.get(&id).cloned()
            }
        };
        // Nobody there: the call was dropped, and its cancel and this frame have crossed.
        if let Some(call) = call {
            call.send(answer, body.len()).await;
        }
    };
    shared.end(end);
}

/// The id first: a body that a newer daemon invented fails one call, not the connection.
fn split(frame: &[u8]) -> Result<(u64, Answer), String> {
    let (id, body) = postcard::take_from_bytes::<u64>(frame)
        .map_err(|error| format!("a frame without a request id: {error}"))?;
    Ok((id, decode(body)))
}

/// The writing task. It ends when the connection is dropped or can't be written to; in the
/// latter case the reading task goes on to what the daemon said last.
async fn write(
    mut writer: OwnedWriteHalf,
    mut frames: mpsc::Receiver<Vec<u8>>,
    shared: Arc<Shared>,
) {
    let mut out = Vec::new();
    let mut open = true;
    while open {
        out.clear();
        tokio::select! {
            frame = frames.recv() => match frame {
                Some(frame) => out = frame,
                None => open = false,
            },
            () = shared.cancelled.notified() => {}
        }
        // First the ids, then everything that waits, then the cancels: the requests that they
        // cancel were put into the queue before them and must reach the daemon before them.
        let cancels = std::mem::take(&mut shared.state().cancels);
        for _ in 0..WRITE_QUEUE {
            match frames.try_recv() {
                Ok(frame) => out.extend_from_slice(&frame),
                Err(_) => break,
            }
        }
        for id in cancels {
            let body = ClientBody::Cancel;
            // So small a frame always fits.
            let _ = frame::append(&mut out, &ClientFrame { id, body }, frame::MAX_CONTROL);
        }
        let written = if open {
            writer.write_all(&out).await
        } else {
            // Nobody waits for this any more, so it must end by itself.
            let last = timeout(CONNECT_DEADLINE, writer.write_all(&out)).await;
            last.unwrap_or(Ok(()))
        };
        if written.is_err() {
            break;
        }
    }
}

/// Reads the next body into `body`. False at the end of the stream between two frames.
async fn read_body<R: AsyncRead + Unpin>(reader: &mut R, body: &mut Vec<u8>) -> Result<bool, End> {
    let lost = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => End::Lost("it ended within a frame".into()),
        _ => End::Lost(error.to_string()),
    };
    let mut prefix = [0; frame::PREFIX];
    if reader.read(&mut prefix[..1]).await.map_err(lost)? == 0 {
        return Ok(false);
    }
    reader.read_exact(&mut prefix[1..]).await.map_err(lost)?;
    let length = frame::body_length(&prefix, frame::MAX_CONTROL)
        .map_err(|error| End::Protocol(error.to_string()))?
        .unwrap_or_default();
    body.resize(length, 0);
    reader.read_exact(body).await.map_err(lost)?;
    Ok(true)
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(format!("{} bytes too many in a frame", rest.len())),
        Err(error) => Err(format!("a frame that can't be read: {error}")),
    }
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, ClientError> {
    frame::encode(value, frame::MAX_CONTROL).map_err(ClientError::TooLong)
}
