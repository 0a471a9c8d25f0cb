//! Calling, and answering calls.

use std::convert::Infallible;
use std::fmt::{self, Display};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::background::{Background, Unmet, after};
use super::error::{Error, flatten};
use crate::sdk::{self, CallError, Message, Reply, ReplyError};

/// Where calls of one type leave this runtime: [`sdk::Client`], for threads that wait. Any number of
/// threads may call at once.
pub struct Client<Req, Rep> {
    inner: sdk::Client<Req, Rep>,
    // Behind what runs on it.
    background: Arc<Background>,
}

impl<Req: Message, Rep: Reply> Client<Req, Rep> {
    pub(super) fn new(inner: sdk::Client<Req, Rep>, background: Arc<Background>) -> Self {
        Self { inner, background }
    }

    /// The same client, whose calls may take so long; without it that is
    /// [`sdk::Client::DEADLINE`].
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self::new(self.inner.with_deadline(deadline), Arc::clone(&self.background))
    }

    /// Calls, and waits for the reply; no longer than the deadline, see [`sdk::Client::call`].
    ///
    /// # Errors
    ///
    /// See [`CallError`]. [`Error::Closed`] when the runtime is closed: the call is cancelled then, and may
    /// have had an effect.
    pub fn call(&self, request: &Req) -> Result<Rep, Error<CallError>> {
        flatten(self.background.block_on(None, self.inner.call(request)))
    }
}

impl<Req, Rep> Clone for Client<Req, Rep> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), background: Arc::clone(&self.background) }
    }
}

impl<Req: Message, Rep> fmt::Debug for Client<Req, Rep> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// Where calls of one type arrive: [`sdk::Service`], for threads that wait. It is an iterator over all
/// calls, which ends when the runtime is [closed](super::Runtime::close).
pub struct Service<Req, Rep> {
    inner: sdk::Service<Req, Rep>,
    // Behind what runs on it.
    background: Arc<Background>,
}

impl<Req: Message, Rep: Reply> Service<Req, Rep> {
    pub(super) fn new(inner: sdk::Service<Req, Rep>, background: Arc<Background>) -> Self {
        Self { inner, background }
    }

    /// Waits for the next call, no longer than so.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`] if none came in time; [`Error::Closed`] once the runtime is closed, also if
    /// there are calls.
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Call<Req, Rep>, Error<Infallible>> {
        self.next_until(after(timeout))
    }

    fn next_until(&mut self, until: Option<Instant>) -> Result<Call<Req, Rep>, Error<Infallible>> {
        if self.background.is_closed() {
            return Err(Unmet::Closed.into());
        }
        let inner = self.background.block_on(until, self.inner.next())?;
        Ok(Call { inner, background: Arc::clone(&self.background) })
    }

    /// Answers calls until the runtime is closed, one after the other in this thread: `handler` makes a
    /// reply of each request. An error becomes a failure with its text; so does a panic, without one. A
    /// call for which nobody waits any more when its turn comes is not begun.
    ///
    /// To answer several at once, hand calls to other threads.
    pub fn serve<E: Display>(self, mut handler: impl FnMut(Req) -> Result<Rep, E>) {
        for call in self {
            call.answer(&mut handler);
        }
    }
}

/// Each call, until the runtime is closed. It can be answered in another thread.
impl<Req: Message, Rep: Reply> Iterator for Service<Req, Rep> {
    type Item = Call<Req, Rep>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_until(None).ok()
    }
}

impl<Req: Message, Rep> fmt::Debug for Service<Req, Rep> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// A call that waits for its answer: [`sdk::Call`], for threads that wait. When it is dropped without
/// one, it has failed.
pub struct Call<Req, Rep> {
    inner: sdk::Call<Req, Rep>,
    // Behind what runs on it.
    background: Arc<Background>,
}

impl<Req: Message, Rep: Reply> Call<Req, Rep> {
    /// What is asked.
    pub const fn request(&self) -> &Req {
        self.inner.request()
    }

    /// When its time is over: nobody waits for the answer after that.
    #[must_use]
    pub const fn deadline(&self) -> Instant {
        self.inner.deadline()
    }

    /// Whether nobody waits for the answer any more. Worth a look in the midst of long work.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.inner.is_cancelled()
    }

    /// Replies. Waits while 1 MiB waits for the kernel.
    ///
    /// # Errors
    ///
    /// See [`ReplyError`]. [`Error::Closed`] if it would have to wait and the runtime is closed: the call
    /// has failed then.
    pub fn reply(self, reply: &Rep) -> Result<(), Error<ReplyError>> {
        flatten(self.background.block_on(None, self.inner.reply(reply)))
    }

    /// Says that there is no reply, and why. Of a longer text the first 4,096 bytes are told.
    pub fn fail(self, why: impl Display) {
        self.inner.fail(why);
    }

    fn answer<E: Display>(self, handler: impl FnOnce(Req) -> Result<Rep, E>) {
        let Self { inner, background } = self;
        if inner.is_cancelled() {
            return inner.fail("cancelled");
        }
        let (request, answer) = inner.split();
        // What the handler has shared with others is as it left it, as with a thread that dies.
        match catch_unwind(AssertUnwindSafe(|| handler(request))) {
            // If the connection is gone, so is the caller; and who closes waits for nothing.
            Ok(Ok(reply)) => drop(background.block_on(None, answer.reply(&reply))),
            Ok(Err(error)) => answer.fail(&error.to_string()),
            // It is answered by being dropped.
            Err(_) => drop(answer),
        }
    }
}

impl<Req: Message, Rep> fmt::Debug for Call<Req, Rep> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}
