//! What the instances of the chaos test are: a program that prints numbered lines, sends and
//! receives numbered messages, keeps account of it, and ends as it is told.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

#[allow(dead_code, reason = "each side uses a part of it")]
mod account;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Command, exit};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{SigSet, Signal};
use orchestrator_proto::Message;
use orchestrator_proto::sdk::{Runtime, Schema};
use serde::{Deserialize, Serialize};
use tests::routing::Random;
use tokio::signal::unix::{SignalKind, signal};

use account::{Account, Slot, Worker, line, started};

/// A message that must arrive.
#[derive(Serialize, Deserialize, Schema, Message)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
#[message(name = "chaos.block")]
struct Block {
    run: u64,
    number: u64,
}

/// A message that may get lost.
#[derive(Serialize, Deserialize, Schema, Message)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
#[message(name = "chaos.lossy")]
struct Lossy {
    run: u64,
    number: u64,
}

/// What both have.
trait Numbered: Message {
    const SENT: Slot;
    fn new(run: u64, number: u64) -> Self;
    fn numbers(&self) -> (u64, u64);
}

impl Numbered for Block {
    const SENT: Slot = Slot::Block;
    fn new(run: u64, number: u64) -> Self {
        Self { run, number }
    }
    fn numbers(&self) -> (u64, u64) {
        (self.run, self.number)
    }
}

impl Numbered for Lossy {
    const SENT: Slot = Slot::Lossy;
    fn new(run: u64, number: u64) -> Self {
        Self { run, number }
    }
    fn numbers(&self) -> (u64, u64) {
        (self.run, self.number)
    }
}

/// What every part of a worker has.
struct This {
    dir: PathBuf,
    worker: Worker,
    account: Account,
    resting: AtomicBool,
}

impl This {
    fn is_resting(&self) -> bool {
        self.resting.load(Ordering::Acquire)
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| args.iter().any(|arg| arg == word);
    let dir = PathBuf::from(std::env::var_os("CHAOS_DIR").expect("the chaos test starts it"));
    let instance = std::env::var("ORCHESTRATOR_INSTANCE_ID").unwrap();
    let mut run = [0; 8];
    File::open("/dev/urandom").unwrap().read_exact(&mut run).unwrap();
    let pid = std::process::id();
    let ticks = started(pid).unwrap();
    let name = args[0].clone();
    let worker = Worker { pid, ticks, instance, name, run: u64::from_ne_bytes(run) };

    #[allow(clippy::zombie_processes, reason = "it outlives us, and is ended with our group")]
    if has("family") {
        // In this group, so it ends with it. Before the lock, which it must not have.
        Command::new("/bin/sleep").arg("1000").spawn().unwrap();
    }
    // Held until the kernel lets go of it, at the end of this process.
    let path = dir.join("locks").join(&worker.instance);
    let lock = OpenOptions::new().create(true).append(true).open(path).unwrap();
    let _lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).unwrap_or_else(|_| {
        let text = format!("{worker:?} began while another process of its instance was alive\n");
        fs::write(dir.join("violations").join(worker.key()), text).unwrap();
        exit(99);
    });
    if has("deaf") {
        let mut deaf = SigSet::empty();
        deaf.add(Signal::SIGTERM);
        deaf.thread_block().unwrap();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run_as(worker, dir, has("polite"), has("slow")));
}

async fn run_as(worker: Worker, dir: PathBuf, polite: bool, slow: bool) {
    let mut terminate =
        (polite || slow).then(|| signal(SignalKind::terminate()).expect("signals can be had"));
    let mut ordered = signal(SignalKind::user_defined1()).unwrap();
    let mut rest = signal(SignalKind::user_defined2()).unwrap();
    let account = worker.open(&dir).unwrap();
    let this = Arc::new(This { dir, worker, account, resting: AtomicBool::new(false) });

    let printers: Vec<_> = ["stdout", "stderr"]
        .map(|stream| {
            let this = Arc::clone(&this);
            std::thread::spawn(move || print(&this, stream))
        })
        .into();
    let talking = tokio::spawn(talk(Arc::clone(&this)));
    loop {
        let terminated = async {
            match &mut terminate {
                Some(terminate) => terminate.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = terminated => {
                this.account.set(Slot::Terminated, 1);
                if slow {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                exit(40);
            }
            _ = ordered.recv() => {
                let path = this.dir.join("orders").join(this.worker.key());
                if let Some(code) = fs::read_to_string(path).ok().and_then(|it| it.parse().ok()) {
                    let code: i32 = code;
                    this.account.set(Slot::Exit, 1 + code as u64);
                    exit(code);
                }
            }
            _ = rest.recv() => {
                this.resting.store(true, Ordering::Release);
                break;
            }
        }
    }
    // They look at it within a moment, unless nobody reads what they print.
    tokio::task::spawn_blocking(move || {
        for printer in printers {
            let _ = printer.join();
        }
    })
    .await
    .unwrap();
    this.account.set(Slot::Resting, 1);
    let _ = talking.await;
    std::future::pending::<()>().await;
}

/// Prints lines at an uneven pace.
fn print(this: &This, stream: &str) {
    let (fd, written, broken, salt) = match stream {
        "stdout" => {
            (std::io::stdout().as_fd().try_clone_to_owned(), Slot::Stdout, Slot::StdoutBroken, 1)
        }
        _ => (std::io::stderr().as_fd().try_clone_to_owned(), Slot::Stderr, Slot::StderrBroken, 2),
    };
    let mut file = File::from(fd.unwrap());
    let mut random = Random::new(this.worker.run ^ salt);
    let mut number = 0;
    while !this.is_resting() {
        let burst = if random.below(50) == 0 { 150 } else { 1 + random.below(3) };
        for _ in 0..burst {
            let mut line = line(this.worker.run, stream, number + 1);
            line.push(b'\n');
            if let Err(error) = file.write_all(&line) {
                this.account.set(broken, 1 + error.raw_os_error().unwrap_or(0) as u64);
                return;
            }
            number += 1;
            this.account.set(written, number);
        }
        std::thread::park_timeout(Duration::from_millis(1 + random.below(40) as u64));
    }
}

async fn talk(this: Arc<This>) {
    // The daemon may be away, now and again.
    let runtime = loop {
        match Runtime::connect().await {
            Ok(runtime) => break runtime,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    tokio::join!(
        receive::<Block>(&this, &runtime),
        receive::<Lossy>(&this, &runtime),
        send::<Block>(&this, &runtime),
        send::<Lossy>(&this, &runtime),
    );
}

async fn receive<T: Numbered>(this: &This, runtime: &Runtime) {
    let mut input = runtime.input::<T>().unwrap();
    let path = this.worker.received(&this.dir, T::NAME);
    let mut notes = OpenOptions::new().create_new(true).append(true).open(path).unwrap();
    loop {
        let (run, number) = match input.recv().await {
            Ok(message) => message.numbers(),
            Err(error) => {
                let text = format!("{:?} received what is no message: {error}\n", this.worker);
                fs::write(this.dir.join("violations").join(this.worker.key()), text).unwrap();
                continue;
            }
        };
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let time_ms = since.as_millis() as u64;
        notes.write_all(&[run, number, time_ms].map(u64::to_ne_bytes).concat()).unwrap();
    }
}

async fn send<T: Numbered>(this: &This, runtime: &Runtime) {
    let output = runtime.output::<T>().unwrap();
    let mut random = Random::new(this.worker.run ^ 3);
    let mut sent = 0;
    loop {
        for _ in 0..1 + random.below(12) {
            if this.is_resting() {
                return;
            }
            let message = T::new(this.worker.run, sent + 1);
            // A future that is dropped while it waits has sent nothing.
            let sending = tokio::time::timeout(Duration::from_millis(50), output.send(&message));
            match sending.await {
                Ok(Ok(())) => {
                    sent += 1;
                    this.account.set(T::SENT, sent);
                }
                Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(_) => {}
            }
        }
        tokio::time::sleep(Duration::from_millis(1 + random.below(25) as u64)).await;
    }
}
