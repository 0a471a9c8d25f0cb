//! What the daemon does with its ends of lanes: it ends a lane whatever its sender does, and so does
//! the daemon after it; and what the peers say that passed is compared. See
//! `orchestrator-proto/LINKS.md` (D4, D6 …). The peers do by hand what a library would do.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use orchestrator_proto::LinkId;
use orchestrator_proto::control::{Policy, Transport, Way};
use orchestrator_proto::runtime::Direction;
use tests::lane::{Lane, claim, end_of, rest};
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
        let daemon = Daemon::start();
        let (a, b) = (daemon.put("a"), daemon.put("b"));
        let link = daemon.link_by(Transport::Direct, "a", "m", "b", (policy, 64));
        Self { daemon, link, a, b }
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

/// D4, D6: the daemon after the one that made a lane ends it too, whether its sender heeds that or
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
