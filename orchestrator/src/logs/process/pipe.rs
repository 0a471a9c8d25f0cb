//! One pipe that is being read.
//!
//! It has a task while there is something to be done; a turn is one read of at most 64 KiB and one
//! write, and after a turn everybody else comes first.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use orchestrator_proto::control::LogStream;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::log::{Log, Refused, TOO_MUCH};
use super::pipes::{PipeNumber, Pipes, WatchedPipe};
use crate::logs::QUIET;
use crate::logs::lines::Splitter;
use crate::logs::record::{Batch, now_ns};
use crate::logs::wire::words;
use crate::logs::writer::Writer;

/// The most bytes of one turn, with those that wait for the end of their line: what is lost if
/// this process is killed, at most.
pub(super) const TURN_BYTES: usize = 64 << 10;
/// The most bytes that are read from a pipe when its log is closed: no pipe of an ordinary
/// user holds more.
const LAST_BYTES: usize = 1 << 20;
/// How long an instance may print faster than can be written before anything is lost for that, if
/// it is not to wait.
const FLOOD: Duration = Duration::from_millis(100);
/// Records of very short lines are many times longer than the lines; beyond this much of them
/// a turn is written in several pieces.
const BATCH_BYTES: usize = 256 << 10;

/// What all pipes use in turns, so that an idle one has no buffers.
pub(super) struct Buffers {
    read: Box<[u8]>,
    batch: Batch,
}

impl Buffers {
    pub(super) fn new() -> Self {
        Self { read: vec![0; TURN_BYTES].into(), batch: Batch::default() }
    }

    /// The buffer for what is read, and where it goes.
    pub(super) fn sink<'a>(&'a mut self, writer: &'a mut Writer) -> (&'a mut [u8], Sink<'a>) {
        (&mut self.read, Sink { batch: &mut self.batch, writer })
    }
}

/// Where records go during a turn.
pub(super) struct Sink<'a> {
    batch: &'a mut Batch,
    writer: &'a mut Writer,
}

impl Sink<'_> {
    pub(super) fn push(&mut self, time_ns: u64, stream: LogStream, complete: bool, text: &[u8]) {
        // For output it makes no difference.
        let begins = matches!(stream, LogStream::Stdout | LogStream::Stderr)
            || self.writer.begins_line(stream, complete);
        self.batch.push_part(time_ns, stream, begins, complete, text);
        if self.batch.bytes().len() >= BATCH_BYTES {
            self.write();
        }
    }

    /// Whether there is no room for anything that does not wait.
    pub(super) fn is_full(&self) -> bool {
        self.writer.is_full()
    }

    /// Counts a text as lost for which there was no room.
    pub(super) fn lose(&mut self, stream: LogStream, len: usize, complete: bool, time_ns: u64) {
        let bytes = len as u64 + u64::from(complete);
        self.writer.lose(stream, bytes, time_ns, time_ns, TOO_MUCH);
    }

    pub(super) fn write(&mut self) {
        self.writer.write(self.batch);
        self.batch.clear(2 * BATCH_BYTES);
    }
}

/// What a pipe should hold, so that a program that prints in bursts does not wait: 256 KiB.
const PIPE_BYTES: i32 = 256 << 10;

/// Counts as an open pipe of its log until it is dropped.
pub(super) struct OpenPipe {
    pub(super) log: Rc<Log>,
    pub(super) run: u64,
    pub(super) index: usize,
}

impl Drop for OpenPipe {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let instance = self.log.instance;
            self.log.hub.notice(&format!("reading a pipe of instance {instance} has panicked"));
        }
        self.log.pipe_ended(self.run, self.index);
    }
}

/// A pipe that is being read.
pub(super) struct Pipe {
    stream: LogStream,
    pipe: WatchedPipe,
    lines: Splitter,
    last_data: Instant,
    /// The instance waits, or is about to, when there are so many bytes in the pipe.
    nearly_full: u64,
    /// Since when there were that many after each turn.
    flooded_since: Option<Instant>,
    /// The last look that came to it.
    looks: u64,
    /// Dropped last, after all has been written.
    open: OpenPipe,
}

enum Turn {
    Data(usize),
    Nothing,
    End,
}

impl Pipe {
    pub(super) fn new(stream: LogStream, pipe: WatchedPipe, open: OpenPipe) -> Self {
        let size = rustix::pipe::fcntl_getpipe_size(&pipe).unwrap_or(64 << 10) as u64;
        Self {
            stream,
            pipe,
            lines: Splitter::default(),
            last_data: Instant::now(),
            nearly_full: size / 4 * 3,
            flooded_since: None,
            looks: open.log.looks.get(),
            open,
        }
    }

    pub(super) fn number(&self) -> PipeNumber {
        self.pipe.number()
    }

    /// Reads until the end of the pipe or, once stopped, of what is in it. True if it has not come
    /// to that, and there is nothing to be done until there is news. By reference, because a future
    /// that is given what it works on has room for it twice.
    pub(super) async fn go_on(&mut self, news: &Notify) -> bool {
        loop {
            let log = &self.open.log;
            if log.is_stopped() {
                self.read_rest();
                break;
            }
            if log.is_blocked() {
                return true;
            }
            if log.looks.get() != self.looks {
                if self.look().await {
                    break;
                }
                continue;
            }
            match self.turn() {
                Turn::Data(_) => {
                    self.discard_flood();
                    tokio::task::yield_now().await;
                }
                Turn::Nothing if self.lines.is_waiting() => {
                    // A timer has its room only while it runs.
                    let quiet = Box::pin(timeout_at(self.last_data + QUIET, news.notified()));
                    if quiet.await.is_err() {
                        self.flush();
                    }
                }
                Turn::Nothing => return true,
                Turn::End => break,
            }
        }
        self.flush();
        if self.lines.is_open() {
            self.open.log.tear(self.stream);
        }
        false
    }

    /// One read, one write.
    fn turn(&mut self) -> Turn {
        let mut turn = Turn::Nothing;
        let mut failed = None;
        let (stream, pipe, lines) = (self.stream, &self.pipe, &mut self.lines);
        self.open.log.write(|buffer, sink| {
            let room = buffer.len() - lines.waiting();
            match read(pipe, &mut buffer[..room]) {
                Ok(0) => turn = Turn::End,
                Ok(count) => {
                    let time_ns = now_ns();
                    lines.push(&buffer[..count], |text, complete| {
                        sink.push(time_ns, stream, complete, text);
                    });
                    turn = Turn::Data(count);
                }
                Err(Errno::EAGAIN) => {}
                Err(error) => {
                    turn = Turn::End;
                    failed = Some(error);
                }
            }
        });
        if let Some(error) = failed {
            self.give_up(error);
        }
        if matches!(turn, Turn::Data(_)) {
            self.last_data = Instant::now();
        }
        turn
    }

    fn flush(&mut self) {
        if self.lines.is_waiting() {
            let (stream, lines) = (self.stream, &mut self.lines);
            self.open.log.write(|_, sink| {
                lines.flush(|text, complete| sink.push(now_ns(), stream, complete, text));
            });
        }
    }

    fn read_rest(&mut self) {
        let mut read = 0;
        while read < LAST_BYTES {
            match self.turn() {
                Turn::Data(count) => read += count,
                Turn::Nothing | Turn::End => break,
            }
        }
    }

    /// Reads what is in the pipe now, because somebody wants to know. Whether the pipe has ended.
    async fn look(&mut self) -> bool {
        let epoch = self.open.log.looks.get();
        self.looks = epoch;
        let mut read = 0;
        let mut ended = false;
        while read < LAST_BYTES && !self.open.log.is_blocked() {
            match self.turn() {
                Turn::Data(count) => read += count,
                Turn::Nothing => break,
                Turn::End => {
                    ended = true;
                    break;
                }
            }
            tokio::task::yield_now().await;
        }
        // At the end of the pipe, its end is what is waited for.
        if !ended {
            self.open.log.looked(self.open.run, self.open.index, epoch);
        }
        ended
    }

    /// If the instance prints faster than can be written and is not to wait for that: reads what
    /// is in its pipe without writing it.
    fn discard_flood(&mut self) {
        if !self.open.log.drops() {
            return;
        }
        let waiting = rustix::io::ioctl_fionread(&self.pipe).unwrap_or(0);
        if waiting < self.nearly_full {
            self.flooded_since = None;
            return;
        }
        if self.flooded_since.get_or_insert_with(Instant::now).elapsed() < FLOOD {
            return;
        }
        // Before the gap, not after it.
        self.flush();
        let from_ns = now_ns();
        let lost = self.open.log.discard(|buffer| {
            let mut lost = 0;
            while lost < waiting {
                let most = usize::try_from(waiting - lost).unwrap_or(usize::MAX);
                let most = most.min(buffer.len());
                match read(&self.pipe, &mut buffer[..most]) {
                    // An end or an error is seen by the next turn.
                    Ok(0) | Err(_) => break,
                    Ok(count) => lost += count as u64,
                }
            }
            lost
        });
        self.open.log.lose(self.stream, lost, from_ns, now_ns());
    }

    fn give_up(&self, error: Errno) {
        self.open.log.remark(&format!("{} is no longer read: {error}", self.stream));
    }
}

/// `EAGAIN` if there is nothing.
fn read(pipe: impl AsFd, buffer: &mut [u8]) -> nix::Result<usize> {
    loop {
        match nix::unistd::read(&pipe, buffer) {
            Err(Errno::EINTR) => {}
            read => return read,
        }
    }
}

/// Looks whether it is the reading end of a pipe, makes it non-blocking and large, and watches it.
pub(super) fn prepare(pipes: &Rc<Pipes>, pipe: OwnedFd) -> Result<WatchedPipe, Refused> {
    let never = |error: String| Refused { error, passing: false };
    // More is refused to users who have many large pipes; it works with a small one too.
    if let Err(Errno::EBADF) = fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES)) {
        return Err(never("it is not a pipe".to_owned()));
    }
    let flags = fcntl(&pipe, FcntlArg::F_GETFL).map_err(|error| never(error.to_string()))?;
    let flags = OFlag::from_bits_retain(flags);
    if flags & OFlag::O_ACCMODE == OFlag::O_WRONLY {
        return Err(never("it is the writing end of a pipe".to_owned()));
    }
    fcntl(&pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))
        .map_err(|error| never(error.to_string()))?;
    pipes.watch(pipe).map_err(|error| Refused { error: words(&error), passing: true })
}
