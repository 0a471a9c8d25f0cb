//! Reading what instances printed, and telling them what to print.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};

use orchestrator_proto::client::ItemStream;
use orchestrator_proto::control::{
    Exit, Item, LogLine, LogQuery, LogStream, Reply, Request, RuntimeDetail,
};

use crate::{Daemon, SOON, block_on, eventually};

/// All that an instance has printed.
pub fn query(instance: &str, follow: bool) -> LogQuery {
    LogQuery { follow, ..LogQuery::of(instance) }
}

/// All that comes until the end.
pub async fn items(mut stream: ItemStream) -> Vec<Item> {
    let mut items = Vec::new();
    while let Some(item) = stream.next().await {
        items.push(item.unwrap());
    }
    items
}

/// What is kept.
pub fn read(daemon: &Daemon, query: LogQuery) -> Vec<Item> {
    block_on(async {
        let client = daemon.client().await;
        let stream = client.stream(Request::Logs(query)).await.unwrap();
        tokio::time::timeout(SOON, items(stream)).await.expect("it ends")
    })
}

/// The lines, and parts of lines.
pub fn lines(items: &[Item]) -> Vec<&LogLine> {
    items
        .iter()
        .filter_map(|item| match item {
            Item::Log(line) => Some(line),
            _ => None,
        })
        .collect()
}

/// What was printed to a stream, as it was printed.
pub fn bytes(items: &[Item], stream: LogStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines(items).into_iter().filter(|line| line.stream == stream) {
        bytes.extend(&line.text.0);
        if line.complete {
            bytes.push(b'\n');
        }
    }
    bytes
}

/// Starts it, and waits until it has ended and all that it printed is in the log.
#[track_caller]
pub fn run(daemon: &Daemon, name: &str) {
    daemon.ok(["runtime", "start", name]);
    assert_eq!(daemon.exited(name), Exit::Code(0), "{}", daemon.log());
    // The output of a program that is stopped is waited for; one that exits by itself may be
    // ahead of its last lines, so there is a last line to wait for.
    eventually("its last line is in the log", || {
        let items = read(daemon, query(name, false));
        let lines = lines(&items);
        lines.iter().any(|line| line.text.0 == b"the end").then_some(())
    });
}

/// All that is known of an instance.
pub fn detail(daemon: &Daemon, name: &str) -> RuntimeDetail {
    let instance = name.into();
    match daemon.request(Request::RuntimeShow { instance }).unwrap() {
        Reply::Runtime(detail) => *detail,
        other => panic!("{other:?}"),
    }
}

/// A command that follows, and its lines as they come.
pub struct Follower {
    /// The command.
    pub child: Child,
    lines: Receiver<String>,
}

impl Follower {
    /// Starts the command line with these arguments.
    pub fn new(daemon: &Daemon, args: &[&str]) -> Self {
        let mut command = daemon.cli_command(args);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = sync_channel(16);
        std::thread::spawn(move || {
            let mut line = String::new();
            while stdout.read_line(&mut line).is_ok_and(|count| count > 0) {
                let _ = sender.send(std::mem::take(&mut line));
            }
        });
        Self { child, lines }
    }

    /// The next line; empty at the end.
    #[track_caller]
    pub fn line(&mut self) -> String {
        match self.lines.recv_timeout(SOON) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => String::new(),
            Err(RecvTimeoutError::Timeout) => panic!("no line within {SOON:?}"),
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A named pipe, through which a script is told when to go on.
pub struct Gate(pub PathBuf);

impl Gate {
    /// One in the directory of this daemon.
    pub fn new(daemon: &Daemon) -> Self {
        let path = daemon.dir().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        Self(path)
    }

    /// Waits until a script reads, and tells it this.
    #[track_caller]
    pub fn say(&self, text: &str) {
        let mut options = fs::OpenOptions::new();
        options.write(true).custom_flags(nix::libc::O_NONBLOCK);
        let mut pipe = eventually("a script reads from the pipe", || options.open(&self.0).ok());
        pipe.write_all(text.as_bytes()).unwrap();
    }
}

impl std::fmt::Display for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.display().fmt(f)
    }
}

/// The files of an instance's log and their sizes.
pub fn files(dir: &Path) -> Vec<(PathBuf, u64)> {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    // One may be compressed or deleted this moment.
    let there = entries.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?.len())));
    let mut files: Vec<_> = there.collect();
    files.sort();
    files
}

/// Where the log of the instance with this id is.
pub fn log_dir(daemon: &Daemon, id: &str) -> PathBuf {
    daemon.state_dir().join("logs").join(id)
}
