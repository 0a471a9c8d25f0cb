//! Who has a log open, and what they are told of it.

use std::rc::Rc;

use tokio::time::Instant;

use super::super::client::Outgoing;
use super::{Inner, Log};
use crate::logs::file::Position;
use crate::logs::wire::State;

/// A client that has this log open.
pub(in super::super) struct View {
    pub(in super::super) client: Rc<Outgoing>,
    pub(super) attached: u64,
    pub(in super::super) looked: u64,
    /// What is to be answered when that look has been at all pipes.
    pub(in super::super) looking: Option<(u64, u64)>,
    pub(in super::super) watch: Option<Position>,
    /// Whether it waits to be told.
    due: bool,
    pub(super) told_failing: bool,
    pub(super) told_lost: u64,
    pub(super) told_at: Instant,
}

impl Log {
    /// From now on this client is told of it.
    pub(in super::super) fn join(&self, client: &Rc<Outgoing>) {
        let mut inner = self.inner.borrow_mut();
        if inner.view(client).is_none() {
            // Most have one, and a vector that grows by itself begins with four.
            inner.views.reserve_exact(1);
            inner.views.push(View {
                client: client.clone(),
                attached: 0,
                looked: 0,
                looking: None,
                watch: None,
                due: false,
                told_failing: false,
                told_lost: 0,
                told_at: Instant::now(),
            });
        }
    }

    /// From now on this client is not told any more.
    pub(in super::super) fn leave(&self, client: &Rc<Outgoing>) {
        self.inner.borrow_mut().views.retain(|view| !Rc::ptr_eq(&view.client, client));
    }

    /// How it stands, for a client that is now told so.
    pub(in super::super) fn tell(&self, client: &Rc<Outgoing>) -> Option<State> {
        self.inner.borrow_mut().tell(client)
    }

    /// Tells a client how it stands, when its turn comes.
    pub(in super::super) fn tell_soon(self: &Rc<Self>, client: &Rc<Outgoing>) {
        if let Some(view) = self.inner.borrow_mut().view(client) {
            view.tell_soon(self);
        }
    }

    pub(in super::super) fn watch(self: &Rc<Self>, client: &Rc<Outgoing>, beyond: Position) {
        if let Some(view) = self.inner.borrow_mut().view(client) {
            view.watch = Some(beyond);
        }
        self.check();
    }
}

impl Inner {
    pub(in super::super) fn view(&mut self, client: &Rc<Outgoing>) -> Option<&mut View> {
        self.views.iter_mut().find(|view| Rc::ptr_eq(&view.client, client))
    }

    pub(in super::super) fn tell(&mut self, client: &Rc<Outgoing>) -> Option<State> {
        let (end, stats) = (self.writer.end(), self.writer.stats().clone());
        let runs = self.runs.iter().map(|open| open.run).collect();
        let view = self.view(client)?;
        view.due = false;
        view.watch = view.watch.filter(|beyond| end <= *beyond);
        view.told_failing = stats.failing;
        view.told_lost = stats.bytes_lost;
        view.told_at = Instant::now();
        Some(State { end, runs, attached: view.attached, looked: view.looked, stats })
    }
}

impl View {
    pub(in super::super) fn tell_soon(&mut self, log: &Rc<Log>) {
        if !std::mem::replace(&mut self.due, true) {
            self.client.progress(log.clone());
        }
    }
}
