//! Who has asked the holder for something that it has open.

use std::collections::{HashMap, VecDeque};
use std::io;

use tokio::sync::oneshot;

use crate::holder::frame::Name;

/// None if it is not there (any more).
pub(super) type Fetched<T> = io::Result<Option<T>>;

/// Who waits for an answer, in the order in which they have asked: the holder answers in that.
#[derive(Debug)]
pub(super) struct Asked<T>(HashMap<Name, VecDeque<oneshot::Sender<Fetched<T>>>>);

impl<T> Default for Asked<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> Asked<T> {
    /// Somebody is about to ask.
    pub(super) fn add(&mut self, name: Name) -> oneshot::Receiver<Fetched<T>> {
        let (answer, answered) = oneshot::channel();
        self.0.entry(name).or_default().push_back(answer);
        answered
    }

    /// The holder has answered: whether it is there, and it, unless there was no room for it here.
    pub(super) fn came(&mut self, name: Name, is_there: bool, it: Option<T>) {
        let Some(askers) = self.0.get_mut(&name) else { return };
        let asker = askers.pop_front();
        if askers.is_empty() {
            self.0.remove(&name);
        }
        let answer = match (is_there, it) {
            (false, _) => Ok(None),
            (true, Some(it)) => Ok(Some(it)),
            (true, None) => Err(rustix::io::Errno::MFILE.into()),
        };
        // Who asked may have gone.
        let _ = asker.map(|asker| asker.send(answer));
    }

    /// There will be no answer.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// Waits for the answer.
pub(super) async fn answer<T>(answered: oneshot::Receiver<Fetched<T>>) -> Fetched<T> {
    answered.await.unwrap_or_else(|_| Err(io::Error::other("the holder has ended")))
}
