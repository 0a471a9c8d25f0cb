//! Calling.

use std::fmt;
use std::marker::PhantomData;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::{CallError, Reply};
use crate::runtime::{CallFrame, Frame, MAX_CALL, MAX_CALL_TIMEOUT_MS};
use crate::sdk::blob::sharing;
use crate::sdk::form::decode;
use crate::sdk::{Handle, Message};

/// How much later than the deadline the daemon's answer may come: it knows whether a service was given the
/// call.
const GRACE: Duration = Duration::from_millis(250);

/// Where calls of one type leave this runtime. Clones share it.
pub struct Client<Req, Rep> {
    handle: Arc<Handle>,
    channel: u16,
    deadline: Duration,
    types: PhantomData<fn(&Req) -> Rep>,
}

impl<Req: Message, Rep: Reply> Client<Req, Rep> {
    /// How long a call may take, unless it says otherwise: 10 s.
    pub const DEADLINE: Duration = Duration::from_secs(10);

    pub(super) fn new(handle: Arc<Handle>, channel: u16) -> Self {
        Self { handle, channel, deadline: Self::DEADLINE, types: PhantomData }
    }

    /// The same client, whose calls may take so long: at least 1 ms, at most a day.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        let most = Duration::from_millis(MAX_CALL_TIMEOUT_MS.into());
        let deadline = deadline.clamp(Duration::from_millis(1), most);
        Self { deadline, ..self.clone() }
    }

    /// Calls, and waits for the reply. A future that is dropped cancels the call.
    ///
    /// One service gets the call, of those to which links lead from this runtime: one that is
    /// connected and has the fewest calls. If none is there, or all have as many as they take at once,
    /// the call waits for one until its time is over; and so it does for a connection to the daemon.
    /// A service that has been given the call and goes away ends it at once, and so does the end
    /// of the daemon: nothing is ever sent twice.
    ///
    /// # Errors
    ///
    /// See [`CallError`]; [`CallError::may_have_had_effect`] tells what is safe to repeat.
    pub async fn call(&self, request: &Req) -> Result<Rep, CallError> {
        let payload = postcard::to_stdvec(request).map_err(CallError::Encode)?;
        if payload.len() > MAX_CALL {
            return Err(CallError::TooLong);
        }
        let reply = self.call_bytes(&payload).await?;
        sharing(&reply, decode).map_err(CallError::BadReply)
    }

    async fn call_bytes(&self, payload: &[u8]) -> Result<Bytes, CallError> {
        let until = Instant::now() + self.deadline;
        let asked = timeout_at(until, self.ask(payload, until)).await;
        let (answer, mut asked) = asked.unwrap_or(Err(CallError::NotConnected))?;
        let answer = timeout_at(until + GRACE, answer).await;
        match answer {
            Ok(answer) => {
                asked.is_answered = true;
                answer.unwrap_or(Err(CallError::Disconnected))
            }
            Err(_) => Err(CallError::NoAnswer),
        }
    }

    /// Sends the call as soon as there is a connection with room.
    async fn ask(
        &self,
        payload: &[u8],
        until: Instant,
    ) -> Result<(oneshot::Receiver<Result<Bytes, CallError>>, AskedFor<'_>), CallError> {
        let shared = &self.handle.shared;
        let mut connected = shared.connected.subscribe();
        loop {
            let mut progress = pin!(shared.progress.notified());
            progress.as_mut().enable();
            {
                let mut link = shared.link();
                if link.wants_write().is_some() && !link.writing.is_full() {
                    let (waiting, answer) = oneshot::channel();
                    let channel = self.channel;
                    let id = shared.calls.ask(channel, waiting).ok_or(CallError::TooMany)?;
                    let left = until.saturating_duration_since(Instant::now());
                    let timeout_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
                    let timeout_ms = timeout_ms.clamp(1, MAX_CALL_TIMEOUT_MS);
                    // It fits: its length was checked.
                    link.writing.push(&Frame::Calls(CallFrame::Call {
                        channel,
                        id,
                        timeout_ms,
                        payload,
                    }));
                    shared.flush(&mut link);
                    let connection = link.connection;
                    drop(link);
                    let asked = AskedFor {
                        handle: &self.handle,
                        channel,
                        id,
                        connection,
                        is_answered: false,
                    };
                    return Ok((answer, asked));
                }
            }
            tokio::select! {
                () = progress => {}
                _ = connected.changed() => {}
            }
        }
    }
}

/// A call under way: cancelled when this is dropped before its answer.
struct AskedFor<'a> {
    handle: &'a Handle,
    channel: u16,
    id: u64,
    connection: u64,
    is_answered: bool,
}

impl Drop for AskedFor<'_> {
    fn drop(&mut self) {
        if self.is_answered {
            return;
        }
        let shared = &self.handle.shared;
        let mut link = shared.link();
        let (channel, id) = (self.channel, self.id);
        if shared.calls.give_up(channel, id)
            && link.wants_write().is_some()
            && link.connection == self.connection
        {
            link.writing.push(&Frame::Calls(CallFrame::Cancel { channel, id }));
            shared.flush(&mut link);
        }
    }
}

impl<Req, Rep> Clone for Client<Req, Rep> {
    fn clone(&self) -> Self {
        let (handle, channel, deadline) = (Arc::clone(&self.handle), self.channel, self.deadline);
        Self { handle, channel, deadline, types: PhantomData }
    }
}

impl<Req: Message, Rep> fmt::Debug for Client<Req, Rep> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({:?})", Req::NAME)
    }
}
