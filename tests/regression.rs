//! Faults that were found once, each by its scenario.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::fs;
use std::process::Stdio;

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use orchestrator_proto::control::{
    EventKind, Exit, Item, Policy, Reply, Request, RuntimeSpec, TapFilter,
};
use orchestrator_proto::sdk::{Runtime, Schema};
use orchestrator_proto::{ErrorCode, InstanceId, Message};
use serde::{Deserialize, Serialize};
use tests::disk::SmallDisk;
use tests::{Daemon, SOON, block_on, eventually, processes, skipped};

/// The items that a stream of events begins with.
fn first_items(daemon: &Daemon, after: u64) -> Vec<Item> {
    block_on(async {
        let client = daemon.client().await;
        let request =
            Request::Events { follow: false, after: Some(after), since_ms: None, instance: None };
        let mut stream = client.stream(request).await.unwrap();
        let mut items = Vec::new();
        while let Some(item) = stream.next().await {
            items.push(item.unwrap());
        }
        items
    })
}

#[test]
fn a_number_of_an_earlier_daemons_events_loses_none_of_this_ones() {
    let daemon = Daemon::start();
    for after in [1_000_000, u64::MAX] {
        let items = first_items(&daemon, after);
        assert!(matches!(items[0], Item::Missed { .. }), "{items:?}");
        assert!(matches!(&items[1], Item::Event(event) if event.seq == 1), "{items:?}");
    }
}

#[test]
fn nobody_who_reads_the_daemons_log_and_stalls_stops_it() {
    let mut daemon = Daemon::prepare(&[]);
    // A pipe that nobody reads: 64 KiB, far less than what is logged below.
    let (reader, writer) = std::io::pipe().unwrap();
    let mut child =
        daemon.command().env("ORCHESTRATOR_LOG", "trace").stderr(writer).spawn().unwrap();
    eventually("the daemon accepts clients", || {
        std::os::unix::net::UnixStream::connect(daemon.socket()).ok()
    });
    block_on(async {
        let client = daemon.client().await;
        for _ in 0..2000 {
            let reply = tokio::time::timeout(SOON, client.request(Request::Status)).await;
            assert!(matches!(reply, Ok(Ok(Reply::Status(_)))), "{reply:?}");
        }
    });
    drop(reader);
    tests::processes::signal(child.id(), nix::sys::signal::Signal::SIGTERM);
    eventually("it ends", || child.try_wait().unwrap());
    daemon.launch();
}

#[test]
fn an_id_and_a_name_are_free_again_when_a_removal_is_answered() {
    let daemon = Daemon::start();
    let id = InstanceId::generate().to_string();
    for _ in 0..20 {
        daemon.add(["/bin/sleep", "--name", "nap", "--id", &id, "--", "1000"]);
        daemon.ok(["link", "add", "--type", "t", "--to", "nap"]);
        daemon.ok(["runtime", "start", "nap"]);
        daemon.ok(["runtime", "remove", "--force", "nap"]);
    }
    assert_eq!(daemon.status().links, 0);
}

#[test]
fn taps_are_bounded_over_all_clients() {
    let daemon = Daemon::start();
    block_on(async {
        let client = daemon.client().await;
        let mut taps = tokio::task::JoinSet::new();
        for _ in 0..65 {
            let mut tap = client.stream(Request::LinkTap(TapFilter::default())).await.unwrap();
            taps.spawn(async move { tap.next().await });
        }
        // Nothing passes, so that only the one that finds no place gets anything.
        let first = tokio::time::timeout(SOON, taps.join_next()).await.unwrap().unwrap();
        let error = first.unwrap().unwrap().unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::LimitReached));
        assert_eq!(taps.len(), 64);
    });
}

#[test]
fn programs_that_belong_to_no_instance_are_deleted() {
    let mut daemon = Daemon::start();
    daemon.add(["--copy", "--name", "echo", "/bin/echo"]);
    let programs = daemon.state_dir().join("programs");
    fs::create_dir(programs.join("unfinished")).unwrap();
    assert_eq!(fs::read_dir(&programs).unwrap().count(), 2);
    daemon.terminate();
    daemon.launch();
    // Once it answers it has done what it does first.
    daemon.status();
    assert_eq!(fs::read_dir(&programs).unwrap().count(), 1);
    daemon.ok(["runtime", "start", "echo"]);
    daemon.ok(["runtime", "remove", "--force", "echo"]);
    assert_eq!(fs::read_dir(&programs).unwrap().count(), 0);
}

#[test]
fn a_client_that_is_not_read_any_more_does_not_keep_the_daemon_from_ending() {
    let mut daemon = Daemon::start();
    daemon.add_script("chatty", "while :; do echo a line that fills pipes; done");
    daemon.ok(["runtime", "start", "chatty"]);
    let mut command = daemon.cli_command(["runtime", "stdout", "--follow", "chatty"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    eventually("it prints", || (daemon.info("chatty").observed.pid().is_some()).then_some(()));
    assert_eq!(daemon.terminate().code(), Some(0));
    let _ = child.kill();
    let _ = child.wait();
}

#[derive(Serialize, Deserialize, Schema, Message)]
#[postcard(crate = orchestrator_proto::postcard_schema)]
#[message(name = "n")]
struct Number(u32);

#[test]
fn a_sender_that_is_back_before_the_links_are_loses_nothing() {
    let mut daemon = Daemon::start();
    let (a, b) = (daemon.put("a"), daemon.put("b"));
    daemon.link_with("a", "n", "b", Policy::Block, 8);
    // Many come after these two, and the link after all of them.
    for number in 0..200 {
        daemon.put(&format!("other-{number}"));
    }
    let (a, b) = (daemon.native_socket(&a), daemon.native_socket(&b));
    let peers = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (told, heard) = std::sync::mpsc::sync_channel(1 << 16);
    let connected = peers.block_on(async {
        (Runtime::connect_to(a).await.unwrap(), Runtime::connect_to(b).await.unwrap())
    });
    let output = connected.0.output::<Number>().unwrap();
    let mut input = connected.1.input::<Number>().unwrap();
    peers.spawn(async move {
        for number in 0.. {
            output.send(&Number(number)).await.unwrap();
        }
    });
    peers.spawn(async move {
        while let Ok(Number(number)) = input.recv().await {
            if told.try_send(number).is_err() {
                // Enough are waiting.
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                let _ = told.send(number);
            }
        }
    });
    let mut next = 0;
    let mut hear = |count| {
        for _ in 0..count {
            assert_eq!(heard.recv_timeout(SOON).expect("messages come"), next);
            next += 1;
        }
    };
    hear(100);
    for _ in 0..3 {
        daemon.kill();
        daemon.launch();
        hear(1000);
    }
    drop(connected);
    peers.shutdown_background();
}

/// Kills the holder, and with it the daemon.
fn kill_both(daemon: &mut Daemon, own: u32) {
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    processes::gone(own);
}

/// Waits until an orphan has ended and is collected: by this process, for its init may not take
/// care of orphans, as in many a container. Before it becomes one this process must have said so.
fn collected(pid: u32) {
    eventually("it is collected", || {
        let _ = waitpid(Pid::from_raw(pid.cast_signed()), Some(WaitPidFlag::WNOHANG));
        processes::state(pid).is_none().then_some(())
    });
}

#[test]
fn what_a_program_left_that_ended_while_there_was_no_holder_is_ended_too() {
    let mut daemon = Daemon::start();
    let file = daemon.dir().join("pid");
    daemon.add_script("two", &format!("sleep 1000 & echo $! > {}; wait", file.display()));
    daemon.ok(["runtime", "start", "two"]);
    let left = processes::pid_in(&file);
    let (own, pid) = (daemon.pid(), daemon.info("two").observed.pid().unwrap());
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    kill_both(&mut daemon, own);
    processes::signal(pid, Signal::SIGKILL);
    collected(pid);
    assert!(processes::is_alive(left));
    daemon.launch();
    processes::gone(left);
    eventually("it runs again", || daemon.info("two").observed.pid().filter(|it| *it != pid));
}

#[test]
fn an_end_while_there_is_no_holder_is_told_once() {
    let mut daemon = Daemon::start();
    daemon.add(["/bin/sleep", "--name", "nap", "--", "1000"]);
    daemon.ok(["runtime", "start", "nap"]);
    let (own, pid) = (daemon.pid(), daemon.info("nap").observed.pid().unwrap());
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    kill_both(&mut daemon, own);
    processes::signal(pid, Signal::SIGKILL);
    // Until it is collected it can be asked how it ended.
    collected(pid);
    for _ in 0..2 {
        daemon.launch();
        let own = daemon.pid();
        eventually("it runs again", || daemon.info("nap").observed.pid().filter(|it| *it != pid));
        kill_both(&mut daemon, own);
    }
    daemon.launch();
    let word: Vec<_> = first_items(&daemon, 0)
        .into_iter()
        .filter_map(|item| match item {
            Item::Event(event) if event.instance.is_some() => Some(event.kind),
            _ => None,
        })
        .take(5)
        .collect();
    let [added, started, exited, stopped, again] = &word[..] else { panic!("{word:?}") };
    assert_eq!((added, started), (&EventKind::Added, &EventKind::Started { pid }));
    assert_eq!(*exited, EventKind::Exited { exit: Exit::Unknown, requested: false });
    assert_eq!(*stopped, EventKind::Stopped);
    // The start may have been too late to be told by who was killed right after it.
    let again = matches!(again, EventKind::Started { .. } | EventKind::Adopted { .. });
    assert!(again, "{word:?}");
}

/// Executes a program, "nap", of which neither the daemon nor its store ever hears: both the
/// daemon and its holder are killed. The answer is its process. Each start of it is a line in the
/// file "pid".
fn execute_unheard(daemon: &mut Daemon) -> u32 {
    let file = daemon.dir().join("pid");
    let script = format!("echo $$ >> {}; exec sleep 1000", file.display());
    daemon.add_script("nap", &script);
    let (own, holder) = (daemon.pid(), daemon.holder_pid());
    // The order waits for the holder; what came of it never reaches the daemon.
    processes::suspend(holder);
    let mut asking = daemon.cli_command(["runtime", "start", "nap"]).spawn().unwrap();
    eventually("it is starting", || {
        (daemon.info("nap").observed.word() == "starting").then_some(())
    });
    // With what is on the disk when it is answered, so is that the program should run.
    daemon.add(["/bin/true", "--name", "other"]);
    processes::suspend(own);
    processes::signal(holder, Signal::SIGCONT);
    let pid = processes::pid_in(&file);
    kill_both(daemon, own);
    assert_ne!(asking.wait().unwrap().code(), Some(0));
    pid
}

#[test]
fn a_program_that_was_executed_right_before_both_were_killed_is_found() {
    let mut daemon = Daemon::start();
    let pid = execute_unheard(&mut daemon);
    daemon.launch();
    assert_eq!(daemon.info("nap").observed.pid(), Some(pid));
    daemon
        .event("it was adopted", |event| (event.kind == EventKind::Adopted { pid }).then_some(()));
    assert_eq!(daemon.info("nap").starts, 1);
    daemon.ok(["runtime", "stop", "nap"]);
    assert!(!processes::is_alive(pid));
    let starts = fs::read_to_string(daemon.dir().join("pid")).unwrap();
    assert_eq!(starts.lines().count(), 1);
}

#[test]
fn what_was_found_by_its_marks_is_found_again_by_the_daemon_after_that() {
    let mut daemon = Daemon::start();
    let pid = execute_unheard(&mut daemon);
    daemon.launch();
    for _ in 0..2 {
        assert_eq!(daemon.info("nap").observed.pid(), Some(pid));
        // With what is on the disk when it is answered, so is whatever was found.
        daemon.ok(["link", "add", "--type", "t", "--to", "nap"]);
        daemon.replace_killed();
    }
    let info = daemon.info("nap");
    assert_eq!((info.observed.pid(), info.starts), (Some(pid), 1));
    let starts = fs::read_to_string(daemon.dir().join("pid")).unwrap();
    assert_eq!(starts.lines().count(), 1);
    daemon.ok(["runtime", "stop", "nap"]);
    assert!(!processes::is_alive(pid));
}

#[test]
fn how_a_program_ended_is_told_although_another_was_executed_in_its_place_and_nothing_noted() {
    let mut daemon = Daemon::prepare(&[]);
    let Some(disk) = SmallDisk::mount(daemon.state_dir(), 4096) else {
        skipped("this user can't mount a file system of 4 MB");
        return;
    };
    daemon.launch();
    let file = daemon.dir().join("pid");
    let script = format!("trap '' TERM; echo $$ > {}; exec sleep 1000", file.display());
    daemon.add(["/bin/sh", "--name", "nap", "--stop-timeout", "1h", "--", "-c", &script]);
    daemon.ok(["runtime", "start", "nap"]);
    let before = processes::pid_in(&file);
    let mut asking = daemon.cli_command(["runtime", "restart", "nap"]).spawn().unwrap();
    daemon.event("it is stopping", |event| {
        matches!(event.kind, EventKind::Stopping { .. }).then_some(())
    });
    // From now on nothing can be noted.
    let ballast = disk.fill();
    let is_full = || {
        let mut spec = RuntimeSpec::new("/bin/true");
        spec.args = vec!["x".repeat(2000).into()];
        daemon.request(Request::RuntimeAdd(spec)).err().map(|_| ())
    };
    eventually("the disk is full", is_full);
    processes::signal(before, Signal::SIGKILL);
    let after = eventually("it runs again", || {
        daemon.info("nap").observed.pid().filter(|pid| *pid != before)
    });
    processes::signal(daemon.pid(), Signal::SIGKILL);
    fs::remove_file(ballast).unwrap();
    let _ = asking.wait();
    let (exit, requested) = daemon.event("the end of the first", |event| match event.kind {
        EventKind::Exited { exit, requested } => Some((exit, requested)),
        _ => None,
    });
    let core_dumped = false;
    assert_eq!((exit, requested), (Exit::Signal { signal: 9, core_dumped }, true));
    daemon.event("the second goes on", |event| {
        (event.kind == EventKind::Adopted { pid: after }).then_some(())
    });
    assert_eq!(daemon.info("nap").observed.pid(), Some(after));
    // It does not listen, and its stop timeout is long.
    processes::signal(after, Signal::SIGKILL);
    daemon.terminate();
}

#[test]
fn an_end_is_told_once_although_the_daemon_is_killed_while_something_is_left() {
    let daemon = Daemon::start();
    let (end, file) = (daemon.dir().join("end"), daemon.dir().join("pid"));
    let script = format!(
        "sh -c 'trap \"\" TERM; echo $$ > {}; exec sleep 1000' & cat {}; exit 3",
        file.display(),
        end.display()
    );
    nix::unistd::mkfifo(&end, nix::sys::stat::Mode::S_IRWXU).unwrap();
    daemon.add(["/bin/sh", "--name", "two", "--stop-timeout", "1h", "--", "-c", &script]);
    daemon.ok(["runtime", "start", "two"]);
    let left = processes::pid_in(&file);
    fs::write(end, "").unwrap();
    assert_eq!(daemon.exited("two"), Exit::Code(3));
    assert_eq!(daemon.info("two").observed.word(), "stopping");
    daemon.replace_killed();
    eventually("the next daemon goes on with it", || {
        (daemon.info("two").observed.word() == "stopping").then_some(())
    });
    processes::signal(left, Signal::SIGKILL);
    daemon.event("nothing is left", |event| (event.kind == EventKind::Stopped).then_some(()));
    let ends = first_items(&daemon, 0).into_iter().filter(
        |item| matches!(item, Item::Event(event) if matches!(event.kind, EventKind::Exited { .. })),
    );
    assert_eq!(ends.count(), 1, "{:?}", first_items(&daemon, 0));
    assert_eq!(daemon.info("two").observed.word(), "failed");
}

#[test]
fn a_program_that_was_executed_when_its_daemon_was_dead_goes_on() {
    // A daemon that is killed before it has given the order leaves it to the next.
    let is_adopted = |_| is_adopted_or_started_by_the_next();
    assert!((0..20).any(is_adopted), "no daemon had given the order");
}

fn is_adopted_or_started_by_the_next() -> bool {
    let daemon = Daemon::start();
    let file = daemon.dir().join("pid");
    daemon.add_script("nap", &format!("echo $$ >> {}; exec sleep 1000", file.display()));
    let (own, holder) = (daemon.pid(), daemon.holder_pid());
    processes::suspend(holder);
    let mut asking = daemon.cli_command(["runtime", "start", "nap"]).spawn().unwrap();
    eventually("it is starting", || {
        (daemon.info("nap").observed.word() == "starting").then_some(())
    });
    eventually("the holder has an order", || {
        processes::is_told(holder).unwrap_or(true).then_some(())
    });
    // When this is on the disk, so is that it should run.
    daemon.put("other");
    processes::signal(own, Signal::SIGKILL);
    processes::gone(own);
    processes::signal(holder, Signal::SIGCONT);
    let pid = processes::pid_in(&file);
    assert_ne!(asking.wait().unwrap().code(), Some(0));
    let is_adopted = daemon.event("it was adopted or started", |event| match event.kind {
        EventKind::Adopted { pid: adopted } => Some((adopted == pid).then_some(true)),
        EventKind::Started { pid: started, .. } => Some((started == pid).then_some(false)),
        _ => None,
    });
    daemon.ok(["runtime", "start", "nap"]);
    assert_eq!(daemon.info("nap").observed.pid(), Some(pid));
    assert!(processes::is_alive(pid));
    assert_eq!(fs::read_to_string(file).unwrap(), format!("{pid}\n"), "it was started once");
    is_adopted.expect("it is the process that was executed")
}

#[test]
fn the_output_of_more_programs_is_captured_than_a_shell_allows_open_files() {
    let mut daemon = Daemon::prepare(&[]).open_files(64);
    daemon.launch();
    // Two pipes of each.
    let names: Vec<_> = (0..40).map(|number| format!("n{number}")).collect();
    for name in &names {
        daemon.add_script(name, "ulimit -Sn; exec sleep 1000");
        daemon.ok(["runtime", "start", name]);
    }
    for name in &names {
        eventually("its output is there, and its own bound is as before", || {
            (daemon.ok(["runtime", "logs", "--no-follow", name]) == "64\n").then_some(())
        });
    }
}
