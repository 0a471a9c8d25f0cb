//! What waits to be said to the capture process about one log, and what it said.
//!
//! No I/O but sending: what is wanted goes in, the orders for it come out as far as the socket
//! has room. All of it is bounded.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use orchestrator_proto::control::LogStream;
use orchestrator_proto::{InstanceId, OsBytes};

use super::file::Position;
use super::instance::Shared;
use super::record::newline;
use super::rules::Rules;
use super::socket::Watched;
use super::source::Pipes;
use super::wire::{self, Dropped, MAX_APPEND, Order, ProcessId, State, TEXT_COST, Text};
use super::{LogStats, MAX_TEXT};

/// The most texts that wait to be sent: 1,024.
const MAX_QUEUED: usize = 1024;
/// The most bytes that wait to be sent: 1 MiB.
const MAX_QUEUED_BYTES: usize = 1 << 20;

/// See the module.
#[derive(Default, Debug)]
pub(super) struct Outbox {
    /// With which the log is opened.
    rules: Rules,
    phase: Phase,
    /// The runs whose pipes are to be read: at most [`wire::MAX_RUNS`], which whoever adds one
    /// sees to.
    pub(super) runs: Vec<Run>,
    texts: VecDeque<Queued>,
    queued_bytes: usize,
    /// At most one for each stream.
    dropped: Vec<Dropped>,
    /// How many orders to attach were sent on this connection.
    attached: u64,
    watch: Option<Position>,
    watch_sent: bool,
    look: u64,
    look_sent: u64,
    closing: Closing,
    close_sent: bool,
    /// Whether it waits for its turn in the link's queue.
    pub(super) is_queued: bool,
    /// Who wrote the log last, and what it said it had written and lost.
    writer: Option<(ProcessId, LogStats)>,
    /// What those before it had.
    before: LogStats,
    /// Of texts that were never sent, bytes.
    never_sent: u64,
}

#[derive(Default, Debug)]
enum Phase {
    /// There is no connection.
    #[default]
    Down,
    /// The log is to be opened; nothing else is said before it is.
    Opening {
        socket: Arc<Watched>,
        sent: bool,
    },
    /// That failed.
    Failed(Arc<Watched>),
    Open(Arc<Watched>),
    /// The process at the other end is to end, and another one to go on: nothing more is said to
    /// this one.
    Paused {
        /// It has closed the log: it has read nothing that is not in it.
        closed: bool,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Closing {
    #[default]
    No,
    Requested,
    Done,
}

/// A text from inside the daemon, of which the beginning may have been sent.
#[derive(Debug)]
struct Queued {
    time_ns: u64,
    stream: LogStream,
    text: Vec<u8>,
    sent: usize,
}

impl Queued {
    /// The next line from here, or a part of one that is long, and where the one after it
    /// begins; none at the end. The end of the text ends a line too.
    fn piece(&self, from: usize) -> Option<(Text, usize)> {
        let rest = self.text.get(from..)?;
        let window = &rest[..rest.len().min(MAX_TEXT + 1)];
        let (len, complete) = match newline(window) {
            Some(end) => (end, true),
            None if rest.len() <= MAX_TEXT => (rest.len(), true),
            None => (MAX_TEXT, false),
        };
        let text = OsBytes(rest[..len].to_vec());
        let text = Text { time_ns: self.time_ns, stream: self.stream, complete, text };
        Some((text, from + len + usize::from(complete)))
    }

    /// Bytes that have not been sent, with the newline at the end.
    fn left(&self) -> u64 {
        (self.text.len() + 1).saturating_sub(self.sent) as u64
    }
}

/// A run whose pipes are to be read.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) run: u64,
    /// Until they are sent.
    pub(super) pipes: Option<Arc<Pipes>>,
    /// The number of the order that attached it on this connection; 0 if the capture process
    /// had it before.
    sent: Option<u64>,
    /// Somebody may have read from them already.
    again: bool,
}

impl Run {
    /// Without pipes it is one whose pipes were read before.
    pub(super) fn new(run: u64, pipes: Option<Arc<Pipes>>) -> Self {
        let again = pipes.is_none();
        Self { run, pipes, sent: None, again }
    }

    fn is_missing(&self) -> bool {
        self.pipes.is_none() && self.sent.is_none()
    }
}

/// What is wanted.
impl Outbox {
    pub(super) fn new(rules: Rules) -> Self {
        Self { rules, ..Self::default() }
    }

    /// The log is to be kept by these rules. Who opens a log that is open changes its rules: a
    /// capture process of any age knows that.
    pub(super) fn set_rules(&mut self, rules: Rules) {
        if rules == std::mem::replace(&mut self.rules, rules) {
            return;
        }
        if let Phase::Open(socket) | Phase::Opening { socket, .. } = &self.phase {
            self.phase = Phase::Opening { socket: socket.clone(), sent: false };
        }
    }

    pub(super) fn append(&mut self, time_ns: u64, stream: LogStream, text: &[u8]) {
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let bytes = text.len() as u64 + 1;
        if self.closing == Closing::Done {
            self.never_sent += bytes;
            return;
        }
        let room = MAX_QUEUED_BYTES - self.queued_bytes;
        if self.texts.len() < MAX_QUEUED && text.len() <= room {
            self.queued_bytes += text.len();
            self.texts.push_back(Queued { time_ns, stream, text: text.to_vec(), sent: 0 });
        } else if let Some(dropped) = self.dropped.iter_mut().find(|d| d.stream == stream) {
            dropped.bytes += bytes;
            dropped.to_ns = time_ns;
        } else {
            self.dropped.push(Dropped { stream, bytes, from_ns: time_ns, to_ns: time_ns });
        }
    }

    pub(super) fn look(&mut self) -> u64 {
        self.look += 1;
        self.look
    }

    /// Whether that is news.
    pub(super) fn watch(&mut self, beyond: Position) -> bool {
        let news = self.watch.is_none_or(|wanted| wanted > beyond);
        if news {
            self.watch = Some(beyond);
            self.watch_sent = false;
        }
        news
    }

    pub(super) fn request_close(&mut self) {
        if self.closing == Closing::No {
            self.closing = Closing::Requested;
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing != Closing::No
    }

    /// Whether all that was wanted has been said, as far as it can be said.
    pub(super) fn is_settled(&self) -> bool {
        match self.phase {
            Phase::Down | Phase::Failed(_) | Phase::Paused { .. } => true,
            Phase::Opening { .. } => false,
            Phase::Open(_) => !self.is_queued && self.missing().is_empty(),
        }
    }

    /// Says nothing more on this connection, if all that was wanted has been said. Whether it has.
    pub(super) fn pause(&mut self) -> bool {
        let settled = self.is_settled();
        if settled && matches!(self.phase, Phase::Open(_) | Phase::Failed(_)) {
            self.phase = Phase::Paused { closed: false };
        }
        settled
    }

    /// The capture process has closed the log. Whether it is to go on all the same, since that was
    /// only because the process is to end.
    pub(super) fn goes_on(&mut self) -> bool {
        match &mut self.phase {
            Phase::Paused { closed } if !self.close_sent => {
                *closed = true;
                true
            }
            _ => false,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open(_))
    }

    /// The runs that are to be attached and whose pipes are not here.
    pub(super) fn missing(&self) -> Vec<u64> {
        if !self.is_open() {
            return Vec::new();
        }
        self.runs.iter().filter(|run| run.is_missing()).map(|run| run.run).collect()
    }

    pub(super) fn set_pipes(&mut self, run: u64, pipes: Arc<Pipes>) {
        let missing = |known: &&mut Run| known.run == run && known.is_missing();
        if let Some(known) = self.runs.iter_mut().find(missing) {
            known.pipes = Some(pipes);
        }
    }

    pub(super) fn stats(&self) -> LogStats {
        let now = self.writer.as_ref().map(|(_, stats)| stats.clone()).unwrap_or_default();
        LogStats {
            bytes_written: self.before.bytes_written + now.bytes_written,
            bytes_lost: self.before.bytes_lost + now.bytes_lost + self.never_sent,
            failing: now.failing,
            blocked: now.blocked,
            last_error: now.last_error.or_else(|| self.before.last_error.clone()),
        }
    }
}

/// What happened.
impl Outbox {
    pub(super) fn connect(&mut self, socket: &Arc<Watched>) {
        if let Phase::Down = self.phase {
            self.phase = Phase::Opening { socket: socket.clone(), sent: false };
        }
    }

    pub(super) fn opened(&mut self, state: &State, process: ProcessId) {
        if let Phase::Opening { socket, .. } = &self.phase {
            self.phase = Phase::Open(socket.clone());
        }
        if let Some((_, stats)) = self.writer.take_if(|(before, _)| *before != process) {
            self.before.bytes_written += stats.bytes_written;
            self.before.bytes_lost += stats.bytes_lost;
            self.before.last_error = stats.last_error.or(self.before.last_error.take());
        }
        self.writer = Some((process, state.stats.clone()));
        for &run in &state.runs {
            match self.runs.iter_mut().find(|known| known.run == run) {
                Some(known) => known.sent = Some(0),
                None => self.runs.push(Run { run, pipes: None, sent: Some(0), again: true }),
            }
        }
    }

    /// How the log stands. The answer is which runs have ended.
    pub(super) fn apply(&mut self, state: &State) -> Vec<u64> {
        if let Some((_, stats)) = &mut self.writer {
            stats.clone_from(&state.stats);
        }
        if self.watch.is_some_and(|beyond| state.end > beyond) {
            self.watch = None;
        }
        let mut ended = Vec::new();
        if let Phase::Paused { .. } = self.phase {
            // Whether a pipe has ended, or is only not read any more, the next process will see.
            return ended;
        }
        self.runs.retain(|run| {
            let is_taken = run.sent.is_some_and(|sent| sent <= state.attached);
            let has_ended = is_taken && !state.runs.contains(&run.run);
            if has_ended {
                ended.push(run.run);
            }
            !has_ended
        });
        ended
    }

    pub(super) fn failed(&mut self) {
        if let Phase::Opening { socket, .. } = &self.phase {
            self.phase = Phase::Failed(socket.clone());
        }
    }

    pub(super) fn open_again(&mut self) {
        if let Phase::Failed(socket) = &self.phase {
            self.phase = Phase::Opening { socket: socket.clone(), sent: false };
        }
    }

    /// The pipes of a run did not arrive.
    pub(super) fn not_attached(&mut self, run: u64) {
        if let Some(run) = self.runs.iter_mut().find(|known| known.run == run) {
            run.sent = None;
        }
    }

    pub(super) fn disconnect(&mut self) {
        let all_is_there = matches!(self.phase, Phase::Paused { closed: true });
        self.phase = Phase::Down;
        self.attached = 0;
        self.watch_sent = false;
        self.look_sent = 0;
        self.close_sent = false;
        for run in &mut self.runs {
            if run.sent.take().is_some() {
                run.again = !all_is_there;
            }
        }
    }

    /// Nothing will be written any more. The answer is which runs there were.
    pub(super) fn set_closed(&mut self) -> Vec<u64> {
        self.phase = Phase::Down;
        self.closing = Closing::Done;
        let texts = std::mem::take(&mut self.texts);
        let dropped = std::mem::take(&mut self.dropped);
        self.queued_bytes = 0;
        self.never_sent += texts.iter().map(Queued::left).sum::<u64>();
        self.never_sent += dropped.iter().map(|dropped| dropped.bytes).sum::<u64>();
        std::mem::take(&mut self.runs).into_iter().map(|run| run.run).collect()
    }
}

/// Sending.
impl Outbox {
    /// Sends what waits. False if there was no room for all of it.
    pub(super) fn send(&mut self, instance: InstanceId, log: &Shared) -> bool {
        loop {
            let sent = match &self.phase {
                Phase::Opening { socket, sent: false } => {
                    let socket = socket.clone();
                    self.send_open(&socket, instance, log)
                }
                Phase::Open(socket) => {
                    let socket = socket.clone();
                    self.send_next(&socket, instance)
                }
                Phase::Down | Phase::Opening { .. } | Phase::Failed(_) | Phase::Paused { .. } => {
                    return true;
                }
            };
            match sent {
                Ok(true) => {}
                Ok(false) => return true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                // The link sees that too, and says so.
                Err(_) => {
                    self.disconnect();
                    return true;
                }
            }
        }
    }

    fn send_open(
        &mut self,
        socket: &Arc<Watched>,
        instance: InstanceId,
        log: &Shared,
    ) -> io::Result<bool> {
        let order = Order::Open { instance, dir: log.dir.as_os_str().into(), rules: self.rules };
        send(socket, &order)?;
        self.phase = Phase::Opening { socket: socket.clone(), sent: true };
        Ok(true)
    }

    /// Sends one order. False if none waits.
    fn send_next(&mut self, socket: &Watched, instance: InstanceId) -> io::Result<bool> {
        if let Some(run) = self.runs.iter_mut().find(|run| run.pipes.is_some()) {
            if let (Some(pipes), None) = (&run.pipes, run.sent) {
                let order = Order::Attach { instance, run: run.run, again: run.again };
                let bytes = wire::encode(&order).map_err(io::Error::other)?;
                socket.get().send(&bytes, &[pipes.stdout.as_fd(), pipes.stderr.as_fd()])?;
                self.attached += 1;
                run.sent = Some(self.attached);
            }
            run.pipes = None;
        } else if !self.texts.is_empty() || !self.dropped.is_empty() {
            self.send_texts(socket, instance)?;
        } else if let Some(beyond) = self.watch.filter(|_| !self.watch_sent) {
            send(socket, &Order::Watch { instance, beyond })?;
            self.watch_sent = true;
        } else if self.look > self.look_sent {
            send(socket, &Order::Look { instance, number: self.look })?;
            self.look_sent = self.look;
        } else if self.closing == Closing::Requested && !self.close_sent {
            send(socket, &Order::Close { instance })?;
            self.close_sent = true;
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// As many lines as go into one datagram.
    fn send_texts(&mut self, socket: &Watched, instance: InstanceId) -> io::Result<()> {
        let mut texts = Vec::new();
        let (mut cost, mut done, mut sent) = (0, 0, 0);
        'full: for queued in &self.texts {
            sent = queued.sent;
            while let Some((text, next)) = queued.piece(sent) {
                cost += text.text.0.len() + TEXT_COST;
                if cost > MAX_APPEND {
                    break 'full;
                }
                texts.push(text);
                sent = next;
            }
            done += 1;
            sent = 0;
        }
        let dropped = self.dropped.clone();
        send(socket, &Order::Append { instance, texts, dropped })?;
        self.dropped.clear();
        for queued in self.texts.drain(..done) {
            self.queued_bytes -= queued.text.len();
        }
        if let Some(queued) = self.texts.front_mut() {
            queued.sent = sent;
        }
        Ok(())
    }
}

fn send(socket: &Watched, order: &Order) -> io::Result<()> {
    socket.get().send(&wire::encode(order).map_err(io::Error::other)?, &[])
}
