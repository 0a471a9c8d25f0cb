//! Faults that were found once, each by its scenario.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

use std::fs;
use std::process::Stdio;

use orchestrator_proto::control::{Item, Reply, Request, TapFilter};
use orchestrator_proto::{ErrorCode, InstanceId};
use tests::{Daemon, SOON, block_on, eventually};

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
