//! What the whole system can do, beside a floor that is measured in the same run.
//!
//! ```text
//! cargo bench -p tests                          all but what is named below, a few minutes
//! cargo bench -p tests -- roundtrip memory      these groups only
//! cargo bench -p tests -- --quick               everything, rougher, about a minute
//! cargo bench -p tests -- --markdown            and the whole as one Markdown table
//! cargo bench -p tests -- --regime pinned       one regime only
//! cargo bench -p tests -- kills                 1,000 kills of the daemon, about ten minutes
//! cargo bench -p tests -- start crash idle flood many    beside s6, runit and supervisord, which
//!                                               tests/benches/rivals.sh installs: half an hour
//! cargo bench -p tests -- ring                  shared memory; `--features rivals` before the `--`
//!                                               adds iceoryx2
//! cargo bench -p tests --features rivals -- transports --chart links.svg    our links beside what they
//!                                               are made of, and beside iceoryx2, zenoh and NATS
//! cargo bench -p tests -- start-1000 start-4000    the same with many more programs: an hour
//! ```
//!
//! A floor is the least that any system of this shape has to do, such as a process that only
//! copies bytes from one socket to another. A ratio to it says more than a time, because it
//! hardly depends on the machine. Floor and system take turns, round by round, so that both
//! see the same weather; a figure is the median over the rounds, with the lowest and the
//! highest round behind it. A benchmark never fails because of a time, only when something is
//! wrong, such as a message that was lost.
//!
//! Regimes: in `pinned` everything (this program, daemon, instances, floor) shares one core,
//! so that nothing but the work itself is measured; `free` leaves it to the kernel; `apart`,
//! which only `transports` knows, gives each of the two ends a core; `spinning` is the same where who
//! waits for a message keeps its core busy.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark stops at the first fault")]

mod actor;
mod command;
mod crash;
mod cycles;
mod fan_out;
mod fifo;
mod first_message;
mod flood;
#[cfg(feature = "rivals")]
mod iceoryx;
mod idle;
mod kills;
mod machine;
mod many;
mod memory;
mod messages;
mod options;
mod ours;
mod pipe;
mod relay;
mod ring;
mod rivals;
mod roundtrip;
mod sdk;
mod series;
mod smallest;
mod spawn;
mod spawner;
mod stage;
mod start;
mod survival;
mod table;
mod transports;
mod wire;

use std::process::ExitCode;

use machine::{Machine, Regime};
use options::{Effort, Options};
use table::{Row, Table};

/// What is measured together, printed as one table.
struct Group {
    name: &'static str,
    title: &'static str,
    regimes: &'static [Regime],
    run: fn(&Setting) -> Vec<Row>,
    /// Not among the groups that are meant when none is named: it takes long.
    only_named: bool,
    /// Printed below its table: what is compared with what; or nothing.
    note: &'static str,
}

/// How a group is to be measured.
struct Setting {
    regime: Regime,
    effort: Effort,
}

const BOTH: &[Regime] = &[Regime::Pinned, Regime::Free];

const GROUPS: &[Group] = &[
    Group {
        name: "roundtrip",
        title: "Round trip of a message of 32 B and its answer; floor: a relay",
        regimes: BOTH,
        run: roundtrip::run,
        only_named: false,
        note: "",
    },
    Group {
        name: "messages",
        title: "Messages one way, none lost; floor: a relay",
        regimes: BOTH,
        run: messages::run,
        only_named: false,
        note: "",
    },
    Group {
        name: "ring",
        title: "Shared memory between two processes, without a daemon; floor: what is named last",
        regimes: BOTH,
        run: ring::run,
        only_named: true,
        note: ring::NOTE,
    },
    Group {
        name: "fan-out",
        title: "Messages from 1 to 8, delivered in total; floor: a relay",
        regimes: BOTH,
        run: fan_out::run,
        only_named: false,
        note: "",
    },
    Group {
        name: "one-to-many",
        title: "Messages from one to many, under `block`, delivered in total",
        regimes: BOTH,
        run: transports::fan::run,
        only_named: true,
        note: "",
    },
    Group {
        name: "links",
        title: "A thousand links, with traffic on ten",
        regimes: BOTH,
        run: transports::crowd::run,
        only_named: true,
        note: "",
    },
    Group {
        name: "stalled",
        title: "What a receiver that stands still does to others",
        regimes: BOTH,
        run: transports::stalled::run,
        only_named: true,
        note: "",
    },
    Group {
        name: "cycles",
        title: "Programs started and ended; floor: the same program by posix_spawn, kill, wait",
        regimes: BOTH,
        run: cycles::run,
        only_named: false,
        note: "",
    },
    Group {
        name: "spawn",
        title: "The smallest program spawned, and its end known",
        regimes: BOTH,
        run: spawn::run,
        only_named: false,
        note: spawn::NOTE,
    },
    Group {
        name: "first-message",
        title: "From `runtime start` to the first message",
        regimes: &[Regime::Free],
        run: first_message::run,
        only_named: false,
        note: "",
    },
    Group {
        name: "survival",
        title: "Outliving the daemon",
        regimes: &[Regime::Free],
        run: survival::run,
        only_named: false,
        note: "",
    },
    Group {
        name: "memory",
        title: "Memory and open files",
        regimes: &[Regime::Free],
        run: memory::run,
        only_named: false,
        note: "",
    },
    Group {
        name: "start",
        title: "A hundred programs started",
        regimes: &[Regime::Free],
        run: start::hundred,
        only_named: true,
        note: rivals::NOTE,
    },
    Group {
        name: "start-1000",
        title: "A thousand programs started",
        regimes: &[Regime::Free],
        run: start::thousand,
        only_named: true,
        note: rivals::NOTE,
    },
    Group {
        name: "start-4000",
        title: "Four thousand programs started",
        regimes: &[Regime::Free],
        run: start::four_thousand,
        only_named: true,
        note: rivals::NOTE,
    },
    Group {
        name: "crash",
        title: "A program is killed, and runs again",
        regimes: &[Regime::Free],
        run: crash::run,
        only_named: true,
        note: rivals::NOTE,
    },
    Group {
        name: "idle",
        title: "Programs in which nothing happens",
        regimes: &[Regime::Free],
        run: idle::run,
        only_named: true,
        note: rivals::NOTE,
    },
    Group {
        name: "flood",
        title: "Output brought into files",
        regimes: &[Regime::Free],
        run: flood::run,
        only_named: true,
        note: rivals::NOTE,
    },
    Group {
        name: "many",
        title: "Commands where there are many instances",
        regimes: &[Regime::Free],
        run: many::run,
        only_named: true,
        note: rivals::NOTE,
    },
    Group {
        name: "kills",
        title: "The daemon is killed at random moments, 100 instances print and end",
        regimes: &[Regime::Free],
        run: kills::run,
        only_named: true,
        note: "",
    },
    Group {
        name: "command",
        title: "`orchestrator-cli version` as a whole process; floor: /bin/true",
        regimes: BOTH,
        run: command::run,
        only_named: false,
        note: "",
    },
];

/// Groups that measure nothing but what is in this program.
const WITHOUT_PROGRAMS: &[&str] = &["ring"];

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).peekable();
    if args.next_if(|arg| arg == actor::FLAG).is_some() {
        actor::play(&args.collect::<Vec<_>>());
        return ExitCode::SUCCESS;
    }
    let names: Vec<&str> =
        GROUPS.iter().map(|group| group.name).chain([transports::NAME]).collect();
    let options = match Options::parse(args, &names) {
        Ok(options) => options,
        Err(usage) => {
            eprintln!("{usage}");
            return ExitCode::from(2);
        }
    };
    let wanted = || GROUPS.iter().filter(|group| options.wants(group.name, group.only_named));
    let needs_programs = wanted().any(|group| !WITHOUT_PROGRAMS.contains(&group.name));
    if needs_programs || options.wants(transports::NAME, true) {
        // Builds the programs, with all cores.
        tests::binary("orchestrator");
    }
    let machine = Machine::look();
    let mut all = Table::default();
    for group in wanted() {
        let mut table = Table::default();
        for regime in group.regimes.iter().filter(|r| options.wants_regime(**r)) {
            machine.enter(*regime);
            let setting = Setting { regime: *regime, effort: options.effort };
            table.extend((group.run)(&setting));
        }
        options.say(&format!("\n{}\n\n{table}", group.title));
        if !group.note.is_empty() {
            options.say(&format!("\n{}", group.note));
        }
        all.append(table);
    }
    let carried = options.wants(transports::NAME, true).then(|| {
        let sheet = transports::run(&machine, &options);
        options.say(&format!("\n{sheet}"));
        sheet
    });
    if options.markdown {
        println!("{}", machine.describe(options.effort));
        if !all.is_empty() {
            println!("\n{all}");
        }
        if let Some(sheet) = carried {
            println!("\n{sheet}");
        }
    }
    ExitCode::SUCCESS
}
