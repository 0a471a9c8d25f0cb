//! One instance's log, as the rest of the daemon sees it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use orchestrator_proto::InstanceId;
use orchestrator_proto::control::{LogLine, LogRules, LogStream};

use super::file::Position;
use super::link::Link;
use super::names::delete_all;
use super::outbox::{Outbox, Run};
use super::read::{LogReader, ReadItem, ReadQuery};
use super::record::now_ns;
use super::rules::Rules;
use super::socket::Watched;
use super::source::Pipes;
use super::wire::{MAX_RUNS, ProcessId, State};
use super::{LogError, LogStats};
use crate::shown::Shower;

/// The most lines that tell why a program did not become ready: 10.
const LAST_LINES: usize = 10;
/// The most bytes of each of them: 500.
const LAST_BYTES: usize = 500;

/// One instance's log. Clones are the same log; it lives until it is closed, with or
/// without handles.
#[derive(Clone, Debug)]
pub struct InstanceLog {
    pub(super) shared: Arc<Shared>,
}

/// What the handles, the readers and the link to the capture process have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) instance: InstanceId,
    pub(super) dir: PathBuf,
    link: Arc<Link>,
    outbox: Mutex<Outbox>,
    /// When the pipes of the last run were attached, nanoseconds since 1970 (UTC); 0 before.
    last_run_ns: AtomicU64,
    /// Tells readers that the log has grown, and whoever waits for the end of the output.
    pub(super) progress: Shower<Progress>,
}

#[derive(Clone, Default, Debug)]
pub(super) struct Progress {
    /// Where the log ended when this was heard of.
    pub(super) end: Position,
    /// Whether the capture process said so, and still is the one that said it.
    pub(super) exact: bool,
    /// The last look that was answered.
    pub(super) looked: u64,
    /// Runs whose pipes were attached and have not both come to their end.
    pub(super) runs: usize,
    /// Why nothing comes, while that is so.
    pub(super) trouble: Option<Arc<str>>,
    /// Nothing will be written any more.
    pub(super) closed: bool,
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

    /// Has the two pipes of a run read until their ends. `run` is different for each run of
    /// the instance, also beyond the end of this daemon: what is attached already is not
    /// attached twice. The pipes become non-blocking (the reading ends only) and, if the system
    /// permits, 256 KiB large. An instance that is started again attaches its new pipes
    /// likewise, whether or not the old ones have ended.
    ///
    /// Never waits: until the capture process takes them the pipes wait here, and the instance
    /// when they are full. What is no pipe is told of in the log.
    ///
    /// # Errors
    ///
    /// [`LogError::Attach`] if 32 runs of the instance are being read; [`LogError::Closed`].
    pub fn attach(&self, run: u64, stdout: OwnedFd, stderr: OwnedFd) -> Result<(), LogError> {
        let pipes = Arc::new(Pipes { stdout, stderr });
        self.shared.last_run_ns.store(now_ns(), Ordering::Relaxed);
        self.shared.add(Run::new(run, Some(pipes)))
    }

    /// The same for a run whose pipes the [`PipeSource`](super::PipeSource) has: one that was
    /// started by an earlier daemon. If the capture process reads them already, it goes on.
    ///
    /// # Errors
    ///
    /// As [`attach`](Self::attach).
    pub fn adopt(&self, run: u64) -> Result<(), LogError> {
        self.shared.add(Run::new(run, None))?;
        self.shared.clone().fetch_missing();
        Ok(())
    }

    /// Changes what is kept, while whatever prints goes on. The bounds count for what is written
    /// from then on; files beyond the number that is kept are deleted, the oldest first; complete
    /// files are compressed from then on, or not; who waits for a full disk and is not to wait any
    /// more goes on, and what was held for it is counted as lost. Never waits: the capture process
    /// is told when it is there.
    pub fn set_rules(&self, rules: &LogRules) {
        let rules = Rules::new(self.shared.link.config, rules);
        let mut outbox = self.shared.outbox();
        outbox.set_rules(rules);
        self.shared.flush(&mut outbox);
    }

    /// Adds lines that come from inside the daemon: telemetry, or its own remarks. Never
    /// waits: when 1,024 texts or 1 MiB wait already, or the log is closed, the text is
    /// counted as lost.
    ///
    /// Each newline ends a line, and so does the end of the text.
    pub fn append(&self, stream: LogStream, text: &[u8]) {
        let mut outbox = self.shared.outbox();
        outbox.append(now_ns(), stream, text);
        self.shared.flush(&mut outbox);
    }

    /// What became of the output since the log was opened, as it was last heard of: exact
    /// when all pipes have ended, else at most two seconds old as far as losses are concerned.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        self.shared.outbox().stats()
    }

    /// Waits until all pipes that are attached have come to their end, and all that came out
    /// of them has been written or counted as lost. A pipe has no end while any process holds
    /// its other end open, so the caller should have a deadline.
    pub async fn drained(&self) {
        self.wait(|progress| progress.runs == 0).await;
    }

    /// Stops reading, after what is in the pipes now (at most 1 MiB of each). Followers come
    /// to the end. The files stay. Returns when nothing will be written any more. If there is
    /// no capture process now, what is in the pipes is not read.
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

    /// When the pipes of the last run were attached, nanoseconds since 1970 (UTC); 0 if none
    /// were by this daemon.
    #[must_use]
    pub fn last_run_ns(&self) -> u64 {
        self.shared.last_run_ns.load(Ordering::Relaxed)
    }

    /// The last lines of the run that began then (see [`last_run_ns`](Self::last_run_ns)): at
    /// most 10 of its own two streams, the oldest first, each shortened to 500 bytes. Empty if
    /// there are none, or they can't be read.
    pub async fn last_lines(&self, run_ns: u64) -> Vec<String> {
        if run_ns == 0 {
            return Vec::new();
        }
        let query = ReadQuery {
            since_ns: Some(run_ns),
            // It may run again by now.
            until_ns: Some(self.last_run_ns()).filter(|next| *next > run_ns),
            // Remarks and telemetry among them are passed over.
            tail: Some(4 * LAST_LINES as u64),
            ..ReadQuery::default()
        };
        let mut reader = LogReader::open(self, query);
        let mut last = LastLines::default();
        while let Ok(Some(items)) = reader.next_batch().await {
            for item in items {
                if let ReadItem::Line(line) = item {
                    last.push(&line);
                }
            }
        }
        last.lines.into()
    }

    async fn wait(&self, reached: impl FnMut(&Progress) -> bool) {
        // Fails only without a sender, and that lives as long as this handle.
        let _ = self.shared.progress.subscribe().wait_for(reached).await;
    }
}

/// The last lines of a run, for people.
#[derive(Default)]
struct LastLines {
    lines: VecDeque<String>,
    /// Streams whose last line has not ended, and which it is, counted from the newest.
    open: Option<LogStream>,
}

impl LastLines {
    fn push(&mut self, line: &LogLine) {
        if !matches!(line.stream, LogStream::Stdout | LogStream::Stderr) {
            return;
        }
        let text = line.text.to_string();
        match self.lines.back_mut().filter(|_| self.open == Some(line.stream)) {
            Some(begun) => begun.push_str(&text),
            // The end of a line that was torn by another one's, or by the end of its program.
            None if text.is_empty() => return,
            None => self.lines.push_back(text),
        }
        self.open = (!line.complete).then_some(line.stream);
        if let Some(last) = self.lines.back_mut()
            && last.len() > LAST_BYTES
        {
            let cut = (0..=LAST_BYTES).rev().find(|at| last.is_char_boundary(*at));
            last.truncate(cut.unwrap_or(0));
            last.push('…');
        }
        if self.lines.len() > LAST_LINES {
            self.lines.pop_front();
        }
    }
}

/// For handles and readers.
impl Shared {
    pub(super) fn new(
        link: Arc<Link>,
        instance: InstanceId,
        dir: PathBuf,
        rules: Rules,
        end: Position,
    ) -> Self {
        let progress = Shower::new(Progress { end, ..Progress::default() });
        Self {
            instance,
            dir,
            link,
            outbox: Mutex::new(Outbox::new(rules)),
            last_run_ns: AtomicU64::new(0),
            progress,
        }
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        // What a panicking thread leaves here is whole: each change is one assignment.
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(self: &Arc<Self>, run: Run) -> Result<(), LogError> {
        let mut outbox = self.outbox();
        if outbox.is_closing() {
            return Err(LogError::Closed(self.instance));
        }
        let known = outbox.runs.iter().any(|known| known.run == run.run);
        if !known && outbox.runs.len() >= MAX_RUNS {
            return Err(LogError::Attach(self.instance));
        }
        if let Some(pipes) = &run.pipes {
            self.link.source().keep(self.instance, run.run, pipes);
        }
        if !known {
            // Most have one, and a vector that grows by itself begins with four.
            outbox.runs.reserve_exact(1);
            outbox.runs.push(run);
            self.progress.send_modify(|progress| progress.runs = outbox.runs.len());
            self.flush(&mut outbox);
        }
        Ok(())
    }

    /// Asks how the log stands. The answer is the number of the look that has to be answered.
    pub(super) fn look(self: &Arc<Self>) -> u64 {
        let mut outbox = self.outbox();
        let number = outbox.look();
        self.flush(&mut outbox);
        number
    }

    /// Asks to be told when the log has grown beyond this.
    pub(super) fn watch(self: &Arc<Self>, beyond: Position) {
        let mut outbox = self.outbox();
        // What is wanted already is told of no later.
        if outbox.watch(beyond) {
            self.flush(&mut outbox);
        }
    }

    /// Asks the capture process to read what is in the pipes now, and to close the log.
    pub(super) fn request_close(self: &Arc<Self>) {
        let mut outbox = self.outbox();
        outbox.request_close();
        self.flush(&mut outbox);
        drop(outbox);
        // Else somebody will close it, or give it up, soon.
        if self.progress.borrow().trouble.is_some() {
            self.set_closed();
        }
    }

    /// Sends what waits, unless it waits for its turn.
    fn flush(self: &Arc<Self>, outbox: &mut Outbox) {
        if !outbox.is_queued && !outbox.send(self.instance, self) {
            outbox.is_queued = true;
            self.link.queue(self.clone());
        }
    }

    /// Has the pipes fetched that are to be attached and are not here.
    fn fetch_missing(self: Arc<Self>) {
        if self.outbox().missing().is_empty() {
            return;
        }
        let link = self.link.clone();
        link.spawn(async move {
            let missing = self.outbox().missing();
            for run in missing {
                let pipes = self.link.fetch(self.instance, run).await;
                self.fetched(run, pipes);
            }
        });
    }

    fn fetched(self: &Arc<Self>, run: u64, pipes: io::Result<Option<Arc<Pipes>>>) {
        let mut outbox = self.outbox();
        match pipes {
            Ok(Some(pipes)) => outbox.set_pipes(run, pipes),
            Ok(None) => {
                outbox.runs.retain(|known| known.run != run);
                self.progress.send_modify(|progress| progress.runs = outbox.runs.len());
                let text = "what it prints can't be read any more: its pipes are lost";
                outbox.append(now_ns(), LogStream::Orchestrator, text.as_bytes());
            }
            Err(error) => {
                tracing::warn!(instance = %self.instance, %error, "no pipes to be read");
                self.link.retry_later(self.clone());
            }
        }
        self.flush(&mut outbox);
    }
}

/// For the link: what it heard.
impl Shared {
    /// There is a connection.
    pub(super) fn connected(self: &Arc<Self>, socket: &Arc<Watched>) {
        let mut outbox = self.outbox();
        outbox.connect(socket);
        self.flush(&mut outbox);
    }

    /// There is room in the socket again. Whether it was enough.
    pub(super) fn send_rest(&self) -> bool {
        let mut outbox = self.outbox();
        outbox.is_queued = !outbox.send(self.instance, self);
        !outbox.is_queued
    }

    pub(super) fn is_settled(&self) -> bool {
        self.outbox().is_settled()
    }

    /// Says nothing more on this connection. False if there is something to be said before.
    pub(super) fn pause(&self) -> bool {
        self.outbox().pause()
    }

    /// Whether the log does not tell yet of what is missing in it.
    pub(super) fn is_failing(&self) -> bool {
        self.outbox().stats().failing
    }

    /// It is not in the link's queue any more.
    pub(super) fn dequeued(&self) {
        self.outbox().is_queued = false;
    }

    pub(super) fn opened(self: &Arc<Self>, state: State, process: ProcessId) {
        let mut outbox = self.outbox();
        outbox.opened(&state, process);
        self.apply(outbox, state);
        let mut outbox = self.outbox();
        self.flush(&mut outbox);
        drop(outbox);
        self.clone().fetch_missing();
    }

    pub(super) fn progressed(&self, state: State) {
        self.apply(self.outbox(), state);
    }

    fn apply(&self, mut outbox: MutexGuard<'_, Outbox>, state: State) {
        let ended = outbox.apply(&state);
        let runs = outbox.runs.len();
        self.progress.send_modify(|progress| {
            progress.end = state.end;
            progress.exact = true;
            progress.looked = progress.looked.max(state.looked);
            progress.runs = runs;
            progress.trouble = None;
        });
        drop(outbox);
        self.release(ended);
    }

    pub(super) fn failed(self: &Arc<Self>, error: &str) {
        tracing::error!(instance = %self.instance, error, "its log can't be opened");
        self.outbox().failed();
        self.set_trouble(&format!("its log can't be opened: {error}").into());
        self.link.retry_later(self.clone());
    }

    pub(super) fn refused(self: &Arc<Self>, run: u64, error: &str, passing: bool) {
        tracing::error!(instance = %self.instance, run, error, "its output can't be captured");
        if passing {
            self.outbox().not_attached(run);
            self.link.retry_later(self.clone());
        }
    }

    /// Tries again what went wrong and may go well.
    pub(super) fn retry(self: &Arc<Self>) {
        let mut outbox = self.outbox();
        outbox.open_again();
        self.flush(&mut outbox);
        let open = outbox.is_open();
        drop(outbox);
        if open {
            self.clone().fetch_missing();
        }
    }

    pub(super) fn closed(&self, state: State) {
        let mut outbox = self.outbox();
        if outbox.goes_on() {
            self.apply(outbox, state);
            return;
        }
        drop(outbox);
        // If it was closed long ago, this says nothing.
        if state != State::default() {
            self.apply(self.outbox(), state);
        }
        self.set_closed();
    }

    /// The connection has ended.
    pub(super) fn disconnected(&self) {
        self.outbox().disconnect();
        self.progress.send_modify(|progress| progress.exact = false);
    }

    /// Nothing comes, for a while at least. A log that is to be closed is not kept for that.
    pub(super) fn set_trouble(&self, why: &Arc<str>) {
        self.progress.send_modify(|progress| {
            progress.exact = false;
            progress.trouble = Some(why.clone());
        });
        // After it was said: a request to close it sees that, or is seen here.
        if self.outbox().is_closing() {
            self.set_closed();
        }
    }

    /// Nothing will be written any more, whatever the reason.
    pub(super) fn set_closed(&self) {
        // First out of the registry: whoever sees it closed may open it again.
        self.link.forget(self);
        let runs = self.outbox().set_closed();
        self.release(runs);
        self.progress.send_modify(|progress| {
            progress.runs = 0;
            progress.closed = true;
        });
    }

    fn release(&self, runs: Vec<u64>) {
        for run in runs {
            self.link.source().release(self.instance, run);
        }
    }
}
