//! Answering calls.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::fmt::{self, Display};
use std::marker::PhantomData;
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::{Reply, ReplyError};
use crate::runtime::{Answer, CallFailure, CallFrame, Frame, MAX_CALL, MAX_CALLS, MAX_FAILURE};
use crate::sdk::blob::sharing;
use crate::sdk::{Handle, Message};

/// Where calls of one type arrive.
///
/// The daemon gives it no more at once than it takes; the others wait, or go to another service.
/// When it is dropped, calls are answered with a failure.
pub struct Service<Req, Rep> {
    handle: Arc<Handle>,
    channel: u16,
    queue: Arc<Queue>,
    types: PhantomData<fn(Req) -> Rep>,
}

impl<Req: Message, Rep: Reply> Service<Req, Rep> {
    /// How many calls a service may be given at once, unless it says otherwise: 64.
    pub const AT_ONCE: NonZeroU32 = NonZeroU32::new(64).unwrap();

    pub(super) fn new(handle: Arc<Handle>, channel: u16, queue: Arc<Queue>) -> Self {
        Self { handle, channel, queue, types: PhantomData }
    }

    /// Waits for the next call. While the connection is broken this just waits. A call whose payload
    /// is no request is answered with [`CallFailure::BadRequest`] and passed over. May be used in
    /// `select!`: a future that is dropped has taken nothing.
    pub async fn next(&mut self) -> Call<Req, Rep> {
        tokio::task::coop::consume_budget().await;
        loop {
            let Some((hand, deadline, payload)) = self.queue.take() else {
                self.queue.arrived.notified().await;
                continue;
            };
            let in_hand = InHand {
                handle: Arc::clone(&self.handle),
                queue: Arc::clone(&self.queue),
                channel: self.channel,
                hand,
                is_answered: false,
            };
            match sharing(&payload, |payload| {
                postcard::take_from_bytes(payload).map(|(request, rest)| (request, rest.len()))
            }) {
                Ok((request, 0)) => {
                    return Call { request, deadline, in_hand, reply: PhantomData };
                }
                Ok((_, rest)) => in_hand.refuse(format!("{rest} bytes too many")),
                Err(error) => in_hand.refuse(error.to_string()),
            }
        }
    }

    /// Answers calls without end: `handler` makes a reply of each request, of so many at once. An
    /// error becomes a failure with its text; so does a panic, without one. What is not wanted any
    /// more, because its time is over or its caller is gone, is dropped where it waits.
    pub async fn serve<F, Fut, E>(mut self, at_once: NonZeroU32, handler: F) -> Infallible
    where
        F: Fn(Req) -> Fut,
        Fut: Future<Output = Result<Rep, E>> + Send + 'static,
        E: Display + Send + 'static,
    {
        let mut tasks = JoinSet::new();
        loop {
            while tasks.len() >= at_once.get() as usize {
                // Whatever came of it, its caller knows.
                let _ = tasks.join_next().await;
            }
            let call = tokio::select! {
                call = self.next() => call,
                Some(_) = tasks.join_next() => continue,
            };
            let (request, answer) = call.split();
            let handled = handler(request);
            tasks.spawn(async move {
                let mut cancelled = answer.hand.cancelled.subscribe();
                let result = tokio::select! {
                    result = handled => result,
                    _ = async { cancelled.wait_for(|cancelled| *cancelled).await.map(|_| ()) } => {
                        return answer.fail("cancelled");
                    }
                };
                match result {
                    // If the connection is gone, so is the caller.
                    Ok(reply) => drop(answer.reply(&reply).await),
                    Err(error) => answer.fail(&error.to_string()),
                }
            });
        }
    }
}

impl<Req, Rep> Drop for Service<Req, Rep> {
    fn drop(&mut self) {
        let shared = &self.handle.shared;
        for refused in self.queue.close() {
            shared.answer_call(self.channel, &refused);
        }
    }
}

impl<Req: Message, Rep> fmt::Debug for Service<Req, Rep> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Service({:?})", Req::NAME)
    }
}

/// A call that waits for its answer. When it is dropped without one, it has failed.
pub struct Call<Req, Rep> {
    request: Req,
    deadline: Instant,
    in_hand: InHand,
    reply: PhantomData<fn(&Rep)>,
}

impl<Req, Rep: Reply> Call<Req, Rep> {
    /// What is asked.
    pub const fn request(&self) -> &Req {
        &self.request
    }

    /// When its time is over: nobody waits for the answer after that.
    #[must_use]
    pub const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether nobody waits for the answer any more.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        *self.in_hand.hand.cancelled.borrow()
    }

    /// Waits until that is so.
    pub async fn cancelled(&self) {
        let mut cancelled = self.in_hand.hand.cancelled.subscribe();
        // Fails only without a sender, and that is part of `self`.
        let _ = cancelled.wait_for(|cancelled| *cancelled).await;
    }

    /// Replies. Waits while 1 MiB waits for the kernel. A reply for which nobody waits any more is
    /// dropped by the daemon.
    ///
    /// # Errors
    ///
    /// See [`ReplyError`].
    pub fn reply(
        self,
        reply: &Rep,
    ) -> impl Future<Output = Result<(), ReplyError>> + Send + use<Req, Rep> {
        self.in_hand.reply(reply)
    }

    /// Says that there is no reply, and why. Of a longer text the first 4,096 bytes are told.
    pub fn fail(self, why: impl Display) {
        self.in_hand.fail(&why.to_string());
    }

    /// The request, and the place for its answer.
    pub(in crate::sdk) fn split(self) -> (Req, InHand) {
        (self.request, self.in_hand)
    }
}

impl<Req: Message, Rep> fmt::Debug for Call<Req, Rep> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Call({:?}, {})", Req::NAME, self.in_hand.hand.id)
    }
}

/// The place of a call, to be given back with an answer.
pub(in crate::sdk) struct InHand {
    handle: Arc<Handle>,
    queue: Arc<Queue>,
    channel: u16,
    hand: Arc<Hand>,
    is_answered: bool,
}

impl InHand {
    /// What is replied is encoded here, and then waits for its turn.
    pub(in crate::sdk) fn reply<Rep: Reply>(
        mut self,
        reply: &Rep,
    ) -> impl Future<Output = Result<(), ReplyError>> + Send + use<Rep> {
        let encoded = match postcard::to_stdvec(reply) {
            Ok(payload) if payload.len() <= MAX_CALL => Ok(payload),
            Ok(_) => {
                self.answer(Answer::Failure(failed("its reply is too long")));
                Err(ReplyError::TooLong)
            }
            Err(error) => {
                self.answer(Answer::Failure(failed("its reply can't be encoded")));
                Err(ReplyError::Encode(error))
            }
        };
        async move { self.reply_bytes(encoded?).await }
    }

    async fn reply_bytes(mut self, payload: Vec<u8>) -> Result<(), ReplyError> {
        let handle = Arc::clone(&self.handle);
        loop {
            let mut progress = pin!(handle.shared.progress.notified());
            progress.as_mut().enable();
            let is_full = {
                let link = handle.shared.link();
                link.connection == self.hand.connection
                    && link.wants_write().is_some()
                    && link.writing.is_full()
            };
            if !is_full {
                break;
            }
            progress.await;
        }
        match self.answer(Answer::Reply(&payload)) {
            true => Ok(()),
            false => Err(ReplyError::Disconnected),
        }
    }

    /// Says that there is no reply, and why.
    pub(in crate::sdk) fn fail(mut self, why: &str) {
        self.answer(Answer::Failure(failed(why)));
    }

    fn refuse(mut self, why: String) {
        self.answer(Answer::Failure(CallFailure::BadRequest(shortened(&why))));
    }

    /// False if there is nobody to be told.
    fn answer(&mut self, answer: Answer<'_>) -> bool {
        self.is_answered = true;
        let Hand { id, connection, .. } = *self.hand;
        self.queue.answered(id, connection);
        let shared = &self.handle.shared;
        let mut link = shared.link();
        if link.wants_write().is_none() || link.connection != connection {
            return false;
        }
        // It fits: its length was checked.
        let channel = self.channel;
        link.writing.push(&Frame::Calls(CallFrame::Answer { channel, id, answer }));
        shared.flush(&mut link);
        true
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        if !self.is_answered {
            self.answer(Answer::Failure(failed("it gave no answer")));
        }
    }
}

fn failed(why: &str) -> CallFailure {
    CallFailure::Failed(shortened(why))
}

/// As much of it as may be told.
fn shortened(why: &str) -> String {
    let mut end = why.len().min(MAX_FAILURE);
    while !why.is_char_boundary(end) {
        end -= 1;
    }
    why[..end].to_owned()
}

/// A call that the daemon has given us.
pub(super) struct Hand {
    id: u64,
    connection: u64,
    cancelled: watch::Sender<bool>,
}

/// A call that is answered at once.
pub(super) struct Refused {
    pub(super) id: u64,
    pub(super) connection: u64,
    pub(super) failure: CallFailure,
}

/// More calls came than the service takes.
#[derive(Debug)]
pub(super) struct TooMany;

/// Calls that arrived and were not taken yet, and those in hand.
pub(super) struct Queue {
    at_once: u32,
    state: Mutex<State>,
    arrived: Notify,
}

/// With its deadline and payload.
type Arrived = (Arc<Hand>, Instant, Bytes);

#[derive(Default)]
struct State {
    connection: u64,
    arrived: VecDeque<Arrived>,
    /// Those in `arrived` too: all that are not answered.
    in_hand: HashMap<u64, Arc<Hand>>,
    is_closed: bool,
}

impl Queue {
    pub(super) fn new(at_once: NonZeroU32) -> Self {
        let at_once = at_once.get().min(MAX_CALLS);
        Self { at_once, state: Mutex::default(), arrived: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection begins: how many calls may be given at once.
    pub(super) fn begin(&self, connection: u64) -> u32 {
        self.state().connection = connection;
        self.at_once
    }

    /// The connection is gone, and with it whoever waits for answers.
    pub(super) fn end(&self) {
        let mut state = self.state();
        state.arrived.clear();
        for (_, hand) in state.in_hand.drain() {
            hand.cancelled.send_replace(true);
        }
    }

    /// A call has come. It may have to be refused.
    ///
    /// # Errors
    ///
    /// When there are more than the service takes.
    pub(super) fn push(
        &self,
        id: u64,
        deadline: Instant,
        payload: Bytes,
    ) -> Result<Option<Refused>, TooMany> {
        let mut state = self.state();
        let connection = state.connection;
        if state.is_closed {
            return Ok(Some(Refused { id, connection, failure: closed() }));
        }
        if state.in_hand.len() >= self.at_once as usize {
            return Err(TooMany);
        }
        let hand = Arc::new(Hand { id, connection, cancelled: watch::Sender::new(false) });
        state.in_hand.insert(id, Arc::clone(&hand));
        state.arrived.push_back((hand, deadline, payload));
        drop(state);
        self.arrived.notify_one();
        Ok(None)
    }

    /// Nobody waits for this answer any more.
    pub(super) fn cancel(&self, id: u64) {
        if let Some(hand) = self.state().in_hand.get(&id) {
            hand.cancelled.send_replace(true);
        }
    }

    fn take(&self) -> Option<Arrived> {
        self.state().arrived.pop_front()
    }

    fn answered(&self, id: u64, connection: u64) {
        let mut state = self.state();
        if state.connection == connection {
            state.in_hand.remove(&id);
        }
    }

    /// Takes no more calls; what has arrived and was not taken is to be refused.
    fn close(&self) -> Vec<Refused> {
        let mut state = self.state();
        state.is_closed = true;
        let arrived = std::mem::take(&mut state.arrived);
        let refused = |(hand, ..): Arrived| {
            state.in_hand.remove(&hand.id);
            Refused { id: hand.id, connection: hand.connection, failure: closed() }
        };
        arrived.into_iter().map(refused).collect()
    }
}

fn closed() -> CallFailure {
    failed("the program answers no more calls of this type")
}
