//! Ends what must be able to end at any moment, and takes note of it.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::libc;
use orchestrator_proto::client::Client;
use orchestrator_proto::control::Request;
use tests::routing::Random;
use tests::{block_on, processes};

use crate::account::{Worker, started};
use crate::host::{Host, Part, now_ms, signal_exactly, workers};

/// Instances whose processes nothing happens to.
pub(crate) const PROTECTED: &str = "safe-";

/// The end of a worker that was caused on purpose.
#[derive(Clone, Debug)]
pub(crate) struct Caused {
    pub(crate) worker: Worker,
    pub(crate) how: How,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum How {
    Signal(i32),
    Code(i32),
}

/// What was done.
#[derive(Default)]
pub(crate) struct Deeds {
    pub(crate) caused: Mutex<Vec<Caused>>,
    /// When capture was killed, milliseconds since 1970.
    pub(crate) captures: Mutex<Vec<u64>>,
    /// When another capture process was asked for, likewise.
    pub(crate) renewals: Mutex<Vec<u64>>,
    pub(crate) daemons: Mutex<Vec<u64>>,
    /// All of it in words, for people.
    pub(crate) diary: Mutex<Vec<String>>,
    pub(crate) failures: Mutex<Vec<String>>,
}

impl Deeds {
    pub(crate) fn note(&self, what: String) {
        self.diary.lock().unwrap().push(format!("{} {what}", now_ms()));
    }
}

/// Does so until told to stop.
pub(crate) fn kill_at_random(host: &Host, deeds: &Deeds, mut random: Random, stop: &AtomicBool) {
    let mut daemon_seen = Instant::now();
    while !stop.load(Ordering::Acquire) {
        std::thread::park_timeout(Duration::from_millis(20 + random.below(500) as u64));
        match host.find(Part::Daemon) {
            Some(_) => daemon_seen = Instant::now(),
            None if daemon_seen.elapsed() > Duration::from_millis(500) => host.hurry(),
            None => {}
        }
        match random.below(100) {
            0..52 => end_worker(host, deeds, &mut random),
            52..60 => renew(host, deeds, &mut random),
            60..72 => kill(host, deeds, Part::Daemon),
            72..79 => kill(host, deeds, Part::Capture),
            79..89 => pause_daemon(host, deeds, &mut random),
            89..91 => {
                kill(host, deeds, Part::Capture);
                kill(host, deeds, Part::Daemon);
            }
            91..93 => {
                kill(host, deeds, Part::Daemon);
                kill(host, deeds, Part::Capture);
            }
            93..95 => {
                end_worker(host, deeds, &mut random);
                kill(host, deeds, Part::Daemon);
            }
            _ => replace_holder(host, deeds, &mut random),
        }
    }
}

fn end_worker(host: &Host, deeds: &Deeds, random: &mut Random) {
    let mut workers = workers(&host.dir);
    workers.retain(|worker| !worker.name.starts_with(PROTECTED));
    if workers.is_empty() {
        return;
    }
    let worker = workers.swap_remove(random.below(workers.len()));
    let how = match random.below(10) {
        0..5 => How::Signal(libc::SIGKILL),
        5 => How::Signal(libc::SIGABRT),
        6 => How::Signal(libc::SIGHUP),
        _ => How::Code(random.below(98) as i32),
    };
    let signal = match how {
        How::Signal(signal) => signal,
        How::Code(code) => {
            // Whole or not there.
            let path = host.dir.join("orders").join(worker.key());
            let written = fs::write(path.with_extension("new"), code.to_string())
                .and_then(|()| fs::rename(path.with_extension("new"), path));
            if written.is_err() {
                return;
            }
            libc::SIGUSR1
        }
    };
    if signal_exactly(worker.pid, worker.ticks, signal) {
        deeds.note(format!("{how:?} for {worker:?}"));
        deeds.caused.lock().unwrap().push(Caused { worker, how });
    }
}

fn kill(host: &Host, deeds: &Deeds, part: Part) {
    if let Some(pid) = host.find(part)
        && let Some(ticks) = started(pid)
    {
        let kills = match part {
            Part::Daemon => &deeds.daemons,
            Part::Capture => &deeds.captures,
        };
        kills.lock().unwrap().push(now_ms());
        signal_exactly(pid, ticks, libc::SIGKILL);
        deeds.note(format!("SIGKILL for {part:?} {pid}"));
    }
}

fn pause_daemon(host: &Host, deeds: &Deeds, random: &mut Random) {
    if let Some(pid) = host.find(Part::Daemon)
        && let Some(ticks) = started(pid)
        && signal_exactly(pid, ticks, libc::SIGSTOP)
    {
        let pause = Duration::from_millis(50 + random.below(400) as u64);
        std::thread::park_timeout(pause);
        signal_exactly(pid, ticks, libc::SIGCONT);
        deeds.note(format!("SIGSTOP for the daemon {pid} for {pause:?}"));
    }
}

/// Asks for another program in place of the holder's, or another capture process, and does not wait
/// for the answer: whatever comes next comes in the middle of it.
fn renew(host: &Host, deeds: &Deeds, random: &mut Random) {
    let request = if random.below(2) == 0 {
        Request::HolderRenew { timeout_ms: 1_000 }
    } else {
        Request::CaptureRenew { timeout_ms: 1_000 }
    };
    if matches!(request, Request::CaptureRenew { .. }) {
        deeds.renewals.lock().unwrap().push(now_ms());
    }
    let name = request.name();
    let asked = block_on(async {
        // If there is no daemon now, there is nothing to ask.
        let asked = async { Client::connect(&host.socket()).await?.request(request).await };
        tokio::time::timeout(Duration::from_millis(random.below(200) as u64), asked).await
    });
    deeds.note(format!("{name}: {asked:?}"));
}

fn replace_holder(host: &Host, deeds: &Deeds, random: &mut Random) {
    let daemon = host.find(Part::Daemon);
    let with_capture = random.below(4) == 0;
    if with_capture {
        kill(host, deeds, Part::Capture);
    }
    let pause = Duration::from_millis(random.below(300) as u64);
    deeds.daemons.lock().unwrap().push(now_ms());
    deeds.note(format!("SIGKILL for the holder {:?}, pause {pause:?}", host.holder()));
    if let Err(error) = host.replace_holder(pause) {
        deeds.failures.lock().unwrap().push(error);
    }
    deeds.note(format!("the next holder is {:?}", host.holder()));
    if let Some(pid) = daemon {
        processes::gone(pid);
    }
}
