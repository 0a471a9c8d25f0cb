//! A bounded queue with one end that takes from it, for whoever waits most of the time.
//!
//! As tokio's `mpsc`, but with nothing in it it takes no room: there is one for each instance, and a
//! piece of tokio's has room for 32 messages.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Who puts something in. When all of them are gone, and all was taken out, that is the end.
#[derive(Debug)]
pub(crate) struct Sender<T>(Arc<Shared<T>>);

/// Who takes it out. When it is gone, so is what is in it.
#[derive(Debug)]
pub(crate) struct Inbox<T>(Arc<Shared<T>>);

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    /// Something came, or the last sender has gone.
    came: Notify,
    /// There is room for one more, or there will be none.
    room: Notify,
}

#[derive(Debug)]
struct State<T> {
    messages: VecDeque<T>,
    bound: usize,
    senders: usize,
    is_closed: bool,
}

/// Why something was not put in. It is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NotSent {
    /// There is no room.
    Full,
    /// Nobody will ever take it out.
    Closed,
}

/// A queue for so many messages.
pub(crate) fn inbox<T>(bound: usize) -> (Sender<T>, Inbox<T>) {
    let state = State { messages: VecDeque::new(), bound, senders: 1, is_closed: false };
    let (came, room) = (Notify::new(), Notify::new());
    let shared = Arc::new(Shared { state: Mutex::new(state), came, room });
    (Sender(shared.clone()), Inbox(shared))
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.state().is_closed = true;
        self.room.notify_waiters();
    }
}

impl<T> Sender<T> {
    /// Puts it in; waits while there is no room. In order for each caller.
    ///
    /// # Errors
    ///
    /// [`NotSent::Closed`]
    pub(crate) async fn send(&self, message: T) -> Result<(), NotSent> {
        let mut message = Some(message);
        loop {
            // Before it is looked: what is taken out after that wakes it.
            let room = self.0.room.notified();
            match self.offer(&mut message) {
                Err(NotSent::Full) => room.await,
                sent => return sent,
            }
        }
    }

    /// Puts it in, if there is room.
    ///
    /// # Errors
    ///
    /// Why not.
    pub(crate) fn try_send(&self, message: T) -> Result<(), NotSent> {
        self.offer(&mut Some(message))
    }

    fn offer(&self, message: &mut Option<T>) -> Result<(), NotSent> {
        let mut state = self.0.state();
        if state.is_closed {
            return Err(NotSent::Closed);
        }
        if state.messages.len() >= state.bound {
            return Err(NotSent::Full);
        }
        state.messages.extend(message.take());
        drop(state);
        self.0.came.notify_one();
        Ok(())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.state().senders += 1;
        Self(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.senders -= 1;
        let is_last = state.senders == 0;
        drop(state);
        if is_last {
            self.0.came.notify_one();
        }
    }
}

impl<T> Inbox<T> {
    /// The next; none at the end. Nothing is lost if this is dropped before.
    pub(crate) async fn recv(&mut self) -> Option<T> {
        loop {
            let came = self.0.came.notified();
            {
                let mut state = self.0.state();
                if let Some(message) = state.messages.pop_front() {
                    if state.messages.is_empty() {
                        // Its room is had only while it is needed.
                        state.messages = VecDeque::new();
                    }
                    drop(state);
                    self.0.room.notify_one();
                    return Some(message);
                }
                if state.is_closed || state.senders == 0 {
                    return None;
                }
            }
            came.await;
        }
    }

    /// Nothing more can be put in.
    pub(crate) fn close(&mut self) {
        self.0.close();
    }
}

impl<T> Drop for Inbox<T> {
    fn drop(&mut self) {
        self.0.close();
        // Who waits for an answer hears that there is none.
        let left = std::mem::take(&mut self.0.state().messages);
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::sync::oneshot;

    async fn soon<T>(it: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(60), it).await.expect("soon")
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn all_arrive_in_order_however_little_room_there_is() {
        for bound in [1, 2, 32] {
            let (sender, mut inbox) = inbox(bound);
            let senders: Vec<_> = (0..4_u32)
                .map(|from| {
                    let sender = sender.clone();
                    tokio::spawn(async move {
                        for number in 0..2_000_u32 {
                            sender.send((from, number)).await.unwrap();
                        }
                    })
                })
                .collect();
            drop(sender);
            let mut next = [0; 4];
            while let Some((from, number)) = soon(inbox.recv()).await {
                let expected = &mut next[from as usize];
                assert_eq!(number, *expected);
                *expected += 1;
            }
            assert_eq!(next, [2_000; 4]);
            for sender in senders {
                soon(sender).await.unwrap();
            }
        }
    }

    #[tokio::test]
    async fn it_is_bounded_and_ends_for_both() {
        let (sender, mut inbox) = inbox(2);
        assert_eq!((sender.try_send(1), sender.try_send(2)), (Ok(()), Ok(())));
        assert_eq!(sender.try_send(3), Err(NotSent::Full));
        assert_eq!(soon(inbox.recv()).await, Some(1));
        let other = sender.clone();
        assert_eq!(other.try_send(3), Ok(()));
        // One who waits for room, and gives up: the next one gets it.
        let mut waiting = Box::pin(sender.send(4));
        let patient = other.clone();
        let second = tokio::spawn(async move { patient.send(5).await });
        tokio::select! {
            biased;
            _ = &mut waiting => panic!("there is no room"),
            () = tokio::task::yield_now() => {}
        }
        assert_eq!(soon(inbox.recv()).await, Some(2));
        drop(waiting);
        assert_eq!(soon(second).await.unwrap(), Ok(()));
        assert_eq!((soon(inbox.recv()).await, soon(inbox.recv()).await), (Some(3), Some(5)));
        inbox.close();
        assert_eq!(soon(other.send(6)).await, Err(NotSent::Closed));
        assert_eq!(soon(inbox.recv()).await, None);
    }

    #[tokio::test]
    async fn what_is_left_in_it_goes_with_it() {
        let (sender, inbox) = inbox(2);
        let (answer, answered) = oneshot::channel::<()>();
        sender.try_send(answer).unwrap();
        let (answer, other) = oneshot::channel();
        sender.try_send(answer).unwrap();
        let (answer, third) = oneshot::channel();
        let waiting = {
            let sender = sender.clone();
            tokio::spawn(async move { sender.send(answer).await })
        };
        tokio::task::yield_now().await;
        drop(inbox);
        assert_eq!(soon(waiting).await.unwrap(), Err(NotSent::Closed));
        for answered in [answered, other, third] {
            assert!(soon(answered).await.is_err());
        }
    }
}
