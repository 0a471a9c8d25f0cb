//! The thread that keeps the connection, and how other threads wait for what it does.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// A thread with a tokio runtime of its own, on which the connection's tasks run. It ends when this is
/// dropped, which waits for that.
pub(super) struct Background {
    handle: Handle,
    /// The thread ends when this is dropped.
    alive: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    is_closed: AtomicBool,
    /// Threads that wait.
    parkers: Mutex<Vec<Arc<Parker>>>,
}

/// Why a wait ended without what it was for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unmet {
    TimedOut,
    Closed,
}

/// The moment that is so much later; none if it never comes.
pub(super) fn after(timeout: Duration) -> Option<Instant> {
    Instant::now().checked_add(timeout)
}

impl Background {
    pub(super) fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
        let handle = runtime.handle().clone();
        let (alive, over) = oneshot::channel::<()>();
        let thread =
            std::thread::Builder::new().name("orchestrator".to_owned()).spawn(move || {
                // Nothing is ever sent: it waits for the other end to go.
                let _ = runtime.block_on(over);
            })?;
        Ok(Self {
            handle,
            alive: Some(alive),
            thread: Some(thread),
            is_closed: AtomicBool::new(false),
            parkers: Mutex::default(),
        })
    }

    /// From now on nobody waits any more.
    pub(super) fn close(&self) {
        // Before it looks who waits: see `wait`.
        self.is_closed.store(true, Ordering::SeqCst);
        for parker in &*self.parkers() {
            parker.unpark();
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst)
    }

    /// Waits for a future, until then at most. One that is done at once is done, whatever the time
    /// and also when nobody is to wait any more.
    pub(super) fn block_on<F: Future>(
        &self,
        until: Option<Instant>,
        future: F,
    ) -> Result<F::Output, Unmet> {
        let mut future = pin!(future);
        self.wait(until, |cx| future.as_mut().poll(cx))
    }

    /// The same for what is not a future.
    pub(super) fn wait<T>(
        &self,
        until: Option<Instant>,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Result<T, Unmet> {
        // For its clock.
        let _entered = self.handle.enter();
        if let Poll::Ready(done) = poll(&mut Context::from_waker(Waker::noop())) {
            return Ok(done);
        }
        let parker = Arc::new(Parker::default());
        // Listed before it looks whether it should: so whoever closes sees it, or it sees that.
        let _listed = self.list(&parker);
        let waker = Waker::from(Arc::clone(&parker));
        let mut context = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(done) = poll(&mut context) {
                return Ok(done);
            }
            if self.is_closed() {
                return Err(Unmet::Closed);
            }
            if !parker.park(until) {
                return Err(Unmet::TimedOut);
            }
        }
    }

    fn parkers(&self) -> MutexGuard<'_, Vec<Arc<Parker>>> {
        self.parkers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn list<'a>(&'a self, parker: &'a Arc<Parker>) -> Listed<'a> {
        self.parkers().push(Arc::clone(parker));
        Listed { background: self, parker }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.alive.take());
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            // It panics no more than tokio does.
            let _ = thread.join();
        }
    }
}

/// A thread that is listed as one that waits.
struct Listed<'a> {
    background: &'a Background,
    parker: &'a Arc<Parker>,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.background.parkers().retain(|other| !Arc::ptr_eq(other, self.parker));
    }
}

/// Where one thread sleeps, once. Not its own `park`, which the program may use for something else.
#[derive(Default)]
struct Parker {
    is_woken: Mutex<bool>,
    woken: Condvar,
}

impl Parker {
    /// Sleeps until it is woken, or has been since the last time. False if the time is over.
    fn park(&self, until: Option<Instant>) -> bool {
        let mut is_woken = self.is_woken.lock().unwrap_or_else(PoisonError::into_inner);
        while !*is_woken {
            is_woken = match until {
                None => self.woken.wait(is_woken).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return false;
                    }
                    let waited = self.woken.wait_timeout(is_woken, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        *is_woken = false;
        true
    }

    fn unpark(&self) {
        *self.is_woken.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.woken.notify_one();
    }
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        self.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    #[test]
    fn what_is_done_at_once_needs_no_time() {
        let background = Background::start().unwrap();
        let past = Some(Instant::now());
        assert_eq!(background.block_on(past, ready(1)), Ok(1));
        assert_eq!(background.block_on(past, pending::<u8>()), Err(Unmet::TimedOut));
        background.close();
        assert_eq!(background.block_on(None, ready(1)), Ok(1));
        assert_eq!(background.block_on(None, pending::<u8>()), Err(Unmet::Closed));
    }

    #[test]
    fn a_wait_ends_when_it_is_woken_by_another_thread() {
        let background = Background::start().unwrap();
        for _ in 0..1000 {
            let (sender, receiver) = oneshot::channel();
            std::thread::scope(|scope| {
                scope.spawn(move || sender.send(7).unwrap());
                assert_eq!(background.block_on(None, receiver), Ok(Ok(7)));
            });
        }
        // The runtime's own clock runs, in its own thread.
        let slept = tokio::time::Duration::from_millis(1);
        let sleeping = async { tokio::time::sleep(slept).await };
        assert_eq!(background.block_on(None, sleeping), Ok(()));
        assert!(background.parkers().is_empty());
    }

    #[test]
    fn closing_ends_all_waits_and_a_wait_that_begins_meanwhile() {
        for _ in 0..200 {
            let background = Background::start().unwrap();
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        let unmet = background.block_on(None, pending::<()>());
                        assert_eq!(unmet, Err(Unmet::Closed));
                    });
                }
                background.close();
            });
        }
    }

    #[test]
    fn who_waits_sleeps_until_it_is_woken() {
        let background = Background::start().unwrap();
        let (waker, is_done) = (Mutex::new(None::<Waker>), AtomicBool::new(false));
        let mut polls = 0;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let waiting = loop {
                    match waker.lock().unwrap().take() {
                        Some(waker) => break waker,
                        None => std::thread::yield_now(),
                    }
                };
                is_done.store(true, Ordering::SeqCst);
                waiting.wake();
            });
            let waited = background.wait(None, |cx| {
                polls += 1;
                // The first look is without a waker.
                if polls > 1 {
                    *waker.lock().unwrap() = Some(cx.waker().clone());
                }
                if is_done.load(Ordering::SeqCst) { Poll::Ready(()) } else { Poll::Pending }
            });
            assert_eq!(waited, Ok(()));
        });
        assert!((2..=3).contains(&polls), "{polls}");
    }

    #[test]
    fn dropping_it_ends_its_thread_and_all_that_runs_there() {
        let (alive, background) = (Arc::new(()), Background::start().unwrap());
        let task = Arc::clone(&alive);
        background.handle.spawn(async move {
            pending::<()>().await;
            drop(task);
        });
        assert_eq!(Arc::strong_count(&alive), 2);
        drop(background);
        assert_eq!(Arc::strong_count(&alive), 1);
    }

    #[test]
    fn a_timeout_beyond_all_time_is_none() {
        assert_eq!(after(Duration::MAX), None);
        assert!(after(Duration::ZERO).is_some());
    }
}
