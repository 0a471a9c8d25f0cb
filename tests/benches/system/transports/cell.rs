//! What one carrier does with messages of one size.

use std::time::Instant;

use super::carrier::Carrier;
use super::cpu;
use super::line::{Line, Load, trip_times};
use crate::machine::{End, Machine};
use crate::series::{Contender, Series, take_turns};
use crate::stage::Stage;
use crate::{Effort, Regime, Setting};

/// Bytes of a message.
const SIZES: [usize; 6] = [32, 64, 1 << 10, 64 << 10, 1 << 20, 4 << 20];

/// The figures of one, each a series with one of each round.
pub(super) struct Cell {
    pub(super) carrier: Carrier,
    pub(super) size: usize,
    pub(super) regime: Regime,
    /// Round trip, p50, p99 and p99.9, seconds; not a number where there were too few.
    pub(super) trip: [Series; 3],
    /// Messages in a second, in bursts.
    pub(super) rate: Series,
    /// Processor time of a message in a burst, of all processes together, seconds.
    pub(super) cpu: Series,
}

/// How often all take turns.
pub(super) fn rounds(effort: Effort) -> usize {
    effort.pick(5, 1)
}

/// So that each turn takes about as long whatever the size is.
fn trip_count(effort: Effort, size: usize) -> usize {
    let bytes = effort.pick(128_usize, 2) << 20;
    (bytes / size).clamp(effort.pick(32, 2), effort.pick(2000, 100))
}

/// More than there is room for on the way, so that it is the rate at which messages arrive.
fn burst_count(effort: Effort, size: usize) -> usize {
    let bytes = effort.pick(128_usize, 8) << 20;
    (bytes / size).clamp(effort.pick(32, 2), effort.pick(200_000, 10_000))
}

/// Measures all that take part in this regime and are there.
pub(super) fn measure(setting: &Setting) -> Vec<Cell> {
    let mut carriers = Carrier::all();
    carriers.retain(|carrier| carrier.takes_part(setting.regime) && carrier.absent().is_none());
    SIZES.iter().flat_map(|size| of_size(setting, *size, &carriers)).collect()
}

fn of_size(setting: &Setting, size: usize, carriers: &[Carrier]) -> Vec<Cell> {
    let (effort, regime) = (setting.effort, setting.regime);
    let machine = Machine::look();
    let stage = Stage::start();
    let load = Load { regime, size, receivers: 1 };
    let mut lines: Vec<Line<'_>> =
        carriers.iter().map(|carrier| Line::open(*carrier, load, &stage)).collect();
    machine.part(regime, End::Near);

    let trip = |line: &mut Line<'_>| {
        trip_times(line, trip_count(effort, size)).percentiles([50.0, 99.0, 99.9])
    };
    let burst = |line: &mut Line<'_>| {
        let (count, processes) = (burst_count(effort, size), line.processes());
        let (used, began) = (cpu::seconds(&processes), Instant::now());
        line.burst(count);
        let took = began.elapsed().as_secs_f64();
        [count as f64 / took, (cpu::seconds(&processes) - used) / count as f64]
    };
    let trips = in_turns(&mut lines, rounds(effort), trip);
    let bursts = in_turns(&mut lines, rounds(effort), burst);
    lines.iter_mut().for_each(Line::check_nothing_lost);
    machine.enter(regime);

    let cells = carriers.iter().zip(trips).zip(bursts);
    cells
        .map(|((carrier, trip), [rate, cpu])| Cell {
            carrier: *carrier,
            size,
            regime,
            trip,
            rate,
            cpu,
        })
        .collect()
}

/// Lets lines take turns.
pub(super) fn in_turns<const FIGURES: usize>(
    lines: &mut [Line<'_>],
    rounds: usize,
    measure: impl Fn(&mut Line<'_>) -> [f64; FIGURES],
) -> Vec<[Series; FIGURES]> {
    let measure = &measure;
    let mut contenders: Vec<Contender<'_, FIGURES>> = Vec::new();
    for line in lines {
        contenders.push(Box::new(move || measure(line)));
    }
    take_turns(rounds, &mut contenders)
}
