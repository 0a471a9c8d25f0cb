//! What arrived for one input and was not received yet.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use bytes::Bytes;

use super::arrivals::{Arrivals, From, Known, Span, Stamp};
use crate::runtime::Sender;
use crate::sdk::seen::{Run, Seen};

/// By which way messages come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::sdk) enum Way {
    /// Over the connection to the daemon.
    Daemon,
    /// Over this lane.
    Lane(u64),
}

/// Messages that arrived and were not received yet, by whichever way they came; for each way the
/// account of its window, and what who feeds it is told.
pub(in crate::sdk) struct Queue {
    window: u32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    messages: Arrivals,
    /// Who is to be told that there are messages.
    receiver: Option<Waker>,
    /// How those came that are in `messages`, or taken and not reported as consumed; in their order.
    runs: VecDeque<(Way, u32)>,
    daemon: Account,
    lanes: Vec<(u64, Account)>,
    seen: Seen,
    closed: bool,
}

/// What came by one way.
#[derive(Default)]
struct Account {
    /// The connection that the counts belong to.
    connection: u64,
    /// In the queue, or taken and not reported as consumed.
    waiting: u32,
    /// So many of those came over earlier connections, or lanes that are gone.
    carried: u32,
    /// Arrived on this connection, also those that were there before.
    received: u64,
    /// Of a lane: as many of those that the present daemon does not know of.
    before: u64,
    /// Allowed on this connection.
    granted: u64,
    /// Acknowledged on this connection.
    acknowledged: u64,
    /// Came again while others waited: they are acknowledged when none waits any more, because
    /// acknowledgements count from the beginning.
    late: u64,
    /// Whether who feeds it keeps any on this connection: else nobody wants acknowledgements.
    kept: bool,
    /// Whose messages arrive now.
    run: Option<Run>,
    /// The form of what comes next. Over lanes there is that of the declaration alone.
    form: u8,
    /// Whether what comes next has a stamp.
    is_stamped: bool,
}

/// What who feeds a way is to be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::sdk) struct Due {
    /// On this connection only.
    pub(in crate::sdk) connection: u64,
    pub(in crate::sdk) grant: u64,
    pub(in crate::sdk) acknowledge: Option<u64>,
}

/// When it is to be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::sdk) enum When {
    Never,
    /// There is something to acknowledge, for which it is not worth writing at once.
    Soon,
    Now(Due),
}

/// More messages came than were allowed.
#[derive(Debug)]
pub(in crate::sdk) struct TooMany;

impl Account {
    /// Messages of this connection, counted from its beginning, that are never needed again: the
    /// program has come back for more after it had them, or they were there before.
    fn done(&self) -> u64 {
        let waiting = u64::from(self.waiting.saturating_sub(self.carried));
        self.received.saturating_sub(waiting + self.late)
    }

    fn consume(&mut self, consumed: u32) {
        self.waiting = self.waiting.saturating_sub(consumed);
        self.carried = self.carried.saturating_sub(consumed);
        if self.waiting == 0 {
            self.late = 0;
        }
    }

    fn acknowledge(&mut self) -> Option<u64> {
        let done = self.done();
        let news = self.kept && done > self.acknowledged;
        news.then(|| {
            self.acknowledged = done;
            done
        })
    }

    /// What to tell, if it is time for that: when so many more may come than who feeds it knows.
    fn due(&mut self, window: u32, step: u32) -> When {
        let grant = self.received + u64::from(window.saturating_sub(self.waiting));
        if grant >= self.granted + u64::from(step) {
            self.granted = grant;
            let acknowledge = self.acknowledge();
            When::Now(Due { connection: self.connection, grant, acknowledge })
        } else if self.kept && self.done() > self.acknowledged {
            When::Soon
        } else {
            When::Never
        }
    }
}

impl State {
    fn account(&mut self, way: Way) -> Option<&mut Account> {
        match way {
            Way::Daemon => Some(&mut self.daemon),
            Way::Lane(lane) => {
                self.lanes.iter_mut().find(|(id, _)| *id == lane).map(|(_, account)| account)
            }
        }
    }

    /// So many, the first ones, need no place any more.
    fn consume(&mut self, consumed: u32) {
        let mut left = consumed;
        while left > 0
            && let Some((way, count)) = self.runs.front_mut()
        {
            let (way, now) = (*way, left.min(*count));
            left -= now;
            *count -= now;
            if *count == 0 {
                self.runs.pop_front();
            }
            if let Some(account) = self.account(way) {
                account.consume(now);
            }
        }
    }
}

impl Queue {
    pub(in crate::sdk) fn new(window: NonZeroU32) -> Self {
        Self { window: window.get(), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After how many consumed messages it is worth a grant.
    pub(super) fn step(&self) -> u32 {
        (self.window / 2).max(1)
    }

    /// A connection begins: how many messages may come before the first grant. None if
    /// nobody receives any more.
    pub(in crate::sdk) fn begin(&self, connection: u64) -> Option<u32> {
        let mut state = self.state();
        let daemon = &mut state.daemon;
        // Zero would mean no limit.
        let window = self.window.saturating_sub(daemon.waiting).max(1);
        let waiting = daemon.waiting;
        *daemon = Account {
            connection,
            granted: window.into(),
            waiting,
            carried: waiting,
            ..Account::default()
        };
        (!state.closed).then_some(window)
    }

    /// A lane begins: how many messages may come over it before it is told more.
    pub(in crate::sdk) fn begin_lane(&self, lane: u64) -> u64 {
        let mut state = self.state();
        let granted = if state.closed { 0 } else { u64::from(self.window) };
        state.lanes.push((lane, Account { granted, ..Account::default() }));
        granted
    }

    /// A new daemon counts what comes over this lane from now on. The answer is how many came before.
    pub(in crate::sdk) fn count_lane_anew(&self, lane: u64) -> u64 {
        let mut state = self.state();
        let Some(account) = state.account(Way::Lane(lane)) else { return 0 };
        account.before = account.received;
        account.received
    }

    /// A lane has ended. The answer is how many messages came over it that the daemon is to count.
    pub(in crate::sdk) fn end_lane(&self, lane: u64) -> u64 {
        let mut state = self.state();
        let Some(at) = state.lanes.iter().position(|(id, _)| *id == lane) else { return 0 };
        let (_, account) = state.lanes.remove(at);
        // What may come again over the connection to the daemon is acknowledged there when the
        // program has had it.
        state.daemon.waiting += account.waiting;
        state.daemon.carried += account.waiting;
        for (way, _) in state.runs.iter_mut().filter(|(way, _)| *way == Way::Lane(lane)) {
            *way = Way::Daemon;
        }
        account.received - account.before
    }

    /// Each sender of whom something arrived, and the number that comes next.
    pub(in crate::sdk) fn places(&self) -> Vec<(Sender, u64)> {
        self.state().seen.places()
    }

    /// The messages that follow on this way are from this sender, numbered from `next` on, and who
    /// feeds it may keep them until they are acknowledged.
    pub(in crate::sdk) fn run(&self, way: Way, sender: Option<Sender>, next: u64, kept: bool) {
        let mut state = self.state();
        let run = sender.map(|sender| state.seen.turn_to(sender, next));
        if let Some(account) = state.account(way) {
            account.run = run;
            account.kept |= kept;
        }
    }

    /// The messages that follow from the daemon are in this form.
    pub(in crate::sdk) fn form(&self, form: u8) {
        self.state().daemon.form = form;
    }

    /// The messages that follow on this way have a stamp, or none.
    pub(in crate::sdk) fn stamps(&self, way: Way, stamped: bool) {
        if let Some(account) = self.state().account(way) {
            account.is_stamped = stamped;
        }
    }

    /// So many numbers are left out. False if there are no numbers.
    pub(in crate::sdk) fn skip(&self, way: Way, count: u64) -> bool {
        let mut state = self.state();
        let run = state.account(way).and_then(|account| account.run.as_mut());
        run.map(|run| run.skip(count)).is_some()
    }

    /// Messages have arrived, which are in `chunk`; empties `batch`. Who feeds this way may have to be told that they
    /// were nothing new.
    ///
    /// # Errors
    ///
    /// When they are more than was allowed.
    pub(in crate::sdk) fn push(
        &self,
        way: Way,
        (chunk, batch): (&Bytes, &mut Vec<Span>),
    ) -> Result<When, TooMany> {
        let mut guard = self.state();
        let state = &mut *guard;
        let count = batch.len() as u64;
        let account = match way {
            Way::Daemon => Some(&mut state.daemon),
            Way::Lane(lane) => {
                state.lanes.iter_mut().find(|(id, _)| *id == lane).map(|(_, account)| account)
            }
        };
        let account = account.ok_or(TooMany)?;
        if count > account.granted - account.received.min(account.granted) {
            return Err(TooMany);
        }
        account.received += count;
        let written = (account.form, account.is_stamped);
        let came = account.run.as_mut().map(|run| state.seen.arrived(run, count));
        let had = came.map_or(0, |came| came.had);
        let new = count - had;
        if had > 0 {
            batch.drain(..had as usize);
            if account.waiting > 0 {
                account.late += had;
            }
        }
        // At most the window, plus one after a reconnection.
        account.waiting += new as u32;
        if state.closed {
            // Never consumed, so never acknowledged.
            batch.clear();
            return Ok(When::Never);
        }
        let due = match new {
            0 => account.due(self.window, self.step()),
            // Who takes them tells it.
            _ => When::Never,
        };
        if new > 0 {
            match state.runs.back_mut() {
                Some((last, count)) if *last == way => *count += new as u32,
                _ => state.runs.push_back((way, new as u32)),
            }
            let from = came.map(|came| From {
                sender: came.sender.instance,
                number: came.first_new,
                missed: came.missed,
            });
            let known = Known { from, stamp: Stamp::now(), sent: None };
            state.messages.push((chunk, batch), written, known);
            let receiver = state.receiver.take();
            drop(guard);
            if let Some(receiver) = receiver {
                receiver.wake();
            }
        }
        Ok(due)
    }

    /// Has the receiver woken when there are messages. False if there are some: then it is not.
    pub(super) fn wake_later(&self, waker: &Waker) -> bool {
        let mut state = self.state();
        let is_empty = state.messages.is_empty();
        if is_empty {
            match &mut state.receiver {
                Some(known) => known.clone_from(waker),
                unknown => *unknown = Some(waker.clone()),
            }
        }
        is_empty
    }

    /// Moves messages to the receiver, if it has none left, and says who is to be told what.
    pub(super) fn take(&self, consumed: u32, batch: &mut Arrivals) -> Vec<(Way, When)> {
        let mut state = self.state();
        if batch.is_empty() {
            std::mem::swap(&mut state.messages, batch);
        }
        state.consume(consumed);
        let mut due = Vec::new();
        let mut tell = |way, account: &mut Account| match account.due(self.window, self.step()) {
            When::Never => {}
            when => due.push((way, when)),
        };
        let state = &mut *state;
        tell(Way::Daemon, &mut state.daemon);
        for (lane, account) in &mut state.lanes {
            tell(Way::Lane(*lane), account);
        }
        due
    }

    /// What to acknowledge on this way, if there is anything new.
    pub(in crate::sdk) fn acknowledge(&self, way: Way) -> Option<u64> {
        self.state().account(way)?.acknowledge()
    }

    /// Nobody receives any more.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.messages.clear();
        state.receiver = None;
    }
}
