//! One log of the capture process: what is read for it, and who wants to know.

mod views;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use orchestrator_proto::InstanceId;
use orchestrator_proto::control::LogStream;

use super::Hub;
use super::client::Outgoing;
use super::packing::Job;
use super::pipe::{OpenPipe, Pipe, Sink, TURN_BYTES, prepare};
use super::pipes::PipeNumber;
use crate::logs::record::{Batch, now_ns};
use crate::logs::rules::Rules;
use crate::logs::wire::{Dropped, MAX_RUNS, OpenLog, Report, Text};
use crate::logs::writer::{RESTARTED, Writer};
use views::View;

/// The two pipes of a run, in the order in which they come.
pub(super) const STREAMS: [LogStream; 2] = [LogStream::Stdout, LogStream::Stderr];
/// Runs that have ended and are remembered, so that they are not attached again.
const MAX_ENDED: usize = 64;
/// Why what comes from inside the daemon is lost.
pub(super) const TOO_MUCH: &str = "more was said at once than can wait to be written";
/// How often a log tells of bytes that were lost, at most.
const TELL: Duration = Duration::from_millis(100);

/// An open log.
pub(super) struct Log {
    pub(super) instance: InstanceId,
    pub(super) dir: Arc<Path>,
    pub(super) hub: Rc<Hub>,
    /// Its pipes are to be read as far as they go at once, and no further.
    stopped: Cell<bool>,
    /// Nothing more is to be read before writing works again.
    blocked: Cell<bool>,
    /// The number of the last look: all pipes are to be read as far as they go at once.
    pub(super) looks: Cell<u64>,
    pub(super) inner: RefCell<Inner>,
}

pub(super) struct Inner {
    pub(super) writer: Writer,
    /// Streams whose last pipe ended in the middle of a line.
    torn: Vec<LogStream>,
    pub(super) runs: Vec<Run>,
    /// The last runs whose pipes have ended.
    ended: VecDeque<u64>,
    /// Whether the log says that another process read before this one.
    told_again: bool,
    /// Whether the hub counts it as owing.
    owing: bool,
    pub(super) closing: bool,
    closed: bool,
    pub(super) views: Vec<View>,
    /// The file that is being compressed.
    pub(super) packing: Option<Job>,
    /// The newest file when it was last seen whether one is to be compressed.
    pub(super) packed_below: u64,
    /// Whether it was said that compressing does not work, since it last did.
    pub(super) told_unpacked: bool,
}

/// A run of which at least one pipe is open.
pub(super) struct Run {
    pub(super) run: u64,
    pub(super) open: [Option<PipeNumber>; STREAMS.len()],
    /// Up to which look they were read.
    pub(super) looked: [u64; STREAMS.len()],
}

/// Why pipes are not read.
pub(super) struct Refused {
    pub(super) error: String,
    /// Whether it may go well later.
    pub(super) passing: bool,
}

impl Log {
    /// Opens a log. Blocks on the disk.
    pub(super) fn open(
        hub: &Rc<Hub>,
        instance: InstanceId,
        dir: Arc<Path>,
        rules: Rules,
    ) -> io::Result<Rc<Self>> {
        let writer = Writer::open(dir.clone(), rules, (hub.settings.disk)())?;
        let inner = Inner {
            writer,
            torn: Vec::new(),
            runs: Vec::new(),
            ended: VecDeque::new(),
            told_again: false,
            owing: false,
            closing: false,
            closed: false,
            views: Vec::new(),
            packing: None,
            packed_below: 0,
            told_unpacked: false,
        };
        let log = Rc::new(Self {
            instance,
            dir,
            hub: hub.clone(),
            stopped: Cell::new(false),
            blocked: Cell::new(false),
            looks: Cell::new(0),
            inner: RefCell::new(inner),
        });
        log.check();
        Ok(log)
    }

    /// Changes what is kept.
    pub(super) fn set_rules(self: &Rc<Self>, rules: Rules) {
        let gives_up = {
            let mut inner = self.inner.borrow_mut();
            inner.writer.set_rules(rules);
            inner.packed_below = 0;
            inner.writer.drops() && inner.writer.is_blocked()
        };
        if gives_up {
            // What is held for room on the disk is written now, or lost.
            self.retry();
        } else {
            self.check();
        }
    }

    /// Whether nothing more is to be read for now.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.get()
    }

    /// Whether nothing is to be read that is not in the pipes already.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.get()
    }

    /// Whether the instance is not to wait for the disk.
    pub(super) fn drops(&self) -> bool {
        self.inner.borrow().writer.drops()
    }

    /// Its entry in an inventory.
    pub(super) fn entry(&self) -> OpenLog {
        let inner = self.inner.borrow();
        let pipes = inner.runs.iter().flat_map(|run| {
            let open = STREAMS.into_iter().zip(run.open).filter(|(_, open)| open.is_some());
            open.map(|(stream, _)| (run.run, stream))
        });
        OpenLog {
            instance: self.instance,
            dir: self.dir.as_os_str().into(),
            end: inner.writer.end(),
            pipes: pipes.collect(),
        }
    }

    /// Begins to read the pipes of a run. Nothing happens if it has been attached before. None
    /// means that this process had no room for them.
    pub(super) fn attach(
        self: &Rc<Self>,
        client: &Rc<Outgoing>,
        run: u64,
        again: bool,
        pipes: Option<[OwnedFd; STREAMS.len()]>,
    ) -> Result<(), Refused> {
        let pipes = {
            let mut inner = self.inner.borrow_mut();
            let known = inner.runs.iter().any(|open| open.run == run) || inner.ended.contains(&run);
            if let Some(view) = inner.view(client) {
                view.attached += 1;
                if known {
                    view.tell_soon(self);
                }
            }
            if known {
                return Ok(());
            }
            if inner.runs.len() >= MAX_RUNS {
                let error = format!("the pipes of {MAX_RUNS} runs of it are being read already");
                return Err(Refused { error, passing: false });
            }
            let Some([stdout, stderr]) = pipes else {
                let error = "the capture process has too many open files".to_owned();
                return Err(Refused { error, passing: true });
            };
            let watched = &self.hub.watched;
            let pipes = [prepare(watched, stdout)?, prepare(watched, stderr)?];
            let looked = [self.looks.get(); STREAMS.len()];
            let open = pipes.each_ref().map(|pipe| Some(pipe.number()));
            inner.runs.reserve_exact(1);
            inner.runs.push(Run { run, open, looked });
            self.hub.pipes.set(self.hub.pipes.get() + pipes.len());
            self.hub.attached.set(self.hub.attached.get() + 1);
            pipes
        };
        for stream in STREAMS {
            self.end_torn_line(stream);
        }
        if again && !std::mem::replace(&mut self.inner.borrow_mut().told_again, true) {
            let text = format!(
                "{RESTARTED} here; up to {TURN_BYTES} bytes that each of stdout and stderr \
                 printed just before may be missing"
            );
            self.remark(&text);
        }
        for (index, pipe) in pipes.into_iter().enumerate() {
            let open = OpenPipe { log: self.clone(), run, index };
            let pipe = Pipe::new(STREAMS[index], pipe, open);
            let number = pipe.number();
            self.hub.watched.rest(Box::new(pipe));
            // The log may be closing, or not be written to.
            self.hub.watched.wake(number);
        }
        self.hub.changed.notify_one();
        Ok(())
    }

    /// A pipe is not read any more.
    pub(super) fn pipe_ended(self: &Rc<Self>, run: u64, index: usize) {
        self.hub.pipes.set(self.hub.pipes.get().saturating_sub(1));
        let mut inner = self.inner.borrow_mut();
        if let Some(at) = inner.runs.iter().position(|open| open.run == run) {
            inner.runs[at].open[index] = None;
            if inner.runs[at].open == [None; STREAMS.len()] {
                inner.runs.remove(at);
                if inner.ended.len() == MAX_ENDED {
                    inner.ended.pop_front();
                }
                inner.ended.push_back(run);
                for view in &mut inner.views {
                    view.tell_soon(self);
                }
            }
        }
        drop(inner);
        self.answer_looks();
        self.finish_if_done();
        self.hub.changed.notify_one();
    }

    /// Something is new for those who read its pipes.
    pub(super) fn wake(&self, runs: &[Run]) {
        for number in runs.iter().flat_map(|run| run.open).flatten() {
            self.hub.watched.wake(number);
        }
    }

    /// Closes it, after what is in its pipes. What can't be written then is lost.
    pub(super) fn close(self: &Rc<Self>) {
        {
            let mut inner = self.inner.borrow_mut();
            if std::mem::replace(&mut inner.closing, true) {
                return;
            }
            inner.writer.give_up_waiting();
            // It has an end only if it was begun.
            inner.packing = inner.packing.take().filter(Job::cancel);
        }
        self.retry();
        self.stopped.set(true);
        self.wake(&self.inner.borrow().runs);
        self.finish_if_done();
    }

    /// Comes to the end of it, if it is being closed and nobody works for it any more.
    pub(super) fn finish_if_done(self: &Rc<Self>) {
        let inner = self.inner.borrow();
        let done = inner.closing && inner.runs.is_empty() && inner.packing.is_none();
        if done && !inner.closed {
            drop(inner);
            self.finish();
        }
    }

    /// Whether it is being closed.
    pub(super) fn is_closing(&self) -> bool {
        self.inner.borrow().closing
    }

    /// Whether nothing will be written to it any more.
    pub(super) fn is_closed(&self) -> bool {
        self.inner.borrow().closed
    }

    fn finish(self: &Rc<Self>) {
        self.retry();
        let mut inner = self.inner.borrow_mut();
        if std::mem::take(&mut inner.owing) {
            self.hub.owing.set(self.hub.owing.get() - 1);
        }
        inner.closed = true;
        self.hub.logs.borrow_mut().remove(&self.instance);
        let clients: Vec<_> = inner.views.iter().map(|view| view.client.clone()).collect();
        for client in clients {
            if let Some(state) = inner.tell(&client) {
                client.answer(Report::Closed { instance: self.instance, state });
            }
        }
        inner.views.clear();
        self.hub.changed.notify_one();
    }

    /// Adds what `fill` pushes to the log, in one write if it is not unusually much. `fill`
    /// may use the buffer for what it reads.
    pub(super) fn write(self: &Rc<Self>, fill: impl FnOnce(&mut [u8], &mut Sink<'_>)) {
        {
            let mut buffers = self.hub.buffers.borrow_mut();
            let mut inner = self.inner.borrow_mut();
            let (read, mut sink) = buffers.sink(&mut inner.writer);
            fill(read, &mut sink);
            sink.write();
        }
        self.check();
    }

    /// Reads without writing; the answer is that of `read`.
    pub(super) fn discard(&self, read: impl FnOnce(&mut [u8]) -> u64) -> u64 {
        let mut buffers = self.hub.buffers.borrow_mut();
        let mut inner = self.inner.borrow_mut();
        read(buffers.sink(&mut inner.writer).0)
    }

    /// Counts output that was read and not written.
    pub(super) fn lose(self: &Rc<Self>, stream: LogStream, bytes: u64, from_ns: u64, to_ns: u64) {
        let reason = "it was printed faster than can be written";
        self.inner.borrow_mut().writer.lose(stream, bytes, from_ns, to_ns, reason);
        self.check();
    }

    /// Writes what the daemon itself has to say.
    pub(super) fn append(self: &Rc<Self>, texts: &[Text], dropped: &[Dropped]) {
        if !texts.is_empty() {
            self.write(|_, sink| {
                for text in texts {
                    if sink.is_full() {
                        sink.lose(text.stream, text.text.0.len(), text.complete, text.time_ns);
                    } else {
                        sink.push(text.time_ns, text.stream, text.complete, &text.text.0);
                    }
                }
            });
        }
        for lost in dropped {
            self.inner.borrow_mut().writer.lose(
                lost.stream,
                lost.bytes,
                lost.from_ns,
                lost.to_ns,
                TOO_MUCH,
            );
        }
        if !dropped.is_empty() {
            self.retry();
        }
    }

    /// Adds a remark of our own.
    pub(super) fn remark(self: &Rc<Self>, text: &str) {
        self.write(|_, sink| sink.push(now_ns(), LogStream::Orchestrator, true, text.as_bytes()));
    }

    /// A pipe of this stream has ended in the middle of a line.
    pub(super) fn tear(&self, stream: LogStream) {
        let torn = &mut self.inner.borrow_mut().torn;
        if !torn.contains(&stream) {
            torn.push(stream);
        }
    }

    /// A new run does not continue the unfinished line of the one before.
    fn end_torn_line(self: &Rc<Self>, stream: LogStream) {
        let torn = {
            let torn = &mut self.inner.borrow_mut().torn;
            let at = torn.iter().position(|&torn| torn == stream);
            at.map(|at| torn.swap_remove(at)).is_some()
        };
        if torn {
            self.write(|_, sink| sink.push(now_ns(), stream, true, b""));
        }
    }

    /// Tells of missing output, if writing works.
    pub(super) fn retry(self: &Rc<Self>) {
        {
            let mut inner = self.inner.borrow_mut();
            if inner.writer.is_owing() {
                inner.writer.write(&Batch::default());
            }
        }
        self.check();
    }

    /// Sees who wants to know what has changed.
    fn check(self: &Rc<Self>) {
        let mut guard = self.inner.borrow_mut();
        let inner = &mut *guard;
        let owing = inner.writer.is_owing();
        if owing != std::mem::replace(&mut inner.owing, owing) {
            let count = self.hub.owing.get();
            self.hub.owing.set(if owing { count + 1 } else { count - 1 });
            self.hub.changed.notify_one();
        }
        let blocked = inner.writer.is_blocked();
        if self.blocked.replace(blocked) != blocked {
            self.wake(&inner.runs);
        }
        let (end, stats) = (inner.writer.end(), inner.writer.stats());
        for view in &mut inner.views {
            let wanted = view.watch.is_some_and(|beyond| end > beyond);
            let changed = stats.failing != view.told_failing;
            let lost = stats.bytes_lost != view.told_lost && view.told_at.elapsed() >= TELL;
            if wanted || changed || lost {
                view.tell_soon(self);
            }
        }
        if blocked && inner.views.iter().any(|view| view.looking.is_some()) {
            drop(guard);
            self.answer_looks();
        } else {
            drop(guard);
        }
        self.pack();
    }
}
