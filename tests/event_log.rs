//! What happened, told once and under the same number, however often the daemon ends.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;
use orchestrator_proto::client::Client;
use orchestrator_proto::control::{Event, EventKind, Exit, Item, Reply, Request};
use tests::{Daemon, SOON, block_on, eventually, processes};

#[track_caller]
fn is_exited(daemon: &Daemon, name: &str, code: i32) {
    eventually(&format!("{name} has exited"), || match daemon.info(name).observed.ended() {
        Some(exit) => {
            assert_eq!(exit, Exit::Code(code));
            Some(())
        }
        None => None,
    });
}

/// Follows events with numbers above `after` until the daemon is gone.
async fn follow(daemon: &Daemon, after: u64, told: tokio::sync::oneshot::Sender<()>) -> Vec<Event> {
    let client = daemon.client().await;
    let request =
        Request::Events { follow: true, after: Some(after), since_ms: None, instance: None };
    let mut stream = client.stream(request).await.unwrap();
    let mut events = Vec::new();
    let mut told = Some(told);
    while let Some(Ok(item)) = stream.next().await {
        match item {
            Item::Event(event) => events.push(event),
            other => panic!("{other:?}"),
        }
        if events.len() == 40
            && let Some(told) = told.take()
        {
            told.send(()).unwrap();
        }
    }
    events
}

#[test]
fn who_follows_events_sees_each_of_them_once_however_the_daemon_ends() {
    let mut daemon = Daemon::start();
    for name in ["a", "b"] {
        daemon.add_script(name, "exit 0");
    }
    let mut seen: Vec<Event> = Vec::new();
    for round in 0..6 {
        let (pid, holder) = (daemon.pid(), daemon.holder_pid());
        let after = seen.last().map_or(0, |event| event.seq);
        let events = block_on(async {
            let client = daemon.client().await;
            let (told, enough) = tokio::sync::oneshot::channel();
            let acting = async {
                let mut enough = enough;
                loop {
                    for instance in ["a", "b"] {
                        let instance = instance.into();
                        let start = Request::RuntimeStart { instance, priority: None };
                        let _ = client.request(start).await;
                    }
                    if enough.try_recv().is_ok() {
                        let signal = if round % 2 == 0 { Signal::SIGKILL } else { Signal::SIGTERM };
                        // The holder first: it would start another daemon.
                        if signal == Signal::SIGKILL {
                            processes::signal(holder, signal);
                        }
                        processes::signal(pid, signal);
                        break;
                    }
                }
            };
            let both = async { tokio::join!(follow(&daemon, after, told), acting).0 };
            tokio::time::timeout(SOON, both).await.expect("it ends")
        });
        daemon.wait();
        processes::gone(pid);
        seen.extend(events);
        daemon.launch();
    }
    let numbers: Vec<_> = seen.iter().map(|event| event.seq).collect();
    assert!(numbers.iter().copied().eq(1..=numbers.len() as u64), "{numbers:?}");
    // A later reader is told the same under the same numbers.
    let again = block_on(async {
        let client = daemon.client().await;
        let (follow, after, since_ms, instance) = (false, None, None, None);
        let mut stream =
            client.stream(Request::Events { follow, after, since_ms, instance }).await.unwrap();
        let mut events = Vec::new();
        while let Some(item) = stream.next().await {
            if let Item::Event(event) = item.unwrap() {
                events.push(event);
            }
        }
        events
    });
    assert_eq!(again[..seen.len()], seen);
}

/// The numbers that `events` prints.
fn numbers(daemon: &Daemon, args: &[&str]) -> Vec<u64> {
    let all = [&["events"][..], args].concat();
    let text = daemon.ok(all);
    text.lines().map(|line| line.split(' ').nth(1).unwrap().parse().unwrap()).collect()
}

#[test]
fn events_are_asked_for_by_number_by_time_and_by_instance_across_daemons() {
    let mut daemon = Daemon::start();
    daemon.add_script("a", "exit 0");
    daemon.add_script("b", "exit 0");
    daemon.ok(["runtime", "start", "a"]);
    assert_eq!(daemon.exited("a"), Exit::Code(0));
    daemon.kill();
    daemon.launch();
    let started: Event = daemon.event("the second start of the daemon", {
        let mut starts = 0;
        move |event| {
            starts += u32::from(event.kind == EventKind::DaemonStarted);
            (starts == 2).then(|| event.clone())
        }
    });
    let all = numbers(&daemon, &[]);
    assert!(all.iter().copied().eq(1..=all.len() as u64), "{all:?}");
    let seq = started.seq.to_string();
    assert_eq!(numbers(&daemon, &["--since", &seq])[0], started.seq);
    assert_eq!(numbers(&daemon, &["--after", &seq]).first(), None);
    assert_eq!(numbers(&daemon, &["--since", "1h"]), all);
    assert_eq!(numbers(&daemon, &["--since", "2100-01-01T00:00:00Z"]), Vec::<u64>::new());
    let of_b = numbers(&daemon, &["--instance", "b"]);
    assert_eq!(of_b.len(), 1);
    assert_eq!(numbers(&daemon, &["--instance", "b", "--since", &seq]), Vec::<u64>::new());
    let said = daemon.cli(["events", "--since", "soon"]);
    assert_eq!(said.code, Some(2), "{said:?}");
    let mut command = daemon.cli_command(["--json", "events", "--since", "1", "--follow"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    // It follows when it has said something.
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    output.read_line(&mut text).unwrap();
    daemon.ok(["runtime", "start", "b"]);
    is_exited(&daemon, "b", 0);
    daemon.terminate();
    // The end of the daemon ends the stream, after its last event.
    output.read_to_string(&mut text).unwrap();
    eventually("it ends", || child.try_wait().unwrap());
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seqs: Vec<_> = lines.iter().map(|line| line["event"]["seq"].as_u64().unwrap()).collect();
    assert!(seqs.iter().copied().eq(1..=seqs.len() as u64), "{seqs:?}");
    assert!(lines.iter().any(|line| line["event"]["kind"] == "daemon-stopping"), "{lines:?}");
}

/// The process number of a daemon that is another one than this.
#[track_caller]
fn next_pid(daemon: &Daemon, before: u32) -> u32 {
    eventually("there is another daemon", || match daemon.request(Request::Status) {
        Ok(Reply::Status(status)) if status.pid != before => Some(status.pid),
        _ => None,
    })
}

/// Follows events behind those in `seen`, which it adds to, until the stream ends. Kills the daemon
/// as soon as there are so many.
async fn follow_and_kill(daemon: &Daemon, seen: &mut Vec<Event>, enough: usize, pid: u32) {
    let client = daemon.client().await;
    let after = Some(seen.last().map_or(0, |event| event.seq));
    let request = Request::Events { follow: true, after, since_ms: None, instance: None };
    let mut stream = client.stream(request).await.unwrap();
    let mut enough = Some(enough);
    while let Some(Ok(item)) = stream.next().await {
        match item {
            Item::Event(event) => seen.push(event),
            other => panic!("{other:?}"),
        }
        if enough.take_if(|enough| seen.len() >= *enough).is_some() {
            processes::signal(pid, Signal::SIGKILL);
        }
    }
}

/// Starts an instance again and again, whatever becomes of the daemon.
async fn start_on(daemon: &Daemon, name: &str, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        // One that is about to die may still have accepted the connection.
        let Ok(client) = Client::connect(daemon.socket()).await else { continue };
        let start = || Request::RuntimeStart { instance: name.into(), priority: None };
        while client.request(start()).await.is_ok() && !over.load(Ordering::Relaxed) {}
    }
}

#[test]
fn under_a_load_of_events_no_kill_loses_one_that_was_seen_or_the_end_of_any_process() {
    const KILLS: usize = 12;
    let daemon = Daemon::start();
    let names = ["a", "b", "c", "d"];
    let file = |name: &str| daemon.dir().join(format!("{name}.runs"));
    for name in names {
        daemon.add_script(name, &format!("echo $$ >> {}; exit 5", file(name).display()));
    }
    let mut seen: Vec<Event> = Vec::new();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for name in names {
            scope.spawn(|| block_on(start_on(&daemon, name, &over)));
        }
        let mut pid = 0;
        for kill in 0..KILLS {
            pid = next_pid(&daemon, pid);
            let enough = seen.len() + 20 + 7 * kill;
            let following = follow_and_kill(&daemon, &mut seen, enough, pid);
            block_on(async { tokio::time::timeout(SOON, following).await }).expect("it ends");
        }
        next_pid(&daemon, pid);
        over.store(true, Ordering::Relaxed);
    });
    for name in names {
        is_exited(&daemon, name, 5);
    }
    let numbers: Vec<_> = seen.iter().map(|event| event.seq).collect();
    assert!(numbers.iter().copied().eq(1..=numbers.len() as u64), "{numbers:?}");
    // The same under the same numbers is in the store.
    let stored: Vec<Event> = daemon
        .ok(["--json", "events", "--since", "1"])
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["event"].take())
        .map(|event| serde_json::from_value(event).unwrap())
        .collect();
    assert_eq!(stored[..seen.len()], seen);
    // What nobody has seen may be missing, but no process and no end, and none is there twice.
    for name in names {
        let runs = std::fs::read_to_string(file(name)).unwrap();
        let executed: Vec<u32> = runs.lines().map(|line| line.parse().unwrap()).collect();
        let of_it: Vec<_> = stored.iter().filter(|it| it.name.as_deref() == Some(name)).collect();
        let (mut alive, mut ended) = (0, Vec::new());
        for event in &of_it {
            match event.kind {
                EventKind::Started { pid } | EventKind::Adopted { pid } => alive = pid,
                EventKind::Exited { exit, .. } => ended.push((alive, exit)),
                _ => {}
            }
        }
        let expected: Vec<_> = executed.iter().map(|pid| (*pid, Exit::Code(5))).collect();
        assert_eq!(ended, expected, "{name}: {of_it:#?}");
        assert_eq!(daemon.info(name).starts, executed.len() as u64, "{name}");
    }
}
