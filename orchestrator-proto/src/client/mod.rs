//! An async client of the control socket, used by the command line, the end-to-end tests and
//! other programs.
//!
//! One [`Client`] is one connection. Any number of requests and streams can be under way on it
//! at once; their answers are told apart by their ids.
//!
//! # Another daemon
//!
//! When the daemon is replaced by another one, it says goodbye. Then a [`Client`] connects again by
//! itself and repeats each request that was not begun, so that who asks notices nothing. Streams
//! end with [`ClientError::Replaced`]: only who reads one knows where it is to go on. A request
//! that was cut in the middle fails with [`ErrorCode::Replaced`].
//!
//! # Slowness
//!
//! Every queue is bounded. When the consumer of an [`ItemStream`] falls behind by
//! [`STREAM_QUEUE`] items, the connection's reader waits for it, and with it everything else on
//! this connection: answers to other requests come after the stream was read on or dropped. So
//! a program that does not read its streams all the time gives each of them a connection of its
//! own. The daemon does not wait: it counts what it could not send and reports it as
//! [`Item::Missed`].

mod connection;
mod error;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::control::{
    ClientBody, Item, MAX_CHUNK, Program, ReplayMessage, ReplaySpec, Reply, Request, RuntimeSpec,
    ServerBody,
};

use crate::error::ErrorCode;
use connection::{Call, Connection};
pub use error::ClientError;

/// How long connecting and the exchange of hellos may take together.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// Items of one stream that wait in the client before its connection's reader waits.
pub const STREAM_QUEUE: usize = 256;

/// How many daemons, one after the other, may take over while one request waits to be begun.
const MAX_DAEMONS: u32 = 16;

/// A connection to a daemon, and to those that take its place. Dropping it leaves its streams
/// open.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    connection: Mutex<Arc<Connection>>,
    /// Held while a new connection is made.
    connecting: tokio::sync::Mutex<()>,
}

impl Client {
    /// Connects to the daemon whose control socket is at `path`. Needs a tokio runtime with
    /// I/O and time.
    ///
    /// # Errors
    ///
    /// [`ClientError::NotReachable`], [`ClientError::Refused`],
    /// [`ClientError::VersionMismatch`], [`ClientError::Protocol`] or [`ClientError::Lost`], within
    /// [`CONNECT_DEADLINE`].
    pub async fn connect(path: &Path) -> Result<Self, ClientError> {
        let connection = Mutex::new(Arc::new(Connection::open(path).await?));
        Ok(Self { path: path.to_owned(), connection, connecting: tokio::sync::Mutex::default() })
    }

    /// The daemon's version, from its hello.
    #[must_use]
    pub fn server_version(&self) -> String {
        self.current().server_version().to_owned()
    }

    fn current(&self) -> Arc<Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Connects to the daemon that has taken over, unless somebody has done so already.
    async fn connect_again(&self, before: &Arc<Connection>) -> Result<(), ClientError> {
        let _one_at_a_time = self.connecting.lock().await;
        if Arc::ptr_eq(before, &self.current()) {
            let next = Arc::new(Connection::open(&self.path).await?);
            *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = next;
        }
        Ok(())
    }

    /// Asks and waits for the answer, as long as it takes. Dropping the future cancels the
    /// request, if it is not done yet.
    ///
    /// For requests that are not streams; those go to [`Client::stream`], and an upload goes
    /// to [`Client::upload`].
    ///
    /// # Errors
    ///
    /// [`ClientError::Failed`] with what the daemon says, [`ClientError::Lost`],
    /// [`ClientError::TooLong`] or [`ClientError::Protocol`].
    pub async fn request(&self, request: Request) -> Result<Reply, ClientError> {
        let mut daemons = 0;
        loop {
            let connection = self.current();
            let answer = match begin(&connection, request.clone(), 1).await {
                Ok(mut call) => call.next().await,
                Err(error) => Err(error),
            };
            match answer {
                Err(ClientError::Replaced) if daemons < MAX_DAEMONS => {
                    daemons += 1;
                    self.connect_again(&connection).await?;
                }
                answer => return reply(answer?),
            }
        }
    }

    /// Begins a stream. Dropping it ends it.
    ///
    /// # Errors
    ///
    /// [`ClientError::Lost`] or [`ClientError::TooLong`]. What the daemon has against it comes
    /// as the stream's first item.
    pub async fn stream(&self, request: Request) -> Result<ItemStream, ClientError> {
        let mut daemons = 0;
        loop {
            let connection = self.current();
            match begin(&connection, request.clone(), STREAM_QUEUE).await {
                Err(ClientError::Replaced) if daemons < MAX_DAEMONS => {
                    daemons += 1;
                    self.connect_again(&connection).await?;
                }
                call => return Ok(ItemStream { call: Some(call?), _connection: connection }),
            }
        }
    }

    /// Begins to feed messages of a recording into links. The stream's first item is
    /// [`Item::Replaying`], or what the daemon has against it. Dropping the stream ends it.
    ///
    /// # Errors
    ///
    /// [`ClientError::Lost`] or [`ClientError::TooLong`].
    pub async fn replay(&self, spec: ReplaySpec) -> Result<(ItemStream, Feeder), ClientError> {
        let items = self.stream(Request::LinkReplay(spec)).await?;
        let id = items.call.as_ref().map_or(0, Call::id);
        let connection = items._connection.clone();
        Ok((items, Feeder { id, connection }))
    }

    /// Adds an instance whose program is sent along: as many bytes of `program` as
    /// [`Program::Upload`] in `spec` announces, in chunks, never all of them in memory.
    /// `progress` is told how many bytes were handed to the connection so far.
    ///
    /// When the daemon refuses before the end, the upload ends there. Dropping the future
    /// cancels it.
    ///
    /// # Errors
    ///
    /// As [`Client::request`], and [`ClientError::Upload`] when `program` can't be read, ends
    /// before its announced size, or `spec` is not an upload.
    pub async fn upload<R, P>(
        &self,
        spec: RuntimeSpec,
        program: R,
        mut progress: P,
    ) -> Result<Reply, ClientError>
    where
        R: AsyncRead + Unpin,
        P: FnMut(u64),
    {
        let Program::Upload { size, .. } = spec.program else {
            let kind = io::ErrorKind::InvalidInput;
            return Err(ClientError::Upload(io::Error::new(kind, "not an upload")));
        };
        let connection = self.current();
        let mut call = begin(&connection, Request::RuntimeAdd(spec), 1).await?;
        // A file that grows meanwhile is sent as it was announced.
        let mut program = program.take(size);
        let mut hasher = Sha256::new();
        let mut sent = 0;
        while sent < size {
            let chunk = tokio::select! {
                biased;
                early = call.next() => return reply(early?),
                chunk = read_chunk(&mut program) => chunk.map_err(ClientError::Upload)?,
            };
            hasher.update(&chunk);
            sent += chunk.len() as u64;
            if let Some(early) = say(&connection, &mut call, ClientBody::Chunk(chunk)).await? {
                return reply(early);
            }
            progress(sent);
        }
        let sha256 = hasher.finalize().into();
        match say(&connection, &mut call, ClientBody::ChunksEnd { sha256 }).await? {
            Some(early) => reply(early),
            None => reply(call.next().await?),
        }
    }
}

async fn begin(
    connection: &Connection,
    request: Request,
    queue: usize,
) -> Result<Call, ClientError> {
    let call = connection.call(queue)?;
    let frame = call.frame(ClientBody::Request(request))?;
    if !connection.send(frame).await {
        return Err(call.lost().await);
    }
    Ok(call)
}

/// Sends more of a call, unless its answer is there before.
async fn say(
    connection: &Connection,
    call: &mut Call,
    body: ClientBody,
) -> Result<Option<ServerBody>, ClientError> {
    let frame = call.frame(body)?;
    let sent = tokio::select! {
        biased;
        early = call.next() => return early.map(Some),
        sent = connection.send(frame) => sent,
    };
    if sent {
        Ok(None)
    } else {
        // The daemon may have answered before it closed the connection.
        call.last().await.map(Some)
    }
}

/// A whole chunk, or what is left.
async fn read_chunk<R: AsyncRead + Unpin>(program: &mut R) -> io::Result<Vec<u8>> {
    let mut chunk = vec![0; MAX_CHUNK];
    let mut filled = 0;
    while filled < chunk.len() {
        match program.read(&mut chunk[filled..]).await? {
            0 => break,
            read => filled += read,
        }
    }
    if filled == 0 {
        let message = "it is shorter than it was when the upload began";
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
    }
    chunk.truncate(filled);
    Ok(chunk)
}

fn reply(body: ServerBody) -> Result<Reply, ClientError> {
    match body {
        ServerBody::Reply(reply) => Ok(reply),
        ServerBody::Error(error) => Err(ClientError::Failed(error)),
        ServerBody::Item(_) | ServerBody::End => {
            Err(ClientError::Protocol("the daemon answered a request with a stream".into()))
        }
    }
}

/// Feeds messages to a replay.
#[derive(Debug)]
pub struct Feeder {
    id: u64,
    connection: Arc<Connection>,
}

impl Feeder {
    /// Feeds these, when there is room: they are on their way when this returns. No more than
    /// [`ReplaySpec::WINDOW`] feeds are to be under way.
    ///
    /// # Errors
    ///
    /// [`ClientError::TooLong`], and [`ClientError::Lost`], after which the items say more.
    pub async fn feed(&self, messages: Vec<ReplayMessage>) -> Result<(), ClientError> {
        self.say(ClientBody::Feed(messages)).await
    }

    /// There are no more.
    ///
    /// # Errors
    ///
    /// As [`feed`](Self::feed).
    pub async fn end(&self) -> Result<(), ClientError> {
        self.say(ClientBody::FeedEnd).await
    }

    async fn say(&self, body: ClientBody) -> Result<(), ClientError> {
        let frame = connection::frame(self.id, body)?;
        match self.connection.send(frame).await {
            true => Ok(()),
            false => Err(ClientError::Lost("the connection is closed".into())),
        }
    }
}

/// A stream of items. Dropping it ends it.
#[derive(Debug)]
pub struct ItemStream {
    /// None once the stream is done.
    call: Option<Call>,
    /// Keeps the connection open when the client is dropped. After `call`, so that a cancel
    /// is on its way before the connection may close.
    _connection: Arc<Connection>,
}

impl ItemStream {
    /// The next item; none when the daemon ended the stream or an error was returned before.
    ///
    /// No item is lost when the future is dropped before it is ready.
    ///
    /// # Errors
    ///
    /// As [`Client::request`]. The stream is done after an error.
    pub async fn next(&mut self) -> Option<Result<Item, ClientError>> {
        let last = match self.call.as_mut()?.next().await {
            Ok(ServerBody::Item(item)) => return Some(Ok(item)),
            Ok(ServerBody::End) => None,
            Ok(ServerBody::Error(error)) if error.code == ErrorCode::Replaced => {
                Some(Err(ClientError::Replaced))
            }
            Ok(ServerBody::Error(error)) => Some(Err(ClientError::Failed(error))),
            Ok(ServerBody::Reply(_)) => Some(Err(ClientError::Protocol(
                "the daemon answered a stream with a single reply".into(),
            ))),
            Err(error) => Some(Err(error)),
        };
        self.call = None;
        last
    }
}
