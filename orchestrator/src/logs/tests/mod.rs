//! The room against the real kernel: pipes, files, threads.

mod capturing;
mod disk;
mod reading;

use std::fs::{self, File};
use std::future::Future;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use orchestrator_proto::InstanceId;
use orchestrator_proto::control::LogStream;
use tempfile::TempDir;

use super::*;

/// How long a test waits for what must happen.
const DEADLINE: Duration = Duration::from_secs(60);

struct Bench {
    dir: TempDir,
    capture: Capture,
}

impl Bench {
    fn new(max_file_bytes: u64, max_files: u32) -> Self {
        let config = CaptureConfig { max_file_bytes, max_files };
        Self { dir: TempDir::new().unwrap(), capture: Capture::start(config).unwrap() }
    }

    /// A log in the directory `name`.
    fn open(&self, name: &str) -> InstanceLog {
        let dir = self.dir.path().join(name);
        self.capture.open(InstanceId::generate(), dir).unwrap()
    }
}

impl Default for Bench {
    fn default() -> Self {
        let config = CaptureConfig::default();
        Self::new(config.max_file_bytes, config.max_files)
    }
}

/// A pipe: what the daemon reads, and what an instance writes to.
fn pipe() -> (OwnedFd, File) {
    let (read, write) = nix::unistd::pipe().unwrap();
    (read, File::from(write))
}

/// Attaches a pipe and returns its writing end.
fn attach(log: &InstanceLog, stream: LogStream) -> File {
    let (read, write) = pipe();
    log.attach(stream, read).unwrap();
    write
}

/// Prints all of `text` and ends.
async fn print(log: &InstanceLog, stream: LogStream, text: &[u8]) {
    attach(log, stream).write_all(text).unwrap();
    within(log.drained()).await;
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("it takes too long")
}

/// Waits until the log has what `reached` looks for.
async fn until(log: &InstanceLog, mut reached: impl FnMut(&InstanceLog) -> bool) {
    let mut progress = log.shared.progress.subscribe();
    within(async {
        while !reached(log) {
            progress.changed().await.unwrap();
        }
    })
    .await;
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

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}
