//! The room against the real kernel: pipes, files, sockets; here with capture in a thread.

mod apart;
mod blocking;
mod capturing;
mod changing;
mod disk;
mod merging;
mod reading;
mod renewal;
mod rotating;

use std::fs::{self, File};
use std::future::Future;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use orchestrator_proto::control::{Compression, LogRules, LogStream, WhenFull};
use orchestrator_proto::{InstanceId, Millis, Size};
use tempfile::TempDir;

use super::file::{Disk, Kernel};
use super::process::{self, Settings};
use super::*;

/// How long a test waits for what must happen. Some of it is many megabytes that pass through a
/// process that may get a hundredth of a processor.
const DEADLINE: Duration = Duration::from_secs(600);

pub(crate) struct Bench {
    dir: TempDir,
    capture: Capture,
}

impl Bench {
    fn new(max_file_bytes: u64, max_files: u32) -> Self {
        let config = CaptureConfig { max_file_bytes, max_files };
        Self::with(config, in_thread(|| Box::new(Kernel)))
    }

    /// One whose logs are written to this disk.
    fn on(disk: impl Fn() -> Box<dyn Disk> + Send + Sync + Clone + 'static) -> Self {
        Self::with(CaptureConfig::default(), in_thread(disk))
    }

    fn with(config: CaptureConfig, starter: Starter) -> Self {
        let dir = TempDir::new().unwrap();
        let socket = dir.path().join("capture");
        let capture = Capture::start(config, socket, starter, Arc::<Kept>::default());
        Self { dir, capture }
    }

    /// A log in the directory `name`.
    fn open(&self, name: &str) -> InstanceLog {
        self.open_with(name, &LogRules::default())
    }

    fn open_with(&self, name: &str, rules: &LogRules) -> InstanceLog {
        let dir = self.dir.path().join(name);
        self.capture.open_with(InstanceId::generate(), dir, rules).unwrap()
    }
}

impl Default for Bench {
    fn default() -> Self {
        let config = CaptureConfig::default();
        Self::new(config.max_file_bytes, config.max_files)
    }
}

/// One log, for tests of other rooms.
pub(crate) fn open_bench() -> (Bench, InstanceLog) {
    let bench = Bench::default();
    let log = bench.open("log");
    (bench, log)
}

/// Output that finds no room is lost.
fn dropping() -> LogRules {
    LogRules { when_full: WhenFull::Drop, ..LogRules::default() }
}

/// The capture process as a thread of this one. It ends when it has nothing to do.
fn in_thread(disk: impl Fn() -> Box<dyn Disk> + Send + Sync + Clone + 'static) -> Starter {
    Arc::new(move |listener| {
        let disk = disk.clone();
        std::thread::spawn(move || {
            let idle = Duration::from_millis(100);
            process::run(listener, Settings { idle, disk: Box::new(disk) }).unwrap();
        });
        Ok(())
    })
}

/// A pipe: what the daemon reads, and what an instance writes to.
fn pipe() -> (OwnedFd, File) {
    let (read, write) = nix::unistd::pipe().unwrap();
    (read, File::from(write))
}

/// A number for a run that no other has.
fn next_run() -> u64 {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    RUNS.fetch_add(1, Ordering::Relaxed)
}

/// Attaches a pipe as a new run, whose other stream prints nothing.
fn attach_pipe(log: &InstanceLog, stream: LogStream, read: OwnedFd) {
    let silent = pipe().0;
    match stream {
        LogStream::Stdout => log.attach(next_run(), read, silent),
        _ => log.attach(next_run(), silent, read),
    }
    .unwrap();
}

/// Attaches a pipe and returns its writing end.
fn attach(log: &InstanceLog, stream: LogStream) -> File {
    let (read, write) = pipe();
    attach_pipe(log, stream, read);
    write
}

/// Prints all of `text` and ends.
async fn print(log: &InstanceLog, stream: LogStream, text: &[u8]) {
    let (mut write, text) = (attach(log, stream), text.to_vec());
    // The pipe may be full before anybody reads.
    let printing = std::thread::spawn(move || write.write_all(&text).unwrap());
    within(log.drained()).await;
    printing.join().unwrap();
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("it takes too long")
}

/// What became of the output until now.
async fn stats(log: &InstanceLog) -> LogStats {
    let look = log.shared.look();
    let mut progress = log.shared.progress.subscribe();
    within(progress.wait_for(|progress| progress.looked >= look)).await.unwrap();
    log.stats()
}

/// Waits until the log has what `reached` looks for, asking again and again.
async fn until(log: &InstanceLog, mut reached: impl FnMut(&LogStats) -> bool) {
    within(async { while !reached(&stats(log).await) {} }).await;
}

async fn read_to_end(mut reader: LogReader) -> Vec<ReadItem> {
    let mut items = Vec::new();
    while let Some(batch) = within(reader.next_batch()).await.unwrap() {
        assert!(!batch.is_empty());
        items.extend(batch);
    }
    items
}

async fn read(log: &InstanceLog, query: ReadQuery) -> Vec<ReadItem> {
    read_to_end(LogReader::open(log, query)).await
}

async fn read_all(log: &InstanceLog) -> Vec<ReadItem> {
    read(log, ReadQuery::default()).await
}

/// What was printed to a stream.
fn content(items: &[ReadItem], stream: LogStream) -> Vec<u8> {
    let mut content = Vec::new();
    for item in items {
        if let ReadItem::Line(line) = item
            && line.stream == stream
        {
            content.extend_from_slice(&line.text.0);
            if line.complete {
                content.push(b'\n');
            }
        }
    }
    content
}

/// The texts of a stream, with `…` after those that are not the end of a line.
fn texts(items: &[ReadItem]) -> Vec<String> {
    let text = |item: &ReadItem| match item {
        ReadItem::Line(line) if line.complete => line.text.to_string(),
        ReadItem::Line(line) => format!("{}…", line.text),
        ReadItem::Missed { count, reason } => format!("<{count}: {reason}>"),
    };
    items.iter().map(text).collect()
}

fn remarks(items: &[ReadItem]) -> String {
    String::from_utf8(content(items, LogStream::Orchestrator)).unwrap()
}

/// How many bytes of standard output these remarks say are missing.
fn told_lost(remarks: &str) -> u64 {
    let told = remarks.lines().map(|remark| {
        let (bytes, rest) = remark.split_once(' ').unwrap();
        assert!(rest.starts_with("bytes of stdout are missing here, between "), "{remark}");
        bytes.parse::<u64>().unwrap()
    });
    told.sum()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}
