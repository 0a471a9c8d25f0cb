//! Taps: watching messages as they pass, without slowing them.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use bytes::Bytes;
use orchestrator_proto::InstanceId;
use tokio::sync::mpsc;

use super::decl::TypeDecl;

/// Taps of one daemon: each costs every message a little.
pub const MAX_TAPS: usize = 64;

/// Messages that may wait for one watcher.
const TAP_CAPACITY: usize = 1024;

/// Bytes of payload that may wait for one watcher: 64 MiB, or one message that has more. All who watch
/// the same messages share them.
const TAP_BYTES: usize = 64 << 20;

/// A message that passed. Decoding it is the watcher's own work.
pub struct TapItem {
    /// When, nanoseconds since 1970.
    pub time_ns: u64,
    /// Who sent it.
    pub from: Option<InstanceId>,
    /// Its type.
    pub decl: Arc<TypeDecl>,
    /// To how many links it went.
    pub links: usize,
    /// The payload.
    pub body: Bytes,
    /// When it was sent, nanoseconds since 1970, if its sender said so.
    pub sent_ns: Option<u64>,
}

/// One watcher's end. Dropping it ends the tap.
pub struct Tap {
    taps: Arc<Taps>,
    shared: Arc<Watcher>,
    items: mpsc::Receiver<TapItem>,
}

/// What a watcher wants to see: messages of a type, or of any, from an instance, or from any.
pub type Watched = (Option<Arc<str>>, Option<InstanceId>);

struct Watcher {
    /// Any of these.
    watched: Vec<Watched>,
    items: mpsc::Sender<TapItem>,
    waiting_bytes: AtomicUsize,
    missed: AtomicU64,
}

impl Tap {
    /// The next message; waits for it.
    pub async fn next(&mut self) -> Option<TapItem> {
        let item = self.items.recv().await?;
        self.shared.waiting_bytes.fetch_sub(item.body.len(), Ordering::Relaxed);
        Some(item)
    }

    /// How many messages were missed since this was last asked, because the watcher was too
    /// slow.
    #[must_use]
    pub fn take_missed(&self) -> u64 {
        self.shared.missed.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let mut list = self.taps.list.write().unwrap_or_else(PoisonError::into_inner);
        list.retain(|other| !Arc::ptr_eq(other, &self.shared));
        self.taps.count.store(list.len(), Ordering::Release);
        drop(list);
        if let Some(ended) = self.taps.ended.get() {
            ended();
        }
    }
}

/// All taps of a daemon.
#[derive(Default)]
pub struct Taps {
    count: AtomicUsize,
    list: RwLock<Vec<Arc<Watcher>>>,
    /// Told when one has ended.
    ended: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Taps {
    /// Begins to watch any of these messages. None when there are [`MAX_TAPS`] already.
    #[must_use]
    pub fn open(self: &Arc<Self>, watched: Vec<Watched>) -> Option<Tap> {
        let (sender, items) = mpsc::channel(TAP_CAPACITY);
        let shared = Arc::new(Watcher {
            watched,
            items: sender,
            waiting_bytes: AtomicUsize::new(0),
            missed: AtomicU64::new(0),
        });
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        if list.len() >= MAX_TAPS {
            return None;
        }
        list.push(shared.clone());
        self.count.store(list.len(), Ordering::Release);
        drop(list);
        Some(Tap { taps: self.clone(), shared, items })
    }

    /// From now on this is told of each tap that has ended. Once.
    pub fn on_end(&self, ended: impl Fn() + Send + Sync + 'static) {
        let _ = self.ended.set(Box::new(ended));
    }

    /// Whether anybody watches messages of this type.
    #[must_use]
    pub fn watches(&self, type_name: &str) -> bool {
        let is_it = |(name, _): &Watched| name.as_ref().is_none_or(|name| **name == *type_name);
        self.any() && {
            let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
            list.iter().any(|watcher| watcher.watched.iter().any(is_it))
        }
    }

    pub(super) fn any(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }

    pub(super) fn offer(
        &self,
        from: Option<InstanceId>,
        decl: &Arc<TypeDecl>,
        links: usize,
        bodies: &[Bytes],
        time_ns: u64,
    ) {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        let is_watched = |(name, wanted): &Watched| {
            name.as_ref().is_none_or(|name| *name == decl.name)
                && wanted.is_none_or(|wanted| Some(wanted) == from)
        };
        let watchers = list.iter().filter(|watcher| watcher.watched.iter().any(is_watched));
        for watcher in watchers {
            for body in bodies {
                let (body, sent_ns) = decl.value(body);
                let item = TapItem { time_ns, from, decl: decl.clone(), links, body, sent_ns };
                watcher.offer(item);
            }
        }
    }
}

impl Watcher {
    fn offer(&self, item: TapItem) {
        let size = item.body.len();
        let waiting = self.waiting_bytes.fetch_add(size, Ordering::Relaxed);
        let fits = waiting == 0 || waiting + size <= TAP_BYTES;
        if !fits || self.items.try_send(item).is_err() {
            self.waiting_bytes.fetch_sub(size, Ordering::Relaxed);
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }
}
