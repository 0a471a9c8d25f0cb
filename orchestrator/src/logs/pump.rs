//! Reads the pipes of one instance and writes what comes out of them.
//!
//! All of this runs on one thread. Each pipe has a task; a turn is one read of at most 64 KiB
//! and one write, and after a turn everybody else comes first.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use orchestrator_proto::control::LogStream;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::QUIET;
use super::instance::{AttachedPipe, Inbox, OpenPipe, Shared};
use super::lines::Splitter;
use super::record::{Batch, now_ns};
use super::writer::Writer;

/// The most bytes of one turn.
const TURN_BYTES: usize = 64 << 10;
/// The most bytes that are read from a pipe when its log is closed: no pipe of an ordinary
/// user holds more.
const LAST_BYTES: usize = 1 << 20;
/// Records of very short lines are many times longer than the lines; beyond this much of them
/// a turn is written in several pieces.
const BATCH_BYTES: usize = 256 << 10;
/// How often it is tried whether writing works again, while nothing is printed.
const RETRY: Duration = Duration::from_secs(2);

/// What all instances use in turns, so that an idle one has no buffers.
pub(super) struct Buffers {
    read: Box<[u8]>,
    batch: Batch,
}

impl Buffers {
    pub(super) fn new() -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self { read: vec![0; TURN_BYTES].into(), batch: Batch::default() }))
    }
}

/// One instance's log, on the thread.
struct Log {
    shared: Arc<Shared>,
    writer: Writer,
    buffers: Rc<RefCell<Buffers>>,
    /// Streams whose last pipe ended in the middle of a line.
    torn: Vec<LogStream>,
}

/// Serves one log until it is closed.
pub(super) async fn run(shared: Arc<Shared>, writer: Writer, buffers: Rc<RefCell<Buffers>>) {
    let (stop, stopped) = watch::channel(false);
    let mut pipes = JoinSet::new();
    let log =
        Rc::new(RefCell::new(Log { shared: shared.clone(), writer, buffers, torn: Vec::new() }));
    loop {
        let work = shared.take();
        log.borrow_mut().write_texts(&work);
        for attached in work.pipes {
            log.borrow_mut().end_torn_line(attached.stream);
            if let Some(pipe) = Pipe::new(attached, log.clone()) {
                pipes.spawn_local(pipe.run(stopped.clone()));
            }
        }
        if work.close {
            break;
        }
        let owing = log.borrow().writer.is_owing();
        tokio::select! {
            () = shared.wake.notified() => {}
            Some(ended) = pipes.join_next() => {
                if ended.is_err() {
                    tracing::error!(instance = %shared.instance, "reading a pipe has panicked");
                }
            }
            () = sleep_until(Instant::now() + RETRY), if owing => log.borrow_mut().retry(),
        }
    }
    stop.send_replace(true);
    while pipes.join_next().await.is_some() {}
    log.borrow_mut().retry();
}

/// Where records go during a turn.
struct Sink<'a> {
    batch: &'a mut Batch,
    writer: &'a mut Writer,
}

impl Sink<'_> {
    fn push(&mut self, time_ns: u64, stream: LogStream, complete: bool, text: &[u8]) {
        self.batch.push(time_ns, stream, complete, text);
        if self.batch.bytes().len() >= BATCH_BYTES {
            self.write();
        }
    }

    fn write(&mut self) {
        self.writer.write(self.batch);
        self.batch.clear(2 * BATCH_BYTES);
    }
}

impl Log {
    /// Adds what `fill` pushes to the log, in one write if it is not unusually much. `fill`
    /// may use the buffer for what it reads.
    fn write(&mut self, fill: impl FnOnce(&mut [u8], &mut Sink<'_>)) {
        let buffers = self.buffers.clone();
        let Buffers { read, batch } = &mut *buffers.borrow_mut();
        let writer = &mut self.writer;
        let mut sink = Sink { batch, writer };
        fill(read, &mut sink);
        sink.write();
        self.publish();
    }

    /// Writes what the daemon itself has to say.
    fn write_texts(&mut self, work: &Inbox) {
        if !work.texts.is_empty() {
            self.write(|_, sink| {
                for queued in &work.texts {
                    let mut lines = Splitter::default();
                    let mut push = |text: &[u8], complete| {
                        sink.push(queued.time_ns, queued.stream, complete, text);
                    };
                    lines.push(&queued.text, &mut push);
                    lines.push(b"\n", &mut push);
                }
            });
        }
        for dropped in &work.dropped {
            self.writer.lose(
                dropped.stream,
                dropped.bytes,
                dropped.from_ns,
                dropped.to_ns,
                "more was said at once than can wait to be written",
            );
        }
        self.retry();
    }

    /// A new run does not continue the unfinished line of the one before.
    fn end_torn_line(&mut self, stream: LogStream) {
        if let Some(at) = self.torn.iter().position(|&torn| torn == stream) {
            self.torn.swap_remove(at);
            self.write(|_, sink| sink.push(now_ns(), stream, true, b""));
        }
    }

    /// Tells of missing output, if writing works.
    fn retry(&mut self) {
        if self.writer.is_owing() {
            self.writer.write(&Batch::default());
            self.publish();
        }
    }

    fn publish(&self) {
        let failing = self.writer.stats().failing;
        let begins = {
            let mut stats = self.shared.stats();
            let begins = failing && !stats.failing;
            stats.clone_from(self.writer.stats());
            begins
        };
        if begins {
            // So that it is tried again even if nothing more is printed.
            self.shared.wake.notify_one();
        }
        let end = self.writer.end();
        self.shared.progress.send_if_modified(|progress| {
            let moved = progress.end != end;
            progress.end = end;
            moved
        });
    }
}

/// One pipe that is being read.
struct Pipe {
    stream: LogStream,
    pipe: pipe::Receiver,
    lines: Splitter,
    log: Rc<RefCell<Log>>,
    last_data: Instant,
    /// Dropped last, after all has been written.
    _open: OpenPipe,
}

enum Turn {
    Data(usize),
    Nothing,
    End,
}

impl Pipe {
    fn new(attached: AttachedPipe, log: Rc<RefCell<Log>>) -> Option<Self> {
        match pipe::Receiver::from_owned_fd(attached.pipe) {
            Ok(pipe) => Some(Self {
                stream: attached.stream,
                pipe,
                lines: Splitter::default(),
                log,
                last_data: Instant::now(),
                _open: attached.open,
            }),
            Err(error) => {
                remark(&log, attached.stream, &error);
                None
            }
        }
    }

    /// Reads until the end of the pipe or, once stopped, of what is in it.
    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        loop {
            let waiting = self.lines.is_waiting();
            tokio::select! {
                biased;
                _ = stopped.changed() => {
                    self.read_rest();
                    break;
                }
                ready = self.pipe.readable() => {
                    if let Err(error) = ready {
                        remark(&self.log, self.stream, &error);
                        break;
                    }
                }
                () = sleep_until(self.last_data + QUIET), if waiting => {
                    self.flush();
                    continue;
                }
            }
            match self.turn(|pipe, buffer| pipe.try_read(buffer)) {
                Turn::Data(_) => tokio::task::yield_now().await,
                Turn::Nothing => {}
                Turn::End => break,
            }
        }
        self.flush();
        if self.lines.is_open() {
            let torn = &mut self.log.borrow_mut().torn;
            if !torn.contains(&self.stream) {
                torn.push(self.stream);
            }
        }
    }

    /// One read, one write.
    fn turn(&mut self, read: impl FnOnce(&pipe::Receiver, &mut [u8]) -> io::Result<usize>) -> Turn {
        let mut turn = Turn::Nothing;
        let mut failed = None;
        let (stream, pipe, lines) = (self.stream, &self.pipe, &mut self.lines);
        self.log.borrow_mut().write(|buffer, sink| match read(pipe, buffer) {
            Ok(0) => turn = Turn::End,
            Ok(count) => {
                let time_ns = now_ns();
                lines.push(&buffer[..count], |text, complete| {
                    sink.push(time_ns, stream, complete, text);
                });
                turn = Turn::Data(count);
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {}
                _ => {
                    turn = Turn::End;
                    failed = Some(error);
                }
            },
        });
        if let Some(error) = failed {
            remark(&self.log, self.stream, &error);
        }
        if matches!(turn, Turn::Data(_)) {
            self.last_data = Instant::now();
        }
        turn
    }

    fn flush(&mut self) {
        if self.lines.is_waiting() {
            let (stream, lines) = (self.stream, &mut self.lines);
            self.log.borrow_mut().write(|_, sink| {
                lines.flush(|text, complete| sink.push(now_ns(), stream, complete, text));
            });
        }
    }

    fn read_rest(&mut self) {
        let mut read = 0;
        while read < LAST_BYTES {
            // Past the runtime, which may not have looked at this pipe yet.
            match self.turn(|pipe, buffer| Ok(nix::unistd::read(pipe, buffer)?)) {
                Turn::Data(count) => read += count,
                Turn::Nothing | Turn::End => break,
            }
        }
    }
}

fn remark(log: &Rc<RefCell<Log>>, stream: LogStream, error: &io::Error) {
    let text = format!("{stream} is no longer read: {error}");
    let mut log = log.borrow_mut();
    log.write(|_, sink| sink.push(now_ns(), LogStream::Orchestrator, true, text.as_bytes()));
}
