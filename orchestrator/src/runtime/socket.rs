//! The two sockets of an instance, and the connections to them.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use orchestrator_proto::control::EventKind;
use orchestrator_proto::{InstanceId, WireError};
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use super::{Endpoint, native, veecle};

/// Connections that an instance may have open, over both sockets.
const MAX_CONNECTIONS: u32 = 16;

/// The longest path of a Unix socket, bytes (unix(7): `sun_path` with its final zero is 108).
const MAX_PATH: usize = 107;

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
    tasks: [JoinHandle<()>; 2],
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
            Self::Veecle => "veecle",
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
    /// that who has connected meanwhile is not refused.
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
        let tasks = [
            tokio::spawn(accept(first, endpoint.clone(), DialectName::Native)),
            tokio::spawn(accept(second, endpoint.clone(), DialectName::Veecle)),
        ];
        Ok(Self { native, veecle, endpoint: endpoint.clone(), tasks })
    }
}

impl Drop for InstanceSockets {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
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
    // The directory is 0700, so nobody gets in between these calls.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn accept(listener: UnixListener, endpoint: Arc<Endpoint>, dialect: DialectName) {
    let mut connections = tokio::task::JoinSet::new();
    let mut pause = Duration::from_millis(5);
    // Who connects meanwhile waits in the backlog. It fails when the daemon has gone.
    if endpoint.links_are_back.clone().wait_for(|back| *back).await.is_err() {
        return;
    }
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                pause = Duration::from_millis(5);
                let Some(open) = OpenConnection::new(&endpoint) else {
                    tracing::warn!(
                        instance = %endpoint.instance,
                        "a connection is refused: {MAX_CONNECTIONS} are open"
                    );
                    continue;
                };
                connections.spawn(connection(stream, open, dialect));
            }
            Err(error) => {
                // Out of files, most likely: new connections wait in the backlog meanwhile.
                tracing::warn!(instance = %endpoint.instance, %error, "accept failed");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        }
    }
}

async fn connection(stream: UnixStream, open: OpenConnection, dialect: DialectName) {
    let endpoint = open.0.clone();
    let (instance, name) = (endpoint.instance, dialect.text());
    endpoint.host.event(instance, EventKind::Connected { dialect: name.to_owned() });
    let result: Result<(), WireError> = match dialect {
        DialectName::Native => native::serve(stream, endpoint.clone()).await,
        DialectName::Veecle => veecle::serve(stream, endpoint.clone()).await,
    };
    if result.is_err() {
        endpoint.protocol_errors.fetch_add(1, Ordering::Relaxed);
    }
    let error = result.err().map(|error| error.to_string());
    let kind = EventKind::Disconnected { dialect: name.to_owned(), error };
    endpoint.host.event(instance, kind);
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
