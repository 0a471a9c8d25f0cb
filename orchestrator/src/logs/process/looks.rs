//! Telling who asks how a log stands, after all that is in its pipes by then has been read.

use std::rc::Rc;

use super::client::Outgoing;
use super::log::Log;

impl Log {
    /// Has all that is in the pipes now read, and the client told then.
    pub(super) fn look(self: &Rc<Self>, client: &Rc<Outgoing>, number: u64) {
        let epoch = self.looks.get() + 1;
        self.looks.set(epoch);
        let mut inner = self.inner.borrow_mut();
        self.wake(&inner.runs);
        if let Some(view) = inner.view(client) {
            view.looking = Some((number, epoch));
        }
        drop(inner);
        self.answer_looks();
    }

    /// A pipe was read as far as it went when this look came.
    pub(super) fn looked(self: &Rc<Self>, run: u64, index: usize, epoch: u64) {
        let mut inner = self.inner.borrow_mut();
        if let Some(open) = inner.runs.iter_mut().find(|open| open.run == run) {
            open.looked[index] = epoch;
        }
        drop(inner);
        self.answer_looks();
    }

    /// Answers the looks that have been at all pipes, or that nobody can wait for.
    pub(super) fn answer_looks(self: &Rc<Self>) {
        let is_blocked = self.is_blocked();
        let inner = &mut *self.inner.borrow_mut();
        let each = inner.runs.iter().flat_map(|run| run.open.iter().zip(run.looked));
        let reached = each.filter(|(open, _)| open.is_some()).map(|(_, looked)| looked).min();
        for view in &mut inner.views {
            let over = |epoch| is_blocked || reached.is_none_or(|reached| reached >= epoch);
            if let Some((number, _)) = view.looking.take_if(|(_, epoch)| over(*epoch)) {
                view.looked = view.looked.max(number);
                view.tell_soon(self);
            }
        }
    }
}
