//! The writing half of the connection, and what is declared on it. It outlives each single
//! connection.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::{Buf, BytesMut};
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{Notify, oneshot, watch};

use super::error::DeclareError;
use super::form::Written;
use super::input::{Queue, When};
use super::kept::{Beginning, Kept};
use crate::frame;
use crate::runtime::{Declare, Direction, Frame, MAX_CHANNELS, RuntimeReply, RuntimeRequest};
use crate::{InstanceId, TypeSchema, WireError};

/// Bytes that wait for the kernel before senders wait: 1 MiB. One more message or batch may
/// come on top.
const MAX_PENDING: usize = 1 << 20;

/// Requests that may wait for their answers: as many as a daemon takes from one connection.
pub(super) const MAX_REQUESTS: usize = 16;

/// What handles and the connection's task share.
pub(super) struct Shared {
    pub(super) path: std::path::PathBuf,
    link: Mutex<Link>,
    /// Senders wait here: something was written, granted, or the connection broke.
    pub(super) progress: Notify,
    /// The task waits here: there are bytes to write, or writing failed.
    pub(super) kick: Notify,
    pub(super) connected: watch::Sender<bool>,
    /// Some input has something to acknowledge, and the task knows.
    acknowledging: AtomicBool,
}

/// The state of the writing half.
pub(super) struct Link {
    pub(super) instance: InstanceId,
    /// Under which this process numbers its messages; see [`Frame::Keep`].
    epoch: u64,
    /// None while disconnected.
    writer: Option<Arc<OwnedWriteHalf>>,
    /// Counts connections, so that nothing meant for an earlier one is written to a later one.
    pub(super) connection: u64,
    /// Whole frames that the kernel has not taken yet, the first one maybe in part.
    pending: BytesMut,
    /// By channel.
    declared: Vec<Declared>,
    /// Whether the program has said that it is ready.
    ready: bool,
    requests: HashMap<u32, oneshot::Sender<Result<RuntimeReply, WireError>>>,
    next_request: u32,
    /// Why the connection was lost last.
    pub(super) last_error: Option<String>,
}

struct Declared {
    name: &'static str,
    form: Written,
    /// Other forms that an input takes, best first.
    also: Vec<Written>,
    end: End,
    dropped: Dropped,
}

/// Messages of an output that were dropped because there was no room for too long.
#[derive(Default)]
struct Dropped {
    total: u64,
    /// Among those, messages of this connection.
    here: u64,
}

/// Our end of a channel.
enum End {
    /// What was sent, and what may be.
    Output(Kept),
    /// Where its messages go.
    Input(Arc<Queue>),
}

/// What became of frames that were offered.
pub(super) enum Offered {
    /// The first so many bytes, which are so many messages, were taken.
    Taken { bytes: usize, messages: u64 },
    /// There is no connection. What was sent before will be sent again on the next one, and what
    /// is offered has to wait for it.
    Waiting,
    /// There is no connection, or another one than expected.
    Disconnected,
}

impl Shared {
    pub(super) fn new(path: std::path::PathBuf, instance: InstanceId) -> Self {
        Self {
            path,
            link: Mutex::new(Link {
                instance,
                // Seeded by the kernel, once for each thread, and counted on from there.
                epoch: RandomState::new().hash_one((std::process::id(), Instant::now())),
                writer: None,
                connection: 0,
                pending: BytesMut::new(),
                declared: Vec::new(),
                ready: false,
                requests: HashMap::new(),
                next_request: 0,
                last_error: None,
            }),
            progress: Notify::new(),
            kick: Notify::new(),
            connected: watch::Sender::new(false),
            acknowledging: AtomicBool::new(false),
        }
    }

    /// Nothing that runs under this lock is left half done by a panic.
    pub(super) fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Declares a type; on this connection and on all that follow.
    pub(super) fn declare(
        &self,
        name: &'static str,
        schema: &TypeSchema,
        also: &[TypeSchema],
        queue: Option<Arc<Queue>>,
    ) -> Result<u16, DeclareError> {
        if name.is_empty() || name.len() > 255 {
            return Err(DeclareError::BadName(name.to_owned()));
        }
        let written = |schema| Written::of(name, schema);
        let form = written(schema)?;
        let also = also.iter().map(written).collect::<Result<Vec<_>, _>>()?;
        let mut link = self.link();
        let direction = |declared: &Declared| matches!(declared.end, End::Input(_));
        let taken = |d: &Declared| d.name == name && direction(d) == queue.is_some();
        if link.declared.iter().any(taken) {
            return Err(DeclareError::Duplicate(name.to_owned()));
        }
        let channel = u16::try_from(link.declared.len()).unwrap_or(u16::MAX);
        if channel >= MAX_CHANNELS {
            return Err(DeclareError::TooMany);
        }
        link.declared.push(Declared {
            name,
            form,
            also,
            end: match queue {
                Some(queue) => End::Input(queue),
                None => End::Output(Kept::default()),
            },
            dropped: Dropped::default(),
        });
        if link.writer.is_some() {
            link.push_declare(channel);
            self.flush(&mut link);
        }
        Ok(channel)
    }

    /// Begins a new connection: declares everything again. What has to be sent again follows
    /// when the daemon has said how much it takes.
    pub(super) fn attach(&self, writer: Arc<OwnedWriteHalf>, instance: InstanceId) {
        let mut link = self.link();
        link.instance = instance;
        link.writer = Some(writer);
        link.connection += 1;
        link.pending.clear();
        for channel in 0..link.declared.len() {
            link.push_declare(channel as u16);
        }
        if link.ready {
            // The daemon before may have died before it took note.
            link.push(&Frame::Ready);
        }
        self.connected.send_replace(true);
        self.flush(&mut link);
    }

    /// Says that the program is ready; on this connection and on all that follow.
    pub(super) fn say_ready(&self) {
        let mut link = self.link();
        if std::mem::replace(&mut link.ready, true) {
            return;
        }
        if link.writer.is_some() {
            link.push(&Frame::Ready);
            self.flush(&mut link);
        }
    }

    /// Ends the connection: whoever waits for it learns of it.
    pub(super) fn detach(&self, reason: String) {
        let mut link = self.link();
        link.writer = None;
        link.pending.clear();
        link.requests.clear();
        link.last_error = Some(reason);
        self.connected.send_replace(false);
        drop(link);
        self.progress.notify_waiters();
    }

    /// Writes what the kernel takes now.
    pub(super) fn flush(&self, link: &mut Link) {
        link.write_pending();
        link.send_again();
        self.rouse_task(link);
        self.progress.notify_waiters();
    }

    /// Has the task write the rest, or clean up after a failure to write.
    fn rouse_task(&self, link: &Link) {
        if link.writer.is_none() {
            self.connected.send_replace(false);
        }
        if link.writer.is_none() || !link.pending.is_empty() {
            self.kick.notify_one();
        }
    }

    /// Takes as many whole messages from `frames` as may be sent now.
    pub(super) fn offer(
        &self,
        connection: Option<u64>,
        channel: u16,
        frames: &[u8],
        messages: u64,
    ) -> (u64, Offered) {
        let mut link = self.link();
        let current = link.connection;
        let is_open = link.writer.is_some();
        let is_full = link.pending.len() >= MAX_PENDING;
        let Some(kept) = link.output(channel) else {
            return (current, Offered::Disconnected);
        };
        if !kept.waits() && (!is_open || connection.is_some_and(|other| other != current)) {
            return (current, Offered::Disconnected);
        }
        if !is_open {
            return (current, Offered::Waiting);
        }
        let (bytes, messages) = if is_full { (0, 0) } else { kept.take(frames, messages) };
        let has_copies = kept.waits();
        if bytes > 0 {
            let idle = link.pending.is_empty();
            link.write(&frames[..bytes]);
            // Else the task knows already that there is something to write.
            if idle {
                self.rouse_task(&link);
            }
        }
        let offered = match link.writer {
            // What was kept will be sent, on the next connection if not on this one.
            Some(_) => Offered::Taken { bytes, messages },
            None if has_copies => Offered::Taken { bytes, messages },
            None => Offered::Disconnected,
        };
        (current, offered)
    }

    /// The daemon sets an output's limit. False if there is no such output.
    pub(super) fn granted(&self, channel: u16, total: u64) -> bool {
        let mut link = self.link();
        let Some(kept) = link.output(channel) else {
            return false;
        };
        kept.granted(total);
        if kept.is_behind() {
            self.flush(&mut link);
        } else {
            self.progress.notify_waiters();
        }
        true
    }

    /// The daemon acknowledges messages of an output. False if they were never sent.
    pub(super) fn acknowledged(&self, channel: u16, total: u64) -> bool {
        let known = self.link().output(channel).is_some_and(|kept| kept.acknowledged(total));
        self.progress.notify_waiters();
        known
    }

    /// The daemon has dropped so many messages of an output on this connection. False if there is no
    /// such output.
    pub(super) fn lost(&self, channel: u16, total: u64) -> bool {
        let mut link = self.link();
        let Some(declared) = link.declared.get_mut(usize::from(channel)) else { return false };
        let Dropped { total: sum, here } = &mut declared.dropped;
        *sum += total.saturating_sub(*here);
        *here = total.max(*here);
        matches!(declared.end, End::Output(_))
    }

    /// As many of an output, over all connections.
    pub(super) fn dropped(&self, channel: u16) -> u64 {
        self.link().declared.get(usize::from(channel)).map_or(0, |it| it.dropped.total)
    }

    /// Tells the daemon about an input what it is to be told: now, unless the connection is another
    /// one by then, or in a moment.
    pub(super) fn tell(&self, channel: u16, when: When) {
        let due = match when {
            When::Never => return,
            When::Soon => {
                if !self.acknowledging.swap(true, Ordering::AcqRel) {
                    self.kick.notify_one();
                }
                return;
            }
            When::Now(due) => due,
        };
        let mut link = self.link();
        if link.writer.is_some() && link.connection == due.connection {
            if let Some(total) = due.acknowledge {
                link.push(&Frame::Acknowledge { channel, total });
            }
            link.push(&Frame::Grant { channel, total: due.grant });
            self.flush(&mut link);
        }
    }

    /// Whether some input waits for [`Shared::acknowledge`].
    pub(super) fn is_acknowledging_soon(&self) -> bool {
        self.acknowledging.load(Ordering::Acquire)
    }

    /// Acknowledges what there is to acknowledge, on all inputs.
    pub(super) fn acknowledge(&self) {
        self.acknowledging.store(false, Ordering::Release);
        let mut link = self.link();
        if link.writer.is_none() {
            return;
        }
        let due: Vec<_> = (0..MAX_CHANNELS)
            .zip(&link.declared)
            .filter_map(|(channel, declared)| match &declared.end {
                End::Input(queue) => Some((channel, queue.acknowledge()?)),
                End::Output(_) => None,
            })
            .collect();
        for (channel, total) in due {
            link.push(&Frame::Acknowledge { channel, total });
        }
        self.flush(&mut link);
    }

    /// Sends a request; the answer, or the end of the connection, comes from the receiver.
    pub(super) fn request(
        &self,
        request: RuntimeRequest,
    ) -> Result<oneshot::Receiver<Result<RuntimeReply, WireError>>, super::RequestError> {
        let mut link = self.link();
        if link.writer.is_none() {
            return Err(super::RequestError::Disconnected);
        }
        // Also those that nobody waits for any more: the daemon has not answered them.
        if link.requests.len() >= MAX_REQUESTS {
            return Err(super::RequestError::TooMany);
        }
        let id = link.next_request;
        link.next_request = id.wrapping_add(1);
        if !link.push(&Frame::Request { id, request }) {
            return Err(super::RequestError::TooLong);
        }
        let (sender, receiver) = oneshot::channel();
        link.requests.insert(id, sender);
        self.flush(&mut link);
        Ok(receiver)
    }
}

impl Link {
    /// Whether something waits for the kernel or must be sent again; none if there is no
    /// connection any more.
    pub(super) fn is_unsent(&self) -> Option<bool> {
        let behind = |declared: &Declared| match &declared.end {
            End::Output(kept) => kept.is_behind(),
            End::Input(_) => false,
        };
        Some(self.wants_write()? || self.declared.iter().any(behind))
    }

    /// Whether bytes wait for the kernel; none if there is no connection any more.
    pub(super) fn wants_write(&self) -> Option<bool> {
        self.writer.as_ref().map(|_| !self.pending.is_empty())
    }

    /// The queue of an input.
    pub(super) fn queue(&self, channel: u16) -> Option<Arc<Queue>> {
        match &self.declared.get(usize::from(channel))?.end {
            End::Input(queue) => Some(Arc::clone(queue)),
            End::Output(_) => None,
        }
    }

    fn output(&mut self, channel: u16) -> Option<&mut Kept> {
        match &mut self.declared.get_mut(usize::from(channel))?.end {
            End::Output(kept) => Some(kept),
            End::Input(_) => None,
        }
    }

    /// The daemon answers a request.
    pub(super) fn replied(&mut self, id: u32, result: Result<RuntimeReply, WireError>) {
        if let Some(waiting) = self.requests.remove(&id) {
            // Nobody waits any more: the answer is not wanted.
            let _ = waiting.send(result);
        }
    }

    /// Writes what has to be sent again, as far as it may be now.
    fn send_again(&mut self) {
        let mut declared = std::mem::take(&mut self.declared);
        for Declared { end, .. } in &mut declared {
            let End::Output(kept) = end else { continue };
            while self.pending.len() < MAX_PENDING
                && self.writer.is_some()
                && let Some((frames, count)) = kept.again()
            {
                self.write(frames);
                kept.wrote(count);
            }
        }
        self.declared = declared;
    }

    fn push_declare(&mut self, channel: u16) {
        let (epoch, connection) = (self.epoch, self.connection);
        let Some(declared) = self.declared.get_mut(usize::from(channel)) else {
            return;
        };
        let mut places = Vec::new();
        let (before, direction, window) = match &mut declared.end {
            End::Output(kept) => {
                let Beginning { next, again } = kept.begin();
                declared.dropped.here = 0;
                (Frame::Keep { channel, epoch, next, again }, Direction::Output, 0)
            }
            End::Input(queue) => {
                let Some(window) = queue.begin(connection) else { return };
                places = queue.places();
                (Frame::Recognise { channel }, Direction::Input, window)
            }
        };
        let declare = Frame::Declare(Declare {
            channel,
            direction,
            name: declared.name,
            schema: &declared.form.schema,
            hash: Some(declared.form.hash.0),
            window,
        });
        let takes = declared.also.iter().map(|form| Frame::Takes {
            channel,
            schema: &form.schema,
            hash: Some(form.hash.0),
        });
        let mut bytes = Vec::new();
        let places = places.into_iter().map(|(sender, next)| Frame::From {
            channel,
            sender: Some(sender),
            next,
            kept: false,
        });
        let report = (direction == Direction::Output).then_some(Frame::Report { channel });
        for frame in takes.chain([before, declare]).chain(report).chain(places) {
            // A name and a schema within their bounds always fit a frame; the others are short.
            let _ = frame::append(&mut bytes, &frame, frame::MAX_RUNTIME);
        }
        self.pending.extend_from_slice(&bytes);
    }

    /// False if the frame would be too long.
    fn push(&mut self, frame: &Frame<'_>) -> bool {
        match frame::encode(frame, frame::MAX_RUNTIME) {
            Ok(bytes) => {
                self.pending.extend_from_slice(&bytes);
                true
            }
            Err(_) => false,
        }
    }

    /// Writes frames behind what is pending; what the kernel does not take becomes pending.
    fn write(&mut self, frames: &[u8]) {
        let mut frames = frames;
        if self.pending.is_empty() {
            while !frames.is_empty() {
                match self.try_write(frames) {
                    Some(written) => frames = &frames[written..],
                    None => break,
                }
            }
        }
        self.pending.extend_from_slice(frames);
    }

    fn write_pending(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        let mut rest = &pending[..];
        while !rest.is_empty() {
            match self.try_write(rest) {
                Some(written) => rest = &rest[written..],
                None => break,
            }
        }
        let done = pending.len() - rest.len();
        self.pending = pending;
        self.pending.advance(done);
        // Does not keep the memory of one huge message for ever.
        if self.pending.is_empty() && self.pending.capacity() > 2 * MAX_PENDING {
            self.pending = BytesMut::new();
        }
    }

    /// How many bytes the kernel took; none if it takes no more now, or never again.
    fn try_write(&mut self, bytes: &[u8]) -> Option<usize> {
        let error = match self.writer.as_ref()?.try_write(bytes) {
            Ok(0) => io::Error::from(io::ErrorKind::WriteZero),
            Ok(written) => return Some(written),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(error) => error,
        };
        self.last_error = Some(format!("writing failed: {error}"));
        self.writer = None;
        None
    }
}
