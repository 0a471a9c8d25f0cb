//! From the end of a program that nobody asked for until it runs again.
//!
//! It is killed, and the one that comes instead says itself that it runs. It has run for longer
//! than a second before: some rivals wait otherwise, so that what always fails does not use up the
//! machine.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::process::Child;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tests::processes;

use crate::fifo::Fifo;
use crate::machine::wait;
use crate::ours::{Ours, restarted};
use crate::rivals::{Kept, Rival};
use crate::series::{Contender, Times, take_turns};
use crate::start::{bare, end};
use crate::table::{Row, Target, Unit};
use crate::{Setting, smallest};

/// The most by which it may take longer than without anybody, seconds.
const TARGET: f64 = 2e-3;
/// Others that run meanwhile.
const INSTANCES: usize = 100;
/// For how long one has run that is killed.
const AGE: Duration = Duration::from_millis(1500);

pub(crate) fn run(setting: &Setting) -> Vec<Row> {
    // Two of the rivals take a second for each.
    let kills = setting.effort.pick(10, 5);
    let count = INSTANCES;
    let dir = tempfile::tempdir().unwrap();
    let mut next = 0;
    let mut place = || {
        next += 1;
        let dir = dir.path().join(next.to_string());
        std::fs::create_dir(&dir).unwrap();
        let fifo = Fifo::new(dir.join("said"));
        smallest::announce(&dir, fifo.path()).map(|program| (program, fifo))
    };
    let Some((program, fifo)) = place() else {
        eprintln!("crashes are not measured on this machine");
        return Vec::new();
    };
    let mut floor = Bare { child: Some(bare(program.as_os_str(), &[])), program, fifo };
    let first = floor.fifo.next("it runs");
    assert_eq!(first, floor.child.as_ref().unwrap().id());

    let (program, mut fifo) = place().unwrap();
    let ours = Ours::add(&restarted(program.as_os_str()), count);
    assert_eq!(ours.start(), count);
    let mut running = Running::wait(&mut fifo, count);
    let rivals = Rival::installed();
    let mut kept: Vec<(Kept, RefCell<Fifo>)> = Vec::new();
    for rival in &rivals {
        let (program, fifo) = place().unwrap();
        let commands = vec![vec![program.into_os_string()]; count];
        kept.push((rival.keep(&commands), RefCell::new(fifo)));
    }
    let mut contenders: Vec<Contender<'_, 2>> = vec![
        Box::new(|| floor.measure(kills)),
        Box::new(move || running.measure(&mut fifo, kills)),
    ];
    for (_, fifo) in &kept {
        let mut running = Running::wait(&mut fifo.borrow_mut(), count);
        contenders.push(Box::new(move || running.measure(&mut fifo.borrow_mut(), kills)));
    }
    let series = take_turns(setting.effort.pick(5, 2), &mut contenders);
    drop(contenders);

    let mut rows = Vec::new();
    for (figure, percent) in ["p50", "p99"].into_iter().enumerate() {
        let mut row = |against: &str, floor: usize, target| {
            rows.push(Row {
                what: format!(
                    "from kill -9 of an instance until it runs again, {percent}; floor: {against}"
                ),
                regime: setting.regime,
                unit: Unit::Time,
                ours: series[1][figure].clone(),
                floor: Some(series[floor][figure].clone()),
                target,
            });
        };
        row("bare kill, wait, posix_spawn", 0, (figure == 0).then_some(Target::Above(TARGET)));
        for (at, rival) in rivals.iter().enumerate() {
            row(rival.name(), 2 + at, Some(Target::Ratio(1.0)));
        }
    }
    rows
}

/// What runs, the oldest first.
struct Running(VecDeque<(u32, Instant)>);

impl Running {
    fn wait(fifo: &mut Fifo, count: usize) -> Self {
        let all = fifo.take(count, "they run");
        Self(all.into_iter().map(|pid| (pid, Instant::now())).collect())
    }

    fn measure(&mut self, fifo: &mut Fifo, kills: usize) -> [f64; 2] {
        let mut times = Times::with_capacity(kills);
        for _ in 0..kills {
            let (oldest, since) = self.0.pop_front().unwrap();
            wait(AGE.saturating_sub(since.elapsed()));
            let began = Instant::now();
            processes::signal(oldest, Signal::SIGKILL);
            let next = fifo.next("it runs again");
            times.push(began.elapsed());
            self.0.push_back((next, Instant::now()));
        }
        times.p50_p99()
    }
}

struct Bare {
    child: Option<Child>,
    program: std::path::PathBuf,
    fifo: Fifo,
}

impl Bare {
    fn measure(&mut self, kills: usize) -> [f64; 2] {
        let mut times = Times::with_capacity(kills);
        for _ in 0..kills {
            let began = Instant::now();
            end(self.child.take().unwrap());
            let child = bare(self.program.as_os_str(), &[]);
            assert_eq!(self.fifo.next("it runs again"), child.id());
            times.push(began.elapsed());
            self.child = Some(child);
        }
        times.p50_p99()
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            end(child);
        }
    }
}
