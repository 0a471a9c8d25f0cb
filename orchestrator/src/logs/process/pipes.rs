//! Waits for all pipes at once: one epoll instance watches them, and one into which nothing is
//! printed has no task.
//!
//! Each pipe is watched edge-triggered (epoll(7)): whoever works on it goes on until it is empty,
//! and lets it rest then. It has a task again when something comes, or its writers have gone, or
//! something else is to be done with it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::event::{Timespec, epoll};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::pipe::Pipe;
use crate::process::readable;

/// Pipes that are told of at once.
const AT_ONCE: usize = 64;

/// Tells a pipe from every other that this process has had.
pub(super) type PipeNumber = u64;

/// See the module.
pub(super) struct Pipes {
    epoll: AsyncFd<OwnedFd>,
    all: RefCell<HashMap<PipeNumber, Slot>>,
    last: Cell<PipeNumber>,
}

enum Slot {
    /// It waits to be woken.
    Resting(Box<Pipe>),
    /// It has a task, which hears by this that there is something new.
    AtWork(Rc<Notify>),
}

/// A pipe that is watched until this is dropped.
pub(super) struct WatchedPipe {
    pipe: OwnedFd,
    number: PipeNumber,
    pipes: Rc<Pipes>,
}

impl Pipes {
    /// Must be called in a tokio runtime.
    ///
    /// # Errors
    ///
    /// When there is no file left.
    pub(super) fn new() -> io::Result<Rc<Self>> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let epoll = readable(epoll)?;
        Ok(Rc::new(Self { epoll, all: RefCell::default(), last: Cell::new(0) }))
    }

    /// Watches a pipe. Nobody is woken for it before it [rests](Self::rest).
    ///
    /// # Errors
    ///
    /// See epoll_ctl(2).
    pub(super) fn watch(self: &Rc<Self>, pipe: OwnedFd) -> io::Result<WatchedPipe> {
        let number = self.last.get() + 1;
        self.last.set(number);
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(self.epoll.get_ref(), &pipe, epoll::EventData::new_u64(number), flags)?;
        Ok(WatchedPipe { pipe, number, pipes: self.clone() })
    }

    /// There is nothing to be done with it until it is [woken](Self::wake).
    pub(super) fn rest(&self, pipe: Box<Pipe>) {
        self.all.borrow_mut().insert(pipe.number(), Slot::Resting(pipe));
    }

    /// Something is new about it. Must be called in a local set.
    pub(super) fn wake(self: &Rc<Self>, number: PipeNumber) {
        let mut all = self.all.borrow_mut();
        let Some(slot) = all.get_mut(&number) else { return };
        if let Slot::AtWork(news) = slot {
            news.notify_one();
            return;
        }
        let news = Rc::new(Notify::new());
        if let Slot::Resting(pipe) = std::mem::replace(slot, Slot::AtWork(news.clone())) {
            let pipes = self.clone();
            tokio::task::spawn_local(async move { pipes.work(pipe, &news).await });
        }
    }

    async fn work(&self, mut pipe: Box<Pipe>, news: &Notify) {
        if pipe.go_on(news).await {
            // Nothing comes in between: whatever was new when it was looked at last has been seen.
            self.rest(pipe);
        }
    }

    /// Wakes those in which something has happened, for as long as there is somebody to do it.
    pub(super) async fn wake_all(self: Rc<Self>) {
        loop {
            // Fails only at the end of the runtime.
            let Ok(mut ready) = self.epoll.readable().await else { return };
            let told = self.wake_some();
            if told.is_ok_and(|told| told < AT_ONCE) {
                ready.clear_ready();
            }
            tokio::task::yield_now().await;
        }
    }

    /// How many were told of.
    fn wake_some(self: &Rc<Self>) -> io::Result<usize> {
        let mut events = [MaybeUninit::uninit(); AT_ONCE];
        let now = Timespec::default();
        let (events, _) = epoll::wait(self.epoll.get_ref(), &mut events, Some(&now))?;
        for event in &*events {
            self.wake(event.data.u64());
        }
        Ok(events.len())
    }
}

impl WatchedPipe {
    pub(super) fn number(&self) -> PipeNumber {
        self.number
    }
}

impl AsFd for WatchedPipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

impl Drop for WatchedPipe {
    fn drop(&mut self) {
        // Others have it open too, so it does not end with the file that is closed here.
        let _ = epoll::delete(self.pipes.epoll.get_ref(), &self.pipe);
        let gone = self.pipes.all.borrow_mut().remove(&self.number);
        drop(gone);
    }
}
