//! The two sockets of an instance, and the connections to them.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use orchestrator_proto::control::EventKind;
use orchestrator_proto::{InstanceId, WireError};
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

use super::kept::{Kept, Places};
use super::veecle::Beginning;
use super::{Endpoint, native, veecle};
use crate::private_socket;

/// Connections that an instance may have open, over both sockets.
const MAX_CONNECTIONS: u32 = 16;

/// The longest path of a Unix socket, bytes (unix(7): `sun_path` with its final zero is 108).
const MAX_PATH: usize = 107;

/// How long a failure to accept a connection is not tried again: the first time, and at most.
const PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Why a socket can't be had.
#[derive(Debug, Error)]
#[error("cannot listen on {path:?}: {source}")]
pub struct SocketError {
    path: PathBuf,
    source: io::Error,
}

/// The two sockets of an instance. They exist, and listen, for as long as this value.
pub struct InstanceSockets {
    /// The native dialect.
    pub native: PathBuf,
    /// The Veecle OS dialect.
    pub veecle: PathBuf,
    endpoint: Arc<Endpoint>,
    task: JoinHandle<()>,
}

#[derive(Clone, Copy)]
enum DialectName {
    Native,
    Veecle,
}

impl DialectName {
    /// Where its listener is on the shelf.
    const fn place(self) -> u64 {
        match self {
            Self::Native => 1,
            Self::Veecle => 2,
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Veecle => veecle::DIALECT,
        }
    }
}

impl InstanceSockets {
    /// How many bytes the path of `dir` has too many for sockets below it.
    #[must_use]
    pub fn excess(dir: &Path) -> usize {
        let longest = dir.as_os_str().len() + "/".len() + 32 + ".native".len();
        longest.saturating_sub(MAX_PATH)
    }

    /// Listens for one instance, below `dir`; goes on listening where an earlier daemon did, so
    /// that who has connected meanwhile is not refused, and goes on with the connections of peers
    /// that can't connect anew. Nobody is served before [`Endpoint::begun`].
    ///
    /// # Errors
    ///
    /// When a socket can't be made there.
    pub fn open(dir: &Path, endpoint: &Arc<Endpoint>) -> Result<Self, SocketError> {
        let path = |id: InstanceId, dialect: DialectName| {
            dir.join(format!("{}.{}", id.simple(), dialect.text()))
        };
        let native = path(endpoint.instance, DialectName::Native);
        let veecle = path(endpoint.instance, DialectName::Veecle);
        let first = listen(&native, endpoint, DialectName::Native)?;
        let second = match listen(&veecle, endpoint, DialectName::Veecle) {
            Ok(listener) => listener,
            Err(error) => {
                let _ = fs::remove_file(&native);
                endpoint.shelf.clear(DialectName::Native.place());
                return Err(error);
            }
        };
        let (before, places) = take_up(endpoint);
        let mut doors = Doors {
            endpoint: endpoint.clone(),
            native: first,
            veecle: second,
            before,
            places,
            connections: JoinSet::new(),
        };
        // One task for both: there are many instances, and most of them nobody connects to.
        let task = tokio::spawn(async move { doors.serve().await });
        Ok(Self { native, veecle, endpoint: endpoint.clone(), task })
    }
}

impl Drop for InstanceSockets {
    fn drop(&mut self) {
        self.task.abort();
        for dialect in [DialectName::Native, DialectName::Veecle] {
            self.endpoint.shelf.clear(dialect.place());
        }
        for path in [&self.native, &self.veecle] {
            if let Err(error) = fs::remove_file(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(?path, %error, "a socket could not be removed");
            }
        }
    }
}

fn listen(
    path: &Path,
    endpoint: &Endpoint,
    dialect: DialectName,
) -> Result<UnixListener, SocketError> {
    let listener = match endpoint.shelf.take(dialect.place()) {
        Some(kept) if path.exists() => UnixListener::from_std(kept.into()),
        _ => bind(path).inspect(|listener| endpoint.shelf.put(dialect.place(), listener.as_fd())),
    };
    listener.map_err(|source| SocketError { path: path.to_owned(), source })
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::from_std(private_socket::listener(path)?)
}

/// Where connections come in.
struct Doors {
    endpoint: Arc<Endpoint>,
    native: UnixListener,
    veecle: UnixListener,
    /// Connections that an earlier daemon served.
    before: Vec<Within>,
    /// Peers of the Veecle dialect can't connect anew, so their connections outlive the daemon.
    places: Places,
    connections: JoinSet<()>,
}

/// A connection that an earlier daemon served.
struct Within {
    stream: UnixStream,
    kept: Kept,
    open: OpenConnection,
}

/// What there is of these, each with its place among the open ones, so that it is not taken by
/// one that can connect again.
fn take_up(endpoint: &Arc<Endpoint>) -> (Vec<Within>, Places) {
    let (streams, places) = Places::take(endpoint);
    let within = streams.into_iter().filter_map(|(stream, kept)| {
        let open = OpenConnection::new(endpoint);
        if open.is_none() {
            refuse(endpoint);
        }
        Some(Within { stream, kept, open: open? })
    });
    (within.collect(), places)
}

fn refuse(endpoint: &Endpoint) {
    tracing::warn!(
        instance = %endpoint.instance,
        "a connection is refused: {MAX_CONNECTIONS} are open"
    );
}

impl Doors {
    /// Serves those of before, and whoever comes.
    async fn serve(&mut self) {
        if self.endpoint.begun.clone().wait_for(|begun| *begun).await.is_err() {
            return;
        }
        for within in std::mem::take(&mut self.before) {
            self.go_on(within);
        }
        let mut pause = PAUSE;
        loop {
            while self.connections.try_join_next().is_some() {}
            let (accepted, dialect) = tokio::select! {
                accepted = self.native.accept() => (accepted, DialectName::Native),
                accepted = self.veecle.accept() => (accepted, DialectName::Veecle),
            };
            match accepted {
                Ok((stream, _)) => {
                    pause = PAUSE;
                    match OpenConnection::new(&self.endpoint) {
                        Some(open) => self.begin(stream, open, dialect),
                        None => refuse(&self.endpoint),
                    }
                }
                Err(error) => {
                    // Out of files, most likely: new connections wait in the backlog meanwhile.
                    tracing::warn!(instance = %self.endpoint.instance, %error, "accept failed");
                    // Its room is had only then.
                    Box::pin(tokio::time::sleep(pause)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    fn event(&self, kind: EventKind) {
        self.endpoint.host.event(self.endpoint.instance, kind);
    }

    fn begin(&mut self, stream: UnixStream, open: OpenConnection, name: DialectName) {
        self.event(EventKind::Connected { dialect: name.text().to_owned() });
        let endpoint = self.endpoint.clone();
        match name {
            DialectName::Native => {
                let serving = native::serve(stream, endpoint);
                self.connections.spawn(connection(serving, open, name, None));
            }
            DialectName::Veecle => {
                let kept = self.places.keep(&stream);
                let serving = veecle::serve(stream, endpoint, Beginning::New);
                self.connections.spawn(connection(serving, open, name, Some(kept)));
            }
        }
    }

    fn go_on(&mut self, Within { stream, kept, open }: Within) {
        let name = DialectName::Veecle;
        self.event(EventKind::ConnectionKept { dialect: name.text().to_owned() });
        let serving = veecle::serve(stream, self.endpoint.clone(), Beginning::Within);
        self.connections.spawn(connection(serving, open, name, Some(kept)));
    }
}

/// Serves one until it ends.
async fn connection(
    serving: impl Future<Output = Result<(), WireError>>,
    open: OpenConnection,
    dialect: DialectName,
    kept: Option<Kept>,
) {
    let result = serving.await;
    drop(kept);
    let endpoint = &open.0;
    if result.is_err() {
        endpoint.protocol_errors.fetch_add(1, Ordering::Relaxed);
    }
    let error = result.err().map(|error| error.to_string());
    let kind = EventKind::Disconnected { dialect: dialect.text().to_owned(), error };
    endpoint.host.event(endpoint.instance, kind);
}

/// One of the [`MAX_CONNECTIONS`], for as long as it is open, also when its task is aborted.
struct OpenConnection(Arc<Endpoint>);

impl OpenConnection {
    fn new(endpoint: &Arc<Endpoint>) -> Option<Self> {
        // Counted even if there is no place, and given back by the drop.
        let place = Self(endpoint.clone());
        let before = endpoint.connections.fetch_add(1, Ordering::AcqRel);
        (before < MAX_CONNECTIONS).then_some(place)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::AcqRel);
    }
}
