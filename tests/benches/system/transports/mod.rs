//! Who carries messages from one process to another, with what size, in which regime: our links
//! beside the bare means that they are made of, and beside others who carry messages. All are
//! measured in turns, in the same run.
//!
//! Every message begins in a buffer of its sender's and ends in one of its receiver's; nothing is
//! lost, and a receiver that is slower holds its sender back. Round trips are one at a time: the
//! answer is the message itself. A burst is many messages one way, as the carrier likes to have
//! them, until the receiver has them all.

mod blob;
mod carrier;
mod cell;
mod chart;
mod cpu;
pub(crate) mod crowd;
pub(crate) mod fan;
mod line;
mod nats;
mod sheet;
pub(crate) mod stalled;
mod stream;
#[cfg(feature = "rivals")]
mod zenoh;

use std::path::Path;

use carrier::Carrier;
use cell::Cell;
use line::Load;
use sheet::Sheet;

use crate::Setting;
use crate::machine::{Machine, Regime};
use crate::options::Options;

/// Not one of the groups of rows: its table has columns of its own, and it draws a chart.
pub(crate) const NAME: &str = "transports";

const TITLE: &str = "Who carries messages between two processes";
const NOTE: &str = "\
Floors: for what goes through a third process a bare relay, for what goes between two a bare socket
pair, and spinning a ring that checks nothing. The orchestrator's ends and zenoh's use the libraries
as programs do; a link has the policy `block`. NATS goes over TCP on the loopback interface, zenoh
over a Unix socket, without its shared memory. Apart and spinning, each end has a core of its own;
spinning it is busy all the time, and only who can do that takes part. CPU is of all processes
together, for messages in bursts. A percentile is left out where no round trip would be above it.";

const REGIMES: [Regime; 3] = [Regime::Pinned, Regime::Apart, Regime::Spinning];

/// The table, as Markdown; writes the chart, if one is wanted.
pub(crate) fn run(machine: &Machine, options: &Options) -> String {
    if let Some(path) = &options.chart {
        // Not after minutes of work.
        let made = std::fs::File::create(path);
        made.unwrap_or_else(|error| panic!("the chart can't be written to {path:?}: {error}"));
    }
    let regimes: Vec<Regime> =
        REGIMES.into_iter().filter(|regime| options.wants_regime(*regime)).collect();
    let mut cells: Vec<Cell> = Vec::new();
    for regime in &regimes {
        machine.enter(*regime);
        cells.extend(cell::measure(&Setting { regime: *regime, effort: options.effort }));
    }
    if let Some(path) = &options.chart {
        std::fs::write(path, chart::draw(&cells)).expect("the chart can be written");
    }
    let rounds = cell::rounds(options.effort);
    let sheet = Sheet { cells: &cells, regimes: &regimes };
    format!("{TITLE}; medians of {rounds} rounds\n\n{sheet}\n{NOTE}")
}

/// The parts of other processes.
pub(crate) fn play(parts: &[&str]) -> bool {
    match *parts {
        ["transports", "server", conf] => nats::serve(Path::new(conf)),
        ["transports", "crowd", ref sockets @ ..] => crowd::play(sockets),
        ["transports", "held", socket] => stalled::play_held(socket),
        ["transports", carrier, regime, size, path] => {
            let carrier = Carrier::named(carrier).expect("an actor is told a carrier");
            let regime = Regime::named(regime).expect("an actor is told a regime");
            let size = size.parse().expect("an actor is told a size");
            line::play(carrier, Load { regime, size, receivers: 1 }, path);
        }
        _ => return false,
    }
    true
}
