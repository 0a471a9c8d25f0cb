//! The other processes: this program again, in the part of an instance or of a floor.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::signal::Signal;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::spawner::{BARE, HELD};
use crate::wire::{self, Peer, Wire};
use crate::{flood, relay, ring, sdk, spawner, transports};

/// The argument that makes this program an actor.
pub(crate) const FLAG: &str = "--actor";

/// Told to the one who started it, once everything is connected.
const READY: &str = "ready";
/// Told when an order was carried out.
const DONE: &str = "done";

/// What a counting actor reads at once.
const CHUNK: usize = 256 << 10;

/// A process in a part. Dropping it ends it.
pub(crate) struct Actor {
    child: Child,
    /// None when there will be no more.
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    is_holder: bool,
}

impl Actor {
    /// Starts it; does not wait until it is ready.
    pub(crate) fn start<S: AsRef<OsStr>>(part: &str, args: impl IntoIterator<Item = S>) -> Self {
        let program = std::env::current_exe().expect("this program has a path");
        let mut child = Command::new(program)
            .args([FLAG, part])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program can be started");
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("it has a pipe"));
        Self { child, orders, answers, is_holder: part == HELD }
    }

    /// One that talks over `wire` to the socket at `path`.
    pub(crate) fn on(part: &str, wire: Wire, path: &Path) -> Self {
        let mut actor = Self::start(part, [OsStr::new(&wire.to_string()), path.as_os_str()]);
        actor.wait_ready();
        actor
    }

    /// One that uses the SDK on the socket at `path`.
    pub(crate) fn with_sdk(part: &str, path: &Path) -> Self {
        let mut actor = Self::start(part, [path]);
        actor.wait_ready();
        actor
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn wait_ready(&mut self) {
        self.hear(READY);
    }

    /// Lets it wait for this much: bytes or messages, as its part says.
    pub(crate) fn order(&mut self, amount: u64) {
        self.tell(&amount.to_string());
    }

    /// Gives it an order of one line.
    pub(crate) fn tell(&mut self, order: &str) {
        let orders = self.orders.as_mut().expect("it has a pipe");
        writeln!(orders, "{order}").expect("the actor lives");
    }

    /// Waits until it has that.
    pub(crate) fn wait_done(&mut self) {
        self.hear(DONE);
    }

    fn hear(&mut self, expected: &str) {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the actor can be heard");
        assert_eq!(line.trim_end(), expected, "an actor failed");
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // That ends a holder, and what it holds; killed, it would leave that behind.
        self.orders = None;
        if !self.is_holder {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// Plays a part until there is nothing more to do.
pub(crate) fn play(args: &[String]) {
    if args == [LINES] {
        // An instance, which has to outlive who started it.
        lines();
    }
    if let [HELD, part] = args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        // It has to end what it has executed, when it gets no more orders.
        return spawner::play_held(part);
    }
    // Nobody is left behind by a benchmark that is killed.
    prctl::set_pdeathsig(Signal::SIGKILL).expect("a signal can be asked for");
    let parts: Vec<&str> = args.iter().map(String::as_str).collect();
    match parts[..] {
        [BARE, program] => spawner::play_bare(Path::new(program)),
        ["relay", ref sockets @ ..] => relay::play(sockets),
        ["echo", wire, path] => echo(Wire::named(wire), Path::new(path)),
        ["count", wire, path] => count(Wire::named(wire), Path::new(path)),
        ["sdk-echo", path] => sdk::echo(Path::new(path)),
        ["sdk-count-64", path] => sdk::count::<wire::Data64>(Path::new(path)),
        ["sdk-count-1024", path] => sdk::count::<wire::Data1024>(Path::new(path)),
        _ if flood::play(&parts) || ring::play(&parts) || transports::play(&parts) => {}
        _ => panic!("{args:?} is no part"),
    }
}

/// The part of an instance that prints a numbered line now and then.
pub(crate) const LINES: &str = "lines";
/// Between two lines.
const PAUSE: Duration = Duration::from_millis(20);

fn lines() -> ! {
    for number in 1_u64.. {
        println!("{number}");
        std::thread::park_timeout(PAUSE);
    }
    unreachable!("there are enough numbers")
}

/// Says that everything is connected.
pub(crate) fn say_ready() {
    println!("{READY}");
}

/// The lines that are ordered, without keeping the thread that waits for them.
pub(crate) fn lines_of_orders() -> UnboundedReceiver<String> {
    let (sender, orders) = unbounded_channel();
    std::thread::spawn(move || {
        let lines = std::io::stdin().lines();
        for line in lines.map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    orders
}

/// The amounts that are ordered.
pub(crate) fn orders() -> impl Iterator<Item = u64> {
    let lines = std::io::stdin().lines();
    lines.map_while(|line| line.ok()?.parse().ok())
}

/// Says that an order was carried out.
pub(crate) fn say_done() {
    println!("{DONE}");
}

/// Answers each ping with a pong.
fn echo(wire: Wire, path: &Path) {
    let mut stream = Peer::connect(wire, path, Some(wire::PONG), Some(wire::PING)).stream;
    let pong = wire.dialect.message(wire::PONG, wire::ROUNDTRIP_SIZE, 0);
    let mut ping = pong.clone();
    say_ready();
    while stream.read_exact(&mut ping).is_ok() && stream.write_all(&pong).is_ok() {}
}

/// Counts bytes.
fn count(wire: Wire, path: &Path) {
    let mut stream = Peer::connect(wire, path, None, Some(wire::DATA)).stream;
    let mut chunk = vec![0; CHUNK];
    say_ready();
    for bytes in orders() {
        let mut left = bytes;
        while left > 0 {
            match stream.read(&mut chunk) {
                Ok(0) | Err(_) => return,
                Ok(read) => left = left.checked_sub(read as u64).expect("no byte too many"),
            }
        }
        say_done();
    }
}
