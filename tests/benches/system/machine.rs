//! The machine, and which of its cores are used.

use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::options::Effort;

/// Which cores are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Regime {
    /// One, for everything.
    Pinned,
    /// All.
    Free,
    /// All; the two ends of what is measured keep to one each, and sleep while they wait.
    Apart,
    /// The same, and who waits for a message keeps its core busy.
    Spinning,
}

impl Regime {
    pub(crate) fn named(name: &str) -> Option<Self> {
        let all = [Self::Pinned, Self::Free, Self::Apart, Self::Spinning];
        all.into_iter().find(|regime| regime.to_string() == name)
    }
}

impl fmt::Display for Regime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pinned => "pinned",
            Self::Free => "free",
            Self::Apart => "apart",
            Self::Spinning => "spinning",
        })
    }
}

/// One of the two that talk to each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// The one who measures.
    Near,
    Far,
}

pub(crate) struct Machine {
    cores: CpuSet,
}

impl Machine {
    pub(crate) fn look() -> Self {
        let cores = sched_getaffinity(Pid::from_raw(0)).expect("the kernel tells our cores");
        Self { cores }
    }

    fn numbers(&self) -> impl Iterator<Item = usize> {
        (0..CpuSet::count()).filter(|core| self.cores.is_set(*core).unwrap_or(false))
    }

    /// Sets the cores of all threads of this process, and so of all processes that it starts from
    /// now on. A daemon that is started on one core uses one worker.
    pub(crate) fn enter(&self, regime: Regime) {
        match regime {
            // The first ones have most of the interrupts.
            Regime::Pinned => keep_to(&one(self.numbers().last())),
            Regime::Free | Regime::Apart | Regime::Spinning => keep_to(&self.cores),
        }
    }

    /// Sets the core of an end whose process this is, where each has one of its own. What is between
    /// them was started before, and goes on to use all.
    pub(crate) fn part(&self, regime: Regime, end: End) {
        match (regime, end) {
            (Regime::Pinned | Regime::Free, _) => {}
            (_, End::Near) => keep_to(&one(self.numbers().next())),
            (_, End::Far) => keep_to(&one(self.numbers().last())),
        }
    }

    /// For the reader of a table.
    pub(crate) fn describe(&self, effort: Effort) -> String {
        let first_line = |path| {
            let text = fs::read_to_string(path).unwrap_or_default();
            text.lines().next().unwrap_or_default().to_owned()
        };
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu
            .lines()
            .find_map(|line| line.strip_prefix("model name"))
            .map_or("", |line| line.trim_start_matches(['\t', ' ', ':']));
        format!(
            "`cargo bench -p tests -- --markdown{}` on {} × {model}, Linux {}. Each figure is \
             the median of {} rounds, with the lowest and the highest round.",
            effort.pick("", " --quick"),
            self.numbers().count(),
            first_line("/proc/sys/kernel/osrelease"),
            effort.rounds(),
        )
    }
}

fn one(core: Option<usize>) -> CpuSet {
    let mut cores = CpuSet::new();
    cores.set(core.expect("there is a core")).expect("the core's number is in range");
    cores
}

/// Sets the cores of all threads of this process.
fn keep_to(cores: &CpuSet) {
    // What a rival's library has started stays between two regimes.
    let threads = fs::read_dir("/proc/self/task").expect("the kernel tells our threads");
    for thread in threads.flatten() {
        let number = thread.file_name().to_string_lossy().parse();
        // One that has ended meanwhile needs none.
        let _ = sched_setaffinity(Pid::from_raw(number.expect("it is a number")), cores);
    }
    sched_setaffinity(Pid::from_raw(0), cores).expect("our own cores can be used");
}

/// Waits while nothing is measured, or while it is measured that nothing happens.
pub(crate) fn wait(time: Duration) {
    let until = Instant::now() + time;
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|l| !l.is_zero()) {
        // May come back early.
        std::thread::park_timeout(left);
    }
}
