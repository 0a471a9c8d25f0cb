//! Waits at the doors of all instances: one epoll instance has all listening sockets.
//!
//! A listening socket need not be open in this process for that. An epoll instance watches what is
//! behind a file's number, for as long as anybody has that open, see Q6 in epoll(7); and the holder
//! has it. So an instance to which nobody connects costs no file here.
//!
//! Each socket is watched edge-triggered: a connection is told of once, when it comes, and the door
//! is opened until nobody is before it any more. What is told of a door that is gone is not heeded;
//! the kernel forgets it with the socket.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::event::{Timespec, epoll};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::process::readable;

/// Doors that are told of at once.
const AT_ONCE: usize = 64;

/// Where somebody may come: doors that belong together.
pub(super) trait Doors: Send + Sync {
    /// Somebody is at this door. Must not wait.
    fn knock(self: Arc<Self>, door: u8);
}

/// See the module.
pub struct Porter {
    epoll: AsyncFd<OwnedFd>,
    all: Mutex<All>,
    begun: watch::Sender<bool>,
}

#[derive(Default)]
struct All {
    doors: HashMap<u64, Weak<dyn Doors>>,
    last: u64,
}

/// Doors at which the porter waits, until this is dropped.
pub(super) struct Watched {
    porter: Arc<Porter>,
    /// It is that of the event, without the door in its lowest byte.
    number: u64,
}

impl Porter {
    /// Waits at no door as yet, and lets nobody in before [`begin`](Self::begin). Must be called
    /// within a tokio runtime.
    ///
    /// # Errors
    ///
    /// When there is no file left.
    pub fn start() -> io::Result<Arc<Self>> {
        let epoll = readable(epoll::create(epoll::CreateFlags::CLOEXEC)?)?;
        let begun = watch::Sender::new(false);
        let porter = Arc::new(Self { epoll, all: Mutex::default(), begun });
        tokio::spawn(wait(porter.clone()));
        Ok(porter)
    }

    /// The links of an earlier daemon are there, so that what a peer sends does not go nowhere: whoever
    /// is at a door may come in.
    pub fn begin(&self) {
        self.begun.send_replace(true);
    }

    /// Waits for that.
    pub(super) async fn begun(&self) {
        // Fails only without a sender, and that is part of this.
        let _ = self.begun.subscribe().wait_for(|begun| *begun).await;
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells these of who comes.
    pub(super) fn serve(self: &Arc<Self>, doors: Weak<dyn Doors>) -> Watched {
        let mut all = self.all();
        all.last += 1 << u8::BITS;
        let number = all.last;
        all.doors.insert(number, doors);
        Watched { porter: self.clone(), number }
    }

    /// Passes on what has happened at the doors. `WouldBlock` if nothing has.
    fn look(&self, epoll: &OwnedFd) -> io::Result<()> {
        let mut events = [MaybeUninit::uninit(); AT_ONCE];
        let now = Timespec::default();
        let (events, _) = epoll::wait(epoll, &mut events, Some(&now))?;
        if events.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        for event in events {
            let [door, ..] = event.data.u64().to_le_bytes();
            let number = event.data.u64() - u64::from(door);
            let doors = self.all().doors.get(&number).and_then(Weak::upgrade);
            if let Some(doors) = doors {
                doors.knock(door);
            }
        }
        Ok(())
    }
}

impl Watched {
    /// Waits at this door too, where this socket listens. It need not be open here any longer, but
    /// somebody has to have it.
    ///
    /// # Errors
    ///
    /// See epoll_ctl(2).
    pub(super) fn wait_at(&self, door: u8, listener: impl AsFd) -> io::Result<()> {
        let data = epoll::EventData::new_u64(self.number + u64::from(door));
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        Ok(epoll::add(self.porter.epoll.get_ref(), listener, data, flags)?)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.porter.all().doors.remove(&self.number);
    }
}

/// For as long as there is a daemon.
async fn wait(porter: Arc<Porter>) {
    porter.begun().await;
    loop {
        let Ok(mut ready) = porter.epoll.readable().await else { return };
        match ready.try_io(|epoll| porter.look(epoll.get_ref())) {
            Ok(Err(error)) if error.kind() != io::ErrorKind::Interrupted => {
                tracing::error!(%error, "nobody is told of who connects to instances");
                return;
            }
            Ok(_) | Err(_) => tokio::task::yield_now().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Notify;

    #[derive(Default)]
    struct Counted {
        knocks: AtomicUsize,
        knocked: Notify,
    }

    impl Doors for Counted {
        fn knock(self: Arc<Self>, door: u8) {
            self.knocks.fetch_add(usize::from(door), Ordering::SeqCst);
            self.knocked.notify_one();
        }
    }

    async fn knocked(door: &Counted) {
        let soon = std::time::Duration::from_secs(60);
        tokio::time::timeout(soon, door.knocked.notified()).await.expect("a knock");
    }

    fn served(porter: &Arc<Porter>, doors: &Arc<Counted>) -> Watched {
        let doors: Weak<Counted> = Arc::downgrade(doors);
        porter.serve(doors)
    }

    #[tokio::test]
    async fn who_connects_is_heard_through_a_socket_that_somebody_else_has() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let porter = Porter::start().unwrap();
        let (first, second) = (Arc::<Counted>::default(), Arc::<Counted>::default());
        let open = |name: &str| UnixListener::bind(path(name)).unwrap();
        // As the holder has it.
        let (held, other_held) = (open("a"), open("b"));
        for held in [&held, &other_held] {
            held.set_nonblocking(true).unwrap();
        }
        let copy = held.try_clone().unwrap();
        // Before anybody waits for it.
        let early = UnixStream::connect(path("a")).unwrap();
        let watched = served(&porter, &first);
        watched.wait_at(1, &copy).unwrap();
        drop(copy);
        // Its number is another one's now.
        let copy = other_held.try_clone().unwrap();
        let other = served(&porter, &second);
        other.wait_at(1, &copy).unwrap();
        drop(copy);
        tokio::task::yield_now().await;
        assert_eq!(first.knocks.load(Ordering::SeqCst), 0, "nothing has begun");
        porter.begin();
        knocked(&first).await;
        assert!(held.accept().is_ok());
        assert_eq!(second.knocks.load(Ordering::SeqCst), 0);
        for _ in 0..3 {
            let _late = UnixStream::connect(path("b")).unwrap();
            knocked(&second).await;
            assert!(other_held.accept().is_ok());
        }
        assert_eq!(first.knocks.load(Ordering::SeqCst), 1);
        // At a door that is gone nobody listens, and the others are heard.
        drop(watched);
        let _late = UnixStream::connect(path("a")).unwrap();
        drop(held);
        let _late = UnixStream::connect(path("b")).unwrap();
        knocked(&second).await;
        assert_eq!(first.knocks.load(Ordering::SeqCst), 1);
        drop(early);
    }
}
