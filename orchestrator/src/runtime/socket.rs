//! The two sockets of an instance, and the connections to them.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use orchestrator_proto::control::EventKind;
use orchestrator_proto::{InstanceId, WireError};
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use super::kept::{Kept, Places};
use super::porter::{Doors, Watched};
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
    place: Place,
    rooms: Arc<Rooms>,
    _watched: Watched,
}

/// Where the sockets of an instance are.
#[derive(Clone, Debug)]
pub struct Place {
    dir: Arc<Path>,
    instance: InstanceId,
}

impl Place {
    /// The path of the native dialect's, and that of the Veecle OS dialect's.
    #[must_use]
    pub fn paths(&self) -> [PathBuf; 2] {
        [DialectName::Native, DialectName::Veecle]
            .map(|dialect| self.dir.join(format!("{}.{}", self.instance.simple(), dialect.text())))
    }
}

#[derive(Clone, Copy)]
enum DialectName {
    Native = 0,
    Veecle = 1,
}

impl DialectName {
    const fn of(door: u8) -> Option<Self> {
        match door {
            0 => Some(Self::Native),
            1 => Some(Self::Veecle),
            _ => None,
        }
    }

    /// Where its listener is on the shelf.
    const fn place(self) -> u64 {
        match self {
            Self::Native => 1,
            Self::Veecle => 2,
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Native => native::DIALECT,
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
    /// that can't connect anew. Nobody is served before [`Porter::begin`](super::Porter::begin).
    ///
    /// # Errors
    ///
    /// When a socket can't be made there.
    pub fn open(dir: &Arc<Path>, endpoint: &Arc<Endpoint>) -> Result<Self, SocketError> {
        let place = Place { dir: dir.clone(), instance: endpoint.instance };
        let [native, veecle] = place.paths();
        let (before, places) = take_up(endpoint);
        let has_before = !before.is_empty();
        let inside = Inside { before, places, connections: JoinSet::new(), opening: [None; 2] };
        let inside = Mutex::new(Some(inside));
        let rooms = Arc::new(Rooms { endpoint: endpoint.clone(), inside });
        let doors: Weak<Rooms> = Arc::downgrade(&rooms);
        let watched = endpoint.porter.serve(doors.clone());
        listen(&native, endpoint, &watched, DialectName::Native)?;
        if let Err(error) = listen(&veecle, endpoint, &watched, DialectName::Veecle) {
            let _ = fs::remove_file(&native);
            endpoint.shelf.clear(DialectName::Native.place());
            return Err(error);
        }
        if has_before {
            let porter = endpoint.porter.clone();
            tokio::spawn(async move {
                porter.begun().await;
                doors.upgrade().inspect(|rooms| rooms.go_on());
            });
        }
        Ok(Self { place, rooms, _watched: watched })
    }

    /// Where they are.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place.clone()
    }
}

impl Drop for InstanceSockets {
    fn drop(&mut self) {
        // Who is connected sees the end.
        let inside = self.rooms.inside().take();
        drop(inside);
        for dialect in [DialectName::Native, DialectName::Veecle] {
            self.rooms.endpoint.shelf.clear(dialect.place());
        }
        for path in self.place.paths() {
            if let Err(error) = fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(?path, %error, "a socket could not be removed");
            }
        }
    }
}

/// Listens at this path. The socket is on the shelf, and only there.
fn listen(
    path: &Path,
    endpoint: &Endpoint,
    watched: &Watched,
    dialect: DialectName,
) -> Result<(), SocketError> {
    let shelf = &endpoint.shelf;
    let failed = |source| SocketError { path: path.to_owned(), source };
    let kept = shelf.take(dialect.place()).filter(|_| path.exists());
    let is_kept = kept.is_some();
    let listener = kept.map_or_else(|| bind(path), Ok).map_err(failed)?;
    watched.wait_at(dialect as u8, &listener).map_err(failed)?;
    match is_kept {
        true => shelf.put_back(dialect.place(), listener),
        false => shelf.deposit(dialect.place(), listener),
    }
    Ok(())
}

fn bind(path: &Path) -> io::Result<OwnedFd> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    Ok(private_socket::listener(path)?.into())
}

/// What is behind the doors of an instance.
struct Rooms {
    endpoint: Arc<Endpoint>,
    /// None once they are closed.
    inside: Mutex<Option<Inside>>,
}

struct Inside {
    /// Connections that an earlier daemon served, until this one has begun to.
    before: Vec<Within>,
    /// Peers of the Veecle dialect can't connect anew, so their connections outlive the daemon.
    places: Places,
    /// Those that are served; and whoever is opening a door.
    connections: JoinSet<()>,
    /// Whether somebody is opening this door, and somebody has come there since.
    opening: [Option<Since>; 2],
}

/// What has happened since somebody began to open a door.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Since {
    Nothing,
    Knocked,
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

impl Doors for Rooms {
    fn knock(self: Arc<Self>, door: u8) {
        let Some(dialect) = DialectName::of(door) else { return };
        let rooms = self.clone();
        let mut inside = self.inside();
        let Some(inside) = &mut *inside else { return };
        match &mut inside.opening[usize::from(door)] {
            // One at a time, so that they come in one after the other.
            Some(since) => *since = Since::Knocked,
            opening => {
                *opening = Some(Since::Nothing);
                inside.connections.spawn(async move { rooms.open(dialect).await });
            }
        }
    }
}

impl Rooms {
    fn inside(&self) -> MutexGuard<'_, Option<Inside>> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves whoever is at this door, until nobody is.
    async fn open(&self, dialect: DialectName) {
        let mut pause = PAUSE;
        loop {
            match self.let_in(dialect).await {
                Ok(()) if self.is_over(dialect) => return,
                Ok(()) => {}
                Err(error) => {
                    // Out of files, most likely: new connections wait in the backlog meanwhile.
                    tracing::warn!(instance = %self.endpoint.instance, %error, "accept failed");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Whether nobody has come to this door since it was opened, so that it is closed now.
    fn is_over(&self, dialect: DialectName) -> bool {
        let mut inside = self.inside();
        let Some(inside) = &mut *inside else { return true };
        let opening = &mut inside.opening[dialect as usize];
        let is_over = *opening != Some(Since::Knocked);
        *opening = (!is_over).then_some(Since::Nothing);
        is_over
    }

    async fn let_in(&self, dialect: DialectName) -> io::Result<()> {
        let listener = match self.endpoint.shelf.fetch(dialect.place()).await? {
            Some(file) => StdListener::from(file),
            // It is not to listen any more.
            None => return Ok(()),
        };
        loop {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(()),
                    // It has gone already.
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => continue,
                    _ => return Err(error),
                },
            };
            stream.set_nonblocking(true)?;
            let stream = UnixStream::from_std(stream)?;
            match OpenConnection::new(&self.endpoint) {
                Some(open) => self.begin(stream, open, dialect),
                None => refuse(&self.endpoint),
            }
            tokio::task::yield_now().await;
        }
    }

    fn event(&self, kind: EventKind) {
        self.endpoint.host.event(self.endpoint.instance, kind);
    }

    fn begin(&self, stream: UnixStream, open: OpenConnection, name: DialectName) {
        // The newest is the one that messages go to.
        self.go_on();
        let mut inside = self.inside();
        let Some(inside) = &mut *inside else { return };
        while inside.connections.try_join_next().is_some() {}
        let endpoint = self.endpoint.clone();
        match name {
            DialectName::Native => {
                let greeted = Arc::<AtomicBool>::default();
                let serving = native::serve(stream, endpoint, greeted.clone());
                let serving = async move {
                    let result = serving.await;
                    let was_it = greeted.load(Ordering::Acquire);
                    // Who only fetches a file was never connected, as far as anybody cares.
                    if !was_it && result.is_ok() { None } else { Some(result) }
                };
                inside.connections.spawn(connection(serving, open, name, None));
            }
            DialectName::Veecle => {
                self.event(EventKind::Connected { dialect: name.text().to_owned() });
                let kept = inside.places.keep(&stream);
                let serving = veecle::serve(stream, endpoint, Beginning::New);
                let serving = async move { Some(serving.await) };
                inside.connections.spawn(connection(serving, open, name, Some(kept)));
            }
        }
    }

    /// Serves the connections of before.
    fn go_on(&self) {
        let mut inside = self.inside();
        let Some(inside) = &mut *inside else { return };
        for Within { stream, kept, open } in std::mem::take(&mut inside.before) {
            let name = DialectName::Veecle;
            self.event(EventKind::ConnectionKept { dialect: name.text().to_owned() });
            let serving = veecle::serve(stream, self.endpoint.clone(), Beginning::Within);
            let serving = async move { Some(serving.await) };
            inside.connections.spawn(connection(serving, open, name, Some(kept)));
        }
    }
}

/// Serves one until it ends. Nobody is told of the end of one that was never more than a knock.
async fn connection(
    serving: impl Future<Output = Option<Result<(), WireError>>>,
    open: OpenConnection,
    dialect: DialectName,
    kept: Option<Kept>,
) {
    let result = serving.await;
    drop(kept);
    let Some(result) = result else { return };
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
