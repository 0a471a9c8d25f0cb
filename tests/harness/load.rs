//! Load that notices if anything is lost, doubled or refused while processes of the daemon are
//! replaced.

use std::io::{BufRead, BufReader};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use orchestrator_proto::client::Client;
use orchestrator_proto::control::{Observed, Reply, Request, ServerBody};
use orchestrator_proto::sdk::{Runtime, Schema};
use orchestrator_proto::{ErrorCode, Message};
use serde::{Deserialize, Serialize};

use crate::control::Control;
use crate::{Daemon, SOON, block_on, eventually};

#[derive(Serialize, Deserialize, Schema, Message, PartialEq, Debug)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
#[message(name = "n")]
struct Number(u32);

/// Prints numbered lines, as fast as it can.
pub const CHATTY: &str = "i=0; while :; do i=$((i+1)); echo $i; done";

/// Prints numbered lines on both streams, at its ease.
pub const CALM: &str = "i=0; while :; do i=$((i+1)); echo $i; echo $i >&2; sleep 0.005; done";

/// Waits until an instance runs; the answer is its process.
#[track_caller]
pub fn running(daemon: &Daemon, name: &str) -> u32 {
    eventually(&format!("{name} runs"), || match daemon.info(name).observed {
        Observed::Ready { pid, .. } => Some(pid),
        _ => None,
    })
}

/// A program of which the command line prints more and more.
pub struct Follower {
    child: Child,
    /// What it has printed.
    pub lines: Arc<Mutex<Vec<String>>>,
    thread: std::thread::JoinHandle<()>,
}

impl Follower {
    /// Starts the command line with these arguments.
    pub fn start(daemon: &Daemon, args: &[&str]) -> Self {
        let mut child = daemon.cli_command(args).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let lines = Arc::new(Mutex::new(Vec::new()));
        let into = lines.clone();
        let thread = std::thread::spawn(move || {
            output.lines().map_while(Result::ok).for_each(|line| into.lock().unwrap().push(line));
        });
        Self { child, lines, thread }
    }

    /// Lines that it has printed.
    pub fn count(&self) -> usize {
        self.lines.lock().unwrap().len()
    }

    /// Waits until it ends by itself, or ends it; the answer is what it printed.
    pub fn end(mut self, by_itself: bool) -> Vec<String> {
        if by_itself {
            let ended = eventually("it ended", || self.child.try_wait().unwrap());
            assert_eq!(ended.code(), Some(0));
        } else {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
        self.thread.join().unwrap();
        std::mem::take(&mut self.lines.lock().unwrap())
    }
}

/// Asks all the time, on a new connection and on an old one; each must be answered.
pub struct Asker {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<u64>>,
}

impl Asker {
    /// Begins to ask.
    pub fn start(socket: &Path) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let start = |ask: fn(PathBuf, Arc<AtomicBool>, Arc<AtomicU64>) -> u64| {
            let (socket, stop, answered) = (socket.to_owned(), stop.clone(), answered.clone());
            std::thread::spawn(move || ask(socket, stop, answered))
        };
        let threads = vec![start(ask_anew), start(ask_on), start(ask_by_hand)];
        Self { stop, answered, threads }
    }

    /// Waits until it was answered so many times more.
    #[track_caller]
    pub fn goes_on(&self, count: u64) {
        let before = self.answered.load(Ordering::Relaxed);
        eventually("clients are answered", || {
            assert!(!self.threads.iter().any(std::thread::JoinHandle::is_finished));
            (self.answered.load(Ordering::Relaxed) >= before + count).then_some(())
        });
    }

    /// How many requests were cut, to be sent again.
    pub fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    }
}

fn ask_anew(socket: PathBuf, stop: Arc<AtomicBool>, answered: Arc<AtomicU64>) -> u64 {
    block_on(async {
        while !stop.load(Ordering::Relaxed) {
            let client = Client::connect(&socket).await.expect("never refused");
            client.request(Request::RuntimeList).await.expect("always answered");
            answered.fetch_add(1, Ordering::Relaxed);
        }
    });
    0
}

fn ask_on(socket: PathBuf, stop: Arc<AtomicBool>, answered: Arc<AtomicU64>) -> u64 {
    block_on(async {
        let client = Client::connect(&socket).await.expect("never refused");
        while !stop.load(Ordering::Relaxed) {
            client.request(Request::LinkList).await.expect("always answered");
            answered.fetch_add(1, Ordering::Relaxed);
        }
    });
    0
}

/// As a client in another language would, with what PROTOCOL.md says of goodbyes.
fn ask_by_hand(socket: PathBuf, stop: Arc<AtomicBool>, answered: Arc<AtomicU64>) -> u64 {
    let mut cut = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut control = Control::silent(&socket);
        if control.hello(orchestrator_proto::control::MAGIC, 2).is_none() {
            cut += 1;
            continue;
        }
        for id in 1.. {
            control.request(id, Request::Status);
            match control.frame() {
                Some(frame) if frame.id == id => {
                    assert!(matches!(frame.body, ServerBody::Reply(Reply::Status(_))));
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                Some(frame) => {
                    let ServerBody::Error(error) = frame.body else { panic!("{frame:?}") };
                    assert_eq!((frame.id, error.code), (0, ErrorCode::Replaced));
                    assert!(control.frame().is_none(), "a goodbye is the last word");
                    cut += 1;
                    break;
                }
                None => panic!("the connection ended without a goodbye"),
            }
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
    }
    cut
}

/// Lines that are numbers.
pub fn numbers(lines: &[String]) -> Vec<u64> {
    lines.iter().map(|line| line.parse().unwrap()).collect()
}

/// All that an instance printed on a stream.
pub fn printed(daemon: &Daemon, name: &str, stream: &str) -> Vec<u64> {
    let text = daemon.ok(["runtime", stream, name, "--no-follow"]);
    text.lines().map(|line| line.parse().unwrap()).collect()
}

/// Checks that they are 1, 2, 3 and so on.
#[track_caller]
pub fn complete(what: &str, numbers: &[u64]) {
    let wrong = numbers.iter().zip(1..).position(|(number, expected)| *number != expected);
    assert_eq!(wrong, None, "{what}: {} lines", numbers.len());
    assert!(!numbers.is_empty(), "{what}");
}

/// Sends numbers under `block`, and receives them, until it is told to stop.
pub struct Messages {
    stop: Arc<AtomicBool>,
    got: Arc<Mutex<Vec<u32>>>,
    threads: [std::thread::JoinHandle<u32>; 2],
}

impl Messages {
    /// Between the sockets of two instances that are linked.
    pub fn start(from: PathBuf, to: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let got = Arc::new(Mutex::new(Vec::new()));
        let (ready, connected) = std::sync::mpsc::sync_channel(1);
        let (last, arrived) = tokio::sync::oneshot::channel();
        let (into, done) = (got.clone(), stop.clone());
        let receiver = std::thread::spawn(move || {
            block_on(async {
                let runtime = Runtime::connect_to(to).await.unwrap();
                let window = NonZeroU32::new(64).unwrap();
                let mut input = runtime.input_with_window::<Number>(window).unwrap();
                ready.send(()).unwrap();
                loop {
                    match tokio::time::timeout(SOON, input.recv()).await.expect("one comes") {
                        // The last one.
                        Ok(Number(u32::MAX)) => {
                            let _ = last.send(());
                            return 0;
                        }
                        Ok(Number(number)) => into.lock().unwrap().push(number),
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        });
        connected.recv().unwrap();
        let sender = std::thread::spawn(move || {
            block_on(async {
                let runtime = Runtime::connect_to(from).await.unwrap();
                let output = runtime.output::<Number>().unwrap();
                let mut next = 0;
                while !done.load(Ordering::Relaxed) {
                    output.send(&Number(next)).await.unwrap();
                    next += 1;
                }
                output.send(&Number(u32::MAX)).await.unwrap();
                // Until then it may have to be sent again.
                let _ = arrived.await;
                next
            })
        });
        Self { stop, got, threads: [receiver, sender] }
    }

    /// How many have come.
    pub fn count(&self) -> usize {
        self.got.lock().unwrap().len()
    }

    /// Stops it; all that was sent has come, once and in order.
    pub fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let [receiver, sender] = self.threads;
        receiver.join().unwrap();
        let sent = sender.join().unwrap();
        assert_eq!(*self.got.lock().unwrap(), Vec::from_iter(0..sent));
    }
}
