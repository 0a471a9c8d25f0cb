//! The daemon's ends of lanes. They outlive it, so that the next daemon can end each lane too,
//! whatever its sender does.
//!
//! An end is a duplicate of the sender's. It is kept from when the receiver fetches its own: before
//! that the lane ends with the daemon, which has the receiver's. And it is kept until the lane is
//! over. The next daemon has it among the unclaimed ones until one of the peers says that it uses
//! the lane.
//!
//! A duplicate keeps the lane open, also for a sender that has ended. So what nobody has claimed
//! after [`UNCLAIMED`] is shut down.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::Duration;

use orchestrator_proto::LinkId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{Shutdown, shutdown};

use super::Lanes;
use super::table::{Lane, Stage, Table};
use crate::route::Router;
use crate::runtime::LaneShelf;

/// How long the peers of a lane may take to come to a new daemon. Who has not ended comes within
/// moments, and who stands still for longer (SIGSTOP) loses the lane, not the link.
const UNCLAIMED: Duration = Duration::from_secs(30);

/// A lane that an earlier daemon made, and the end that was kept of it.
pub struct KeptLane {
    /// The link whose messages it carries.
    pub link: LinkId,
    /// Its number.
    pub lane: u64,
    /// The end.
    pub file: OwnedFd,
}

/// The daemon's end of a lane. Dropping it ends the lane: nobody can write to it any more, and
/// whoever reads from it comes to an end behind what was written before; and it is kept no longer.
pub(super) struct OurEnd {
    file: OwnedFd,
    kept: Option<Kept>,
}

/// The next daemon has the end as well, until this is dropped.
struct Kept {
    shelf: Arc<dyn LaneShelf>,
    link: LinkId,
    lane: u64,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.shelf.forget(self.link, self.lane);
    }
}

impl Drop for OurEnd {
    fn drop(&mut self) {
        // It fails for one whose peer is gone, which is as good.
        let _ = shutdown(&self.file, Shutdown::Both);
    }
}

impl OurEnd {
    pub(super) const fn new(file: OwnedFd) -> Self {
        Self { file, kept: None }
    }

    /// For the sender, whose end is the same.
    pub(super) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.file.as_fd().try_clone_to_owned()
    }

    /// Has it kept for the next daemon, if it is not yet.
    pub(super) fn keep(&mut self, shelf: &Arc<dyn LaneShelf>, link: LinkId, lane: u64) {
        if self.kept.is_none() {
            shelf.keep(link, lane, self.file.as_fd());
            self.kept = Some(Kept { shelf: shelf.clone(), link, lane });
        }
    }

    fn of_before(shelf: &Arc<dyn LaneShelf>, kept: KeptLane) -> Self {
        let KeptLane { link, lane, file } = kept;
        Self { file, kept: Some(Kept { shelf: shelf.clone(), link, lane }) }
    }

    /// Whether the receiver has closed its end, so that the sender sees the end of the lane too.
    fn is_over(&self) -> bool {
        let mut files = [PollFd::new(&self.file, PollFlags::empty())];
        let looked = poll(&mut files, Some(&Timespec::default()));
        looked.is_ok() && files[0].revents().contains(PollFlags::HUP)
    }
}

impl Table {
    /// The end that was kept of a lane of this link; the peers have come to this daemon.
    pub(super) fn claimed(&mut self, lane: u64, link: LinkId) -> Option<OurEnd> {
        if self.unclaimed.get(&lane)?.0 != link {
            return None;
        }
        self.unclaimed.remove(&lane).map(|(_, end)| end)
    }

    /// Lanes whose peers have not come are over, and so are those whose receivers came alone: they
    /// read what is there, and say how much it was.
    fn give_up_unclaimed(&mut self) -> usize {
        let mut count = std::mem::take(&mut self.unclaimed).len();
        for (id, lane) in &mut self.lanes {
            if lane.sender.is_none() && !lane.is_left_behind() && lane.file.is_some() {
                count += 1;
                lane.give_up(*id);
            }
        }
        count
    }

    /// Lanes of this link whose peers have not come.
    pub(super) fn unclaimed_of(&self, link: LinkId) -> impl Iterator<Item = u64> {
        self.unclaimed.iter().filter(move |(_, it)| it.0 == link).map(|(id, _)| *id)
    }
}

impl Lane {
    /// Its sender does not come, or not in time; its receiver has.
    pub(super) fn give_up(&mut self, id: u64) {
        self.shut();
        self.stage = Stage::Left;
        self.is_used = true;
        self.link.lanes.begin(id, self.way);
    }
}

impl Lanes {
    /// Takes up what an earlier daemon has had kept. To be called when the links are there and
    /// before anybody is served, within a tokio runtime. Lanes of links that are not there are shut
    /// down.
    pub fn take_up(self: &Arc<Self>, kept: Vec<KeptLane>, router: &Router) {
        if kept.is_empty() {
            return;
        }
        let ends = kept.into_iter().filter_map(|kept| {
            let (link, lane) = (kept.link, kept.lane);
            let end = OurEnd::of_before(&self.shelf, kept);
            (router.link(link).is_some() && !end.is_over()).then_some((lane, (link, end)))
        });
        let ends: Vec<_> = ends.collect();
        self.table().unclaimed.extend(ends);
        let this: Weak<Self> = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(UNCLAIMED).await;
            if let Some(this) = this.upgrade() {
                this.give_up_unclaimed();
            }
        });
    }

    fn give_up_unclaimed(&self) {
        let count = self.table().give_up_unclaimed();
        if count > 0 {
            tracing::warn!(count, "lanes are shut down whose senders have not come back");
            self.changes.send_replace(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::polled::waits;
    use crate::route::{LinkRequest, LinkTarget, Mailbox, Surroundings};
    use crate::runtime::native::lanes::ended::Before;
    use crate::runtime::native::lanes::table::End;
    use orchestrator_proto::control::{LinkRules, Policy, Way};
    use orchestrator_proto::runtime::Passed;
    use orchestrator_proto::{InstanceId, WireError};
    use std::collections::BTreeSet;
    use std::io::{Read, Write};
    use std::os::fd::BorrowedFd;
    use std::os::unix::net::UnixStream;
    use std::sync::Mutex;

    struct Quiet;

    impl Surroundings for Quiet {
        fn link_mismatched(&self, _: LinkId, _: Option<InstanceId>, _: &WireError) {}
        fn messages_lost(&self, _: LinkId, _: InstanceId, _: u64) {}
        fn open_peer(&self, _: &str, _: &Arc<Mailbox>) {}
        fn close_peer(&self, _: &str) {}
    }

    /// What is kept, by link and lane.
    #[derive(Default)]
    struct Noted(Mutex<BTreeSet<(u64, u64)>>);

    impl LaneShelf for Noted {
        fn keep(&self, link: LinkId, lane: u64, _: BorrowedFd<'_>) {
            assert!(self.0.lock().unwrap().insert((link.0, lane)), "it is kept once");
        }

        fn forget(&self, link: LinkId, lane: u64) {
            assert!(self.0.lock().unwrap().remove(&(link.0, lane)), "it was kept");
        }
    }

    struct World {
        noted: Arc<Noted>,
        lanes: Arc<Lanes>,
        router: Router,
        link: LinkId,
    }

    impl World {
        fn new() -> Self {
            let (noted, router) = (Arc::<Noted>::default(), Router::new(Box::new(Quiet)));
            let [from, to] = [1, 2].map(|id| InstanceId::from_bytes([id; 16]));
            let _ends = [from, to].map(|id| router.add_instance(id));
            let rules = LinkRules { policy: Policy::Block, capacity: 8, ..LinkRules::default() };
            let (type_name, to) = ("m".into(), LinkTarget::Instance(to));
            let request = LinkRequest { from: Some(from), type_name, to, rules };
            let (link, _) = router.add_link(&request).unwrap();
            Self { lanes: Lanes::new(noted.clone()), noted, router, link }
        }

        /// An end that an earlier daemon has had kept, and that of the receiver.
        fn kept(&self, link: LinkId, lane: u64) -> (KeptLane, UnixStream) {
            let (ours, theirs) = UnixStream::pair().unwrap();
            (&ours).write_all(b"before").unwrap();
            self.noted.0.lock().unwrap().insert((link.0, lane));
            (KeptLane { link, lane, file: ours.into() }, theirs)
        }

        fn noted(&self) -> Vec<u64> {
            self.noted.0.lock().unwrap().iter().map(|(_, lane)| *lane).collect()
        }
    }

    /// What there is to be read, if the lane is over.
    fn rest(mut receiver: &UnixStream) -> Option<Vec<u8>> {
        receiver.set_nonblocking(true).unwrap();
        let mut read = Vec::new();
        receiver.read_to_end(&mut read).ok().map(|_| read)
    }

    #[test]
    fn an_end_that_is_dropped_ends_its_lane_behind_what_was_written() {
        let world = World::new();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut end = OurEnd::new(ours.into());
        let mut sender = UnixStream::from(end.duplicate().unwrap());
        let shelf: Arc<dyn LaneShelf> = world.noted.clone();
        for _ in 0..2 {
            end.keep(&shelf, world.link, 7);
        }
        sender.write_all(b"some").unwrap();
        assert_eq!(world.noted(), [7]);
        drop(end);
        assert_eq!(world.noted(), [0; 0]);
        assert_eq!(sender.write(b"more").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(rest(&theirs).as_deref(), Some(&b"some"[..]));
    }

    #[tokio::test]
    async fn what_nobody_can_claim_is_not_kept() {
        let world = World::new();
        let (good, good_end) = world.kept(world.link, 1);
        let (of_no_link, other_end) = world.kept(LinkId(99), 2);
        let (without_receiver, closed) = world.kept(world.link, 3);
        drop(closed);
        world.lanes.take_up(vec![good, of_no_link, without_receiver], &world.router);
        assert_eq!(world.noted(), [1]);
        assert_eq!(rest(&other_end).as_deref(), Some(&b"before"[..]));
        assert_eq!(rest(&good_end), None);
        // Nobody has a say in the lane of another link.
        assert!(world.lanes.table().claimed(1, LinkId(99)).is_none());
        let end = world.lanes.table().claimed(1, world.link).unwrap();
        assert!(world.lanes.table().claimed(1, world.link).is_none());
        assert_eq!(rest(&good_end), None, "who claims it goes on with it");
        drop(end);
        assert!(rest(&good_end).is_some());
    }

    #[tokio::test]
    async fn who_begins_to_watch_waits_for_lanes_of_before() {
        let world = World::new();
        let (kept, _end) = world.kept(world.link, 1);
        world.lanes.take_up(vec![kept], &world.router);
        let _tap = world.router.taps().open(vec![(Some("m".into()), None)]).unwrap();
        let watched = world.lanes.watched(&world.router);
        tokio::pin!(watched);
        assert!(waits(watched.as_mut()).await, "it may carry messages");
        drop(world.lanes.table().claimed(1, world.link));
        world.lanes.changes.send_replace(());
        watched.await;
    }

    #[tokio::test]
    async fn a_lane_of_a_link_that_is_removed_is_over_whoever_has_come() {
        let world = World::new();
        let (kept, end) = world.kept(world.link, 1);
        world.lanes.take_up(vec![kept], &world.router);
        world.lanes.link_removed(LinkId(99));
        assert_eq!(world.noted(), [1]);
        world.lanes.link_removed(world.link);
        assert_eq!(world.noted(), [0; 0]);
        assert!(rest(&end).is_some());
    }

    #[tokio::test]
    async fn a_lane_whose_sender_does_not_come_is_over_in_the_end() {
        let world = World::new();
        let ends = [1, 2, 3].map(|lane| world.kept(world.link, lane));
        let (kept, ends): (Vec<_>, Vec<_>) = ends.into_iter().unzip();
        world.lanes.take_up(kept, &world.router);
        // The receiver of the second has come, and both of the third.
        let link = world.router.link(world.link).unwrap();
        for id in [2, 3] {
            let mut table = world.lanes.table();
            let file = table.claimed(id, world.link);
            let end = |connection| Some(End { connection, channel: 0 });
            let lane = Lane {
                link: link.clone(),
                rules: link.rules(),
                sender: end(1).filter(|_| id == 3),
                receiver: end(2),
                file,
                other: None,
                ring: None,
                way: Way::Direct,
                stage: Stage::Used,
                is_used: id == 3,
                is_own: false,
                before: Before::default(),
                read: None,
                source: None,
                is_asked: false,
                is_cut: false,
            };
            table.lanes.insert(id, lane);
        }
        world.lanes.give_up_unclaimed();
        assert_eq!(world.noted(), [3]);
        assert!(rest(&ends[0]).is_some() && rest(&ends[1]).is_some());
        assert_eq!(rest(&ends[2]), None);
        // What the receiver says of it at its end is counted.
        assert_eq!(link.lanes.count(), 1);
        assert!(world.lanes.table().lanes[&2].is_left_behind());
        assert_eq!(link.lanes.known(2), Passed::default());
    }
}
