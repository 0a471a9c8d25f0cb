//! Anything in any order, in the middle of traffic.

use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use orchestrator_proto::control::Policy;
use tests::routing::Random;

use super::case::Case;
use super::number;
use super::stage::{End, Stage};

/// What may happen.
#[derive(Clone, Copy, Debug)]
enum Deed {
    KillReceiver,
    KillSender,
    StopReceiver,
    StopSender,
    KillDaemon,
    StopDaemon,
    Capacity,
    Policy,
    History,
    Tap,
}

const DEEDS: [Deed; 10] = [
    Deed::KillReceiver,
    Deed::KillSender,
    Deed::StopReceiver,
    Deed::StopSender,
    Deed::KillDaemon,
    Deed::StopDaemon,
    Deed::Capacity,
    Deed::Policy,
    Deed::History,
    Deed::Tap,
];

/// What may still be said of what arrives, after all that happened.
#[derive(Clone, Copy, Debug)]
struct Promised {
    /// L25: nothing was lost.
    all: bool,
    /// Nothing came twice to different processes of the receiver.
    once: bool,
    /// L4: in order, and none twice at one process.
    ordered: bool,
    /// The counters are still those of the whole.
    counted: bool,
}

/// L3, L4, L16, L18, L19, L20, L23, L24, L25, L26, L28, L33, with any of it in any order.
pub(crate) fn whatever_happens(case: Case) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = number("ORCHESTRATOR_CONFORMANCE_SEED");
    let seed = seed.unwrap_or(now.as_nanos() as u64 % 1_000_000);
    let steps = number("ORCHESTRATOR_CONFORMANCE_STEPS").unwrap_or(12);
    println!("conformance: {case:?} with ORCHESTRATOR_CONFORMANCE_SEED={seed}");
    let mut random = Random::new(seed);
    let stage = Stage::new(case, Policy::Block, 64);
    let mut promised =
        Promised { all: case.acknowledges(), once: true, ordered: true, counted: true };
    let mut runs = 1;
    for _ in 0..steps {
        let deed = DEEDS[random.below(DEEDS.len())];
        println!("conformance: {deed:?}");
        apply(deed, &stage, &mut random);
        match deed {
            // What it had begun and not acknowledged comes again.
            Deed::KillReceiver => promised.once &= !case.acknowledges(),
            Deed::KillSender => runs += 1,
            Deed::KillDaemon => {
                promised.counted = false;
                // L27.
                promised.ordered &= case.acknowledges() || !case.can_wait();
                // And what a receiver that does not recognise has had.
                promised.once &= case.acknowledges() || !case.can_wait();
            }
            Deed::Policy => promised.all = false,
            // What one process has had comes to the next one too.
            Deed::History => promised.once = false,
            _ => {}
        }
        stage.passes(60);
    }
    let last = stage.end();
    let counters = stage.settled();
    if promised.ordered {
        stage.check_order();
    }
    let arrived: Vec<_> = (1..=runs).map(|run| stage.arrived(run)).collect();
    for (at, arrived) in arrived.iter().enumerate() {
        if promised.once {
            assert!(arrived.values().all(|times| *times == 1), "{case:?} {promised:?}");
        }
        if promised.all {
            // Of a process that was killed, what the daemon had read: nothing in between is missing.
            let count = if at as u64 + 1 == runs { last } else { arrived.len() as u64 };
            stage.check_all(at as u64 + 1, count);
        }
    }
    if promised.counted && promised.once && promised.all {
        let all: usize = arrived.iter().map(|it| it.len()).sum();
        assert_eq!(counters.delivered, all as u64, "{case:?}");
    }
}

fn apply(deed: Deed, stage: &Stage, random: &mut Random) {
    let link = stage.link.to_string();
    match deed {
        Deed::KillReceiver => {
            stage.kill(End::Receiver);
            stage.start(End::Receiver);
        }
        Deed::KillSender => {
            stage.kill(End::Sender);
            stage.start(End::Sender);
        }
        Deed::StopReceiver => pause(stage, End::Receiver),
        Deed::StopSender => pause(stage, End::Sender),
        Deed::KillDaemon => {
            stage.daemon.replace_killed();
        }
        Deed::StopDaemon => {
            let pid = stage.daemon.pid();
            tests::processes::signal(pid, Signal::SIGSTOP);
            tests::processes::signal(pid, Signal::SIGCONT);
        }
        Deed::Capacity => {
            let capacity = (1 + random.below(300)).to_string();
            stage.daemon.ok(["link", "set", &link, "--capacity", &capacity]);
        }
        Deed::Policy => {
            let policies = ["drop-newest", "drop-oldest", "latest"];
            let policy = policies[random.below(policies.len())];
            stage.daemon.ok(["link", "set", &link, "--policy", policy, "--capacity", "32"]);
            stage.passes(60);
            stage.daemon.ok(["link", "set", &link, "--policy", "block", "--capacity", "64"]);
        }
        Deed::History => {
            let history = random.below(50).to_string();
            stage.daemon.ok(["link", "set", &link, "--history", &history]);
        }
        Deed::Tap => {
            let mut tap = stage.daemon.cli_command(["link", "tap"]);
            let mut tap = tap.stdout(Stdio::piped()).spawn().unwrap();
            stage.passes(60);
            tap.kill().unwrap();
            tap.wait().unwrap();
        }
    }
}

/// SIGSTOP, and SIGCONT when the daemon has gone on with what it has.
fn pause(stage: &Stage, end: End) {
    stage.signal(end, Signal::SIGSTOP);
    stage.daemon.counters(stage.link);
    stage.signal(end, Signal::SIGCONT);
}
