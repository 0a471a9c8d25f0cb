//! Where the links of one target meet: which of them have something, and who fetches it.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use tokio::sync::Notify;

use super::decl::Encoding;
use super::link::Link;

/// Fetches messages from a mailbox and carries them away.
pub trait Sink: Send + Sync {
    /// There may be something to fetch. Must not wait: what can't be carried away at once is
    /// left to a task of the sink.
    fn kick(&self);

    /// Another sink takes over: gives back what is not begun to be carried away. What was taken
    /// first must be on its way before anything newer is.
    fn hand_over(&self) {}

    /// How payloads are written for its peer.
    fn encoding(&self) -> Encoding {
        Encoding::JsonLiteral
    }
}

/// The links of one target that have something.
#[derive(Default)]
pub struct Mailbox {
    /// Links that have something, each of them once, in the order in which they are served.
    ready: Mutex<VecDeque<Arc<Link>>>,
    /// Links that have something which the present sink can't take yet.
    parked: Mutex<Vec<Arc<Link>>>,
    /// All links of the target.
    links: Mutex<Vec<Weak<Link>>>,
    sinks: RwLock<Sinks>,
    /// Held while the sink that is served changes.
    changing: Mutex<()>,
    /// Somebody waits for another sink, or for a declaration.
    changed: Notify,
    /// Messages on their way that came over no link.
    pub(super) posts: AtomicU32,
}

#[derive(Default)]
struct Sinks {
    /// The last one is served. Older ones are kept in case the last one goes first.
    list: Vec<Arc<dyn Sink>>,
    /// While one hands over to another, none is served.
    handing_over: bool,
}

impl Sinks {
    fn served(&self) -> Option<&Arc<dyn Sink>> {
        if self.handing_over { None } else { self.list.last() }
    }
}

impl Mailbox {
    pub(super) fn schedule(&self, link: Arc<Link>) {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).push_back(link);
    }

    /// How payloads are written for the peer that is served now; none if there is none.
    #[must_use]
    pub fn encoding(&self) -> Option<Encoding> {
        let sinks = self.sinks.read().unwrap_or_else(PoisonError::into_inner);
        sinks.list.last().map(|sink| sink.encoding())
    }

    /// Another sink is served, or its peer has declared an input: whoever waits for that looks again.
    pub(super) fn has_changed(&self) {
        self.changed.notify_waiters();
    }

    /// Where that is told, to who listens by then.
    pub fn changes(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    /// Tells the present sink that there may be something.
    pub fn kick(&self) {
        let sink = self.sinks.read().unwrap_or_else(PoisonError::into_inner).served().cloned();
        if let Some(sink) = sink {
            sink.kick();
        }
    }

    /// Whether any link has something that the sink might take.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        !self.ready.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// For the sink: the next link that has something. It goes back with [`Mailbox::give_back`].
    #[must_use]
    pub fn next_link(&self) -> Option<Arc<Link>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// For the sink, after it took from a link: the link queues up again if it has more.
    pub fn give_back(&self, link: Arc<Link>) {
        if link.settled_for_now() {
            self.schedule(link);
        }
    }

    /// For the sink: it can't take from this link now. [`Mailbox::unpark`] brings it back; call
    /// that whenever the reason may be gone, also if it may have gone just now.
    pub fn park(&self, link: Arc<Link>) {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner).push(link);
    }

    /// Brings back what was parked.
    pub fn unpark(&self) {
        let parked =
            std::mem::take(&mut *self.parked.lock().unwrap_or_else(PoisonError::into_inner));
        if !parked.is_empty() {
            self.ready.lock().unwrap_or_else(PoisonError::into_inner).extend(parked);
        }
    }

    /// There is a further link.
    pub(super) fn enter(&self, link: &Arc<Link>) {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(link));
    }

    pub(super) fn links(&self) -> Vec<Arc<Link>> {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.iter().filter_map(Weak::upgrade).collect()
    }

    /// A removed link has nothing any more, and must not be kept by these lists.
    pub(super) fn forget(&self, link: &Link) {
        let is_it = |other: &Weak<Link>| std::ptr::eq(other.as_ptr(), link);
        self.links.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| !is_it(other));
        let is_other = |other: &Arc<Link>| !std::ptr::eq(&**other, link);
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).retain(is_other);
        self.parked.lock().unwrap_or_else(PoisonError::into_inner).retain(is_other);
    }

    /// From now on `sink` is served, after the one before it has handed over. It is a receiver that
    /// comes late, and gets what the histories of its links hold for it.
    pub fn attach(&self, sink: Arc<dyn Sink>) {
        let changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.change(|sinks| {
            sinks.handing_over = true;
            let before = sinks.list.last().cloned();
            sinks.list.push(sink);
            before
        });
        if let Some(before) = before {
            before.hand_over();
        }
        for link in self.links() {
            link.rewind();
        }
        self.change(|sinks| sinks.handing_over = false);
        drop(changing);
        self.has_changed();
        self.unpark();
        self.kick();
    }

    /// `sink` went away; the one before it, if it is still there, is served again.
    pub fn detach(&self, sink: &Arc<dyn Sink>) {
        let changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let was_served = self.change(|sinks| {
            sinks.handing_over = true;
            let was_served = sinks.list.last().is_some_and(|last| Arc::ptr_eq(last, sink));
            sinks.list.retain(|other| !Arc::ptr_eq(other, sink));
            was_served
        });
        sink.hand_over();
        if was_served {
            for link in self.links() {
                link.forget_replay();
            }
        }
        self.change(|sinks| sinks.handing_over = false);
        drop(changing);
        self.unpark();
        self.kick();
    }

    fn change<T>(&self, change: impl FnOnce(&mut Sinks) -> T) -> T {
        change(&mut self.sinks.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether `sink` is the one that is served.
    #[must_use]
    pub fn serves(&self, sink: &dyn Sink) -> bool {
        let sinks = self.sinks.read().unwrap_or_else(PoisonError::into_inner);
        sinks.served().is_some_and(|served| std::ptr::addr_eq(Arc::as_ptr(served), sink))
    }
}
