//! Links that go from instance to instance: what `orchestrator-proto/LINKS.md` says of them (D1,
//! D2 …), with two programs of the SDK in the test's own process.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::io::Read;
use std::num::NonZeroU32;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use nix::sys::signal::Signal;
use orchestrator_proto::control::{Policy, Transport, Way};
use orchestrator_proto::frame::{self, MAX_RUNTIME};
use orchestrator_proto::runtime::{Direction, Frame, MAGIC, PROTOCOL, Passed};
use orchestrator_proto::sdk::{Input, Output, Runtime, Schema};
use orchestrator_proto::{ErrorCode, LinkId, Message, TypeSchema};
use serde::{Deserialize, Serialize};
use tests::lane::received;
use tests::native::Native;
use tests::{Daemon, SOON, eventually, processes};

#[derive(Serialize, Deserialize, Schema, Message, PartialEq, Debug)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
#[message(name = "n")]
struct Number(u32);

/// Two programs, which go on beside the test's blocking calls.
struct Pair {
    peers: tokio::runtime::Runtime,
    daemon: Daemon,
    link: LinkId,
    sender: Runtime,
    output: Output<Number>,
    receiver: Runtime,
    input: Input<Number>,
    a: String,
    b: String,
    way: Way,
}

impl Pair {
    fn new(transport: Transport, policy: Policy, capacity: u32, window: u32) -> Self {
        let daemon = Daemon::start();
        let (a, b) = (daemon.put("a"), daemon.put("b"));
        let link = daemon.link_by(transport, "a", "n", "b", (policy, capacity));
        let peers = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let connect = |id: &str| {
            peers.block_on(Runtime::connect_to(daemon.native_socket(id))).expect("welcome")
        };
        let (sender, receiver) = (connect(&a), connect(&b));
        let output = sender.output::<Number>().unwrap();
        let window = NonZeroU32::new(window).unwrap();
        let input = peers.block_on(async { receiver.input_with_window::<Number>(window) });
        let input = input.unwrap();
        let way = if transport == Transport::Shm { Way::Shm } else { Way::Direct };
        let this = Self { peers, daemon, link, sender, output, receiver, input, a, b, way };
        this.is(way);
        this
    }

    #[track_caller]
    fn is(&self, way: Way) {
        eventually("messages go this way", || {
            (self.daemon.link_info(self.link).way == way).then_some(())
        });
    }

    fn why(&self) -> String {
        self.daemon.link_info(self.link).why.unwrap_or_default()
    }

    #[track_caller]
    fn send(&self, numbers: std::ops::Range<u32>) {
        let numbers: Vec<_> = numbers.map(Number).collect();
        let sent = self
            .peers
            .block_on(async { tokio::time::timeout(SOON, self.output.send_many(&numbers)).await });
        assert_eq!(sent.expect("it is sent soon").unwrap(), numbers.len() as u64);
    }

    #[track_caller]
    fn take(&mut self, count: usize) -> Vec<u32> {
        let Self { peers, input, .. } = self;
        peers.block_on(received(input, count)).into_iter().map(|Number(number)| number).collect()
    }

    #[track_caller]
    fn passes(&mut self, numbers: std::ops::Range<u32>) {
        self.send(numbers.clone());
        assert_eq!(self.take(numbers.len()), Vec::from_iter(numbers));
    }
}

/// Makes two tests of each scenario: over a socket pair, and with memory beside it.
macro_rules! over_both {
    ($($scenario:ident),* $(,)?) => {
        $(mod $scenario {
            use super::Transport::{Direct, Shm};

            #[test]
            fn directly() {
                super::$scenario(Direct);
            }

            #[test]
            fn by_memory() {
                super::$scenario(Shm);
            }
        })*
    };
}

over_both!(
    a_link_says_which_way_it_goes_and_why,
    a_watcher_sees_what_is_sent_and_nothing_is_lost,
    a_link_that_is_removed_takes_its_lanes_along,
    what_passed_is_known_when_it_is_asked_for,
    policies_hold_on_a_lane,
    lanes_go_on_without_a_daemon,
    the_next_process_of_a_receiver_gets_what_the_one_before_it_had_not_taken_in,
    what_a_sender_had_sent_at_its_end_arrives,
    the_next_daemon_makes_no_second_lane_beside_one_that_there_is,
    what_nobody_can_have_counted_ends_one_connection,
);

/// D1: what a link goes directly for, and what not.
fn a_link_says_which_way_it_goes_and_why(transport: Transport) {
    let mut pair = Pair::new(transport, Policy::Block, 64, 1024);
    assert_eq!(pair.why(), "");
    pair.passes(0..1000);
    let link = pair.link.to_string();
    let list = pair.daemon.ok(["link", "list"]);
    let way = pair.way.to_string();
    assert!(list.contains(&way), "{list}");
    for (change, undo, why) in [
        (["--history", "3"], ["--history", "0"], "history"),
        (["--block-timeout", "1s"], ["--block-timeout", "0"], "block-timeout"),
    ] {
        let [what, value] = change;
        pair.daemon.ok(["link", "set", &link, what, value]);
        pair.is(Way::Routed);
        assert!(pair.why().contains(why), "{}", pair.why());
        let list = pair.daemon.ok(["link", "list"]);
        assert!(list.contains(&format!("link {link} is routed, not {way}")), "{list}");
        pair.passes(1000..1100);
        let [what, value] = undo;
        pair.daemon.ok(["link", "set", &link, what, value]);
        pair.is(pair.way);
        pair.passes(1100..1200);
    }
    pair.daemon.ok(["link", "set", &link, "--transport", "routed"]);
    pair.is(Way::Routed);
    assert_eq!(pair.why(), "");
    pair.passes(1200..1300);
    pair.daemon.ok(["link", "set", &link, "--transport", &way]);
    pair.is(pair.way);
    drop(std::mem::replace(&mut pair.receiver, pair.sender.clone()));
    let counters = pair.daemon.counters(pair.link);
    assert_eq!((counters.dropped, counters.queued), (0, 0));
    assert_eq!(counters.sent, counters.delivered);
    assert_eq!(pair.daemon.detail("a").sent, counters.sent, "{counters:?}");
}

/// D1: a peer that does not say that it takes lanes gets none, and the link says why.
#[test]
fn a_peer_of_another_library_is_served_by_the_daemon() {
    let daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    let link = daemon.link_by(Transport::Direct, "a", "n", "b", (Policy::Block, 8));
    let mut sender = daemon.sender(&a, "n");
    let mut receiver = daemon.receiver(&b, "n");
    daemon.declared("a", "n");
    sender.number(7);
    assert_eq!(receiver.take_numbers(1), [7]);
    let info = daemon.link_info(link);
    assert_eq!(info.way, Way::Routed);
    let why = info.why.expect("a reason");
    assert!(why.contains("a library that takes lanes"), "{why}");
}

/// D2, D3: from one way to the other and back, again and again, while messages pass.
fn a_watcher_sees_what_is_sent_and_nothing_is_lost(transport: Transport) {
    const COUNT: u32 = 40_000;
    let mut pair = Pair::new(transport, Policy::Block, 64, 100);
    let output = pair.output.clone();
    let sending = pair.peers.spawn(async move {
        for number in 0..COUNT {
            output.send(&Number(number)).await.unwrap();
        }
    });
    let Pair { peers, input, daemon, output, .. } = &mut pair;
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut seen = 0;
            for _ in 0..8 {
                let mut tap = daemon.cli_command(["--json", "link", "tap", "--count", "3"]);
                let tap = tap.stdout(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
                seen += String::from_utf8(tap.stdout).unwrap().lines().count();
                if sending.is_finished() {
                    break;
                }
            }
            seen
        });
        let arrived = peers.block_on(async {
            let mut arrived = Vec::new();
            while arrived.len() < COUNT as usize {
                let next = tokio::time::timeout(SOON, input.recv()).await;
                arrived.push(next.expect("a message comes").unwrap().0);
                if arrived.len() == COUNT as usize {
                    break;
                }
            }
            arrived
        });
        assert_eq!(arrived, Vec::from_iter(0..COUNT));
        // Who still watches sees these.
        while !watching.is_finished() {
            peers.block_on(async {
                output.send(&Number(0)).await.unwrap();
                tokio::time::timeout(SOON, input.recv()).await.unwrap().unwrap();
            });
        }
        assert!(watching.join().unwrap() >= 3);
    });
    pair.is(pair.way);
}

/// D4: over a link that is removed nothing goes any more, and its sender goes on.
fn a_link_that_is_removed_takes_its_lanes_along(transport: Transport) {
    let mut pair = Pair::new(transport, Policy::Block, 8, 4);
    pair.passes(0..8);
    // Until the sender is held back.
    while pair.output.try_send(&Number(100)).is_ok() {}
    let link = pair.link.to_string();
    let said = pair.daemon.ok(["link", "remove", &link]);
    assert!(said.contains("removed"), "{said}");
    // What the kernel had taken arrives, and nothing after it.
    pair.peers.block_on(async {
        let waiting = tokio::time::timeout(SOON, pair.output.send(&Number(200)));
        waiting.await.expect("it is let go").unwrap();
    });
    eventually("it is counted that nobody takes it", || {
        (pair.daemon.detail("a").unrouted > 0).then_some(())
    });
    pair.daemon.link_by(Transport::Direct, "a", "n", "b", (Policy::Block, 8));
    pair.send(300..301);
    let mut last = 0;
    while last != 300 {
        [last] = pair.take(1).try_into().unwrap();
        assert!(last == 100 || last == 300, "{last}");
    }
}

/// D5: what is listed is what the ends have counted by then.
fn what_passed_is_known_when_it_is_asked_for(transport: Transport) {
    let mut pair = Pair::new(transport, Policy::DropOldest, 16, 4);
    // From then on the sender knows what it is granted.
    pair.passes(0..1);
    let mut sent = 1;
    for burst in [1, 100, 1, 1000, 3] {
        pair.send(sent..sent + burst);
        sent += burst;
        let counters = pair.daemon.counters(pair.link);
        assert_eq!(counters.sent, u64::from(sent));
        assert_eq!(counters.sent, counters.delivered + counters.dropped + counters.queued);
        assert_eq!(pair.daemon.detail("a").sent, u64::from(sent));
    }
    // The four that were granted, and the sixteen that were kept of the rest.
    let counters = pair.daemon.counters(pair.link);
    assert_eq!((counters.delivered, counters.queued), (4, 16));
    let arrived = pair.take(19);
    assert_eq!(arrived[..3], [1, 2, 3]);
    assert_eq!(arrived[3..], Vec::from_iter(sent - 16..sent));
    let counters = pair.daemon.settled(pair.link, sent.into());
    assert_eq!(counters.drops.full, u64::from(sent) - 20);
}

/// D2: the policies are those of the link.
fn policies_hold_on_a_lane(transport: Transport) {
    for (policy, capacity, kept) in [
        (Policy::DropNewest, 5, Vec::from_iter(2..7)),
        (Policy::DropOldest, 5, Vec::from_iter(96..101)),
        (Policy::Latest, 1, vec![100]),
    ] {
        let mut pair = Pair::new(transport, policy, capacity, 2);
        // One of the two that are granted.
        pair.passes(0..1);
        pair.send(1..101);
        let arrived = pair.take(1 + kept.len());
        assert_eq!((&arrived[..1], &arrived[1..]), (&[1][..], &kept[..]), "{policy}");
        pair.passes(101..102);
    }
}

/// D6: a daemon that stands still, or dies, is not on the way.
fn lanes_go_on_without_a_daemon(transport: Transport) {
    for policy in [Policy::Block, Policy::DropOldest] {
        let mut pair = Pair::new(transport, policy, 4096, 1024);
        pair.passes(0..10);
        let stopped = pair.daemon.pid();
        processes::suspend(stopped);
        for round in 1..20 {
            pair.passes(round * 100..round * 100 + 100);
        }
        processes::signal(stopped, Signal::SIGCONT);
        pair.daemon.replace_killed();
        pair.passes(2000..3000);
        // The next one knows of it.
        pair.peers.block_on(async {
            pair.sender.connected().await;
            pair.receiver.connected().await;
        });
        pair.is(pair.way);
        pair.passes(3000..3100);
        let counters = pair.daemon.counters(pair.link);
        assert_eq!((counters.dropped, counters.queued), (0, 0), "{policy}");
        assert!(counters.sent >= 100 && counters.sent <= 1100, "{policy}: {counters:?}");
        let events = pair.daemon.ok(["events"]);
        assert!(!events.contains("lost"), "{events}");
        // And has a say in it.
        let link = pair.link.to_string();
        pair.daemon.ok(["link", "set", &link, "--transport", "routed"]);
        pair.is(Way::Routed);
        pair.passes(3100..3200);
    }
}

/// D6: an end that comes before the other one to the next daemon finds its lane there, and no second
/// one beside it: what is sent is counted once.
fn the_next_daemon_makes_no_second_lane_beside_one_that_there_is(transport: Transport) {
    const PAIRS: usize = 24;
    let way = if transport == Transport::Shm { Way::Shm } else { Way::Direct };
    let daemon = Daemon::start();
    let peers =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut pairs: Vec<_> = (0..PAIRS)
        .map(|index| {
            let [from, to] = ["a", "b"].map(|name| format!("{name}{index}"));
            let (a, b) = (daemon.put(&from), daemon.put(&to));
            let rules = (Policy::Block, 64);
            let link = daemon.link_by(transport, &from, "n", &to, rules);
            peers.block_on(async {
                let sender = Runtime::connect_to(daemon.native_socket(&a)).await.unwrap();
                let receiver = Runtime::connect_to(daemon.native_socket(&b)).await.unwrap();
                let (output, input) = (sender.output::<Number>(), receiver.input::<Number>());
                (link, output.unwrap(), input.unwrap(), sender, receiver)
            })
        })
        .collect();
    let all_are_direct = || {
        eventually("all links go directly", || {
            let links = daemon.links();
            (links.iter().filter(|link| link.way == way).count() == PAIRS).then_some(())
        });
    };
    for round in 0..4 {
        all_are_direct();
        if round > 0 {
            daemon.replace_killed();
            peers.block_on(async {
                for (.., sender, receiver) in &mut pairs {
                    sender.connected().await;
                    receiver.connected().await;
                }
            });
            all_are_direct();
        }
        for (link, output, input, ..) in &mut pairs {
            let before = daemon.counters(*link).sent;
            peers.block_on(async {
                for number in 0..10 {
                    output.send(&Number(number)).await.unwrap();
                    let next = tokio::time::timeout(SOON, input.recv()).await;
                    assert_eq!(next.expect("a message comes").unwrap().0, number);
                }
            });
            assert_eq!(daemon.counters(*link).sent - before, 10, "link {link} in round {round}");
        }
    }
}

/// D7: what a receiver had not acknowledged goes to the next one.
fn the_next_process_of_a_receiver_gets_what_the_one_before_it_had_not_taken_in(
    transport: Transport,
) {
    let mut pair = Pair::new(transport, Policy::Block, 64, 8);
    pair.send(0..40);
    let began = pair.take(3);
    assert_eq!(began, [0, 1, 2]);
    let window = NonZeroU32::new(8).unwrap();
    let next = pair.peers.block_on(async {
        let next = Runtime::connect_to(pair.daemon.native_socket(&pair.b)).await.unwrap();
        let input = next.input_with_window::<Number>(window).unwrap();
        (next, input)
    });
    // The one before it is gone; that it is the newest one that counts is another matter.
    (pair.receiver, pair.input) = next;
    let first = pair.take(1)[0];
    assert!(first <= 3, "at most what it had begun with is done: {first}");
    let rest = pair.take(39 - first as usize);
    assert_eq!(rest, Vec::from_iter(first + 1..40));
    pair.is(pair.way);
    pair.passes(40..100);
}

/// D8: what a sender had sent when it ended is read.
fn what_a_sender_had_sent_at_its_end_arrives(transport: Transport) {
    let mut pair = Pair::new(transport, Policy::DropOldest, 2000, 1024);
    pair.send(0..1000);
    pair.peers.block_on(pair.sender.flush()).unwrap();
    let another = pair.peers.block_on(Runtime::connect_to(pair.daemon.native_socket(&pair.a)));
    let another = another.unwrap();
    let output = pair.peers.block_on(async { another.output::<Number>() }).unwrap();
    drop((
        std::mem::replace(&mut pair.output, output),
        std::mem::replace(&mut pair.sender, another),
    ));
    assert_eq!(pair.take(1000), Vec::from_iter(0..1000));
    pair.is(pair.way);
    pair.passes(1000..1100);
    let counters = pair.daemon.settled(pair.link, 1100);
    assert_eq!((counters.delivered, counters.dropped), (1100, 0));
}

/// Nobody gets an end of a lane that is another's, or of none; and nobody is told of who tries.
#[test]
fn an_end_of_a_lane_is_only_for_whom_it_is() {
    let pair = Pair::new(Transport::Direct, Policy::Block, 8, 8);
    let claim = |id: &str, frame: Frame<'_>| {
        let mut stream = UnixStream::connect(pair.daemon.native_socket(id)).unwrap();
        let frame = frame::encode(&frame, MAX_RUNTIME).unwrap();
        std::io::Write::write_all(&mut stream, &frame).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    };
    let of = |lane| Frame::Claim { magic: MAGIC, protocol: PROTOCOL, lane };
    for id in [&pair.a, &pair.b] {
        assert!(claim(id, of(1)).is_empty(), "there is no such lane");
        for wrong in [
            Frame::Claim { magic: *b"nope", protocol: PROTOCOL, lane: 1 },
            Frame::Claim { magic: MAGIC, protocol: PROTOCOL + 1, lane: 1 },
        ] {
            let answer = claim(id, wrong);
            let body = frame::first_body(&answer, MAX_RUNTIME).unwrap().expect("an answer");
            let refused: Frame<'_> = postcard::from_bytes(body).unwrap();
            assert!(matches!(refused, Frame::Refused(_)), "{refused:?}");
        }
    }
    // A lane of others: a third instance asks for what was offered to the first.
    let (c, d) = (pair.daemon.put("c"), pair.daemon.put("d"));
    pair.daemon.link_by(Transport::Direct, "c", "m", "d", (Policy::Block, 8));
    let mut ends = [(&c, Direction::Output), (&d, Direction::Input)]
        .map(|(id, direction)| end_of_m(&pair.daemon, id, direction));
    let lane = lane_of(&mut ends[0]);
    assert!(claim(&pair.a, of(lane)).is_empty());
    assert!(claim(&d, of(lane)).is_empty(), "the receiver is not told of it yet");
    assert!(!claim(&c, of(lane)).is_empty());
    // It never says that it uses it: its messages pass the daemon.
    ends[0].number(5);
    let number = loop {
        let number = ends[1].next(|frame| match frame {
            Frame::Message { payload, .. } => Some(payload.to_vec()),
            _ => None,
        });
        if let Some(number) = number.expect("the connection lives") {
            break number;
        }
    };
    assert_eq!(number, [5]);
    let events = pair.daemon.ok(["events"]);
    let count = events.matches(" connected (native)").count();
    assert_eq!(count, 4, "who only fetches an end is not connected: {events}");
}

/// An end that takes lanes, and does as the test says.
fn end_of_m(daemon: &Daemon, id: &str, direction: Direction) -> Native {
    let mut native = daemon.native(id);
    native.send(&Frame::Lanes { memory: false });
    native.send(&match direction {
        Direction::Output => Frame::Keep { channel: 0, epoch: 1, next: 0, again: 0 },
        Direction::Input => Frame::Recognise { channel: 0 },
    });
    native.declare(0, direction, "m", &TypeSchema::U32, 0);
    native
}

/// The lane that it is told of.
fn lane_of(native: &mut Native) -> u64 {
    loop {
        let lane = native.next(|frame| match frame {
            Frame::Lane { lane, .. } => Some(lane),
            _ => None,
        });
        if let Some(lane) = lane.expect("the connection lives") {
            return lane;
        }
    }
}

/// Whatever an end says of a lane, the daemon counts on, and nobody else's links are touched.
fn what_nobody_can_have_counted_ends_one_connection(transport: Transport) {
    const MANY: u64 = u64::MAX;
    let mut pair = Pair::new(transport, Policy::DropOldest, 64, 64);
    let (c, d) = (pair.daemon.put("c"), pair.daemon.put("d"));
    let link = pair.daemon.link_by(Transport::Direct, "c", "m", "d", (Policy::Block, 8));
    let _receiver = end_of_m(&pair.daemon, &d, Direction::Input);
    let most = Passed { sent: MANY, delivered: MANY, dropped: MANY, returned: MANY, output: MANY };
    let left = |lane, returned| {
        let passed = Passed { sent: returned, returned, ..Passed::default() };
        Frame::Left { channel: 0, lane, passed }
    };
    let again = |lane, number| Frame::Again { channel: 0, lane, number, payload: &[1] };
    type Said<'a> = Vec<Frame<'a>>;
    let wrongs: [&dyn Fn(u64) -> Said<'static>; 7] = [
        &|_| vec![Frame::Skip { channel: 0, count: MANY }],
        &|_| vec![Frame::Skip { channel: 0, count: 1 << 60 }, Frame::Skip { channel: 0, count: 1 }],
        &|lane| vec![Frame::Passed { channel: 0, lane, passed: most }],
        &|lane| vec![Frame::Left { channel: 0, lane, passed: most }],
        &|lane| vec![left(lane, 1), again(lane, 0)],
        &|lane| vec![left(lane, 1 << 60), again(lane, MANY)],
        &|lane| vec![Frame::Switched { channel: 0, lane }, left(lane, 1 << 60), again(lane, 7)],
    ];
    for (at, wrong) in wrongs.into_iter().enumerate() {
        let mut sender = end_of_m(&pair.daemon, &c, Direction::Output);
        let lane = lane_of(&mut sender);
        wrong(lane).iter().for_each(|frame| sender.send(frame));
        let refused = sender.refusal();
        assert_eq!(refused.code, ErrorCode::Malformed, "{at}: {refused}");
        drop(sender);
        pair.daemon.connections("c", 0);
    }
    // Each of these is taken for what it is: nothing that concerns others.
    let before = pair.daemon.counters(pair.link);
    let mut sender = pair.daemon.native(&c);
    sender.send(&Frame::Lanes { memory: false });
    for lane in [1, 2] {
        sender.send(&Frame::Uses { channel: 0, lane, link: pair.link, memory: false });
    }
    sender.send(&Frame::Keep { channel: 0, epoch: 2, next: 0, again: 0 });
    sender.declare(0, Direction::Output, "n", &TypeSchema::U32, 0);
    let passed = Passed { sent: 500, delivered: 500, ..Passed::default() };
    sender.send(&Frame::Passed { channel: 0, lane: 1, passed });
    pair.daemon.declared("c", "n");
    assert_eq!(pair.daemon.counters(pair.link), before);
    pair.passes(0..100);
    let after = pair.daemon.counters(pair.link);
    assert_eq!((after.sent, after.delivered), (before.sent + 100, before.delivered + 100));
    let counters = pair.daemon.counters(link);
    assert_eq!(counters.sent, counters.delivered + counters.dropped + counters.queued);
}
