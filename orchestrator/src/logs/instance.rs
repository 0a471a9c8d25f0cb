//! One instance's log, as the rest of the daemon sees it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use orchestrator_proto::InstanceId;
use orchestrator_proto::control::LogStream;
use tokio::sync::{Notify, watch};

use super::file::{Position, delete_all};
use super::record::now_ns;
use super::{LogError, LogStats};

/// The most texts that wait to be written: 1,024.
const MAX_QUEUED: usize = 1024;
/// The most bytes that wait to be written: 1 MiB.
const MAX_QUEUED_BYTES: usize = 1 << 20;
/// The most pipes of one instance that are read at once: 64. Only instances that leave
/// processes behind have more than two.
const MAX_PIPES: usize = 64;
/// What a pipe should hold, so that a program that prints in bursts does not wait: 256 KiB.
const PIPE_BYTES: i32 = 256 << 10;

/// One instance's log. Clones are the same log; it lives until it is closed, with or
/// without handles.
#[derive(Clone, Debug)]
pub struct InstanceLog {
    pub(super) shared: Arc<Shared>,
}

/// What the handles, the readers and the capturing thread have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) instance: InstanceId,
    pub(super) dir: PathBuf,
    inbox: Mutex<Inbox>,
    /// Tells the thread that the inbox has something.
    pub(super) wake: Notify,
    /// Tells readers that the log has grown, and whoever waits for the end of the output.
    pub(super) progress: watch::Sender<Progress>,
    pub(super) stats: Mutex<LogStats>,
}

#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Progress {
    /// Where the log ends: all before it are whole records.
    pub(super) end: Position,
    /// Pipes that were attached and have not come to their end.
    pub(super) pipes: usize,
    /// Nothing will be written any more.
    pub(super) closed: bool,
}

/// What the thread is asked to do, next time it looks.
#[derive(Default, Debug)]
pub(super) struct Inbox {
    pub(super) pipes: Vec<AttachedPipe>,
    pub(super) texts: Vec<QueuedText>,
    queued_bytes: usize,
    pub(super) dropped: Vec<Dropped>,
    pub(super) close: bool,
    closed: bool,
}

/// A text from inside the daemon.
#[derive(Debug)]
pub(super) struct QueuedText {
    pub(super) time_ns: u64,
    pub(super) stream: LogStream,
    pub(super) text: Vec<u8>,
}

/// Texts that found the queue full; one of these for each stream.
#[derive(Debug)]
pub(super) struct Dropped {
    pub(super) stream: LogStream,
    pub(super) bytes: u64,
    pub(super) from_ns: u64,
    pub(super) to_ns: u64,
}

/// A pipe on its way to the thread, or there.
#[derive(Debug)]
pub(super) struct AttachedPipe {
    pub(super) stream: LogStream,
    pub(super) pipe: OwnedFd,
    pub(super) open: OpenPipe,
}

/// Counts as an open pipe until it is dropped.
#[derive(Debug)]
pub(super) struct OpenPipe(Arc<Shared>);

impl OpenPipe {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.progress.send_modify(|progress| progress.pipes += 1);
        Self(shared.clone())
    }
}

impl Drop for OpenPipe {
    fn drop(&mut self) {
        self.0.progress.send_modify(|progress| progress.pipes -= 1);
    }
}

impl Shared {
    pub(super) fn new(instance: InstanceId, dir: PathBuf, end: Position) -> Self {
        let progress = Progress { end, ..Progress::default() };
        Self {
            instance,
            dir,
            inbox: Mutex::default(),
            wake: Notify::new(),
            progress: watch::Sender::new(progress),
            stats: Mutex::default(),
        }
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        // What a panicking thread leaves here is whole: each change is one assignment.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the thread is asked to do.
    pub(super) fn take(&self) -> Inbox {
        let mut inbox = self.inbox();
        let close = inbox.close;
        let work = std::mem::take(&mut *inbox);
        inbox.close = close;
        work
    }

    /// Asks the thread to read what is in the pipes now, and to end.
    pub(super) fn request_close(&self) {
        self.inbox().close = true;
        self.wake.notify_one();
    }

    /// Says that the thread is done with this log, whatever the reason.
    pub(super) fn set_closed(&self) {
        // Dropped after the lock is free: a pipe's end is an event too.
        let rest = {
            let mut inbox = self.inbox();
            let closed = Inbox { close: true, closed: true, ..Inbox::default() };
            std::mem::replace(&mut *inbox, closed)
        };
        let never_written: usize = rest.texts.iter().map(|queued| queued.text.len() + 1).sum();
        self.stats().bytes_lost += never_written as u64;
        drop(rest);
        self.progress.send_modify(|progress| progress.closed = true);
    }
}

impl InstanceLog {
    /// Whose log it is.
    #[must_use]
    pub fn instance(&self) -> InstanceId {
        self.shared.instance
    }

    /// Where its files are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// Begins to read what comes out of a pipe, until its end. The pipe becomes non-blocking
    /// (the reading end only) and, if the system permits, 256 KiB large. An instance that is
    /// started again attaches its new pipes likewise, whether or not the old ones have ended.
    ///
    /// # Errors
    ///
    /// [`LogError::Attach`] if it is no pipe, not its reading end, or the instance has 64 of
    /// them; [`LogError::Closed`].
    pub fn attach(&self, stream: LogStream, pipe: OwnedFd) -> Result<(), LogError> {
        let pipe = prepare(pipe).map_err(|source| self.attach_error(stream, source))?;
        let mut inbox = self.shared.inbox();
        if inbox.closed || inbox.close {
            return Err(LogError::Closed(self.shared.instance));
        }
        if self.shared.progress.borrow().pipes >= MAX_PIPES {
            let source = io::Error::other("64 pipes of it are being read already");
            return Err(self.attach_error(stream, source));
        }
        inbox.pipes.push(AttachedPipe { stream, pipe, open: OpenPipe::new(&self.shared) });
        drop(inbox);
        self.shared.wake.notify_one();
        Ok(())
    }

    /// Adds lines that come from inside the daemon: telemetry, or its own remarks. Never
    /// waits: when 1,024 texts or 1 MiB wait already, or the log is closed, the text is
    /// counted as lost.
    ///
    /// Each newline ends a line, and so does the end of the text.
    pub fn append(&self, stream: LogStream, text: &[u8]) {
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let time_ns = now_ns();
        let bytes = text.len() as u64 + 1;
        let mut inbox = self.shared.inbox();
        if inbox.closed {
            drop(inbox);
            self.shared.stats().bytes_lost += bytes;
            return;
        }
        let room = MAX_QUEUED_BYTES - inbox.queued_bytes;
        if inbox.texts.len() < MAX_QUEUED && text.len() <= room {
            inbox.queued_bytes += text.len();
            inbox.texts.push(QueuedText { time_ns, stream, text: text.to_vec() });
        } else if let Some(dropped) = inbox.dropped.iter_mut().find(|d| d.stream == stream) {
            dropped.bytes += bytes;
            dropped.to_ns = time_ns;
        } else {
            inbox.dropped.push(Dropped { stream, bytes, from_ns: time_ns, to_ns: time_ns });
        }
        drop(inbox);
        self.shared.wake.notify_one();
    }

    /// What became of the output since the log was opened.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        self.shared.stats().clone()
    }

    /// Waits until all pipes that are attached have come to their end, and all that came out
    /// of them has been written or counted as lost. A pipe has no end while any process holds
    /// its other end open, so the caller should have a deadline.
    pub async fn drained(&self) {
        self.wait(|progress| progress.pipes == 0).await;
    }

    /// Stops reading, after what is in the pipes now (at most 1 MiB of each). Followers come
    /// to the end. The files stay. Returns when nothing will be written any more.
    pub async fn close(&self) {
        self.shared.request_close();
        self.wait(|progress| progress.closed).await;
    }

    /// Closes the log and deletes its files, and the directory unless something else is in it.
    ///
    /// # Errors
    ///
    /// [`LogError::Remove`]; some files may be deleted then.
    pub async fn remove(&self) -> Result<(), LogError> {
        self.close().await;
        let dir = self.shared.dir.clone();
        let deleted = tokio::task::spawn_blocking(move || delete_all(&dir)).await;
        deleted
            .unwrap_or_else(|panic| Err(io::Error::other(panic)))
            .map_err(|source| LogError::Remove { dir: self.shared.dir.clone(), source })
    }

    async fn wait(&self, reached: impl FnMut(&Progress) -> bool) {
        // Fails only without a sender, and that lives as long as this handle.
        let _ = self.shared.progress.subscribe().wait_for(reached).await;
    }

    fn attach_error(&self, stream: LogStream, source: io::Error) -> LogError {
        LogError::Attach { instance: self.shared.instance, stream, source }
    }
}

impl Shared {
    pub(super) fn stats(&self) -> MutexGuard<'_, LogStats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn prepare(pipe: OwnedFd) -> io::Result<OwnedFd> {
    let invalid = |message| io::Error::new(io::ErrorKind::InvalidInput, message);
    let file = File::from(pipe);
    if !file.metadata()?.file_type().is_fifo() {
        return Err(invalid("it is not a pipe"));
    }
    let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
    if flags & OFlag::O_ACCMODE == OFlag::O_WRONLY {
        return Err(invalid("it is the writing end of a pipe"));
    }
    fcntl(&file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    // Refused to users who have many large pipes; it works with a small one too.
    let _ = fcntl(&file, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
    Ok(file.into())
}
