//! Everything at once: clients that ask for anything, programs that talk and print, and every part
//! of the orchestrator killed again and again. Then everything is let come to rest, and a checker
//! compares what was promised with what is there.
//!
//! `ORCHESTRATOR_CHAOS_SECONDS` is how long it goes on, 60 by default; `ORCHESTRATOR_CHAOS_SEED`
//! chooses what is done. The same seed does the same in the same order; how it interleaves is up
//! to the kernel. A failure names its seed and keeps its directory.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

#[allow(dead_code, reason = "each side uses a part of it")]
mod account;
mod check;
mod clients;
mod follower;
mod host;
mod killer;

use std::env;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::libc;
use orchestrator_proto::client::Client;
use orchestrator_proto::control::{LinkInfo, Observed, Policy, Reply, Request, RuntimeInfo};
use tests::block_on;
use tests::routing::Random;

use account::{Slot, Worker};
use check::Evidence;
use check::messages::{Counts as Messages, Lasting};
use clients::{Asker, Told};
use follower::{Followed, follow};
use host::{Host, SOON, signal_exactly, workers};
use killer::{Deeds, kill_at_random};

/// The longest time between two checks.
const ROUND: Duration = Duration::from_secs(45);

/// Clients that ask at the same time.
const CLIENTS: usize = 3;

#[test]
fn whatever_is_killed_what_is_promised_is_kept() {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = number("ORCHESTRATOR_CHAOS_SEED").unwrap_or(now.as_nanos() as u64 % 1_000_000);
    let seconds = number("ORCHESTRATOR_CHAOS_SECONDS").unwrap_or(60);
    let deadline = Instant::now() + Duration::from_secs(seconds);
    // Each round has a seed of its own, so that one can be done again alone.
    for seed in seed.. {
        let left = deadline.saturating_duration_since(Instant::now());
        let time = left.saturating_sub(Duration::from_secs(10)).min(ROUND);
        println!("chaos: seed {seed}, {time:?}");
        round(seed, time);
        if left < ROUND + Duration::from_secs(15) {
            break;
        }
    }
}

/// What is known of a round in the end.
struct Outcome {
    violations: Vec<String>,
    summary: String,
}

fn round(seed: u64, time: Duration) {
    let dir = tempfile::Builder::new().prefix("chaos").tempdir().unwrap();
    let host = Host::new(dir.path()).unwrap();
    let deeds = Deeds::default();
    let outcome = thread::scope(|scope| {
        // Also if the test stops here.
        let _end = End(&host);
        scope.spawn(|| host.collect());
        play(seed, time, &host, &deeds)
    });
    println!("chaos: seed {seed}: {}", outcome.summary);
    if outcome.violations.is_empty() {
        return;
    }
    let diary = deeds.diary.lock().unwrap().join("\n");
    std::fs::write(dir.path().join("diary"), diary).unwrap();
    drop(host);
    let kept = dir.keep();
    let count = outcome.violations.len();
    let text = outcome.violations.join("\n- ");
    std::fs::write(kept.join("violations.txt"), format!("- {text}\n")).unwrap();
    let shown = outcome.violations.iter().take(12).cloned().collect::<Vec<_>>().join("\n- ");
    panic!(
        "{count} violations with ORCHESTRATOR_CHAOS_SEED={seed} \
         ORCHESTRATOR_CHAOS_SECONDS={}:\n- {shown}\nEverything is kept in {}: violations.txt, \
         diary (what was done), daemon.log, state, accounts of the workers",
        (time + Duration::from_secs(11)).as_secs(),
        kept.display()
    );
}

struct End<'a>(&'a Host);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn play(seed: u64, time: Duration, host: &Host, deeds: &Deeds) -> Outcome {
    let (chaos_ended, follower_ended) = (AtomicBool::new(false), AtomicBool::new(false));
    let shared: Vec<String> = ["shared-0", "shared-1", "shared-2"].map(str::to_owned).into();
    let mut askers: Vec<_> = (0..CLIENTS)
        .map(|at| {
            let random = Random::new(seed.wrapping_mul(31).wrapping_add(at as u64 + 1));
            Asker::new(format!("c{at}"), &host.dir, random)
        })
        .collect();
    thread::scope(|scope| {
        let stopping = Stop([&chaos_ended, &follower_ended], host);
        let follower = scope.spawn(|| block_on(follow(&host.socket(), &follower_ended)));
        let lasting = block_on(prepare(&mut askers, &shared, &host.dir));
        let asking: Vec<_> = askers
            .into_iter()
            .map(|mut asker| {
                let (shared, stop) = (&shared, &chaos_ended);
                scope.spawn(move || {
                    block_on(asker.ask_at_random(shared, stop));
                    asker.told
                })
            })
            .collect();
        let random = Random::new(seed.wrapping_mul(31));
        let killer = scope.spawn(|| kill_at_random(host, deeds, random, &chaos_ended));
        thread::park_timeout(time);
        chaos_ended.store(true, Ordering::Release);
        killer.join().unwrap();
        let told: Vec<Told> = asking.into_iter().map(|asker| asker.join().unwrap()).collect();

        let mut violations = std::mem::take(&mut *deeds.failures.lock().unwrap());
        let rest = come_to_rest(host, &lasting, &mut violations);
        let read = block_on(follower::all(&host.socket()));
        let before_end = Worker::all(&host.dir);
        let mut at_rest = Vec::new();
        if let Some((runtimes, links)) = &rest {
            let evidence = Evidence {
                dir: &host.dir,
                events: &read.events,
                runtimes,
                told: &told,
                deeds,
                gaps: &host.gaps.lock().unwrap(),
                workers: &before_end,
            };
            at_rest = check::kernel::check_rest(&evidence);
            at_rest.extend(check::messages::check_counters(links));
        }
        violations.extend(at_rest);
        follower_ended.store(true, Ordering::Release);
        violations.extend(host.terminate().err());
        let followed = follower.join().unwrap();
        drop(stopping);
        compare_readers(&read, &followed, &mut violations);
        let workers = Worker::all(&host.dir);
        let gaps = host.gaps.lock().unwrap();
        let evidence = Evidence {
            dir: &host.dir,
            events: &followed.events,
            runtimes: rest.as_ref().map_or(&[], |(runtimes, _)| runtimes),
            told: &told,
            deeds,
            gaps: &gaps,
            workers: &workers,
        };
        let mut messages = Messages::default();
        let mut logs = check::logs::Counts::default();
        violations.extend(check::kernel::check_marks(&evidence));
        violations.extend(check::kernel::check_end(&evidence));
        violations.extend(check::events::check(&evidence));
        violations.extend(check::logs::check(&evidence, &mut logs));
        violations.extend(check::messages::check(&evidence, &lasting, &mut messages));
        violations.extend(told.iter().flat_map(|told| told.violations.iter().cloned()));
        let count = |list: &std::sync::Mutex<Vec<u64>>| list.lock().unwrap().len();
        let summary = format!(
            "{} processes, {} ended on purpose, {} daemons, {} holders and {} captures killed; {} \
             answers, {} not; {} events over {} connections; {logs:?}; {messages:?}",
            workers.len(),
            deeds.caused.lock().unwrap().len(),
            count(&deeds.daemons),
            gaps.len(),
            count(&deeds.captures),
            told.iter().map(|told| told.answered).sum::<u64>(),
            told.iter().map(|told| told.unanswered).sum::<u64>(),
            followed.events.len(),
            followed.connections,
        );
        Outcome { violations, summary }
    })
}

/// Stops the threads of a round, also if it panics.
struct Stop<'a>([&'a AtomicBool; 2], &'a Host);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        for stop in self.0 {
            stop.store(true, Ordering::Release);
        }
        // Who follows ends when the daemon does.
        if let Some(holder) = self.1.holder().filter(|_| thread::panicking()) {
            tests::processes::signal(holder, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// Adds the instances and the links that stay. Some run from now on.
async fn prepare(askers: &mut [Asker], shared: &[String], dir: &Path) -> Vec<Lasting> {
    let first = &mut askers[0];
    for name in ["safe-source", "safe-sink"] {
        first.add(name, &["polite"]).await;
    }
    for (name, words) in
        shared.iter().zip([&["polite", "family"][..], &["deaf", "family"], &["slow"]])
    {
        first.add(name, words).await;
    }
    let mut lasting = vec![("safe-source".to_owned(), "safe-sink".to_owned())];
    for asker in &mut *askers {
        let (from, to) = (format!("{}-a", asker.name), format!("{}-b", asker.name));
        asker.own(&from, &[]).await;
        asker.own(&to, &["polite"]).await;
        lasting.push((from, to));
    }
    let first = &mut askers[0];
    for (from, to) in &lasting {
        first.link(from, "chaos.block", to, Policy::Block).await;
        first.link(from, "chaos.lossy", to, Policy::DropOldest).await;
    }
    for name in ["safe-source", "safe-sink"] {
        while !first.start(name).await {}
    }
    // It has begun when something has arrived.
    let deadline = Instant::now() + SOON;
    loop {
        let alive = workers(dir);
        let arrived = alive.iter().any(|worker| {
            worker.received(dir, "chaos.block").metadata().is_ok_and(|it| it.len() > 160)
        });
        if arrived {
            return lasting;
        }
        assert!(Instant::now() < deadline, "no message arrives");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until a daemon is at work, nothing is under way, nobody sends or prints any more, and what
/// was sent has arrived. None if it does not come to rest.
fn come_to_rest(
    host: &Host,
    lasting: &[Lasting],
    violations: &mut Vec<String>,
) -> Option<(Vec<RuntimeInfo>, Vec<LinkInfo>)> {
    let deadline = Instant::now() + SOON;
    let mut told = Vec::new();
    loop {
        let reasons = match listed(&host.socket()) {
            None => {
                host.hurry();
                thread::park_timeout(Duration::from_millis(500));
                vec!["no daemon answers".to_owned()]
            }
            Some((runtimes, links)) => {
                let alive = workers(&host.dir);
                for worker in &alive {
                    if !told.contains(worker)
                        && signal_exactly(worker.pid, worker.ticks, libc::SIGUSR2)
                    {
                        told.push(worker.clone());
                    }
                }
                let mut reasons = check::messages::missing(&host.dir, &alive, lasting);
                reasons.extend(underway(&runtimes));
                let busy = alive.iter().filter(|it| it.account(&host.dir).get(Slot::Resting) == 0);
                reasons.extend(busy.map(|worker| format!("{worker:?} does not come to rest")));
                if reasons.is_empty() {
                    return Some((runtimes, links));
                }
                reasons
            }
        };
        if Instant::now() > deadline {
            violations.extend(reasons.into_iter().map(|why| format!("{SOON:?} later, {why}")));
            return listed(&host.socket());
        }
        thread::park_timeout(Duration::from_millis(20));
    }
}

fn listed(socket: &Path) -> Option<(Vec<RuntimeInfo>, Vec<LinkInfo>)> {
    let asking = async {
        let client = Client::connect(socket).await.ok()?;
        let Ok(Reply::Runtimes(runtimes)) = client.request(Request::RuntimeList).await else {
            return None;
        };
        let Ok(Reply::Links(links)) = client.request(Request::LinkList).await else {
            return None;
        };
        Some((runtimes, links))
    };
    block_on(async { tokio::time::timeout(Duration::from_secs(5), asking).await.ok().flatten() })
}

/// Instances that are about to become something else.
fn underway(runtimes: &[RuntimeInfo]) -> Vec<String> {
    let changing = runtimes.iter().filter(|info| {
        matches!(info.observed, Observed::Starting { .. } | Observed::Stopping { .. })
            || matches!(info.observed, Observed::Stopped { .. })
                && info.desired == orchestrator_proto::control::Desired::Running
    });
    changing.map(|info| format!("{info:?} is under way")).collect()
}

/// One who reads all events at once is told the same as one who followed them.
fn compare_readers(read: &Followed, followed: &Followed, violations: &mut Vec<String>) {
    violations.extend(read.violations.iter().chain(&followed.violations).cloned());
    let count = read.events.len().min(followed.events.len());
    if let Some((at, event)) = (0..count)
        .find(|&at| read.events[at] != followed.events[at])
        .map(|at| (at, &read.events[at]))
    {
        let other = &followed.events[at];
        violations.push(format!("a reader was told {event:?}, and a follower {other:?}"));
    }
    if followed.events.len() < read.events.len() {
        violations.push("the follower has missed the last events".to_owned());
    }
}
