//! What an earlier daemon has left with the holder: programs that run, and files.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use orchestrator_proto::control::Observed;
use orchestrator_proto::{InstanceId, LinkId};

use crate::health;
use crate::process::{
    FIRST_COMMAND, FIRST_LISTENER, Kernel, Name, Pending, Spawned, Survivor, View, lane_end,
    lane_of, listener,
};
use crate::runtime::{KeptLane, LaneShelf, Shelf};
use crate::store::RunRecord;

use super::run::{end_was_told, view_of};

/// Files of all instances, as far as nobody has taken them.
pub(super) type LeftFiles = Arc<Mutex<BTreeMap<Name, OwnedFd>>>;

/// The files of one instance.
pub(super) struct InstanceShelf {
    pub(super) id: InstanceId,
    pub(super) left: LeftFiles,
    pub(super) kernel: Arc<dyn Kernel>,
}

impl InstanceShelf {
    const fn name(&self, place: u64) -> Name {
        Name { key: *self.id.as_bytes(), tag: place }
    }
}

impl Shelf for InstanceShelf {
    fn take(&self, place: u64) -> Option<OwnedFd> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.remove(&self.name(place))
    }

    fn take_from(&self, first: u64) -> Vec<(u64, OwnedFd)> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let names = left.range(self.name(first)..self.name(FIRST_LISTENER)).map(|(name, _)| *name);
        let names: Vec<_> = names.collect();
        let files = names.into_iter().filter_map(|name| Some((name.tag, left.remove(&name)?)));
        files.collect()
    }

    fn put(&self, place: u64, file: BorrowedFd<'_>) {
        match file.try_clone_to_owned() {
            Ok(file) => self.kernel.keep(self.name(place), file),
            Err(error) => {
                tracing::error!(instance = %self.id, %error, "a file can't be kept");
            }
        }
    }

    fn deposit(&self, place: u64, file: OwnedFd) {
        self.kernel.deposit(self.name(place), file);
    }

    fn put_back(&self, place: u64, file: OwnedFd) {
        self.kernel.is_deposited(self.name(place), file);
    }

    fn fetch(&self, place: u64) -> Pending<io::Result<Option<OwnedFd>>> {
        self.kernel.fetch(self.name(place))
    }

    fn clear(&self, place: u64) {
        self.kernel.forget(self.name(place));
    }
}

/// Takes the sockets that listen for an instance's program, and what belongs to them, by their
/// places counted from 0.
pub(super) fn take_listeners(left: &LeftFiles, id: InstanceId) -> Vec<(u64, OwnedFd)> {
    let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
    let last = Name { tag: u64::MAX, ..listener(id, 0) };
    let names: Vec<_> = left.range(listener(id, 0)..=last).map(|(name, _)| *name).collect();
    let place = |name: Name| name.tag - FIRST_LISTENER;
    names.into_iter().filter_map(|name| Some((place(name), left.remove(&name)?))).collect()
}

/// Ends of lanes are with the holder.
pub(super) struct LaneEnds(pub(super) Arc<dyn Kernel>);

impl LaneShelf for LaneEnds {
    fn keep(&self, link: LinkId, lane: u64, end: BorrowedFd<'_>) {
        match end.try_clone_to_owned() {
            Ok(end) => self.0.keep(lane_end(link, lane), end),
            Err(error) => tracing::error!(%link, %error, "the end of a lane can't be kept"),
        }
    }

    fn forget(&self, link: LinkId, lane: u64) {
        self.0.forget(lane_end(link, lane));
    }
}

/// Takes the ends of lanes from among all files.
pub(super) fn take_lanes(files: &mut HashMap<Name, OwnedFd>) -> Vec<KeptLane> {
    let taken = files.extract_if(|name, _| lane_of(*name).is_some());
    let lanes = taken.filter_map(|(name, file)| {
        let (link, lane) = lane_of(name)?;
        Some(KeptLane { link, lane, file })
    });
    lanes.collect()
}

/// Programs that run, or did, by instance, in the order in which they were executed.
#[derive(Default)]
pub(super) struct Survivors(HashMap<InstanceId, Vec<Spawned>>);

/// What the holder has of one instance.
#[derive(Default)]
pub(super) struct Found {
    /// Of whose ends an earlier daemon has taken note.
    pub(super) told: Vec<Spawned>,
    /// Executed before the last one, and ended without a note: there is one only if a daemon was
    /// killed within milliseconds of the end of one and the start of the next.
    pub(super) untold: Vec<Spawned>,
    /// What was executed last, if its end was not taken note of, or something was left behind.
    pub(super) last: Option<Spawned>,
}

impl Survivors {
    /// Commands of instances are killed: who waited for their end has gone.
    pub(super) fn new(all: Vec<Survivor>) -> Self {
        let is_command = |survivor: &Survivor| survivor.spawned.run >= FIRST_COMMAND;
        let (commands, all): (Vec<_>, Vec<_>) = all.into_iter().partition(is_command);
        for Survivor { instance, spawned } in commands {
            tracing::info!(%instance, pid = spawned.process.pid(), "ending a command of before");
            tokio::spawn(health::end(spawned.process, spawned.exited));
        }
        let mut survivors = Self::default();
        for Survivor { instance, spawned } in all {
            survivors.0.entry(instance).or_default().push(spawned);
        }
        survivors.0.values_mut().for_each(|all| all.sort_by_key(|spawned| spawned.run));
        survivors
    }

    /// What there is of an instance of which this is noted.
    pub(super) fn take(&mut self, id: InstanceId, run: &RunRecord) -> Found {
        let mut found = Found::default();
        let all = self.0.remove(&id).unwrap_or_default();
        let count = all.len();
        for (spawned, at) in all.into_iter().zip(1..) {
            let is_last = at == count;
            let is_told = is_end_noted(&spawned, is_last, run);
            let left_behind = is_last && end_was_told(run, spawned.process.pid());
            if is_told && !left_behind {
                found.told.push(spawned);
            } else if is_last {
                found.last = Some(spawned);
            } else {
                found.untold.push(spawned);
            }
        }
        found
    }

    /// Kills those that belong to no instance: nobody could ever stop them.
    pub(super) async fn kill_the_rest(self) {
        for (id, spawned) in
            self.0.into_iter().flat_map(|(id, all)| all.into_iter().map(move |it| (id, it)))
        {
            if spawned.exited.has_ended() {
                // Nobody will ever ask.
                spawned.process.end_is_noted();
                continue;
            }
            let pid = spawned.process.pid();
            if let Ok(true) = spawned.process.signal_tree(crate::supervise::SIGKILL).await {
                tracing::error!(instance = %id, pid, "killed a program of an unknown instance");
            }
        }
    }
}

/// Whether the end of a process is in what is noted of its instance.
fn is_end_noted(spawned: &Spawned, is_last: bool, run: &RunRecord) -> bool {
    if !spawned.exited.has_ended() {
        return false;
    }
    match (run.start_noted, run.end_noted) {
        (_, Some(end)) => spawned.run <= end,
        // By a daemon that noted no numbers. As far as one can know.
        (None, None) if run.starts > 0 => !is_last || !run.active,
        (_, None) => false,
    }
}

/// How an instance is to be shown of which this is found running.
pub(super) fn running(run: &RunRecord, spawned: &Spawned) -> View {
    let pid = spawned.process.pid();
    let noted = run.process.as_ref().filter(|process| process.pid == pid);
    let mut view = view_of(run);
    // If it was executed just before the daemon ended, that was not noted.
    let is_noted = noted.is_some() || run.start_noted >= Some(spawned.run);
    view.starts = run.starts + u64::from(!is_noted);
    let since_ms = noted.map_or_else(now_ms, |process| process.started_ms);
    view.observed = if noted.is_none_or(|process| process.ready) {
        Observed::Ready { pid, since_ms }
    } else {
        Observed::Starting { pid: Some(pid), since_ms }
    };
    view
}

pub(super) fn now_ms() -> u64 {
    crate::runtime::now_ns() / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Ended, Exited, Process};
    use crate::store::ProcessRecord;
    use orchestrator_proto::control::Exit;

    #[derive(Debug)]
    struct Numbered(u32);

    impl Process for Numbered {
        fn pid(&self) -> u32 {
            self.0
        }

        fn signal_tree(&self, _: i32) -> Pending<io::Result<bool>> {
            Box::pin(std::future::ready(Ok(false)))
        }

        fn tree_empty(&self) -> Pending<io::Result<bool>> {
            Box::pin(std::future::ready(Ok(true)))
        }

        fn tree_gone(&self) -> Pending<()> {
            Box::pin(std::future::ready(()))
        }
    }

    /// The number of the process is ten times that of the run.
    fn survivor(run: u64, has_ended: bool) -> Survivor {
        let spawned = Spawned {
            run,
            process: Arc::new(Numbered(10 * u32::try_from(run).unwrap())),
            output: None,
            exited: if has_ended {
                Exited::of_before(Ended { exit: Exit::Code(1), time_ms: 1 })
            } else {
                Exited::new(tokio::sync::oneshot::channel().1)
            },
            warnings: Vec::new(),
        };
        Survivor { instance: InstanceId::from_bytes([7; 16]), spawned }
    }

    /// What is noted: the start and the end of these runs, and something of that run that is left.
    fn noted(start: Option<u64>, end: Option<u64>, left: Option<u64>) -> RunRecord {
        let process = left.map(|run| ProcessRecord {
            pid: 10 * u32::try_from(run).unwrap(),
            start_ticks: 1,
            boot_id: "boot".into(),
            started_ms: 1,
            run: 1,
            ready: true,
        });
        let active = start != end;
        RunRecord {
            start_noted: start,
            end_noted: end,
            active,
            starts: 3,
            process,
            ..Default::default()
        }
    }

    /// Which runs were told of, were not, and which is the last.
    fn taken(run: &RunRecord, all: &[(u64, bool)]) -> (Vec<u64>, Vec<u64>, Option<u64>) {
        let all = all.iter().map(|(run, has_ended)| survivor(*run, *has_ended)).collect();
        let mut survivors = Survivors::new(all);
        let found = survivors.take(InstanceId::from_bytes([7; 16]), run);
        assert!(survivors.0.is_empty());
        let runs = |all: Vec<Spawned>| all.into_iter().map(|spawned| spawned.run).collect();
        (runs(found.told), runs(found.untold), found.last.map(|spawned| spawned.run))
    }

    proptest::proptest! {
        #[test]
        fn an_end_of_a_lane_has_a_name_of_its_own(link: u64, lane: u64, other: u64) {
            let name = lane_end(LinkId(link), lane);
            assert_eq!(lane_of(name), Some((LinkId(link), lane)));
            for key in [[0; 16], *InstanceId::generate().as_bytes()] {
                assert_eq!(lane_of(Name { key, tag: other }), None);
            }
            let (file, _) = std::os::unix::net::UnixStream::pair().unwrap();
            let mut files = HashMap::from([(name, OwnedFd::from(file))]);
            assert_eq!(take_lanes(&mut files).len(), 1);
            assert!(files.is_empty());
        }
    }

    #[test]
    fn no_end_is_told_twice_or_never_however_many_processes_there_were() {
        const ENDED: bool = true;
        let none = Vec::new;
        // By daemons that noted no numbers.
        let at_rest = noted(None, None, None);
        let was_running = RunRecord { active: true, ..noted(None, None, Some(3)) };
        // Told to start when the end of the run before was noted.
        let starting = RunRecord { active: true, ..noted(Some(3), Some(3), None) };
        let table: [(RunRecord, &[(u64, bool)], _); 12] = [
            // At rest, and the holder has not forgotten it.
            (noted(Some(3), Some(3), None), &[(3, ENDED)], (vec![3], none(), None)),
            // Ended, and killed before that was noted.
            (noted(Some(3), Some(2), Some(3)), &[(3, ENDED)], (none(), none(), Some(3))),
            // The same, and another was executed; and several, one after the other.
            (
                noted(Some(3), Some(2), Some(3)),
                &[(4, false), (3, ENDED)],
                (none(), vec![3], Some(4)),
            ),
            (
                noted(Some(3), None, Some(3)),
                &[(5, ENDED), (3, ENDED), (4, ENDED)],
                (none(), vec![3, 4], Some(5)),
            ),
            // At rest, then executed and ended, all of it within a moment.
            (noted(Some(3), Some(3), None), &[(3, ENDED), (4, ENDED)], (vec![3], none(), Some(4))),
            (noted(Some(2), Some(2), None), &[(3, ENDED), (4, false)], (none(), vec![3], Some(4))),
            (starting, &[(3, ENDED), (4, ENDED)], (vec![3], none(), Some(4))),
            // Its end was told, and it has left something behind.
            (noted(Some(3), Some(3), Some(3)), &[(3, ENDED)], (none(), none(), Some(3))),
            // Running.
            (
                noted(Some(3), Some(2), Some(3)),
                &[(2, ENDED), (3, false)],
                (vec![2], none(), Some(3)),
            ),
            (at_rest, &[(3, ENDED)], (vec![3], none(), None)),
            (was_running, &[(2, ENDED), (3, ENDED)], (vec![2], none(), Some(3))),
            // Never noted at all.
            (RunRecord::default(), &[(1, ENDED), (2, ENDED)], (none(), vec![1], Some(2))),
        ];
        for (run, all, expected) in table {
            assert_eq!(taken(&run, all), expected, "{run:?} {all:?}");
        }
    }
}
