//! A link between two processes, and what became of their messages.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;
use orchestrator_proto::LinkId;
use orchestrator_proto::control::{Counters, Policy, Transport, Way};
use tests::python::package;
use tests::{Daemon, binary, eventually, processes};

use super::case::{Case, Dialect};

/// Messages of one process of the sender, at most: as the worker has it.
const RUN: u64 = 1_000_000_000;

/// Which end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Sender,
    Receiver,
}

impl End {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sender => "a",
            Self::Receiver => "b",
        }
    }
}

/// Two processes of a case, and the link between them. The sender sends all the time.
pub(crate) struct Stage {
    pub(crate) daemon: Daemon,
    pub(crate) link: LinkId,
    case: Case,
    dir: PathBuf,
    /// Whether what was delivered to a receiver may be lost with it.
    killed: AtomicBool,
}

/// What a receiver's process got, in its order: whose message, and which of it.
pub(crate) type Got = Vec<(u64, u64)>;

impl Stage {
    pub(crate) fn new(case: Case, policy: Policy, capacity: u32) -> Self {
        let daemon = Daemon::start();
        let dir = daemon.dir().join("notes");
        fs::create_dir(&dir).unwrap();
        let worker = binary("conformance-worker");
        let (worker, notes) = (worker.to_str().unwrap(), dir.to_str().unwrap());
        let add = |end: End, role: &str, dialect: Dialect| match dialect {
            Dialect::Python => {
                let script = concat!(env!("CARGO_MANIFEST_DIR"), "/conformance/worker.py");
                let path = format!("PYTHONPATH={}", package().display());
                let command = ["--", &path, "python3", "-BS", script, role, notes];
                daemon.add(["/usr/bin/env", "--name", end.name()].iter().chain(&command));
            }
            Dialect::Native | Dialect::Veecle => {
                daemon.add([worker, "--name", end.name(), "--", role, dialect.word(), notes]);
            }
        };
        add(End::Sender, "send", case.from);
        add(End::Receiver, "receive", case.to);
        let link = daemon.link_by(case.transport, "a", "n", "b", (policy, capacity));
        let this = Self { daemon, link, case, dir, killed: AtomicBool::new(false) };
        this.start(End::Receiver);
        this.start(End::Sender);
        this.passes(50);
        let way = match case.transport {
            Transport::Auto | Transport::Direct => Way::Direct,
            Transport::Routed => Way::Routed,
            Transport::Shm => Way::Shm,
        };
        eventually("the messages go the way that they are to go", || {
            (this.daemon.link_info(this.link).way == way).then_some(())
        });
        this
    }

    pub(crate) fn start(&self, end: End) {
        self.daemon.ok(["runtime", "start", end.name()]);
        self.daemon.connections(end.name(), 1);
    }

    fn pid(&self, end: End) -> u32 {
        let observed = self.daemon.info(end.name()).observed;
        observed.pid().unwrap_or_else(|| panic!("{end:?}: {observed:?}"))
    }

    pub(crate) fn signal(&self, end: End, signal: Signal) {
        processes::signal(self.pid(end), signal);
    }

    /// SIGKILL, and waits until the daemon has noticed.
    pub(crate) fn kill(&self, end: End) {
        self.killed.fetch_or(end == End::Receiver, Ordering::Relaxed);
        self.signal(end, Signal::SIGKILL);
        self.daemon.connections(end.name(), 0);
        eventually("the process is gone", || {
            self.daemon.info(end.name()).observed.pid().is_none().then_some(())
        });
    }

    /// What each process of the receiver got until now, in their order.
    pub(crate) fn got(&self) -> Vec<Got> {
        let mut all = Vec::new();
        for run in 1.. {
            let Ok(bytes) = fs::read(self.dir.join(format!("got.{run}"))) else { break };
            let numbers =
                bytes.chunks_exact(8).map(|it| u64::from_le_bytes(it.try_into().unwrap()));
            all.push(numbers.map(|number| (number / RUN, number % RUN)).collect());
        }
        all
    }

    /// How many the receiver's processes got until now.
    pub(crate) fn count(&self) -> usize {
        self.got().iter().map(Vec::len).sum()
    }

    /// Waits until so many more have arrived.
    #[track_caller]
    pub(crate) fn passes(&self, more: usize) {
        let before = self.count();
        eventually("messages pass", || (self.count() >= before + more).then_some(()));
    }

    /// Waits until the link was given so many more.
    #[track_caller]
    pub(crate) fn is_given(&self, more: u64) {
        let before = self.daemon.counters(self.link).sent;
        eventually("the link is given more", || {
            (self.daemon.counters(self.link).sent >= before + more).then_some(())
        });
    }

    /// The sender sends no more; the answer is how many its process has sent.
    pub(crate) fn end(&self) -> u64 {
        let run = self.daemon.info(End::Sender.name()).starts;
        fs::write(self.dir.join("enough"), "").unwrap();
        eventually("the sender has ended", || {
            fs::read_to_string(self.dir.join(format!("sent.{run}"))).ok()?.parse().ok()
        })
    }

    /// Waits until nothing is under way; what has become of it all.
    pub(crate) fn settled(&self) -> Counters {
        let (mut last, mut same) = (None, 0);
        eventually("all have come to rest", || {
            let counters = self.daemon.counters(self.link);
            let count = self.count();
            let is_all = self.killed.load(Ordering::Relaxed) || count as u64 >= counters.delivered;
            let now = Some((counters.clone(), count));
            same = if now == last && counters.queued == 0 && is_all { same + 1 } else { 0 };
            last = now;
            (same == 20).then_some(counters)
        })
    }

    /// What holds of every link, whatever happened: each process of the receiver got the messages
    /// of each process of the sender in their order, none of them twice.
    #[track_caller]
    pub(crate) fn check_order(&self) {
        for (run, got) in self.got().iter().enumerate() {
            let mut last = BTreeMap::new();
            for (sender, number) in got {
                if let Some(before) = last.insert(sender, number) {
                    assert!(
                        before < number,
                        "{:?}: process {} of the receiver got {number} of process {sender} after \
                         {before}",
                        self.case,
                        run + 1,
                    );
                }
            }
        }
    }

    /// Which messages of a process of the sender arrived, over all processes of the receiver, and
    /// how often.
    pub(crate) fn arrived(&self, sender: u64) -> BTreeMap<u64, u32> {
        let mut arrived = BTreeMap::new();
        for (_, number) in self.got().into_iter().flatten().filter(|(run, _)| *run == sender) {
            *arrived.entry(number).or_default() += 1;
        }
        arrived
    }

    /// All messages below `count` of this process of the sender arrived, and none else.
    #[track_caller]
    pub(crate) fn check_all(&self, sender: u64, count: u64) {
        let arrived = self.arrived(sender);
        let missing = (0..count).find(|number| !arrived.contains_key(number));
        assert_eq!(missing, None, "{:?}: of {count}, {} arrived", self.case, arrived.len());
        assert_eq!(arrived.len() as u64, count, "{:?}", self.case);
    }
}
