//! The writing half of the connection, and what is declared on it. It outlives each single
//! connection.

mod state;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{Notify, Semaphore, oneshot, watch};

use super::call::Calls;
use super::ends::{Receiving, Sending, Taken};
use super::error::DeclareError;
use super::form::Written;
use super::input::{Queue, Way, When};
use super::writing::Writing;
use crate::runtime::{Frame, MAX_CHANNELS, RuntimeReply, RuntimeRequest};
use crate::{InstanceId, TypeSchema, WireError};

/// Requests that may wait for their answers: as many as a daemon takes from one connection.
pub(super) const MAX_REQUESTS: usize = 16;

/// Ends of lanes that are fetched at once. A daemon takes sixteen connections of an instance.
const MAX_CLAIMS: usize = 4;

/// What handles and the connection's task share.
pub(super) struct Shared {
    pub(super) path: std::path::PathBuf,
    link: Mutex<Link>,
    /// Senders wait here: something was written, granted, or the connection broke.
    pub(super) progress: Arc<Notify>,
    /// The task waits here: there are bytes to write, or writing failed.
    pub(super) kick: Notify,
    pub(super) connected: watch::Sender<bool>,
    /// Ends of lanes are fetched a few at a time: each takes a connection.
    pub(super) claims: Arc<Semaphore>,
    /// The ends of calls.
    pub(super) calls: Calls,
    /// Some input has something to acknowledge, and the task knows.
    acknowledging: AtomicBool,
}

/// The state of the writing half.
pub(super) struct Link {
    pub(super) instance: InstanceId,
    /// Under which this process numbers its messages; see [`Frame::Keep`].
    pub(super) epoch: u64,
    pub(super) writing: Writing,
    /// Counts connections, so that nothing meant for an earlier one is written to a later one.
    pub(super) connection: u64,
    /// By channel.
    declared: Vec<Declared>,
    /// Whether the program has said that it is ready.
    ready: bool,
    requests: HashMap<u32, oneshot::Sender<Result<RuntimeReply, WireError>>>,
    next_request: u32,
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
    Output(Sending),
    Input(Receiving),
}

/// An end that is to be declared.
pub(super) enum NewEnd {
    Output {
        /// Whether the time of sending stands behind each message.
        is_stamped: bool,
    },
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
                writing: Writing::default(),
                connection: 0,
                declared: Vec::new(),
                ready: false,
                requests: HashMap::new(),
                next_request: 0,
            }),
            progress: Arc::default(),
            kick: Notify::new(),
            connected: watch::Sender::new(false),
            claims: Arc::new(Semaphore::new(MAX_CLAIMS)),
            calls: Calls::default(),
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
        end: NewEnd,
    ) -> Result<u16, DeclareError> {
        if name.is_empty() || name.len() > 255 {
            return Err(DeclareError::BadName(name.to_owned()));
        }
        let written = |schema| Written::of(name, schema);
        let form = written(schema)?;
        let also = also.iter().map(written).collect::<Result<Vec<_>, _>>()?;
        let mut link = self.link();
        let is_input = matches!(end, NewEnd::Input(_));
        let direction = |declared: &Declared| matches!(declared.end, End::Input(_));
        let taken = |d: &Declared| d.name == name && direction(d) == is_input;
        if link.declared.iter().any(taken) || self.calls.has(name, is_input) {
            return Err(DeclareError::Duplicate(name.to_owned()));
        }
        let channel = u16::try_from(link.declared.len()).unwrap_or(u16::MAX);
        if usize::from(channel) + self.calls.count() >= usize::from(MAX_CHANNELS) {
            return Err(DeclareError::TooMany);
        }
        link.declared.push(Declared {
            name,
            form,
            also,
            end: match end {
                NewEnd::Input(queue) => End::Input(Receiving::new(queue)),
                NewEnd::Output { is_stamped } => End::Output(Sending::new(is_stamped)),
            },
            dropped: Dropped::default(),
        });
        if link.writing.is_open() {
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
        link.writing.begin(writer);
        link.connection += 1;
        link.writing.push(&Frame::Lanes { memory: true });
        for channel in 0..link.declared.len() {
            link.push_declare(channel as u16);
        }
        self.calls.attach(&mut link);
        if link.ready {
            // The daemon before may have died before it took note.
            link.writing.push(&Frame::Ready);
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
        if link.writing.is_open() {
            link.writing.push(&Frame::Ready);
            self.flush(&mut link);
        }
    }

    /// Ends the connection: whoever waits for it learns of it.
    pub(super) fn detach(&self, reason: String) {
        let mut link = self.link();
        link.writing.end(reason);
        link.requests.clear();
        for declared in &mut link.declared {
            match &mut declared.end {
                End::Output(sending) => sending.detached(),
                End::Input(receiving) => receiving.claiming.clear(),
            }
        }
        self.calls.detach();
        self.connected.send_replace(false);
        drop(link);
        self.progress.notify_waiters();
    }

    /// Writes what the kernel takes now.
    pub(super) fn flush(&self, link: &mut Link) {
        link.writing.flush();
        link.send_again();
        self.rouse_task(link);
        self.progress.notify_waiters();
    }

    /// Has the task write the rest, or clean up after a failure to write.
    fn rouse_task(&self, link: &Link) {
        let is_open = link.writing.is_open();
        if !is_open {
            self.connected.send_replace(false);
        }
        if !is_open || !link.writing.is_idle() {
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
        let is_open = link.writing.is_open();
        let is_full = link.writing.is_full();
        let Some(sending) = link.output(channel) else {
            return (current, Offered::Disconnected);
        };
        // Where all goes by lanes, it does without the daemon.
        let by_daemon = sending.is_wanted;
        let has_copies = sending.kept.waits();
        if by_daemon {
            let is_other = connection.is_some_and(|other| other != current);
            if !has_copies && (!is_open || is_other) {
                return (current, Offered::Disconnected);
            }
            if !is_open {
                return (current, Offered::Waiting);
            }
        }
        let taken = match by_daemon && is_full {
            true => Taken { bytes: 0, messages: 0 },
            false => sending.take(frames, messages),
        };
        let has_copies = sending.kept.waits();
        let Taken { bytes, messages } = taken;
        if bytes > 0 && by_daemon {
            let idle = link.writing.is_idle();
            link.writing.write(&frames[..bytes]);
            // Else the task knows already that there is something to write.
            if idle {
                self.rouse_task(&link);
            }
        }
        let offered = match link.writing.is_open() || !by_daemon {
            // What was kept will be sent, on the next connection if not on this one.
            true => Offered::Taken { bytes, messages },
            false if has_copies => Offered::Taken { bytes, messages },
            false => Offered::Disconnected,
        };
        (current, offered)
    }

    /// The daemon sets an output's limit. False if there is no such output.
    pub(super) fn granted(&self, channel: u16, total: u64) -> bool {
        let mut link = self.link();
        let Some(sending) = link.output(channel) else {
            return false;
        };
        sending.granted(total);
        if sending.kept.is_behind() {
            self.flush(&mut link);
        } else {
            self.progress.notify_waiters();
        }
        true
    }

    /// The daemon acknowledges messages of an output. False if they were never sent.
    pub(super) fn acknowledged(&self, channel: u16, total: u64) -> bool {
        let known = self.link().output(channel).is_some_and(|sending| sending.acknowledged(total));
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

    /// Tells who feeds an input by this way what it is to be told: now, unless the connection is another
    /// one by then, or in a moment.
    pub(super) fn tell(&self, channel: u16, way: Way, when: When) {
        if let Way::Lane(lane) = way {
            return self.tell_lane(channel, lane, when);
        }
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
        if link.writing.is_open() && link.connection == due.connection {
            if let Some(total) = due.acknowledge {
                link.writing.push(&Frame::Acknowledge { channel, total });
            }
            link.writing.push(&Frame::Grant { channel, total: due.grant });
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
        if !link.writing.is_open() {
            return;
        }
        let due: Vec<_> = (0..MAX_CHANNELS)
            .zip(&link.declared)
            .filter_map(|(channel, declared)| match &declared.end {
                End::Input(receiving) => Some((channel, receiving.queue.acknowledge(Way::Daemon)?)),
                End::Output(_) => None,
            })
            .collect();
        for (channel, total) in due {
            link.writing.push(&Frame::Acknowledge { channel, total });
        }
        self.flush(&mut link);
    }

    /// Sends a request; the answer, or the end of the connection, comes from the receiver.
    pub(super) fn request(
        &self,
        request: RuntimeRequest,
    ) -> Result<oneshot::Receiver<Result<RuntimeReply, WireError>>, super::RequestError> {
        let mut link = self.link();
        if !link.writing.is_open() {
            return Err(super::RequestError::Disconnected);
        }
        // Also those that nobody waits for any more: the daemon has not answered them.
        if link.requests.len() >= MAX_REQUESTS {
            return Err(super::RequestError::TooMany);
        }
        let id = link.next_request;
        link.next_request = id.wrapping_add(1);
        if !link.writing.push(&Frame::Request { id, request }) {
            return Err(super::RequestError::TooLong);
        }
        let (sender, receiver) = oneshot::channel();
        link.requests.insert(id, sender);
        self.flush(&mut link);
        Ok(receiver)
    }
}
