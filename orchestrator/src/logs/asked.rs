//! Who waits for something of the capture process as a whole.

use tokio::sync::oneshot;

use super::wire::{OpenLog, Order};

/// Whether the capture process is to be replaced.
#[derive(Default)]
pub(super) struct Renewal {
    /// Who waits for that.
    waiting: Vec<oneshot::Sender<()>>,
    /// Whether the one that is there was told to end.
    pub(super) told: bool,
    /// Whether it has ended.
    ended: bool,
}

impl Renewal {
    pub(super) fn ask(&mut self, answer: oneshot::Sender<()>) {
        self.waiting.push(answer);
    }

    pub(super) fn is_wanted(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// A connection has ended. Whether it was meant to.
    pub(super) fn ended(&mut self) -> bool {
        self.told && !std::mem::replace(&mut self.ended, true)
    }

    /// There is another capture process.
    pub(super) fn connected(&mut self) {
        self.ended = false;
        if std::mem::take(&mut self.told) {
            for answer in self.waiting.drain(..) {
                // Who asked may have gone.
                let _ = answer.send(());
            }
        }
    }
}

/// Who waits for an inventory, and what of it has come.
#[derive(Default)]
pub(super) struct Inventories {
    waiting: Vec<oneshot::Sender<Vec<OpenLog>>>,
    found: Vec<OpenLog>,
    /// The next order for it, until it is sent.
    pub(super) order: Option<Order>,
    /// Whether one is under way.
    asked: bool,
}

impl Inventories {
    pub(super) fn ask(&mut self, answer: oneshot::Sender<Vec<OpenLog>>) {
        self.waiting.push(answer);
        if !std::mem::replace(&mut self.asked, true) {
            self.order = Some(Order::Inventory { after: None });
        }
    }

    /// A part of it has come.
    pub(super) fn found(&mut self, logs: Vec<OpenLog>, more: bool) {
        self.found.extend(logs);
        let last = self.found.last().map(|log| log.instance);
        if more && last.is_some() {
            self.order = Some(Order::Inventory { after: last });
            return;
        }
        let Self { waiting, found, .. } = std::mem::take(self);
        for answer in waiting {
            // Who asked may have gone.
            let _ = answer.send(found.clone());
        }
    }
}
