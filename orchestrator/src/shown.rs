//! A value that one shows and others look at and wait for.
//!
//! As tokio's `watch`, but of a third of its size: there is more than one of it for each instance,
//! and most of the time nobody waits. All that wait are woken at once, so it is not for values that
//! many wait for and that change often.

use std::ops::Deref;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::Notify;

/// Who shows it.
#[derive(Debug)]
pub(crate) struct Shower<T>(Arc<Shared<T>>);

/// Who looks at it.
#[derive(Debug)]
pub(crate) struct Looker<T> {
    shared: Arc<Shared<T>>,
    /// The last change that it has seen.
    seen: u64,
}

#[derive(Debug)]
struct Shared<T> {
    state: RwLock<State<T>>,
    changed: Notify,
}

#[derive(Debug)]
struct State<T> {
    value: T,
    changes: u64,
    is_over: bool,
}

/// Nobody shows it any more, so it will not change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Over;

/// The value as it is; while this is there it does not change.
pub(crate) struct Look<'a, T>(RwLockReadGuard<'a, State<T>>);

impl<T> Deref for Look<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T> Shared<T> {
    fn read(&self) -> RwLockReadGuard<'_, State<T>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State<T>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a change after this one.
    async fn change(&self, seen: &mut u64) -> Result<(), Over> {
        loop {
            // Before it is looked: what changes after that wakes it.
            let changed = self.changed.notified();
            {
                let state = self.read();
                if state.changes != *seen {
                    *seen = state.changes;
                    return Ok(());
                }
                if state.is_over {
                    return Err(Over);
                }
            }
            changed.await;
        }
    }
}

impl<T> Shower<T> {
    pub(crate) fn new(value: T) -> Self {
        let state = State { value, changes: 0, is_over: false };
        Self(Arc::new(Shared { state: RwLock::new(state), changed: Notify::new() }))
    }

    pub(crate) fn borrow(&self) -> Look<'_, T> {
        Look(self.0.read())
    }

    /// Changes it.
    pub(crate) fn send_modify(&self, change: impl FnOnce(&mut T)) {
        self.send_if_modified(|value| {
            change(value);
            true
        });
    }

    /// Changes it; nobody is told if `change` says that it is no news. The answer is that.
    pub(crate) fn send_if_modified(&self, change: impl FnOnce(&mut T) -> bool) -> bool {
        let mut state = self.0.write();
        let is_news = change(&mut state.value);
        if is_news {
            state.changes += 1;
            drop(state);
            self.0.changed.notify_waiters();
        }
        is_news
    }

    /// Somebody who has seen it as it is now.
    pub(crate) fn subscribe(&self) -> Looker<T> {
        let seen = self.0.read().changes;
        Looker { shared: self.0.clone(), seen }
    }
}

impl<T> Drop for Shower<T> {
    fn drop(&mut self) {
        self.0.write().is_over = true;
        self.0.changed.notify_waiters();
    }
}

impl<T> Clone for Looker<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), seen: self.seen }
    }
}

impl<T> Looker<T> {
    pub(crate) fn borrow(&self) -> Look<'_, T> {
        Look(self.shared.read())
    }

    /// As it is, which has been seen then.
    pub(crate) fn borrow_and_update(&mut self) -> Look<'_, T> {
        let state = self.shared.read();
        self.seen = state.changes;
        Look(state)
    }

    /// Waits for a change that it has not seen.
    ///
    /// # Errors
    ///
    /// When there will be none.
    pub(crate) async fn changed(&mut self) -> Result<(), Over> {
        self.shared.change(&mut self.seen).await
    }

    /// Waits until it is as wanted. That it is has been seen then.
    ///
    /// # Errors
    ///
    /// When it never will be.
    pub(crate) async fn wait_for(
        &mut self,
        mut is_wanted: impl FnMut(&T) -> bool,
    ) -> Result<Look<'_, T>, Over> {
        loop {
            {
                let state = self.shared.read();
                self.seen = state.changes;
                if is_wanted(&state.value) {
                    return Ok(Look(state));
                }
            }
            self.shared.change(&mut self.seen).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    async fn soon<T>(it: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(60), it).await.expect("soon")
    }

    #[tokio::test]
    async fn what_changes_is_seen_once_by_everybody() {
        let shower = Shower::new(1);
        let mut lookers = [shower.subscribe(), shower.subscribe()];
        shower.send_modify(|value| *value = 2);
        assert!(!shower.send_if_modified(|value| {
            *value += 1;
            false
        }));
        for looker in &mut lookers {
            soon(looker.changed()).await.unwrap();
            assert_eq!(*looker.borrow(), 3);
        }
        let [first, second] = &mut lookers;
        let (told, _, _) = tokio::join!(
            async { soon(first.wait_for(|value| *value >= 5)).await.map(|value| *value) },
            async { soon(second.changed()).await.unwrap() },
            async {
                tokio::task::yield_now().await;
                shower.send_modify(|value| *value += 1);
                tokio::task::yield_now().await;
                shower.send_modify(|value| *value += 1);
            },
        );
        assert_eq!(told, Ok(5));
        assert_eq!(*first.borrow_and_update(), 5);
        drop(shower);
        assert_eq!(soon(first.changed()).await, Err(Over));
        // What it was last can still be waited for.
        assert!(soon(second.wait_for(|value| *value == 5)).await.is_ok());
        assert!(soon(second.wait_for(|value| *value == 6)).await.is_err());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_change_is_missed() {
        let shower = Shower::new(0_u32);
        let lookers: Vec<_> = (0..4)
            .map(|_| {
                let mut looker = shower.subscribe();
                tokio::spawn(async move {
                    let mut last = 0;
                    while last < 10_000 {
                        looker.changed().await.unwrap();
                        let now = *looker.borrow_and_update();
                        assert!(now > last);
                        last = now;
                    }
                })
            })
            .collect();
        for _ in 0..10_000 {
            shower.send_modify(|value| *value += 1);
            tokio::task::yield_now().await;
        }
        for looker in lookers {
            soon(looker).await.unwrap();
        }
    }
}
