//! Instances that outlive their daemon, or their connection to it: under `block` each message
//! arrives once and in order, under the other policies what was lost is counted.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::num::NonZeroU32;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use nix::sys::signal::Signal;
use orchestrator_proto::client::ClientError;
use orchestrator_proto::control::{
    EventKind, LinkInfo, Policy, Reply, Request, RuntimeSpec, TargetInfo, Transport,
};
use orchestrator_proto::runtime::{Direction, Frame, Sender, UNLIMITED};
use orchestrator_proto::sdk::{Input, Runtime, Schema, SendError};
use orchestrator_proto::{ErrorCode, InstanceId, LinkId, Message, TypeSchema};
use serde::{Deserialize, Serialize};
use tests::native::Native;
use tests::routing::Random;
use tests::{Daemon, SOON, block_on, eventually, processes};

#[derive(Serialize, Deserialize, Schema, Message, PartialEq, Debug)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
#[message(name = "n")]
struct Number(u32);

/// Runs peers of the test beside its blocking calls.
fn peers() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// The next message, which must come soon.
async fn next(input: &mut Input<Number>) -> u32 {
    tokio::time::timeout(SOON, input.recv()).await.expect("a message comes").unwrap().0
}

/// An instance and a link that every daemon of a test has.
type LinkOf = (&'static str, &'static str, Policy, u32);

/// Daemons, one after the other, on the same socket and with the same instances and links. Peers
/// reach the sockets of the instances through a door that is open only while these are complete.
struct Succession {
    daemon: Daemon,
    instances: Vec<(&'static str, InstanceId)>,
    links: Vec<LinkOf>,
    transport: Transport,
}

impl Succession {
    /// With links that pass the daemon.
    fn begin(names: &[&'static str], links: &[LinkOf]) -> Self {
        Self::begin_by(Transport::Routed, names, links)
    }

    fn begin_by(transport: Transport, names: &[&'static str], links: &[LinkOf]) -> Self {
        let instances = names.iter().map(|name| (*name, InstanceId::generate())).collect();
        let this = Self { daemon: Daemon::start(), instances, links: links.to_vec(), transport };
        this.complete();
        this
    }

    fn door(&self) -> PathBuf {
        self.daemon.dir().join("d")
    }

    fn socket(&self, name: &str) -> PathBuf {
        let (_, id) = self.instances.iter().find(|(other, _)| *other == name).unwrap();
        self.door().join(format!("{}.native", id.simple()))
    }

    fn complete(&self) {
        for (name, id) in &self.instances {
            let mut spec = RuntimeSpec::new("/bin/true");
            (spec.name, spec.id) = (Some((*name).to_owned()), Some(*id));
            match self.daemon.request(Request::RuntimeAdd(spec)) {
                Ok(Reply::Added { .. }) => {}
                Err(ClientError::Failed(error)) if error.code == ErrorCode::AlreadyExists => {}
                other => panic!("{other:?}"),
            }
        }
        for (from, to, policy, capacity) in &self.links {
            self.daemon.link_by(self.transport, from, "n", to, (*policy, *capacity));
        }
        let mut sockets = self.daemon.socket().as_os_str().to_owned();
        sockets.push(".d");
        std::os::unix::fs::symlink(sockets, self.door()).unwrap();
    }

    /// The daemon is killed; the next one takes its place.
    fn succeed(&mut self) {
        std::fs::remove_file(self.door()).unwrap();
        self.kill();
        self.relaunch();
    }

    fn kill(&mut self) {
        let (holder, daemon) = (self.daemon.holder_pid(), self.daemon.pid());
        processes::signal(holder, Signal::SIGKILL);
        processes::signal(daemon, Signal::SIGKILL);
        self.daemon.wait();
        processes::gone(daemon);
        // Its last thread may still hold the socket when the first one is gone.
        eventually("nobody listens", || {
            UnixStream::connect(self.daemon.socket()).is_err().then_some(())
        });
    }

    fn relaunch(&mut self) {
        self.daemon.launch();
        self.complete();
    }

    fn link_id(&self, to: &str) -> LinkId {
        let is_to = |target: &TargetInfo| match target {
            TargetInfo::Instance { name, .. } => name.as_deref() == Some(to),
            TargetInfo::Udp { .. } | TargetInfo::Set { .. } => false,
        };
        let links = self.daemon.links();
        links.iter().find(|link| is_to(&link.to)).expect("the link is there").id
    }

    /// How many messages to `to` the present daemon reports as lost.
    fn lost(&self, to: &str) -> u64 {
        let id = self.link_id(to);
        self.daemon.event("messages were lost", |event| match event.kind {
            EventKind::MessagesLost { link, count } if link == id => Some(count),
            _ => None,
        })
    }
}

/// A receiver in a thread of its own.
struct Receiver {
    got: Arc<Mutex<Vec<u32>>>,
    stop: tokio::sync::oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Receiver {
    fn start(path: PathBuf, window: u32) -> Self {
        let got = Arc::new(Mutex::new(Vec::new()));
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let (ready, connected) = std::sync::mpsc::sync_channel(1);
        let into = got.clone();
        let thread = std::thread::spawn(move || {
            block_on(async {
                let runtime = Runtime::connect_to(path).await.unwrap();
                let window = NonZeroU32::new(window).unwrap();
                let mut input = runtime.input_with_window::<Number>(window).unwrap();
                ready.send(()).unwrap();
                loop {
                    tokio::select! {
                        Ok(Number(number)) = input.recv() => into.lock().unwrap().push(number),
                        _ = &mut stopped => return,
                    }
                }
            });
        });
        connected.recv().unwrap();
        Self { got, stop, thread }
    }

    fn count(&self) -> usize {
        self.got.lock().unwrap().len()
    }

    #[track_caller]
    fn has(&self, count: usize) {
        eventually(&format!("{count} messages have arrived"), || {
            (self.count() >= count).then_some(())
        });
    }

    /// Ends it; the answer is what it got.
    fn end(self) -> Vec<u32> {
        let _ = self.stop.send(());
        self.thread.join().unwrap();
        std::mem::take(&mut self.got.lock().unwrap())
    }
}

/// Sends the numbers below `count` from a thread, in bursts and one by one; then lives on until
/// the answer is dropped.
fn send_all(path: PathBuf, count: u32) -> (std::thread::JoinHandle<()>, Arc<AtomicU32>, impl Drop) {
    struct Stop(Option<tokio::sync::oneshot::Sender<()>>);
    impl Drop for Stop {
        fn drop(&mut self) {
            let _ = self.0.take().map(|stop| stop.send(()));
        }
    }
    let sent = Arc::new(AtomicU32::new(0));
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let progress = sent.clone();
    let thread = std::thread::spawn(move || {
        block_on(async {
            let runtime = Runtime::connect_to(path).await.unwrap();
            let output = runtime.output::<Number>().unwrap();
            let mut random = Random::new(3);
            let mut next = 0;
            while next < count {
                let burst = (random.below(100) as u32).min(count - next);
                let numbers: Vec<_> = (next..next + burst).map(Number).collect();
                if burst < 50 {
                    for number in &numbers {
                        output.send(number).await.unwrap();
                    }
                } else {
                    assert_eq!(output.send_many(&numbers).await.unwrap(), u64::from(burst));
                }
                next += burst;
                progress.store(next, Ordering::Release);
            }
            let _ = stopped.await;
        });
    });
    (thread, sent, Stop(Some(stop)))
}

#[test]
fn each_message_arrives_once_whenever_daemons_are_killed() {
    arrive_once(Transport::Routed);
}

#[test]
fn each_message_arrives_once_whenever_the_daemons_beside_lanes_are_killed() {
    arrive_once(Transport::Auto);
}

#[test]
fn each_message_arrives_once_whenever_the_daemons_beside_memory_are_killed() {
    arrive_once(Transport::Shm);
}

fn arrive_once(transport: Transport) {
    const COUNT: u32 = 30_000;
    let mut succession = Succession::begin_by(
        transport,
        &["a", "b", "c", "e"],
        &[
            ("a", "b", Policy::Block, 16),
            ("any", "c", Policy::Block, 700),
            ("a", "e", Policy::DropOldest, 100_000),
        ],
    );
    let b = Receiver::start(succession.socket("b"), 5);
    let c = Receiver::start(succession.socket("c"), 1024);
    let e = Receiver::start(succession.socket("e"), 1024);
    let (sender, _, stop) = send_all(succession.socket("a"), COUNT);
    for round in 1..6 {
        b.has(round * COUNT as usize / 7);
        succession.succeed();
    }
    b.has(COUNT as usize);
    c.has(COUNT as usize);
    drop(stop);
    sender.join().unwrap();
    assert_eq!(b.end(), Vec::from_iter(0..COUNT));
    assert_eq!(c.end(), Vec::from_iter(0..COUNT));
    let e = e.end();
    assert!(e.is_sorted_by(|a, b| a < b), "nothing is sent again under drop-oldest");
    assert!(e.len() <= COUNT as usize);
}

#[test]
fn what_a_dead_daemon_held_under_other_policies_is_reported() {
    let mut succession = Succession::begin(
        &["a", "b", "c"],
        &[("a", "b", Policy::DropOldest, 100), ("any", "c", Policy::Block, 100)],
    );
    let peers = peers();
    let connect =
        |name| peers.block_on(Runtime::connect_to(succession.socket(name))).expect("welcome");
    let (a, b, c) = (connect("a"), connect("b"), connect("c"));
    let window = NonZeroU32::new(4).unwrap();
    let mut to_b = b.input_with_window::<Number>(window).unwrap();
    let mut to_c = c.input_with_window::<Number>(window).unwrap();
    let output = a.output::<Number>().unwrap();
    let numbers: Vec<_> = (0..20).map(Number).collect();
    peers.block_on(output.send_many(&numbers)).unwrap();
    eventually("all have reached the daemon, and four each receiver", || {
        let counters = |link: LinkInfo| (link.counters.sent, link.counters.delivered);
        let links = succession.daemon.links();
        links.into_iter().all(|link| counters(link) == (20, 4)).then_some(())
    });
    succession.succeed();
    peers.block_on(async {
        for runtime in [&a, &b, &c] {
            runtime.connected().await;
        }
    });
    // Told also if nothing else is sent; 16 were in the dead daemon's queue.
    assert_eq!(succession.lost("b"), 16);
    let said = succession.daemon.ok(["events"]);
    assert!(said.contains("lost 16 messages on link"), "{said}");
    peers.block_on(async {
        output.send(&Number(20)).await.unwrap();
        for expected in [0, 1, 2, 3, 20] {
            assert_eq!(next(&mut to_b).await, expected);
        }
        for expected in 0..=20 {
            assert_eq!(next(&mut to_c).await, expected);
        }
    });
}

#[test]
fn a_message_that_is_sent_while_no_daemon_lives_arrives() {
    let mut succession = Succession::begin(&["a", "b"], &[("a", "b", Policy::Block, 8)]);
    let b = Receiver::start(succession.socket("b"), 8);
    let peers = peers();
    let a = peers.block_on(Runtime::connect_to(succession.socket("a"))).unwrap();
    let output = a.output::<Number>().unwrap();
    peers.block_on(output.send(&Number(0))).unwrap();
    b.has(1);
    std::fs::remove_file(succession.door()).unwrap();
    succession.kill();
    eventually("the sender has noticed", || (!a.is_connected()).then_some(()));
    let full = output.try_send(&Number(1));
    assert!(matches!(full, Err(SendError::Disconnected)));
    let sending = peers.spawn(async move {
        for n in 1..100 {
            output.send(&Number(n)).await.unwrap();
        }
        output
    });
    succession.relaunch();
    b.has(100);
    peers.block_on(sending).unwrap();
    assert_eq!(b.end(), Vec::from_iter(0..100));
}

#[test]
fn what_a_receiver_had_not_done_goes_to_its_next_process() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let (to_a, to_b) = (daemon.native_socket(&a), daemon.native_socket(&b));
    let link = daemon.link_with("a", "n", "b", Policy::Block, 50);
    let peers = peers();
    let connect = |path: &Path| peers.block_on(Runtime::connect_to(path)).unwrap();
    let sender = connect(&to_a);
    let output = sender.output::<Number>().unwrap();
    let first = connect(&to_b);
    let mut input = first.input::<Number>().unwrap();
    let numbers: Vec<_> = (0..20).map(Number).collect();
    peers.block_on(async {
        output.send_many(&numbers).await.unwrap();
        for expected in 0..5 {
            assert_eq!(next(&mut input).await, expected);
        }
    });
    eventually("all are delivered", || (daemon.counters(link).delivered == 20).then_some(()));
    drop((input, first));
    daemon.connections("b", 0);
    // At most those that it came back after are done with.
    let counters = daemon.counters(link);
    assert!(counters.queued >= 16, "{counters:?}");
    let second = connect(&to_b);
    let mut input = second.input::<Number>().unwrap();
    peers.block_on(async {
        for expected in 20 - counters.queued as u32..20 {
            assert_eq!(next(&mut input).await, expected);
        }
    });
    // A sender that starts anew counts anew, and its messages are new.
    drop((output, sender));
    let sender = connect(&to_a);
    let output = sender.output::<Number>().unwrap();
    peers.block_on(async {
        output.send_many(&numbers).await.unwrap();
        for expected in 0..20 {
            assert_eq!(next(&mut input).await, expected);
        }
    });
    assert_eq!(daemon.settled(link, 40).dropped, 0);
}

/// Passes bytes on, and cuts each connection somewhere: what was under way is lost.
fn cutting_proxy(listen: &Path, to: PathBuf, seed: u64, cuts: u32) -> Arc<AtomicU32> {
    let listener = UnixListener::bind(listen).unwrap();
    let left = Arc::new(AtomicU32::new(cuts));
    let cuts = left.clone();
    std::thread::spawn(move || {
        let mut random = Random::new(seed);
        for near in listener.incoming() {
            let near = near.unwrap();
            let Ok(far) = UnixStream::connect(&to) else { return };
            let cut = left.load(Ordering::Acquire) > 0;
            let mut limits = [usize::MAX; 2];
            if cut {
                // Beyond the greeting, so that there is some progress.
                limits[random.below(2)] = 250 + random.below(3000);
            }
            let pairs = [(&near, &far), (&far, &near)];
            for ((from, to), limit) in pairs.into_iter().zip(limits) {
                let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                let left = left.clone();
                std::thread::spawn(move || {
                    if pass(&from, &to, limit) {
                        left.fetch_sub(1, Ordering::AcqRel);
                    }
                });
            }
        }
    });
    cuts
}

/// Passes so many bytes. True if it was that limit that ended it.
fn pass(mut from: &UnixStream, mut to: &UnixStream, mut limit: usize) -> bool {
    let mut chunk = [0; 700];
    while limit > 0 {
        let most = chunk.len().min(limit);
        match from.read(&mut chunk[..most]) {
            Ok(count) if count > 0 => {
                limit -= count;
                if to.write_all(&chunk[..count]).is_err() {
                    break;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            _ => break,
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
    limit == 0
}

#[test]
fn each_message_arrives_once_wherever_connections_are_cut() {
    const COUNT: u32 = 3_000;
    const CUTS: u32 = 8;
    let daemon = Daemon::start();
    let (a, b, c) = (daemon.put("a"), daemon.put("b"), daemon.put("c"));
    let links = ["b", "c"].map(|to| daemon.link_with("a", "n", to, Policy::Block, 20));
    let path = |name: &str| daemon.dir().join(name);
    let mut left = Vec::new();
    for (seed, (name, id)) in (1..).zip([("a", &a), ("b", &b), ("c", &c)]) {
        left.push(cutting_proxy(&path(name), daemon.native_socket(id), seed, CUTS));
    }
    let b = Receiver::start(path("b"), 7);
    let c = Receiver::start(path("c"), 100);
    let (sender, _, stop) = send_all(path("a"), COUNT);
    b.has(COUNT as usize);
    c.has(COUNT as usize);
    drop(stop);
    sender.join().unwrap();
    assert_eq!(b.end(), Vec::from_iter(0..COUNT));
    assert_eq!(c.end(), Vec::from_iter(0..COUNT));
    assert!(left.iter().any(|left| left.load(Ordering::Acquire) < CUTS / 2), "there were cuts");
    for link in links {
        assert_eq!(daemon.counters(link).dropped, 0);
    }
}

/// Says how an output of numbers on channel 0 begins, and declares it.
fn keep(native: &mut Native, epoch: u64, next: u64, again: u64) {
    native.send(&Frame::Keep { channel: 0, epoch, next, again });
    native.declare(0, Direction::Output, "n", &TypeSchema::U32, 0);
}

#[test]
fn what_comes_again_is_for_block_links_only_and_is_acknowledged_when_all_have() {
    let daemon = Daemon::start();
    let (a, b, c) = (daemon.put("a"), daemon.put("b"), daemon.put("c"));
    let block = daemon.link_with("a", "n", "b", Policy::Block, 100);
    let other = daemon.link("any", "n", "c");
    let mut sender = daemon.native(&a);
    keep(&mut sender, 9, 50, 3);
    assert_eq!(sender.next_grant(), Some((0, 100)));
    sender.numbers(50..55);
    assert_eq!(daemon.given(block, 5).queued, 5);
    assert_eq!(daemon.given(other, 2).queued, 2);

    let mut to_b = daemon.native(&b);
    to_b.send(&Frame::Recognise { channel: 0 });
    to_b.declare(0, Direction::Input, "n", &TypeSchema::U32, 0);
    let instance = a.parse().unwrap();
    let from = |frame: Frame<'_>| match frame {
        Frame::From { channel: 0, sender, next, kept } => Some((sender, next, kept)),
        _ => None,
    };
    let first = |native: &mut Native| loop {
        if let Some(from) = native.next(from).unwrap() {
            return from;
        }
    };
    let whose = |anybody| Some(Sender { epoch: 9, instance, anybody });
    assert_eq!(first(&mut to_b), (whose(false), 50, true));
    assert_eq!(to_b.take_numbers(5), [50, 51, 52, 53, 54]);
    let mut to_c = daemon.native(&c);
    to_c.send(&Frame::Recognise { channel: 0 });
    to_c.declare(0, Direction::Input, "n", &TypeSchema::U32, 0);
    assert_eq!(first(&mut to_c), (whose(true), 53, false));
    assert_eq!(to_c.take_numbers(2), [53, 54]);

    // What was not acknowledged is delivered again, in a new connection.
    to_b.send(&Frame::Acknowledge { channel: 0, total: 2 });
    drop(to_b);
    daemon.connections("b", 0);
    eventually("three wait again", || (daemon.given(block, 5).queued == 3).then_some(()));
    let mut to_b = daemon.native(&b);
    to_b.send(&Frame::Recognise { channel: 0 });
    to_b.declare(0, Direction::Input, "n", &TypeSchema::U32, 0);
    assert_eq!(first(&mut to_b), (whose(false), 52, true));
    assert_eq!(to_b.take_numbers(3), [52, 53, 54]);
    to_b.send(&Frame::Acknowledge { channel: 0, total: 3 });
    let acknowledged = |native: &mut Native, total| loop {
        let frame = native.next(|frame| match frame {
            Frame::Acknowledge { channel: 0, total } => Some(total),
            _ => None,
        });
        if frame.expect("the daemon lives") == Some(total) {
            return;
        }
    };
    acknowledged(&mut sender, 5);
    assert_eq!(daemon.settled(block, 5).delivered, 5);

    // The link that blocks goes: no limit any more, and nothing to keep.
    daemon.ok(["link", "remove", &block.to_string()]);
    while sender.next_grant() != Some((0, UNLIMITED)) {}
}

#[test]
fn without_a_link_that_blocks_there_is_an_answer_as_well() {
    let daemon = Daemon::start();
    let a = daemon.put("a");
    let mut sender = daemon.native(&a);
    keep(&mut sender, 1, 10, 2);
    assert_eq!(sender.next_grant(), Some((0, UNLIMITED)));
    sender.numbers(0..5);
    eventually("they are counted", || (daemon.detail("a").unrouted == 5).then_some(()));
}
