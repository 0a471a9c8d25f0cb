//! One end of a link as a program of its own, in either dialect, so that it can be killed and
//! stopped. `conformance-worker send|receive native|veecle DIR`
//!
//! Each message is one number: the run of the sender's process times [`RUN`], plus how many
//! messages that process has sent before. The receiver appends what it gets to `DIR/got.RUN`,
//! eight bytes each. The sender sends until there is a file `DIR/enough`, and says then in
//! `DIR/sent.RUN` how many it was.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use orchestrator_proto::Message;
use orchestrator_proto::sdk::{Runtime, Schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Messages of one process of the sender, at most.
const RUN: u64 = 1_000_000_000;

/// What a sender sends without a pause, and how long the pause is.
const BURST: u64 = 12;
const PAUSE: Duration = Duration::from_millis(1);

#[derive(Serialize, Deserialize, Schema, Message)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
#[message(name = "n")]
struct Number(u64);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [role, dialect, dir] = &args[..] else { panic!("role, dialect, directory: {args:?}") };
    let run: u64 = std::env::var("ORCHESTRATOR_RUN").unwrap().parse().unwrap();
    let dir = PathBuf::from(dir);
    match (role.as_str(), dialect.as_str()) {
        ("send", "native") => block_on(send_native(&dir, run)),
        ("receive", "native") => block_on(receive_native(notes(&dir, run))),
        ("send", "veecle") => send_veecle(&dir, run),
        ("receive", "veecle") => receive_veecle(notes(&dir, run)),
        _ => panic!("{args:?}"),
    }
    loop {
        std::thread::park();
    }
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future);
}

fn notes(dir: &Path, run: u64) -> File {
    let path = dir.join(format!("got.{run}"));
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}

fn is_enough(dir: &Path) -> bool {
    dir.join("enough").exists()
}

/// In one step: whoever looks sees all of it or nothing.
fn say_sent(dir: &Path, run: u64, count: u64) {
    let draft = dir.join(format!("draft.{run}"));
    fs::write(&draft, count.to_string()).unwrap();
    fs::rename(draft, dir.join(format!("sent.{run}"))).unwrap();
}

async fn connect() -> Runtime {
    // The daemon may be away.
    loop {
        match Runtime::connect().await {
            Ok(runtime) => return runtime,
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn send_native(dir: &Path, run: u64) {
    let runtime = connect().await;
    let output = runtime.output::<Number>().unwrap();
    let mut next = 0;
    while !is_enough(dir) {
        for _ in 0..BURST {
            // A future that is dropped while it waits has sent nothing.
            let message = Number(run * RUN + next);
            let sending = tokio::time::timeout(20 * PAUSE, output.send(&message));
            match sending.await {
                Ok(Ok(())) => next += 1,
                Ok(Err(_)) | Err(_) => break,
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    say_sent(dir, run, next);
    // It stays connected: what it keeps may have to be sent again.
    std::future::pending().await
}

async fn receive_native(mut notes: File) {
    let runtime = connect().await;
    let mut input = runtime.input::<Number>().unwrap();
    loop {
        let Number(number) = input.recv().await.unwrap();
        notes.write_all(&number.to_le_bytes()).unwrap();
    }
}

fn open_veecle() -> UnixStream {
    let path = std::env::var_os("VEECLE_IPC_SOCKET").unwrap();
    UnixStream::connect(path).unwrap()
}

fn send_veecle(dir: &Path, run: u64) {
    let mut socket = open_veecle();
    let mut next = 0;
    while !is_enough(dir) {
        let mut lines = String::new();
        for number in next..next + BURST {
            let value = (run * RUN + number).to_string();
            lines += &json!({"Storable": {"type_name": "n", "value": value}}).to_string();
            lines.push('\n');
        }
        socket.write_all(lines.as_bytes()).unwrap();
        next += BURST;
        std::thread::park_timeout(PAUSE);
    }
    say_sent(dir, run, next);
    loop {
        std::thread::park();
    }
}

fn receive_veecle(mut notes: File) {
    for line in BufReader::new(open_veecle()).lines() {
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let value = line["Storable"]["value"].as_str().unwrap();
        let number: u64 = value.parse().unwrap();
        notes.write_all(&number.to_le_bytes()).unwrap();
    }
}
