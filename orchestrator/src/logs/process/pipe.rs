//! One pipe that is being read.
//!
//! Each pipe has a task; a turn is one read of at most 64 KiB and one write, and after a turn
//! everybody else comes first.

use std::io;
use std::rc::Rc;

use orchestrator_proto::control::LogStream;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::log::Log;
use crate::logs::QUIET;
use crate::logs::lines::Splitter;
use crate::logs::record::{Batch, now_ns};
use crate::logs::writer::Writer;

/// The most bytes of one turn, with those that wait for the end of their line: what is lost if
/// this process is killed, at most.
pub(super) const TURN_BYTES: usize = 64 << 10;
/// The most bytes that are read from a pipe when its log is closed: no pipe of an ordinary
/// user holds more.
const LAST_BYTES: usize = 1 << 20;
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
        let begins = self.writer.begins_line(stream, complete);
        self.batch.push_part(time_ns, stream, begins, complete, text);
        if self.batch.bytes().len() >= BATCH_BYTES {
            self.write();
        }
    }

    pub(super) fn write(&mut self) {
        self.writer.write(self.batch);
        self.batch.clear(2 * BATCH_BYTES);
    }
}

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
    pipe: Receiver,
    lines: Splitter,
    last_data: Instant,
    /// Dropped last, after all has been written.
    open: OpenPipe,
}

enum Turn {
    Data(usize),
    Nothing,
    End,
}

impl Pipe {
    pub(super) fn new(stream: LogStream, pipe: Receiver, open: OpenPipe) -> Self {
        Self { stream, pipe, lines: Splitter::default(), last_data: Instant::now(), open }
    }

    /// Reads until the end of the pipe or, once stopped, of what is in it.
    pub(super) async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        loop {
            let waiting = self.lines.is_waiting();
            tokio::select! {
                biased;
                // Also when that was before this pipe came.
                _ = stopped.wait_for(|stopped| *stopped) => {
                    self.read_rest();
                    break;
                }
                ready = self.pipe.readable() => {
                    if let Err(error) = ready {
                        self.give_up(&error);
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
            self.open.log.tear(self.stream);
        }
    }

    /// One read, one write.
    fn turn(&mut self, read: impl FnOnce(&Receiver, &mut [u8]) -> io::Result<usize>) -> Turn {
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
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {}
                    _ => {
                        turn = Turn::End;
                        failed = Some(error);
                    }
                },
            }
        });
        if let Some(error) = failed {
            self.give_up(&error);
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
            // Past the runtime, which may not have looked at this pipe yet.
            match self.turn(|pipe, buffer| Ok(nix::unistd::read(pipe, buffer)?)) {
                Turn::Data(count) => read += count,
                Turn::Nothing | Turn::End => break,
            }
        }
    }

    fn give_up(&self, error: &io::Error) {
        self.open.log.remark(&format!("{} is no longer read: {error}", self.stream));
    }
}
