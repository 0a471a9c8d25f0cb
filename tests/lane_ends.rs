//! What the daemon does with its ends of lanes: it ends a lane whatever its sender does, and so does
//! the daemon after it; and what the peers say that passed is compared. See
//! `orchestrator-proto/LINKS.md` (D4, D6 …). The peers do by hand what a library would do.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use orchestrator_proto::LinkId;
use orchestrator_proto::TypeSchema;
use orchestrator_proto::control::{EventKind, Policy, Transport, Way};
use orchestrator_proto::runtime::{Direction, Frame, Passed};
use tests::lane::{Lane, claim, end_of, end_that_counted, left, rest};
use tests::{Daemon, eventually, processes};

/// How there comes to be another daemon.
#[derive(Clone, Copy)]
enum Next {
    AfterItsDeath,
    /// The holder is renewed as well.
    Successor,
}

struct Stage {
    daemon: Daemon,
    link: LinkId,
    a: String,
    b: String,
}

impl Stage {
    fn new(policy: Policy) -> Self {
        Self::on(Daemon::start(), policy)
    }

    fn on(daemon: Daemon, policy: Policy) -> Self {
        let (a, b) = (daemon.put("a"), daemon.put("b"));
        let link = daemon.link_by(Transport::Direct, "a", "m", "b", (policy, 64));
        let stage = Self { daemon, link, a, b };
        // Until then there may be more of them from one moment to the next.
        eventually("the holder has the sockets of the instances", || {
            let held = processes::files(stage.daemon.holder_pid());
            let listening = processes::instance_sockets(stage.daemon.dir());
            let is_held = |socket: &String| held.values().any(|file| file == socket);
            (listening.len() == 4 && listening.iter().all(is_held)).then_some(())
        });
        stage
    }

    fn lane(&self) -> Lane {
        Lane::open(&self.daemon, (&self.a, &self.b), "m")
    }

    /// There is another daemon, and both ends come to it; the sender only if it is to.
    fn next_daemon(&self, lane: &mut Lane, how: Next, with_sender: bool) {
        match how {
            Next::AfterItsDeath => {
                self.daemon.replace_killed();
            }
            Next::Successor => {
                self.daemon.ok(["daemon", "restart", "--all"]);
            }
        }
        let uses = Some((lane.id, self.link));
        lane.receiver = end_of(&self.daemon, &self.b, (Direction::Input, "m"), uses);
        self.daemon.declared("b", "m");
        if with_sender {
            lane.sender = end_of(&self.daemon, &self.a, (Direction::Output, "m"), uses);
            eventually("the next daemon knows of the lane", || {
                (self.daemon.link_info(self.link).way == Way::Direct).then_some(())
            });
        }
    }

    /// The holder has so many more sockets open than with the instances alone.
    #[track_caller]
    fn held(&self, before: usize, more: usize) {
        eventually(&format!("the holder has {more} ends of lanes"), || {
            (self.sockets() == before + more).then_some(())
        });
    }

    fn sockets(&self) -> usize {
        let files = processes::files(self.daemon.holder_pid());
        files.values().filter(|file| file.starts_with("socket:")).count()
    }
}

/// D4, D6, D12: the daemon after the one that made a lane ends it too, whether its sender heeds that or
/// not, and whether it has come to this daemon or stands still.
#[test]
fn the_next_daemon_ends_a_lane_by_force() {
    use Next::{AfterItsDeath, Successor};
    for (how, with_sender) in
        [(AfterItsDeath, true), (AfterItsDeath, false), (Successor, true), (Successor, false)]
    {
        let stage = Stage::new(Policy::DropOldest);
        let before = stage.sockets();
        let mut lane = stage.lane();
        stage.held(before, 1);
        stage.next_daemon(&mut lane, how, with_sender);
        assert!(lane.send(1), "it goes on without a daemon, and with the next one");
        stage.daemon.ok(["link", "remove", &stage.link.to_string()]);
        if with_sender {
            lane.sender.told_to_leave(lane.id);
        }
        // It does not leave it.
        assert!(!lane.send(2), "a lane of a link that was removed carries nothing more");
        let rest = rest(&lane.to);
        assert_eq!(rest.last(), Some(&1), "what was sent before is read: {rest:?}");
        stage.held(before, 0);
    }
}

/// D12: however it is told to, and to whatever daemon, a sender that does not heed it is left without a
/// receiver.
#[test]
fn a_sender_that_does_not_heed_the_daemon_is_shut_out() {
    let stage = Stage::new(Policy::DropOldest);
    let mut lane = stage.lane();
    assert!(lane.send(1));
    stage.daemon.ok(["link", "remove", &stage.link.to_string()]);
    lane.sender.told_to_leave(lane.id);
    assert!(!lane.send(2));
    assert_eq!(rest(&lane.to).last(), Some(&1));
}

/// D13: a lane whose sender does not come to the next daemon is over half a minute later, for the
/// receiver if that has come; what it read is counted, and the link goes on.
#[test]
fn a_lane_whose_sender_does_not_come_ends() {
    let [mut with, without] = [Stage::new(Policy::DropOldest), Stage::new(Policy::Block)]
        .map(|stage| (stage.sockets(), stage.lane(), stage));
    without.2.daemon.replace_killed();
    with.2.next_daemon(&mut with.1, Next::AfterItsDeath, false);
    assert!(with.1.send(1), "it stands still, and may go on any time until then");
    for (before, _, stage) in [&with, &without] {
        stage.held(*before, 1);
    }
    for (before, mut lane, stage) in [with, without] {
        let rest = rest(&lane.to);
        stage.held(before, 0);
        assert!(!lane.send(2));
        if rest.is_empty() {
            continue;
        }
        let read = Passed { sent: 1, delivered: 1, ..Passed::default() };
        lane.receiver.send(&left(lane.id, read));
        let counters = stage.daemon.settled(stage.link, 1);
        assert_eq!((counters.sent, counters.delivered), (1, 1));
        let _next = end_of(&stage.daemon, &stage.a, (Direction::Output, "m"), None).lane();
    }
}

/// D6: an end is with the holder for as long as its lane may outlive the daemon, and no longer.
#[test]
fn the_holder_has_an_end_of_each_lane_that_there_is() {
    let stage = Stage::new(Policy::Block);
    let before = stage.sockets();
    // Not before both peers have their ends: until then the lane ends with the daemon.
    let mut receiver = end_of(&stage.daemon, &stage.b, (Direction::Input, "m"), None);
    let mut sender = end_of(&stage.daemon, &stage.a, (Direction::Output, "m"), None);
    let id = sender.lane();
    let _from = claim(&stage.daemon, &stage.a, id).expect("an end");
    assert_eq!(stage.sockets(), before);
    drop((sender, receiver));
    stage.daemon.connections("a", 0);
    stage.daemon.connections("b", 0);
    // With the connection of the sender it is over.
    let mut lane = stage.lane();
    stage.held(before, 1);
    drop(lane.sender);
    assert!(rest(&lane.to).is_empty());
    stage.held(before, 0);
    drop(lane.receiver);
    stage.daemon.connections("b", 0);
    // The next daemon forgets one whose receiver has ended meanwhile, without waiting for anybody.
    lane = stage.lane();
    stage.held(before, 1);
    drop((lane.to, lane.receiver));
    stage.daemon.replace_killed();
    stage.held(before, 0);
    // And one that is ended in the usual way.
    lane = stage.lane();
    stage.held(before, 1);
    stage.next_daemon(&mut lane, Next::AfterItsDeath, true);
    stage.held(before, 1);
    receiver = lane.receiver;
    drop(lane.sender);
    stage.held(before, 0);
    drop(receiver);
}

/// Who says its last word first, and how the sender does.
#[derive(Clone, Copy, Debug)]
enum Order {
    SenderFirst,
    ReceiverFirst,
    /// The sender has said it as what passed so far, and ended.
    SenderEnds,
    /// The same, when the receiver had said that it has read to the end.
    SenderEndsLast,
}

/// What the daemon makes of these words: sent, delivered and dropped, and whether there is an event.
fn counted(policy: Policy, order: Order, said: Passed, read: u64) -> ([u64; 3], bool) {
    let mut daemon = Daemon::prepare(&[]).with_liars();
    daemon.launch();
    let stage = Stage::on(daemon, policy);
    let Lane { id, mut sender, mut receiver, .. } = stage.lane();
    let passed = Frame::Passed { channel: 0, lane: id, passed: said };
    let has_read = left(id, Passed { sent: read, delivered: read, ..Passed::default() });
    match order {
        Order::SenderFirst => {
            sender.send(&left(id, said));
            receiver.told_to_leave(id);
            receiver.send(&has_read);
        }
        Order::ReceiverFirst => {
            receiver.send(&has_read);
            sender.told_to_leave(id);
            sender.send(&left(id, said));
        }
        Order::SenderEnds => {
            sender.send(&passed);
            drop(sender);
            stage.daemon.connections("a", 0);
            receiver.send(&has_read);
        }
        Order::SenderEndsLast => {
            sender.send(&passed);
            receiver.send(&has_read);
            sender.told_to_leave(id);
            drop(sender);
            stage.daemon.connections("a", 0);
        }
    }
    // Whatever that was is read by now.
    receiver.declare(1, Direction::Input, "last", &TypeSchema::U32, 0);
    stage.daemon.declared("b", "last");
    stage.settled(said, read)
}

impl Stage {
    /// What is counted when the lane is over, and whether the event is there, with these figures.
    fn settled(&self, said: Passed, read: u64) -> ([u64; 3], bool) {
        eventually("the lane is over", || {
            (self.daemon.link_info(self.link).way == Way::Routed).then_some(())
        });
        let info = self.daemon.link_info(self.link);
        tests::routing::assert_adds_up(&info.counters);
        assert_eq!(info.reported, info.counters.sent);
        let text = self.daemon.ok(["events"]);
        let lines: Vec<_> = text.lines().filter(|line| line.contains("counts wrongly")).collect();
        if let [line] = lines[..] {
            let (from, figures) = self.daemon.event("it is told", |event| match event.kind {
                EventKind::LinkDiverged { link, delivered, read } => {
                    assert_eq!(link, self.link);
                    Some((event.name.clone(), (delivered, read)))
                }
                _ => None,
            });
            assert_eq!((from.as_deref(), figures), (Some("a"), (said.delivered, read)));
            let words = format!("{} messages on link {}", said.delivered, self.link);
            assert!(line.contains(&words), "{line}");
        }
        assert!(lines.len() < 2, "{text}");
        let counters = info.counters;
        ([counters.sent, counters.delivered, counters.dropped], !lines.is_empty())
    }
}

/// D14: of a lane of before it is compared too, over all that passed, if both say how far they had come:
/// the sender had delivered 100 when it came to this daemon, and the receiver had read 90.
#[test]
fn the_ends_of_a_lane_of_before_are_compared() {
    use Policy::{Block, DropOldest};
    let said =
        |sent, delivered, returned| Passed { sent, delivered, returned, ..Passed::default() };
    let all = (Some(100), Some(90));
    for (policy, (sender, receiver), said, read, expected) in [
        (DropOldest, all, said(7, 5, 2), 15, ([5, 5, 0], None)),
        (DropOldest, all, said(7, 5, 2), 13, ([5, 3, 0], Some((105, 103)))),
        (DropOldest, all, said(7, 5, 2), 16, ([6, 6, 0], Some((105, 106)))),
        // What was not acknowledged of before goes back as well, whether it was read or not.
        (Block, all, said(0, 0, 30), 0, ([0, 0, 0], None)),
        (Block, all, said(5, 0, 30), 15, ([0, 0, 0], None)),
        (Block, all, said(5, 0, 30), 16, ([0, 1, 0], Some((100, 106)))),
        // Who does not say it is not compared.
        (DropOldest, (None, Some(90)), said(7, 5, 2), 13, ([5, 5, 0], None)),
        (DropOldest, (Some(100), None), said(7, 5, 2), 13, ([5, 5, 0], None)),
    ] {
        let mut daemon = Daemon::prepare(&[]).with_liars();
        daemon.launch();
        let stage = Stage::on(daemon, policy);
        let mut lane = stage.lane();
        stage.daemon.replace_killed();
        let uses = Some((lane.id, stage.link));
        let end = |id: &str, direction, counted| {
            end_that_counted(&stage.daemon, id, (direction, "m"), uses, counted)
        };
        lane.receiver = end(&stage.b, Direction::Input, receiver);
        stage.daemon.declared("b", "m");
        lane.sender = end(&stage.a, Direction::Output, sender);
        eventually("the next daemon knows of the lane", || {
            (stage.daemon.link_info(stage.link).way == Way::Direct).then_some(())
        });
        lane.sender.send(&left(lane.id, said));
        lane.receiver.told_to_leave(lane.id);
        let read = Passed { sent: read, delivered: read, ..Passed::default() };
        lane.receiver.send(&left(lane.id, read));
        lane.receiver.declare(1, Direction::Input, "last", &TypeSchema::U32, 0);
        stage.daemon.declared("b", "last");
        let found = stage.daemon.ok(["--json", "events"]);
        let found = found.lines().find_map(|line| {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            let (delivered, read) = (find(&event, "delivered")?, find(&event, "read")?);
            Some((delivered, read))
        });
        let counters = stage.daemon.counters(stage.link);
        tests::routing::assert_adds_up(&counters);
        let [sent, delivered, lost] = expected.0;
        assert_eq!(found, expected.1, "{policy} {said:?} {read:?}");
        assert_eq!(counters.delivered, delivered, "{policy} {said:?} {read:?}: {counters:?}");
        assert!(counters.sent >= sent && counters.drops.lost >= lost, "{counters:?}");
    }
}

/// A number of this name in an event.
fn find(event: &serde_json::Value, name: &str) -> Option<u64> {
    match event {
        serde_json::Value::Object(fields) => fields
            .get(name)
            .and_then(serde_json::Value::as_u64)
            .or_else(|| fields.values().find_map(|value| find(value, name))),
        _ => None,
    }
}

/// D14: what the two ends of a lane say is compared, in whatever order it is said; what the receiver read
/// counts.
#[test]
fn an_event_says_if_the_ends_of_a_lane_disagree() {
    use Order::{ReceiverFirst, SenderEnds, SenderEndsLast, SenderFirst};
    use Policy::{Block, DropOldest};
    let said = |sent, delivered, dropped| Passed { sent, delivered, dropped, ..Passed::default() };
    let table = [
        // It is true.
        (DropOldest, SenderFirst, said(7, 5, 2), 5, ([7, 5, 2], false)),
        (DropOldest, ReceiverFirst, said(7, 5, 2), 5, ([7, 5, 2], false)),
        // Too few were read, or too many.
        (DropOldest, SenderFirst, said(7, 5, 2), 3, ([7, 3, 4], true)),
        (DropOldest, ReceiverFirst, said(7, 5, 2), 3, ([7, 3, 4], true)),
        (DropOldest, SenderFirst, said(7, 5, 2), 9, ([11, 9, 2], true)),
        (Block, SenderFirst, said(5, 5, 0), 4, ([5, 4, 1], true)),
        (Block, ReceiverFirst, said(5, 5, 0), 6, ([6, 6, 0], true)),
        // It has sent more before it ended; what waited with it is lost.
        (DropOldest, SenderEnds, said(100, 50, 50), 90, ([140, 90, 50], false)),
        (Block, SenderEnds, said(20, 10, 0), 15, ([20, 15, 5], false)),
        (Block, SenderEndsLast, said(20, 10, 0), 15, ([20, 15, 5], false)),
        // But not less.
        (DropOldest, SenderEnds, said(5, 5, 0), 3, ([5, 3, 2], true)),
        (Block, SenderEndsLast, said(5, 5, 0), 3, ([5, 3, 2], true)),
    ];
    for (policy, order, said, read, expected) in table {
        let found = counted(policy, order, said, read);
        assert_eq!(found, expected, "{policy} {order:?} {said:?} {read}");
    }
}
